"""Measure the head on the CPU, in time and in memory.

    python -m bench.head [--short] [--output FOLDER] [--rounds N] [--shapes BxCxHW ...]
                         [--dtypes NAME ...] [--layouts NAME ...] [--classes K ...]

The whole head (``ours``) is compared with plain pooling + classifier + cross-entropy, with the
usual autograd branches, and with these under torch.compile. Each step does forward and the
gradients of features, weight and bias, and is first checked against the float64 reference of what
it computes. In bf16 the features are bfloat16, the classifier is float32, and forward runs under
autocast, as in training with mixed precision.

``plain`` is the faster of the two spellings of pooling in use; ``fastest plain`` may also pool by a
matrix product, which hardly anyone writes. Memory is the most bytes that a step holds at once, its
results among them, over those of the features. The method is that of :mod:`bench.harness`; the
ratio of the plain head to itself (A/A) says what it cannot tell apart.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.harness import (
    Step,
    begin,
    make_parser,
    peak_bytes,
    ratio,
    run_program,
    shown,
    time_rounds,
    write,
)
from focus.kernels import focus_head, use_backend
from focus.kernels.terms import Entropy

Shape = tuple[int, int, int]
"""Batch, channels, cells."""

SHAPES: tuple[Shape, ...] = (
    (20, 1024, 49),
    (20, 2048, 49),
    (128, 2048, 49),
    (128, 2048, 100),
    (256, 2048, 64),
)
SHORT_SHAPES = SHAPES[1:3]
LAYOUTS = ("nchw", "channels_last")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ON_CPUS = ("fp32", "bf16")
"""The types that are timed unless others are asked for: fp16 is a GPU's."""
FP16_SCALE = 2.0**12
"""What a loss is multiplied by, so that fp16 holds the gradient of F with all of its bits."""
CLASSES = 2
ROUNDS, SHORT_ROUNDS = 61, 21
FOCUS_WEIGHT, SALIENCY_WEIGHT = 0.1, 5.0  # as the loss `blend`

RATIOS = {
    "A/A": ("plain again", "plain"),
    "ours / plain": ("ours", "plain"),
    "ours / fastest plain": ("ours", "fastest plain"),
    "branches / ours": ("branches", "ours"),
    "compiled / ours": ("compiled", "ours"),
}

# Largest error of a gradient: the order of the norm, and the share of the exact gradient's. fp32:
# sums over thousands of channels, divided by a CAM's range. bf16: ours is rounded once, to half an
# ulp of dF; what plain computes under autocast is rounded at each step; the branches' CAM is
# bfloat16, its cells tie at the extremes, and a tie divides a gradient among cells. fp16: the
# same with three bits more, where ties are fewer.
LIMITS: dict[tuple[str, str], tuple[float, float]] = {
    ("fp32", "ours"): (math.inf, 2e-5),
    ("fp32", "plain"): (math.inf, 2e-5),
    ("fp32", "branches"): (math.inf, 2e-5),
    ("bf16", "ours"): (math.inf, 2**-8 + 1e-5),
    ("bf16", "plain"): (math.inf, 0.1),
    ("bf16", "branches"): (2, 0.3),
    ("fp16", "ours"): (math.inf, 2**-11 + 1e-5),
    ("fp16", "plain"): (math.inf, 0.02),
    ("fp16", "branches"): (2, 0.3),
}

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Pool = Callable[[Tensor], Tensor]


class Inputs(NamedTuple):
    """One step's tensors: features [B,C,H,W], weight [K,C], bias [K], target [B],
    saliency [B,H,W]."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    target: Tensor
    saliency: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors that gradients are taken of."""
        return self.features, self.weight, self.bias

    def double(self) -> "Inputs":
        """Return the same numbers in float64, as leaves of their own."""
        features, weight, bias = (t.detach().double().requires_grad_() for t in self.leaves)
        return Inputs(features, weight, bias, self.target, self.saliency.double())


def make_inputs(
    shape: Shape,
    layout: str,
    classes: int = CLASSES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Inputs:
    """Return random tensors of (B, C, HW); the features are non-negative, as after a ReLU."""
    batch, channels, cells = shape
    side = math.isqrt(cells)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, side, side, generator=draw).relu().to(device, dtype)
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(classes, channels, generator=draw) / channels**0.5
    return Inputs(
        features.requires_grad_(),
        weight.to(device).requires_grad_(),
        torch.zeros(classes, device=device, requires_grad=True),
        torch.randint(classes, (batch,), generator=draw).to(device),
        torch.rand(batch, side, side, generator=draw).to(device),
    )


def gradients(inputs: Inputs, loss: Loss) -> tuple[Tensor, ...]:
    """Return the gradients of the leaves.

    Features of bf16 and fp16 run under autocast in their type. The loss of fp16 is multiplied by
    ``FP16_SCALE``, as training in fp16 scales its own.
    """
    # Without autocast's cache, which must not reach from outside into a CUDA graph.
    dtype = inputs.features.dtype
    mixed = dtype in (torch.bfloat16, torch.float16)
    device = inputs.features.device.type
    with torch.autocast(device, dtype if mixed else None, enabled=mixed, cache_enabled=False):
        value = loss(*inputs)
    if dtype == torch.float16:
        value = value * FP16_SCALE
    return torch.autograd.grad(value, inputs.leaves)


def plain_loss(
    pool: Pool, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, saliency: Tensor
) -> Tensor:
    """Return the loss of pooling, classifier and cross-entropy."""
    return functional.cross_entropy(functional.linear(pool(features), weight, bias), target)


def pool_by_mean(features: Tensor) -> Tensor:
    """Return the mean over the cells, one spelling."""
    return features.mean((2, 3))


def pool_adaptive(features: Tensor) -> Tensor:
    """Return the mean over the cells, the other spelling."""
    return functional.adaptive_avg_pool2d(features, 1).flatten(1)


def pool_by_product(features: Tensor) -> Tensor:
    """Return the mean over the cells as a product with 1/HW.

    Its gradient lies as the features do. (That of a sum that is divided afterwards would be a view
    of ``[B,C]``, which the next layer would have to spread over the cells.)
    """
    batch, _, height, width = features.shape
    cells = height * width
    share = features.new_full((), 1 / cells)
    if features.stride(1) == 1:
        matrix = features.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.bmm(share.expand(batch, 1, cells), matrix).squeeze(1)
    return functional.linear(features.flatten(2), share.expand(1, cells)).squeeze(2)


def ours_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    saliency: Tensor,
    entropy: Entropy = "softmax",
) -> Tensor:
    """Return the loss of the whole head by one operation."""
    return focus_head(
        features,
        weight,
        bias,
        target,
        saliency=saliency,
        focus_weight=FOCUS_WEIGHT,
        saliency_weight=SALIENCY_WEIGHT,
        entropy=entropy,
    ).loss


def branches_loss(
    features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, saliency: Tensor
) -> Tensor:
    """Return the loss of the head as one writes it: a differentiable CAM beside the classifier."""
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    cam = torch.einsum("bc,bchw->bhw", weight[target], features).flatten(1)
    log_p = cam.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1) / math.log(cam.shape[1])
    low, high = cam.amin(1, keepdim=True), cam.amax(1, keepdim=True)
    error = (cam - low) / (high - low) - saliency.flatten(1)
    terms = FOCUS_WEIGHT * entropy + SALIENCY_WEIGHT * error.square().mean(1)
    return functional.cross_entropy(logits, target) + terms.mean()


def steps_of(inputs: Inputs) -> dict[str, Step]:
    """Return what is timed, by name."""
    compiled = torch.compile(branches_loss, dynamic=False, fullgraph=True)
    losses: dict[str, Loss] = {
        "plain mean": partial(plain_loss, pool_by_mean),
        "plain adaptive": partial(plain_loss, pool_adaptive),
        "plain product": partial(plain_loss, pool_by_product),
        "ours": ours_loss,
        "branches": branches_loss,
        "compiled": compiled,
    }
    return {name: partial(gradients, inputs, loss) for name, loss in losses.items()}


def relative_errors(
    inputs: Inputs, steps: Mapping[str, Step]
) -> Iterator[tuple[str, float, float]]:
    """Yield the name, the largest relative error and its limit for the gradients of each step."""
    wide = inputs.double()
    pooled = gradients(wide, partial(plain_loss, pool_by_mean))
    with use_backend("reference"):
        focused = gradients(wide, ours_loss)
    dtype = next(name for name, type_ in DTYPES.items() if type_ == inputs.features.dtype)
    scale = FP16_SCALE if dtype == "fp16" else 1.0
    for name, step in steps.items():
        kind = "branches" if name == "compiled" else name.split()[0]
        order, limit = LIMITS[dtype, kind]
        norm = partial(torch.linalg.vector_norm, ord=order)
        expected = pooled if kind == "plain" else focused
        errors = [
            norm(gradient.double() / scale - exact) / norm(exact)
            for gradient, exact in zip(step(), expected, strict=True)
        ]
        yield name, float(torch.stack(errors).max()), limit


def check(inputs: Inputs, steps: Mapping[str, Step]) -> None:
    """Compare each step's gradients with the float64 reference.

    Raises:
        SystemExit: one is off by more than rounding explains.
    """
    for name, error, limit in relative_errors(inputs, steps):
        if not error <= limit:  # nor where it is not a number
            raise SystemExit(f"{name} is wrong: relative error {error:.1e}")


def measure(
    shape: Shape, layout: str, dtype: str, classes: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Check, time and weigh the steps of a case; yield a row for each ratio of two steps.

    memory: That of the step named first, in times the features. A step that could not run has no
    figures, and a note that says why.
    """
    torch.compiler.reset()  # it compiles a function for a few cases, and then no more
    inputs = make_inputs(shape, layout, classes, DTYPES[dtype])
    steps, note = steps_of(inputs), ""
    try:
        steps["compiled"]()
    except RuntimeError as error:  # most often, there is no C++ compiler
        note = str(error).partition("\n")[0]
        del steps["compiled"]
    check(inputs, steps)
    again = {f"{name} again": steps[name] for name in ("plain mean", "plain adaptive")}
    seconds = time_rounds(steps | again, rounds)
    usual = _fastest(seconds, "plain mean", "plain adaptive")
    named = {
        "plain": usual,
        "plain again": f"{usual} again",
        "fastest plain": _fastest(seconds, usual, "plain product"),
    }
    case = {"shape": "x".join(map(str, shape)), "layout": layout, "dtype": dtype}
    for name, (first, second) in RATIOS.items():
        first, second = named.get(first, first), named.get(second, second)
        figures: list[float | None] = [None] * 4
        if first in seconds:
            peak = peak_bytes(steps[first.removesuffix(" again")]) / inputs.features.nbytes
            figures = [round(x, 3) for x in (*ratio(seconds[first], seconds[second]), peak)]
        row = case | {"classes": classes, "ratio": name}
        row |= dict(zip(("median", "low", "high", "memory"), figures, strict=True))
        yield row | {"note": "" if first in seconds else note}


def _fastest(seconds: Mapping[str, np.ndarray], *names: str) -> str:
    return min(names, key=lambda name: float(np.median(seconds[name])))


def shape_of(text: str) -> Shape:
    """Read ``20x2048x49`` for argparse: batch, channels, cells (a square number above 1)."""
    numbers = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x(?!1$)([1-9]\d*)", text)
    if numbers is None or math.isqrt(int(numbers[3])) ** 2 != int(numbers[3]):
        raise argparse.ArgumentTypeError(f"{text!r} is not BxCxHW with a square number HW above 1")
    return int(numbers[1]), int(numbers[2]), int(numbers[3])


def main() -> None:
    """Check, measure, print a line a ratio, and write the rows with ``--output``."""
    parser = make_parser(__doc__, ROUNDS, SHORT_ROUNDS)
    parser.add_argument("--shapes", type=shape_of, nargs="+", metavar="BxCxHW")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=ON_CPUS)
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=LAYOUTS)
    parser.add_argument("--classes", type=int, nargs="+", default=[CLASSES], metavar="K")
    given = parser.parse_args()
    measured_with = begin("bench.head", given)
    shapes = given.shapes or (SHORT_SHAPES if given.short else SHAPES)
    rows = [
        shown(row)
        for dtype, layout, shape, classes in product(
            given.dtypes, given.layouts, shapes, given.classes
        )
        for row in measure(shape, layout, dtype, classes, given.rounds)
    ]
    write(given.output, "head", rows, measured_with)


if __name__ == "__main__":
    run_program(main)
