"""The experiment's statistics against numbers worked by hand, scipy, and simulated truth."""

import math

import numpy as np
import pytest
from scipy import stats

from focus.experiment.compare import (
    at_equal_closed,
    detectable,
    equivalence_p,
    simultaneous,
    student_p,
    t_interval,
)


def test_intervals_and_p_values_are_scipys() -> None:
    # sd 1, t(2; .975) = 4.302653, so the half width is 4.302653 / sqrt(3).
    interval = t_interval([1.0, 2.0, math.nan, 3.0])
    assert (interval.mean, interval.sd, interval.n) == (2.0, 1.0, 3)
    assert (interval.low, interval.high) == pytest.approx((-0.484138, 4.484138), abs=1e-6)
    values = np.random.default_rng(1).normal(0.5, size=4)
    assert student_p(t_interval(values)) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert (student_p(t_interval([0.5] * 2)), student_p(t_interval([0.0] * 2))) == (0.0, 1.0)
    one, none = t_interval([0.5]), t_interval([math.nan])
    assert (one.mean, one.n, none.n) == (0.5, 1, 0)
    assert all(map(math.isnan, (one.sd, one.low, none.mean, student_p(one), student_p(none))))


@pytest.mark.parametrize("shift", [0.0, 0.012, -0.019, 0.05])
def test_equivalence_is_shown_where_the_90_percent_interval_is_within_the_margin(
    shift: float,
) -> None:
    values = np.random.default_rng(2).normal(0, 0.01, 12)
    values += shift - values.mean()
    p = equivalence_p(t_interval(values), 0.02)
    sides = (
        stats.ttest_1samp(values, -0.02, alternative="greater").pvalue,
        stats.ttest_1samp(values, 0.02, alternative="less").pvalue,
    )
    assert p == pytest.approx(max(sides))
    narrow = t_interval(values, 0.9)
    assert (p < 0.05) == (narrow.low > -0.02 and narrow.high < 0.02)


def test_the_detectable_difference_is_found_in_80_of_100_experiments() -> None:
    draw = np.random.default_rng(3)
    n, sd = 20, 0.03
    planned = detectable(t_interval(np.array([-1, 1] * 10) * sd * math.sqrt(19 / 20)))
    # (t(19; .975) + t(19; .8)) · .03 / sqrt(20)
    assert planned == pytest.approx((2.093024 + 0.860951) * 0.03 / math.sqrt(20), abs=1e-6)
    significant = [student_p(t_interval(draw.normal(planned, sd, n))) < 0.05 for _ in range(2000)]
    assert np.mean(significant) == pytest.approx(0.8, abs=0.03)


def test_intervals_cover_the_truth_where_generators_and_draws_vary() -> None:
    """Of two arms on the draws, each with twelve generators of its own, the difference is .03."""
    draw, covered, covered_at_equal_closed, shown = np.random.default_rng(4), 0, 0, 0
    for _ in range(1000):
        closed = draw.normal(0.02, 0.02, 20)
        generators = draw.normal(0, 0.08, (20, 12))
        opened = 0.03 + 0.5 * (closed - 0.02) + draw.normal(0, 0.02, 20) + generators.mean(1)
        plain, at_equal = t_interval(opened), at_equal_closed(opened, closed)
        covered += plain.low < 0.03 < plain.high
        # .5 · .02 of the .03 is what closed AUC explains.
        covered_at_equal_closed += at_equal.low < 0.02 < at_equal.high
        shown += student_p(t_interval(opened - 0.03)) < 0.05
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)
    assert covered_at_equal_closed / 1000 == pytest.approx(0.95, abs=0.02)
    assert shown / 1000 == pytest.approx(0.05, abs=0.02)


def test_what_closed_auc_explains_is_taken_out() -> None:
    closed = np.array([0.0, 0.01, 0.02, math.nan])
    exact = at_equal_closed(0.05 + 0.8 * closed, closed)
    assert (exact.mean, exact.low, exact.high, exact.n) == pytest.approx((0.05, 0.05, 0.05, 3))
    # By hand: the line through (-1, 0), (0, 3), (1, 0) is y = 1, with a residual variance of 6 / 1,
    # of the mean of three 2; t(1; .975) = 12.7062.
    noisy = at_equal_closed(np.array([0.0, 3.0, 0.0]), np.array([-1.0, 0.0, 1.0]))
    assert (noisy.mean, noisy.high) == pytest.approx((1, 1 + 12.7062 * math.sqrt(2)), abs=1e-3)
    too_few, no_line = at_equal_closed(closed[:2], closed[:2]), at_equal_closed(closed, 0 * closed)
    assert math.isnan(too_few.low)
    assert math.isnan(no_line.low)


def test_one_simultaneous_interval_is_students_and_four_are_wider() -> None:
    draw = np.random.default_rng(5)
    one = draw.normal(size=(16, 1))
    (joint,), alone = simultaneous(one), t_interval(one[:, 0])
    assert (joint.low, joint.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    # Four independent ones at 15 degrees of freedom: 2.8 (studentised maximum modulus), not 2.13.
    apart = simultaneous(np.linalg.qr(draw.normal(size=(16, 5)))[0][:, 1:])
    widths = [(e.high - e.low) / 2 / (e.sd / 4) for e in apart]
    assert widths == pytest.approx([2.8] * 4, abs=0.06)


@pytest.mark.slow
def test_simultaneous_intervals_cover_all_means_at_once() -> None:
    draw, covered = np.random.default_rng(6), []
    for _ in range(300):
        values = draw.normal(size=(16, 1)) + 0.5 * draw.normal(size=(16, 4))
        values[3, 1] = np.nan  # a draw that lacks an arm counts for none
        intervals = simultaneous(values)
        assert {interval.n for interval in intervals} == {15}
        covered.append(all(interval.low < 0 < interval.high for interval in intervals))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
