"""Checkpoints: which ones stay, and damaged or planted files."""

import errno
import multiprocessing
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import nn

from focus.errors import InputError
from focus.training import checkpoint
from focus.training.checkpoint import (
    CHECKPOINT_VERSION,
    CheckpointWriter,
    Parts,
    checkpoint_name,
    checkpoints,
    last_checkpoint,
    load_checkpoint,
    remove_later,
)

FILES = ["model.safetensors", "optimizer.safetensors", "state.json"]


@dataclass
class Run:
    """A small training run, with running statistics."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def save(self, folder: Path, step: int, keep: int = 2, **extra: Any) -> Path:
        CheckpointWriter(folder).save(step, Parts(**vars(self)), extra, keep)
        return folder / checkpoint_name(step)

    def load(self, folder: Path) -> dict[str, Any]:
        newest_checkpoint = last_checkpoint(folder)
        assert newest_checkpoint is not None
        path, values = newest_checkpoint
        load_checkpoint(path, values, Parts(**vars(self)))
        return values


def small_run() -> Run:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return Run(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.1))


def step(run: Run) -> None:
    run.model(torch.randn(4, 6)).square().sum().backward()
    run.optimizer.step()
    run.scheduler.step()


def tensors_of(run: Run) -> list[torch.Tensor]:
    """Weights and their moments."""
    weights = [*run.model.parameters()]
    return [*weights, *(run.optimizer.state[weight]["exp_avg_sq"] for weight in weights)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_the_last_stay_and_what_a_user_put_beside_them(tmp_path: Path) -> None:
    run = small_run()
    run.save(tmp_path, 99_999_998)
    run.save(tmp_path, 99_999_999)
    copies = ["step-99999999-keep", "step-2", "old-step-00000001"]
    for name in copies:
        shutil.copytree(tmp_path / "step-99999999", tmp_path / name)
    run.save(tmp_path, 100_000_000)
    kept = ["step-99999999", "step-100000000"]
    assert names(tmp_path) == sorted([*kept, *copies])
    assert [path.name for path in checkpoints(tmp_path)] == kept
    assert run.load(tmp_path)["step"] == 100_000_000
    run.save(tmp_path, 100_000_001, keep=1)
    assert names(tmp_path) == sorted(["step-100000001", *copies])


def test_ones_that_are_not_finite_push_out_none_that_are(tmp_path: Path) -> None:
    run = small_run()
    for step in (1, 2, 3):
        run.save(tmp_path, step)
    run.model[1].running_var.fill_(torch.inf)
    for step in (4, 5, 6):
        run.save(tmp_path, step)
        run.save(tmp_path, step, note="after the validation")
        assert [path.name[-1] for path in checkpoints(tmp_path)] == ["2", "3", str(step)]
    run.model[1].running_var.fill_(1.0)
    run.save(tmp_path, 7)
    assert [path.name[-1] for path in checkpoints(tmp_path)] == ["6", "7"]


def test_the_state_of_a_step_is_replaced_at_once_and_its_tensors_stay(tmp_path: Path) -> None:
    """After a validation; a kill at any moment leaves the one state or the other."""
    run = small_run()
    path = run.save(tmp_path, 1, note="before")
    tensors = path / "model.safetensors"
    inode = tensors.stat().st_ino
    run.save(tmp_path, 1, note="after")
    assert run.load(tmp_path)["note"] == "after"
    assert tensors.stat().st_ino == inode
    assert names(path) == FILES


def test_all_is_on_the_disk_before_it_counts(tmp_path: Path, disk_log: list[Any]) -> None:
    """After a power cut, a rename whose files were not flushed may leave empty ones."""
    folder = small_run().save(tmp_path, 1)
    inodes = {path.stat().st_ino: path.name for path in (tmp_path, folder, *folder.iterdir())}
    events = [inodes.get(event, event) for event in disk_log]
    before, after = events[: events.index("renamed")], events[events.index("renamed") :]
    assert sorted(before) == sorted([*FILES, folder.name])
    assert after == ["renamed", tmp_path.name]


def test_a_disk_that_is_full_leaves_the_earlier_ones(tmp_path: Path) -> None:
    """A limit on the size of files makes the kernel refuse the write, as a full disk does."""
    run = small_run()
    run.save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            run.save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert Path(error.value.filename).parent.name == ".step-00000002.writing"
    assert names(tmp_path) == ["step-00000001"]
    assert run.load(tmp_path)["step"] == 1


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Have each network written by the thread, which goes on once this is set."""
    monkeypatch.setattr(checkpoint, "LARGE", 0)
    may_write, write = Event(), checkpoint._write_aside

    def held(*args: Any) -> Path:
        assert may_write.wait(20)
        return write(*args)

    monkeypatch.setattr(checkpoint, "_write_aside", held)
    return may_write


def test_what_a_thread_writes_is_the_step_that_it_was_given(tmp_path: Path, aside: Event) -> None:
    """And not what the next steps have made of its tensors, moments and rate by then."""
    run, writer = small_run(), CheckpointWriter(tmp_path)
    step(run)
    then = [value.clone() for value in tensors_of(run)]
    rate = run.scheduler.get_last_lr()
    extra = {"note": ["first"]}
    writer.save(1, Parts(**vars(run)), extra, wait=False)
    assert not checkpoints(tmp_path)
    for _ in range(5):
        step(run)
    extra["note"].append("second")
    assert not all(a.equal(b) for a, b in zip(then, tensors_of(run), strict=True))
    aside.set()
    writer.save(2, Parts(**vars(run)), extra)  # after the first one
    writer.close()
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    shutil.rmtree(tmp_path / "step-00000002")
    again = small_run()
    assert again.load(tmp_path)["note"] == ["first"]
    assert all(a.equal(b) for a, b in zip(then, tensors_of(again), strict=True))
    assert again.scheduler.get_last_lr() == rate


def test_an_error_of_the_thread_ends_the_next_step_or_save(tmp_path: Path, aside: Event) -> None:
    """A full disk, which leaves the earlier one; the run ends, and does not say that it saved."""
    run, writer = small_run(), CheckpointWriter(tmp_path)
    parts = Parts(**vars(run))
    aside.set()
    run.save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        for surfaces in (writer.wait, lambda: writer.save(3, parts, {}), writer.close):
            writer.save(2, parts, {}, wait=False)
            with pytest.raises(OSError, match="File too large") as error:
                surfaces()
            assert Path(error.value.filename).parent.name == ".step-00000002.writing"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step-00000001"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flip": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "pickle": lambda path: path.write_bytes(pickle.dumps(Planted())),
    "other": lambda path: path.write_text("[]"),
}


class Planted:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it was unpickled",)


def test_a_damaged_one_is_named_and_the_one_before_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is in its place; nothing is unpickled."""
    run = small_run()
    for damage, spoil in DAMAGE.items():
        for file in FILES:
            folder = tmp_path / damage / file
            folder.mkdir(parents=True)
            first = run.save(folder, 1)
            last = run.save(folder, 2)
            spoil(last / file)
            caplog.clear()
            assert run.load(folder)["step"] == 1
            (warning,) = caplog.messages
            assert str(last) in warning
            assert "is damaged" in warning
            remove_later(first)
            assert checkpoints(folder) == [first]
            spoil(first / file)
            with pytest.raises(InputError, match=r"is damaged .* no whole one before it"):
                last_checkpoint(folder)


def _step_after(run: Run, damage: Callable[[Path], object], folder: Path) -> None:
    """Load a checkpoint, damage its files, do a step; write what comes of it."""
    run.load(folder)
    for file in folder.glob("step-*/*.safetensors"):
        damage(file)
    run.model.train()
    run.model(torch.ones(4, 6) * torch.arange(4)[:, None]).square().sum().backward()
    run.optimizer.step()
    torch.save(run.model.state_dict(), folder / "after.pt")


def _overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"\7" * file.stat().st_size)


@pytest.mark.parametrize("damage", [_overwrite, partial(os.truncate, length=0)])
def test_what_is_trained_is_no_part_of_a_file(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """AdamW's count of steps stayed one: other weights in silence, or the signal SIGBUS."""
    run = small_run()
    run.model(torch.ones(4, 6) * torch.arange(4)[:, None]).sum().backward()
    run.optimizer.step()
    after = []
    for number, harm in enumerate((id, damage)):
        folder = tmp_path / str(number)
        run.save(folder, 1)
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_step_after, args=(small_run(), harm, folder))
        process.start()
        process.join()
        assert process.exitcode == 0
        after.append(torch.load(folder / "after.pt"))
    for name, value in after[0].items():
        assert value.equal(after[1][name]), name


def test_a_file_that_changes_between_its_check_and_its_use_is_refused(tmp_path: Path) -> None:
    run = small_run()
    run.save(tmp_path, 1)
    newest_checkpoint = last_checkpoint(tmp_path)
    assert newest_checkpoint is not None
    path, values = newest_checkpoint
    small_run().save(tmp_path / "other", 1)
    shutil.copy(tmp_path / "other/step-00000001/model.safetensors", path)
    with pytest.raises(InputError, match=r"^\S+model\.safetensors was changed while it was read"):
        load_checkpoint(path, values, Parts(**vars(run)))


def test_one_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CHECKPOINT_VERSION", CHECKPOINT_VERSION + 1)
    small_run().save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(InputError, match=f"version {CHECKPOINT_VERSION + 1}, this program reads"):
        last_checkpoint(tmp_path)

    (checkpoints(tmp_path)[-1] / "state.json").write_text('{"version": 3}')  # with no checksum
    with pytest.raises(InputError, match="has version 3, this program reads"):
        last_checkpoint(tmp_path)
