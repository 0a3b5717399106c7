"""The tables of a report: thresholds as they are used."""

from focus.config.options import POINTS
from focus.evaluation.results import summarise
from focus.model.operating_points import OperatingPoints
from focus.report import tables

from ..evaluation.few_scores import table as scores_of


def test_thresholds_can_be_used_as_they_are_shown() -> None:
    """Those next to 1, too; a test set without a generator has no table."""
    thresholds = dict.fromkeys(POINTS) | {"eer": 0.9999961, "balanced": 0.03125}
    points = OperatingPoints(thresholds, None, 9, 9)
    scores = scores_of([(0, "", "", 0.5), (0, "", "", 0.5), (1, "", "", 0.5)])
    _, table = tables.of_test_sets(summarise(scores, [], None, points, resamples=0))
    assert table.title == "Open set, at thresholds"
    assert [cells[0].text for _, cells in table.rows] == ["1 - 3.9e-06", "1 - 3.9e-06", "0.03125"]
