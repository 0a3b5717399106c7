"""The measurement of a training step: what its steps compute, and what it writes."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import step
from focus.data.dataset import Batch
from focus.model.detector import Detector

from ..launching import CHECKOUT, python

SMALL = "test_resnet"


def test_losses_and_gradients_are_those_of_the_reference() -> None:
    losses = step.losses_of(SMALL)
    losses["twice"] = lambda d, b: step.predecessor(d, b, second_forward=True)
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
    assert step.predecessor(detector, batch, second_forward=False).isnan()
    with pytest.raises(SystemExit, match="test_resnet was trained to the loss nan"):
        step.steps_of(detector, 2, step.losses_of(SMALL))["predecessor"]()


@pytest.mark.slow
def test_the_program_writes_a_row_for_each_ratio(tmp_path: Path) -> None:
    words = ["--models", SMALL, "--image-size", "64", "--rounds", "2", "--output", tmp_path]
    python("-m", "bench.step", *words, "--batches", "2", "3", cwd=CHECKOUT)
    with (tmp_path / "step.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [name for name in step.RATIOS if step.ONE_FORWARD not in name]
    assert [(row["batch"], row["ratio"]) for row in table] == [
        (batch, name) for batch in ("2", "3") for name in names
    ]
