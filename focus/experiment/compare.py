"""Compare the arms of an experiment, paired over draws: estimates, tests, and the tables of both.

Student's t over draws, Holm's p-values of a family, equivalence within a margin, and intervals of
several doses at once (max-t).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from focus.experiment.protocol import (
    BASELINE,
    MARGIN,
    Contrast,
    Protocol,
    Test,
    minus,
    worlds_between,
)
from focus.experiment.records import FIGURES, GRADES, Outcome
from focus.metrics.arrays import Floats
from focus.metrics.intervals import holm
from focus.runtime.files import write_csv

COMPARED = ("open", *GRADES, "closed_balanced", "source", "entropy")
TABLE, COMPARISONS = "table.csv", "comparisons.csv"


@dataclass(frozen=True)
class MeanInterval:
    """A mean over ``n`` values, their standard deviation (divided by n - 1) and an interval.

    sd, low and high are NaN for a single value.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Effect:
    """A contrast of arms in a figure, over the draws that have all of them.

    role: As of a test of the protocol; "" for what is described.
    estimate, narrow: Student's intervals of 95 and 90 %.
    at_equal_closed: Of open AUC, the difference where there is none in closed AUC; None of others.
    joint: The interval that covers all doses at once; None of other contrasts.
    p, p_holm, p_same: Student's, Holm's of the family, and that of equivalence within the margin;
        NaN where there is no test.
    """

    contrast: Contrast
    world: str
    figure: str
    role: str
    estimate: MeanInterval
    narrow: MeanInterval
    at_equal_closed: MeanInterval | None = None
    joint: MeanInterval | None = None
    p: float = math.nan
    p_same: float = math.nan
    p_holm: float = math.nan

    @property
    def name(self) -> str:
        """Return ```blend` - `ce`, 90``, without the world on one's own data."""
        return ", ".join(filter(None, (self.contrast.name, self.world)))


ArmTable = Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]
"""Figures by arm and world, then unit."""


def table_of(outcomes: Sequence[Outcome]) -> ArmTable:
    """Return the figures of the runs by arm and world, then draw."""
    table: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for outcome in outcomes:
        arm_in_world = outcome.run.arm, outcome.run.world
        table.setdefault(arm_in_world, {})[outcome.run.unit] = outcome.figures
    return table


def analyse(table: ArmTable, protocol: Protocol) -> list[Effect]:
    """Return what the protocol tests, then its other contrasts and every arm minus cross-entropy.

    A difference is taken within a draw, which has its own images and generators: Student's interval
    over draws lets both vary. What is planned and not run counts in Holm's family.
    """
    worlds = list(dict.fromkeys(world for _, world in table))
    tests = _tests(protocol, worlds)
    interactions = dict.fromkeys(world for _, world in tests if len(worlds_between(world)) == 2)

    effects: list[Effect] = []
    for contrast in _contrasts(table, protocol, tests.values()):
        for world in worlds:
            test = tests.get((contrast.name, world))
            effects += _effects(table, contrast, world, COMPARED, test)
        for world in interactions:
            test = tests.get((contrast.name, world))
            if test is not None:
                effects += _effects(table, contrast, world, ("open",), test)

    doses = next(iter(protocol.series.values()), ())
    if doses:
        for world in worlds:
            effects = _with_joint_intervals(table, doses, world, effects)

    order = {key: number for number, key in enumerate(tests)}
    effects.sort(key=lambda e: order[e.contrast.name, e.world] if e.role else len(order))
    return _with_holm(effects, tests.values())


def _tests(protocol: Protocol, worlds: Sequence[str]) -> dict[tuple[str, str], Test]:
    """Return the tests that are planned by the name of their contrast and by world.

    One's own data are one world, "", in which the tests of the protocol's first one are made.
    """
    if worlds != [""]:
        return {(test.contrast.name, test.world): test for test in protocol.tests}
    first_world = [test for test in protocol.tests if test.world == protocol.tests[0].world]
    return {(test.contrast.name, ""): test for test in first_world}


def _contrasts(table: ArmTable, protocol: Protocol, tests: Iterable[Test]) -> Iterable[Contrast]:
    """Return what is tested, described, and each arm minus the baseline, each contrast once."""
    arms = dict.fromkeys(arm for arm, _ in table)
    contrasts = [test.contrast for test in tests]
    contrasts += protocol.described
    contrasts += [minus(arm, BASELINE) for arm in arms if arm != BASELINE]
    return {contrast.name: contrast for contrast in contrasts}.values()


def _effects(
    table: ArmTable, contrast: Contrast, world: str, figures: Sequence[str], test: Test | None
) -> list[Effect]:
    """Return the effects of a contrast in those of the figures that its arms have in a world.

    test: What is tested in open AUC, None if it is described alone.
    """
    effects = []
    for figure in figures:
        values = contrasted(table, contrast, world, figure)
        if np.isnan(values).all():
            continue
        role = test.role if test and figure == "open" else ""
        estimate = t_interval(values)
        effect = Effect(contrast, world, figure, role, estimate, t_interval(values, 0.9))
        if figure == "open":
            closed = contrasted(table, contrast, world, "closed")
            effect = replace(
                effect,
                at_equal_closed=at_equal_closed(values, closed),
                p=student_p(estimate) if role else math.nan,
                p_same=equivalence_p(estimate, MARGIN),
            )
        effects.append(effect)
    return effects


def contrasted(table: ArmTable, contrast: Contrast, world: str, figure: str) -> Floats:
    """Return a contrast in a figure [n], over all units; NaN where an arm lacks one."""
    sides = worlds_between(world)
    if len(sides) == 2:
        first, second = (contrasted(table, contrast, side, figure) for side in sides)
        return first - second
    units = sorted({unit for figures_by_unit in table.values() for unit in figures_by_unit})
    values = np.zeros(len(units))
    for arm, weight in contrast.weights.items():
        figures_by_unit = table.get((arm, world), {})
        of_arm = [figures_by_unit.get(unit, {}).get(figure, math.nan) for unit in units]
        values += weight * np.array(of_arm)
    return values


def _with_joint_intervals(
    table: ArmTable, doses: Sequence[str], world: str, effects: Sequence[Effect]
) -> list[Effect]:
    """Give the differences of the doses from the first one their joint intervals in open AUC.

    A joint interval of a world covers all doses at once.
    """
    contrasts = [minus(dose, doses[0]) for dose in doses[1:]]
    columns = [contrasted(table, contrast, world, "open") for contrast in contrasts]
    intervals = simultaneous(np.stack(columns, axis=1))
    names = [contrast.name for contrast in contrasts]
    interval_by_name = dict(zip(names, intervals, strict=True))

    completed = []
    for effect in effects:
        is_of_world = effect.world == world and effect.figure == "open"
        if is_of_world and effect.contrast.name in interval_by_name:
            effect = replace(effect, joint=interval_by_name[effect.contrast.name])
        completed.append(effect)
    return completed


def _with_holm(effects: Sequence[Effect], tests: Iterable[Test]) -> list[Effect]:
    """Give the effects of the family their p-values after Holm; the primary one is apart."""
    p_values = []
    for effect in effects:
        is_in_family = effect.role not in ("", "primary")
        p_values.append(effect.p if is_in_family else math.nan)

    # A planned test that was not run counts as one with a p-value of 1.
    planned = sum(test.role != "primary" for test in tests)
    missing = planned - int(np.count_nonzero(~np.isnan(p_values)))
    adjusted = holm(p_values + [1.0] * missing)[: len(effects)]

    return [
        replace(effect, p_holm=float(p_holm))
        for effect, p_holm in zip(effects, adjusted, strict=True)
    ]


def t_interval(values: Any, level: float = 0.95) -> MeanInterval:
    """Return the mean of ``values`` [n] with Student's interval; NaN are left out."""
    defined = np.asarray(values, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    if n < 2:
        return MeanInterval(mean, math.nan, math.nan, math.nan, n)
    sd = float(defined.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return MeanInterval(mean, sd, mean - half, mean + half, n)


def of_shared_splits(interval: MeanInterval, tested_by_trained: float) -> MeanInterval:
    """Return Student's interval over splits of the same units, corrected for what they share.

    Nadeau and Bengio (2003): the variance of the mean is ``sd² (1/n + tested/trained)``, as the
    training sets of random splits overlap.

    tested_by_trained: The units that a split tests on, divided by those that it trains on.
    """
    factor = math.sqrt(1 + interval.n * tested_by_trained)
    return replace(
        interval,
        low=interval.mean - factor * (interval.mean - interval.low),
        high=interval.mean + factor * (interval.high - interval.mean),
    )


def student_p(estimate: MeanInterval) -> float:
    """Return Student's two-sided p-value of "the mean is 0"; NaN of fewer than two values."""
    if estimate.n < 2:
        return math.nan
    if estimate.sd == 0:
        return float(estimate.mean == 0)
    return float(
        2 * stats.t.sf(abs(estimate.mean) * math.sqrt(estimate.n) / estimate.sd, estimate.n - 1)
    )


def equivalence_p(estimate: MeanInterval, margin: float) -> float:
    """Return the p-value of "the mean is not within ± margin" (two one-sided tests).

    Below .05 where Student's 90 % interval lies within the margin (Schuirmann, 1987).
    """
    if estimate.n < 2:
        return math.nan
    nearest = margin - abs(estimate.mean)
    if estimate.sd == 0:
        return float(nearest <= 0)
    return float(stats.t.sf(nearest * math.sqrt(estimate.n) / estimate.sd, estimate.n - 1))


def detectable(estimate: MeanInterval, power: float = 0.8) -> float:
    """Return the mean that a two-sided test at .05 would show with this power and this SD."""
    if estimate.n < 2:
        return math.nan
    quantiles = stats.t.ppf(0.975, estimate.n - 1) + stats.t.ppf(power, estimate.n - 1)
    return float(quantiles * estimate.sd / math.sqrt(estimate.n))


def simultaneous(values: Floats, level: float = 0.95) -> list[MeanInterval]:
    """Return intervals that cover the means of all columns of ``values`` [n, m] at once.

    Student's intervals with the quantile of the largest ``|t|`` of m correlated ones ("max-t",
    Hothorn, Bretz and Westfall, 2008), by 100,000 draws with the correlation of the columns. Rows
    with a NaN are left out.
    """
    whole = values[~np.isnan(values).any(axis=1)]
    n, m = whole.shape
    alone = [t_interval(whole[:, column], level) for column in range(m)]
    if n < 2 or any(interval.sd == 0 for interval in alone):
        return alone

    draw = np.random.default_rng(0)
    correlation = np.atleast_2d(np.corrcoef(whole, rowvar=False))
    normal = draw.multivariate_normal(np.zeros(m), correlation, 100_000)
    largest = np.abs(normal).max(axis=1) / np.sqrt(draw.chisquare(n - 1, 100_000) / (n - 1))
    quantile = float(np.quantile(largest, level))

    joint = []
    for interval in alone:
        mean, half = interval.mean, quantile * interval.sd / math.sqrt(n)
        joint.append(MeanInterval(mean, interval.sd, mean - half, mean + half, n))
    return joint


def at_equal_closed(open_differences: Floats, closed_differences: Floats) -> MeanInterval:
    """Return the difference in open AUC where there is none in closed AUC, with its interval.

    It is the intercept of the line of least squares through the paired differences of two arms [n],
    one for each draw (analysis of covariance). NaN where there is no line: fewer than three draws
    with both, or closed differences that are all the same. ``sd`` is NaN.
    """
    has_both = ~np.isnan(open_differences) & ~np.isnan(closed_differences)
    closed, opened = closed_differences[has_both], open_differences[has_both]
    n = len(closed)
    if n < 3 or np.ptp(closed) < 1e-12:
        return MeanInterval(math.nan, math.nan, math.nan, math.nan, n)
    line = stats.linregress(closed, opened)
    half = float(stats.t.ppf(0.975, n - 2) * line.intercept_stderr)
    intercept = float(line.intercept)
    return MeanInterval(intercept, math.nan, intercept - half, intercept + half, n)


def over_draws(table: ArmTable, arm: str, world: str, figure: str) -> MeanInterval:
    """Return the mean of a figure over the draws of an arm."""
    units = table.get((arm, world), {}).values()
    return t_interval([figures[figure] for figures in units])


def _end(interval: MeanInterval | None, name: str) -> float:
    """Return a field of an interval, NaN if there is none."""
    return math.nan if interval is None else float(getattr(interval, name))


_MEAN_COLUMNS = ("mean", "sd", "low", "high", "n")
_COMPARISON_NUMBERS: Mapping[str, Callable[[Effect], float]] = {
    "mean": lambda effect: effect.estimate.mean,
    "sd": lambda effect: effect.estimate.sd,
    "low": lambda effect: effect.estimate.low,
    "high": lambda effect: effect.estimate.high,
    "n": lambda effect: effect.estimate.n,
    "low_90": lambda effect: effect.narrow.low,
    "high_90": lambda effect: effect.narrow.high,
    "low_joint": lambda effect: _end(effect.joint, "low"),
    "high_joint": lambda effect: _end(effect.joint, "high"),
    "p": lambda effect: effect.p,
    "p_holm": lambda effect: effect.p_holm,
    "p_same": lambda effect: effect.p_same,
    "detectable": lambda effect: detectable(effect.estimate),
    "at_equal_closed": lambda effect: _end(effect.at_equal_closed, "mean"),
    "low_at_equal_closed": lambda effect: _end(effect.at_equal_closed, "low"),
    "high_at_equal_closed": lambda effect: _end(effect.at_equal_closed, "high"),
}
"""Columns of ``comparisons.csv`` after those that say what is compared."""


def write_tables(table: ArmTable, comparisons: Sequence[Effect], folder: Path) -> None:
    """Write each mean over draws, and each comparison, as a row of a CSV."""
    means = [
        (arm, world, name, *_numbers(over_draws(table, arm, world, name)))
        for arm, world in table
        for name in FIGURES
    ]
    write_csv(folder / TABLE, ("arm", "world", "figure", *_MEAN_COLUMNS), means)
    rows = []
    for effect in comparisons:
        names = (effect.contrast.name, effect.world, effect.figure, effect.role)
        values = [value(effect) for value in _COMPARISON_NUMBERS.values()]
        rows.append((*names, *map(_plain, values)))
    header = ("contrast", "world", "figure", "role", *_COMPARISON_NUMBERS)
    write_csv(folder / COMPARISONS, header, rows)


def _numbers(interval: MeanInterval) -> list[str]:
    """Return the cells of a mean in the order of ``_MEAN_COLUMNS``."""
    values = (interval.mean, interval.sd, interval.low, interval.high, interval.n)
    return [_plain(value) for value in values]


def _plain(value: float) -> str:
    """Return six digits, an empty cell for what is not defined."""
    return "" if math.isnan(value) else f"{value:.6g}"
