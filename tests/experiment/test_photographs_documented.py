"""What the pages say of photographs follows from the tables in bench/results."""

import csv

import pytest

from focus.experiment.frozen import BASELINE, PHOTOGRAPHS
from focus.experiment.photographs import FROZEN_NETWORK, SPARE, WIDE
from focus.experiment.report import over_draws

from .test_documented import RESULTS, rows_below, table_in, text_of

SPARE_TABLE = table_in("experiment-photographs-doses.csv")


def test_doses_follow_from_the_spare_splits() -> None:
    rows = rows_below("docs/experiment.md", "weight of focus | validation entropy | validation AUC")
    for row, arm in zip(rows, SPARE.arms, strict=True):
        means = [
            over_draws(SPARE_TABLE, arm, PHOTOGRAPHS, figure).mean
            for figure in ("validation_entropy", "validation")
        ]
        assert row[1:] == [f"{mean:.3f}" for mean in means]
    entropy = over_draws(SPARE_TABLE, BASELINE, PHOTOGRAPHS, "validation_entropy").mean
    assert entropy == pytest.approx(WIDE, abs=0.005)


def test_each_run_has_its_settings_and_the_commit_of_the_protocol() -> None:
    with (RESULTS / "experiment-photographs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["commit"] for row in rows} == {"37dcfe6"}
    assert {row["arm"] for row in rows} <= set(FROZEN_NETWORK.arms)
    assert all(row["settings"] for row in rows)
    page = text_of("docs/experiment.md")
    assert f"{len(rows)} of {len(FROZEN_NETWORK.arms) * len(FROZEN_NETWORK.units)} runs" in page
