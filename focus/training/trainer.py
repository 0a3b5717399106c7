"""Training: the steps, epochs and checkpoints of one run, driven by Accelerate.

What a step computes depends on the seed, its number and the process alone: the images of its
batches (:mod:`focus.training.batches`), their augmentation, and the network's random numbers, which
are seeded for each step. So a run that is resumed at any step goes on with the same bits.
"""

import math
import signal
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from timm.utils import ModelEmaV3
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from focus import report
from focus.config.schedules import factor_at, parse_points
from focus.config.train import ResolvedTrainConfig
from focus.data.dataset import Batch
from focus.data.faces import geometries
from focus.data.generators import training_families
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.errors import ImageError, InputError, NotFiniteError, sentence
from focus.evaluation.inference import images_only, score_images
from focus.evaluation.result_table import format_table
from focus.evaluation.results import Results, summarise, write_results
from focus.evaluation.selection import is_better
from focus.metrics import units
from focus.model.card import model_card, trained_how, trained_on, write_card
from focus.model.detector import Detector
from focus.model.operating_points import OperatingPoints, choose
from focus.report.contact_sheet import contact_sheet
from focus.runtime.launch import finish_trackers, same_threads
from focus.runtime.progress import progress_bar
from focus.runtime.signals import Stopped, StopSignals
from focus.training.batches import MicroBatch
from focus.training.checkpoint import load_checkpoint, save_checkpoint
from focus.training.loading import TrainingImages
from focus.training.log import RunLog, give_up
from focus.training.monitoring import TERMS, EpochSums, Step, validation_figures, write_summary
from focus.training.optimizer import (
    Buffers,
    make_optimizer,
    make_scheduler,
    synchronise_batch_norms,
)
from focus.training.run_folder import (
    CHECKPOINTS,
    SUMMARY,
    SavedRun,
    TrainState,
    check_shared,
    may_hold_best,
    open_folder,
)


class Trainer:
    """One run: model, data, optimiser and schedule, prepared by Accelerate.

    saved: what :func:`focus.training.run_folder.check_folder` found, if the run is to go on.
    record: what the run folder is to say of its data, if it is not the manifest.
    """

    def __init__(
        self,
        config: ResolvedTrainConfig,
        detector: Detector,
        manifest: Manifest,
        accelerator: Accelerator,
        saved: SavedRun | None = None,
        record: Manifest | None = None,
    ) -> None:
        self.config, self.detector, self.accelerator = config, detector, accelerator
        self.folder, self.saved = config.run_folder, saved
        self.record = manifest if record is None else record
        self.signals: StopSignals | None = None
        self._told = 0  # the signal that one of the processes had for the last step
        self._saved: tuple[int, int] | None = None  # the steps and epochs of the last checkpoint
        self.state = (
            TrainState(processes=accelerator.num_processes) if saved is None else saved.state
        )
        if said := same_threads(accelerator.device, self.state.threads, config.threads):
            accelerator.print(f"warning: {said}")
        self.state.threads = torch.get_num_threads()
        self.train, self.validation, self.test = (
            manifest.split(name) for name in ("train", "validation", "test")
        )
        self._validated = images_only(self.validation)  # once: a sample is a copy
        detector.config = detector.config.after(
            self.train.generators(), training_families(self.train), geometries(self.train)
        )
        self.state.seen = detector.config.seen()
        self.images = TrainingImages(config, self.train, detector, accelerator)
        self.plan = self.images.plan
        self.schedules = [
            parse_points("", points or "0:1")
            for points in (config.focus_schedule, config.saliency_schedule)
        ]
        self.memory_format = (
            torch.channels_last if config.channels_last else torch.contiguous_format
        )
        self.log = RunLog(config, accelerator)
        self._score = partial(
            score_images,
            accelerator=accelerator,
            batch_size=config.eval_batch_size,
            workers=config.workers,
            description="test images",
        )
        self._prepare()
        self._aim_at_maps()  # before there is a folder, since it may refuse

    def _prepare(self) -> None:
        config, detector = self.config, self.detector
        detector.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        detector.to(self.accelerator.device)
        if config.sync_bn and self.accelerator.device.type == "cuda":
            synchronise_batch_norms(detector)
        if config.focus_schedule or config.saliency_schedule:
            detector.head.scale_terms(1.0, 1.0)
        if config.class_weight == "balanced":
            labels = np.bincount(self.plan.labels, minlength=detector.config.num_classes)
            weight = len(self.plan.labels) / (len(labels) * labels)
            detector.head.class_weight = torch.tensor(
                weight, dtype=torch.float32, device=self.accelerator.device
            )
        self.ema = (
            ModelEmaV3(detector, decay=config.ema_decay, use_warmup=True)
            if config.ema_decay
            else None
        )
        if config.compile:
            detector.compile()  # in place: the names of the weights stay
        optimizer = make_optimizer(config, detector)
        # Before Accelerate takes the optimiser's step for its own: else the schedule warns of it.
        self.scheduler = make_scheduler(config, optimizer, self.plan.steps)
        self.model, self.optimizer = self.accelerator.prepare(detector, optimizer)
        self.buffers = Buffers(detector)  # of several processes on CPUs, those before are no longer

    @property
    def kept(self) -> Detector:
        """What is validated and kept: the averaged weights if there are any."""
        return self.detector if self.ema is None else self.ema.module

    def fit(self) -> None:
        """Train to the last epoch, from the last checkpoint if the run is resumed.

        Raises:
            Stopped: a signal came; a checkpoint of that moment is there.
            InputError: the loss was not finite too many times in a row, or an image cannot be read;
                then a checkpoint of the step before is there.
        """
        self._open_folder()
        config, state = self.config, self.state
        with (
            StopSignals() as self.signals,
            closing(self.images),
            progress_bar(
                total=config.epochs * self.plan.steps,
                initial=state.step,
                desc=config.name,
                unit="step",
                disable=not self.accelerator.is_main_process,
            ) as bar,
        ):
            while self._goes_on():
                self._validate(self._train_epoch(bar))
                self._leave_if_told()
        if state.epoch < config.epochs:
            self.accelerator.print(
                f"stopped after epoch {state.epoch}: none of the last {config.patience} was better "
                f"than epoch {state.best_epoch}"
            )
        if state.nonfinite:
            self.accelerator.print(
                f"{state.nonfinite} of {state.step} steps were skipped: their loss or gradient was "
                "not finite"
            )
        self.accelerator.wait_for_everyone()

    def evaluate(self) -> Results:
        """Score the test images with the best model, write scores, results, overlays and a report.

        Returns the results on the main process, nothing on the others.
        """
        best = Detector.from_pretrained(self.folder / "model").to(self.accelerator.device)
        if best.points is not None and (warning := best.points.warning()):
            self.accelerator.print(f"warning: {warning}")
        scores = self._score(best, self.test, progress=True)
        results: Results = {}
        if self.accelerator.is_main_process:
            known = best.config.training_generators, best.config.training_families
            results = summarise(scores, *known, best.points, progress=True)
            results["model"] = {
                "epoch": self.state.best_epoch,
                f"validation_{self.config.eval_metric}": self.state.best,
            }
            write_results(self.folder, scores, results)
            write_card(self.folder / "model", self._card(best, results))
            shown = self.test if len(self.test) else self.validation
            contact_sheet(best, shown, self.folder / "overlays.png")
            report.remove(self.folder)  # of other scores
            if self.config.report:
                run = self.folder, self.config.name, best, self.test, scores, results
                page = partial(report.write, *run, summary=self.folder / SUMMARY)
                print(report.attempt(partial(page, eval_metric=self.config.eval_metric)))
        self.accelerator.wait_for_everyone()
        return results

    def train_step(self, batches: list[MicroBatch], loaded: Iterator[Batch]) -> Step:
        """Forward and backward of a step's batches, and the optimiser's step if all is finite.

        The one point of a step that waits for the device is where its figures are read.
        """
        config, state = self.config, self.state
        torch.manual_seed(_mixed(config.seed, state.step, self.accelerator.process_index))
        if self.detector.head.loss_weights is not None:
            epoch = state.step / self.plan.steps
            self.detector.head.scale_terms(*(factor_at(points, epoch) for points in self.schedules))
        sums = []
        for planned in batches:
            batch = next(loaded).to(self.accelerator.device, self.memory_format)
            # The processes exchange gradients in the last backward only.
            apart = nullcontext() if planned.last else self.accelerator.no_sync(self.model)
            with apart:
                out = self.model(batch.images, batch.target, batch.saliency, batch.saliency_mask)
                self.accelerator.backward(out.loss * planned.weight)
            if planned.counted:
                terms = (out.classification, out.focus, out.saliency, out.entropy)
                totals = [out.loss.detach() * planned.counted, *(term.sum() for term in terms)]
                totals.append(batch.saliency_mask.sum(dtype=totals[0].dtype))
                sums.append(torch.stack([*totals, torch.full_like(totals[0], planned.counted)]))
        self.accelerator.unscale_gradients(self.optimizer)
        parameters = [p for p in self.detector.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if config.clip_grad is not None:
            clip_grads_with_norm_(parameters, config.clip_grad, norm)
        mine = torch.zeros(len(TERMS) + 1, device=norm.device, dtype=norm.dtype)
        mine = torch.stack([mine, *sums]).sum(0)
        told = self.signals.pending() if self.signals else 0
        # NaN of one process is the sum of all.
        word = torch.full_like(norm[None], math.nan if self.images.unreadable else told)
        whole = torch.cat([mine, norm[None] / state.processes, word])
        whole = self.accelerator.reduce(whole, "sum")
        *found, count, gradient_norm, all_told = whole.tolist()
        if math.isnan(all_told):
            self._leave_unread()
        self._told = told or (signal.SIGTERM if all_told else 0)

        scaler = self.accelerator.scaler
        finite, updated = math.isfinite(found[0]), False
        if not math.isfinite(gradient_norm):
            # Scaled gradients overflow now and then: the scaler skips the step and scales less.
            # Those that overflow at a scale of 1 do so without it.
            finite &= scaler is not None and scaler.get_scale() > 1
        if finite:
            self.optimizer.step()
            updated = not self.accelerator.optimizer_step_was_skipped
            if updated:
                state.updates += 1
                if state.updates < config.epochs * self.plan.steps:
                    self.scheduler.step()  # not past its end, where one-cycle would rise again
                if self.ema is not None:
                    self.ema.update(self.detector, step=state.updates)
            self.buffers.keep()
        else:
            if scaler is not None:
                scaler.update()
            self.buffers.restore()
        self.optimizer.zero_grad()
        state.step += 1
        return Step(found, count, gradient_norm, updated, finite)

    def _open_folder(self) -> None:
        config, accelerator = self.config, self.accelerator
        checkpoints = self.folder / CHECKPOINTS
        run = self.saved
        if run is not None:
            load_checkpoint(run.path, run.values, **self._parts())
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(run.values["scaler"])
            self._saved = self.state.step, self.state.epoch
            done = self.state.step - self.state.epoch * self.plan.steps
            accelerator.print(
                f"resuming {self.folder} after epoch {self.state.epoch}"
                + (f" and {done} of {self.plan.steps} steps" if done else "")
            )
            if self._goes_on() and not may_hold_best(self.folder, self.state):
                self.state.best = None
                accelerator.print(
                    f"warning: {self.folder / 'model'} is of an epoch after that checkpoint, not "
                    f"of epoch {self.state.best_epoch}: the best from here on takes its place"
                )
        elif config.resume:
            accelerator.print(f"no checkpoint in {checkpoints}: starting from scratch")
        self.buffers.keep()
        if accelerator.is_main_process:
            open_folder(config, self.record)
            if self.state.rows:  # killed between the checkpoint and this, or edited since
                write_summary(self.folder / SUMMARY, self.state.rows)
            # A process that was killed while it wrote model/ left the checkpoint of that epoch.
            if self.state.just_found_best:
                self._save_best()
        check_shared(accelerator, config, self.state)
        # TensorBoard's tracker takes the project's name for its folder.
        only = config.report_to == ("tensorboard",)
        accelerator.init_trackers("tensorboard" if only else "focus-faces")

    def _aim_at_maps(self) -> None:
        """Set the entropy that match and hinge aim at, if it is to be that of the human maps."""
        if not self.config.target_from_maps:
            return
        if self.state.entropy_target is None:
            self.state.entropy_target = self.images.mean_map_entropy()
        head = self.detector.head
        head.loss = replace(head.loss, entropy_target=self.state.entropy_target)
        self.accelerator.print(
            f"entropy target: {self.state.entropy_target:.4f}, the mean of the training set's maps"
        )

    def _train_epoch(self, bar: Any) -> float:
        """The rest of an epoch's steps; how many images a second they had, of all processes."""
        config, state = self.config, self.state
        self.model.train()
        self.log.start()
        steps = self.plan.epoch(state.epoch, state.step - state.epoch * self.plan.steps)
        sums = EpochSums(state.sums)
        loaded = self.images.load(state.epoch, steps)
        for batches in steps:
            rate = self.optimizer.param_groups[0]["lr"]
            step = self.train_step(batches, loaded)
            self.log.count(step.images)
            if step.updated:
                state.in_a_row.clear()
                sums.add(step.sums, step.images, step.gradient_norm)
            else:
                sums.add_skipped()
            if not step.finite:
                state.nonfinite += 1
                state.in_a_row.append(state.step)
                if len(state.in_a_row) >= config.max_nonfinite:
                    give_up(config, self.accelerator, state.in_a_row, self.plan, self.train)
            state.sums = sums.values
            bar.update()
            if state.step % config.log_steps == 0:
                self.log.step(step, state.step, rate)
            # Not while steps are skipped: what has diverged would push out what had not.
            due = config.checkpoint_steps and state.step % config.checkpoint_steps == 0
            if due and not state.in_a_row:
                self._save()
            if self._told:
                self._save_and_leave(self._told)
        return self.log.speed()

    def _validate(self, speed: float) -> None:
        """Score the validation images and note the epoch. speed: training images a second."""
        config, state = self.config, self.state

        def leave_if_told() -> None:
            # A run that is resumed begins with this validation. Alone there is nobody to agree
            # with; several leave after it, if they are given the time.
            if not self.signals or not (signum := self.signals.pending()):
                return
            if state.processes == 1:
                self._save_and_leave(signum)
            self._save()

        if not state.in_a_row:
            # What ends a validation, as too little memory, may leave no time to save. It pushes
            # none out yet: the validation may find that this one has diverged.
            self._write_checkpoint(config.checkpoints_kept + 1)
        if state.processes > 1:
            # Each process has statistics of its own images; those of the first are kept.
            for buffer in self.kept.buffers():
                broadcast(buffer)
        try:
            scores = self._score(self.kept, self._validated, progress=False, each=leave_if_told)
        except NotFiniteError as error:
            half = "" if config.mixed_precision == "no" else ", or --mixed-precision no"
            raise NotFiniteError(
                error.path,
                f"the run {config.name} has diverged in epoch {state.epoch + 1}, lower --lr or "
                f"give --clip-grad{half}.",
            ) from error
        except ImageError as error:  # of one of several processes: the main one alone can save
            if not self.accelerator.is_main_process:
                raise
            raise ImageError(f"{self._saved_without(sentence(error))}.") from error
        figures = validation_figures(scores)
        state.epoch += 1
        value = figures[f"eval_{config.eval_metric}"]
        if is_better(config.eval_metric, value, state.best):
            state.best, state.best_epoch = value, state.epoch
            real, fake = (scores.label == label for label in (REAL, SYNTHETIC))
            unit = units(scores.group, scores.images)
            points = choose(scores.score[real], scores.score[fake], unit[real], unit[fake])
            state.points = asdict(points)
        row = {
            "epoch": state.epoch,
            **EpochSums(state.sums).means(),
            **figures,
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        state.rows.append(row)
        state.sums = None
        best = state.best_epoch == state.epoch
        if self.accelerator.is_main_process:
            # The checkpoint first: from it, model/ can be written again.
            write_summary(self.folder / SUMMARY, state.rows)
            self._save()
            if best:
                self._save_best()
            if config.sheet_epochs and state.epoch % config.sheet_epochs == 0:
                self.log.sheet(self.kept, self.validation, state)
        self.log.epoch(row, state.step, best=best, images_per_second=speed)

    def _goes_on(self) -> bool:
        """Whether an epoch follows: the last is not done, nor was the best one too long ago."""
        config, state = self.config, self.state
        waited = state.epoch - state.best_epoch
        return state.epoch < config.epochs and not (config.patience and waited >= config.patience)

    def _leave_if_told(self) -> None:
        """After a validation: all processes together, if one of them was told to."""
        signum = self.signals.pending() if self.signals else 0
        if self.state.processes > 1:
            mine = torch.tensor([signum], device=self.accelerator.device)
            signum = int(self.accelerator.gather(mine).max())
        if signum:
            self._save_and_leave(signum)

    def _save_and_leave(self, signum: int) -> NoReturn:
        path = self._save()
        self.accelerator.wait_for_everyone()
        finish_trackers(self.accelerator)
        raise Stopped(
            signum, f"stopped after step {self.state.step}, saved in {path}; --resume goes on."
        )

    def _leave_unread(self) -> NoReturn:
        """All processes together, if one of them lacks an image; a resumed run repeats the step."""
        self.buffers.restore()  # without the step's batches
        said = next(filter(None, gather_object([self.images.unreadable])))
        said = self._saved_without(said)
        self.accelerator.wait_for_everyone()
        finish_trackers(self.accelerator)
        raise InputError(f"{said}.")

    def _saved_without(self, said: str) -> str:
        """What there is to say of an image, once all is saved that was trained without it."""
        if self.config.dry_run:  # which writes nothing
            return said.removesuffix(".")
        return (
            f"{said.removesuffix('.')}, then go on with --resume after step {self.state.step}, "
            f"saved in {self._save()}"
        )

    def _save(self) -> str:
        self._write_checkpoint(self.config.checkpoints_kept)
        return str(self.folder / CHECKPOINTS)

    def _write_checkpoint(self, keep: int) -> None:
        """Unless it is there, as at the start of a validation with which a run goes on."""
        at = self.state.step, self.state.epoch
        if self.accelerator.is_main_process and at != self._saved:
            scaler = self.accelerator.scaler
            save_checkpoint(
                self.folder / CHECKPOINTS,
                self.state.step,
                **self._parts(),
                extra={
                    "train_state": asdict(self.state),
                    "config": asdict(self.config),
                    "scaler": None if scaler is None else scaler.state_dict(),
                },
                keep=keep,
            )
            self._saved = at

    def _parts(self) -> dict[str, Any]:
        """What a checkpoint holds the tensors of."""
        return {
            "model": self.detector,
            "optimizer": self.optimizer.optimizer,
            "scheduler": self.scheduler,
            "ema": None if self.ema is None else self.ema.module,
        }

    def _save_best(self) -> None:
        if self.state.points is not None:
            self.kept.points = OperatingPoints.from_values(self.state.points)
        self.kept.card = self._card(self.kept)
        self.kept.save_pretrained(self.folder / "model")

    def _card(self, detector: Detector, results: Results | None = None) -> str:
        data = trained_on(self.train, self.config.data)
        how = trained_how(self.config)
        table = format_table({self.config.name: results}) if results else ""
        return model_card(detector.config, detector.points, table, data, how)


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
