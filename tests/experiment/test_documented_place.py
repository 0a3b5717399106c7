"""The figures of the page on the experiment, section Place, follow from the table of its runs."""

import csv
import re

from focus.experiment.compare import Effect, analyse, over_draws, write_tables
from focus.experiment.frozen import PLACE
from focus.experiment.protocol import minus
from focus.experiment.records import FIGURES
from focus.experiment.report import number, span

from .test_documented import RESULTS, Path, effects_of, in_hundredths, rows_below, table_in, text_of

TABLE = table_in("experiment-place.csv")
EFFECTS = effects_of(TABLE, PLACE)
PAGE = "docs/experiment.md"
WORLDS = {"cast": "90-cast", "background": "90"}


def effect(arm: str, other: str, world: str, figure: str = "open") -> Effect:
    return EFFECTS[minus(arm, other).name, world, figure]


def test_all_runs_are_there_with_settings_and_commit(tmp_path: Path) -> None:
    with (RESULTS / "experiment-place.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72
    assert {row["commit"] for row in rows} == {"a562793"}
    assert all("epochs 6" in row["settings"] for row in rows)
    kept_last = sum(row["epoch"] == "6" for row in rows)
    assert f"kept is the last in {kept_last} of the {len(rows)} runs" in text_of(PAGE)
    write_tables(TABLE, analyse(TABLE, PLACE), tmp_path)
    written = (tmp_path / "comparisons.csv").read_text()
    assert written == (RESULTS / "experiment-place-comparisons.csv").read_text()


def test_the_table_of_place() -> None:
    rows = rows_below(PAGE, "shortcut | arm | open | open - `ce` [95 %]")
    assert [row[:2] for row in rows] == [
        [shortcut, arm] for shortcut in WORLDS for arm in ("`ce`", "`saliency`", "*shuffled*")
    ]
    for shortcut, first, *cells in rows:
        arm, world = first.strip("`*"), WORLDS[shortcut]
        mean = {figure: over_draws(TABLE, arm, world, figure).mean for figure in FIGURES}
        assert cells == [
            number(mean["open"]),
            "" if arm == "ce" else span(effect(arm, "ce", world).estimate),
            number(mean["closed_balanced"]),
            number(mean["source"]),
            in_hundredths(mean["pointing"]),
            number(mean["entropy"]),
        ]


def test_what_is_said_of_place() -> None:
    page = text_of(PAGE)
    primary, own_maps, interaction = (test.contrast.name for test in PLACE.tests)
    assert primary == interaction == minus("saliency", "ce").name
    assert own_maps == minus("saliency", "shuffled").name
    tested = (
        effect("saliency", "ce", "90-cast"),
        effect("saliency", "shuffled", "90-cast"),
        effect("saliency", "ce", "90 - 90-cast"),
    )
    described = (
        effect("saliency", "ce", "90"),
        effect("saliency", "shuffled", "90"),
        effect("saliency", "ce", "90-cast", "source"),
        effect("saliency", "ce", "90", "source"),
    )
    section = re.sub(r".*?## Place: (.*?) ## Scale.*", r"\1", page)
    for shown in (*tested, *described):
        assert span(shown.estimate) in section
    assert tested[0].p_same < 0.05, "it is called the same within .02"
    assert "(p .788), and by the test of" in section
    assert "smaller than .02 in either direction" in section
    lower_with_cast = [
        number(
            over_draws(TABLE, "ce", "90", figure).mean
            - over_draws(TABLE, "ce", "90-cast", figure).mean
        )
        for figure in ("open", "closed_balanced")
    ]
    said = "with the cast `ce` is {} lower in open AUC and {} in closed-balanced AUC"
    assert said.format(*lower_with_cast) in section
    in_readme = (
        f"no gain was seen after {PLACE.settings['epochs']} epochs ({span(tested[0].estimate)})"
    )
    assert in_readme in text_of("README.md")
    lines = page[: page.index("## What to take")]
    assert span(tested[0].estimate) in lines
    assert span(tested[2].estimate) in lines
