"""Make the tables of a report: figures of results.json and their intervals as text."""

import json
from collections.abc import Mapping

from focus.evaluation.result_table import (
    SET_TITLES,
    UNRELATED,
    counts_text,
    error_count,
    footnotes,
    hardest_first,
    table_rows,
    wide_intervals,
)
from focus.evaluation.results import Results, figure_at, value_at
from focus.metrics.figures import DECISION, FIGURES, POINTS, Figure, Keys
from focus.model.operating_points import score_text
from focus.tables import Cell, Table

_COLUMNS = sorted((f for f in FIGURES if f.heading and f.where != "set"), key=lambda f: f.column)
_MAIN = 5
"""So many of the columns of the table of a test set matter first."""
_RATES = [f for f in FIGURES if f.heading and (f.where == "set" or f.name == "bpcer")]
_POINTS = {
    DECISION: "the one that decides",
    "eer": "both errors equally frequent",
    "bpcer1": "BPCER of 1 %",
    "bpcer5": "BPCER of 5 %",
    "balanced": "best balanced accuracy",
}


def cell(results: Results, keys: Keys) -> Cell:
    """Return the figure at ``keys``, with three digits behind the point; "-" for None."""
    value, interval = figure_at(results, keys)
    ends = "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
    return Cell("-" if value is None else f"{value:.3f}", ends, json.dumps(keys))


def headline(results_by_name: Mapping[str, Results]) -> Table:
    """Return the table at the end of a run, with all intervals and a column a model."""
    everything = list(results_by_name.values())
    rows_of_figures = table_rows(everything)
    rows = []
    for row in rows_of_figures:
        images = Cell(counts_text(everything, row.keys))
        rows.append((row.title, [images, *(cell(results, row.keys) for results in everything)]))

    undefined = any(figure.text == "-" for _, cells in rows for figure in cells)
    notes = wide_intervals(everything, [row.keys for row in rows_of_figures])
    notes += footnotes(rows_of_figures, undefined=undefined)
    return Table("Summary", ["images", *results_by_name], rows, notes)


def of_test_sets(results: Results) -> list[Table]:
    """Return the tables by generator, then those at the thresholds that validation fixed."""
    present = [name for name in SET_TITLES if results.get(name, {}).get("generators")]
    keys_of_sets: list[Keys] = [(name,) for name in present]
    if "groups" in results:
        keys_of_sets += [("groups", name) for name in present]
    tables = [_by_generator(results, keys) for keys in keys_of_sets]
    points = [_operating_points(results, keys) for keys in keys_of_sets]
    return tables + [table for table in points if table.rows]


def _title(keys: Keys) -> str:
    """Return the title of the test set at ``keys``."""
    title = SET_TITLES[keys[-1]].capitalize()
    return f"{title} by group" if keys[0] == "groups" else title


def _by_generator(results: Results, keys_of_set: Keys) -> Table:
    """Return the table of a test set: a row a generator, their mean and all images.

    keys_of_set: Where results.json has the test set.
    """
    test_set = value_at(results, keys_of_set)
    unit = "groups" if keys_of_set[0] == "groups" else "images"
    generators = test_set["generators"]
    defined = [
        figure
        for figure in _COLUMNS
        if figure.where == "point"
        or any(entry.get(figure.name) is not None for entry in generators.values())
    ]
    entries: list[tuple[Keys, str, Results]] = [
        ((*keys_of_set, "generators", name), name, generators[name])
        for name in hardest_first([results], keys_of_set[-1], keys_of_set[:-1])
    ]
    entries.append(((*keys_of_set, "mean"), "mean of generators", {}))
    entries.append(((*keys_of_set, "pooled"), f"all {unit}", test_set["pooled"]))

    rows = []
    lacks: dict[str, str] = {}
    for keys, name, entry in entries:
        relation = entry["relation"] or UNRELATED if "relation" in entry else ""
        cells = [cell(results, _where(figure, keys, keys_of_set)) for figure in defined]
        numbers = [Cell(str(entry.get(f"n_{kind}", ""))) for kind in ("real", "synthetic")]
        rows.append((name, [Cell(relation), *cells, *numbers]))
        lacks |= entry.get("undefined", {})

    counts = [f"{kind} {unit}" for kind in ("real", "synthetic")]
    heads = ["relation", *(figure.heading for figure in defined), *counts]
    main = 1 + sum(figure in _COLUMNS[:_MAIN] for figure in defined)
    words = {figure.name: figure.heading for figure in _COLUMNS}
    return Table(_title(keys_of_set), heads, rows, _needs(lacks, words), main)


def _where(figure: Figure, keys: Keys, keys_of_set: Keys) -> Keys:
    """Return where a figure of a row at ``keys`` lies; means of error rates are the test set's."""
    if figure.where != "point":
        return (*keys, figure.name)
    kind = keys[len(keys_of_set)]
    if kind == "generators":
        return (*keys, POINTS, DECISION, figure.name)
    name = f"apcer_{kind}" if figure.name == "apcer" else figure.name
    return (*keys_of_set, POINTS, DECISION, name)


def _operating_points(results: Results, keys_of_set: Keys) -> Table:
    """Return the error rates of a test set at the thresholds that validation fixed."""
    points = value_at(results, (*keys_of_set, POINTS))
    thresholds = {DECISION: results["decision"]["threshold"], **(results["thresholds"] or {})}
    rows = []
    for point, title in _POINTS.items():
        if point not in points:
            continue
        texts = [score_text(thresholds[point]), points[point]["apcer_max_generator"] or "-"]
        for rate in ("bpcer", "apcer"):
            errors, images = error_count(results, (*keys_of_set, POINTS, point, rate))
            texts.append(f"{errors} of {images}")
        rates = [cell(results, (*keys_of_set, POINTS, point, rate.name)) for rate in _RATES]
        rows.append((title, [*map(Cell, texts), *rates]))
    heads = ["threshold", "most missed", "false alarms", "missed"]
    heads += [rate.heading for rate in _RATES]
    return Table(
        f"{_title(keys_of_set)}, at thresholds",
        heads,
        rows,
        _needs(results["undefined_thresholds"], _POINTS),
    )


def _needs(lacks: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    """Return a sentence for each row or column in ``words`` that is not defined."""
    return [f"{words[name]} {lacks[name]}." for name in words if name in lacks]
