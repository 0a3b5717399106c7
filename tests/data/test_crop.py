"""Faces cut out of images and maps alike, and the geometry that goes with them to the model."""

import csv
import importlib.util
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from accelerate import Accelerator
from PIL import Image

from focus.config.train import TrainConfig, resolve
from focus.data.crop import cut_faces
from focus.data.faces import DETECTORS, Box, detector, geometries, largest, window
from focus.data.images import load_image, load_map
from focus.data.manifest import Manifest, Sample
from focus.data.maps import human_map
from focus.data.readers import read_data, read_tests
from focus.errors import InputError
from focus.evaluation.inference import other_geometry, score_shared
from focus.model.config import DetectorConfig
from focus.model.detector import Detector
from focus.runtime.launch import start
from focus.training.trainer import Trainer

from ..commands import check
from ..commands import crop as main

# Where a person sees the face of skimage.data.astronaut().
ASTRONAUT = (180, 65, 270, 175)


def save(path: Path, pixels: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((40, 40, 60, 50), 0.0, (40, 35, 60, 55)),
        ((40, 40, 60, 50), 0.5, (30, 25, 70, 65)),  # side 20, and half of it on either side
        ((0, 0, 20, 20), 0.5, (0, 0, 40, 40)),  # moved inside
        ((90, 60, 120, 90), 0.1, (64, 44, 100, 80)),  # the box itself sticks out
        ((10, 10, 90, 70), 0.5, (0, 0, 100, 80)),  # larger than the image
        ((10, 10, 90, 70), 1e308, (0, 0, 100, 80)),
        ((-1e308, -1e308, 1e308, 1e308), 0.5, (0, 0, 100, 80)),
        ((10, 0, 90, 80), 0.1, (2, 0, 98, 80)),  # larger than its height
        ((40.4, 40.4, 50.4, 50.4), 0.0, (40, 40, 50, 50)),
        ((50, 50, 50.1, 50.2), 0.0, (50, 50, 51, 51)),
    ],
)
def test_the_square_around_a_face(
    box: Box, margin: float, expected: tuple[int, int, int, int]
) -> None:
    assert window(box, margin, (100, 80)) == expected


@pytest.mark.parametrize(
    "box",
    [
        *((40, 40, 40, 50), (60, 40, 40, 50), (100, 0, 120, 20), (-20, 0, 0, 20), (0, 80, 9, 99)),
        *((40, 40, 50, 40), (40, 60, 50, 40), (0, -20, 20, 0)),
    ],
)
def test_a_box_without_pixels(box: Box) -> None:
    assert window(box, 0.3, (100, 80)) is None


def test_the_largest_face() -> None:
    assert largest([(0, 0, 5, 5), (9, 9, 15, 15), (20, 20, 26, 26)]) == (9, 9, 15, 15)
    # By neither its side nor its place.
    assert largest([(0, 0, 10, 1), (8, 0, 10, 9), (0, 3, 5, 8), (3, 0, 4, 20)]) == (0, 3, 5, 8)
    assert largest([]) is None


@pytest.fixture
def boxed(tmp_path: Path) -> Manifest:
    """Three images of 60 x 40 with maps of other sizes, boxes, labels and splits; one broken."""
    rng = np.random.default_rng(0)

    def picture(name: str) -> str:
        return save(tmp_path / "in" / name, rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))

    maps = [
        save(tmp_path / "maps/same.png", rng.integers(0, 256, (40, 60), dtype=np.uint8)),
        save(tmp_path / "maps/coarse.png", rng.integers(0, 256, (4, 6), dtype=np.uint8)),
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").write_text("text")
    (tmp_path / "maps/bad.png").write_text("text")
    fake: dict[str, Any] = {"label": 1, "generator": "kA", "family": "k", "split": "validation"}
    return Manifest(
        [
            Sample(
                picture("a/1.png"),
                0,
                split="train",
                map_path=maps[0],
                mask_path=maps[0],
                box=(20, 10, 30, 20),
                group="g",
                extra={"camera": "x"},
            ),
            Sample(picture("b/1.png"), **fake, map_path=maps[1], box=(5, 25, 15, 35)),
            Sample(
                picture("b/1.bmp"), **fake, map_path=f"{tmp_path}/maps/bad.png", box=(0, 0, 9, 9)
            ),
            Sample(picture("b/2.png"), **fake),
            Sample(picture("b/3.png"), **fake, box=(60, 0, 70, 10)),
            Sample(str(tmp_path / "in/bad.png"), **fake, box=(0, 0, 9, 9)),
        ],
        "the set",
    )


def test_image_map_and_mask_are_cut_alike(
    boxed: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    cut = cut_faces(boxed, out, source="box", margin=0.5, progress=False)
    way = {"geometry": "box margin 0.5"}
    first, second, third = cut.faces
    assert first == replace(
        boxed[0],
        path=f"{out}/images/a/1.png",
        map_path=f"{out}/maps/a/1.png",
        mask_path=f"{out}/masks/a/1.png",
        box=None,
        extra={"camera": "x", **way},
    )
    assert (second.path, third.path) == (f"{out}/images/b/1.png", f"{out}/images/b/1-2.png")
    assert third == replace(boxed[2], path=third.path, map_path=None, box=None, extra=way)
    assert list(Manifest.from_csv(out / "manifest.csv")) == [first, second, third]

    square = (slice(5, 25), slice(15, 35))
    for name in ("path", "map_path", "mask_path"):
        before, after = (str(getattr(s, name)) for s in (boxed[0], first))
        load = load_image if name == "path" else load_map
        np.testing.assert_array_equal(np.asarray(load(after)), np.asarray(load(before))[square])
    # A map of a tenth of the size, of which each pixel covers ten of the image's: columns 0 to 20
    # and rows 20 to 40 are its columns 0 and 1, rows 2 and 3.
    coarse = load_map(str(boxed[1].map_path))
    np.testing.assert_allclose(
        human_map(str(second.map_path)),
        np.kron(coarse[2:4, 0:2], np.ones((10, 10))),
        atol=1e-5,
    )

    assert [(Path(path).name, why) for path, why in cut.no_face] == [
        ("2.png", "no box"),
        ("3.png", "the box (60, 0, 70, 10) is empty or outside the image"),
    ]
    assert [(Path(file.path).name, file.role) for file in cut.bad] == [
        ("bad.png", "map"),
        ("bad.png", "image"),
    ]
    with (out / "no_face.csv").open(newline="") as file:
        assert file.readline() == "# focus-no-face 1\r\n"
        assert [row["path"] for row in csv.DictReader(file)] == [p for p, _ in cut.no_face]
    assert (out / "bad_files.csv").read_text().count("bad.png") == 2
    assert len([line for line in caplog.messages if line.startswith("left out")]) == 2
    assert sorted(path.name for path in (out / "maps").rglob("*.png")) == ["1.png", "1.png"]


def test_names_that_differ_in_case_alone_are_told_apart(tmp_path: Path) -> None:
    """A file system that does not tell them apart would have one file of the two."""
    samples = [
        Sample(save(tmp_path / "in" / name, np.full((40, 60, 3), value)), label, box=(0, 0, 9, 9))
        for name, value, label in (("b/A.png", np.uint8(0), 0), ("b/a.bmp", np.uint8(255), 1))
    ]
    out = tmp_path / "out"
    cut = cut_faces(Manifest(samples), out, source="box", margin=0, progress=False)
    assert [face.path for face in cut.faces] == [f"{out}/images/A.png", f"{out}/images/a-2.png"]


def test_boxes_count_in_the_upright_image(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 30:] = 255  # upright, the lowest quarter of 20 x 40
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    manifest = Manifest([Sample(str(tmp_path / "a.png"), box=(5, 30, 15, 40))])
    cut = cut_faces(manifest, tmp_path / "out", source="box", margin=0, progress=False)
    face = load_image(cut.faces[0].path)
    assert face.size == (10, 10)
    assert np.asarray(face).min() == 255


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_not_waited_for(boxed: Manifest, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    pipe = str(tmp_path / "pipe.png")
    manifest = Manifest([replace(boxed[0], mask_path=pipe), replace(boxed[1], path=pipe)])
    cut = cut_faces(manifest, tmp_path / "out", source="box", margin=0, progress=False)
    assert [(file.path, file.role) for file in cut.bad] == [(pipe, "mask"), (pipe, "image")]
    assert [sample.mask_path for sample in cut.faces] == [None]


def test_what_is_refused(boxed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"^There is no face detector 'yolo': give lbp, dlib"):
        cut_faces(boxed, out, source="yolo", margin=0.3, progress=False)
    with pytest.raises(InputError, match=r"^The face detector no_such:module cannot be imported"):
        cut_faces(boxed, out, source="no_such:module", margin=0.3, progress=False)
    with pytest.raises(InputError, match=r"^The face detector json:faces cannot be imported"):
        cut_faces(boxed, out, source="json:faces", margin=0.3, progress=False)
    with pytest.raises(InputError, match=r"^None of the 2 images of the set gave a face by 'box'"):
        cut_faces(boxed[3:5], out, source="box", margin=0.3, progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["crop.jsonl", "no_face.csv"]
    with pytest.raises(InputError, match=r"^The folder .*out holds a crop already: .* --resume to"):
        cut_faces(boxed, out, source="box", margin=0.3, progress=False)
    cut = cut_faces(boxed, tmp_path / "new", source="box", margin=0.3, progress=False)
    with pytest.raises(InputError, match=r"are cut out already, as their column 'geometry' says"):
        cut_faces(cut.faces, tmp_path / "twice", source="box", margin=0.3, progress=False)
    for arguments, said in (
        (["x", "--output", "y", "--margin", "-1"], "--margin must be at least 0, got -1.0."),
        (
            ["x", "--output", "y", "--margin", "inf"],
            "--margin must be at least 0, got inf.",
        ),
        (["x", "--output", "y", "--threads", "0"], "--threads must be at least 1"),
        (["x"], "Give the PATH of images to crop, and --output"),
        (["x", "--output", "y", "--marg", "1"], "There is no flag --marg .did you mean --margin"),
    ):
        with pytest.raises(InputError, match=said):
            main(arguments)


def overlap(box: Box, other: Box) -> float:
    """Intersection over union."""
    both = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = float(np.prod(both.clip(0)))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_find_a_face_at_any_size(name: str) -> None:
    if name == "dlib" and importlib.util.find_spec("dlib") is None:
        pytest.skip("dlib is not installed")
    find = detector(name)
    face = Image.fromarray(skimage.data.astronaut())
    for scale in (0.75, 1, 4):
        boxes = find(face.resize((round(512 * scale), round(512 * scale))))
        found = largest(boxes)
        assert found is not None
        assert overlap(tuple(side / scale for side in found), ASTRONAUT) > 0.5  # type: ignore[arg-type]
    assert find(Image.fromarray(skimage.data.coffee())) == []
    assert find(Image.new("RGB", (1, 1))) == []


def test_the_command_cuts_what_a_layout_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = skimage.data.astronaut()
    save(tmp_path / "data/kA/1_fake/face.png", face)
    save(tmp_path / "data/kA/0_real/mirrored.png", face[:, ::-1])
    save(tmp_path / "data/kA/0_real/cup.png", skimage.data.coffee())
    y, x = np.mgrid[:64, :64] * 8 + 4
    spot = 255 * np.exp(-((x - 225) ** 2 + (y - 120) ** 2) / 2000)
    save(tmp_path / "data/heatmaps/face.png", spot.astype(np.uint8))
    main([str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--margin", "0.2"])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{tmp_path}/data: layout 0_real-1_fake, 3 images, 2 real, 1 synthetic, 1 with a human map",
        f"2 of 3 faces: {tmp_path}/out/manifest.csv",
        f"left out 1: {tmp_path}/out/no_face.csv",
    ]

    found = read_data(tmp_path / "out/manifest.csv")
    assert sorted((s.label, s.generator, Path(s.path).name) for s in found) == [
        (0, "kA", "mirrored.png"),
        (1, "kA", "face.png"),
    ]
    assert geometries(found) == {"lbp margin 0.2": 2}
    (fake,) = (s for s in found if s.label == 1)
    heat, size = human_map(str(fake.map_path)), load_image(fake.path).size
    assert heat.shape == size[::-1]
    # People looked at the middle of the face.
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(row / size[1] - 0.5) < 0.15
    assert abs(column / size[0] - 0.5) < 0.15


def test_a_detector_of_ones_own_may_lie_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_faces.py").write_text("def find(image):\n    return [(0, 0, *image.size)]\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert detector("own_faces:find")(Image.new("RGB", (4, 3))) == [(0, 0, 4, 3)]
    assert sys.path == before


def test_the_command_reads_data_as_training_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several paths, tables with columns of other names, paths that lead out of the root."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name in ("out.png", "in/a.png", "more/b.png"):
        save(tmp_path / name, pixels)
    (tmp_path / "in/t.csv").write_text(
        'what,who,where\na.png,human,"0 0 20 20"\n../out.png,GAN,"0 0 30 30"\n'
    )
    (tmp_path / "more/list").write_text('path,label,box\nb.png,real,"5 5 9 9"\n')
    words = [f"{tmp_path}/in/t.csv", "--faces", "box", "--margin", "0", "--output"]
    columns = ["--columns", "path=what,generator=who,box=where"]
    with pytest.raises(InputError, match=r"line 3: path '../out.png' leaves the data root"):
        main([*words, f"{tmp_path}/no", *columns])
    main([*words, f"{tmp_path}/first", *columns, "--allow-outside-root"])
    assert "layout csv (path=what, generator=who, box=where), 2 images" in capsys.readouterr().out
    found = read_data(tmp_path / "first/manifest.csv", allow_unlabelled=True)
    assert [(load_image(s.path).size, s.generator) for s in found] == [
        ((20, 20), "human"),
        ((30, 30), "GAN"),
    ]

    both = [f"{tmp_path}/more/list", f"{tmp_path}/more/again"]
    (tmp_path / "more/again").write_text('path,label,box\nb.png,real,"5 5 9 9"\n')
    main([*both, "--layout", "csv", "--margin", "0", "--output", f"{tmp_path}/second"])
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition(":")[0] for line in said] == [*both, "1 of 1 faces"]
    for arguments, message in (
        ([*both, both[0]], "more/list is given twice"),
        ([*both, "--layout", "cvs"], "invalid choice 'cvs' for argument '--layout'"),
        ([f"{tmp_path}/in", "--layout", "csv"], "--layout csv suits none of the paths"),
        ([f"{tmp_path}/in", "--columns", "x"], "--columns got 'x': give path=NAME"),
    ):
        with pytest.raises(InputError, match=message):
            main([*arguments, "--output", f"{tmp_path}/none"])


def test_a_generator_that_nobody_named_stays_without_name(tmp_path: Path) -> None:
    """Else ``--test-data NAME=manifest.csv`` would be of no generator NAME."""
    draw = np.random.default_rng(0)
    for name in ("real", "fake"):
        save(tmp_path / f"set/{name}/1.png", draw.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for number, (flag, generator) in enumerate((([], "X"), (["--generator", "SG2"], "SG2"))):
        out = tmp_path / f"faces {number}"
        (tmp_path / "whole.py").write_text("def find(image):\n    return [(0, 0, *image.size)]\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(tmp_path)
            main([f"{tmp_path}/set", "--faces", "whole:find", "--output", str(out), *flag])
        assert read_tests({"X": f"{out}/manifest.csv"}).generators() == [generator]


def test_rows_of_one_image_share_its_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reals that two generators are compared with: as two files they came into two splits."""
    draw = np.random.default_rng(0)

    def picture(name: str) -> str:
        return save(tmp_path / name, draw.integers(0, 256, (40, 60, 3), dtype=np.uint8))

    box = (20, 10, 40, 30)
    reals = [picture(f"real/{i}.png") for i in range(24)]
    maps = [picture(f"maps/{name}.png") for name in "ab"]
    samples = [Sample(path, 0, name, box=box) for name in ("kA", "kB") for path in reals]
    samples += [
        Sample(picture(f"{name}/{i}.png"), 1, name, box=box)
        for name in ("kA", "kB")
        for i in range(12)
    ]
    for row in (0, 24):
        samples[row] = replace(samples[row], map_path=maps[0])

    def cut(name: str, source: str, samples: list[Sample]) -> Manifest:
        return cut_faces(
            Manifest(samples), tmp_path / name, source=source, margin=0, progress=False
        ).faces

    faces = cut("out", "box", samples)
    assert [(s.label, s.generator) for s in faces] == [(s.label, s.generator) for s in samples]
    assert [s.path for s in faces[:24]] == [s.path for s in faces[24:48]]
    assert len({s.path for s in faces}) == len(list((tmp_path / "out/images").rglob("*.png"))) == 48

    # Another box is another face, another map another map of the same face.
    one, other_box, other_map = cut(
        "more",
        "box",
        [
            samples[0],
            replace(samples[0], box=(0, 0, 9, 9)),
            replace(samples[0], map_path=maps[1]),
        ],
    )
    assert other_box.path != one.path == other_map.path
    assert [load_image(s.path).size for s in (one, other_box)] == [(20, 20), (9, 9)]
    for face, whole in ((one, maps[0]), (other_map, maps[1])):
        np.testing.assert_allclose(
            human_map(str(face.map_path)), human_map(whole)[10:30, 20:40], atol=1e-4
        )
    # By a detector the boxes say nothing.
    (tmp_path / "whole_image.py").write_text("def find(image):\n    return [(0, 0, *image.size)]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        boxes = [samples[0], replace(samples[0], box=(0, 0, 9, 9))]
        assert len({s.path for s in cut("all", "whole_image:find", boxes)}) == 1

    # The check finds no leak in what training would get.
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    check([str(tmp_path / "out/manifest.csv"), "--output", str(tmp_path / "report")])
    report = json.loads((tmp_path / "report/check.json").read_text())
    assert report["leaks"]["images"] == 0
    assert report["trainable"]


def test_a_detector_of_ones_own(boxed: Manifest, tmp_path: Path) -> None:
    (tmp_path / "own_detector.py").write_text(
        "def find(image):\n    return [(0, 0, 10, 10), (20, 10, 40, 30)]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        cut = cut_faces(
            boxed[3:4], tmp_path / "out", source="own_detector:find", margin=0, progress=False
        )
    whole = np.asarray(load_image(boxed[3].path))
    np.testing.assert_array_equal(np.asarray(load_image(cut.faces[0].path)), whole[10:30, 20:40])
    assert geometries(cut.faces) == {"own_detector:find margin 0": 1}


def test_a_detector_that_fails_loses_one_image(boxed: Manifest, tmp_path: Path) -> None:
    (tmp_path / "poor_detector.py").write_text(
        "def find(image, seen=[]):\n"
        "    seen.append(image)\n"
        "    if len(seen) == 1:\n"
        "        raise RuntimeError('out of\\nmemory')\n"
        "    return {2: None, 3: [(0, 0)], 4: [(0, 0, 9, 9)]}[len(seen)]\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        cut = cut_faces(
            boxed[:4],
            tmp_path / "out",
            source="poor_detector:find",
            margin=0,
            threads=1,
            progress=False,
        )
    assert len(cut.faces) == 1
    assert [path for path, _ in cut.no_face] == [s.path for s in boxed[:3]]
    first, second, third = (why for _, why in cut.no_face)
    assert first == "poor_detector:find failed (RuntimeError: out of memory)"
    assert second.startswith("poor_detector:find failed (TypeError: ")
    assert third.startswith("poor_detector:find failed (IndexError: ")


def test_training_keeps_the_geometry_and_evaluation_compares_it(
    boxed: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = [boxed[0], replace(boxed[1], split="train"), replace(boxed[0], split="validation")]
    whole = Manifest([*pair, boxed[1]], "whole")
    cut = cut_faces(whole, tmp_path / "out", source="box", margin=0.25, progress=False).faces
    config = resolve(
        TrainConfig(recipe="demo", image_size=32, epochs=1, output=str(tmp_path), name="run")
    )
    detector = Detector("focus_small", image_size=32)
    assert detector.config.geometry == ()
    assert other_geometry(detector, whole) == ""  # nothing is known of an untrained one
    accelerator = start(config, log_with="tensorboard", project_dir=tmp_path / "run")
    Trainer(config, detector, cut, accelerator)
    assert detector.config.geometry == ("box margin 0.25",)
    detector.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text())["geometry"] == [
        "box margin 0.25"
    ]
    saved = Detector.from_pretrained(tmp_path / "model")
    assert saved.config.geometry == ("box margin 0.25",)

    def warned(manifest: Manifest) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "focus.evaluation.inference"):
            score_shared(
                Accelerator(cpu=True),
                saved,
                manifest,
                batch_size=4,
                workers=0,
                progress=False,
                description="",
            )
        return caplog.messages

    assert warned(cut) == []
    assert warned(Manifest([*cut, whole[0]])) == [
        "1 of 5 images are cut out otherwise (whole) than those of the model's training "
        "(box margin 0.25), so its scores may be wrong: cut them alike with python -m focus.data "
        "crop"
    ]
    other = replace(cut[0], extra={"geometry": "lbp margin 0.25"})
    assert "(lbp margin 0.25) than" in warned(Manifest([other]))[0]


def test_a_config_without_geometry_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    DetectorConfig("focus_small", 64).write(path)
    values = json.loads(path.read_text())
    del values["geometry"]
    path.write_text(json.dumps(values))
    assert DetectorConfig.read(path).geometry == ()
