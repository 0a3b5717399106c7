"""Time the head beside plain, branches and compiled branches, on features of a network's size.

Each step is forward and the gradients of features F, weight and bias, as in :mod:`bench.head`. Its
gradients are compared with the float64 reference before it is timed; what is wrong is not timed.
A copy of F reads F once and writes as much: no head takes less, as it reads F and writes its
gradient. ``host us`` is the time that a call keeps the CPU busy, without a graph.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from bench import head
from bench.gpu.settings import Settings
from bench.gpu.timing import Call, Row, host_seconds, one_line, time_cold
from bench.harness import Step, median, ratio
from focus.kernels import backend, backend_for

COLUMNS = (
    "F",
    "type",
    "layout",
    "plain us",
    "ours us",
    "ours / plain",
    "branches / ours",
    "compiled / ours",
    "ours / copy",
    "A/A",
    "ours host us",
    "plain host us",
    "SM MHz",
)
ROUNDS = {"cuda": 21, "cpu": 3}
"""How often steps are timed in turn."""


class Case(NamedTuple):
    """Sizes, type and layout of the features of two classes."""

    shape: head.Shape
    dtype: str
    layout: str = "channels_last"

    def labels(self) -> Row:
        """Return the first columns of a row."""
        batch, channels, cells = self.shape
        side = math.isqrt(cells)
        size = f"{batch}x{channels}x{side}x{side}"
        return {"F": size, "type": self.dtype, "layout": self.layout}

    def inputs(self, device: str) -> head.Inputs:
        """Return random tensors on the device."""
        dtype = head.DTYPES[self.dtype]
        return head.make_inputs(self.shape, self.layout, dtype=dtype, device=device)


# DenseNet-121 by the default recipe, ResNet-50; ViT-B/16 and ViT-L/14 at 224 pixels, whose tokens
# are folded to a map.
CASES = {
    "bf16": [
        Case((20, 1024, 49), "bf16"),
        Case((128, 2048, 49), "bf16"),
        Case((128, 2048, 49), "bf16", "nchw"),
        Case((1024, 2048, 49), "bf16"),
        Case((128, 2048, 49), "fp32"),
    ],
    "fp16": [Case((20, 1024, 49), "fp16"), Case((128, 2048, 49), "fp16")],
    "vit": [Case((64, 768, 196), "bf16"), Case((64, 1024, 256), "bf16")],
}
SMALL = {
    "bf16": [Case((4, 64, 49), "bf16"), Case((4, 64, 49), "fp32", "nchw")],
    "fp16": [Case((4, 64, 49), "fp16")],
    "vit": [Case((4, 96, 196), "bf16"), Case((2, 64, 256), "bf16")],
}
"""What a rehearsal on a CPU takes in their place."""


def cases(kind: str, settings: Settings) -> list[Case]:
    """Return the cases of a kind that are measured."""
    of_kind = (CASES if settings.device == "cuda" else SMALL)[kind]
    return of_kind[:1] if settings.short else of_kind


def measure_heads(kind: str, settings: Settings) -> Iterator[Row]:
    """Yield a row for each case; one that fails has ``error``."""
    torch.set_float32_matmul_precision("highest")  # some images lower it; limits are float32's
    for case in cases(kind, settings):
        try:
            yield case.labels() | _measure(case, settings)
        except Exception as error:  # most often, the card's memory is too small for this case
            yield case.labels() | {"error": one_line(error)}


def _measure(case: Case, settings: Settings) -> Row:
    device = settings.device
    torch.compiler.reset()  # it compiles a function for a few shapes, and then no more
    inputs = case.inputs(device)
    steps: dict[str, Call] = {}
    errors: dict[str, str] = {}
    for name, step in head.steps_of(inputs).items():
        if name == "compiled" and settings.short:
            continue
        if error := check(name, inputs, step):
            errors[name] = error
        else:
            steps[name] = step
    for name in ("plain mean", "plain adaptive"):
        if name in steps:
            steps[f"{name} again"] = steps[name]
    copy = torch.empty_like(inputs.features.detach())
    steps["copy"] = partial(copy.copy_, inputs.features.detach())

    times = time_cold(steps, ROUNDS[device], device)
    seconds = times.seconds
    plain = min(
        (name for name in ("plain mean", "plain adaptive") if name in seconds),
        key=lambda name: median(seconds[name])[0],
    )
    row: Row = {}
    for title, name in (("plain us", plain), ("ours us", "ours")):
        if name in seconds:
            row[title] = [1e6 * value for value in median(seconds[name])]
            row[title.replace("us", "host us")] = 1e6 * host_seconds(steps[name], device)
    for title, (first, second) in {
        "ours / plain": ("ours", plain),
        "branches / ours": ("branches", "ours"),
        "compiled / ours": ("compiled", "ours"),
        "ours / copy": ("ours", "copy"),
        "A/A": (f"{plain} again", plain),
    }.items():
        if first in seconds and second in seconds:
            row[title] = ratio(seconds[first], seconds[second])
    row |= times.clocks
    errors |= times.errors
    if errors:
        row["error"] = "; ".join(f"{name}: {text}" for name, text in errors.items())
    return row


def check(name: str, inputs: head.Inputs, step: Step) -> str | None:
    """Return why a step must not be timed: it fails, is wrong, or is not what it is called."""
    if name == "ours" and (error := fallback(inputs.features)):
        return error
    try:
        ((_, error_of_gradient, limit),) = head.relative_errors(inputs, {name: step})
    except Exception as error:  # what torch.compile and Triton's compiler raise
        return one_line(error)
    if error_of_gradient <= limit:
        return None
    return f"wrong gradients: relative error {error_of_gradient:.1e}, at most {limit:.1e}"


def fallback(features: Tensor) -> str | None:
    """Return an error if the head of these features falls back from its kernels.

    A rehearsal on a CPU has the eager form, unless Triton's interpreter was asked for.
    """
    expected = "triton" if features.is_cuda or backend.INTERPRETED else "eager"
    name, reason = backend_for(features)
    if name == expected:
        return None
    return f"ours ran as {name} in place of {expected}: {reason}"
