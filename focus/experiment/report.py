"""Write what the runs show: tables as Markdown and CSV, and the verdict in words."""

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

from focus.experiment import frozen
from focus.experiment.collect import FIGURES, Outcome
from focus.experiment.compare import Comparison, Table
from focus.experiment.statistics import Interval, detectable, t_interval
from focus.runtime.files import atomic_write, write_csv

REPORT, RUNS, TABLE, COMPARISONS = "report.md", "runs.csv", "table.csv", "comparisons.csv"
HEADROOM_FILE = "headroom.csv"

Row = Sequence[object]


def over_draws(table: Table, arm: str, world: str, figure: str) -> Interval:
    """Return the mean of a figure over the draws of an arm."""
    units = table.get((arm, world), {}).values()
    return t_interval([figures[figure] for figures in units])


def write_tables(
    outcomes: Sequence[Outcome], table: Table, comparisons: Sequence[Comparison], folder: Path
) -> None:
    """Write each run, each mean over draws, and each comparison as a row of a CSV."""
    runs: list[Row] = [("arm", "world", "draw", "folder", *FIGURES)]
    for o in outcomes:
        at = o.run.folder.relative_to(folder)
        runs.append((o.run.arm, o.run.world, o.run.unit, at, *map(_plain, o.figures.values())))
    means: list[Row] = [("arm", "world", "figure", "mean", "sd", "low", "high", "n")]
    for arm, world in table:
        for name in FIGURES:
            means.append((arm, world, name, *_numbers(over_draws(table, arm, world, name))))
    compared: list[Row] = [
        (
            *("arm", "other", "world", "figure", "role", "mean", "sd", "low", "high", "n"),
            *("low_90", "high_90", "matched", "matched_low", "matched_high"),
            *("p", "p_holm", "p_same", "detectable"),
        )
    ]
    for c in comparisons:
        about = c.arm, c.other, c.world, c.figure, c.role, *_numbers(c.found)
        ends = c.narrow.low, c.narrow.high, c.matched.mean, c.matched.low, c.matched.high
        tests = c.p, c.p_holm, c.p_same, detectable(c.found)
        compared.append((*about, *map(_plain, (*ends, *tests))))
    for file, (header, *rows) in ((RUNS, runs), (TABLE, means), (COMPARISONS, compared)):
        write_csv(folder / file, header, rows)


def write_report(
    table: Table,
    comparisons: Sequence[Comparison],
    folder: Path,
    *,
    missing: Sequence[str],
    plots: Sequence[str] = (),
) -> str:
    """Write ``report.md``; return it.

    missing: lines on runs that failed or were not made. plots: file names of pictures beside.
    """
    lines = ["# Experiment", "", *(f"- {line}" for line in missing), ""]
    lines += [verdict(table, comparisons), ""]
    for number, world in enumerate(dict.fromkeys(world for _, world in table)):
        lines += arms_table(table, comparisons, world, [] if number else _headroom(folder))
    lines += [notes(table), ""]
    lines += comparison_lines(comparisons)
    for plot in plots:
        lines += [f"![{plot}]({plot})", ""]
    text = "\n".join(lines)
    with atomic_write(folder / REPORT) as aside:
        aside.write_text(text, encoding="utf-8")
    return text


def verdict(table: Table, comparisons: Sequence[Comparison]) -> str:
    """Return the primary result in words, whichever way it came out."""
    primary = next((c for c in comparisons if c.role == "primary"), None)
    if primary is None:
        return "**Primary endpoint:** not defined without runs of both losses."
    found, pair = primary.found, f"`{primary.arm}` - `{primary.other}`"
    units = "draws" if primary.world else "seeds"
    text = f"{span(found)} in mean open AUC ({found.n} {units}"
    text += f"; at equal closed AUC {span(primary.matched)})"
    if found.n < frozen.DRAWS_AT_LEAST:
        return (
            f"**No verdict.** {pair}: {text}. So few {units} show that everything runs and how "
            "large the AUCs are; they cannot tell losses apart."
        )
    perfect = next((c for c in comparisons if c.arm == frozen.PERFECT and c.figure == "open"), None)
    if perfect is None:
        text += f"; without `{frozen.PERFECT}` nothing says whether a gain could show at all"
    elif not perfect.found.low > 0:
        return (
            f"**Uninformative.** `{frozen.PERFECT}`, with the exact place of each artefact, is not "
            f"above `{frozen.BASELINE}` ({span(perfect.found)}): no map could have shown a gain "
            f"here. {pair}: {text}."
        )
    if found.low > 0:
        said = f"`{primary.arm}` is above `{primary.other}`"
    elif found.high < 0:
        said = f"`{primary.arm}` is BELOW `{primary.other}`"
    else:
        said = f"no difference between `{primary.arm}` and `{primary.other}` is shown"
    if primary.p_same < 0.05:
        said += f", and the two are within {number(frozen.MARGIN)} of each other"
    scope = (
        "These generators are drawn from one grammar; they do not speak for those of real data."
        if primary.world
        else "Seeds say nothing of other generators and other training images."
    )
    return (
        f"**{said[:1].upper()}{said[1:]}:** {text}. With this spread over {units}, "
        f"{number(detectable(found))} would be found in 80 % of such experiments. {scope}"
    )


def arms_table(
    table: Table, comparisons: Sequence[Comparison], world: str, headroom: Sequence[str]
) -> list[str]:
    """Return the table of one world, a row an arm; headroom: rows without a loss."""
    against = {
        c.arm: c.found
        for c in comparisons
        if (c.other, c.world, c.figure) == (frozen.BASELINE, world, "open")
    }
    title = [f"Shortcut agrees with the label in {world} % of the training images.", ""]
    heads = (
        *("arm", "draws", "closed", "closed-balanced", "open", f"open - {frozen.BASELINE}"),
        *("stuck to the shortcut", "CAM peaks in the artefact", "CAM entropy"),
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, own in table:
        if own != world or arm in frozen.DOSES:
            continue
        mean = {name: over_draws(table, arm, world, name) for name in FIGURES}
        difference = span(against[arm]) if arm in against else ""
        stuck = "-" if math.isnan(mean["locked"].mean) else f"{100 * mean['locked'].mean:.0f} %"
        aucs = (spread(mean[name]) for name in ("closed", "closed_balanced", "open"))
        focus = (number(mean[name].mean) for name in ("pointing", "entropy"))
        cells = f"`{arm}`", str(len(table[arm, world])), *aucs, difference, stuck, *focus
        lines.append(f"| {' | '.join(cells)} |")
    return [*(title if world else []), *lines, *headroom, ""]


def notes(table: Table) -> str:
    """Return what a reader of the tables must know."""
    text = "Mean ± SD over draws; in brackets Student's 95 % interval of the paired differences. "
    if any(world for _, world in table):
        text += (
            "Stuck: the share of runs whose scores tell the two sources of real test images apart "
            f"with an AUC above {number(frozen.LOCKED)}. "
        )
    chance = [figures["chance"] for each in table.values() for figures in each.values()]
    return f"{text}By chance a CAM peaks in the artefact in {number(t_interval(chance).mean)}."


def comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the table of the comparisons that are tested."""
    tested = [c for c in comparisons if c.role]
    if not tested:
        return []
    lines = [
        f"| tested | role | open AUC [95 %] | 90 % | same within {number(frozen.MARGIN)} | p "
        "| p (Holm) | detectable | at equal closed AUC |",
        "|---" * 9 + "|",
    ]
    for c in tested:
        same = "yes" if c.p_same < 0.05 else "not shown"
        cells = (
            *(c.name, c.role, span(c.found), ends(c.narrow), same, _p(c.p), _p(c.p_holm)),
            *(number(detectable(c.found)), span(c.matched)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _headroom(folder: Path) -> list[str]:
    """Return the rows of what could be reached, that ``--headroom`` measured on spare draws."""
    path = folder / HEADROOM_FILE
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for name in dict.fromkeys(row["row"] for row in rows if row["row"] not in frozen.ARMS):
        own = [row for row in rows if row["row"] == name]
        aucs = (
            spread(t_interval([float(row[figure] or "nan") for row in own]))
            for figure in ("closed", "closed_balanced", "open")
        )
        lines.append(f"| {name} (spare draws) | {len(own)} | {' | '.join(aucs)} | | | | |")
    return lines


def _numbers(each: Interval) -> tuple[object, ...]:
    return (*map(_plain, (each.mean, each.sd, each.low, each.high)), each.n)


def _plain(value: float) -> str:
    """Return six digits, an empty cell for what is not defined."""
    return "" if math.isnan(value) else f"{value:.6g}"


def spread(each: Interval) -> str:
    """Return ``.953 ± .004``: mean and SD, the mean of a single one; "-" without any."""
    return number(each.mean) if each.n < 2 else f"{number(each.mean)} ± {number(each.sd)}"


def span(found: Interval) -> str:
    """Return ``+.012 [+.003, +.021]``: a difference and its interval."""
    return f"{signed(found.mean)} {ends(found)}"


def ends(found: Interval) -> str:
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
