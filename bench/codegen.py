"""The machine code of the kernels for several GPUs, compiled without one.

    python -m bench.codegen [--classes K] [--grid HxW ...] [--output FOLDER]

prints a line per kernel, target, type, layout and grid: registers, spills, shared memory, and how
wide each load of the features F and each store of their gradient dF is. ``--output`` writes the
same as ``codegen.csv`` and, with the versions of triton and torch, ``codegen.json``.

What is compiled is what would run: the launchers are called with tensors of torch's meta device,
Triton specialises each launch as on a GPU (arguments equal to 1, alignment of pointers and sizes),
and hands it over where it would compile it.
"""

import argparse
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver

from bench.entry import end_in_a_line, make_folder
from bench.machine_code import Access, compile_for
from bench.timing import at_least
from focus.errors import InputError
from focus.kernels import triton_cam_entropy, triton_focus_head
from focus.kernels.types import CamClass, HeadForward

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Consumer cards: less shared memory, otherwise as the above.
SMALLER = {f"sm_{number}": GPUTarget("cuda", number, 32) for number in (86, 89, 120)}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
GRIDS = ((7, 7), (8, 8), (10, 10))
BATCH, CHANNELS, CLASSES, SEVERAL_CLASSES, MANY_CLASSES = 20, 2048, 2, 16, 1000

# What the code is held to: the widest access, two programs of eight warps to a multiprocessor, the
# shared memory of sm_86 and 120.
WIDE = 16
MAX_REGISTERS = 128
MAX_SHARED = 99 * 1024

FEATURES, GRAD_FEATURES = "features_ptr", "grad_features_ptr"

Widths = dict[int, int]
"""How many instructions there are of each width in bytes."""


class Launch(NamedTuple):
    """A kernel as Triton would compile it for a launch."""

    name: str
    source: Any
    options: dict[str, Any]


@dataclass(frozen=True)
class Code:
    """Of one compiled kernel; ``loads`` and ``stores`` are None if it has no access to F or dF.

    ``spills`` counts instructions on local memory (scratch), ``local`` and ``shared`` are bytes,
    ``asynchronous`` is how many of the ``loads`` copy to shared memory. Registers are per thread.
    """

    warps: int
    registers: int
    spills: int
    local: int
    shared: int
    atomics: int
    loads: Widths | None
    asynchronous: int
    stores: Widths | None

    def faults(self) -> list[str]:
        """What misses the limits, in words."""
        faults = []
        if self.registers > MAX_REGISTERS:
            faults.append(f"over {MAX_REGISTERS} registers")
        if self.spills or self.local:
            faults.append("spills")
        if self.shared > MAX_SHARED:
            faults.append(f"over {MAX_SHARED // 1024} KB shared")
        if self.atomics:
            faults.append("atomics")
        for what, widths in (("F loads", self.loads), ("dF stores", self.stores)):
            if widths is not None and (not widths or min(widths) < WIDE):
                faults.append(f"narrow {what}" if widths else f"{what} not found")
        return faults


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kernel: str
    target: str
    dtype: str
    layout: str
    cells: int
    code: Code

    def flat(self) -> dict[str, Any]:
        """The fields of the row and of its code, side by side, with the faults."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "code"}
        return own | asdict(self.code) | {"faults": self.code.faults()}


@dataclass(frozen=True)
class _NoDevice:
    """Stands where Triton expects the driver of a GPU: it names the target, and runs nothing."""

    name: str

    def get_current_device(self) -> str:
        return self.name

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        return (TARGETS | SMALLER)[self.name]


def capture(target: str, call: Callable[[], object]) -> list[Launch]:
    """The launches that ``call`` would make on a target; no kernel is compiled or run."""
    launches = []

    def keep(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        signature, constants = compile["signature"], compile["constants"]
        options = json.loads(compile["specialization_data"])["options"]
        kernel = fn.jit_function
        name = kernel.__name__.strip("_").removesuffix("_kernel")
        source = ASTSource(kernel, signature, constants, compile["configs"][0])
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        launches.append(Launch(name, source, options))
        return True  # "do not compile": then nothing is launched either

    driver.set_active(_NoDevice(target))
    with knobs.runtime.scope():
        knobs.runtime.jit_cache_hook = keep
        call()
    return launches


def inspect(target: str, launch: Launch) -> Code:
    """Compile a launch and look at its registers, and at its accesses to F and dF."""
    code = compile_for((TARGETS | SMALLER)[target], launch.source, launch.options)
    loads, stores = code.of("load", FEATURES), code.of("store", GRAD_FEATURES)
    return Code(
        warps=code.warps,
        registers=code.registers,
        spills=code.spills,
        local=code.local,
        shared=code.shared,
        atomics=code.atomics,
        loads=_widths(loads),
        asynchronous=sum(a.asynchronous for a in loads or ()),
        stores=_widths(stores),
    )


def _widths(accesses: list[Access] | None) -> Widths | None:
    return None if accesses is None else dict(Counter(a.width for a in accesses))


def steps(
    dtype: torch.dtype, layout: torch.memory_format, grid: tuple[int, int], classes: int = CLASSES
) -> dict[str, Callable[[], object]]:
    """Every launcher, called as a training step under autocast does: with a float32 classifier.

    All inputs of the terms are given, so that every part of the kernels is compiled.
    """

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    features = torch.empty(
        (BATCH, CHANNELS, *grid), dtype=dtype, device="meta", memory_format=layout
    )
    weight, many, scale = empty(classes, CHANNELS), empty(MANY_CLASSES, CHANNELS), empty()
    target, cams, per_sample = empty(BATCH, dtype=torch.int64), empty(BATCH, *grid), empty(BATCH)

    def head_forward(weight: Tensor, cam_class: CamClass = "true") -> HeadForward:
        return triton_focus_head.focus_head_forward(
            features,
            weight,
            bias=empty(len(weight)),
            target=target,
            saliency=cams,
            saliency_mask=empty(BATCH, dtype=torch.bool),
            entropy_target=None,
            class_weight=empty(len(weight)),
            scalars=empty(5),
            level="hinge",
            cam_class=cam_class,
            reduction="mean",
        )

    def head_backward(weight: Tensor) -> object:
        return triton_focus_head.focus_head_backward(
            features,
            weight,
            target,
            empty(0),
            cams.flatten(1),
            empty(BATCH, len(weight)),
            upstream=scale.expand(BATCH),
            cam_class="true",
            needs=(True, True, True),
        )

    # Few classes, several and many take different kernels; in forward, few and more.
    heads = {
        f"focus_head {name} K {len(w)}": partial(call, w)
        for w in (weight, many)
        for name, call in (("forward", head_forward), ("backward", head_backward))
    }
    several = empty(SEVERAL_CLASSES, CHANNELS)
    heads[f"focus_head backward K {SEVERAL_CLASSES}"] = partial(head_backward, several)
    return heads | {
        f"focus_head contrast forward K {len(many)}": lambda: head_forward(many, "contrast"),
        "cam_entropy forward": lambda: triton_cam_entropy.cam_entropy_forward(
            features, weight, target, scale
        ),
        "cam_entropy backward": lambda: triton_cam_entropy.cam_entropy_backward(
            features, weight, target, scale, cams, cams, per_sample, needs=(True, True)
        ),
        "class_activation": lambda: triton_cam_entropy.class_activation(
            features, weight, None, target[:, None], scale
        ),
    }


def rows(
    targets: tuple[str, ...] = tuple(TARGETS),
    grids: tuple[tuple[int, int], ...] = GRIDS,
    layouts: tuple[str, ...] = tuple(LAYOUTS),
    dtypes: tuple[str, ...] = tuple(DTYPES),
    classes: int = CLASSES,
) -> Iterator[Row]:
    """The table, line by line."""
    # Kernels that see neither F nor its layout are the same in several lines.
    known: dict[tuple[str, str, str], Code] = {}
    for target, dtype, layout, grid in product(targets, dtypes, layouts, grids):
        for name, step in steps(DTYPES[dtype], LAYOUTS[layout], grid, classes).items():
            for launch in capture(target, step):
                key = target, launch.source.hash(), str(launch.options)
                if key not in known:
                    known[key] = inspect(target, launch)
                kernel = f"{name}: {launch.name}"
                yield Row(kernel, target, dtype, layout, grid[0] * grid[1], known[key])


def text(widths: Widths | None) -> str:
    """``2 x 16 B``; a dash, where the tensor is not touched."""
    if widths is None:
        return "-"
    return " + ".join(f"{count} x {width} B" for width, count in sorted(widths.items())) or "none"


def line(row: Row) -> str:
    """A line of the printed table."""
    code = row.code
    loads = text(code.loads) + (f" ({code.asynchronous} async)" if code.asynchronous else "")
    return COLUMNS.format(
        row.kernel,
        row.target,
        row.dtype,
        row.layout,
        row.cells,
        code.registers,
        code.spills,
        code.local,
        code.shared,
        code.atomics,
        loads,
        text(code.stores),
        ", ".join(code.faults()) or "ok",
    )


COLUMNS = "{:<39} {:<6} {:<5} {:<13} {:>5} {:>4} {:>6} {:>5} {:>6} {:>7}  {:<20} {:<11} {}"
HEADER = COLUMNS.format(
    *("kernel", "target", "dtype", "layout", "HW", "regs", "spills", "local", "shared", "atomics"),
    *("F loads", "dF stores", "verdict"),
)


def write(table: list[Row], folder: Path, classes: int = CLASSES) -> None:
    """``codegen.csv`` and ``codegen.json`` in a folder."""
    flat = [row.flat() for row in table]
    head = {
        "triton": triton.__version__,
        "torch": torch.__version__,
        "batch": BATCH,
        "channels": CHANNELS,
        "classes": classes,
    }
    (folder / "codegen.json").write_text(json.dumps(head | {"rows": flat}, indent=1) + "\n")
    with (folder / "codegen.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        for row, code in zip(flat, (r.code for r in table), strict=True):
            row |= {"loads": text(code.loads), "stores": text(code.stores)}
            writer.writerow(row | {"faults": ", ".join(row["faults"])})


def grid_of(text: str) -> tuple[int, int]:
    """For argparse: ``5x13``, cells along the height and the width."""
    if (sides := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, two whole numbers of at least 1")
    return int(sides[1]), int(sides[2])


def main() -> None:
    """Print the table as it grows, then write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the CSV and the JSON")
    parser.add_argument(
        "--classes", type=at_least(1), default=CLASSES, metavar="K", help=f"beside {MANY_CLASSES}"
    )
    usual = " ".join("x".join(map(str, grid)) for grid in GRIDS)
    words = f"cells of the maps, one or several (default {usual})"
    parser.add_argument("--grid", type=grid_of, nargs="+", default=GRIDS, metavar="HxW", help=words)
    arguments = parser.parse_args()
    output: Path | None = arguments.output
    if knobs.runtime.interpret:
        raise InputError("TRITON_INTERPRET is set, so nothing is compiled: unset it.")
    if output:
        make_folder(output)
    print(f"triton {triton.__version__}, torch {torch.__version__}; compiled, not run")
    print(f"B {BATCH}, C {CHANNELS}, K {arguments.classes}")
    print(HEADER)
    table = []
    for row in rows(grids=tuple(arguments.grid), classes=arguments.classes):
        table.append(row)
        print(line(row), flush=True)
    missed = sum(bool(row.code.faults()) for row in table)
    print(f"{len(table)} kernels, {missed} miss a limit")
    if output:
        write(table, output, arguments.classes)


if __name__ == "__main__":
    end_in_a_line(main)
