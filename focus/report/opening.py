"""Answer what a reader asks first: how good it is, as a forest plot, and which faces to look at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.estimates import DECISION
from focus.evaluation.result_table import (
    SET_TITLES,
    UNRELATED,
    counts_text,
    figure,
    wide_intervals,
)
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Integers, evenly
from focus.metrics.figures import POINTS
from focus.model.operating_points import Threshold
from focus.report.gallery import OUTCOMES, outcomes
from focus.report.tables import Cell, cell

_MOST = 24  # generators in the plot
_SHORT = 12  # lines of a plot that leaves room below it
_GROUPS = {
    "mean": "Mean over the generators",
    "closed": "Closed: generators that training saw",
    "closed_balanced": "Closed, without the shortcut of the training data",
    "near": "Open, near: new generators of a family that training saw",
    "far": "Open, far: new generators of other families",
    UNRELATED: "Open: how far from training is not known",
}


@dataclass(frozen=True)
class Mark:
    """The AUC of a run: its number, its text, and where point and interval lie, in percent.

    errors: Shares of missed fakes and of false alarms at the threshold that decides.
    """

    run: int
    cell: Cell
    errors: list[Cell]
    point: float = -1  # not defined
    low: float = 0
    width: float = 0


@dataclass(frozen=True)
class Forest:
    """AUCs with intervals, by group; ticks by place; rows left out; what is said of few images."""

    groups: dict[str, list["Line"]]
    ticks: list[tuple[float, str]]
    left_out: int
    few: list[str]

    @property
    def short(self) -> bool:
        """Whether there is room for another card below it."""
        return sum(1 + len(lines) for lines in self.groups.values()) <= _SHORT


@dataclass(frozen=True)
class Line:
    """A row of the forest plot: its name, its numbers of images, and a mark a run."""

    name: str
    images: str
    marks: list[Mark]


def forest(everything: Sequence[Results]) -> Forest | None:
    """Return the plot of a row a generator and a mark a run; None where no AUC is defined.

    The hardest generators of a group come first; of many it has those with the lowest AUC.
    """
    aucs = {
        place: [figure(results, place[2]) for results in everything]
        for place in _places(everything)
    }
    lowest = {
        place: min(value for value, _ in found if value is not None)
        for place, found in aucs.items()
        if any(value is not None for value, _ in found)
    }
    if not lowest:
        return None
    ends = [low for found in aucs.values() for _, interval in found for low in interval or ()]
    least = min([0.5, *ends, *lowest.values()])
    step = 0.1 if least >= 0.4 else 0.2
    steps = math.ceil(round((1 - least) / step, 6))
    start = 1 - steps * step

    def percent(value: float) -> float:
        return round(100 * (value - start) / (1 - start), 2)

    def mark(run: int, place: _Place) -> Mark:
        (value, interval), text = aucs[place][run], cell(everything[run], place[2])
        errors = [cell(everything[run], keys) for keys in _error_rates(place[2])]
        if value is None:
            return Mark(run, text, errors)
        low, high = map(percent, interval or (value, value))
        return Mark(run, text, errors, percent(value), low, round(high - low, 2))

    generators = sorted((p for p in lowest if p[0] != "mean"), key=lambda place: lowest[place])
    means = [place for place in aucs if place[0] == "mean"]
    shown = [*means, *generators[:_MOST]]
    shown += [place for place in aucs if place not in lowest and len(generators) < _MOST]
    order = list(_GROUPS)
    shown.sort(key=lambda place: order.index(place[0]))
    groups: dict[str, list[Line]] = {}
    for place in shown:
        marks = [mark(run, place) for run in range(len(everything))]
        images = counts_text(everything, place[2]).replace("+", " + ")
        groups.setdefault(_GROUPS[place[0]], []).append(Line(place[1], images, marks))
    few = wide_intervals(everything, [place[2] for place in shown])
    ticks = [(percent(start + n * step), f"{start + n * step:.1f}") for n in range(steps + 1)]
    return Forest(groups, ticks, max(0, len(generators) - _MOST), few)


def _error_rates(auc: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return where the error rates lie that belong to the AUC at this place."""
    if auc[1] == "mean":
        return [(auc[0], POINTS, DECISION, rate) for rate in ("apcer_mean", "bpcer")]
    return [(*auc[:-1], POINTS, DECISION, rate) for rate in ("apcer", "bpcer")]


_Place = tuple[str, str, tuple[str, ...]]
"""A row: its group, its name, where in results.json its AUC is."""


def _places(everything: Sequence[Results]) -> list[_Place]:
    """Return the means and the generators, which models may know in other groups."""
    found: dict[tuple[str, str], _Place] = {}
    for results in everything:
        for test_set in (name for name in SET_TITLES if name in results):
            keys: tuple[str, ...] = (test_set, "mean", "auc")
            if figure(results, keys)[0] is not None:
                found.setdefault(("mean", test_set), ("mean", SET_TITLES[test_set], keys))
            for name, entry in results[test_set]["generators"].items():
                group = entry["relation"] if test_set == "open" else test_set
                group = group if group in _GROUPS else UNRELATED
                keys = (test_set, "generators", name, "auc")
                found.setdefault((test_set, name), (group, name, keys))
    return list(found.values())


def examples(scores: Scores, shown: Integers, count: int = 6) -> list[int]:
    """Return rows of ``shown`` that stand for the outcomes: right, missed, false alarm, two each.

    They are the middle ones by score, one real and one synthetic of those that are right; where an
    outcome has too few, more of the others.
    """
    candidates, chosen = scores.select(shown), list[int]()
    outcome = np.array(OUTCOMES)[outcomes(candidates)]
    wanted = [
        (outcome == "right") & (candidates.label == SYNTHETIC),
        (outcome == "right") & (candidates.label == REAL),
        outcome == "missed",
        outcome == "false alarm",
        np.ones(len(candidates), bool),
    ]
    for mask, most in zip(wanted, (1, 1, 2, 2, count), strict=True):
        rows = [row for row in shown[mask].tolist() if row not in chosen]
        rows.sort(key=lambda row: scores.score[row])
        chosen += [rows[at] for at in evenly(len(rows), min(most, count - len(chosen)))]
    return chosen


def looks(results: Mapping[str, Results]) -> str:
    """Return how often the CAM of a run peaks in the artefact, "" without masks."""
    (run,) = results.values()
    found = []
    for test_set in (name for name in SET_TITLES if name in run):
        keys = (test_set, "pooled")
        (hit, _), (chance, _) = (
            figure(run, (*keys, name)) for name in ("pointing_hit", "pointing_chance")
        )
        if hit is not None and chance is not None:
            title = SET_TITLES[test_set]
            found.append(f"{round(100 * hit)} ({title}; {round(100 * chance)} by chance)")
    if not found:
        return ""
    return f"Of 100 synthetic faces its CAM peaks in the artefact of {', '.join(found)}."


def facts(results: Results | None, scores: Scores, threshold: Threshold) -> dict[str, str]:
    """Return what the head of a page says of a run, by name; "" for what is not known."""
    if results is None:
        return {"images": f"{len(scores):,} without labels", "threshold": str(threshold)}
    origin = results.get("provenance") or {}
    model = dict(results.get("model", {}))
    images = f"{results['n_real']:,} real, {results['n_synthetic']:,} synthetic"
    if results["n_unlabelled"]:
        images += f", {results['n_unlabelled']:,} without label"
    epoch = str(model.pop("epoch", ""))
    chosen = [f"{n.replace('_', ' ')} {v:.3f}" for n, v in model.items() if v is not None]
    return {
        "loss": (origin.get("loss") or {}).get("name", ""),
        "network": origin.get("network", ""),
        "initial weights": origin.get("initial_weights", ""),
        "scores": (origin.get("scores") or {}).get("file", ""),
        "seed": str(origin.get("seed") if origin.get("seed") is not None else ""),
        "trained on": ", ".join(results["training_generators"]),
        "threshold": str(threshold),
        "epoch": ", chosen by ".join([epoch, *chosen]) if epoch else "",
        "images": images,
        "command": origin.get("command", ""),
    }
