"""Factors of the learning rate, and weights of the loss that change by epoch."""

import pytest

from focus.config.schedules import factor_at, parse_points
from focus.errors import InputError


def test_points_by_hand() -> None:
    points = parse_points("--focus-schedule", "1:0, 3:1,5:0.5")
    assert points == ((1, 0), (3, 1), (5, 0.5))
    found = [factor_at(points, epoch) for epoch in (0, 1, 1.5, 2, 3, 4, 5, 9)]
    assert found == [0, 0, 0.25, 0.5, 1, 0.75, 0.5, 0.5]
    assert factor_at(parse_points("", "0:0.3"), 7) == 0.3


@pytest.mark.parametrize(
    "text", ["", "1", "1:", "a:b", "1:2:3", "0:1,0:2", "2:1,1:0", "-1:1", "0:-1", "0:nan", "inf:1"]
)
def test_points_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"--saliency-schedule got .*EPOCH:FACTOR"):
        parse_points("--saliency-schedule", text)
