"""Keep answers and marks on the disk: whole or not at all, and before anybody goes on."""

import csv
import errno
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from focus.data.known_images import digest_of
from focus.data.manifest import Sample
from focus.data.readers.human_maps import ANNOTATION, MADE_MAPS
from focus.errors import InputError
from focus.evaluation.people import (
    ANSWERS,
    Answer,
    annotator_id,
    answers_in,
    end_of_rows,
    read_answers,
)
from focus.runtime.files import LOCK_FILES, atomic_write, csv_row, flush, waiting_for

MARKS, VERSION = "marks", 1
PAGE_LINK = "open.html"
"""The file that leads the browser to the page, while it is served."""
_COLUMNS = [field.name for field in fields(Answer)]


class AnswerFolder:
    """A folder of ``focus annotate``, which one process serves at a time.

    faces: The faces, each once, in an order that says nothing of their labels.
    practice: The rows of the practice round: those of an earlier start, else ``chosen``.

    An answer is a row that is appended to the table of its annotator, and a mended answer is one
    more. No row is written again, so that not even a second process, which a lock keeps away, can
    undo the answers of the first.

    Raises InputError for a folder of other faces, or of something else.
    """

    def __init__(self, folder: Path, faces: Sequence[Sample], chosen: Sequence[int]) -> None:
        self.folder, self.faces = folder, faces
        self.numbers = {digest_of(face): number for number, face in enumerate(faces)}
        _prepare(folder, [digest_of(faces[row]) for row in chosen])
        practice = json.loads((folder / ANNOTATION).read_text())["practice"]
        self.practice = [self.numbers[image] for image in practice if image in self.numbers]
        self._answers: dict[str, list[Answer]] = {}
        self._states: dict[Path, _FileState | None] = {}
        self.read_again()
        asked = {*practice, *(answer.image for answer in self.all())}
        lost = asked - self.numbers.keys()
        if lost and lost == asked:
            raise InputError(
                f"The answers in {folder} are about other faces than these: give their data, or "
                "another --output."
            )
        if lost:
            print(f"{len(lost)} faces that were asked are not in the data; their answers stay.")

    def all(self) -> list[Answer]:
        """Return the answers of all annotators."""
        return [answer for answers in self._answers.values() for answer in answers]

    def of(self, annotator: str) -> list[Answer]:
        """Return the answers of an annotator, however the name is spelled, in their order."""
        return self._answers.get(annotator_id(annotator), [])

    def name_of(self, annotator: str) -> str:
        """Return an annotator's name as it was spelled in the first answer, if there is one."""
        answers = self.of(annotator)
        return answers[0].annotator if answers else annotator

    def mark_of(self, annotator: str, image: str, part: str, mended: int = 0) -> str:
        """Return the file of a mark, below the folder; that of a mended answer is another one."""
        ending = "" if part == "main" else f"-{part}"
        if mended:
            ending += f"-mended-{mended}"
        return f"{MARKS}/{_file_name(annotator)}/{image}{ending}.png"

    def answer_to(self, annotator: str, image: str, part: str) -> Answer | None:
        """Return what an annotator says of an image in a round, None if it is not answered."""
        for answer in self.of(annotator):
            if (answer.image, answer.round) == (image, part):
                return answer
        return None

    def read_again(self) -> None:
        """Read the answers that are on the disk now."""
        tables = [*(self.folder / ANSWERS).glob("*.csv")]
        self._states = {table: _state(table) for table in tables}
        answers = defaultdict[str, list[Answer]](list)
        for answer in read_answers(self.folder):
            answers[annotator_id(answer.annotator)].append(answer)
        self._answers = dict(answers)

    def add(self, answer: Answer, mark: Image.Image | None) -> bool:
        """Write the mark, then the row: an answer is there, with its mark, or it is not.

        Return whether the answer counts, else it is not kept: the first one to a question does, and
        one that mends the answer which counts now. ``shown`` is set here: the number among the
        annotator's answers, or that of the answer which is mended.

        Raises OSError where the disk is full; earlier answers stay.
        """
        with waiting_for(self.folder / ANSWERS / ".lock"):
            if self._is_changed(answer.annotator):  # by another process, or an editor
                self.read_again()
            earlier = self.of(answer.annotator)
            replaced = self.answer_to(answer.annotator, answer.image, answer.round)
            if answer.mended != (0 if replaced is None else replaced.mended + 1):
                return False
            numbers = (earlier_answer.shown for earlier_answer in earlier)
            answer = replace(
                answer,
                annotator=self.name_of(answer.annotator),
                shown=max(numbers, default=0) + 1 if replaced is None else replaced.shown,
            )
            if mark is not None:
                path = self.folder / answer.mark
                if not path.parent.exists():
                    path.parent.mkdir()
                    flush(path.parent.parent)
                with atomic_write(path) as aside:
                    mark.save(aside, format="PNG", compress_level=1)
            table = self._table_to_append(answer.annotator)
            _append(table, answer)
            self._states[table] = _state(table)
            if replaced is None:
                answers = [*earlier, answer]
            else:
                answers = [answer if other is replaced else other for other in earlier]
            self._answers[annotator_id(answer.annotator)] = answers
        return True

    def _is_changed(self, annotator: str) -> bool:
        """Tell whether a table of an annotator is not as this process has read or written it."""
        return any(_state(table) != self._states.get(table) for table in self._tables(annotator))

    def _table_to_append(self, annotator: str) -> Path:
        """Return the annotator's first table that has all columns, or a new one.

        A table of an earlier version lacks a column, and no row of it is written again.
        """
        for table in self._tables(annotator):
            columns = _columns_of(table)
            if not columns or {*_COLUMNS} <= {*columns}:
                return table
        raise AssertionError("the last table is a new one")

    def _tables(self, annotator: str) -> list[Path]:
        """Return the tables of an annotator that are there, and the one that would be next."""
        name = _file_name(annotator)
        tables = [self.folder / ANSWERS / f"{name}.csv"]
        while tables[-1].exists():
            # No other annotator's: where a name has a dash, its file name ends in a digest.
            tables.append(self.folder / ANSWERS / f"{name}-{len(tables) + 1}.csv")
        return tables


def _prepare(folder: Path, practice: Sequence[str]) -> None:
    """Make what a folder of answers has, and remove what a process that was killed left.

    practice: The digests of the practice round of a new folder.
    """
    record = folder / ANNOTATION
    if not record.exists():
        names = {entry.name for entry in folder.iterdir() if entry.suffix != ".part"}
        others = names - {*LOCK_FILES, PAGE_LINK}
        if others:
            raise InputError(
                f"The folder {folder} holds other files ({min(others)}): give another --output."
            )
        with atomic_write(record) as aside:
            aside.write_text(json.dumps({"version": VERSION, "practice": practice}) + "\n")
    for name in (ANSWERS, MARKS, MADE_MAPS):
        (folder / name).mkdir(exist_ok=True)
    flush(folder)
    for part in folder.rglob("*.part"):
        part.unlink()
    for table in (folder / ANSWERS).glob("*.csv"):
        _end_last_row(table)


def _append(table: Path, answer: Answer) -> None:
    """Append the row of an answer to a table, and wait until it is on the disk.

    An error leaves the table as it was.
    """
    columns = _columns_of(table)  # perhaps of a spreadsheet that has moved them
    values = asdict(answer)
    content = csv_row(values.get(column, "") for column in columns or _COLUMNS)
    if not columns:
        content = csv_row(_COLUMNS) + content
    with table.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(table))
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # else the next row finds it
                file.truncate(size)
            raise
    if not columns:
        flush(table.parent)


def _columns_of(table: Path) -> list[str]:
    """Return the columns of a table, whose last row is ended before; none if there is no table."""
    if not table.exists():
        return []
    _end_last_row(table)
    with table.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _end_last_row(table: Path) -> None:
    """Remove a last row that is cut short; end one that is whole, from an editor, by a line end."""
    content = table.read_bytes()
    end = end_of_rows(content)
    if end == len(content):
        return
    is_whole = len(answers_in(content, table)) > len(answers_in(content[:end], table))
    with table.open("r+b") as file:
        if is_whole:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        else:
            file.truncate(end)


class _FileState(NamedTuple):
    """What changes when a file is written or replaced."""

    inode: int
    size: int
    modified: int


def _state(path: Path) -> _FileState | None:
    """Return the state of a file, None if there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return _FileState(stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _file_name(annotator: str) -> str:
    """Return a file name of small letters, digits and dashes, unique to the annotator."""
    identity = annotator_id(annotator)
    plain = re.sub(r"[^a-z0-9]+", "-", identity).strip("-")[:40]
    tail = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    # A plain name with a dash could equal the name made of another annotator.
    return plain if plain == identity and "-" not in plain else f"{plain or 'name'}-{tail}"
