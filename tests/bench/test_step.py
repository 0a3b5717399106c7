"""The measurement of a training step: what its steps compute, and what it writes."""

import pytest
from torch import Tensor

from bench import step
from focus.data.dataset import Batch
from focus.model.detector import Detector

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
