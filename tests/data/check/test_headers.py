"""How files are stored is compared without decoding a pixel."""

from pathlib import Path

import numpy as np
from PIL import Image

from focus.data.check.headers import stored_apart
from focus.data.manifest import Sample


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
    found = stored_apart(stored(tmp_path / "a", 64, ".png"), "open set", "so be it")
    assert found is not None
    assert found.severity == "error"
    apart = "tell real from synthetic (AUC 1.000, by colour mode (real: L 100 %, synthetic: RGB "
    assert found.text.startswith(f"In the open set, formats and sizes of the files alone {apart}")
    assert found.text.endswith(": so be it.")
    found = stored_apart([*stored(tmp_path / "b", 25, ".jpg"), Sample("gone.png", 0)], "", "")
    assert found is not None
    assert "file format (real: PNG 100 %, synthetic: JPEG 100 %)" in found.text


def test_files_alike_and_too_few_say_nothing(tmp_path: Path) -> None:
    alike = [
        Sample(sample.path, number % 2)
        for number, sample in enumerate(stored(tmp_path / "a", 64, ".jpg"))
    ]
    for samples in (alike, alike[:8], []):
        assert stored_apart(samples, "", "") is None
