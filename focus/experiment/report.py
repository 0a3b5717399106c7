"""Write what the runs show: tables as Markdown and CSV, and the verdict in words."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from focus.experiment.collect import FIGURES
from focus.experiment.compare import ArmTable, Effect, contrasted
from focus.experiment.frozen import BASELINE, DRAWS_AT_LEAST, MARGIN, ORACLE, PERFECT, ROOM, minus
from focus.experiment.statistics import MeanInterval, detectable, t_interval
from focus.runtime.files import atomic_write, write_csv

REPORT, TABLE, COMPARISONS = "report.md", "table.csv", "comparisons.csv"
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


def over_draws(table: ArmTable, arm: str, world: str, figure: str) -> MeanInterval:
    """Return the mean of a figure over the draws of an arm."""
    units = table.get((arm, world), {}).values()
    return t_interval([figures[figure] for figures in units])


def write_tables(table: ArmTable, comparisons: Sequence[Effect], folder: Path) -> None:
    """Write each mean over draws, and each comparison, as a row of a CSV."""
    numbers = ("mean", "sd", "low", "high", "n")
    means = [
        (arm, world, name, *_numbers(over_draws(table, arm, world, name)))
        for arm, world in table
        for name in FIGURES
    ]
    compared = []
    for c in comparisons:
        joint = (math.nan, math.nan) if c.joint is None else (c.joint.low, c.joint.high)
        tests = c.narrow.low, c.narrow.high, *joint, c.p, c.p_holm, c.p_same, detectable(c.found)
        about = c.contrast.name, c.world, c.figure, c.role
        compared.append((*about, *_numbers(c.found), *map(_plain, tests)))
    write_csv(folder / TABLE, ("arm", "world", "figure", *numbers), means)
    header = ("contrast", "world", "figure", "role", *numbers, "low_90", "high_90")
    tests_of = ("low_joint", "high_joint", "p", "p_holm", "p_same", "detectable")
    write_csv(folder / COMPARISONS, (*header, *tests_of), compared)


def write_report(
    table: ArmTable,
    comparisons: Sequence[Effect],
    folder: Path,
    *,
    missing: Sequence[str],
    spare: ArmTable,
    plots: Sequence[str] = (),
) -> str:
    """Write ``report.md``; return it.

    spare: The figures of the gate.
    missing: Lines on runs that failed or were not made.
    plots: File names of pictures beside.
    """
    lines = ["# Experiment", "", *(f"- {line}" for line in missing), ""]
    if any(c.role for c in comparisons):
        lines += [verdict(comparisons[0]), ""]
    for world in dict.fromkeys(world for _, world in table):
        lines += arms_table(table, comparisons, world)
        lines += [*informative(comparisons, world), *room(spare, world)]
    chance = t_interval([f["chance"] for each in table.values() for f in each.values()])
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
    units = "draws" if first.world else "seeds"
    text = f"{first.name}: {span(first.found)} in mean open AUC ({first.found.n} {units})"
    if first.found.n < DRAWS_AT_LEAST:
        return (
            f"**No verdict.** {text}. So few {units} show that everything runs and how "
            "large the AUCs are; they cannot tell losses apart."
        )
    scope = (
        "These generators are drawn from one grammar; they do not speak for those of real data."
        if first.world
        else "Seeds say nothing of other generators and other training images."
    )
    return (
        f"**{said(first)}:** {text}. With this spread over {units}, "
        f"{number(detectable(first.found))} would be found in 80 % of such experiments. {scope}"
    )


def said(c: Effect) -> str:
    """Return whether a contrast is above or below 0, or is not told from it, in words."""
    if c.found.low > 0 or c.found.high < 0:
        words = f"{c.contrast.name} is {'above 0' if c.found.low > 0 else 'BELOW 0'}"
    else:
        words = f"{c.contrast.name} is not told from 0"
    return f"{words}, and within {number(MARGIN)} of it" if c.p_same < 0.05 else words


def informative(comparisons: Sequence[Effect], world: str) -> list[str]:
    """Return whether the exact places of the artefacts help in a world: its positive control."""
    names = [f"`{arm}` - `{BASELINE}`" for arm in CONTROLS]
    for c in comparisons:
        if c.contrast.name in names and (c.world, c.figure) == (world, "open"):
            text = f"{c.contrast.name} is {span(c.found)}"
            if c.found.low > 0:
                return [f"Positive control: {text}.", ""]
            return [f"**Uninformative about maps:** {text}, with the exact places.", ""]
    return ["No positive control: nothing says whether a gain by maps could show at all.", ""]


def room(spare: ArmTable, world: str) -> list[str]:
    """Return how far an oracle is above cross-entropy in a world, on the spare draws."""
    contrast = minus(ORACLE, BASELINE)
    gain = t_interval(contrasted(spare, contrast, world, "open"))
    text = f"{contrast.name} is {signed(gain.mean)} on {gain.n} spare draws"
    room = f"Room: {text}." if gain.mean >= ROOM else f"**No room for a difference:** {text}."
    return [room, ""] if gain.n else []


def arms_table(table: ArmTable, comparisons: Sequence[Effect], world: str) -> list[str]:
    """Return the table of one world, a row an arm."""
    against = {
        c.contrast.name: c.found for c in comparisons if (c.world, c.figure) == (world, "open")
    }
    title = [f"{world_in_words(world)}.", ""]
    heads = ("arm", "draws", "closed", "open", f"open - {BASELINE}", *_COLUMNS)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, where in table:
        if where != world:
            continue
        mean = {name: over_draws(table, arm, world, name) for name in FIGURES}
        name = f"`{arm}` - `{BASELINE}`"
        difference = span(against[name]) if name in against else ""
        aucs = (spread(mean[each]) for each in ("closed", "open"))
        others = (number(mean[each].mean) for each in _COLUMNS.values())
        cells = f"`{arm}`", str(len(table[arm, world])), *aucs, difference, *others
        lines.append(f"| {' | '.join(cells)} |")
    return [*(title if world else []), *lines, ""]


def world_in_words(world: str) -> str:
    """Return how often the shortcut agrees with the label, and what it is if not the background."""
    agreement, _, shortcut = world.partition("-")
    words = f"Shortcut agrees with the label in {agreement} % of the training images"
    return f"{words}; it is a {shortcut} of the whole picture" if shortcut else words


def comparison_lines(comparisons: Sequence[Effect]) -> list[str]:
    """Return the table of what is tested or described, and of simultaneous intervals."""
    plain = f" - `{BASELINE}`"
    of_open = [c for c in comparisons if c.figure == "open"]
    tested = [c for c in of_open if c.role or c.joint or not c.contrast.name.endswith(plain)]
    if not tested:
        return []
    lines = [
        f"| contrast | role | open AUC [95 %] | 90 % | all doses at once | same within "
        f"{number(MARGIN)} | p | p (Holm) | detectable |",
        "|---" * 9 + "|",
    ]
    for c in tested:
        cells = (
            *(c.name, c.role, span(c.found), ends(c.narrow), ends(c.joint) if c.joint else ""),
            *("yes" if c.p_same < 0.05 else "not shown", _p(c.p), _p(c.p_holm)),
            number(detectable(c.found)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _numbers(each: MeanInterval) -> tuple[object, ...]:
    return (*map(_plain, (each.mean, each.sd, each.low, each.high)), each.n)


def _plain(value: float) -> str:
    """Return six digits, an empty cell for what is not defined."""
    return "" if math.isnan(value) else f"{value:.6g}"


def spread(each: MeanInterval) -> str:
    """Return ``.953 ± .004``: mean and SD, the mean of a single one; "-" without any."""
    return number(each.mean) if each.n < 2 else f"{number(each.mean)} ± {number(each.sd)}"


def span(found: MeanInterval) -> str:
    """Return ``+.012 [+.003, +.021]``: a difference and its interval."""
    return f"{signed(found.mean)} {ends(found)}"


def ends(found: MeanInterval) -> str:
    """Return ``[+.003, +.021]``."""
    return f"[{signed(found.low)}, {signed(found.high)}]"


def number(value: float) -> str:
    """Return ``.953``: few figures here are larger than 1."""
    return "-" if math.isnan(value) else _short(f"{value:.3f}")


def signed(value: float) -> str:
    """Return ``+.012``: a difference."""
    # Adding 0 makes 0 of what was rounded to -0.
    return "-" if math.isnan(value) else _short(f"{round(value, 3) + 0.0:+.3f}")


def _short(text: str) -> str:
    return re.sub(r"^([+-]?)0\.", r"\1.", text)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< .001" if value < 0.001 else number(value)
