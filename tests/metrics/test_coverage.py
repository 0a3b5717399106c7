"""How often an interval holds what is true: a table of simulations."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from focus.metrics.bootstrap import Resampler, percentiles
from focus.metrics.intervals import (
    Interval,
    mean_auc_difference,
    mean_auc_interval,
    mean_of_rates,
)

from .simulated import comparisons_of_models, comparisons_of_one

Draw = Callable[[np.random.Generator], Interval | None]


class Simulation(NamedTuple):
    """Samples of one kind, whose intervals have to hold the true value in a share of them.

    draw: Returns the interval of one sample. least: The share, of which two standard errors for so
    many samples are allowed to lack.
    """

    name: str
    draw: Draw
    true: float
    least: float
    samples: int


def of_mean_auc(real: int, fakes: list[int], aucs: list[float]) -> Draw:
    """Generators that share the real images."""
    return lambda random: mean_auc_interval(comparisons_of_one(random, real, fakes, aucs))


def of_difference(real: int, fakes: list[int], first: list[float], second: list[float]) -> Draw:
    """Two models, whose p-value is below .05 where 0 lies outside of the interval."""

    def draw(random: np.random.Generator) -> Interval:
        difference = mean_auc_difference(
            *comparisons_of_models(random, real, fakes, [first, second])
        )
        assert difference is not None
        assert (difference.p_value < 0.05) == (not difference.low <= 0 <= difference.high)
        return difference.low, difference.high

    return draw


def of_many_and_few(few: int) -> Draw:
    """Two generators with real images of their own, 300 of each class and a few."""

    def draw(random: np.random.Generator) -> Interval | None:
        (many,) = comparisons_of_one(random, 300, [300], [0.9])
        ((real, fake, real_unit, fake_unit),) = comparisons_of_one(random, few, [few], [0.95])
        return mean_auc_interval([many, (real, fake, 1000 + real_unit, 1000 + fake_unit)])

    return draw


def of_few_people(people: int, apart: float) -> Draw:
    """Ten images of each person a class, whose scores agree (intraclass correlation .5)."""
    person, half = np.repeat(np.arange(2 * people), 10), 10 * people

    def draw(random: np.random.Generator) -> Interval | None:
        score = random.normal(size=2 * people)[person] + random.normal(size=20 * people)
        fake = score[half:] + np.sqrt(2) * apart
        return mean_auc_interval([(score[:half], fake, person[:half], person[half:])])

    return draw


def of_large_group(share: float, others: int, images: int, both_classes: bool) -> Draw:
    """One group has a share of a class, other groups some images each (correlation .4).

    Without the effective number of groups a share of .5 covers .71 to .87.
    """
    group = np.repeat(np.arange(1, others + 1), images)
    large_group = np.zeros(round(share / (1 - share) * len(group)), dtype=int)
    group = np.concatenate([large_group, group])

    def grouped_scores(random: np.random.Generator) -> np.ndarray:
        of_group = random.normal(size=others + 1)[group]
        return np.sqrt(0.4) * of_group + np.sqrt(0.6) * random.normal(size=len(group))

    def draw(random: np.random.Generator) -> Interval | None:
        fake = np.sqrt(2) * stats.norm.ppf(0.8) + grouped_scores(random)
        real, real_unit = random.normal(size=200), np.arange(200)
        if both_classes:
            real, real_unit = grouped_scores(random), group
        return mean_auc_interval([(real, fake, real_unit, 1000 + group)])

    return draw


def of_rates(sizes: list[int], rate: float) -> Draw:
    """With few errors the intervals of the rates, put together, cover as little as 90 %."""

    def draw(random: np.random.Generator) -> Interval | None:
        counts = random.binomial(sizes, rate).tolist()
        return mean_of_rates(list(zip(counts, sizes, strict=True)))

    return draw


def of_mean_of_few(count: int) -> Draw:
    """The mean of a few numbers, by the bootstrap."""
    names = np.full(count, "", dtype=object)
    weights = Resampler(np.zeros(count), names).draw(np.random.default_rng(1), 2000) / count
    return lambda random: percentiles(random.normal(size=count) @ weights.T, count)


def simulations() -> list[Simulation]:
    table = []
    for n in (30, 100):
        for auc in (0.6, 0.9, 0.98, 0.995, 0.999):
            draw = of_mean_auc(n, [n], [auc])
            table.append(Simulation(f"auc {auc} of {n}", draw, auc, 0.93, 600))
        # Means over three generators, one of them perfect but for one in a thousand.
        for aucs in ([0.9, 0.9, 0.9], [0.98, 0.98, 0.98], [0.7, 0.999, 0.999]):
            draw = of_mean_auc(n, [n] * 3, aucs)
            name = f"mean of aucs {aucs} of {n}"
            table.append(Simulation(name, draw, float(np.mean(aucs)), 0.93, 600))
    for few in (5, 9, 40):
        name = f"mean of aucs of 300 and of {few}"
        table.append(Simulation(name, of_many_and_few(few), 0.925, 0.95, 500))
    for people, apart in ((5, 4.0), (10, 2.0), (20, 4.0)):
        auc = float(stats.norm.cdf(apart / np.sqrt(2)))
        name = f"auc of {people} people"
        table.append(Simulation(name, of_few_people(people, apart), auc, 0.94, 500))
    for share in (0.3, 0.5):
        for others, images in ((10, 5), (40, 3), (100, 1)):
            for both in (False, True):
                draw = of_large_group(share, others, images, both)
                name = f"auc with large_group of {share} and {others} others, both classes: {both}"
                table.append(Simulation(name, draw, 0.8, 0.95, 400))
    for real, fakes, first, second in (
        (60, [60], [0.86], [0.76]),
        (60, [60], [0.8], [0.8]),
        (50, [50], [0.999], [0.99]),
        # Generators of unlike sizes, or of few images each.
        (60, [60, 6], [0.95] * 2, [0.9] * 2),
        (60, [60, 6], [0.99, 0.8], [0.99, 0.9]),
        (12, [9, 200], [0.98] * 2, [0.97, 0.8]),
        (200, [10] * 8, [0.97] * 8, [0.95] * 8),
        (30, [30, 25, 35], [0.99] * 3, [0.995] * 3),
    ):
        draw = of_difference(real, fakes, first, second)
        true = float(np.mean(first) - np.mean(second))
        name = f"difference of {first} and {second}"
        table.append(Simulation(name, draw, true, 0.95, 500))
    for sizes in ([30] * 10, [*range(25, 35)], [100] * 3, [100, 1000, 300]):
        for rate in (0.005, 0.01, 0.02, 0.05, 0.3):
            name = f"mean of {len(sizes)} rates of {rate} of {sizes[0]} and more"
            table.append(Simulation(name, of_rates(sizes, rate), rate, 0.95, 3000))
    for count, least in ((5, 0.91), (10, 0.94), (20, 0.95)):
        table.append(Simulation(f"mean of {count}", of_mean_of_few(count), 0.0, least, 4000))
    return table


def coverage(simulation: Simulation, samples: int) -> float:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(samples):
        low, high = simulation.draw(random) or (1, 0)
        held += low <= simulation.true <= high
    return held / samples


@pytest.mark.slow
@pytest.mark.parametrize("simulation", simulations(), ids=lambda simulation: simulation.name)
def test_intervals_cover_the_true_value(simulation: Simulation) -> None:
    error = np.sqrt(simulation.least * (1 - simulation.least) / simulation.samples)
    held = coverage(simulation, simulation.samples)
    assert held >= simulation.least - 2 * error


def test_intervals_of_an_auc_cover_the_true_one() -> None:
    """The quick one."""
    simulation = Simulation("auc", of_mean_auc(30, [30], [0.95]), 0.95, 0.93, 600)
    assert coverage(simulation, 600) >= 0.93
