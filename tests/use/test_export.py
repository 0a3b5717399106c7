"""focus export: the file gives what the detector gives, and says how to use it."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from focus.config.losses import LossConfig
from focus.config.options import POINTS
from focus.config.use import ExportConfig
from focus.errors import InputError
from focus.metrics.calibration import Calibration
from focus.model.detector import Detector
from focus.model.operating_points import OperatingPoints
from focus.runtime.files import sole_writer
from focus.use import export as exporting

from ..launching import in_another_process
from ..model.detectors import lifelike

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

pytestmark = pytest.mark.usefixtures("plain_cpu")


def make(model: str, size: int, num_classes: int = 2, pool: str = "mean") -> Detector:
    torch.manual_seed(0)
    loss = LossConfig(temperature=0.7)
    detector = Detector(model, image_size=size, loss=loss, num_classes=num_classes, pool=pool)
    detector = lifelike(detector)
    classifier = detector.head.fc
    classifier.weight.data.normal_(0, classifier.in_features**-0.5)
    detector.points = OperatingPoints(
        dict.fromkeys(POINTS, 0.25), Calibration(2.0, 1.0, 1.0), 90, 80
    )
    return detector


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(5):
        pixels = draw.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def export(detector: Detector, folder: Path, images: Path) -> Path:
    detector.save_pretrained(folder / "m")
    file = folder / "d.onnx"
    config = ExportConfig(
        model_dir=str(folder / "m"), onnx=str(file), check_images=str(images), threads=1
    )
    exporting.export(config)
    return file


def assert_same_outputs(detector: Detector, file: Path, pictures: Path) -> None:
    """Compare with another number of images than the file was made and checked with."""
    session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(exporting.OUTPUTS)
    images = exporting.images_to_check(detector, str(pictures))[:3]
    score, logits, cams, entropy = session.run(None, {"images": images.numpy()})
    prediction = detector.predict(sorted(pictures.iterdir())[:3])
    np.testing.assert_allclose(score, prediction.score, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(1), prediction.score > 0.5)
    np.testing.assert_allclose(cams[:, 1], prediction.cams[:, 1], atol=1e-4)
    np.testing.assert_allclose(entropy[:, 1], prediction.entropy[:, 1], atol=1e-4)
    # No operation of this project's is in it.
    model = onnx.load(str(file))
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    written = {prop.key: prop.value for prop in model.metadata_props}
    assert written == exporting.metadata(detector)


def test_onnxruntime_gives_what_the_detector_gives(pictures: Path, tmp_path: Path) -> None:
    detector = make("focus_small", 32)
    assert_same_outputs(detector, export(detector, tmp_path, pictures), pictures)


def test_npr_and_the_middle_of_pictures_are_in_the_file_and_its_metadata(
    pictures: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    detector = lifelike(Detector("resnet50_npr", image_size=64, input="npr", fit="crop"))
    assert_same_outputs(detector, export(detector, tmp_path, pictures), pictures)
    preprocessing = json.loads(exporting.metadata(detector)["focus_preprocessing"])
    assert preprocessing["resize"].startswith("the middle image_size x image_size pixels")


# A transformer's tokens are folded to a grid, and its class token is classified.
@pytest.mark.slow
def test_a_transformer_is_exported(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = make("test_vit", 64, pool="both")
    # A graph that was traced with one image takes other numbers of them, too.
    file = export(detector, tmp_path, pictures / "3.png")
    assert "largest differences to the detector on 1 images: score " in capsys.readouterr().out
    assert_same_outputs(detector, file, pictures)


def test_the_metadata_say_how_to_use_it() -> None:
    detector = make("focus_small", 32, num_classes=3)
    metadata = exporting.metadata(detector)
    values = {key: json.loads(value) for key, value in metadata.items()}
    assert values["focus_format"] == 1
    assert values["focus_preprocessing"]["image_size"] == 32
    assert values["focus_preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert values["focus_thresholds"]["eer"] == 0.25
    line = {"slope": 2, "intercept": 1, "temperature": 1, "largest_llr": None}
    assert values["focus_calibration"] == line
    assert values["focus_temperature"] == 0.7
    assert values["focus_classes"] == ["real", "synthetic", "synthetic"]
    with torch.no_grad():
        score, logits, *_ = exporting.Exported(detector)(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(score, 1 - logits.softmax(1)[:, 0])
    detector.points = None
    assert exporting.metadata(detector)["focus_thresholds"] == "null"


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.5, float("nan")])
def test_a_file_that_differs_by_more_than_documented_is_not_written(
    share: float, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "use.md").read_text(encoding="utf-8")
    (largest,) = re.findall(r"keeps the file only if none is above (\S+), or above", text)
    onnx_model = exporting.onnx_model

    def shifted(detector: Detector, images: Tensor) -> Any:
        bias = detector.head.fc.bias.data
        before = bias.clone()
        bias += torch.tensor([share * float(largest), 0.0])
        made = onnx_model(detector, images)
        bias.copy_(before)
        return made

    monkeypatch.setattr(exporting, "onnx_model", shifted)
    detector = make("focus_small", 32)
    detector.head.fc.weight.data /= 100  # logits below 1, of which the tolerance is no share
    with pytest.raises(InputError, match=r"No file is written, as .* differs from"):
        export(detector, tmp_path, pictures)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


class Branching(nn.Module):
    """A network whose computation depends on the values in an image, which no graph can say."""

    def forward(self, images: Tensor) -> Tensor:
        return images.exp() if images.sum() > 0 else images


def test_a_network_that_cannot_be_exported() -> None:
    detector = make("focus_small", 32)
    detector.backbone = Branching()
    with pytest.raises(InputError, match=r"focus_small cannot be exported \(") as caught:
        exporting.onnx_model(detector, torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_exported(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make("focus_small", 32)
    (tmp_path / "d.onnx").write_text("somebody's")
    with pytest.raises(InputError, match="is there already: give another name"):
        export(detector, tmp_path, pictures)
    assert (tmp_path / "d.onnx").read_text() == "somebody's"
    (tmp_path / "d.onnx").unlink()
    onnx, lock = tmp_path / "d.onnx", tmp_path / ".d.onnx.lock"
    with (
        in_another_process(lambda: sole_writer(onnx, lock)),
        pytest.raises(InputError, match=r"Another process writes to .*d\.onnx: .*another --onnx"),
    ):
        export(detector, tmp_path, pictures)
    for name, words in (("lost.png", "decode .*lost"), ("m", "no images in .*m: give")):
        with pytest.raises(InputError, match=words):
            export(detector, tmp_path, tmp_path / name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as what cannot be imported
    with pytest.raises(InputError, match=r"pip install 'focus-faces\[onnx\]'"):
        export(detector, tmp_path, pictures)
    assert not (tmp_path / "d.onnx").exists()
