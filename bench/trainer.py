"""Measure what the trainer costs beside the network, in CPU time.

    python -m bench.trainer [--short] [--output FOLDER] [--rounds N] [--steps N]

First, steps of a real run of densenet121, one thread, no workers. The calls of the network, of the
backward pass, of the optimiser and of the data set are timed in place and taken off. What remains
is the plan of the batches, the sums and their logging, the norm of the gradient, the running
statistics, the checks for signals, the progress bar.

Then whole epochs of a real run at 96 pixels, each followed by one of :func:`bare_loop`, which has
timm's loader, its network, cross-entropy and SGD, and neither figures nor any guard.
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import timm
import torch
from accelerate import Accelerator
from timm.data import ImageDataset, create_loader
from torch import nn
from torch.nn.functional import cross_entropy

import focus.model.backbones  # noqa: F401 - registers focus_small with timm
from bench.harness import begin, make_parser, median, note, ratio, run_program, write
from bench.loader import write_pictures
from focus.config.train import TrainConfig
from focus.data.dataset import FaceDataset
from focus.model.detector import Detector
from focus.training import trainer
from focus.training.run import train
from focus.training.trainer import Trainer

STEP = "densenet121, 8 images of 224²"
BAR = 1.5
"""Milliseconds of a step that may be the trainer's own."""
EPOCHS = ("focus_small", "resnet18")
IMAGES, SIZE, BATCH = 128, 96, 16


class Costs(NamedTuple):
    """CPU milliseconds of each step [N]. own: less network, backward, optimiser and data set."""

    step: np.ndarray
    norm: np.ndarray
    own: np.ndarray


def steps_of_a_run(model: str, size: int, batch_size: int, steps: int) -> Costs:
    """Train ``steps`` steps after one to warm up.

    norm: of the gradient, which is part of ``own``; its 4 bytes a weight come from main memory.
    """
    spent = dict.fromkeys(("elsewhere", "norm"), 0.0)
    ends: list[tuple[float, float, float]] = []

    def timed(owner: Any, name: str, part: str = "elsewhere", ends_step: bool = False) -> Any:
        call: Callable[..., Any] = getattr(owner, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            result = call(*args, **kwargs)
            spent[part] += time.process_time() - began
            if ends_step:
                ends.append((time.process_time(), spent["elsewhere"], spent["norm"]))
            return result

        return mock.patch.object(owner, name, method)

    with contextlib.ExitStack() as stack:
        stack.enter_context(timed(Detector, "normalise"))
        stack.enter_context(timed(Detector, "forward"))
        stack.enter_context(timed(Accelerator, "backward"))
        stack.enter_context(timed(FaceDataset, "__getitem__"))
        stack.enter_context(timed(trainer, "gradient_norm", "norm"))
        stack.enter_context(timed(torch.optim.SGD, "step", ends_step=True))
        run(model, size, batch_size, batch_size * (steps + 1))
    whole, elsewhere, norm = 1e3 * np.diff(np.array(ends), axis=0).T
    return Costs(whole, norm, whole - elsewhere)


def run(model: str, size: int, batch_size: int, images: int, **settings: Any) -> None:
    """Train on so many photographs of 256 x 256 pixels, in silence."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(mock.patch.dict(os.environ, FOCUS_CACHE=str(Path(name, "cache"))))
        root = Path(name, "data", "generator")
        splits = ["train"] * images + ["val"] * 4
        kinds = ("real", "fake") * len(splits)
        write_pictures((root / s / kinds[n] / f"{n}.jpg" for n, s in enumerate(splits)), 256)
        given: dict[str, Any] = {"recipe": "paper", "model": model, "image_size": size}
        given |= {"pretrained": False, "epochs": 1, "batch_size": batch_size, "workers": 0}
        given |= {"threads": 1, "clip_grad": 1.0, "data": (str(Path(name, "data")),)}
        train(TrainConfig.of(**given | settings, output=name, name="run"))


def bare_loop(model: str, folder: Path) -> Iterator[float]:
    """Yield the mean loss of an epoch of training as a short script has it."""
    backbone = timm.create_model(model, num_classes=0, global_pool="")
    network = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))
    loader = create_loader(
        ImageDataset(str(folder)),
        input_size=(3, SIZE, SIZE),
        batch_size=BATCH,
        is_training=True,
        no_aug=True,
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    network(torch.zeros(2, 3, SIZE, SIZE))  # now it has its classifier
    optimizer = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9, fused=True)
    network.train()
    while True:
        total = torch.zeros(())
        for images, target in loader:
            loss = cross_entropy(network(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        yield float(total) / len(loader)


def epochs_of_a_run(model: str, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the CPU seconds of epochs, without validation, and of the bare loop's [rounds]."""
    seconds: list[tuple[float, float]] = []
    epoch, bare = Trainer.train_epoch, None

    def both(self: Trainer, bar: Any) -> float:
        nonlocal bare
        bare = bare or bare_loop(model, Path(self.config.data[0], "generator", "train"))
        began = time.process_time()
        speed = epoch(self, bar)
        middle = time.process_time()
        next(bare)
        seconds.append((middle - began, time.process_time() - middle))
        return speed

    with mock.patch.object(Trainer, "train_epoch", both):
        run(model, SIZE, BATCH, IMAGES, epochs=rounds + 1)
    ours, others = np.array(seconds[1:]).T
    return ours, others


def main() -> None:
    """Measure, print and write."""
    parser = make_parser(__doc__, 9, 3)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    measured_with = begin("bench.trainer", given)
    costs = steps_of_a_run("densenet121", 224, 8, given.steps)
    rows = [
        note(median(costs.step), "a step, ms", case=STEP),
        note(median(costs.norm), "norm of the gradient, ms", case=STEP),
        note(own := median(costs.own), "the trainer's own, ms", case=STEP),
        note(median(costs.own - costs.norm), "the same without the norm, ms", case=STEP),
    ]
    print(f"{'held' if own[0] <= BAR else 'NOT HELD'}: the trainer's own, at most {BAR} ms")
    for model in EPOCHS:
        found = ratio(*epochs_of_a_run(model, given.rounds))
        rows.append(note(found, "epoch / bare loop's", case=f"{model}, {IMAGES} images of {SIZE}²"))
    write(given.output, "trainer", rows, measured_with)


if __name__ == "__main__":
    run_program(main)
