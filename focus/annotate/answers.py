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

    An answer is a row that is appended to the table of its annotator. No row is written again, so
    that not even a second process, which a lock keeps away, can undo the answers of the first.

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

    def mark_of(self, annotator: str, image: str, part: str) -> str:
        """Return the file of a mark, below the folder."""
        ending = "" if part == "main" else f"-{part}"
        return f"{MARKS}/{_file_name(annotator)}/{image}{ending}.png"

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

        Return whether the answer counts: the first one to a question does, and is kept alone. Its
        number among the annotator's answers is set here.

        Raises OSError where the disk is full; earlier answers stay.
        """
        table = self.folder / ANSWERS / f"{_file_name(answer.annotator)}.csv"
        with waiting_for(self.folder / ANSWERS / ".lock"):
            if _state(table) != self._states.get(table):  # another process, or an editor, wrote
                self.read_again()
            earlier = self.of(answer.annotator)
            if any((a.image, a.round) == (answer.image, answer.round) for a in earlier):
                return False
            answer = replace(
                answer, annotator=self.name_of(answer.annotator), shown=len(earlier) + 1
            )
            if mark is not None:
                path = self.folder / answer.mark
                if not path.parent.exists():
                    path.parent.mkdir()
                    flush(path.parent.parent)
                with atomic_write(path) as aside:
                    mark.save(aside, format="PNG", compress_level=1)
            _append(table, answer)
            self._answers[annotator_id(answer.annotator)] = [*earlier, answer]
            self._states[table] = _state(table)
        return True


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
    if table.exists():
        _end_last_row(table)
    is_new = not table.exists() or not table.stat().st_size
    if is_new:
        columns = _COLUMNS
    else:
        with table.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file))  # perhaps of a spreadsheet that has moved them
    values = asdict(answer)
    content = csv_row(columns) if is_new else b""
    content += csv_row(values.get(column, "") for column in columns)
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
    if is_new:
        flush(table.parent)


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
