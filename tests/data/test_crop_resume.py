"""A crop that was stopped goes on: what is cut is kept, and nothing half written counts."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.crop import cut_faces
from focus.data.crop_journal import JOURNAL
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError

# In every third picture it sees no face; what it was asked of stands in a file.
DETECTOR = """
import os, time
def find(image):
    number = image.size[0] - 100
    with open(os.environ["SEEN"], "a") as seen:
        print(number, file=seen)
    time.sleep(float(os.environ.get("WAIT", 0)))
    return [] if number % 3 == 0 else [(0, 0, 50, 40)]
"""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Thirty of different widths, with a map each; every third has no face."""
    draw = np.random.default_rng(0)
    (tmp_path / "maps").mkdir()
    samples = []
    for number in range(30):
        picture, heat = tmp_path / f"{number:02d}.png", tmp_path / f"maps/{number:02d}.png"
        pixels = draw.integers(0, 256, (60, 100 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture)
        Image.fromarray(pixels[..., 0]).save(heat)
        samples.append(Sample(str(picture), number % 2, map_path=str(heat)))
    (tmp_path / "slow_detector.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    manifest = Manifest(samples, "pictures")
    manifest.to_csv(tmp_path / "pictures.csv")
    return manifest


def cut(manifest: Manifest, out: Path, *, margin: float = 0, resume: bool = False) -> Manifest:
    source = "slow_detector:find"
    return cut_faces(
        manifest, out, source=source, margin=margin, resume=resume, progress=False
    ).faces


def content(folder: Path) -> dict[str, bytes]:
    """The files, as they would be in a folder of any name."""
    place = str(folder).encode()
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(place, b"")
        for path in folder.rglob("*")
        if path.is_file()
    }


def seen(tmp_path: Path) -> Counter[str]:
    """How often the detector was asked of each picture, and forgets it."""
    found = Counter((tmp_path / "seen").read_text().split())
    (tmp_path / "seen").unlink()
    return found


def command(tmp_path: Path, *flags: str) -> list[str]:
    words = ["-m", "focus.data", "crop", "pictures.csv", "--faces", "slow_detector:find"]
    return [sys.executable, *words, "--margin", "0", "--output", "out", "--threads", "2", *flags]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_crop_that_was_ended_goes_on(
    pictures: Manifest, tmp_path: Path, number: signal.Signals
) -> None:
    slow = os.environ | {"WAIT": "2"}
    with subprocess.Popen(
        command(tmp_path), cwd=tmp_path, env=slow, stderr=subprocess.PIPE, text=True
    ) as program:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("out/images/*.png"))) < 3:
            assert program.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        second = subprocess.run(command(tmp_path, "--resume"), cwd=tmp_path, capture_output=True)
        assert second.returncode == 2
        assert b"Another process cuts faces into" in second.stderr
        program.send_signal(number)
        errors = program.communicate(timeout=60)[1]
    before = seen(tmp_path)
    assert len(before) < 30
    assert not (tmp_path / "out/manifest.csv").exists()
    if number == signal.SIGINT:
        assert program.returncode == 130
        assert errors.endswith("data: stopped; the same command with --resume goes on.\n")

    again = subprocess.run(command(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2
    assert again.stderr.endswith("or --resume to go on.\n")
    done = subprocess.run(command(tmp_path, "--resume"), cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    after = seen(tmp_path)
    assert len(before | after) == 30
    # Again only those that were under way, of two threads, or whose line was yet to come.
    assert len(before & after) <= 4
    cut(pictures, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_is_finished_stays_as_it_is(pictures: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(pictures, out, resume=True)  # the first time, too: a loop gives one command
    before = content(out)
    assert (JOURNAL in before, len(seen(tmp_path))) == (True, 30)
    cut(pictures, out, resume=True)
    assert content(out) == before
    assert not (tmp_path / "seen").exists()

    # What a power cut leaves empty, what is gone, and a line that is half there are made again.
    (out / "images/01.png").write_bytes(b"")
    (out / "maps/02.png").unlink()
    (out / "1-1.part").write_bytes(b"half a picture")
    journal = out / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-3])
    cut(pictures, out, resume=True)
    assert content(out) == before
    assert seen(tmp_path).keys() == {"1", "2", "27"}


def test_two_faces_of_one_picture_are_told_apart(pictures: Manifest, tmp_path: Path) -> None:
    one = replace(pictures[1], map_path=None)
    boxes = Manifest([replace(one, box=(0, 0, 0, 9)), replace(one, box=(0, 0, 9, 9))], "boxes")
    out = tmp_path / "out"
    first = cut_faces(boxes, out, source="box", margin=0, progress=False)
    Path(first.faces[0].path).unlink()
    again = cut_faces(boxes, out, source="box", margin=0, resume=True, progress=False)
    assert list(again.faces) == list(first.faces)
    assert again.no_face == first.no_face
    assert Path(first.faces[0].path).exists()


def test_a_detector_that_failed_is_asked_again(pictures: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SEEN")
        with pytest.raises(InputError, match="None of the 2 images"):
            cut(pictures[1:3], out)
    assert "KeyError" in (out / "no_face.csv").read_text()
    assert len(cut(pictures[1:3], out, resume=True)) == 2
    assert not (out / "no_face.csv").exists()


def test_a_file_that_was_mended_is_bad_no_longer(pictures: Manifest, tmp_path: Path) -> None:
    out, path = tmp_path / "out", Path(pictures[1].path)
    sound = path.read_bytes()
    path.write_bytes(b"")
    assert len(cut(pictures[1:3], out)) == 1
    assert str(path) in (out / "bad_files.csv").read_text()
    path.write_bytes(sound)
    assert len(cut(pictures[1:3], out, resume=True)) == 2
    assert not (out / "bad_files.csv").exists()


def test_a_crop_goes_on_only_as_it_was_begun(pictures: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cut(pictures, out)
    for manifest, margin, said in (
        (pictures, 0.5, "was begun with 'slow_detector:find margin 0', not with .* margin 0.5': "),
        (pictures[:9], 0, "was begun with other data: give the same"),
    ):
        with pytest.raises(InputError, match=said):
            cut(manifest, out, margin=margin, resume=True)
    (out / JOURNAL).write_text("nothing\n")
    with pytest.raises(InputError, match=rf"{JOURNAL} is no record of a crop"):
        cut(pictures, out, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(InputError, match=r"other holds files already: give another one, or remove"):
        cut(pictures, tmp_path / "other", resume=True)


def test_a_disk_that_is_full_is_named_with_the_file(pictures: Manifest, tmp_path: Path) -> None:
    small_files = ["bash", "-c", 'ulimit -f 3; exec "$@"', "bash"]  # KiB
    full = subprocess.run(
        [*small_files, *command(tmp_path)], cwd=tmp_path, capture_output=True, text=True
    )
    assert full.returncode == 2
    assert f"File too large ({tmp_path}/out/" in full.stderr
    assert list(tmp_path.glob("out/**/*.part")) == []
    subprocess.run(command(tmp_path, "--resume"), cwd=tmp_path, check=True)
    assert len(Manifest.from_csv(tmp_path / "out/manifest.csv")) == 20
