"""The losses by name, whose words are the kernels'."""

from typing import get_args

import pytest

from focus.config import losses
from focus.config.losses import loss_of
from focus.errors import InputError
from focus.kernels import types


def test_a_loss_that_there_is_not_is_refused() -> None:
    for given in ("blnd", {"focus_weight": 1.0}):
        with pytest.raises(InputError, match=r"^There is no loss .*give one of"):
            loss_of(given)  # type: ignore[arg-type]


def test_the_words_of_the_losses_are_those_of_the_kernels() -> None:
    assert get_args(losses.FocusLevel) == get_args(types.FocusLevel)
    assert get_args(losses.CamClass) == get_args(types.CamClass)
    assert get_args(losses.Entropy) == get_args(types.Entropy)
