"""What training saw, and what is unlike it."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

from focus.data.images import Preprocessing
from focus.data.making.faces import detector
from focus.data.manifest import Manifest, Sample
from focus.model.config import FacesFound
from focus.model.training_pictures import faces_in, has_face, sharpness, training_pictures


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    expected = cv2.Laplacian(grey, cv2.CV_64F)[1:-1, 1:-1].var()
    assert sharpness(pixels) == pytest.approx(expected)
    assert sharpness(pixels[:2]) == 0


def test_what_is_unlike_training_is_said_and_nothing_else_is(tmp_path: Path) -> None:
    draw, samples = np.random.default_rng(0), []
    for number in range(60):
        side = int(draw.integers(64, 97))
        pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).resize((side, side + 9), Image.Resampling.BICUBIC).save(path)
        samples.append(Sample(str(path), label=0))
    how = Preprocessing(64, (4, 4))
    seen, others = Manifest(samples[:40]), samples[40:]
    summary = training_pictures(seen, how)
    assert summary is not None
    assert summary.n_images == 40
    assert 64 <= summary.shorter_side[0] < 70 < 90 < summary.shorter_side[1] <= 96

    def unlike(image: Image.Image) -> str:
        return summary.unlike(min(image.size), sharpness(how.fitted(image)))

    flags = [unlike(Image.open(sample.path).convert("RGB")) for sample in others]
    assert sum(map(bool, flags)) <= 4, "of twenty pictures made alike"
    one = Image.open(samples[0].path).convert("RGB")
    assert unlike(one.filter(ImageFilter.GaussianBlur(6))).startswith("less sharp (")
    noise = Image.fromarray(draw.integers(0, 256, (80, 80, 3), np.uint8))
    assert re.match(r"sharper \([1-9]\d{3,}, in training ", unlike(noise)), "without an exponent"
    assert unlike(one.resize((400, 300))).startswith("shorter side 300 pixels, in training 6")
    assert unlike(one.resize((20, 20))).startswith("shorter side 20 pixels, in training 6")
    assert training_pictures(Manifest([]), how) is None


def test_faces_are_counted_in_training_images_until_they_are_too_rare(tmp_path: Path) -> None:
    portrait = skimage.data.astronaut()[0:200, 140:320]
    pictures = {"face": portrait, "mirrored": portrait[:, ::-1], "cup": skimage.data.coffee()}
    paths = {name: str(tmp_path / f"{name}.png") for name in pictures}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(paths[name])
    count = faces_in([paths["face"], paths["mirrored"]] * 10, "lbp")
    assert count == FacesFound("lbp", 20, 20)
    assert count.usual
    # Of twenty images two may be without a face, and the third decides.
    rare = faces_in([paths["face"], paths["cup"]] * 10, "lbp")
    assert rare == FacesFound("lbp", 6, 3)
    assert not rare.usual
    assert FacesFound("dlib", 40, 36).usual
    assert not FacesFound("dlib", 40, 35).usual
    assert faces_in([], "lbp") is None


@pytest.mark.parametrize("side", [60, 200, 1024])
def test_a_face_is_seen_at_any_size_of_the_picture(side: int) -> None:
    find = detector("lbp")
    whole = Image.fromarray(skimage.data.astronaut())
    assert has_face(whole.crop((140, 0, 320, 180)).resize((side, side)), find)
    assert not has_face(Image.fromarray(skimage.data.coffee()).resize((side, side)), find)
