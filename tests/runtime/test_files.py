"""Files that are whole or absent."""

import csv
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from focus.config.train import EvaluateConfig, TrainConfig, resolve
from focus.data.training_set import listed_images
from focus.errors import InputError
from focus.model.detector import Detector
from focus.runtime.files import atomic_csv_writer, atomic_write, check_empty, check_writable, lock
from focus.training.run import train
from focus.use.evaluate import evaluate

from ..launching import in_another_process, run


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    path.write_text("old")
    with atomic_write(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    path.write_text("old")

    def break_off() -> None:
        with atomic_write(path) as aside:
            aside.write_text("ne")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]


def test_a_csv_is_whole_or_absent_and_keeps_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    with atomic_csv_writer(path, "# mark") as writer:
        writer.writerow(["a\udcff", "b,\r"])
        assert not path.exists()
    assert path.read_bytes() == b'# mark\r\na\xff,"b,\r"\r\n'
    with atomic_csv_writer(path, end="\n") as writer:
        writer.writerow(["c", ""])
    assert path.read_bytes() == b"c,\n"

    def break_off() -> None:
        with atomic_csv_writer(path) as writer:
            writer.writerow(["d"])
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert path.read_bytes() == b"c,\n"
    assert [file.name for file in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_cell_with_a_line_break_of_any_kind_comes_back(end: str, tmp_path: Path) -> None:
    rows = [["a\rb", "c\nd"], ["e\r\nf", "g\r\n"], ["\r", "h"]]
    with atomic_csv_writer(tmp_path / "breaks.csv", end=end) as writer:
        writer.writerow(rows[0])
        writer.writerows(rows[1:])
    content = (tmp_path / "breaks.csv").read_bytes().decode()
    assert content.startswith(f'"a\rb","c\nd"{end}"')
    assert content.endswith(f'"\r",h{end}')
    with (tmp_path / "breaks.csv").open(newline="") as file:
        assert list(csv.reader(file)) == rows


def test_two_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    """In threads, which is harder than processes; the one that ends last stays."""
    path, begun, ended = tmp_path / "summary.csv", threading.Event(), threading.Event()

    def other() -> None:
        with atomic_write(path) as aside:
            aside.write_text("other")
            begun.set()
            assert ended.wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(20)
    with atomic_write(path) as aside:
        aside.write_text("own")
    assert path.read_text() == "own"
    ended.set()
    thread.join()
    assert path.read_text() == "other"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]


def test_what_a_killed_process_left_goes_with_a_later_write(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from focus.runtime.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run("-c", code, path).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    others = ["summary.csv.old.part", "summary.csv.part", f"_{left.name}"]
    for name in others:
        (tmp_path / name).touch()
    long_ago = time.time() - 4000
    for hours_old in (False, True):
        if hours_old:
            for file in tmp_path.iterdir():
                os.utime(file, (long_ago, long_ago))
        with atomic_write(path) as aside:
            aside.write_text("whole")
        assert path.read_text() == "whole"
        assert left.exists() != hours_old  # it might be written yet
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["summary.csv", *others])


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, disk_log: list[Any]
) -> None:
    """What a power cut leaves of a rename whose file was not flushed may be empty."""
    with atomic_write(tmp_path / "summary.csv") as aside:
        aside.write_text("new")
        inode = aside.stat().st_ino
    assert disk_log == [inode, "renamed", tmp_path.stat().st_ino]
    disk_log.clear()
    with atomic_write(tmp_path / "summary.csv", flushed=False) as aside:
        aside.write_text("newer")
    assert disk_log == ["renamed"]


def test_of_two_processes_one_holds_the_lock(tmp_path: Path) -> None:
    """The other is not kept waiting, and has it once the first has ended, in whatever way."""

    @contextmanager
    def locked() -> Iterator[None]:
        with (tmp_path / "lock").open("w") as file:
            assert lock(file)
            yield

    with (tmp_path / "lock").open("w") as file:
        with in_another_process(locked):
            assert not lock(file)
        assert lock(file)


def test_a_folder_that_holds_files_is_refused(tmp_path: Path) -> None:
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    (tmp_path / ".hidden").touch()
    with pytest.raises(InputError, match=f"^The folder {tmp_path} holds files already: give anot"):
        check_empty(tmp_path)


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "results.json"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("dangling", "TMP/dangling is a link that leads nowhere: give a folder."),
        ("dangling/run", "TMP/dangling is a link that leads nowhere: give a folder."),
        ("file/run", "TMP/file is a file: give a folder."),
        ("/proc/run", "nothing can be made in /proc (No such file or directory): give another"),
    ],
)
def test_a_folder_that_cannot_be_made_is_refused_before(
    folder: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "dangling").symlink_to("/gone/nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as error:
        check_writable(tmp_path / folder, "--onnx")
    said = f"--onnx: {tmp_path / folder} cannot be written, {reason.replace('TMP', str(tmp_path))}"
    assert str(error.value).startswith(said)


def test_looking_whether_a_folder_can_be_made_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_replaces_nothing_that_it_was_given(tmp_path: Path) -> None:
    """Nor does it leave pictures where the same command would score them the next time."""
    Detector().save_pretrained(tmp_path / "model")
    faces = tmp_path / "faces"
    faces.mkdir()
    Image.new("RGB", (8, 8)).save(faces / "a.png")
    table = tmp_path / "scores.csv"
    table.write_text("path,label\nfaces/a.png,real\n")

    def refused(output: Path, message: str, **given: Any) -> None:
        with pytest.raises(InputError, match=message) as error:
            evaluate(EvaluateConfig(model_dir=f"{tmp_path}/model", output=str(output), **given))
        assert "\n" not in str(error.value)

    before = sorted(tmp_path.rglob("*"))
    refused(tmp_path, "would replace .*scores.csv: give another", data=(str(table),))
    assert table.read_text().startswith("path,label")
    inside = "--output .* lies in .*faces, where its pictures would be taken for images the next"
    refused(faces, inside, data=(str(faces),))
    refused(faces / "out", inside, test_data={"new": str(faces)})
    refused(faces / "out", inside, data=(str(table),), test_real={"new": f"{faces}/../faces"})
    assert sorted(tmp_path.rglob("*")) == before


def test_no_run_within_the_images_that_it_is_tested_on(tmp_path: Path) -> None:
    """Its overlays would be fakes of that generator in the next run; a resumed one goes on."""
    paths = [tmp_path / "faces" / f"{name}.png" for name in ("a", "b", "c", "d", "f")]
    paths += [tmp_path / "new" / "e.png"]
    for shade, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)
    rows = ["a.png,real,train", "b.png,fake,train", "c.png,real,val", "d.png,fake,val"]
    rows.append("f.png,real,test")
    table = tmp_path / "faces" / "table.csv"
    table.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    new = tmp_path / "new"
    config = TrainConfig(
        data=(str(table),), test_data={"new": str(new)}, output=str(new / "runs"), name="x"
    )
    message = "--output .*runs/x lies in .*new, where its pictures would be taken for images the"
    with pytest.raises(InputError, match=message):
        train(config)
    assert [path.name for path in new.iterdir()] == ["e.png"]
    run = resolve(config)
    before = listed_images(run)
    again = listed_images(run, recorded=before, output=new / "runs" / "x")
    assert [sample.path for sample in again] == [sample.path for sample in before]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_says_of_which_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"

    def write(to: str) -> None:
        with atomic_write(path), Path(to).open("w") as file:
            file.write("x")

    with pytest.raises(OSError, match=r"No space left on device.*summary\.csv'$"):
        write("/dev/full")
    with pytest.raises(OSError, match=r"No such file or directory.*/none/x'$"):
        write(f"{tmp_path}/none/x")
    assert not any(tmp_path.iterdir())
