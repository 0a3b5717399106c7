"""What gives the label away without the face: planted causes are named, clean data are clean."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from focus.data.check.properties import look, pixel_statistics
from focus.data.check.shortcuts import Audit, audit, storage_audit
from focus.data.demo import render_face
from focus.data.manifest import Manifest, Sample
from focus.metrics.intervals import LEVEL

N = 120
Save = Callable[[Image.Image, Path], None]


def png(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".png"))


def jpeg(image: Image.Image, path: Path) -> None:
    image.save(path.with_suffix(".jpg"), quality=90)


def from_elsewhere(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "camera"
    image.resize((70, 64)).save(path.with_suffix(".jpg"), quality=80, exif=exif)


def redder(image: Image.Image, path: Path) -> None:
    red, green, blue = image.split()
    png(Image.merge("RGB", (red.point(lambda v: min(255, v + 60)), green, blue)), path)


def blurred(image: Image.Image, path: Path) -> None:
    png(image.filter(ImageFilter.GaussianBlur(1)), path)


def framed(image: Image.Image, path: Path) -> None:
    png(ImageOps.expand(image.resize((60, 60)), 2), path)


LABELS = [number % 2 for number in range(N)]


@pytest.fixture(scope="module")
def faces() -> list[Image.Image]:
    """Real faces of one source: without labels, nothing tells them apart."""
    return [Image.fromarray(render_face("open", "real", 2 * i).image) for i in range(N)]


def of_file(path: str) -> dict[str, float | str]:
    header = look(path)
    return {**header.storage, "bits per pixel": header.bits_per_pixel}


def audited(
    folder: Path, faces: list[Image.Image], real: Save, fake: Save, *, pixels: bool = False
) -> Audit:
    """The audit of metadata or of pixels, where the classes are stored in two ways."""
    for number, (face, label) in enumerate(zip(faces, LABELS, strict=True)):
        (fake if label else real)(face, folder / f"{number:04d}")
    paths = sorted(map(str, folder.iterdir()))
    rows = [pixel_statistics(path) if pixels else of_file(path) for path in paths]
    files_audit = audit(rows, LABELS)
    assert files_audit is not None
    return files_audit


def test_a_clean_set_has_a_half_in_its_interval(tmp_path: Path, faces: list[Image.Image]) -> None:
    for pixels in (False, True):
        files_audit = audited(tmp_path, faces, png, png, pixels=pixels)
        low, high = files_audit.interval
        assert low < 0.5 < high < low + 0.6
        assert files_audit.causes == []
        assert (files_audit.n_real, files_audit.n_synthetic) == (N // 2, N // 2)


@pytest.mark.parametrize(
    ("fake", "causes"),
    [
        (
            png,
            [
                "file format (real: JPEG 100 %, synthetic: PNG 100 %)",
                "file name extension (real: .jpg 100 %, synthetic: .png 100 %)",
            ],
        ),
        (
            from_elsewhere,
            [
                "image width (real: 64, synthetic: 70)",
                "aspect ratio (real: 1, synthetic: 1.094)",
                "JPEG quantisation of brightness (real: 11.5, synthetic: 23.08)",
                "JPEG quantisation of colour (real: 17.34, synthetic: 34.7)",
                "EXIF data (real: no 100 %, synthetic: yes 100 %)",
            ],
        ),
    ],
    ids=["format", "source"],
)
def test_metadata_tell_the_classes_apart(
    tmp_path: Path, faces: list[Image.Image], fake: Save, causes: list[str]
) -> None:
    metadata = audited(tmp_path, faces, jpeg, fake)
    assert 0.94 < metadata.interval[0] < metadata.interval[1]
    assert [str(cause) for cause in metadata.causes[: len(causes)]] == causes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fake", "cause"),
    [(redder, "mean red"), (blurred, "noise"), (framed, "brightness of the border")],
)
def test_pixels_tell_the_classes_apart(
    fake: Save, cause: str, tmp_path: Path, faces: list[Image.Image]
) -> None:
    pixel_audit = audited(tmp_path, faces, png, fake, pixels=True)
    assert pixel_audit.interval[0] > 0.8
    assert cause in [statistic.name for statistic in pixel_audit.causes]


def test_what_is_not_there_tells_as_much_as_what_is() -> None:
    """Few reals have a quantisation table, all fakes have one: NaN is a value like another."""
    # One value is in all of the fakes and in few reals: it is not the value that tells.
    column = np.where((np.arange(80) % 2 == 0) & (np.arange(80) >= 8), math.nan, 43.44)
    column_audit = audit([{"quantisation": value} for value in column], [0, 1] * 40)
    assert column_audit is not None
    assert column_audit.interval[0] > 0.8
    said = "quantisation (real: 43.44 in 10 %, synthetic: 43.44)"
    assert str(column_audit.causes[0]) == said


def test_what_only_tells_groups_apart_counts_nothing() -> None:
    """Each video has its own size; within a video nothing tells, and no video is divided."""
    generator = np.random.default_rng(0)
    group = np.repeat(np.arange(60), 10)
    label = (np.arange(60) % 2)[group].tolist()
    sizes = [{"size": float(size)} for size in generator.permutation(60)[group]]
    divided = audit(sizes, label)
    together = audit(sizes, label, [f"video {number}" for number in group])
    assert divided is not None
    assert together is not None
    assert divided.auc > 0.95
    assert together.interval[0] < 0.5 < together.interval[1]


def test_too_few_images_or_groups_of_a_class_are_not_audited() -> None:
    for labels, groups in (
        ([0] * 19 + [1] * 300, []),
        ([0] * 300, []),
        ([0] * 50 + [1] * 50, ["one video"] * 50 + [""] * 50),
    ):
        rows = [{"number": float(row)} for row in range(len(labels))]
        assert audit(rows, labels, groups) is None
    # Where all files are alike there is nothing to tell.
    format_audit = audit([{"file format": "PNG", "width": math.nan}] * 60, [0, 1] * 30)
    assert format_audit == Audit(0.5, (0.5, 0.5), LEVEL, 30, 30, [])


def statistics(pixels: NDArray[np.uint8], folder: Path) -> dict[str, float]:
    Image.fromarray(pixels).save(folder / "image.png")
    return pixel_statistics(str(folder / "image.png"))


def test_pixel_statistics_of_known_pictures(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(128, 10, (300, 280)).round().astype(np.uint8)
    measurements = statistics(np.repeat(noise[..., None], 3, 2), tmp_path)
    assert measurements["noise"] == pytest.approx(10, rel=0.03)
    # Laplacian of white noise: variance 20 times the noise's.
    assert measurements["sharpness"] == pytest.approx(math.log1p(20 * 100), rel=0.02)
    # Steps of 20 at the borders of blocks, none inside.
    steps = np.repeat(np.repeat(np.arange(8, dtype=np.uint8) * 20, 8)[:, None], 64, 1)
    measurements = statistics(np.repeat((steps + 40)[..., None], 3, 2), tmp_path)
    assert measurements["8 x 8 blocks"] == pytest.approx(((20 + 0.1) / 0.1 + 1) / 2, rel=1e-3)


def stored(folder: Path, side: int, extension: str) -> list[Sample]:
    """24 real images of 25 pixels in grey and as many fakes, colour; none has a whole pixel."""
    folder.mkdir()
    samples = []
    for label, number in np.ndindex(2, 24):
        path = folder / (f"{label}-{number}" + (extension if label else ".png"))
        shape = (side, side, 3) if label else (25, 25)
        Image.fromarray(np.full(shape, number, np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-20])
        samples.append(Sample(str(path), label))
    return samples


def test_what_tells_the_classes_apart_is_named(tmp_path: Path) -> None:
    audit = storage_audit(Manifest(stored(tmp_path / "a", 64, ".png")))
    (finding,) = audit.findings("open set", "so be it")
    assert finding.severity == "error"
    apart = "tells real from synthetic with AUC 1.000, by colour mode (real: L 100 %, "
    assert finding.text.startswith(f"In the open set, the storage of the files alone {apart}")
    assert finding.text.endswith(": so be it.")
    audit = storage_audit(Manifest([*stored(tmp_path / "b", 25, ".jpg"), Sample("gone.png", 0)]))
    (finding,) = audit.findings("", "")
    assert "file format (real: PNG 100 %, synthetic: JPEG 100 %)" in finding.text


def test_files_alike_and_too_few_say_nothing(tmp_path: Path) -> None:
    alike = [
        Sample(sample.path, number % 2)
        for number, sample in enumerate(stored(tmp_path / "a", 64, ".jpg"))
    ]
    for samples in (alike, alike[:8], []):
        assert storage_audit(Manifest(samples)).findings("", "") == []


def pictures(folder: Path, extension: str) -> list[Sample]:
    """40 real images of fine detail and as many fakes without, stored alike."""
    folder.mkdir()
    random = np.random.default_rng(0)
    samples = []
    for label, number in np.ndindex(2, 40):
        path = folder / f"{label}-{number}{extension}"
        coarse = random.integers(0, 256, (24, 24, 3) if label else (96, 96, 3), np.uint8)
        Image.fromarray(coarse).resize((96, 96)).save(path, quality=90)
        samples.append(Sample(str(path), label))
    return samples


def test_files_that_are_stored_alike_differ_in_size_by_what_they_show(tmp_path: Path) -> None:
    """No store of them would change that: it is no error where the header tells the quality."""
    for extension, severity, said in (
        (".jpg", "note", "it is the pictures' content"),
        (".png", "note", "it is the pictures' content"),
        (".webp", "warning", "as WEBP files do not tell their quality"),
    ):
        samples = pictures(tmp_path / extension[1:], extension)
        (finding,) = storage_audit(Manifest(samples)).findings("open set", "so be it")
        assert finding.severity == severity
        assert "bits per pixel tell real from synthetic with AUC 1.000" in finding.text
        assert said in finding.text
