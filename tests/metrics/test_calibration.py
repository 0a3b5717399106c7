"""The calibration: likelihood ratios of known densities, and what few images can support."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats
from sklearn.isotonic import IsotonicRegression

from focus.metrics.bootstrap import units
from focus.metrics.calibration import Calibration, fit_calibration, llr_costs, min_cllr
from focus.metrics.ranking import Ranking


def fitted(real: np.ndarray, fake: np.ndarray, *own_units: np.ndarray) -> Calibration:
    line = fit_calibration(real, fake, *own_units)
    assert line is not None
    return line


def test_a_calibration_finds_the_likelihood_ratio(random: np.random.Generator) -> None:
    """Of normal densities a distance d apart, ln of the ratio is d (x - d / 2)."""
    distance = 2.0
    real, fake = random.normal(0, 1, 20_000), random.normal(distance, 1, 4_000)
    scores = [special.expit(3 * x - 4) for x in (real, fake)]  # badly calibrated
    line = fitted(*scores)
    x = np.linspace(-0.5, 2.5, 7)
    expected = stats.norm.logpdf(x, distance) - stats.norm.logpdf(x)
    assert line.llr(special.expit(3 * x - 4)) == pytest.approx(expected, abs=0.15)
    exact = (distance * (x - distance / 2) for x in (real, fake))
    cost, best = (
        np.mean([llr_costs(llr, label).mean() for label, llr in enumerate(ratios)])
        for ratios in (map(line.llr, scores), exact)
    )
    assert cost == pytest.approx(best, abs=0.01)


def test_a_temperature_undoes_another(random: np.random.Generator) -> None:
    logit = random.normal(0, 2, 10_000)
    label = random.random(10_000) < special.expit(logit)
    score = special.expit(3 * logit)
    line = fitted(score[~label], score[label])
    assert line.temperature == pytest.approx(3, rel=0.06)
    inside = np.abs(3 * logit) < 15  # beyond, logits are clipped
    expected = special.expit(3 * logit / line.temperature)[inside]
    assert line.tempered(score)[inside] == pytest.approx(expected, abs=1e-6)


def test_classes_that_are_apart_are_not_certain(random: np.random.Generator) -> None:
    real, fake = random.normal(-4, 1, 50).clip(max=-1), random.normal(4, 1, 50).clip(min=1)
    line = fitted(special.expit(real), special.expit(fake))
    assert line.temperature == pytest.approx(1, abs=0.2)
    near = special.expit(random.normal(-1, 1, 500)), special.expit(random.normal(1, 1, 500))
    raw, tempered = (Ranking.of(*s).ece()[0] for s in (near, map(line.tempered, near)))
    assert tempered == pytest.approx(raw, abs=0.05)
    # Scores of 0 and 1: by Platt's targets no ratio beyond that of eleven in twelve.
    llr = fitted(np.zeros(10), np.ones(10)).llr(np.array([0.0, 1.0]))
    assert llr == pytest.approx([-np.log(11), np.log(11)], rel=1e-3)


def test_ratios_are_no_larger_than_the_images_can_support() -> None:
    scores = np.array([0.0, 0.5, 1.0])
    assert Calibration(2.0, 0.5, 1.0, 3.0).llr(scores) == pytest.approx([-3, 0.5, 3])
    assert Calibration(2.0, 0.5, 1.0).llr(scores)[2] == pytest.approx(32.5)


def test_images_of_one_group_count_as_one() -> None:
    """Real images of two videos and fakes of three, all apart: the targets are 3/4 and 4/5."""
    unit = units(np.array([*"aaaaab", *"cdddde", *"dd"]))
    line = fitted(np.zeros(6), np.ones(8), unit[:6], unit[6:])
    assert line.largest_llr == np.log(3)
    # So the ratio is 1 to 3 where the real images are, and 4 to 1 where the fakes are.
    llr = replace(line, largest_llr=None).llr(np.array([0.0, 1.0]))
    assert llr == pytest.approx([-np.log(3), np.log(4)], rel=1e-3)
    assert fit_calibration(np.zeros(0), np.ones(8)) is None


def test_the_least_cost_of_a_ranking_by_hand() -> None:
    # By score r f r f: the middle two are pooled at one half, which costs a bit each.
    assert min_cllr([0.1, 0.4], [0.3, 0.9]) == pytest.approx(0.5)
    # Real images weigh 1/4 and fakes 1/2: the fake at .6 and the real at .7 share 2/3.
    real, fake = -np.log2(1 / 3) / 4, -np.log2(2 / 3) / 2
    assert min_cllr([0.1, 0.2, 0.5, 0.7], [0.6, 0.8]) == pytest.approx((real + fake) / 2)
    assert (min_cllr([0.5], [0.5]), min_cllr([0.9], [0.1])) == (pytest.approx(1), pytest.approx(1))
    assert (min_cllr([0.1], [0.2]), min_cllr([], [0.2])) == (pytest.approx(0), None)
    # Scores that differ by a rounding are apart; interpolated between, they would give no number.
    just = np.nextafter(1, 0)
    assert min_cllr([0.1, just], [just, 1.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_the_cost_of_a_ranking_is_that_of_isotonic_regression_of_all_images(digits: int) -> None:
    random = np.random.default_rng(digits)
    real = random.beta(2, 4, 900).round(digits)
    fake = random.beta(4, 2, 70).round(digits)
    label = np.repeat([0, 1], [len(real), len(fake)])
    weight = np.repeat([1 / len(real), 1 / len(fake)], [len(real), len(fake)])
    rank = np.unique(np.append(real, fake), return_inverse=True)[1]
    share = IsotonicRegression().fit_transform(rank, label, sample_weight=weight)
    cost = float((-np.log2(np.where(label == 1, share, 1 - share)) * weight).sum() / 2)
    assert min_cllr(real, fake) == pytest.approx(cost, rel=1e-12)
