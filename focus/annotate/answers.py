"""Keep answers and marks on the disk: whole or not at all, and before anybody goes on."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from PIL import Image

from focus.data.known_images import CONTENT
from focus.data.manifest import Sample
from focus.data.readers.human_maps import ANNOTATION, MADE_MAPS
from focus.errors import InputError
from focus.evaluation.people import ANSWERS, Answer, read_answers
from focus.runtime.files import atomic_csv_writer, atomic_write
from focus.runtime.json_files import read_json, write_json

MARKS, VERSION = "marks", 1
_NAME = re.compile(r"\w[^/\\<>]{0,59}")


@dataclass(frozen=True)
class _About:
    practice: list[str]


class AnswerFolder:
    """A folder of ``focus annotate``, which one process writes at a time.

    given: the answers of each annotator, in their order. practice: rows of ``faces`` for the
    practice round: those of an earlier start, else those ``chosen``. Raises InputError for a folder
    that is not about these faces, or holds something else.
    """

    def __init__(self, folder: Path, faces: Sequence[Sample], chosen: Sequence[int]) -> None:
        self.folder, about = folder, folder / ANNOTATION
        rows = {digest_of(face): row for row, face in enumerate(faces)}
        if not about.exists():
            if others := {entry.name for entry in folder.iterdir()} - {".lock"}:
                raise InputError(
                    f"The folder {folder} holds other files ({min(others)}): give another --output."
                )
            for name in (ANSWERS, MARKS, MADE_MAPS):
                (folder / name).mkdir()
            write_json(about, _About([digest_of(faces[row]) for row in chosen]), VERSION)
        practice = read_json(about, _About, "give another --output", VERSION).practice
        self.practice = [rows[digest] for digest in practice if digest in rows]
        self.given = defaultdict[str, list[Answer]](list)
        for answer in read_answers(folder):
            self.given[answer.annotator].append(answer)
        known = {answer.image for given in self.given.values() for answer in given} | {*practice}
        if lost := known - rows.keys():
            if lost == known:
                raise InputError(
                    f"The answers in {folder} are about other faces than these: give their data, "
                    "or another --output."
                )
            print(f"{len(lost)} faces that were asked are not in the data; their answers stay.")

    def mark_of(self, annotator: str, image: str, part: str) -> str:
        """Return the file of a mark, below the folder."""
        ending = "" if part == "main" else f"-{part}"
        return f"{MARKS}/{_plain(annotator)}/{image}{ending}.png"

    def add(self, answer: Answer, mark: Image.Image | None) -> None:
        """Write the mark, then the row: an answer is there, with its mark, or it is not.

        Raises OSError where the disk is full; earlier answers stay.
        """
        given = [*self.given[answer.annotator], answer]
        table = self.folder / ANSWERS / f"{_plain(answer.annotator)}.csv"
        with ExitStack() as stack:  # the mark, entered last, is in its place before the row
            writer = stack.enter_context(atomic_csv_writer(table))
            writer.writerow(field.name for field in fields(Answer))
            writer.writerows(map(astuple, given))
            if mark is not None:
                place = self.folder / answer.mark
                place.parent.mkdir(exist_ok=True)
                mark.save(stack.enter_context(atomic_write(place)), format="PNG", compress_level=1)
        self.given[answer.annotator] = given


def checked_name(name: object) -> str:
    """Return an annotator's name without spaces around it; raises InputError for what is none."""
    text = " ".join(name.split()) if isinstance(name, str) else ""
    if not (_NAME.fullmatch(text) and text.isprintable()):
        raise InputError(
            "A name begins with a letter or a digit and has at most 60 characters, without slashes "
            "and angle brackets: give another one."
        )
    return text


def digest_of(face: Sample) -> str:
    """Return the digest of a checked image's content."""
    return face.extra[CONTENT]


def _plain(annotator: str) -> str:
    """Return a name for files, of small letters, digits and dashes: another for each annotator."""
    plain = re.sub(r"[^a-z0-9]+", "-", annotator.lower()).strip("-")[:40]
    tail = hashlib.blake2b(annotator.encode(), digest_size=4).hexdigest()
    return plain if plain == annotator else f"{plain}-{tail}".strip("-")
