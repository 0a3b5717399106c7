"""``python -m bench.head``: what it weighs and judges, and the memory of a training step."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # the programs of bench are not installed

from bench import head, timing  # noqa: E402


def test_peak_is_what_lives_at_once() -> None:
    def step() -> tuple[torch.Tensor, ...]:
        first = torch.zeros(1000)
        second = first + 1  # 8000 bytes live
        del first
        third = torch.cat([second, second])  # 12000
        del second
        return (third,)

    assert timing.peak_bytes(step) == 12000


@pytest.mark.parametrize("layout", head.LAYOUTS)
@pytest.mark.parametrize("shape", head.SHAPES[:3], ids=str)
def test_training_step_needs_little_more_than_the_gradient_of_the_features(
    shape: head.Shape, layout: str
) -> None:
    inputs = head.make_inputs(shape, layout)
    size = inputs.features.nbytes
    assert size < timing.peak_bytes(lambda: head.ours(inputs)) <= head.MEMORY_BAR * size
    if shape == head.SHAPES[0]:
        assert timing.peak_bytes(lambda: head.branches(inputs)) >= 3 * size


def test_ratio_is_that_of_pairs() -> None:
    slow_rounds = np.array([1.0, 10.0, 1.0, 1.0, 10.0])
    assert timing.ratio(2 * slow_rounds, slow_rounds) == (2, 2, 2)


@pytest.mark.parametrize(
    ("asked", "low", "high", "met"),
    [
        (("<=", 1.1), 1.0, 1.1, True),
        (("<=", 1.1), 1.0, 1.11, False),
        ((">=", 2.5), 2.5, 9.0, True),
        ((">=", 2.5), 2.4, 9.0, False),
        (None, 0.0, 9.0, None),
    ],
)
def test_a_bar_is_met_by_the_whole_interval(
    asked: tuple[str, float] | None, low: float, high: float, met: bool | None
) -> None:
    assert timing.judge(asked, low, high) is met


def test_steps_are_checked_before_they_are_timed() -> None:
    inputs = head.make_inputs((4, 16, 9), "nchw")
    head.check(inputs, head.steps_of(inputs))
    wrong = {"ours": lambda: tuple(g * 1.001 for g in head.ours(inputs))}
    with pytest.raises(SystemExit, match=r"ours is wrong: relative error 1\.0e-03"):
        head.check(inputs, wrong)


def test_program_sets_the_allocator_and_says_which_bars_are_met(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.head", "--shapes", "4x16x9", "--rounds", "3"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in timing.ALLOCATOR},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert "MALLOC_MMAP_THRESHOLD_ 4294967296" in lines[0]
    assert any(line.startswith("ours / plain: bar met in") for line in lines[-4:])
    kept = json.loads((tmp_path / "head.json").read_text())
    assert kept["settings"]["torch"] == torch.__version__
    with (tmp_path / "head.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(head.RATIOS) * len(head.LAYOUTS)
    assert [row["ratio"] for row in table] == [row["ratio"] for row in kept["rows"]]
