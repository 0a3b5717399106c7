"""Intervals of means over generators, and of calibration errors of scores that are calibrated."""

from typing import Any

import numpy as np
import pytest
from scipy import special

from focus import metrics
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.metrics import Calibration
from focus.model.operating_points import POINTS, OperatingPoints

from ..few_scores import table

POINT = OperatingPoints(dict.fromkeys(POINTS, 0.5), Calibration(1.0, 0.0, 1.0), 9, 9)


def slow(*case: float) -> Any:
    """A case of which another stands for all in the default run: a simulation takes seconds."""
    return pytest.param(*case, marks=pytest.mark.slow)


def scored(real: Any, fakes: list[Any], **columns: Any) -> Scores:
    """Open-set scores of real images that all generators share, and of the fakes of each."""
    rows = [(0, "", "open", float(score)) for score in real]
    rows += [(1, f"g{n}", "open", float(s)) for n, own in enumerate(fakes) for s in own]
    return table(rows, **columns)


def decided(wrong: int, total: int, label: int) -> list[float]:
    """Scores of ``total`` images of a class, ``wrong`` of them on the wrong side of 0.5."""
    right = (0.1, 0.9)[label]
    return [1 - right] * wrong + [right] * (total - wrong)


def in_the_open_set(scores: Scores, points: OperatingPoints | None = None, n: int = 20) -> Any:
    return summarise(scores, [], None, points, resamples=n)["open"]


def by_hand(parts: list[tuple[float, int, int]]) -> Any:
    """Of the sum of ``weight * count / total``, by Zou and Donner (2008)."""
    value, squares = 0.0, np.zeros(2)
    for weight, count, total in parts:
        ends = metrics.rate_interval(count, total)
        assert ends is not None
        value += weight * count / total
        squares += (weight * (np.array(ends) - count / total)) ** 2
    return pytest.approx(tuple(value + np.array([-1, 1]) * np.sqrt(squares)))


@pytest.mark.parametrize("others", [0, 2])
def test_the_mean_of_one_generator_has_its_intervals(others: int) -> None:
    """Though others, which have no real images, be in the test set."""
    n = 100 + 60 + 40 * others
    label = [0] * 100 + [1] * 60 + [1] * (40 * others)
    names = ["g0"] * 160 + [f"h{k}" for k in range(others) for _ in range(40)]
    score = decided(2, 100, 0) + decided(1, 60, 1) + decided(7, 40 * others, 1) * bool(others)
    rows = list(zip(label, names, ["open"] * n, score, strict=True))
    maps = np.where(np.arange(n) < 160, np.arange(n) % 2, -1)
    results = in_the_open_set(table(rows, map_hit=maps))
    own, mean = results["generators"]["g0"]["intervals"], results["mean"]["intervals"]
    for name in ("accuracy", "balanced_accuracy", "map_hit", "map_hit_real"):
        assert mean[name] == own[name], name
    assert own["accuracy"] == metrics.rate_interval(157, 160)


def test_mean_accuracies_over_shared_real_images_by_hand() -> None:
    """Each real image is one, however many generators are told from it."""
    fakes = [decided(3, 50, 1), decided(0, 20, 1)]
    results = in_the_open_set(scored(decided(4, 100, 0), fakes), POINT)
    ranges = results["mean"]["intervals"]
    share = np.array([100 / 150, 100 / 120])
    rates = [(96, 100), (47, 50), (20, 20)]
    weights = [share.mean(), *((1 - share) / 2)]
    expected = [(w, *rate) for w, rate in zip(weights, rates, strict=True)]
    assert ranges["accuracy"] == by_hand(expected)
    parts = [(w, *rate) for w, rate in zip((1 / 2, 1 / 4, 1 / 4), rates, strict=True)]
    assert ranges["balanced_accuracy"] == by_hand(parts)
    # One number, one interval: the threshold of these points is 0.5.
    low, high = results["operating_points"]["intervals"]["eer"]["acer_mean"]
    assert ranges["balanced_accuracy"] == pytest.approx((1 - high, 1 - low))


def test_mean_accuracies_over_own_real_images_by_hand() -> None:
    """Of 30, 30 and 60 of their own, and 10 that the first and the third share."""
    real = [("g0", 1, 30), ("g1", 2, 30), ("g2", 0, 60), ("g0 | g2", 1, 10)]
    rows = [(0, name, "open", s) for name, k, n in real for s in decided(k, n, 0)]
    fake = [("g0", 1, 20), ("g1", 0, 10), ("g2", 5, 30)]
    rows += [(1, name, "open", s) for name, k, n in fake for s in decided(k, n, 1)]
    ranges = in_the_open_set(table(rows))["mean"]["intervals"]
    parts = [
        *((30 / 60 / 3, 29, 30), (30 / 40 / 3, 28, 30), (60 / 100 / 3, 60, 60)),
        (10 / 60 / 3 + 10 / 100 / 3, 9, 10),
        *((20 / 60 / 3, 19, 20), (10 / 40 / 3, 10, 10), (30 / 100 / 3, 25, 30)),
    ]
    assert ranges["accuracy"] == by_hand(parts)


def test_real_images_that_weigh_alike_are_counted_together() -> None:
    """As for the BPCER of a test set: 40 of one generator and 40 of another."""
    rows = [(0, g, "open", s) for g, k in (("g0", 3), ("g1", 1)) for s in decided(k, 40, 0)]
    rows += [(1, g, "open", s) for g, k in (("g0", 2), ("g1", 0)) for s in decided(k, 25, 1)]
    results = in_the_open_set(table(rows), POINT)
    low, high = results["operating_points"]["intervals"]["eer"]["acer_mean"]
    found = results["mean"]["intervals"]["balanced_accuracy"]
    assert found == pytest.approx((1 - high, 1 - low))


def test_a_real_image_listed_for_each_generator_is_one_in_their_mean_accuracy() -> None:
    fakes = [decided(3, 50, 1), decided(0, 20, 1)]
    shared = scored(decided(4, 100, 0), fakes)
    once = np.arange(100)
    each = shared.select(np.concatenate([once, once, np.arange(100, 170)]))
    names = ["g0"] * 100 + ["g1"] * 100 + each.generator[200:].tolist()
    listed = Scores(**(each.columns() | {"generator": names}))
    of_both = [in_the_open_set(scores)["mean"]["intervals"] for scores in (shared, listed)]
    for name in ("accuracy", "balanced_accuracy"):
        assert of_both[0][name] == pytest.approx(of_both[1][name])


def test_mean_accuracies_of_grouped_images_are_resampled() -> None:
    fakes = [decided(3, 50, 1), decided(0, 20, 1)]
    shared = scored(decided(4, 100, 0), fakes)
    grouped = Scores(**(shared.columns() | {"group": [f"p{n // 2}" for n in range(170)]}))
    alone, together = (in_the_open_set(s)["mean"]["intervals"] for s in (shared, grouped))
    for name in ("accuracy", "balanced_accuracy"):
        assert alone[name] != pytest.approx(together[name]), name


@pytest.mark.slow
def test_intervals_of_mean_accuracies_cover_95_percent() -> None:
    """Resampled ones do in 88 of 100: few images are wrong."""
    random, covered = np.random.default_rng(1), []
    for _ in range(150):
        wrong = random.binomial([100, *[50] * 4], 0.02)
        fakes = [decided(int(k), 50, 1) for k in wrong[1:]]
        ranges = in_the_open_set(scored(decided(int(wrong[0]), 100, 0), fakes), n=1)
        ends = [ranges["mean"]["intervals"][n] for n in ("accuracy", "balanced_accuracy")]
        covered.append([low <= 0.98 <= high for low, high in ends])
    assert (np.mean(covered, axis=0) >= 0.94).all()


def calibrated(
    random: np.random.Generator, real: int, fake: int, wide: float = 1.5
) -> tuple[Any, Any]:
    """Scores that are the probability of synthetic where the classes weigh alike."""
    found = []
    for label, count in enumerate((real, fake)):
        score = special.expit(random.normal(0, wide, 40 * count))
        kept = random.random(len(score)) < (score if label else 1 - score)
        found.append(score[kept][:count])
    return found[0], found[1]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [slow(1.0), 10.0])
@pytest.mark.parametrize(("real", "fake"), [(1000, 50), slow(50, 1000), slow(200, 200)])
def test_calibrated_scores_may_have_no_calibration_error(
    real: int, fake: int, temperature: float
) -> None:
    """As often as 95 % say, also of tempered scores and of classes that weigh alike.

    The scores are calibrated once tempered; a model's own are too sure, and so not the ones to
    tell how far the error of few images is from 0.
    """
    random, above = np.random.default_rng(0), []
    points = OperatingPoints({}, Calibration(1.0, 0.0, temperature), 9, 9)
    for _ in range(40):
        given = [special.logit(side) * temperature for side in calibrated(random, real, fake)]
        logits = [np.clip(side, -15.9, 15.9) for side in given]
        scores = scored(special.expit(logits[0]), [special.expit(logits[1])])
        ranges = in_the_open_set(scores, points, 100)["pooled"]["intervals"]
        names = ["ece_tempered_balanced"]
        names += ["ece_balanced"] * (temperature == 1) + ["ece_tempered"] * (real == fake)
        above.append([ranges[name][0] > 0 for name in names])
    assert (np.mean(above, axis=0) <= 0.05).all()


@pytest.mark.parametrize(("name", "temperature"), [("ece_tempered", 3.0), ("ece", 1.0)])
def test_scores_that_are_too_sure_have_a_calibration_error(name: str, temperature: float) -> None:
    """What calibrated scores are allowed hides no error: logits are 30 times too large, or 10."""
    random = np.random.default_rng(0)
    given = [special.expit(30 * special.logit(side)) for side in calibrated(random, 300, 300, 0.3)]
    points = OperatingPoints({}, Calibration(1.0, 0.0, temperature), 9, 9)
    ranges = in_the_open_set(scored(given[0], [given[1]]), points, 100)["pooled"]["intervals"]
    assert ranges[name][0] > 0.1
