"""What the operations cost on the CPU in absolute figures, so that a regression is seen.

    pytest bench/ --benchmark-save NAME
    pytest bench/ --benchmark-compare

CPU time of one pinned thread by pytest-benchmark, with a float32 classifier. ``focus_head`` and
``cam_entropy`` do forward and all gradients, ``class_activation`` the maps of two classes. Each
result is first checked against the float64 reference.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench import head
from bench.gpu_steps import LIMITS, SHAPES, Case, cases, inputs_of
from focus.kernels import class_activation, use_backend


class Prepared(NamedTuple):
    """A case's inputs, and the same numbers in float64."""

    case: Case
    inputs: head.Inputs
    wide: head.Inputs


def two_maps(inputs: head.Inputs) -> tuple[Tensor, ...]:
    """Logits, and CAM and entropy of two classes."""
    return class_activation(*inputs.leaves, (0, 1))


OPERATIONS: dict[str, Callable[[head.Inputs], tuple[Tensor, ...]]] = {
    "focus_head": head.ours,
    "cam_entropy": head.cam_and_entropy,
    "class_activation": two_maps,
}


def prepare(case: Case) -> Prepared:
    """Random inputs on the CPU."""
    inputs = inputs_of(case, "cpu")
    features, weight, bias = (t.detach().double().requires_grad_() for t in inputs.leaves)
    wide = head.Inputs(features, weight, bias, inputs.target, inputs.saliency.double())
    return Prepared(case, inputs, wide)


def check(operation: str, found: tuple[Tensor, ...], prepared: Prepared) -> None:
    """Fail if a result is further from the reference than rounding explains."""
    with use_backend("reference"):
        exact = OPERATIONS[operation](prepared.wide)
    for got, expected in zip(found, exact, strict=True):
        error = (got.detach().double() - expected).abs().max() / expected.abs().max()
        # Of a gradient in bfloat16 half an ulp; what is float32 has no such excuse.
        limit = LIMITS["ours", "bf16" if got.dtype == torch.bfloat16 else "fp32"]
        assert error <= limit, f"{operation}, {prepared.case}: relative error {float(error):.1e}"


@pytest.fixture(scope="module", params=cases(SHAPES), ids=str)
def prepared(request: pytest.FixtureRequest) -> Prepared:
    """Once for all operations."""
    return prepare(request.param)


@pytest.mark.benchmark(timer=time.process_time, max_time=0.5, disable_gc=True)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_cpu_time(benchmark: BenchmarkFixture, prepared: Prepared, operation: str) -> None:
    step = partial(OPERATIONS[operation], prepared.inputs)
    check(operation, step(), prepared)
    benchmark.group = operation
    benchmark(step)
