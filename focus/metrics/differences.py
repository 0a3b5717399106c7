"""How two models differ in their mean AUC on the same images, by DeLong."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from focus.metrics.arrays import Array
from focus.metrics.intervals import (
    Difference,
    Floats,
    _error,
    _freedom,
    _placements,
    auc_difference,
)


def mean_auc_difference(
    comparisons: Sequence[tuple[Array, Array, Array, Array, Array]],
) -> Difference | None:
    """Of the mean AUCs of two models over the same comparisons, by DeLong et al. (1988).

    Each has what :func:`~focus.metrics.auc_difference` takes, which it is for a single one, real
    [M] and fake [N] scores of the first model and of the second, and images [M]: numbers of its
    real images, the same where several comparisons share one. What an image adds to a mean is told
    as by :func:`~focus.metrics.mean_auc_interval`, and the variance is that of what it adds to the
    first less what it adds to the second. Comparisons without variance, as one that both models
    tell without an error, leave the mean no surer than they are by themselves; if all are so, the
    p-value is the smallest of theirs times their number. None where a comparison has fewer than
    two images of a class, or a single real image that no other is like in its comparisons.

    Raises ValueError if the models scored different numbers of images.
    """
    each = [auc_difference(*comparison[:4]) for comparison in comparisons]
    known, count = [found for found in each if found is not None], len(each)
    if len(known) < count or not count:
        return None
    everyone = np.unique(np.concatenate([images for *_, images in comparisons]))
    inside, reals = np.zeros((count, len(everyone)), dtype=bool), np.zeros(len(everyone))
    fakes: list[Floats] = []
    unsure: list[float] = []
    for own, found, (*scores, images) in zip(inside, known, comparisons, strict=True):
        placed_first, placed_second = _placements(*scores[:2])[1:], _placements(*scores[2:])[1:]
        of_real, of_fake = (a - b for a, b in zip(placed_first, placed_second, strict=True))
        if _error([of_real, of_fake])[0] == 0:
            unsure.append(max(found.high - found.value, found.value - found.low) / count)
        places = np.searchsorted(everyone, images)
        own[places] = True
        reals[places] += of_real / (count * len(of_real))
        fakes.append(of_fake / count)
    # Real images that are in the same comparisons are a sample.
    _, sample, sizes = np.unique(inside, axis=1, return_inverse=True, return_counts=True)
    if sizes.min() < 2:
        return None
    sample = sample.reshape(-1)  # in numpy 2.0 it has another shape
    placed = [size * reals[sample == number] for number, size in enumerate(sizes)] + fakes
    value = sum(found.value for found in known) / count
    error, quantile = _error(placed)
    half = max(quantile * error, math.hypot(*unsure))
    if len(unsure) == count:
        p_value = min(1.0, count * min(found.p_value for found in known))
    else:
        # What the comparisons differ by may cancel in each image: then it is 0 for certain.
        ratio = abs(value) * quantile / max(half, 1e-12)
        p_value = float(2 * stats.t.sf(ratio, _freedom(placed)))
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p_value)
