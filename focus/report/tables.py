"""Make the tables of a report: figures of results.json and their intervals as text."""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from focus.evaluation.estimates import DECISION
from focus.evaluation.result_table import (
    CHANCE,
    SET_TITLES,
    UNRELATED,
    at,
    figure,
    footnotes,
    table_rows,
)
from focus.evaluation.results import Results

_APCER, _BPCER = "apcer", "bpcer"
_MAIN = {
    "auc": "AUC",
    "eer": "EER",
    "tpr_at_fpr_0.01": "TPR at 1 % FPR",
    _APCER: "APCER",
    _BPCER: "BPCER",
}
"""The columns of the table of a test set that matter first."""
_MORE = {
    "tpr_at_fpr_0.05": "TPR at 5 % FPR",
    "prevalence": "share of synthetic",
    "average_precision": "AP",
    "average_precision_balanced": "AP at 50 % synthetic",
    "balanced_accuracy": "balanced accuracy",
    "ece": "ECE",
    "ece_balanced": "ECE at 50 % synthetic",
    "entropy": "entropy h",
    "entropy_z": "entropy z",
    "cam_range": "CAM range",
    "peak_share": "peaks in the commonest cell",
    "peak_outlier": "peaks on outlying tokens",
    "pointing_hit": "peaks in artefact",
    "pointing_chance": CHANCE,
    "map_hit": "peaks where people looked",
    "map_chance": "chance level where people looked",
    "map_cosine": "cosine with human map",
}
FIGURES = _MAIN | _MORE
_RATES = {
    "bpcer": "BPCER",
    "apcer_pooled": "APCER, all synthetic",
    "apcer_mean": "APCER, mean",
    "apcer_max": "APCER, largest",
}
_POINTS = {
    DECISION: "the one that decides",
    "eer": "both errors equally frequent",
    "bpcer1": "BPCER of 1 %",
    "bpcer5": "BPCER of 5 %",
    "balanced": "best balanced accuracy",
}


@dataclass(frozen=True)
class Cell:
    """A figure as text, its interval as text, and where in results.json it is; else "" for both."""

    text: str
    interval: str = ""
    where: str = ""


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, rows of a name and cells, and notes below.

    main: how many of the columns show at once; a switch shows the others.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    main: int = 99

    def as_data_uri(self) -> str:
        """Return it as CSV in a data URI; an interval is a column of its own, ``[low, high]``."""
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(["", *(name for c in self.columns for name in (c, f"{c}, interval"))])
        for name, cells in self.rows:
            writer.writerow([name, *(text for c in cells for text in (c.text, c.interval))])
        content = base64.b64encode(file.getvalue().encode("utf-8", "replace")).decode("ascii")
        return f"data:text/csv;charset=utf-8;base64,{content}"


def cell(results: Results, keys: Sequence[str]) -> Cell:
    """Return the figure at ``keys``, with three digits behind the point; "-" for None."""
    value, interval = figure(results, keys)
    ends = "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
    return Cell("-" if value is None else f"{value:.3f}", ends, json.dumps(keys))


def headline(results_by_name: Mapping[str, Results]) -> Table:
    """Return the table at the end of a run, with all intervals: a column a model."""
    everything = results_by_name.values()
    made = table_rows(list(everything))
    rows = [(row.title, [cell(results, row.keys) for results in everything]) for row in made]
    undefined = any(c.text == "-" for _, cells in rows for c in cells)
    return Table("Summary", list(results_by_name), rows, footnotes(made, undefined=undefined))


def of_test_sets(results: Results) -> list[Table]:
    """Return the tables by generator, then those at the thresholds that validation fixed."""
    present = [name for name in SET_TITLES if results.get(name, {}).get("generators")]
    places: list[tuple[str, ...]] = [(name,) for name in present]
    places += [("groups", name) for name in present if "groups" in results]
    tables = [_by_generator(results, place) for place in places]
    points = [_operating_points(results, place) for place in places]
    return tables + [table for table in points if table.rows]


def _title(place: tuple[str, ...]) -> str:
    return SET_TITLES[place[-1]].capitalize() + " by group" * (place[0] == "groups")


def _by_generator(results: Results, place: tuple[str, ...]) -> Table:
    """Return the table of a test set: its generators, their mean and all images together.

    place: where in results.json it is, of images or of groups.
    """
    found, unit = at(results, place), "groups" if place[0] == "groups" else "images"
    generators = found["generators"]
    shared = ("operating_points", DECISION)
    rates = {  # where the error rates of each kind of row are
        "mean": {_APCER: (*shared, "apcer_mean"), _BPCER: (*shared, "bpcer")},
        "pooled": {_APCER: (*shared, "apcer_pooled"), _BPCER: (*shared, "bpcer")},
    }
    defined = [n for n in FIGURES if any(e.get(n) is not None for e in generators.values())]
    columns = [n for n in FIGURES if n in defined or n in (_APCER, _BPCER)]
    places: list[tuple[tuple[str, ...], str, Results]] = [
        ((*place, "generators", name), name, entry) for name, entry in generators.items()
    ]
    places.append(((*place, "mean"), "mean of generators", {}))
    places.append(((*place, "pooled"), f"all {unit}", found["pooled"]))
    rows, lacks = [], dict[str, str]()
    for keys, name, entry in places:
        own = {rate: (*keys, *shared, rate) for rate in (_APCER, _BPCER)}
        if (kind := keys[len(place)]) in rates:
            own = {rate: (*place, *where) for rate, where in rates[kind].items()}
        relation = entry["relation"] or UNRELATED if "relation" in entry else ""
        cells = [cell(results, own.get(column, (*keys, column))) for column in columns]
        numbers = [Cell(str(entry.get(f"n_{kind}", ""))) for kind in ("real", "synthetic")]
        rows.append((name, [Cell(relation), *cells, *numbers]))
        lacks |= entry.get("undefined", {})
    counts = [f"{kind} {unit}" for kind in ("real", "synthetic")]
    heads = ["relation", *(FIGURES[name] for name in columns), *counts]
    main = 1 + sum(name in _MAIN for name in columns)
    return Table(_title(place), heads, rows, _needs(lacks, FIGURES), main)


def _operating_points(results: Results, place: tuple[str, ...]) -> Table:
    """Return the error rates of a test set at the thresholds that validation fixed."""
    found = at(results, place)["operating_points"]
    thresholds = {DECISION: results["decision"]["threshold"], **(results["thresholds"] or {})}
    rows = []
    for point in (point for point in _POINTS if point in found):
        plain = threshold_text(thresholds[point]), found[point]["apcer_max_generator"] or "-"
        rates = [cell(results, (*place, "operating_points", point, rate)) for rate in _RATES]
        rows.append((_POINTS[point], [*map(Cell, plain), *rates]))
    heads = ["threshold", "most missed", *_RATES.values()]
    return Table(
        f"{_title(place)}, at thresholds",
        heads,
        rows,
        _needs(results["undefined_thresholds"], _POINTS),
    )


def _needs(lacks: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    """Return a sentence for each row or column in ``words`` that is not defined."""
    return [f"{words[name]} {lacks[name]}." for name in words if name in lacks]


def threshold_text(value: float) -> str:
    """Return the digits that tell it from 1, near which most scores lie."""
    return f"1 - {1 - value:.2g}" if 0.999 < value < 1 else f"{value:.4g}"
