"""The shapes that the other tests run on really cover what they are meant to."""

import itertools

import pytest
import torch

from .cases import HEAD, SHAPES, arrange, in_interpreter, in_pytorch, pairwise

CONTRAST_OF_ONE = {(("classes", 1), ("cam_class", "contrast"))}
# Too many rows of W for the interpreter.
LONG = {(("batch", batch), ("classes", 1000)) for batch in (3, 20, 128)}


@pytest.mark.parametrize(
    ("factors", "allowed", "left_out"),
    [
        (SHAPES, in_pytorch, set()),
        (HEAD, in_pytorch, CONTRAST_OF_ONE),
        (HEAD, in_interpreter, CONTRAST_OF_ONE | LONG),
        (SHAPES, in_interpreter, LONG),
    ],
)
def test_any_two_values_meet_but_those_left_out(factors, allowed, left_out) -> None:
    met = {
        pair
        for case in pairwise(factors, allowed)
        for pair in itertools.combinations(case.items(), 2)
    }
    every = {
        ((one, v), (other, w))
        for one, other in itertools.combinations(factors, 2)
        for v, w in itertools.product(factors[one], factors[other])
    }
    assert every - met == left_out


def test_layouts_are_what_they_are_called() -> None:
    dense = torch.randn(2, 3, 4, 5)
    assert arrange(dense, "channels_last").stride() == (60, 1, 15, 3)
    assert not arrange(dense, "sliced").is_contiguous()
    assert arrange(dense, "expanded").stride(0) == 0
    assert arrange(dense, "offset").storage_offset() == 1
    for layout in ("nchw", "channels_last", "sliced", "offset"):
        torch.testing.assert_close(arrange(dense, layout), dense, rtol=0, atol=0)
