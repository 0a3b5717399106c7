"""The detector's files: weights from elsewhere, and what it saves and reads back."""

import errno
import json
import math
import pickle
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from focus.config.losses import LossConfig
from focus.errors import InputError
from focus.model.config import DetectorConfig
from focus.model.detector import Detector

from ..detectors import assert_one_sentence, images, lifelike, small_detector
from ..launching import python

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small() -> Detector:
    return small_detector()


OFFLINE = """
import sys, torch, safetensors.torch
from focus.errors import InputError
from focus.model.detector import Detector
detector = Detector("test_resnet", image_size=64, pretrained=True)
safetensors.torch.save_file(detector.backbone.state_dict(), sys.argv[1])
try:
    Detector("test_vit", pretrained=True)
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_pretrained_weights_come_from_the_cache_and_nowhere_else(tmp_path: Path) -> None:
    """Two networks without a network: one in the Hub's cache, one not."""
    published = timm.create_model("test_resnet")
    revision = "0" * 40
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(published.state_dict(), snapshot / "model.safetensors")
    got = tmp_path / "got.safetensors"
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    said = python("-c", OFFLINE, got, cwd=tmp_path, **offline)
    loaded, state = safetensors.torch.load_file(got), published.state_dict()
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(tensor.equal(state[key]) for key, tensor in loaded.items())
    (line,) = said.splitlines()
    assert "pretrained weights of 'test_vit' could not be loaded" in line
    assert "--initial-checkpoint FILE" in line


Save = Callable[[dict[str, Any], Path], Any]
SAVES: dict[str, Save] = {
    "weights.safetensors": safetensors.torch.save_file,
    "weights.pth": torch.save,
    "timm.pth": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "ddp.pt": lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path),
}


@pytest.mark.parametrize("file", SAVES)
def test_an_initial_checkpoint_of_the_backbone(file: str, tmp_path: Path) -> None:
    published = timm.create_model("test_resnet", num_classes=7)
    SAVES[file](published.state_dict(), tmp_path / file)
    detector = Detector("test_resnet", image_size=64, initial_checkpoint=tmp_path / file)
    state = published.state_dict()
    for key, tensor in detector.backbone.state_dict().items():
        assert tensor.equal(state[key]), key
    assert detector.head.fc.weight.shape == (2, published.num_features)


def test_an_initial_checkpoint_of_a_detector(small: Detector, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "model")
    other = Detector(image_size=32, initial_checkpoint=tmp_path / "model" / "model.safetensors")
    for key, tensor in other.state_dict().items():
        assert tensor.equal(small.state_dict()[key]), key


@pytest.mark.parametrize("name", ["mean", "std"])
def test_an_initial_checkpoint_of_a_detector_that_saw_images_otherwise(
    name: str, small: Detector, tmp_path: Path
) -> None:
    other = deepcopy(small)
    other.config = replace(small.config, **{name: (0.485, 0.456, 0.25)})
    other.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    words = (
        f"normalised by the {name} 0.485, 0.456, 0.25, and focus_small takes 0.5, 0.5, 0.5: give"
    )
    with pytest.raises(InputError, match=words) as caught:
        Detector(image_size=32, initial_checkpoint=path)
    assert_one_sentence(caught.value)
    (tmp_path / "model" / "config.json").unlink()  # as in a checkpoint of a run
    Detector(image_size=32, initial_checkpoint=path)


class Planted:
    """Unpickled carelessly, it runs code."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_planted_pickle_would_run(tmp_path: Path) -> None:
    """The plant itself works, so that the tests that use it can fail."""
    pickle.loads(pickle.dumps(Planted(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("file", ["a.pth", "raw.pth", "a.safetensors", "raw.safetensors"])
def test_a_planted_pickle_is_refused_and_does_not_run(
    file: str, small: Detector, tmp_path: Path
) -> None:
    state = small.state_dict() | {"planted": Planted(tmp_path / "trace")}
    path = tmp_path / file
    if file.startswith("raw"):
        path.write_bytes(pickle.dumps(Planted(tmp_path / "trace"), protocol=2))
    else:
        torch.save(state, path)
    with pytest.raises(InputError, match=file) as caught:
        Detector(image_size=32, initial_checkpoint=path)
    assert_one_sentence(caught.value)
    assert not (tmp_path / "trace").exists()


def backbone_state(small: Detector) -> dict[str, Any]:
    return {k: v.clone() for k, v in small.backbone.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.1.bn1.weight": None, "stem.0.weight": None}, "2 are missing.*is stem.0.weight"),
        ({"blocks.1.bn1.weight": torch.ones(7)}, r"blocks.1.bn1.weight should be \[32\], got \[7"),
        ({"blocks.1.bn1.weight": 3}, "1 are missing.*is blocks.1.bn1.weight"),
    ],
)
def test_an_initial_checkpoint_that_does_not_fit(
    change: dict[str, Any], words: str, small: Detector, tmp_path: Path
) -> None:
    state = backbone_state(small) | change
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    with pytest.raises(InputError, match=words) as caught:
        Detector(image_size=32, initial_checkpoint=path)
    assert str(path) in str(caught.value)
    assert_one_sentence(caught.value)


def test_a_detector_of_other_classes_is_refused(tmp_path: Path) -> None:
    Detector(image_size=32, num_classes=3).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="has 3 classes but the detector 2") as caught:
        Detector(image_size=32, initial_checkpoint=tmp_path / "model" / "model.safetensors")
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights\nat all"])
@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_a_file_that_holds_no_weights(file: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=f"{file} could not be read as weights") as caught:
        Detector(image_size=32, initial_checkpoint=tmp_path / file)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("model", ["focus_small", "test_vit"])
def test_a_saved_detector_predicts_the_same_bits(model: str, tmp_path: Path) -> None:
    detector = Detector(
        model,
        image_size=64,
        loss=LossConfig(temperature=0.7, focus_weight=0.1),
        training_generators=("kA", "kB"),
    )
    detector = lifelike(detector)
    detector.save_pretrained(tmp_path / "model")
    back = Detector.from_pretrained(str(tmp_path / "model"))
    assert back.config == detector.config
    assert not any(module.training for module in back.modules())
    for mine, other in zip(
        back.predict_batch(images(3, 64)), detector.predict_batch(images(3, 64)), strict=True
    ):
        assert mine.equal(other)
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["version"] == 1
    assert (config["model"], config["image_size"], config["temperature"]) == (model, 64, 0.7)
    assert config["training_generators"] == ["kA", "kB"]


def test_saving_replaces_an_earlier_detector_whole(small: Detector, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    other = Detector("test_vit", image_size=64)
    other.save_pretrained(folder)
    # What a run that was killed left behind.
    (tmp_path / "run" / ".model.writing").mkdir()
    (tmp_path / "run" / ".model.writing" / "rest").touch()
    with (folder / "model.safetensors").open("rb") as open_before:
        before = open_before.read(100)
        small.save_pretrained(folder)
        # The earlier file is not written over: who reads it goes on with its whole content.
        assert (before + open_before.read()) == safetensors.torch.save(other.state_dict())
    assert Detector.from_pretrained(folder).config == small.config
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_a_failed_save_leaves_the_earlier_detector(
    small: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save_pretrained(tmp_path / "model")
    broken = deepcopy(small)
    monkeypatch.setattr(broken, "config", None)
    with pytest.raises(TypeError):
        broken.save_pretrained(tmp_path / "model")
    x = images(2, 32)
    back = Detector.from_pretrained(tmp_path / "model")
    assert back.predict_batch(x).score.equal(small.predict_batch(x).score)


def test_saving_does_not_delete_other_files(small: Detector, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex") as caught:
        small.save_pretrained(tmp_path)
    assert_one_sentence(caught.value)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


def test_other_files_can_be_kept(small: Detector, tmp_path: Path) -> None:
    folder, old = tmp_path / "model", tmp_path / ".model.old"
    small.save_pretrained(folder)
    (folder / "detector.onnx").write_text("hours of work")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("of a person")
    # What a save left that was killed before it had moved everything.
    small.save_pretrained(old)
    (old / "lost.txt").write_text("found")
    other = Detector(image_size=64)
    other.save_pretrained(folder, keep_others=True)
    assert Detector.from_pretrained(folder).config == other.config
    assert (folder / "detector.onnx").read_text() == "hours of work"
    assert (folder / "notes" / "a.txt").read_text() == "of a person"
    assert (folder / "lost.txt").read_text() == "found"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    folder.rename(old)  # killed between its two renames
    small.save_pretrained(folder, keep_others=True)
    assert Detector.from_pretrained(folder).config == small.config
    assert (folder / "detector.onnx").read_text() == "hours of work"
    with pytest.raises(InputError, match=r"more than a detector \(detector\.onnx\)"):
        small.save_pretrained(folder)


def test_an_earlier_detector_that_cannot_be_removed_is_named(
    small: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, **_: object) -> None:
        if folder.name == ".model.old":  # its files may not be removed: it is read-only
            raise PermissionError(errno.EACCES, "Permission denied", "README.md")

    small.save_pretrained(tmp_path / "model")
    other = Detector(image_size=64)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    for _ in range(2):  # the second finds what the first has left
        with pytest.raises(PermissionError) as caught:
            other.save_pretrained(tmp_path / "model", keep_others=True)
        assert caught.value.filename == str(tmp_path / ".model.old")
        assert Detector.from_pretrained(tmp_path / "model").config == other.config
        assert {path.name for path in tmp_path.iterdir()} == {"model", ".model.old"}


def test_saving_to_a_link_and_to_the_current_folder(
    small: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/model")
    for _ in range(2):
        small.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "link"}
    assert Detector.from_pretrained(tmp_path / "disk" / "model").config == small.config
    monkeypatch.chdir(tmp_path / "disk" / "model")
    for place in (".", tmp_path / "link"):
        with pytest.raises(InputError, match="is the current folder, which saving would replace"):
            small.save_pretrained(place)
    assert Path.cwd().samefile(tmp_path / "disk" / "model")


@pytest.fixture
def saved(small: Detector, tmp_path: Path) -> Path:
    small.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "has version 2: update focus"),
        ({"version": None}, "not the config of a detector"),
        ({"model": None}, r"not the config of a detector \(it has no 'model'\): give the folder"),
        ({"model": "resnet1"}, "did you mean"),
        ({"image_size": "large"}, "image_size"),
        ({"mean": [0.5]}, "mean"),
        (
            {"image_size": "large"},
            r"\(image_size takes a whole number, got 'large'\): give the folder",
        ),
        ({"image_size": 64.0}, "image_size takes a whole number, got 64.0"),
        ({"image_size": True}, "image_size takes a whole number, got True"),
        ({"model": 3}, "model takes one text, got 3"),
        ({"mean": [0.5]}, r"\(mean takes a list of 3 numbers, got \[0\.5\]\): give the folder"),
        ({"mean": [0.5] * 4}, "mean takes a list of 3 numbers"),
        ({"mean": [None, 0.5, 0.5]}, r"mean takes a list of 3 numbers, got \[None, 0\.5, 0\.5\]"),
        ({"mean": [True, 0.5, 0.5]}, "mean takes a list of 3 numbers"),
        ({"mean": 0.5}, "mean takes a list of 3 numbers, got 0.5"),
        ({"training_generators": "a"}, "training_generators takes a list of texts, got 'a'"),
        ({"training_generators": ["a", 1]}, "training_generators takes a list of texts, got"),
        ({"training_families": {"a": 1}}, r"training_families takes .*, got {'a': 1}"),
        ({"training_families": []}, r"training_families takes .*, got \[\]"),
        ({"unknown": 1}, "unknown"),
        ({"unknown": 1}, r"\(it has an unknown key 'unknown'\): give the folder"),
        ({"menu": 1}, r"\(it has an unknown key 'menu' \(did you mean mean\?\)\): give the folder"),
        ({"image_size": 0}, r"config\.json is not .*image_size is 0, it has to be above 0"),
        ({"temperature": 0.0}, r"config\.json is not .*temperature is 0\.0, it has to be above 0"),
        ({"temperature": math.nan}, "temperature is nan, it has to be above 0"),
        ({"std": [0.5, 0.5, 0.0]}, r"config\.json is not .*std is .*0\.0\), it has to be above 0"),
        ({"std": [0.5, 0.5, math.inf]}, "it has to be above 0"),
        ({"mean": [0.5, 0.5, math.nan]}, r"mean is \(0\.5, 0\.5, nan\), it has to be finite"),
        ({"num_classes": 3}, "has 2 classes but the detector 3"),
        ({"image_size": 10**30}, "does not take 1000000000000000000000000000000 x"),
        ({"num_classes": 10**12}, "has 2 classes but the detector 1000000000000: give"),
        ({"model": "test_resnet", "image_size": 64}, "does not fit test_resnet"),
    ],
)
def test_a_config_that_cannot_be_used(change: dict[str, Any], words: str, saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text()) | change
    values = {k: v for k, v in values.items() if v is not None}
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=words) as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("field", ["image_size", "mean", "temperature", "training_families"])
def test_null_in_a_config_is_no_value(field: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"version": 1, "model": "timm", "image_size": 64} | {field: None}))
    words = rf"not the config of a detector \({field} takes .*, got None\): give the folder"
    with pytest.raises(InputError, match=words) as caught:
        DetectorConfig.read(path)
    assert_one_sentence(caught.value)


def test_a_number_in_a_config_that_no_float_holds(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    values = {"version": 1, "model": "timm", "image_size": 64, "temperature": 10**309}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"not the config .*temperature takes a number, got 1000"):
        DetectorConfig.read(path)


def test_whole_numbers_in_a_config_are_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    values = {"version": 1, "model": "timm", "image_size": 64, "mean": [0, 0, 1], "temperature": 2}
    path.write_text(json.dumps(values))
    read = DetectorConfig.read(path)
    assert read == DetectorConfig("timm", 64, mean=(0.0, 0.0, 1.0), temperature=2.0)
    assert [type(number) for number in (*read.mean, read.temperature)] == [float] * 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"version": "one"}', "\udcff", "[" * 99_999]
)
def test_a_damaged_config(text: str, saved: Path) -> None:
    (saved / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"config\.json is not the config") as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


def test_what_an_earlier_training_saw_stays_seen() -> None:
    """Of a generator's family the later word holds, if it says one."""
    first = DetectorConfig("timm", 64).after(
        ["b", "a"], {"a": "GAN", "b": "GAN", "d": "GAN"}, ["mtcnn"]
    )
    second = first.after(["c"], {"a": "diffusion", "b": "", "c": ""}, ["dlib"])
    assert second.training_generators == ("a", "b", "c")
    assert second.training_families == {"a": "diffusion", "b": "GAN", "c": "", "d": "GAN"}
    assert second.geometry == ("dlib", "mtcnn")


def test_a_folder_without_a_detector(tmp_path: Path, saved: Path) -> None:
    (saved / "config.json").unlink()
    for folder in (tmp_path, tmp_path / "nowhere", saved, saved / "model.safetensors"):
        with pytest.raises(InputError, match="holds no detector") as caught:
            Detector.from_pretrained(folder)
        assert str(folder) in str(caught.value)
        assert_one_sentence(caught.value)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_truncated_weights(kept: int, saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    words = r"model\.safetensors could not be read .*: the file is damaged, copy or train the model"
    with pytest.raises(InputError, match=words) as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_fractions(dtype: torch.dtype, saved: Path) -> None:
    path = saved / "model.safetensors"
    state = {key: value.to(dtype) for key, value in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(state, path)
    words = rf"stem.0.weight should hold torch.float32, got {dtype}; give a checkpoint that is not"
    for load in (
        lambda: Detector.from_pretrained(saved),
        lambda: Detector(image_size=32, initial_checkpoint=path),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load()
        assert_one_sentence(caught.value)


def test_missing_weights(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no file .*model\.safetensors") as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


def test_a_pickle_in_place_of_the_weights_does_not_run(saved: Path, tmp_path: Path) -> None:
    torch.save({"planted": Planted(tmp_path / "trace")}, saved / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        Detector.from_pretrained(saved)
    assert not (tmp_path / "trace").exists()
