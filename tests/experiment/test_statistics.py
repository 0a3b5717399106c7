"""The experiment's statistics against numbers worked by hand, scipy, and simulated truth."""

import math

import numpy as np
import pytest
from scipy import stats

from focus.experiment.statistics import (
    Floats,
    TwoLevel,
    bootstrap_p,
    common_slope,
    holm,
    student_p,
    t_interval,
)


def test_intervals_and_p_values_are_scipys() -> None:
    # sd 1, t(2; .975) = 4.302653, so the half width is 4.302653 / sqrt(3).
    found = t_interval([1.0, 2.0, math.nan, 3.0])
    assert (found.mean, found.sd, found.n) == (2.0, 1.0, 3)
    assert (found.low, found.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    values = np.random.default_rng(1).normal(0.5, size=4)
    assert student_p(t_interval(values)) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert (student_p(t_interval([0.5] * 2)), student_p(t_interval([0.0] * 2))) == (0.0, 1.0)
    one, none = t_interval([0.5]), t_interval([math.nan])
    assert (one.mean, one.n, none.n) == (0.5, 1, 0)
    assert all(map(math.isnan, (one.sd, one.low, none.mean, student_p(one), student_p(none))))


def test_holm_and_bootstrap_p_by_hand() -> None:
    # In order .005·4, .01·3, .03·2, .04·1; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert bootstrap_p([1.0, 1.0, 1.0, -1.0]) == pytest.approx(2 * (1 + 1) / 5)
    assert (bootstrap_p(np.ones(999)), bootstrap_p(np.zeros(9))) == (pytest.approx(2 / 1000), 1.0)


def test_the_common_slope_is_that_of_least_squares_with_an_intercept_for_each_arm() -> None:
    draw = np.random.default_rng(3)
    closed = draw.random((3, 2, 4))
    opened = 0.7 * closed + np.array([0.0, 0.5, -0.5])[:, None, None] + draw.normal(size=(3, 2, 4))
    weights = np.array([2.0, 0.0, 1.0, 1.0])
    opened[1, 0, 2] = closed[1, 0, 2] = np.nan
    arm, _, seed = (index.ravel() for index in np.indices(closed.shape))
    there = ~np.isnan(closed.ravel())
    design = np.column_stack([closed.ravel(), *(arm == a for a in range(3))])[there]
    root = np.sqrt(weights[seed])[there]
    wanted = np.linalg.lstsq(design * root[:, None], opened.ravel()[there] * root, rcond=None)[0][0]
    assert common_slope(closed, opened, weights) == pytest.approx(wanted)
    assert np.isnan(common_slope(np.full((2, 1, 3), 0.9), np.ones((2, 1, 3)), np.ones(3)))


def two_level(closed: Floats, opened: Floats, replicates: int = 400, sd: float = 0.0) -> TwoLevel:
    """As if drawing images added noise of this standard deviation to the second arm's open AUC."""
    rng = np.random.default_rng(5)
    drawn = [np.repeat(values[..., None], replicates, axis=-1) for values in (closed, opened)]
    drawn[1][1] += rng.normal(0, sd, replicates)
    return TwoLevel(closed, opened, *drawn, rng)


def exact(seeds: int = 4) -> tuple[Floats, Floats]:
    """Two arms: open = .8 closed, and .05 above that; the second has more closed AUC, too."""
    closed = np.random.default_rng(4).uniform(0.9, 0.95, (2, 2, seeds))
    closed[1] += 0.02
    return closed, 0.8 * closed + np.array([0.0, 0.05])[:, None, None]


def test_matching_takes_out_what_closed_auc_explains() -> None:
    closed, opened = exact()
    both = two_level(closed, opened)
    assert both.slope == pytest.approx(0.8)
    matched = both.compare(1, 0, 0, matched=True)
    assert (matched.difference, matched.low, matched.high) == pytest.approx((0.05, 0.05, 0.05))
    plain = both.compare(1, 0, 0, matched=False)
    assert plain.over_seeds == t_interval(opened[1, 0] - opened[0, 0])
    assert plain.low < plain.difference < plain.high
    assert both.compare(0, 1, 0, matched=True).difference == pytest.approx(-0.05)
    # Without a closed test set there is nothing to match.
    nothing = two_level(np.full_like(closed, np.nan), opened, sd=0.01)
    assert nothing.compare(1, 0, 0, matched=False).over_seeds == plain.over_seeds
    assert math.isnan(nothing.compare(1, 0, 0, matched=True).low)


def test_only_seeds_that_both_arms_have_are_compared() -> None:
    """Of four seeds the arms share two: one draw in sixteen has neither."""
    closed, opened = exact()
    closed[0, 0, :2] = opened[0, 0, :2] = np.nan
    found = two_level(closed, opened).compare(1, 0, 0, matched=True)
    assert found.over_seeds.n == 2
    assert (found.difference, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    closed[0, 0], opened[0, 0] = np.nan, np.nan
    assert math.isnan(two_level(closed, opened).compare(1, 0, 0, matched=False).p)


def test_one_seed_leaves_the_interval_of_the_images() -> None:
    found = two_level(*exact(seeds=1), replicates=2000, sd=0.01).compare(1, 0, 0, matched=False)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.01, rel=0.1)
    assert (found.over_seeds.n, found.p < 0.05) == (1, True)


def test_two_seeds_of_one_length_leave_the_seeds_in_the_interval() -> None:
    """Half of the replicates draw one seed twice, whose two runs have no slope."""
    closed = np.array([0.90, 0.94]) * np.ones((2, 1, 2))
    opened = np.array([[[0.7, 0.7]], [[0.7, 0.9]]])
    found = two_level(closed, opened).compare(1, 0, 0, matched=True)
    # The arms are alike in closed AUC; .0 or .2 apart, each stretched from .1 by sqrt(2 / 1).
    ends = 0.1 - 0.1 * math.sqrt(2), 0.1 + 0.1 * math.sqrt(2)
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, *ends))
    assert found.p > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
def test_p_values_of_few_seeds_hold_their_level(seeds: int) -> None:
    """The grid of the experiment without any difference, and so many images that seeds are all.

    Seeds that agree in sign leave no replicate on the other side of 0: by resampling alone Holm's
    smallest p is at most .05 in most such grids, and the primary one in a sixth of them.
    """
    draw = np.random.default_rng(10)
    trials, holms, primary, resampled = 80, 0, 0, 0
    for _ in range(trials):
        closed, opened = draw.normal([[[[0.97]]], [[[0.61]]]], 0.02, (2, 11, 2, seeds))
        both = two_level(closed, opened, replicates=1000)
        pairs = [(arm, 0, length) for length in range(2) for arm in range(1, 11)]
        first, *others = (both.compare(*pair, matched=True) for pair in pairs)
        holms += holm([each.p for each in others]).min() <= 0.05
        primary += first.p <= 0.05
        resampled += first.low > 0 or first.high < 0
    assert holms / trials <= 0.075
    assert primary / trials <= 0.075
    # So Student's test is what makes it hold.
    assert resampled / trials > 0.1
