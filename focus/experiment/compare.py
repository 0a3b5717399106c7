"""The comparisons of the experiment: the primary endpoint, the others, and Holm over those."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from focus.experiment import frozen
from focus.experiment.collect import Outcome, drawn_aucs, observed, placed
from focus.experiment.statistics import (
    Compared,
    TwoLevel,
    holm,
    t_interval,
)


@dataclass(frozen=True)
class Comparison:
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
    p_holm: float


@dataclass(frozen=True)
class Analysis:
    """Of one model. slope: of open on closed AUC, common to all arms. n_runs: that it is from."""

    model: str
    slope: float
    n_runs: int
    comparisons: tuple[Comparison, ...]


def analyse(outcomes: Sequence[Outcome], model: str, *, replicates: int) -> Analysis:
    """Compare the arms of one model's finished runs.

    Raises:
        InputError: the runs did not score the same images.
    """
    mine = [o for o in outcomes if o.run.model == model and o.run.arm in frozen.ARMS]
    arms = [arm for arm in frozen.ARMS if any(o.run.arm == arm for o in mine)]
    lengths = sorted({o.run.length for o in mine})
    seeds = 1 + max((o.run.seed for o in mine), default=0)
    shape = len(arms), len(lengths), seeds
    places = placed(mine, arms, lengths, seeds)
    rng = np.random.default_rng(frozen.BOOTSTRAP_SEED)
    drawn = drawn_aucs(places, shape, replicates, rng)
    closed, opened = (observed(places, shape, name) for name in ("closed", "open"))
    two_level = TwoLevel(closed, opened, drawn.closed, drawn.opened, rng)

    found = []
    for arm, other, length in _pairs(arms, lengths):
        here = one, two, which = arms.index(arm), arms.index(other), lengths.index(length)
        found.append(
            Comparison(
                arm,
                other,
                length,
                primary=(arm, other) == frozen.PRIMARY and length == 1,
                matched=two_level.compare(*here, matched=True),
                plain=two_level.compare(*here, matched=False),
                closed=t_interval(closed[one, which] - closed[two, which]).mean,
                p_holm=math.nan,
            )
        )
    return Analysis(model, two_level.slope, len(places), tuple(_with_holm(found)))


def _pairs(arms: Sequence[str], lengths: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """Every arm with the baseline, then the controls, of each length; the primary one first."""
    wanted = [(arm, frozen.BASELINE) for arm in arms if arm != frozen.BASELINE]
    wanted = [pair for pair in (*wanted, *frozen.CONTROLS) if set(pair) <= set(arms)]
    pairs = [(arm, other, length) for length in lengths for arm, other in wanted]
    yield from sorted(pairs, key=lambda pair: pair != (*frozen.PRIMARY, 1))


def _with_holm(found: Sequence[Comparison]) -> list[Comparison]:
    """Holm over all comparisons but the primary one, which is tested on its own."""
    # One that is not defined is no test; the family is those that were made.
    family = [c for c in found if not c.primary and not math.isnan(c.matched.p)]
    adjusted = dict(zip(map(id, family), holm([c.matched.p for c in family]), strict=True))
    return [replace(c, p_holm=float(adjusted.get(id(c), math.nan))) for c in found]
