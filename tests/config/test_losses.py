"""The losses by name: their ranges, and that their words are the kernels'."""

import math
from typing import Any, get_args

import numpy as np
import pytest

from focus.config import losses
from focus.config.losses import LossConfig, loss_of
from focus.errors import InputError
from focus.kernels import types


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"focus_weight": -1.0}, "focus_weight must be at least 0, got -1.0"),
        ({"classification_weight": math.nan}, "classification_weight must be at least 0, got nan"),
        ({"focus_weight": math.inf}, "focus_weight must be at least 0, got inf"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": 1e-46}, "temperature must be above 0, got 1e-46"),
        ({"temperature": math.inf}, "temperature must be above 0, got inf"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1, got 1.0"),
        ({"entropy_target": 1.5}, "entropy_target must be from 0 to 1, got 1.5"),
        (
            {"level": "minimise"},
            r"level must be one of none, match, hinge, minimize, got 'minimise' "
            r"\(did you mean minimize\?\)",
        ),
        ({"cam_class": "target"}, "cam_class must be one of true, predicted, contrast, got"),
    ],
)
def test_a_loss_that_there_is_not_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**values)


def test_a_name_that_no_loss_has_is_refused() -> None:
    said = r"^There is no loss 'blnd' \(did you mean blend\?\): give a LossConfig, or one of ce, "
    with pytest.raises(InputError, match=said):
        loss_of("blnd")


def test_the_words_of_the_losses_are_those_of_the_kernels() -> None:
    assert get_args(losses.Level) == get_args(types.Level)
    assert get_args(losses.CamClass) == get_args(types.CamClass)


@pytest.mark.parametrize("value", ["0.1", None])
def test_a_weight_that_is_no_number_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=f"focus_weight must be a number, got {value!r}"):
        LossConfig(focus_weight=value)


def test_numbers_of_any_type_are_floats() -> None:
    """JSON, and so config.json, takes numpy's neither, and true is no number there."""
    loss = LossConfig(np.float32(0.5), focus_weight=np.int64(1), temperature=True)
    assert loss == LossConfig(0.5, focus_weight=1.0)
    numbers = loss.classification_weight, loss.focus_weight, loss.temperature
    assert [type(number) for number in numbers] == [float] * 3


def test_a_loss_in_a_dict_is_refused() -> None:
    with pytest.raises(InputError, match=r"There is no loss {'focus_weight': 1\.0}: give"):
        loss_of({"focus_weight": 1.0})
