"""Human maps of several annotators, of other sizes and of shapes keep what people marked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon2mask

from focus.data.maps import files_of, human_map, is_blank, looks_inverted, resized
from focus.data.readers.human_maps import drawn_references
from focus.errors import ImageError, InputError

IMAGE = {"id": 1, "file_name": "faces/a.jpg", "width": 6, "height": 4}
BOX = {"id": 5, "image_id": 1, "segmentation": [], "bbox": [1, 1, 3, 2]}


def grey(path: Path, values: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return str(path)


def test_annotators_are_averaged(tmp_path: Path) -> None:
    grey(tmp_path / "a_1.png", [[255, 0], [0, 51]])
    grey(tmp_path / "b/a_2.png", [[0, 0], [102, 51]])
    grey(tmp_path / "a_3.png", np.kron([[102, 0], [0, 255]], np.ones((3, 3))))  # of another size
    reference = f"{tmp_path}/{{a_1.png,b/a_2.png,a_3.png}}"
    assert files_of(reference) == [f"{tmp_path}/{n}" for n in ("a_1.png", "b/a_2.png", "a_3.png")]
    values = human_map(reference)
    assert values.dtype == np.float32
    # (1 + 0 + 0.4) / 3, 0; 0.4 / 3, (0.2 + 0.2 + 1) / 3
    np.testing.assert_allclose(values, [[1.4 / 3, 0], [0.4 / 3, 1.4 / 3]], atol=1e-6)
    (tmp_path / "a_3.png").write_text("text")
    with pytest.raises(ImageError, match=r"^Cannot decode '.*a_3.png'"):
        human_map(reference)


def test_a_name_with_braces_that_is_there_is_one_file(tmp_path: Path) -> None:
    path = grey(tmp_path / "{a,b}.png", [[0, 255]])
    assert files_of(path) == [path]
    assert human_map(path).tolist() == [[0, 1]]


@pytest.mark.parametrize("shape", [(50, 30), (3, 90)])
def test_another_size_is_taken_by_area(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    fine = np.kron(values, np.ones((16, 16)))  # a multiple of both sizes
    expected = fine.reshape(16, shape[0], 16, shape[1]).mean((1, 3))
    np.testing.assert_allclose(resized(values, (16, 16)), expected, atol=1e-6)
    part = resized(values, (2, 2), (0, 1, 2, 3))
    np.testing.assert_array_equal(part, values[1:3, :2])


def test_blank_and_inverted_maps() -> None:
    y, x = np.mgrid[:32, :32]
    spot = np.exp(-((x - 20) ** 2 + (y - 9) ** 2) / 30).astype(np.float32)
    face = ((x - 16) ** 2 + (y - 16) ** 2 < 15**2).astype(np.float32)  # most of the image
    assert not is_blank(spot)
    assert is_blank(np.full((2, 2), 0.3, np.float32))
    assert [looks_inverted(m) for m in (spot, face, 1 - spot, 0.8 - 0.5 * face)] == [
        *(False, False, True),
        False,
    ]


def coco(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def test_polygons_and_boxes_are_filled(tmp_path: Path) -> None:
    square = {"id": 1, "image_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "iscrowd": 0}
    file = coco(tmp_path / "a.json", [IMAGE], [square, BOX])
    expected = np.zeros((4, 6))
    expected[:2, :2] = expected[1:3, 1:4] = 1  # where they overlap, no more than 1
    assert files_of(f"{file}#1") == [str(file)]
    assert drawn_references(file) == dict.fromkeys(("faces/a", "faces/a.jpg"), f"{file}#1")
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
            drawn_references(file)
        assert f"a.json ({reason}" in str(caught.value)


def test_a_file_that_is_not_cocos(tmp_path: Path) -> None:
    for content in ("[1, 2]", '{"images": []}', "{"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(InputError, match=r"^Cannot read the human maps in .*a.json \("):
            drawn_references(tmp_path / "a.json")
        with pytest.raises(ImageError, match=r"^Cannot decode '.*a.json#1' \("):
            human_map(f"{tmp_path}/a.json#1")
