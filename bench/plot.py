"""Pictures and tables of what was measured, for README and docs/benchmarks.md.

    python -m bench.plot [--results FOLDER] [--docs FOLDER]

reads ``head.csv``, ``growth.csv``, ``growth-slopes.csv``, ``step.csv`` and ``imports.csv``, draws
``bench-head.png``, ``bench-growth.png`` and ``bench-step.png``, and fills the tables between the
marks of ``benchmarks.md``. What has not been measured has no picture.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bench.entry import end_in_a_line
from bench.head_table import growth_of
from bench.tables import Rows, distinct, fill, read
from focus.errors import InputError

ROOT = Path(__file__).parents[1]
DOCUMENT = "benchmarks.md"
_DPI = 150
_COLOURS = {"fp32": "#1b6ca8", "bf16": "#d9730d", "ours": "#1b6ca8", "plain": "#777777"}
_MARKERS = {"channels_last": "o", "nchw": "s"}
_GREY = "#777777"

PANELS = (
    "A/A",
    "ours / plain",
    "ours / fastest plain",
    growth_of(1000),
    "compiled / ours",
    "branches / ours",
    "per sample / ours",
    "cam_entropy / copy",
)


def head_picture(rows: Rows) -> Figure:
    """A panel a ratio: its interval by size, type and layout, with the bar it is held to."""
    shapes = [shape for (shape,) in distinct(rows, "shape")]
    kinds = [(dtype, layout) for dtype in ("fp32", "bf16") for layout in _MARKERS]
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(2, 4, sharey=True)
    for axes, name in zip(panels.flat, PANELS, strict=True):
        classes = "1000" if name == growth_of(1000) else "2"
        for row in rows:
            if row["ratio"] != name or row["classes"] != classes or not row["median"]:
                continue
            kind = kinds.index((row["dtype"], row["layout"]))
            place = shapes.index(row["shape"]) + 0.18 * (kind - 1.5)
            _interval(axes, row, place, _COLOURS[row["dtype"]], _MARKERS[row["layout"]])
        _ratio_axis(axes, name)
        axes.set_yticks(range(len(shapes)), shapes)
    axes.set_ylim(len(shapes) - 0.5, -0.5)
    for first in panels[:, 0]:
        first.set_ylabel("B x C x HW", fontsize=8)
    handles = [
        Line2D([], [], color=_COLOURS[dtype], marker=_MARKERS[layout], label=f"{dtype}, {layout}")
        for dtype, layout in kinds
    ]
    _legend(figure, handles)
    return figure


def step_picture(rows: Rows) -> Figure:
    """A panel a ratio: its interval by model and batch, with the bar it is held to."""
    # The head's share of a step, far below 1, is left to the table.
    ratios = [name for (name,) in distinct(rows, "ratio") if name != "head / step"]
    cases = distinct(rows, "model", "batch")
    figure = Figure(figsize=(11, 1.4 + 0.45 * len(cases)), layout="constrained")
    panels = figure.subplots(1, len(ratios), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, ratios, strict=True):
        for row in rows:
            if row["ratio"] == name and row["median"]:
                place = cases.index((row["model"], row["batch"]))
                _interval(axes, row, place, _COLOURS["ours"], "o")
        _ratio_axis(axes, name)
        axes.set_yticks(range(len(cases)), [f"{model}, batch {batch}" for model, batch in cases])
    axes.set_ylim(len(cases) - 0.5, -0.5)
    _legend(figure, [])
    return figure


def growth_picture(sizes: Rows, slopes: Rows) -> Figure:
    """CPU time and memory against each size, with the fitted lines; the legends say the slopes."""
    against = {"batch": "B", "channels": "C", "cells": "HW", "classes": "K"}
    quantities = {"time": ("milliseconds", "CPU time, ms"), "memory": ("megabytes", "memory, MB")}
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(2, 4, sharey="row")
    for line, (quantity, (column, label)) in zip(panels, quantities.items(), strict=True):
        for axes, (name, letter) in zip(line, against.items(), strict=True):
            for slope in slopes:
                if (slope["against"], slope["quantity"]) != (name, quantity):
                    continue
                _growth_line(axes, slope, sizes, column)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel(letter)
            ticks = sorted({int(row[name]) for row in sizes if row["against"] == name})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            if axes.lines:
                axes.legend(frameon=False, fontsize=7, title="fitted slope", title_fontsize=7)
            _tidy(axes)
        line[0].set_ylabel(label)
    return figure


def _growth_line(axes: Axes, slope: Mapping[str, str], sizes: Rows, column: str) -> None:
    """The sizes of one provider and layout, and the line of the fitted slope through their mean."""
    labels = ("provider", "layout", "dtype", "against")
    rows = [row for row in sizes if all(row[name] == slope[name] for name in labels)]
    x = np.array([float(row[slope["against"]]) for row in rows])
    y = np.array([float(row[column]) for row in rows])
    colour, marker = _COLOURS[slope["provider"]], _MARKERS[slope["layout"]]
    hollow = slope["dtype"] == "bf16"
    axes.plot(x, y, marker, color=colour, ms=5, mfc="white" if hollow else colour)
    centre = np.log(x).mean(), np.log(y).mean()
    fitted = np.exp(centre[1] + float(slope["slope"]) * (np.log(x) - centre[0]))
    style = "-" if slope["layout"] == "channels_last" else "--"
    name = f"{slope['provider']}, {slope['layout']}"
    if len({row["dtype"] for row in sizes}) > 1:
        name += f", {slope['dtype']}"
    axes.plot(x, fitted, style, color=colour, lw=1, label=f"{float(slope['slope']):.2f} {name}")


def _interval(axes: Axes, row: Mapping[str, str], place: float, colour: str, marker: str) -> None:
    """A ratio with its interval, filled where its bar is met, and the bar as a black tick."""
    median, low, high = (float(row[name]) for name in ("median", "low", "high"))
    axes.plot([low, high], [place, place], color=colour, lw=1.2)
    hollow = row["met"] == "False"
    axes.plot(median, place, marker, color=colour, ms=5, mfc="white" if hollow else colour)
    if row["bar"]:
        axes.plot(float(row["bar"].split()[1]), place, "|", color="black", ms=8, mew=1.5)


def _ratio_axis(axes: Axes, name: str) -> None:
    axes.set_title(name.replace(", one", ",\none"), fontsize=10)
    axes.axvline(1, color=_GREY, lw=0.8, ls=":")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _tidy(axes)


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """What a ratio's marks mean, under the panels."""
    marks = [
        Line2D([], [], color=_GREY, marker="o", label="95 % interval, bar met or none"),
        Line2D([], [], color=_GREY, marker="o", mfc="white", label="bar not met"),
        Line2D([], [], color="black", marker="|", ms=8, mew=1.5, ls="", label="bar"),
    ]
    figure.legend(
        handles=[*handles, *marks], loc="outside lower center", ncols=7, frameon=False, fontsize=8
    )


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8)


def main() -> None:
    """Draw what there is to draw, and fill the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where pictures go")
    given = parser.parse_args()
    names = ("head", "growth", "growth-slopes", "step")
    found = {name: rows for name in names if (rows := read(given.results, name))}
    figures = {}
    if "head" in found:
        figures["head"] = head_picture(found["head"])
    if "growth" in found and "growth-slopes" in found:
        figures["growth"] = growth_picture(found["growth"], found["growth-slopes"])
    if "step" in found:
        figures["step"] = step_picture(found["step"])
    if not figures:
        raise InputError(
            f"{given.results} has none of head.csv, growth.csv and step.csv: "
            f"measure with python -m bench --output {given.results}."
        )
    for name, figure in figures.items():
        path = given.docs / f"bench-{name}.png"
        figure.savefig(path, dpi=_DPI)
        print(path)
    document = given.docs / DOCUMENT
    text = document.read_text(encoding="utf-8")
    document.write_text(fill(text, given.results), encoding="utf-8")
    print(document)


if __name__ == "__main__":
    end_in_a_line(main)
