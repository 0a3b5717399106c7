"""What a training step's kernels do inside of a multiprocessor, counted on an emulated GPU.

    python -m bench.instructions [--classes K ...] [--grid SIDE ...] [--target sm_90]
        [--output FOLDER]

prints a line per kernel: its programs and their warps, the instructions of PTX that a warp
executes, the passes of a program over the banks of shared memory, and how many times the least
these are. Then the time of each on an H100, were it all, beside that by the bytes of the features.
Nothing is timed: a multiprocessor issues four instructions a cycle at most and makes one pass, and
waits for memory and for earlier results besides; and the assembler makes fewer instructions of
those of PTX. ``--output`` writes ``instructions.csv``.
"""

import argparse
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.codegen import DTYPES, LAYOUTS
from bench.emulated_gpu import EmulatedGPU, emulated_gpu, region
from bench.entry import end_in_a_line, make_folder
from bench.timing import at_least
from focus.kernels import focus_head

BATCHES = (20, 128)
CHANNELS, SIDES, CLASSES = 1024, (7,), (2,)
# An H100 SXM: multiprocessors, each of four schedulers; its clock and its memory at their best.
MULTIPROCESSORS, SCHEDULERS, CYCLES_PER_US, BYTES_PER_US = 132, 4, 1980, 3.35e6
# Programs of a launch execute as many instructions each, but for those at its end.
PROGRAMS = 3


@dataclass(frozen=True)
class Row:
    """One kernel of a step; times in microseconds, of an H100 that does nothing else."""

    classes: int
    cells: int
    batch: int
    dtype: str
    layout: str
    kernel: str
    programs: int
    warps: int
    instructions: int
    passes: int
    conflicts: float
    issue_us: float
    shared_us: float
    features_us: float


def rows(
    target: str, classes: Sequence[int] = CLASSES, sides: Sequence[int] = SIDES
) -> Iterator[Row]:
    """The table, line by line: of maps of so many cells along each side."""
    for count, side, batch, dtype, layout in product(classes, sides, BATCHES, DTYPES, LAYOUTS):
        features = torch.randn(batch, CHANNELS, side, side).to(DTYPES[dtype])
        features = features.to(memory_format=LAYOUTS[layout]).requires_grad_()
        weight = torch.randn(count, CHANNELS, requires_grad=True)
        bias = torch.zeros(count, requires_grad=True)
        labels = torch.arange(batch) % count
        size = features.numel() * features.itemsize
        # F, and dF, which is like it.
        name = region(features).name
        # Results are of no use here, as most programs do not run.
        with emulated_gpu(EmulatedGPU(target, most=PROGRAMS)) as gpu:
            out = focus_head(features, weight, bias, labels, saliency=torch.rand(batch, side, side))
            out.loss.backward()
        for launch in gpu.launches:
            touched = sum(memory.name == name for memory in launch.memory.regions)
            waves = math.ceil(launch.programs / MULTIPROCESSORS)
            cycles = waves * launch.warps * launch.instructions / SCHEDULERS
            yield Row(
                count,
                side**2,
                batch,
                dtype,
                layout,
                launch.kernel.strip("_").removesuffix("_kernel"),
                launch.programs,
                launch.warps,
                round(launch.instructions),
                round(launch.passes),
                round(launch.passes / max(launch.least_passes, 1), 2),
                round(cycles / CYCLES_PER_US, 2),
                round(waves * launch.passes / CYCLES_PER_US, 2),
                round(touched * size / BYTES_PER_US, 2),
            )


COLUMNS = "{:>7} {:>5} {:>5} {:<5} {:<13} {:<10} {:>8} {:>5} {:>12} {:>6} {:>9} {:>8} {:>9} {:>11}"
HEADER = COLUMNS.format(*(field.name for field in fields(Row)))


def main() -> None:
    """Print the table as it grows, then write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    targets = ("sm_80", "sm_90", "sm_100")
    words = f"how many, one or several (default {CLASSES[0]})"
    numbers: dict[str, Any] = {"type": at_least(1), "nargs": "+"}
    parser.add_argument("--classes", default=CLASSES, metavar="K", help=words, **numbers)
    words = f"cells along each side of the maps, one or several (default {SIDES[0]})"
    parser.add_argument("--grid", default=SIDES, metavar="SIDE", help=words, **numbers)
    words = "whose code is counted; times are an H100's with any"
    parser.add_argument("--target", default="sm_90", choices=targets, help=words)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the CSV")
    arguments = parser.parse_args()
    output: Path | None = arguments.output
    if output:
        make_folder(output)
    torch.manual_seed(0)
    print(f"C {CHANNELS}; {arguments.target}, not timed")
    print(HEADER)
    table = []
    for row in rows(arguments.target, arguments.classes, arguments.grid):
        table.append(row)
        print(COLUMNS.format(*asdict(row).values()), flush=True)
    if output:
        with (output / "instructions.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(map(asdict, table))


if __name__ == "__main__":
    end_in_a_line(main)
