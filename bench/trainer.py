"""Measure what the trainer costs beside the network, in CPU time.

    python -m bench.trainer [--model NAME] [--image-size N] [--batch-size N] [--steps N]

A real run on pictures of random numbers, one thread, no workers. The calls of the network, of the
backward pass, of the optimiser and of the data set are timed in place and taken off. What remains
is the plan of the batches, collation, the sums and their logging, the norm of the gradient, the
copies of the running statistics, the checks for signals, the progress bar.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from bench.harness import run_program
from focus.config.train import TrainConfig
from focus.data.dataset import FaceDataset
from focus.model.detector import Detector
from focus.training.run import train


class Cost(NamedTuple):
    """CPU seconds of a step in the median: the whole, and the trainer's own part."""

    step: float
    own: float


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Write ``count`` training images of random numbers, half of them fakes, and a few others."""
    draw = np.random.default_rng(0)
    for number in range(count + 4):
        split, label = "train" if number < count else "val", ("real", "fake")[number % 2]
        path = folder / "generator" / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def measure(model: str, size: int, batch_size: int, steps: int) -> Cost:
    """Train ``steps`` steps after one to warm up."""
    taken_off = 0.0
    ends: list[tuple[float, float]] = []

    def timed(owner: Any, name: str, ends_step: bool = False) -> Any:
        call: Callable[..., Any] = getattr(owner, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            nonlocal taken_off
            began = time.process_time()
            result = call(*args, **kwargs)
            taken_off += time.process_time() - began
            if ends_step:
                ends.append((time.process_time(), taken_off))
            return result

        return mock.patch.object(owner, name, method)

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        write_pictures(Path(name, "data"), batch_size * (steps + 1), size)
        stack.enter_context(timed(Detector, "forward"))
        stack.enter_context(timed(Accelerator, "backward"))
        stack.enter_context(timed(FaceDataset, "__getitem__"))
        stack.enter_context(timed(torch.optim.SGD, "step", ends_step=True))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        train(
            TrainConfig(
                recipe="paper",
                model=model,
                image_size=size,
                pretrained=False,
                epochs=1,
                batch_size=batch_size,
                workers=0,
                threads=1,
                log_steps=1,
                clip_grad=1.0,
                data=(str(Path(name, "data")),),
                output=name,
                name="run",
            )
        )
    whole, elsewhere = np.diff(np.array(ends), axis=0).T
    return Cost(float(np.median(whole)), float(np.median(whole - elsewhere)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="densenet121")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    cost = measure(given.model, given.image_size, given.batch_size, given.steps)
    print(
        f"{given.model}, {given.batch_size} images of {given.image_size} x {given.image_size}: "
        f"{1e3 * cost.step:.0f} ms of CPU time a step, the trainer's own {1e3 * cost.own:.1f} ms "
        f"({100 * cost.own / cost.step:.2f} %)"
    )


if __name__ == "__main__":
    run_program(main)
