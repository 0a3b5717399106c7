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
    comparisons: tuple[ArmComparison, ...]


def analyse(outcomes: Sequence[Outcome], model: str, *, replicates: int) -> Analysis:
    """Compare the arms of one model's finished runs.

    Raises InputError if the runs did not score the same images.
    """
    mine = [o for o in outcomes if o.run.model == model and o.run.arm in frozen.ARMS]
    arms = [arm for arm in frozen.ARMS if any(o.run.arm == arm for o in mine)]
    lengths = sorted({o.run.length for o in mine})
    shape = len(arms), len(lengths), 1 + max((o.run.seed for o in mine), default=0)
    places = [(arms.index(o.run.arm), lengths.index(o.run.length), o.run.seed) for o in mine]
    rng = np.random.default_rng(frozen.BOOTSTRAP_SEED)
    drawn = drawn_aucs(mine, replicates, rng)
    arrays = [np.full((*shape, *end), np.nan) for end in ((), (), (replicates,), (replicates,))]
    for row, (place, found) in enumerate(zip(places, mine, strict=True)):
        values = found.figures["closed"], found.figures["open"], drawn["closed"][row]
        for array, value in zip(arrays, (*values, drawn["open"][row]), strict=True):
            array[place] = value
    closed, opened, closed_drawn, opened_drawn = arrays
    two_level = TwoLevel(closed, opened, closed_drawn, opened_drawn, rng)
    pairs = [(arm, frozen.BASELINE) for arm in arms if arm != frozen.BASELINE] + [*frozen.CONTROLS]
    found_pairs = []
    for length in lengths:
        for arm, other in pairs:
            if {arm, other} <= set(arms):
                one, two, which = arms.index(arm), arms.index(other), lengths.index(length)
                found_pairs.append(
                    ArmComparison(
                        arm,
                        other,
                        length,
                        primary=(arm, other, length) == (*frozen.PRIMARY, 1),
                        matched=two_level.compare(one, two, which, matched=True),
                        plain=two_level.compare(one, two, which, matched=False),
                        closed=t_interval(closed[one, which] - closed[two, which]).mean,
                    )
                )
    found_pairs.sort(key=lambda c: not c.primary)
    return Analysis(model, two_level.slope, len(mine), tuple(_with_holm(found_pairs)))


def _with_holm(found: Sequence[ArmComparison]) -> list[ArmComparison]:
    """Adjust p over all comparisons that are defined but the primary one, which stands alone."""
    family = [c for c in found if not c.primary and not math.isnan(c.matched.p)]
    adjusted = dict(zip(map(id, family), holm([c.matched.p for c in family]), strict=True))
    return [replace(c, p_holm=float(adjusted.get(id(c), math.nan))) for c in found]
