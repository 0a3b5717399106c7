"""Draw comparisons whose AUCs are known."""

import numpy as np
from scipy import stats

from focus.metrics.intervals import Compared


def comparisons_of_models(
    random: np.random.Generator, real: int, fakes: list[int], aucs: list[list[float]]
) -> list[list[Compared]]:
    """Return comparisons of normal scores, by model; their generators share the real images.

    The scores of two models correlate by .5.

    fakes: How many fakes each generator has. aucs: The true AUCs of each model, by generator.
    """
    models = len(aucs)
    covariance = 0.5 + 0.5 * np.eye(models)
    real_scores = random.multivariate_normal(np.zeros(models), covariance, real).T
    comparisons: list[list[Compared]] = [[] for _ in range(models)]
    start = real
    for generator, count in enumerate(fakes):
        scores = random.multivariate_normal(np.zeros(models), covariance, count).T
        units = np.arange(real), np.arange(start, start + count)
        for model in range(models):
            shift = np.sqrt(2) * stats.norm.ppf(aucs[model][generator])
            comparisons[model].append((real_scores[model], scores[model] + shift, *units))
        start += count
    return comparisons


def comparisons_of_one(
    random: np.random.Generator, real: int, fakes: list[int], aucs: list[float]
) -> list[Compared]:
    """Return the comparisons of one model, as :func:`comparisons_of_models`."""
    (comparisons,) = comparisons_of_models(random, real, fakes, [aucs])
    return comparisons
