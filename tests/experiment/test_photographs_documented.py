"""What the pages say of photographs follows from the tables in bench/results."""

import csv
from pathlib import Path

import pytest

from focus.experiment.compare import (
    Effect,
    analyse,
    detectable,
    of_shared_splits,
    over_draws,
    write_tables,
)
from focus.experiment.frozen import TESTED_BY_TRAINED
from focus.experiment.photographs import CONTROLS, FROZEN_NETWORK, SPARE, WIDE
from focus.experiment.protocol import BASELINE, PHOTOGRAPHS, minus
from focus.experiment.records import FIGURES
from focus.experiment.report import ends, number, span

from .test_documented import RESULTS, effects_of, in_hundredths, rows_below, table_in, text_of

PAGE = "docs/experiment.md"
SPARE_TABLE = table_in("experiment-photographs-doses.csv")
TABLE = table_in("experiment-photographs.csv")
EFFECTS = effects_of(TABLE, FROZEN_NETWORK)


def corrected(effect: Effect) -> str:
    """Return the interval that is corrected for the persons that splits share."""
    return ends(of_shared_splits(effect.estimate, TESTED_BY_TRAINED))


def effect(arm: str, other: str = BASELINE) -> Effect:
    return EFFECTS[minus(arm, other).name, PHOTOGRAPHS, "open"]


def test_doses_follow_from_the_spare_splits() -> None:
    rows = rows_below(PAGE, "weight of focus | validation entropy | validation AUC")
    for row, arm in zip(rows, SPARE.arms, strict=True):
        means = [
            over_draws(SPARE_TABLE, arm, PHOTOGRAPHS, figure).mean
            for figure in ("validation_entropy", "validation")
        ]
        assert row[1:] == [f"{mean:.3f}" for mean in means]
    entropy = over_draws(SPARE_TABLE, BASELINE, PHOTOGRAPHS, "validation_entropy").mean
    assert entropy == pytest.approx(WIDE, abs=0.005)


def test_all_runs_are_there_with_settings_and_the_commit_of_the_protocol(tmp_path: Path) -> None:
    with (RESULTS / "experiment-photographs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    units = [str(unit) for unit in FROZEN_NETWORK.units]
    for arm in (*FROZEN_NETWORK.arms, *CONTROLS):
        assert sorted(row["draw"] for row in rows if row["arm"] == arm) == sorted(units)
    assert {row["commit"] for row in rows} == {"37dcfe6"}
    assert all(row["settings"] for row in rows)
    write_tables(TABLE, analyse(TABLE, FROZEN_NETWORK), tmp_path)
    written = (tmp_path / "comparisons.csv").read_text()
    assert written == (RESULTS / "experiment-photographs-comparisons.csv").read_text()


def test_the_table_of_photographs() -> None:
    rows = rows_below(PAGE, "arm | open | open - `ce` [95 %] | corrected")
    names = {"`saliency`, *shuffled*": "saliency-shuffled", "`saliency`, *wide*": "wide"}
    arms = [names.get(row[0], row[0].strip("`*")) for row in rows]
    assert arms == [*FROZEN_NETWORK.arms, *CONTROLS]
    for arm, (_, *cells) in zip(arms, rows, strict=True):
        mean = {figure: over_draws(TABLE, arm, PHOTOGRAPHS, figure).mean for figure in FIGURES}
        expected = [number(mean["open"]), "", "", number(mean["closed"]), "", ""]
        if arm != BASELINE:
            expected[1:3] = span(effect(arm).estimate), corrected(effect(arm))
        if arm not in CONTROLS:
            expected[4:] = in_hundredths(mean["pointing"]), number(mean["entropy"])
        assert cells == expected


def test_what_is_said_of_photographs() -> None:
    section = text_of(PAGE).partition("## Photographs")[2].partition("## What was not run")[0]
    for test in FROZEN_NETWORK.tests:
        tested = EFFECTS[test.contrast.name, PHOTOGRAPHS, "open"]
        said = f"{span(tested.estimate)}, corrected {corrected(tested)}"
        assert said in section
        if test.role != "primary":
            assert f"{said} (p by Holm {number(tested.p_holm)})" in section
    primary = effect("saliency")
    assert f"(p {number(primary.p)})" in section
    assert f"A difference of {number(detectable(primary.estimate))} would be" in section
    chance = over_draws(TABLE, BASELINE, PHOTOGRAPHS, "chance").mean
    assert f"and by chance it would in {in_hundredths(chance)}" in section
    controls = (number(over_draws(TABLE, arm, PHOTOGRAPHS, "open").mean) for arm in CONTROLS)
    assert "far below `ce` ({} and {})".format(*controls) in section
    lines = text_of(PAGE)[: text_of(PAGE).index("## What to take")]
    assert f"{span(primary.estimate)}, corrected {corrected(primary)}" in lines


def test_photographs_beside_drawn_faces_in_readme() -> None:
    arms = ("saliency", "strong", "aggressive")
    rows = rows_below("README.md", "open AUC minus that of cross-entropy")
    for arm, (_, _, on_photographs) in zip(arms, rows, strict=True):
        assert on_photographs == corrected_span(arm)


def corrected_span(arm: str) -> str:
    """Return a difference with the corrected interval."""
    return f"{span(effect(arm).estimate).partition(' ')[0]} {corrected(effect(arm))}"
