"""Compare the arms of the experiment, paired over draws: what is tested, and the rest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from focus.experiment.collect import GRADES, Outcome
from focus.experiment.frozen import BASELINE, MARGIN, Contrast, Protocol, minus, worlds_between
from focus.experiment.statistics import (
    MeanInterval,
    at_equal_closed,
    equivalence_p,
    simultaneous,
    student_p,
    t_interval,
)
from focus.metrics.arrays import Floats
from focus.metrics.ranks import holm

COMPARED = ("open", *GRADES, "closed_balanced", "source", "entropy")


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
    planned = [t for t in protocol.tests if worlds != [""] or t.world == protocol.tests[0].world]
    tests = {(t.contrast.name, t.world if worlds != [""] else ""): t for t in planned}
    arms = dict.fromkeys(arm for arm, _ in table)
    contrasts = {
        c.name: c
        for c in (
            *(t.contrast for t in planned),
            *protocol.described,
            *(minus(arm, BASELINE) for arm in arms if arm != BASELINE),
        )
    }
    interactions = dict.fromkeys(world for _, world in tests if len(worlds_between(world)) == 2)
    found = []
    for name, contrast in contrasts.items():
        for world in [*worlds, *interactions]:
            test = tests.get((name, world))
            if world in interactions and test is None:
                continue
            for figure in COMPARED if world not in interactions else COMPARED[:1]:
                values = contrasted(table, contrast, world, figure)
                if np.isnan(values).all():
                    continue
                role = test.role if test and figure == "open" else ""
                effect = _compared(contrast, world, figure, role, values)
                if figure == "open":
                    closed = contrasted(table, contrast, world, "closed")
                    effect = replace(effect, at_equal_closed=at_equal_closed(values, closed))
                found.append(effect)
    for doses in [*protocol.series.values()][:1]:
        for world in worlds:
            found = _joint(table, doses, world, found)
    order = {key: number for number, key in enumerate(tests)}
    found.sort(key=lambda c: order[c.contrast.name, c.world] if c.role else len(order))
    family = [c.p if c.role not in ("", "primary") else math.nan for c in found]
    missing = sum(t.role != "primary" for t in planned) - np.count_nonzero(~np.isnan(family))
    adjusted = holm([*family, *[1.0] * int(missing)])
    return [replace(c, p_holm=float(adjusted[n])) for n, c in enumerate(found)]


def contrasted(table: ArmTable, contrast: Contrast, world: str, figure: str) -> Floats:
    """Return a contrast in a figure [n], over all units; NaN where an arm lacks one."""
    if len(sides := worlds_between(world)) == 2:
        first, second = (contrasted(table, contrast, side, figure) for side in sides)
        return first - second
    units = sorted({unit for each in table.values() for unit in each})
    values = np.zeros(len(units))
    for arm, weight in contrast.weights.items():
        own = table.get((arm, world), {})
        values += weight * np.array([own.get(unit, {}).get(figure, math.nan) for unit in units])
    return values


def _compared(contrast: Contrast, world: str, figure: str, role: str, values: Floats) -> Effect:
    estimate = t_interval(values)
    effect = Effect(contrast, world, figure, role, estimate, t_interval(values, 0.9))
    if figure != "open":
        return effect
    p = student_p(estimate) if role else math.nan
    return replace(effect, p=p, p_same=equivalence_p(estimate, MARGIN))


def _joint(
    table: ArmTable, doses: Sequence[str], world: str, found: Sequence[Effect]
) -> list[Effect]:
    """Give the doses minus the first one their simultaneous intervals in open AUC."""
    names = [minus(dose, doses[0]) for dose in doses[1:]]
    values = np.stack([contrasted(table, each, world, "open") for each in names], axis=1)
    joint = dict(zip((each.name for each in names), simultaneous(values), strict=True))
    return [
        replace(c, joint=joint[c.contrast.name])
        if (c.world, c.figure) == (world, "open") and c.contrast.name in joint
        else c
        for c in found
    ]
