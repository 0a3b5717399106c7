"""Decide which face an annotator sees next, hand it out, and take each answer once."""

import statistics
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.annotate.answers import AnswerFolder
from focus.data.known_images import digest_of
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Sample
from focus.evaluation.people import Answer, annotator_id, by_image

Keys = NDArray[np.float64]
"""A number for each face, by which faces are sorted."""
UNSURE = 0.25
"""A detector is unsure where its score is nearer than this to its threshold."""
# How many faces of its kind one may be early or late, so that nobody can predict the next class.
_SPREAD, _PERSONAL = 4, 8
_RECENT = 20  # answers over which the pace is computed
_HOLD = 600.0  # seconds, longer than nearly everybody looks at a face
_MAX_TABS = 16  # of an annotator, that hold faces
_MAX_HOLDS = 1024  # of all, so that made-up names do not fill the memory
_Question = tuple[int, str]
"""The number of a face, and the round that it is asked in."""


@dataclass(frozen=True)
class _Hold:
    """What a tab shows and has loaded: two questions at most.

    until: When it lapses, in seconds of the monotonic clock.
    """

    questions: list[_Question]
    until: float


class Desk:
    """Faces that are to be annotated, and who has answered which.

    every: After so many answers an earlier face is asked again; 0 for never.
    margins: The margins [N] of a detector (:func:`hard_first`), which order
        the faces.

    A tab of a browser holds the face that it shows and the next one: another tab of the annotator
    gets them once there are no others. It holds them until it closes, or for ten minutes. Under
    another name nobody holds or releases them. A name holds faces in ``_MAX_TABS`` tabs, all names
    in ``_MAX_HOLDS``: further tabs are asked for faces, but hold none, so that no number of
    requests takes away what a page holds.
    """

    def __init__(
        self, folder: AnswerFolder, every: int, seed: int, margins: Keys | None = None
    ) -> None:
        self.faces = folder.faces
        self.numbers = folder.numbers
        """The number of each face by its digest."""
        self.gone: set[int] = set()
        """Faces whose file cannot be read any more."""
        self._folder = folder
        self._every = every
        self._seed = seed
        self._margins = margins
        self._keys = lru_cache(maxsize=64)(partial(balanced, folder.faces, seed))
        self._holds: dict[tuple[str, str], _Hold] = {}
        """What each tab holds, by annotator_id and tab."""
        self._lock = threading.Lock()

    def leave(self, annotator: str, tab: str) -> None:
        """Release the faces of an annotator's tab that is closed."""
        with self._lock:
            self._holds.pop((annotator_id(annotator), tab), None)

    def ask(self, annotator: str, tab: str) -> dict[str, Any]:
        """Return the next question for a tab, the face after it, and the annotator's progress.

        ``last`` is the question of the annotator's latest answer, which may be mended; None before
        the first one, and after a practice round, whose answers have been told.
        """
        with self._lock:
            annotator = self._folder.name_of(annotator)
            answers = self._folder.of(annotator)
            remaining = self._remaining(annotator)
            questions = self._for_tab(annotator, tab, remaining)
            self._hold(annotator, tab, questions)
            last = self._last(answers)
        seconds = [answer.seconds for answer in answers if answer.round == "main"]
        practised = sum(answer.round == "practice" for answer in answers)
        asked = [
            {"number": number, "id": digest_of(self.faces[number]), "round": part, "mended": 0}
            for number, part in questions
        ]
        return {
            "annotator": annotator,
            "done": len(seconds),
            "left": len(remaining),
            "pace": statistics.median(seconds[-_RECENT:]) if seconds else None,
            "practice": [practised, len(self._folder.practice)],
            "question": asked[0] if asked else None,
            "after": asked[1] if asked[1:] else None,
            "last": last,
        }

    def _last(self, answers: Sequence[Answer]) -> dict[str, Any] | None:
        """Return the question that the latest answer is to, as it is asked to mend it."""
        if not answers:
            return None
        last = answers[-1]
        number = self.numbers.get(last.image, -1)
        if last.round == "practice" or number in {-1, *self.gone}:
            return None
        return {
            "number": number,
            "id": last.image,
            "round": last.round,
            "mended": last.mended + 1,
        }

    def _for_tab(self, annotator: str, tab: str, remaining: NDArray[np.int64]) -> list[_Question]:
        """Return two questions for a tab, or those that there are.

        What other tabs of the annotator hold comes last, so that no number of tabs, nor of requests
        that name one, can keep a face from who is there.
        """
        now, identity = time.monotonic(), annotator_id(annotator)
        held_elsewhere = {
            question
            for (holder, other), hold in self._holds.items()
            if holder == identity and other != tab and hold.until > now
            for question in hold.questions
        }
        questions: list[_Question] = []
        last: list[_Question] = []
        for question in self._coming(annotator, remaining):
            (last if question in held_elsewhere else questions).append(question)
            if len(questions) == 2:
                break
        return [*questions, *last][:2]

    def _hold(self, annotator: str, tab: str, questions: list[_Question]) -> None:
        """Note what a tab holds, nothing for a request without a tab and for one tab too many."""
        if not tab:
            return
        identity = annotator_id(annotator)
        now = time.monotonic()

        self._holds.pop((identity, tab), None)
        lapsed = [key for key, hold in self._holds.items() if hold.until <= now]
        for key in lapsed:
            del self._holds[key]

        tabs = sum(holder == identity for holder, _ in self._holds)
        if tabs < _MAX_TABS and len(self._holds) < _MAX_HOLDS:
            self._holds[identity, tab] = _Hold(questions, now + _HOLD)

    def take(self, number: int, mark: Image.Image | None, **said: Any) -> dict[str, Any]:
        """Write an answer to the disk; return whether it counts, and the label after practice.

        The first answer to a question counts, or one that mends the answer which counts now.

        said: annotator, round, answer, confidence, seconds and mended, as fields of an
            :class:`Answer`.

        Raises ValueError for a face that is not asked for so, OSError where the disk is full.
        """
        face, part = self.faces[number], said["round"]
        digest, is_practice = digest_of(face), number in self._folder.practice
        with self._lock:
            is_answered = self._folder.answer_to(said["annotator"], digest, "main") is not None
            too_early = part == "repeat" and not is_answered
            too_late = part == "practice" and said["mended"] > 0
            if is_practice != (part == "practice") or too_early or too_late:
                raise ValueError("this face is not asked for")
            mark_path = self._folder.mark_of(said["annotator"], digest, part, said["mended"])
            answer = Answer(
                image=digest,
                path=face.path,
                shown=0,  # set when it is added
                mark=mark_path if mark else "",
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                **said,
            )
            counts = self._folder.add(answer, mark)
        label = LABEL_NAMES[face.label or 0] if is_practice else None
        return {"counts": counts, "label": label}

    def _remaining(self, annotator: str) -> NDArray[np.int64]:
        """Return the faces of the main round that the annotator has not answered, in order."""
        keys = hard_first(self._keys(annotator), self._margins, self._disputed())
        order = np.argsort(keys)
        closed = {*self._answered_in_main_round(annotator), *self.gone, *self._folder.practice}
        return order[~np.isin(order, [*closed])]

    def _disputed(self) -> list[int]:
        """Return the faces on which annotators disagree, which matters beside a detector alone."""
        if self._margins is None:
            return []
        return [
            self.numbers.get(image, -1)
            for image, answers in by_image(self._folder.all()).items()
            if len({answer.answer for answer in answers}) > 1
        ]

    def _answered_in_main_round(self, annotator: str) -> list[int]:
        """Return the faces in the order of the answers; -1 for one that is not in the data."""
        answers = self._folder.of(annotator)
        return [self.numbers.get(answer.image, -1) for answer in answers if answer.round == "main"]

    def _coming(self, annotator: str, remaining: NDArray[np.int64]) -> Iterator[_Question]:
        """Yield the questions that the annotator has not answered yet, in order."""
        answers = self._folder.of(annotator)
        done = {(self.numbers.get(answer.image, -1), answer.round) for answer in answers}
        for question in self._round(annotator, remaining):
            number, _ = question
            if question not in done and number != -1 and number not in self.gone:
                yield question

    def _round(self, annotator: str, remaining: NDArray[np.int64]) -> Iterator[_Question]:
        """Yield practice, then the remaining faces with repeats between them, answered or not.

        After so many answers in the main round comes the next repeat, also after the last face.
        """
        for number in self._folder.practice:
            yield number, "practice"
        answered = self._answered_in_main_round(annotator)
        n_repeats = 0
        for n_asked, number in enumerate([*remaining.tolist(), None], start=len(answered)):
            while self._every and n_repeats < n_asked // self._every:
                answer_number = repeated(self._seed, annotator, n_repeats, self._every)
                if answer_number < len(answered):
                    yield answered[answer_number], "repeat"
                n_repeats += 1
            if number is not None:
                yield number, "main"


def balanced(faces: Sequence[Sample], seed: int, annotator: str = "") -> Keys:
    """Return [N], by which to sort: the classes take turns, and in each its generators.

    Every beginning has about as many faces of each kind, until a kind is used up. Annotators see
    about the same faces first, each in another order, so that those who stop early share faces.
    """
    kinds = [(face.label, face.generator or face.extra.get("source", "")) for face in faces]
    per_class = Counter(label for label, _ in set(kinds))
    rows = defaultdict[tuple[int | None, str], list[int]](list)
    for row, kind in enumerate(kinds):
        rows[kind].append(row)
    random = np.random.default_rng(seed)
    keys = np.zeros(len(faces))
    for kind in sorted(rows, key=str):
        drawn = random.permutation(rows[kind])
        keys[drawn] = np.arange(len(drawn)) + _SPREAD * random.random(len(drawn))
        keys[drawn] *= per_class[kind[0]]
    personal = np.random.default_rng([seed, zlib.crc32(annotator.encode())])
    return np.asarray(keys + _PERSONAL * personal.random(len(faces)))


def practice(faces: Sequence[Sample], count: int, seed: int) -> list[int]:
    """Return the rows of the practice round: as many real as synthetic faces, mixed.

    The round is empty if fewer than twice as many faces have a label, or a class has too few.
    """
    order = np.argsort(balanced(faces, seed)).tolist()
    real = [row for row in order if faces[row].label == REAL]
    fake = [row for row in order if faces[row].label == SYNTHETIC]
    n_real = count // 2
    n_fake = count - n_real
    if len(real) + len(fake) < 2 * count or len(real) < n_real or len(fake) < n_fake:
        return []
    mixed = np.random.default_rng(seed).permutation(real[:n_real] + fake[:n_fake])
    return [int(row) for row in mixed]


def hard_first(keys: Keys, margins: Keys | None, disputed: Sequence[int]) -> Keys:
    """Return the keys [N] with hard faces first; without ``margins`` as they are.

    margins: How far a detector's score is on the right side of its threshold, [N], below 0 where it
        is wrong. Faces below ``UNSURE`` come first, the most wrong one at the very beginning.
    disputed: The rows on which annotators disagree; they follow.
    """
    if margins is None:
        return keys
    disagreed = np.isin(np.arange(len(keys)), disputed)
    return np.where(margins < UNSURE, margins - 2e9, keys - 1e9 * disagreed)


def repeated(seed: int, annotator: str, number: int, every: int) -> int:
    """Return which answer is asked again, from 0: one of the last ``every`` but the latest 5."""
    random = np.random.default_rng([seed, zlib.crc32(annotator.encode()), number])
    return number * every + int(random.integers(max(1, every - 5)))
