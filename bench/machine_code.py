"""Compile a Triton kernel for a GPU that need not be there, and read what its machine code does.

The tensor that an instruction touches is found by its source line: in Triton's first
representation each pointer is followed from the kernel's argument to its loads and stores. An
instruction for AMD may have lost its line; it is then in no tensor's widths.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

_LOADS_AND_STORES = {"LDG": "load", "LDGSTS": "load", "LD": "load", "STG": "store", "ST": "store"}
_ATOMICS = ("ATOM", "ATOMG", "ATOMS", "RED", "REDG")
_FLOATS = {"F32", "F64", "F16", "F16x2", "BF16", "BF16x2"}
_NVIDIA_WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "byte": 1}

Place = tuple[str, str]
"""Kind of an access, "load" or "store", and its line as ``file.py:number``."""
Access = tuple[Place, int, range]
"""With its width, and the numbers of the instructions in the innermost loop around it."""


@dataclass(frozen=True)
class MachineCode:
    """Registers are per thread; ``local`` and ``shared`` are bytes.

    ``spills`` counts the instructions on local memory, which AMD calls scratch, ``atomics`` those
    on floats, whose sums depend on the order of programs. ``widths`` has, for each kind and pointer
    argument that the source accesses, how many instructions there are of each width in bytes per
    thread; ``loops`` how many are in each innermost loop with such an access, in the order of the
    code (NVIDIA's).
    """

    warps: int
    registers: int
    spills: int
    local: int
    shared: int
    atomics: int
    widths: dict[tuple[str, str], dict[int, int]]
    loops: dict[tuple[str, str], tuple[int, ...]]


def compile_for(source: Any, target: GPUTarget, options: dict[str, Any]) -> MachineCode:
    """Return the machine code of an ``ASTSource``.

    Raises:
        ValueError: an access cannot be told from one to another tensor.
    """
    # A cache of its own: the line numbers differ from those of the code that runs.
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope(), knobs.runtime.scope():
        knobs.cache.dir = folder
        knobs.runtime.add_stages_inspection_hook = _mend_lines
        kernel = triton.compile(source, target=target, options=options)
    resources, accesses = (_read_nvidia if target.backend == "cuda" else _read_amd)(kernel)
    arguments = arguments_by_line(kernel.asm["ttir"])
    widths: dict[tuple[str, str], Counter[int]] = {
        (kind, name): Counter() for (kind, _), names in arguments.items() for name in names
    }
    loops: dict[tuple[str, str], set[range]] = {place: set() for place in widths}
    for (kind, line), width, loop in accesses:
        names = arguments.get((kind, line)) or _of_number(arguments, kind, line)
        if len(names) > 1:
            raise ValueError(
                f"The {kind} at {line} touches one of {sorted(names)}: give each load and store a "
                "line of its own."
            )
        for name in names:
            widths[kind, name][width] += 1
            loops[kind, name].add(loop)
    return MachineCode(
        warps=kernel.metadata.num_warps,
        loops={
            place: tuple(len(loop) for loop in sorted(found, key=lambda loop: loop.start) if loop)
            for place, found in loops.items()
        },
        shared=kernel.metadata.shared,
        widths={place: dict(counts) for place, counts in widths.items()},
        **resources,
    )


def _of_number(arguments: dict[Place, set[str]], kind: str, line: str) -> set[str]:
    """Return the arguments of the only line with this number.

    Of two lines with the same number next to each other, in two files, ptxas keeps one file.
    """
    number = line.rpartition(":")[2]
    same = [n for (k, at), n in arguments.items() if (k, at.rpartition(":")[2]) == (kind, number)]
    return same[0] if len(same) == 1 else set()


def _mend_lines(_: Any = None, stages: dict[str, Any] | None = None, *__: Any) -> tuple[str, str]:
    """Keep only the first line number of a load; Triton's hook on its stages.

    On NVIDIA a load is inline assembly, and LLVM numbers its lines on from the line of the source
    as if they stood there. Called without stages, it gives a part of the cache's key.
    """
    if stages and (make := stages.get("ptx")):
        lines = re.compile(r"^\s*\.loc\s.*\n", re.MULTILINE)
        block = re.compile(
            r"(// begin inline asm\n(?:\s*\.loc\s.*\n)?)((?:.*\n)*?)(?=\s*// end inline asm)"
        )
        stages["ptx"] = lambda source, metadata: block.sub(
            lambda found: found[1] + lines.sub("", found[2]), make(source, metadata)
        )
    return "mended lines", "mended lines"


def arguments_by_line(ttir: str) -> dict[Place, set[str]]:
    """Return the pointer arguments that each access in the source may be of."""
    definitions = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", ttir, re.MULTILINE))
    root = {f"%{name}": name for name in re.findall(r"%(\w+): !tt\.ptr<", ttir)}
    arguments: dict[Place, set[str]] = {}
    for line in ttir.splitlines():
        if access := re.search(r"\btt\.(load|store) (%\w+).*loc\((#loc\d*)\)$", line):
            kind, pointer, location = access.groups()
            place = kind, _innermost(definitions, location)
            arguments.setdefault(place, set()).add(root[pointer])
        if "iter_args(" in line:
            for inside, initial in re.findall(r"(%\w+) = (%\w+)", line):
                if initial in root:
                    root[inside] = root[initial]
        elif result := re.match(r"\s*(%\w+) = (.*)", line):
            name, text = result.groups()
            of = [root[value] for value in re.findall(r"%\w+", text) if value in root]
            # A number that names no pointer here may have named one in another region.
            root.pop(name, None)
            if of and not access and "!tt.ptr<" in text:
                root[name] = of[-1]
    return arguments


def _innermost(definitions: dict[str, str], location: str) -> str:
    """Return ``file.py:number`` of a location: in the inlined function, not in its caller."""
    text = definitions[location]
    while not (place := re.match(r'"([^"]+)":(\d+):', text)):
        text = definitions[re.findall(r"#loc\d*", text)[0]]
    return f"{Path(place[1]).name}:{place[2]}"


def _read_nvidia(kernel: Any) -> tuple[dict[str, int], list[Access]]:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        usage = _output(knobs.nvidia.cuobjdump.path, "-res-usage", cubin)
        # Without the analysis of flow, which only names where branches lead: a fifth of the time.
        listing = _output(knobs.nvidia.nvdisasm.path, "-ndf", "-g", cubin)
    code = re.compile(
        r'//## File "([^"]+)", line (\d+)|^(\.L_x_\d+):|'
        r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)(?:[^;\n]*`\((\.L_x_\d+)\))?",
        re.MULTILINE,
    )
    found, names, line, count = [], Counter[str](), "", 0
    labels, loops = dict[str, int](), [range(0)]
    for path, number, label, opcode, target in code.findall(listing):
        if path:
            line = f"{Path(path).name}:{number}"
            continue
        if label:
            labels[label] = count
            continue
        count += 1
        if opcode.startswith("BRA") and target in labels:  # backwards
            loops.append(range(labels[target], count))
        name, *parts = opcode.split(".")
        names[name] += 1
        names["float atomic"] += name in _ATOMICS and not _FLOATS.isdisjoint(parts)
        if kind := _LOADS_AND_STORES.get(name):
            width = next((_NVIDIA_WIDTHS[part] for part in parts if part in _NVIDIA_WIDTHS), 4)
            found.append(((kind, line), width, count - 1))
    accesses = [
        (place, width, min((x for x in loops if at in x), key=len, default=range(0)))
        for place, width, at in found
    ]
    (used,) = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    registers, stack, local = map(int, used)
    resources = {
        "registers": registers,
        "spills": names["LDL"] + names["STL"],
        "local": stack + local,
        "atomics": names["float atomic"],
    }
    return resources, accesses


def _read_amd(kernel: Any) -> tuple[dict[str, int], list[Access]]:
    listing: str = kernel.asm["amdgcn"]
    code = re.compile(
        r"\.loc\s[^;\n]*; ([^\s:]+):(\d+):|^\s+((?:global|buffer|flat|ds|scratch)_\w+)",
        re.MULTILINE,
    )
    accesses, names, line = [], Counter[str](), ""
    for path, number, opcode in code.findall(listing):
        if path:
            line = f"{path}:{number}"
            continue
        space, kind, *parts = opcode.split("_")
        names[space] += 1
        names["float atomic"] += "atomic" in opcode and bool(re.search(r"_p?k?_?b?f\d", opcode))
        if space not in ("ds", "scratch") and kind in ("load", "store"):
            # A ushort and an sbyte are no wider than a short and a byte.
            (width,) = (w for name, w in _AMD_WIDTHS.items() if parts[0].endswith(name))
            accesses.append(((kind, line), width, range(0)))

    def metadata(key: str) -> int:
        (value,) = re.findall(rf"^\s*\.{key}:\s+(\d+)$", listing, re.MULTILINE)
        return int(value)

    resources = {
        "registers": metadata("vgpr_count"),
        "spills": names["scratch"] + metadata("vgpr_spill_count"),
        "local": metadata("private_segment_fixed_size"),
        "atomics": names["float atomic"],
    }
    return resources, accesses


def _output(*command: str | Path) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout + run.stderr
