"""The figures of a step, an epoch and the validation images, and where a run reports them.

``docs/formats.md`` describes ``summary.csv``, which holds those of an epoch.
"""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

from focus.config.train import ResolvedTrainConfig
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.evaluation.scores import Scores
from focus.metrics.cams import COLLAPSED, commonest_peak_share
from focus.metrics.ranking import auc
from focus.model.detector import Detector
from focus.report.gallery import write_sheet
from focus.runtime.files import write_csv
from focus.runtime.progress import progress_bar, redrawn
from focus.training.batches import MicroBatch
from focus.training.run_folder import TrainState
from focus.training.step import MEANS


def training_figures(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the ``train_*`` figures of the sums of ``SUMS``; NaN where no step was done."""
    images = sums["images"] or math.nan
    done = sums["updated"] or math.nan
    return {
        **{f"train_{name}": sums[name] / images for name in MEANS},
        "train_grad_norm": sums["grad_norm"] / done,
        "train_skipped_steps": int(sums["skipped"]),
    }


def validation_figures(scores: Scores) -> dict[str, float]:
    """Return the ``eval_*`` figures of the validation images; CAMs of the predicted class."""
    # Imported late: it takes more than a second of the start, before anything is checked.
    from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss

    label, score = scores.label, scores.score
    ranked = auc(score[label == REAL], score[label == SYNTHETIC])
    assert ranked is not None, "both classes are in the validation split"
    share = commonest_peak_share(scores.peak_row * 10_000 + scores.peak_col)
    return {
        "eval_auc": ranked,
        "eval_average_precision": float(average_precision_score(label, score)),
        "eval_balanced_accuracy": float(balanced_accuracy_score(label, scores.predicted != REAL)),
        "eval_log_loss": float(log_loss(label, score)),
        "eval_entropy": float(scores.entropy_predicted.mean()),
        "eval_entropy_sum": float(scores.entropy_sum.mean()),
        "eval_entropy_z": float(scores.entropy_z.mean()),
        "eval_cam_range": float(scores.cam_range.mean()),
        "eval_peak_share": share or 0.0,
    }


def collapse_warning(figures: Mapping[str, float]) -> str:
    """Return a warning if the CAM peaks in one place whatever the image, else ""."""
    share = figures["eval_peak_share"]
    if share < COLLAPSED:
        return ""
    return (
        f"warning: the CAM of {100 * share:.0f} % of the validation images peaks in the same cell: "
        "the model looks at one place whatever the image; lower --focus-weight, or raise "
        "--saliency-weight"
    )


def write_summary(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``summary.csv``."""
    write_csv(path, rows[0], (row.values() for row in rows))


class RunLog:
    """Reports a run to its trackers, which the main process has, and on the console."""

    def __init__(self, config: ResolvedTrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.start()

    def progress(self, step: int, steps_per_epoch: int) -> "tqdm[Any]":
        """Return the bar of all steps, of which ``step`` are done."""
        self._bar = progress_bar(
            total=self.config.epochs * steps_per_epoch,
            initial=step,
            desc="training",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        return self._bar

    def start(self) -> None:
        """Count the images a second from now on."""
        self._began = self._logged = time.perf_counter(), 0.0
        self._images = 0.0

    def count(self, batches: Sequence[MicroBatch]) -> None:
        """Count the images of a step."""
        self._images += sum(batch.images for batch in batches)

    def step(self, done: Mapping[str, float], step: int, lr: float) -> None:
        """Log a step by its sums of ``SUMS``, with the images a second since the last one logged.

        A step that was skipped has NaN for its figures.
        """
        figures = training_figures(done)
        self.accelerator.log(
            {
                **{f"step/{name}": figures[f"train_{name}"] for name in (*MEANS, "grad_norm")},
                "step/lr": lr,
                "step/images_per_second": self._speed(self._logged),
            },
            step,
        )
        self._logged = time.perf_counter(), self._images

    def speed(self) -> float:
        """Return the images a second since :meth:`start`, of all processes."""
        return self._speed(self._began)

    def epoch(
        self, row: Mapping[str, Any], step: int, *, best: bool, images_per_second: float
    ) -> None:
        """Report an epoch by its row of ``summary.csv``, and warn if the CAM has collapsed."""
        metric = self.config.eval_metric
        if self.accelerator.is_main_process:
            epoch = f"epoch {row['epoch']}/{self.config.epochs}"
            value = f"validation {_in_words(metric)} {row[f'eval_{metric}']:.4f}"
            if redrawn():
                self._bar.set_description_str(f"{epoch}, {value}")  # a postfix is cut off at 80
            else:
                tqdm.write(
                    f"{epoch}  loss {row['train_loss']:.4f}  {value}  "
                    f"entropy {row['eval_entropy']:.3f}  {images_per_second:.0f} images/s"
                    f"{'  (best)' if best else ''}"
                )
            warning = collapse_warning(row)
            if warning:
                tqdm.write(warning)
        logged = {name.replace("_", "/", 1): value for name, value in row.items() if "_" in name}
        self.accelerator.log({**logged, "epoch": row["epoch"]}, step)

    def end(self, state: TrainState) -> None:
        """Name the best epoch; say why there are fewer epochs or updates than were asked for."""
        self.accelerator.print(
            f"best of {state.epoch} epochs: {state.best_epoch}, validation "
            f"{_in_words(self.config.eval_metric)} {state.best:.4f}"
        )
        if state.epoch < self.config.epochs:
            self.accelerator.print(
                f"stopped after epoch {state.epoch}: none of the last {self.config.patience} was "
                f"better than epoch {state.best_epoch}"
            )
        if state.nonfinite:
            self.accelerator.print(
                f"{state.nonfinite} of {state.step} steps were skipped: their loss or gradient was "
                "not finite"
            )

    def sheet(
        self, detector: Detector, validation: Manifest, scores: Scores, state: TrainState
    ) -> None:
        """Draw the same validation images with their CAMs, as a file and for TensorBoard."""
        path = self.config.run_folder / "sheets" / f"epoch-{state.epoch:04d}.png"
        path.parent.mkdir(exist_ok=True)
        write_sheet(detector, validation, scores, path)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                with Image.open(path) as sheet:
                    pixels = np.asarray(sheet.convert("RGB"))[None]
                tracker.log_images({"validation": pixels}, state.step, dataformats="NHWC")

    def _speed(self, since: tuple[float, float]) -> float:
        began, before = since
        return (self._images - before) / max(time.perf_counter() - began, 1e-9)


def _in_words(metric: str) -> str:
    return metric.replace("_", " ").replace("auc", "AUC")
