"""The numbers behind the figures of a report, from scores: curves, shares, bins.

A score is the probability of synthetic; what is computed here is only drawn, the figures in words
come from results.json.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from focus.metrics import Array, Ranking

MOST_POINTS = 300
"""Of a curve: more cannot be told apart, and make a large file."""
BARS = 25

Floats = NDArray[np.float64]


def roc(real_scores: Array, fake_scores: Array) -> tuple[Floats, Floats]:
    """The ROC as false and true positive rates [n], n at most ``MOST_POINTS`` + 2.

    real_scores [M], fake_scores [N], neither empty. Rising; at each false positive rate the
    largest true positive rate at that rate or below, as ``tpr_at_fpr`` in results.json. Of more
    points those are taken that are evenly apart on a logarithmic axis.
    """
    label = np.repeat([0, 1], [len(real_scores), len(fake_scores)])
    alarms, found, _ = roc_curve(
        label, np.concatenate([real_scores, fake_scores]), drop_intermediate=False
    )
    last = np.append(np.flatnonzero(np.diff(alarms)), len(alarms) - 1)  # of each rate the highest
    alarms, found = alarms[last], found[last]
    if len(alarms) > MOST_POINTS:
        grid = np.geomspace(1 / len(real_scores), 1, MOST_POINTS)
        at = np.searchsorted(alarms, grid * (1 + 1e-12), side="right") - 1
        chosen = np.unique([0, *at, len(alarms) - 1])
        alarms, found = alarms[chosen], found[chosen]
    return alarms, found


def shares(values: Array) -> tuple[Floats, Floats]:
    """Shares [BARS] of ``values`` [N] in [0, 1], and the edges [BARS + 1]; N at least 1."""
    counts, edges = np.histogram(np.clip(values, 0, 1), bins=BARS, range=(0, 1))
    return counts / len(values), edges


def reliability(real_scores: Array, fake_scores: Array) -> tuple[Floats, Floats, Floats]:
    """Of each bin of the calibration error: mean score, share of fakes, share of the images.

    All [n], the bins that hold an image. The sum of ``share * |score - fakes|`` is the ``ece`` of
    results.json.
    """
    bins = Ranking.of(real_scores, fake_scores).calibration_bins()
    mass, scored, fakes = (values[0] for values in bins)
    held = mass > 0
    mass, scored, fakes = mass[held], scored[held], fakes[held]
    return scored / mass, fakes / mass, mass / mass.sum()
