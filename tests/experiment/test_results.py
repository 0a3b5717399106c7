"""bench/results says of the experiment what its own code makes of the runs, README what it says."""

import csv
import math
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from focus.experiment import frozen, report
from focus.experiment.statistics import (
    Compared,
    Floats,
    Interval,
    common_slope,
    holm,
    student_p,
    t_interval,
)

CHECKOUT = Path(__file__).parents[2]
ARMS, EPOCHS, SEEDS = tuple(frozen.ARMS), (20, 40), range(frozen.SEEDS)
# What six digits of a run's figure leave open in a bound of Student's interval.
DIGITS = {"rel": 1e-5, "abs": 5e-6}

Row = Mapping[str, str]


def read(name: str) -> list[Row]:
    path = CHECKOUT / "bench" / "results" / f"experiment-{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


RUNS, TABLE, COMPARISONS = (read(name) for name in ("runs", "table", "comparisons"))


def numbers(row: Row, *names: str) -> list[float]:
    return [float(row[name]) if row[name] else math.nan for name in names]


def all_runs(name: str) -> Floats:
    """A figure of the runs that have an arm, [A, L, S]."""
    places = {(r["loss"], int(r["epochs"]), int(r["seed"])): numbers(r, name)[0] for r in RUNS}
    return np.array([[[places[a, e, s] for s in SEEDS] for e in EPOCHS] for a in ARMS])


def over_seeds(name: str, arm: str, epochs: int) -> Interval:
    (row,) = (r for r in TABLE if (r["loss"], r["figure"], r["epochs"]) == (arm, name, str(epochs)))
    return Interval(*numbers(row, "mean", "sd", "t_low", "t_high"), int(row["n_seeds"]))


def test_the_runs_are_those_of_the_grid_and_the_table_is_theirs() -> None:
    found = [(row["loss"], int(row["epochs"]), int(row["seed"])) for row in RUNS]
    grid = [(arm, epochs, seed) for seed in SEEDS for epochs in EPOCHS for arm in ARMS]
    assert sorted(row for row in found if row[0] != "dose") == sorted(grid)
    for weight in frozen.DOSES:
        seeds = [row["seed"] for row in RUNS if row["focus_weight"] == str(float(weight))]
        assert sorted(map(int, seeds)) == list(SEEDS)
    figures = list(RUNS[0])[list(RUNS[0]).index("closed") :]
    assert len(TABLE) == len(ARMS) * len(EPOCHS) * len(figures)
    for name in figures:
        runs = all_runs(name)
        for a, arm in enumerate(ARMS):
            for e, epochs in enumerate(EPOCHS):
                expected = pytest.approx(astuple(t_interval(runs[a, e])), **DIGITS)
                assert astuple(over_seeds(name, arm, epochs)) == expected


def test_the_comparisons_are_those_of_the_runs() -> None:
    """But for the bootstrap, which needs the scores."""
    closed, opened = all_runs("closed"), all_runs("open")
    slope = float(common_slope(closed, opened, np.ones(len(SEEDS))))
    for row in COMPARISONS:
        arm, other, length = ARMS.index(row["loss"]), ARMS.index(row["other"]), int(row["length"])
        in_open, in_closed, matched = (
            t_interval(auc[arm, length - 1] - auc[other, length - 1])
            for auc in (opened, closed, opened - slope * closed)
        )
        names = ("difference", "closed_difference", "slope", "matched_difference")
        expected = [in_open.mean, in_closed.mean, slope, matched.mean]
        assert numbers(row, *names) == pytest.approx(expected, **DIGITS), row
        for prefix, seeds in (("", in_open), ("matched_", matched)):
            found = numbers(row, f"{prefix}t_low", f"{prefix}t_high")
            assert found == pytest.approx((seeds.low, seeds.high), **DIGITS), row
            assert numbers(row, f"{prefix}p")[0] >= student_p(seeds) - 1e-3
        primary = (row["loss"], row["other"], length) == (*frozen.PRIMARY, 1)
        assert row["primary"] == str(int(primary))
    others = [row for row in COMPARISONS if row["primary"] == "0"]
    adjusted = holm([numbers(row, "matched_p")[0] for row in others])
    assert [numbers(row, "p_holm")[0] for row in others] == pytest.approx(adjusted)


def line(arm: str) -> str:
    """Of README's table."""

    def against_ce(length: int) -> str:
        for row in COMPARISONS:
            if (row["loss"], row["other"], row["length"]) == (arm, frozen.BASELINE, str(length)):
                figures = numbers(
                    row, *(f"matched_{n}" for n in ("difference", "low", "high", "p"))
                )
                text = report.span(Compared(*figures, t_interval([])))
                return f"**{text}**" if row["primary"] == "1" else text
        return ""

    def mean(name: str, epochs: int = 20) -> float:
        return over_seeds(name, arm, epochs).mean

    entropy, *pointing = (
        f"{mean(name):.2f}".removeprefix("0")
        for name in ("entropy_open", "pointing_closed", "pointing_open")
    )
    cells = (
        f"`{arm}`",
        report.number(mean("closed")),
        report.number(mean("closed_balanced")),
        report.cell(over_seeds("open", arm, 20), interval=False),
        against_ce(1),
        report.number(mean("closed", 40)),
        report.cell(over_seeds("open", arm, 40), interval=False),
        against_ce(2),
        entropy,
        " / ".join(pointing),
    )
    return f"| {' | '.join(cells)} |"


def test_the_table_of_the_readme() -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    lines = text.partition("\n## The experiment\n")[2].partition("\n## ")[0].splitlines()
    assert [each for each in lines if each.startswith("| `")] == [line(arm) for arm in ARMS]
