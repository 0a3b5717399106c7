"""Hand out faces to annotators, and take each answer once."""

import statistics
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.annotate.answers import AnswerFolder
from focus.annotate.order import Keys, balanced, hard_first, repeated
from focus.data.known_images import digest_of
from focus.data.manifest import LABEL_NAMES
from focus.evaluation.people import Answer, by_image

_RECENT = 20  # answers over which the pace is computed
_Question = tuple[int, str]
"""The number of a face, and the round that it is asked in."""


class Desk:
    """Faces that are to be annotated, and who has answered which.

    every: After so many answers an earlier face is asked again; 0 for never.
    margins: The margins [N] of a detector (:func:`focus.annotate.order.hard_first`), which order
        the faces.

    A tab of a browser holds the face that it shows and the next one: no other tab of the annotator
    gets them.
    """

    def __init__(
        self, folder: AnswerFolder, every: int, seed: int, margins: Keys | None = None
    ) -> None:
        self.faces, self.numbers, self.gone = folder.faces, folder.numbers, set[int]()
        self._folder, self._every, self._seed, self._margins = folder, every, seed, margins
        self._keys, self._tabs = dict[str, Keys](), Counter[str]()
        self._held = dict[str, tuple[str, list[_Question]]]()
        self._lock = threading.Lock()

    @contextmanager
    def tab(self, name: str) -> Iterator[None]:
        """Count a tab as open; at the end release its faces, unless it is open again."""
        self._tabs[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._tabs[name] -= 1
                if not self._tabs[name]:
                    self._held.pop(name, None)

    def ask(self, annotator: str, tab: str) -> dict[str, Any]:
        """Return the next question for a tab, the face after it, and the annotator's progress.

        Without a question ``elsewhere`` says whether other tabs hold the last ones.
        """
        with self._lock:
            held = {(who, q) for name, (who, own) in self._held.items() if name != tab for q in own}
            left, answers = self._left(annotator), self._folder.of(annotator)
            coming = (q for q in self._coming(annotator, left) if (annotator, q) not in held)
            free = list(islice(coming, 2))
            if tab:
                self._held[tab] = annotator, free
        seconds = [answer.seconds for answer in answers if answer.round == "main"]
        practised = sum(answer.round == "practice" for answer in answers)
        asked = [{"number": n, "id": digest_of(self.faces[n]), "round": part} for n, part in free]
        return {
            "annotator": annotator,
            "done": len(seconds),
            "left": len(left),
            "pace": statistics.median(seconds[-_RECENT:]) if seconds else None,
            "practice": [practised, len(self._folder.practice)],
            "elsewhere": any(who == annotator for who, _ in held),
            "question": asked[0] if asked else None,
            "after": asked[1] if asked[1:] else None,
        }

    def take(self, number: int, mark: Image.Image | None, **said: Any) -> dict[str, Any]:
        """Write an answer to the disk; return whether it counts, and the label after practice.

        The first answer to a question counts.

        said: annotator, round, answer, confidence and seconds, as fields of an :class:`Answer`.

        Raises ValueError for a face that is not asked for so, OSError where the disk is full.
        """
        face, part = self.faces[number], said["round"]
        digest, is_practice = digest_of(face), number in self._folder.practice
        with self._lock:
            answers = self._folder.of(said["annotator"])
            done = {(answer.image, answer.round) for answer in answers}
            too_early = part == "repeat" and (digest, "main") not in done
            if is_practice != (part == "practice") or too_early:
                raise ValueError("this face is not asked for")
            answer = Answer(
                **{"image": digest, "path": face.path, "shown": 0, **said},
                mark=self._folder.mark_of(said["annotator"], digest, part) if mark else "",
                time=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            counts = self._folder.add(answer, mark)
        label = LABEL_NAMES[face.label or 0] if is_practice else None
        return {"counts": counts, "label": label}

    def _left(self, annotator: str) -> NDArray[np.int64]:
        """Return the faces of the main round that are left, in order."""
        if annotator not in self._keys:
            self._keys[annotator] = balanced(self.faces, self._seed, annotator)
        said = by_image(self._folder.all() if self._margins is not None else ())
        differ = [image for image, answers in said.items() if len({a.answer for a in answers}) > 1]
        disputed = [self.numbers.get(image, -1) for image in differ]
        order = np.argsort(hard_first(self._keys[annotator], self._margins, disputed))
        main = (a.image for a in self._folder.of(annotator) if a.round == "main")
        closed = {self.numbers.get(image, -1) for image in main} | self.gone
        return order[~np.isin(order, [*closed, *self._folder.practice])]

    def _coming(self, annotator: str, left: NDArray[np.int64]) -> Iterator[_Question]:
        """Yield the questions that the annotator has not answered yet, in order."""
        answers = self._folder.of(annotator)
        done = {(self.numbers.get(answer.image, -1), answer.round) for answer in answers}
        main = [self.numbers.get(answer.image, -1) for answer in answers if answer.round == "main"]
        asked = [(number, "practice") for number in self._folder.practice]
        again, count = 0, len(main)
        for number in [*left.tolist(), -1]:  # -1: repeats after the last face
            while self._every and again < count // self._every:
                at = repeated(self._seed, annotator, again, self._every)
                asked += [(main[at], "repeat")] if at < len(main) else []
                again += 1
            asked.append((number, "main"))
            count += 1
            yield from (q for q in asked if q not in done and q[0] not in {-1, *self.gone})
            asked = []
