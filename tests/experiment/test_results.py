"""README says of the experiment what bench/results does."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from focus.experiment import frozen, report
from focus.experiment.statistics import Compared, Interval, t_interval

CHECKOUT = Path(__file__).parents[2]

Row = Mapping[str, str]


def read(name: str) -> list[Row]:
    path = CHECKOUT / "bench" / "results" / f"experiment-{name}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


TABLE, COMPARISONS = read("table"), read("comparisons")


def numbers(row: Row, *names: str) -> list[float]:
    return [float(row[name]) if row[name] else math.nan for name in names]


def over_seeds(name: str, arm: str, epochs: int) -> Interval:
    (row,) = (r for r in TABLE if (r["loss"], r["figure"], r["epochs"]) == (arm, name, str(epochs)))
    return Interval(*numbers(row, "mean", "sd", "t_low", "t_high"), int(row["n_seeds"]))


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
    assert [each for each in lines if each.startswith("| `")] == [line(arm) for arm in frozen.ARMS]
