"""What the trainer costs beside the network, measured."""

import time
from pathlib import Path

import pytest

import focus.training.loading
from bench import trainer as bench

from ..launching import python

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_is_timed_elsewhere_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that burns 120 ms an image is no cost of the trainer's; a sampler that does is."""

    def burn(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    plain = bench.measure("test_resnet", 64, 2, 6)
    load = bench.FaceDataset.__getitem__

    def slow(self: bench.FaceDataset, index: int) -> object:
        burn(0.12)
        return load(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(bench.FaceDataset, "__getitem__", slow)
        loading = bench.measure("test_resnet", 64, 2, 6)
    # The network's own steps differ by 15 ms where other programs use the cores.
    assert loading.step > plain.step + 0.2
    assert loading.own < plain.own + 0.02

    collate = focus.training.loading.collate

    def slow_collate(items: object) -> object:
        burn(0.06)
        return collate(items)

    with monkeypatch.context() as patch:
        patch.setattr(focus.training.loading, "collate", slow_collate)
        collating = bench.measure("test_resnet", 64, 2, 6)
    assert collating.own > plain.own + 0.05


@pytest.mark.slow
def test_the_trainer_adds_at_most_2_percent_to_a_step_of_densenet121() -> None:
    said = python("-m", "bench.trainer", "--steps", 8, cwd=ROOT)
    assert said.startswith("densenet121, 8 images of 224 x 224: ")
    share = float(said.partition(" ms (")[2].partition(" %")[0])
    assert share <= 100 * bench.BAR
