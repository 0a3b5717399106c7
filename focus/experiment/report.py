"""Write what the runs show: the verdict in words, tables as Markdown, and pictures."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from focus.experiment.compare import (
    ArmTable,
    Effect,
    MeanInterval,
    contrasted,
    detectable,
    of_shared_splits,
    over_draws,
    t_interval,
)
from focus.experiment.frozen import ORACLE, PERFECT, ROOM, TESTED_BY_TRAINED
from focus.experiment.protocol import (
    BASELINE,
    DRAWS_AT_LEAST,
    MARGIN,
    PHOTOGRAPHS,
    Protocol,
    minus,
)
from focus.experiment.records import GRADES
from focus.metrics.arrays import Floats
from focus.plotting import COLOURS, INK, legend_below
from focus.runtime.files import atomic_write

SIMULATED = (
    "Human maps are simulated: they are drawn from the masks of the artefacts, and no person has "
    "marked these faces."
)
REPORT = "report.md"
GAIN, RANGE = "gain-by-grade.png", "range.png"
CONTROLS = (PERFECT, "exact-5")
"""Arms with the exact place of each artefact, of which the first that is there is the control."""
_COLUMNS = {
    "closed-balanced": "closed_balanced",
    "source": "source",
    "peaks in the artefact": "pointing",
    "h": "entropy",
    "h_sum": "entropy_sum",
    "h_z": "entropy_z",
    "range of the CAM": "cam_range",
    "commonest peak": "peak_share",
    "calibration error": "ece",
}
"""Columns of the table of arms, beside open AUC, and the figures of which they are the means."""

_UNITS = {"": "seeds", PHOTOGRAPHS: "splits"}
"""What the units are called, by the world; else draws."""
_SCOPES = {
    "": "Seeds say nothing of other generators and other training images.",
    PHOTOGRAPHS: "Splits share their 40 persons and six methods, none of which is a GAN or a "
    "diffusion model; they do not speak for other persons and generators.",
}
"""Of what the intervals do not speak, by the world."""
_ARMS_DRAWN = ("focus", "saliency", "blend")
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "savefig.dpi": 160,
}


def write_report(
    table: ArmTable,
    comparisons: Sequence[Effect],
    folder: Path,
    *,
    missing: Sequence[str],
    spare: ArmTable,
    note: str = "",
    plots: Sequence[str] = (),
) -> str:
    """Write ``report.md``; return it.

    missing: Lines on runs that failed or were not made.
    spare: The figures of the gate.
    note: What was changed in the protocol after results had been seen.
    plots: File names of pictures beside.
    """
    lines = ["# Experiment", "", *(f"- {line}" for line in missing), ""]
    if any(effect.role for effect in comparisons):
        lines += [verdict(comparisons[0]), ""]
    if note:
        lines += [f"**Changed after results had been seen.** {note}", ""]
    worlds = list(dict.fromkeys(world for _, world in table))
    if worlds != [""]:
        lines += [SIMULATED, ""]
    for world in worlds:
        lines += arms_table(table, comparisons, world)
        lines += [*control_lines(comparisons, world), *room(spare, world)]
    chance = t_interval(
        [figures["chance"] for units in table.values() for figures in units.values()]
    )
    lines += [
        "Mean ± SD over draws or seeds; in brackets Student's 95 % interval of the paired "
        "differences. Source: AUC with which scores tell the two sources of real test images "
        f"apart. By chance a CAM peaks in the artefact in {number(chance.mean)}.",
        "",
    ]
    lines += comparison_lines(comparisons)
    for plot in plots:
        lines += [f"![{plot}]({plot})", ""]
    text = "\n".join(lines)
    with atomic_write(folder / REPORT) as aside:
        aside.write_text(text, encoding="utf-8")
    return text


def verdict(first: Effect) -> str:
    """Return the first result in words, whichever way it came out."""
    units = _UNITS.get(first.world, "draws")
    estimate = first.estimate
    text = f"{first.name}: {span(estimate)} in mean open AUC ({estimate.n} {units})"
    if estimate.n < DRAWS_AT_LEAST:
        return (
            f"**No verdict.** {text}. So few {units} show that everything runs and how "
            "large the AUCs are; they cannot tell losses apart."
        )
    scope = _SCOPES.get(
        first.world,
        "These generators are drawn from one grammar; they do not speak for those of real data.",
    )
    if first.world == PHOTOGRAPHS:
        corrected = of_shared_splits(estimate, TESTED_BY_TRAINED)
        text += f"; corrected for the persons that splits share, {ends(corrected)}"
    return (
        f"**{said(first)}:** {text}. With this spread over {units}, "
        f"{number(detectable(estimate))} would be found in 80 % of such experiments. {scope}"
    )


def said(effect: Effect) -> str:
    """Return whether a contrast is above or below 0, or is not told from it, in words."""
    if effect.estimate.low > 0:
        words = f"{effect.contrast.name} is above 0"
    elif effect.estimate.high < 0:
        words = f"{effect.contrast.name} is BELOW 0"
    else:
        words = f"{effect.contrast.name} is not told from 0"
    if effect.p_same < 0.05:
        words += f", and within {number(MARGIN)} of it"
    return words


def control_lines(comparisons: Sequence[Effect], world: str) -> list[str]:
    """Return whether the exact places of the artefacts help in a world: its positive control."""
    maps = "simulated maps" if world else "maps"
    effects = {
        (effect.contrast.name, effect.figure): effect
        for effect in comparisons
        if effect.world == world
    }
    for arm in CONTROLS:
        name = minus(arm, BASELINE).name
        if (name, "open") not in effects:
            continue
        estimate = effects[name, "open"].estimate
        if estimate.low > 0:
            return [f"Positive control: {name} is {span(estimate)}.", ""]
        text = (
            f"**Whether {maps} can help here is not known:** with the exact places of the "
            f"artefacts {name} is {span(estimate)}."
        )
        closed_balanced = effects.get((name, "closed_balanced"))
        if closed_balanced and closed_balanced.estimate.high < 0:
            text += (
                f" The control underfits: on closed-balanced images it is "
                f"{span(closed_balanced.estimate)}. So it does not say that {maps} cannot help."
            )
        return [text, ""]
    return [f"No positive control: nothing says whether a gain by {maps} could show at all.", ""]


def room(spare: ArmTable, world: str) -> list[str]:
    """Return how far an oracle is above cross-entropy in a world, on the spare draws."""
    contrast = minus(ORACLE, BASELINE)
    gain = t_interval(contrasted(spare, contrast, world, "open"))
    if not gain.n:
        return []
    text = f"{contrast.name} is {signed(gain.mean)} on {gain.n} spare draws"
    return [f"Room: {text}." if gain.mean >= ROOM else f"**No room for a difference:** {text}.", ""]


def arms_table(table: ArmTable, comparisons: Sequence[Effect], world: str) -> list[str]:
    """Return the table of one world, a row an arm."""
    open_effects = {
        effect.contrast.name: effect.estimate
        for effect in comparisons
        if (effect.world, effect.figure) == (world, "open")
    }
    heads = ("arm", _UNITS.get(world, "draws"), "closed", "open", f"open - {BASELINE}", *_COLUMNS)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, arm_world in table:
        if arm_world != world:
            continue
        effect = open_effects.get(minus(arm, BASELINE).name)
        cells = [
            f"`{arm}`",
            str(len(table[arm, world])),
            spread(over_draws(table, arm, world, "closed")),
            spread(over_draws(table, arm, world, "open")),
            span(effect) if effect else "",
        ]
        for figure in _COLUMNS.values():
            cells.append(number(over_draws(table, arm, world, figure).mean))
        lines.append(f"| {' | '.join(cells)} |")
    if not world:
        return [*lines, ""]
    return [f"{world_in_words(world)}.", "", *lines, ""]


def world_in_words(world: str) -> str:
    """Return what a world is: how often the shortcut agrees with the label, or photographs."""
    if world == PHOTOGRAPHS:
        return "Photographs, and fakes made of them by six methods, of which three are known"
    agreement, _, shortcut = world.partition("-")
    what = f"a {shortcut} of the whole picture" if shortcut else "the background"
    return f"Shortcut agrees with the label in {agreement} % of the training images; it is {what}"


def comparison_lines(comparisons: Sequence[Effect]) -> list[str]:
    """Return the table of what is tested or described, and of simultaneous intervals."""
    tested = [
        effect
        for effect in comparisons
        if effect.figure == "open"
        and (effect.role or effect.joint or not effect.contrast.name.endswith(f" - `{BASELINE}`"))
    ]
    if not tested:
        return []
    heads = (
        "contrast",
        "role",
        "open AUC [95 %]",
        "90 %",
        "all doses at once",
        f"same within {number(MARGIN)}",
        "at equal closed AUC",
        "p",
        "p (Holm)",
        "detectable",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for effect in tested:
        at_equal = effect.at_equal_closed
        cells = (
            effect.name,
            effect.role,
            span(effect.estimate),
            ends(effect.narrow),
            ends(effect.joint) if effect.joint else "",
            "yes" if effect.p_same < 0.05 else "not shown",
            span(at_equal) if at_equal and not math.isnan(at_equal.mean) else "",
            _p(effect.p),
            _p(effect.p_holm),
            number(detectable(effect.estimate)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def spread(interval: MeanInterval) -> str:
    """Return ``.953 ± .004``: mean and SD, the mean of a single one; "-" without any."""
    if interval.n < 2:
        return number(interval.mean)
    return f"{number(interval.mean)} ± {number(interval.sd)}"


def span(interval: MeanInterval) -> str:
    """Return ``+.012 [+.003, +.021]``: a difference and its interval."""
    return f"{signed(interval.mean)} {ends(interval)}"


def ends(interval: MeanInterval) -> str:
    """Return ``[+.003, +.021]``."""
    return f"[{signed(interval.low)}, {signed(interval.high)}]"


def number(value: float) -> str:
    """Return ``.953``: few figures here are larger than 1."""
    return "-" if math.isnan(value) else _short(f"{value:.3f}")


def signed(value: float) -> str:
    """Return ``+.012``: a difference; ``-.000`` is one just below 0."""
    # Adding 0 makes 0 of -0.
    return "-" if math.isnan(value) else _short(f"{value + 0.0:+.3f}")


def _short(text: str) -> str:
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< .001" if value < 0.001 else number(value)


def draw_pictures(
    table: ArmTable, comparisons: Sequence[Effect], protocol: Protocol, folder: Path
) -> list[str]:
    """Draw what there is to draw into a folder; return the names of the files."""
    names = []
    if gain_by_grade(comparisons, folder / GAIN):
        names.append(GAIN)
    if open_auc_by_entropy(table, protocol.series, folder / RANGE):
        names.append(RANGE)
    return names


@matplotlib.rc_context(_STYLE)
def gain_by_grade(comparisons: Sequence[Effect], path: Path) -> bool:
    """Draw open AUC above cross-entropy's by grade, in the first world; False without grades."""
    world = comparisons[0].world if comparisons else ""
    estimates = {}
    for effect in comparisons:
        if effect.world == world:
            estimates[effect.contrast.name, effect.figure] = effect.estimate

    gains_by_arm: dict[str, list[MeanInterval]] = {}
    for arm in _ARMS_DRAWN:
        contrast = minus(arm, BASELINE).name
        if all((contrast, grade) in estimates for grade in GRADES):
            gains_by_arm[arm] = [estimates[contrast, grade] for grade in GRADES]
    if not gains_by_arm:
        return False

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.8)
    for number, (arm, gains) in enumerate(gains_by_arm.items()):
        offset = 0.12 * (number - (len(gains_by_arm) - 1) / 2)  # arms stand side by side
        colour = COLOURS[number]
        axes.errorbar(
            [x + offset for x in range(len(GRADES))],
            [gain.mean for gain in gains],
            yerr=[
                [gain.mean - gain.low for gain in gains],
                [gain.high - gain.mean for gain in gains],
            ],
            fmt="o",
            color=colour,
            markersize=5,
            linewidth=1.4,
        )
        axes.text(
            1.0,
            1 - 0.08 * number,
            arm,
            color=colour,
            ha="right",
            va="top",
            transform=axes.transAxes,
        )
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
    Returns False without a series of which two arms are there.
    """
    lines = []
    for world in dict.fromkeys(world for _, world in table):
        for name, arms in series.items():
            figures_of_arms = [table[arm, world] for arm in arms if (arm, world) in table]
            if len(figures_of_arms) > 1:
                label = f"{name}, {world} %" if world else name
                lines.append((label, figures_of_arms))
    if not lines:
        return False

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    entropies = {"entropy": "entropy h of the CAM", "entropy_sum": "entropy h_sum, free of scale"}
    for axes, (entropy, axis_label) in zip(panels, entropies.items(), strict=True):
        for number, (label, figures_of_arms) in enumerate(lines):
            x, y = _by_arm_and_unit(figures_of_arms, entropy, "open")
            colour = COLOURS[number]
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.18)
            axes.plot(x.mean(1), y.mean(1), "o-", color=colour, label=label)
        axes.set_xlabel(axis_label)
    panels[0].set_ylabel("open AUC")
    title = "Unknown generators, by the focus that training reached"
    is_simulated = any(world for _, world in table)
    panels[0].set_title(f"{title}; maps are simulated" if is_simulated else title)
    legend_below(figure, panels[0], columns=4)
    figure.savefig(path)
    return True


def _by_arm_and_unit(
    figures_of_arms: Sequence[Mapping[int, Mapping[str, float]]], *figures: str
) -> list[Floats]:
    """Return each of the figures [arms, units], of the units that all of the arms have."""
    units = sorted(set.intersection(*map(set, figures_of_arms)))
    return [
        np.array([[of_arm[unit][figure] for unit in units] for of_arm in figures_of_arms])
        for figure in figures
    ]
