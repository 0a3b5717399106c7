"""What the experiment compares, writes and draws of its runs: on invented outcomes."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus.config.experiment import ExperimentConfig
from focus.data.manifest import Manifest, Sample
from focus.evaluation.results import write_results
from focus.experiment.__main__ import make_setup
from focus.experiment.compare import ArmTable, Effect, analyse, t_interval, table_of, write_tables
from focus.experiment.frozen import GRID, PLACE, RANGE
from focus.experiment.protocol import Protocol, grid
from focus.experiment.records import FIGURES, GRADES, Outcome, outcome, whole_units
from focus.experiment.report import gain_by_grade, open_auc_by_entropy, signed, write_report

from ..evaluation.few_scores import summarise, table

GAINS = {"blend": 0.06, "saliency": 0.05, "focus": 0.02, "perfect-focus": 0.1}


def invented(
    folder: Path, gains: Mapping[str, float], draws: int = 20, sd: float = 0.02, **settings: Any
) -> list[Outcome]:
    """Outcomes of a protocol: arms gain in open AUC in one world, half as much in the other."""
    draw = np.random.default_rng(0)
    setup = make_setup(ExperimentConfig(output=str(folder), **settings))
    units = setup.protocol.units[:draws]
    difficulty = dict(zip(units, draw.normal(0.75, 0.05, draws), strict=True))
    outcomes = []
    for run in grid(setup, setup.protocol.arms, units):
        gain = gains.get(run.arm, 0) / (1 if run.world == "90" else 2)
        figures = dict.fromkeys(FIGURES, 0.4) | {"chance": 0.06, "epoch": 12}
        figures["entropy"] = 0.6 - gain
        figures["open"] = difficulty[run.unit] + gain + draw.normal(0, sd)
        for number, grade in enumerate(GRADES):
            figures[grade] = difficulty[run.unit] + gain * (1 - number / 3) + draw.normal(0, sd)
        outcomes.append(Outcome(run, figures, "c0ffee"))
    return outcomes


def reported(
    folder: Path,
    outcomes: list[Outcome],
    protocol: Protocol = GRID,
    spare: ArmTable | None = None,
) -> tuple[str, list[Effect], ArmTable]:
    arm_table = table_of(outcomes)
    comparisons = analyse(arm_table, protocol)
    write_tables(arm_table, comparisons, folder)
    text = write_report(
        arm_table,
        comparisons,
        folder,
        missing=["1 run failed"],
        spare=spare or {},
        note=protocol.note,
    )
    return text, comparisons, arm_table


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        (GAINS, "**`blend` - `ce` is above 0:** `blend` - `ce`, 90: +.0"),
        (GAINS | {"blend": -0.06}, "**`blend` - `ce` is BELOW 0:** `blend` - `ce`, 90: -.0"),
        ({"perfect-focus": 0.1}, "**`blend` - `ce` is not told from 0, and within .020 of it:**"),
    ],
)
def test_the_report_says_it_whichever_way_it_came_out(
    tmp_path: Path, gains: dict[str, float], verdict: str
) -> None:
    text, comparisons, _ = reported(tmp_path, invented(tmp_path, gains))
    assert text == (tmp_path / "report.md").read_text()
    assert verdict in text
    assert "- 1 run failed\n" in text
    assert "**Changed after results had been seen.** `ce` was frozen at 24 epochs on 30 Nov" in text
    assert "Human maps are simulated: they are drawn from the masks of the artefacts" in text
    # Each difference is paired within a draw, so how hard a draw is does not matter.
    primary = comparisons[0]
    assert (primary.name, primary.role) == ("`blend` - `ce`, 90", "primary")
    assert primary.estimate.mean == pytest.approx(gains.get("blend", 0), abs=0.02)
    assert primary.estimate.sd < 0.05
    tested = [c for c in comparisons if c.role]
    assert [c.name for c in tested[1:]] == [
        "`focus` - `ce`, 90",
        "`blend` - `blend-shuffled`, 90",
        "`blend` - `ce`, 90 - 50",
    ]
    assert math.isnan(primary.p_holm)
    assert all(c.p_holm >= c.p for c in tested[1:])


def test_control_and_room_are_judged_in_each_world(tmp_path: Path) -> None:
    outcomes = [
        replace(
            o, figures={**o.figures, "open": 0.7, "closed_balanced": 0.36 + 0.0002 * o.run.unit}
        )
        if (o.run.arm, o.run.world) == ("perfect-focus", "50")
        else o
        for o in invented(tmp_path, GAINS)
    ]
    gains = {"oracle": 0.08, "perfect-focus": 0.02}  # half as much in the world 50
    spare = table_of(invented(tmp_path, gains, draws=3, sd=0, headroom=True))
    text, *_ = reported(tmp_path, outcomes, spare=spare)
    first, second = text.split("Shortcut agrees with the label in ")[1:]
    assert "Positive control: `perfect-focus` - `ce` is +.1" in first
    assert "Room: `oracle` - `ce` is +.080 on 3 spare draws." in first
    assert "**Whether simulated maps can help here is not known:** with the exact places" in second
    assert "The control underfits: on closed-balanced images it is -.038 [-.0" in second
    assert "So it does not say that simulated maps cannot help." in second
    assert "**No room for a difference:** `oracle` - `ce` is +.040 on 3 spare draws." in second
    # Of a gate that is not whole, the draws that have both: the third is easier than their mean.
    for arm in (key for key in spare if key[0] == "oracle"):
        spare[arm].pop(100)
        spare[arm].pop(101)
    text, *_ = reported(tmp_path, outcomes, spare=spare)
    assert "**No room for a difference:** `oracle` - `ce` is +.040 on 1 spare draws." in text


def test_holm_counts_the_interaction_before_it_is_run(tmp_path: Path) -> None:
    outcomes = [o for o in invented(tmp_path, {}) if o.run.world == "90"]
    comparisons = analyse(table_of(outcomes), GRID)
    first, second = sorted((c for c in comparisons if c.role == "secondary"), key=lambda c: c.p)
    assert first.p_holm == pytest.approx(min(3 * first.p, 1))
    assert second.p_holm == pytest.approx(min(max(2 * second.p, 3 * first.p), 1))


def test_an_interval_that_ends_just_below_0_does_not_look_as_if_it_had_0() -> None:
    assert [signed(value) for value in (-0.0002, -0.0, 0.0002)] == ["-.000", "+.000", "+.000"]


def test_few_draws_give_no_verdict(tmp_path: Path) -> None:
    text, *_ = reported(tmp_path, invented(tmp_path, GAINS, draws=2))
    assert "**No verdict.** `blend` - `ce`, 90: +" in text
    assert "above 0" not in text


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_hold_what_the_report_says(tmp_path: Path) -> None:
    outcomes = invented(tmp_path, GAINS)
    text, comparisons, _ = reported(tmp_path, outcomes)
    assert text.count("| `blend` | 20 |") == 2
    mine = [o.figures["open"] for o in outcomes if (o.run.arm, o.run.world) == ("blend", "50")]
    (row,) = (
        r for r in rows(tmp_path / "table.csv") if list(r.values())[:3] == ["blend", "50", "open"]
    )
    assert float(row["mean"]) == pytest.approx(np.mean(mine), abs=1e-5)
    assert float(row["sd"]) == pytest.approx(np.std(mine, ddof=1), abs=1e-5)
    compared = rows(tmp_path / "comparisons.csv")
    (row,) = (r for r in compared if r["role"] == "primary")
    assert float(row["low"]) == pytest.approx(comparisons[0].estimate.low, abs=1e-5)
    # Gains by grade, and in what else is looked at, are there, untested.
    assert sum(r["figure"] == "far" and not r["role"] for r in compared) > 10
    assert row["low_at_equal_closed"] == ""  # closed AUC is the same in all of these runs
    (row,) = (r for r in compared if list(r.values())[:3] == ["`blend` - `ce`", "90", "entropy"])
    assert float(row["mean"]) == pytest.approx(-GAINS["blend"])


def test_the_interaction_is_the_difference_of_paired_differences(tmp_path: Path) -> None:
    arm_table = table_of(invented(tmp_path, GAINS))
    differences = [
        (arm_table["blend", "90"][n]["open"] - arm_table["ce", "90"][n]["open"])
        - (arm_table["blend", "50"][n]["open"] - arm_table["ce", "50"][n]["open"])
        for n in range(20)
    ]
    (mine,) = (c for c in analyse(arm_table, GRID) if c.world == "90 - 50")
    assert (mine.estimate.low, mine.estimate.high) == pytest.approx(
        (t_interval(differences).low, t_interval(differences).high)
    )


def test_an_interaction_of_other_worlds_is_that_of_its_protocol(tmp_path: Path) -> None:
    """Maps gain .06 with the background, half of it with the cast: .03 more."""
    outcomes = invented(tmp_path, {"saliency": 0.06}, draws=12, sd=0.002, place=True)
    text, comparisons, _ = reported(tmp_path, outcomes, PLACE)
    tested = {c.name: c.estimate.mean for c in comparisons if c.role}
    assert tested == pytest.approx(
        {
            "`saliency` - `ce`, 90-cast": 0.03,
            "`saliency` - `shuffled`, 90-cast": 0.03,
            "`saliency` - `ce`, 90 - 90-cast": 0.03,
        },
        abs=0.004,
    )
    assert "**`saliency` - `ce` is above 0:** `saliency` - `ce`, 90-cast: +.0" in text
    assert "in 90 % of the training images; it is a cast of the whole picture." in text
    assert "`shuffled`, 90 |  | +.0" in text


def test_a_gain_in_closed_auc_is_no_gain_at_equal_closed_auc(tmp_path: Path) -> None:
    """A loss that gains twice in open AUC what it gains in closed, and nothing else."""
    draw = np.random.default_rng(1)
    outcomes = []
    for o in invented(tmp_path, {}, sd=0):
        gain = draw.normal(0.03, 0.01) if o.run.arm == "blend" else 0
        opened = o.figures["open"] + 2 * gain + draw.normal(0, 0.002)
        outcomes.append(replace(o, figures={**o.figures, "closed": 0.9 + gain, "open": opened}))
    text, comparisons, _ = reported(tmp_path, outcomes)
    primary = comparisons[0]
    assert primary.estimate.low > 0.04
    assert primary.at_equal_closed is not None
    assert primary.at_equal_closed.low < 0 < primary.at_equal_closed.high
    (row,) = (r for r in rows(tmp_path / "comparisons.csv") if r["role"] == "primary")
    assert float(row["at_equal_closed"]) == pytest.approx(primary.at_equal_closed.mean, abs=1e-5)
    assert "| at equal closed AUC |" in text


def test_the_trend_of_the_range_is_that_of_a_line(tmp_path: Path) -> None:
    """Doses that gain .00, .01, .02, .03, .04: end to end .04, no bend; each above none at once."""
    doses = ("faint", "mild", "strong", "aggressive")
    gains = {dose: 0.01 * n for n, dose in enumerate(doses, start=1)} | {"exact-5": 0.2}
    outcomes = invented(tmp_path, gains, draws=16, sd=0.002, range=True)
    text, comparisons, arm_table = reported(tmp_path, outcomes, RANGE)
    open_comparisons = {c.name: c for c in comparisons if c.figure == "open"}
    linear, bend = (
        open_comparisons["linear, none ... aggressive, 90"],
        open_comparisons["quadratic, none ... aggressive, 90"],
    )
    assert linear.estimate.mean == pytest.approx(0.04, abs=0.002)
    assert bend.estimate.mean == pytest.approx(0, abs=0.003)
    slopes = [
        np.polyfit(np.arange(5) / 4, [arm_table[a, "90"][n]["open"] for a in ("ce", *doses)], 1)[0]
        for n in RANGE.units
    ]
    assert linear.estimate.low == pytest.approx(t_interval(slopes).low)
    assert [c.role for c in comparisons[:4]] == ["tested"] * 3 + [""]
    assert "**linear, none ... aggressive is above 0:**" in text
    for dose in doses:
        mine = open_comparisons[f"`{dose}` - `ce`, 90"]
        assert mine.joint is not None
        assert mine.joint.low < mine.estimate.low < mine.estimate.high < mine.joint.high
    assert open_comparisons["`saliency` - `ce`, 90"].joint is None
    assert "Positive control: `exact-5` - `ce` is +.1" in text
    # What is described, without a test, is in the report, too.
    assert "| quadratic, none ... aggressive, 50 |  | " in text
    # From none to strong, three quarters of the way.
    assert open_comparisons["linear, none ... strong, 90"].estimate.mean == pytest.approx(
        0.03, abs=0.002
    )
    assert "| `saliency-strong` - `shuffled-strong`, 90 |  | " in text


def test_pictures_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    outcomes = invented(tmp_path, GAINS)
    arm_table = table_of(outcomes)
    assert gain_by_grade(analyse(arm_table, GRID), tmp_path / "gain.png")
    assert not open_auc_by_entropy(arm_table, GRID.series, tmp_path / "none.png")
    doses = table_of(invented(tmp_path, GAINS, draws=3, range=True))
    assert open_auc_by_entropy(doses, RANGE.series, tmp_path / "range.png")
    nowhere = dict.fromkeys(GRADES, math.nan)
    ungraded = {
        arm: {unit: {**figures, **nowhere} for unit, figures in units.items()}
        for arm, units in arm_table.items()
    }
    assert not gain_by_grade(analyse(ungraded, GRID), tmp_path / "none.png")
    assert {path.name for path in tmp_path.glob("*.png")} == {"gain.png", "range.png"}


def test_only_whole_draws_are_reported(tmp_path: Path) -> None:
    runs = [o.run for o in invented(tmp_path, {}, draws=3)]
    names = {run.name for run in runs}
    assert whole_units(runs, names) == {0, 1, 2}
    assert whole_units(runs, names - {"blend-50-01"}) == {0, 2}


def test_the_figures_of_a_run_by_hand(tmp_path: Path) -> None:
    """Its files: a near and a far unknown generator; the real images of source 1 score higher."""
    rows = [(0, "", "closed", 0.4), (0, "", "closed", 0.6), (1, "k", "closed", 0.5)]
    rows += [(0, "", "closed_balanced", 0.5), (1, "k", "closed_balanced", 0.9)]
    rows += [(0, "", "open", 0.2), (0, "", "open", 0.6)]
    rows += [(1, "far-1", "open", 0.4), (1, "far-1", "open", 0.9), (1, "near-1", "open", 0.7)]
    scores = table(
        rows,
        path=[f"/i/{row}.png" for row in range(10)],
        entropy_predicted=[0.5, 0.25, 0, *[1] * 7],
        pointing_hit=[-1, -1, 1, -1, 0, -1, -1, 1, 0, 0],
    )
    (run,) = grid(
        make_setup(ExperimentConfig(output=str(tmp_path), quick=True)), {"ce": GRID.arms["ce"]}, [0]
    )
    results = summarise(scores, ["k"]) | {"model": {"validation_auc": 0.97, "epoch": 12}}
    results["provenance"] = {"commit": "c0ffee"}
    write_results(run.folder, scores, results)
    sources = {0: "1", 1: "0", 3: "0", 5: "0", 6: "1"}
    samples = []
    for row, (label, generator, test_set, _) in enumerate(rows):
        extra = {"source": sources.get(row, "1")}
        if "-" in generator:
            extra["grade"] = generator.partition("-")[0]
        path = f"/i/{row}.png"
        fields: dict[str, Any] = {"split": "test", "test_set": test_set, "extra": extra}
        samples.append(Sample(path, label, generator, **fields))
    Manifest(samples).to_csv(run.folder / "manifest.csv")
    (run.folder / "summary.csv").write_text("epoch,eval_entropy\n11,.5\n12,.4\n13,.3\n")
    figures = outcome(run).figures
    assert outcome(run).commit == "c0ffee"
    assert list(figures) == list(FIGURES)
    wanted = {
        "closed": 0.5,
        "closed_balanced": 1,
        "open": 0.875,
        "near": 1,
        "far": 0.75,
        # .6 is above .5 and .2; the closed set, where the shortcut speaks, does not count.
        "source": 1,
        "pointing": 1 / 3,
        "entropy": 1,
        "validation": 0.97,
        "validation_entropy": 0.4,
        "epoch": 12,
    }
    assert {name: figures[name] for name in wanted} == pytest.approx(wanted)
    assert math.isnan(figures["global"])
    assert json.loads((run.folder / "results.json").read_text())["open"]["n_generators"] == 2
