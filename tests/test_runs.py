"""Run folders: held by one process, and which settings make another run."""

import json
import os
import select
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from focus.config import ResolvedTrainConfig, TrainConfig, resolve
from focus.errors import InputError
from focus.runs import CHECKPOINTS, SavedRun, TrainState, folder_of, held, other_setting


@pytest.fixture
def config(tmp_path: Path) -> ResolvedTrainConfig:
    return resolve(TrainConfig(output=str(tmp_path), data=("a.csv", "b.csv")))


def test_of_two_processes_one_trains_in_a_folder(config: ResolvedTrainConfig) -> None:
    told, tell = os.pipe()
    ended, end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with held(config, None):
                os.write(tell, b"1")
                select.select([ended], [], [], 20)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(tell)
    assert os.read(told, 1) == b"1"
    with (
        pytest.raises(InputError, match=f"process trains in the run folder {folder_of(config)}:"),
        held(config, None),
    ):
        pass
    os.write(end, b"1")
    os.waitpid(child, 0)
    with held(config, None):
        assert (folder_of(config) / CHECKPOINTS).is_dir()
    for descriptor in (told, ended, end):
        os.close(descriptor)


def test_a_folder_in_which_another_process_has_trained_since_it_was_looked_at(
    config: ResolvedTrainConfig,
) -> None:
    first, second = (folder_of(config) / CHECKPOINTS / f"step-0000000{n}" for n in (1, 2))
    first.mkdir(parents=True)
    saved = SavedRun(first, {}, TrainState(), [first])
    with held(config, saved):
        pass
    second.mkdir()
    for found in (saved, None):
        with pytest.raises(InputError, match="has trained in the run folder"), held(config, found):
            pass


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({}, None),
        ({"workers": 7, "threads": 3, "log_steps": 9, "resume": True}, None),
        ({"lr": 0.5}, ("lr", 0.002, 0.5)),
        ({"data": ("a.csv",)}, ("data", ("a.csv", "b.csv"), ("a.csv",))),
        ({"patience": 2}, ("patience", None, 2)),
    ],
)
def test_settings_that_make_another_run(
    changed: dict[str, Any], other: tuple[str, Any, Any] | None, config: ResolvedTrainConfig
) -> None:
    config = replace(config, lr=0.002)
    then = json.loads(json.dumps(asdict(config)))  # as a checkpoint has them: tuples are lists
    assert other_setting(then, replace(config, **changed)) == other
