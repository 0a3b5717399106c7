"""Checkpoints: bit-exact continuation, which ones stay, and damaged or planted files."""

import errno
import hashlib
import io
import json
import pickle
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from focus.errors import InputError
from focus.training.checkpoint import (
    CHECKPOINT_VERSION,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

FILES = ["checksums.json", "model.safetensors", "optimizer.safetensors", "state.json"]


@dataclass
class Run:
    """A small training run with all the kinds of state: moments, schedule, running statistics."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def steps(self, count: int) -> None:
        for _ in range(count):
            # Data and dropout of a step depend on its number alone, as the trainer has it.
            torch.manual_seed(self.scheduler.last_epoch)
            x = torch.randn(4, 6)
            loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()

    def save(self, folder: Path, step: int, **extra: Any) -> Path:
        return save_checkpoint(folder, step, **vars(self), extra=extra)

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

    torch.manual_seed(2)
    other = make()
    other.steps(1)
    values = other.load(tmp_path)
    other.steps(6)

    assert values == {"version": CHECKPOINT_VERSION, "step": 1, "train_state": {"best_auc": 1 / 3}}
    assert other.tensors().keys() == run.tensors().keys()
    for name, value in run.tensors().items():
        assert torch.equal(other.tensors()[name], value), name
    for mine, theirs in zip(other.optimizer.param_groups, run.optimizer.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k not in ("params", "betas")} == {
            k: v for k, v in theirs.items() if k not in ("params", "betas")
        }
        assert list(mine.get("betas", ())) == list(theirs.get("betas", ()))
    assert other.scheduler.get_last_lr() == run.scheduler.get_last_lr()


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
    for step in range(1, 13):
        assert run.save(tmp_path, step) == tmp_path / f"step-{step:08d}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000011", "step-00000012"]
    values = run.load(tmp_path)
    assert values is not None
    assert values["step"] == 12
    save_checkpoint(tmp_path, 13, **vars(run), extra={}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000013"]


def test_what_is_beside_and_has_another_name_is_no_checkpoint(tmp_path: Path) -> None:
    """A user's copies and archives are not taken, not counted and not deleted."""
    run = sgd()
    run.save(tmp_path, 1)
    run.save(tmp_path, 2)
    copies = ["step-00000002-keep", "step-2", "step-0000000002", "old-step-00000001"]
    copies += [".step-00000002-keep.writing", ".earlier-step-00000002-keep"]
    for name in copies:
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    files = ["step-00000001.tar.gz", "step-00000009"]
    for name in files:
        (tmp_path / name).write_bytes(b"of the user")
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found[0].name == "step-00000002"
    run.save(tmp_path, 3)
    kept = ["step-00000002", "step-00000003"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, *copies, *files])
    for name in copies:
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == FILES


def test_a_step_of_nine_digits_is_after_those_of_eight(tmp_path: Path) -> None:
    run = sgd()
    for step in (99_999_998, 99_999_999, 100_000_000):
        run.save(tmp_path, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-100000000", "step-99999999"]
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 100_000_000


@pytest.mark.parametrize("keep", [1, 2])
def test_later_ones_that_were_damaged_do_not_crowd_it_out(tmp_path: Path, keep: int) -> None:
    run = sgd()
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, step, **vars(run), extra={}, keep=4)
    for step in (30, 40):
        (tmp_path / f"step-{step:08d}" / "model.safetensors").write_bytes(b"damaged")
    found = last_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 20
    save_checkpoint(tmp_path, 25, **vars(run), extra={}, keep=keep)
    kept = ["step-00000020", "step-00000025"][-keep:]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_all_is_on_the_disk_before_it_counts(tmp_path: Path, disk_log: list[Any]) -> None:
    """What a power cut leaves of a rename whose files were not flushed may be empty."""
    folder = sgd().save(tmp_path, 1)
    names = {path.stat().st_ino: path.name for path in (tmp_path, folder, *folder.iterdir())}
    done = [names.get(entry, entry) for entry in disk_log]
    assert sorted(done[: len(FILES)]) == FILES
    assert done[len(FILES) :] == [folder.name, "renamed", tmp_path.name]


def test_killed_while_one_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    """Between the two renames the earlier one is the only one, and is found."""
    run = sgd()
    run.save(tmp_path, 1, note="first")
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000001.writing")
    (tmp_path / "step-00000001").rename(tmp_path / ".earlier-step-00000001")
    assert sgd().load(tmp_path) == {"version": CHECKPOINT_VERSION, "step": 1, "note": "first"}
    run.save(tmp_path, 1, note="second")
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert sgd().load(tmp_path) == {"version": CHECKPOINT_VERSION, "step": 1, "note": "second"}


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    run = sgd()
    run.save(tmp_path, 1, note="first")
    run.steps(1)
    run.save(tmp_path, 1, note="second")
    other = sgd()
    assert other.load(tmp_path) == {"version": CHECKPOINT_VERSION, "step": 1, "note": "second"}
    assert other.model[0].weight.equal(run.model[0].weight)


def test_one_that_is_replaced_does_not_count_as_kept(tmp_path: Path) -> None:
    run = sgd()
    for step in (5, 6, 6):  # the last of an epoch's end, which its interval has saved already
        save_checkpoint(tmp_path, step, **vars(run), extra={}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000005", "step-00000006"]


def test_there_is_none(tmp_path: Path) -> None:
    run = adamw()
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    assert run.load(tmp_path) is None
    assert run.load(tmp_path / "nowhere") is None
    assert all(value.equal(before[name]) for name, value in run.model.state_dict().items())


def test_what_was_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    run = sgd()
    half = tmp_path / ".step-00000003.writing"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert run.load(tmp_path) is None
    run.save(tmp_path, 2)
    values = run.load(tmp_path)
    assert values is not None
    assert values["step"] == 2
    # The next time this step is reached, it is written again.
    run.save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    assert sorted(path.name for path in (tmp_path / "step-00000003").iterdir()) == FILES


def test_a_failed_save_leaves_the_earlier_ones(tmp_path: Path) -> None:
    run = sgd()
    run.save(tmp_path, 1)
    run.save(tmp_path, 2)
    with pytest.raises(TypeError):
        run.save(tmp_path, 3, note=object())
    values = run.load(tmp_path)
    assert values is not None
    assert values["step"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_nothing_in_it_is_a_pickle(tmp_path: Path) -> None:
    run = adamw()
    run.steps(2)
    folder = run.save(tmp_path, 1)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert json.loads((folder / "state.json").read_text())["version"] == CHECKPOINT_VERSION
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    assert weights["0.weight"].equal(run.model[0].weight)


def refused(run: Run, folder: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        run.load(folder)
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    assert text.endswith(".")


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\x80\x04 neither\nnor"),
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "one bit": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 1, *path.read_bytes()[1:]])
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_one_is_named_and_the_one_before_taken(
    file: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = adamw()
    run.steps(1)
    run.save(tmp_path, 1)
    DAMAGE[damage](run.save(tmp_path, 2) / file)
    values = run.load(tmp_path)
    assert values is not None
    assert values["step"] == 1
    (line,) = caplog.messages
    assert f"{tmp_path / 'step-00000002'} is damaged" in line
    assert "\n" not in line
    # And with none before it, that is an error.
    DAMAGE[damage](tmp_path / "step-00000001" / file)
    caplog.clear()
    refused(run, tmp_path, "step-00000002 is damaged.*no whole one before it: remove")
    assert not caplog.messages


def sign(folder: Path) -> None:
    """Make the checksums right again."""
    names = json.loads((folder / "checksums.json").read_text())
    digests = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    (folder / "checksums.json").write_text(json.dumps(digests))


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"step": 1}', "[" * 100_000])
def test_a_state_of_another_shape(text: str, tmp_path: Path) -> None:
    run = adamw()
    path = run.save(tmp_path, 1)
    (path / "state.json").write_text(text)
    sign(path)
    refused(run, tmp_path, "step-00000001 is damaged")


@pytest.mark.parametrize("text", ["[]", "3", "{}", "[" * 100_000, '{"../x": "", "state.json": ""}'])
def test_checksums_of_another_shape(text: str, tmp_path: Path) -> None:
    run = adamw()
    (run.save(tmp_path, 1) / "checksums.json").write_text(text)
    refused(run, tmp_path, "step-00000001 is damaged")


@pytest.mark.parametrize(
    ("name", "value"),
    [("param_groups", []), ("param_groups", 3), ("scheduler", 3), ("scheduler", None)],
)
def test_a_value_of_another_shape(name: str, value: Any, tmp_path: Path) -> None:
    run = adamw()
    path = run.save(tmp_path, 1) / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    sign(path.parent)
    refused(run, tmp_path, "step-00000001.*cannot be used")


@pytest.mark.parametrize("version", [CHECKPOINT_VERSION - 1, CHECKPOINT_VERSION + 1])
def test_another_version(version: int, tmp_path: Path) -> None:
    run = adamw()
    folder = run.save(tmp_path, 1)
    values = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(values | {"version": version}))
    sign(folder)
    refused(run, tmp_path, f"has version {version}, this program reads {CHECKPOINT_VERSION}")


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    adamw().save(tmp_path, 1)
    run = adamw()
    run.model = nn.Linear(6, 1)
    refused(run, tmp_path, "step-00000001.*cannot be used")


def test_averaged_weights_are_saved_beside(tmp_path: Path) -> None:
    run, other = adamw(), adamw()
    averaged = network()
    path = save_checkpoint(tmp_path, 1, **vars(run), ema=averaged, extra={})
    assert sorted(file.name for file in path.iterdir()) == sorted([*FILES, "ema.safetensors"])
    found = last_checkpoint(tmp_path)
    assert found is not None
    restored = network()
    load_checkpoint(*found, **vars(other), ema=restored)
    assert restored[0].weight.equal(averaged[0].weight)
    assert not restored[0].weight.equal(run.model[0].weight)


@pytest.mark.parametrize("at", ["the first file", "the largest file"])
def test_a_disk_that_is_full(at: str, tmp_path: Path) -> None:
    """A limit on the size of files makes the kernel refuse the write, as a full disk does."""
    run = adamw()
    run.steps(1)
    largest = max(file.stat().st_size for file in run.save(tmp_path, 1).iterdir())
    limit = 20 if at == "the first file" else largest - 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*step-00000002") as caught:
            run.save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"], "and nothing beside"
    assert run.load(tmp_path) is not None


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
    refused(run, tmp_path, "step-00000001 is damaged")
    assert not trace.exists()
    # Also where its writer made the checksums right.
    if file != "checksums.json":
        sign(folder)
        refused(run, tmp_path, "step-00000001")
        assert not trace.exists()
    # Read carelessly, it would have run.
    content = (folder / file).read_bytes()
    if write is pickle.dump:
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert trace.exists()
