"""Files that are whole or absent."""

from pathlib import Path

import pytest

from focus.errors import InputError
from focus.writing import check_empty, csv_written_whole, written_whole


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    path.write_text("old")
    with written_whole(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    path.write_text("old")

    def break_off() -> None:
        with written_whole(path) as aside:
            aside.write_text("ne")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]


def test_a_csv_is_whole_or_absent_and_keeps_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    with csv_written_whole(path, "# mark") as writer:
        writer.writerow(["a\udcff", "b,\r"])
        assert not path.exists()
    assert path.read_bytes() == b'# mark\r\na\xff,"b,\r"\r\n'
    with csv_written_whole(path, end="\n") as writer:
        writer.writerow(["c", ""])
    assert path.read_bytes() == b"c,\n"

    def break_off() -> None:
        with csv_written_whole(path) as writer:
            writer.writerow(["d"])
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert path.read_bytes() == b"c,\n"
    assert [file.name for file in tmp_path.iterdir()] == ["bad.csv"]


def test_a_folder_that_holds_files_is_refused(tmp_path: Path) -> None:
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    (tmp_path / ".hidden").touch()
    with pytest.raises(InputError, match=f"^The folder {tmp_path} holds files already: give anot"):
        check_empty(tmp_path)


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "results.json"):
        pass
    assert not list(tmp_path.iterdir())
