"""Draw the pictures: the gain on unknown generators by grade, and open AUC by entropy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from focus.experiment.collect import GRADES
from focus.experiment.compare import ArmTable, Effect
from focus.experiment.frozen import BASELINE, minus
from focus.plotting import COLOURS, INK, legend_below

GAIN, RANGE = "gain-by-grade.png", "range.png"
_ARMS = ("focus", "saliency", "blend")
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "savefig.dpi": 160,
}


@matplotlib.rc_context(_STYLE)
def gain_by_grade(comparisons: Sequence[Effect], path: Path) -> bool:
    """Draw open AUC above cross-entropy's by grade, in the first world; False without grades."""
    world = comparisons[0].world if comparisons else ""
    estimates = {(c.contrast.name, c.figure): c.estimate for c in comparisons if c.world == world}
    arms = [a for a in _ARMS if all((minus(a, BASELINE).name, g) in estimates for g in GRADES)]
    if not arms:
        return False
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.8)
    for number, arm in enumerate(arms):
        gains = [estimates[minus(arm, BASELINE).name, grade] for grade in GRADES]
        offset, colour = 0.12 * (number - (len(arms) - 1) / 2), COLOURS[number]
        axes.errorbar(
            [at + offset for at in range(len(GRADES))],
            [each.mean for each in gains],
            yerr=[[e.mean - e.low for e in gains], [e.high - e.mean for e in gains]],
            fmt="o",
            color=colour,
            markersize=5,
            linewidth=1.4,
        )
        place: Any = {"ha": "right", "va": "top", "transform": axes.transAxes}
        axes.text(1.0, 1 - 0.08 * number, arm, color=colour, **place)
    axes.set_xticks(range(len(GRADES)), GRADES)
    axes.margins(x=0.05, y=0.2)
    axes.set_xlabel("artefacts of the unknown generators")
    axes.set_ylabel(f"open AUC minus that of {BASELINE}")
    axes.set_title("Gain on unknown generators, by their distance from those of training")
    figure.savefig(path)
    return True


@matplotlib.rc_context(_STYLE)
def open_auc_by_entropy(table: ArmTable, series: Mapping[str, Sequence[str]], path: Path) -> bool:
    """Draw open AUC against the entropy that came out, a line for each series in each world.

    series: Arms by the name of their line, in the order in which they are joined. Draws are faint.
    Returns False without a series of which all arms are there.
    """
    lines = {
        (name, world): [table[arm, world] for arm in arms if (arm, world) in table]
        for world in dict.fromkeys(world for _, world in table)
        for name, arms in series.items()
    }
    lines = {key: arms for key, arms in lines.items() if len(arms) > 1}
    if not lines:
        return False
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    names = {"entropy": "entropy h of the CAM", "entropy_sum": "entropy h_sum, free of scale"}
    for axes, (entropy, label) in zip(panels, names.items(), strict=True):
        for number, ((name, world), arms) in enumerate(lines.items()):
            units = sorted(set.intersection(*map(set, arms)))
            x, y = (
                np.array([[own[unit][each] for unit in units] for own in arms])
                for each in (entropy, "open")
            )
            colour = COLOURS[number]
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.18)
            axes.plot(
                *(x.mean(1), y.mean(1), "o-"),
                color=colour,
                label=f"{name}, {world} %" if world else name,
            )
        axes.set_xlabel(label)
    panels[0].set_ylabel("open AUC")
    title = "Unknown generators, by the focus that training reached"
    simulated = any(world for _, world in lines)
    panels[0].set_title(f"{title}; maps are simulated" if simulated else title)
    legend_below(figure, panels[0], columns=4)
    figure.savefig(path)
    return True
