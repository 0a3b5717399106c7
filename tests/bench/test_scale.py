"""What a set costs as it grows is measured, each phase at each size, and a run goes on."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.scale import straightness, verdicts

from ..launching import CHECKOUT, run


def test_a_line_is_straight_and_a_square_is_not() -> None:
    sizes = (30, 300, 3000)
    assert straightness([(n, 5 + 2.0 * n) for n in sizes]) == 1
    assert straightness([(n, float(n * n)) for n in sizes]) == 10
    assert straightness([(n, 0.1) for n in sizes]) is None


def test_a_verdict_is_of_the_rows_of_a_phase_that_has_three_sizes() -> None:
    seconds = {"table": (1.0, 10.0, 110.0), "scores": (1.0, 10.0, 150.0), "copies": (1.0, 10.0)}
    rows = [
        {"phase": phase, "images": 3 * 10**power, "CPU seconds": str(value)}
        for phase, values in seconds.items()
        for power, value in enumerate(values, start=4)
    ]
    assert verdicts(reversed(rows)) == {
        "table": "straight within 15%: the last slope is 1.11 of the first",
        "scores": "not straight within 15%: the last slope is 1.56 of the first",
    }


def measure(output: Path, sizes: Sequence[int], phases: Sequence[str]) -> list[dict[str, str]]:
    """Run the benchmark at small sizes; return all rows that are there then."""
    words = ("--sizes", *sizes, "--phases", *phases, "--output", output)
    done = run("-m", "bench.scale", *words, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    with (output / "scale.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_each_phase_is_measured_once_at_each_size(tmp_path: Path) -> None:
    """The second run lacks what the first one left, as after a kill between two phases."""
    phases = ["folder", "pass", "table", "scores"]
    before = measure(tmp_path, [100], phases)
    assert [(row["phase"], row["images"]) for row in before] == [(name, "100") for name in phases]
    assert all(float(row["CPU seconds"]) >= 0 for row in before)

    lines = (tmp_path / "scale.csv").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("pass,100,")]
    assert len(kept) == len(lines) - 1
    (tmp_path / "scale.csv").write_text("".join(kept))
    after = measure(tmp_path, [100, 200], ["table", "pass"])
    assert after[: len(phases) - 1] == [row for row in before if row["phase"] != "pass"]
    assert [(row["phase"], row["images"]) for row in after[len(phases) - 1 :]] == [
        ("pass", "100"),
        ("table", "200"),
        ("pass", "200"),
    ]
