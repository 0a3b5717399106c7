"""What a set costs as it grows is measured, each phase at each size."""

import csv
from pathlib import Path

import pytest

from bench.scale import PHASES, straightness

from ..launching import CHECKOUT, run


def test_a_line_is_straight_and_a_square_is_not() -> None:
    sizes = (30, 300, 3000)
    assert straightness([(n, 5 + 2.0 * n) for n in sizes]) == 1
    assert straightness([(n, float(n * n)) for n in sizes]) == 10


@pytest.mark.slow
def test_each_phase_is_measured_at_each_size(tmp_path: Path) -> None:
    phases = [name for name in PHASES if name != "compare"]  # whose plots take a minute
    words = ("--sizes", 100, 200, 300, "--phases", *phases, "--output", tmp_path)
    done = run("-m", "bench.scale", *words, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "scale.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["images"]) for row in rows] == [
        (phase, size) for size in ("100", "200", "300") for phase in phases
    ]
    assert all(float(row["CPU seconds"]) >= 0 for row in rows)
    assert all(row["straight"] for row in rows[-len(phases) :])
