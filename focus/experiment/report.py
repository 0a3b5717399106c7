"""Write the tables of the experiment: runs, arms, comparisons, dose-response."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from focus.experiment import frozen
from focus.experiment.collect import FIGURES, Outcome
from focus.experiment.compare import Analysis, ArmComparison
from focus.experiment.statistics import Compared, Interval, t_interval
from focus.runtime.files import atomic_csv_writer, atomic_write

RUNS, TABLE_CSV, TABLE, COMPARISONS = "runs.csv", "table.csv", "report.md", "comparisons.csv"
_SHOWN = ("closed", "closed_balanced", "open", "gap")
_APART = ("open_local", "open_global", "open_known_artefact", "open_new_artefact")
_FOCUS = ("entropy_closed", "entropy_open", "pointing_closed", "pointing_open", "peak_share_open")
_DOSE = ("closed", "open", "gap", "pointing_closed", "pointing_open", "entropy_open")
_COMPARED = (
    *("model", "loss", "other", "length", "primary", "n_seeds", "slope", "closed_difference"),
    *("difference", "low", "high", "t_low", "t_high", "p"),
    *("matched_difference", "matched_low", "matched_high", "matched_t_low", "matched_t_high"),
    *("matched_p", "p_holm"),
)

# Of two seeds half of all draws are of one seed: that is no spread to judge by.
_SEEDS_AT_LEAST = 3

Row = Sequence[object]
Groups = Mapping[tuple[str, str], Sequence[Outcome]]
"""The runs of each row of a table, by what stands in its first column and by the epochs."""


def groups(outcomes: Sequence[Outcome], model: str) -> dict[tuple[str, str], list[Outcome]]:
    """Return the runs of each arm and length of a model, in the order of the arms."""
    order = list(frozen.ARMS)
    mine = [o for o in outcomes if o.run.model == model and o.run.arm in order]
    found: dict[tuple[str, str], list[Outcome]] = {}
    for o in sorted(mine, key=lambda o: (o.run.length, order.index(o.run.arm), o.run.seed)):
        found.setdefault((o.run.arm, str(o.run.config.epochs)), []).append(o)
    return found


def doses(outcomes: Sequence[Outcome], model: str) -> dict[float, list[Outcome]]:
    """Return the runs of the dose-response of a model by their focus weight, rising."""
    found: dict[float, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.run.dose is not None and outcome.run.model == model:
            found.setdefault(outcome.run.dose, []).append(outcome)
    return dict(sorted(found.items()))


def over_seeds(outcomes: Sequence[Outcome], name: str) -> Interval:
    """Return the mean of one figure over the seeds of a group."""
    return t_interval([outcome.figures.get(name, math.nan) for outcome in outcomes])


def write_report(
    outcomes: Sequence[Outcome],
    analyses: Sequence[Analysis],
    folder: Path,
    *,
    missing: Sequence[str],
    plots: Sequence[str] = (),
) -> str:
    """Write the tables as CSV and Markdown; return the Markdown.

    missing: lines on runs that failed or were not made. plots: file names of pictures beside.
    """
    generators = sorted({n for o in outcomes for n in o.figures if n.startswith("open.")})
    columns = [*FIGURES, *generators]
    runs: list[Row] = [("model", "loss", "epochs", "seed", "focus_weight", "folder", *columns)]
    for o in outcomes:
        about = o.run.model, o.run.arm, o.run.config.epochs, o.run.seed
        dose = "" if o.run.dose is None else o.run.dose
        figures = (_plain(o.figures.get(name, math.nan)) for name in columns)
        runs.append((*about, dose, o.run.folder.relative_to(folder), *figures))
    heads = ("mean", "sd", "t_low", "t_high", "n_seeds")
    table: list[Row] = [("model", "loss", "epochs", "figure", *heads)]
    for model in sorted({o.run.model for o in outcomes}):
        for (arm, epochs), members in groups(outcomes, model).items():
            for name in columns:
                each = over_seeds(members, name)
                numbers = map(_plain, (each.mean, each.sd, each.low, each.high))
                table.append((model, arm, epochs, name, *numbers, each.n))
    compared = [_COMPARED, *(_compared(a, c) for a in analyses for c in a.comparisons)]
    for file, rows in ((RUNS, runs), (TABLE_CSV, table), (COMPARISONS, compared)):
        with atomic_csv_writer(folder / file, end="\n") as writer:
            writer.writerows(rows)
    lines = ["# Experiment", ""]
    lines += [*(f"- {line}" for line in missing), ""] if missing else []
    for analysis in analyses:
        rows_of = groups(outcomes, analysis.model)
        if len(analyses) > 1:
            lines += [f"## Model {analysis.model}", ""]
        lines += ["Mean ± SD over seeds; in brackets Student's 95 % interval of the mean.", ""]
        lines += _table(rows_of, _SHOWN, interval=True)
        lines += ["Apart: global fingerprints, and images with an artefact that training knew.", ""]
        for shown in (_APART, generators, _FOCUS):
            lines += _table(rows_of, shown)
        lines += _comparison_lines(analysis)
        if len(by_dose := doses(outcomes, analysis.model)) > 1:
            lines += ["Dose-response: weight of the focus term, entropy minimised.", ""]
            body = {(f"{w:g}", str(own[0].run.config.epochs)): own for w, own in by_dose.items()}
            lines += _table(body, _DOSE, first="weight")
    for plot in plots:
        lines += [f"![{plot}]({plot})", ""]
    text = "\n".join(lines)
    with atomic_write(folder / TABLE) as aside:
        aside.write_text(text, encoding="utf-8")
    return text


def _table(
    rows: Groups, columns: Sequence[str], *, interval: bool = False, first: str = "loss"
) -> list[str]:
    """Return lines with an empty one behind; a column that no run has is left out."""
    cells = {name: [over_seeds(members, name) for members in rows.values()] for name in columns}
    shown = [name for name in columns if any(each.n for each in cells[name])]
    if not shown:
        return []
    heads = [FIGURES.get(name, (name.removeprefix("open."),))[0] for name in shown]
    lines = [f"| {first} | epochs | seeds | {' | '.join(heads)} |", "|---" * (3 + len(shown)) + "|"]
    for row, ((label, epochs), members) in enumerate(rows.items()):
        values = [cell(cells[name][row], interval) for name in shown]
        lines.append(f"| `{label}` | {epochs} | {len(members)} | {' | '.join(values)} |")
    return [*lines, ""]


def _comparison_lines(analysis: Analysis) -> list[str]:
    if not analysis.comparisons:
        return []
    first = analysis.comparisons[0]
    lines = [f"**Primary endpoint.** {_verdict(first)}", ""] if first.primary else []
    lines += [
        "Differences in open AUC; matched: at equal closed AUC by the slope "
        f"{number(analysis.slope)} of open on closed AUC within the losses, common to all "
        f"{analysis.n_runs} runs; p: the larger of the bootstrap's, whose intervals these are, and "
        "of Student's paired test over seeds.",
        "",
        "| loss - other | epochs | Δ closed | Δ open | Δ open, matched [95 %] | p | p (Holm) |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in analysis.comparisons:
        pair = f"`{c.arm}` - `{c.other}`{' (primary)' if c.primary else ''}"
        found = signed(c.closed), signed(c.plain.difference), span(c.matched)
        cells = pair, f"{c.length}x", *found, _p(c.matched.p), _p(c.p_holm)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _verdict(c: ArmComparison) -> str:
    """Return the primary result in words, whichever way it came out."""
    found, pair = c.matched, f"`{c.arm}` against `{c.other}`"
    plain = f"unmatched {span(c.plain)}"
    if math.isnan(c.closed) and not math.isnan(c.plain.low):
        return (
            f"{pair}: not defined, as no test image is of a known generator and so there is no "
            f"closed AUC to match; {plain} in mean open AUC, Student's {_ends(c.plain.over_seeds)}."
        )
    if math.isnan(found.low):
        return f"{pair}: not defined with the runs that there are."
    n = found.over_seeds.n
    # Seeds that agree in sign by chance are all that a bootstrap of a few of them sees.
    low, high = min(found.low, found.over_seeds.low), max(found.high, found.over_seeds.high)
    if n < _SEEDS_AT_LEAST:
        verdict = f"there are too few seeds to tell `{c.arm}` from `{c.other}`"
    elif low > 0:
        verdict = f"`{c.arm}` is above `{c.other}`"
    elif high < 0:
        verdict = f"`{c.arm}` is BELOW `{c.other}`"
    else:
        verdict = f"no difference between `{c.arm}` and `{c.other}` is shown"
    return (
        f"At matched closed AUC {verdict}: {span(found)} in mean open AUC over the unknown "
        f"generators ({n} seed{'s' * (n > 1)}), Student's interval over seeds "
        f"{_ends(found.over_seeds)}; {plain}, Student's {_ends(c.plain.over_seeds)}. A difference "
        "is shown where both intervals leave 0 out. These are the generators of this test set; a "
        "handful of them does not speak for all generators."
    )


def _compared(analysis: Analysis, c: ArmComparison) -> tuple[object, ...]:
    about = analysis.model, c.arm, c.other, c.length, int(c.primary), c.plain.over_seeds.n
    figures = [analysis.slope, c.closed]
    for found in (c.plain, c.matched):
        student = found.over_seeds
        figures += [found.difference, found.low, found.high, student.low, student.high, found.p]
    return (*about, *map(_plain, (*figures, c.p_holm)))


def _plain(value: float) -> str:
    """Return six digits, an empty cell for what is not defined."""
    return "" if math.isnan(value) else f"{value:.6g}"


def cell(each: Interval, interval: bool) -> str:
    """Return ``.953 ± .004``: mean and SD over seeds, the mean of a single one; "-" without any.

    interval: with Student's interval in brackets behind.
    """
    if each.n < 2:
        return number(each.mean)
    ends = f" [{number(each.low)}, {number(each.high)}]" if interval else ""
    return f"{number(each.mean)} ± {number(each.sd)}{ends}"


def span(found: Compared) -> str:
    """Return ``+.012 [+.003, +.021]``: a difference and its interval."""
    return f"{signed(found.difference)} {_ends(found)}"


def _ends(found: Compared | Interval) -> str:
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
