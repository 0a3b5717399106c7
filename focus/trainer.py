"""Training: from a resolved configuration and a manifest to a run folder.

A run folder holds ``config.yaml``, ``manifest.csv`` (what it trains on, with the splits),
``summary.csv`` (a row an epoch), ``tensorboard/``, ``checkpoints/``, ``model/`` (the best by
validation AUC, never by test), ``results.json``, ``scores.csv`` and ``overlays.png``.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm

from focus.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from focus.config import ResolvedTrainConfig, loss_config, write_config
from focus.data.dataset import Batch, FaceDataset, collate
from focus.data.faces import geometries
from focus.data.generators import training_families
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.errors import InputError
from focus.inference import score_shared
from focus.kernels import backend_for
from focus.metrics import auc
from focus.models import Detector
from focus.overlays import contact_sheet
from focus.results import Results, summarise, write_results
from focus.runtime import check_writable
from focus.scores import Scores

EVALUATION_BATCH = 64
MANIFEST = "manifest.csv"
TERMS = ("loss", "classification", "focus", "saliency", "entropy")


def run_folder(config: ResolvedTrainConfig) -> Path:
    """The run's folder; refuses one that exists unless the run is resumed.

    Raises:
        InputError: the folder exists, cannot be written, or holds a run with other settings.
    """
    folder = Path(config.output) / config.name
    check_writable(folder)
    if folder.exists() and not config.resume:
        raise InputError(
            f"The run folder {folder} exists already: give another --name, or --resume to go on."
        )
    if config.resume:
        _saved_run(config, folder)
    return folder


def make_detector(config: ResolvedTrainConfig) -> Detector:
    """The untrained detector, its weights drawn from the seed.

    Raises:
        InputError: as :class:`Detector`.
    """
    torch.manual_seed(config.seed)
    return Detector(
        config.model,
        image_size=config.image_size,
        pretrained=config.pretrained,
        initial_checkpoint=config.initial_checkpoint,
        loss=loss_config(config),
    )


def describe(accelerator: Accelerator, config: ResolvedTrainConfig) -> str:
    """One line: device, processes, threads, precision, and which form the head takes and why."""
    threads = torch.get_num_threads()
    name, reason = backend_for(torch.empty(0, device=accelerator.device))
    processes = f"{accelerator.num_processes} process{'es' * (accelerator.num_processes > 1)}"
    return (
        f"device {accelerator.device}, {processes} with {threads} "
        f"thread{'s' * (threads > 1)} each, mixed precision {config.mixed_precision}, "
        f"head: {name} ({reason})"
    )


@dataclass
class TrainState:
    """All of a run that is not weights: one object, saved and restored whole.

    epoch: epochs done. step: optimiser steps done. best_auc: on validation, None before the first
    epoch; best_epoch: counted from 1. rows: of summary.csv.
    """

    epoch: int = 0
    step: int = 0
    best_auc: float | None = None
    best_epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """One run: model, data, optimiser and schedule, prepared by Accelerate.

    Raises:
        InputError: the configuration cannot be trained here.
    """

    def __init__(
        self,
        config: ResolvedTrainConfig,
        detector: Detector,
        manifest: Manifest,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.detector, self.accelerator = config, detector, accelerator
        self.folder, self.manifest = run_folder(config), manifest
        self.state = TrainState()
        # Again, so that the second of two runs begins as it would alone.
        torch.manual_seed(config.seed)
        train = manifest.split("train")
        self.validation = manifest.split("validation")
        self.test = manifest.split("test")
        detector.config = replace(
            detector.config,
            training_generators=tuple(train.generators()),
            training_families=training_families(train),
            geometry=tuple(sorted(geometries(train))),
        )
        self.dataset = FaceDataset(
            train,
            image_size=config.image_size,
            grid=detector.grid,
            mean=detector.mean,
            std=detector.std,
            augment=config.augment,
            seed=config.seed,
        )
        loader = DataLoader(
            self.dataset,
            batch_size=config.batch_size,
            sampler=EpochSampler(len(train), config.seed),
            num_workers=config.workers,
            collate_fn=collate,
            persistent_workers=config.workers > 0,
            pin_memory=accelerator.device.type == "cuda",
        )
        self.memory_format = (
            torch.channels_last if config.channels_last else torch.contiguous_format
        )
        detector.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.model, self.optimizer, self.loader = accelerator.prepare(
            detector, _optimizer(config, detector), loader
        )
        steps = math.ceil(len(self.loader) / config.gradient_accumulation_steps)
        self.scheduler = _scheduler(config, self.optimizer.optimizer, steps_per_epoch=steps)

    def fit(self) -> None:
        """Train to the last epoch, from the last checkpoint if the run is resumed."""
        self._open_folder()
        config, state, steps = self.config, self.state, len(self.loader)
        with tqdm(
            total=config.epochs * steps,
            initial=state.epoch * steps,
            desc=config.name,
            unit="step",
            disable=not self.accelerator.is_main_process,
        ) as bar:
            while state.epoch < config.epochs:
                means = self._train_epoch(bar)
                scores = self._score(self.detector, self.validation, progress=False)
                state.epoch += 1
                self._record(means, scores)
                if self.accelerator.is_main_process:
                    tqdm.write(_epoch_line(state, config.epochs))
        self.accelerator.wait_for_everyone()

    def evaluate(self) -> Results:
        """Score the test images with the best model, write scores, results and overlays."""
        best = Detector.from_pretrained(self.folder / "model").to(self.accelerator.device)
        scores = self._score(best, self.test, progress=True)
        results = summarise(scores, best.config.training_generators, best.config.training_families)
        results["model"] = {"epoch": self.state.best_epoch, "validation_auc": self.state.best_auc}
        if self.accelerator.is_main_process:
            write_results(self.folder, scores, results)
            shown = self.test if len(self.test) else self.validation
            contact_sheet(best, shown, self.folder / "overlays.png")
        self.accelerator.wait_for_everyone()
        return results

    def _open_folder(self) -> None:
        checkpoints = self.folder / "checkpoints"
        if self.config.resume:
            found = _saved_run(self.config, self.folder)
            if found is None:
                self.accelerator.print(f"no checkpoint in {checkpoints}: starting anew")
            else:
                path, values, self.state = found
                load_checkpoint(
                    path,
                    values,
                    model=self.detector,
                    optimizer=self.optimizer.optimizer,
                    scheduler=self.scheduler,
                )
                self.accelerator.print(f"resuming {self.folder} after epoch {self.state.epoch}")
        if self.accelerator.is_main_process:
            checkpoints.mkdir(parents=True, exist_ok=True)
            # Without --resume: given as --config, it must not go on with this folder unasked.
            write_config(replace(self.config, resume=False), self.folder / "config.yaml")
            aside = self.folder / f"{MANIFEST}.part"
            self.manifest.to_csv(aside)
            aside.replace(self.folder / MANIFEST)
        self.accelerator.wait_for_everyone()
        self.accelerator.init_trackers("tensorboard")

    def _train_epoch(self, bar: Any) -> dict[str, float]:
        """One pass over the training images; the means of the loss and its terms."""
        self.model.train()
        # Through the loader: Accelerate's counts its own iterations, and would begin again at 0
        # after a resume. It reaches the sampler, but the data set only in a single process.
        self.loader.set_epoch(self.state.epoch)
        self.dataset.set_epoch(self.state.epoch)
        steps = []
        for batch in self.loader:
            steps.append(self._step(Batch(*batch)))
            bar.update()
        # Summed at the end and on the CPU: no waiting for a GPU, and not all of them have float64.
        sums = torch.stack(steps).cpu().double().sum(0)
        sums = torch.tensor(gather_object([sums.tolist()]), dtype=sums.dtype).sum(0)
        *totals, count = sums.tolist()
        means = dict(zip(TERMS, (total / count for total in totals), strict=True))
        if not all(map(math.isfinite, totals)):
            raise InputError(
                f"The loss of {self.config.name} became {means['loss']} in epoch "
                f"{self.state.epoch + 1}: lower --lr, or give --mixed-precision no."
            )
        return means

    def _step(self, batch: Batch) -> Tensor:
        """One batch; the sums of the loss and its terms, and the number of images."""
        with self.accelerator.accumulate(self.model):
            images = batch.images.contiguous(memory_format=self.memory_format)
            out = self.model(images, batch.target, batch.saliency, batch.saliency_mask)
            self.accelerator.backward(out.loss)
            self.optimizer.step()
            if self.accelerator.sync_gradients:
                self.state.step += 1
                # The schedule counts the optimiser's steps; under fp16 one may be skipped.
                if not self.accelerator.optimizer_step_was_skipped:
                    self.scheduler.step()
            self.optimizer.zero_grad()
        count = len(batch.target)
        terms = (out.classification, out.focus, out.saliency, out.entropy)
        sums = [out.loss.detach() * count, *(term.sum() for term in terms)]
        return torch.stack([*sums, torch.full_like(sums[0], count)])

    def _score(self, detector: Detector, manifest: Manifest, *, progress: bool) -> Scores:
        return score_shared(
            self.accelerator,
            detector,
            manifest,
            batch_size=EVALUATION_BATCH,
            workers=self.config.workers,
            progress=progress,
            description="test images",
        )

    def _record(self, means: dict[str, float], scores: Scores) -> None:
        """Note the epoch: best model, summary.csv, TensorBoard, checkpoint."""
        state = self.state
        value = auc(scores.score[scores.label == REAL], scores.score[scores.label == SYNTHETIC])
        assert value is not None, "both classes are in the validation split"
        if state.best_auc is None or value > state.best_auc:
            state.best_auc, state.best_epoch = value, state.epoch
        row = {
            "epoch": state.epoch,
            **{f"train_{name}": mean for name, mean in means.items()},
            "eval_auc": value,
            "eval_entropy": float(scores.entropy_predicted.mean()),
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        state.rows.append(row)
        if self.accelerator.is_main_process:
            if state.best_epoch == state.epoch:
                self.detector.save_pretrained(self.folder / "model")
            _write_summary(self.folder / "summary.csv", state.rows)
            save_checkpoint(
                self.folder / "checkpoints",
                state.epoch,
                model=self.detector,
                optimizer=self.optimizer.optimizer,
                scheduler=self.scheduler,
                extra={"train_state": asdict(state), "config": asdict(self.config)},
            )
        self.accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=state.epoch)


class EpochSampler(Sampler[int]):
    """A permutation drawn from (seed, epoch): the same whatever came before it."""

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed, self._epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        yield from torch.randperm(self._length, generator=generator).tolist()


def _optimizer(config: ResolvedTrainConfig, detector: Detector) -> torch.optim.Optimizer:
    kind: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(detector.parameters(), momentum=config.momentum, **kind)
    return torch.optim.AdamW(detector.parameters(), **kind)


def _scheduler(
    config: ResolvedTrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of the learning rate, in steps of the optimiser."""
    if config.schedule == "one-cycle":
        total = config.epochs * steps_per_epoch
        # Torch divides by the length of the rise in its own count, 0 for exactly one step.
        rise = config.warmup * (1 + 1e-9 * (config.warmup * total == 1))
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=config.lr,
            total_steps=total,
            pct_start=rise,
        )
    return torch.optim.lr_scheduler.StepLR(
        optimizer, config.step_epochs * steps_per_epoch, config.step_gamma
    )


def _saved_run(
    config: ResolvedTrainConfig, folder: Path
) -> tuple[Path, dict[str, Any], TrainState] | None:
    """The last checkpoint to go on from, its values and its state; None if there is none.

    Raises:
        InputError: it is damaged, or of a run with other settings.
    """
    found = last_checkpoint(folder / "checkpoints")
    if found is None:
        return None
    path, values = found
    try:
        then, state = dict(values["config"]), TrainState(**values["train_state"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The checkpoint {path} lacks what a run goes on from ({type(error).__name__}: "
            f"{error}): remove its folder to go on from the one before."
        ) from error
    _same_run(then, config, folder)
    return path, values, state


def _same_run(then: dict[str, Any], config: ResolvedTrainConfig, folder: Path) -> None:
    """Refuse to go on with other settings: the result would be neither run's."""
    free = ("resume", "debug", "threads", "workers", "compare_ce", "output")
    now = asdict(config)
    for name, value in now.items():
        before = then.get(name)
        before = tuple(before) if isinstance(value, tuple) and before is not None else before
        if name not in free and before != value:
            raise InputError(
                f"The run {folder} was started with {name} {before}, not {value}: resume it with "
                "the flags it was started with, or give another --name."
            )


def _epoch_line(state: TrainState, epochs: int) -> str:
    row, best = state.rows[-1], state.best_epoch == state.epoch
    return (
        f"epoch {state.epoch}/{epochs}  loss {row['train_loss']:.4f}  "
        f"validation AUC {row['eval_auc']:.4f}  entropy {row['eval_entropy']:.3f}"
        f"{'  (best)' if best else ''}"
    )


def _write_summary(path: Path, rows: list[dict[str, Any]]) -> None:
    aside = path.with_suffix(".part")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)
