"""Faults that are planted in real files: data check, training and evaluation say the same of them.

The faces are drawn; each set is made anew from the same ones, with one fault.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from focus.__main__ import main as focus
from focus.data.demo import render_face

Faces = dict[str, Image.Image]
N_TRAIN, N_TEST = 30, 10


@pytest.fixture(scope="module")
def faces() -> Faces:
    """Faces by their path in a folder with splits and classes."""
    drawn: Faces = {}
    for label, generator in (("0_real", "real"), ("1_fake", "known-1")):
        numbers = iter(range(100))
        for split, count in (("train", N_TRAIN), ("val", N_TEST), ("test", N_TEST)):
            for number in range(count):
                face = render_face("train", generator, next(numbers), artefacts=False)
                drawn[f"{split}/{label}/{split}{number}x"] = Image.fromarray(face.image)
    return drawn


def save(faces: Faces, root: Path, extension: str = ".png", **options: Any) -> Path:
    for name, face in faces.items():
        path = root / f"{name}{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        face.save(path, **options)
    return root


def byte_equal(faces: Faces, root: Path) -> list[str]:
    save(faces, root)
    copied = (root / "train/1_fake/train3x.png").read_bytes()
    (root / "test/1_fake/test0x.png").write_bytes(copied)
    return [str(root)]


def stored_anew(faces: Faces, root: Path) -> list[str]:
    """Re-encoded, resized and mirrored; both classes have pictures of each kind."""
    save(faces, root)
    for label in ("0_real", "1_fake"):
        one, two, three = (faces[f"train/{label}/train{n}x"] for n in (1, 2, 3))
        one.save(root / f"test/{label}/test1x.png", compress_level=0)
        two.resize((80, 80)).save(root / f"test/{label}/test2x.png")
        ImageOps.mirror(three).save(root / f"test/{label}/test3x.png")
    return [str(root)]


def two_formats(faces: Faces, root: Path) -> list[str]:
    save({name: face for name, face in faces.items() if "0_real" in name}, root, ".jpg")
    save({name: face for name, face in faces.items() if "1_fake" in name}, root)
    return [str(root)]


def one_format(faces: Faces, root: Path) -> list[str]:
    """All are JPEG of one quality and size; the real ones show finer detail."""
    sharp = {
        name: face.resize((96, 96)) if "1_fake" in name else face.resize((32, 32)).resize((96, 96))
        for name, face in faces.items()
    }
    return [str(save(sharp, root, ".jpg", quality=90))]


def table(faces: Faces, root: Path, label_of: Callable[[str, int], int]) -> list[str]:
    """A table of pictures whose folders say the class; 1 is synthetic."""
    folders = {"0_real": "real", "1_fake": "fake"}
    rows = []
    for number, (name, face) in enumerate(faces.items()):
        split, label, stem = name.split("/")
        path = root / folders[label] / f"{split}-{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        face.save(path)
        value = label_of(label, number)
        rows.append(f"{folders[label]}/{path.name},{value},{split}\n")
    (root / "t.csv").write_text("path,label,split\n" + "".join(rows))
    return [str(root / "t.csv")]


def reversed_labels(faces: Faces, root: Path) -> list[str]:
    return table(faces, root, lambda label, _: int(label == "0_real"))


def partly_wrong_labels(faces: Faces, root: Path) -> list[str]:
    def label_of(label: str, number: int) -> int:
        return int((label == "1_fake") != (number in (2, 5)))

    return table(faces, root, label_of)


def table_of_a_spreadsheet(faces: Faces, root: Path) -> list[str]:
    """The same labels, separated by semicolons, in the encoding of Western Windows."""
    (path,) = map(Path, partly_wrong_labels(faces, root))
    (root / "real" / "train-train0x.png").rename(root / "real" / "Zoë.png")
    rows = path.read_text().replace("train-train0x.png", "Zoë.png", 1)
    path.write_bytes(rows.replace(",", ";").encode("cp1252"))
    return [str(path)]


def one_image_generator(faces: Faces, root: Path) -> list[str]:
    save(faces, root / "data")
    alone = render_face("open", "far-1", 0, artefacts=False).image
    (root / "far").mkdir()
    Image.fromarray(alone).save(root / "far" / "a.png")
    (root / "data" / "train" / "notes").mkdir()
    return [str(root / "data"), "--test-data", f"far={root / 'far'}"]


def named_alike(faces: Faces, root: Path) -> list[str]:
    save(faces, root)
    (root / "train/0_real/train0x.png").rename(root / "train/0_real/Zoë 019_0.png")
    (root / "test/0_real/test0x.png").rename(root / "test/0_real/Zoë 019_1.png")
    return [str(root)]


PLANTED: dict[Callable[[Faces, Path], list[str]], tuple[str, str, int]] = {
    byte_equal: ("copies_left_out", "1 of 10 synthetic test images", 0),
    stored_anew: ("copies_scored", "3 of 10 real test images are copies of training images (", 1),
    two_formats: ("storage_tells_class", "by file format (real: JPEG 100 %, synthetic: PNG", 1),
    one_format: ("file_size_tells_class", "it is the pictures' content", 0),
    reversed_labels: ("labels_reversed", "50 of 50 images taken for synthetic are real", 1),
    partly_wrong_labels: ("labels_partly_wrong", "2 of 52 images taken for synthetic are real", 1),
    table_of_a_spreadsheet: (
        "labels_partly_wrong",
        "2 of 52 images taken for synthetic are real",
        1,
    ),
    one_image_generator: ("few_images", "1 test image, synthetic of far", 0),
    named_alike: ("same_stem", "1 validation or test images have the name of an image of an", 0),
}
"""Each fault: the id of what is said, a part of its words, and the exit code of the check."""


SMALL = ("--recipe", "demo", "--epochs", "1", "--threads", "1", "--workers", "0")


def exit_code(*words: str) -> int:
    """Run focus in this process, without the seconds of its imports."""
    try:
        focus([*words])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_check_and_training_say_the_same_worst_first(
    plant: Callable[[Faces, Path], list[str]],
    faces: Faces,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    name, words, code = PLANTED[plant]
    where, *flags = plant(faces, tmp_path / "set")
    assert exit_code("data", "check", where, *flags, "--output", "report") == code
    report = json.loads((tmp_path / "report" / "check.json").read_text())
    said = [one["text"] for one in report["findings"] if one["id"] == name]
    assert any(words in text for text in said), report["findings"]
    severities = [one["severity"] for one in report["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "note").index)
    # Only training knows the families of its test generators, only the check looks at pixels.
    checks = [f"{one['severity']}: {one['text']}" for one in report["findings"]]
    checks = [line for line in checks if "Low-level statistics" not in line]
    capsys.readouterr()
    focus(["train", "--data", where, *flags, *SMALL, "--dry-run"])
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("error: ", "warning: ", "note: ")) and "near or far" not in line
    ]
    assert [line for line in lines if "no split" not in line] == checks


@pytest.mark.slow
def test_a_run_and_its_evaluation_show_the_copies_that_they_score(
    faces: Faces,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (where,) = stored_anew(faces, tmp_path / "set")
    words = ["train", "--data", where, *SMALL]
    focus([*words, "--name", "r"])
    folder = tmp_path / "runs" / "r"
    said = "3 of 10 real test images are copies of training images ("
    results = json.loads((folder / "results.json").read_text())
    assert results["findings"][0]["severity"] == "error"
    assert any(said in one["text"] for one in results["findings"])
    assert said in (folder / "report.html").read_text()
    assert said in (folder / "model" / "README.md").read_text()
    rows = (folder / "copies.csv").read_text().splitlines()
    assert len(rows) == 1 + 6
    assert sum("mirrored picture" in row and row.endswith(",no") for row in rows) == 2

    capsys.readouterr()
    focus(["evaluate", "--run", str(folder), "--threads", "1", "--report", "false"])
    assert f"error: {said}" in capsys.readouterr().out
    assert (folder / "evaluation" / "copies.csv").read_text().count("\n") == 1 + 6
    # By the flag they are left out of both.
    focus([*words, "--name", "dropped", "--drop-copies", "--report", "false"])
    results = json.loads((tmp_path / "runs" / "dropped" / "results.json").read_text())
    assert results["closed"]["pooled"]["n_real"] == N_TEST - 3
    ids = {one["id"] for one in results["findings"]}
    assert "copies_left_out" in ids
    assert "copies_scored" not in ids
