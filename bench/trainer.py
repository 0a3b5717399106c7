"""What the trainer costs beside the network: CPU time of a step that is neither forward, backward,
optimiser nor decoding.

    python -m bench.trainer [--model NAME] [--batch-size N] [--steps N]

Real steps of a real run on pictures of random numbers, one thread, no workers. What is taken off is
timed in place: each call of the network, of the backward pass, of the optimiser, of the data set.
What remains is the plan of the batches, collation, the sums and their logging, the norm of the
gradient, the copies of the running statistics, the checks for signals, the progress bar.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from bench.entry import end_in_a_line
from bench.timing import at_least
from focus.config.train import TrainConfig, resolve
from focus.data.dataset import FaceDataset
from focus.data.manifest import Manifest, Sample, Split
from focus.runtime.signals import StopSignals
from focus.training.run import make_detector
from focus.training.trainer import Trainer

BAR = 0.02
"""Of a step of densenet121 with 8 images of 224 x 224 pixels."""


class Cost(NamedTuple):
    """CPU seconds of a step in the median: the whole, and what the trainer adds."""

    step: float
    own: float

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.own / self.step


class _Timed:
    """Adds up the CPU time of the calls that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def timed(*words: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return call(*words, **named)
            finally:
                self.seconds += time.process_time() - began

        setattr(owner, name, timed)


class _Bar:
    """A progress bar's place: each update ends a step."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self.update = ended


def write_pictures(folder: Path, count: int, size: int) -> Manifest:
    """``count`` images of random numbers, half of them fakes, and a few to validate on."""
    draw = np.random.default_rng(0)
    samples = []
    for number in range(count + 4):
        path = folder / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
        split: Split = "train" if number < count else "validation"
        samples.append(Sample(str(path), number % 2, generator="g" * (number % 2), split=split))
    return Manifest(samples)


def measure(model: str, size: int, batch_size: int, steps: int) -> Cost:
    """Train ``steps`` steps after one to warm up."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_pictures(folder, batch_size * (steps + 1), size)
        config = resolve(
            TrainConfig(
                recipe="paper",
                model=model,
                image_size=size,
                pretrained=False,
                batch_size=batch_size,
                workers=0,
                log_steps=1,
                clip_grad=1.0,
                output=str(folder),
                name="run",
            )
        )
        accelerator = Accelerator(cpu=True, log_with=["tensorboard"], project_dir=folder / "run")
        trainer = Trainer(config, make_detector(config), manifest, accelerator)
        trainer._open_folder()
        taken_off = _Timed()
        taken_off.wrap(trainer.model, "forward")
        taken_off.wrap(trainer.accelerator, "backward")
        taken_off.wrap(trainer.optimizer, "step")
        # Python looks for this one in the class.
        timed_class = type("Timed", (FaceDataset,), {})
        taken_off.wrap(timed_class, "__getitem__")
        trainer.images.dataset.__class__ = timed_class
        ends: list[tuple[float, float]] = []
        bar = _Bar(lambda: ends.append((time.process_time(), taken_off.seconds)))
        trainer.signals = StopSignals()
        trainer._train_epoch(bar)
        accelerator.end_training()
    whole, elsewhere = np.diff(np.array(ends), axis=0).T
    return Cost(float(np.median(whole)), float(np.median(whole - elsewhere)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="densenet121")
    parser.add_argument("--image-size", type=at_least(1), default=224)
    parser.add_argument("--batch-size", type=at_least(1), default=8)
    parser.add_argument("--steps", type=at_least(1), default=20)
    given = parser.parse_args()
    cost = measure(given.model, given.image_size, given.batch_size, given.steps)
    print(
        f"{given.model}, {given.batch_size} images of {given.image_size} x {given.image_size}: "
        f"{1e3 * cost.step:.0f} ms of CPU time a step, the trainer's own {1e3 * cost.own:.1f} ms "
        f"({100 * cost.share:.2f} %, bar {100 * BAR:.0f} %)"
    )


if __name__ == "__main__":
    end_in_a_line(main)
