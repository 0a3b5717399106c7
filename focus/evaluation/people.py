"""Measure how well people tell synthetic faces from real ones, and beside them a detector.

The figures are of a single answer: with several annotators the rates are means over their answers,
and the AUC ranks all answers. Intervals are by image, or by group of images, so that many answers
about one face do not count as many faces; they are about these annotators.
"""

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Sample, refuse_repeated
from focus.errors import InputError
from focus.evaluation.protocol import UNNAMED, match
from focus.evaluation.scores import Scores
from focus.metrics.bootstrap import units
from focus.metrics.intervals import Compared, mean_auc_interval, rate_interval
from focus.metrics.ranking import auc

ANSWERS = "answers"
"""The folder of answers in one of ``focus annotate``: a CSV for each annotator."""
ANSWER_VERSION: Literal[1] = 1
Confidence = Literal[1, 2, 3]
CONFIDENCES = get_args(Confidence)
"""Guessing, fairly sure, sure."""
_NAME = re.compile(r"\w[^/\\<>]{0,59}")
Round = Literal["practice", "main", "repeat"]
ROUNDS = get_args(Round)
Rated = NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """What an annotator said of a face, a row of ``answers/NAME.csv``.

    ``image`` is the digest of the file, ``seconds`` the time with the page in sight, ``shown`` the
    number of the answer among the annotator's, from 1, ``mark`` the PNG of what was marked,
    relative to the folder, "" for nothing, and ``time`` the moment of the answer, ISO 8601 in UTC.
    """

    image: str
    path: str
    annotator: str
    round: Round
    answer: Literal["real", "synthetic"]
    confidence: Confidence
    seconds: float
    shown: int
    mark: str
    time: str
    version: Literal[1] = ANSWER_VERSION

    @property
    def label(self) -> int:
        """0 for real, 1 for synthetic."""
        return LABEL_NAMES.index(self.answer)

    @property
    def score(self) -> float:
        """The probability of synthetic that answer and confidence stand for: 0, 1/6, ... 1."""
        return 0.5 + (2 * self.label - 1) * self.confidence / (2 * len(CONFIDENCES))


def annotator_id(name: str) -> str:
    """Return what all spellings of an annotator's name have in common.

    Neither capitals nor blanks make another annotator, nor an accent that is a character of its
    own, as macOS writes it.
    """
    decomposed = unicodedata.normalize("NFD", " ".join(name.split()))
    return unicodedata.normalize("NFC", decomposed.casefold())


def checked_name(name: object) -> str:
    """Return an annotator's name without spaces around it; raises InputError for what is none."""
    text = unicodedata.normalize("NFC", " ".join(name.split())) if isinstance(name, str) else ""
    if not (_NAME.fullmatch(text) and text.isprintable()):
        raise InputError(
            "A name begins with a letter or a digit and has at most 60 characters, without slashes "
            "and angle brackets: give another one."
        )
    return text


def read_answers(folder: str | Path | None) -> list[Answer]:
    """Return all answers in a folder of ``focus annotate``, by annotator in the order of time.

    All spellings of a name are one annotator, who is called as in the earliest answer. Of several
    answers of an annotator to one question the earliest is returned.

    Without a folder there are none. Raises InputError for a folder of another kind, and for a row
    that is no answer.
    """
    if folder is None:
        return []
    tables_folder = Path(folder) / ANSWERS
    if not tables_folder.is_dir():
        raise InputError(
            f"There is no folder {tables_folder}: give one that focus annotate has written."
        )
    tables = [answers_in(path.read_bytes(), path) for path in sorted(tables_folder.glob("*.csv"))]
    # Not merged as they lie: a spreadsheet may have sorted a table in another way.
    by_time = sorted(chain.from_iterable(tables), key=attrgetter("time"))
    names: dict[str, str] = {}
    answers: dict[tuple[str, str, Round], Answer] = {}
    for answer in by_time:
        identity = annotator_id(answer.annotator)
        name = names.setdefault(identity, answer.annotator)
        question = identity, answer.image, answer.round
        answers.setdefault(question, replace(answer, annotator=name))
    return [answers[question] for question in sorted(answers, key=lambda question: question[0])]


def answers_in(content: bytes, path: Path) -> list[Answer]:
    """Return the answers of the file ``path`` of a folder, whose bytes are ``content``.

    A last row that is cut short does not count: its writer was killed, or is at work. Raises
    InputError for another row that is no answer, and for a column that is there twice.
    """
    text = content.decode("utf-8", errors="surrogateescape")
    table = csv.DictReader(io.StringIO(text, newline=""))
    rows = list(table)
    try:
        refuse_repeated(table.fieldnames or ())
    except ValueError as error:
        raise InputError(f"{path}, line 1: {error}.") from error
    answers = []
    for number, row in enumerate(rows, start=1):
        try:
            answers.append(msgspec.convert(row, Answer, strict=False))
        except ValueError as error:
            if number == len(rows) and end_of_rows(content) < len(content):
                break
            raise InputError(
                f"{path}, row {number}: no answer ({error}); fix or remove the row."
            ) from error
    return answers


def end_of_rows(content: bytes) -> int:
    """Return where the last row of a CSV that has a line end ends; 0 without any."""
    end = content.rfind(b"\n") + 1
    while content.count(b'"', 0, end) % 2:  # a line end within the quoted name of a file
        end = content.rfind(b"\n", 0, end - 1) + 1
    return end


def by_image(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Return the answers of the main round by the digests of their images."""
    given: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.round == "main":
            given.setdefault(answer.image, []).append(answer)
    return given


def beside(
    scores: Scores,
    digests: Sequence[str],
    answers: Iterable[Answer],
    training_generators: Iterable[str] = (),
    threshold: float | None = None,
) -> dict[str, Any]:
    """Return the figures of people, and of the detector on the images that they answered.

    ``scores`` [N] are matched as for the results of ``training_generators``, and ``digests`` [N]
    are those of their images. Answers about other images, in practice and in repeats do not count.
    Without the detector's ``threshold`` there are the figures of people alone.
    """
    given = by_image(answers)
    own = units(scores.group, scores.images)
    people = {
        row: np.array([answer.score for answer in given[digest]])
        for row, digest in enumerate(digests)
        if digest in given
    }
    counted = [answer for digest in {digests[row] for row in people} for answer in given[digest]]
    found: dict[str, Any] = {
        "n_annotators": len({answer.annotator for answer in counted}),
        "n_images": len({digests[row] for row in people}),
        "n_answers": len(counted),
    }
    compared = defaultdict[tuple[str, str], list[Compared]](list)
    for comparison in match(scores, training_generators):
        both = (comparison.real, comparison.fake)
        sides = [[row for row in rows.tolist() if row in people] for rows in both]
        if not sides[SYNTHETIC]:
            continue
        entry: dict[str, Any] = {"n_real": len(sides[REAL]), "n_synthetic": len(sides[SYNTHETIC])}
        rated = {"people": (people, 0.5)}
        if threshold is not None:
            rated["model"] = {row: scores.score[[row]] for row in people}, threshold
        for who, (each, limit) in rated.items():
            entry[who], rated_sides = _figures(sides, each, own, limit)
            if sides[REAL]:
                compared[comparison.test_set, who].append(rated_sides)
        own_set = found.setdefault(comparison.test_set, {"mean": {}, "generators": {}})
        own_set["generators"][comparison.generator or UNNAMED] = entry
    for (test_set, who), pairs in compared.items():
        aucs = [value for real, fake, *_ in pairs if (value := auc(real, fake)) is not None]
        mean = {"auc": float(np.mean(aucs)), "intervals": {"auc": mean_auc_interval(pairs)}}
        found[test_set]["mean"][who] = mean
    return found


def alone(
    samples: Sequence[Sample], digests: Sequence[str], answers: Iterable[Answer]
) -> dict[str, Any]:
    """Return the figures of people on labelled images that no detector has scored."""
    texts = ("path", "generator", "family", "test_set", "group")
    columns = {name: [getattr(sample, name) for sample in samples] for name in texts}
    label = [-1 if sample.label is None else sample.label for sample in samples]
    score = np.full(len(samples), np.nan)
    return beside(Scores.without_cams(**columns, label=label, score=score), digests, answers)


def by_annotator(
    answers: Iterable[Answer], labels: Mapping[str, int | None]
) -> dict[str, dict[str, Any]]:
    """Return, by annotator, how many faces, how fast, how often right, and how consistent.

    ``labels`` are by the digests of the faces.
    """
    said = defaultdict[str, dict[tuple[str, str], Answer]](dict)
    for answer in answers:
        if answer.round != "practice":
            said[answer.annotator][answer.round, answer.image] = answer
    found = {}
    for name, given in said.items():
        main = [answer for (part, _), answer in given.items() if part == "main"]
        right = [a.label == labels[a.image] for a in main if labels.get(a.image) is not None]
        again = [
            answer.answer == given["main", image].answer
            for (part, image), answer in given.items()
            if part == "repeat" and ("main", image) in given  # whose row nobody has removed
        ]
        found[name] = {
            "n_answers": len(main),
            "n_marked": sum(bool(answer.mark) for answer in main),
            "seconds": float(np.median([answer.seconds for answer in main])) if main else None,
            "accuracy": float(np.mean(right)) if right else None,
            "n_repeats": len(again),
            "repeat_same_answer": float(np.mean(again)) if again else None,
        }
    return found


def _figures(
    sides: Sequence[Sequence[int]],
    rated: dict[int, Rated],
    unit: NDArray[np.int64],
    threshold: float,
) -> tuple[dict[str, Any], Compared]:
    """Return AUC, accuracy and error rates with their intervals, None if undefined; the scores.

    ``sides`` are the rows of the real images and of the fakes, ``rated`` the scores of each row,
    and ``unit`` its independent unit.
    """
    values = [np.concatenate([np.zeros(0), *(rated[row] for row in rows)]) for rows in sides]
    owners = [np.repeat(unit[list(rows)], [len(rated[row]) for row in rows]) for rows in sides]
    compared = (values[REAL], values[SYNTHETIC], owners[REAL], owners[SYNTHETIC])
    found: dict[str, Any] = {"auc": auc(*values)}
    ends: dict[str, Any] = {"auc": mean_auc_interval([compared])}
    shares = [[float(np.mean(rated[row] > threshold)) for row in rows] for rows in sides]
    alarms, misses = shares[REAL], [1 - share for share in shares[SYNTHETIC]]
    rates = {
        "accuracy": ([1 - wrong for wrong in alarms + misses], [*sides[REAL], *sides[SYNTHETIC]]),
        "bpcer": (alarms, sides[REAL]),
        "apcer": (misses, sides[SYNTHETIC]),
    }
    for name, (each, rows) in rates.items():
        found[name] = float(np.mean(each)) if each else None
        # A mean of shares varies no more than one of zeros and ones.
        count = len(set(unit[list(rows)].tolist()))
        ends[name] = rate_interval(count * float(np.mean(each)), count) if each else None
    return {**found, "intervals": ends}, compared
