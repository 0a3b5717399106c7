"""How files are stored is compared without decoding a pixel."""

from pathlib import Path

import numpy as np
from PIL import Image

from focus.data.check.headers import storage_audit
from focus.data.manifest import Manifest, Sample


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
    (found,) = audit.findings("open set", "so be it")
    assert found.severity == "error"
    apart = "tells real from synthetic with AUC 1.000, by colour mode (real: L 100 %, "
    assert found.text.startswith(f"In the open set, the storage of the files alone {apart}")
    assert found.text.endswith(": so be it.")
    audit = storage_audit(Manifest([*stored(tmp_path / "b", 25, ".jpg"), Sample("gone.png", 0)]))
    (found,) = audit.findings("", "")
    assert "file format (real: PNG 100 %, synthetic: JPEG 100 %)" in found.text


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
        (found,) = storage_audit(Manifest(samples)).findings("open set", "so be it")
        assert found.severity == severity
        assert "bits per pixel tell real from synthetic with AUC 1.000" in found.text
        assert said in found.text
