"""Checkpoints of a training run: tensors as safetensors, all else as JSON, nothing pickled.

A checkpoint is a folder ``step-NNNNNNNN`` with ``model.safetensors``, ``optimizer.safetensors``,
``ema.safetensors`` if the weights are averaged, and ``state.json``, which holds the checksums. It
is written aside, flushed to the disk and renamed, so that one that exists is whole. The tensors of
a step are written once: where only the state has changed, as after a validation, ``state.json`` is
replaced. Large ones are written by a thread, from a copy of the tensors, while training goes on.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
import safetensors.torch
import torch
from torch import Tensor, nn

from focus.errors import InputError
from focus.runtime.files import atomic_write, flush
from focus.runtime.json_files import Versioned, load_json
from focus.runtime.machine import is_main_process

CHECKPOINT_VERSION = 5
_Tensors = Literal["model.safetensors", "optimizer.safetensors", "ema.safetensors"]
MODEL, OPTIMIZER, EMA = get_args(_Tensors)
STATE = "state.json"
LARGE = 2**24
"""Bytes of tensors from which on a thread writes them."""
# The whole name: a copy that somebody put beside is neither taken nor deleted.
_NAME = re.compile(r"step-(\d{8,})")

_log = logging.getLogger(__name__)


class _Stored(Versioned):
    """What ``state.json`` says of the files beside it."""

    checksums: Annotated[dict[_Tensors, str], msgspec.Meta(min_length=2)]


class Parts(NamedTuple):
    """The objects that a checkpoint restores in place; ema: the averaged network."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    ema: nn.Module | None = None


class _Content(NamedTuple):
    """What a checkpoint holds after ``step`` steps.

    values: What ``state.json`` says, but for the checksums. tensors: By the name of their file and
    their own.
    """

    step: int
    values: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]

    @classmethod
    def of(cls, step: int, parts: Parts, extra: Mapping[str, Any]) -> "_Content":
        """Take it from the run; the tensors are the run's own."""
        state = parts.optimizer.state_dict()
        values = {
            "version": CHECKPOINT_VERSION,
            "step": step,
            "param_groups": state["param_groups"],
            "scheduler": parts.scheduler.state_dict(),
            **extra,
        }
        moments = {
            f"{index}.{name}": value
            for index, tensors in state["state"].items()
            for name, value in tensors.items()
            if isinstance(value, Tensor)
        }
        tensors = {MODEL: parts.model.state_dict(), OPTIMIZER: moments}
        if parts.ema is not None:
            tensors[EMA] = parts.ema.state_dict()
        return cls(step, values, tensors)

    @property
    def size(self) -> int:
        """Return the bytes of all tensors."""
        return sum(
            value.nbytes
            for tensors_of_file in self.tensors.values()
            for value in tensors_of_file.values()
        )

    def copied(self) -> "_Content":
        """Return a copy in the host's memory, which the next step leaves alone."""
        tensors = {
            file: {name: value.detach().to("cpu", copy=True) for name, value in content.items()}
            for file, content in self.tensors.items()
        }
        return _Content(self.step, json.loads(json.dumps(self.values)), tensors)


class CheckpointWriter:
    """Write the checkpoints of a run into a folder, large ones in a thread, one at a time.

    A checkpoint of which a save has not waited may be missing after a kill; then the one before it
    is there, whole. Python does not end before the thread has written what it was given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self, step: int, parts: Parts, extra: Mapping[str, Any], keep: int = 2, *, wait: bool = True
    ) -> None:
        """Write ``step-NNNNNNNN``, once the one before is written; keep the last ``keep`` alone.

        One with a tensor that is not finite, such as a running variance that has overflowed while
        the loss has not, takes the place of none but the one before it: the first ``keep`` stay.

        extra: What else a run needs to go on; JSON values. wait: Return when it is on the disk;
        else a large one is only copied.

        Raises:
            OSError: with the path, if the disk is full or refuses; what was there before is whole.
                Without ``wait``, it may be raised by a later call.
        """
        self.wait()
        content = _Content.of(step, parts, extra)
        is_there = (self.folder / checkpoint_name(step)).exists()
        if wait or is_there or content.size < LARGE:
            _write_checkpoint(self.folder, content, keep)
        else:
            copy = content.copied()
            self._pending = self._thread.submit(_write_checkpoint, self.folder, copy, keep)

    def check(self) -> None:
        """Raise the error of the last save, if it has ended with one."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return once all checkpoints are on the disk; raise the error of the last save."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait as :meth:`wait` does, and end the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def _write_checkpoint(folder: Path, content: _Content, keep: int) -> None:
    step, values, tensors = content
    target = folder / checkpoint_name(step)
    if target.exists():  # of the same run, with the same tensors
        values["checksums"] = json.loads((target / STATE).read_bytes())["checksums"]
        with atomic_write(target / STATE) as aside:
            aside.write_bytes(_signed(values))
    else:
        _write_aside(folder / f".{target.name}.writing", tensors, values).replace(target)
        flush(folder)
    finite = all(
        value.isfinite().all()
        for tensors_of_file in tensors.values()
        for value in tensors_of_file.values()
    )
    paths = checkpoints(folder)
    for old in paths[:-keep] if finite else paths[keep:-1]:
        shutil.rmtree(old)


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint after so many steps."""
    return f"step-{step:08d}"


def last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Find the last whole checkpoint in ``folder`` and its JSON values, None if there is none.

    A damaged one is named in a warning, and the one before it is taken.

    Raises:
        InputError: all are damaged, or the last whole one is of another version.
    """
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            values = _verified(path)
        except (OSError, ValueError) as error:
            reason = shorten(str(error), 200)
            damaged.append(f"The checkpoint {path} is damaged ({type(error).__name__}: {reason})")
            continue
        if values["version"] != CHECKPOINT_VERSION:
            raise InputError(
                f"{path} has version {values['version']}, this program reads {CHECKPOINT_VERSION}: "
                "resume it with the version that wrote it."
            )
        if is_main_process():
            for text in damaged:
                _log.warning("%s; going on from the one before", text)
        return path, values
    if damaged:
        raise InputError(
            f"{damaged[0]}, and there is no whole one before it: give another --name, or move "
            f"{folder.parent} away."
        )
    return None


def load_checkpoint(path: Path, values: Mapping[str, Any], parts: Parts) -> None:
    """Restore what :func:`last_checkpoint` found; what is done to its files later has no effect.

    Raises:
        InputError: the checkpoint was changed since, or is of another network.
    """
    model, optimizer, scheduler, ema = parts
    checksums = values["checksums"]
    try:
        model.load_state_dict(_tensors(path / MODEL, checksums))
        if ema is not None:
            ema.load_state_dict(_tensors(path / EMA, checksums))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _tensors(path / OPTIMIZER, checksums).items():
            index, _, name = key.partition(".")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # In the parameter's memory order: in another, each step would be slower.
                value = torch.empty_like(parameter).copy_(value)
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": values["param_groups"]})
        scheduler.load_state_dict(values["scheduler"])
    except InputError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} does not fit the network or its optimiser ({shorten(str(error), 200)}): "
            "resume it with the versions of focus, torch and timm that wrote it."
        ) from error


def remove_later(path: Path) -> None:
    """Remove the checkpoints after this one, which are damaged."""
    paths = checkpoints(path.parent)
    for later in paths[paths.index(path) + 1 :]:
        shutil.rmtree(later)


def checkpoints(folder: Path) -> list[Path]:
    """Return the folders of all checkpoints, by step."""
    by_step: list[tuple[int, Path]] = []
    for path in folder.glob("step-*"):
        name = _NAME.fullmatch(path.name)
        if name:
            by_step.append((int(name[1]), path))
    return [path for _, path in sorted(by_step)]


def _tensors(path: Path, checksums: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of a file, in memory that is no part of it.

    The optimiser keeps the tensors that it gets: mapped, they would change with the file, and end
    the program by a signal where the file is cut off.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checksums[path.name]:
        raise InputError(
            f"{path} was changed while it was read: end what writes there, then go on with "
            "--resume, from the last checkpoint that is whole."
        )
    return safetensors.torch.load(content)


def _write_aside(
    aside: Path, tensors: Mapping[str, Mapping[str, Tensor]], values: dict[str, Any]
) -> Path:
    for unfinished in aside.parent.glob(".step-*.writing"):  # by a run that was killed
        shutil.rmtree(unfinished)
    aside.parent.mkdir(exist_ok=True)  # not its parent: a run folder that was removed stays so
    aside.mkdir()
    try:
        values["checksums"] = {}
        for name, tensors_of_file in tensors.items():
            content = safetensors.torch.save(
                {key: value.detach().cpu().contiguous() for key, value in tensors_of_file.items()}
            )
            values["checksums"][name] = hashlib.sha256(content).hexdigest()
            _write(aside / name, content)
        _write(aside / STATE, _signed(values))
        flush(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
        raise
    return aside


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    flush(path)


def _signed(values: Mapping[str, Any]) -> bytes:
    """Return the values as JSON, with a checksum of their own."""
    return json.dumps({**values, "checksum": _checksum(values)}, indent=1).encode()


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _verified(path: Path) -> dict[str, Any]:
    """Return the JSON values, once all files are what was written, or are of another version."""
    values: dict[str, Any] = load_json(path / STATE)
    if msgspec.convert(values, Versioned).version != CHECKPOINT_VERSION:
        return values
    if values.pop("checksum", None) != _checksum(values):
        raise ValueError(f"{STATE} is not what was written")
    for name, digest in msgspec.convert(values, _Stored).checksums.items():
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise ValueError(f"{name} is not what was written")
    return values
