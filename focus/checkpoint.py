"""Checkpoints of a training run: tensors as safetensors, all else as JSON, nothing pickled.

A checkpoint is a folder ``epoch-NNNN`` with ``model.safetensors``, ``optimizer.safetensors`` and
``state.json``. It is written aside and renamed, so that one that exists is whole.
"""

import json
import shutil
from pathlib import Path
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


def load_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> dict[str, Any] | None:
    """Restore the last checkpoint in ``folder``; returns its values, None if there is none.

    Raises:
        InputError: the checkpoint is damaged, or of another model.
    """
    found = _checkpoints(folder)
    if not found:
        return None
    last = found[-1]
    try:
        values: dict[str, Any] = json.loads((last / "state.json").read_text(encoding="utf-8"))
        if values["version"] != CHECKPOINT_VERSION:
            raise InputError(f"{last} has version {values['version']}: update focus to read it.")
        moments = safetensors.torch.load_file(last / "optimizer.safetensors")
        weights = safetensors.torch.load_file(last / "model.safetensors")
        model.load_state_dict(weights)
        torch.set_rng_state(moments.pop("torch_rng"))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        per_parameter: dict[int, dict[str, Tensor]] = {}
        for key, value in moments.items():
            index, _, name = key.partition(".")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # In the parameter's memory order: elsewhere the same sums round differently.
                value = torch.empty_like(parameter).copy_(value)
            per_parameter.setdefault(int(index), {})[name] = value
        groups = values.pop("param_groups")
        optimizer.load_state_dict({"state": per_parameter, "param_groups": groups})
        scheduler.load_state_dict(values.pop("scheduler"))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The checkpoint {last} cannot be used ({str(error).splitlines()[0]}): remove it to "
            "go on from the one before."
        ) from error
    return values


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    safetensors.torch.save_file(whole, path)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))
