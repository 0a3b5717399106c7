"""Read CSV files as people have them.

The separator and the encoding are recognised, and only where they are certain: a table that could
be read in two ways is refused.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, TextIO

from focus.errors import InputError, shown

# A row has what it has: the maps of an image's many annotators are one cell.
csv.field_size_limit(2**31 - 1)
_MOST_COLUMNS = 10_000

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_EXCEL_SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)
"""The first line of some tables that Excel reads: the separator of the others."""
_SAMPLED_CHARACTERS, _SAMPLED_ROWS = 2**18, 100
_BLOCK = 2**20  # bytes
_CUT_CHARACTERS = 2**18
_FEWEST_CUT = 2  # columns: a row of one column is blank if its cell is a space
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class CsvForm:
    """How a CSV is written.

    encoding: ``utf-8``, ``utf-16``, or ``cp1252`` for any other bytes. separator: What stands
    between the columns. lines_before: How many lines precede the header.
    """

    encoding: str = "utf-8"
    separator: str = ","
    lines_before: int = 0

    def __str__(self) -> str:
        """Return what is unusual about it in words, "" for UTF-8 with commas."""
        parts = []
        if self.separator != ",":
            name = _SEPARATORS.get(self.separator, repr(self.separator))
            parts.append(f"separated by {name}")
        if self.encoding == "utf-16":
            parts.append("in UTF-16")
        if self.encoding == "cp1252":
            parts.append("not in UTF-8, taken for cp1252")
        return ", ".join(parts)


def csv_form(path: str | Path) -> CsvForm:
    """Return how a CSV is written, by all its bytes and the separators in its first line.

    A separator is taken if no other is in the first line, or if with no other all of the first
    rows have as many columns. Raises InputError where that leaves none or several.
    """
    try:
        encoding = _encoding(Path(path))
        with _opened(Path(path), encoding) as text:
            sample = text.read(_SAMPLED_CHARACTERS)
    except (OSError, UnicodeError) as error:
        raise _unreadable(path, error) from error
    if len(sample) == _SAMPLED_CHARACTERS:
        sample = sample[: sample.rfind("\n") + 1]  # whole lines

    lines = re.split("\r\n|\r|\n", sample)
    of_excel = _EXCEL_SEPARATOR.fullmatch(lines[0])
    if of_excel:
        return CsvForm(encoding, of_excel[1], lines_before=1)

    first_line = next((line for line in lines if line.strip()), "")
    candidates = [separator for separator in _SEPARATORS if separator in first_line]
    if len(candidates) > 1:
        return CsvForm(encoding, _agreed_separator(sample, candidates, path, first_line))
    return CsvForm(encoding, candidates[0] if candidates else ",")


def csv_rows(path: str | Path, form: CsvForm | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a CSV that are not blank, each with the number of its first line.

    Bytes that are not UTF-8 are kept as they are; :func:`legible` makes them text. A row of empty
    cells counts as blank, as a spreadsheet leaves it behind.

    form: How the file is written, by default what :func:`csv_form` returns. Raises InputError.
    """
    form = form or csv_form(path)
    line = 1 + form.lines_before
    with _lines_of(path, form) as text:
        for row in _parsed_rows(text, path, form.separator, line):
            yield row.line, row.cells


@dataclass(frozen=True)
class CsvBlock:
    """Some thousand rows of a CSV that follow one another.

    numbers: The number of each row's first line. columns: The cells of each column; None if a row
    has not as many as the header. rows: The cells of each row, which can be read once.
    """

    numbers: Sequence[int]
    columns: Sequence[Sequence[str]] | None
    rows: Iterable[Sequence[str]]


def csv_blocks(path: str | Path) -> Iterator[CsvBlock]:
    """Yield the rows of :func:`csv_rows` by blocks, the first of which is the header alone.

    In a file without rows the header is empty.

    A block without quotes is cut at each separator, which takes a tenth of the time of a parser.
    Raises InputError as :func:`csv_rows`, once the rows before the wrong one have been yielded.
    """
    form = csv_form(path)
    with _lines_of(path, form) as text:
        header = next(_parsed_rows(text, path, form.separator, 1 + form.lines_before), None)
        if header is None:
            yield CsvBlock([1], None, [[]])
            return
        yield CsvBlock([header.line], [[cell] for cell in header.cells], [header.cells])

        line = header.next_line
        while block := text.read(_CUT_CHARACTERS):
            if not block.endswith("\n"):
                block += text.readline()
            columns = _cut_at_separators(block, form.separator, len(header.cells))
            if columns is not None:
                numbers = range(line, line + len(columns[0]))
                yield CsvBlock(numbers, columns, zip(*columns, strict=True))
                line = numbers.stop
                continue

            # Rows are read until one ends behind the block: a cell in quotes may go on there.
            lines = chain(io.StringIO(block, newline=""), text)
            end_of_block = line + sum(1 for _ in io.StringIO(block, newline=""))
            rows: list[_ParsedRow] = []
            try:
                for row in _parsed_rows(lines, path, form.separator, line):
                    rows.append(row)
                    line = row.next_line
                    if line >= end_of_block:
                        break
            except InputError:
                yield _block_of(rows, len(header.cells))
                raise
            line = max(line, end_of_block)  # blank lines at the end of a block make no row
            yield _block_of(rows, len(header.cells))


class _ParsedRow(NamedTuple):
    """A row, the number of its first line, and that of the line behind it."""

    line: int
    cells: list[str]
    next_line: int


def _parsed_rows(
    lines: Iterable[str], path: str | Path, separator: str, line: int
) -> Iterator[_ParsedRow]:
    """Yield the rows of lines, of which ``line`` is the number of the first."""
    first_line = line
    try:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        for cells in reader:
            if len(cells) > _MOST_COLUMNS:
                raise InputError(
                    f"{path}, line {line}: {len(cells)} columns, more than {_MOST_COLUMNS}: give "
                    "a table with a row for each image."
                )
            next_line = first_line + reader.line_num
            if _has_content(cells):
                yield _ParsedRow(line, cells, next_line)
            line = next_line
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not a row of a CSV ({error}); fix it.") from error


def _cut_at_separators(block: str, separator: str, n_columns: int) -> list[list[str]] | None:
    """Return the columns of whole lines; None if they need a parser.

    They do if a cell is quoted, a line is blank or has another number of cells, or a carriage
    return stands alone.
    """
    if '"' in block or n_columns < _FEWEST_CUT:
        return None
    if "\r" in block:
        block = block.replace("\r\n", "\n")
        if "\r" in block:
            return None
    if not block.endswith("\n"):
        block += "\n"
    cells = block.replace("\n", f"{separator}\n{separator}").split(separator)
    cells.pop()  # behind the last line
    n_even_lines = cells[n_columns :: n_columns + 1].count("\n")
    if n_even_lines != block.count("\n") or n_even_lines * (n_columns + 1) != len(cells):
        return None
    columns = [cells[number :: n_columns + 1] for number in range(n_columns)]
    # A row of empty cells counts as blank.
    return columns if all(columns[0]) or all(map(any, zip(*columns, strict=True))) else None


def _block_of(rows: Sequence[_ParsedRow], n_columns: int) -> CsvBlock:
    cells = [row.cells for row in rows]
    is_even = {*map(len, cells)} == {n_columns}
    columns = list(zip(*cells, strict=True)) if is_even else None
    return CsvBlock([row.line for row in rows], columns, cells)


def read_numbers(path: Path) -> list[dict[str, float]]:
    """Return the rows of a table of numbers that this program wrote, NaN for an empty cell."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(cell) if cell else math.nan for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]


def legible(cell: str) -> str:
    """Return a cell of :func:`csv_rows` as text: bytes that are not UTF-8 are taken for cp1252.

    A cell that has other text beyond ASCII, and one that is not cp1252 either, stays as it is.
    """
    if cell.isascii() or not _NOT_UTF_8.search(cell):
        return cell
    if not _NOT_UTF_8.sub("", cell).isascii():
        return cell
    try:
        return cell.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeDecodeError:
        return cell


def column_count_error(cells: Sequence[str], header: Sequence[str]) -> ValueError:
    """Return the error of a row that has another number of columns than the header."""
    text = f"{len(cells)} columns instead of {len(header)}"
    numbers = [cell for cell in cells if cell.strip().isdecimal()]
    if len(cells) > len(header) and len(numbers) > 1:
        text += " (numbers with a decimal comma need quotes, or columns separated by semicolons)"
    return ValueError(text)


def _agreed_separator(
    sample: str, separators: Sequence[str], path: str | Path, first_line: str
) -> str:
    """Return the one separator with which the first rows have equally many columns."""
    agreeing = [
        separator for separator in separators if len(_column_counts(sample, separator)) == 1
    ]
    if len(agreeing) != 1:
        names = " or ".join(_SEPARATORS[separator] for separator in separators)
        raise InputError(
            f"{path}: {names} may separate its columns, as its first line is "
            f"{shown(first_line[:60])!r}: save it with one of them, and quote cells that hold "
            "another."
        )
    return agreeing[0]


def _column_counts(sample: str, separator: str) -> set[int]:
    """Return the numbers of columns in the first rows; none if these are no rows of a CSV."""
    rows = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, strict=True)
    try:
        return {len(row) for row in islice(rows, _SAMPLED_ROWS) if _has_content(row)}
    except csv.Error:
        return set()


def _has_content(row: Sequence[str]) -> bool:
    """Return whether a row is more than a blank line, or empty cells of a spreadsheet."""
    return any(row) and (len(row) > 1 or bool(row[0].strip()))


def _encoding(path: Path) -> str:
    """Return utf-16 for a text with its mark, utf-8 if all of it decodes as that, else cp1252."""
    with path.open("rb") as file:
        beginning = file.read(4)
        if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(beginning)
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


@contextmanager
def _lines_of(path: str | Path, form: CsvForm) -> Iterator[TextIO]:
    """Open a CSV where its header begins; an error in reading it becomes an InputError."""
    try:
        with _opened(Path(path), form.encoding) as text:
            for _ in range(form.lines_before):
                next(text)
            yield text
    except (OSError, UnicodeError) as error:
        raise _unreadable(path, error) from error


def _opened(path: Path, encoding: str) -> TextIO:
    if encoding == "utf-16":
        return path.open(encoding="utf-16", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _unreadable(path: str | Path, error: OSError | UnicodeError) -> InputError:
    if isinstance(error, UnicodeError):
        return InputError(f"{path} begins as UTF-16 text and goes on as none: save it as UTF-8.")
    return InputError(f"Cannot read {path} ({error.strerror or error}): check the path.")
