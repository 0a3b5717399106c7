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
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from bench.harness import make_folder, run_program, settings, write
from focus.kernels import backend, focus_head

SHAPE, CLASSES = (4, 64, 7, 7), 2
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


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return features, weight, bias, target and human maps."""
    torch.manual_seed(0)
    features = torch.randn(SHAPE).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(CLASSES, SHAPE[1], requires_grad=True)
    bias = torch.zeros(CLASSES, requires_grad=True)
    target = torch.randint(CLASSES, (SHAPE[0],))
    return features, weight, bias, target, torch.rand(SHAPE[0], *SHAPE[2:])


def plain(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, _: Tensor) -> Tensor:
    """Return cross-entropy on pooled features."""
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    return functional.cross_entropy(logits.float(), target)


def branches(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, human: Tensor
) -> Tensor:
    """Return the loss "blend" as branches of autograd, each with its own read of the features."""
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    cam = torch.einsum("bc,bchw->bhw", weight[target], features.float()).flatten(1)
    log_p = cam.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1) / 3.8918
    low, high = cam.amin(1, keepdim=True), cam.amax(1, keepdim=True)
    saliency = ((cam - low) / (high - low).clamp_min(1e-6) - human.flatten(1)).square().mean(1)
    loss = functional.cross_entropy(logits.float(), target, reduction="none")
    return (loss + 0.1 * entropy + 5 * saliency).mean()


def ours(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, human: Tensor) -> Tensor:
    """Return the same loss by :func:`focus.kernels.focus_head`."""
    return focus_head(
        features, weight, bias, target, saliency=human, focus_weight=0.1, saliency_weight=5.0
    ).loss


def step(
    head: Callable[..., Tensor], given: tuple[Tensor, ...], autocast: bool
) -> Callable[[], None]:
    """Return a function that runs forward and backward of ``head``."""

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = head(*given)
        loss.backward()
        for tensor in given[:3]:
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
        make_folder(given.output)
    torch.set_num_threads(1)
    driver.set_active(StubDriver())
    backend.INTERPRETED = True  # lets tensors of the CPU reach the launchers
    half, single = inputs(torch.bfloat16), inputs(torch.float32)
    times = measure(
        {
            "ours": step(ours, half, False),
            "branches": step(branches, single, True),
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
