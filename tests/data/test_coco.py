"""Shapes from a COCO file are filled as scikit-image fills them; a wrong file is a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.draw import polygon2mask

from focus.data.maps import files_of, human_map
from focus.data.readers.human_maps import map_references
from focus.errors import ImageError, InputError

IMAGE = {"id": 1, "file_name": "faces/a.jpg", "width": 6, "height": 4}
BOX = {"id": 5, "image_id": 1, "segmentation": [], "bbox": [1, 1, 3, 2]}


def coco(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def test_polygons_and_boxes_are_filled(tmp_path: Path) -> None:
    square = {"id": 1, "image_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "iscrowd": 0}
    file = coco(tmp_path / "a.json", [IMAGE], [square, BOX])
    expected = np.zeros((4, 6))
    expected[:2, :2] = expected[1:3, 1:4] = 1  # where they overlap, no more than 1
    assert files_of(f"{file}#1") == [str(file)]
    assert map_references(file, {}) == dict.fromkeys(("faces/a", "faces/a.jpg"), f"{file}#1")
    np.testing.assert_array_equal(human_map(f"{file}#1"), expected)
    # Given by two annotators: the share of them. The file has changed and is read again.
    coco(file, [IMAGE], [square | {"annotator": "A"}, BOX | {"annotator": "B"}])
    expected[:] = 0
    expected[:2, :2] += 0.5
    expected[1:3, 1:4] += 0.5
    np.testing.assert_array_equal(human_map(f"{file}#1"), expected)
    with pytest.raises(ImageError, match=r"^Cannot decode '.*a.json#8' \(it has no image with"):
        human_map(f"{file}#8")


def test_polygons_are_those_of_scikit_image(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    for _ in range(20):
        angles = np.sort(draw.uniform(0, 2 * np.pi, 9))
        radius = draw.uniform(4, 35, 9)  # some corners lie outside the image
        corners = np.stack([30 + radius * np.cos(angles), 24 + radius * np.sin(angles)], 1)
        outline = {"id": 1, "image_id": 1, "segmentation": [corners.ravel().tolist()]}
        file = coco(tmp_path / "a.json", [IMAGE | {"width": 61, "height": 47}], [outline])
        # Its pixels' middles are at whole numbers.
        expected = polygon2mask((47, 61), corners[:, ::-1] - 0.5)
        np.testing.assert_array_equal(human_map(f"{file}#1") > 0, expected)


def test_a_wrong_value_is_named_with_its_place(tmp_path: Path) -> None:
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"image_id": 2}, "an annotation is of the image '2', which is not there"),
        (
            {"segmentation": {"counts": "04"}},
            "a run-length encoded segmentation, not polygons or a box - at `$.annotations[0]`",
        ),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a segmentation that is no list of"),
    )
    for annotation, reason in wrong:
        file = coco(tmp_path / "a.json", [IMAGE], [BOX | annotation])
        with pytest.raises(InputError, match=r"^Cannot read the human maps in .*a.json") as caught:
            map_references(file, {})
        assert f"a.json ({reason}" in str(caught.value)


def test_a_file_that_is_not_cocos(tmp_path: Path) -> None:
    for content in ("[1, 2]", '{"images": []}', "{"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(InputError, match=r"^Cannot read the human maps in .*a.json \("):
            map_references(tmp_path / "a.json", {})
        with pytest.raises(ImageError, match=r"^Cannot decode '.*a.json#1' \("):
            human_map(f"{tmp_path}/a.json#1")
