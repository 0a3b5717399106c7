"""The experiment's statistics against numbers worked by hand, scipy, and simulated truth."""

import math

import numpy as np
import pytest
from scipy import stats

from focus import metrics
from focus.experiment import statistics
from focus.experiment.statistics import (
    Floats,
    TwoLevel,
    bootstrap_p,
    common_slope,
    draw_counts,
    holm,
    student_p,
    t_interval,
)


def test_t_interval_by_hand_and_by_scipy() -> None:
    # sd 1, t(2; .975) = 4.302653, so the half width is 4.302653 / sqrt(3).
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n) == (2.0, 1.0, 3)
    assert (found.low, found.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    values = np.random.default_rng(0).normal(size=7)
    wanted = stats.t.interval(0.9, 6, values.mean(), stats.sem(values))
    found = t_interval([*values, math.nan], 0.9)
    assert (found.low, found.high) == pytest.approx(wanted)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    one, none = t_interval([0.5]), t_interval([math.nan])
    assert (one.mean, one.n, none.n) == (0.5, 1, 0)
    assert all(map(math.isnan, (one.sd, one.low, one.high, none.mean)))


def test_student_p_by_scipy() -> None:
    values = np.random.default_rng(1).normal(0.5, size=4)
    assert student_p(t_interval(values)) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert student_p(t_interval(-values)) == student_p(t_interval(values))
    assert student_p(t_interval([0.5, 0.5])) == 0.0
    assert student_p(t_interval([0.0, 0.0])) == 1.0
    assert math.isnan(student_p(t_interval([0.5])))
    assert math.isnan(student_p(t_interval([])))


def test_holm_by_hand() -> None:
    # In order .005·4, .01·3, .03·2, .04·1; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


def test_bootstrap_p_by_hand() -> None:
    assert bootstrap_p([1.0, 1.0, 1.0, -1.0]) == pytest.approx(2 * (1 + 1) / 5)
    assert bootstrap_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.zeros(9)) == 1.0
    assert math.isnan(bootstrap_p([1.0, math.nan]))


def test_the_slope_of_one_arm_is_that_of_a_regression() -> None:
    draw = np.random.default_rng(2)
    closed, opened = draw.random((2, 1, 2, 4))
    wanted = stats.linregress(closed.ravel(), opened.ravel()).slope
    assert common_slope(closed, opened, np.ones(4)) == pytest.approx(wanted)


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


def test_the_slope_of_arms_that_do_not_vary_is_not_defined() -> None:
    assert np.isnan(common_slope(np.full((2, 1, 3), 0.9), np.ones((2, 1, 3)), np.ones(3)))


def repeated(values: Floats, replicates: int = 50) -> Floats:
    """As if drawing images changed nothing."""
    return np.repeat(values[..., None], replicates, axis=-1)


def exact(seeds: int = 4) -> tuple[Floats, Floats]:
    """Two arms: open = .8 closed, and .05 above that; the second has more closed AUC, too."""
    closed = np.random.default_rng(4).uniform(0.9, 0.95, (2, 2, seeds))
    closed[1] += 0.02
    return closed, 0.8 * closed + np.array([0.0, 0.05])[:, None, None]


def test_matching_takes_out_what_closed_auc_explains() -> None:
    closed, opened = exact()
    both = TwoLevel(closed, opened, repeated(closed), repeated(opened), np.random.default_rng(5))
    assert both.slope == pytest.approx(0.8)
    matched = both.compare(1, 0, 0, matched=True)
    assert (matched.difference, matched.low, matched.high) == pytest.approx((0.05, 0.05, 0.05))
    assert matched.over_seeds.n == 4
    plain = both.compare(1, 0, 0, matched=False)
    assert plain.difference == pytest.approx((opened[1, 0] - opened[0, 0]).mean())
    assert plain.low < plain.difference < plain.high
    assert both.compare(0, 1, 0, matched=True).difference == pytest.approx(-0.05)
    assert matched.over_seeds.sd == pytest.approx(0, abs=1e-12)
    assert plain.over_seeds == t_interval(opened[1, 0] - opened[0, 0])


def test_only_seeds_that_both_arms_have_are_compared() -> None:
    closed, opened = exact()
    opened[1, 0, :2] += 9.0
    closed[0, 0, :2] = opened[0, 0, :2] = np.nan
    both = TwoLevel(closed, opened, repeated(closed), repeated(opened), np.random.default_rng(5))
    found = both.compare(1, 0, 0, matched=False)
    assert found.over_seeds.n == 2
    assert found.difference == pytest.approx((opened[1, 0] - opened[0, 0])[2:].mean())
    closed[0, 0], opened[0, 0] = np.nan, np.nan
    none = TwoLevel(
        closed, opened, repeated(closed), repeated(opened), np.random.default_rng(5)
    ).compare(1, 0, 0, matched=False)
    assert none.over_seeds.n == 0
    assert math.isnan(none.p)


def test_a_replicate_without_a_seed_of_the_pair_says_nothing() -> None:
    """Of four seeds the arms share two: one draw in sixteen has neither."""
    closed, opened = exact()
    closed[0, 0, :2] = opened[0, 0, :2] = np.nan
    drawn = repeated(closed, 400), repeated(opened, 400)
    found = TwoLevel(closed, opened, *drawn, np.random.default_rng(5)).compare(
        1, 0, 0, matched=True
    )
    assert (found.low, found.high) == pytest.approx((0.05, 0.05))


def test_one_seed_leaves_the_interval_of_the_images() -> None:
    closed, opened = exact(seeds=1)
    draw = np.random.default_rng(6)
    drawn = repeated(opened, 2000)
    drawn[1] += draw.normal(0, 0.01, 2000)
    both = TwoLevel(closed, opened, repeated(closed, 2000), drawn, draw)
    found = both.compare(1, 0, 0, matched=False)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.01, rel=0.1)
    # Student has nothing to say of one seed.
    assert found.over_seeds.n == 1
    assert found.p < 0.05


def test_two_seeds_of_one_length_leave_the_seeds_in_the_interval() -> None:
    """Half of the replicates draw one seed twice, whose two runs have no slope."""
    closed = np.array([0.90, 0.94]) * np.ones((2, 1, 2))
    opened = np.array([[[0.7, 0.7]], [[0.7, 0.9]]])
    both = TwoLevel(
        closed, opened, repeated(closed, 400), repeated(opened, 400), np.random.default_rng(5)
    )
    found = both.compare(1, 0, 0, matched=True)
    # The arms are alike in closed AUC; .0 or .2 apart, each stretched from .1 by sqrt(2 / 1).
    ends = 0.1 - 0.1 * math.sqrt(2), 0.1 + 0.1 * math.sqrt(2)
    assert (found.difference, found.low, found.high) == pytest.approx((0.1, *ends))
    assert found.p > 0.4


def test_the_seeds_part_has_the_variance_of_the_mean() -> None:
    """Drawing n of n would make it (n - 1)/n of that; for three seeds a third is missing."""
    opened = np.zeros((2, 1, 3))
    opened[1, 0] = 0.01, 0.02, 0.06
    closed = np.random.default_rng(7).uniform(size=opened.shape)
    both = TwoLevel(
        closed, opened, repeated(closed, 40000), repeated(opened, 40000), np.random.default_rng(8)
    )
    captured = {}

    def remember(values: Floats) -> float:
        captured["sd"] = values.std()
        return 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "bootstrap_p", remember)
        both.compare(1, 0, 0, matched=False)
    assert captured["sd"] == pytest.approx(stats.sem(opened[1, 0]), rel=0.02)


@pytest.mark.slow
def test_the_two_level_interval_covers_the_truth() -> None:
    """Two arms, seeds that differ as much as the images do; 95 % intervals of the difference."""
    draw = np.random.default_rng(9)
    seeds, images, replicates, trials = 6, 80, 300, 150
    shift, spread = np.array([0.8, 1.1]), 0.25
    # E Phi((m + s N) / sqrt 2) = Phi(m / sqrt(2 + s^2))
    truth = np.diff(stats.norm.cdf(shift / math.sqrt(2 + spread**2)))[0]
    covered = images_only = 0
    for _ in range(trials):
        common = draw.normal(size=(2, images))  # what is easy or hard for every run
        counts = [draw_counts(draw, images, replicates) for _ in range(2)]
        opened, drawn = np.zeros((2, 1, seeds)), np.zeros((2, 1, seeds, replicates))
        for arm in range(2):
            for seed in range(seeds):
                own = draw.normal(size=(2, images))
                scores = math.sqrt(0.5) * (common + own)
                scores[1] += shift[arm] + spread * draw.normal()
                ranking = metrics.Ranking.of(*scores)
                opened[arm, 0, seed] = ranking.at().auc()[0]
                real, fake = ranking.real.at(counts[0]), ranking.fake.at(counts[1])
                drawn[arm, 0, seed] = ranking.at(real, fake).auc()
        closed = draw.uniform(size=opened.shape)
        found = TwoLevel(closed, opened, repeated(closed, replicates), drawn, draw).compare(
            1, 0, 0, matched=False
        )
        covered += found.low <= truth <= found.high
        alone = (drawn[1, 0] - drawn[0, 0]).mean(0)
        low, high = np.quantile(alone, [0.025, 0.975])
        images_only += low <= truth <= high
    assert 0.89 <= covered / trials <= 0.99
    # So the second level is what makes it cover.
    assert images_only / trials < covered / trials - 0.1


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
        both = TwoLevel(closed, opened, repeated(closed, 1000), repeated(opened, 1000), draw)
        pairs = [(arm, 0, length) for length in range(2) for arm in range(1, 11)]
        first, *others = (both.compare(*pair, matched=True) for pair in pairs)
        holms += holm([each.p for each in others]).min() <= 0.05
        primary += first.p <= 0.05
        resampled += first.low > 0 or first.high < 0
    assert holms / trials <= 0.075
    assert primary / trials <= 0.075
    # So Student's test is what makes it hold.
    assert resampled / trials > 0.1


def test_without_closed_images_what_is_not_matched_is_compared() -> None:
    draw = np.random.default_rng(5)
    opened = draw.random((2, 1, 3))
    drawn = opened[..., None] + 0.01 * draw.normal(size=(2, 1, 3, 500))
    nothing = np.full_like(opened, np.nan)
    two_level = TwoLevel(nothing, opened, np.full_like(drawn, np.nan), drawn, draw)
    plain, matched = (two_level.compare(1, 0, 0, matched=m) for m in (False, True))
    assert plain.difference == pytest.approx((opened[1] - opened[0]).mean())
    assert plain.low < plain.difference < plain.high
    assert plain.over_seeds.n == 3
    assert matched.over_seeds.n == 0
    assert math.isnan(matched.difference)
    assert math.isnan(matched.low)
