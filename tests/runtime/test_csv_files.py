"""Tables as people save them: a separator or an encoding is read right or refused."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from focus.errors import InputError
from focus.runtime import csv_files
from focus.runtime.csv_files import csv_blocks, csv_form, csv_rows, legible

ROWS = [["path", "label", "score"], ["Zoë, 1.png", "1", "0,93"], ["b.png", "0", "0,07"]]


def quoted(separator: str, end: str = "\r\n") -> str:
    def cell(text: str) -> str:
        return f'"{text}"' if separator in text else text

    return "".join(separator.join(map(cell, row)) + end for row in ROWS)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_each_separator_in_each_encoding(
    separator: str, encoding: str, end: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(quoted(separator, end).encode(encoding))
    form = csv_form(path)
    assert form.separator == separator
    assert form.encoding == {"utf-8-sig": "utf-8"}.get(encoding, encoding)
    assert [[legible(cell) for cell in row] for _, row in csv_rows(path)] == ROWS


def test_what_is_unusual_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(quoted(",").encode())
    assert str(csv_form(path)) == ""
    path.write_bytes(quoted(";").encode("cp1252"))
    assert str(csv_form(path)) == "separated by semicolons, not in UTF-8, taken for cp1252"


@pytest.mark.parametrize(
    ("text", "separator", "cells"),
    [
        ("path,label (0;1)\na.png,1\n", ",", 2),
        ("path;label;note, if any\na.png;1;\nb.png;0;x\n", ";", 3),
        ('path,"a;b"\n"x;y",1\n', ",", 2),
        ("train,Real,/a;b.png\ntrain,Real,/c.png\n", ",", 3),
        ("sep=;\npath;label\na,b;1\n", ";", 2),
        ("\n\npath;label\na,b;1\n", ";", 2),
        ("path\na;b.png\n", ",", 1),
        ("path\tlabel\na, b; c.png\t1\n", "\t", 2),
    ],
)
def test_the_header_tells_the_separator(
    text: str, separator: str, cells: int, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert csv_form(tmp_path / "t.csv").separator == separator
    assert {len(row) for _, row in csv_rows(tmp_path / "t.csv")} == {cells}


@pytest.mark.parametrize(
    "text", ["path;label;score,raw\na;1;0,93\n", "path,label;x\na.png\n", "a,b;c\n"]
)
def test_what_may_be_read_in_two_ways_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=r"t.csv: commas or semicolons may separate its columns"):
        csv_form(tmp_path / "t.csv")


def test_the_lines_are_counted_from_the_file_s_first(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('sep=;\npath;note\na;"two\nlines"\n\nb;c\n')
    assert [line for line, _ in csv_rows(tmp_path / "t.csv")] == [2, 3, 6]


def test_a_cut_off_utf_16_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,label\na.png,1\n".encode("utf-16")[:-1])
    with pytest.raises(InputError, match="begins as UTF-16 text and goes on as none"):
        list(csv_rows(tmp_path / "t.csv"))


def test_bytes_of_names_that_are_no_text_stay_as_they_are() -> None:
    for name in (b"latin1-\xe9.png", b"\x81.png", "ü-".encode() + b"\xe9.png"):
        cell = name.decode("utf-8", "surrogateescape")
        text = legible(cell)
        expected = "latin1-é.png" if name.startswith(b"latin1") else cell
        assert text == expected


NUMBERED_ROWS = "".join(f"faces/{number}.png,{number % 2},\n" for number in range(9))
HARD_TABLES = {
    "plain": "path,label,note\n" + NUMBERED_ROWS,
    "carriage returns": ("path,label,note\n" + NUMBERED_ROWS).replace("\n", "\r\n"),
    "one carriage return": f"path,label,note\n{NUMBERED_ROWS}a.png,1,x\rb.png,0,\n{NUMBERED_ROWS}",
    "no line feed at the end": f"path,label,note\n{NUMBERED_ROWS}a.png,1,x",
    "quotes": f'path,label,note\n{NUMBERED_ROWS}"a, ""b"".png",1,\n{NUMBERED_ROWS}',
    "a quote in a cell": f'path,label,note\n{NUMBERED_ROWS}5" tall.png,1,\n{NUMBERED_ROWS}',
    "a cell of many lines": f'path,label,note\na,1,"{NUMBERED_ROWS}"\n{NUMBERED_ROWS}',
    "a header of two lines": f'path,label,"two\nlines"\n{NUMBERED_ROWS}',
    "blank lines": f"\n\npath,label,note\n\n\n{NUMBERED_ROWS}\n\n\n\n{NUMBERED_ROWS},,\n\n\n",
    "rows without a path": f"path,label,note\n,1,\n{NUMBERED_ROWS},,\n,,x\n",
    "short and long rows": f"path,label,note\n{NUMBERED_ROWS}a.png\n{NUMBERED_ROWS}b.png,1,2,3,4\n",
    "two short rows": f"path,label,note\n{NUMBERED_ROWS}a.png,1\nb.png,\n{NUMBERED_ROWS}",
    "one column": "path\na.png\n \n\nb.png\n",
    "separators at the ends of lines": "path,,\n,a.png,\n,,b.png\n,,\n",
    "semicolons of a spreadsheet": "sep=;\npath;label;note\n" + NUMBERED_ROWS.replace(",", ";"),
    "a mark and other letters": f"\ufeffpath,label,note\n{NUMBERED_ROWS}漢字/é.png,1,\ufeffü\n",
    "an open quote": f'path,label,note\n{NUMBERED_ROWS}"a.png,1,\n{NUMBERED_ROWS}',
    "text behind a quote": f'path,label,note\n{NUMBERED_ROWS}"a".png,1,\n{NUMBERED_ROWS}',
    "a header alone": "path,label",
    "nothing": "",
    "blank lines alone": "\n \n\n",
    "a NUL": f"path,label,note\n{NUMBERED_ROWS}a\0b.png,1,\n",
}
HARD_FILES = {name: text.encode() for name, text in HARD_TABLES.items()} | {
    "UTF-16": HARD_TABLES["quotes"].encode("utf-16"),
    "no UTF-8": HARD_TABLES["plain"].encode() + "Zoë.png,1,\n".encode("cp1252"),
}


@pytest.mark.parametrize("content", HARD_FILES.values(), ids=list(HARD_FILES))
@pytest.mark.parametrize("characters", [1, 30, 2**18])
def test_blocks_hold_the_rows_that_a_parser_reads(
    content: bytes, characters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their lines, up to the same error, wherever a block ends."""
    monkeypatch.setattr(csv_files, "_CUT_CHARACTERS", characters)
    (tmp_path / "t.csv").write_bytes(content)
    columns_fit = True

    def rows_of_blocks() -> Iterator[tuple[int, Sequence[str]]]:
        nonlocal columns_fit
        for block in csv_blocks(tmp_path / "t.csv"):
            rows = [list(row) for row in block.rows]
            if block.columns is not None:
                columns_fit &= [list(row) for row in zip(*block.columns, strict=True)] == rows
            yield from zip(block.numbers, rows, strict=True)

    def told(rows: Iterator[tuple[int, Sequence[str]]]) -> tuple[list[object], str]:
        read: list[object] = []
        try:
            read.extend(rows)
        except InputError as error:
            return read, str(error)
        return read, ""

    expected, error = told(iter(csv_rows(tmp_path / "t.csv")))
    assert told(rows_of_blocks()) == (expected or [(1, [])], error)
    assert columns_fit
