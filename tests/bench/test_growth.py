"""The growth of the head: fitted slopes."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import growth, harness
from bench.growth import Point


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_the_slope_of_a_power_is_its_exponent(power: float) -> None:
    sizes = [10, 20, 40, 160]
    noise = np.array([1.0, 1.3, 0.8, 1.0, 1.0])  # of a round, the same for all sizes
    values = 7 * np.array(sizes, float)[:, None] ** power * noise
    assert growth.fit(sizes, values) == pytest.approx((power, power, power))


@pytest.mark.usefixtures("plain_cpu")
def test_the_program_writes_slopes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    points = {"batch": [Point(batch, 512, 49) for batch in (20, 40, 80)]}
    monkeypatch.setattr(growth, "POINTS", points)
    for name, value in harness.ALLOCATOR.items():
        monkeypatch.setenv(name, value)  # else the program would start again
    words = ["growth", "--rounds", "3", "--short", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    growth.main()
    kept = json.loads((tmp_path / "growth.json").read_text())
    assert kept["settings"]["command"] == "python -m bench.growth --short"
    assert (kept["settings"]["rounds"], len(kept["rows"])) == (3, 4)
    memory = [row["slope"] for row in kept["rows"] if row["quantity"] == "memory"]
    assert memory == pytest.approx([1, 1], abs=0.05)
