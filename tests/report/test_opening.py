"""The first screen of a report: a forest plot, error rates in words, faces of each outcome."""

from typing import Any

import numpy as np
import pytest

from focus.evaluation.error_rates import errors_in_words
from focus.evaluation.results import Results, figure_at
from focus.evaluation.scores import Scores
from focus.report import gallery, opening

from .reports import made


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scores, Results]:
    _, scores, results = made(tmp_path_factory.mktemp("images"), 30)
    results["open"]["generators"]["uB"]["relation"] = "near"
    return scores, results


def test_a_mark_stands_where_its_auc_is(evaluation: tuple[Scores, Results]) -> None:
    _, results = evaluation
    forest = opening.forest([results])
    assert forest is not None
    titles = [title.partition(":")[0] for title in forest.groups]
    assert titles == ["Mean over the generators", "Closed", "Open, near", "Open"]
    start = float(forest.ticks[0][1])
    for title, name, keys in (
        ("Closed: generators that training saw", "kA", ("closed", "generators", "kA", "auc")),
        ("Mean over the generators", "open set", ("open", "mean", "auc")),
    ):
        (line,) = (line for line in forest.groups[title] if line.name == name)
        (mark,) = line.marks
        n_fakes = 60 if name == "open set" else 30
        assert line.images == f"30 + {n_fakes}"
        value, interval = figure_at(results, keys)
        assert value is not None
        assert interval is not None
        positions = [100 * (v - start) / (1 - start) for v in (value, *interval)]
        drawn = [mark.point, mark.low, mark.low + mark.width]
        assert drawn == pytest.approx(positions, abs=0.02)
        assert mark.cell.text == f"{value:.3f}"
    assert [position for position, _ in forest.ticks][-1] == 100


def test_of_many_generators_the_worst_are_shown_and_runs_side_by_side() -> None:
    def entry(auc: float | None) -> dict[str, Any]:
        return {"auc": auc, "relation": "far", "intervals": {}}

    one = {f"g{n:02}": entry(0.5 + n / 100) for n in range(32)}
    results = {"open": {"mean": {"auc": 0.6}, "generators": one}}
    other = {"open": {"mean": {"auc": 0.7}, "generators": {"g03": entry(0.2), "g04": entry(None)}}}
    forest = opening.forest([results, other])
    assert forest is not None
    lines = forest.groups["Open, far: new generators of other families"]
    rows = {line.name: line.marks for line in lines}
    hardest = ["g03", *(f"g{n:02}" for n in range(24) if n != 3)]
    assert list(rows) == hardest, "the hardest first: g03 is at .2 for one of them"
    assert forest.left_out == 8
    assert not forest.short
    assert [mark.cell.text for mark in rows["g03"]] == ["0.530", "0.200"]
    assert rows["g04"][1].point == rows["g05"][1].point == -1, "no mark where there is no AUC"
    assert forest.ticks[0] == (0, "0.2")
    assert opening.forest([{"open": {"mean": {"auc": None}, "generators": {}}}]) is None


def test_errors_are_said_in_words_the_worst_first(evaluation: tuple[Scores, Results]) -> None:
    scores, results = evaluation
    alarms, missed = [], []
    for sentence in errors_in_words(results, most=2):
        (missed if "missed" in sentence.what else alarms).append(sentence)
    real = (scores.label == 0) & (scores.test_set == "open")
    expected = np.mean(scores.predicted[real])
    assert f"Of 100 real faces of the open set {round(100 * expected)} are called" in str(alarms[1])
    rates = {
        name: 1 - np.mean(scores.predicted[scores.generator == name])
        for name in ("kA", "uB", "<b>u&C</b>")
    }
    worst = sorted(rates, key=lambda name: -rates[name])[:2]
    assert [s.faces for s in missed] == [f"Of 100 synthetic faces of {name}" for name in worst]
    assert [s.rate for s in missed] == pytest.approx([rates[name] for name in worst])
    assert all(" to " in sentence.interval for sentence in (*alarms, *missed))


def test_six_faces_show_each_outcome(evaluation: tuple[Scores, Results]) -> None:
    scores, _ = evaluation
    shown, _ = gallery.pick_rows(scores, scores.test_set)
    rows = opening.examples(scores, shown)
    kinds = [gallery.OUTCOMES[outcome] for outcome in gallery.outcomes(scores.select(rows))]
    assert kinds == ["right", "right", "missed", "missed", "false alarm", "false alarm"]
    assert len(set(rows)) == 6
    # Where nothing is wrong, six that are right.
    right = shown[gallery.outcomes(scores.select(shown)) == 0]
    rows = opening.examples(scores, right)
    assert len(set(rows)) == 6
    assert sorted(opening.examples(scores, right[:3])) == right[:3].tolist()
