"""The measurement of the head: nothing wrong is timed, and a step's memory is what it says."""

import math
from functools import partial

import pytest

from bench import harness, head


@pytest.mark.parametrize("layout", head.LAYOUTS)
def test_a_training_step_needs_little_more_than_the_gradient_of_the_features(layout: str) -> None:
    """1.1 times their size in fp32, where autograd's branches take three times."""
    inputs = head.make_inputs((20, 1024, 49), layout)
    size = inputs.features.nbytes
    ours = partial(head.gradients, inputs, head.ours_loss)
    assert size < harness.peak_bytes(ours) <= 1.1 * size
    assert harness.peak_bytes(partial(head.gradients, inputs, head.branches_loss)) >= 3 * size


@pytest.mark.parametrize(("dtype", "off"), [("fp32", 1.001), ("bf16", 1.01)])
def test_wrong_gradients_are_not_timed(dtype: str, off: float) -> None:
    inputs = head.make_inputs((4, 64, 16), "channels_last", 3, head.DTYPES[dtype])
    steps = head.steps_of(inputs)
    del steps["compiled"]  # needs a C++ compiler
    head.check(inputs, steps)
    for factor, said in ((off, "error "), (math.nan, "error nan")):
        wrong = tuple(gradient * factor for gradient in steps["ours"]())
        with pytest.raises(SystemExit, match=f"ours is wrong: relative {said}"):
            head.check(inputs, {"ours": lambda wrong=wrong: wrong})
