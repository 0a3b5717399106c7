"""Run folders: which may be written, and what a resumed run goes on with.

``docs/formats.md`` describes the files of a run folder.
"""

import os
import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from accelerate import Accelerator
from accelerate.utils import gather_object

from focus.config.options import flag, flat, nested
from focus.config.train import ResolvedTrainConfig, TrainConfig, write_config
from focus.data.known_images import MANIFEST
from focus.data.manifest import Manifest
from focus.errors import InputError, did_you_mean, listed
from focus.model.config import CONFIG_FILE, WEIGHTS_FILE, DetectorConfig
from focus.model.operating_points import OperatingPoints
from focus.runtime.files import atomic_write, check_writable
from focus.runtime.json_files import Natural
from focus.runtime.peers import as_it_was_given
from focus.training.checkpoint import last_checkpoint

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
SUMMARY = "summary.csv"
_SHARED_WITHIN = 15.0  # seconds, in which a network's file system shows a folder that was made

# What a resumed run may have otherwise than before: it does not change what is computed, but for
# the last bits by threads, of which as many are taken as before unless the user says otherwise.
_FREE = (
    "resume",
    "debug",
    "threads",
    "workers",
    "compare_ce",
    "dry_run",
    "device",
    # Of a GPU, whose bits are not promised.
    "tf32",
    "cudnn_benchmark",
    # The images, which they choose, are compared.
    "max_bad",
    "max_pixels",
    "image_cache",
    # A folder that was moved or renamed is the same run.
    "output",
    "name",
    "checkpoint_steps",
    "checkpoints_kept",
    "report_to",
    "log_steps",
    "sheet_epochs",
    "report",
    # It changes the last digits of a score: too many at a time have to be mended.
    "eval_batch_size",
)
_PLACES = ("data", "data_root", "human_maps", "test_data", "test_real", "initial_checkpoint")

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**20)]


@dataclass
class TrainState:
    """All of a run that is not tensors: one object, saved and restored whole."""

    epoch: Natural = 0
    """Epochs done, their validation included."""
    step: Natural = 0
    """Steps of the optimiser, done or skipped."""
    nonfinite: Natural = 0
    """Steps of earlier epochs that were skipped for a loss or gradient that is not finite."""
    in_a_row: Natural = 0
    """Steps that were skipped so since the last update of the weights."""
    best: float | None = None
    """The chosen metric of the best epoch, on validation."""
    best_epoch: Natural = 0
    """The number of that epoch, from 1; 0 before the first."""
    points: OperatingPoints | None = None
    """The operating points that were chosen on validation in that epoch."""
    entropy_target: float | None = None
    """The mean entropy of the training set's human maps, under ``--target-from-maps``."""
    sums: dict[str, float] | None = None
    """Totals of the current epoch's steps, by the names of ``SUMS``; None between epochs."""
    rows: list[dict[str, int | float | None]] = field(default_factory=list)
    """The rows of ``summary.csv``, one an epoch."""
    processes: _Count = 1
    """The processes of the launch."""
    threads: _Count | None = None
    """The threads of the CPU in each of them."""
    seen: DetectorConfig | None = None
    """The detector's config, which says what training saw, that of the initial weights included."""

    @property
    def just_found_best(self) -> bool:
        """Return whether the last validation found the best model, with no step since."""
        return self.best_epoch == self.epoch > 0 and self.sums is None


@dataclass(frozen=True)
class _Saved:
    """What a run puts into ``state.json``, of the types that it needs to go on."""

    train_state: TrainState
    config: ResolvedTrainConfig
    scaler: dict[str, Any] | None


@dataclass(frozen=True)
class SavedRun:
    """A checkpoint to go on from: its folder, its JSON values, the state and images of the run."""

    path: Path
    values: dict[str, Any]
    state: TrainState
    manifest: Manifest


def check_begun(config: ResolvedTrainConfig) -> None:
    """Check that a run without data, which is to be resumed, has begun.

    Otherwise a name that is mistyped would train the demo set. With data ``--resume`` begins a run
    that is not there, so that a cluster's job may be sent again as it is.

    Raises:
        InputError: there is no such run; the message names those that there are.
    """
    if not config.resume or config.data or (config.run_folder / CONFIG).is_file():
        return
    runs = sorted(path.parent.name for path in Path(config.output).glob(f"*/{CONFIG}"))
    there = f"{config.output} holds {listed(runs)}" if runs else f"{config.output} holds none"
    raise InputError(
        f"There is no run {config.run_folder} to go on with{did_you_mean(config.name, runs)}: give "
        f"the --name of one ({there}), or begin one without --resume."
    )


def check_folder(config: ResolvedTrainConfig, processes: int = 1) -> SavedRun | None:
    """Return what a resumed run goes on from; None for a new one.

    Raises:
        InputError: the folder exists and is not to be resumed, cannot be written, holds a run with
            other settings or another number of processes, or has lost what the run needs.
    """
    folder = config.run_folder
    check_writable(folder)
    if folder.exists() and not (config.resume or config.dry_run):
        raise InputError(
            f"The run folder {folder} exists already: give another --name, or go on with it by "
            f"{resuming(config)}."
        )
    if not config.resume:
        return None
    checkpoint = last_checkpoint(folder / CHECKPOINTS)
    if checkpoint is None:
        if (folder / "model").exists():
            raise InputError(
                f"The run {folder} has a model and no checkpoint to go on from: give another "
                "--name, or move the folder away."
            )
        return None
    path, values = checkpoint
    try:
        saved = msgspec.convert(_nested(values), _Saved)
    except ValueError as error:
        raise InputError(
            f"{path} has a state of another program ({error}): resume it with the version that "
            "wrote it, or give another --name."
        ) from error
    other = other_setting(saved.config, config)
    if other is not None:  # the result would be neither run's
        name, before, now = other
        raise InputError(
            f"The run {folder} was started with {flag(name)} {_as_typed(before)}, not "
            f"{_as_typed(now)}: resume it by {resuming(config)} alone, or give another --name."
        )
    state = saved.train_state
    if state.processes != processes:
        raise InputError(
            f"The run {folder} was trained by {state.processes} processes, not {processes}: launch "
            "as many, or give another --name."
        )
    needs_model = state.best_epoch > 0 and not state.just_found_best
    weights = folder / "model" / WEIGHTS_FILE
    lacking = ""
    if needs_model and not weights.exists():
        lacking = "model/, the best so far"
    elif not (folder / MANIFEST).exists():
        lacking = MANIFEST
    if lacking:
        raise InputError(f"The run {folder} lacks {lacking}: put it back, or give another --name.")
    if needs_model:
        DetectorConfig.read(weights.with_name(CONFIG_FILE)).with_weights(weights)
    return SavedRun(path, values, state, Manifest.from_csv(folder / MANIFEST))


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of ``state.json`` with the settings of the loss as one."""
    config = values.get("config")
    if isinstance(config, dict):
        config = nested(ResolvedTrainConfig, config)
    return values | {"config": config}


def _as_typed(value: Any) -> Any:
    """Return a setting as it stands behind its flag: several texts with spaces between them."""
    return " ".join(value) if isinstance(value, tuple) else value


def resuming(config: ResolvedTrainConfig) -> str:
    """Return the flags that go on with a run, whose other settings are in its folder."""
    words = ["--resume", "--name", config.name]
    if config.output != TrainConfig.output:
        words += ["--output", config.output]
    return shlex.join(words)


def command_to_go_on(config: ResolvedTrainConfig) -> str:
    """Return the command that goes on with a run, launched as it is now."""
    return f"{as_it_was_given()} {resuming(config)}".lstrip()


def other_setting(then: TrainConfig, config: ResolvedTrainConfig) -> tuple[str, Any, Any] | None:
    """Find the first setting that makes it another run: its name, value then, and value now.

    None where what is computed is the same. A place may be spelt in another way.
    """
    settings_then = flat(then)
    for name, now in flat(config).items():
        before = settings_then[name]
        same = before == now or (name in _PLACES and _places(before) == _places(now))
        if name not in _FREE and not same:
            return name, before, now
    return None


def _places(value: Any) -> Any:
    """Resolve the paths of a setting: one, several, or by name."""
    if isinstance(value, dict):
        return {name: os.path.realpath(path) for name, path in value.items()}
    if isinstance(value, str):
        return [os.path.realpath(value)]
    return [os.path.realpath(path) for path in value or ()]


def write_record(config: ResolvedTrainConfig, manifest: Manifest, *, resumed: bool) -> None:
    """Write down what is trained, and on what."""
    # Without --resume: given as --config, it must not go on with this folder unasked.
    with atomic_write(config.run_folder / CONFIG) as aside:
        write_config(replace(config, resume=False), aside)
    if not resumed:
        manifest.to_csv(config.run_folder / MANIFEST)


def check_shared(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Check that every process sees the folder that the main one has opened, at the same step.

    Raises:
        InputError: one of them does not, in every process: each machine has a folder of its own.
    """
    accelerator.wait_for_everyone()
    deadline = time.monotonic() + _SHARED_WITHIN
    sees_it = _has_files(folder)
    while not sees_it and time.monotonic() < deadline:
        time.sleep(0.2)
        sees_it = _has_files(folder)

    seen_by_main, *seen_by_others = gather_object([(sees_it, step)])
    for rank, seen in enumerate(seen_by_others, start=1):
        if seen != seen_by_main:
            raise InputError(
                f"Process {rank} does not see the run folder {folder} that the main process "
                "writes: give an --output that all machines share."
            )


def _has_files(folder: Path) -> bool:
    """Tell whether a folder has files: listed, as NFS may remember that one was not there."""
    return folder.is_dir() and any(folder.iterdir())
