"""Data sets made of real faces alone: masks, splits, chain and shortcuts, on LFW's faces."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from focus.config.command_line import parse
from focus.config.data import ManipulateConfig
from focus.data.check.properties import look
from focus.data.check.shortcuts import audit
from focus.data.images import REPLACED, load_map
from focus.data.making.manipulate import TRAINED, _pictures, manipulate
from focus.data.making.manipulations import BASIS_SIDE, METHODS, Basis, Inputs, resized
from focus.data.manifest import REAL, Manifest
from focus.data.splits import check_trainable
from focus.errors import InputError
from focus.runtime.files import begin


def write_faces(folder: Path, count: int) -> Path:
    """Write real faces, of 25 x 25 grey pixels, which scikit-image ships."""
    folder.mkdir(parents=True)
    for number, face in enumerate(skimage.data.lfw_subset()[:count]):
        Image.fromarray((255 * face).astype(np.uint8)).save(folder / f"{number:03d}.png")
    return folder


def made(*words: object) -> Manifest:
    config = parse(ManipulateConfig, [*map(str, words), "--image-size", "48"])
    manipulate(config)
    return Manifest.from_csv(Path(str(config.output)) / "manifest.csv")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("lfw") / "reals", 60)


@pytest.fixture(scope="module")
def out(faces: Path) -> Manifest:
    return made(faces, faces.parent / "out")


def test_what_is_made_trains_and_tests_known_and_unknown_methods(out: Manifest) -> None:
    check_trainable(out)
    reals = out.where(lambda sample: sample.label == REAL)
    assert [len(reals.split(split)) for split in ("train", "validation", "test")] == [42, 9, 9]
    for split in ("train", "validation"):
        assert set(TRAINED) == set(out.split(split).generators())
        assert len(out.split(split)) == 2 * len(reals.split(split))  # as many of each class
    assert set(out.split("test").generators()) == set(METHODS)
    assert len(out.split("test")) == 9 * (1 + len(METHODS))
    assert {s.family for s in out if s.generator in ("part-swap", "self-blend")} == {"splicing"}


def test_a_mask_is_where_the_method_changed_the_face() -> None:
    draw = np.random.default_rng(0)
    face, donor = (resized(draw.random((12, 12, 3), np.float32), 96) for _ in range(2))
    basis = Basis(np.full(BASIS_SIDE**2 * 3, 0.5, np.float32), np.zeros((1, BASIS_SIDE**2 * 3)))
    for name, (_, method) in METHODS.items():
        picture, weight = method(Inputs(face, donor, basis), np.random.default_rng(1))
        changed = np.abs(picture - face).max(axis=-1)
        assert not changed[weight == 0].any(), name
        assert 0.01 < (weight > 0.5).mean() < 0.4, name
        assert changed[weight > 0.5].mean() > 0.02, name
        assert changed[weight > 0.5].mean() > 2 * changed[weight < 0.5].mean(), name


def test_the_masks_are_written_beside_the_pictures(out: Manifest) -> None:
    for sample in out.split("test"):
        assert (sample.mask_path is None) == (sample.label == REAL)
        if sample.mask_path:
            assert load_map(sample.mask_path).shape == (48, 48)
            assert load_map(sample.mask_path).max() == 1


def test_the_files_do_not_tell_the_class(out: Manifest) -> None:
    train = out.where(lambda sample: sample.split != "test")
    looks = [look(sample.path) for sample in train]
    assert {(seen.width, seen.height, seen.storage["file format"]) for seen in looks} == {
        (48, 48, "JPEG")
    }
    labels, groups = [int(s.label or 0) for s in train], [s.group for s in train]
    rows = [{**seen.storage, "bits": seen.bits_per_pixel} for seen in looks]
    storage_audit = audit(rows, labels, groups, seed=0)
    assert storage_audit is not None
    assert storage_audit.auc < 0.65


def test_a_person_is_in_one_split_and_never_his_own_donor(faces: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted(faces.iterdir())):
        target = tmp_path / "people" / f"person {number % 20}" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    manifest = made(tmp_path / "people", tmp_path / "out")
    groups = {split: {s.group for s in manifest.split(split)} for split in ("train", "test")}
    assert groups["train"] | groups["test"] < {f"person {n}" for n in range(20)}
    assert not groups["train"] & groups["test"]
    reals = manifest.where(lambda sample: sample.label == REAL)
    small = np.random.default_rng(0).integers(0, 255, (len(reals), 16, 16, 3), np.uint8)
    owner = {sample.path: (sample.group, sample.split) for sample in reals}
    for picture in _pictures(reals, small, seed=0):
        group, split = owner[picture.donor.path]
        assert group != picture.sample.group
        assert split == picture.sample.split


def test_the_seed_decides_all(faces: Path, out: Manifest, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(faces.iterdir())[:12]:
        shutil.copy(file, few)
    again = [made(few, tmp_path / f"{n}", "--seed", seed) for n, seed in enumerate((1, 1, 2))]
    pixels = [[Path(s.path).read_bytes() for s in one] for one in again]
    assert pixels[0] == pixels[1] != pixels[2]


def test_what_is_finished_stays_and_the_rest_is_made(faces: Path, out: Manifest) -> None:
    whole, folder = Path(out.source).parent, faces.parent / "again"
    shutil.copytree(whole, folder)
    kept = (folder / "images/real/000001.jpg").stat().st_mtime_ns
    (folder / "manifest.csv").unlink()
    (folder / "images/real/000003.jpg").write_bytes(b"")  # by a power cut
    next((folder / "masks/morph").iterdir()).unlink()
    (folder / "images/real/000004.jpg.7.part").write_bytes(b"half a picture")
    with pytest.raises(InputError, match="holds files already"):
        made(faces, folder)
    with pytest.raises(InputError, match="begun by another command or of other images"):
        made(faces, folder, "--resume", "--seed", "3")
    made(faces, folder, "--resume")
    assert (folder / "images/real/000001.jpg").stat().st_mtime_ns == kept
    resumed_files, expected = (
        {
            path.relative_to(made_folder): path.read_bytes()
            for path in made_folder.rglob("*")
            if path.is_file()
        }
        for made_folder in (folder, whole)
    )
    assert resumed_files == expected


def test_pictures_of_a_face_that_was_replaced_do_not_stay(tmp_path: Path) -> None:
    faces, out = write_faces(tmp_path / "faces", 12), tmp_path / "out"
    made(faces, out)
    shutil.copy(faces / "000.png", faces / "005.png")
    with pytest.raises(InputError, match="begun by another command or of other images"):
        made(faces, out, "--resume")


@pytest.mark.parametrize("number", [0, 5])
def test_no_picture_is_made_of_a_face_that_is_replaced_after_its_digest_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Put back, it would be taken for what the pictures were made of, and they be kept."""
    faces, out = write_faces(tmp_path / "faces", 12), tmp_path / "out"
    face = faces / f"{number:03d}.png"
    sound = face.read_bytes()

    def begin_and_replace(*arguments: Any, **options: Any) -> None:
        begin(*arguments, **options)
        shutil.copy(faces / "011.png", face)

    with monkeypatch.context() as patched:
        patched.setattr("focus.data.making.manipulate.begin", begin_and_replace)
        with pytest.raises(InputError, match=rf"{face.name}' \({REPLACED}"):
            made(faces, out, "--threads", "1")
    face.write_bytes(sound)
    pictures = [made(faces, out, "--resume"), made(faces, tmp_path / "whole")]
    first, whole = ([Path(sample.path).read_bytes() for sample in one] for one in pictures)
    assert first == whole


def test_what_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="behind it the folder to write"):
        parse(ManipulateConfig, ["reals"])
    few = write_faces(tmp_path / "few", 10)
    (few / "000.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="has 9 real faces: give 10 at least"):
        made(few, tmp_path / "out")
    assert "000.png" in (tmp_path / "out/bad_files.csv").read_text()
    assert "left out 1" in capsys.readouterr().out
