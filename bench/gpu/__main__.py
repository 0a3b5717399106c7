"""Measure training and the head on a GPU, in at most 8 minutes.

    python -m bench.gpu [--output FILE] [--minutes N] [--parts NAME ...] [--batch-size N] [--short]

Parts, in this order:

- ``densenet121``, ``resnet50``, ``vit_base_patch16_224``, ``convnext_tiny``: training images a
  second, ours and timm's, on the same batch in bf16, as the network is and compiled.
- ``head-bf16``, ``head-fp16``, ``head-vit``: microseconds of forward and gradients of our head,
  beside plain pooling, autograd branches, these compiled, and a copy of the features. Gradients
  are compared with the float64 reference first. Ours falling back to eager is an error.
- ``tests``: the tests of the kernels that are marked for GPUs.
- ``memory``: the most that a training step and a head hold.

Steps that are compared run in turn in one process, after a second of warm-up; A/A is the ratio of a
step to itself. A figure is a median with its 95 % bootstrap interval. The clock of the card is read
while it works. ``python -m pydoc bench.gpu.timing`` says how the head is timed.

Each row is printed as a line of Markdown, for an issue, and appended as a line of JSON to FILE as
soon as it is there. Each part is a process with a share of the time, so that a crash, a hang or a
poisoned CUDA context ends no other part: its error is a row. The exit code is 0; 1 if a row has an
error; 2 without a device. No GPU has run this program yet; --device cpu rehearses it on small
networks and tensors, which says nothing about a GPU.
"""

import argparse
import json
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.gpu import heads, images, kernel_tests, memory
from bench.gpu.processes import ROOT, run_process
from bench.gpu.results import Results
from bench.gpu.settings import Settings
from bench.gpu.timing import Row, one_line
from bench.harness import run_program, settings

Add = Callable[[Row], None]


class Part(NamedTuple):
    """A part of the run."""

    title: str
    share: float
    """Of the time, beside the shares of the other parts."""
    columns: tuple[str, ...]
    run: Callable[[Settings, Add], None]
    """Adds the part's rows as they are measured."""


def _adding(measure: Callable[[Settings], Iterator[Row]]) -> Callable[[Settings, Add], None]:
    def run(chosen: Settings, add: Add) -> None:
        for row in measure(chosen):
            add(row)

    return run


def _training(network: str, share: float) -> Part:
    measure = _adding(partial(images.measure_images, network))
    return Part(f"Training images a second: {network}", share, images.COLUMNS, measure)


def _head(kind: str, title: str, share: float) -> Part:
    return Part(title, share, heads.COLUMNS, _adding(partial(heads.measure_heads, kind)))


PARTS = {
    # Most of its time is that of compiling some hundred layers twice.
    "densenet121": _training("densenet121", 5),
    "resnet50": _training("resnet50", 2.5),
    "vit_base_patch16_224": _training("vit_base_patch16_224", 2.5),
    "convnext_tiny": _training("convnext_tiny", 2.5),
    "head-bf16": _head("bf16", "The head, bf16 and fp32", 3),
    "head-fp16": _head("fp16", "The head, fp16", 1.5),
    "head-vit": _head("vit", "The head on grids of a ViT", 1.5),
    "tests": Part(
        "Tests of the kernels on the device", 4, kernel_tests.COLUMNS, kernel_tests.run_tests
    ),
    "memory": Part("The most that a step holds", 2, memory.COLUMNS, _adding(memory.measure_memory)),
}


def print_row(row: Row) -> None:
    """Print a row for the process that waits for it, whatever stdout is by then."""
    print(json.dumps(row), file=sys.__stdout__, flush=True)


def machine(device: str) -> Row:
    """Return card, driver, versions and commit."""
    row: Row = settings("python -m bench.gpu") | {"started": time.strftime("%FT%T%z")}
    row |= {"device": device, "system": platform.platform()}
    if device == "cpu":
        return row
    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    row |= {"card": card.name, "cuda": torch.version.cuda, "rocm": torch.version.hip}
    row |= {"memory_bytes": card.total_memory, "multiprocessors": card.multi_processor_count}
    row["capability"] = f"{card.major}.{card.minor}"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        row["driver"] = done.stdout.partition("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        row["driver"] = one_line(error)
    return row


def measure_parts(names: list[str], chosen: Settings, minutes: float, results: Results) -> None:
    """Run parts one after the other, each with its share of the time that remains."""
    deadline = time.monotonic() + 60 * minutes
    for number, name in enumerate(names):
        part = PARTS[name]
        share = part.share / sum(PARTS[later].share for later in names[number:])
        seconds = max(1.0, share * (deadline - time.monotonic()))
        results.begin_part(part.title, part.columns)
        command = [sys.executable, "-m", "bench.gpu", "--here", name, "--device", chosen.device]
        command += ["--batch-size", str(chosen.batch_size)]
        if chosen.short:
            command.append("--short")
        started = time.monotonic()
        error = run_process(command, seconds, partial(results.add, name))
        if error:
            results.add(name, {"error": error})
        print(f"\n{name}: {time.monotonic() - started:.0f} s of at most {seconds:.0f} s")


def main() -> int:
    """Run the parts; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="bench/results/gpu-CARD.jsonl")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts (default: 8)")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), metavar="NAME")
    parser.add_argument(
        "--batch-size", type=int, default=128, help="images of a training step (default: 128)"
    )
    parser.add_argument(
        "--short", action="store_true", help="the first case of each part, without torch.compile"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: rehearse")
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"No CUDA or ROCm device: torch {torch.__version__} finds none.", file=sys.stderr)
        return 2
    chosen = Settings(
        device=arguments.device, short=arguments.short, batch_size=arguments.batch_size
    )
    if arguments.here:
        PARTS[arguments.here].run(chosen, print_row)
        return 0

    # So that the part at hand ends with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine_row = machine(arguments.device)
    card = re.sub(r"[^a-z0-9]+", "-", machine_row.get("card", "cpu").lower()).strip("-")
    path = arguments.output or ROOT / "bench" / "results" / f"gpu-{card}.jsonl"
    results = Results(path.absolute())
    results.begin(machine_row)
    measure_parts(arguments.parts, chosen, arguments.minutes, results)
    print(f"\n{results.errors} rows with an error; all rows: {results.path}")
    return 1 if results.errors else 0


if __name__ == "__main__":
    run_program(main)
