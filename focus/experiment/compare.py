"""Compare the arms of the experiment, paired over draws: the primary endpoint and the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from focus.experiment import frozen
from focus.experiment.collect import GRADES, Outcome
from focus.experiment.statistics import (
    Floats,
    Interval,
    at_equal_closed,
    equivalence_p,
    holm,
    student_p,
    t_interval,
)


@dataclass(frozen=True)
class Comparison:
    """One arm minus another in a figure, over the draws that both have.

    role: primary, secondary, or "" for what is described without a test. matched: of open AUC, at
    equal closed AUC. p, p_holm, p_same: Student's, Holm's of the secondary ones, and of equivalence
    within the margin; NaN where there is no test.
    """

    arm: str
    other: str
    world: str
    figure: str
    role: str
    found: Interval
    narrow: Interval
    matched: Interval
    p: float
    p_same: float
    p_holm: float = math.nan

    @property
    def name(self) -> str:
        """Return ``blend - ce``, for the interaction ``blend - ce, 90 - 50``."""
        pair = f"`{self.arm}` - `{self.other}`"
        return f"{pair}, {self.world}" if " - " in self.world else pair


Table = Mapping[tuple[str, str], Mapping[int, Mapping[str, float]]]
"""Figures by arm and world, then unit."""


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """Return the figures of the runs by arm and world, then draw."""
    found: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
    for each in outcomes:
        key = each.run.arm, each.run.world
        found.setdefault(key, {})[each.run.unit] = each.figures
    return found


def analyse(table: Table) -> list[Comparison]:
    """Return the primary comparison, the secondary ones, and every arm minus cross-entropy.

    A difference is taken within a draw, which has its own images and generators: Student's interval
    over draws lets both vary.
    """
    worlds = list(dict.fromkeys(world for _, world in table))
    arms = list(dict.fromkeys(arm for arm, _ in table))
    roles = {frozen.PRIMARY: "primary", **dict.fromkeys(frozen.SECONDARY, "secondary")}
    pairs = dict.fromkeys([*roles, *((arm, frozen.BASELINE) for arm in arms)])
    found = []
    for world in worlds:
        for arm, other in pairs:
            if arm == other or not {(arm, world), (other, world)} <= table.keys():
                continue
            role = roles.get((arm, other), "") if world == worlds[0] else ""
            for figure in ("open", *GRADES):
                opened, closed = (_apart(table, arm, other, world, f) for f in (figure, "closed"))
                if np.isnan(opened).all():
                    continue
                of_open = role if figure == "open" else ""
                found.append(_compared(arm, other, world, figure, of_open, opened, closed))
    if len(worlds) == 2 and all((arm, w) in table for arm in frozen.PRIMARY for w in worlds):
        first, second = (
            {figure: _apart(table, *frozen.PRIMARY, world, figure) for figure in ("open", "closed")}
            for world in worlds
        )
        apart = (first[figure] - second[figure] for figure in ("open", "closed"))
        between = " - ".join(worlds)
        found.append(_compared(*frozen.PRIMARY, between, "open", "secondary", *apart))
    order = {"primary": 0, "secondary": 1, "": 2}
    found.sort(key=lambda c: order[c.role])
    # The interaction is one of the planned family, also before the second world is run.
    unrun = [1.0] if worlds == [frozen.WORLDS[0]] else []
    adjusted = holm([*(c.p if c.role == "secondary" else math.nan for c in found), *unrun])
    return [replace(c, p_holm=float(adjusted[n])) for n, c in enumerate(found)]


def _apart(table: Table, arm: str, other: str, world: str, figure: str) -> Floats:
    """Return the differences in a figure [n], over all units; NaN where an arm lacks one."""
    units = sorted({unit for each in table.values() for unit in each})
    mine, theirs = (
        [table[name, world].get(unit, {}).get(figure, math.nan) for unit in units]
        for name in (arm, other)
    )
    return np.asarray(np.subtract(mine, theirs), dtype=np.float64)


def _compared(
    arm: str, other: str, world: str, figure: str, role: str, opened: Floats, closed: Floats
) -> Comparison:
    found, narrow = t_interval(opened), t_interval(opened, 0.9)
    p, p_same = (student_p(found), equivalence_p(found, frozen.MARGIN)) if role else (math.nan,) * 2
    matched = at_equal_closed(opened, closed)
    return Comparison(arm, other, world, figure, role, found, narrow, matched, p, p_same)
