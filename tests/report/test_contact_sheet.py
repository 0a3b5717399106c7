"""The sheet of overlays: a row a generator, and what is known as in results."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.manifest import Manifest, Sample
from focus.evaluation.inference import score_images
from focus.model.detector import Detector
from focus.report import contact_sheet
from focus.report.contact_sheet import write_sheet


@pytest.fixture
def faces(tmp_path: Path) -> Manifest:
    generator = np.random.default_rng(0)
    samples = []
    for number, (label, name) in enumerate([(1, "uB"), (0, ""), (1, "kA"), (None, ""), (1, "uB")]):
        path = str(tmp_path / f"{number}.png")
        Image.fromarray(generator.integers(0, 256, (40, 32, 3), np.uint8)).save(path)
        samples.append(Sample(path, label, name))
    return Manifest(samples, "faces")


def sheet_of(detector: Detector, manifest: Manifest, path: Path, columns: int = 2) -> Image.Image:
    scores = score_images(detector, manifest, batch_size=4, progress=False)
    write_sheet(detector, manifest, scores, path, columns=columns)
    return Image.open(path).convert("RGB")


def test_sheet_has_a_row_a_kind_and_a_place_for_maps(faces: Manifest, tmp_path: Path) -> None:
    detector = Detector(training_generators=("kA",)).eval()
    out = tmp_path / "sheet.png"
    # Rows: real, kA, uB, unlabelled; then real and kA. Each is 192 pixels, a gap and a caption.
    rows = [sheet_of(detector, given, out) for given in (faces, Manifest(faces[1:3]))]
    assert rows[0].height - rows[1].height == 2 * (192 + 16 + 24)
    # A map makes a third picture of each face.
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "map.png")
    mapped = [Sample(face.path, 1, "uB", human_map=str(tmp_path / "map.png")) for face in faces[:4]]
    bare = [Sample(face.path, 1, "uB") for face in faces[:4]]
    wide, narrow = (sheet_of(detector, Manifest(own), out, 4).width for own in (mapped, bare))
    assert wide - narrow == 4 * 192


def test_a_generator_is_known_as_in_the_results(
    faces: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another of its names, too; and unknown where the data say so."""
    path = faces[0].path
    samples = [Sample(path, 1, "SG2"), Sample(path, 1, "StyleGAN2", test_set="open")]
    samples += [Sample(path, 1, "new", test_set="closed"), Sample(path, 1)]
    drawn: list[tuple[str, str]] = []
    monkeypatch.setattr(
        contact_sheet,
        "contact_sheet",
        lambda *arguments: drawn.extend((row.name, row.note) for row in arguments[2]),
    )
    detector = Detector(image_size=32, training_generators=("StyleGAN2",))
    manifest = Manifest(samples)
    scores = score_images(detector, manifest, batch_size=4, progress=False)
    write_sheet(detector, manifest, scores, Path("sheet.png"), columns=1)
    assert drawn == [
        ("(unnamed)", "unknown generator"),
        ("SG2", "known generator"),
        ("StyleGAN2", "unknown generator"),
        ("new", "known generator"),
    ]
