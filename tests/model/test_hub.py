"""The folder of a saved detector: its round trips through the disk and the Hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import CommitInfo, HfApi, RepoUrl

from focus.config.losses import LossConfig
from focus.config.options import POINTS
from focus.errors import InputError
from focus.metrics.calibration import Calibration
from focus.model.detector import Detector
from focus.model.operating_points import OperatingPoints

from .detectors import assert_one_sentence, images, lifelike


def make(model: str = "focus_small", size: int = 32) -> Detector:
    torch.manual_seed(0)
    loss = LossConfig(temperature=0.7, focus_weight=0.1)
    detector = lifelike(Detector(model, image_size=size, loss=loss, training_generators=("kA",)))
    thresholds = dict.fromkeys(POINTS, 0.25) | {"bpcer1": None}
    detector.points = OperatingPoints(thresholds, Calibration(1, 0, 1), 90, 80)
    return detector


def assert_same(loaded: Detector, expected: Detector) -> None:
    x = images(3, expected.image_size)
    for mine, other in zip(loaded.predict_batch(x), expected.predict_batch(x), strict=True):
        assert mine.equal(other)
    assert (loaded.config, loaded.points) == (expected.config, expected.points)


@pytest.mark.parametrize(("model", "size"), [("focus_small", 32), ("test_vit", 64)])
def test_a_saved_detector_predicts_the_same_bits(model: str, size: int, tmp_path: Path) -> None:
    detector = make(model, size)
    detector.save_pretrained(tmp_path / "model")
    loaded = Detector.from_pretrained(str(tmp_path / "model"))
    assert_same(loaded, detector)
    assert not any(module.training for module in loaded.modules())
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "thresholds.json"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["version"], config["model"], config["temperature"]) == (1, model, 0.7)


def test_saving_replaces_a_detector_and_nothing_else(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "README.md").write_text("my own words")
    other = Detector.from_pretrained(tmp_path)
    other.points = None
    other.backbone = torch.compile(other.backbone, backend="eager")  # its weights are renamed
    other.save_pretrained(tmp_path)
    assert not (tmp_path / "thresholds.json").exists(), "they were those of other weights"
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    other.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "my own words"
    assert_same(Detector.from_pretrained(tmp_path / "copy"), other)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Take what is uploaded into a cache as of the Hub; return the options to load it from."""
    repository = tmp_path / "hub" / "models--user--name"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit

    def upload_folder(_: HfApi, **options: Any) -> CommitInfo:
        assert options["repo_id"] == "user/name"
        for pattern in [options["delete_patterns"]]:
            (snapshot / pattern).unlink(missing_ok=True)
        shutil.copytree(options["folder_path"], snapshot, dirs_exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        url = f"https://huggingface.co/user/name/commit/{commit}"
        return CommitInfo(url, "", "", commit)

    monkeypatch.setattr(HfApi, "create_repo", lambda _, repo_id, **__: RepoUrl(repo_id))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return {"cache_dir": tmp_path / "hub", "local_files_only": True}


def test_a_round_trip_through_the_hub(hub: dict[str, Any]) -> None:
    detector = make()
    assert detector.push_to_hub("user/name").startswith("https://huggingface.co/user/name/commit/")
    assert_same(Detector.from_pretrained("user/name", **hub), detector)
    detector.points = None
    detector.push_to_hub("user/name")
    loaded = Detector.from_pretrained("user/name", **hub)
    assert loaded.points is None, "earlier thresholds do not stay beside weights without"


def test_a_model_that_is_nowhere(hub: dict[str, Any], tmp_path: Path) -> None:
    for name in ("user/other", "runs/x/model", str(tmp_path / "nowhere")):
        with pytest.raises(InputError, match=f"no folder {name}, and the Hub gave no") as caught:
            Detector.from_pretrained(name, **hub)
        assert_one_sentence(caught.value)
    with pytest.raises(InputError, match=r"config\.json cannot be read .*No such file"):
        Detector.from_pretrained(tmp_path)
