"""Compare the arms of the experiment: the primary endpoint, the others, and Holm over those."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from focus.experiment import frozen
from focus.experiment.collect import Outcome, drawn_aucs
from focus.experiment.statistics import Compared, TwoLevel, holm, t_interval


@dataclass(frozen=True)
class ArmComparison:
    """Arm minus other in open-set AUC, of one model and length of training.

    matched: at matched closed AUC. plain: as measured. closed: mean difference in closed AUC.
    p_holm: of ``matched.p``, NaN for the primary one.
    """

    arm: str
    other: str
    length: int
    primary: bool
    matched: Compared
    plain: Compared
    closed: float
    p_holm: float = math.nan


@dataclass(frozen=True)
class Analysis:
    """Comparisons of one model. slope: of open on closed AUC, common to the arms of n_runs runs."""

    model: str
    slope: float
    n_runs: int
    comparisons: Sequence[ArmComparison]


def analyse(outcomes: Sequence[Outcome], model: str, *, replicates: int) -> Analysis:
    """Compare the arms of one model's finished runs, the primary pair first.

    Holm's family is all comparisons that are defined but the primary one, which stands alone.

    Raises InputError if the runs did not score the same images.
    """
    mine = [o for o in outcomes if o.run.model == model and o.run.arm in frozen.ARMS]
    arms = [arm for arm in frozen.ARMS if any(o.run.arm == arm for o in mine)]
    lengths = sorted({o.run.length for o in mine})
    shape = len(arms), len(lengths), 1 + max((o.run.seed for o in mine), default=0)
    rng = np.random.default_rng(frozen.BOOTSTRAP_SEED)
    drawn = drawn_aucs(mine, replicates, rng)
    observed = {name: np.full(shape, np.nan) for name in drawn}
    replicated = {name: np.full((*shape, replicates), np.nan) for name in drawn}
    for row, o in enumerate(mine):
        place = arms.index(o.run.arm), lengths.index(o.run.length), o.run.seed
        for name in drawn:
            observed[name][place], replicated[name][place] = o.figures[name], drawn[name][row]
    two_level = TwoLevel(
        *(observed["closed"], observed["open"], replicated["closed"], replicated["open"]), rng
    )
    pairs = [(arm, frozen.BASELINE) for arm in arms if arm != frozen.BASELINE] + [*frozen.CONTROLS]
    found = []
    for at, length in enumerate(lengths):
        for arm, other in pairs:
            if {arm, other} <= set(arms):
                place = arms.index(arm), arms.index(other), at
                closed = observed["closed"][place[0], at] - observed["closed"][place[1], at]
                found.append(
                    ArmComparison(
                        *(arm, other, length),
                        primary=(arm, other, length) == (*frozen.PRIMARY, 1),
                        matched=two_level.compare(*place, matched=True),
                        plain=two_level.compare(*place, matched=False),
                        closed=t_interval(closed).mean,
                    )
                )
    found.sort(key=lambda c: not c.primary)
    adjusted = holm([math.nan if c.primary else c.matched.p for c in found])
    found = [replace(c, p_holm=float(p)) for c, p in zip(found, adjusted, strict=True)]
    return Analysis(model, two_level.slope, len(mine), found)
