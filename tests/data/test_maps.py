"""Human maps: several annotators, drawn shapes, other sizes, and which image each belongs to."""

import contextlib
import json
import logging
import math
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.draw import polygon2mask

from focus.config.train import TrainConfig
from focus.data.bad_files import check_images
from focus.data.check.survey import look_at_map
from focus.data.dataset import FaceDataset
from focus.data.manifest import Manifest, Sample
from focus.data.maps import (
    files_of,
    human_map,
    is_blank,
    looks_inverted,
    map_references,
    resized,
)
from focus.data.readers import read_data, read_given, read_tests
from focus.data.readers.files import images_below
from focus.errors import ImageError, InputError


def grey(path: Path, values: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return str(path)


def item(image: str, reference: str, grid: tuple[int, int] = (2, 2), size: int = 4) -> Any:
    sample = Sample(image, 1, map_path=reference)
    return FaceDataset(Manifest([sample]), image_size=size, grid=grid, mean=(0,) * 3, std=(1,) * 3)[
        0
    ]


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
    Path(path).rename(tmp_path / "{a,b}")
    assert files_of(str(tmp_path / "{a,b}")) == [str(tmp_path / "{a,b}")]


@pytest.mark.parametrize("shape", [(50, 30), (7, 7), (40, 24), (3, 90)])
def test_another_size_is_taken_by_area(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    fine = np.kron(values, np.ones((16, 16)))  # a multiple of both sizes
    expected = fine.reshape(16, shape[0], 16, shape[1]).mean((1, 3))
    np.testing.assert_allclose(resized(values, (16, 16)), expected, atol=1e-6)
    part = resized(values, (2, 2), (0, 1, 2, 3))
    np.testing.assert_array_equal(part, values[1:3, :2])
    assert resized(values, shape[::-1]) is values


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_no_map_and_not_waited_for(tmp_path: Path) -> None:
    grey(tmp_path / "a_1.png", [[255, 0]])
    for name in ("m.png", "a_2.png", "m.json"):
        os.mkfifo(tmp_path / name)
    for reference in ("m.png", "{a_1.png,a_2.png}", "m.json#1"):
        with pytest.raises(ImageError, match=r"neither a file nor a folder"):
            human_map(f"{tmp_path}/{reference}")
    assert look_at_map(f"{tmp_path}/m.png").error


def test_a_map_on_the_cams_grid_stays_what_it_is(tmp_path: Path) -> None:
    image = grey(tmp_path / "i.png", np.zeros((224, 224, 3)))
    cells = np.random.default_rng(0).permutation(49).reshape(7, 7)
    found = item(image, grey(tmp_path / "m.png", cells), (7, 7), 224)
    np.testing.assert_allclose(found.saliency.numpy(), cells / 48, atol=1e-5)


def coco(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def test_polygons_and_boxes_are_filled(tmp_path: Path) -> None:
    image = {"id": 7, "file_name": "faces/a.jpg", "width": 6, "height": 4}
    shapes = [
        {"id": 1, "image_id": 7, "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]], "iscrowd": 0},
        {"id": 2, "image_id": 7, "segmentation": [], "bbox": [1, 1, 3, 2]},
    ]
    file = coco(tmp_path / "a.json", [image], shapes)
    expected = np.zeros((4, 6))
    expected[:2, :2] = expected[1:3, 1:4] = 1  # where they overlap, no more than 1
    assert files_of(f"{file}#7") == [str(file)]
    np.testing.assert_array_equal(human_map(f"{file}#7"), expected)
    # Given by two annotators: the share of them.
    coco(file, [image], [s | {"annotator": name} for s, name in zip(shapes, "AB", strict=True)])
    expected[:] = 0
    expected[:2, :2] += 0.5
    expected[1:3, 1:4] += 0.5
    np.testing.assert_array_equal(human_map(f"{file}#7"), expected)
    with pytest.raises(ImageError, match=r"^Cannot decode '.*a.json#8' \(it has no image with"):
        human_map(f"{file}#8")


def test_many_shapes_take_the_memory_of_few(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.png", "width": 500, "height": 500}
    file = coco(tmp_path / "a.json", [image], [{"image_id": 1, "bbox": [9, 9, 9, 9]}] * 100)
    tracemalloc.start()
    human_map(f"{file}#1")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * 500 * 500  # bytes: all shapes together have 100 a pixel


def test_polygons_are_those_of_scikit_image(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    image = {"id": 1, "file_name": "a.png", "width": 61, "height": 47}
    for _ in range(40):
        angles = np.sort(draw.uniform(0, 2 * np.pi, 9))
        radius = draw.uniform(4, 35, 9)  # some corners lie outside the image
        corners = np.stack([30 + radius * np.cos(angles), 24 + radius * np.sin(angles)], 1)
        outline = {"id": 1, "image_id": 1, "segmentation": [corners.ravel().tolist()]}
        file = coco(tmp_path / "a.json", [image], [outline])
        # Its pixels' middles are at whole numbers.
        expected = polygon2mask((47, 61), corners[:, ::-1] - 0.5)
        np.testing.assert_array_equal(human_map(f"{file}#1") > 0, expected)


IMAGE = {"id": 1, "file_name": "a.png", "width": 2, "height": 2}
BOX = {"id": 5, "image_id": 1, "bbox": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1, 2]", "it is no object with images and annotations"),
        ('{"images": []}', "it has no list of annotations"),
        ('{"images": {"1": 2}, "annotations": []}', "it has no list of images"),
        ('{"images": [[]], "annotations": []}', "images[0] is no object"),
        ("{", "Expecting"),
        ("[" * 100_000 + "]" * 100_000, "its lists are nested too deeply"),
    ],
)
def test_a_file_that_is_not_cocos(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"^Cannot read the human maps in .*a.json \(.*") as caught:
        map_references(tmp_path / "a.json", (), set())
    assert f"a.json ({reason}" in str(caught.value)
    with pytest.raises(ImageError, match=r"^Cannot decode '.*a.json#1' \("):
        human_map(f"{tmp_path}/a.json#1")


@pytest.mark.parametrize(
    ("image", "annotation", "reason"),
    [
        ({"width": 0}, {}, "images[0].width is 0, not a number of pixels, 1 or more"),
        ({"height": -3}, {}, "images[0].height is -3, not a number"),
        ({"width": 1.5}, {}, "images[0].width is 1.5, not"),
        ({"width": math.nan}, {}, "images[0].width is nan, not"),
        ({"width": 10**30}, {}, "images[0].width is 10000000"),
        ({"width": "2"}, {}, "images[0].width is '2', not"),
        ({"width": 10**6, "height": 10**6}, {}, "images[0] has 1e+06 x 1e+06 pixels, more than an"),
        ({"file_name": ""}, {}, "images[0].file_name is '', not the name of a file"),
        ({"id": [1]}, {}, "images[0].id is [1], not a whole number"),
        ({"id": True}, {}, "images[0].id is True, not"),
        ({"id": "a#b"}, {}, "images[0].id is 'a#b', not a whole number, or a text without # and /"),
        ({"id": "\ud800"}, {}, "images[0].id is '\\ud800', not"),
        ({}, {"image_id": 9}, "annotations[0].image_id 9 is the id of no image"),
        ({}, {"image_id": None}, "annotations[0].image_id is None, not a whole number"),
        ({}, {"annotator": ["A"]}, "annotations[0].annotator is ['A'], not a name"),
        ({}, {"bbox": [0, 0, math.nan, 1]}, "annotations[0].bbox is [0, 0, nan, 1], not left, top"),
        ({}, {"bbox": [0, 0, -1, 1]}, "annotations[0].bbox is [0, 0, -1, 1], not left, top"),
        ({}, {"bbox": [0, 0, 1]}, "annotations[0].bbox is [0, 0, 1], not left, top"),
        ({}, {"bbox": "0 0 1 1"}, "annotations[0].bbox is '0 0 1 1', not left, top"),
        ({}, {"segmentation": {"counts": "04"}}, "annotations[0].segmentation is run-length enco"),
        ({}, {"segmentation": [[1, 2, 3, 4]]}, "annotations[0].segmentation is [[1, 2, 3, 4]], n"),
        ({}, {"segmentation": [[0, 0, 1, 0, 1, 1e300]]}, "annotations[0].segmentation is [[0, 0"),
        ({}, {"segmentation": [0, 0, 1, 0, 1, 1]}, "annotations[0].segmentation is [0, 0, 1"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(
    tmp_path: Path, image: dict[str, Any], annotation: dict[str, Any], reason: str
) -> None:
    file = coco(tmp_path / "a.json", [IMAGE | image], [BOX | annotation])
    with pytest.raises(InputError, match=r"^Cannot read the human maps in .*a.json \(.*") as caught:
        map_references(file, (), set())
    assert f"a.json ({reason}" in str(caught.value)


def test_what_is_missing_or_there_twice(tmp_path: Path) -> None:
    def said(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> str:
        with pytest.raises(InputError) as caught:
            map_references(coco(tmp_path / "a.json", images, annotations), (), set())
        return str(caught.value)

    for key in ("id", "file_name", "width"):
        less = {name: value for name, value in IMAGE.items() if name != key}
        assert f"(images[0] has no {key})" in said([less], [BOX])
    assert "(annotations[1] has no bbox)" in said([IMAGE], [BOX, {"image_id": 1}])
    assert "(annotations[0] has no image_id)" in said([IMAGE], [{"bbox": [0, 0, 1, 1]}])
    assert "(images[1].id 1 is another image's too)" in said([IMAGE, IMAGE | {"id": "1"}], [BOX])
    assert "names the image 'a.jpg' twice" in said(
        [IMAGE, IMAGE | {"id": 2, "file_name": "a.jpg"}], [BOX, BOX | {"image_id": 2}]
    )


NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([10**6, 10**30, 10**400, -0.0, 0.5, 1e-320, 1e18, 1e300, math.nan, math.inf]),
    st.floats(-50, 50),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(st.characters(), max_size=3),
    lambda parts: st.lists(parts, max_size=7) | st.dictionaries(st.text(max_size=3), parts),
    max_leaves=12,
)


DRAWN = IMAGE | {"width": 30, "height": 20}
POLYGON = {"image_id": 1, "segmentation": [[0, 0, 20, 0, 20, 9]], "annotator": "A"}


@st.composite
def nearly_coco(draw: st.DrawFn) -> Any:
    """A sound file with a value or two that are something else or are gone."""
    content = {"images": [dict(DRAWN)], "annotations": [dict(BOX), dict(POLYGON)]}
    for _ in range(draw(st.integers(0, 2))):
        holder = draw(st.sampled_from([*content["images"], *content["annotations"]]))
        key = draw(st.sampled_from(sorted(holder)))
        holder[key] = draw(NUMBERS | JSON | st.lists(NUMBERS, min_size=4, max_size=4))
        if key == "segmentation":
            holder[key] = draw(st.lists(st.lists(NUMBERS, min_size=6, max_size=8)) | JSON)
        if draw(st.sampled_from([False] * 7 + [True])):
            del holder[key]
    return content


@pytest.mark.slow
@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400
)
@given(content=nearly_coco() | JSON)
def test_any_json_is_drawn_or_refused_by_a_sentence(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    found: dict[str, str] = {}
    message = ""
    try:
        found = map_references(file, (), set())
    except InputError as error:
        message = str(error)
    assert not message or message.endswith(".")
    with contextlib.suppress(ImageError):
        human_map(f"{file}#1")
    for reference in found.values():
        values = human_map(reference)
        assert values.dtype == np.float32
        assert 0 <= values.min() <= values.max() <= 1
    Manifest([Sample("/a.png", map_path=path) for path in found.values()]).to_csv(
        tmp_path / "m.csv"
    )


def references(folder: Path, *images: str) -> dict[str, str]:
    found = map_references(folder, images_below(folder), images)
    return {name: path.removeprefix(f"{folder}/") for name, path in found.items()}


def test_which_image_a_map_belongs_to(tmp_path: Path) -> None:
    def folder(name: str, *paths: str) -> Path:
        for path in paths:
            grey(tmp_path / name / path, [[0, 255]])
        return tmp_path / name

    numbered = folder("numbered", "a_1.png", "a_2.png", "a_10.png", "b_1.png", "c.png", "d_x.png")
    assert references(numbered, "a", "b", "c") == {
        "a": "{a_1.png,a_2.png,a_10.png}",
        "b": "b_1.png",
        "c": "c.png",
        "d_x": "d_x.png",
    }
    # An image's own name comes first.
    assert references(numbered, "a_1", "a_2", "a") == {
        "a_1": "a_1.png",
        "a_2": "a_2.png",
        "a": "a_10.png",
        "b_1": "b_1.png",
        "c": "c.png",
        "d_x": "d_x.png",
    }
    people = folder("people", "anna/a.png", "ben/a.jpg", "ben/x/b.png")
    assert references(people, "a", "x/b", "b") == {
        "a": "{anna/a.png,ben/a.jpg}",
        "x/b": "ben/x/b.png",
    }
    # Folders like those of the images are no annotators.
    mirrored = folder("mirrored", "ffhq/a.png", "sg2/b.png")
    assert references(mirrored, "ffhq/a", "a", "b", "c/b") == {
        "ffhq/a": "ffhq/a.png",
        "sg2/b": "sg2/b.png",
    }
    with pytest.raises(InputError, match="are maps of one image: keep one"):
        references(folder("twice", "a.png", "a.jpg"), "a")
    with pytest.raises(InputError, match="are maps of one image: name either"):
        references(folder("both", "a.png", "a_1.png"), "a")
    with pytest.raises(InputError, match=r"'n,\{/a.png' .* its name holds a comma"):
        references(folder("comma", "n,{/a.png", "m/a.png"), "a")


def test_layouts_get_their_maps_and_manifests_keep_them(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        grey(tmp_path / f"{name}.png", np.zeros((4, 4, 3)))
    (tmp_path / "d.csv").write_text(
        "train,Real,/a.png\ntrain,Synthetic,/b.png,kA\ntrain,Real,/c.png\n"
    )
    grey(tmp_path / "heatmaps/anna/a.png", [[0, 255]])
    grey(tmp_path / "heatmaps/ben/a.png", [[255, 255]])
    grey(tmp_path / "heatmaps/b_1.png", [[0, 255]])
    found = read_data(tmp_path / "d.csv")
    maps = f"{tmp_path}/heatmaps"
    expected = [f"{maps}/{{anna/a.png,ben/a.png}}", f"{maps}/b_1.png", None]
    assert [s.map_path for s in found] == expected
    found.to_csv(tmp_path / "m.csv")
    assert list(Manifest.from_csv(tmp_path / "m.csv")) == list(found)
    assert "heatmaps/{anna/a.png" in (tmp_path / "m.csv").read_text()

    size = {"width": 4, "height": 4}
    file = coco(
        tmp_path / "drawn.json",
        [{"id": 3, "file_name": "b.png", **size}, {"id": 4, "file_name": "a.png", **size}],
        [{"id": 1, "image_id": 3, "bbox": [0, 0, 2, 2]}],
    )
    found = read_data(tmp_path / "d.csv", heatmaps=file)
    assert [s.map_path for s in found] == [None, f"{file}#3", None]  # nothing is drawn on a
    found.to_csv(tmp_path / "m.csv")
    assert list(Manifest.from_csv(tmp_path / "m.csv")) == list(found)
    saliency = item(found[1].path, f"{file}#3").saliency
    assert saliency.tolist() == [[1, 0], [0, 0]]
    with pytest.raises(InputError, match=r"^None of the 1 human maps in .*other.json has the name"):
        read_data(
            tmp_path / "d.csv",
            heatmaps=coco(
                tmp_path / "other.json",
                [{"id": 1, "file_name": "z.png", **size}],
                [{"id": 1, "image_id": 1, "bbox": [0, 0, 2, 2]}],
            ),
        )


def test_maps_of_nobody_and_of_two_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("fake/a.png", "fake/a.jpg", "real/b.png"):
        grey(tmp_path / name, np.zeros((4, 4, 3)))
    for name in ("fake/a.png", "no.png", "real/c.png"):
        grey(tmp_path / "heatmaps" / name, [[0, 255]])
    maps = tmp_path / "heatmaps"
    assert [s.map_path for s in read_data(tmp_path)] == [*[f"{maps}/fake/a.png"] * 2, None]
    nobody = f"2 of 3 human maps in {maps} belong to no image of {tmp_path}, the first is "
    assert caplog.messages == [
        nobody + repr(f"{maps}/no.png"),
        f"the human map '{maps}/fake/a.png' is that of 2 images, whose names differ in the "
        f"extension alone, one of them '{tmp_path}/fake/a.jpg': rename them if it is not",
    ]
    # None of them belongs to these: they are of other data.
    caplog.clear()
    (tmp_path / "real.csv").write_text("path,label\nreal/b.png,real\n")
    read_data(tmp_path / "real.csv")
    assert caplog.messages == []
    size = {"width": 4, "height": 4}
    file = coco(
        tmp_path / "drawn.json",
        [{"id": n, "file_name": name, **size} for n, name in enumerate(("b.png", "z.png"))],
        [{"image_id": n, "bbox": [0, 0, 2, 2]} for n in range(2)],
    )
    read_data(tmp_path / "real.csv", heatmaps=file)
    (said,) = caplog.messages
    assert said.startswith(f"1 of 2 human maps in {file} belong to no image of ")


def test_maps_that_several_paths_share_are_not_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    maps = tmp_path / "heatmaps"
    for at, name in enumerate("abc"):
        grey(tmp_path / f"{name}.png", np.zeros((4, 4, 3)))
        grey(maps / f"{name}_1.png", [[0, 255]])
        grey(maps / f"{name}_2.png", [[0, 255]])
        (tmp_path / f"{name}.csv").write_text(f"path,label\n{name}.png,{min(at, 1)}\n")
    a, b, c = (f"{tmp_path}/{name}.csv" for name in "abc")
    cases: list[tuple[tuple[str, ...], dict[str, str]]] = [((a, b), {}), ((a,), {"X": b})]
    for data, test_data in cases:
        for heatmaps in (None, str(maps)):
            caplog.clear()
            config = TrainConfig(data=data, test_data=test_data, heatmaps=heatmaps)
            own, tests = read_given(replace(config, test_data={**test_data, "Y": c}))
            assert all(sample.map_path for sample in (*own, *tests))
            assert caplog.messages == []
            read_given(config)
            assert caplog.messages == [
                f"2 of 6 human maps in {maps} belong to no image of {a}, {b}, the first is "
                f"'{maps}/c_1.png'"
            ]
    caplog.clear()
    read_tests({"X": b, "Y": c}, {"Z": a})
    assert caplog.messages == []
    read_data(b)
    assert len(caplog.messages) == 1


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.png", "width": 2, "height": 2}
    box = {"id": 1, "image_id": 1, "bbox": [0, 0, 2, 2]}
    file = coco(tmp_path / "a.json", [image], [box])
    assert human_map(f"{file}#1").tolist() == [[1, 1], [1, 1]]
    coco(file, [image], [box | {"bbox": [0, 0, 1, 2]}])
    assert human_map(f"{file}#1").tolist() == [[1, 0], [1, 0]]


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


def test_the_pass_over_the_files_knows_all_kinds_of_maps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = grey(tmp_path / "i.png", np.zeros((4, 4, 3)))
    white = np.full((8, 8), 255)
    white[3:5, 3:5] = 0
    maps = {
        "shared": f"{tmp_path}/{{m_1.png,m_2.png}}",
        "torn": f"{tmp_path}/{{m_1.png,missing.png}}",
        "drawn": f"{coco(tmp_path / 'a.json', [], [])}#1",
        "zeros": grey(tmp_path / "zeros.png", np.zeros((8, 8))),
        "inverted": grey(tmp_path / "inverted.png", white),
    }
    masks = [grey(tmp_path / f"mask{value}.png", [[0, value]]) for value in (0, 1, 127, 128)]
    grey(tmp_path / "m_1.png", [[0, 255]])
    grey(tmp_path / "m_2.png", [[0, 0]])
    manifest = Manifest(
        [
            *(Sample(image, 1, map_path=path) for path in maps.values()),
            *(Sample(image, 1, mask_path=path) for path in masks),
        ]
    )
    with caplog.at_level(logging.WARNING):
        kept, bad = check_images(manifest, cache=tmp_path / "c", progress=False, max_bad=0.5)
    found = [maps["shared"], None, None, None, maps["inverted"]]
    assert [s.map_path for s in kept] == [*found, *[None] * 4]
    assert [s.mask_path for s in kept[5:]] == masks
    assert [(file.path, file.role) for file in bad] == [
        (maps["torn"], "map"),
        (maps["drawn"], "map"),
    ]
    said = "\n".join(caplog.messages)
    assert "1 human maps have one single value and count as none, the first is" in said
    assert "1 human maps are bright over most of the image and may be inverted" in said
    assert "2 artefact masks are nowhere half white and so count as empty" in said
    assert f"the first is {masks[1]!r}" in said
    assert f"left out the map {maps['torn']!r}: No such file" in said
    # An annotator's map that changes is looked at again.
    (tmp_path / "m_2.png").write_text("text")
    _, bad = check_images(manifest, cache=tmp_path / "c", progress=False, max_bad=1)
    assert maps["shared"] in [file.path for file in bad]
