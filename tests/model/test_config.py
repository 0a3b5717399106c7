"""config.json of a saved detector: read as it was written, refused in one sentence."""

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from focus.errors import InputError
from focus.model.config import DetectorConfig
from focus.model.detector import Detector

from .detectors import assert_one_sentence


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    Detector(image_size=32).save_pretrained(folder)
    return folder


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    config = DetectorConfig(
        "timm",
        64,
        3,
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
        0.7,
        ("a", "b"),
        training_families={"a": "GAN", "b": ""},
        geometry=("box margin 0.3",),
    )
    config.write(tmp_path / "config.json")
    assert DetectorConfig.read(tmp_path / "config.json") == config
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["version"], written["mean"]) == (1, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "vit_gigantic_patch14_224"}, "not hold the weights of vit_gigantic_patch14_224"),
        ({"model": "test_resnet", "image_size": 64}, "not hold the weights of test_resnet: .*miss"),
        ({"num_classes": 10**9}, r"head.fc.weight should be \[1000000000, 96\]"),
    ],
)
def test_a_network_of_any_size_is_refused_without_its_memory(
    change: dict[str, Any], words: str, saved: Path, tmp_path: Path
) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    values = json.loads((saved / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes())
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, limits[1]))
    try:
        with pytest.raises(InputError, match=words) as caught:
            Detector.from_pretrained(tmp_path)
        assert_one_sentence(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_weights_are_those_that_were_saved_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    detector = Detector(image_size=32)
    detector.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # a bit of the last number, which stays finite
    weights.write_bytes(content)
    for load in (
        lambda: Detector.from_pretrained(tmp_path),
        lambda: Detector(image_size=32, initial_checkpoint=weights),
    ):
        with pytest.raises(InputError, match=r"safetensors has changed .* set weights_sha256"):
            load()
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "weights_sha256": ""}))
    loaded = Detector.from_pretrained(tmp_path)
    digest = hashlib.sha256(content).hexdigest()
    assert loaded.config.weights_sha256 == digest
    loaded.save_pretrained(tmp_path)
    assert json.loads(config.read_text())["weights_sha256"] == digest
    Detector(image_size=32, initial_checkpoint=weights)


def test_a_missing_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No such file.*runs/NAME/model") as caught:
        DetectorConfig.read(tmp_path / "lost" / "config.json")
    assert_one_sentence(caught.value)


def test_what_an_earlier_training_saw_stays_seen() -> None:
    """Else its generators would be tested as ones that training never saw."""
    first = DetectorConfig("timm", 64).after(
        ["b", "a"], {"a": "GAN", "b": "GAN", "d": "GAN"}, ["mtcnn"]
    )
    second = first.after(["c"], {"a": "diffusion", "b": "", "c": ""}, ["dlib"])
    assert second.training_generators == ("a", "b", "c")
    assert second.training_families == {"a": "diffusion", "b": "GAN", "c": "", "d": "GAN"}
    assert second.geometry == ("dlib", "mtcnn")
