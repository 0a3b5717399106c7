"""What the operations cost on the CPU, in time and in memory.

    python -m bench.head [--short] [--output FOLDER] [--rounds N] [--shapes BxCxHW ...]
                         [--dtypes NAME ...] [--layouts NAME ...] [--classes K ...]

The whole head is compared with plain pooling + classifier + cross-entropy, with the usual autograd
branches, these under torch.compile, and a loop over samples; ``cam_entropy`` with a copy of the
features. Each step does forward and the gradients of features, weight and bias, and is first
checked against the float64 reference of what it computes. In bf16 the features are bfloat16, the
classifier is float32, and forward runs under autocast, as in training with mixed precision.

``plain`` is the faster of the two spellings in use, ``fastest plain`` may also pool by a matrix
product, which hardly anyone writes. ``K 1000 / K 2, ours / plain`` is by how much more classes slow
down ours, over the same of plain.

The method is that of :mod:`bench.timing`; the ratio of the plain head to itself (A/A) says what it
cannot tell apart. Memory: the most bytes that a step holds at once, its results among them, over
those of the features.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from bench.entry import end_in_a_line
from bench.head_table import Case, Row, Shape, growth_of, make_row, shape_of, table, verdict
from bench.timing import (
    Step,
    at_least,
    begin,
    parser_of,
    peak_bytes,
    rounds_of,
    time_rounds,
    write,
)
from focus.kernels import cam_entropy, focus_head, use_backend

SHAPES: tuple[Shape, ...] = (
    (20, 1024, 49),
    (20, 2048, 49),
    (128, 2048, 49),
    (128, 2048, 100),
    (256, 2048, 64),
)
SHORT_SHAPES = SHAPES[1:3]
LAYOUTS = ("nchw", "channels_last")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLASSES = 2
# Many classes only here: what they add is products of [B,C] and [K,C], whatever the features.
MANY_CLASSES, MANY_SHAPES = (16, 1000), SHAPES[1:3]
ROUNDS, SHORT_ROUNDS = 61, 21
FOCUS_WEIGHT, SALIENCY_WEIGHT = 0.1, 5.0

RATIOS = {
    "A/A": ("plain again", "plain"),
    "ours / plain": ("ours", "plain"),
    "ours / fastest plain": ("ours", "fastest plain"),
    "branches / ours": ("branches", "ours"),
    "compiled / ours": ("compiled", "ours"),
    "per sample / ours": ("per sample", "ours"),
    "cam_entropy / copy": ("cam_entropy", "copy"),
}

# Largest error of a gradient: the order of the norm, and the share of the exact gradient's. fp32:
# sums over thousands of channels, divided by a CAM's range. bf16: ours is rounded once, to half an
# ulp of dF; what plain computes under autocast is rounded at each step; the others' CAM is
# bfloat16, its cells tie at the extremes, and a tie divides a gradient among cells.
_ROUNDED_ONCE, _ROUNDED, _TIED = (math.inf, 2**-8 + 1e-5), (math.inf, 0.1), (2, 0.3)
FP32_LIMIT = math.inf, 2e-5
BF16_LIMITS = {
    "ours": _ROUNDED_ONCE,
    "cam_entropy": _ROUNDED_ONCE,
    "copy": _ROUNDED_ONCE,
    "plain": _ROUNDED,
    "plain again": _ROUNDED,
    "fastest plain": _ROUNDED,
    "branches": _TIED,
    "compiled": _TIED,
    "per sample": _TIED,
}

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Pool = Callable[[Tensor], Tensor]


class Inputs(NamedTuple):
    """One training step's tensors: features [B,C,H,W], weight [K,C], bias [K], target [B],
    saliency [B,H,W]."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    target: Tensor
    saliency: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """What gradients are taken of."""
        return self.features, self.weight, self.bias


def make_inputs(
    shape: Shape, layout: str, classes: int = CLASSES, dtype: torch.dtype = torch.float32
) -> Inputs:
    """Random tensors of (B, C, HW); the features of a type and non-negative, as after a ReLU."""
    batch, channels, cells = shape
    side = math.isqrt(cells)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, side, side, generator=draw).relu().to(dtype)
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(classes, channels, generator=draw) / channels**0.5
    return Inputs(
        features.requires_grad_(),
        weight.requires_grad_(),
        torch.zeros(classes, requires_grad=True),
        torch.randint(classes, (batch,), generator=draw),
        torch.rand(batch, side, side, generator=draw),
    )


def gradients(inputs: Inputs, loss: Loss) -> tuple[Tensor, ...]:
    """Of the leaves; forward under autocast where the features are bfloat16."""
    if inputs.features.dtype == torch.bfloat16:
        # Without its cache, which must not reach from outside into a CUDA graph.
        with torch.autocast(inputs.features.device.type, torch.bfloat16, cache_enabled=False):
            value = loss(*inputs)
    else:
        value = loss(*inputs)
    return torch.autograd.grad(value, inputs.leaves)


def plain(inputs: Inputs, pool: Pool) -> tuple[Tensor, ...]:
    """Pooling, classifier, cross-entropy."""

    def loss(
        features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, saliency: Tensor
    ) -> Tensor:
        return functional.cross_entropy(functional.linear(pool(features), weight, bias), target)

    return gradients(inputs, loss)


def pool_by_mean(features: Tensor) -> Tensor:
    """Global average pooling, one spelling."""
    return features.mean((2, 3))


def pool_adaptive(features: Tensor) -> Tensor:
    """Global average pooling, the other spelling."""
    return functional.adaptive_avg_pool2d(features, 1).flatten(1)


def pool_by_product(features: Tensor) -> Tensor:
    """Global average pooling as a product with 1/HW, whose gradient lies as the features do.

    (A sum that is divided afterwards would be quicker, as its gradient is a view of ``[B,C]``: the
    next layer would have to spread it over the cells.)
    """
    batch, _, height, width = features.shape
    cells = height * width
    share = features.new_full((), 1 / cells)
    if features.stride(1) == 1:
        matrix = features.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.bmm(share.expand(batch, 1, cells), matrix).squeeze(1)
    return functional.linear(features.flatten(2), share.expand(1, cells)).squeeze(2)


def ours_loss(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, saliency: Tensor
) -> Tensor:
    """The loss of the whole head in one operation."""
    return focus_head(
        features,
        weight,
        bias,
        target,
        saliency=saliency,
        focus_weight=FOCUS_WEIGHT,
        saliency_weight=SALIENCY_WEIGHT,
    ).loss


def ours(inputs: Inputs) -> tuple[Tensor, ...]:
    """The whole head in one operation."""
    return gradients(inputs, ours_loss)


def branches_loss(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, saliency: Tensor
) -> Tensor:
    """The loss of the head as one writes it: a differentiable CAM beside the classifier."""
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    cam = torch.einsum("bc,bchw->bhw", weight[target], features).flatten(1)
    return functional.cross_entropy(logits, target) + _cam_terms(cam, saliency.flatten(1)).mean()


def branches(inputs: Inputs) -> tuple[Tensor, ...]:
    """The head as one writes it, by autograd."""
    return gradients(inputs, branches_loss)


def compiled(inputs: Inputs) -> Step:
    """The same under torch.compile, for these shapes; the first call compiles."""
    loss = torch.compile(branches_loss, dynamic=False, fullgraph=True)
    return partial(gradients, inputs, loss)


def per_sample_loss(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, saliency: Tensor
) -> Tensor:
    """The loss by the predecessor's algorithm: one CAM after the other, in Python."""
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    terms = []
    for sample, label, human in zip(features, target, saliency, strict=True):
        cam = (weight[label] @ sample.flatten(1))[None]
        terms.append(_cam_terms(cam, human.flatten()[None]))
    return functional.cross_entropy(logits, target) + torch.cat(terms).mean()


def per_sample(inputs: Inputs) -> tuple[Tensor, ...]:
    """The algorithm of the predecessor's training step."""
    return gradients(inputs, per_sample_loss)


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


class Pools(NamedTuple):
    """The faster of the usual spellings, and the fastest that there is."""

    usual: Pool
    fastest: Pool


def pools_for(inputs: Inputs) -> Pools:
    """By the time that the plain head takes in this layout and at this size."""

    def faster(*spellings: Pool) -> Pool:
        seconds = time_rounds({p.__name__: partial(plain, inputs, p) for p in spellings}, rounds=9)
        return min(spellings, key=lambda p: float(np.median(seconds[p.__name__])))

    usual = faster(pool_by_mean, pool_adaptive)
    return Pools(usual, faster(usual, pool_by_product))


def steps_of(inputs: Inputs, pools: Pools | None = None) -> dict[str, Step]:
    """What is timed; ``plain again`` is the A/A comparison."""
    usual, fastest = pools or pools_for(inputs)
    return {
        "plain": partial(plain, inputs, usual),
        "plain again": partial(plain, inputs, usual),
        "fastest plain": partial(plain, inputs, fastest),
        "ours": partial(ours, inputs),
        "branches": partial(branches, inputs),
        "compiled": compiled(inputs),
        "per sample": partial(per_sample, inputs),
        "cam_entropy": partial(cam_and_entropy, inputs),
        "copy": partial(copy, inputs),
    }


def check(inputs: Inputs, steps: Mapping[str, Step]) -> None:
    """Each step's gradients against the float64 reference; raises where one is off."""
    features, weight, bias = (t.detach().double().requires_grad_() for t in inputs.leaves)
    wide = Inputs(features, weight, bias, inputs.target, inputs.saliency.double())
    with use_backend("reference"):
        focused, of_cam = ours(wide), cam_and_entropy(wide)
    pooled = plain(wide, pool_by_mean)
    expected = dict.fromkeys(("plain", "plain again", "fastest plain"), pooled)
    expected |= {"cam_entropy": of_cam, "copy": (features.detach(),)}
    in_bf16 = inputs.features.dtype == torch.bfloat16
    for name, step in steps.items():
        order, limit = BF16_LIMITS[name] if in_bf16 else FP32_LIMIT
        for got, exact in zip(step(), expected.get(name, focused), strict=True):
            norm = partial(torch.linalg.vector_norm, ord=order)
            error = float(norm(got.double() - exact) / norm(exact))
            if not error <= limit:
                raise SystemExit(f"{name} is wrong: relative error {error:.1e}")


def prepare(inputs: Inputs, pools: Pools) -> tuple[dict[str, Step], dict[str, str]]:
    """The steps that can run, checked, and a note on some of the ratios."""
    steps = steps_of(inputs, pools)
    notes = {"A/A": pools.usual.__name__, "ours / fastest plain": pools.fastest.__name__}
    try:
        steps["compiled"]()
    except RuntimeError as error:  # most often, there is no C++ compiler
        notes["compiled / ours"] = str(error).partition("\n")[0]
        del steps["compiled"]
    check(inputs, steps)
    return steps, notes


def measure(case: Case, rounds: int) -> list[Row]:
    """Check, time and weigh the steps of a case, those of all its numbers of classes in turn."""
    torch.compiler.reset()  # it compiles a function for a few cases, and then no more
    inputs = {k: make_inputs(case.shape, case.layout, k, DTYPES[case.dtype]) for k in case.classes}
    pools = pools_for(inputs[case.classes[0]])
    prepared = {k: prepare(inputs[k], pools) for k in case.classes}
    by_name = {f"{n} K {k}": step for k in prepared for n, step in prepared[k][0].items()}
    seconds = time_rounds(by_name, rounds)
    rows = []
    for k, (steps, notes) in prepared.items():
        for name, (first, second) in RATIOS.items():
            timed = memory = None
            if first in steps:
                timed = seconds[f"{first} K {k}"], seconds[f"{second} K {k}"]
            if first in steps and first != "per sample":  # a record of it takes seconds
                memory = peak_bytes(steps[first]) / inputs[k].features.nbytes
            rows.append(make_row(case, k, name, timed, memory, notes.get(name, "")))
        if k > CLASSES and CLASSES in prepared:
            rows.append(make_row(case, k, growth_of(k), slowed(seconds, k)))
    return rows


def slowed(seconds: Mapping[str, np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """By how much more classes slow down ours, and plain, in each round."""
    ours, plain = (seconds[f"{n} K {k}"] / seconds[f"{n} K {CLASSES}"] for n in ("ours", "plain"))
    return ours, plain


def cases_of(given: argparse.Namespace) -> list[Case]:
    """The shapes vary fastest, so that the progress bar's estimate is right early."""
    many: dict[Shape, tuple[int, ...]]
    many = dict.fromkeys(MANY_SHAPES, (CLASSES, *MANY_CLASSES))
    if given.short:
        many = {MANY_SHAPES[0]: (CLASSES, MANY_CLASSES[-1])}
    return [
        Case(shape, layout, dtype, tuple(given.classes or many.get(shape, (CLASSES,))))
        for dtype, layout in product(given.dtypes, given.layouts)
        for shape in given.shapes or (SHORT_SHAPES if given.short else SHAPES)
    ]


def main() -> None:
    """Check, measure, print a table, and write it with ``--output``."""
    files, fewer = "head.csv and head.json", "fewer shapes, classes and rounds"
    parser = parser_of(__doc__, files, fewer, ROUNDS, SHORT_ROUNDS)
    parser.add_argument("--shapes", type=shape_of, nargs="+", metavar="BxCxHW")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=LAYOUTS)
    many = ", ".join(map(str, MANY_CLASSES))
    where = " and ".join("x".join(map(str, shape)) for shape in MANY_SHAPES)
    classes_help = f"default: {CLASSES}; at {where} also {many}"
    parser.add_argument("--classes", type=at_least(2), nargs="+", metavar="K", help=classes_help)
    given = parser.parse_args()
    measured_with = begin("bench.head", given)
    rows: list[Row] = []
    for case in tqdm(cases_of(given), "head", unit="case"):
        rows += measure(case, rounds_of(given))
    print("\n".join([*table(rows), *verdict(rows)]))
    if given.output:
        write(given.output, "head", [asdict(row) for row in rows], measured_with)


if __name__ == "__main__":
    end_in_a_line(main)
