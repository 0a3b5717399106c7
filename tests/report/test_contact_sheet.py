"""The sheet of overlays: a row a generator, and what is known as in results."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from focus.data.manifest import Manifest, Sample
from focus.model.detector import Detector
from focus.report.contact_sheet import contact_sheet


@pytest.fixture
def faces(tmp_path: Path) -> Manifest:
    generator = np.random.default_rng(0)
    samples = []
    for number, (label, name) in enumerate([(1, "uB"), (0, ""), (1, "kA"), (None, ""), (1, "uB")]):
        path = str(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(0, 256, (40, 32, 3), np.uint8)).save(path)
        samples.append(Sample(path, label, name))
    return Manifest(samples, "faces")


def sheet_size(detector: Detector, manifest: Manifest, path: Path) -> tuple[int, int]:
    contact_sheet(detector, manifest, path, columns=2)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_sheet_has_a_row_a_kind_and_a_place_for_maps(faces: Manifest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(training_generators=("kA",)).train()
    out = tmp_path / "sheet.png"
    width, height = sheet_size(detector, faces, out)
    assert detector.training
    # Rows: real, kA, uB, unlabelled; then real and kA.
    fewer = sheet_size(detector, Manifest(faces[1:3]), out)
    assert fewer[0] == width
    assert height - fewer[1] == pytest.approx(2 * 1.36 * 170, abs=1), "two rows of 1.36 inches"

    # A map makes a third picture of each face.
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "map.png")
    mapped = Manifest([Sample(faces[0].path, 1, "uB", human_map=str(tmp_path / "map.png"))])
    with_map, _ = sheet_size(detector, mapped, out)
    assert with_map > width


def test_a_generator_is_known_as_in_the_results(
    faces: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another of its names, too; and unknown where the data say so."""
    path = faces[0].path
    samples = [Sample(path, 1, "SG2"), Sample(path, 1, "StyleGAN2", test_set="open")]
    samples += [Sample(path, 1, "new", test_set="closed"), Sample(path, 1)]
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    monkeypatch.setattr("focus.report.contact_sheet.atomic_write", nullcontext)  # none is written
    detector = Detector(image_size=32, training_generators=("StyleGAN2",))
    contact_sheet(detector, Manifest(samples), "sheet.png", columns=1)
    at_the_left = [t for t in figures[0].texts if t.get_horizontalalignment() == "right"]
    texts = [text.get_text().strip() for text in at_the_left]
    assert list(zip(texts[::2], texts[1::2], strict=True)) == [
        ("(unnamed)", "unknown generator"),
        ("SG2", "known generator"),
        ("StyleGAN2", "unknown generator"),
        ("new", "known generator"),
    ]
