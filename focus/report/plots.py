"""The figures of a report: what each shows, in words too, and how it is drawn.

All are as wide as a phone's screen. Text and axes have the colour ``INK``, the background is white:
the page replaces both by those of its own.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from focus.data.perturbations import STRENGTHS, UNITS
from focus.evaluation import robustness
from focus.evaluation.protocol import UNNAMED, Comparison, match, union
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.metrics import BINS, Array
from focus.plotting import COLOURS, INK, legend_below, short_labels
from focus.report import curves

SET_TITLES = {"closed": "closed set", "closed_balanced": "closed-balanced set", "open": "open set"}
PREFIXES = ("roc", "det", "scores", "entropy", "reliability", "training", "robustness")
"""The name of a figure's file is one of these, or begins with one and a dash."""

_WIDTH, _HEIGHT = 4.2, 3.1  # inches, without a legend
_DPI = 160
_REAL = "#7f7f7f"
_LINES = ("-", "--", ":", "-.")
_STYLES = len(COLOURS) * len(_LINES)
_OTHERS = ("#8a8a8a", "-")
"""Of lines that are too many to be told apart."""
_ENDS = 5  # of them the lowest and as many of the highest have a colour
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 8.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "focus",  # the same file each time
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Plot:
    """A figure to come: its file's name without ending, a heading, its content in words."""

    name: str
    title: str
    alt: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Curve:
    """A line of a ROC: what it is called, the scores [M] of real images and [N] of fakes."""

    label: str
    real: Array
    fake: Array
    auc: float | None


@dataclass(frozen=True)
class MeanKept:
    """What runs keep of their AUC on a test set: means over ``generators``.

    aucs: by run and perturbation, without it and at each strength.
    """

    generators: Sequence[str]
    aucs: Mapping[tuple[str, str], Sequence[float]]


@dataclass(frozen=True)
class Group:
    """Images of a histogram; colour: with its style, of a line, None for an area."""

    label: str
    scores: Scores
    colour: tuple[str, str] | None = None


def rendered(plot: Plot) -> tuple[str, bytes]:
    """The figure as the text of an SVG and as a PNG."""
    svg, png = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = plot.draw()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.set_layout_engine("none")  # its places are found, and stay
        figure.savefig(png, format="png", dpi=_DPI)
    return svg.getvalue(), png.getvalue()


def inline(svg: str, name: str) -> str:
    """The SVG of matplotlib as a part of a page: its colours the page's, its ids its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', body)
    content = body[body.index(">") + 1 :]
    content = re.sub(r'\bid="', f'id="{name}-', content)
    content = re.sub(r'(url\(|href=")#', rf"\1#{name}-", content)
    content = content.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    return f'<svg {view.group() if view else ""} aria-hidden="true">{content}'


def of_scores(scores: Scores, results: Results | None) -> list[Plot]:
    """The figures of an evaluation; without results (no image has a label) no curves."""
    if results is None:
        everything, shown = [Group("unlabelled", scores)], {"unlabelled": "unlabelled"}
        return [_histogram(kind, "", everything, shown) for kind in ("scores", "entropy")]
    comparisons = match(scores, results["training_generators"])
    names = list(dict.fromkeys(c.generator for c in comparisons))
    legend = short_labels(["real", *(name or UNNAMED for name in names)])
    plots, images = [], scores.images
    for test_set, title in SET_TITLES.items():
        members = [c for c in comparisons if c.test_set == test_set and len(c.real) and len(c.fake)]
        if not members:
            continue
        # A generator has its colour in each test set, unless there are more of them than colours.
        shared = names if len(names) <= _STYLES else [c.generator for c in members]
        colours = [_colour(shared.index(c.generator)) for c in members]
        lines = [_curve(scores, results, c) for c in members]
        suffix = test_set.replace("_", "-")
        plots += _rocs(suffix, title, lines, colours, legend)
        real = scores.select(union((c.real for c in members), images))
        groups = [Group("real", real)]
        groups += [
            Group(c.generator or UNNAMED, scores.select(c.fake), colour)
            for c, colour in zip(members, colours, strict=True)
        ]
        plots += [_histogram(kind, test_set, groups, legend) for kind in ("scores", "entropy")]
    pooled = {
        test_set: [c for c in comparisons if c.test_set == test_set] for test_set in SET_TITLES
    }
    found = {
        test_set: [
            scores.score[union((getattr(c, side) for c in own), images)]
            for side in ("real", "fake")
        ]
        for test_set, own in pooled.items()
        if any(len(c.real) and len(c.fake) for c in own)
    }
    if found:
        plots.append(_reliability(found, results))
    order = {prefix: number for number, prefix in enumerate(PREFIXES)}
    return sorted(plots, key=lambda plot: order[plot.name.partition("-")[0]])


def of_robustness(kept: Sequence[robustness.Kept]) -> list[Plot]:
    """A figure a perturbation; none where nothing was measured."""
    return [
        Plot(
            f"robustness-{name}",
            f"AUC under {name}",
            f"AUC of each generator by the strength of {name} ({UNITS[name]}), the clean AUC at "
            "the left; the figures are in robustness.csv.",
            partial(robustness.draw, kept, (name,)),
        )
        for name in STRENGTHS
        if any(each.perturbation == name and each.auc is not None for each in kept)
    ]


def of_training(rows: Sequence[Mapping[str, float]], best_epoch: int | None) -> list[Plot]:
    """The columns of ``summary.csv`` by epoch; none where there is no row."""
    if not rows:
        return []
    panels = {
        "loss": ("Loss", ("train_loss", "train_classification", "eval_log_loss")),
        "validation": ("On validation images", ("eval_auc", "eval_balanced_accuracy")),
        "focus": (
            "Entropy and peak of the CAM",
            ("train_entropy", "eval_entropy", "eval_peak_share"),
        ),
    }
    plots = []
    for name, (title, columns) in panels.items():
        shown = {
            column.replace("_", " ").replace("eval ", "validation "): [row[column] for row in rows]
            for column in columns
            if all(column in row for row in rows)
        }
        if shown:
            last = ", ".join(f"{column} {values[-1]:.3f}" for column, values in shown.items())
            alt = f"{title} by epoch, {len(rows)} epochs; in the last: {last}."
            if best_epoch:
                alt += f" The kept model is that of epoch {best_epoch}."
            epochs = [row["epoch"] for row in rows]
            plots.append(
                Plot(f"training-{name}", title, alt, partial(_training, epochs, shown, best_epoch))
            )
    return plots


def of_runs(named: Mapping[tuple[str, str], Sequence[Curve]], runs: Sequence[str]) -> list[Plot]:
    """ROC and DET of several runs, by test set and generator; runs: all, each with its colour."""
    plots, legend = [], short_labels(runs)
    for number, ((test_set, generator), lines) in enumerate(named.items()):
        title = f"{generator or UNNAMED}, {SET_TITLES[test_set]}"
        colours = [_colour(runs.index(line.label)) for line in lines]
        # Cut, as systems limit the names of files; its number tells it from others.
        name = re.sub("[^A-Za-z0-9]+", "-", f"{test_set} {generator}")[:80].strip("-")
        plots += _rocs(f"{number:02d}-{name}", title, lines, colours, legend)
    return plots


def of_runs_robustness(named: Mapping[str, MeanKept], runs: Sequence[str]) -> list[Plot]:
    """A figure a test set and perturbation, a line a run; runs: all, each with its colour."""
    plots, legend = [], short_labels(runs)
    for test_set, kept in named.items():
        title = SET_TITLES[test_set]
        of = ", ".join(kept.generators)
        many = len(kept.generators) > 1
        lowest = min(0.5, *(auc for aucs in kept.aucs.values() for auc in aucs))
        for name, strengths in STRENGTHS.items():
            lines = {run: kept.aucs[run, name] for run in runs if (run, name) in kept.aucs}
            colours = [_colour(runs.index(run)) for run in lines]
            said = "; ".join(
                f"{run} {aucs[0]:.3f} clean, {aucs[-1]:.3f} at {strengths[-1]:g}"
                for run, aucs in lines.items()
            )
            plots.append(
                Plot(
                    f"robustness-{test_set.replace('_', '-')}-{name}",
                    f"AUC under {name}, {title}, "
                    + (f"mean of {len(kept.generators)} generators" if many else of),
                    f"AUC of each run by the strength of {name} ({UNITS[name]}), {title}, "
                    f"{'mean of ' if many else ''}{of}: {said}.",
                    partial(
                        _robustness,
                        name,
                        {legend[run]: aucs for run, aucs in lines.items()},
                        colours,
                        lowest,
                    ),
                )
            )
    return plots


def _curve(scores: Scores, results: Results, comparison: Comparison) -> Curve:
    name = comparison.generator or UNNAMED
    auc = results[comparison.test_set]["generators"][name]["auc"]
    return Curve(name, scores.score[comparison.real], scores.score[comparison.fake], auc)


def _colour(number: int) -> tuple[str, str]:
    """Colour and line style: as many as are told apart."""
    return COLOURS[number % len(COLOURS)], _LINES[number // len(COLOURS) % len(_LINES)]


def _rocs(
    suffix: str,
    title: str,
    lines: Sequence[Curve],
    colours: Sequence[tuple[str, str]],
    legend: Mapping[str, str],
) -> list[Plot]:
    aucs = ", ".join(f"{line.label} {_number(line.auc)}" for line in lines)
    lines, colours = _told_apart(lines, colours)
    ends = ", in colour those of the five lowest and the five highest AUC"
    axis = f"the false positive rate on a logarithmic axis{ends if _OTHERS in colours else ''}"
    made = []
    for kind, name in (("roc", "ROC"), ("det", "DET")):
        alt = f"{name}, {title}, {axis}. AUC: {aucs}."
        draw = partial(_roc, kind, lines, colours, legend)
        made.append(Plot(f"{kind}-{suffix}", f"{name}, {title}", alt, draw))
    return made


def _told_apart(
    lines: Sequence[Curve], colours: Sequence[tuple[str, str]]
) -> tuple[Sequence[Curve], Sequence[tuple[str, str]]]:
    """The lines and their colours; of more than there are, by AUC, and all but both ends grey."""
    if len(lines) <= _STYLES:
        return lines, colours
    n_others = len(lines) - 2 * _ENDS
    ends = [_colour(number) for number in range(len(lines) - n_others)]
    by_auc = sorted(lines, key=lambda line: line.auc or 0)
    return by_auc, [*ends[:_ENDS], *[_OTHERS] * n_others, *ends[_ENDS:]]


def _roc(
    kind: str,
    lines: Sequence[Curve],
    colours: Sequence[tuple[str, str]],
    legend: Mapping[str, str],
) -> Figure:
    n_others = colours.count(_OTHERS)
    figure, axes = _panel()
    lowest_alarms = min(1 / max(2, len(line.real)) for line in lines)
    lowest_missed = min(1 / max(2, len(line.fake)) for line in lines)
    for number, (line, (colour, style)) in enumerate(zip(lines, colours, strict=True)):
        alarms, found = curves.roc(line.real, line.fake)
        label = f"{legend[line.label]}  {_number(line.auc)}"
        is_other = (colour, style) == _OTHERS
        if is_other:  # one name for all
            label = f"{n_others} others" if number == _ENDS else ""
        # A step: between two points the ROC has what the lower rate gives.
        height = found if kind == "roc" else np.maximum(1 - found, lowest_missed / 2)
        axes.plot(
            np.maximum(alarms, lowest_alarms / 2),
            height,
            drawstyle="steps-post",
            color=colour,
            linestyle=style,
            linewidth=0.6 if is_other else 1.4,
            zorder=1.9 if is_other else 2,  # 2 is matplotlib's own
            label=label,
        )
    axes.set_xscale("log")
    axes.set_xlim(lowest_alarms, 1)
    axes.set_xlabel("false positive rate")
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if lowest_alarms > 0.05:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    grid = np.geomspace(lowest_alarms, 1, 100)
    if kind == "roc":
        axes.plot(grid, grid, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
        axes.set_ylabel("true positive rate")
        axes.set_ylim(0, 1.01)
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    else:
        axes.plot(grid, 1 - grid, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.set_ylim(max(lowest_missed, 1e-4), 1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("miss rate")
    _legend(figure, axes)
    return figure


def _robustness(
    name: str,
    lines: Mapping[str, Sequence[float]],
    colours: Sequence[tuple[str, str]],
    lowest: float,
) -> Figure:
    figure, axes = _panel()
    for (label, aucs), (colour, style) in zip(lines.items(), colours, strict=True):
        axes.plot(aucs, color=colour, ls=style, lw=1.4, marker="o", markersize=3.5, label=label)
    axes.axhline(0.5, color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
    ticks = ["clean", *(f"{strength:g}" for strength in STRENGTHS[name])]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlabel(UNITS[name])
    axes.set_ylabel("AUC")
    axes.set_ylim(np.floor(20 * lowest - 0.2) / 20, 1.005)  # alike under all perturbations
    _legend(figure, axes)
    return figure


def _histogram(
    kind: str, test_set: str, groups: Sequence[Group], legend: Mapping[str, str]
) -> Plot:
    """Of the scores or of the entropy: real images as an area, each generator's fakes as a line."""
    column = {"scores": "score", "entropy": "entropy_predicted"}[kind]
    words = {"scores": "Scores", "entropy": "CAM entropy"}[kind]
    where = f", {SET_TITLES[test_set]}" if test_set else ""
    values = [(g, getattr(g.scores, column)) for g in groups if len(g.scores)]
    means = ", ".join(f"{group.label} {array.mean():.3f}" for group, array in values)
    suffix = f"-{test_set.replace('_', '-')}" if test_set else ""
    return Plot(
        f"{kind}{suffix}",
        f"{words}{where}",
        f"Histogram of {words[:1].lower() if kind == 'scores' else words[:1]}{words[1:]}{where}, "
        f"from 0 to 1. Means: {means}.",
        partial(_histograms, values, legend, _XLABELS[kind]),
    )


_XLABELS = {
    "scores": "score (probability of synthetic)",
    "entropy": "entropy of the predicted class's CAM",
}


def _histograms(
    values: Sequence[tuple[Group, Array]], legend: Mapping[str, str], xlabel: str
) -> Figure:
    figure, axes = _panel()
    for group, array in values:
        heights, edges = curves.shares(array)
        label = legend[group.label]
        if group.colour is None:
            axes.stairs(heights, edges, fill=True, color=_REAL, alpha=0.4, label=label)
        else:
            colour, style = group.colour
            axes.stairs(heights, edges, color=colour, ls=style, lw=1.4, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("share of the images")
    axes.yaxis.set_major_formatter(FuncFormatter(_percent))
    _legend(figure, axes)
    return figure


def _reliability(found: Mapping[str, Sequence[Array]], results: Results) -> Plot:
    errors = {test_set: results[test_set]["pooled"]["ece"] for test_set in found}
    words = ", ".join(f"{SET_TITLES[name]} {_number(error)}" for name, error in errors.items())
    alt = (
        f"Share of fakes by the mean score, in {BINS} bins of as many images each; on the diagonal "
        f"scores are calibrated. Expected calibration error: {words}."
    )
    return Plot("reliability", "Reliability", alt, partial(_reliabilities, found, errors))


def _reliabilities(
    found: Mapping[str, Sequence[Array]], errors: Mapping[str, float | None]
) -> Figure:
    figure, axes = _panel()
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.4, linewidth=0.8, linestyle=":")
    for number, (test_set, (real, fake)) in enumerate(found.items()):
        scored, fakes, _ = curves.reliability(real, fake)
        label = f"{SET_TITLES[test_set]}, ECE {_number(errors[test_set])}"
        axes.plot(
            scored, fakes, marker="o", markersize=3.5, lw=1.2, color=COLOURS[number], label=label
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("mean score of the bin")
    axes.set_ylabel("share of fakes in the bin")
    _legend(figure, axes)
    return figure


def _training(
    epochs: Sequence[float], shown: Mapping[str, Sequence[float]], best_epoch: int | None
) -> Figure:
    figure, axes = _panel()
    for number, (name, values) in enumerate(shown.items()):
        alone = _alone(values)
        axes.plot(
            epochs,
            values,
            color=COLOURS[number],
            linewidth=1.4,
            marker="o" if alone else None,
            markersize=3.5,
            markevery=alone,
            label=name,
        )
    if best_epoch:
        axes.axvline(best_epoch, color=INK, alpha=0.5, lw=0.8, ls="--", label="kept model")
    axes.set_xlabel("epoch")
    # Whole epochs only; with more ticks asked for, the locator falls back on fractions.
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    _legend(figure, axes)
    return figure


def _alone(values: Sequence[float]) -> list[int]:
    """Where a value has no neighbour: a line draws nothing of it."""
    finite = np.pad(np.isfinite(values), 1)
    alone: list[int] = np.flatnonzero(finite[1:-1] & ~finite[:-2] & ~finite[2:]).tolist()
    return alone


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend_below(figure, handles, labels, columns=2)


def _percent(value: float, _: int) -> str:
    return f"{100 * value:g} %"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
