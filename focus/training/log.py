"""Report a run while it trains: trackers, console, sheets of validation images."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm.auto import tqdm

from focus.config.train import ResolvedTrainConfig
from focus.data.manifest import Manifest
from focus.model.detector import Detector
from focus.report.contact_sheet import contact_sheet
from focus.training.monitoring import TERMS, Step, collapse_warning, epoch_line
from focus.training.run_folder import TrainState


class RunLog:
    """Reports a run to its trackers, which the main process has, and on the console."""

    def __init__(self, config: ResolvedTrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.start()

    def start(self) -> None:
        """Count the images a second from now on."""
        self._began = self._logged = time.perf_counter(), 0.0
        self._images = 0.0

    def step(self, done: Step, step: int, lr: float) -> None:
        """Count a step, and log it if it is its turn, with the images a second since the last."""
        self._images += done.images
        if step % self.config.log_steps:
            return
        means = (total / done.images for total in done.sums)
        self.accelerator.log(
            {
                **{f"step/{name}": mean for name, mean in zip(TERMS, means, strict=True)},
                "step/grad_norm": done.gradient_norm,
                "step/lr": lr,
                "step/images_per_second": self._speed(self._logged),
            },
            step=step,
        )
        self._logged = time.perf_counter(), self._images

    def speed(self) -> float:
        """Return the images a second since :meth:`start`, of all processes."""
        return self._speed(self._began)

    def epoch(
        self, row: Mapping[str, Any], step: int, *, best: bool, images_per_second: float
    ) -> None:
        """Report an epoch by its row of ``summary.csv``, and warn if the CAM has collapsed.

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
        """Draw the same validation images with their CAMs, as a file and for TensorBoard."""
        path = self.config.run_folder / "sheets" / f"epoch-{state.epoch:04d}.png"
        path.parent.mkdir(exist_ok=True)
        contact_sheet(detector, validation, path)
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                with Image.open(path) as sheet:
                    pixels = np.asarray(sheet.convert("RGB"))[None]
                tracker.log_images({"validation": pixels}, state.step, dataformats="NHWC")

    def _speed(self, since: tuple[float, float]) -> float:
        began, before = since
        return (self._images - before) / max(time.perf_counter() - began, 1e-9)
