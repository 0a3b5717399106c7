"""The measurement of the trainer: its parts add up, and an epoch is followed by a bare one."""

import numpy as np
import pytest

from bench import trainer


@pytest.mark.slow
def test_what_is_the_trainers_own_is_a_part_of_a_step() -> None:
    costs = trainer.steps_of_a_run("focus_small", 64, 4, steps=3)
    assert costs.step.shape == (3,)
    assert np.all(costs.norm > 0)
    assert np.all(costs.norm < costs.own)
    assert np.all(costs.own < costs.step)


@pytest.mark.slow
def test_an_epoch_is_measured_beside_a_bare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "IMAGES", 16)
    ours, bare = trainer.epochs_of_a_run("focus_small", rounds=2)
    assert ours.shape == bare.shape == (2,)
    assert min(*ours, *bare) > 0
