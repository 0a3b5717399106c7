"""Which maps are those of an image's annotators, and which those of other images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.maps import files_of, map_references
from focus.data.readers import read_data
from focus.data.readers.files import images_below


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
