"""What a run says of itself: sums over an epoch, figures of the validation images, the alarm."""

import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from focus.config.train import TrainConfig, resolve
from focus.evaluation.scores import Scores
from focus.evaluation.selection import best_epoch
from focus.metrics.cams import COLLAPSED
from focus.training.batches import MicroBatch
from focus.training.monitoring import (
    RunLog,
    collapse_warning,
    training_figures,
    validation_figures,
)
from focus.training.step import MEANS, Tally

from ..evaluation.few_scores import table


def scores(**replaced_columns: object) -> Scores:
    """Four images, two of each class, one fake ranked below a real one."""
    columns: dict[str, object] = {
        "predicted": [0, 0, 0, 1],
        "peak_row": [1, 1, 0, 1],
        "peak_col": [2, 2, 1, 2],
        "entropy_predicted": [0.5, 0.25, 0.75, 0.5],
        "entropy_sum": [0.5] * 4,
        "entropy_z": [0.25] * 4,
        "cam_range": [1.0, 2.0, 3.0, 4.0],
    }
    pairs = zip([0, 0, 1, 1], [0.125, 0.5, 0.25, 0.75], strict=True)
    return table([(label, "", "", score) for label, score in pairs], **columns | replaced_columns)


def test_figures_by_hand() -> None:
    figures = validation_figures(scores())
    assert figures == pytest.approx(
        {
            "eval_auc": 3 / 4,
            # Precision 1 at the first fake (0.75), 2/3 at the second, each half of the recall.
            "eval_average_precision": (1 + 2 / 3) / 2,
            "eval_balanced_accuracy": (1 + 1 / 2) / 2,
            "eval_log_loss": -sum(math.log(p) for p in (0.875, 0.5, 0.25, 0.75)) / 4,
            "eval_entropy": 0.5,
            "eval_entropy_sum": 0.5,
            "eval_entropy_z": 0.25,
            "eval_cam_range": 2.5,
            "eval_peak_share": 3 / 4,
        }
    )


def test_the_kept_epoch_is_that_of_the_first_best_model() -> None:
    rows = [
        {"epoch": epoch, "eval_auc": auc, "eval_log_loss": loss}
        for epoch, auc, loss in ((1, 0.5, 0.6), (2, 0.75, 0.4), (3, 0.75, 0.5), (4, 0.625, 0.3))
    ]
    assert best_epoch(rows, "auc") == 2
    assert best_epoch(rows, "log_loss") == 4
    assert best_epoch(rows[:1], "log_loss") == 1
    assert best_epoch(rows, "balanced_accuracy") is best_epoch(rows, None) is None
    assert best_epoch([], "auc") is None


def test_the_alarm() -> None:
    figures = validation_figures(scores())
    assert collapse_warning(figures) == collapse_warning({"eval_peak_share": 0.899}) == ""
    assert collapse_warning({"eval_peak_share": COLLAPSED})
    alike = validation_figures(replace(scores(), peak_row=np.ones(4), peak_col=np.full(4, 2)))
    assert alike["eval_peak_share"] == 1.0 >= COLLAPSED
    assert "100 % of the validation images peaks in the same cell" in collapse_warning(alike)
    # The same row is not the same cell.
    apart = replace(scores(), peak_row=np.ones(4), peak_col=np.arange(4))
    assert validation_figures(apart)["eval_peak_share"] == 0.25


def test_sums_of_an_epoch_by_hand() -> None:
    tally = Tally(torch.device("cpu"))
    four, one = {name: 9.0 - n for n, name in enumerate(MEANS)}, dict.fromkeys(MEANS, 1.0)
    tally.add(torch.tensor([*four.values()]), torch.tensor(3.0), 4)
    tally.add(torch.tensor([*one.values()]), torch.tensor(5.0), 1)
    for loss, norm in ((math.nan, 1.0), (1.0, math.inf)):
        finite, skip = tally.add(torch.full((len(MEANS),), loss), torch.tensor(norm), 4)
        assert (bool(finite), float(skip)) == (False, 1.0)
    sums, in_a_row = tally.read()
    assert in_a_row == 2
    assert training_figures(sums) == {
        "train_loss": 10 / 5,
        **{f"train_{name}": (four[name] + 1) / 5 for name in MEANS[1:]},
        "train_grad_norm": 4.0,
        "train_skipped_steps": 2,
    }
    assert math.isnan(training_figures(tally.last())["train_loss"])
    # An overflow under fp16 is skipped, and is nobody's fault as long as the scale can fall.
    for scale, nonfinite, row in ((2.0, 2, 2), (1.0, 3, 3)):
        tally.add(torch.ones(len(MEANS)), torch.tensor(math.inf), 4, torch.tensor(scale))
        sums, in_a_row = tally.read()
        assert (sums["nonfinite"], in_a_row) == (nonfinite, row)
    tally.add(torch.ones(len(MEANS)), torch.tensor(1.0), 4, torch.tensor(1.0))
    assert tally.read()[1] == 0


def test_a_step_has_its_means_and_the_speed_since_the_last(tmp_path: Path) -> None:
    entries: dict[int, dict[str, float]] = {}
    accelerator: Any = SimpleNamespace(
        is_main_process=True, log=lambda values, step: entries.update({step: values})
    )
    log = RunLog(resolve(TrainConfig(output=str(tmp_path), log_steps=3)), accelerator)
    means = {name: 2.0 / (1 + n) for n, name in enumerate(MEANS)}
    done = {name: 8 * mean for name, mean in means.items()}
    done |= {"images": 8.0, "grad_norm": 0.25, "updated": 1.0, "skipped": 0.0}
    eight = MicroBatch([*range(8)], [0] * 8, 8, 8, 1.0, True)
    means |= {"grad_norm": 0.25, "lr": 1e-3}
    time.sleep(0.3)  # as validation takes, before an epoch
    before = time.perf_counter()
    log.start()
    for step, images in ((5, 0), (6, 16), (7, 0), (8, 0), (9, 24)):
        time.sleep(0.05)
        log.count([eight])
        if images:
            log.step(done, step, 1e-3)
            entry = entries[step]
            speed = entry.pop("step/images_per_second")
            assert images / (time.perf_counter() - before) <= speed <= images / 0.1
            assert entry == {f"step/{name}": value for name, value in means.items()}
            before = time.perf_counter() - 0.01
    assert sorted(entries) == [6, 9]
    assert 40 / (time.perf_counter() - before + 1) <= log.speed() <= 40 / 0.25
