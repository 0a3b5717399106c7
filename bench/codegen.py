"""Compile the kernels for several GPUs, without one, and read their machine code.

    python -m bench.codegen [--targets NAME ...] [--classes K] [--grid HxW ...] [--output FOLDER]

prints a line per kernel, target, type, layout and grid: registers, spills, shared memory, how wide
each load of the features F and each store of their gradient dF is, and on NVIDIA the instructions
in each loop that loads F, which a warp does for each tile. ``--output`` writes the same as
``codegen.csv`` and ``codegen.json``.

What is compiled is what would run: the launchers are called with tensors of torch's meta device,
Triton specialises each launch as on a GPU (arguments equal to 1, alignment of pointers and sizes),
and hands it over where it would compile it.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver

from bench import head
from bench.harness import judged, make_parser, run_program, settings, write
from bench.host import StubDriver
from bench.machine_code import MachineCode, compile_for
from focus.errors import InputError
from focus.kernels import triton_cam, triton_focus_head
from focus.kernels.terms import CamClass, Entropy, Terms
from focus.kernels.types import HeadArguments

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    **{name: GPUTarget("hip", name, 64) for name in ("gfx90a", "gfx942", "gfx950")},
    # Consumer cards: less shared memory, otherwise as the above.
    **{f"sm_{number}": GPUTarget("cuda", number, 32) for number in (86, 89, 120)},
}
USUAL_TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
GRIDS = ((7, 7), (8, 8), (10, 10), (14, 14))
SIZES = {"fp32": 4, "bf16": 2}
BATCH, CHANNELS, CLASSES, SEVERAL_CLASSES = 20, 2048, 2, 16
LIMITS = 132, 25 * 2**20
"""Multiprocessors and bytes of half the cache of an H100: a batch of 20 is read in 8 splits."""

# The limits: the widest access, two programs of eight warps to a multiprocessor of up to two
# classes and one of more, and the shared memory of sm_86 and sm_120.
WIDE = 16
MAX_REGISTERS, MAX_REGISTERS_OF_MANY = 128, 255
# Instructions on local memory, of up to two classes and of more; docs/kernels.md says where.
MAX_SPILLS, MAX_SPILLS_OF_MANY = 0, 3
MAX_SHARED = 99 * 1024

FEATURES, GRAD_FEATURES = ("load", "x_ptr"), ("store", "dx_ptr")


class Launch(NamedTuple):
    """A kernel as Triton would compile it for a launch."""

    name: str
    source: Any
    options: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kernel: str
    target: str
    dtype: str
    layout: str
    cells: int
    code: MachineCode

    def faults(self) -> list[str]:
        """Return what misses the limits, in words.

        Rows of NCHW that are no multiple of 16 bytes are read as they lie.
        """
        aligned = self.layout == "channels_last" or self.cells * SIZES[self.dtype] % WIDE == 0
        few = "K" not in self.kernel or f"K {CLASSES}:" in self.kernel
        registers = MAX_REGISTERS if few else MAX_REGISTERS_OF_MANY
        spills = MAX_SPILLS if few else MAX_SPILLS_OF_MANY
        return faults(self.code, WIDE if aligned else 1, registers, spills)

    def flat(self) -> dict[str, Any]:
        """Return the fields of a row of the CSV."""
        own = {k: v for k, v in vars(self).items() if k != "code"}
        used = {k: v for k, v in vars(self.code).items() if k not in ("widths", "loops")}
        widths = {
            "loads": _text(self.code.widths.get(FEATURES)),
            "stores": _text(self.code.widths.get(GRAD_FEATURES)),
        }
        loops = {"in loops": " + ".join(map(str, self.code.loops.get(FEATURES, ())))}
        return own | used | widths | loops | {"faults": ", ".join(self.faults())}


def faults(
    code: MachineCode,
    wide: int = WIDE,
    registers: int = MAX_REGISTERS,
    spills: int = MAX_SPILLS,
) -> list[str]:
    """Return what misses the limits, in words."""
    found = []
    if code.registers > registers:
        found.append(f"over {registers} registers")
    is_local_array = bool(code.local) and not code.spills
    if code.spills > spills or is_local_array:
        found.append("spills")
    if code.shared > MAX_SHARED:
        found.append(f"over {MAX_SHARED // 1024} KB shared")
    if code.atomics:
        found.append("atomics")
    for what, place in (("F loads", FEATURES), ("dF stores", GRAD_FEATURES)):
        if (widths := code.widths.get(place)) is not None and min(widths, default=0) < wide:
            found.append(f"narrow {what}" if widths else f"{what} not found")
    return found


def _text(widths: dict[int, int] | None) -> str:
    """Return ``2 x 16 B``; a dash where the tensor is not touched."""
    if widths is None:
        return "-"
    return " + ".join(f"{count} x {width} B" for width, count in sorted(widths.items())) or "none"


def stub_driver(target: str) -> Any:
    """Return a patch that puts a stub in the place of Triton's driver of a GPU."""
    return mock.patch.object(driver, "_active", StubDriver(TARGETS[target], target))


def capture(target: str, call: Callable[[], object]) -> list[Launch]:
    """Return the launches that ``call`` would make on a target; no kernel is compiled or run."""
    launches: list[Launch] = []

    def keep(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        signature, constants = compile["signature"], compile["constants"]
        options = json.loads(compile["specialization_data"])["options"]
        kernel = fn.jit_function
        name = kernel.__name__.strip("_").removesuffix("_kernel")
        source = ASTSource(kernel, signature, constants, compile["configs"][0])
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        launches.append(Launch(name, source, options))
        return True  # "do not compile": then nothing is launched either

    card = mock.patch.object(triton_cam, "_limits", return_value=LIMITS)
    version = mock.patch.object(torch.version, "hip", target if target.startswith("gfx") else None)
    with knobs.runtime.scope(), card, version, stub_driver(target):
        knobs.runtime.jit_cache_hook = keep
        call()
    return launches


def compiled(target: str, launch: Launch, compile: Callable[..., Any] = triton.compile) -> Any:
    """Compile a launch."""
    with stub_driver(target):  # the kernels ask for the target
        return compile(launch.source, target=TARGETS[target], options=launch.options)


def inspect(target: str, launch: Launch) -> MachineCode:
    """Compile a launch and read its machine code."""
    code: MachineCode = compiled(target, launch, compile_for)
    return code


def steps(
    dtype: torch.dtype, layout: torch.memory_format, grid: tuple[int, int], classes: int = CLASSES
) -> dict[str, Callable[[], object]]:
    """Return every launcher, called as a training step under autocast does: with a float32
    classifier.

    All inputs of the terms are given, so that every part of the kernels is compiled.
    """

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    features = torch.empty(
        (BATCH, CHANNELS, *grid), dtype=dtype, device="meta", memory_format=layout
    )
    target, cams = empty(BATCH, dtype=torch.int64), empty(BATCH, *grid)
    weights = {k: empty(k, CHANNELS) for k in (classes, SEVERAL_CLASSES)}
    weight, scale = weights[classes], empty()

    def head_forward(
        weight: Tensor, cam_class: CamClass = "true", entropy: Entropy = "softmax"
    ) -> object:
        per_class = empty(len(weight))
        arguments = HeadArguments(
            features=features,
            weight=weight,
            bias=per_class,
            target=target,
            saliency=cams,
            saliency_mask=empty(BATCH, dtype=torch.bool),
            entropy_target=None,
            class_weight=per_class,
            weights=Terms(*(0.7 + 0.2 * n for n, _ in enumerate(Terms._fields))),
            temperature=0.8,
            label_smoothing=0.1,
            focus_level="hinge",
            cam_class=cam_class,
            entropy=entropy,
            reduction="mean",
        )
        return triton_focus_head.focus_head_forward(arguments, need_weight=True)

    def head_backward(weight: Tensor, contrast: bool = False) -> object:
        classes = len(weight)
        columns = triton_focus_head.columns(math.prod(grid), classes)
        return triton_focus_head.focus_head_backward(
            saved=empty(BATCH, columns + 2 * CHANNELS),
            weight=weight,
            upstream=scale,
            upstream_logits=empty(BATCH, classes),
            contrast=contrast,
            bias_of_sample=False,
            shape=list(features.shape),
            dtype=dtype,
            last=layout == torch.channels_last,
            need_features=True,
            need_weight=True,
            need_bias=True,
        )

    heads: dict[str, Callable[[], object]] = {}
    for k, w in weights.items():
        heads[f"focus_head forward K {k}"] = partial(head_forward, w)
        heads[f"focus_head backward K {k}"] = partial(head_backward, w)
    arguments = features, weight, target, scale
    return heads | {
        f"focus_head contrast forward K {classes}": partial(head_forward, weight, "contrast"),
        f"focus_head contrast backward K {classes}": partial(head_backward, weight, True),
        f"focus_head sum forward K {classes}": partial(head_forward, weight, entropy="sum"),
        "cam_entropy forward": lambda: triton_cam.cam_entropy_forward(*arguments),
        "cam_entropy backward": lambda: triton_cam.cam_entropy_backward(
            *arguments[:3], cams, scale, cams, empty(BATCH), True, True
        ),
        "class_activation": lambda: triton_cam.class_activation(
            features, weight, None, target[:, None], scale
        ),
    }


def rows(
    targets: Sequence[str] = USUAL_TARGETS,
    grids: Sequence[tuple[int, int]] = GRIDS,
    layouts: Sequence[str] = tuple(LAYOUTS),
    dtypes: Sequence[str] = tuple(head.DTYPES),
    classes: int = CLASSES,
    paths: Sequence[str] | None = None,
) -> Iterator[Row]:
    """Yield the table line by line. paths: names of :func:`steps`, all by default."""
    # Kernels that see neither F nor its layout are the same in several lines.
    known: dict[tuple[str, str, str], MachineCode] = {}
    for target, dtype, layout, grid in product(targets, dtypes, layouts, grids):
        for name, step in steps(head.DTYPES[dtype], LAYOUTS[layout], grid, classes).items():
            for launch in capture(target, step) if paths is None or name in paths else ():
                key = target, launch.source.hash(), str(launch.options)
                if key not in known:
                    known[key] = inspect(target, launch)
                kernel = f"{name}: {launch.name}"
                yield Row(kernel, target, dtype, layout, grid[0] * grid[1], known[key])


def grid_of(text: str) -> tuple[int, int]:
    """Read ``5x13`` for argparse: cells along the height and the width."""
    if (sides := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, two whole numbers of at least 1")
    return int(sides[1]), int(sides[2])


def main() -> None:
    """Print the table as it grows, then write it with ``--output``."""
    parser = make_parser(__doc__)
    parser.add_argument("--targets", choices=TARGETS, nargs="+", default=USUAL_TARGETS)
    parser.add_argument("--classes", type=int, default=CLASSES, metavar="K")
    parser.add_argument("--grid", type=grid_of, nargs="+", default=GRIDS, metavar="HxW")
    given = parser.parse_args()
    if knobs.runtime.interpret:
        raise InputError("TRITON_INTERPRET is set, so nothing is compiled: unset it.")
    table = judged(row.flat() for row in rows(given.targets, given.grid, classes=given.classes))
    sizes = {"batch": BATCH, "channels": CHANNELS, "classes": given.classes}
    write(given.output, "codegen", table, settings("python -m bench.codegen") | sizes)


if __name__ == "__main__":
    run_program(main)
