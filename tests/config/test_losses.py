"""The losses by name, and the schedules of their weights."""

import pytest

from focus.config.losses import factor_at, loss_of, parse_points
from focus.errors import InputError


def test_a_loss_that_there_is_not_is_refused() -> None:
    for loss in ("blnd", {"focus_weight": 1.0}):
        with pytest.raises(InputError, match=r"^There is no loss .*give one of"):
            loss_of(loss)  # type: ignore[arg-type]


def test_points_by_hand() -> None:
    points = parse_points("--focus-schedule", "1:0, 3:1,5:0.5")
    assert points == ((1, 0), (3, 1), (5, 0.5))
    factors = [factor_at(points, epoch) for epoch in (0, 1, 1.5, 2, 3, 4, 5, 9)]
    assert factors == [0, 0, 0.25, 0.5, 1, 0.75, 0.5, 0.5]
    assert factor_at(parse_points("", "0:0.3"), 7) == 0.3


@pytest.mark.parametrize(
    "text", ["", "1", "1:", "a:b", "1:2:3", "0:1,0:2", "2:1,1:0", "-1:1", "0:-1", "0:nan", "inf:1"]
)
def test_points_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"--saliency-schedule got .*EPOCH:FACTOR"):
        parse_points("--saliency-schedule", text)
