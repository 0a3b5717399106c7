"""``focus data check``: what it counts, what it writes, how it ends."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus.config.command_line import parse
from focus.config.data import CheckConfig
from focus.config.train import TrainConfig, resolve
from focus.data.check.findings import FIT
from focus.data.check.report import SIDE
from focus.data.check.report import check as run_check
from focus.data.demo import render_face
from focus.data.manifest import Manifest, Sample, Split
from focus.data.training_set import training_manifest
from focus.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))


def write_faces(folder: Path, counts: Mapping[Split, int]) -> Path:
    """Faces, half of them fakes, with human maps for training; returns their manifest."""
    samples = []
    for split, n in counts.items():
        for generator in ("", "known-1", "known-2"):
            for number in range(n if not generator else n // 2):
                stem = f"{split}-{generator or 'real'}-{number}"
                name = "closed" if split == "test" else split
                picture = render_face(name, generator or "real", number)
                Image.fromarray(picture.image).save(folder / f"{stem}.png")
                human_map = None
                if split == "train":
                    assert picture.human_map is not None
                    (folder / "maps").mkdir(exist_ok=True)
                    human_map = str(folder / "maps" / f"{stem}.png")
                    Image.fromarray(picture.human_map).save(human_map)
                samples.append(
                    Sample(
                        str(folder / f"{stem}.png"),
                        label=int(bool(generator)),
                        generator=generator,
                        split=split,
                        human_map=human_map,
                    )
                )
    Manifest(samples).to_csv(folder / "faces.csv")
    return folder / "faces.csv"


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """The manifest of 32 faces that a test may spoil: too few for an audit of shortcuts."""
    (tmp_path / "faces").mkdir()
    return write_faces(tmp_path / "faces", {"train": 8, "validation": 4, "test": 4})


def check(*words: str | Path, output: Path) -> dict[str, Any]:
    """check.json; "exit" is the exit code, "text" what check.txt says."""
    code = 0
    try:
        run_check(parse(CheckConfig, [*map(str, words), "--output", str(output)]))
    except SystemExit as end:
        code = int(end.code or 0)
    report: dict[str, Any] = json.loads((output / "check.json").read_text(encoding="utf-8"))
    text = (output / "check.txt").read_text(encoding="utf-8")
    return {**report, "exit": code, "text": text}


def rewrite(csv: Path, change: Callable[[Sample], Sample | None]) -> None:
    """Write the manifest with ``change`` of each sample; None leaves it out."""
    changed = [change(sample) for sample in Manifest.from_csv(csv)]
    Manifest(sample for sample in changed if sample is not None).to_csv(csv)


def test_the_report_of_sound_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_faces(tmp_path, {"train": 24, "validation": 10, "test": 10})
    report = check(table, output=tmp_path / "out")
    assert (report["exit"], report["trainable"], report["obstacle"]) == (0, True, None)
    assert report["n_images"] == 88
    columns = ("split", "label", "generator", "images", "with_map")
    rows = [tuple(kind[name] for name in columns) for kind in report["kinds"]]
    assert len(rows) == 9
    assert rows[:4] == [
        ("train", "real", "", 24, 24),
        ("train", "synthetic", "known-1", 12, 12),
        ("train", "synthetic", "known-2", 12, 12),
        ("validation", "real", "", 10, 0),
    ]
    assert report["train_share_real"] == 0.5
    for name, value in (("sizes", "64x64"), ("formats", "PNG"), ("modes", "RGB")):
        assert report[name] == {value: 88}
    assert report["maps"] == {
        "maps": 48,
        "images_without": 40,
        **dict.fromkeys(("unreadable", "blank", "inverted", "of_another_size", "unmatched"), 0),
    }
    assert report["bad_files"] == []
    assert report["copies"]["images"] == 0
    assert report["shortcuts"]["storage"]["interval"] == [0.5, 0.5]  # all are stored alike
    low, high = report["shortcuts"]["pixels"]["interval"]
    assert 0.5 < low < report["shortcuts"]["pixels"]["auc"] < high <= 1

    # That drawn faces differ in sharpness is said, and no reason not to train.
    first, warning, note, _, layout, *printed = capsys.readouterr().out.splitlines()
    assert first == printed[-4] == report["text"].splitlines()[0] == f"{FIT}:"
    assert [warning, note] == printed[-3:-1]
    assert warning.startswith("warning: Low-level statistics alone tell the class with AUC 0.")
    assert note.startswith("note: Fewer than 10 images, of which figures say little: 5 test images")
    assert len(report["findings"]) == 2
    assert "layout manifest" in layout
    assert report["fit"]
    assert (tmp_path / "out" / "copies.csv").read_bytes().count(b"\n") == 1
    look_at_the_sheet(tmp_path)


def look_at_the_sheet(folder: Path) -> None:
    """A row of faces for each kind; in training every other cell is the map over its face."""
    with Image.open(folder / "out" / "contact_sheet.png") as image:
        sheet = np.asarray(image.convert("RGB")).astype(int)
    gap, head = SIDE // 12, SIDE // 12 + SIDE // 6
    assert len(sheet) == head + 9 * (SIDE + gap)
    # The map, which lies over its face beside it, is red where people looked.
    row = sheet[head + SIDE + gap :][:SIDE]
    row = row[:, ((row != 255).any(2).mean(0) > 0.5).argmax() :]
    face, over = row[:, :SIDE], row[:, SIDE : 2 * SIDE]
    with Image.open(folder / "maps" / "train-known-1-1.png") as image:
        looked_at = np.asarray(image.resize((SIDE, SIDE)))
    redder = (over - face)[..., 0]
    assert redder[looked_at > 200].mean() > redder[looked_at < 25].mean() + 40


def test_what_stops_training_is_said_in_its_words(faces: Path, tmp_path: Path) -> None:
    rewrite(faces, lambda sample: sample if sample.label else None)
    with pytest.raises(InputError) as error:
        training_manifest(resolve(TrainConfig(data=(str(faces),))), progress=False)
    report = check(faces, "--drop-copies", output=tmp_path / "out")
    assert (report["exit"], report["trainable"], report["n_images"]) == (1, False, 16)
    assert report["obstacle"] == str(error.value)
    assert (
        f"error: Training would not start: {report['without_copies']['obstacle']}\n"
        in report["text"]
    )
    assert report["text"].endswith(f"it would not start: {report['without_copies']['obstacle']}\n")


def test_bad_files_are_listed_and_left_out_of_the_manifest(faces: Path, tmp_path: Path) -> None:
    real, text, folder = (faces.parent / f"{s}-real-0.png" for s in ("train", "test", "validation"))
    real.write_bytes(real.read_bytes()[:900])
    bad_map = faces.parent / "maps" / "train-real-1.png"
    bad_map.write_bytes(b"")
    text.write_text("no image")
    folder.unlink()
    folder.mkdir()
    for max_bad, code in (("0.2", 0), ("0", 1)):
        report = check(faces, "--max-bad", max_bad, "--drop-copies", output=tmp_path / "out")
        assert {(Path(f["path"]), f["role"]) for f in report["bad_files"]} == {
            *((path, "image") for path in (real, text, folder)),
            (bad_map, "map"),
        }
        (why,) = (f["reason"] for f in report["bad_files"] if f["path"] == str(text))
        assert why == "cannot identify image file"  # without Pillow's object in memory
        assert report["kinds"][0]["unreadable"] == report["maps"]["unreadable"] == 1
        assert report["trainable"] == (code == 0)
        assert (report["exit"], report["without_copies"]["n_images"]) == (0, 29)


def test_odd_maps_masks_and_labels_are_counted(faces: Path, tmp_path: Path) -> None:
    maps = faces.parent / "maps"
    Image.new("L", (64, 64)).save(maps / "train-real-0.png")
    with Image.open(maps / "train-real-1.png") as image:
        image.point(lambda value: 255 - value).save(maps / "train-real-1.png")
    with Image.open(maps / "train-real-2.png") as image:
        image.resize((32, 32)).save(maps / "train-real-2.png")
    shutil.copy(maps / "train-real-3.png", maps / "nobody.png")
    # A photograph is stored on its side, its map was drawn on it upright.
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = render_face("train", "real", 99)
    assert picture.human_map is not None
    upright = Image.fromarray(picture.image).resize((48, 64))
    upright.transpose(Image.Transpose.ROTATE_90).save(faces.parent / "photo.jpg", exif=exif)
    Image.fromarray(picture.human_map).resize((48, 64)).save(maps / "photo.png")
    with faces.open("a") as file:
        file.write("photo.jpg,real,,,train,,maps/photo.png,,,\r\n")
    # A mask stored as 0 and 1, and a face that is real and a fake.
    mask, real, fake = (
        str(faces.parent / f"{name}.png") for name in ("faint", "train-real-7", "train-known-1-0")
    )
    Image.new("L", (64, 64), 1).save(mask)
    shutil.copy(real, fake)
    rewrite(faces, lambda s: replace(s, mask_path=mask) if s.path == fake else s)

    report = check(faces, "--human-maps", maps, output=tmp_path / "out")
    assert report["maps"] == {
        "maps": 17,
        "images_without": 16,
        "unreadable": 0,
        "blank": 1,
        "inverted": 1,
        "of_another_size": 1,
        "unmatched": 1,
    }
    assert report["sizes"] == {"64x64": 32, "48x64": 1}
    assert report["contradictory"] == [[real, fake]]
    assert (report["trainable"], report["exit"]) == (True, 1)
    assert report["masks"] == {"masks": 1, "faint": 1}
    # Each of it is in the verdict.
    said = [
        (finding["severity"], finding["text"].partition(",")[0]) for finding in report["findings"]
    ]
    assert said == [
        ("error", "1 files are given both as real and as synthetic"),
        ("warning", f"1 human maps in {maps} belong to no image"),
        ("warning", "1 human maps have one single value and count as none"),
        (
            "warning",
            "1 human maps are bright over most of the image and may be inverted "
            "(bright is where people looked)",
        ),
        (
            "warning",
            "1 artefact masks are nowhere half white and so count as empty "
            "(stored as 0 and 1 instead of 0 and 255?)",
        ),
        ("note", "Fewer than 10 images"),
    ]
    lines = report["text"].splitlines()
    assert lines[0] == "mend this before training:"
    assert lines[1:7] == [
        f"{finding['severity']}: {finding['text']}" for finding in report["findings"]
    ]


def test_copies_are_dropped_from_the_manifest_that_train_py_takes(
    faces: Path, tmp_path: Path
) -> None:
    """Also those with a test set that is given apart; names may hold any bytes."""
    odd = os.fsdecode(b"line\nbreak \xff.png")
    folder = faces.parent
    (folder / "train-known-1-0.png").rename(folder / odd)
    rewrite(faces, lambda s: replace(s, path=s.path.replace("train-known-1-0.png", odd)))
    shutil.copy(folder / odd, folder / "test-known-1-0.png")
    with Image.open(folder / "test-real-0.png") as image:
        image.save(folder / "train-real-0.png", optimize=True)  # other bytes
    (tmp_path / "fakes").mkdir()
    Image.fromarray(render_face("open", "far-1", 0).image).save(tmp_path / "fakes/0.png")
    with Image.open(folder / "train-known-1-3.png") as image:
        image.resize((100, 100)).save(tmp_path / "fakes/leak.jpg", quality=60)

    words = (faces, f"--test-data=far-1={tmp_path}/fakes", "--drop-copies")
    report = check(*words, output=tmp_path / "out")
    assert (report["exit"], report["trainable"]) == (0, True)
    assert report["copies"] == {
        "images": 3,
        "same_file": 1,
        "same_picture": 2,
        "mirrored_picture": 0,
        "fake_and_source": 0,
        "between": {"train-test": 3},
    }
    written = str(tmp_path / "out" / "without_copies.csv")
    without = report["without_copies"]
    assert (without["path"], without["n_images"], without["trainable"]) == (written, 31, True)
    with (tmp_path / "out/copies.csv").open(errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["original_split"]) for row in rows] == [("test", "train")] * 3
    same = next(row for row in rows if row["kind"] == "same file")
    assert (same["original"], same["similarity"]) == (str(folder / odd), "1.0000")
    assert same["path"] == str(folder / "test-known-1-0.png")
    assert {row["left_out"] for row in rows} == {"yes"}
    taken = training_manifest(resolve(TrainConfig(data=(written,))), progress=False)
    assert sum(sample.generator == "far-1" for sample in taken) == 1
    gone = {"test-real-0.png", "test-known-1-0.png", "leak.jpg"}
    assert not gone & {Path(sample.path).name for sample in taken}


def test_leaks_are_dropped_where_a_table_has_the_labels(faces: Path, tmp_path: Path) -> None:
    """The manifest without leaks has the labels: the table is not asked for again."""
    folder = faces.parent
    shutil.copy(folder / "test-real-0.png", folder / "train-real-0.png")
    report = check(folder, f"--labels={faces}", "--drop-copies", output=tmp_path / "out")
    assert report["copies"]["same_file"] == 1
    assert report["without_copies"]["trainable"]


def test_a_fake_and_its_source_are_a_leak_only_across_splits(faces: Path, tmp_path: Path) -> None:
    """A swap: the picture of a real face with a mouth of somebody else, stored anew."""
    folder = faces.parent
    with Image.open(folder / "train-real-0.png") as image:
        swapped = np.asarray(image).copy()
    swapped[44:50, 28:38] += 9

    def swap_into(name: str) -> dict[str, Any]:
        Image.fromarray(swapped).save(folder / f"{name}.png")
        return check(faces, output=tmp_path / "out")

    kept = (folder / "test-known-1-0.png").read_bytes()
    report = swap_into("test-known-1-0")
    assert (report["exit"], report["copies"]["fake_and_source"]) == (1, 1)
    assert report["findings"][0]["text"].startswith(
        "1 of 2 synthetic test images of known-1 are a fake whose source"
    )
    with (tmp_path / "out/copies.csv").open(newline="") as file:
        assert [row["kind"] for row in csv.DictReader(file)] == ["a fake and its source"]
    (folder / "test-known-1-0.png").write_bytes(kept)

    report = swap_into("train-known-1-0")
    assert (report["exit"], report["copies"]["images"]) == (0, 0)
    note, few = report["findings"]
    assert few["id"] == "few_images"
    assert note["severity"] == "note"
    assert note["text"].startswith("1 fakes are in the split of their source, the real face that")
    assert "--columns group=NAME)" in note["text"]
    pair = "train-real-0.png", "train-known-1-0.png"
    rewrite(faces, lambda s: replace(s, group="anna" * (Path(s.path).name in pair)))
    (few,) = check(faces, output=tmp_path / "out")["findings"]
    assert few["id"] == "few_images"


def test_a_shortcut_and_leaks_end_with_code_1_and_nothing_is_written(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_jpeg(sample: Sample) -> Sample:
        path = sample.path.replace(".png", ".jpg")
        if not sample.label:
            with Image.open(sample.path) as image:
                image.save(path)
        return sample if sample.label else replace(sample, path=path)

    rewrite(faces, as_jpeg)
    shutil.copy(faces.parent / "train-known-1-0.png", faces.parent / "test-known-1-0.png")
    monkeypatch.setattr("focus.data.check.shortcuts.MIN_IMAGES", 10)
    monkeypatch.chdir(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    for words, code in (((), 1), (("--strict", "false"), 0)):
        config = parse(CheckConfig, [str(faces), *words])
        with pytest.raises(SystemExit) if code else nullcontext():
            run_check(config)
        printed = capsys.readouterr().out.splitlines()
        assert printed[:4] == printed[-4:]
        assert printed[0] == "mend this before training:"
        assert printed[1].startswith("error: In the images to train with, the storage of the files")
        assert "AUC 1.000, by file format (real: JPEG" in printed[1]
        assert printed[2].startswith(
            "warning: 1 of 2 synthetic test images of known-1 are left out"
        )
        assert printed[3].startswith("note: Fewer than 10 images, of which figures say little: ")
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts] == files


@pytest.mark.usefixtures("pixel_limit")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_check_goes_on_where_training_would(tmp_path: Path) -> None:
    """A JPEG of too many pixels, of which a small version can be decoded, ended it."""
    draw = np.random.default_rng(0)
    for kind in ("0_real", "1_fake"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / kind / f"{number}.jpg")
    for name, side in (("large", 250), ("huge", 300)):  # within Pillow's own limit, and above
        Image.new("RGB", (side, 200)).save(tmp_path / "data" / "0_real" / f"{name}.jpg")
    words = [tmp_path / "data", "--max-pixels", "29000", "--max-bad", "0.1", "--strict", "false"]
    report = check(*words, output=tmp_path / "check")
    assert {Path(file["path"]).name: file["reason"] for file in report["bad_files"]} == {
        "large.jpg": "250 x 200 pixels, more than --max-pixels 29000",
        "huge.jpg": "more than --max-pixels 29000",
    }
