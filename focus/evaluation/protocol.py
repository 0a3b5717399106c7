"""Decide which fakes are compared with which real images, in which test set."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import REAL, SYNTHETIC
from focus.data.near_far import home_of, served_by
from focus.evaluation.scores import Scores

UNNAMED = "(unnamed)"


@dataclass(frozen=True)
class Comparison:
    """The fakes of one generator and the real images that they are told from (row numbers)."""

    test_set: str
    generator: str
    real: NDArray[np.int64]
    fake: NDArray[np.int64]


def match(scores: Scores, training_generators: Iterable[str]) -> list[Comparison]:
    """Compare fakes with real images: return one comparison for each generator and test set.

    A fake belongs to its test set; without one it is "closed" if training knew its generator, if
    by another of its names, else "open". Its real images are the first of these that there are
    any of: the generator's own in the same test set; those of the same test set that name no
    generator; the generator's own without a test set; those given apart, with neither.
    """
    known = list(training_generators)
    # What the results call a fake without a name is no name.
    names = np.where(scores.generator == UNNAMED, "", scores.generator)
    given = list(zip(scores.test_set, names, strict=True))
    homes = {pair: home_of(*pair, known) for pair in set(given)}
    home = np.array([homes[pair] for pair in given], dtype=np.object_)
    real, fake = scores.label == REAL, scores.label == SYNTHETIC
    nameless = real & (names == "")
    serving = {text: served_by(text) for text in set(names[real])}
    comparisons = []
    for test_set, generator in sorted(set(zip(home[fake], names[fake], strict=True))):
        own = np.zeros(len(scores), bool)
        for text in (text for text, served in serving.items() if generator in served):
            own |= real & (names == text)
        here = scores.test_set == test_set
        apart = scores.test_set == ""
        at_home = home_of("", generator, known) == test_set
        candidates = (
            own & (here | (apart & at_home)),
            nameless & here,
            own & apart,
            nameless & apart,
        )
        chosen = next((rows for rows in candidates if rows.any()), np.zeros(len(scores), bool))
        fakes = fake & (home == test_set) & (names == generator)
        comparisons.append(
            Comparison(test_set, generator, np.flatnonzero(chosen), np.flatnonzero(fakes))
        )
    return comparisons


def union(
    rows: Iterable[NDArray[np.int64]], images: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the numbers in any of ``rows``, sorted; with ``images`` [N] one row of each image."""
    found = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))
    if images is None:
        return found
    return found[np.sort(np.unique(images[found], return_index=True)[1])]


def strata(
    labels: NDArray[np.int64], comparisons: Iterable[Comparison], images: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the strata [N] of the bootstrap: images of one class that are in the same comparisons.

    labels [N] of the scored images, whose rows the comparisons hold. images [N]: of each row the
    first that has its image.
    """
    found = labels
    for comparison in comparisons:
        member = np.zeros(len(labels), dtype=np.int64)
        member[images[comparison.real]] = member[images[comparison.fake]] = 1
        _, found = np.unique(2 * found + member, return_inverse=True)
    return found[images]
