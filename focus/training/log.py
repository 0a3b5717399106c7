"""What a run tells while it trains: its trackers, the console, sheets, and why it gives up."""

import csv
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from tqdm.auto import tqdm

from focus.config.train import ResolvedTrainConfig
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.model.detector import Detector
from focus.report.contact_sheet import contact_sheet
from focus.training.batches import BatchPlan
from focus.training.monitoring import TERMS, Step, collapse_warning, epoch_line
from focus.training.run_folder import TrainState

NONFINITE = "nonfinite.csv"


class RunLog:
    """Reports a run to its trackers, which the main process has, and on the console."""

    def __init__(self, config: ResolvedTrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.start()

    def start(self) -> None:
        """Count the images a second from now on."""
        self._began = self._since = time.perf_counter(), 0.0
        self._images = 0.0

    def count(self, images: float) -> None:
        """The images of a step, of all processes; the last of an epoch may have fewer."""
        self._images += images

    def speed(self, since: tuple[float, float] | None = None) -> float:
        """Images a second since a time, when there were so many; by default since the start."""
        began, before = since or self._began
        return (self._images - before) / max(time.perf_counter() - began, 1e-9)

    def step(self, done: Step, step: int, lr: float) -> None:
        """A step, by its number, and the images a second since the last one that was logged."""
        self.accelerator.log(
            {
                **{
                    f"step/{name}": total / done.images
                    for name, total in zip(TERMS, done.sums, strict=True)
                },
                "step/grad_norm": done.gradient_norm,
                "step/lr": lr,
                "step/images_per_second": self.speed(self._since),
            },
            step=step,
        )
        self._since = time.perf_counter(), self._images

    def epoch(
        self, row: Mapping[str, Any], step: int, *, best: bool, images_per_second: float
    ) -> None:
        """An epoch, by its row of ``summary.csv``, with a warning if the CAM has collapsed.

        images_per_second: of training.
        """
        epochs, metric = self.config.epochs, self.config.eval_metric
        if self.accelerator.is_main_process:
            tqdm.write(
                epoch_line(row, epochs, metric, best=best, images_per_second=images_per_second)
            )
            if warning := collapse_warning(row):
                tqdm.write(warning)
        logged = {name.replace("_", "/", 1): v for name, v in row.items() if "_" in name}
        self.accelerator.log({**logged, "epoch": row["epoch"]}, step=step)

    def sheet(self, detector: Detector, validation: Manifest, state: TrainState) -> None:
        """A sheet of the same validation images each time, as a file and for TensorBoard."""
        path = self.config.run_folder / "sheets" / f"epoch-{state.epoch:04d}.png"
        path.parent.mkdir(exist_ok=True)
        contact_sheet(detector, validation, path)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                with Image.open(path) as sheet:
                    pixels = np.asarray(sheet.convert("RGB"))[None]
                tracker.log_images({"validation": pixels}, state.step, dataformats="NHWC")


def give_up(
    config: ResolvedTrainConfig,
    accelerator: Accelerator,
    steps: Sequence[int],
    plan: BatchPlan,
    train: Manifest,
) -> NoReturn:
    """End a run whose loss was not finite in ``steps``, counted from 1: write down their images.

    Raises:
        InputError: always, in every process.
    """
    paths = []
    for step in steps:
        epoch, done = divmod(step - 1, plan.steps)
        for batch in plan.epoch(epoch, done)[0]:
            paths += [(step, train[row].path) for row in batch.rows]
    everyone = gather_object(paths)
    path = config.run_folder / NONFINITE
    if accelerator.is_main_process:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([("step", "path"), *sorted(everyone)])
    raise InputError(
        f"The loss of {config.name} was not finite in {len(steps)} steps in a row, up to step "
        f"{steps[-1]}: look at the images in {path}, lower --lr, or give --mixed-precision no."
    )
