"""What the operations cost on the CPU, in time and in memory.

    python -m bench.head [--output FOLDER] [--rounds N] [--shapes BxCxHW ...]

The whole head is compared with plain pooling + classifier + cross-entropy, with the usual autograd
branches and with a loop over samples; ``cam_entropy`` with a copy of the features. Each step does
forward and the gradients of features, weight and bias, and is first checked against the float64
reference of what it computes.

The method is that of :mod:`bench.timing`; the ratio of the plain head to itself (A/A) says what it
cannot tell apart. Memory: the most bytes that a step holds at once, its results among them, over
those of the features.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from bench.timing import Step, judge, keep_memory, peak_bytes, ratio, settings, time_rounds, write
from focus.kernels import cam_entropy, focus_head, use_backend

SHAPES = ((20, 1024, 49), (20, 2048, 49), (128, 2048, 49), (128, 2048, 100))
LAYOUTS = ("nchw", "channels_last")
CLASSES = 2
FOCUS_WEIGHT, SALIENCY_WEIGHT = 0.1, 5.0

RATIOS = {
    "A/A": ("plain again", "plain"),
    "ours / plain": ("ours", "plain"),
    "branches / ours": ("branches", "ours"),
    "per sample / ours": ("per sample", "ours"),
    "cam_entropy / copy": ("cam_entropy", "copy"),
}
COPY_BARS = dict(zip(SHAPES, (2.9, 2.3, 1.75), strict=False))
MEMORY_BAR = 1.06

Shape = tuple[int, int, int]


@dataclass
class Inputs:
    """One training step's tensors: features [B,C,H,W], weight [K,C], bias [K], target [B]."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    target: Tensor
    saliency: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """What gradients are taken of."""
        return self.features, self.weight, self.bias


@dataclass
class Row:
    """A ratio of two steps in one case; memory is that of the step named first."""

    shape: str
    layout: str
    ratio: str
    median: float
    low: float
    high: float
    bar: str
    met: bool | None
    memory: float
    memory_met: bool | None


def make_inputs(shape: Shape, layout: str) -> Inputs:
    """Random float32 tensors of (B, C, HW); the features non-negative, as after a ReLU."""
    batch, channels, cells = shape
    side = math.isqrt(cells)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, side, side, generator=draw).relu()
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CLASSES, channels, generator=draw) / channels**0.5
    return Inputs(
        features.requires_grad_(),
        weight.requires_grad_(),
        torch.zeros(CLASSES, requires_grad=True),
        torch.randint(CLASSES, (batch,), generator=draw),
        torch.rand(batch, side, side, generator=draw),
    )


def plain(inputs: Inputs, pool: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """Pooling, classifier, cross-entropy."""
    logits = functional.linear(pool(inputs.features), inputs.weight, inputs.bias)
    loss = functional.cross_entropy(logits, inputs.target)
    return torch.autograd.grad(loss, inputs.leaves)


def pool_by_mean(features: Tensor) -> Tensor:
    """Global average pooling, one spelling."""
    return features.mean((2, 3))


def pool_adaptive(features: Tensor) -> Tensor:
    """Global average pooling, the other spelling."""
    return functional.adaptive_avg_pool2d(features, 1).flatten(1)


def ours(inputs: Inputs) -> tuple[Tensor, ...]:
    """The whole head in one operation."""
    loss = focus_head(
        *inputs.leaves,
        inputs.target,
        saliency=inputs.saliency,
        focus_weight=FOCUS_WEIGHT,
        saliency_weight=SALIENCY_WEIGHT,
    ).loss
    return torch.autograd.grad(loss, inputs.leaves)


def branches(inputs: Inputs) -> tuple[Tensor, ...]:
    """The head as one writes it: a differentiable CAM beside the classifier, by autograd."""
    features, weight, bias = inputs.leaves
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    loss = functional.cross_entropy(logits, inputs.target)
    cam = torch.einsum("bc,bchw->bhw", weight[inputs.target], features).flatten(1)
    loss = loss + _cam_terms(cam, inputs.saliency.flatten(1)).mean()
    return torch.autograd.grad(loss, inputs.leaves)


def per_sample(inputs: Inputs) -> tuple[Tensor, ...]:
    """The algorithm of the predecessor's training step: one CAM after the other, in Python."""
    features, weight, bias = inputs.leaves
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    loss = functional.cross_entropy(logits, inputs.target)
    terms = []
    for sample, target, human in zip(features, inputs.target, inputs.saliency, strict=True):
        cam = (weight[target] @ sample.flatten(1))[None]
        terms.append(_cam_terms(cam, human.flatten()[None]))
    loss = loss + torch.cat(terms).mean()
    return torch.autograd.grad(loss, inputs.leaves)


def _cam_terms(cam: Tensor, human: Tensor) -> Tensor:
    log_p = cam.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1) / math.log(cam.shape[1])
    low, high = cam.amin(1, keepdim=True), cam.amax(1, keepdim=True)
    error = (cam - low) / (high - low) - human
    return FOCUS_WEIGHT * entropy + SALIENCY_WEIGHT * error.square().mean(1)


def cam_and_entropy(inputs: Inputs) -> tuple[Tensor, ...]:
    """The CAM and its entropy; the map stands for an upstream gradient of the CAM."""
    leaves = inputs.features, inputs.weight
    cam, entropy = cam_entropy(*leaves, inputs.target)
    upstream = inputs.saliency.to(cam.dtype), torch.ones_like(entropy)
    return torch.autograd.grad((cam, entropy), leaves, upstream)


def copy(inputs: Inputs) -> tuple[Tensor, ...]:
    """The features read once and as much written: what no gradient of them can be faster than."""
    return (inputs.features.detach().clone(),)


def steps_of(inputs: Inputs) -> dict[str, Step]:
    """What is timed; ``plain again`` is the A/A comparison."""
    pool = _faster_pool(inputs)
    return {
        "plain": partial(plain, inputs, pool),
        "plain again": partial(plain, inputs, pool),
        "ours": partial(ours, inputs),
        "branches": partial(branches, inputs),
        "per sample": partial(per_sample, inputs),
        "cam_entropy": partial(cam_and_entropy, inputs),
        "copy": partial(copy, inputs),
    }


def _faster_pool(inputs: Inputs) -> Callable[[Tensor], Tensor]:
    """The spelling of the plain head that is faster in this layout and at this size."""
    spellings = (pool_by_mean, pool_adaptive)
    seconds = time_rounds({p.__name__: partial(plain, inputs, p) for p in spellings}, rounds=9)
    medians = [float(np.median(seconds[p.__name__])) for p in spellings]
    return spellings[int(np.argmin(medians))]


def check(inputs: Inputs, steps: dict[str, Step]) -> None:
    """Each step's gradients against the float64 reference; raises where one is off."""
    features, weight, bias = (t.detach().double().requires_grad_() for t in inputs.leaves)
    wide = Inputs(features, weight, bias, inputs.target, inputs.saliency.double())
    with use_backend("reference"):
        focused, of_cam = ours(wide), cam_and_entropy(wide)
    pooled = plain(wide, pool_by_mean)
    expected = {"plain": pooled, "plain again": pooled, "cam_entropy": of_cam}
    expected["copy"] = (features.detach(),)
    for name, step in steps.items():
        for got, exact in zip(step(), expected.get(name, focused), strict=True):
            error = (got.double() - exact).abs().max() / exact.abs().max()
            if error > 5e-6:
                raise SystemExit(f"{name} is wrong: relative error {float(error):.1e}")


def bar(name: str, shape: Shape, layout: str) -> tuple[str, float] | None:
    """What a ratio should be at most or at least, None where nothing is asked of it."""
    if name == "ours / plain":
        return "<=", 1.10
    if name == "branches / ours":
        return ">=", 2.5
    if name == "per sample / ours":
        return ">=", 4.5 if shape[0] == 20 else 3.2
    if name == "cam_entropy / copy" and layout == "channels_last" and shape in COPY_BARS:
        return "<=", COPY_BARS[shape]
    return None


def measure(shape: Shape, layout: str, rounds: int) -> list[Row]:
    """Check, time and weigh the steps of one case."""
    inputs = make_inputs(shape, layout)
    steps = steps_of(inputs)
    check(inputs, steps)
    seconds = time_rounds(steps, rounds)
    rows = []
    for name, (first, second) in RATIOS.items():
        median, low, high = ratio(seconds[first], seconds[second])
        asked = bar(name, shape, layout)
        memory = peak_bytes(steps[first]) / inputs.features.nbytes
        rows.append(
            Row(
                shape="x".join(map(str, shape)),
                layout=layout,
                ratio=name,
                median=round(median, 3),
                low=round(low, 3),
                high=round(high, 3),
                bar="" if asked is None else f"{asked[0]} {asked[1]:.2f}",
                met=judge(asked, low, high),
                memory=round(memory, 3),
                memory_met=memory <= MEMORY_BAR if name == "ours / plain" else None,
            )
        )
    return rows


def verdict(rows: list[Row]) -> list[str]:
    """A line per bar: in how many cases it is met, and the nearer end of the interval elsewhere."""
    found: dict[str, list[tuple[bool, str]]] = {}
    for row in rows:
        where = f"{row.shape} {row.layout}"
        if row.met is not None:
            end = row.high if row.bar.startswith("<=") else row.low
            found.setdefault(row.ratio, []).append((row.met, f"{where} {end:.2f} not {row.bar}"))
        if row.memory_met is not None:
            text = f"{where} {row.memory:.3f} not <= {MEMORY_BAR}"
            found.setdefault("peak memory / F", []).append((row.memory_met, text))
    lines = []
    for name, cases in found.items():
        missed = [text for met, text in cases if not met]
        line = f"{name}: bar met in {len(cases) - len(missed)} of {len(cases)} cases"
        lines.append("; ".join([line, *missed]))
    return lines


def print_table(rows: list[Row]) -> None:
    """A line per ratio: median, interval, bar, and the peak memory of the step named first."""
    word = {True: "met", False: "not met", None: ""}
    print(
        f"{'B x C x HW':>12} {'layout':>13}  {'CPU time':<18} {'median':>6} {'95 %':<14} "
        f"{'bar':<8} {'':<7} peak memory / F"
    )
    for r in rows:
        interval = f"[{r.low:.2f}, {r.high:.2f}]"
        print(
            f"{r.shape:>12} {r.layout:>13}  {r.ratio:<18} {r.median:6.2f} {interval:<14} "
            f"{r.bar:<8} {word[r.met]:<7} {r.memory:.3f} {word[r.memory_met]}".rstrip()
        )


def _shape(text: str) -> Shape:
    batch, channels, cells = map(int, text.split("x"))
    if math.isqrt(cells) ** 2 != cells:
        raise ValueError(f"{cells} cells are no square grid")
    return batch, channels, cells


def main() -> None:
    """Check, measure, print a table, and write it with ``--output``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="folder for head.csv and head.json")
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--shapes", type=_shape, nargs="+", default=SHAPES, metavar="BxCxHW")
    arguments = parser.parse_args()
    keep_memory("bench.head")
    torch.set_num_threads(1)
    measured_with = settings("python -m bench.head", arguments.rounds)
    print(", ".join(f"{name} {value}" for name, value in measured_with.items()))
    rows: list[Row] = []
    cases = [(shape, layout) for shape in arguments.shapes for layout in LAYOUTS]
    for shape, layout in tqdm(cases, "head", unit="case"):
        rows += measure(shape, layout, arguments.rounds)
    print_table(rows)
    print("\n".join(verdict(rows)))
    if arguments.output:
        write(arguments.output, "head", [asdict(row) for row in rows], measured_with)


if __name__ == "__main__":
    main()
