"""Each human map goes to the image that it was drawn on, and to no other."""

import json
from pathlib import Path
from typing import Any

import pytest

from focus.config.train import TrainConfig
from focus.data.manifest import Manifest
from focus.data.readers import read_given
from focus.data.readers.files import images_below
from focus.data.readers.human_maps import map_references
from focus.errors import InputError

from ..reading import read_data
from ..trees import write


def tree(folder: Path, *names: str) -> Path:
    return write({f"{name}.png": "face 1" for name in names}, folder)


def table(path: Path, *rows: str) -> str:
    path.write_text("path,label,split\n" + "".join(f"{row}\n" for row in rows))
    return str(path)


def maps_of(path: Path | str, heatmaps: Path | None = None) -> dict[str, str | None]:
    """Return the map of each image, both below the folder of the table."""
    root = Path(path) if Path(path).is_dir() else Path(path).parent
    manifest = read_data(path, human_maps=heatmaps and str(heatmaps))
    below = {s.path: s.human_map and s.human_map.removeprefix(f"{root}/") for s in manifest}
    return {name.removeprefix(f"{root}/"): reference for name, reference in below.items()}


def test_by_the_path_and_by_the_base_name(tmp_path: Path) -> None:
    tree(tmp_path, "0_real/1", "1_fake/1", "1_fake/sub/2", "heatmaps/1_fake/1", "heatmaps/2")
    assert maps_of(tmp_path) == {
        "0_real/1.png": None,
        "1_fake/1.png": "heatmaps/1_fake/1.png",
        "1_fake/sub/2.png": "heatmaps/2.png",
    }
    elsewhere = tree(tmp_path / "elsewhere", "1")
    rows = table(tmp_path / "d.csv", "0_real/1.png,real,test", "1_fake/1.png,fake,train")
    assert maps_of(rows, elsewhere) == {
        "0_real/1.png": None,  # of several it is the training image's
        "1_fake/1.png": "elsewhere/1.png",
    }
    rows = table(tmp_path / "d.csv", "0_real/1.png,real,train", "1_fake/1.png,fake,train")
    with pytest.raises(InputError, match=r"elsewhere/1.png' could belong to 2 images, .*: put"):
        maps_of(rows, elsewhere)


def test_images_that_differ_in_their_extension_alone(tmp_path: Path) -> None:
    """Else the map of one is taken for the other's, too."""
    tree(tmp_path, "0_real/1", "1_fake/1", "human_maps/1_fake/1")
    write({"1_fake/1.jpg": "face 2"}, tmp_path)
    with pytest.raises(InputError, match=r"could belong to 2 .* after its image, as 1\.jpg\.png"):
        maps_of(tmp_path)
    (tmp_path / "human_maps/1_fake/1.png").rename(tmp_path / "human_maps/1_fake/1.jpg.png")
    expected = {"0_real/1.png": None, "1_fake/1.png": None}
    assert maps_of(tmp_path) == expected | {"1_fake/1.jpg": "human_maps/1_fake/1.jpg.png"}
    image = {"id": 7, "width": 8, "height": 8, "file_name": "1_fake/1.png"}
    drawn = {"image_id": 7, "bbox": [0, 0, 4, 4]}
    (tmp_path / "c.json").write_text(json.dumps({"images": [image], "annotations": [drawn]}))
    map_by_image = maps_of(tmp_path, tmp_path / "c.json")
    assert map_by_image == expected | {"1_fake/1.png": "c.json#7", "1_fake/1.jpg": None}


def references(folder: Path, *images: str) -> dict[str, str]:
    paths = {name: str(folder.parent / f"{name}.png") for name in images}
    maps = {
        str(path): str(path.relative_to(folder).with_suffix("")) for path in images_below(folder)
    }
    image_folders = {name.partition("/")[0] for name in images if "/" in name}
    map_of_image = map_references(folder, maps, paths, image_folders)
    return {name: path.removeprefix(f"{folder}/") for name, path in map_of_image.items()}


def test_the_maps_of_several_annotators(tmp_path: Path) -> None:
    numbered = tree(tmp_path / "numbered", "a_1", "a_2", "a_10", "b_1", "c", "d_x")
    assert references(numbered, "a", "b", "c") == {
        "a": "{a_1.png,a_2.png,a_10.png}",
        "b": "b_1.png",
        "c": "c.png",
        "d_x": "d_x.png",
    }
    # An image's own name comes first.
    map_by_image = references(numbered, "a_1", "a_2", "a")
    assert [map_by_image[name] for name in ("a_1", "a_2", "a")] == [
        "a_1.png",
        "a_2.png",
        "a_10.png",
    ]
    people = tree(tmp_path / "people", "anna/a", "ben/a", "ben/x/b")
    assert references(people, "a", "x/b", "b") == {
        "a": "{anna/a.png,ben/a.png}",
        "x/b": "ben/x/b.png",
    }
    # Folders like those of the images are no annotators, though a map has no image there.
    mirrored = tree(tmp_path / "mirrored", "ffhq/a", "sg2/b")
    assert references(mirrored, "ffhq/a", "a", "b", "c/b") == {
        "ffhq/a": "ffhq/a.png",
        "sg2/b": "sg2/b.png",
    }
    assert references(mirrored, "ffhq/x", "sg2/y", "a").keys() == {"ffhq/a", "sg2/b"}
    tree(mirrored, "ffhq/a_1")
    with pytest.raises(InputError, match="are maps of one image: keep one"):
        references(mirrored, "ffhq/a")


def test_an_annotators_map_is_not_that_of_an_image_beside(tmp_path: Path) -> None:
    """FaceForensics: the fake 07_1 is named after its source 07, and may be in another table."""
    tree(tmp_path, "real/07", "fake/07_1", "heatmaps/real/07_1", "heatmaps/real/07_2")
    averaged = "heatmaps/{real/07_1.png,real/07_2.png}"
    assert maps_of(tmp_path) == {"fake/07_1.png": None, "real/07.png": averaged}
    root = tree(tmp_path / "x", "img/0", "img/1", "img/0_1")
    tree(root / "heatmaps", "0_1", "1_1", "1_2")
    rows = table(root / "d.csv", "img/0.png,real,", "img/1.png,fake,")
    assert maps_of(rows) == {"img/0.png": None, "img/1.png": "heatmaps/{1_1.png,1_2.png}"}


def test_a_coco_file(tmp_path: Path) -> None:
    """With a box on each of two images."""
    tree(tmp_path, "a", "b", "c")
    rows = table(tmp_path / "d.csv", *(f"{name}.png,{name == 'b':d},train" for name in "abc"))
    size = {"width": 4, "height": 4}
    images = [{"id": i, "file_name": f"{name}.jpg", **size} for i, name in enumerate("bc")]
    boxes = [{"image_id": i, "bbox": [0, 0, 2, 2]} for i in range(2)]
    drawn = tmp_path / "drawn.json"
    drawn.write_text(json.dumps({"images": images, "annotations": boxes}))
    assert maps_of(rows, drawn) == {"a.png": None, "b.png": "drawn.json#0", "c.png": "drawn.json#1"}
    manifest = read_data(rows, human_maps=str(drawn))
    manifest.to_csv(tmp_path / "m.csv")
    assert list(Manifest.from_csv(tmp_path / "m.csv")) == list(manifest)
    drawn.write_text(drawn.read_text().replace(".jpg", "z.jpg"))
    for heatmaps, message in (
        (drawn, "No human map in .*drawn.json has the name"),
        (tmp_path / "nowhere", r"human maps .*nowhere are neither a folder nor"),
    ):
        with pytest.raises(InputError, match=message):
            maps_of(rows, heatmaps)


def test_maps_that_no_image_has_are_counted_once_for_all_paths(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maps = tree(tmp_path / "heatmaps", *(f"{name}_{i}" for name in "abc" for i in (1, 2)))
    tree(tmp_path, "a", "b", "c", "z")
    a, b, c, z = (table(tmp_path / f"{n}.csv", f"{n}.png,{n != 'a':d},") for n in "abcz")
    read_given(TrainConfig(data=(a, b), test_data={"Y": c}))
    assert caplog.messages == []
    cases: list[dict[str, Any]] = [
        {"data": (a,), "test_data": {"X": b}},
        {"data": (a, b), "human_maps": str(maps)},
    ]
    for arguments in cases:
        given_images = read_given(TrainConfig(**arguments))
        manifest, more = given_images.data, given_images.tests
        assert all(sample.human_map for sample in (*manifest, *more))
        said = f"2 human maps in {maps} belong to no image, the first is '{maps}/c_1.png'."
        assert [one.text for one in given_images.findings if one.id == "unmatched_maps"] == [said]
    # None of them belongs to this image: they are of other data.
    caplog.clear()
    read_data(z)
    assert caplog.messages == []


def test_a_training_images_map_is_no_test_images(tmp_path: Path) -> None:
    """CYBORG's maps are named as training images, whose base names test sets have too."""
    tree(tmp_path, "real/0", "fake/1", "new/0", "heatmaps/0")
    train = table(tmp_path / "train.csv", "real/0.png,real,train", "fake/1.png,fake,train")
    test = table(tmp_path / "test.csv", "new/0.png,fake,test")
    config = TrainConfig(data=(train,), test_data={"New": test})
    given_images = read_given(config)
    manifest, tests = given_images.data, given_images.tests
    assert (manifest[0].human_map, tests[0].human_map) == (f"{tmp_path}/heatmaps/0.png", None)
    # Where the folders are like the images', each has its own.
    (tmp_path / "heatmaps" / "0.png").unlink()
    tree(tmp_path, "heatmaps/real/0", "heatmaps/new/0")
    tests = read_given(config).tests
    assert tests[0].human_map == f"{tmp_path}/heatmaps/new/0.png"
