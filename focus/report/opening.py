"""Answer what a reader asks first: how good it is, as a forest plot, and which faces to look at."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.result_table import SET_TITLES, UNRELATED, counts_text, wide_intervals
from focus.evaluation.results import Results, figure_at
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Integers, evenly
from focus.metrics.figures import DECISION, POINTS, Keys
from focus.model.operating_points import Threshold
from focus.report.gallery import OUTCOMES, outcomes
from focus.report.tables import cell
from focus.tables import Cell

_Estimate = tuple[float | None, tuple[float, float] | None]
"""A figure and its interval, None where it is not defined."""

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
    """AUCs with intervals.

    groups: Rows by the title of their group. ticks: Their positions in percent and texts. left_out:
    How many generators are not shown. few: Sentences on intervals that few images make wide.
    """

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


class _Row(NamedTuple):
    """A row of the plot: its group, its name, and where in results.json its AUC is."""

    group: str
    name: str
    keys: Keys


class _Axis(NamedTuple):
    """The axis of the AUCs: where it starts, and the distance and number of its ticks up to 1."""

    start: float
    step: float
    steps: int

    @classmethod
    def of(cls, aucs: Mapping[_Row, Sequence[_Estimate]], lowest: Mapping[_Row, float]) -> Self:
        """Return an axis that holds one half, all AUCs and their intervals."""
        ends = [
            end
            for aucs_of_row in aucs.values()
            for _, interval in aucs_of_row
            for end in interval or ()
        ]
        least = min([0.5, *ends, *lowest.values()])
        step = 0.1 if least >= 0.4 else 0.2
        steps = math.ceil(round((1 - least) / step, 6))
        return cls(1 - steps * step, step, steps)

    def percent(self, auc: float) -> float:
        """Return where an AUC lies, in percent of the width."""
        return round(100 * (auc - self.start) / (1 - self.start), 2)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the positions of the ticks, in percent, and their texts."""
        values = [self.start + number * self.step for number in range(self.steps + 1)]
        return [(self.percent(value), f"{value:.1f}") for value in values]


def forest(everything: Sequence[Results]) -> Forest | None:
    """Return the plot of a row a generator and a mark a run; None where no AUC is defined.

    The hardest generators of a group come first; of many it has those with the lowest AUC.
    """
    aucs = {
        row: [figure_at(results, row.keys) for results in everything] for row in _rows(everything)
    }
    lowest: dict[_Row, float] = {}
    for row, aucs_of_row in aucs.items():
        defined = [auc for auc, _ in aucs_of_row if auc is not None]
        if defined:
            lowest[row] = min(defined)
    if not lowest:
        return None

    axis = _Axis.of(aucs, lowest)
    shown, left_out = _shown(aucs, lowest)
    groups: dict[str, list[Line]] = {}
    for row in shown:
        marks = [_mark(run, results, row, axis) for run, results in enumerate(everything)]
        images = counts_text(everything, row.keys).replace("+", " + ")
        groups.setdefault(_GROUPS[row.group], []).append(Line(row.name, images, marks))

    few = wide_intervals(everything, [row.keys for row in shown])
    return Forest(groups, axis.ticks(), left_out, few)


def _shown(
    aucs: Mapping[_Row, Sequence[_Estimate]], lowest: Mapping[_Row, float]
) -> tuple[list[_Row], int]:
    """Return the rows of the plot by group, and how many generators are left out."""
    generators = sorted((row for row in lowest if row.group != "mean"), key=lambda row: lowest[row])
    shown = [row for row in aucs if row.group == "mean"]
    shown += generators[:_MOST]
    if len(generators) < _MOST:
        shown += [row for row in aucs if row not in lowest]
    order = list(_GROUPS)
    shown.sort(key=lambda row: order.index(row.group))
    return shown, max(0, len(generators) - _MOST)


def _mark(run: int, results: Results, row: _Row, axis: _Axis) -> Mark:
    """Return the mark of a run in a row."""
    auc, interval = figure_at(results, row.keys)
    text = cell(results, row.keys)
    errors = [cell(results, keys) for keys in _error_rates(row.keys)]
    if auc is None:
        return Mark(run, text, errors)
    low, high = map(axis.percent, interval or (auc, auc))
    return Mark(run, text, errors, axis.percent(auc), low, round(high - low, 2))


def _error_rates(auc: Keys) -> list[Keys]:
    """Return the keys of the error rates that belong to the AUC at these keys."""
    if auc[1] == "mean":
        return [(auc[0], POINTS, DECISION, rate) for rate in ("apcer_mean", "bpcer")]
    return [(*auc[:-1], POINTS, DECISION, rate) for rate in ("apcer", "bpcer")]


def _rows(everything: Sequence[Results]) -> list[_Row]:
    """Return the means and the generators, each in the group of the first model that has it."""
    rows: dict[tuple[str, str], _Row] = {}
    for results in everything:
        for test_set in (name for name in SET_TITLES if name in results):
            keys: Keys = (test_set, "mean", "auc")
            if figure_at(results, keys)[0] is not None:
                rows.setdefault(("mean", test_set), _Row("mean", SET_TITLES[test_set], keys))
            for name, entry in results[test_set]["generators"].items():
                group = entry["relation"] if test_set == "open" else test_set
                if group not in _GROUPS:
                    group = UNRELATED
                keys = (test_set, "generators", name, "auc")
                rows.setdefault((test_set, name), _Row(group, name, keys))
    return list(rows.values())


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
        positions = evenly(len(rows), min(most, count - len(chosen)))
        chosen += [rows[position] for position in positions]
    return chosen


def looks(results: Mapping[str, Results]) -> str:
    """Return how often the CAM of a run peaks in the artefact, "" without masks."""
    (run,) = results.values()
    hits = []
    for test_set in (name for name in SET_TITLES if name in run):
        keys = (test_set, "pooled")
        (hit, _), (chance, _) = (
            figure_at(run, (*keys, name)) for name in ("pointing_hit", "pointing_chance")
        )
        if hit is not None and chance is not None:
            title = SET_TITLES[test_set]
            hits.append(f"{round(100 * hit)} ({title}; {round(100 * chance)} by chance)")
    if not hits:
        return ""
    return f"Of 100 synthetic faces its CAM peaks in the artefact of {', '.join(hits)}."


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
    chosen_by = [
        f"{name.replace('_', ' ')} {value:.3f}"
        for name, value in model.items()
        if value is not None
    ]
    return {
        "loss": (origin.get("loss") or {}).get("name", ""),
        "network": origin.get("network", ""),
        "initial weights": origin.get("initial_weights", ""),
        "scores": (origin.get("scores") or {}).get("file", ""),
        "seed": "" if origin.get("seed") is None else str(origin["seed"]),
        "trained on": ", ".join(results["training_generators"]),
        "threshold": str(threshold),
        "epoch": ", chosen by ".join([epoch, *chosen_by]) if epoch else "",
        "images": images,
        "command": origin.get("command", ""),
    }
