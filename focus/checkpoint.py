"""Checkpoints of a training run: tensors as safetensors, all else as JSON, nothing pickled.

A checkpoint is a folder ``epoch-NNNN`` with ``model.safetensors``, ``optimizer.safetensors`` and
``state.json``. It is written aside and renamed, so that one that exists is whole.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from focus.errors import InputError

CHECKPOINT_VERSION = 1
KEPT = 2


def save_checkpoint(
    folder: Path,
    epoch: int,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    extra: dict[str, Any],
) -> Path:
    """Write ``folder/epoch-NNNN`` and delete all but the last ``KEPT`` checkpoints.

    extra: what else a run needs to go on; JSON values.
    """
    target = folder / f"epoch-{epoch:04d}"
    aside = folder / f".{target.name}.writing"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    state = optimizer.state_dict()
    moments = {
        f"{index}.{name}": value
        for index, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    _save_tensors(model.state_dict(), aside / "model.safetensors")
    _save_tensors(moments | {"torch_rng": torch.get_rng_state()}, aside / "optimizer.safetensors")
    values = {
        "version": CHECKPOINT_VERSION,
        "epoch": epoch,
        "param_groups": state["param_groups"],
        "scheduler": scheduler.state_dict(),
        **extra,
    }
    (aside / "state.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)
    for old in _checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)
    return target


def last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint in ``folder`` and its JSON values, None if there is none.

    Raises:
        InputError: the values cannot be read, or are of a newer version.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    values = _read(last / "state.json", lambda path: json.loads(path.read_bytes()))
    try:
        if values["version"] != CHECKPOINT_VERSION:
            raise InputError(f"{last} has version {values['version']}: update focus to read it.")
    except (TypeError, KeyError) as error:
        raise _unusable(last, error) from error
    return last, values


def load_checkpoint(
    path: Path,
    values: dict[str, Any],
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Restore what :func:`last_checkpoint` found.

    Raises:
        InputError: the checkpoint is damaged, or of another model.
    """
    try:
        moments = _read(path / "optimizer.safetensors", safetensors.torch.load_file)
        weights = _read(path / "model.safetensors", safetensors.torch.load_file)
        model.load_state_dict(weights)
        torch.set_rng_state(moments.pop("torch_rng"))
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
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise _unusable(path, error) from error


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {shorten(str(error), 200)}"
    return InputError(
        f"The checkpoint {path} cannot be used ({reason}): remove its folder to go on from the one "
        "before."
    )


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    safetensors.torch.save_file(whole, path)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))
