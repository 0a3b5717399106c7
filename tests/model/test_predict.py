"""Detector.predict: the pictures it takes, the order, and evaluation's bits."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from focus.data.manifest import Manifest, Sample
from focus.errors import ImageError, InputError
from focus.evaluation.inference import predictions, score_images
from focus.model.detector import Detector, Prediction


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
    found = detector.predict(files, batch_size=2)
    np.testing.assert_array_equal(found.score.numpy(), scores.score)
    np.testing.assert_array_equal(found.predicted.numpy(), scores.predicted)
    np.testing.assert_array_equal(found.entropy[:, 0].numpy(), scores.entropy_predicted)
    np.testing.assert_array_equal(found.entropy[:, 1].numpy(), scores.entropy_synthetic)
    cams = torch.cat([p.cams for _, p in predictions(detector, manifest, batch_size=2)])
    assert found.cams.equal(cams)
    assert len(np.unique(scores.score)) == len(files)


def test_paths_images_and_arrays_are_alike(detector: Detector, files: list[str]) -> None:
    by_path = detector.predict([Path(file) for file in files])
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
    assert stacked.score.shape == (2,)
    assert stacked.score[0] != stacked.score[1]


def test_frames_of_an_iterator_that_gives_one_image(detector: Detector, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frames = [Image.fromarray(draw.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(6)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.tiff") as film:
        found = detector.predict(ImageSequence.Iterator(film), batch_size=4)
    assert found.score.equal(detector.predict(frames, batch_size=4).score)
    assert len(found.score.unique()) == len(frames)
    buffer = np.empty((40, 40, 3), np.uint8)

    def filled() -> Iterator[np.ndarray]:
        for frame in frames:
            buffer[:] = np.asarray(frame)
            yield buffer

    assert detector.predict(filled(), batch_size=4).score.equal(found.score)


def test_an_iterator_is_not_drained_first(detector: Detector) -> None:
    def endless() -> Iterator[object]:
        for number in range(1000):
            yield np.zeros((32, 32, 3), np.uint8) if number < 2 else "no path"
        pytest.fail("all were asked for before the first was read")

    with pytest.raises(ImageError, match="'no path'"):
        detector.predict(endless())


def test_an_image_that_is_not_read_yet_may_come_twice(detector: Detector, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for _ in range(5):
        with Image.open(tmp_path / "a.png") as lazy:
            score = detector.predict([lazy] * 8).score
        assert len(score.float().unique()) == 1


def test_shapes_and_modes(detector: Detector, files: list[str]) -> None:
    detector.train()
    found = detector.predict(files, batch_size=3)
    assert detector.training
    detector.eval()
    assert found.score.shape == found.predicted.shape == (5,)
    assert found.cams.shape == (5, 2, *detector.grid)
    assert found.entropy.shape == (5, 2)
    assert not found.cams.requires_grad
    assert not found.cams.is_inference(), "what one cannot compute with further is of no use"


def test_a_picture_that_cannot_be_used(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png"):
        detector.predict([tmp_path / "a.png"])
    for wrong, words in (
        ([], "no pictures"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]: give a path"),
        (np.zeros((1, 4, 4, 3), np.float32), "float32"),
        ([3], "picture 0 is of type int"),
        (Image.new("F", (4, 4)), "float image"),
        (Image.new("RGB", (0, 5)), "picture 0 has no pixels"),
        (np.zeros((5, 0, 3), np.uint8), "picture 0 has no pixels"),
        (None, "picture 0 is of type NoneType"),
    ):
        with pytest.raises(InputError, match=words):
            detector.predict(wrong)
    for size in (0, 1.5, "4"):
        with pytest.raises(InputError, match=f"batch_size is {size!r}"):
            detector.predict(np.zeros((4, 4, 3), np.uint8), batch_size=size)


def test_another_default_device_changes_nothing(detector: Detector, files: list[str]) -> None:
    expected = detector.predict(files)
    with torch.device("meta"):
        found = detector.predict(files)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.01)]
)
def test_a_detector_of_another_type(
    dtype: torch.dtype, tolerance: float, detector: Detector, files: list[str]
) -> None:
    """The tolerance is some roundings of its type, or of float32, in the scores."""
    found = deepcopy(detector).to(dtype).predict(files)
    assert (found.score.dtype, found.cams.dtype) == (torch.float64, torch.float32)
    expected = detector.predict(files).score
    torch.testing.assert_close(found.score, expected, atol=tolerance, rtol=0)


def test_an_output_that_is_not_finite_names_the_picture(files: list[str]) -> None:
    broken = Detector(image_size=32)
    broken.head.fc.bias.data.fill_(torch.nan)
    with pytest.raises(ImageError, match=r"output for '.*0\.png' is not finite"):
        broken.predict(files, batch_size=2)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_of_several_pictures_the_one_that_is_not_finite_is_named(
    batch_size: int, detector: Detector, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_batch, seen = detector.predict_batch, 0

    def spoilt(images: torch.Tensor) -> Prediction:
        nonlocal seen
        found, third = predict_batch(images), 2 - seen
        seen += len(images)
        if 0 <= third < len(images):
            found.cams[third, 1, 0, 0] = torch.inf
        return found

    monkeypatch.setattr(detector, "predict_batch", spoilt)
    with pytest.raises(ImageError, match=r"output for '[^']*/2\.png' is not finite"):
        detector.predict(files, batch_size=batch_size)
