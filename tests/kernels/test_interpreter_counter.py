# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""What the counter of traffic takes to be in L1, and what it says of kernels without tensors."""

import sys
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from bench.interpreter_counter import BadAccess, measure

from .interpreter import interpreter


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with interpreter(sys.modules[__name__]):
        yield


@triton.jit
def reading_again_kernel(source_ptr, out_ptr, between, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.load(source_ptr + i)
    for n in range(1, between + 1):
        total += tl.load(source_ptr + n * BLOCK + i)
    tl.store(out_ptr + i, total + tl.load(source_ptr + i))


@triton.jit
def writing_kernel(out_ptr):
    tl.store(out_ptr, 1.0)


# Of four blocks of 1 KB between, the last takes the place of the first in 4 KB.
@pytest.mark.parametrize(("between", "fetched"), [(0, 1), (3, 4), (4, 6)])
def test_what_a_program_read_last_is_not_fetched_again(between: int, fetched: int) -> None:
    source, out = torch.ones(5 * 256), torch.empty(256)

    def step() -> None:
        reading_again_kernel[(2,)](source, out, between, BLOCK=256)

    counted = measure(step, source)
    # Each of two programs begins with nothing in L1, and writes a block.
    assert counted.sectors == 2 * 1024 * (fetched + 1)
    assert counted.moved("F", "read") == 2 * 1024 * (between + 2)


def test_a_write_without_any_tensor_is_refused() -> None:
    """An empty tensor has no element."""
    empty = torch.empty(0)
    with pytest.raises(BadAccess, match=r"^writing_kernel: write without any tensor$"):
        measure(lambda: writing_kernel[(1,)](empty), empty)


def test_launches_of_numbers_are_neither_wide_nor_small() -> None:
    features = torch.ones(4, 4)
    small, number = torch.ones(9), torch.ones(8)

    def step() -> None:
        features.sum()
        small.mul_(2)
        number.mul_(2)
        number.add_(1)

    counted = measure(step, features)
    found = counted.wide_launches, counted.small_launches, counted.number_launches
    assert found == (1, 1, 2)
