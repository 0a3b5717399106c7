"""python -m focus export: the file gives what the detector gives, and says how to use it."""

import json
import logging
import math
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
from focus.config.use import ExportConfig
from focus.errors import InputError
from focus.metrics import Calibration
from focus.model.detector import Detector
from focus.model.operating_points import POINTS, OperatingPoints
from focus.use import export as exporting

from ..detectors import lifelike

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

pytestmark = pytest.mark.usefixtures("plain_cpu")


def make(model: str, size: int) -> Detector:
    torch.manual_seed(0)
    detector = lifelike(Detector(model, image_size=size, loss=LossConfig(temperature=0.7)))
    classifier = detector.head.fc
    classifier.weight.data.normal_(0, classifier.in_features**-0.5)
    detector.points = OperatingPoints(
        dict.fromkeys(POINTS, 0.25), Calibration(2.0, 1.0, 1.0), 90, 80
    )
    return detector


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        pixels = draw.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def export(detector: Detector, folder: Path, images: Path) -> Path:
    detector.save_pretrained(folder / "m")
    file = folder / "d.onnx"
    exporting.export(
        ExportConfig(
            model_dir=str(folder / "m"),
            onnx=str(file),
            check_images=str(images),
            threads=1,
        )
    )
    return file


def prepared(detector: Detector, images: Path) -> Tensor:
    return exporting.prepared_images(detector, exporting.checked_paths(str(images)))


# A transformer's tokens are folded to a grid.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("focus_small", 32),
        ("test_vit", 64),
        pytest.param("densenet121", 64, marks=pytest.mark.slow),
        pytest.param("resnet50", 64, marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_gives_what_the_detector_gives(
    model: str,
    size: int,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    detector = make(model, size)
    file = export(detector, tmp_path, pictures)
    assert "largest differences to the detector on 5 images: score " in capsys.readouterr().out
    session = runtime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(exporting.OUTPUTS)
    # Another number of images than it was made and checked with.
    paths = sorted(pictures.iterdir())[:3]
    images = prepared(detector, pictures)[:3]
    score, logits, cams, entropy = session.run(None, {"images": images.numpy()})
    found = detector.predict(paths)
    np.testing.assert_allclose(score, found.score, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(1), found.predicted)
    np.testing.assert_allclose(cams[:, 1], found.cams[:, 1], atol=1e-4)
    np.testing.assert_allclose(entropy[:, 1], found.entropy[:, 1], atol=1e-4)
    np.testing.assert_allclose(
        logits, cams.mean((2, 3)) + detector.head.fc.bias.detach().numpy(), atol=1e-4
    )
    # No operation of this project's is in it.
    assert {node.domain for node in onnx.load(str(file)).graph.node} <= {"", "ai.onnx"}


def test_the_metadata_say_how_to_use_it() -> None:
    detector = make("focus_small", 32)
    found = exporting.metadata(detector)
    values = {key: json.loads(value) for key, value in found.items() if key != "focus_format"}
    assert found["focus_format"] == "1"
    assert values["focus_preprocessing"]["image_size"] == 32
    assert values["focus_preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert values["focus_thresholds"]["eer"] == 0.25
    line = {"slope": 2, "intercept": 1, "temperature": 1, "largest_llr": None}
    assert values["focus_calibration"] == line
    assert values["focus_classes"] == ["real", "synthetic"]
    assert values["focus_temperature"] == 0.7
    detector.points = None
    assert exporting.metadata(detector)["focus_thresholds"] == "null"


def test_of_several_classes_all_but_the_first_are_synthetic() -> None:
    torch.manual_seed(0)
    detector = lifelike(Detector("focus_small", image_size=32, num_classes=3)).eval()
    classes = json.loads(exporting.metadata(detector)["focus_classes"])
    assert classes == ["real", "synthetic", "synthetic"]
    with torch.no_grad():
        score, logits, *_ = exporting.Exported(detector)(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(score, 1 - logits.softmax(1)[:, 0])


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-12)  # less than rounding
    with pytest.raises(InputError, match=r"differ from .* by .*, so no file was written"):
        export(make("focus_small", 32), tmp_path, pictures)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "pictures"}


@pytest.mark.slow
def test_a_file_whose_entropy_alone_is_no_number_is_not_written(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "normalised_entropy", lambda cams, _: cams.sum(-1) * math.nan)
    with pytest.raises(InputError, match=r"differ from .* by nan \(entropy\), more than"):
        export(make("focus_small", 32), tmp_path, pictures)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "pictures"}


def test_a_detector_whose_outputs_are_not_finite_is_not_exported(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong is the model, not the packages: in the words of evaluation."""
    monkeypatch.setattr(exporting, "_exported", lambda *_: pytest.fail("it was exported"))
    detector = make("focus_small", 32)
    detector.head.fc.weight.data[:] = 3e38  # finite, and the sum of two is not
    words = f"^The model's output for '{pictures / '0.png'}' is not finite: try another model.$"
    with pytest.raises(InputError, match=words):
        export(detector, tmp_path, pictures)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "pictures"}


# A share of what the documentation allows, on either side of it.
@pytest.mark.slow
@pytest.mark.parametrize(("share", "written"), [(0.3, True), (5, False)])
def test_the_largest_difference_is_what_the_documentation_says(
    share: float,
    written: bool,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "use.md").read_text(encoding="utf-8")
    (largest,) = re.findall(r"no output differs from the detector's by more than (\S+), for", text)
    exported = exporting._exported

    def shifted(network: nn.Module, *given: Any) -> Any:
        bias = network.detector.head.fc.bias.data
        shift = torch.tensor([share * float(largest), 0.0])
        bias += shift
        made = exported(network, *given)
        bias -= shift
        return made

    monkeypatch.setattr(exporting, "_exported", shifted)
    detector = make("focus_small", 32)
    detector.head.fc.weight.data /= 100  # logits below 1, of which the tolerance is no share
    if written:
        assert export(detector, tmp_path, pictures).exists()
    else:
        words = rf"by 0\.000\d+ \(logits\), more than {float(largest):g},"
        with pytest.raises(InputError, match=words):
            export(detector, tmp_path, pictures)
        assert not (tmp_path / "d.onnx").exists()


def test_weights_that_no_file_holds_are_refused_first(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exporting._LARGEST == 2_147_483_647
    monkeypatch.setattr(exporting, "_LARGEST", 800_000)
    monkeypatch.setattr(exporting, "_exported", lambda *_: pytest.fail("it was exported"))
    with pytest.raises(InputError, match=r"take 0\.0 GiB, an ONNX file holds 2 at most: take"):
        export(make("focus_small", 32), tmp_path, pictures)


@pytest.mark.slow
def test_the_differences_are_those_of_the_outputs(pictures: Path, tmp_path: Path) -> None:
    """Another bias moves logits and score, and neither the CAMs nor their entropy."""
    detector = make("focus_small", 32)
    file = export(detector, tmp_path, pictures)
    detector.head.fc.bias.data += torch.tensor([0.0, 0.5])
    images = prepared(detector, pictures)
    differences = exporting.compare(detector, runtime, file, images)
    largest = float(detector(images).logits.abs().max().detach())
    assert differences["logits"] == pytest.approx(0.5 / max(1.0, largest), abs=1e-4)
    assert differences["score"] > 1e-3
    assert max(differences["cams"], differences["entropy"]) < exporting.TOLERANCE
    written = {p.key: p.value for p in onnx.load(str(file)).metadata_props}
    assert written == exporting.metadata(detector)


@pytest.mark.slow
def test_large_outputs_may_differ_by_their_rounding(
    pictures: Path,
    tmp_path: Path,
) -> None:
    detector = make("focus_small", 32)
    detector.head.fc.weight.data *= 1e5
    file = export(detector, tmp_path, pictures)
    images = prepared(detector, pictures)
    largest = float(detector.predict_batch(images).cams.abs().max().detach())
    assert largest > 1e4
    # A tenth of the largest CAM, on each of them, is a tenth.
    detector.head.fc.weight.data *= 1.1
    differences = exporting.compare(detector, runtime, file, images)
    assert differences["cams"] == pytest.approx(0.1 / 1.1, rel=1e-3)


@pytest.mark.slow
def test_one_picture_is_taken_and_of_many_16_at_even_steps(pictures: Path, tmp_path: Path) -> None:
    detector = make("focus_small", 32)
    alone = prepared(detector, pictures / "3.png")
    images = prepared(detector, pictures)
    assert alone.equal(images[3:4])
    # A graph that was traced with one image takes other numbers of them, too.
    file = export(detector, tmp_path, pictures / "3.png")
    differences = exporting.compare(detector, runtime, file, images)
    assert max(differences.values()) < exporting.TOLERANCE
    for number in range(32):
        Image.new("RGB", (8, 8), (8 * number, 0, 0)).save(pictures / f"{number}.png")
    red = prepared(detector, pictures)[:, 0].mean((1, 2))
    # Those in the middle of 16 equal parts, normalised by a mean and a deviation of one half.
    expected = torch.tensor([8 * number / 255 for number in range(1, 32, 2)])
    torch.testing.assert_close(red, 2 * expected - 1)


class Branching(nn.Module):
    """What it computes depends on the values in an image, which no graph can say."""

    def forward(self, images: Tensor) -> Tensor:
        return images.exp() if images.sum() > 0 else images


@pytest.mark.slow
def test_a_network_that_cannot_be_exported() -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with pytest.raises(InputError, match=r"network mine cannot be exported \(") as caught:
        exporting._exported(
            Branching(), torch.zeros(2, 3, 8, 8), ExportConfig(model_dir="mine", onnx="x")
        )
    assert "\n" not in str(caught.value)
    assert logger.level == before != logging.ERROR


@pytest.mark.parametrize(("given", "expected"), [(3, 3), (None, 5)])
def test_the_threads_that_are_given(
    given: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "usable_cores", lambda: 5)
    words = {"model_dir": "m", "onnx": str(tmp_path)}  # which is there already
    with pytest.raises(InputError, match="is there already"):
        exporting.export(ExportConfig(**words, threads=given))
    assert torch.get_num_threads() == expected


def test_what_cannot_be_exported(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = make("focus_small", 32)
    (tmp_path / "d.onnx").write_text("somebody's")
    with pytest.raises(InputError, match="is there already: give another name"):
        export(detector, tmp_path, pictures)
    assert (tmp_path / "d.onnx").read_text() == "somebody's"
    (tmp_path / "d.onnx").unlink()
    for place, words in (("lost", "no file or folder .*lost"), ("m", "no images in .*m: give")):
        with pytest.raises(InputError, match=words):
            export(detector, tmp_path, tmp_path / place)
    with monkeypatch.context() as patch:
        patch.setenv("FOCUS_BACKEND", "foo")
        with pytest.raises(InputError, match=r"^FOCUS_BACKEND='foo' is not .*: set FOCUS_BACKEND="):
            export(detector, tmp_path, pictures)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as what cannot be imported
    with pytest.raises(InputError, match=r"pip install 'focus-faces\[onnx\]'"):
        export(detector, tmp_path, pictures)
    assert not (tmp_path / "d.onnx").exists()
