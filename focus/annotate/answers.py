"""Keep answers and marks on the disk: whole or not at all, and before anybody goes on."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple, fields
from pathlib import Path

from PIL import Image

from focus.data.known_images import digest_of
from focus.data.manifest import Sample
from focus.data.readers.human_maps import ANNOTATION, MADE_MAPS
from focus.errors import InputError
from focus.evaluation.people import ANSWERS, Answer, read_answers
from focus.runtime.files import atomic_csv_writer, atomic_write

MARKS, VERSION = "marks", 1


class AnswerFolder:
    """A folder of ``focus annotate``, which one process writes at a time.

    faces: The faces, each once, in an order that says nothing of their labels.
    answers: The answers of each annotator, in the order in which they came.
    practice: The rows of the practice round: those of an earlier start, else ``chosen``.

    Raises InputError for a folder of other faces, or of something else.
    """

    def __init__(self, folder: Path, faces: Sequence[Sample], chosen: Sequence[int]) -> None:
        self.folder, self.faces, about = folder, faces, folder / ANNOTATION
        self.numbers = {digest_of(face): number for number, face in enumerate(faces)}
        if not about.exists():
            if others := {entry.name for entry in folder.iterdir()} - {".lock"}:
                raise InputError(
                    f"The folder {folder} holds other files ({min(others)}): give another --output."
                )
            for name in (ANSWERS, MARKS, MADE_MAPS):
                (folder / name).mkdir()
            digests = [digest_of(faces[row]) for row in chosen]
            with atomic_write(about) as aside:
                aside.write_text(json.dumps({"version": VERSION, "practice": digests}) + "\n")
        practice = json.loads(about.read_text())["practice"]
        self.practice = [self.numbers[image] for image in practice if image in self.numbers]
        self.answers = defaultdict[str, list[Answer]](list)
        for answer in read_answers(folder):
            self.answers[answer.annotator].append(answer)
        known = {*practice, *(answer.image for answer in self.all())}
        if (lost := known - self.numbers.keys()) and lost == known:
            raise InputError(
                f"The answers in {folder} are about other faces than these: give their data, or "
                "another --output."
            )
        if lost:
            print(f"{len(lost)} faces that were asked are not in the data; their answers stay.")

    def all(self) -> list[Answer]:
        """Return the answers of all annotators."""
        return [answer for answers in self.answers.values() for answer in answers]

    def mark_of(self, annotator: str, image: str, part: str) -> str:
        """Return the file of a mark, below the folder."""
        ending = "" if part == "main" else f"-{part}"
        return f"{MARKS}/{_plain(annotator)}/{image}{ending}.png"

    def add(self, answer: Answer, mark: Image.Image | None) -> None:
        """Write the mark, then the row: an answer is there, with its mark, or it is not.

        Raises OSError where the disk is full; earlier answers stay.
        """
        answers = [*self.answers[answer.annotator], answer]
        table = self.folder / ANSWERS / f"{_plain(answer.annotator)}.csv"
        with ExitStack() as stack:  # the mark, entered last, is renamed before the row
            writer = stack.enter_context(atomic_csv_writer(table))
            writer.writerow(field.name for field in fields(Answer))
            writer.writerows(map(astuple, answers))
            if mark is not None:
                path = self.folder / answer.mark
                path.parent.mkdir(exist_ok=True)
                mark.save(stack.enter_context(atomic_write(path)), format="PNG", compress_level=1)
        self.answers[answer.annotator] = answers


def _plain(annotator: str) -> str:
    """Return a file name of small letters, digits and dashes, unique to the annotator."""
    plain = re.sub(r"[^a-z0-9]+", "-", annotator.lower()).strip("-")[:40]
    tail = hashlib.blake2b(annotator.encode(), digest_size=8).hexdigest()
    # A plain name with a dash could equal the name made of another annotator.
    return plain if plain == annotator and "-" not in plain else f"{plain or 'name'}-{tail}"
