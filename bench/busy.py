"""Measure a training step on a machine that others use, as OpenMP's threads wait for each other.

    python -m bench.busy [--short] [--output FOLDER] [--rounds N]

A step of the demo's network, 32 images of 64 x 64 pixels, two threads, by the clock: with threads
that sleep while they wait, as ``import focus`` has it, beside threads that spin first, as libgomp
has it by default. Each is a process of its own, of which one computes at a time. First they have
the machine for themselves, then two processes that compute without a pause run beside them.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from bench.harness import make_parser, median, note, ratio, run_program, settings, write

WAITING = {"sleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "spin": {"GOMP_SPINCOUNT": "300000"}}
"""What the environment says; 300,000 turns are libgomp's default."""
STEPS = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
import torch
from focus import Detector
torch.manual_seed(0)
torch.set_num_threads(2)
detector = Detector("focus_small", image_size=64, loss="blend").train()
images, target = torch.randn(32, 3, 64, 64), torch.arange(32) % 2
maps, with_map = torch.rand(32, *detector.grid), torch.ones(32, dtype=torch.bool)
optimizer = torch.optim.AdamW(detector.parameters(), fused=True)
def step():
    detector(images, target, maps, with_map).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
step()
for line in sys.stdin:
    began = time.perf_counter()
    for _ in range(int(line)):
        step()
    print((time.perf_counter() - began) / int(line), flush=True)
"""
IDLE_BAR, BUSY_BAR = 1.05, 5


@contextmanager
def trainers() -> Iterator[Mapping[str, "subprocess.Popen[str]"]]:
    """Start a process for each way to wait; it reads a number of steps and writes their seconds."""
    others = {n: v for n, v in os.environ.items() if not n.startswith(("OMP_", "GOMP_", "KMP_"))}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", STEPS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=others | waiting,
        )
        for name, waiting in WAITING.items()
    }
    try:
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run processes that compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(
    processes: Mapping[str, "subprocess.Popen[str]"], rounds: int, steps: int
) -> dict[str, np.ndarray]:
    """Return the seconds of a step [rounds] of each process, one after the other in each round."""
    seconds = {name: np.zeros(rounds) for name in processes}
    for number in range(rounds):
        for name, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            seconds[name][number] = float(process.stdout.readline())
    return seconds


def main() -> None:
    """Measure, print and write."""
    arguments: argparse.Namespace = make_parser(__doc__, 9, 3).parse_args()
    rounds = arguments.rounds or arguments.usual_rounds[arguments.short]
    measured_with = settings("python -m bench.busy" + " --short" * arguments.short)
    measured_with |= {"rounds": rounds, "threads": 2}
    rows = []
    with trainers() as processes:
        measure(processes, 1, 2)
        for beside, steps in ((0, 2), (2, 1)) if arguments.short else ((0, 10), (2, 5)):
            with busy(beside):
                seconds = measure(processes, rounds, steps)
            case = f"beside {beside} busy processes"
            rows += [
                note(median(1e3 * of), f"a step, ms: {name}", case=case)
                for name, of in seconds.items()
            ]
            if beside:
                figure, bar = ratio(seconds["spin"], seconds["sleep"]), f"at least {BUSY_BAR}"
                rows.append(note(figure, "spin / sleep", case=case))
                held = figure[0] >= BUSY_BAR
            else:
                figure, bar = ratio(seconds["sleep"], seconds["spin"]), f"at most {IDLE_BAR}"
                rows.append(note(figure, "sleep / spin", case=case))
                held = figure[0] <= IDLE_BAR
            print(f"    {'held' if held else 'NOT HELD'}: {bar}")
    write(arguments.output, "busy", rows, measured_with)


if __name__ == "__main__":
    run_program(main)
