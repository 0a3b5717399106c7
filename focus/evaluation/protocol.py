"""Decide which fakes are compared with which real images, in which test set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from focus.data.manifest import REAL, SYNTHETIC
from focus.data.near_far import home_of, served_by
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Floats, Integers, joined
from focus.metrics.intervals import Compared

UNNAMED = "(unnamed)"


@dataclass(frozen=True)
class Comparison:
    """The fakes of one generator and the real images that they are told from (row numbers)."""

    test_set: str
    generator: str
    real: Integers
    fake: Integers


def match(scores: Scores, training_generators: Iterable[str]) -> list[Comparison]:
    """Compare fakes with real images: return one comparison for each generator and test set.

    A fake belongs to its test set; without one it is "closed" if training knew its generator, if
    by another of its names, else "open". Its real images are the first of these that there are
    any of: the generator's own in the same test set; those of the same test set that name no
    generator; the generator's own without a test set; those given apart, with neither.
    """
    training = list(training_generators)
    test_set_code, test_sets = scores.numbered("test_set")
    generator_code, generators = scores.numbered("generator")
    # What the results call a fake without a name is no name.
    names = ["" if name == UNNAMED else name for name in generators]

    # Rows of one class, test set and name are alike: a kind, whose rows are looked up once.
    real, fake = scores.label == REAL, scores.label == SYNTHETIC
    label_code = np.select([real, fake], [0, 1], 2)
    kind = joined(label_code, test_set_code, generator_code)
    _, starts = np.unique(np.sort(kind), return_index=True)
    rows_of_kind = np.split(np.argsort(kind, kind="stable"), starts)[1:]  # none before the first
    reals: dict[tuple[str, str], list[Integers]] = {}
    fakes: dict[tuple[str, str], list[Integers]] = {}
    for rows in rows_of_kind:
        row = rows[0]
        test_set, name = test_sets[test_set_code[row]], names[generator_code[row]]
        if label_code[row] == 0:
            reals.setdefault((test_set, name), []).append(rows)
        elif label_code[row] == 1:
            home = home_of(test_set, name, training)
            fakes.setdefault((home, name), []).append(rows)
    serving = {name: served_by(name) for _, name in reals}

    comparisons = []
    chosen_rows: dict[tuple[tuple[str, str], ...], Integers] = {}
    for (test_set, generator), of_generator in sorted(fakes.items()):
        at_home = home_of("", generator, training) == test_set
        naming_it = [(s, name) for s, name in reals if generator in serving[name]]
        candidates = (
            [(s, name) for s, name in naming_it if s == test_set or (s == "" and at_home)],
            [(s, name) for s, name in reals if s == test_set and name == ""],
            [(s, name) for s, name in naming_it if s == ""],
            [(s, name) for s, name in reals if s == "" and name == ""],
        )
        chosen = tuple(next((kinds for kinds in candidates if kinds), []))
        if chosen not in chosen_rows:  # generators that share real images share their rows
            chosen_rows[chosen] = _sorted(rows for kind in chosen for rows in reals[kind])
        comparisons.append(
            Comparison(test_set, generator, chosen_rows[chosen], _sorted(of_generator))
        )
    return comparisons


def compared(
    comparisons: Sequence[Comparison], scores: Floats, unit_of_image: Integers
) -> list[Compared]:
    """Return the scores and the units of both classes of each comparison.

    Real images that several generators share are copied once.

    scores, unit_of_image: Those [N] of all rows.
    """
    shared_rows = {id(c.real): c.real for c in comparisons}
    reals = {key: (scores[rows], unit_of_image[rows]) for key, rows in shared_rows.items()}
    all_compared = []
    for c in comparisons:
        real_scores, real_units = reals[id(c.real)]
        all_compared.append((real_scores, scores[c.fake], real_units, unit_of_image[c.fake]))
    return all_compared


def _sorted(parts: Iterable[Integers]) -> Integers:
    """Return the row numbers of all parts, rising."""
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))


def union(rows: Iterable[Integers], images: Integers | None = None) -> Integers:
    """Return the numbers in any of ``rows``, sorted; with ``images`` [N] one row of each image."""
    # Generators often share their real images, as the same array.
    parts = list({id(part): part for part in rows}.values())
    member = np.zeros(1 + max((int(part.max(initial=-1)) for part in parts), default=-1), bool)
    for part in parts:
        member[part] = True
    numbers = np.flatnonzero(member)
    if images is None:
        return numbers
    return numbers[np.sort(np.unique(images[numbers], return_index=True)[1])]


def strata(labels: Integers, comparisons: Iterable[Comparison], images: Integers) -> Integers:
    """Return the strata [N] of the bootstrap: images of one class that are in the same comparisons.

    labels [N] of the scored images, whose rows the comparisons hold. images [N]: of each row the
    first that has its image.
    """
    stratum = np.unique(labels, return_inverse=True)[1]
    for comparison in comparisons:
        divided = 2 * stratum
        member = np.zeros(len(labels), dtype=np.int64)
        member[images[comparison.real]] = member[images[comparison.fake]] = 1
        divided += member
        # The numbers that there are, from 0 on without gaps.
        stratum = (np.cumsum(np.bincount(divided) > 0) - 1)[divided]
    return np.asarray(stratum[images])
