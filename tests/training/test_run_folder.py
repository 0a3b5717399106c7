"""Run folders: what a resumed run needs, what makes another run."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from focus.config.train import ResolvedTrainConfig, TrainConfig, resolve
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.training.run_folder import CHECKPOINTS, check_begun, check_folder, other_setting
from focus.training.step import SUMS

from .trainers import few_faces, trainer


@pytest.fixture
def config(tmp_path: Path) -> ResolvedTrainConfig:
    return resolve(TrainConfig(output=str(tmp_path), data=("a.csv", "b.csv")))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


def test_a_resumed_run_needs_its_manifest_its_model_and_its_checkpoints(
    faces: Manifest, tmp_path: Path
) -> None:
    """Else it would mix train and test, end without a model, or write over one."""
    run = trainer(faces, tmp_path, epochs=1, loss="ce")
    run.fit()
    with pytest.raises(InputError, match=r"exists already: give another --name, or go on"):
        check_folder(run.config)
    config = replace(run.config, resume=True)
    saved = check_folder(config)
    assert saved is not None
    assert [sample.path for sample in saved.manifest] == [sample.path for sample in faces]
    assert (saved.state.epoch, saved.state.step) == (1, run.plan.steps)
    with pytest.raises(InputError, match="trained by 1 processes, not 2: launch as many"):
        check_folder(config, 2)
    with pytest.raises(InputError, match=r"was started with --lr 1\.0, not 0\.5: resume it by"):
        check_folder(replace(config, lr=0.5))
    later = trainer(faces, tmp_path, epochs=1, loss="ce", resume=True)
    later.state.sums = dict.fromkeys(SUMS, 1.0)
    later._written = None
    later.save()
    for lost, message in (
        ("model", "lacks model/, the best so far: put it back"),
        ("manifest.csv", "lacks manifest.csv: put it back"),
        (CHECKPOINTS, "has a model and no checkpoint to go on from"),
    ):
        shutil.move(run.folder / lost, tmp_path / "away")
        with pytest.raises(InputError, match=message):
            check_folder(config)
        shutil.move(tmp_path / "away", run.folder / lost)
    weights = run.folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors has changed since config\.json"):
        check_folder(config)


def test_a_run_that_is_not_there_is_resumed_only_where_it_can_begin(tmp_path: Path) -> None:
    """Else a mistyped name would train the demo set for minutes."""
    for name in ("faces-ce-seed0", "faces-blend-seed0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("version: 2\n")

    def check(output: Path, **settings: Any) -> None:
        check_begun(resolve(TrainConfig(output=str(output), resume=True, **settings)))

    with pytest.raises(
        InputError,
        match=rf"no run {tmp_path}/faces-ce-sed0 to go on with .did you mean faces-ce-seed0..: "
        rf"give the --name of one .{tmp_path} holds faces-blend-seed0, faces-ce-seed0.",
    ):
        check(tmp_path, name="faces-ce-sed0")
    with pytest.raises(InputError, match=r"demo-blend-seed0 to go on with: .* holds none\)"):
        check(tmp_path / "empty")
    check(tmp_path, name="faces-ce-seed0")
    check(tmp_path, name="new", data=("faces.csv",))  # a cluster sends the same job again


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
    assert other_setting(config, replace(config, **changed)) == other


def test_a_place_may_be_spelt_otherwise(
    config: ResolvedTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("faces").mkdir()
    Path("link").symlink_to("faces")
    path_settings = {"data": ("faces",), "test_data": {"A": "faces"}, "human_maps": "faces"}
    config = replace(config, **path_settings)
    for spelling in ("faces/", "./faces", str(tmp_path / "faces"), "link"):
        changed = {"data": (spelling,), "test_data": {"A": spelling}, "human_maps": spelling}
        assert other_setting(config, replace(config, **changed)) is None
    for changed in ({"data": ("face",)}, {"test_data": {"B": "faces"}}, {"human_maps": None}):
        assert other_setting(config, replace(config, **changed)) is not None
