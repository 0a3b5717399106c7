"""NPR: differences of neighbours, by a float64 loop, and everywhere that a detector looks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from focus.errors import InputError
from focus.model.detector import Detector
from focus.model.inputs import neighbour_differences

from .detectors import images, lifelike


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (7, 3), (1, 2)])
def test_npr_is_the_formula_on_even_and_odd_sides(size: tuple[int, int]) -> None:
    height, width = size
    x = np.random.default_rng(3).standard_normal((2, 3, height, width))
    expected = np.empty_like(x)
    for row in range(height):
        for column in range(width):
            corner = x[..., row - row % 2, column - column % 2]
            expected[..., row, column] = (x[..., row, column] - corner) * 2 / 3
    differences = neighbour_differences(torch.from_numpy(x))
    np.testing.assert_allclose(differences.numpy(), expected, rtol=0, atol=1e-15)
    single = neighbour_differences(torch.from_numpy(x).float())
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=1e-6)


def npr_detector() -> Detector:
    torch.manual_seed(0)
    return lifelike(Detector("resnet50_npr", image_size=64, input="npr", fit="crop"))


def test_the_network_sees_npr_and_nothing_else(tmp_path: Path) -> None:
    detector = npr_detector()
    assert detector.grid == (8, 8)
    assert detector.head.fc.in_features == 512
    x = images(2, 64)
    with torch.no_grad():
        expected = detector.head.logits(detector.backbone(neighbour_differences(x)))
        torch.testing.assert_close(detector(x), expected)
        # One colour added to all pixels is no difference of neighbours.
        torch.testing.assert_close(detector(x + 0.3), expected, rtol=1e-4, atol=1e-5)
    detector.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(Detector.from_pretrained(tmp_path)(x), expected)
    tokens = Detector("test_vit", image_size=160, input="npr").eval()
    with torch.no_grad():
        x = images(1, 160)
        _, _, norms = tokens.encode_with_norms(x)
        plain = Detector("test_vit", image_size=160).eval()
        plain.load_state_dict(tokens.state_dict())
        torch.testing.assert_close(norms, plain.encode_with_norms(neighbour_differences(x))[2])


def test_a_config_of_before_sees_colours_and_squashes(tmp_path: Path) -> None:
    detector = Detector(image_size=32)
    detector.save_pretrained(tmp_path)
    config_file = tmp_path / "config.json"
    config_values = json.loads(config_file.read_text())
    assert (config_values.pop("input"), config_values.pop("fit")) == ("rgb", "squash")
    config_file.write_text(json.dumps(config_values))
    assert Detector.from_pretrained(tmp_path).config == detector.config
    config_file.write_text(json.dumps(config_values | {"input": "srm"}))
    with pytest.raises(InputError, match="srm"):
        Detector.from_pretrained(tmp_path)


def test_weights_of_another_input_are_refused(tmp_path: Path) -> None:
    npr_detector().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="trained on --input npr, not rgb: give"):
        Detector("resnet50_npr", image_size=64, initial_checkpoint=weights)
    Detector("resnet50_npr", image_size=64, input="npr", initial_checkpoint=weights)


def test_predict_sees_the_middle_of_a_larger_picture_as_it_is() -> None:
    detector = npr_detector()
    pixels = np.random.default_rng(1).integers(0, 256, (90, 71, 3), np.uint8)
    whole = detector.predict(Image.fromarray(pixels))
    part = detector.predict(Image.fromarray(pixels[13:77, 3:67]))
    torch.testing.assert_close(whole.score, part.score)
    torch.testing.assert_close(whole.cams, part.cams)
    squashing = Detector("resnet50_npr", image_size=64, input="npr")
    squashing.load_state_dict(detector.state_dict())
    assert abs(squashing.predict(Image.fromarray(pixels)).score - part.score) > 1e-6
