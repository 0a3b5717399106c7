# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Where the tests' interpreter is stricter than Triton's."""

import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from .interpreter import interpreter


@triton.jit
def _padded_sum(source_ptr, out_ptr, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    values = tl.load(source_ptr + i, mask=i < count)
    tl.store(out_ptr, tl.sum(values.to(tl.float64), 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("count", [8, 5])
def test_what_a_mask_leaves_out_is_no_number(dtype: torch.dtype, count: int) -> None:
    source, out = torch.ones(count, dtype=dtype), torch.zeros(1, dtype=torch.float64)
    with interpreter(sys.modules[__name__]):
        _padded_sum[(1,)](source, out, count, BLOCK=8)
    poisoned = 5 - 3 if dtype == torch.int64 else float("nan")
    expected = torch.full_like(out, 8 if count == 8 else poisoned)
    torch.testing.assert_close(out, expected, equal_nan=True)
