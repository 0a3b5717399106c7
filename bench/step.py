"""Measure a training step on the CPU against cross-entropy alone and against two rivals.

    python -m bench.step [--short] [--output FOLDER] [--rounds N] [--models NAME ...]

A step is forward, loss, backward and the step of the optimiser of the recipe ``paper``; the
network's weights are random, all steps train the same ones, and each sample has a human map. The
steps differ in their loss:

- CE: pooling, classifier, cross-entropy. Its ratio to itself (A/A) says what the method cannot tell
  apart.
- ours: the loss ``blend`` of ``Detector``. The head alone is timed beside it.
- eager: the same loss as one writes it, a differentiable CAM of the whole batch, by autograd.
- predecessor: the step of CYBORG, see :func:`predecessor`; of a DenseNet also without the second
  forward.

Loss and all gradients are first checked in float64 against the reference, on small images. The
method is that of :mod:`bench.harness`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.harness import Step, begin, make_parser, ratio, run_program, shown, time_rounds, write
from bench.head import branches_loss
from focus.config.losses import LOSSES
from focus.config.train import TrainConfig, resolve
from focus.data.dataset import Batch
from focus.kernels import use_backend
from focus.model.detector import Detector
from focus.training.optimizer import make_optimizer

MODELS = ("densenet121", "resnet50")
BATCHES = (8, 20)
ROUNDS, SHORT_ROUNDS = 7, 3
BLEND = LOSSES["blend"]
CHECKED_SIZE = 96  # pixels a side, a CAM of 3 x 3 cells

ONE_FORWARD = "predecessor, one forward"
RATIOS = {
    "A/A": ("CE again", "CE"),
    "ours / CE": ("ours", "CE"),
    "eager / ours": ("eager", "ours"),
    "predecessor / ours": ("predecessor", "ours"),
    "predecessor, one forward / ours": (ONE_FORWARD, "ours"),
    "head / step": ("head", "ours"),
}

Loss = Callable[[Detector, Batch], Tensor]


def make_detector(model: str, image_size: int) -> Detector:
    """Return an untrained detector with the loss ``blend``, in training mode."""
    torch.manual_seed(0)
    return Detector(model, image_size=image_size, loss=BLEND).train()


def make_batch(detector: Detector, images: int) -> Batch:
    """Return random images in the detector's type, half of them fakes, with random human maps."""
    draw = torch.Generator().manual_seed(0)
    size, dtype = detector.image_size, detector.head.fc.weight.dtype
    number = torch.arange(images)
    return Batch(
        images=torch.randn(images, 3, size, size, generator=draw).to(dtype),
        target=number % 2,
        saliency=torch.rand(images, *detector.grid, generator=draw).to(dtype),
        saliency_mask=torch.ones(images, dtype=torch.bool),
        index=number,
        token=torch.empty(images, 0),
    )


def cross_entropy(detector: Detector, batch: Batch) -> Tensor:
    """Return the loss of pooling, classifier and cross-entropy."""
    pooled = functional.adaptive_avg_pool2d(detector.features(batch.images), 1).flatten(1)
    return functional.cross_entropy(detector.head.fc(pooled), batch.target)


def ours(detector: Detector, batch: Batch) -> Tensor:
    """Return the detector's own loss, as the trainer calls it."""
    loss = detector(batch.images, batch.target, batch.saliency, batch.saliency_mask).loss
    assert isinstance(loss, Tensor)
    return loss


def eager(detector: Detector, batch: Batch) -> Tensor:
    """Return the loss ``blend`` as one writes it: one forward, a CAM of the batch, autograd."""
    features, fc = detector.features(batch.images), detector.head.fc
    return branches_loss(features, fc.weight, fc.bias, batch.target, batch.saliency)


def predecessor(detector: Detector, batch: Batch, *, second_forward: bool) -> Tensor:
    """Return the loss of the predecessor (CYBORG, Boyd et al., 2023), by its algorithm.

        1/2 CE + 1/2 mean over samples and cells of (minmax(z) - S)^2,  z of the predicted class

    Written from a description of its code: the features of a DenseNet are computed a second time
    for the CAM, and the CAMs one sample after the other. As there, a flat CAM is divided by its
    range of 0, and a second forward moves the running statistics of the norms a second time. Unlike
    there, the classifier sees the tensor that the CAM is of, which costs the same.
    """
    features = detector.features(batch.images)
    logits = detector.head.fc(functional.adaptive_avg_pool2d(features, 1).flatten(1))
    classification = functional.cross_entropy(logits, batch.target)
    if second_forward:
        features = detector.features(batch.images)
    cams = []
    for sample, predicted in zip(features, logits.argmax(1), strict=True):
        cam = (detector.head.fc.weight[predicted] @ sample.flatten(1)).view(sample.shape[1:])
        cam = cam - cam.min()
        cams.append(cam / cam.max())
    saliency = functional.mse_loss(torch.stack(cams), batch.saliency)
    weights = LOSSES["cyborg"]
    return weights.classification_weight * classification + weights.saliency_weight * saliency


def losses_of(model: str) -> dict[str, Loss]:
    """Return the losses by the name of their step; ``CE again`` is the A/A comparison."""
    twice = model.startswith("densenet")
    losses: dict[str, Loss] = {
        "CE": cross_entropy,
        "CE again": cross_entropy,
        "ours": ours,
        "eager": eager,
        "predecessor": partial(predecessor, second_forward=twice),
    }
    if twice:
        losses[ONE_FORWARD] = partial(predecessor, second_forward=False)
    return losses


def check(model: str, losses: dict[str, Loss]) -> None:
    """Compare each loss and its gradients of all parameters with the reference, in float64.

    Raises:
        SystemExit: one is off.
    """
    detector = make_detector(model, CHECKED_SIZE).double()
    batch = make_batch(detector, 3)
    parameters = list(detector.parameters())
    with torch.no_grad():
        for parameter in parameters:
            if parameter.dim() == 1:  # timm starts norms at 0, behind which no gradient is seen
                parameter.uniform_(-1, 1)
    of_reference = {"CE": LOSSES["ce"], "CE again": LOSSES["ce"], "ours": BLEND, "eager": BLEND}
    for name, loss_of in losses.items():
        detector.head.loss = of_reference.get(name, LOSSES["cyborg"])
        with use_backend("reference"):
            loss = ours(detector, batch)
            exact = loss.detach(), *torch.autograd.grad(loss, parameters)
        detector.head.loss = BLEND
        loss = loss_of(detector, batch)
        found = loss.detach(), *torch.autograd.grad(loss, parameters)
        errors = [(f - e).abs().max() / e.abs().max() for f, e in zip(found, exact, strict=True)]
        error = float(torch.stack(errors).max())
        if not error <= 1e-10:  # nor if it is not a number
            raise SystemExit(f"{name} is wrong: relative error {error:.1e}")


def train(
    detector: Detector, optimizer: torch.optim.Optimizer, batch: Batch, loss_of: Loss
) -> tuple[Tensor, ...]:
    """Make one step and return its loss.

    Raises:
        SystemExit: the loss is not finite, so that what follows would be no training.
    """
    loss = loss_of(detector, batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss = loss.detach()
    if not loss.isfinite():
        raise SystemExit(f"{detector.config.model} was trained to the loss {float(loss)}")
    return (loss,)


def head_alone(detector: Detector, features: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    """Return the gradients of features ``[B,C,H,W]``, weight and bias, from a leaf."""
    loss = detector.head(features, batch.target, batch.saliency, batch.saliency_mask).loss
    return torch.autograd.grad(loss, (features, *detector.head.fc.parameters()))


def steps_of(detector: Detector, images: int, losses: dict[str, Loss]) -> dict[str, Step]:
    """Return a step of each loss, all on one network and one optimiser, and the head."""
    optimizer = make_optimizer(resolve(TrainConfig(recipe="paper")), detector)
    batch = make_batch(detector, images)
    steps: dict[str, Step] = {
        name: partial(train, detector, optimizer, batch, loss_of)
        for name, loss_of in losses.items()
    }
    features = detector.features(batch.images).detach().requires_grad_()
    return steps | {"head": partial(head_alone, detector, features, batch)}


def rows_of(model: str, batch: int, seconds: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield the ratios of CPU seconds ``[rounds]`` by step, with those of the step named first."""
    for name, (first, second) in RATIOS.items():
        if first in seconds:
            figures = *ratio(seconds[first], seconds[second]), float(np.median(seconds[first]))
            named = zip(("median", "low", "high", "seconds"), figures, strict=True)
            case = {"model": model, "batch": batch, "ratio": name}
            yield case | {figure: round(value, 4) for figure, value in named}


def main() -> None:
    """Check, measure, print a line a ratio, and write the rows after each case."""
    parser = make_parser(__doc__, ROUNDS, SHORT_ROUNDS)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="of timm")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N")
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side")
    given = parser.parse_args()
    measured_with = begin("bench.step", given) | {"image_size": given.image_size}
    for model in given.models:
        check(model, losses_of(model))
    batches = given.batches or (BATCHES[:1] if given.short else BATCHES)
    rows: list[dict[str, Any]] = []
    for images, model in product(batches, given.models):
        steps = steps_of(make_detector(model, given.image_size), images, losses_of(model))
        rows += map(shown, rows_of(model, images, time_rounds(steps, given.rounds)))
        write(given.output, "step", rows, measured_with)


if __name__ == "__main__":
    run_program(main)
