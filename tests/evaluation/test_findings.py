"""What would mislead a reader is found, once, and as bad as it is."""

import re

import numpy as np

from focus.evaluation.findings import OUTLIERS_SEEN, add_findings, recorded
from focus.evaluation.results import summarise as summarise_with_intervals
from focus.findings import Finding, worst_first
from focus.model.operating_points import choose_points

from .few_scores import summarise, table


def test_a_cam_on_outlying_tokens_is_warned_of() -> None:
    rows = [(0, "", "", 0.1), *[(1, "A", "", 0.9)] * 40]
    for outliers, seen in ((1, False), (2, True)):
        outlier_flags = [1] * outliers + [0] * (40 - outliers)
        scores = table(rows, peak_outlier=[*outlier_flags, -1])
        for results in (summarise(scores, ["A"]), None):
            findings = add_findings(results, scores, files=False)
            warnings = [finding for finding in findings if "outlying norm" in finding.text]
            (warned,) = warnings or [None]
            assert (warned is not None) == seen
    assert warned is not None
    assert warned.text.startswith("The CAM of 5% of the images peaks on a token")
    assert OUTLIERS_SEEN == 0.05


def test_an_auc_below_a_half_is_an_error_and_one_around_it_is_not() -> None:
    """DCGAN scores surely below the real images, A around them."""
    random = np.random.default_rng(0)
    rows = [(0, "", "", float(p)) for p in random.uniform(0.4, 0.9, 60)]
    rows += [(1, "DCGAN", "", float(p)) for p in random.uniform(0.1, 0.6, 60)]
    rows += [(1, "A", "", float(p)) for p in random.uniform(0.38, 0.88, 60)]
    scores = table(rows)
    results = summarise_with_intervals(scores, [], resamples=9)
    (finding,) = [f for f in add_findings(results, scores, files=False) if f.severity == "error"]
    assert finding.text.startswith("Worse than guessing: real and synthetic images are ranked the ")
    below = finding.text.partition(" for ")[2]
    assert re.fullmatch(r"DCGAN 0\.\d{3} \[\.\d{3}, \.\d{3}\]; the mean of the open set 0.*", below)
    assert "--higher-is real" not in finding.text
    # In a table of scores high may mean real.
    results["provenance"] = {"scores": {"file": "theirs.csv"}}
    assert "--higher-is real" in add_findings(results, scores, files=False)[0].text


def test_a_cam_that_peaks_in_one_cell_has_collapsed() -> None:
    rows = [(0, "", "", 0.1), (1, "A", "", 0.9)] * 20
    for cells, collapsed in ((3, True), (10, False)):
        peak_rows = [0] * (40 - cells) + list(range(1, cells + 1))
        scores = table(rows, peak_row=peak_rows)
        findings = add_findings(summarise(scores, ["A"]), scores, files=False)
        assert any(f.text.startswith("The CAM has collapsed") for f in findings) == collapsed
    few = table(rows[:4], peak_row=[0] * 4)
    assert not any(
        "collapsed" in f.text for f in add_findings(summarise(few, []), few, files=False)
    )


def test_they_are_recorded_once_worst_first_and_read_back() -> None:
    scores = table([(0, "", "", 0.1), (1, "A", "", 0.9), (-1, "", "", 0.5)])
    results = summarise(scores, ["A"])
    image_findings = [Finding("note", "n"), Finding("error", "e"), Finding("note", "n")]
    points = choose_points(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.1, 0.2, 0.3, 0.4]))
    findings = add_findings(results, scores, points, image_findings, files=False)
    assert [f.severity for f in findings] == ["error", "warning", "note", "note"]
    assert findings[1].text.startswith("The calibration has a slope of -")
    assert findings[-1].text == "Images without label: 1; they are scored and in no result."
    assert recorded(results) == findings
    assert recorded({}) == []
    assert worst_first(image_findings) == [image_findings[1], image_findings[0]]
