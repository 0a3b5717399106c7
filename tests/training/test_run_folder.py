"""Run folders: held by one process, and which settings make another run."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from focus.config.train import ResolvedTrainConfig, TrainConfig, resolve
from focus.errors import InputError
from focus.training.run_folder import (
    CHECKPOINTS,
    LOCK,
    SavedRun,
    TrainState,
    held,
    other_setting,
)

from ..launching import in_another_process


@pytest.fixture
def config(tmp_path: Path) -> ResolvedTrainConfig:
    return resolve(TrainConfig(output=str(tmp_path), data=("a.csv", "b.csv")))


def test_of_two_processes_one_trains_in_a_folder(config: ResolvedTrainConfig) -> None:
    with (
        in_another_process(lambda: held(config, None)),
        pytest.raises(InputError, match=f"process trains in the run folder {config.run_folder}:"),
        held(config, None),
    ):
        pass
    with held(config, None):
        assert (config.run_folder / CHECKPOINTS).is_dir()


def test_a_lock_that_is_a_link_leaves_the_file_that_it_leads_to(
    config: ResolvedTrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (config.run_folder / CHECKPOINTS).mkdir(parents=True)
    (config.run_folder / CHECKPOINTS / LOCK).symlink_to(tmp_path / "mine.txt")
    with held(config, None):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_in_which_another_process_has_trained_since_it_was_looked_at(
    config: ResolvedTrainConfig,
) -> None:
    first, second = (config.run_folder / CHECKPOINTS / f"step-0000000{n}" for n in (1, 2))
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
        ({"name": "renamed", "output": "moved"}, None),
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


def test_a_place_may_be_spelt_otherwise(
    config: ResolvedTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("faces").mkdir()
    Path("link").symlink_to("faces")
    places = {"data": ("faces",), "test_data": {"A": "faces"}, "heatmaps": "faces"}
    config = replace(config, **places)
    then = json.loads(json.dumps(asdict(config)))
    for place in ("faces/", "./faces", str(tmp_path / "faces"), "link"):
        changed = {"data": (place,), "test_data": {"A": place}, "heatmaps": place}
        assert other_setting(then, replace(config, **changed)) is None
    for changed in ({"data": ("face",)}, {"test_data": {"B": "faces"}}, {"heatmaps": None}):
        assert other_setting(then, replace(config, **changed)) is not None
