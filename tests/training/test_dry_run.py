"""``train.py --dry-run``: that its seconds are those which the run will take."""

from pathlib import Path

import pytest

from focus.data.manifest import Manifest, Sample
from focus.training import dry_run
from focus.training.dry_run import image_counts

from .trainers import few_faces, trainer


def test_the_time_is_that_of_all_steps_and_a_validation_after_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(few_faces(tmp_path), tmp_path, epochs=6, batch_size=35)
    monkeypatch.setattr(dry_run, "_seconds_per_step", lambda _: 20.0)
    monkeypatch.setattr(dry_run, "_seconds_per_image", lambda _: 40.0)
    dry_run.dry_run(
        run.config, run.detector, Manifest([*run.train, *run.validation]), run.accelerator
    )
    # Six epochs of two steps, and of 12 images.
    assert "\ntime: 52 min (a step took 20 s, validation 48 min of it)" in capsys.readouterr().out


def test_a_generator_cannot_forge_a_line() -> None:
    sample = Sample("/a.png", 1, "a\n  real: 9", split="test")
    assert r"  synthetic of 'a\n  real: 9': 1" in image_counts(Manifest([sample]))
