"""Training: the steps, epochs and checkpoints of one run, driven by Accelerate.

A step depends on the seed, its number and the process alone: the images of its batches
(:mod:`focus.training.batches`), their augmentation, and the network's random numbers, which are
seeded for each step. So a run that is resumed at any step goes on with the same bits.
"""

import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from focus.config.losses import factor_at, parse_points
from focus.config.options import flat
from focus.config.train import ResolvedTrainConfig
from focus.data.cache.features import CachedFaces, with_digests
from focus.data.cache.images import ImageCache
from focus.data.copies import Copy, without
from focus.data.dataset import Batch, name_lost_workers
from focus.data.manifest import Manifest
from focus.data.near_far import training_families
from focus.errors import (
    FullMemoryError,
    InputError,
    LostWorkerError,
    NotFiniteError,
    UnreadableError,
    is_full_memory,
    sentence,
)
from focus.evaluation.inference import batch_loader, images_only, score_images
from focus.evaluation.scores import Scores
from focus.evaluation.selection import is_better, operating_points
from focus.model.card import model_card, trained_how, trained_on
from focus.model.detector import Detector
from focus.runtime.cpu_time import phase
from focus.runtime.launch import arithmetic, finish_trackers, run_on_main_first, same_threads
from focus.runtime.peers import (
    LostProcessError,
    ignore_launcher_sigterm,
    is_of_connection,
    lost_peers,
    lost_processes_clause,
    silence_peers,
)
from focus.runtime.signals import Stopped, StopSignals
from focus.training.batches import MicroBatch, TrainingImages, ValidationImages
from focus.training.checkpoint import (
    CheckpointWriter,
    Parts,
    checkpoint_name,
    checkpoints,
    load_checkpoint,
    remove_later,
)
from focus.training.features import filled_cache
from focus.training.monitoring import RunLog, training_figures, validation_figures, write_summary
from focus.training.optimizer import make_optimizer, make_scheduler
from focus.training.run_folder import (
    CHECKPOINTS,
    SUMMARY,
    SavedRun,
    TrainState,
    check_shared,
    command_to_go_on,
    write_record,
)
from focus.training.step import Statistics, Tally, add_gradients, gradient_norm, update
from focus.training.tuning import merged

_AGREED_EVERY = 20
"""Steps on a GPU between two at which processes tell each other of signals, which takes a wait."""


class Trainer:
    """One run: model, data, optimiser and schedule, prepared by Accelerate.

    manifest: All images of the run. saved: The checkpoint to go on from; None for a new run.
    decoded: The cache holds the images of the manifest, decoded. left_out: Copies of images of an
    earlier split, which validation and test go without.
    """

    def __init__(
        self,
        config: ResolvedTrainConfig,
        detector: Detector,
        manifest: Manifest,
        accelerator: Accelerator,
        saved: SavedRun | None = None,
        decoded: ImageCache | None = None,
        left_out: Sequence[Copy] = (),
    ) -> None:
        self.config = config
        self.detector = detector
        self.accelerator = accelerator
        self.decoded = decoded
        self.saved = saved
        self.folder = config.run_folder
        self.on_cpu = accelerator.device.type == "cpu"
        self.cached = config.caches_features and not config.dry_run
        """Whether the head alone is trained, on features that the network computes once."""
        if self.cached:  # by which features are named, of each file before it is decoded
            manifest = with_digests(manifest)
        self.manifest = manifest

        self.state = saved.state if saved else TrainState(processes=accelerator.num_processes)
        warning = same_threads(accelerator.device, self.state.threads, config.threads)
        if warning:
            accelerator.print(f"warning: {warning}")
        self.state.threads = torch.get_num_threads()

        used = without(manifest, left_out)
        self.train = used.split("train")
        self.validation = used.split("validation")
        self.test = used.split("test")
        detector.config = detector.config.after(
            self.train.generators(), training_families(self.train), self.train.geometries()
        )
        self.state.seen = detector.config
        self.images = TrainingImages(config, self.train, detector, accelerator, decoded)
        self.plan = self.images.plan
        """Which images each step of an epoch takes."""
        self.validation_images = ValidationImages()

        self.log = RunLog(config, accelerator)
        self.signals = StopSignals()
        if self.state.processes > 1:
            self.signals = StopSignals(
                "saving after this step, if all processes reach its end", lost_peers
            )
        self.writer = CheckpointWriter(self.folder / CHECKPOINTS)
        self._written: tuple[int, int] | None = None
        """Step and epoch of the last checkpoint."""
        self._is_whole = True
        """Whether the state is that after a step, not within one."""

        self.score = partial(
            score_images,
            accelerator=accelerator,
            batch_size=config.eval_batch_size,
            workers=config.workers,
            images=decoded,
        )
        """Scores images as the run does, by all its processes."""
        self._prepare()
        if saved is None and self.cached:  # of a resumed run, once its weights are loaded
            self._cache_features()
        if config.target_from_maps:  # before there is a folder, since it may refuse
            self._aim_at_maps()

    def _prepare(self) -> None:
        """Put the detector on its device, and make its optimiser, schedule and weighted loss."""
        config, detector, device = self.config, self.detector, self.accelerator.device
        channels_last = config.channels_last
        if channels_last is None:
            channels_last = device.type == "cuda"
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        detector.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        detector.to(device)
        if config.sync_bn and device.type == "cuda":
            # By timm: torch's own conversion drops the activation that is part of timm's norms.
            convert_sync_batchnorm(detector)

        texts = {"focus": config.focus_schedule, "saliency": config.saliency_schedule}
        self.schedules = {term: parse_points("", text) for term, text in texts.items() if text}
        """The factors of a term's weight by epoch, of the terms that have some."""
        if self.schedules:
            detector.head.scale_terms()
        if config.class_weight == "balanced":
            labels = np.bincount(self.plan.labels, minlength=detector.config.num_classes)
            weight = len(self.plan.labels) / (len(labels) * labels)
            detector.head.class_weight = torch.tensor(weight, dtype=torch.float32, device=device)

        trained: nn.Module = detector.head if self.cached else detector
        self.ema: ModelEmaV3 | None = None
        """The average of the weights over the steps, if one is kept."""
        if config.model_ema_decay:
            self.ema = ModelEmaV3(detector, decay=config.model_ema_decay, use_warmup=True)
        if config.compile:
            trained.compile(mode=config.compile_mode)  # in place: the names of the weights stay
            if not self.cached:
                # In the default mode: CUDA graphs would overwrite what one batch has returned.
                encode = torch.compile(self.kept.encode_with_norms)
                self.kept.encode_with_norms = encode  # type: ignore[method-assign]

        optimizer = make_optimizer(config, detector)
        # Before Accelerate takes the optimiser's step for its own: else the schedule warns of it.
        self.scheduler = make_scheduler(config, optimizer, self.plan.steps)
        self.model, self.optimizer = self.accelerator.prepare(trained, optimizer)
        # Of several processes on CPUs, the buffers before are no longer the network's.
        self.statistics = Statistics(trained)
        self.tally = Tally(device)

    def _cache_features(self) -> None:
        """Run the frozen network on each image, unless that was done; then take the features."""
        cache = run_on_main_first(
            self.accelerator,
            lambda: filled_cache(
                self.config, self.detector, self.manifest, self.accelerator, self.decoded
            ),
        )
        self.images.cached = CachedFaces(
            cache, self.train, self.config.changes, self.config.views or 1
        )
        self.score = partial(self.score, features=cache)

    def _aim_at_maps(self) -> None:
        """Set the entropy that match and hinge aim at to that of the human maps."""
        target = self.state.entropy_target
        if target is None and self.accelerator.is_main_process:
            target = self.images.dataset.mean_map_entropy()
        (target,) = broadcast_object_list([target])
        if target is None:
            raise InputError(
                "--target-from-maps: no training image has a human map; give --human-maps, or "
                "--entropy-target in its place."
            )
        self.state.entropy_target = target
        head = self.detector.head
        head.loss = replace(head.loss, entropy_target=target)
        self.accelerator.print(f"entropy target: {target:.4f}, the mean of the training set's maps")

    @property
    def kept(self) -> Detector:
        """Return the network that is validated and kept: with averaged weights if there are any."""
        return self.detector if self.ema is None else self.ema.module

    def fit(self) -> None:
        """Train to the last epoch, from the last checkpoint if the run is resumed.

        Raises:
            Stopped: a signal came; a checkpoint of that moment is there.
            InputError: the loss was not finite too many times in a row, or as
                :meth:`saying_how_to_go_on`.
        """
        self.open_folder()
        with (
            self.signals,
            closing(self.images),
            closing(self.validation_images),
            closing(self.writer),  # success is said, and an error raised, when all is on the disk
            self.log.progress(self.state.step, self.plan.steps) as bar,
        ):
            while self._goes_on():
                with self.saying_how_to_go_on():
                    with phase("training"):
                        speed = self.train_epoch(bar)
                    with phase("validation"):
                        self.note_epoch(self.validation_scores(), speed)
                    self._leave_if_signalled()
        self._leave_if_signalled()  # for a signal that came while the last checkpoint was written
        self.log.end(self.state)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def saying_how_to_go_on(self) -> Iterator[None]:
        """Save what is done where something outside the program ends the run.

        Raises:
            UnreadableError, LostWorkerError, FullMemoryError: in this process.
            LostProcessError: another process was lost.
            SystemExit: likewise, and another one says so.
            Stopped: the user pressed Ctrl-C during the test, which a resumed run makes again.
        """
        try:
            with name_lost_workers():
                yield
        except KeyboardInterrupt as error:
            raise Stopped(signal.SIGINT, self._farewell(self._named("interrupted"))) from error
        except (UnreadableError, LostWorkerError) as error:
            silence_peers()
            # Without the file, or with another one, the run is refused.
            cause = sentence(error).removesuffix(".")
            cause = cause.replace("fix or remove the file", "bring it back as it was")
            raise type(error)(self._farewell(self._named(cause))) from error
        except (RuntimeError, MemoryError) as error:
            if is_full_memory(error):
                silence_peers()
                cause = (
                    "The memory is full: end other programs, or begin anew with a smaller "
                    "--batch-size and another --name"
                )
                raise FullMemoryError(self._farewell(self._named(cause))) from error
            if not is_of_connection(error):
                raise
            ignore_launcher_sigterm()
            clause = lost_processes_clause()
            farewell = self._farewell(clause or "")
            if clause is None:
                raise SystemExit(2) from error
            raise LostProcessError(farewell) from error

    def _named(self, cause: str) -> str:
        """Return the cause with the number of this process, if it is not the first."""
        if self.accelerator.is_main_process:
            return cause
        return f"Process {self.accelerator.process_index}: {cause}"

    def _farewell(self, cause: str) -> str:
        """Save the last whole step, in the main process; say how to go on from what is there.

        A step that was interrupted as it changed the weights is not saved: then an earlier
        checkpoint counts.
        """
        if self.accelerator.is_main_process and self._is_whole:
            with suppress(RuntimeError, MemoryError):  # of a device that has failed, or is full
                self.statistics.restore()  # without the step's first batches
                self.read_tally()
                self.save()
        self.writer.wait()
        finish_trackers(self.accelerator)
        paths = checkpoints(self.folder / CHECKPOINTS)
        if not paths:
            saved = "nothing is saved yet"
        elif paths[-1].name == checkpoint_name(self.state.step):
            saved = f"step {self.state.step} is saved in {paths[-1]}"
        else:
            saved = f"the last checkpoint is {paths[-1]}"
        return f"{cause}; {saved}; to go on: {command_to_go_on(self.config)}"

    def open_folder(self) -> None:
        """Restore the checkpoint, if there is one, and write down what is trained on what."""
        config, accelerator, state = self.config, self.accelerator, self.state
        main = accelerator.is_main_process
        if self.saved is not None:
            load_checkpoint(self.saved.path, self.saved.values, self._parts())
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(self.saved.values["scaler"])
            if self.cached:
                self._cache_features()
            self._written = state.step, state.epoch
            done = state.step - state.epoch * self.plan.steps
            accelerator.print(
                f"resuming {self.folder} after epoch {state.epoch}"
                + (f" and {done} of {self.plan.steps} steps" if done else "")
            )
            if main:
                remove_later(self.saved.path)
        elif config.resume:
            folder = self.folder / CHECKPOINTS
            accelerator.print(f"no checkpoint in {folder}: starting from scratch")
        self.statistics.keep()
        self.tally.set(state.sums, state.in_a_row)
        if main:
            (self.folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            write_record(config, self.manifest, resumed=self.saved is not None)
            if state.rows:  # killed between the checkpoint and this
                write_summary(self.folder / SUMMARY, state.rows)
            if state.just_found_best:
                self.save_best()
            elif state.points is not None:
                state.points.restore(self.folder / "model")
        check_shared(accelerator, self.folder, state.step)
        # TensorBoard's tracker takes the project's name for its folder.
        only = config.report_to == ("tensorboard",)
        accelerator.init_trackers("tensorboard" if only else "focus-faces")

    def train_epoch(self, bar: Any) -> float:
        """Train the rest of an epoch's steps; return its images a second, of all processes."""
        config, state = self.config, self.state
        self.model.train()
        self.log.start()
        steps = self.plan.epoch(state.epoch, state.step - state.epoch * self.plan.steps)
        loaded = self.images.load(state.epoch, steps)
        for batches in steps:
            self.writer.check()
            rate = self.optimizer.param_groups[-1]["lr"]
            self.train_step(batches, loaded)
            bar.update()
            self.log.count(batches)
            logs = state.step % config.log_steps == 0
            saves = config.checkpoint_steps and state.step % config.checkpoint_steps == 0
            # Alone, a process leaves at once. Several leave together, and to agree on it a GPU is
            # waited for: they do so now and then, and where the log waits for it anyway.
            is_alone = state.processes == 1
            signum = self.signals.pending() if is_alone else 0
            agreed_every = 1 if self.on_cpu else _AGREED_EVERY
            agrees = not is_alone and (logs or state.step % agreed_every == 0)

            if logs or saves or agrees or signum:
                self.read_tally()
            if logs:
                self.log.step(self.tally.last(), state.step, rate)
            # Not while steps are skipped: what has diverged would push out what had not.
            if saves and not state.in_a_row:
                self.save(wait=False)
            if agrees:
                self._leave_if_signalled()
            elif signum:
                self._save_and_leave(signum)
        self.read_tally()
        return self.log.speed()

    def train_step(self, batches: list[MicroBatch], loaded: Iterator[Batch]) -> None:
        """Do a step: forward and backward of its batches, and the optimiser's if all is finite.

        It reads nothing from the device, nor waits for it.
        """
        config, state, accelerator = self.config, self.state, self.accelerator
        self._seed_step()
        if self.schedules:
            epoch = state.step / self.plan.steps
            factors = {term: factor_at(points, epoch) for term, points in self.schedules.items()}
            self.detector.head.scale_terms(**factors)
        sums = add_gradients(accelerator, self.model, batches, loaded, self.prepared)
        accelerator.unscale_gradients(self.optimizer)
        norm = gradient_norm(self.detector)
        scaler = accelerator.scaler
        scale = None if scaler is None else scaler._get_scale_async()
        images = sum(batch.images for batch in batches)
        with self._changing_state():
            finite, skip = self.tally.add(sums, norm, images, scale)
            update(self.optimizer.optimizer, norm, skip, config.clip_grad)
            if scaler is not None:
                scaler.update()
            self.statistics.settle(finite)
            self.optimizer.zero_grad()
            state.step += 1
            if state.step < config.epochs * self.plan.steps:
                self.scheduler.step()  # not past its end, where one-cycle would rise again
            if self.ema is not None:
                self.ema.update(self.detector, step=state.step)

    def _seed_step(self) -> None:
        """Seed torch for the next step of this process, which then goes alike in a resumed run."""
        entropy = self.config.seed, self.state.step, self.accelerator.process_index
        (seed,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        # On a CPU by its own generator: torch.manual_seed asks for every kind of device.
        manual_seed = torch.default_generator.manual_seed if self.on_cpu else torch.manual_seed
        manual_seed(int(seed))

    @contextmanager
    def _changing_state(self) -> Iterator[None]:
        """Keep what the block leaves, if an error ends it, from being saved.

        torch says in a handler of signals, wherever the program is, that a worker was lost.
        """
        self._is_whole = False
        yield
        self._is_whole = True

    def prepared(self, batch: Batch) -> Tensor:
        """Return the model's input: images [B,3,S,S] normalised, or features as they are."""
        if batch.holds_features:
            return batch.images
        return self.detector.normalise(batch.images, self.memory_format)

    def read_tally(self) -> None:
        """Read the figures of the steps so far from the device, into the state.

        Raises:
            InputError: too many steps in a row were not finite.
        """
        config, state = self.config, self.state
        state.sums, state.in_a_row = self.tally.read()
        if state.in_a_row >= config.max_nonfinite:
            raise InputError(
                f"The loss of {config.name} was not finite in {state.in_a_row} steps in a row, up "
                f"to step {state.step}: {self._steadier()}."
            )

    def validation_scores(self) -> Scores:
        """Score the validation images, after a checkpoint that a failure here leaves."""
        config, state = self.config, self.state
        if not state.in_a_row:
            # It pushes none out yet: the validation may find that this one has diverged.
            self.save(keep=config.checkpoints_kept + 1, wait=False)
        # Each process has statistics of its own images; those of the first are kept.
        broadcast(list(self.kept.buffers()))
        try:
            # Several processes leave after it, all together.
            after_batch = self._leave_if_signalled if state.processes == 1 else None
            return self.score(
                self.kept,
                images_only(self.validation),
                progress=False,
                after_batch=after_batch,
                loaded_by=self._validation_loader(),
            )
        except NotFiniteError as error:
            raise NotFiniteError(
                error.path,
                f"the run {config.name} has diverged in epoch {state.epoch + 1}, "
                f"{self._steadier()}.",
            ) from error

    def _validation_loader(self) -> DataLoader[Batch] | None:
        """Return what loads the validation images, with workers that wait for the next epoch."""
        if self.images.cached is not None:
            return None
        if self.validation_images.loader is None:
            self.validation_images.loader = batch_loader(
                self.kept,
                images_only(self.validation),
                batch_size=self.config.eval_batch_size,
                workers=self.config.workers,
                accelerator=self.accelerator,
                images=self.decoded,
                persistent=True,
            )
        return self.validation_images.loader

    def note_epoch(self, scores: Scores, speed: float) -> None:
        """Note the epoch, and keep the network if it is the best so far."""
        config, state = self.config, self.state
        assert state.sums is not None, "an epoch has a step at least"
        figures = validation_figures(scores)
        value = figures[f"eval_{config.eval_metric}"]
        row = {
            "epoch": state.epoch + 1,
            **training_figures(state.sums),
            **figures,
            "lr": self.optimizer.param_groups[-1]["lr"],
        }
        with self._changing_state():
            state.epoch += 1
            if is_better(config.eval_metric, value, state.best):
                state.best, state.best_epoch = value, state.epoch
                state.points = operating_points(scores)
            state.rows.append(row)
            state.nonfinite += int(state.sums["nonfinite"])
            state.sums = None
            self.tally.set(in_a_row=state.in_a_row)
        if self.accelerator.is_main_process:
            self.save()  # first, as summary.csv and model/ can be written again from it
            write_summary(self.folder / SUMMARY, state.rows)
            if state.just_found_best:
                self.save_best()
            if config.sheet_epochs and state.epoch % config.sheet_epochs == 0:
                self.log.sheet(self.kept, self.validation, scores, state)
        self.log.epoch(row, state.step, best=state.just_found_best, images_per_second=speed)

    def save(self, keep: int | None = None, *, wait: bool = True) -> Path:
        """Write a checkpoint in the main process, unless it is there; return its folder.

        wait: Return when it is on the disk; else a large one is written while training goes on.
        """
        state = self.state
        moment = state.step, state.epoch
        if self.accelerator.is_main_process and moment != self._written:
            scaler = self.accelerator.scaler
            extra = {
                "scaler": None if scaler is None else scaler.state_dict(),
                "train_state": asdict(state),
                "config": flat(self.config),
            }
            kept = keep or self.config.checkpoints_kept
            self.writer.save(state.step, self._parts(), extra, kept, wait=wait)
            self._written = moment
        if wait:
            self.writer.wait()
        return self.writer.folder / checkpoint_name(state.step)

    def save_best(self) -> None:
        """Write ``model/``: the network as it is, with the operating points of the best epoch."""
        if self.state.points is not None:
            self.kept.points = self.state.points
        self.kept.card = self.card(self.kept)
        merged(self.kept).save_pretrained(self.folder / "model")
        self.kept.points = None  # each validation decides at 0.5, that of a resumed run as well

    def card(self, detector: Detector, table: str = "") -> str:
        """Return the model card; table: the results, as text."""
        return model_card(
            detector.config,
            detector.points,
            table,
            data=trained_on(self.train, self.config.data),
            training=trained_how(self.config),
            arithmetic=f"{arithmetic(self.accelerator)}, on {self.accelerator.device.type}",
        )

    def _steadier(self) -> str:
        """Advise on a run that diverges, which cannot go on with other flags."""
        half = "" if self.config.mixed_precision == "no" else ", or --mixed-precision no"
        clip = "" if self.config.clip_grad else "give "
        return f"lower --lr or {clip}--clip-grad{half}, under another --name"

    def _goes_on(self) -> bool:
        """Tell whether an epoch follows: the last is not done, nor the best one too long ago."""
        config, state = self.config, self.state
        waited = state.epoch - state.best_epoch
        return state.epoch < config.epochs and not (config.patience and waited >= config.patience)

    def _leave_if_signalled(self) -> None:
        """Leave, all processes together, if one of them had a signal."""
        pending = torch.tensor([self.signals.pending()], device=self.accelerator.device)
        signum = int(self.accelerator.gather(pending).max())
        if signum:
            self._save_and_leave(signum)

    def _save_and_leave(self, signum: int) -> NoReturn:
        path = self.save()
        self.accelerator.wait_for_everyone()
        finish_trackers(self.accelerator)
        raise Stopped(
            signum,
            f"stopped after step {self.state.step}, saved in {path}; "
            f"to go on: {command_to_go_on(self.config)}",
        )

    def _parts(self) -> Parts:
        ema = None if self.ema is None else self.ema.module
        return Parts(self.detector, self.optimizer.optimizer, self.scheduler, ema)
