"""Part ``step`` of :mod:`bench.gpu`: what the loss costs in a whole training step.

The losses are those of :mod:`bench.step`, on one network of random weights in channels_last, with
forward under autocast to bfloat16 and the optimiser of the recipe ``paper``, launched eagerly.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.gpu_report import Run
from bench.gpu_timing import device_seconds
from bench.gpu_tools import one_line
from bench.timing import Step, cpu_seconds, ratio, time_rounds

if TYPE_CHECKING:
    from focus.data.dataset import Batch
    from focus.model.detector import Detector

# Networks, images and their pixels a side; on the CPU to rehearse.
NETWORKS = {
    "cuda": (("resnet50", 64, 224), ("densenet121", 64, 224)),
    "cpu": (("test_resnet", 2, 64),),
}
ROUNDS = {"cuda": 20, "cpu": 2}
SECONDS = {"cuda": device_seconds, "cpu": cpu_seconds}


def training_step(run: Run) -> None:
    """A row a loss; ``of_ce``: the median of its rounds' ratios to cross-entropy alone."""
    for model, images, size in run.part.over(NETWORKS[run.device]):
        labels = {"model": model, "images": images, "image_size": size}
        try:
            steps = steps_of(model, images, size, run.device)
            seconds = time_rounds(steps, ROUNDS[run.device], SECONDS[run.device])
        except torch.OutOfMemoryError as error:  # of a smaller card
            run.add(labels | {"obstacle": one_line(error)})
            continue
        for name, own in seconds.items():
            median, low, high = (round(value, 4) for value in ratio(own, seconds["CE"]))
            times = {"median_us": round(1e6 * float(np.median(own)), 1), "repeats": len(own)}
            run.add(labels | {"loss": name} | times | {"of_ce": median, "of_ce_95": [low, high]})


def steps_of(model: str, images: int, size: int, device: str) -> dict[str, Step]:
    """A training step of each loss, on one network."""
    # Here, so that the other parts need no more than the kernels do.
    from bench.step import RECIPE, cross_entropy, eager, make_batch, make_detector, ours
    from focus.config.train import TrainConfig, resolve
    from focus.training.optimizer import make_optimizer

    detector = make_detector(model, size).to(device)
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = make_batch(detector, images).to(device, torch.channels_last)
    optimizer = make_optimizer(resolve(TrainConfig(recipe=RECIPE)), detector)
    losses = {"CE": cross_entropy, "CE again": cross_entropy, "ours": ours, "branches": eager}
    return {name: partial(train, detector, optimizer, batch, loss) for name, loss in losses.items()}


def train(
    detector: "Detector",
    optimizer: torch.optim.Optimizer,
    batch: "Batch",
    loss_of: "Callable[[Detector, Batch], Tensor]",
) -> tuple[Tensor, ...]:
    """One step; its loss, which nobody waits for."""
    with torch.autocast(batch.images.device.type, torch.bfloat16):
        loss = loss_of(detector, batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return (loss.detach(),)
