"""Figures of a ranking: scikit-learn's, hand-worked ones, and resamples against repeated images."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
    roc_curve,
)

from focus import metrics
from focus.metrics import Ranking

Array = NDArray[Any]


@pytest.fixture
def random() -> np.random.Generator:
    """Its own for each test: no order of tests changes what is drawn."""
    return np.random.default_rng(0)


def drawn(random: np.random.Generator, ties: bool) -> tuple[Array, Array]:
    """Scores of 1 to 40 real images and fakes."""
    real, fake = (random.random(random.integers(1, 40)) for _ in range(2))
    return (real.round(1), fake.round(1)) if ties else (real * 0.8, 0.2 + 0.8 * fake)


def joined(real: Array, fake: Array) -> tuple[Array, Array]:
    return np.repeat([0, 1], [len(real), len(fake)]), np.concatenate([real, fake])


@pytest.mark.parametrize("ties", [False, True])
def test_scikit_learn_says_the_same(random: np.random.Generator, ties: bool) -> None:
    for _ in range(100):
        real, fake = drawn(random, ties)
        label, score = joined(real, fake)
        rates = Ranking.of(real, fake).at()
        said = score > 0.5
        weights = 1 / np.bincount(label)[label]
        for ours, theirs in (
            (rates.auc(), roc_auc_score(label, score)),
            (rates.average_precision(), average_precision_score(label, score)),
            (
                rates.average_precision(balanced=True),
                average_precision_score(label, score, sample_weight=weights),
            ),
            (rates.brier(), brier_score_loss(label, score)),
            (rates.brier(balanced=True), brier_score_loss(label, score, sample_weight=weights)),
            (rates.accuracy(), accuracy_score(label, said)),
            (rates.balanced_accuracy(), balanced_accuracy_score(label, said)),
            (rates.prevalence(), label.mean()),
        ):
            assert ours[0] == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_error_rates_of_the_roc_curve(random: np.random.Generator, ties: bool) -> None:
    for _ in range(100):
        real, fake = drawn(random, ties)
        fpr, tpr, _ = roc_curve(*joined(real, fake), drop_intermediate=False)
        # The line from (0, 1) to (1, 0) meets the ROC where it has gone half of the way.
        along, across = fpr + 1 - tpr, fpr - (1 - tpr)
        at = np.interp(0, across, fpr, left=math.nan, right=math.nan)
        assert metrics.eer(real, fake) == pytest.approx(at, abs=1e-9), along
        for target in (0.2, 0.5):
            if len(real) * target < 5:
                assert metrics.tpr_at_fpr(real, fake, target) is None
            else:
                largest = tpr[fpr <= target + 1e-12].max()
                assert metrics.tpr_at_fpr(real, fake, target) == pytest.approx(largest, abs=1e-12)


def test_rates_by_hand() -> None:
    real, fake = np.array([0.1, 0.2, 0.3, 0.4, 0.9]), np.array([0.35, 0.6, 0.7, 0.95])
    # From 0.4 on lie two of five real images and three of four fakes, from 0.6 on one and three.
    assert metrics.eer(real, fake) == pytest.approx(0.25)
    # One real image of five may be flagged: the threshold lies above 0.4, and so do three fakes.
    rates = Ranking.of(np.repeat(real, 5), fake).at()
    assert rates.tpr_at_fpr(0.2).tolist() == [0.75]
    assert rates.threshold_at_fpr(0.2).tolist() == [0.5]
    assert rates.threshold_at_fpr(0.19).tolist() == [pytest.approx((0.9 + 0.95) / 2)]
    assert rates.threshold_of_best_balance().tolist() == [pytest.approx(0.325)]


def test_of_thresholds_that_are_as_good_the_lowest_is_the_best_balance(
    random: np.random.Generator,
) -> None:
    """By whole numbers of errors, which no division rounds: 1 - 8/10 is less than 2/10."""
    real = np.array([0.1] * 7 + [0.65] + [0.97] * 2)
    fake = np.array([0.05] * 2 + [0.6] + [0.96] * 7)
    # Five are wrong: from 0.6 on three real images and two fakes, from 0.96 on two and three.
    found = Ranking.of(real, fake).at().threshold_of_best_balance()
    assert found.tolist() == [pytest.approx(0.35)]
    for _ in range(200):
        real, fake = drawn(random, ties=True)
        levels = np.unique([*real, *fake])
        wrong = [
            int((real >= level).sum()) * len(fake) + int((fake < level).sum()) * len(real)
            for level in [*levels, np.inf]
        ]
        best = wrong.index(min(wrong))
        around = [levels[0] - 1, *levels, levels[-1]]
        expected = levels[0] - 1 if best == 0 else (around[best] + around[best + 1]) / 2
        found = Ranking.of(real, fake).at().threshold_of_best_balance()
        assert found.tolist() == [pytest.approx(expected, abs=1e-12)]


@pytest.mark.parametrize("fake", [1.0, 1 - 2**-53, 0.75, 0.5])
def test_a_threshold_between_neighbours_tells_them_apart(fake: float) -> None:
    """Half way between 1 - 2**-53 and 1 is no number, and is rounded to 1."""
    real = np.nextafter(fake, 0)
    rates = Ranking.of(np.array([0.1, 0.1, real]), np.full(3, fake)).at()
    for found in (
        rates.threshold_at_eer(),
        rates.threshold_at_fpr(0),
        rates.threshold_of_best_balance(),
    ):
        assert real <= found[0] < fake


def test_a_rate_that_the_sample_cannot_support() -> None:
    real, fake = np.linspace(0, 0.5, 499), np.ones(3)
    assert metrics.tpr_at_fpr(real, fake, 0.01) is None
    assert metrics.tpr_at_fpr(np.append(real, 0.5), fake, 0.01) == 1.0


def test_calibration_error_by_hand(random: np.random.Generator) -> None:
    # 15 bins of two images; in each the scores are 0.2 and the share of fakes 1/2, but in one 1.
    real, fake = np.full(14, 0.2), np.full(16, 0.2)
    spread = np.arange(15) * 1e-9
    real, fake = real + spread[:14], fake + np.append(spread, spread[14])
    expected = (14 * 0.3 + 0.8) / 15
    assert metrics.ece(real, fake) == pytest.approx(expected, abs=1e-6)
    # One score: one bin.
    assert metrics.ece(np.full(3, 0.25), np.full(1, 0.25)) == 0
    assert metrics.ece(np.full(3, 0.25), np.full(1, 0.25), balanced=True) == pytest.approx(0.25)
    # A score that is the frequency.
    score = random.random(200_000)
    label = random.random(200_000) < score
    error = metrics.ece(score[~label], score[label])
    assert error is not None
    assert error < 0.01
    assert metrics.ece(score[~label] ** 2, score[label] ** 2) == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("n", [150, 157, 1000])
def test_calibration_error_is_that_of_15_bins_as_full_as_each_other(
    random: np.random.Generator, n: int
) -> None:
    """From bin to bin there are too many fakes and too few: fewer bins, or others, hide that."""
    score = np.sort(random.random(n))
    edges = [math.ceil(n * k / 15) for k in range(16)]
    sign = np.repeat([1, -1] * 7 + [1], np.diff(edges))
    label = random.random(n) < score + 0.3 * sign
    bins = [slice(*pair) for pair in itertools.pairwise(edges)]
    expected = sum(abs((score[b] - label[b]).sum()) for b in bins) / n
    assert metrics.ece(score[~label], score[label]) == pytest.approx(expected, abs=1e-12)
    mass, _, _ = Ranking.of(score[~label], score[label]).at().calibration_bins()
    assert mass.tolist() == [np.diff(edges).tolist()]
    # Of one bin it would be the distance of the means.
    assert expected > 0.15 > 0.1 > abs((score - label).mean())


def test_calibration_error_of_other_probabilities(random: np.random.Generator) -> None:
    """A tempered score keeps its rank, so its bins are the same."""
    score = random.random(300)
    label = random.random(300) < score
    real, fake = score[~label], score[label]
    rates = Ranking.of(real, fake).at()
    squared = np.sort(real) ** 2, np.sort(fake) ** 2
    moments = rates.real.moment_of(squared[0]), rates.fake.moment_of(squared[1])
    assert rates.ece(moments=moments)[0] == pytest.approx(metrics.ece(real**2, fake**2))


def test_weights_are_repetitions(random: np.random.Generator) -> None:
    """Also of no image, and many resamples at once."""
    for _ in range(60):
        real, fake = drawn(random, ties=bool(random.integers(2)))
        ranking = Ranking.of(real, fake)
        times = [random.integers(0, 4, (3, len(side))) for side in (real, fake)]
        rates = ranking.at(ranking.real.at(times[0]), ranking.fake.at(times[1]))
        for row in range(3):
            alone = Ranking.of(np.repeat(real, times[0][row]), np.repeat(fake, times[1][row])).at()
            for name in ("auc", "eer", "accuracy", "balanced_accuracy", "prevalence"):
                same(getattr(rates, name)()[row], getattr(alone, name)()[0], name)
            for name in ("average_precision", "brier", "ece"):
                for balanced in (False, True):
                    ours = getattr(rates, name)(balanced=balanced)[row]
                    same(ours, getattr(alone, name)(balanced=balanced)[0], name)
            for target in (0.1, 0.2, 0.5):
                if min(len(real), times[0][row].sum()) * target >= 5:
                    same(rates.tpr_at_fpr(target)[row], alone.tpr_at_fpr(target)[0], "tpr_at_fpr")


def same(ours: float, theirs: float, name: str) -> None:
    assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize(
    ("real", "fake"), [([], []), ([0.3], []), ([], [0.3]), ([0.5] * 7, [0.5] * 7), ([0.0], [1.0])]
)
def test_one_class_and_ties_are_a_value_or_not_defined(
    real: list[float], fake: list[float]
) -> None:
    given = np.array(real), np.array(fake)
    both = bool(real and fake)
    apart = both and real != fake
    assert metrics.auc(*given) == ((1.0 if apart else 0.5) if both else None)
    assert metrics.eer(*given) == ((0.0 if apart else 0.5) if both else None)
    assert metrics.average_precision(*given) == ((1.0 if apart else 0.5) if both else None)
    assert (metrics.brier(*given) is None) == (not real and not fake)
    assert (metrics.ece(*given) is None) == (not real and not fake)
    assert metrics.ece(*given, balanced=True) == (0.0 if both else None)
    assert metrics.tpr_at_fpr(*given, 0.05) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are NaN or infinite"):
        metrics.auc(np.array([0.1, bad]), np.array([0.2]))
