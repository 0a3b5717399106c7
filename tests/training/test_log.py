"""What a run logs: the figures of a step, and its speed since the last one that was logged."""

import time
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from focus.config.train import TrainConfig, resolve
from focus.training.log import RunLog
from focus.training.monitoring import Step

from .trainers import few_faces, trainer


class Entries(GeneralTracker):
    """A tracker of Accelerate's that keeps what it is given."""

    name = "entries"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int | None, dict[str, Any]] = {}

    @property
    def tracker(self) -> dict[int | None, dict[str, Any]]:
        return self.steps

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.steps[step] = values


def test_a_step_has_its_means_and_the_speed_since_the_last(tmp_path: Path) -> None:
    entries = Entries()
    accelerator = Accelerator(cpu=True, log_with=entries)
    accelerator.init_trackers("run")
    log = RunLog(resolve(TrainConfig(output=str(tmp_path), log_steps=3)), accelerator)
    done = Step([16.0, 8.0, 4.0, 2.0, 1.0, 3.0], 8.0, 0.25, updated=True, finite=True)
    means = {"loss": 2.0, "classification": 1.0, "focus": 0.5, "saliency": 0.25}
    means |= {"entropy": 0.125, "with_map": 0.375, "grad_norm": 0.25, "lr": 1e-3}
    time.sleep(0.3)  # as validation takes, before an epoch
    before = time.perf_counter()
    log.start()
    for step, images in ((5, 0), (6, 16), (7, 0), (8, 0), (9, 24)):
        time.sleep(0.05)
        log.step(done, step, 1e-3)
        if images:
            found = entries.steps[step]
            speed = found.pop("step/images_per_second")
            assert images / (time.perf_counter() - before) <= speed <= images / 0.1
            assert found == {f"step/{name}": value for name, value in means.items()}
            before = time.perf_counter() - 0.01
    assert sorted(entries.steps) == [6, 9]
    assert 40 / (time.perf_counter() - before + 1) <= log.speed() <= 40 / 0.25


def test_the_line_of_an_epoch_and_the_warning_of_a_narrow_focus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = Entries()
    accelerator = Accelerator(cpu=True, log_with=entries)
    accelerator.init_trackers("run")
    log = RunLog(resolve(TrainConfig(output=str(tmp_path))), accelerator)
    # The rate is that of the last step, which is logged with the steps.
    row = {"epoch": 2, "train_loss": 0.5, "eval_auc": 0.75, "eval_entropy": 0.25, "lr": 0.1}
    for step, share in ((10, 0.5), (20, 0.95)):
        log.epoch({**row, "eval_peak_share": share}, step, best=True, images_per_second=12.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["epoch", "epoch", "warning:"]
    assert lines[0].endswith("12 images/s  (best)")
    assert entries.steps[20] == {
        "epoch": 2,
        "train/loss": 0.5,
        "eval/auc": 0.75,
        "eval/entropy": 0.25,
        "eval/peak_share": 0.95,
    }


def test_the_speed_of_an_epoch_counts_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(few_faces(tmp_path), tmp_path, epochs=2, lr=1e-6)
    speeds: list[float] = []
    monkeypatch.setattr(
        run.log,
        "epoch",
        lambda *_, images_per_second, **__: speeds.append(images_per_second),
    )
    before = time.perf_counter()
    run.fit()
    # Each epoch's 70 images took less time than all.
    assert min(speeds) >= 70 / (time.perf_counter() - before)
    assert len(speeds) == 2
