"""``python -m bench.step``: what its steps compute, the predecessor's loss, bars and rows."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import step, timing
from bench.predecessor import predecessor
from focus.data.dataset import Batch
from focus.model.detector import Detector

ROOT = Path(__file__).parents[2]

SMALL = "test_resnet"


def program(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.step", *map(str, words)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in timing.ALLOCATOR},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def forwards(detector: Detector) -> int:
    """How often the network has been run in training mode."""
    counts = {int(v) for k, v in detector.state_dict().items() if "num_batches" in k}
    assert len(counts) == 1
    return counts.pop()


def test_losses_and_gradients_are_those_of_the_reference() -> None:
    losses = step.losses_of(SMALL)
    losses["twice"] = lambda d, b: predecessor(d, b, second_forward=True)
    step.check(SMALL, losses)


def test_a_wrong_loss_is_not_timed() -> None:
    def scaled(detector: Detector, batch: Batch) -> Tensor:
        return step.ours(detector, batch) * (1 + 1e-6)

    def without_a_gradient(detector: Detector, batch: Batch) -> Tensor:
        loss = step.eager(detector, batch)
        weight = detector.head.fc.weight
        return loss - (1e-6 * (weight - weight.detach())).sum()

    with pytest.raises(SystemExit, match=r"ours is wrong: relative error 1\.0e-06"):
        step.check(SMALL, {"ours": scaled})
    with pytest.raises(SystemExit, match="eager is wrong"):
        step.check(SMALL, {"eager": without_a_gradient})


def test_the_predecessor_divides_by_the_range_of_a_flat_cam() -> None:
    detector = step.make_detector(SMALL, 64)
    torch.nn.init.zeros_(detector.head.fc.weight)
    batch = step.make_batch(detector, 2)
    assert step.ours(detector, batch).isfinite()
    loss = predecessor(detector, batch, second_forward=False)
    assert loss.isnan()
    with pytest.raises(SystemExit, match="test_resnet was trained to the loss nan"):
        step.steps_of(detector, 2, step.losses_of(SMALL))["predecessor"]()


def test_only_the_predecessor_runs_a_densenet_twice() -> None:
    detector = step.make_detector("densenet121", 64)
    batch = step.make_batch(detector, 2)
    runs = {}
    for name, loss_of in step.losses_of("densenet121").items():
        before = forwards(detector)
        with torch.no_grad():
            loss_of(detector, batch)
        runs[name] = forwards(detector) - before
    assert runs == {
        **dict.fromkeys(("CE", "CE again", "ours", "eager"), 1),
        "predecessor": 2,
        "predecessor, one forward": 1,
    }
    assert step.ONE_FORWARD not in step.losses_of("resnet50")


def test_a_step_trains_as_the_recipe_does() -> None:
    """Two steps of SGD with momentum and weight decay, against its formula."""
    detector = step.make_detector(SMALL, 64)
    weight = detector.head.fc.weight
    steps = step.steps_of(detector, 2, step.losses_of(SMALL))
    batch = step.make_batch(detector, 2)
    velocity, expected = torch.zeros_like(weight), weight.detach().clone()
    for _ in range(2):
        (gradient,) = torch.autograd.grad(step.ours(detector, batch), [weight])
        velocity = 0.9 * velocity + gradient + 1e-6 * expected
        expected = expected - 0.005 * velocity
        steps["ours"]()
        torch.testing.assert_close(weight.detach(), expected)
    steps["head"]()
    torch.testing.assert_close(weight.detach(), expected)
    assert weight.grad is None


def test_rows_are_ratios_of_the_steps_with_bars_beyond_the_spread() -> None:
    unit = np.array([1.0, 3.0, 1.0, 3.0, 1.0])
    seconds = {
        "CE": unit,
        "CE again": unit * [0.98, 1.0, 1.0, 1.0, 1.01],
        "ours": unit * 1.03,
        "eager": unit * 2.06,
        "predecessor": unit * 2.0,
        step.ONE_FORWARD: unit * 1.03,
        "head": unit * 0.0103,
    }
    rows = {row.ratio: row for row in step.rows_of("densenet121", 8, seconds)}
    assert list(rows) == list(step.RATIOS)
    assert (rows["A/A"].median, rows["A/A"].low, rows["A/A"].high) == (1.0, 0.98, 1.01)
    assert rows["ours / CE"].median == 1.03
    assert (rows["ours / CE"].bar, rows["ours / CE"].met) == ("<= 1.0400", True)
    assert rows["eager / ours"].median == 2
    assert rows["predecessor / ours"].median == 1.9417
    assert (rows["predecessor / ours"].bar, rows["predecessor / ours"].met) == (">= 1.9500", False)
    assert rows["predecessor, one forward / ours"].median == 1
    assert rows["head / step"].median == 0.01
    assert rows["head / step"].seconds == 0.0103

    del seconds[step.ONE_FORWARD]
    seconds["predecessor"] = unit * 1.02
    other = {row.ratio: row for row in step.rows_of("resnet50", 8, seconds)}
    assert set(rows) - set(other) == {"predecessor, one forward / ours"}
    assert (other["predecessor / ours"].bar, other["predecessor / ours"].met) == (">= 0.9800", True)
    seconds["ours"] = unit * 1.05
    other = {row.ratio: row for row in step.rows_of("resnet50", 8, seconds)}
    assert other["predecessor / ours"].met is False
    assert other["ours / CE"].met is False


@pytest.mark.slow
def test_the_program_writes_a_row_for_each_ratio(tmp_path: Path) -> None:
    small = ["--models", SMALL, "--image-size", "64", "--rounds", "2", "--output", tmp_path]
    done = program(*small, "--batches", "3", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "MALLOC_MMAP_THRESHOLD_ 4294967296" in lines[0]
    assert "threads 1" in lines[0]
    with (tmp_path / "step.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [name for name in step.RATIOS if step.ONE_FORWARD not in name]
    assert [(row["batch"], row["ratio"]) for row in table] == [
        (batch, name) for batch in ("2", "3") for name in names
    ]
    assert [line.split()[1] for line in lines[1:]] == [row["batch"] for row in table]
    assert float(table[-1]["median"]) < 1  # the head's share
    kept = json.loads((tmp_path / "step.json").read_text())
    assert kept["settings"]["rounds"] == 2
    assert [str(row["median"]) for row in kept["rows"]] == [row["median"] for row in table]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--models", "resnet5"], 1, "error: There is no network 'resnet5' in timm"),
        (["--rounds", "0"], 2, "argument --rounds: '0' is no whole number of at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said(words: list[str], code: int, message: str) -> None:
    done = program(*words)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert ("usage:" in done.stderr) == (code == 2)
