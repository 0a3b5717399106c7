"""Draw the figures of a report: each is data, a description in words and a short drawing function.

All are as wide as a phone's screen. Text and axes have the colour ``INK``, the background is white:
the page replaces both by those of its own.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter

from focus.data.perturbations import STRENGTHS, UNITS
from focus.evaluation.leaderboard import Leaderboard
from focus.evaluation.protocol import UNNAMED, Comparison, union
from focus.evaluation.result_table import SET_TITLES
from focus.evaluation.results import Results
from focus.evaluation.robustness import PerturbedAUC, curves
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Array, Floats
from focus.metrics.ranking import BINS, Ranking
from focus.plotting import COLOURS, DASHES, INK, MARKERS, legend_below, shortened
from focus.report.files import PREFIXES

Style = dict[str, Any]
"""Options of a line for matplotlib."""

_TRAINING = {
    "loss": ("Loss", "loss, in nats", ("train_loss", "train_classification", "eval_log_loss")),
    "validation": (
        *("On validation images", "AUC, balanced accuracy"),
        ("eval_auc", "eval_balanced_accuracy"),
    ),
    "focus": (
        *("Entropy and peak of the CAM", "entropy h, share of the images"),
        ("train_entropy", "eval_entropy", "eval_peak_share"),
    ),
}
"""Figures of the training: title, label of the axis and columns of ``summary.csv``."""
_IN_A_BIN = 20  # images, at least, of the reliability
_MANY = 8  # curves of robustness, above which known generators are shown by their mean
_UNDER = {
    "shared": "sharing (resized and compressed, twice)",
    "equalise": "equal storage of both classes",
}
"""Perturbations whose names do not say what they do."""
_READ_OFF = (0.0001, 0.001, 0.01, 0.05, 0.2, 1.0)
"""False positive rates with a label: those whose TPR is a figure, and some between them."""
_READ_OFF_FEW = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The same for fewer than a hundred real images."""
_READ_OFF_MANY = (0.00001, 0.001, 0.01, 0.1, 1.0)
"""The same for more than ten thousand, where more labels would run into each other."""
_SIZE = (4.2, 3.4)  # inches, without a legend
_COLUMNS = 12  # of a heat map, at most
_COLUMNS_WITH_NUMBERS = 5
_ROW, _AROUND_ROWS = 0.22, 2.6  # inches of a heat map: a row, and what is above and below all
_REAL = "#7f7f7f"
_LINES = ("-", "--", ":", "-.")
_BINS = 25  # of a histogram
_WIDTH = 1000  # steps of the axis of a ROC in which corners are told apart: two a pixel of a PNG
_GUIDE: Style = {"color": INK, "alpha": 0.4, "linewidth": 0.8, "linestyle": ":"}
_STYLE = Path(__file__).with_name("figures.mplstyle")


@dataclass(frozen=True)
class Plot:
    """A figure to come: its file's name without ending, a heading, its content in words."""

    name: str
    title: str
    alt: str
    draw: Callable[[Axes], None]
    size: tuple[float, float] = _SIZE


@dataclass(frozen=True)
class Curve:
    """A line of a ROC: its label, the scores [M] of real images and [N] of fakes, their AUC.

    style: The number of the line's colour and dashes.
    """

    label: str
    real: Array
    fake: Array
    auc: float
    style: int


def figure_of(plot: Plot) -> Figure:
    """Draw the figure: one panel, with its legend below."""
    with matplotlib.rc_context(fname=_STYLE):
        figure = Figure(figsize=plot.size, layout="constrained")
        axes = figure.subplots()
        plot.draw(axes)
        legend_below(figure, axes, columns=2)
    return figure


def rendered(plot: Plot) -> tuple[str, bytes]:
    """Return the figure as the text of an SVG and as a PNG."""
    svg, png = io.StringIO(), io.BytesIO()
    figure = figure_of(plot)
    with matplotlib.rc_context(fname=_STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.set_layout_engine("none")  # the SVG has laid it out
        figure.savefig(png, format="png", dpi=160)
    return svg.getvalue(), png.getvalue()


def inline(svg: str, name: str) -> str:
    """Return matplotlib's SVG as a part of a page: its colours the page's, its ids its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    view = re.search(r'viewBox="[^"]*"', body)
    content = body[body.index(">") + 1 :]
    content = re.sub(r'\bid="', f'id="{name}-', content)
    content = re.sub(r'(url\(|href=")#', rf"\1#{name}-", content)
    content = content.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    return f'<svg {view.group() if view else ""} aria-hidden="true">{content}'


def of_scores(
    scores: Scores, results: Results | None, comparisons: Sequence[Comparison]
) -> list[Plot]:
    """Return the figures of an evaluation; without results (no image has a label) no curves.

    comparisons: Those of the scores, as :func:`focus.evaluation.protocol.match` returns them.
    """
    if results is None:
        kinds = _histograms_of([scores])
        return [_histogram(kind, "", ("unlabelled", scores), [], {}) for kind in kinds]
    names = list(dict.fromkeys(c.generator or UNNAMED for c in comparisons))
    short = shortened(names)
    plots: list[Plot] = []
    for test_set, title in SET_TITLES.items():
        members = [c for c in comparisons if c.test_set == test_set and len(c.real)]
        if not members:
            continue
        lines, fakes = [], []
        real_scores = {id(c.real): scores.score[c.real] for c in members}  # which several share
        for c in members:
            name = c.generator or UNNAMED
            style = names.index(name)  # the same in each test set
            auc = results[test_set]["generators"][name]["auc"]
            lines.append(Curve(name, real_scores[id(c.real)], scores.score[c.fake], auc, style))
            fakes.append((name, scores.select(c.fake), style))
        real = scores.select(union((c.real for c in members), scores.images))
        plots += roc_and_det(test_set.replace("_", "-"), title, lines, short)
        kinds = _histograms_of([real, *(of_generator for _, of_generator, _ in fakes)])
        plots += [_histogram(k, test_set, ("real", real), fakes, short) for k in kinds]
    if plots:
        plots += _reliability(scores, comparisons, results)
    return sorted(plots, key=lambda plot: PREFIXES.index(plot.name.partition("-")[0]))


def of_robustness(results: Sequence[PerturbedAUC]) -> list[Plot]:
    """Return a figure for each perturbation that was measured, a line a generator."""
    return [
        Plot(
            f"robustness-{name}",
            f"AUC under {_UNDER.get(name, name)}",
            f"AUC of each generator by the strength of {name} ({UNITS[name]}), the clean AUC at "
            "the left; the figures are in robustness.csv.",
            partial(_robustness_of_generators, name, results),
        )
        for name in STRENGTHS
        if curves(results, name)
    ]


def robustness_figure(results: Sequence[PerturbedAUC]) -> Figure:
    """Draw a panel for each perturbation: AUC by strength, a line a generator."""
    names = [name for name in STRENGTHS if any(r.perturbation == name for r in results)]
    with matplotlib.rc_context(fname=_STYLE):
        figure = Figure(figsize=(2.75 * max(2, len(names)), 3.2), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _robustness_of_generators(name, results, axes)
            axes.set_title(name, size=11)
            axes.label_outer()
        legend_below(figure, panels[0], columns=5)
    return figure


def of_training(rows: Sequence[Mapping[str, float]], best_epoch: int | None) -> list[Plot]:
    """Return the columns of ``summary.csv`` by epoch; none where there is no row."""
    kept = f" The kept model is that of epoch {best_epoch}." if best_epoch else ""
    plots = []
    for name, (title, ylabel, columns) in _TRAINING.items():
        lines = {
            column.replace("_", " ").replace("eval ", "validation "): [row[column] for row in rows]
            for column in columns
            if rows and column in rows[0]
        }
        if lines:
            last = ", ".join(f"{label} {values[-1]:.3f}" for label, values in lines.items())
            alt = f"{title} by epoch, {len(rows)} epochs; in the last: {last}.{kept}"
            draw = partial(_training, [row["epoch"] for row in rows], lines, best_epoch, ylabel)
            plots.append(Plot(f"training-{name}", title, alt, draw))
    return plots


def of_runs_robustness(
    test_set: str, generators: Sequence[str], aucs: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[Plot]:
    """Return a figure for each perturbation, a line a run.

    aucs: The mean AUC over ``generators`` by perturbation and run, clean and at each strength;
        empty for a run that was not measured.
    """
    title, mean = SET_TITLES[test_set], f"mean of {', '.join(generators)}"
    which = f"mean of {len(generators)} generators" if len(generators) > 1 else generators[0]
    lowest = min(auc for by_run in aucs.values() for line in by_run.values() for auc in line)
    plots = []
    for name, by_run in aucs.items():
        said, lines, short = [], [], shortened(by_run)
        for number, (run, line) in enumerate(by_run.items()):
            if line:
                strongest = f"{line[-1]:.3f} at {STRENGTHS[name][-1]:g}"
                said.append(f"{run} {line[0]:.3f} clean, {strongest}")
                lines.append((short[run], line, _style(number)))
        plots.append(
            Plot(
                f"robustness-{test_set.replace('_', '-')}-{name}",
                f"AUC under {_UNDER.get(name, name)}, {title}, {which}",
                f"AUC of each run by the strength of {name} ({UNITS[name]}), {title}, {mean}: "
                f"{'; '.join(said)}.",
                partial(_robustness, name, lines, lowest),
            )
        )
    return plots


def _style(number: int) -> Style:
    """Return colour and dashes of a line; the colours change first."""
    dashes = _LINES[number // len(COLOURS) % len(_LINES)]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes, "linewidth": 1.4}


def roc_and_det(
    name: str, title: str, lines: Sequence[Curve], short: Mapping[str, str]
) -> list[Plot]:
    """Return the ROC and the DET of some curves. short: The name of each label in the legend."""
    sorted_reals = {id(line.real): np.sort(line.real) for line in lines}  # which several share
    rates = [roc_points(sorted_reals[id(line.real)], np.sort(line.fake)) for line in lines]
    labels = [f"{short[line.label]}  {line.auc:.3f}" for line in lines]
    lowest = min(1 / max(2, len(line.real)) for line in lines)
    lowest_missed = min(1 / max(2, len(line.fake)) for line in lines)
    guide = np.geomspace(lowest, 1, 100)

    def draw_steps(axes: Axes, heights: Sequence[Floats]) -> None:
        for line, (alarms, _), height, label in zip(lines, rates, heights, labels, strict=True):
            # Between two points a ROC has what the lower rate gives.
            style = _style(line.style) | {"drawstyle": "steps-post", "label": label}
            axes.plot(np.maximum(alarms, lowest / 2), height, **style)
        axes.set(xscale="log", xlim=(lowest, 1), xlabel="false positive rate")
        axes.xaxis.set_minor_formatter(NullFormatter())
        ticks: tuple[float, ...] = _READ_OFF
        if lowest >= 0.01:
            ticks = _READ_OFF_FEW
        elif lowest < 0.0001:
            ticks = _READ_OFF_MANY
        axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick >= lowest]))

    def draw_roc(axes: Axes) -> None:
        draw_steps(axes, [true_positive_rates for _, true_positive_rates in rates])
        axes.plot(guide, guide, **_GUIDE)
        axes.set(ylabel="true positive rate", ylim=(0, 1.01))
        _show_percent(axes.xaxis, axes.yaxis)

    def draw_det(axes: Axes) -> None:
        draw_steps(
            axes,
            [
                np.maximum(1 - true_positive_rates, lowest_missed / 2)
                for _, true_positive_rates in rates
            ],
        )
        axes.plot(guide, 1 - guide, **_GUIDE)
        axes.set(yscale="log", ylabel="miss rate", ylim=(max(lowest_missed, 1e-4), 1))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _show_percent(axes.xaxis, axes.yaxis)

    aucs = ", ".join(f"{line.label} {line.auc:.3f}" for line in lines)
    alt = f"{title}, the false positive rate on a logarithmic axis. AUC: {aucs}."
    return [
        Plot(f"roc-{name}", f"ROC, {title}", f"ROC, {alt}", draw_roc),
        Plot(f"det-{name}", f"DET, {title}", f"DET, {alt}", draw_det),
    ]


def roc_points(real: Array, fake: Array) -> tuple[Floats, Floats]:
    """Return false and true positive rates [P] at the corners of a ROC, rising from (0, 0) to 1.

    The logarithmic axis of false positive rates has ``_WIDTH`` steps. Of the corners in a step the
    first and the last stay, so that millions of scores are drawn in the time of thousands.

    real, fake: The scores of both classes, [M] and [N], sorted.
    """
    # Between two fakes only the false positive rate rises, which steps show without a corner.
    levels, below = np.unique(fake, return_index=True)
    alarms = (len(real) - np.searchsorted(real, levels, side="left"))[::-1]
    told = (len(fake) - below)[::-1]
    last_of_step = np.append(np.diff(alarms) > 0, True)[: len(alarms)]
    alarms = np.concatenate([[0], alarms[last_of_step], [len(real)]])
    told = np.concatenate([[0], told[last_of_step], [len(fake)]])

    column = np.floor(_WIDTH * np.log(np.maximum(alarms, 0.5)) / np.log(max(2, len(real))))
    is_new = np.diff(column) != 0
    corners = np.append(True, is_new) | np.append(is_new, True)
    return alarms[corners] / len(real), told[corners] / len(fake)


def of_leaderboard(board: Leaderboard) -> list[Plot]:
    """Return heat maps of the AUCs, a row a generator and a column a detector.

    Many detectors are on several figures, the best on the first, so that the names can be read.
    """
    counts = {generator.name: generator.synthetic for generator in board.generators}
    short = shortened(counts)
    rows = [f"{short[name]} ({count:,})" for name, count in counts.items()]
    names = shortened(standing.detector for standing in board.standings)
    lowest = min(auc for standing in board.standings for auc in standing.aucs)
    start = min(0.5, np.floor(10 * lowest) / 10)
    title = f"AUC by generator (fakes) and detector, {SET_TITLES[board.test_set]}"

    plots = []
    for number, first in enumerate(range(0, len(board.standings), _COLUMNS), start=1):
        standings = board.standings[first : first + _COLUMNS]
        aucs = np.array([standing.aucs for standing in standings]).T
        said = ", ".join(f"{standing.detector} {standing.auc:.3f}" for standing in standings)
        columns = [names[standing.detector] for standing in standings]
        of_ranks = f"{first + 1} to {first + len(standings)} of {len(board.standings)}"
        plots.append(
            Plot(
                f"leaderboard-{board.test_set.replace('_', '-')}-{number}",
                f"{title}, detectors {of_ranks}",
                f"{title}, a heat map of detectors {of_ranks}; the hardest generators above. "
                f"Means: {said}. The figures are in leaderboard.csv.",
                partial(_heat_map, rows, columns, aucs, start),
                (_SIZE[0], _ROW * len(rows) + _AROUND_ROWS),
            )
        )
    return plots


def _heat_map(
    rows: Sequence[str], columns: Sequence[str], aucs: Floats, start: float, axes: Axes
) -> None:
    """Draw AUCs [rows, columns] as colours from ``start`` to 1, and as numbers if few columns."""
    colours = axes.pcolormesh(aucs, cmap="cividis", vmin=start, vmax=1)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # a name may hold dollar signs
    axes.tick_params(length=0)
    if len(columns) <= _COLUMNS_WITH_NUMBERS:
        for (row, column), auc in np.ndenumerate(aucs):
            dark = auc < (start + 1) / 2
            text = f"{auc:.2f}".removeprefix("0")
            colour = "#fefefe" if dark else "#1b1b1b"
            axes.text(column + 0.5, row + 0.5, text, color=colour, ha="center", va="center")
    # The distance to the bar is a share of the height, which depends on the number of rows.
    axes.figure.colorbar(
        colours, ax=axes, location="bottom", label="AUC", aspect=30, pad=0.1 / (_ROW * len(rows))
    )


def _show_percent(*axes: Axis) -> None:
    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


_HISTOGRAMS = {
    "scores": ("Scores", "score", "score (probability of synthetic)"),
    "entropy": ("Entropy h of the CAM", "entropy_predicted", "entropy h of the CAM"),
    "entropy-z": ("Entropy z of the CAM", "entropy_z", "entropy z of the CAM"),
    "range": ("Range of the CAM", "cam_range", "range of the CAM, in logits"),
}
"""By the name of the file: title, column of the scores, label of the axis."""


def _histograms_of(parts: Sequence[Scores]) -> list[str]:
    """Return the kinds: those of the CAM's shape and size only where h is in one bin for most."""
    if not all(part.has_cams for part in parts):
        return ["scores"]
    entropies = np.concatenate([part.entropy_predicted for part in parts])
    counts, _ = np.histogram(entropies, bins=_BINS, range=(0, 1))
    saturated = 2 * counts.max() > len(entropies)
    return [kind for kind in _HISTOGRAMS if saturated or kind in ("scores", "entropy")]


def _histogram(
    kind: str,
    test_set: str,
    area: tuple[str, Scores],
    fakes: Sequence[tuple[str, Scores, int]],
    short: Mapping[str, str],
) -> Plot:
    """Plot one group of images as an area and each generator's fakes as a line."""
    title, column, xlabel = _HISTOGRAMS[kind]
    where = f", {SET_TITLES[test_set]}" if test_set else ""
    grey: Style = {"fill": True, "color": _REAL, "alpha": 0.4}
    lines = [(area[0], area[0], getattr(area[1], column), grey)]
    for label, scores, style in fakes:
        values = getattr(scores, column)
        lines.append((label, short[label], values, _style(style)))
    top = max(1.0, *(float(values.max()) for *_, values, _ in lines))  # only a range has no bound
    means = ", ".join(f"{label} {values.mean():.3f}" for label, _, values, _ in lines)

    def draw(axes: Axes) -> None:
        for _, label, values, style in lines:
            counts, edges = np.histogram(values.clip(0, top), bins=_BINS, range=(0, top))
            axes.stairs(counts / len(values), edges, label=label, **style)
        axes.set(xlim=(0, top), xlabel=xlabel, ylabel="share of the images")
        axes.set_ylim(bottom=0)
        _show_percent(axes.yaxis)

    alt = f"Histogram of {xlabel}{where}, from 0 to {top:.3g}. Means: {means}."
    name = f"{kind}-{test_set.replace('_', '-')}" if test_set else kind
    return Plot(name, f"{title}{where}", alt, draw)


def _reliability(scores: Scores, comparisons: Iterable[Comparison], results: Results) -> list[Plot]:
    lines = {}
    for test_set, title in SET_TITLES.items():
        members = [c for c in comparisons if c.test_set == test_set]
        real = union((c.real for c in members), scores.images)
        fake = union((c.fake for c in members), scores.images)
        error = results.get(test_set, {}).get("pooled", {}).get("ece")
        if len(real) and len(fake) and error is not None:
            ranking = Ranking.of(scores.score[real], scores.score[fake])
            count = min(BINS, max(2, (len(real) + len(fake)) // _IN_A_BIN))
            bins = ranking.calibration_bins(bins=count)
            mass, scored, fakes = (values[0][bins[0][0] > 0] for values in bins)
            lines[f"{title}, ECE {error:.3f}"] = scored / mass, fakes / mass

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], **_GUIDE)
        for (label, rates), colour in zip(lines.items(), COLOURS, strict=False):
            axes.plot(*rates, marker="o", markersize=3.5, lw=1.2, color=colour, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set(xlabel="mean score of the bin", ylabel="share of synthetic images")

    alt = (
        f"Share of synthetic images by the mean score, in up to {BINS} bins of as many images; "
        f"on the diagonal scores are calibrated. Expected calibration error: {'; '.join(lines)}."
    )
    return [Plot("reliability", "Reliability", alt, draw)] if lines else []


def _robustness_of_generators(name: str, results: Sequence[PerturbedAUC], axes: Axes) -> None:
    """Draw a line for each generator and test set, and a thick one for the mean of the open set.

    Of many, the generators of the open set alone, and the mean of each test set.
    """
    curves_of = curves(results, name)
    short = shortened(generator for _, generator in curves_of)
    lines: list[tuple[str, Sequence[float], Style]] = []
    for (test_set, generator), aucs in curves_of.items():
        if len(curves_of) > _MANY and test_set != "open":
            continue
        number = list(short).index(generator)
        label = short[generator]
        if len(curves_of) <= _MANY:
            label += f" ({test_set.replace('_', ' ')})"
        style = {"marker": MARKERS[number % len(MARKERS)], "linestyle": DASHES[test_set]}
        lines.append((label, aucs, _style(number) | style))
    for test_set, dashes in DASHES.items():
        of_set = [aucs for (name_of_set, _), aucs in curves_of.items() if name_of_set == test_set]
        if len(of_set) > 1 and (test_set == "open" or len(curves_of) > _MANY):
            mean: Style = {"color": INK, "linewidth": 2.4, "marker": "", "linestyle": dashes}
            name_of_mean = f"mean ({test_set.replace('_', ' ')})"
            lines.append((name_of_mean, np.mean(of_set, axis=0).tolist(), mean))
    lowest = min(r.auc for r in results if r.auc is not None)  # alike under all perturbations
    _robustness(name, lines, lowest, axes)


def _robustness(
    name: str, lines: Iterable[tuple[str, Sequence[float], Style]], lowest: float, axes: Axes
) -> None:
    """Draw AUCs by strength, the clean one at the left: label, values and style of each line."""
    for label, aucs, style in lines:
        options: Style = {"marker": "o", "ms": 3.5, "label": label} | style
        axes.plot(aucs, **options)
    axes.axhline(0.5, **_GUIDE)
    ticks = ["clean", *(f"{strength:g}" for strength in STRENGTHS[name])]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set(xlabel=UNITS[name], ylabel="AUC")
    axes.set_ylim(np.floor(20 * min(0.5, lowest) - 0.2) / 20, 1.005)


def _training(
    epochs: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    best_epoch: int | None,
    ylabel: str,
    axes: Axes,
) -> None:
    few = "o" if len(epochs) < 6 else None  # a line draws nothing of a single value
    for (label, values), colour in zip(lines.items(), COLOURS, strict=False):
        axes.plot(epochs, values, marker=few, ms=3.5, color=colour, lw=1.4, label=label)
    if best_epoch:
        axes.axvline(best_epoch, color=INK, alpha=0.5, lw=0.8, ls="--", label="kept model")
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
