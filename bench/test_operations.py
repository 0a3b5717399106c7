"""Time the operations on the CPU, so that a regression is seen.

    pytest bench/ --benchmark-save NAME
    pytest bench/ --benchmark-compare

CPU time of one pinned thread by pytest-benchmark, with a float32 classifier. ``focus_head`` and
``cam_entropy`` do forward and all gradients, ``class_activation`` the maps of two classes. Each
result is first checked against the float64 reference.
"""

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench import head
from focus.kernels import cam_entropy, class_activation, use_backend


def cam_and_entropy(inputs: head.Inputs) -> tuple[Tensor, ...]:
    """Return the gradients of features and weight; the map is the CAM's upstream gradient."""
    leaves = inputs.features, inputs.weight
    cam, entropy = cam_entropy(*leaves, inputs.target)
    upstream = inputs.saliency.to(cam.dtype), torch.ones_like(entropy)
    return torch.autograd.grad((cam, entropy), leaves, upstream)


def two_maps(inputs: head.Inputs) -> tuple[Tensor, ...]:
    """Return logits, and CAM and entropy of two classes."""
    return class_activation(*inputs.leaves, (0, 1))


OPERATIONS: dict[str, Callable[[head.Inputs], tuple[Tensor, ...]]] = {
    "focus_head": partial(head.gradients, loss=head.ours_loss),
    "focus_head sum": partial(head.gradients, loss=partial(head.ours_loss, entropy="sum")),
    "cam_entropy": cam_and_entropy,
    "class_activation": two_maps,
}


def check(operation: str, found: tuple[Tensor, ...], inputs: head.Inputs) -> None:
    """Fail if a result is further from the reference than rounding explains."""
    with use_backend("reference"):
        exact = OPERATIONS[operation](inputs.double())
    for got, expected in zip(found, exact, strict=True):
        error = (got.detach().double() - expected).abs().max() / expected.abs().max()
        # A gradient in bfloat16 is off by half an ulp; what is float32 has no such excuse.
        limit = 2**-8 + 1e-5 if got.dtype == torch.bfloat16 else 2e-5
        assert error <= limit, f"{operation}: relative error {float(error):.1e}"


@pytest.mark.benchmark(timer=time.process_time, max_time=0.5, disable_gc=True)
@pytest.mark.parametrize("dtype", head.DTYPES)
@pytest.mark.parametrize("layout", head.LAYOUTS)
@pytest.mark.parametrize("shape", head.SHORT_SHAPES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_cpu_time(
    benchmark: BenchmarkFixture, operation: str, shape: head.Shape, layout: str, dtype: str
) -> None:
    inputs = head.make_inputs(shape, layout, dtype=head.DTYPES[dtype])
    step = partial(OPERATIONS[operation], inputs)
    check(operation, step(), inputs)
    benchmark.group = operation
    benchmark(step)
