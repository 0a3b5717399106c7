"""The tables of docs/benchmarks.md, from the files of the measurements, and where pictures stand.

A table stands between ``<!-- NAME -->`` and ``<!-- end -->``; :func:`fill` writes it anew.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.head_table import MEMORY_BAR, growth_of
from focus.errors import InputError

Rows = Sequence[Mapping[str, str]]

COLUMNS = {
    "head": (
        *("shape", "layout", "dtype", "classes", "ratio", "median", "low", "high", "bar", "met"),
        *("memory", "memory_met"),
    ),
    "growth": (
        *("provider", "layout", "dtype", "against", "batch", "channels", "cells", "classes"),
        *("milliseconds", "megabytes"),
    ),
    "growth-slopes": (
        *("provider", "layout", "dtype", "against", "quantity", "smallest", "largest"),
        *("slope", "low", "high", "bar", "met"),
    ),
    "step": ("model", "batch", "ratio", "median", "low", "high", "bar", "met"),
    "imports": ("what", "median", "low", "high", "bar", "met"),
}
"""What is read of each file."""

LETTERS = {"batch": "B", "channels": "C", "cells": "HW", "classes": "K"}
"""Of the sizes that grow."""

RATIOS = ("ours / plain", "ours / fastest plain", "compiled / ours", "branches / ours")
MORE_RATIOS = ("per sample / ours", "cam_entropy / copy")


def read(folder: Path, name: str) -> Rows:
    """The rows of ``NAME.csv``, none without the file; raises InputError where columns lack."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for column in COLUMNS[name]:
        if not rows or column not in rows[0]:
            raise InputError(
                f"{path} has no {column}: measure again with "
                f"python -m bench.{name.partition('-')[0]} --output {folder}."
            )
    return rows


def fill(document: str, folder: Path) -> str:
    """The document with its tables made from the results in a folder.

    Raises:
        InputError: for a table that does not exist, or results that lack a column.
    """

    def filled(found: re.Match[str]) -> str:
        name = found[1]
        if name not in TABLES:
            raise InputError(f"There is no table {name!r}; there are {', '.join(TABLES)}.")
        files, make = TABLES[name]
        results = [read(folder, file) for file in files]
        lines = make(*results)
        if lines and len(files) == 1 and lines[0].startswith("|"):
            lines += ["", measured_with(folder / f"{files[0]}.json")]
        return "\n".join(
            [f"<!-- {name} -->", "", *(lines or ["Not measured yet."]), "", "<!-- end -->"]
        )

    # "long" marks commands that take minutes, for the tests of the documents.
    mark = r"<!-- (?!long )([a-z0-9-]+) -->\n.*?<!-- end -->"
    return re.sub(mark, filled, document, flags=re.DOTALL)


def measured_with(path: Path) -> str:
    """The command and where it ran, in brackets."""
    known = json.loads(path.read_text(encoding="utf-8"))["settings"]
    cores = f"{known['cores']} virtual cores, {known['threads']} thread, pinned: {known['pinned']}"
    return (
        f"(`{known['command']}`, {known['rounds']} rounds, commit {known['commit']}, torch "
        f"{known['torch']}, Python {known['python']}, {known['cpu']}, {cores}.)"
    )


def bars(head: Rows, slopes: Rows, step: Rows, imports: Rows) -> list[str]:
    """A line per bar: its limits, in how many cases it is met, and the case furthest from it."""
    found: dict[str, list[tuple[float, str, str, bool]]] = {}

    def add(name: str, limit: str, figure: str, where: str, met: str) -> None:
        sense, number = limit.split()
        excess = float(figure) / float(number)
        said = f"{where}: {float(figure):.2f}".removeprefix(": ")
        case = excess if sense == "<=" else 1 / excess, limit, said, met == "True"
        found.setdefault(name, []).append(case)

    def deciding(row: Mapping[str, str]) -> str:
        return row["high"] if row["bar"].startswith("<=") else row["low"]

    for row in head:
        where = f"{row['shape']} {row['layout']} {row['dtype']}, K {row['classes']}"
        if row["met"]:
            add(row["ratio"], row["bar"], deciding(row), where, row["met"])
        if row["memory_met"]:
            limit = f"<= {MEMORY_BAR}"
            add("peak memory of ours / F", limit, row["memory"], where, row["memory_met"])
    for row in slopes:
        if row["met"]:
            name = f"slope of {row['quantity']} against {LETTERS[row['against']]}"
            add(name, row["bar"], deciding(row), f"{row['layout']} {row['dtype']}", row["met"])
    for row in step:
        if row["met"]:
            name = f"step of {row['model']}: {row['ratio']}"
            add(name, row["bar"], deciding(row), f"batch {row['batch']}", row["met"])
    for row in imports:
        add(f"{row['what']}, CPU seconds", row["bar"], deciding(row), "", row["met"])
    lines = []
    for name, cases in found.items():
        limits = " or ".join(dict.fromkeys(limit.replace(" ", "\u00a0") for _, limit, *_ in cases))
        met = sum(met for *_, met in cases)  # by figures that are not rounded
        lines.append((name, limits, f"{met} of {len(cases)}", max(cases)[2]))
    header = ("", "bar", "met in", "the case furthest from it, by the bound that decides")
    return markdown(header, lines)


def of_type(dtype: str, head: Rows) -> list[str]:
    """Two classes: a line per size and layout, a column per ratio; bold where the bar is met."""
    rows = [row for row in head if (row["dtype"], row["classes"]) == (dtype, "2")]
    names = ("A/A", *RATIOS, *MORE_RATIOS)
    lines = []
    for shape, layout in distinct(rows, "shape", "layout"):
        of_case = [row for row in rows if (row["shape"], row["layout"]) == (shape, layout)]
        memory = next(row["memory"] for row in of_case if row["ratio"] == "ours / plain")
        lines.append((f"{shape} {layout}", *(cell(of_case, name) for name in names), memory))
    return markdown(("", *names, "memory of ours / F"), lines)


def of_classes(head: Rows) -> list[str]:
    """More classes: a line per size, type, layout and number."""
    rows = [row for row in head if row["classes"] != "2"]
    lines = []
    keys = ("shape", "layout", "dtype", "classes")
    for case in distinct(rows, *keys):
        of_case = [row for row in rows if tuple(row[key] for key in keys) == case]
        shape, layout, dtype, classes = case
        ratios = (*RATIOS, growth_of(int(classes)))
        lines.append((f"{shape} {layout} {dtype}", classes, *(cell(of_case, r) for r in ratios)))
    return markdown(("", "K", *RATIOS, "K / K 2, ours / plain"), lines)


def of_growth(slopes: Rows) -> list[str]:
    """A line per size that grows and layout: slopes of time and memory."""
    keys = ("against", "layout", "dtype", "smallest", "largest")
    lines = []
    for case in distinct(slopes, *keys):
        against, layout, dtype, smallest, largest = case
        cells = []
        for quantity in ("time", "memory"):
            for provider in ("ours", "plain"):
                (row,) = (
                    row
                    for row in slopes
                    if tuple(row[key] for key in keys) == case
                    and (row["quantity"], row["provider"]) == (quantity, provider)
                )
                cells.append(figure(row, "slope", bounds=quantity == "time"))
        name = f"{LETTERS[against]}, {smallest} to {largest}"
        lines.append((name, f"{layout} {dtype}", *cells))
    header = ("", "", "time, ours", "time, plain", "memory, ours", "memory, plain")
    return markdown(header, lines)


def of_step(step: Rows) -> list[str]:
    """A line per model and batch, a column per ratio."""
    ratios = [name for (name,) in distinct(step, "ratio")]
    lines = []
    for model, batch in distinct(step, "model", "batch"):
        of_case = [row for row in step if (row["model"], row["batch"]) == (model, batch)]
        lines.append((f"{model}, batch {batch}", *(cell(of_case, name) for name in ratios)))
    return markdown(("", *ratios), lines)


def picture(name: str, caption: str, *results: Rows) -> list[str]:
    """A line that shows what bench.plot draws, if there is all that it needs."""
    return [f"![{caption}](bench-{name}.png)"] if all(results) else []


def cell(rows: Iterable[Mapping[str, str]], ratio: str) -> str:
    """A ratio of a case; empty without one."""
    for row in rows:
        if row["ratio"] == ratio and row["median"]:
            return figure(row, "median")
    return ""


def figure(row: Mapping[str, str], name: str, bounds: bool = True) -> str:
    """``1.23 [1.20, 1.26]``, bold where its bar is met."""
    digits = 4 if float(row[name]) < 0.01 else 2
    text = f"{float(row[name]):.{digits}f}"
    if bounds:
        text += f" [{float(row['low']):.{digits}f}, {float(row['high']):.{digits}f}]"
    return f"**{text}**" if row["met"] == "True" else text


def distinct(rows: Rows, *keys: str) -> list[tuple[str, ...]]:
    """What there is in some columns, in the order in which it comes first."""
    return list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; nothing without lines."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines] if lines else []


TABLES: dict[str, tuple[tuple[str, ...], Callable[..., list[str]]]] = {
    "bars": (("head", "growth-slopes", "step", "imports"), bars),
    "head-picture": (
        ("head",),
        partial(picture, "head", "Ratios of CPU time with intervals and bars, a panel for each"),
    ),
    "head-fp32": (("head",), partial(of_type, "fp32")),
    "head-bf16": (("head",), partial(of_type, "bf16")),
    "head-classes": (("head",), of_classes),
    "growth-picture": (
        ("growth", "growth-slopes"),
        partial(picture, "growth", "CPU time and memory against batch, channels, cells, classes"),
    ),
    "growth": (("growth-slopes",), of_growth),
    "step-picture": (
        ("step",),
        partial(picture, "step", "Ratios of CPU time of a training step, a panel for each"),
    ),
    "step": (("step",), of_step),
}
"""By name: the files that are read, and what makes the lines of their rows."""
