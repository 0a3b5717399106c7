"""Checkpoints: bit-exact continuation, which ones stay, and damaged or planted files."""

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from focus.checkpoint import KEPT, last_checkpoint, load_checkpoint, save_checkpoint
from focus.errors import InputError

FILES = ["model.safetensors", "optimizer.safetensors", "state.json"]


@dataclass
class Run:
    """A small training run with all the kinds of state: moments, schedule, running statistics."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def steps(self, count: int) -> None:
        for _ in range(count):
            # Data and dropout come from the global generator, which is restored, too.
            x = torch.randn(4, 6)
            loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()

    def save(self, folder: Path, epoch: int, **extra: Any) -> Path:
        return save_checkpoint(folder, epoch, **vars(self), extra=extra)

    def load(self, folder: Path) -> dict[str, Any] | None:
        found = last_checkpoint(folder)
        if found is None:
            return None
        load_checkpoint(*found, **vars(self))
        return {k: v for k, v in found[1].items() if k not in ("param_groups", "scheduler")}

    def tensors(self) -> dict[str, Any]:
        """All there is, flat."""
        state = self.optimizer.state_dict()
        moments = {f"{i}.{k}": v for i, d in state["state"].items() for k, v in d.items()}
        return dict(self.model.state_dict()) | moments


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
    )


def adamw() -> Run:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.02)
    # Also cycles beta1, which stands in a tuple.
    one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=12)
    return Run(model, optimizer, one_cycle)


def sgd() -> Run:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-6)
    return Run(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.1))


Make = Callable[[], Run]


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("before", [0, 5])
def test_a_restored_run_goes_on_as_if_never_stopped(
    make: Make, before: int, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    run = make()
    run.steps(before)
    run.save(tmp_path, 1, train_state={"best_auc": 1 / 3})
    run.steps(6)
    after = torch.rand(3)

    torch.manual_seed(2)
    other = make()
    other.steps(1)
    values = other.load(tmp_path)
    other.steps(6)

    assert values == {"version": 1, "epoch": 1, "train_state": {"best_auc": 1 / 3}}
    assert other.tensors().keys() == run.tensors().keys()
    for name, value in run.tensors().items():
        assert torch.equal(other.tensors()[name], value), name
    for mine, theirs in zip(other.optimizer.param_groups, run.optimizer.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k not in ("params", "betas")} == {
            k: v for k, v in theirs.items() if k not in ("params", "betas")
        }
        assert list(mine.get("betas", ())) == list(theirs.get("betas", ()))
    assert other.scheduler.get_last_lr() == run.scheduler.get_last_lr()
    assert torch.rand(3).equal(after)


def test_moments_come_back_in_the_memory_order_of_their_parameters(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def run() -> Run:
        optimizer = torch.optim.AdamW(model.parameters())
        return Run(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1))

    first, second = run(), run()
    model(torch.rand(1, 3, 4, 4)).sum().backward()
    first.optimizer.step()
    first.save(tmp_path, 1)
    second.load(tmp_path)
    (moment,) = (v for k, v in second.tensors().items() if k == "0.exp_avg")
    assert moment.stride() == model.weight.stride()
    assert not moment.is_contiguous()


def test_only_the_last_stay(tmp_path: Path) -> None:
    run = sgd()
    for epoch in range(1, 13):
        assert run.save(tmp_path, epoch) == tmp_path / f"epoch-{epoch:04d}"
    assert KEPT == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0011", "epoch-0012"]
    values = run.load(tmp_path)
    assert values is not None
    assert values["epoch"] == 12


def test_a_checkpoint_of_the_same_epoch_is_replaced(tmp_path: Path) -> None:
    run = sgd()
    run.save(tmp_path, 1, note="first")
    run.steps(1)
    run.save(tmp_path, 1, note="second")
    other = sgd()
    assert other.load(tmp_path) == {"version": 1, "epoch": 1, "note": "second"}
    assert other.model[0].weight.equal(run.model[0].weight)


def test_there_is_none(tmp_path: Path) -> None:
    run = adamw()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert run.load(tmp_path) is None
    assert run.load(tmp_path / "nowhere") is None
    assert all(value.equal(before[name]) for name, value in run.model.state_dict().items())


def test_what_was_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    run = sgd()
    half = tmp_path / ".epoch-0003.writing"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert run.load(tmp_path) is None
    run.save(tmp_path, 2)
    values = run.load(tmp_path)
    assert values is not None
    assert values["epoch"] == 2
    # The next time this epoch is reached, it is written anew.
    run.save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0002", "epoch-0003"]
    assert sorted(path.name for path in (tmp_path / "epoch-0003").iterdir()) == FILES


def test_a_failed_save_leaves_the_earlier_ones(tmp_path: Path) -> None:
    run = sgd()
    run.save(tmp_path, 1)
    run.save(tmp_path, 2)
    with pytest.raises(TypeError):
        run.save(tmp_path, 3, note=object())
    values = run.load(tmp_path)
    assert values is not None
    assert values["epoch"] == 2
    assert (tmp_path / "epoch-0001").is_dir()


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    run = adamw()
    run.steps(2)
    folder = run.save(tmp_path, 1)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "state.json").read_text())["version"] == 1
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert weights["0.weight"].equal(run.model[0].weight)


def refused(run: Run, folder: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        run.load(folder)
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("content", [b"", b"\x80\x04 neither\nnor", None, b"truncate"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named(file: str, content: bytes | None, tmp_path: Path) -> None:
    run = adamw()
    run.steps(1)
    run.save(tmp_path, 1)
    path = run.save(tmp_path, 2) / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] if content == b"truncate" else content)
    refused(run, tmp_path, f"epoch-0002.*{file} cannot be used.*remove")


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"version": 1}'])
def test_a_state_of_another_shape(text: str, tmp_path: Path) -> None:
    run = adamw()
    (run.save(tmp_path, 1) / "state.json").write_text(text)
    refused(run, tmp_path, "epoch-0001.*cannot be used")


@pytest.mark.parametrize(
    ("name", "value"),
    [("param_groups", []), ("param_groups", 3), ("scheduler", 3), ("scheduler", None)],
)
def test_a_value_of_another_shape(name: str, value: Any, tmp_path: Path) -> None:
    run = adamw()
    path = run.save(tmp_path, 1) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    refused(run, tmp_path, "epoch-0001.*cannot be used")


def test_a_newer_version(tmp_path: Path) -> None:
    run = adamw()
    folder = run.save(tmp_path, 1)
    values = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(values | {"version": 2}))
    # A newer one need not have the other files at all.
    (folder / "optimizer.safetensors").unlink()
    refused(run, tmp_path, "epoch-0001 has version 2: update focus")


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    adamw().save(tmp_path, 1)
    run = adamw()
    run.model = nn.Linear(6, 1)
    refused(run, tmp_path, "epoch-0001.*cannot be used")


class Planted:
    """Unpickled, it runs code."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
@pytest.mark.parametrize("file", FILES)
def test_a_planted_pickle_is_refused_and_does_not_run(
    file: str, write: Callable[..., None], tmp_path: Path
) -> None:
    run = adamw()
    folder = run.save(tmp_path, 1)
    trace = tmp_path / "trace"
    with (folder / file).open("wb") as opened:
        write(Planted(trace), opened)
    refused(run, tmp_path, f"epoch-0001.*{file}")
    assert not trace.exists()
    # Read carelessly, it would have run.
    content = (folder / file).read_bytes()
    if write is pickle.dump:
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert trace.exists()
