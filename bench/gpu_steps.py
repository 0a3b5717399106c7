"""What :mod:`bench.gpu` times: cases and steps."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import head
from bench.gpu_report import Row
from bench.head_table import Shape, shape_of
from bench.timing import Step
from focus.kernels import use_backend

SHAPES = head.SHAPES
# Small, since each access is watched; odd numbers of cells, and channels that fill no block.
WATCHED: tuple[Shape, ...] = ((3, 70, 49), (5, 256, 64), (2, 129, 100))
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
LAYOUTS = ("channels_last", "nchw")
MANY_CLASSES = (16, 1000)

# Largest error of a gradient, as a share of its maximum. ours: 40 roundings and the approximate exp
# of a GPU, and in bfloat16 half an ulp of dF. The others compute in bfloat16 what autocast leaves
# in it; in the branches' CAM that makes ties, and ties move whole gradients.
LIMITS = {
    ("ours", "fp32"): 1e-5,
    ("ours", "bf16"): 2**-8 + 1e-5,
    ("plain", "fp32"): 1e-4,
    ("plain", "bf16"): 0.1,
    ("branches", "fp32"): 1e-4,
    ("branches", "bf16"): math.inf,
}


class Case(NamedTuple):
    """What is measured at once."""

    shape: Shape
    dtype: str
    layout: str
    classes: int = 2

    @property
    def size(self) -> str:
        """``20x2048x49``."""
        return "x".join(map(str, self.shape))

    @property
    def features_bytes(self) -> int:
        """Size of F, and of dF."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def labels(self) -> Row:
        """The first columns of each row."""
        return self._asdict() | {"shape": self.size}

    def __str__(self) -> str:
        return f"{self.size} {self.dtype} {self.layout} K={self.classes}"


class Operation(NamedTuple):
    """Something to time: ``make`` prepares it on the current stream and gives the step."""

    provider: str
    phase: str
    make: Callable[[], Step]
    expected: tuple[Tensor, ...]

    def error(self, found: tuple[Tensor, ...]) -> float:
        """Against the float64 reference: of the worst tensor, as a share of its maximum."""
        errors = [
            (got.detach().double() - exact).abs().max() / exact.abs().max()
            for got, exact in zip(found, self.expected, strict=True)
        ]
        return float(torch.stack(errors).max())

    def limit(self, dtype: str) -> float:
        """The largest error to allow."""
        return LIMITS[self.provider.split()[0], dtype]


def cases(shapes: tuple[Shape, ...]) -> list[Case]:
    """The most telling first, since time may run out."""
    found = [
        Case(shape, dtype, layout)
        for dtype in ("bf16", "fp32")
        for layout in LAYOUTS
        for shape in shapes
    ]
    wide = [Case(shapes[:2][-1], "bf16", "channels_last", k) for k in MANY_CLASSES]
    return [*found[: len(shapes)], *wide, *found[len(shapes) :]]


def inputs_of(case: Case, device: str) -> head.Inputs:
    """As in mixed-precision training: features of the case's type, a float32 classifier."""
    made = head.make_inputs(case.shape, case.layout, case.classes, DTYPES[case.dtype])
    return head.Inputs(
        made.features.detach().to(device).requires_grad_(),
        made.weight.detach().to(device).requires_grad_(),
        made.bias.detach().to(device).requires_grad_(),
        made.target.to(device),
        made.saliency.to(device),
    )


def loss_of(inputs: head.Inputs) -> Tensor:
    """The forward of :func:`bench.head.ours`."""
    return head.ours_loss(*inputs)


def backward_of(inputs: head.Inputs) -> Step:
    """A backward that can be repeated."""
    return partial(torch.autograd.grad, loss_of(inputs), inputs.leaves, retain_graph=True)


def operations(inputs: head.Inputs) -> list[Operation]:
    """All that is timed, with what it has to give; the branches come last."""
    features, weight, bias = (t.detach().double().requires_grad_() for t in inputs.leaves)
    wide = head.Inputs(features, weight, bias, inputs.target, inputs.saliency.double())
    with use_backend("reference"):
        focused, loss = head.ours(wide), loss_of(wide).detach()
    plain = head.plain(wide, head.pool_by_mean)

    def step(function: Callable[..., tuple[Tensor, ...]], *more: Any) -> Callable[[], Step]:
        return lambda: partial(function, inputs, *more)

    return [
        Operation("ours", "forward", lambda: lambda: (loss_of(inputs),), (loss,)),
        Operation("ours", "backward", lambda: backward_of(inputs), focused),
        Operation("ours", "step", step(head.ours), focused),
        Operation("plain mean", "step", step(head.plain, head.pool_by_mean), plain),
        Operation("plain adaptive", "step", step(head.plain, head.pool_adaptive), plain),
        Operation("branches", "step", step(head.branches), focused),
    ]


def profiled(shapes: tuple[Shape, ...]) -> list[Case]:
    """Those that are looked at more closely: as in training, of two classes."""
    return [case for case in cases(shapes) if (case.dtype, case.classes) == ("bf16", 2)]


def shapes_of(text: str) -> tuple[Shape, ...]:
    """``20x2048x49,128x2048x49``: batch, channels, cells (a square number)."""
    return tuple(shape_of(word) for word in text.split(","))
