"""Intervals: known values, and how often they cover what is true."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from focus import metrics
from focus.metrics import Resampler


@pytest.fixture
def random() -> np.random.Generator:
    """Its own for each test: no order of tests changes what is drawn."""
    return np.random.default_rng(0)


def slow(*case: float | bool) -> Any:
    """A case of which another stands for all in the default run: a simulation takes seconds."""
    return pytest.param(*case, marks=pytest.mark.slow)


def test_intervals_of_rates_by_hand() -> None:
    # Of 0 in n the upper end is where n misses have a chance of 2.5 %.
    assert metrics.rate_interval(0, 300) == (0.0, pytest.approx(1 - 0.025 ** (1 / 300)))
    assert metrics.rate_interval(300, 300) == (pytest.approx(0.025 ** (1 / 300)), 1.0)
    assert metrics.rate_interval(0, 0) is None
    low, high = metrics.rate_interval(3, 20) or (0, 0)
    assert stats.binom.sf(2, 20, low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 20, high) == pytest.approx(0.025)


def test_intervals_of_rates_are_those_of_scipy(random: np.random.Generator) -> None:
    totals = (10 ** random.uniform(0, 7, 60)).astype(int)
    some = [(int(random.integers(0, total + 1)), int(total)) for total in totals]
    for count, total in [*some, (1, 1), (0, 10**7), (1, 10**7), (10**7 - 1, 10**7), (5, 9)]:
        for level in (0.95, 0.999):
            found = metrics.rate_interval(count, total, level)
            expected = stats.binomtest(count, total).proportion_ci(level)
            assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    with pytest.raises(ValueError, match="3 of 2 is no rate"):
        metrics.rate_interval(3, 2)


@pytest.mark.parametrize("rate", [0.01, slow(0.1), slow(0.5)])
def test_intervals_of_rates_cover_at_least_95_percent(
    random: np.random.Generator, rate: float
) -> None:
    found = [metrics.rate_interval(int(k), 80) for k in random.binomial(80, rate, 1500)]
    covered = np.mean([low <= rate <= high for low, high in filter(None, found)])
    assert covered > 0.95 - 2.6 * np.sqrt(0.95 * 0.05 / 1500)


def test_an_auc_of_ties_has_an_interval_that_favours_no_class() -> None:
    """Half of 5, of 15 images of a class are no whole number."""
    for size in (5, 10, 15):
        low, high = metrics.auc_interval(np.full(size, 0.5), np.full(size, 0.5)) or (0, 0)
        assert low == pytest.approx(1 - high, abs=1e-12)
        below, above = (metrics.rate_interval(k, size) for k in (size // 2, -(-size // 2)))
        assert below is not None
        assert above is not None
        assert below[0] <= low <= above[0]
        assert below[1] <= high <= above[1]
    # One fake of five among the real images: with its class for the other, the same the other way.
    real, fake = np.arange(5.0), np.array([3.0, 6, 7, 8, 9])
    low, high = metrics.auc_interval(real, fake) or (0, 0)
    assert metrics.auc_interval(fake, real) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("real", "fake", "apart"),
    [
        (30, 20, 2.0),
        slow(50, 50, 1.0),
        slow(150, 75, 3.0),
        slow(10, 300, 1.5),
        slow(200, 200, 4.0),
    ],
)
def test_intervals_of_an_auc_cover_95_percent(
    random: np.random.Generator, real: int, fake: int, apart: float
) -> None:
    true, covered = stats.norm.cdf(apart / np.sqrt(2)), []
    for _ in range(1500):
        low, high = metrics.auc_interval(
            random.normal(size=real), random.normal(apart, size=fake)
        ) or (1, 0)
        covered.append(low <= true <= high)
    # Of ten images of a class it covers a little less.
    assert (0.91 if min(real, fake) <= 10 else 0.925) <= np.mean(covered) <= 0.99


def test_interval_of_an_auc_agrees_with_its_definition(random: np.random.Generator) -> None:
    """The variance by all pairs of images, as DeLong et al. write it."""
    real, fake = random.normal(size=13).round(1), random.normal(0.8, size=9).round(1)
    above = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)
    variance = above.mean(1).var(ddof=1) / 9 + above.mean(0).var(ddof=1) / 13
    auc = above.mean()
    parts = above.mean(1).var(ddof=1) / 9, above.mean(0).var(ddof=1) / 13
    freedom = variance**2 / (parts[0] ** 2 / 8 + parts[1] ** 2 / 12)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance) / (auc * (1 - auc))
    logit = np.log(auc / (1 - auc))
    expected = 1 / (1 + np.exp(-(logit + np.array([-half, half]))))
    assert metrics.auc_interval(real, fake) == pytest.approx(tuple(expected), abs=1e-12)


def test_interval_of_one_auc_is_that_of_its_mean(random: np.random.Generator) -> None:
    for apart in (1, 4, 9):
        real, fake = random.normal(size=30), random.normal(apart, size=20)
        mean = metrics.mean_auc_interval([(real, fake, np.arange(30), np.arange(30, 50))])
        assert mean == pytest.approx(metrics.auc_interval(real, fake), abs=1e-12)


def test_interval_of_a_mean_auc_agrees_with_its_definition(random: np.random.Generator) -> None:
    """The first two share 20 real images, of which the first has 5 more; the third its own."""
    sides = (np.arange(25), 12), (np.arange(5, 25), 9), (np.arange(30, 40), 7)
    score = random.normal(size=40)
    given = [
        (score[rows], random.normal(0.9, size=n), rows, 100 * n + np.arange(n)) for rows, n in sides
    ]
    auc, of_image, fakes = 0.0, np.zeros(40), []
    for real, fake, rows, _ in given:
        above = (fake[:, None] > real) / 3
        auc += above.mean()
        of_image[rows] += above.mean(0) / len(rows)
        fakes.append(above.mean(1))
    samples = [of_image[:5] * 5, of_image[5:25] * 20, of_image[30:] * 10, *fakes]
    parts = np.array([s.var(ddof=1) / len(s) for s in samples])
    freedom = parts.sum() ** 2 / (parts**2 / [len(s) - 1 for s in samples]).sum()
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()) / (auc * (1 - auc))
    expected = special.expit(special.logit(auc) + np.array([-half, half]))
    assert metrics.mean_auc_interval(given) == pytest.approx(tuple(expected), abs=1e-12)
    assert metrics.mean_auc_interval([]) is None


def test_images_of_many_comparisons_are_a_sample_where_they_are_in_the_same(
    random: np.random.Generator,
) -> None:
    """Twenty comparisons; real images that only the first, or only the last, have too."""
    score = random.normal(size=60)
    shares = {0: np.arange(50), 7: np.arange(10, 40), 19: np.arange(10, 60)}
    given, of_image, fakes, aucs = [], np.zeros(60), [], []
    for number in range(20):
        rows = shares.get(number, np.arange(10, 50))
        fake = random.normal(0.9, size=8)
        given.append((score[rows], fake, rows, 100 * (number + 1) + np.arange(8)))
        above = (fake[:, None] > score[rows]) / 20
        aucs.append(above.mean())
        of_image[rows] += above.mean(0) / len(rows)
        fakes.append(above.mean(1))
    alike = np.split(of_image, [10, 40, 50])
    samples = [*(own * len(own) for own in alike), *fakes]
    parts = np.array([s.var(ddof=1) / len(s) for s in samples])
    freedom = parts.sum() ** 2 / (parts**2 / [len(s) - 1 for s in samples]).sum()
    auc = sum(aucs)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(parts.sum()) / (auc * (1 - auc))
    expected = special.expit(special.logit(auc) + np.array([-half, half]))
    assert metrics.mean_auc_interval(given) == pytest.approx(tuple(expected), abs=1e-12)


def test_an_image_that_no_other_is_like_leaves_a_mean_its_interval(
    random: np.random.Generator,
) -> None:
    """Of 200 real images one is in the first comparison alone, which makes no difference."""
    real, rows = random.normal(size=200), np.arange(200)
    fakes = [(random.normal(1, size=50), np.arange(n, n + 50)) for n in (200, 250)]
    (one, first), (two, second) = fakes
    all_but_one = (real[1:], two, rows[1:], second)
    found = metrics.mean_auc_interval([(real, one, rows, first), all_but_one])
    expected = metrics.mean_auc_interval([(real[1:], one, rows[1:], first), all_but_one])
    assert found == pytest.approx(expected, abs=0.003)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, slow(False)])
@pytest.mark.parametrize(
    ("real", "fake", "apart"), [slow(80, 40, 1.33), slow(80, 40, 3.0), (50, 20, 2.5)]
)
def test_intervals_of_a_mean_auc_cover_95_percent(
    random: np.random.Generator, real: int, fake: int, apart: float, shared: bool
) -> None:
    true, covered = stats.norm.cdf(apart / np.sqrt(2)), []
    for _ in range(400):
        score = random.normal(size=3 * real)
        rows = [np.arange(real) + (0 if shared else real * own) for own in range(3)]
        given = [
            (score[own], random.normal(apart, size=fake), own, 1000 * n + np.arange(fake))
            for n, own in enumerate(rows, 1)
        ]
        low, high = metrics.mean_auc_interval(given) or (1, 0)
        covered.append(low <= true <= high)
    assert 0.91 <= np.mean(covered) <= 0.99


@pytest.mark.slow
def test_small_comparisons_without_an_error_make_no_mean_certain(
    random: np.random.Generator,
) -> None:
    aucs, sizes = np.array([0.98] * 6 + [0.76]), [10] * 6 + [400]
    apart, covered = np.sqrt(2) * stats.norm.ppf(aucs), []
    for _ in range(200):
        real = random.normal(size=300)
        fakes = [random.normal(a, size=n) for a, n in zip(apart, sizes, strict=True)]
        given = [
            (real, fake, np.arange(300), 1000 * n + np.arange(len(fake)))
            for n, fake in enumerate(fakes, 1)
        ]
        low, high = metrics.mean_auc_interval(given) or (1, 0)
        covered.append(low <= aucs.mean() <= high)
    assert np.mean(covered) >= 0.94


def test_an_auc_of_1_is_not_certain() -> None:
    low, high = metrics.auc_interval(np.zeros(30), np.ones(20)) or (0, 0)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert metrics.auc_interval(np.ones(30), np.zeros(20)) == (0.0, pytest.approx(1 - low))
    assert metrics.auc_interval(np.zeros(1), np.ones(20)) is None
    both = metrics.auc_difference(np.zeros(30), np.ones(20), np.zeros(30), np.ones(20))
    assert both == (0.0, pytest.approx(low - 1), pytest.approx(1 - low), 1.0)
    # Nor is one of 0.
    none = metrics.auc_difference(np.ones(30), np.zeros(20), np.ones(30), np.zeros(20))
    assert none == pytest.approx(both)


def test_one_pair_in_the_wrong_order_does_not_make_an_auc_certain() -> None:
    real, fake = np.linspace(0, 1, 1000), np.linspace(2, 3, 1000)
    perfect = metrics.auc_interval(real, fake)
    real[-1], fake[0] = 2.1, 1.5
    low, high = metrics.auc_interval(real, fake) or (0, 1)
    assert perfect is not None
    assert low <= perfect[0]
    assert high > 0.9999


def test_the_mean_of_rates_by_hand() -> None:
    parts = [(0.5, (0.4, 0.7)), (1.0, (0.6, 1.0))]
    low, high = metrics.mean_interval(parts) or (0, 0)
    assert low == pytest.approx(0.75 - math.hypot(0.1, 0.4) / 2)
    assert high == pytest.approx(0.75 + 0.2 / 2)
    assert metrics.mean_interval(parts[:1]) == (pytest.approx(0.4), pytest.approx(0.7))
    assert metrics.mean_interval([]) is None


@pytest.mark.slow
def test_the_difference_of_two_models_on_the_same_images(random: np.random.Generator) -> None:
    """Covered in 95 of 100; p below 0.05 in 5 of 100 where there is none."""
    true = stats.norm.cdf(1.5 / np.sqrt(2)) - stats.norm.cdf(1 / np.sqrt(2))
    covered, small = [], []
    for _ in range(1000):
        real, fake = random.normal(size=60), random.normal(size=40)
        own = [(random.normal(size=60), random.normal(size=40)) for _ in range(3)]
        scores = [(0.8 * real + 0.6 * a, 0.8 * fake + 0.6 * b) for a, b in own]
        first, second, third = ((a, b + by) for (a, b), by in zip(scores, (1.5, 1, 1), strict=True))
        found = metrics.auc_difference(*first, *second)
        assert found is not None
        covered.append(found.low <= true <= found.high)
        none = metrics.auc_difference(*second, *third)
        assert none is not None
        small.append(none.p_value < 0.05)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)
    assert np.mean(small) == pytest.approx(0.05, abs=0.025)


def test_a_difference_is_no_larger_than_1() -> None:
    """Of nine pairs one model has all in order, the other one: Student's interval goes beyond."""
    first = np.array([0, 1, 2]), np.array([3, 4, 5])
    second = np.array([2, 4, 5]), np.array([0, 1, 3])
    found, mirrored = (
        metrics.auc_difference(*a, *b) for a, b in ((first, second), (second, first))
    )
    assert found is not None
    assert (found.value, found.high) == (pytest.approx(8 / 9), 1.0)
    assert found.low < 8 / 9 - stats.t.ppf(0.975, 4) * np.sqrt(2) / 9
    assert mirrored == pytest.approx((-found.value, -1.0, -found.low, found.p_value))


def test_the_same_model_twice_does_not_differ(random: np.random.Generator) -> None:
    real, fake = random.normal(size=20), random.normal(1, size=20)
    assert metrics.auc_difference(real, fake, real, fake) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="the same images"):
        metrics.auc_difference(real, fake, real[1:], fake)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "first", "second"), [(50, 0.999, 0.99), slow(100, 0.9995, 0.998)])
def test_the_difference_of_two_models_near_an_auc_of_1_covers_95_percent(
    random: np.random.Generator, n: int, first: float, second: float
) -> None:
    """A handful of images on the wrong side tell no variance. p agrees with the interval."""
    apart, covered = np.sqrt(2) * stats.norm.ppf([first, second]), []
    for _ in range(300):
        scores = random.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=2 * n).T
        scores[:, n:] += apart[:, None]
        one, two = scores
        found = metrics.auc_difference(one[:n], one[n:], two[:n], two[n:])
        assert found is not None
        covered.append(found.low <= first - second <= found.high)
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
    assert np.mean(covered) >= 0.95


def test_two_models_with_one_error_each_are_not_the_same() -> None:
    """Both rank one real image above one fake; the order within the classes is another."""
    real, fake = np.linspace(0, 1, 20), np.linspace(2, 3, 20)
    real[-1] = 2.03
    found = metrics.auc_difference(real, fake, np.append(real[-2::-1], real[-1]), fake)
    assert found is not None
    assert (found.value, found.p_value) == (0, 1)
    low, high = metrics.auc_interval(real, fake) or (0, 1)
    half = np.hypot(399 / 400 - low, high - 399 / 400)
    assert (found.low, found.high) == pytest.approx((-half, half))


def test_strata_keep_their_size_and_groups_stay_together(random: np.random.Generator) -> None:
    strata = [0, 0, 0, 1, 1, 1, 1, 2, 2]
    groups = ["", "", "", "a", "a", "b", "b", "c", "c"]
    resampler = Resampler(np.array(strata), np.array(groups, dtype=object))
    times = resampler.draw(random, 4000)
    assert times.shape == (4000, 9)
    assert (times[:, :3].sum(1) == 3).all()
    assert (times[:, 3] == times[:, 4]).all()
    assert (times[:, 5] == times[:, 6]).all()
    assert (times[:, 3] + times[:, 5] == 2).all()
    assert (times[:, 7:] == 1).all()  # alone in its stratum
    assert times[:, :7].mean(0) == pytest.approx(np.ones(7), abs=0.05)
    assert times[:, 0].var() == pytest.approx(3 * (1 / 3) * (2 / 3), abs=0.05)
    assert (resampler.units(np.arange(3)), resampler.units(np.arange(3, 9))) == (3, 3)
    assert resampler.grouped


def test_a_group_in_two_strata_is_drawn_once(random: np.random.Generator) -> None:
    """A person with a real photograph and a fake of it."""
    groups = np.array(["a", "b", "a", "b", "", ""], dtype=object)
    times = Resampler(np.array([0, 0, 1, 1, 0, 1]), groups).draw(random, 500)
    assert (times[:, :2] == times[:, 2:4]).all()
    assert (times[:, :2].sum(1) == 2).all()
    assert times[:, 0].std() > 0.5


def test_groups_in_strata_of_their_own_combinations_are_drawn_all_the_same(
    random: np.random.Generator,
) -> None:
    """Each person has a real image and fakes of another pair of generators."""
    pairs = [(a, b) for a in range(1, 7) for b in range(a + 1, 7)]
    strata = np.array([s for pair in pairs for s in (0, *pair)])
    groups = np.array([f"p{i}" for i in range(len(pairs)) for _ in range(3)], dtype=object)
    times = Resampler(strata, groups).draw(random, 3000)
    assert (times.reshape(3000, -1, 3) == times.reshape(3000, -1, 3)[:, :, :1]).all()
    assert (times[:, ::3].sum(1) == len(pairs)).all()
    assert times.mean(0) == pytest.approx(np.ones(times.shape[1]), abs=0.1)
    assert times.var(0) == pytest.approx(np.full(times.shape[1], 14 / 15), abs=0.15)


def people(random: np.random.Generator, count: int, apart: float) -> tuple[np.ndarray, ...]:
    """Ten images of each of ``count`` persons a class, whose scores agree (intraclass 0.5)."""
    person = np.repeat(np.arange(2 * count), 10)
    score = random.normal(size=2 * count)[person] + random.normal(size=20 * count)
    half = 10 * count
    return score[:half], score[half:] + np.sqrt(2) * apart, person[:half], person[half:]


@pytest.mark.parametrize(("count", "apart"), [(3, 2), (5, 4), (10, 2), (20, 4)])
def test_intervals_of_an_auc_of_few_people_cover_95_percent(
    random: np.random.Generator, count: int, apart: float
) -> None:
    true = stats.norm.cdf(apart / np.sqrt(2))
    found = [metrics.auc_interval(*people(random, count, apart)) or (1, 0) for _ in range(300)]
    assert np.mean([low <= true <= high for low, high in found]) >= 0.925


def test_copies_of_images_are_no_more_images(random: np.random.Generator) -> None:
    """Of the AUC, of the mean of two and of a difference, by hand: as of each image once."""
    real, fake = random.normal(size=15), random.normal(1, size=15)
    other = fake - 0.5 + 0.1 * random.normal(size=15)
    units = np.arange(15), np.arange(15, 30)
    many = [np.repeat(values, 4) for values in (real, fake, other, *units)]
    copies = many[0], many[1], many[3], many[4]
    assert metrics.auc_interval(*copies) == pytest.approx(metrics.auc_interval(real, fake))
    # The fakes of the second generator are of the same people.
    twice = [(real, fake, *units), (real, other, *units)]
    mean = metrics.mean_auc_interval([copies, (many[0], many[2], many[3], many[4])])
    assert mean == pytest.approx(metrics.mean_auc_interval(twice))
    apart = [(real, other, *units), (real, fake, units[0], units[1] + 15)]
    assert np.ptp(mean or ()) > np.ptp(metrics.mean_auc_interval(apart) or ())
    found = metrics.auc_difference(*many[:2], many[0], *many[2:])
    assert found == pytest.approx(metrics.auc_difference(real, fake, real, other))
    assert metrics.auc_interval(real, fake, units[0], np.zeros(15)) is None


def test_a_person_with_a_real_image_and_a_fake_by_hand(random: np.random.Generator) -> None:
    """Obuchowski's variance where each of n persons has one of each: that of the sums."""
    person = random.normal(size=12)
    real, fake = person + random.normal(size=12), person + random.normal(0.7, size=12)
    above = (fake[:, None] > real).mean(1) + (fake[:, None] > real).mean(0)
    auc = above.mean() / 2
    half = stats.t.ppf(0.975, 11) * above.std(ddof=1) / np.sqrt(12) / (auc * (1 - auc))
    expected = special.expit(special.logit(auc) + np.array([-half, half]))
    found = metrics.auc_interval(real, fake, np.arange(12), np.arange(12))
    assert found == pytest.approx(tuple(expected))


def test_names_that_group_nothing_are_no_groups() -> None:
    names = np.array(["a", "b", "", ""], dtype=object)
    assert not metrics.grouped(names)
    assert metrics.grouped(np.array(["a", "a", "", ""], dtype=object))
    # Two rows of one image, as where two generators list it.
    assert not metrics.grouped(np.array(["a", "a", "b", ""], dtype=object), np.array([0, 0, 2, 3]))
    assert not Resampler(np.zeros(4), names).grouped


def test_resampling_covers_the_mean_of_grouped_images(random: np.random.Generator) -> None:
    """Ten images of a person are not ten images."""
    covered = {True: 0, False: 0}
    for _ in range(200):
        person = np.repeat(np.arange(30), 10)
        values = random.normal(size=30)[person] + 0.3 * random.normal(size=300)
        for grouped in covered:
            names = np.array([f"p{p}" if grouped else "" for p in person], dtype=object)
            times = Resampler(np.zeros(300), names).draw(random, 400)
            low, high = metrics.percentiles(times @ values / 300) or (1, 0)
            covered[grouped] += low <= 0 <= high
    assert covered[True] > 0.89 * 200
    assert covered[False] < 0.6 * 200


@pytest.mark.parametrize(("people", "images"), [(2, 10), (3, 10), (5, 10), (5, 1), (10, 1)])
def test_widened_percentiles_cover_means_of_few(
    random: np.random.Generator, people: int, images: int
) -> None:
    """Without it 50, 72 and 80 to 90 % of the intervals hold the mean."""
    person, covered = np.repeat(np.arange(people), images), []
    names = np.array([f"p{n}" for n in person], dtype=object)
    resampler = Resampler(np.zeros(len(person)), names)
    for _ in range(400):
        values = random.normal(size=people)[person] + 0.3 * random.normal(size=len(person))
        draws = resampler.draw(random, 400) @ values / len(values)
        percentiles = metrics.percentiles(draws)
        assert percentiles is not None
        low, high = metrics.widened(percentiles, values.mean(), people)
        assert low <= percentiles[0] <= percentiles[1] <= high
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.925


def test_percentiles() -> None:
    draws = np.arange(1001.0)
    assert metrics.percentiles(draws) == (pytest.approx(25), pytest.approx(975))
    draws[:40] = np.nan
    assert metrics.percentiles(draws) is not None
    draws[:60] = np.nan
    assert metrics.percentiles(draws) is None
    assert metrics.percentiles(np.array([])) is None


def test_widened_percentiles_by_hand() -> None:
    # Student's quantile for 3 is 4.303, the normal one 1.960.
    by = 4.302653 / 1.959964 * np.sqrt(3 / 2)
    assert metrics.widened((0.0, 0.3), 0.1, 3) == pytest.approx((0.1 - 0.1 * by, 0.1 + 0.2 * by))
    # An end beyond the value stays where it is.
    assert metrics.widened((0.2, 0.3), 0.1, 3) == pytest.approx((0.2, 0.1 + 0.2 * by))
    assert metrics.widened((0.4, 0.4), 0.1, 3) == (0.4, 0.4)


def test_units_that_have_most_images_are_few() -> None:
    """Kish's number, by hand: the square of a sum over the sum of squares."""
    effective = metrics.intervals._effective
    counts = [2.0, 2.0, 2.0], [3.0, 1.0], [7.0, 0.0, 1.0, 1.0], [0.0, 0.0]
    assert [effective(np.array(each)) for each in counts] == [3, 16 / 10, 81 / 51, 0]
