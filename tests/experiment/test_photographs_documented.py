"""The figures of photographs on the pages follow from the tables in bench/results."""

import csv

import pytest

from focus.experiment.doses import SHARES
from focus.experiment.frozen import BASELINE, PHOTOGRAPHS, TESTED_BY_TRAINED, minus
from focus.experiment.photographs import DOSES, FROZEN_NETWORK, SPARE, WIDE
from focus.experiment.report import ends, number, over_draws, span
from focus.experiment.statistics import of_shared_splits

from .test_documented import RESULTS, arm_in, effects_of, rows_below, table_in, text_of

TABLE = table_in("experiment-photographs.csv")
EFFECTS = effects_of(TABLE, FROZEN_NETWORK)
SPARE_TABLE = table_in("experiment-photographs-doses.csv")
FIGURES_OF_CAMS = ("pointing", "entropy", "entropy_sum", "cam_range")


def in_page(arm: str) -> list[str]:
    """Return the row of an arm as the page has it."""
    cells = [number(over_draws(TABLE, arm, PHOTOGRAPHS, "open").mean), "", ""]
    if arm != BASELINE:
        difference = EFFECTS[minus(arm, BASELINE).name, PHOTOGRAPHS, "open"].estimate
        corrected = of_shared_splits(difference, TESTED_BY_TRAINED)
        cells[1:] = [span(difference), ends(corrected)]
    cells.append(number(over_draws(TABLE, arm, PHOTOGRAPHS, "closed").mean))
    for figure in FIGURES_OF_CAMS:
        value = number(over_draws(TABLE, arm, PHOTOGRAPHS, figure).mean)
        cells.append("" if value == "-" else value)
    return cells


def test_the_table_of_arms() -> None:
    rows = rows_below("docs/experiment.md", "arm | open | open - `ce` [95 %] | corrected")
    assert [arm_in(row[0]) for row in rows] == [arm for arm, _ in TABLE]
    for row in rows:
        assert row[1:] == in_page(arm_in(row[0]))


def test_the_columns_of_readme() -> None:
    arms = ("ce", "strong", "aggressive", "saliency", "", "saliency-shuffled", "wide")
    rows = rows_below("README.md", "training | open | minus cross-entropy [95 %]")
    for arm, row in zip(arms, rows, strict=True):
        assert row[3:] == (in_page(arm)[:2] if arm else ["", ""])


def test_what_was_tested() -> None:
    page = text_of("docs/experiment.md")
    for test in FROZEN_NETWORK.tests:
        estimate = EFFECTS[test.contrast.name, PHOTOGRAPHS, "open"].estimate
        corrected = of_shared_splits(estimate, TESTED_BY_TRAINED)
        assert f"{span(estimate)}, corrected {ends(corrected)}" in page, test.contrast.name


def test_doses_follow_from_the_spare_splits() -> None:
    rows = rows_below("docs/experiment.md", "weight of focus | validation entropy | validation AUC")
    for row, arm in zip(rows, SPARE.arms, strict=True):
        means = [
            over_draws(SPARE_TABLE, arm, PHOTOGRAPHS, figure).mean
            for figure in ("validation_entropy", "validation")
        ]
        assert row[1:] == [f"{mean:.3f}" for mean in means]
    assert (
        pytest.approx(WIDE, abs=0.005)
        == over_draws(SPARE_TABLE, BASELINE, PHOTOGRAPHS, "validation_entropy").mean
    )
    assert SHARES.keys() < DOSES.keys()


def test_each_row_has_its_settings_and_the_commit_of_the_protocol() -> None:
    with (RESULTS / "experiment-photographs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["commit"] for row in rows if row["arm"] in FROZEN_NETWORK.arms} == {"37dcfe6"}
    assert all(row["settings"] for row in rows)
