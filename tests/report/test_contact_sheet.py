"""Overlays: the colours where they belong, and a sheet that shows every generator."""

import resource
from contextlib import nullcontext
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from focus.data.manifest import Manifest, Sample
from focus.data.overlay import COLOUR_MAP, overlay
from focus.model.detector import Detector
from focus.report.contact_sheet import contact_sheet

GREY = np.full((32, 64, 3), 100, np.uint8)


def colour(value: float) -> np.ndarray:
    return 255 * np.array(matplotlib.colormaps[COLOUR_MAP](value)[:3])


def test_the_peak_gets_the_hottest_colour_and_the_cold_side_the_darkest() -> None:
    cam = np.array([[-7.0, -7.0, 5.0, 5.0]] * 2, np.float32)
    picture = np.asarray(overlay(GREY, cam, alpha=0.5), dtype=float)
    assert picture.shape == GREY.shape
    # Opacity is alpha at the peak and 0.4 alpha where the CAM is smallest.
    np.testing.assert_allclose(picture[16, 63], 0.5 * 100 + 0.5 * colour(1.0), atol=1)
    np.testing.assert_allclose(picture[16, 0], 0.8 * 100 + 0.2 * colour(0.0), atol=1)


def test_scale_and_offset_of_the_cam_do_not_show_and_rows_stay_rows() -> None:
    cam = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    picture = np.asarray(overlay(GREY, cam))
    assert np.array_equal(picture, np.asarray(overlay(Image.fromarray(GREY), 8 * cam + 16)))
    top = np.zeros((4, 4), np.float32)
    top[0] = 1
    red = np.asarray(overlay(GREY, top))[..., 0].mean(axis=1)
    assert red[2] > red[-3] + 50


def test_a_constant_cam_shows_no_peak() -> None:
    picture = np.asarray(overlay(GREY, np.full((7, 7), 3.3, np.float32), alpha=1.0), dtype=float)
    np.testing.assert_allclose(
        picture, np.broadcast_to(0.6 * 100 + 0.4 * colour(0.0), GREY.shape), atol=1
    )


def test_no_alpha_is_the_image() -> None:
    cam = np.eye(4, dtype=np.float32)
    assert np.array_equal(np.asarray(overlay(GREY, cam, alpha=0.0)), GREY)


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


def test_a_full_disk_leaves_the_sheet_that_was_there(faces: Manifest, tmp_path: Path) -> None:
    """A limit on the size of files makes the kernel refuse the write, as a full disk does."""
    out = tmp_path / "sheet.png"
    sheet_size(Detector(), faces, out)
    kept = out.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*sheet\.png'$"):
            contact_sheet(Detector(), faces, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert out.read_bytes() == kept
    assert not list(tmp_path.glob("*.part"))


def test_sheet_has_a_row_a_kind_and_a_place_for_maps(faces: Manifest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = Detector(training_generators=("kA",)).train()
    out = tmp_path / "sheet.png"
    width, height = sheet_size(detector, faces, out)
    assert detector.training
    # Rows: real, kA, uB, unlabelled; then real and kA.
    fewer = sheet_size(detector, faces[1:3], out)
    assert fewer[0] == width
    assert height - fewer[1] == pytest.approx(2 * 1.36 * 170, abs=1), "two rows of 1.36 inches"

    # A map makes a third picture of each face.
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "map.png")
    mapped = Manifest([Sample(faces[0].path, 1, "uB", map_path=str(tmp_path / "map.png"))])
    with_map, _ = sheet_size(detector, mapped, out)
    assert with_map > width


def test_the_artefact_is_outlined_on_the_cam(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    mask = np.zeros((32, 64), np.uint8)
    mask[8:24, 16:48] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    torch.manual_seed(0)
    detector = Detector()
    pixels = []
    for mask_path in (None, str(tmp_path / "mask.png")):
        sample = Sample(str(tmp_path / "grey.png"), 1, "uB", mask_path=mask_path)
        contact_sheet(detector, Manifest([sample]), tmp_path / "sheet.png", columns=1)
        pixels.append(np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"), dtype=int))
    cyan = [np.argwhere(np.abs(p - [0x19, 0xE3, 0xFF]).max(axis=2) < 40) for p in pixels]
    assert len(cyan[0]) == 0
    assert len(cyan[1]) > 300
    # The second picture of the face: 1.4 to 3.6 inches at 170 dpi, so right of 2.5 inches.
    assert cyan[1][:, 1].min() > 2.5 * 170


LONG = ("stable_diffusion_v_1_4", "stable_diffusion_v_1_5")


def figure_of_sheet(
    samples: list[Sample], known: tuple[str, ...], patch: pytest.MonkeyPatch
) -> Figure:
    figures: list[Figure] = []
    patch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    patch.setattr("focus.report.contact_sheet.atomic_write", nullcontext)  # of what is not written
    detector = Detector(image_size=32, training_generators=known)
    contact_sheet(detector, Manifest(samples), "sheet.png", columns=1)
    return figures[0]


def texts_of_sheet(
    samples: list[Sample], known: tuple[str, ...], patch: pytest.MonkeyPatch
) -> list[str]:
    """What stands on a sheet below its head, but for its captions."""
    return [text.get_text() for text in figure_of_sheet(samples, known, patch).texts][2:]


def rows_of_sheet(
    samples: list[Sample], known: tuple[str, ...], patch: pytest.MonkeyPatch
) -> list[tuple[str, str]]:
    """The names and kinds that a sheet shows at the left of its rows."""
    texts = texts_of_sheet(samples, known, patch)
    return [(name, kind.strip()) for name, kind in zip(texts[::2], texts[1::2], strict=True)]


def test_each_generator_has_a_row_and_no_two_are_called_alike(
    faces: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [Sample(faces[0].path, 1, name) for name in LONG]
    assert rows_of_sheet(samples, LONG[:1], monkeypatch) == [
        ("stable_d...v_1_4", "known generator"),
        ("stable_d...v_1_5", "unknown generator"),
    ]


def test_a_generator_is_known_as_in_the_results(
    faces: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another of its names, too; and unknown where the data say so."""
    path = faces[0].path
    samples = [Sample(path, 1, "SG2"), Sample(path, 1, "StyleGAN2", test_set="open")]
    samples += [Sample(path, 1, "new", test_set="closed"), Sample(path, 1)]
    assert rows_of_sheet(samples, ("StyleGAN2",), monkeypatch) == [
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
    *texts, below = texts_of_sheet(samples, tuple(names[::5]), monkeypatch)
    rows = list(zip(texts[::2], map(str.strip, texts[1::2]), strict=True))
    assert (rows[0], rows[-1], len(rows)) == (("real", ""), ("unlabelled", ""), 12)
    shown = [name for name, _ in rows[1:-1]]
    assert shown == sorted(shown)
    known = [name for name, kind in rows if kind == "known generator"]
    assert known == ["g00", "g25"]  # of ten
    assert below == "40 more generators not shown"


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
