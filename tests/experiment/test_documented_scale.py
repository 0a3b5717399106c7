"""The figures of the page on the experiment, section Scale, follow from the table of its runs."""

import csv
from pathlib import Path

from focus.experiment.compare import analyse, over_draws, write_tables
from focus.experiment.frozen import SCALE
from focus.experiment.protocol import minus
from focus.experiment.records import FIGURES
from focus.experiment.report import number, span

from .test_documented import RESULTS, effects_of, in_hundredths, rows_below, table_in, text_of

PAGE = "docs/experiment.md"
TABLE = table_in("experiment-scale.csv")
EFFECTS = effects_of(TABLE, SCALE)
AIMED = {"range-held": "cam_range", "shape-held": "entropy_z"}


def test_all_runs_are_there_with_settings_and_commit(tmp_path: Path) -> None:
    with (RESULTS / "experiment-scale.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SCALE.arms) * len(SCALE.units) == 48
    assert {row["commit"] for row in rows} == {"78a8b51e"}
    assert all("epochs 6" in row["settings"] for row in rows)
    write_tables(TABLE, analyse(TABLE, SCALE), tmp_path)
    written = (tmp_path / "comparisons.csv").read_text()
    assert written == (RESULTS / "experiment-scale-comparisons.csv").read_text()


def test_the_table_of_scale() -> None:
    rows = rows_below(PAGE, "arm | open | open - *wide* [95 %]")
    arms = ["saliency-aggressive" if "aggressive" in row[0] else row[0].strip("`*") for row in rows]
    assert arms == [*SCALE.arms]
    for arm, (_, *cells) in zip(arms, rows, strict=True):
        mean = {figure: over_draws(TABLE, arm, "90", figure).mean for figure in FIGURES}
        difference = EFFECTS.get((minus(arm, "wide").name, "90", "open"))
        assert cells == [
            number(mean["open"]),
            span(difference.estimate) if difference else "",
            number(mean["closed_balanced"]),
            number(mean["source"]),
            in_hundredths(mean["pointing"]),
            f"{mean['cam_range']:.1f}",
            number(mean["entropy"]),
            number(mean["entropy_z"]),
        ]


def test_what_is_said_of_scale() -> None:
    page = text_of(PAGE)
    section = page.partition("## Scale")[2].partition("## Photographs")[0]
    for test in SCALE.tests:
        tested = EFFECTS[test.contrast.name, "90", "open"]
        p_value = "< .001" if tested.p_holm < 0.001 else number(tested.p_holm)
        assert f"{span(tested.estimate)} (p by Holm {p_value})" in section
        assert span(tested.estimate) in page[: page.index("## What to take")]
    between = EFFECTS[minus("range-held", "shape-held").name, "90", "open"]
    assert span(between.estimate) in section


def test_aims_are_what_wide_had_on_the_spare_draws() -> None:
    with (RESULTS / "experiment-scale-aims.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    section = text_of(PAGE).partition("## Scale")[2].partition("## Photographs")[0]
    for arm, figure, decimals in (("range-held", "range", 1), ("shape-held", "h_z", 2)):
        means = [
            sum(float(row[figure]) for row in rows if row["arm"] == name) / 3
            for name in ("wide", arm)
        ]
        aimed, reached = (f"{mean:.{decimals}f}".removeprefix("0") for mean in means)
        assert f"{aimed} of *wide*, {reached} of *{arm}*" in section
