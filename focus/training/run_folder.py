"""Run folders: which may be written, and which a resumed run goes on with.

A run folder holds ``config.yaml``, ``manifest.csv`` (what it trains on, with the splits),
``trained_before.csv`` (what the weights of another run, if it begins with such, were trained or
chosen on), ``summary.csv`` (a row an epoch), ``tensorboard/``, ``checkpoints/``, ``sheets/``,
``model/`` (the best on validation, never on test), ``results.json``, ``scores.csv`` and
``overlays.png``.
"""

import os
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from focus.config.options import flag
from focus.config.train import ResolvedTrainConfig, write_config
from focus.data.known_images import MANIFEST
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.model.operating_points import OperatingPoints
from focus.runtime.files import atomic_write, check_writable, locked
from focus.training.checkpoint import checkpoints, last_checkpoint

CHECKPOINTS = "checkpoints"
SUMMARY = "summary.csv"
LOCK = ".lock"
_SHARED_WITHIN = 15.0  # seconds, in which a network's file system shows a folder that was made

# What may differ between two that are one run: it does not change what is computed, but for the
# last bits by threads, of which a resumed run takes as many as before unless it is told otherwise.
_FREE = (
    *("resume", "debug", "threads", "workers", "max_bad", "compare_ce", "dry_run"),
    *("output", "name"),  # a folder that was moved or renamed is the same run
    *("checkpoint_steps", "checkpoints_kept", "report_to", "log_steps", "sheet_epochs", "report"),
    "eval_batch_size",  # but for the last digits of a score: too many at a time have to be mended
)
_PLACES = ("data", "data_root", "heatmaps", "test_data", "test_real", "initial_checkpoint")


@dataclass
class TrainState:
    """All of a run that is not weights: one object, saved and restored whole.

    epoch: epochs done, validation included. step: steps of the optimiser done or skipped.
    updates: those done. nonfinite: steps skipped for a loss that is not finite; in_a_row: those
    since the last update, by number, counted from 1. best: of the chosen metric on validation, None
    before the first epoch; best_epoch: counted from 1; points: its operating points.
    entropy_target: measured on the training set's maps. sums: of the epoch that is under way. rows:
    of summary.csv. processes: of the launch. threads: of the main one, None where they were not
    kept yet. seen: what the detector's config says of its training, of the weights that the run
    began with too.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    nonfinite: int = 0
    in_a_row: list[int] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    points: dict[str, Any] | None = None
    entropy_target: float | None = None
    sums: list[float] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    processes: int = 1
    threads: int | None = None
    seen: dict[str, Any] = field(default_factory=dict)

    @property
    def just_found_best(self) -> bool:
        """Whether the last validation found it, and no step was done since."""
        return self.best_epoch == self.epoch > 0 and self.sums is None


@dataclass(frozen=True)
class SavedRun:
    """A checkpoint to go on from: its folder, its JSON values, the state of the run.

    beside: all checkpoints that there were.
    """

    path: Path
    values: dict[str, Any]
    state: TrainState
    beside: list[Path]


def check_folder(config: ResolvedTrainConfig) -> SavedRun | None:
    """What the run goes on from if it is resumed; refuses a folder that exists otherwise.

    Raises:
        InputError: the folder exists, cannot be written, or holds a run with other settings.
    """
    folder = config.run_folder
    check_writable(folder)
    if folder.exists() and not (config.resume or config.dry_run):
        raise InputError(
            f"The run folder {folder} exists already: give another --name, or --resume to go on."
        )
    if not config.resume:
        return None
    saved = _saved_run(config)
    if not config.dry_run:  # which writes nothing
        check_model(folder, saved)
    return saved


def check_processes(folder: Path, saved: SavedRun | None, processes: int) -> None:
    """Raise InputError where a run would go on with another number of processes than it had."""
    if saved is not None and saved.state.processes != processes:
        raise InputError(
            f"The run {folder} was trained by {saved.state.processes} processes, not "
            f"{processes}: launch as many, or give another --name."
        )


def check_model(folder: Path, saved: SavedRun | None) -> None:
    """Raise InputError where a resumed run would write over a model, or end without its best."""
    there = (folder / "model").exists()
    if saved is None:
        if there:
            raise InputError(
                f"The run {folder} has a model and no checkpoint to go on from: give another "
                "--name, or move the folder away."
            )
        return
    state = saved.state
    # Right after the validation that found it, it is written again.
    if state.best_epoch > 0 and not (there or state.just_found_best):
        raise InputError(
            f"The run {folder} lacks model/, the best so far, of epoch {state.best_epoch}: "
            "put it back, or give another --name."
        )


def may_hold_best(folder: Path, state: TrainState) -> bool:
    """Whether ``model/`` can be the best one of the state, as its operating points are the same.

    They are not where checkpoints of later epochs, of which one was better, are damaged or gone.
    Right after the validation that found it, it is written again, whatever is there.
    """
    if state.just_found_best:
        return True
    try:
        found = OperatingPoints.read(folder / "model")
    except InputError:
        return True
    if found is None or state.points is None:
        return True
    return found == OperatingPoints.from_values(state.points)


@contextmanager
def held(config: ResolvedTrainConfig, saved: SavedRun | None) -> Iterator[None]:
    """The run folder, made if need be, for this process alone, as long as it trains.

    saved: what :func:`check_folder` found, minutes ago.

    Raises:
        InputError: another process trains there, or has in the meantime.
    """
    folder = config.run_folder
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    with locked(folder / CHECKPOINTS / LOCK) as mine:
        if not mine:
            raise InputError(
                f"Another process trains in the run folder {folder}: wait for its end, or give "
                "another --name."
            )
        if checkpoints(folder / CHECKPOINTS) != ([] if saved is None else saved.beside):
            raise InputError(
                f"Another process has trained in the run folder {folder} since this one looked: "
                "give the command again."
            )
        yield


def other_setting(
    then: Mapping[str, Any], config: ResolvedTrainConfig
) -> tuple[str, Any, Any] | None:
    """The first setting that makes it another run: its name, its value then, its value now.

    then: the settings of the earlier one, by name. None where what is computed is the same: a place
    may be spelt in another way, as with a slash at its end.
    """
    for name, now in asdict(config).items():
        before = then.get(name)
        before = tuple(before) if isinstance(now, tuple) and before is not None else before
        same = before == now or (name in _PLACES and _place(before) == _place(now))
        if name not in _FREE and not same:
            return name, before, now
    return None


def _place(value: Any) -> Any:
    """A setting with the one name of each place in it."""
    if isinstance(value, dict):
        return {name: _place(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_place, value))
    return value and os.path.realpath(value)


def open_folder(config: ResolvedTrainConfig, manifest: Manifest) -> None:
    """Make the folder and write down what is trained, and on what."""
    folder = config.run_folder
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    # Without --resume: given as --config, it must not go on with this folder unasked.
    with atomic_write(folder / "config.yaml") as aside:
        write_config(replace(config, resume=False), aside)
    manifest.to_csv(folder / MANIFEST)


def check_shared(accelerator: Accelerator, config: ResolvedTrainConfig, state: TrainState) -> None:
    """Wait until every process of a launch sees the folder that the main one has opened.

    state: that this process begins with.

    Raises:
        InputError: one of them sees none, or another step or model/ to go on from than the main
            process: each machine has a folder of its own.
    """
    folder = config.run_folder
    deadline = time.monotonic() + _SHARED_WITHIN
    accelerator.wait_for_everyone()
    # Listed, not asked for: NFS may remember that a file was not there.
    while not (there := _lists(folder, CHECKPOINTS)) and time.monotonic() < deadline:
        time.sleep(0.2)
    check_alike(folder, (there, state.step, state.best is None))


def check_alike(folder: Path, found: Hashable) -> None:
    """Raise InputError, in every process, where they have not found the same in the run folder."""
    seen = gather_object([found])
    if len(set(seen)) > 1:
        rank = next(rank for rank, each in enumerate(seen) if each != seen[0])
        raise InputError(
            f"Process {rank} does not see the run folder {folder} that the main process writes: "
            "give an --output that all machines share."
        )


def _lists(folder: Path, name: str) -> bool:
    return folder.is_dir() and any(path.name == name for path in folder.iterdir())


def _saved_run(config: ResolvedTrainConfig) -> SavedRun | None:
    """The last whole checkpoint of the run; None if there is none.

    Raises:
        InputError: all are damaged, or it is of a run with other settings.
    """
    folder = config.run_folder
    beside = checkpoints(folder / CHECKPOINTS)
    found = last_checkpoint(folder / CHECKPOINTS)
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
    if other := other_setting(then, config):  # the result would be neither run's
        name, before, now = (" ".join(each) if isinstance(each, tuple) else each for each in other)
        raise InputError(
            f"The run {folder} was started with {flag(name)} {before}, not {now}: resume it with "
            "the flags it was started with, or give another --name."
        )
    return SavedRun(path, values, state, beside)


def recorded_manifest(config: ResolvedTrainConfig, saved: SavedRun | None) -> Manifest | None:
    """What the run that is resumed trains on; None if it has no checkpoint yet.

    Raises:
        InputError: the record is lost, or cannot be read.
    """
    if saved is None:
        return None
    folder = config.run_folder
    if not (folder / MANIFEST).exists():  # splits drawn of other data would mix train and test
        raise InputError(
            f"The run {folder} lacks {MANIFEST}, what it trains on: put it back, or give another "
            "--name."
        )
    return Manifest.from_csv(folder / MANIFEST)
