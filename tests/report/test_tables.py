"""The tables of a report: what a sample cannot support says what it needs."""

import copy
from pathlib import Path

from focus.evaluation.results import summarise
from focus.model.operating_points import OperatingPoints
from focus.report import tables

from ..evaluation.few_scores import table as scores_of
from .reports import made


def test_what_the_sample_cannot_support_says_what_it_needs(tmp_path: Path) -> None:
    _, _, results = made(tmp_path, 30, resamples=0)
    needs = {"bpcer1": "needs >= 500 real validation images"}
    lacks = copy.deepcopy(results) | {"undefined_thresholds": needs}
    for name in ("closed", "open"):
        del lacks[name]["operating_points"]["bpcer1"]
    closed, opened, *points = tables.of_test_sets(lacks)
    needed = [
        "TPR at 1 % FPR needs >= 500 real images.",
        "TPR at 5 % FPR needs >= 100 real images.",
    ]
    assert closed.notes == opened.notes == needed
    assert [table.title for table in points] == [
        "Closed set, at thresholds",
        "Open set, at thresholds",
    ]
    for table in points:
        assert "BPCER of 1 %" not in [name for name, _, _ in table.rows]
        assert table.notes == ["BPCER of 1 % needs >= 500 real validation images."]


def test_thresholds_can_be_used_as_they_are_shown() -> None:
    """Those next to 1, too; a test set without a generator has no table."""
    points = OperatingPoints({"eer": 0.9999961, "balanced": 0.03125}, None, 9, 9)
    scores = scores_of([(0, "", "", 0.5), (0, "", "", 0.5), (1, "", "", 0.5)])
    _, table = tables.of_test_sets(summarise(scores, [], None, points, resamples=0))
    assert table.title == "Open set, at thresholds"
    assert [cells[0] for _, cells, _ in table.rows] == ["1 - 3.9e-06", "0.03125"]
