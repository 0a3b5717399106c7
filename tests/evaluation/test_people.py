"""People's figures, and a detector's on the same images: worked out by hand."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from focus.data.manifest import LABEL_NAMES
from focus.errors import InputError
from focus.evaluation.error_rates import errors_in_words, people_lines
from focus.evaluation.people import (
    Answer,
    beside,
    by_annotator,
    checked_name,
    end_of_rows,
    read_answers,
)
from focus.evaluation.result_table import format_table
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.metrics.intervals import rate_interval


def said(image: str, label: int, sure: int = 3, who: str = "anna", part: str = "main") -> Answer:
    return Answer(image, f"/{image}", who, part, LABEL_NAMES[label], sure, 2.0, 1, "", "")


def scores(groups: list[str] | None = None) -> Scores:
    """Four real images and four fakes of each of two generators, the detector right about six."""
    score = [0.1, 0.2, 0.3, 0.9, 0.8, 0.7, 0.1, 0.9, 0.2, 0.1, 0.8, 0.3]
    return Scores.without_cams(
        path=[f"/{n}" for n in range(12)],
        label=[0] * 4 + [1] * 8,
        generator=[""] * 4 + ["near"] * 4 + ["far"] * 4,
        group=groups or [""] * 12,
        score=score,
        predicted=[value > 0.5 for value in score],
    )


DIGESTS = [str(n) for n in range(12)]
ANSWERS = [
    # Real images 0 to 3, the last one by two people, who differ.
    *(said("0", 0), said("1", 0, 1), said("2", 1, 2), said("3", 0), said("3", 1, who="ben")),
    # Of "near" three images; of "far" none.
    *(said("4", 1), said("5", 0, 2), said("6", 1, 1)),
    # These count nowhere: practice, a repeat, and an image that the detector did not score.
    *(said("7", 0, part="practice"), said("4", 0, part="repeat"), said("99", 0)),
]


def test_rates_are_of_answers_and_intervals_of_images() -> None:
    figures = beside(scores(), DIGESTS, ANSWERS, [], 0.5)
    assert (figures["n_annotators"], figures["n_images"], figures["n_answers"]) == (2, 7, 8)
    assert list(figures["open"]["generators"]) == ["near"], "nobody saw the other one's"
    entry = figures["open"]["generators"]["near"]
    assert (entry["n_real"], entry["n_synthetic"]) == (4, 3)
    people, model = entry["people"], entry["model"]
    assert people["apcer"] == pytest.approx(1 / 3)
    assert people["bpcer"] == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert people["accuracy"] == pytest.approx((1 + 1 + 0 + 0.5 + 1 + 0 + 1) / 7)
    assert people["intervals"]["bpcer"] == rate_interval(1.5, 4), "of four images, not five answers"
    assert people["intervals"]["apcer"] == rate_interval(1, 3)
    ratings = [0, 1 / 3, 5 / 6, 0, 1, 1, 1 / 6, 2 / 3]
    assert people["auc"] == pytest.approx(roc_auc_score([0] * 5 + [1] * 3, ratings))
    # The detector on the same seven images, not on all.
    assert model["apcer"] == pytest.approx(1 / 3)
    assert model["bpcer"] == 1 / 4
    assert model["auc"] == pytest.approx(
        roc_auc_score([0] * 4 + [1] * 3, [0.1, 0.2, 0.3, 0.9, 0.8, 0.7, 0.1])
    )
    for who in (people, model):
        low, high = who["intervals"]["auc"]
        assert low < who["auc"] < high
    assert figures["open"]["mean"]["people"]["auc"] == people["auc"]


def test_images_of_one_person_are_one_in_the_intervals() -> None:
    groups = ["p", "p", "p", "p"] + [""] * 8
    people = beside(scores(groups), DIGESTS, ANSWERS)["open"]["generators"]["near"]["people"]
    assert people["intervals"]["bpcer"] == rate_interval(1.5 / 4, 1)


def test_people_stand_beside_the_detector_in_words_and_in_the_table() -> None:
    results = summarise(scores(), [], resamples=9)
    assert people_lines(results) == []
    results["people"] = beside(scores(), DIGESTS, ANSWERS, [], 0.5)
    first, second = people_lines(results)
    assert first.startswith("Of 100 synthetic faces of near people missed 33 (1 to 91), ")
    assert "the detector 33 (1 to 91) [3 faces], AUC " in first
    assert second.startswith("Of 100 real faces people called synthetic 38 (")
    assert "the detector 25 (1 to 81)" in second
    shown = [
        str(error_rate) for error_rate in errors_in_words(results) if "people" in error_rate.faces
    ]
    words = "near that people saw 33 are missed by people, 33 by the detector (1 to 91, 3 faces)."
    assert shown == [f"Of 100 synthetic faces of {words}"]
    table = format_table({"run": results})
    (people,) = [line for line in table.splitlines() if "people" in line]
    (detector,) = [line for line in table.splitlines() if "on the same" in line]
    open_mean = results["people"]["open"]["mean"]
    assert f"{open_mean['people']['auc']:.3f}" in people
    assert f"{open_mean['model']['auc']:.3f}" in detector


def test_annotators() -> None:
    labels = {"0": 0, "1": 0, "2": 0, "4": 1, "9": None}
    answers = [said("0", 0), said("4", 0), said("9", 1), said("0", 0, part="repeat")]
    answers += [said("2", 1, who="ben"), said("1", 1, who="ben", part="practice")]
    answers += [said("2", 0, part="repeat")]  # of an answer whose row was removed
    figures = by_annotator(answers, labels)
    assert figures["anna"] == {
        "n_answers": 3,
        "n_cannot_judge": 0,
        "n_marked": 0,
        "seconds": 2.0,
        "accuracy": 0.5,
        "n_repeats": 1,
        "repeat_same_answer": 1.0,
    }
    assert figures["ben"]["accuracy"] == 0
    assert figures["ben"]["repeat_same_answer"] is None


def cannot_judge(image: str, part: str = "main") -> Answer:
    return replace(said(image, 0, part=part), answer="cannot judge", confidence=0)


def test_who_cannot_judge_is_counted_and_changes_no_figure() -> None:
    plain = beside(scores(), DIGESTS, ANSWERS, [], 0.5)
    more = [cannot_judge("8"), cannot_judge("4", "repeat"), cannot_judge("98")]
    counted = beside(scores(), DIGESTS, [*ANSWERS, *more], [], 0.5)
    assert counted == plain | {"n_cannot_judge": 1}, "98 is another image"
    labels = {digest: int(digest) // 4 for digest in DIGESTS}
    anna = by_annotator([said("0", 0), said("4", 0), said("0", 0, part="repeat")], labels)["anna"]
    unsure = [cannot_judge("1"), cannot_judge("4", "repeat"), said("1", 0, part="repeat")]
    answers = [said("0", 0), said("4", 0), said("0", 0, part="repeat"), *unsure]
    assert by_annotator(answers, labels)["anna"] == anna | {"n_answers": 3, "n_cannot_judge": 1}
    for answer, confidence in (("cannot judge", 2), ("real", 0)):
        with pytest.raises(ValueError, match=f"'{answer}' has the confidence {confidence}"):
            replace(said("0", 0), answer=answer, confidence=confidence)  # type: ignore[arg-type]


HEAD = "image,path,annotator,round,answer,confidence,seconds,shown,mark,time,version\n"


def written(folder: Path, table: str, *rows: str) -> None:
    """Write rows of image, annotator, answer and minute to a table of a folder."""
    (folder / "answers").mkdir(exist_ok=True)
    lines = []
    for row in rows:
        image, name, answer, minute = row.split(",")
        lines.append(f"{image},/{image},{name},main,{answer},2,1.5,1,,2026-01-01T00:{minute},1\n")
    (folder / "answers" / table).write_text(HEAD + "".join(lines))


def test_spellings_of_a_name_are_one_annotator(tmp_path: Path) -> None:
    """Also in answers that were written when each spelling had a table of its own."""
    written(tmp_path, "anna.csv", "0,anna,real,05", "1,anna,real,06")
    written(tmp_path, "anna-1.csv", "0,Anna,synthetic,01", "2,Anna,real,07")
    written(tmp_path, "anna-2.csv", "0,ANNA,real,03")
    written(tmp_path, "zo-1.csv", "0,Zo\u00eb,real,01")
    written(tmp_path, "zo-2.csv", "1,Zoe\u0308,real,02")
    written(tmp_path, "stra-e.csv", "1,Straße,real,02")
    # As a spreadsheet that has sorted the rows by image leaves them.
    written(tmp_path, "ben.csv", "0,ben,real,09", "1,ben,synthetic,04")
    written(tmp_path, "ben-1.csv", "1,Ben,real,08")
    answers = read_answers(tmp_path)
    said = [(a.annotator, a.image, a.answer) for a in answers]
    assert said == [
        # The first answer to a question counts, and gives the spelling.
        ("Anna", "0", "synthetic"),
        ("Anna", "1", "real"),
        ("Anna", "2", "real"),
        ("ben", "1", "synthetic"),
        ("ben", "0", "real"),
        ("Straße", "1", "real"),
        ("Zo\u00eb", "0", "real"),
        ("Zo\u00eb", "1", "real"),
    ]
    assert [*by_annotator(answers, {})] == ["Anna", "ben", "Straße", "Zo\u00eb"]
    assert checked_name(" Zoe\u0308  X ") == "Zo\u00eb X"


def test_a_mended_answer_counts_in_any_order_of_the_table(tmp_path: Path) -> None:
    """All within a second; it stays in the place of the first, so that repeats are the same."""
    rows = [
        "0,/0,anna,main,real,2,1.5,1,,2026-01-01T00:01,2,0\n",
        "0,/0,anna,main,cannot judge,0,2.5,1,,2026-01-01T00:01,2,1\n",
        "0,/0,Anna,main,synthetic,3,3.5,1,m.png,2026-01-01T00:01,2,2\n",
        "1,/1,anna,main,real,1,1.5,2,,2026-01-01T00:01,2,0\n",
    ]
    (tmp_path / "answers").mkdir()
    table = tmp_path / "answers" / "anna.csv"
    for order in itertools.permutations(rows):
        table.write_text(HEAD.replace("version", "version,mended") + "".join(order))
        first, second = read_answers(tmp_path)
        assert (first.answer, first.seconds, first.mark) == ("synthetic", 3.5, "m.png")
        assert (second.image, second.answer) == ("1", "real")


@pytest.mark.parametrize(
    ("tail", "count"),
    [
        ("", 2),
        ("1,/1,an", 2),  # killed while it wrote
        ('1,"/a\nb', 2),
        ('1,"/a\nb",anna,main,real,2,1.5,1,,2026,', 2),
        ("1,/1,anna,main,real,2,1.5,1,,2026,1", 3),  # from an editor that ends no last line
        ("\0\0\0", 2),  # a power cut
    ],
)
def test_a_row_that_is_cut_short_is_no_answer(tmp_path: Path, tail: str, count: int) -> None:
    written(tmp_path, "anna.csv", "0,anna,real,01", "2,anna,real,02")
    table = tmp_path / "answers" / "anna.csv"
    table.write_text(table.read_text() + tail)
    assert len(read_answers(tmp_path)) == count
    assert end_of_rows(table.read_bytes()) == len(table.read_bytes()) - len(tail)
    table.write_text(HEAD + tail)
    assert end_of_rows(table.read_bytes()) == len(HEAD)


def test_answers_that_cannot_be_read(tmp_path: Path) -> None:
    assert read_answers(None) == []
    with pytest.raises(InputError, match="There is no folder"):
        read_answers(tmp_path)
    (tmp_path / "answers").mkdir()
    file = tmp_path / "answers" / "anna.csv"
    file.write_text(HEAD + "0,/0,anna,main,real,2,1.5,1,,2026,1\n")
    (answer,) = read_answers(tmp_path)
    assert answer.score == pytest.approx(0.5 - 2 / 6)
    assert np.isclose(said("0", 1, 1).score, 2 / 3)
    for wrong in (
        "cannot judge,1,1.5,1,,2026,1",
        "maybe,2,1.5,1,,2026,1",
        "real,4,1.5,1,,2026,1",
        "real,2,1.5,1,,2026,3",
        "real",
    ):
        file.write_text(f"{HEAD}0,/0,anna,main,{wrong}\n")
        with pytest.raises(InputError, match=r"anna.csv, row 1: no answer"):
            read_answers(tmp_path)
    file.write_text(f"answer,{HEAD}real,0,/0,anna,main,synthetic,2,1.5,1,,2026,1\n")
    with pytest.raises(InputError, match=r"anna.csv, line 1: the column 'answer' is there twice"):
        read_answers(tmp_path)
