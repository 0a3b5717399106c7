"""The tables of a report: cells with a figure of results.json and its interval as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focus.evaluation.result_table import CHANCE, UNTOLD, figure, footnotes, table_rows
from focus.evaluation.results import Results
from focus.model.operating_points import POINTS
from focus.plotting import printable
from focus.report.plots import SET_TITLES

FIGURES = {
    "auc": "AUC",
    "prevalence": "share of fakes",
    "average_precision": "AP",
    "average_precision_balanced": "AP at 50 % fakes",
    "eer": "EER",
    "tpr_at_fpr_0.01": "TPR at 1 % FPR",
    "tpr_at_fpr_0.05": "TPR at 5 % FPR",
    "balanced_accuracy": "balanced accuracy",
    "ece": "ECE",
    "ece_balanced": "ECE at 50 % fakes",
    "entropy": "CAM entropy",
    "pointing_hit": "peaks in artefact",
    "pointing_chance": CHANCE,
    "map_hit": "peaks where people looked",
    "map_chance": "chance level where people looked",
    "map_cosine": "cosine with human map",
}
"""The columns of the table of a test set, those that are defined for one of its generators."""
_RATES = {
    "bpcer": "BPCER",
    "apcer_pooled": "APCER, all fakes",
    "apcer_mean": "APCER, mean",
    "apcer_max": "APCER, largest",
}
_POINTS = {
    "eer": "both errors equally frequent",
    "bpcer1": "BPCER of 1 %",
    "bpcer5": "BPCER of 5 %",
    "balanced": "best balanced accuracy",
}


@dataclass(frozen=True)
class Cell:
    """A figure as text, its interval as text ("" without one), and where in results.json it is."""

    text: str
    interval: str
    keys: tuple[str, ...]

    @property
    def where(self) -> str:
        """The keys as JSON: a name may hold any character."""
        return json.dumps(self.keys)


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, and rows of a name, plain cells and figures."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str], list[Cell]]]
    notes: list[str]


def cell(results: Results, keys: Sequence[str]) -> Cell:
    """The figure at ``keys``, with three digits behind the point; "-" for what is not defined."""
    value, interval = figure(results, keys)
    if value is None:
        return Cell("-", "", tuple(keys))
    ends = "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
    return Cell(f"{value:.3f}", ends, tuple(keys))


def headline(results_by_name: Mapping[str, Results]) -> Table:
    """The table at the end of a run, with all intervals: a column a model."""
    everything = list(results_by_name.values())
    made = table_rows(everything)
    rows: list[tuple[str, list[str], list[Cell]]] = [
        (printable(row.title()), [], [cell(results, row.keys) for results in everything])
        for row in made
    ]
    undefined = any(c.text == "-" for _, _, cells in rows for c in cells)
    names = [printable(name) for name in results_by_name]
    return Table("Results", names, rows, footnotes(made, undefined=undefined))


def by_generator(results: Results) -> list[Table]:
    """A table a test set: its generators, their mean and all images together."""
    tables = []
    for test_set, title in SET_TITLES.items():
        found = results.get(test_set)
        if not found or not found["generators"]:
            continue
        places: list[tuple[str, tuple[str, ...], Mapping[str, Any]]] = [
            (printable(name), (test_set, "generators", name), entry)
            for name, entry in found["generators"].items()
        ]
        columns = {
            name: words
            for name, words in FIGURES.items()
            if any(entry.get(name) is not None for _, _, entry in places)
        }
        places.append(("mean of generators", (test_set, "mean"), {}))
        places.append(("all images", (test_set, "pooled"), found["pooled"]))
        rows = [
            (
                name,
                [_relation(entry), str(entry.get("n_real", "")), str(entry.get("n_fake", ""))],
                [cell(results, (*keys, column)) for column in columns],
            )
            for name, keys, entry in places
        ]
        heads = ["relation", "real", "fake", *columns.values()]
        lacks: dict[str, str] = {}
        for _, _, entry in places:
            lacks |= entry.get("undefined", {})
        tables.append(Table(title.capitalize(), heads, rows, _needs(lacks, FIGURES)))
    return tables


def operating_points(results: Results) -> list[Table]:
    """A table a test set: error rates at the thresholds that validation fixed."""
    thresholds = results["thresholds"] or {}
    notes = _needs(results["undefined_thresholds"], _POINTS)
    tables = []
    for test_set, title in SET_TITLES.items():
        found = results.get(test_set, {})
        found = found["operating_points"] if found.get("generators") else {}
        worst = {p: printable(found[p]["apcer_max_generator"] or "-") for p in POINTS if p in found}
        rows = [
            (
                _POINTS[point],
                [_threshold(thresholds[point]), worst[point]],
                [cell(results, (test_set, "operating_points", point, rate)) for rate in _RATES],
            )
            for point in worst
        ]
        if rows:
            heads = ["threshold", "most missed", *_RATES.values()]
            tables.append(Table(f"{title.capitalize()}, at thresholds", heads, rows, notes))
    return tables


def _needs(lacks: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    """What of the rows or columns in ``words`` is not defined: a sentence each that says why."""
    return [f"{words[name]} {lacks[name]}." for name in words if name in lacks]


def _threshold(value: float) -> str:
    """With the digits that tell it from 1, near which most scores lie."""
    return f"1 - {1 - value:.2g}" if 0.999 < value < 1 else f"{value:.4g}"


def _relation(entry: Mapping[str, Any]) -> str:
    return (entry["relation"] or UNTOLD) if "relation" in entry else ""
