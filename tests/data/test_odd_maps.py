"""Which maps are those of other images than they seem, and which are no grey images."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from focus.data.bad_files import check_images
from focus.data.check.survey import look_at_map
from focus.data.manifest import Manifest, Sample
from focus.data.maps import files_of, map_references
from focus.data.readers import read_data
from focus.data.readers.files import images_below

from ..commands import check as main


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("deep", [True, False])
def test_an_image_that_is_left_out_keeps_its_map(tmp_path: Path, deep: bool) -> None:
    """0_1.png is another image than 0.png, not its first annotator's map."""
    for name in ("0", "1", "0_1", "1_1.txt"):
        picture(tmp_path / "img" / f"{name}.png")
    (tmp_path / "img/1_1.txt.png").rename(tmp_path / "img/1_1.txt")
    maps = tmp_path / "heatmaps" / "img" if deep else tmp_path / "heatmaps"
    for name in ("0_1", "1_1", "1_2"):
        picture(maps / f"{name}.png")
    (tmp_path / "d.csv").write_text("path,label\nimg/0.png,real\nimg/1.png,fake\n")
    found = read_data(tmp_path / "d.csv")
    assert found[0].map_path is None
    assert files_of(str(found[1].map_path)) == [f"{maps}/1_1.png", f"{maps}/1_2.png"]
    # Wherever the maps lie, if it is said where the images do.
    place = (tmp_path / "heatmaps").rename(tmp_path / "img" / "elsewhere")
    names = {"img/0", "img/1", "0", "1"}
    assert (
        map_references(place, images_below(place), names, tmp_path)
        .keys()
        .isdisjoint({"0", "img/0"})
    )


def test_maps_below_the_root_of_the_images_are_no_images(tmp_path: Path) -> None:
    for name in ("a_1", "a_2"):
        picture(tmp_path / f"{name}.png")
    found = map_references(tmp_path, images_below(tmp_path), {"a"}, tmp_path)
    assert found == {"a": f"{tmp_path}/{{a_1.png,a_2.png}}"}


def test_maps_in_colour_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their luminance peaks beside the hottest; grey ones of three channels are as they seem."""
    up = np.linspace(0, 1, 32)
    heat = np.outer(up, up)
    grey = np.round(255 * heat).astype(np.uint8)
    hot = colormaps["jet"](heat, bytes=True)
    images = {"jet": hot, "flat": hot[..., :3], "rgb": np.stack([grey] * 3, -1), "grey": grey}
    for name, pixels in images.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.fromarray(images["rgb"]).save(tmp_path / "grey.jpg", quality=50)
    Image.fromarray(hot[..., :3]).quantize(32).save(tmp_path / "palette.png")
    references = [*sorted(map(str, tmp_path.glob("*.*"))), f"{tmp_path}/{{grey.png,jet.png}}"]
    coloured = [tmp_path / f"{name}.png" for name in ("flat", "jet", "palette")]
    manifest = Manifest(Sample(str(tmp_path / "rgb.png"), 0, map_path=r) for r in references)
    for _ in range(2):  # those that were seen before too
        caplog.clear()
        usable, bad = check_images(manifest, cache=tmp_path / "cache", progress=False)
        assert (usable, bad) == (manifest, [])
        (said,) = caplog.messages
        assert said.startswith("4 human maps are in colour, of which only the luminance is used")
        assert said.endswith(f"the first is {str(coloured[0])!r}")
    found = {path for path in references if look_at_map(path).coloured}
    assert found == {*map(str, coloured), references[-1]}


def test_check_names_one_in_colour(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{('real', 'fake')[number % 2]}\n")
    (tmp_path / "faces.csv").write_text("path,label\n" + "".join(rows))
    picture(tmp_path / "heatmaps" / "1.png")
    hot = tmp_path / "heatmaps" / "2.png"
    Image.fromarray(colormaps["jet"](np.eye(16), bytes=True)).save(hot)
    main([str(tmp_path / "faces.csv"), "--output", str(tmp_path / "out")])
    text = (tmp_path / "out" / "check.txt").read_text(encoding="utf-8")
    assert "human maps: 1 are in colour, of which only the luminance is used, the first" in text
    assert repr(str(hot)) in text
