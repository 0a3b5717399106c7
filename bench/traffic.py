"""The bytes that the operations move per step, counted in Triton's interpreter.

    python -m bench.traffic [--output FOLDER] [--batch B]

prints a line per path (a training step, a forward, a step with one side frozen), shape, type and
memory layout: how often the features F are read and their gradient dF is written, all other bytes
relative to F in bfloat16, the 32-byte sectors relative to the least that reading F and writing dF
take, and the launches. Batches are of 20; a training step is also counted for ``--batch``, 32 (128
takes long: the interpreter needs a millisecond a block), other grids and other numbers of classes.
``--output`` writes the same as
``traffic.csv`` and, with each launch and the versions of triton and torch, ``traffic.json``.

Nothing here is a time. What is counted, and what the interpreter cannot see, is said in
:mod:`bench.interpreter_counter`.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.entry import end_in_a_line, make_folder
from bench.interpreter_counter import Kind, Launch, Role, Traffic, measure
from bench.timing import at_least
from focus.errors import InputError
from focus.kernels import cam_entropy, class_activation, focus_head

GRID = (7, 7)
BATCH, CLASSES = 20, 2
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}

# Limits. All bytes but those of F and dF, relative to F in bfloat16:
MAX_OTHER = 0.12
# Sectors, relative to what F and dF alone take.
MAX_SECTORS = {"bf16": 1.06, "fp32": 1.03}

Step = Callable[[], Tensor | None]
"""Runs once and returns the gradient of the features, where there is one."""


class Case(NamedTuple):
    """Shape, type and memory layout."""

    batch: int
    channels: int
    classes: int
    dtype: str
    layout: str
    grid: tuple[int, int] = GRID


@dataclass
class Inputs:
    """Leaves of a case; features and classifier ask for gradients where told."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    target: Tensor
    saliency: Tensor


class Usage(NamedTuple):
    """A way to use an operation, and what it is held to.

    ``reads`` of F and ``writes`` of dF are exact, in times their bytes; ``wide`` launches may touch
    F. With ``other`` and ``sectors`` the limits above hold, up to 2 classes and for batches of 20
    and 32: of more classes, or for fewer samples, the classifier itself is no longer small, and
    where the last of the groups of samples that share it is nearly empty, as with 21, 25 and 33,
    other bytes are up to 0.129.
    """

    step: Callable[[Inputs], Step]
    reads: int
    writes: int
    wide: int
    other: bool = False
    sectors: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the table; see :func:`count` for the units."""

    path: str
    case: Case
    features_read: float
    gradient_written: float
    other: float
    sectors: float
    wide_launches: int
    small_launches: int
    number_launches: int
    faults: tuple[str, ...]
    launches: tuple[Launch, ...]
    launches_on_gpu: tuple[str, ...]

    def flat(self) -> dict[str, Any]:
        """The fields in one line, without the single launches."""
        own = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in vars(self).items()
            if name not in ("case", "launches", "launches_on_gpu", "faults")
        }
        path, case = own.pop("path"), self.case._asdict()
        case["grid"] = "x".join(map(str, self.case.grid))
        return {"path": path} | case | own | {"faults": ", ".join(self.faults)}


def make_inputs(case: Case, device: str = "cpu") -> Inputs:
    """Random inputs of a case; the classifier is float32, as under autocast."""
    torch.manual_seed(0)
    features = torch.randn(case.batch, case.channels, *case.grid, device=device)
    features = features.to(DTYPES[case.dtype], memory_format=LAYOUTS[case.layout])
    return Inputs(
        features=features.requires_grad_(),
        weight=torch.randn(case.classes, case.channels, device=device).div_(32).requires_grad_(),
        bias=torch.zeros(case.classes, device=device).requires_grad_(),
        target=torch.randint(case.classes, (case.batch,), device=device),
        saliency=torch.rand(case.batch, *case.grid, device=device),
    )


def head_step(inputs: Inputs) -> Step:
    """The head forward and backward, for the leaves that ask for a gradient."""
    leaves = [t for t in (inputs.features, inputs.weight, inputs.bias) if t.requires_grad]

    def step() -> Tensor | None:
        out = focus_head(
            inputs.features,
            inputs.weight,
            inputs.bias,
            inputs.target,
            saliency=inputs.saliency,
            focus_weight=0.5,
            saliency_weight=0.5,
            level="match",
        )
        if not leaves:
            return None
        gradients = torch.autograd.grad(out.loss, leaves)
        return gradients[0] if inputs.features.requires_grad else None

    return step


def head_of_frozen_backbone(inputs: Inputs) -> Step:
    inputs.features.requires_grad_(False)
    return head_step(inputs)


def frozen_head(inputs: Inputs) -> Step:
    inputs.weight.requires_grad_(False)
    inputs.bias.requires_grad_(False)
    return head_step(inputs)


def head_without_gradient(inputs: Inputs) -> Step:
    inputs.features.requires_grad_(False)
    return frozen_head(inputs)


def entropy_forward(inputs: Inputs) -> Step:
    def step() -> None:
        cam_entropy(inputs.features, inputs.weight, inputs.target)

    return step


def entropy_backward(inputs: Inputs) -> Step:
    outputs = cam_entropy(inputs.features, inputs.weight, inputs.target)
    upstream = [torch.ones_like(output) for output in outputs]
    leaves = inputs.features, inputs.weight
    return lambda: torch.autograd.grad(outputs, leaves, upstream)[0]


def activation(inputs: Inputs) -> Step:
    def step() -> None:
        class_activation(inputs.features, inputs.weight, inputs.bias, [0, 1])

    return step


USAGES = {
    "focus_head step": Usage(head_step, 2, 1, wide=2, other=True, sectors=True),
    "focus_head frozen backbone": Usage(head_of_frozen_backbone, 2, 0, wide=2, other=True),
    "focus_head frozen head": Usage(frozen_head, 1, 1, wide=2, other=True),
    "focus_head no gradient": Usage(head_without_gradient, 1, 0, wide=1, other=True),
    "cam_entropy forward": Usage(entropy_forward, 1, 0, wide=1, sectors=True),
    "cam_entropy backward": Usage(entropy_backward, 1, 1, wide=1, sectors=True),
    "class_activation": Usage(activation, 1, 0, wide=1),
}


def faults(traffic: Traffic, usage: Usage, case: Case, features: Tensor) -> tuple[str, ...]:
    """What misses the limits, in words."""
    size = features.numel() * features.element_size()
    floor = (usage.reads + usage.writes) * size
    found = []
    exact: dict[tuple[Role, Kind], int] = {
        ("F", "read"): usage.reads,
        ("F", "write"): 0,
        ("dF", "read"): 0,
        ("dF", "write"): usage.writes,
    }
    for (role, kind), times in exact.items():
        moved = traffic.moved(role, kind) / size
        if moved != times:
            found.append(f"{role} {kind} x {moved:.4g}, not {times}")
    if traffic.wide_launches > usage.wide:
        found.append(f"{traffic.wide_launches} launches touch F, not {usage.wide}")
    if case.classes <= CLASSES and case.batch >= BATCH:
        if usage.other and traffic.other > MAX_OTHER * 2 * features.numel():
            found.append(f"other over {MAX_OTHER}")
        if usage.sectors and traffic.sectors > MAX_SECTORS[case.dtype] * floor:
            found.append(f"sectors over {MAX_SECTORS[case.dtype]}")
    return tuple(found)


def count(name: str, case: Case) -> Row:
    """The line of a path and a case.

    F read and dF written are in times their size, other bytes in times F in bfloat16, sectors in
    times what F and dF alone take on this path. Launches are those of a GPU, see
    :func:`~bench.interpreter_counter.measure`: those that touch F, dF or a tensor of their size
    (wide), a few numbers only, such as the weights of the terms, or anything between (small).
    """
    usage = USAGES[name]
    inputs, shapes = make_inputs(case), make_inputs(case, "meta")
    features = inputs.features
    size = features.numel() * features.element_size()
    traffic = measure(usage.step(inputs), features)
    on_gpu = measure(usage.step(shapes), shapes.features)
    return Row(
        path=name,
        case=case,
        features_read=traffic.moved("F", "read") / size,
        gradient_written=traffic.moved("dF", "write") / size,
        other=traffic.other / (2 * features.numel()),
        sectors=traffic.sectors / ((usage.reads + usage.writes) * size),
        wide_launches=traffic.wide_launches,
        # Kernels that are not run do not show what they touch.
        small_launches=on_gpu.small_launches - traffic.wide_launches,
        number_launches=on_gpu.number_launches,
        faults=faults(traffic, usage, case, features),
        launches=traffic.launches,
        launches_on_gpu=tuple(launch.name for launch in on_gpu.launches),
    )


def rows(batch: int) -> Iterator[Row]:
    """The table, line by line; ``batch`` is the second one, of a training step."""
    shapes = list(product((1024, 2048), DTYPES, LAYOUTS))
    for name, (channels, dtype, layout) in product(USAGES, shapes):
        yield count(name, Case(BATCH, channels, CLASSES, dtype, layout))
    for channels, dtype, layout in shapes:
        yield count("focus_head step", Case(batch, channels, CLASSES, dtype, layout))
    for grid, dtype, layout in product(((8, 8), (10, 10)), DTYPES, LAYOUTS):
        yield count("focus_head step", Case(BATCH, 1024, CLASSES, dtype, layout, grid))
    for classes in (1, 3, 4, 5, 8, 16, 17, 100, 1000):
        yield count("focus_head step", Case(BATCH, 1024, classes, "bf16", "channels_last"))
    for classes in (5, 16):
        yield count("focus_head step", Case(BATCH, 1024, classes, "bf16", "NCHW"))


COLUMNS = "{:<27} {:>4} {:>5} {:>5} {:<5} {:<13} {:>5} {:>7} {:>7} {:>7} {:>8} {:>9}  {}"
HEADER = COLUMNS.format(
    *(
        "path",
        "B",
        "C",
        "K",
        "dtype",
        "layout",
        "grid",
        "F read",
        "dF",
        "other",
        "sectors",
        "launches",
    ),
    "verdict",
)


def line(row: Row) -> str:
    """A line of the printed table; launches are ``wide + small + numbers``."""
    return COLUMNS.format(
        row.path,
        *row.case[:-1],
        "x".join(map(str, row.case.grid)),
        f"{row.features_read:.4g}",
        f"{row.gradient_written:.4g}",
        f"{row.other:.3f}",
        f"{row.sectors:.3f}",
        f"{row.wide_launches} + {row.small_launches} + {row.number_launches}",
        ", ".join(row.faults) or "ok",
    )


def write(table: list[Row], folder: Path) -> None:
    """``traffic.csv`` and ``traffic.json`` in a folder."""
    flat = [row.flat() for row in table]
    with (folder / "traffic.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)
    full = [
        line
        | {"launches": [_described(launch) for launch in row.launches]}
        | {"launches_on_gpu": row.launches_on_gpu}
        for line, row in zip(flat, table, strict=True)
    ]
    head = {"triton": version("triton"), "torch": version("torch")}
    (folder / "traffic.json").write_text(json.dumps(head | {"rows": full}, indent=1) + "\n")


def _described(launch: Launch) -> dict[str, Any]:
    counters = {
        name: {f"{whose} {kind}": size for (whose, kind), size in counter.items()}
        for name, counter in (("moved", launch.moved), ("by_argument", launch.by_argument))
    }
    return asdict(launch) | counters


def main() -> None:
    """Print the table as it grows, then write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the CSV and the JSON")
    words = "the second batch size"
    parser.add_argument("--batch", type=at_least(1), default=32, metavar="B", help=words)
    arguments = parser.parse_args()
    output: Path | None = arguments.output
    # Read when triton is imported, which the operations do on their first call.
    os.environ["TRITON_INTERPRET"] = "1"
    if "triton" in sys.modules:
        raise InputError("triton was imported before this could ask for its interpreter.")
    torch.set_num_threads(1)
    if output:
        make_folder(output)
    print(f"triton {version('triton')}, torch {version('torch')}; interpreted, nothing is timed")
    print(HEADER)
    table = []
    for row in rows(arguments.batch):
        table.append(row)
        print(line(row), flush=True)
    missed = sum(bool(row.faults) for row in table)
    print(f"{len(table)} lines, {missed} miss a limit")
    if output:
        write(table, output)


if __name__ == "__main__":
    end_in_a_line(main)
