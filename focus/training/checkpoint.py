"""Checkpoints of a training run: tensors as safetensors, all else as JSON, nothing pickled.

A checkpoint is a folder ``step-NNNNNNNN`` with ``model.safetensors``, ``optimizer.safetensors``,
``ema.safetensors`` if the weights are averaged, ``state.json`` and ``checksums.json``. It is
written aside, flushed to the disk and renamed, so that one that exists is whole; its checksums tell
what was damaged later. At no moment is there less than one, once there was one.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from focus.errors import InputError
from focus.runtime.files import flush
from focus.runtime.machine import is_main_process

CHECKPOINT_VERSION = 3
MODEL, OPTIMIZER, EMA = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
STATE, CHECKSUMS = "state.json", "checksums.json"
# Before the name of one that is being replaced by another of the same step.
_EARLIER = ".earlier-"
# The whole name: a copy or an archive that somebody put beside must neither be taken nor deleted.
_NAME = re.compile(rf"({re.escape(_EARLIER)})?step-([0-9]{{8}}|[1-9][0-9]{{8,}})")
_WRITING = re.compile(r"\.step-[0-9]{8,}\.writing")

_log = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    ema: nn.Module | None = None,
    extra: Mapping[str, Any],
    keep: int = 2,
) -> Path:
    """Write ``folder/step-NNNNNNNN`` and delete all but the last ``keep`` checkpoints.

    extra: what else a run needs to go on; JSON values.

    Raises:
        OSError: with the path, if the disk is full or refuses; what was there before is whole.
    """
    target = folder / f"step-{step:08d}"
    state = optimizer.state_dict()
    moments = {
        f"{index}.{name}": value
        for index, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    values = {
        "version": CHECKPOINT_VERSION,
        "step": step,
        "param_groups": state["param_groups"],
        "scheduler": scheduler.state_dict(),
        **extra,
    }
    contents: dict[str, Callable[[], bytes]] = {
        STATE: lambda: json.dumps(values, indent=1).encode(),
        MODEL: lambda: _packed(model.state_dict()),
        OPTIMIZER: lambda: _packed(moments),
    }
    if ema is not None:
        contents[EMA] = lambda: _packed(ema.state_dict())

    aside = folder / f".{target.name}.writing"
    for left in folder.glob(".step-*.writing"):
        if _WRITING.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        digests = {}
        for name, pack in contents.items():
            content = pack()
            digests[name] = hashlib.sha256(content).hexdigest()
            _write(aside / name, content)
        _write(aside / CHECKSUMS, json.dumps(digests, indent=1).encode())
        flush(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
        raise
    earlier = folder / f"{_EARLIER}{target.name}"
    if target.exists():
        shutil.rmtree(earlier, ignore_errors=True)
        target.replace(earlier)
    aside.replace(target)
    flush(folder)
    shutil.rmtree(earlier, ignore_errors=True)  # which would count as one that is kept
    # Those after this step are damaged, since the run went on from before them.
    found = checkpoints(folder)
    here = found.index(target)
    for old in (*found[: max(here + 1 - keep, 0)], *found[here + 1 :]):
        shutil.rmtree(old)
    return target


def last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last whole checkpoint in ``folder`` and its JSON values, None if there is none at all.

    A damaged one is named in a warning, and the one before it is taken.

    Raises:
        InputError: all are damaged, or the last whole one is of another version.
    """
    damaged: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            values = _verified(path)
        except _Damaged as error:
            damaged.append(str(error))
            continue
        if is_main_process():
            for text in damaged:
                _log.warning("%s; going on from the one before", text)
        return path, values
    if damaged:
        raise InputError(
            f"{damaged[0]}, and there is no whole one before it: remove {folder} to start over."
        )
    return None


def load_checkpoint(
    path: Path,
    values: dict[str, Any],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    ema: nn.Module | None = None,
) -> None:
    """Restore what :func:`last_checkpoint` found.

    Raises:
        InputError: the checkpoint is of another model.
    """
    try:
        moments = safetensors.torch.load_file(path / OPTIMIZER)
        model.load_state_dict(safetensors.torch.load_file(path / MODEL))
        if ema is not None:
            ema.load_state_dict(safetensors.torch.load_file(path / EMA))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        per_parameter: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            index, _, name = key.partition(".")
            parameter = parameters[int(index)]
            # In the parameter's memory order: in another, each step would be slower.
            kept = value.shape != parameter.shape
            moment = value if kept else torch.empty_like(parameter).copy_(value)
            per_parameter.setdefault(int(index), {})[name] = moment
        optimizer.load_state_dict({"state": per_parameter, "param_groups": values["param_groups"]})
        scheduler.load_state_dict(values["scheduler"])
    except (
        *(OSError, SafetensorError, ValueError, TypeError, KeyError),
        *(AttributeError, IndexError, RuntimeError),
    ) as error:
        raise InputError(
            f"The checkpoint {path} cannot be used ({_reason(error)}): remove its folder to go on "
            "from the one before."
        ) from error


class _Damaged(Exception):
    """A checkpoint is not what was written."""


def _verified(path: Path) -> dict[str, Any]:
    """The JSON values, once all files are what they were when they were written."""
    try:
        digests = json.loads((path / CHECKSUMS).read_bytes())
        if not {STATE, MODEL, OPTIMIZER} <= digests.keys() <= {STATE, MODEL, OPTIMIZER, EMA}:
            raise ValueError(f"{CHECKSUMS} names other files")
        for name, digest in digests.items():
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise ValueError(f"{name} is not what was written")
        values = json.loads((path / STATE).read_bytes())
        version = values["version"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _Damaged(f"The checkpoint {path} is damaged ({_reason(error)})") from error
    if version != CHECKPOINT_VERSION:
        raise InputError(
            f"{path} has version {version}, this program reads {CHECKPOINT_VERSION}: "
            "resume it with the version that wrote it."
        )
    found: dict[str, Any] = values
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    return f"{type(error).__name__}: {shorten(str(error), 200)}"


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    flush(path)


def checkpoints(folder: Path) -> list[Path]:
    """All, by step; one that was being replaced when the run was killed is before the new one."""
    found = []
    for path in (*folder.glob("step-*"), *folder.glob(f"{_EARLIER}step-*")):
        name = _NAME.fullmatch(path.name)
        if name and path.is_dir():
            found.append((int(name[2]), not name[1], path))
    return [path for _, _, path in sorted(found)]
