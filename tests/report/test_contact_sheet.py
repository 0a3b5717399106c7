"""The sheet of overlays: a row a generator, every name whole, and what is known as in results."""

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

GREY = np.full((32, 64, 3), 100, np.uint8)


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
    mapped = Manifest([Sample(faces[0].path, 1, "uB", map_path=str(tmp_path / "map.png"))])
    with_map, _ = sheet_size(detector, mapped, out)
    assert with_map > width


def figure_of_sheet(
    samples: list[Sample], known: tuple[str, ...], patch: pytest.MonkeyPatch
) -> Figure:
    figures: list[Figure] = []
    patch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    patch.setattr("focus.report.contact_sheet.atomic_write", nullcontext)  # of what is not written
    detector = Detector(image_size=32, training_generators=known)
    contact_sheet(detector, Manifest(samples), "sheet.png", columns=1)
    return figures[0]


def rows_of_sheet(figure: Figure) -> list[tuple[str, str]]:
    """The names and kinds that a sheet shows at the left of its rows."""
    texts = [text.get_text() for text in figure.texts if text.get_horizontalalignment() == "right"]
    return [(name, kind.strip()) for name, kind in zip(texts[::2], texts[1::2], strict=True)]


def test_a_generator_is_known_as_in_the_results(
    faces: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another of its names, too; and unknown where the data say so."""
    path = faces[0].path
    samples = [Sample(path, 1, "SG2"), Sample(path, 1, "StyleGAN2", test_set="open")]
    samples += [Sample(path, 1, "new", test_set="closed"), Sample(path, 1)]
    assert rows_of_sheet(figure_of_sheet(samples, ("StyleGAN2",), monkeypatch)) == [
        ("(unnamed)", "unknown generator"),
        ("SG2", "known generator"),
        ("StyleGAN2", "unknown generator"),
        ("new", "known generator"),
    ]


def test_of_many_generators_some_are_shown_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Known and unknown ones in proportion, in the order that they have in the data."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(GREY).save("a.png")
    names = [f"g{number:02d}" for number in range(50)]
    samples = [Sample("a.png", 0), *(Sample("a.png", 1, name) for name in names)]
    samples.append(Sample("a.png", None))
    figure = figure_of_sheet(samples, tuple(names[::5]), monkeypatch)
    rows = rows_of_sheet(figure)
    assert (rows[0], rows[-1], len(rows)) == (("real", ""), ("unlabelled", ""), 12)
    shown = [name for name, _ in rows[1:-1]]
    assert shown == sorted(shown)
    known = [name for name, kind in rows if kind == "known generator"]
    assert known == ["g00", "g25"]  # of ten
    assert "40 more generators not shown" in [text.get_text() for text in figure.texts]


def test_names_of_wide_characters_are_not_cut_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(GREY).save("a.png")
    for name in ("W" * 16, "ADM"):
        figure = figure_of_sheet([Sample("a.png", 1, name)], (), monkeypatch)
        figure.draw_without_rendering()
        (shown,) = [text for text in figure.texts if text.get_text() == name]
        extents = [text.get_window_extent() for text in figure.texts]
        assert all(each.x0 >= 0 and each.x1 <= figure.bbox.width for each in extents), name
        # Its right end is beside the picture.
        place = figure.axes[0].get_position().x0 * figure.bbox.width
        assert 10 < place - shown.get_window_extent().x1 < 40
