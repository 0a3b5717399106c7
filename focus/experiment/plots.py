"""Draw the two pictures: the gain on unknown generators by grade, and how many maps it takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from focus.experiment import frozen
from focus.experiment.collect import GRADES
from focus.experiment.compare import Comparison, Table
from focus.experiment.statistics import Interval, t_interval
from focus.plotting import COLOURS, INK

GAIN, MAPS = "gain-by-grade.png", "how-many-maps.png"
_COLOURS = dict(zip(("focus", "saliency", "blend"), COLOURS, strict=False))
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "savefig.dpi": 160,
}


def gain_by_grade(comparisons: Sequence[Comparison], path: Path) -> bool:
    """Draw open AUC above cross-entropy's by grade, in the first world; False without grades."""
    world = comparisons[0].world if comparisons else ""
    found = {
        (c.arm, c.figure): c.found
        for c in comparisons
        if (c.other, c.world) == (frozen.BASELINE, world)
    }
    arms = [arm for arm in _COLOURS if all((arm, grade) in found for grade in GRADES)]
    lines = {arm: (arm, [found[arm, grade] for grade in GRADES]) for arm in arms}
    title = "Gain on unknown generators, by their distance from those of training"
    return _draw(path, title, GRADES, "artefacts of the unknown generators", lines)


def how_many_maps(table: Table, path: Path) -> bool:
    """Draw open AUC above cross-entropy's by the share of maps; False without the runs for it."""
    world = next(iter(table))[1]
    lines = {}
    for loss, none in frozen.NO_MAPS.items():
        runs = [
            table.get((arm, world), {})
            for arm in (frozen.BASELINE, none, f"{loss}-5", f"{loss}-25", loss)
        ]
        if units := set.intersection(*map(set, runs)):
            base, *doses = ([own[unit]["open"] for unit in sorted(units)] for own in runs)
            gains = [[a - b for a, b in zip(dose, base, strict=True)] for dose in doses]
            lines[loss] = (
                f"{loss} (0 %: {none}), {len(units)} draws",
                [t_interval(gain) for gain in gains],
            )
    title = "Gain on unknown generators, by the number of maps"
    shares = "0 %", "5 %", "25 %", "100 %"
    return _draw(path, title, shares, "training images with a map", lines, joined=True)


@matplotlib.rc_context(_STYLE)
def _draw(
    path: Path,
    title: str,
    places: Sequence[str],
    axis: str,
    lines: dict[str, tuple[str, list[Interval]]],
    *,
    joined: bool = False,
) -> bool:
    """Draw means with their 95 % intervals: a label and a value for each place, by arm."""
    if not lines:
        return False
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.8)
    for number, (arm, (label, found)) in enumerate(lines.items()):
        offset = 0.12 * (number - (len(lines) - 1) / 2)
        axes.errorbar(
            [at + offset for at in range(len(places))],
            [each.mean for each in found],
            yerr=[[e.mean - e.low for e in found], [e.high - e.mean for e in found]],
            fmt="o-" if joined else "o",
            color=_COLOURS[arm],
            markersize=5,
            linewidth=1.4,
        )
        at = 1 - 0.08 * number
        axes.text(
            1.0, at, label, color=_COLOURS[arm], ha="right", va="top", transform=axes.transAxes
        )
    axes.set_xticks(range(len(places)), places)
    axes.margins(x=0.05, y=0.2)
    axes.set_xlabel(axis)
    axes.set_ylabel(f"open AUC minus that of {frozen.BASELINE}")
    axes.set_title(title)
    figure.savefig(path)
    return True
