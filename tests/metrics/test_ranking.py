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

from focus.metrics.ranking import Ranking, auc

Array = NDArray[Any]


def drawn(random: np.random.Generator, ties: bool) -> tuple[Array, Array]:
    """Scores of 1 to 40 real images and fakes."""
    real, fake = (random.random(random.integers(1, 40)) for _ in range(2))
    return (real.round(1), fake.round(1)) if ties else (real * 0.8, 0.2 + 0.8 * fake)


def figure(name: str, real: Array, fake: Array, *args: Any, **options: Any) -> float:
    return float(getattr(Ranking.of(real, fake), name)(*args, **options)[0])


def test_scikit_learn_says_the_same(random: np.random.Generator) -> None:
    for trial in range(40):
        real, fake = drawn(random, ties=bool(trial % 2))
        label = np.repeat([0, 1], [len(real), len(fake)])
        score = np.concatenate([real, fake])
        weights = 1 / np.bincount(label)[label]
        for name, balanced, theirs in (
            ("auc", None, roc_auc_score(label, score)),
            ("average_precision", None, average_precision_score(label, score)),
            ("average_precision", 1, average_precision_score(label, score, sample_weight=weights)),
            ("brier", None, brier_score_loss(label, score)),
            ("brier", 1, brier_score_loss(label, score, sample_weight=weights)),
            ("accuracy", None, accuracy_score(label, score > 0.3)),
            ("balanced_accuracy", None, balanced_accuracy_score(label, score > 0.3)),
        ):
            options: dict[str, Any] = {"balanced": True} if balanced else {}
            options |= {"threshold": 0.3} if "accuracy" in name else {}
            assert figure(name, real, fake, **options) == pytest.approx(theirs, abs=1e-12), name
        fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
        # The line from (0, 1) to (1, 0) meets the ROC where it has gone half of the way.
        expected = np.interp(0, fpr - (1 - tpr), fpr)
        assert figure("eer", real, fake) == pytest.approx(expected, abs=1e-9)
        for target in (0.2, 0.5):
            expected = math.nan
            if len(real) * target >= 5:
                expected = tpr[fpr <= target + 1e-12].max()
            tpr_at_target = figure("tpr_at_fpr", real, fake, target)
            assert tpr_at_target == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_rates_by_hand() -> None:
    # Pairs (real, fake): .1<.2 win, .1<.5 win, .5>.2 loss, .5=.5 half: 2.5 of 4.
    assert auc(np.array([0.1, 0.5]), np.array([0.2, 0.5])) == 2.5 / 4
    real, fake = np.array([0.1, 0.2, 0.3, 0.4, 0.9]), np.array([0.35, 0.6, 0.7, 0.95])
    # From 0.4 on lie two of five real images and three of four fakes, from 0.6 on one and three.
    assert figure("eer", real, fake) == pytest.approx(0.25)
    # One real image of five may be flagged: the threshold lies above 0.4, and so do three fakes.
    ranking = Ranking.of(np.repeat(real, 5), fake)
    assert ranking.tpr_at_fpr(0.2).tolist() == [0.75]
    assert ranking.threshold_at_fpr(0.2).tolist() == [0.5]
    assert ranking.threshold_at_fpr(0.19).tolist() == [pytest.approx((0.9 + 0.95) / 2)]
    assert ranking.threshold_of_best_balance().tolist() == [pytest.approx(0.325)]


def test_of_thresholds_that_are_as_good_the_lowest_is_the_best_balance(
    random: np.random.Generator,
) -> None:
    """By whole numbers of errors, which no division rounds: 1 - 8/10 is less than 2/10."""
    real = np.array([0.1] * 7 + [0.65] + [0.97] * 2)
    fake = np.array([0.05] * 2 + [0.6] + [0.96] * 7)
    # Five are wrong: from 0.6 on three real images and two fakes, from 0.96 on two and three.
    assert figure("threshold_of_best_balance", real, fake) == pytest.approx(0.35)


def test_a_threshold_between_neighbours_tells_them_apart() -> None:
    """Half way between 1 - 2**-53 and 1 is no number, and is rounded to 1."""
    for fake in (1.0, 0.5):
        real = np.nextafter(fake, 0)
        ranking = Ranking.of(np.array([0.1, 0.1, real]), np.full(3, fake))
        for thresholds in (
            ranking.threshold_at_eer(),
            ranking.threshold_at_fpr(0),
            ranking.threshold_of_best_balance(),
        ):
            assert real <= thresholds[0] < fake


def test_calibration_error_by_hand() -> None:
    # 15 bins of two images; in each the scores are 0.2 and the share of fakes 1/2, but in one 1.
    spread = 0.2 + np.arange(15) * 1e-9
    real, fake = spread[:14], np.append(spread, spread[14])
    assert figure("ece", real, fake) == pytest.approx((14 * 0.3 + 0.8) / 15, abs=1e-6)
    # One score: one bin.
    three, one = np.full(3, 0.25), np.full(1, 0.25)
    assert figure("ece", three, one) == 0
    assert figure("ece", three, one, balanced=True) == pytest.approx(0.25)


def test_calibration_error_is_that_of_15_bins_as_full_as_each_other(
    random: np.random.Generator,
) -> None:
    """From bin to bin there are too many fakes and too few: fewer bins, or others, hide that."""
    for n in (150, 157):
        score = np.sort(random.random(n))
        edges = [math.ceil(n * k / 15) for k in range(16)]
        label = random.random(n) < score + 0.3 * np.repeat([1, -1] * 7 + [1], np.diff(edges))
        bins = [slice(*pair) for pair in itertools.pairwise(edges)]
        expected = sum(abs((score[b] - label[b]).sum()) for b in bins) / n
        ranking = Ranking.of(score[~label], score[label])
        assert ranking.ece()[0] == pytest.approx(expected, abs=1e-12)
        assert ranking.calibration_bins()[0].tolist() == [np.diff(edges).tolist()]
        # A tempered score keeps its rank, so its bins are the same.
        squared = score[~label] ** 2, score[label] ** 2
        tempered = ranking.ece(probabilities=squared)[0]
        assert tempered == pytest.approx(Ranking.of(*squared).ece()[0])


def test_weights_are_repetitions(random: np.random.Generator) -> None:
    """Also of no image, and many resamples at once."""
    for trial in range(30):
        real, fake = drawn(random, ties=bool(trial % 2))
        times = [random.integers(0, 4, (3, len(side))) for side in (real, fake)]
        weighted = Ranking.of(real, fake).weigh(*times)
        for row in range(3):
            repeated = np.repeat(real, times[0][row]), np.repeat(fake, times[1][row])
            todo: list[tuple[str, dict[str, Any]]] = [
                *(("auc", {}), ("eer", {})),
                *((name, {"threshold": 0.4}) for name in ("accuracy", "balanced_accuracy")),
            ]
            for name in ("average_precision", "brier", "ece"):
                todo += [(name, {"balanced": False}), (name, {"balanced": True})]
            if min(len(real), len(repeated[0])) >= 10:
                todo.append(("tpr_at_fpr", {"target": 0.5}))
            for name, options in todo:
                ours = getattr(weighted, name)(**options)[row]
                theirs = figure(name, *repeated, **options)
                assert ours == pytest.approx(theirs, abs=1e-9, nan_ok=True), name


def test_one_class_and_ties_are_a_value_or_not_defined() -> None:
    for real, fake in (([], []), ([0.3], []), ([], [0.3]), ([0.5] * 7, [0.5] * 7), ([0.0], [1.0])):
        real_and_fake = np.array(real), np.array(fake)
        both = bool(real and fake)
        larger, smaller = (1.0, 0.0) if both and real != fake else (0.5, 0.5)
        assert auc(*real_and_fake) == (larger if both else None)
        for name, expected in (("eer", smaller), ("average_precision", larger)):
            expected = expected if both else math.nan
            assert figure(name, *real_and_fake) == pytest.approx(expected, nan_ok=True)
        for name in ("brier", "ece"):
            assert math.isnan(figure(name, *real_and_fake)) == (not real and not fake)
        assert math.isnan(figure("ece", *real_and_fake, balanced=True)) == (not both)
    with pytest.raises(ValueError, match="1 of 2 scores are NaN or infinite"):
        auc(np.array([0.1, math.nan]), np.array([0.2]))
