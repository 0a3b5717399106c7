"""Which face comes next, and in whose tab."""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus.annotate.answers import AnswerFolder
from focus.annotate.desk import Desk, Keys, balanced, hard_first, practice
from focus.data.known_images import CONTENT
from focus.data.manifest import Sample
from focus.evaluation.people import read_answers

KINDS = [("", 0)] * 300 + [("A", 1)] * 200 + [("B", 1)] * 60 + [("C", 1)] * 60


def faces(kinds: Sequence[tuple[str, int]]) -> list[Sample]:
    return [
        Sample(f"/{n}.png", label=label, generator=generator, extra={CONTENT: f"{n:032x}"})
        for n, (generator, label) in enumerate(kinds)
    ]


def test_every_beginning_is_balanced_and_nobody_can_tell_whose_turn_it_is() -> None:
    """Neither the share of a kind in the data nor turns of the classes give an answer away."""
    made = faces(KINDS)
    order = np.argsort(balanced(made, 0, "anna")).tolist()
    assert sorted(order) == list(range(len(made)))
    labels = [made[row].label for row in order]
    for count in (30, 60, 120, 180):
        first = Counter(made[row].generator for row in order[:count])
        assert abs(first[""] - count / 2) <= 6
        for name in "ABC":
            assert abs(first[name] - count / 6) <= 5, (count, first)
    changes = np.mean([one != other for one, other in pairwise(labels[:200])])
    assert 0.35 < changes < 0.65, "as a coin would"
    again = np.argsort(balanced(made, 0, "anna")).tolist()
    assert order == again
    others = [
        np.argsort(balanced(made, seed, annotator)).tolist()
        for seed, annotator in ((0, "ben"), (1, "anna"))
    ]
    assert order not in others
    # Two who stop after a third have seen mostly the same faces.
    assert len({*order[:200]} & {*others[0][:200]}) > 160
    assert len({*order[:200]} & {*others[1][:200]}) < 130


def test_practice_takes_both_classes_or_nothing() -> None:
    made = faces(KINDS)
    chosen = practice(made, 6, 0)
    assert sorted(made[row].label or 0 for row in chosen) == [0, 0, 0, 1, 1, 1]
    assert practice(faces([("", 0)] * 5 + [("A", 1)] * 6), 6, 0) == []
    assert practice(faces([("", 0)] * 50), 6, 0) == []


def test_hard_faces_come_first() -> None:
    keys = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    margins = np.array([0.9, -0.3, 0.1, 0.9, -0.8, 0.9])
    order = np.argsort(hard_first(keys, margins, disputed=[0])).tolist()
    assert order == [4, 1, 2, 0, 5, 3], "wrong, unsure, disputed, then as before"
    assert np.array_equal(hard_first(keys, None, [0]), keys)


def new_desk(folder: Path, count: int, every: int = 0, margins: Keys | None = None) -> Desk:
    folder.mkdir(exist_ok=True)
    made = faces([("", 0), ("A", 1)] * (count // 2))
    return Desk(AnswerFolder(folder, made, []), every, 0, margins)


def answered(desk: Desk, annotator: str = "anna", said: str = "real") -> dict[str, Any]:
    """Answer what is asked; return the question."""
    question: dict[str, Any] = desk.ask(annotator, "")["question"]
    reply = {"annotator": annotator, "round": question["round"], "answer": said}
    reply["mended"] = question["mended"]
    desk.take(question["number"], None, **reply, confidence=1, seconds=1.0)
    return question


def test_repeats_are_of_earlier_faces_and_each_once(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "out", 40, every=10)
    after = desk.ask("anna", "")["after"]
    asked: list[dict[str, Any]] = []
    while question := desk.ask("anna", "")["question"]:
        assert not asked or question == after, "the one that was loaded before"
        after = desk.ask("anna", "")["after"]
        asked.append(answered(desk))
    rounds = [question["round"] for question in asked]
    assert [turn for turn, name in enumerate(rounds) if name == "repeat"] == [10, 21, 32, 43]
    repeats = [question["number"] for question in asked if question["round"] == "repeat"]
    assert len({*repeats}) == 4
    for turn, number in zip((10, 21, 32, 43), repeats, strict=True):
        before = [question["number"] for question in asked[:turn]]
        assert turn - before.index(number) > 5
    assert len({q["number"] for q in asked if q["round"] == "main"}) == 40


def numbers(state: dict[str, Any]) -> list[int]:
    """Return the faces of a state, the one that is asked and the one after it."""
    return [state[name]["number"] for name in ("question", "after") if state[name]]


def test_two_tabs_of_one_annotator_get_different_faces(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "out", 6)
    first, second = desk.ask("anna", "one"), desk.ask("ANNA", "two")
    assert len({*numbers(first), *numbers(second)}) == 4
    # Another annotator's faces are nobody's business.
    assert numbers(desk.ask("ben", "three")) == numbers(
        new_desk(tmp_path / "new", 6).ask("ben", "")
    )
    desk.leave("ben", "one")
    assert not {*numbers(desk.ask("anna", "five"))} & {*numbers(first), *numbers(second)}
    desk.leave("Anna", "one")
    assert numbers(desk.ask("anna", "four")) == numbers(first), "of the tab that was closed"


def test_no_tab_keeps_the_last_faces_and_none_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is there gets a face, though 300 other tabs have asked for her."""
    desk = new_desk(tmp_path / "out", 6)
    plain = numbers(desk.ask("anna", ""))
    mine = desk.ask("anna", "mine")
    others = [desk.ask("anna", f"other {number}") for number in range(300)]
    for number in range(2000):
        desk.ask(f"stranger {number}", "mine")
    assert numbers(desk.ask("anna", "mine")) == numbers(mine), "no request takes them away"
    assert all(len(numbers(state)) == 2 for state in others)
    desk.leave("anna", "mine")
    answered_faces = set()
    while question := desk.ask("anna", "here")["question"]:
        answered_faces.add(answered(desk)["number"])
    assert len(answered_faces) == 6, question
    later = time.monotonic() + 601
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert numbers(desk.ask("ben", "here")) == numbers(new_desk(tmp_path / "new", 6).ask("ben", ""))
    assert plain == numbers(new_desk(tmp_path / "newer", 6).ask("anna", "here"))


def test_a_mended_answer_asks_no_face_again_and_changes_no_repeat(tmp_path: Path) -> None:
    """Whoever mends every answer is asked the same as who mends none."""
    asked: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for mends, questions in asked.items():
        desk = new_desk(tmp_path / f"{mends}", 12, every=6)
        while question := desk.ask("anna", "")["question"]:
            questions.append(answered(desk))
            last = desk.ask("anna", "")["last"]
            assert last == question | {"mended": 1}
            if mends:
                said = {"annotator": "Anna", "round": last["round"], "answer": "synthetic"}
                said |= {"confidence": 2, "seconds": 2.0}
                for mended, counts in ((2, False), (0, False), (1, True), (1, False), (2, True)):
                    taken = desk.take(last["number"], None, **said, mended=mended)
                    assert taken["counts"] == counts, "each answer is mended once"
                assert desk.ask("anna", "")["done"] == sum(
                    question["round"] == "main" for question in questions
                )
    assert asked[True] == asked[False]
    assert sum(question["round"] == "repeat" for question in asked[True]) == 2
    answers = read_answers(tmp_path / "True")
    assert {(answer.answer, answer.mended) for answer in answers} == {("synthetic", 2)}
    assert [answer.shown for answer in answers] == [*range(1, 15)]


def test_what_was_told_in_practice_is_not_mended(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made = faces([("", 0), ("A", 1)] * 2)
    desk = Desk(AnswerFolder(tmp_path / "out", made, [0, 1]), 0, 0)
    answered(desk)
    assert desk.ask("anna", "")["last"] is None
    reply = {"annotator": "anna", "round": "practice", "answer": "real", "confidence": 1}
    with pytest.raises(ValueError, match="not asked for"):
        desk.take(0, None, **reply, seconds=1.0, mended=1)


def test_faces_on_which_annotators_disagree_come_before_easy_ones(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "out", 20, margins=np.full(20, 0.9))
    for _ in range(20):
        answered(desk, "ben", "real")
    disputed = [answered(desk, "cleo", "synthetic")["number"] for _ in range(3)]
    answered(desk, "cleo", "real")
    first = [answered(desk, "anna", "real")["number"] for _ in range(3)]
    assert sorted(first) == sorted(disputed)


def test_a_vanished_face_is_asked_no_more(tmp_path: Path) -> None:
    desk = new_desk(tmp_path / "out", 4)
    number = desk.ask("anna", "")["question"]["number"]
    desk.gone.add(number)
    state = desk.ask("anna", "")
    assert state["left"] == 3
    assert state["question"]["number"] != number
