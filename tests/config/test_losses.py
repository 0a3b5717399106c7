"""The losses by name."""

import pytest

from focus.config.losses import loss_of
from focus.errors import InputError


def test_a_loss_that_there_is_not_is_refused() -> None:
    for given in ("blnd", {"focus_weight": 1.0}):
        with pytest.raises(InputError, match=r"^There is no loss .*give one of"):
            loss_of(given)  # type: ignore[arg-type]
