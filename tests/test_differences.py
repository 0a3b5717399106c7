"""The difference of two models' mean AUC: its definition, and how often it covers what is true."""

import numpy as np
import pytest
from scipy import stats

from focus.metrics import auc_difference
from focus.metrics.differences import mean_auc_difference


@pytest.fixture
def random() -> np.random.Generator:
    """Its own for each test: no order of tests changes what is drawn."""
    return np.random.default_rng(0)


def test_of_one_comparison_it_is_that_of_its_auc(random: np.random.Generator) -> None:
    some = [random.normal(shift, size=n) for shift in (0, 0.5) for n in (30, 20)]
    perfect, wrong = (np.zeros(30), np.ones(20)), (np.ones(30), np.zeros(20))
    for given in (some, [*some[:2], *some[:2]], [*perfect, *perfect], [*perfect, *wrong]):
        found = mean_auc_difference([(*given, np.arange(30))])
        assert found == pytest.approx(auc_difference(*given), abs=1e-12)


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
    found = mean_auc_difference(given)
    assert found == pytest.approx((value, value - half, value + half, p_value), abs=1e-12)
    # One that no other is like, by the comparisons that it is in, tells of no variance.
    fewer = tuple(each[1:] if len(each) == 20 else each for each in given[1])
    assert mean_auc_difference([given[1], fewer]) is None
    assert mean_auc_difference([given[0], (*(each[:1] for each in given[1][:4]), [0])]) is None
    assert mean_auc_difference([]) is None


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
        found = mean_auc_difference(drawn(random, apart, shared))
        covered.append(found.low <= true <= found.high)
        given = drawn(random, alike, shared)
        small.append(mean_auc_difference(given).p_value < 0.05)
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
    found, alone = mean_auc_difference([alike, perfect]), auc_difference(*perfect[:4])
    assert found.high - found.value == pytest.approx(alone.high / 2)
    assert found.p_value > 0.9
    # Of nothing but such comparisons, the surest one's p-value for all of them.
    wrong = *perfect[:2], real, np.full(10, -9.0), images
    both = mean_auc_difference([perfect, wrong])
    assert both.value == 0.5
    assert both.p_value == pytest.approx(2 * 2**-9)


def test_what_cancels_in_each_image_is_no_difference() -> None:
    """One model has one real image wrong for the first generator, the other for the second."""
    first, second, fakes = np.array([2.0, 0.0]), np.array([0.0, 2.0]), np.ones(2)
    given = [
        (one, fakes, other, fakes, np.arange(2))
        for one, other in ((first, second), (second, first))
    ]
    assert mean_auc_difference(given) == (0.0, 0.0, 0.0, 1.0)
