"""``python -m bench.growth``: fitted slopes, and the sizes between which they are fitted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import growth, tables, timing
from bench.growth import Point


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_slope_of_a_power_is_its_exponent(power: float) -> None:
    sizes = [10, 20, 40, 160]
    noise = np.array([1.0, 1.3, 0.8, 1.0, 1.0])  # of a round, the same for all sizes
    values = 7 * np.array(sizes, float)[:, None] ** power * noise
    assert growth.fit(sizes, values) == pytest.approx((power, power, power))


def test_fixed_costs_flatten_a_slope_and_noise_widens_its_interval() -> None:
    sizes = [1, 2, 4]
    values = np.array([10.0 + size for size in sizes])[:, None].repeat(9, 1)
    slope, low, high = growth.fit(sizes, values)
    # log(14 / 11) / log 4 between the ends.
    assert slope == pytest.approx(0.174, abs=0.001)
    assert low == high == pytest.approx(slope)
    noisy = values * np.random.default_rng(1).uniform(0.5, 2, values.shape)
    slope, low, high = growth.fit(sizes, noisy)
    assert low < slope < high
    assert high - low > 0.1


@pytest.mark.parametrize("against", ["batch", "channels", "cells"])
def test_the_features_are_larger_than_a_cache_and_grow_eightfold(against: str) -> None:
    points = growth.POINTS[against]
    megabytes = [4 * p.batch * p.channels * p.cells / 1e6 for p in points]
    assert min(megabytes) > 50
    assert megabytes[-1] / megabytes[0] == pytest.approx(8, rel=0.03)
    fixed = set(Point._fields) - {against}
    assert all(len({getattr(point, name) for point in points}) == 1 for name in fixed)


def test_only_ours_is_held_to_the_bar_and_not_against_the_classes() -> None:
    sizes, values = [1, 2], np.array([[1.0, 1.0], [2.1, 2.1]])  # a slope of 1.07

    def met(provider: str, against: str, values: np.ndarray) -> bool | None:
        labels = provider, "nchw", "fp32", against
        return growth.make_slope(labels, "time", sizes, values).met

    assert met("ours", "cells", values) is False
    assert met("ours", "cells", np.sqrt(values)) is True
    assert met("plain", "cells", values) is met("ours", "classes", values) is None


@pytest.mark.usefixtures("plain_cpu")
def test_program_writes_sizes_and_slopes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {
        "batch": [Point(batch, 512, 49) for batch in (20, 40, 80)],
        "classes": [Point(4, 64, 16, classes) for classes in (2, 16)],
    }
    monkeypatch.setattr(growth, "POINTS", points)
    for name, value in timing.ALLOCATOR.items():
        monkeypatch.setenv(name, value)  # else the program would start again
    monkeypatch.setattr(sys, "argv", ["growth", "--rounds", "3", "--output", str(tmp_path)])
    growth.main()
    sizes, slopes = tables.read(tmp_path, "growth"), tables.read(tmp_path, "growth-slopes")
    # Of both layouts, ours and plain at all sizes, and their slopes of time and memory.
    assert len(sizes) == 2 * 2 * (3 + 2)
    assert len(slopes) == 2 * 2 * 2 * 2
    for row in sizes:
        features = 4 * int(row["batch"]) * int(row["channels"]) * int(row["cells"]) / 1e6
        assert float(row["megabytes"]) >= features
        assert 0 < float(row["low"]) <= float(row["milliseconds"]) <= float(row["high"])
    of_memory = {
        (row["provider"], row["layout"]): float(row["slope"])
        for row in slopes
        if (row["quantity"], row["against"]) == ("memory", "batch")
    }
    assert len(of_memory) == 4
    assert all(slope == pytest.approx(1, abs=0.05) for slope in of_memory.values())
    settings = json.loads((tmp_path / "growth-slopes.json").read_text())["settings"]
    assert (settings["command"], settings["rounds"]) == ("python -m bench.growth", 3)
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.endswith(" met") for line in printed) >= 2
    assert len(printed) == 2 + len(slopes)
