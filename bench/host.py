"""CPU time that the head's host side takes: launches are stubbed, kernels compiled for sm_90.

    python -m bench.host --output bench/results

A step is forward and backward of the head on features on the CPU, whose kernels never run. Beside
it run plain pooling, classifier and cross-entropy (in float32 and under autocast), and the same
losses as plain autograd branches, whose torch calls do compute, on tensors so small (4x64x7x7) that
the calls themselves are the cost. Rounds are interleaved; a figure is the median over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from bench.harness import run_program, settings, write
from bench.head import (
    Inputs,
    Loss,
    branches_loss,
    make_inputs,
    ours_loss,
    plain_loss,
    pool_by_mean,
)
from focus.kernels import backend

SHAPE = 4, 64, 49
ROUNDS, STEPS = 21, 100


class StubDriver(DriverBase):  # type: ignore[misc]
    """A driver that compiles for sm_90 and launches nothing."""

    class utils:
        @staticmethod
        def load_binary(*_: Any) -> tuple[Any, ...]:
            return object(), None, 0, 0, 1024

        @staticmethod
        def get_device_properties(_: int) -> dict[str, int]:
            return {"max_shared_mem": 232448}

        @staticmethod
        def unload_module(_: Any) -> None:
            pass

    def __init__(self) -> None:
        pass

    @staticmethod
    def launcher_cls(*_: Any) -> Callable[..., None]:
        return lambda *_: None

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError


def step(loss: Loss, given: Inputs, autocast: bool) -> Callable[[], None]:
    """Return a function that runs forward and backward of ``loss``."""

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(*given)
        value.backward()
        for tensor in given.leaves:
            tensor.grad = None

    return run


def measure(steps: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Return CPU seconds of a step by name, one for each round; rounds are interleaved."""
    for run in steps.values():
        for _ in range(20):
            run()
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, run in steps.items():
            start = time.process_time()
            for _ in range(STEPS):
                run()
            found[name].append((time.process_time() - start) / STEPS)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the CSV and the JSON")
    given = parser.parse_args()
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    driver.set_active(StubDriver())
    backend.INTERPRETED = True  # lets tensors of the CPU reach the launchers
    half = make_inputs(SHAPE, "channels_last", dtype=torch.bfloat16)
    single = make_inputs(SHAPE, "channels_last")
    plain = partial(plain_loss, pool_by_mean)
    times = measure(
        {
            "ours": step(ours_loss, half, False),
            "branches": step(branches_loss, single, True),
            "plain": step(plain, single, True),
            "plain, float32": step(plain, single, False),
        }
    )
    rows = []
    for name, of_rounds in times.items():
        pairs = [a / b for a, b in zip(times["ours"], of_rounds, strict=True)]
        row = {"head": name, "microseconds": round(1e6 * statistics.median(of_rounds), 1)}
        rows.append(row | {"ours / it": round(statistics.median(pairs), 2)})
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    if given.output:
        measured_with = settings("python -m bench.host") | {"triton": triton.__version__}
        write(given.output, "host", rows, measured_with | {"rounds": ROUNDS, "steps": STEPS})


if __name__ == "__main__":
    run_program(main)
