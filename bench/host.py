"""CPU time that the head's host side takes: launches are stubbed, kernels compiled for sm_90.

    python -m bench.host --output bench/results

A step is forward and backward of the head on features on the CPU, whose kernels never run. Beside
it run plain pooling, classifier and cross-entropy (in float32 and under autocast), and the same
losses as plain autograd branches, whose torch calls do compute, on tensors so small (4x64x7x7) that
the calls themselves are the cost. Rounds are interleaved; a figure is the median over the rounds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from bench.harness import Step, make_parser, ratio, run_program, settings, shown, time_rounds, write
from bench.head import Inputs, Loss, branches_loss, make_inputs, ours_loss, plain_loss, pool_by_mean
from focus.kernels import backend

SHAPE = 4, 64, 49
ROUNDS, STEPS = 21, 100
SM_90 = GPUTarget("cuda", 90, 32)


class StubDriver(DriverBase):  # type: ignore[misc]
    """A driver that compiles for a target, without a GPU, and launches nothing."""

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

    def __init__(self, target: GPUTarget = SM_90, device: Any = 0) -> None:
        self.target, self.device = target, device

    @staticmethod
    def launcher_cls(*_: Any) -> Callable[..., None]:
        return lambda *_: None

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_device(self) -> Any:
        return self.device

    def get_current_stream(self, _: Any) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError


def steps(loss: Loss, inputs: Inputs, autocast: bool) -> Step:
    """Return a function that runs forward and backward of ``loss``, ``STEPS`` times."""

    def run() -> tuple[Tensor, ...]:
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                value = loss(*inputs)
            gradients = torch.autograd.grad(value, inputs.leaves)
        return gradients

    return run


def main() -> None:
    """Measure, print and write."""
    given = make_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    driver.set_active(StubDriver())
    backend.INTERPRETED = True  # lets tensors of the CPU reach the launchers
    half = make_inputs(SHAPE, "channels_last", dtype=torch.bfloat16)
    single = make_inputs(SHAPE, "channels_last")
    plain = partial(plain_loss, pool_by_mean)
    compared = {
        "ours": steps(ours_loss, half, False),
        "branches": steps(branches_loss, single, True),
        "plain": steps(plain, single, True),
        "plain, float32": steps(plain, single, False),
    }
    seconds, rows = time_rounds(compared, ROUNDS), []
    for name, values in seconds.items():
        row = {"head": name, "microseconds": round(1e6 * float(np.median(values)) / STEPS, 1)}
        rows.append(shown(row | {"ours / it": round(ratio(seconds["ours"], values)[0], 2)}))
    measured_with = settings("python -m bench.host") | {"rounds": ROUNDS, "steps": STEPS}
    write(given.output, "host", rows, measured_with)


if __name__ == "__main__":
    run_program(main)
