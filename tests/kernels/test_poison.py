"""The poison that the other tests of this folder rest on is really in the memory."""

import pytest
import torch

# Written before each case, so that memory handed out again does not hold NaN by chance.
FREED = 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_uninitialised_memory_is_nan(dtype: torch.dtype) -> None:
    torch.ones(FREED, dtype=dtype)
    like = torch.ones(2, 3, 4, 4, dtype=dtype)
    made = [
        torch.empty(FREED, dtype=dtype),
        torch.empty(2, 3, 4, 4, dtype=dtype, memory_format=torch.channels_last),
        torch.empty_like(like),
        torch.empty_like(like, memory_format=torch.channels_last),
        torch.empty_strided((4, 4), (4, 1), dtype=dtype),
        like.new_empty(FREED),
        like.new_empty_strided((4, 4), (1, 4)),
    ]
    for tensor in made:
        assert tensor.isnan().all()


def test_uninitialised_indices_are_out_of_range() -> None:
    assert (torch.empty(FREED, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()


def test_an_output_that_is_not_written_is_seen() -> None:
    out = torch.empty(4)
    out[:3] = torch.arange(3.0)
    assert out.isnan().tolist() == [False, False, False, True]
