"""Intervals: known values. How often they hold what is true, test_coverage.py says."""

import math

import numpy as np
import pytest
from scipy import special, stats

from focus.metrics.intervals import (
    Compared,
    Interval,
    effective_number,
    holm,
    mean_auc_difference,
    mean_auc_interval,
    mean_of_rates,
    rate_interval,
)

from .simulated import comparisons_of_models, comparisons_of_one


def alone(real: np.ndarray, fake: np.ndarray) -> Compared:
    """Compare images that are each by itself."""
    return real, fake, np.arange(len(real)), len(real) + np.arange(len(fake))


def auc_interval(real: np.ndarray, fake: np.ndarray) -> Interval | None:
    return mean_auc_interval([alone(real, fake)])


def test_intervals_of_rates_are_scipys() -> None:
    for count, total in ((0, 300), (300, 300), (3, 20), (1, 1), (1, 10**7), (10**7 - 1, 10**7)):
        for level in (0.95, 0.999):
            expected = stats.binomtest(count, total).proportion_ci(level)
            interval = rate_interval(count, total, level)
            assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert rate_interval(0, 0) is None


def test_the_mean_of_rates_by_hand() -> None:
    assert mean_of_rates([(4, 8), (8, 8)]) == rate_interval(12, 16)
    (low, high), (least, most) = (stats.binomtest(8, n).proportion_ci() for n in (16, 8))
    expected = 0.75 - np.hypot(0.5 - low, 1 - least) / 2, 0.75 + (high - 0.5) / 2
    assert most == 1
    interval = mean_of_rates([(8, 16), (8, 8)]) or (0, 0)
    # As many images as vary alike: (1/16 + 1/8) / 4 is 1 / 21.3.
    alike = rate_interval(16, 64 / 3) or (0, 0)
    assert interval == pytest.approx((min(expected[0], alike[0]), max(expected[1], alike[1])))
    assert interval != pytest.approx(expected)
    assert mean_of_rates([(4, 8), (0, 0)]) is None
    assert mean_of_rates([]) is None


def test_the_interval_of_a_mean_auc_is_delongs(random: np.random.Generator) -> None:
    """The variance by all pairs of images; the generators share 30 real images."""
    one, two = comparisons_of_one(random, 30, [20, 25], [0.8, 0.9])
    auc, of_real, variance = 0.0, np.zeros(30), 0.0
    for real, fake, *_ in (one, two):
        above = (fake[:, None] > real) / 2
        auc += above.mean()
        of_real += above.mean(0)
        variance += above.mean(1).var(ddof=1) / len(fake)
    variance += of_real.var(ddof=1) / 30
    half = stats.t.ppf(0.975, 19) * np.sqrt(variance) / (auc * (1 - auc))
    expected = special.expit(special.logit(auc) + np.array([-half, half]))
    assert mean_auc_interval([one, two]) == pytest.approx(tuple(expected), abs=1e-12)
    assert mean_auc_interval([]) is None


def test_the_difference_of_two_models_is_delongs(random: np.random.Generator) -> None:
    first, second = comparisons_of_models(random, 40, [30], [[0.8], [0.7]])
    above = np.subtract(*((c[0][1][:, None] > c[0][0]).astype(float) for c in (first, second)))
    value = above.mean()
    error = np.sqrt(above.mean(0).var(ddof=1) / 40 + above.mean(1).var(ddof=1) / 30)
    half = stats.t.ppf(0.975, 29) * error
    p_value = 2 * stats.t.sf(abs(value) / error, 29)
    expected = (value, value - half, value + half, p_value)
    assert mean_auc_difference(first, second) == pytest.approx(expected, abs=1e-12)
    assert mean_auc_difference(first, first) == (0.0, 0.0, 0.0, 1.0)


def test_an_auc_of_1_is_not_certain() -> None:
    """Nor is one of 0, nor the difference of two, nor the mean of several generators."""
    low, high = auc_interval(np.zeros(30), np.ones(20)) or (0, 0)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert auc_interval(np.ones(30), np.zeros(20)) == (0.0, pytest.approx(1 - low))
    assert auc_interval(np.zeros(1), np.ones(20)) is None
    both = mean_auc_difference(*[[alone(np.zeros(30), np.ones(20))]] * 2)
    assert both == (0.0, pytest.approx(low - 1), pytest.approx(1 - low), 1.0)
    reals = np.zeros(40), np.arange(40)
    two = [(reals[0], np.ones(30), reals[1], n + np.arange(30)) for n in (50, 100)]
    assert mean_auc_interval(two) == (pytest.approx(0.025 ** (1 / 40)), 1.0)
    # One pair in the wrong order makes it no more certain.
    real, fake = np.linspace(0, 1, 1000), np.linspace(2, 3, 1000)
    perfect = auc_interval(real, fake) or (0, 0)
    real[-1], fake[0] = 2.1, 1.5
    low, high = auc_interval(real, fake) or (0, 1)
    assert low <= perfect[0]
    assert high > 0.9999


def test_a_generator_of_few_images_makes_the_mean_uncertain_by_hand() -> None:
    """Its AUC of 1 adds nothing to the variance, and the other's errors say nothing of it."""
    random = np.random.default_rng(0)
    many = alone(random.normal(size=1000), random.normal(1.8, 1, 1000))
    few = np.zeros(3), np.ones(9), 5000 + np.arange(3), 6000 + np.arange(9)
    low, _ = mean_auc_interval([many]) or (1, 1)
    assert mean_auc_interval([few]) == (pytest.approx(0.025 ** (1 / 3)), 1)
    auc = (many[1][:, None] > many[0]).mean()
    expected = (auc + 1) / 2 - np.hypot(auc - low, 1 - 0.025 ** (1 / 3)) / 2
    mean_low, mean_high = mean_auc_interval([many, few]) or (1, 1)
    assert mean_low == pytest.approx(expected)
    assert (auc + 1) / 2 < mean_high < 1


def test_the_interval_of_a_mean_of_differences_follows_from_its_parts_by_hand() -> None:
    """Perfect models: Clopper and Pearson's of the smaller class each way, squares added up."""
    reals, other_reals = (np.zeros(60), np.arange(60)), (np.zeros(60), 60 + np.arange(60))
    many, few = (np.ones(60), 200 + np.arange(60)), (np.ones(3), 300 + np.arange(3))
    of_many, of_few = 1 - 0.025 ** (1 / 60), 1 - 0.025 ** (1 / 3)

    def half(*comparisons: Compared) -> float:
        difference = mean_auc_difference(comparisons, comparisons)
        assert difference is not None
        assert -difference.low == difference.high
        assert (difference.value, difference.p_value) == (0, 1)
        return difference.high

    large = reals[0], many[0], reals[1], many[1]
    small = other_reals[0], few[0], other_reals[1], few[1]
    assert half(large) == pytest.approx(of_many)
    assert half(small) == pytest.approx(of_few)
    assert half(large, small) == pytest.approx(np.hypot(of_many, of_few) / 2)
    # With the 60 real images in common: (1/60) / sqrt((1/60 + 1/60) (1/60 + 1/3)).
    sharing = reals[0], few[0], reals[1], few[1]
    r = (1 / 60) / np.sqrt((2 / 60) * (1 / 60 + 1 / 3))
    squares = of_many**2 + of_few**2 + 2 * r * of_many * of_few
    assert half(large, sharing) == pytest.approx(np.sqrt(squares) / 2)
    # A comparison that does not differ halves the rest: three real images, one on the wrong side.
    real, fake = np.array([0, 0.1, 0.2]), np.array([0.15, 1, 1, 1, 1, 1, 1, 1, 1])
    unchanged = real, fake, 400 + np.arange(3), 500 + np.arange(9)
    assert half(unchanged) == 0
    assert half(large, unchanged) == pytest.approx(of_many / 2)


def test_an_interval_of_ties_favours_no_class() -> None:
    for size in (5, 10, 15):  # half of 5 is no whole number
        low, high = auc_interval(np.full(size, 0.5), np.full(size, 0.5)) or (0, 0)
        assert 0 < low == pytest.approx(1 - high, abs=1e-12)
    real, fake = np.arange(5.0), np.array([3.0, 6, 7, 8, 9])
    low, high = auc_interval(real, fake) or (0, 0)
    assert auc_interval(fake, real) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_a_person_with_a_real_image_and_a_fake_by_hand(random: np.random.Generator) -> None:
    """Obuchowski's variance where each of n persons has one of each: that of the sums."""
    person = random.normal(size=12)
    real, fake = person + random.normal(size=12), person + random.normal(0.2, size=12)
    above = (fake[:, None] > real).mean(1) + (fake[:, None] > real).mean(0)
    auc = above.mean() / 2
    half = stats.t.ppf(0.975, 11) * above.std(ddof=1) / np.sqrt(12) / (auc * (1 - auc))
    expected = special.expit(special.logit(auc) + np.array([-half, half]))
    interval = mean_auc_interval([(real, fake, np.arange(12), np.arange(12))])
    assert interval == pytest.approx(tuple(expected))


def test_one_long_video_counts_for_what_it_tells() -> None:
    # 1 / (.5² + 5 · .1²) = 1 / .3.
    assert effective_number([50, 10, 10, 10, 10, 10]) == pytest.approx(10 / 3)
    assert effective_number([7] * 200) == 200
    # A group that is half of the fakes: the interval is that of few units, not of 21.
    real, fake = np.linspace(-2, 2, 60), np.linspace(-1, 3, 40)
    group_of = {"even": np.repeat(np.arange(20), 2), "long": np.r_[np.zeros(20, int), 1:21]}
    width = {}
    for name, group in group_of.items():
        low, high = mean_auc_interval([(real, fake, np.arange(60), 60 + group)]) or (0, 0)
        width[name] = high - low
    assert width["long"] > 1.5 * width["even"]


def test_one_video_beside_few_photographs_leaves_something_of_a_mean(
    random: np.random.Generator,
) -> None:
    """Of eleven generators one is a video of 1,000 frames and 3 photographs, nearly one unit."""
    real = random.normal(size=500)
    compared = [alone(real, random.normal(1.5, 1, 500)) for _ in range(10)]
    video = random.normal(1.5, 1, 1003)
    unit = 10_000 + np.r_[np.zeros(1000, dtype=int), 1:4]
    compared.append((real, video, np.arange(500), unit))
    low, high = mean_auc_interval(compared) or (0, 1)
    assert 0.7 < low < high < 0.98


def test_holm_by_hand() -> None:
    # In order .005·4, .01·3, .03·2, .04·1; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.5]) == pytest.approx([1.0, math.nan, 1.0], nan_ok=True)
