"""Measure how well people tell synthetic faces from real ones, and beside them a detector.

The figures are of a single answer: with several annotators the rates are means over their answers,
and the AUC ranks all answers. Intervals are by image, or by group of images, so that many answers
about one face do not count as many faces; they are about these annotators.
"""

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np

from focus.data.manifest import LABEL_NAMES, Sample, refuse_repeated
from focus.errors import InputError
from focus.evaluation.protocol import UNNAMED, match
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Floats, Integers
from focus.metrics.bootstrap import units
from focus.metrics.intervals import Compared, mean_auc_interval, rate_interval
from focus.metrics.ranking import auc
from focus.runtime.json_files import Natural

ANSWERS = "answers"
"""The folder of answers in one of ``focus annotate``: a CSV for each annotator."""
ANSWER_VERSION: Literal[2] = 2
CANNOT_JUDGE = "cannot judge"
Choice = Literal["real", "synthetic", "cannot judge"]
Confidence = Literal[1, 2, 3]
CONFIDENCES = get_args(Confidence)
"""Guessing, fairly sure, sure."""
_NAME = re.compile(r"\w[^/\\<>]{0,59}")
Round = Literal["practice", "main", "repeat"]
ROUNDS = get_args(Round)


@dataclass(frozen=True)
class Answer:
    """What an annotator said of a face, a row of ``answers/NAME.csv``.

    ``image`` is the digest of the file, ``seconds`` the time with the page in sight, ``shown`` the
    number of the answer among the annotator's, from 1, ``mark`` the PNG of what was marked,
    relative to the folder, "" for nothing, and ``time`` the moment of the answer, ISO 8601 in UTC.
    An answer that was mended is another row: ``mended`` is 1 in it, 2 in the next one, and
    ``shown`` stays. ``confidence`` is 0 where nobody can judge the face, and only there.

    Raises ValueError for a confidence that does not fit the answer.
    """

    image: str
    path: str
    annotator: str
    round: Round
    answer: Choice
    confidence: Literal[0, 1, 2, 3]
    seconds: float
    shown: int
    mark: str
    time: str
    version: Literal[1, 2] = ANSWER_VERSION
    mended: Natural = 0

    def __post_init__(self) -> None:
        check_confidence(self.answer, self.confidence)

    @property
    def decides(self) -> bool:
        """Whether the answer is real or synthetic."""
        return self.answer != CANNOT_JUDGE

    @property
    def label(self) -> int:
        """0 for real, 1 for synthetic; ValueError for an answer that does not decide."""
        return LABEL_NAMES.index(self.answer)

    @property
    def score(self) -> float:
        """The probability of synthetic that answer and confidence stand for: 0, 1/6, ... 1.

        Raises ValueError for an answer that does not decide.
        """
        return 0.5 + (2 * self.label - 1) * self.confidence / (2 * len(CONFIDENCES))


def check_confidence(answer: Choice, confidence: int) -> None:
    """Raise ValueError unless the confidence is 0 for "cannot judge", else 1 to 3."""
    if (answer == CANNOT_JUDGE) != (confidence == 0):
        raise ValueError(f"the answer {answer!r} has the confidence {confidence}")


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
    answers of an annotator to one question the last mended one is returned, in the place of the
    first; of two that were mended as often, the earlier one.

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
    by_time = sorted(
        chain.from_iterable(tables),
        key=lambda answer: (answer.time, answer.shown, answer.mended),
    )
    names: dict[str, str] = {}
    answers: dict[tuple[str, str, Round], Answer] = {}
    for answer in by_time:
        identity = annotator_id(answer.annotator)
        name = names.setdefault(identity, answer.annotator)
        question = identity, answer.image, answer.round
        if question not in answers or answer.mended > answers[question].mended:
            answers[question] = replace(answer, annotator=name)
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
    """Return the answers of the main round that decide, by the digests of their images."""
    answers_of_image: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.round == "main" and answer.decides:
            answers_of_image.setdefault(answer.image, []).append(answer)
    return answers_of_image


def cannot_judge(answers: Iterable[Answer]) -> Counter[str]:
    """Count the answers of the main round that do not decide, by the digests of their images."""
    return Counter(
        answer.image for answer in answers if answer.round == "main" and not answer.decides
    )


def beside(
    scores: Scores,
    digests: Sequence[str],
    answers: Iterable[Answer],
    training_generators: Iterable[str] = (),
    threshold: float | None = None,
) -> dict[str, Any]:
    """Return the figures of people, and of the detector on the images that they answered.

    ``scores`` [N] are matched as for the results of ``training_generators``, and ``digests`` [N]
    are those of their images. Answers about other images, in practice and in repeats do not count;
    those that do not decide are counted in ``n_cannot_judge`` alone. Without the detector's
    ``threshold`` there are the figures of people alone.
    """
    answers = list(answers)
    answers_of = by_image(answers)
    undecided = cannot_judge(answers)
    ratings = {
        row: np.array([answer.score for answer in answers_of[digest]])
        for row, digest in enumerate(digests)
        if digest in answers_of
    }
    rated_digests = {digests[row] for row in ratings}
    counted = [answer for digest in rated_digests for answer in answers_of[digest]]
    figures: dict[str, Any] = {
        "n_annotators": len({answer.annotator for answer in counted}),
        "n_images": len(rated_digests),
        "n_answers": len(counted),
        "n_cannot_judge": sum(undecided[digest] for digest in {*digests}),
    }

    unit = units(scores.group, scores.images)
    raters = {"people": _Rater(ratings, 0.5)}
    if threshold is not None:
        raters["model"] = _Rater({row: scores.score[[row]] for row in ratings}, threshold)
    compared = defaultdict[tuple[str, str], list[Compared]](list)
    for comparison in match(scores, training_generators):
        real = [row for row in comparison.real.tolist() if row in ratings]
        fake = [row for row in comparison.fake.tolist() if row in ratings]
        if not fake:
            continue
        entry: dict[str, Any] = {"n_real": len(real), "n_synthetic": len(fake)}
        for who, rater in raters.items():
            rated = rater.compared(real, fake, unit)
            entry[who] = _figures(rater, real, fake, unit, rated)
            if real:
                compared[comparison.test_set, who].append(rated)
        of_set = figures.setdefault(comparison.test_set, {"mean": {}, "generators": {}})
        of_set["generators"][comparison.generator or UNNAMED] = entry

    for (test_set, who), pairs in compared.items():
        aucs = [auc(real_scores, fake_scores) for real_scores, fake_scores, *_ in pairs]
        mean = float(np.mean([value for value in aucs if value is not None]))
        figures[test_set]["mean"][who] = {
            "auc": mean,
            "intervals": {"auc": mean_auc_interval(pairs)},
        }
    return figures


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

    ``labels`` are by the digests of the faces. An answer that does not decide is neither right nor
    wrong, nor the same as another.
    """
    answers_of = defaultdict[str, dict[tuple[str, str], Answer]](dict)
    for answer in answers:
        if answer.round != "practice":
            answers_of[answer.annotator][answer.round, answer.image] = answer
    figures = {}
    for name, by_question in answers_of.items():
        main = [answer for (part, _), answer in by_question.items() if part == "main"]
        decided = [answer for answer in main if answer.decides]
        right = [
            answer.label == labels[answer.image]
            for answer in decided
            if labels.get(answer.image) is not None
        ]
        first = {answer.image: answer.answer for answer in decided}
        repeats = [
            answer.answer == first[answer.image]
            for (part, _), answer in by_question.items()
            # The row of the first answer may have been removed by hand.
            if part == "repeat" and answer.decides and answer.image in first
        ]
        figures[name] = {
            "n_answers": len(main),
            "n_cannot_judge": len(main) - len(decided),
            "n_marked": sum(bool(answer.mark) for answer in main),
            "seconds": float(np.median([answer.seconds for answer in main])) if main else None,
            "accuracy": float(np.mean(right)) if right else None,
            "n_repeats": len(repeats),
            "repeat_same_answer": float(np.mean(repeats)) if repeats else None,
        }
    return figures


class _Rater(NamedTuple):
    """Who rates images: the ratings of each row, and above which one says synthetic."""

    ratings: dict[int, Floats]
    threshold: float

    def compared(self, real: Sequence[int], fake: Sequence[int], unit: Integers) -> Compared:
        """Return the ratings of the rows of both classes, and the unit of each."""
        return (
            self._ratings_of(real),
            self._ratings_of(fake),
            self._units_of(real, unit),
            self._units_of(fake, unit),
        )

    def shares_above(self, rows: Sequence[int]) -> list[float]:
        """Return, by row, the share of its ratings that say synthetic."""
        return [float(np.mean(self.ratings[row] > self.threshold)) for row in rows]

    def _ratings_of(self, rows: Sequence[int]) -> Floats:
        return np.concatenate([np.zeros(0), *(self.ratings[row] for row in rows)])

    def _units_of(self, rows: Sequence[int], unit: Integers) -> Integers:
        return np.repeat(unit[list(rows)], [len(self.ratings[row]) for row in rows])


def _figures(
    rater: _Rater,
    real: list[int],
    fake: list[int],
    unit: Integers,
    rated: Compared,
) -> dict[str, Any]:
    """Return AUC, accuracy and error rates with their intervals, None if undefined.

    real, fake: The rows. unit: The independent unit of each row. rated: Their ratings.
    """
    alarms = rater.shares_above(real)
    misses = [1 - share for share in rater.shares_above(fake)]
    rights = [1 - wrong for wrong in alarms + misses]
    figures: dict[str, Any] = {"auc": auc(rated[0], rated[1])}
    intervals: dict[str, Any] = {"auc": mean_auc_interval([rated])}
    for name, shares, rows in (
        ("accuracy", rights, real + fake),
        ("bpcer", alarms, real),
        ("apcer", misses, fake),
    ):
        if not shares:
            figures[name] = intervals[name] = None
            continue
        mean = float(np.mean(shares))
        # A mean of shares varies no more than one of zeros and ones.
        count = len(set(unit[rows].tolist()))
        figures[name] = mean
        intervals[name] = rate_interval(count * mean, count)
    return {**figures, "intervals": intervals}
