"""Overlays: the colours where they belong, the artefact outlined, the human map beside."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from focus.config.recipes import Fit
from focus.data.images import Preprocessing
from focus.data.manifest import Sample
from focus.data.overlay import COLOUR_MAP, OUTLINE, SheetRow, contact_sheet, marked, overlay, strip

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
    # A constant one has no peak.
    flat = np.asarray(overlay(GREY, np.full((7, 7), 3.3, np.float32), alpha=1.0), dtype=float)
    np.testing.assert_allclose(flat[5, 5], 0.6 * 100 + 0.4 * colour(0.0), atol=1)


def test_a_strip_has_face_cam_and_map_side_by_side(tmp_path: Path) -> None:
    side, spot = 160, np.zeros((8, 8), np.uint8)
    spot[2:5, 3:6] = 255
    Image.fromarray(GREY).save(tmp_path / "face.png")
    Image.fromarray(spot).resize((64, 64)).save(tmp_path / "spot.png")
    cam = np.zeros((4, 4), np.float32)
    cam[0, 3] = 1
    paths = {"mask_path": str(tmp_path / "spot.png"), "human_map": str(tmp_path / "spot.png")}
    whole = np.asarray(strip(Sample(str(tmp_path / "face.png"), 1, **paths), cam, side), dtype=int)
    assert whole.shape == (side, 3 * side, 3)
    assert strip(Sample(str(tmp_path / "face.png"), 1), cam, side).width == 2 * side
    face, looked, human = np.split(whole, 3, axis=1)
    bright = (looked - face).sum(axis=2)
    assert bright[: side // 4, -side // 4 :].mean() > bright[side // 2 :, : side // 2].mean() + 50
    rows, columns = np.nonzero(np.abs(looked - OUTLINE).max(axis=2) < 20)
    # The mask covers cells 2 to 4 and 3 to 5 of 8.
    edges = [rows.min(), rows.max(), columns.min(), columns.max()]
    np.testing.assert_allclose(edges, side / 8 * np.array([2, 5, 3, 6]), atol=6)
    for other in (face, human):
        assert not (np.abs(other - OUTLINE).max(axis=2) < 20).any()


def test_a_caption_wider_than_its_picture_is_whole_and_meets_no_other(tmp_path: Path) -> None:
    """The first and the last of a row, in two colours, so that each can be found again."""
    caption, side = "synthetic stylegan_xl...psi_0_7: 3 of 3 say synthetic", 96
    red, blue = "#ff0000", "#0000ff"
    picture = Image.new("RGB", (side, side), "black")
    cells = [(picture, caption, red), (picture, "short", "black"), (picture, caption, blue)]
    contact_sheet(tmp_path / "sheet.png", (), [SheetRow("", "", cells)], side)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    ink = 255 - pixels  # of red letters on white: green and blue are dark, red is not
    first = np.nonzero((ink[..., 1] > 100) & (ink[..., 0] < 20))[1]
    last = np.nonzero((ink[..., 1] > 100) & (ink[..., 2] < 20))[1]
    assert first.max() - first.min() == pytest.approx(last.max() - last.min(), abs=1)
    assert last.max() < pixels.shape[1] - 1
    starts = np.flatnonzero(np.diff((pixels[side // 2] == 0).all(1).astype(int)) == 1) + 1
    assert len(starts) == 3
    assert first.max() < starts[1]


def test_faces_are_marked_where_they_are() -> None:
    picture = Image.new("RGB", (200, 160), (9, 90, 9))
    cams = [np.array([[0.0, k]], np.float32) for k in (1, 2)]
    faces = [((20, 0, 100, 80), cams[0], "1: real 0.02", "#0072b2")]
    faces += [((280, 200, 360, 280), cams[1], "2: synthetic 0.98", "#d55e00")]
    laid = np.asarray(marked(picture, faces, (0.5, 0.5)))
    assert laid.shape == (160, 200, 3)
    for (left, top, right, bottom), box in (
        ((10, 0, 50, 40), (0x00, 0x72, 0xB2)),
        ((140, 100, 180, 140), (0xD5, 0x5E, 0x00)),
    ):
        for edge in (laid[top:bottom, left], laid[top:bottom, right], laid[bottom, left:right]):
            assert (edge == box).all()
        inside = np.asarray(overlay(picture.crop((left, top, right, bottom)), cams[0]))
        assert (laid[top + 5 : bottom, left + 5 : right] == inside[5:, 5:]).all()
    # A label stands above its box, else below it; the second is as wide as its text.
    assert (laid[42:51, 10:40] != (9, 90, 9)).any(2).all()
    assert (laid[90:98, 141:170] != (9, 90, 9)).any(2).all()
    assert (laid[60:80] == (9, 90, 9)).all()
    assert (laid[:, :9] == (9, 90, 9)).all()


def test_the_cam_of_a_middle_lies_over_the_middle(tmp_path: Path) -> None:
    """Of 64 x 32 pixels 16 x 16 are seen; of a network of 64 only a part of the CAM is shown."""
    Image.fromarray(GREY).save(tmp_path / "face.png")
    face, cam = Sample(str(tmp_path / "face.png"), 1), np.array([[0.0, 1.0]] * 2, np.float32)
    side = 128
    sizes: list[tuple[int, Fit]] = [(16, "crop"), (64, "crop"), (64, "squash")]
    seen_by = [Preprocessing(size, (2, 2), fit) for size, fit in sizes]
    whole = np.asarray(strip(face, np.stack([cam] * 3), side, seen_by))
    plain, small, large, squashed = np.split(whole.astype(int), 4, axis=1)
    rows, columns = np.nonzero(np.abs(small - plain).sum(2))
    # Columns 24 to 39 of 64, rows 8 to 23 of 32, of 128 pixels each.
    edges = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
    np.testing.assert_allclose(edges, [32, 96, 48, 80], atol=1)
    # As wide as the picture and twice as high: the two rows of the CAM are alike.
    np.testing.assert_allclose(large, squashed, atol=2)
