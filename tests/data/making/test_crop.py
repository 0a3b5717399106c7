"""Faces cut out of images and maps alike, and the geometry that goes with them to the model."""

import csv
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from focus.config.command_line import parse
from focus.config.data import CropConfig
from focus.config.train import TrainConfig, resolve
from focus.data.file_pass import file_digest
from focus.data.images import REPLACED, load_image, load_map
from focus.data.making import sources
from focus.data.making.crop import Cut, crop, cut_faces
from focus.data.making.sources import SOURCES
from focus.data.manifest import Box, Manifest, Sample
from focus.data.maps import human_map
from focus.data.named_files import Role
from focus.errors import InputError
from focus.evaluation.inference import geometry_warning, score_images
from focus.model.detector import Detector
from focus.runtime.files import sole_writer
from focus.runtime.launch import start
from focus.training.trainer import Trainer

from ...launching import in_another_process
from ..reading import read_data

# Of a picture 100 + n pixels wide: no face in every third; it fails once where a file says so.
DETECTOR = """
import os
def find(image):
    number = image.size[0] - 100
    if number == int(os.environ.get("FAIL", -1)):
        raise RuntimeError("out of\\nmemory")
    return [] if number % 3 == 0 else [(0, 0, 10, 10), (0, 0, 50, 40)]
"""


def save(path: Path, pixels: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)
    return str(path)


def noise(path: Path, width: int = 60, height: int = 40) -> str:
    """A picture that is like no other, whose pixels depend on its path alone."""
    draw = np.random.default_rng(list(os.fsencode(path.name)))
    return save(path, draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def cut_boxes(samples: Iterable[Sample], out: Path, margin: float = 0) -> Cut:
    return cut_faces(Manifest(samples, "the set"), out, source="box", margin=margin, progress=False)


@pytest.fixture
def boxed(tmp_path: Path) -> Manifest:
    """Three images of 60 x 40 with maps of other sizes, boxes, labels and splits; one broken."""
    draw = np.random.default_rng(0)
    maps = [
        save(tmp_path / "maps/same.png", draw.integers(0, 256, (40, 60), dtype=np.uint8)),
        save(tmp_path / "maps/coarse.png", draw.integers(0, 256, (4, 6), dtype=np.uint8)),
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.png").write_text("text")
    (tmp_path / "maps/bad.png").write_text("text")
    fake: dict[str, Any] = {"label": 1, "generator": "kA", "family": "k", "split": "validation"}
    return Manifest(
        [
            Sample(
                noise(tmp_path / "in/a/1.png"),
                0,
                split="train",
                human_map=maps[0],
                mask_path=maps[0],
                box=(20, 10, 30, 20),
                group="g",
                extra={"camera": "x"},
            ),
            Sample(noise(tmp_path / "in/b/a.png"), **fake, human_map=maps[1], box=(5, 25, 15, 35)),
            # A file system may not tell upper from lower case.
            Sample(
                noise(tmp_path / "in/b/A.bmp"),
                **fake,
                human_map=f"{tmp_path}/maps/bad.png",
                box=(0, 0, 9, 9),
            ),
            Sample(noise(tmp_path / "in/b/2.png"), **fake),
            Sample(noise(tmp_path / "in/b/3.png"), **fake, box=(60, 0, 70, 10)),
            Sample(str(tmp_path / "in/bad.png"), **fake, box=(0, 0, 9, 9)),
        ],
        "the set",
    )


def test_image_map_and_mask_are_cut_alike(boxed: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut = cut_boxes(boxed, out, 0.5)
    way = {"geometry": "box margin 0.5"}
    first, second, third = cut.faces
    assert first == replace(
        boxed[0],
        path=f"{out}/images/a/1.png",
        human_map=f"{out}/maps/a/1.png",
        mask_path=f"{out}/masks/a/1.png",
        box=None,
        extra={"camera": "x", **way},
    )
    assert (second.path, third.path) == (f"{out}/images/b/a.png", f"{out}/images/b/A-2.png")
    assert third == replace(boxed[2], path=third.path, human_map=None, box=None, extra=way)
    assert list(Manifest.from_csv(out / "manifest.csv")) == [first, second, third]

    square = (slice(5, 25), slice(15, 35))
    for name in ("path", "human_map", "mask_path"):
        before, after = (str(getattr(s, name)) for s in (boxed[0], first))
        load = load_image if name == "path" else load_map
        np.testing.assert_array_equal(np.asarray(load(after)), np.asarray(load(before))[square])
    # A map of a tenth of the size, of which each pixel covers ten of the image's: columns 0 to 20
    # and rows 20 to 40 are its columns 0 and 1, rows 2 and 3.
    coarse = load_map(str(boxed[1].human_map))
    np.testing.assert_allclose(
        human_map(str(second.human_map)), np.kron(coarse[2:4, 0:2], np.ones((10, 10))), atol=1e-5
    )

    assert [(Path(path).name, why) for path, why in cut.no_face] == [
        ("2.png", "no box"),
        ("3.png", "the box (60.0, 0.0, 70.0, 10.0) is empty or outside the image"),
    ]
    bad = [(Path(file.path).name, file.role) for file in cut.bad]
    assert bad == [("bad.png", "map"), ("bad.png", "image")]
    with (out / "no_face.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [p for p, _ in cut.no_face]


def test_boxes_count_in_the_upright_image(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 30:] = 255  # upright, the lowest quarter of 20 x 40
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = Sample(str(tmp_path / "a.png"), box=(5, 30, 15, 40))
    cut = cut_boxes([turned], tmp_path / "out")
    face = load_image(cut.faces[0].path)
    assert face.size == (10, 10)
    assert np.asarray(face).min() == 255


def test_rows_of_one_face_share_its_file(boxed: Manifest, tmp_path: Path) -> None:
    """Reals that two generators are compared with: as two files they came into two splits."""
    one = replace(boxed[0], human_map=None, mask_path=None)
    rows = [one, replace(one, generator="kA"), replace(one, box=(0, 0, 9, 9))]
    faces = cut_boxes(rows, tmp_path / "out").faces
    assert faces[0].path == faces[1].path != faces[2].path
    assert [load_image(face.path).size for face in faces] == [(10, 10), (10, 10), (9, 9)]
    assert [face.generator for face in faces] == ["", "kA", ""]


def test_boxes_with_width_and_height_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As COCO's, of which some could be corners."""

    def warned(name: str, *boxes: Box) -> list[str]:
        caplog.clear()
        samples = [Sample(noise(tmp_path / f"{i}.png"), 0, box=box) for i, box in enumerate(boxes)]
        cut_boxes(samples, tmp_path / name)
        return caplog.messages

    (said,) = warned("coco", (12, 10, 40, 14), (40, 10, 12.5, 14), (12, 20, 20, 10))
    assert said.startswith("2 of 3 boxes of the set end before they begin, the first is 40 10 12.5")
    # Corners, and what some write for no face.
    assert warned("corners", (12, 10, 40, 14), (0, 0, 0, 0), (-1, -1, -1, -1)) == []


def test_what_is_refused(boxed: Manifest, tmp_path: Path) -> None:
    out, two = tmp_path / "out", Manifest(boxed[3:5], boxed.source)
    with pytest.raises(InputError, match=r"^None of the 2 images of the set gave a face by 'box'"):
        cut_boxes(two, out, 0.3)
    with pytest.raises(InputError, match=r"^The folder .*out holds files already"):
        cut_boxes(boxed, out, 0.3)
    for manifest, margin in ((boxed, 0.3), (two, 0.5)):
        with pytest.raises(InputError, match=r"^What is in .*out was begun by another command"):
            cut_faces(manifest, out, source="box", margin=margin, resume=True, progress=False)
    cut = cut_boxes(boxed, tmp_path / "new")
    with pytest.raises(InputError, match=r"are cut out already, as their column 'geometry' says"):
        cut_boxes(cut.faces, tmp_path / "twice")


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
    words = [str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--margin", "0.2"]
    with (
        in_another_process(lambda: sole_writer(tmp_path / "out")),
        pytest.raises(InputError, match=r"Another process writes to .*out"),
    ):
        crop(parse(CropConfig, words))
    capsys.readouterr()
    crop(parse(CropConfig, words))
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"2 of 3 faces: {tmp_path}/out/manifest.csv",
        f"left out 1: {tmp_path}/out/no_face.csv",
    ]
    manifest = read_data(tmp_path / "out/manifest.csv")
    real, fake = sorted(manifest, key=lambda sample: sample.label or 0)
    assert (Path(real.path).name, Path(fake.path).name) == ("mirrored.png", "face.png")
    assert (real.generator, fake.generator) == ("kA", "kA")
    assert manifest.geometries() == {"lbp margin 0.2": 2}
    heat, size = human_map(str(fake.human_map)), load_image(fake.path).size
    assert heat.shape == size[::-1]
    # People looked at the middle of the face.
    peak = np.unravel_index(heat.argmax(), heat.shape)
    np.testing.assert_allclose(np.array(peak) / heat.shape, 0.5, atol=0.15)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Thirty of different widths, with a map each; every third has no face."""
    samples = []
    for n in range(30):
        path, heat = (noise(tmp_path / f"{sub}/{n:02d}.png", 100 + n, 60) for sub in ("in", "maps"))
        samples.append(Sample(path, n % 2, human_map=heat))
    (tmp_path / "own_detector.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    return Manifest(samples, "pictures")


def content(folder: Path) -> dict[str, bytes]:
    """The files, as they would be in a folder of any name, but for the list that only grows."""
    folder_bytes = str(folder).encode()
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(folder_bytes, b"")
        for path in folder.rglob("*")
        if path.is_file() and path.name != SOURCES
    }


def cut_pictures(manifest: Manifest, out: Path, *, resume: bool = False) -> Manifest:
    return cut_faces(
        manifest, out, source="own_detector:find", margin=0, resume=resume, progress=False
    ).faces


def test_what_is_finished_stays_and_the_rest_is_made(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    mended = Path(pictures[4].path)
    sound = mended.read_bytes()
    mended.write_bytes(b"")
    monkeypatch.setenv("FAIL", "5")
    assert len(cut_pictures(pictures, out, resume=True)) == 18  # a loop gives one command
    failed = "own_detector:find failed (RuntimeError: out of memory)"
    assert failed in (out / "no_face.csv").read_text()
    assert str(mended) in (out / "bad_files.csv").read_text()

    # A file that was mended, a detector that works again, what a power cut leaves empty, what is
    # gone, and what was half written.
    mended.write_bytes(sound)
    monkeypatch.delenv("FAIL")
    kept = (out / "images/07.png").stat().st_mtime_ns
    (out / "images/01.png").write_bytes(b"")
    (out / "maps/02.png").unlink()
    (out / "images/08.png.1-1.part").write_bytes(b"half a picture")
    assert len(cut_pictures(pictures, out, resume=True)) == 20
    assert (out / "images/07.png").stat().st_mtime_ns == kept
    cut_pictures(pictures, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_a_face_is_cut_again_of_a_source_that_was_replaced(
    pictures: Manifest, tmp_path: Path
) -> None:
    """Kept, it would be the face of a picture that is gone."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    cut_pictures(pictures, out)
    shutil.copy(noise(tmp_path / "another.png", 101, 60), pictures[1].path)
    shutil.copy(noise(tmp_path / "another map.png", 102, 60), str(pictures[2].human_map))
    kept = (out / "images/04.png").stat().st_mtime_ns
    cut_pictures(pictures, out, resume=True)
    cut_pictures(pictures, whole)
    assert content(out) == content(whole)
    assert (out / "images/04.png").stat().st_mtime_ns == kept
    # So is one whose line in the list of sources is damaged.
    (out / SOURCES).write_bytes((out / SOURCES).read_bytes()[:-1])
    cut_pictures(pictures, out, resume=True)
    assert content(out) == content(whole)


@pytest.mark.parametrize("role", ["image", "map", "mask"])
def test_no_face_is_cut_of_a_file_that_is_replaced_after_its_digest_was_taken(
    pictures: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    """Put back, it would be taken for what the face was cut of, and the face be kept."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    sample = replace(pictures[1], mask_path=noise(tmp_path / "mask.png", 101, 60))
    one = Manifest([sample, *pictures[2:6]], pictures.source)
    files = {"image": sample.path, "map": sample.human_map, "mask": sample.mask_path}
    source = Path(str(files[role]))
    sound, other = source.read_bytes(), noise(tmp_path / "other.png", 101, 60)

    def replaced_after(path: str, role: Role) -> str:
        digest = file_digest(path, role)
        if path == str(source):
            shutil.copy(other, source)
        return digest

    with monkeypatch.context() as patched:
        patched.setattr(sources, "file_digest", replaced_after)
        cut_pictures(one, out)
    assert f"{source},{role},{REPLACED}" in (out / "bad_files.csv").read_text()
    source.write_bytes(sound)
    cut_pictures(one, out, resume=True)
    cut_pictures(one, whole)
    assert content(out) == content(whole)


def test_training_keeps_the_geometry_and_evaluation_compares_it(
    boxed: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = [boxed[0], replace(boxed[1], split="train"), replace(boxed[0], split="validation")]
    whole = Manifest([*pair, boxed[1]], "whole")
    cut = cut_boxes(whole, tmp_path / "out", 0.25).faces
    config = resolve(
        TrainConfig(recipe="demo", image_size=32, epochs=1, output=str(tmp_path), name="run")
    )
    detector = Detector("focus_small", image_size=32)
    assert geometry_warning(detector, whole) == ""  # nothing is known of an untrained one
    accelerator = start("no", None)
    Trainer(config, detector, cut, accelerator)
    detector.save_pretrained(tmp_path / "model")
    saved = Detector.from_pretrained(tmp_path / "model")
    assert saved.config.geometry == ("box margin 0.25",)
    assert geometry_warning(saved, cut) == ""
    other = replace(cut[0], extra={"geometry": "lbp margin 0.25"})
    assert "(lbp margin 0.25) than" in geometry_warning(saved, Manifest([other]))
    with caplog.at_level(logging.WARNING, "focus.evaluation.inference"):
        score_images(saved, Manifest([*cut, whole[0]]), batch_size=4, progress=False)
    (said,) = caplog.messages
    assert said.startswith("1 of 5 images are cut out otherwise (whole) than those of the model's")
