"""What a training step costs on the CPU, against cross-entropy alone and against two rivals.

    python -m bench.step [--short] [--output FOLDER] [--rounds N] [--models NAME ...]

A step is forward, loss, backward and the step of the optimiser that the recipe ``paper`` has; the
network's weights are random, all its steps train the same ones, and each sample has a human map.
The steps differ in their loss:

- CE: pooling, classifier, cross-entropy. Its ratio to itself (A/A) says what the method cannot tell
  apart, and what a bar of nearly 1 is widened by.
- ours: the loss ``blend`` of ``Detector``. The head alone is timed beside it.
- eager: the same loss as one writes it, a differentiable CAM of the whole batch, by autograd.
- predecessor: see :mod:`bench.predecessor`; of a DenseNet also without the second forward.

Loss and all gradients are first checked in float64 against the reference, on small images. The
method is that of :mod:`bench.timing`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter, functional
from tqdm.auto import tqdm

from bench.entry import end_in_a_line
from bench.predecessor import predecessor
from bench.timing import (
    MET,
    Step,
    at_least,
    begin,
    judge,
    parser_of,
    ratio,
    rounds_of,
    time_rounds,
    write,
)
from focus.config.losses import LOSSES
from focus.config.train import TrainConfig, resolve
from focus.data.dataset import Batch
from focus.kernels import use_backend
from focus.model.detector import Detector
from focus.training.optimizer import make_optimizer

MODELS = ("densenet121", "resnet50")
BATCHES = (8, 20)
ROUNDS, SHORT_ROUNDS = 7, 3
RECIPE = "paper"
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


@dataclass
class Row:
    """A ratio of two steps in one case; seconds of CPU time are those of the step named first."""

    model: str
    batch: int
    ratio: str
    median: float
    low: float
    high: float
    bar: str
    met: bool | None
    seconds: float


def make_detector(model: str, image_size: int) -> Detector:
    """An untrained detector with the loss ``blend``, in training mode."""
    torch.manual_seed(0)
    return Detector(model, image_size=image_size, loss=BLEND).train()


def make_batch(detector: Detector, images: int) -> Batch:
    """Random images in the detector's type, half of them fakes; human maps of random numbers."""
    draw = torch.Generator().manual_seed(0)
    size, dtype = detector.image_size, detector.head.fc.weight.dtype
    number = torch.arange(images)
    return Batch(
        images=torch.randn(images, 3, size, size, generator=draw).to(dtype),
        target=number % 2,
        saliency=torch.rand(images, *detector.grid, generator=draw).to(dtype),
        saliency_mask=torch.ones(images, dtype=torch.bool),
        index=number,
    )


def cross_entropy(detector: Detector, batch: Batch) -> Tensor:
    """The network as timm has it: pooling, classifier; and cross-entropy."""
    pooled = functional.adaptive_avg_pool2d(detector.features(batch.images), 1).flatten(1)
    return functional.cross_entropy(detector.head.fc(pooled), batch.target)


def ours(detector: Detector, batch: Batch) -> Tensor:
    """The detector's own loss, as the trainer calls it."""
    loss = detector(batch.images, batch.target, batch.saliency, batch.saliency_mask).loss
    assert isinstance(loss, Tensor)
    return loss


def eager(detector: Detector, batch: Batch) -> Tensor:
    """The loss ``blend`` as one writes it: one forward, branches of the whole batch, autograd."""
    features, fc = detector.features(batch.images), detector.head.fc
    logits = fc(functional.adaptive_avg_pool2d(features, 1).flatten(1))
    cam = torch.einsum("bc,bchw->bhw", fc.weight[batch.target], features).flatten(1)
    log_p = cam.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1) / math.log(cam.shape[1])
    low, high = cam.amin(1, keepdim=True), cam.amax(1, keepdim=True)
    saliency = ((cam - low) / (high - low) - batch.saliency.flatten(1)).square().mean(1)
    focused = BLEND.focus_weight * entropy + BLEND.saliency_weight * saliency
    return functional.cross_entropy(logits, batch.target) + focused.mean()


def losses_of(model: str) -> dict[str, Loss]:
    """The losses by the name of their step; ``CE again`` is the A/A comparison."""
    twice = model.startswith("densenet")
    losses: dict[str, Loss] = {
        "CE": cross_entropy,
        "CE again": partial(cross_entropy),
        "ours": ours,
        "eager": eager,
        "predecessor": partial(predecessor, second_forward=twice),
    }
    if twice:
        losses[ONE_FORWARD] = partial(predecessor, second_forward=False)
    return losses


def check(model: str, losses: dict[str, Loss]) -> None:
    """Each loss and its gradients of all parameters, in float64, against the reference.

    The predecessor's are those of the loss ``cyborg``. Raises SystemExit where one is off.
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
            exact = _with_gradients(ours(detector, batch), parameters)
        detector.head.loss = BLEND
        found = _with_gradients(loss_of(detector, batch), parameters)
        errors = [(f - e).abs().max() / e.abs().max() for f, e in zip(found, exact, strict=True)]
        error = float(torch.stack(errors).max())
        if not error <= 1e-10:  # nor if it is not a number
            raise SystemExit(f"{name} is wrong: relative error {error:.1e}")


def _with_gradients(loss: Tensor, parameters: list[Parameter]) -> tuple[Tensor, ...]:
    return (loss.detach(), *torch.autograd.grad(loss, parameters))


def train(
    detector: Detector, optimizer: torch.optim.Optimizer, batch: Batch, loss_of: Loss
) -> tuple[Tensor, ...]:
    """One step; its loss.

    Raises SystemExit if that is not finite: what follows would be no training.
    """
    loss = loss_of(detector, batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss = loss.detach()
    if not loss.isfinite():
        model = detector.config.model
        raise SystemExit(f"{model} was trained to the loss {float(loss)}: give fewer --rounds")
    return (loss,)


def head_alone(detector: Detector, features: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    """Forward and backward from a leaf: gradients of features ``[B,C,H,W]``, weight and bias."""
    loss = detector.head(features, batch.target, batch.saliency, batch.saliency_mask).loss
    return torch.autograd.grad(loss, (features, *detector.head.fc.parameters()))


def steps_of(detector: Detector, images: int, losses: dict[str, Loss]) -> dict[str, Step]:
    """What is timed: a step of each loss, all on one network and one optimiser, and the head."""
    config = resolve(TrainConfig(recipe=RECIPE))
    optimizer = make_optimizer(config, detector)
    batch = make_batch(detector, images)
    steps: dict[str, Step] = {
        name: partial(train, detector, optimizer, batch, loss_of)
        for name, loss_of in losses.items()
    }
    features = detector.features(batch.images).detach().requires_grad_()
    return steps | {"head": partial(head_alone, detector, features, batch)}


def bar(name: str, model: str, spread: float) -> tuple[str, float] | None:
    """What a ratio should be at most or at least; None where nothing is asked of it.

    spread: how far from 1 the interval of the A/A ratio reaches.
    """
    if name == "ours / CE":
        return "<=", 1.02 + spread
    if name == "predecessor / ours":
        return ">=", 1.95 if model == "densenet121" else 1 - spread
    return None


def rows_of(model: str, batch: int, seconds: dict[str, np.ndarray]) -> list[Row]:
    """The ratios of CPU seconds ``[rounds]`` by step, each with its bar."""
    _, low, high = ratio(*(seconds[name] for name in RATIOS["A/A"]))
    spread = max(1 - low, high - 1)
    rows = []
    for name, (first, second) in RATIOS.items():
        if first not in seconds:
            continue
        median, low, high = ratio(seconds[first], seconds[second])
        asked = bar(name, model, spread)
        rows.append(
            Row(
                model=model,
                batch=batch,
                ratio=name,
                median=round(median, 4),
                low=round(low, 4),
                high=round(high, 4),
                bar="" if asked is None else f"{asked[0]} {asked[1]:.4f}",
                met=judge(asked, low, high),
                seconds=round(float(np.median(seconds[first])), 4),
            )
        )
    return rows


def line_of(row: Row) -> str:
    """Of the table that is printed."""
    word = f"bar {row.bar} {MET[row.met]}" if row.bar else ""
    return (
        f"{row.model:<12} {row.batch:>3}  {row.ratio:<32} {row.median:7.4f} "
        f"[{row.low:.4f}, {row.high:.4f}] {row.seconds:8.4f} s  {word}"
    ).rstrip()


def measure(
    models: Sequence[str], batches: Sequence[int], image_size: int, rounds: int
) -> Iterator[list[Row]]:
    """Check every model, then time one case after the other, the small batches first."""
    for model in models:
        check(model, losses_of(model))
    cases = [(model, images) for images in sorted(batches) for model in models]
    passes = rounds + 2  # time_rounds warms up twice
    total = sum(passes * images * len(losses_of(model)) for model, images in cases)
    with tqdm(total=total, desc="step", unit="image") as progress:
        for model, images in cases:
            steps = steps_of(make_detector(model, image_size), images, losses_of(model))
            shown = {name: partial(_shown, step, progress, images) for name, step in steps.items()}
            seconds = time_rounds(shown | {"head": steps["head"]}, rounds)
            yield rows_of(model, images, seconds)


def _shown(step: Step, progress: tqdm, images: int) -> tuple[Tensor, ...]:
    out = step()
    progress.update(images)  # microseconds of a step's seconds
    return out


def main() -> None:
    """Check, measure, print a table, and write it with ``--output``, anew after each case."""
    files, fewer = "step.csv and step.json", "the small batch, fewer rounds"
    parser = parser_of(__doc__, files, fewer, ROUNDS, SHORT_ROUNDS)
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="of timm")
    parser.add_argument("--batches", type=at_least(1), nargs="+", metavar="N")
    parser.add_argument("--image-size", type=at_least(1), default=224, help="pixels a side")
    given = parser.parse_args()
    batches = given.batches or (BATCHES[:1] if given.short else BATCHES)
    more = {"image_size": given.image_size, "recipe": RECIPE}
    measured_with = begin("bench.step", given, **more)
    rows: list[Row] = []
    for found in measure(given.models, batches, given.image_size, rounds_of(given)):
        tqdm.write("\n".join(map(line_of, found)))
        rows += found
        if given.output:
            write(given.output, "step", [asdict(row) for row in rows], measured_with)


if __name__ == "__main__":
    end_in_a_line(main)
