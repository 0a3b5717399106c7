"""Detector.predict: the pictures it takes, their order, and evaluation's bits."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor, nn

from focus.data.images import load_image
from focus.data.making.faces import DETECTORS
from focus.data.manifest import Manifest, Sample
from focus.errors import ImageError, InputError
from focus.evaluation.inference import predictions, score_images
from focus.model.detector import Detector

from ..data.making.drawn_faces import ANN, BOB, CAT, draw, find


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Pictures of several sizes and modes, one of them lying on its side by its EXIF."""
    draw = np.random.default_rng(0)
    paths = []
    for number, size in enumerate([(32, 32, 3), (40, 21, 3), (70, 90), (33, 34, 4), (48, 64, 3)]):
        image = Image.fromarray(draw.integers(0, 256, size, np.uint8))
        exif = image.getexif()
        if number == 4:
            exif[0x0112] = 6  # a quarter turn
        paths.append(str(tmp_path / f"{number}.png"))
        image.save(paths[-1], exif=exif)
    return paths


def test_the_same_bits_as_evaluation(detector: Detector, files: list[str]) -> None:
    manifest = Manifest([Sample(path) for path in files])
    scores = score_images(detector, manifest, batch_size=2, progress=False)
    prediction = detector.predict(files, batch_size=2)
    np.testing.assert_array_equal(prediction.score.numpy(), scores.score)
    np.testing.assert_array_equal(prediction.predicted.numpy(), scores.predicted)
    np.testing.assert_array_equal(prediction.entropy[:, 0].numpy(), scores.entropy_predicted)
    np.testing.assert_array_equal(prediction.entropy[:, 1].numpy(), scores.entropy_synthetic)
    cams = torch.cat([p.cams for _, p in predictions(detector, manifest, batch_size=2)])
    assert prediction.cams.equal(cams)
    assert len(np.unique(scores.score)) == len(files)


def test_paths_images_and_arrays_are_alike(detector: Detector, files: list[str]) -> None:
    by_path = detector.predict([Path(file) for file in files])
    assert by_path.score.shape == by_path.predicted.shape == (5,)
    assert by_path.cams.shape == (5, 2, *detector.grid)
    opened = [Image.open(file) for file in files]
    before = [image.size for image in opened]
    by_image = detector.predict(iter(opened))
    assert [image.size for image in opened] == before, "a caller's image is not turned"
    for mine, other in zip(by_path, by_image, strict=True):
        assert mine.equal(other)
    array = np.asarray(Image.open(files[1]))
    alone = [detector.predict(picture).score for picture in (array, files[1])]
    assert alone[0].equal(alone[1])
    stacked = detector.predict(np.stack([array, array[::-1]]))
    assert stacked.score[0] != stacked.score[1]


def test_an_iterator_gives_a_batch_at_a_time_and_may_reuse_its_image(
    detector: Detector, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    frames = [Image.fromarray(draw.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(6)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    expected = detector.predict(frames, batch_size=4).score
    assert len(expected.unique()) == len(frames)
    with Image.open(tmp_path / "a.tiff") as film:
        assert detector.predict(ImageSequence.Iterator(film), batch_size=4).score.equal(expected)

    def endless() -> Iterator[object]:
        yield from [np.zeros((32, 32, 3), np.uint8), "no path", "no path"]
        pytest.fail("all were asked for before the first was read")

    with pytest.raises(ImageError, match="'no path'"):
        detector.predict(endless(), batch_size=2)


def test_a_picture_that_cannot_be_used(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png"):
        detector.predict([tmp_path / "a.png"])
    for wrong, words in (
        ([], "no pictures"),
        (np.zeros((4, 4), np.uint8), r"picture 0 .uint8 \[4, 4\].: give a path"),
        (np.zeros((1, 4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        ([3], "Cannot use picture 0 .*: give a path"),
        (Image.new("F", (4, 4)), "float image"),
    ):
        with pytest.raises(InputError, match=words):
            detector.predict(wrong)


def test_the_picture_whose_output_is_not_finite_is_named(detector: Detector) -> None:
    broken = deepcopy(detector)
    broken.backbone.register_forward_hook(
        lambda *call: call[2].index_fill(0, torch.tensor(2), torch.inf)
    )
    pictures = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(ImageError, match="output for picture 2 is not finite"):
        broken.predict(pictures)


def test_faces_are_cut_out_as_for_training(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DETECTORS, "lbp", lambda: find)
    cutting = deepcopy(detector)
    cutting.config = replace(detector.config, geometry=("lbp margin 0.5",))
    two = draw(tmp_path / "2.png", [(ANN, (100, 40, 120, 60)), (BOB, (10, 30, 60, 80))])
    none, one = draw(tmp_path / "0.png", []), draw(tmp_path / "1.png", [(CAT, (50, 10, 90, 50))])
    all_faces = cutting.predict([two, none, one], batch_size=2, faces="all")
    # Squares of twice the side, moved inside the picture.
    squares = [(two, (0, 5, 100, 105)), (two, (90, 30, 130, 70)), (one, (30, 0, 110, 80))]
    cut = [load_image(path).crop(square) for path, square in squares]
    torch.testing.assert_close(all_faces.score, detector.predict(cut).score, rtol=1e-6, atol=0)
    assert len(set(all_faces.score.tolist())) == 3
    assert all_faces.picture.tolist() == [0, 0, 2]
    boxes = [[10, 30, 60, 80], [100, 40, 120, 60], [50, 10, 90, 50]]
    assert all_faces.box.tolist() == boxes
    largest = cutting.predict([two, none, one], faces="largest")
    assert (largest.picture.tolist(), largest.box.tolist()) == ([0, 2], boxes[::2])
    whole = cutting.predict([two, none])
    assert (whole.picture.tolist(), whole.box.tolist()) == ([0, 1], [[0, 0, 300, 120]] * 2)
    with pytest.raises(InputError, match=r"no faces in the 2 pictures: give others, or faces="):
        cutting.predict([none, none], faces="all")
    with pytest.raises(InputError, match="no pictures"):
        cutting.predict([], faces="all")


def test_large_images_are_taken_few_at_a_time(tmp_path: Path) -> None:
    """Fifty of 4096 pixels a side would fill the memory of most machines."""
    detector, batches = Detector(image_size=1024).eval(), list[int]()

    def every_sixteenth_pixel(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Count the images; the network takes seconds on all of their pixels."""
        batches.append(len(inputs[0]))
        return inputs[0][:, :, ::16, ::16]

    detector.backbone.register_forward_pre_hook(every_sixteenth_pixel)
    detector.predict([np.zeros((8, 8, 3), np.uint8)] * 18)
    assert batches == [16, 2]
    assert [Detector(image_size=512).at_once(64), detector.at_once(3)] == [64, 3]
