"""The difference of two models' mean AUC: its definition, and how often it covers what is true."""

import numpy as np
import pytest
from scipy import stats

from focus.metrics import (
    Difference,
    auc_difference,
    mean_auc_difference,
    mean_auc_interval,
)


@pytest.fixture
def random() -> np.random.Generator:
    """Its own for each test: no order of tests changes what is drawn."""
    return np.random.default_rng(0)


def difference(given: list[tuple[np.ndarray, ...]]) -> Difference | None:
    """Of comparisons with real and fake scores of two models, and numbers of the real images."""
    last, first, second = 10_000, [], []
    for *scores, images in given:
        fakes = last + np.arange(len(scores[1]))
        last += len(fakes)
        first.append((*scores[:2], images, fakes))
        second.append((*scores[2:], images, fakes))
    return mean_auc_difference(first, second)


def test_it_agrees_with_its_definition(random: np.random.Generator) -> None:
    """The first two share 20 real images, of which the first has 5 more; the third its own."""
    sides = (np.arange(25), 12), (np.arange(5, 25), 9), (np.arange(30, 40), 7)
    scores = random.normal(size=(2, 40))
    value, of_image, fakes, given = 0.0, np.zeros(40), [], []
    for rows, n in sides:
        own = random.normal([[0.9], [0.4]], size=(2, n))
        above = np.subtract(*((f[:, None] > s[rows]) / 3 for f, s in zip(own, scores, strict=True)))
        value += above.mean()
        of_image[rows] += above.mean(0) / len(rows)
        fakes.append(above.mean(1))
        given.append((scores[0, rows], own[0], scores[1, rows], own[1], rows))
    samples = [of_image[:5] * 5, of_image[5:25] * 20, of_image[30:] * 10, *fakes]
    parts = np.array([s.var(ddof=1) / len(s) for s in samples])
    freedom = parts.sum() ** 2 / (parts**2 / [len(s) - 1 for s in samples]).sum()
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum())
    p_value = 2 * stats.t.sf(abs(value) / np.sqrt(parts.sum()), freedom)
    found = difference(given)
    assert found == pytest.approx((value, value - half, value + half, p_value), abs=1e-12)
    assert difference([given[0], (*(each[:1] for each in given[1][:4]), [0])]) is None
    assert difference([]) is None


def drawn(
    random: np.random.Generator, shifts: np.ndarray, shared: bool
) -> list[tuple[np.ndarray, ...]]:
    """Comparisons of two models, one with 200 fakes and two with 20; shifts [2, 3] of the fakes."""
    reals = 0.8 * random.normal(size=180) + 0.6 * random.normal(size=(2, 180))
    found = []
    for place, n in enumerate((200, 20, 20)):
        rows = np.arange(60) + (0 if shared else 60 * place)
        fakes = 0.8 * random.normal(size=n) + 0.6 * random.normal(size=(2, n))
        fakes += shifts[:, place, None]
        found.append((reals[0, rows], fakes[0], reals[1, rows], fakes[1], rows))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_it_covers_95_percent_and_the_test_keeps_its_level(
    random: np.random.Generator, shared: bool
) -> None:
    apart, alike = np.array(
        [[[1.5, 1.2, 1.2], [1.5, 0.5, 0.9]], [[1.5, 0.5, 0.9], [0.5, 0.9, 1.5]]]
    )
    true = np.subtract(*stats.norm.cdf(apart / np.sqrt(2)).mean(1))
    covered, small, of_pooled = [], [], []
    for _ in range(300):
        found = difference(drawn(random, apart, shared))
        covered.append(found.low <= true <= found.high)
        given = drawn(random, alike, shared)
        small.append(difference(given).p_value < 0.05)
        pooled = [np.concatenate(scores) for scores in list(zip(*given, strict=True))[:4]]
        of_pooled.append(auc_difference(*pooled).p_value < 0.05)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)
    assert np.mean(small) == pytest.approx(0.05, abs=0.03)
    # All images together follow the generator that has the most of them.
    assert np.mean(of_pooled) > 0.9


def test_small_comparisons_without_an_error_make_no_mean_certain(
    random: np.random.Generator,
) -> None:
    images = np.arange(300)
    real, fake = random.normal(size=300), random.normal(1, size=400)
    alike = real, fake, real + 0.01 * random.normal(size=300), fake, images
    perfect = real, np.full(10, 9.0), real, np.full(10, 8.0), images
    found, alone = difference([alike, perfect]), auc_difference(*perfect[:4])
    assert found.high - found.value >= alone.high / 2
    assert found.p_value > 0.9
    wrong = *perfect[:2], real, np.full(10, -9.0), images
    both = difference([perfect, wrong])
    assert both.value == 0.5
    assert both.low > 0
    assert 0 < both.p_value < 0.05


@pytest.mark.slow
def test_generators_that_share_reals_are_not_independent(random: np.random.Generator) -> None:
    """Of ten, and fifty real images: one model has all right, the other few reals above all."""
    covered = []
    for _ in range(200):
        above = random.random(50) < 0.03
        given = [
            (np.zeros(50), fakes := random.uniform(1, 2, 50), np.where(above, 3.0, 0.0), fakes)
            for _ in range(10)
        ]
        found = difference([(*each, np.arange(50)) for each in given])
        covered.append(found.low <= 0.03 <= found.high)
    assert np.mean(covered) >= 0.94
    # Two models without an error differ by no less than each of them may have.
    perfect = [(np.zeros(50), np.ones(50), np.arange(50), 100 + np.arange(50))] * 10
    found, own = mean_auc_difference(perfect, perfect), mean_auc_interval(perfect)
    assert found.low <= own[0] - 1
    assert found.high >= 1 - own[0]


def test_the_interval_holds_where_images_come_in_groups(random: np.random.Generator) -> None:
    """Twelve people a class with ten images each; the models see the same of a person."""
    person = np.repeat(np.arange(24), 10)
    true = float(np.subtract(*stats.norm.cdf(np.array([1.5, 0.9]) / np.sqrt(4))))
    covered, alone = [], []
    for _ in range(200):
        of_person = random.normal(size=24)[person]
        scores = of_person + 0.6 * random.normal(size=(2, 240)) + 0.8 * random.normal(size=240)
        scores[:, 120:] += np.array([[1.5], [0.9]])
        sides = [scores[0, :120], scores[0, 120:], scores[1, :120], scores[1, 120:]]
        found = auc_difference(*sides, person[:120], person[120:])
        covered.append(found.low <= true <= found.high)
        single = auc_difference(*sides)
        alone.append(single.high - single.low < found.high - found.low)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)
    assert np.mean(alone) > 0.5


def test_what_cancels_in_each_image_is_no_difference() -> None:
    """One model has one real image wrong for the first generator, the other for the second."""
    first, second, fakes = np.array([2.0, 0.0]), np.array([0.0, 2.0]), np.ones(2)
    given = [
        (one, fakes, other, fakes, np.arange(2))
        for one, other in ((first, second), (second, first))
    ]
    found = difference(given)
    assert (found.value, found.p_value) == (0.0, 1.0)
    assert found.low == -found.high
