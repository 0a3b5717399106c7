"""Compile a Triton kernel for a GPU that need not be there, and read what its machine code does.

Which tensor an instruction touches: the pointer is followed in Triton's first representation from
the kernel's argument to a load or store, whose source line is looked up in the machine code. An
instruction for AMD that has lost its line may be of any tensor, but for those whose accesses in
LLVM's representation are all there, on their lines.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

_LOADS_AND_STORES = {"LDG": "load", "LDGSTS": "load", "LD": "load", "STG": "store", "ST": "store"}
_ATOMICS = ("ATOM", "ATOMG", "ATOMS", "RED", "REDG")
_NVIDIA_WIDTHS = {"256": 32, "128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_AMD_WIDTHS = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4, "short": 2, "byte": 1}


class Access(NamedTuple):
    """An instruction on global memory.

    ``kind`` is "load" or "store", ``width`` in bytes per thread; an asynchronous load copies to
    shared memory; ``line`` is ``file.py:number``.
    """

    kind: str
    width: int
    asynchronous: bool
    line: str


@dataclass(frozen=True)
class MachineCode:
    """Registers are per thread; ``local`` and ``shared`` are bytes.

    ``spills`` counts the instructions on local memory, which AMD calls scratch. ``arguments`` maps
    kind and line of an access to the kernel's pointer argument. ``complete``: kind and argument,
    where no access of the argument can be missing from its lines.
    """

    warps: int
    registers: int
    spills: int
    local: int
    shared: int
    atomics: int
    accesses: list[Access]
    arguments: dict[tuple[str, str], str]
    complete: frozenset[tuple[str, str]] = frozenset()

    def of(self, kind: str, argument: str) -> list[Access] | None:
        """The loads from, or stores to, an argument; None where the source has none.

        What the compiler moved to a line without an access counts for every argument that is not
        complete, so that none escapes a limit.
        """
        if argument not in (name for (k, _), name in self.arguments.items() if k == kind):
            return None
        lost = None if (kind, argument) in self.complete else argument
        return [
            a
            for a in self.accesses
            if a.kind == kind and self.arguments.get((a.kind, a.line), lost) == argument
        ]


def compile_for(target: GPUTarget, source: Any, options: dict[str, Any]) -> MachineCode:
    """The machine code of an ``ASTSource``.

    Raises:
        ValueError: an access cannot be told from one to another tensor.
    """
    # A cache of its own: the line numbers differ from those of the code that runs.
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope(), knobs.runtime.scope():
        knobs.cache.dir = folder
        knobs.runtime.add_stages_inspection_hook = _mend_lines
        kernel = triton.compile(source, target=target, options=options)
    resources, accesses = (_read_nvidia if target.backend == "cuda" else _read_amd)(kernel)
    arguments = _arguments_by_line(kernel.asm["ttir"])
    if target.backend == "cuda":
        accesses = [in_its_file(access, arguments) for access in accesses]
    for access in accesses:
        if len(names := arguments.get((access.kind, access.line), set())) > 1:
            raise ValueError(
                f"The {access.kind} at {access.line} touches one of {sorted(names)}: give each "
                "load and store a line of its own."
            )
    of_line = {place: min(names) for place, names in arguments.items()}
    complete = frozenset[tuple[str, str]]()
    if target.backend == "hip":
        seen = Counter((a.kind, of_line.get((a.kind, a.line), "")) for a in accesses)
        sought = accesses_in_llvm(kernel.asm["llir"], kernel.asm["ttir"])
        complete = frozenset(key for key, count in seen.items() if count == sought[key])
    return MachineCode(
        warps=kernel.metadata.num_warps,
        shared=kernel.metadata.shared,
        accesses=accesses,
        arguments=of_line,
        complete=complete,
        **resources,
    )


def in_its_file(access: Access, arguments: dict[tuple[str, str], set[str]]) -> Access:
    """The access at a line that has one, where the source has none at its own.

    Of two lines with the same number next to each other, in two files, ptxas keeps one file.
    """
    if (access.kind, access.line) in arguments:
        return access
    number = access.line.rpartition(":")[2]
    same = [
        line
        for kind, line in arguments
        if kind == access.kind and line.rpartition(":")[2] == number
    ]
    return access._replace(line=same[0]) if len(same) == 1 else access


def _mend_lines(_: Any = None, stages: dict[str, Any] | None = None, *__: Any) -> tuple[str, str]:
    """Triton's hook on its stages; called without any, it gives a part of the cache's key.

    On NVIDIA a load is inline assembly, and LLVM numbers its lines on from the line of the source
    as if they stood there: only the first number is kept.
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


def _arguments_by_line(ttir: str) -> dict[tuple[str, str], set[str]]:
    """Kind and line of each access in the source to the pointer arguments it may be of."""
    definitions = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", ttir, re.MULTILINE))
    root = {f"%{name}": name for name in re.findall(r"%(\w+): !tt\.ptr<", ttir)}
    arguments: dict[tuple[str, str], set[str]] = {}
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


def accesses_in_llvm(llir: str, ttir: str) -> Counter[tuple[str, str]]:
    """How many accesses LLVM's representation for AMD has, by kind and pointer argument."""
    (signature,) = re.findall(r"tt\.func public @\w+\((.*)$", ttir, re.MULTILINE)
    root = {f"%{n}": name for n, name in enumerate(re.findall(r"%(\w+): ", signature))}
    access = re.compile(
        r"\b(load|store)\b.*, ptr addrspace\(1\) (%\d+)"
        r"|\.buffer\.(load|store)\.\w+\(.*ptr addrspace\(8\) (%\d+)"
    )
    counts = Counter[tuple[str, str]]()
    for line in llir.splitlines():
        if found := access.search(line):
            kind, pointer = found[1] or found[3], found[2] or found[4]
            counts[kind, root[pointer]] += 1
        elif result := re.match(r"\s*(%\d+) = (.*\bptr addrspace\([18]\).*)", line):
            for value in re.findall(r"%\d+", result[2]):
                if value in root:
                    root[result[1]] = root[value]
    return counts


def _innermost(definitions: dict[str, str], location: str) -> str:
    """``file.py:number`` of a location: in the inlined function, not in its caller."""
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
        r'//## File "([^"]+)", line (\d+)|/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)'
    )
    accesses, names, line = [], Counter[str](), ""
    for path, number, opcode in code.findall(listing):
        if path:
            line = f"{Path(path).name}:{number}"
            continue
        name, *parts = opcode.split(".")
        names[name] += 1
        if kind := _LOADS_AND_STORES.get(name):
            width = next((_NVIDIA_WIDTHS[part] for part in parts if part in _NVIDIA_WIDTHS), 4)
            accesses.append(Access(kind, width, name == "LDGSTS", line))
    (used,) = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    registers, stack, local = map(int, used)
    resources = {
        "registers": registers,
        "spills": names["LDL"] + names["STL"],
        "local": stack + local,
        "atomics": sum(names[name] for name in _ATOMICS),
    }
    return resources, accesses


def _read_amd(kernel: Any) -> tuple[dict[str, int], list[Access]]:
    listing: str = kernel.asm["amdgcn"]
    code = re.compile(
        r"\.loc\s[^;\n]*; ([^\s:]+):(\d+):|^\s+((?:global|buffer|flat|ds|scratch)_\w+)(.*)$",
        re.MULTILINE,
    )
    accesses, names, line = [], Counter[str](), ""
    for path, number, opcode, operands in code.findall(listing):
        if path:
            line = f"{path}:{number}"
            continue
        space, kind, *parts = opcode.split("_")
        names["atomic" if "atomic" in opcode else space] += 1
        if space not in ("ds", "scratch") and kind in ("load", "store"):
            # A ushort and an sbyte are no wider than a short and a byte.
            (width,) = (w for name, w in _AMD_WIDTHS.items() if parts[0].endswith(name))
            accesses.append(Access(kind, width, operands.endswith(" lds"), line))

    def metadata(key: str) -> int:
        (value,) = re.findall(rf"^\s*\.{key}:\s+(\d+)$", listing, re.MULTILINE)
        return int(value)

    resources = {
        "registers": metadata("vgpr_count"),
        "spills": names["scratch"] + metadata("vgpr_spill_count"),
        "local": metadata("private_segment_fixed_size"),
        "atomics": names["atomic"],
    }
    return resources, accesses


def _output(*command: str | Path) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout + run.stderr
