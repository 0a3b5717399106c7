"""The figures of README and of the experiment's pages follow from the tables in bench/results."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from focus.data.demo.benchmark import REAL_FACES, SPLITS, World, render_face
from focus.experiment.compare import (
    ArmTable,
    Effect,
    analyse,
    contrasted,
    over_draws,
    student_p,
    t_interval,
    write_tables,
)
from focus.experiment.frozen import GRID, RANGE
from focus.experiment.protocol import Protocol, minus
from focus.experiment.records import FIGURES
from focus.experiment.report import ends, number, signed, span

CHECKOUT = Path(__file__).parents[2]
RESULTS = CHECKOUT / "bench" / "results"
ARM_NAMES = {
    "`saliency`, *strong*": "saliency-strong",
    "`saliency`, *aggressive*": "saliency-aggressive",
    "`saliency`, *wide*": "wide",
    "`saliency`, *strong*, shuffled maps": "shuffled-strong",
}
"""Arms that the pages call by their doses."""


def read(page: str) -> str:
    """Return the text of a page, with a hyphen for each minus, as the report prints them."""
    return (CHECKOUT / page).read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")


def text_of(page: str) -> str:
    """Return the text of a page in one line."""
    return " ".join(read(page).split())


def rows_below(page: str, first_cells: str) -> list[list[str]]:
    """Return the cells of the table whose head begins with these, without head and rule."""
    _, head, after = read(page).partition(f"\n| {first_cells} |")
    assert head, first_cells
    lines = after.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def table_in(name: str) -> ArmTable:
    """Return the figures in a table of bench/results by arm and world, then draw."""
    table: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    with (RESULTS / name).open(newline="") as file:
        for row in csv.DictReader(file):
            figures = {figure: float(row[figure] or "nan") for figure in FIGURES}
            table.setdefault((row["arm"], row["world"]), {})[int(row["draw"])] = figures
    return table


def arm_in(cell: str) -> str:
    """Return the arm that a row of a table is of."""
    return ARM_NAMES.get(cell, cell.strip("`*"))


def in_hundredths(value: float) -> str:
    """Return ``.57``."""
    return f"{value:.2f}".removeprefix("0")


def effects_of(table: ArmTable, protocol: Protocol) -> dict[tuple[str, str, str], Effect]:
    """Return the comparisons by contrast, world and figure."""
    return {(e.contrast.name, e.world, e.figure): e for e in analyse(table, protocol)}


RANGE_TABLE = table_in("experiment-range.csv")
RANGE_EFFECTS = effects_of(RANGE_TABLE, RANGE)
GRID_TABLE = table_in("experiment-runs.csv")
GRID_EFFECTS = effects_of(GRID_TABLE, GRID)
FROZEN_TABLE = {**GRID_TABLE, **table_in("experiment-ce-24-epochs.csv")}
"""The first grid as it was frozen, with the baseline at 24 epochs."""


@pytest.mark.parametrize(
    ("runs", "comparisons", "protocol"),
    [
        (GRID_TABLE, "experiment-comparisons.csv", GRID),
        (RANGE_TABLE, "experiment-range-comparisons.csv", RANGE),
    ],
)
def test_the_comparisons_are_those_of_the_runs(
    runs: ArmTable, comparisons: str, protocol: Protocol, tmp_path: Path
) -> None:
    write_tables(runs, analyse(runs, protocol), tmp_path)
    assert (tmp_path / "comparisons.csv").read_text() == (RESULTS / comparisons).read_text()


def test_rows_of_the_main_result_name_settings_and_commit() -> None:
    with (RESULTS / "experiment-range.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 160
    assert all(re.fullmatch("[0-9a-f]{7,40}", row["commit"]) for row in rows)
    assert all("epochs 24" in row["settings"] for row in rows)
    with (RESULTS / "experiment-runs.csv").open(newline="") as file:
        without = [row for row in csv.DictReader(file) if not row["commit"]]
    assert (len(without), {row["arm"] for row in without} & {"ce"}) == (140, set())
    assert "of its 168 runs, 140 name no commit" in text_of("docs/first-grid.md")


def test_the_table_of_the_range() -> None:
    rows = rows_below("docs/experiment.md", "arm | open | open - `ce` [95 %] | closed-balanced")
    assert [arm_in(row[0]) for row in rows] == [arm for arm, _ in RANGE_TABLE]
    for first, *cells in rows:
        arm = arm_in(first)
        mean = {figure: over_draws(RANGE_TABLE, arm, "90", figure).mean for figure in FIGURES}
        effect = RANGE_EFFECTS.get((minus(arm, "ce").name, "90", "open"))
        assert cells == [
            number(mean["open"]),
            span(effect.estimate) if effect else "",
            number(mean["closed_balanced"]),
            number(mean["source"]),
            in_hundredths(mean["pointing"]),
            number(mean["entropy"]),
            number(mean["entropy_sum"]),
            number(mean["entropy_z"]),
            f"{mean['cam_range']:.0f}",
            in_hundredths(mean["peak_share"]),
            number(mean["ece"]),
        ]


def test_the_table_of_readme() -> None:
    arms = ("saliency", "strong", "aggressive")
    rows = rows_below("README.md", "open AUC minus that of cross-entropy")
    for arm, (_, on_drawn_faces, _) in zip(arms, rows, strict=True):
        effect = RANGE_EFFECTS[minus(arm, "ce").name, "90", "open"]
        assert on_drawn_faces == span(effect.estimate)
    right_maps, other_maps = (
        RANGE_EFFECTS[minus(arm, "ce").name, "90", "open"].estimate.mean
        for arm in ("saliency-strong", "shuffled-strong")
    )
    assert "half of that gain needs no map of the right image" in text_of("README.md")
    assert other_maps / right_maps == pytest.approx(0.5, abs=0.03)


def test_what_is_said_of_the_range() -> None:
    def estimate(contrast: str) -> str:
        return span(RANGE_EFFECTS[contrast, "90", "open"].estimate)

    def mean(arm: str, figure: str) -> float:
        return over_draws(RANGE_TABLE, arm, "90", figure).mean

    page = text_of("docs/experiment.md")
    right_maps, other_maps = (
        RANGE_EFFECTS[minus(arm, "ce").name, "90", "open"].estimate
        for arm in ("saliency-strong", "shuffled-strong")
    )
    interval = f"[{number(right_maps.low)}, {number(right_maps.high)}]"
    above = f".051 {interval} above `ce`, with maps of other images"
    assert f"{above} {number(other_maps.mean)} [{number(other_maps.low)}, " in page
    assert other_maps.mean / right_maps.mean == pytest.approx(0.5, abs=0.03)
    assert f"place is {estimate('`saliency-strong` - `shuffled-strong`')}" in page

    trend = RANGE_EFFECTS["linear, none ... aggressive", "90", "open"]
    frozen = (
        f"The frozen test, the linear trend from none to *aggressive*, is {span(trend.estimate)}"
    )
    assert frozen in page
    assert trend.role == "tested"
    assert f"(p by Holm {number(trend.p_holm)}, in a family" in page
    assert trend.at_equal_closed is not None
    assert f"At equal closed AUC it is {span(trend.at_equal_closed)}" in page
    to_strong = RANGE_EFFECTS["linear, none ... strong", "90", "open"].estimate
    unplanned = f"the linear trend is {span(to_strong)}"
    assert page.index(frozen) < page.index("**Not planned**") < page.index(unplanned)
    fall = [mean("ce", "entropy") - mean(arm, "entropy") for arm in ("strong", "aggressive")]
    assert f"across {100 * fall[0] / fall[1]:.0f} % of the fall of h" in page
    assert f"quadratic contrast is {estimate('quadratic, none ... aggressive')}" in page
    last = RANGE_EFFECTS["`aggressive` - `ce`", "90", "open"]
    assert last.joint is not None
    at_once = "where the intervals of all doses have to hold at once"
    joint = f"{span(last.estimate)}, and {ends(last.joint)} {at_once}"
    assert f"*aggressive* - `ce` is {joint}" in page
    ends_of_cost = (
        number(-end)
        for interval in (last.estimate, last.joint)
        for end in (interval.high, interval.low)
    )
    cost = "{} [{}, {}], and [{}, {}] " + at_once
    said = cost.format(number(-last.estimate.mean), *ends_of_cost)
    assert page.count(f"a weight of 1 costs {said}") == 2
    for dose in ("faint", "mild", "strong"):
        effect = RANGE_EFFECTS[f"`{dose}` - `ce`", "90", "open"]
        assert effect.joint is not None
        assert -0.015 < effect.joint.low < effect.joint.high < 0.015
        assert effect.p_same < 0.05

    narrow = RANGE_EFFECTS["`saliency-aggressive` - `wide`", "90", "open"]
    assert narrow.p_holm < 0.001
    assert signed(narrow.estimate.mean) == "-.021"
    assert "**Beside maps, *aggressive* is below *wide*** by .021 [.014, .029]" in page
    assert f"`saliency` - *wide* is {estimate('`saliency` - `wide`')}" in page
    arms = ("saliency", "saliency-aggressive", "wide")
    ranges = [f"{mean(arm, 'cam_range'):.0f}" for arm in arms]
    assert "its range is {} with maps alone, {} with *aggressive*, {} with".format(*ranges) in page
    sums = ", ".join(number(mean(arm, "entropy_sum")) for arm in arms)
    assert f"h_sum does not settle it ({sums})" in page


def test_the_share_of_scale_in_the_fall_of_the_entropy() -> None:
    with (RESULTS / "cam-scale.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def mean(column: str) -> float:
        return float(np.mean([float(row[column]) for row in rows]))

    share = t_interval([float(row["by_scale"]) for row in rows])
    page = text_of("docs/experiment.md")
    assert f"{mean('range_wide'):.0f} to {mean('range_narrow'):.0f}: h falls from" in page
    entropies = [number(mean(name)) for name in ("h_wide", "h_wide_rescaled", "h_narrow")]
    assert "h falls from {} to {}, that of `saliency` is {}.".format(*entropies) in page
    assert f"brings {number(share.mean)} {ends(share).replace('+', '')} of the fall" in page
    assert share.mean == pytest.approx(2 / 3, abs=0.02)
    assert all(re.fullmatch(r"ce-90-\d+", row["wide"]) for row in rows), "with the background"
    assert all(re.fullmatch(r"saliency-90-\d+", row["narrow"]) for row in rows)
    commit = json.loads((RESULTS / "cam-scale.json").read_text())["settings"]["commit"]
    assert f"from a working copy of {commit.removesuffix('-dirty')} with changes" in page
    assert commit.endswith("-dirty")


def test_the_doses_and_what_was_tried() -> None:
    tried = table_in("experiment-doses.csv")
    rows = rows_below("docs/experiment.md", "weight | validation entropy | validation AUC")
    for weight, entropy, auc in rows:
        arm = "ce" if weight == "0" else f"focus-{weight}"
        assert entropy == f"{over_draws(tried, arm, '90', 'validation_entropy').mean:.3f}"
        assert auc == f"{over_draws(tried, arm, '90', 'validation').mean:.3f}"


def test_the_table_of_the_first_grid() -> None:
    rows = rows_below("docs/first-grid.md", "arm | world 90: closed-balanced")
    for first, *cells in rows:
        arm = arm_in(first)
        mean = {figure: over_draws(GRID_TABLE, arm, "90", figure).mean for figure in FIGURES}
        assert cells[:2] == [number(mean["closed_balanced"]), number(mean["open"])]
        for cell, world in ((cells[2], "90"), (cells[7], "50")):
            effect = GRID_EFFECTS.get((minus(arm, "ce").name, world, "open"))
            assert cell.strip("*") == (span(effect.estimate) if effect else "")
        assert cells[3] == number(mean["source"])
        assert cells[4:6] == [in_hundredths(mean["entropy"]), in_hundredths(mean["pointing"])]
        assert cells[6] == number(over_draws(GRID_TABLE, arm, "50", "open").mean)


def test_both_figures_of_the_primary_stand_where_it_is_told() -> None:
    """As it was frozen and as it was changed: in the page, in the protocol and in its report."""
    rows = rows_below("docs/first-grid.md", "`blend` - `ce` | world 90: open")
    note = GRID.note
    for row, table in zip(rows, (FROZEN_TABLE, GRID_TABLE), strict=True):
        effects = effects_of(table, GRID)
        primary = effects["`blend` - `ce`", "90", "open"]
        assert primary.at_equal_closed is not None
        assert row[1:] == [
            span(primary.estimate),
            span(primary.at_equal_closed),
            span(effects["`blend` - `ce`", "50", "open"].estimate),
        ]
        assert span(primary.estimate) in note
        assert span(primary.estimate) in text_of("docs/experiment.md")


def test_what_is_said_of_the_first_grid() -> None:
    page = text_of("docs/first-grid.md")
    for world, said in (("90", "is {} in the world 90 (p by Holm"), ("50", "{} in the world 50:")):
        effect = GRID_EFFECTS["`blend` - `blend-shuffled`", world, "open"]
        assert said.format(span(effect.estimate)) in page

    below = GRID_EFFECTS["`blend` - `saliency`", "90", "open"].estimate
    values = [f"{-value:.4f}".lstrip("0") for value in (below.mean, below.high, below.low)]
    assert "by {} [{}, {}] (p .04, not planned)".format(*values) in page
    assert student_p(below) == pytest.approx(0.04, abs=0.005)

    control = minus("perfect-focus", "ce")
    recombined = contrasted(GRID_TABLE, control, "50", "recombined")
    assert (int(np.count_nonzero(recombined < 0)), len(recombined)) == (14, 14)
    lower = [
        -t_interval(recombined).mean,
        -t_interval(recombined).high,
        -t_interval(recombined).low,
    ]
    assert "in 14 of 14 draws, by {} [{}, {}]".format(*map(number, lower)) in page
    balanced = GRID_EFFECTS[control.name, "50", "closed_balanced"].estimate
    lower = [-balanced.mean, -balanced.high, -balanced.low]
    assert "closed-balanced AUC by {} [{}, {}]".format(*map(number, lower)) in page

    for world in ("90", "50"):
        longer = [
            FROZEN_TABLE["ce", world][draw]["open"] - GRID_TABLE["ce", world][draw]["open"]
            for draw in GRID_TABLE["ce", world]
        ]
        assert f"{span(t_interval(longer))} in the world {world}" in page
        fall = GRID_EFFECTS["`saliency` - `ce`", world, "entropy"].estimate
        assert f"{span(fall)} in the world {world}" in page


def test_the_border_holds_the_shortcut_and_no_map() -> None:
    """The outer seven pixels: what they are of the image, and of the mass of simulated maps."""
    maps, fake = [], []
    for generator in SPLITS["train"]:
        for image in range(60 if generator == REAL_FACES else 15):
            rendering = render_face("train", generator, image, World(100, 0.9))
            assert rendering.human_map is not None
            maps.append(rendering.human_map / rendering.human_map.sum())
            fake.append(generator != REAL_FACES)
    border = np.ones((64, 64), dtype=bool)
    border[7:-7, 7:-7] = False
    mass_in_border = np.array([human_map[border].sum() for human_map in maps])

    assert border.mean() == pytest.approx(0.39, abs=0.005)
    assert mass_in_border[fake].mean() == pytest.approx(0.02, abs=0.005)
    assert mass_in_border.mean() == pytest.approx(0.01, abs=0.005)
    page = text_of("docs/experiment.md")
    assert "The outer seven pixels are 39 % of the image and hold 2 % of the mass" in page
    assert "(1 % of all maps;" in page
