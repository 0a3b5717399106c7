"""The losses by name: their ranges, and that their words are the kernels'."""

import math
from typing import get_args

import pytest

from focus.config import losses
from focus.config.losses import LossConfig, loss_of
from focus.errors import InputError
from focus.kernels import types


def test_a_loss_that_there_is_not_is_refused() -> None:
    for values, message in (
        ({"focus_weight": -1.0}, "focus_weight must be at least 0, got -1.0"),
        ({"classification_weight": math.nan}, "classification_weight must be at least 0, got nan"),
        ({"focus_weight": math.inf}, "focus_weight must be at least 0, got inf"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0"),
        ({"entropy_target": 1.5}, "entropy_target must be at least 0 and at most 1, got 1.5"),
        ({"focus_level": "minimise"}, "focus_level must be one of none, .*'minimise'"),
        ({"cam_class": "target"}, "cam_class must be one of true, predicted, contrast, got"),
    ):
        with pytest.raises(ValueError, match=message):
            LossConfig(**values)
    with pytest.raises(TypeError):
        LossConfig(focus_weight="0.1")  # type: ignore[arg-type]
    for given in ("blnd", {"focus_weight": 1.0}):
        with pytest.raises(InputError, match=r"^There is no loss .*give one of"):
            loss_of(given)  # type: ignore[arg-type]


def test_the_words_of_the_losses_are_those_of_the_kernels() -> None:
    assert get_args(losses.FocusLevel) == get_args(types.FocusLevel)
    assert get_args(losses.CamClass) == get_args(types.CamClass)
