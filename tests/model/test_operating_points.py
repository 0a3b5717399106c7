"""Thresholds: chosen on validation, stored with the model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focus.config.options import POINTS
from focus.errors import InputError
from focus.metrics.calibration import Calibration
from focus.model.operating_points import (
    THRESHOLDS,
    OperatingPoints,
    Threshold,
    choose_points,
    choose_threshold,
)


def test_points_by_hand() -> None:
    real, fake = np.linspace(0, 0.5, 500), np.array([0.2501, 0.8, 0.9, 0.95])
    thresholds = choose_points(real, fake).thresholds
    assert tuple(thresholds) == POINTS
    # Five and 25 real images of 500 lie above.
    for point, above in (("bpcer1", 5), ("bpcer5", 25)):
        threshold = thresholds[point]
        assert threshold is not None
        assert (real > threshold).sum() == above
        assert real[-above - 1] < threshold < real[-above]
    # Half way between the best real image and the next fake.
    assert thresholds["balanced"] == pytest.approx(0.65)
    eer = thresholds["eer"]
    assert eer is not None
    assert abs((real > eer).mean() - (fake <= eer).mean()) == pytest.approx(0, abs=0.01)


def test_too_few_reals_leave_a_point_undefined(tmp_path: Path) -> None:
    points = choose_points(np.linspace(0, 0.5, 150), np.ones(20))
    assert points.thresholds["bpcer1"] is None
    assert points.thresholds["bpcer5"] is not None
    points.write(tmp_path)
    written = json.loads((tmp_path / THRESHOLDS).read_text())
    assert written["undefined"] == {"bpcer1": "needs >= 500 real validation images"}
    assert OperatingPoints.read(tmp_path) == points
    assert OperatingPoints.read(tmp_path / "other") is None
    replace(points, decides="bpcer5").restore(tmp_path)  # not over what can be read
    assert OperatingPoints.read(tmp_path) == points
    (tmp_path / THRESHOLDS).write_text("{")
    points.restore(tmp_path)
    assert OperatingPoints.read(tmp_path) == points
    empty = choose_points(np.zeros(0), np.ones(3))
    assert set(empty.thresholds.values()) == {None}
    assert empty.calibration is None
    assert empty.undefined()["eer"] == "needs real and synthetic validation images"
    assert empty.undefined()["bpcer5"] == "needs >= 100 real validation images"
    one = choose_points(np.zeros(600), np.zeros(0))
    assert one.undefined()["bpcer1"] == "needs real and synthetic validation images"


def test_no_balance_is_best_where_none_is_better_than_chance() -> None:
    """Scores that are alike, and fakes below the real images: all would be called synthetic."""
    for real in ([0.5] * 30, [0.45, 0.5, 0.9], [0.8, 0.9]):
        points = choose_points(np.array(real), np.full(20, 0.45))
        assert points.thresholds["balanced"] is None
        assert points.thresholds["eer"] is not None
        assert "better than by chance" in points.undefined()["balanced"]
        # One image more on its side is better than chance.
        assert (
            choose_points(np.array([0.1, *real]), np.full(20, 0.45)).thresholds["balanced"]
            is not None
        )


def test_a_calibration_against_the_scores_is_warned_of() -> None:
    random = np.random.default_rng(0)
    low, high = random.uniform(0.1, 0.5, 40), random.uniform(0.4, 0.9, 40)
    assert choose_points(low, high).warning() == ""
    assert choose_points(low, np.zeros(0)).warning() == ""
    points = choose_points(high, low)
    assert points.warning().startswith("The calibration has a slope of -")
    flat = replace(points, calibration=Calibration(0.0, 0.0, 1.0))
    assert "a slope of 0," in flat.warning()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456789012345, "0.1235"),
        (0.5, "0.5"),
        (4.217896517223e-5, "4.218e-05"),
        (0.9998765432109, "1 - 0.00012"),  # .9999 would say the same of scores on both sides
        (1 - 2**-40, "1 - 9.1e-13"),
    ],
)
def test_a_threshold_is_printed_to_be_read_and_kept_with_all_digits(
    value: float, text: str
) -> None:
    threshold = Threshold("eer", value)
    assert str(threshold) == f"{text} (eer, fixed on validation images)"
    assert threshold.value == value


def test_one_threshold_is_chosen() -> None:
    points = OperatingPoints(dict.fromkeys(POINTS, 0.3) | {"eer": 0.7, "bpcer1": None}, None, 9, 9)
    for detector_points, threshold, expected in (
        (points, None, ("eer", 0.7)),
        (replace(points, decides="bpcer5"), None, ("bpcer5", 0.3)),
        (points, "balanced", ("balanced", 0.3)),
        (points, "0.9", ("given", 0.9)),
        (None, 0.9, ("given", 0.9)),
        (None, None, ("default", 0.5)),
        (replace(points, decides="bpcer1"), None, ("default", 0.5)),
    ):
        assert choose_threshold(detector_points, threshold) == expected
    with pytest.raises(InputError, match="--threshold bpcer1: validation fixed no such threshold"):
        choose_threshold(points, "bpcer1")
