"""The tables of a report: thresholds as they are used."""

import json

from focus.config.options import POINTS
from focus.evaluation.results import figure_at, summarise
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


def test_groups_have_tables_of_their_own() -> None:
    rows = [(0, "", "", 0.25), (0, "", "", 0.5), (1, "mean", "", 0.5), (1, "mean", "", 1.0)]
    scores = scores_of(rows, group=["a", "a", "b", "b"])
    results = summarise(scores, [], resamples=0)
    tables_by_title = {table.title: table for table in tables.of_test_sets(results)}
    assert [*tables_by_title] == [
        "Open set",
        "Open set by group",
        "Open set, at thresholds",
        "Open set by group, at thresholds",
    ]
    table = tables_by_title["Open set by group"]
    assert table.columns[-2:] == ["real groups", "synthetic groups"]
    assert [name for name, _ in table.rows] == ["mean", "mean of generators", "all groups"]
    for name, cells in table.rows:
        assert cells[1].text == "1.000", name
        for cell in cells:
            if cell.where:
                value, _ = figure_at(results, json.loads(cell.where))
                assert cell.text == ("-" if value is None else f"{value:.3f}"), cell.where
    assert [cell.text for cell in table.rows[0][1][-2:]] == ["1", "1"]
