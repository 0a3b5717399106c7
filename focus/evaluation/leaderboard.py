"""Rank several detectors on the same images by their mean AUC, with what could be chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from focus.errors import InputError, shown
from focus.evaluation.other_detectors import ScoreTable, generators_of_training, rows_to_test
from focus.evaluation.protocol import UNNAMED, Comparison, compared, match, union
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Floats, distinct
from focus.metrics.bootstrap import units
from focus.metrics.intervals import Difference, Interval, PlacedScores, holm
from focus.runtime.files import write_csv

FILE = "leaderboard.csv"
_HEADER = (
    "test_set",
    "first_rank",
    "last_rank",
    "detector",
    "generator",
    "real",
    "synthetic",
    "auc",
    "auc_low",
    "auc_high",
    "difference",
    "difference_low",
    "difference_high",
    "p_holm",
)


@dataclass(frozen=True)
class ScoredGenerator:
    """A generator, and how many real images and fakes its AUCs are of."""

    name: str
    real: int
    synthetic: int


@dataclass(frozen=True)
class Standing:
    """One detector in a leaderboard.

    auc: The mean over the generators. aucs, intervals: Those of each generator, in the order of the
    leaderboard. difference: Its mean minus that of the first detector. p_holm: The p-value of this
    difference, adjusted for all pairs. Both are None for the first detector. first_rank,
    last_rank: The ranks that the tests of all pairs leave open.
    """

    detector: str
    auc: float
    interval: Interval
    aucs: list[float]
    intervals: list[Interval]
    difference: Difference | None
    p_holm: float | None
    first_rank: int
    last_rank: int

    @property
    def rank(self) -> str:
        """The rank, or the range of ranks that ties leave open, as ``2-4``."""
        if self.first_rank == self.last_rank:
            return str(self.first_rank)
        return f"{self.first_rank}-{self.last_rank}"


@dataclass(frozen=True)
class Leaderboard:
    """The detectors of one test set, the best first, over its generators, the hardest first.

    real, synthetic: How many images all AUCs together are of. left_out: Generators of which a class
    has fewer than two independent images.
    """

    test_set: str
    real: int
    synthetic: int
    generators: list[ScoredGenerator]
    standings: list[Standing]
    left_out: list[str]

    @property
    def pairs(self) -> int:
        """How many pairs of detectors were tested."""
        return len(self.standings) * (len(self.standings) - 1) // 2


def leaderboards(table: ScoreTable, training_generators: Sequence[str]) -> list[Leaderboard]:
    """Return a leaderboard of each test set of a table with several detectors.

    All detectors have the same test sets: they were trained on ``training_generators``, by default
    the fakes of the rows for training. Raises InputError if no generator can be compared.
    """
    tested = rows_to_test(table)
    images = table.images.select(tested)
    scores = {detector.name: detector.values[tested] for detector in table.detectors}
    unit_of_image = units(images.group, images.images)
    comparisons: dict[str, list[Comparison]] = {}
    left_out: dict[str, list[str]] = {}
    for comparison in match(images, training_generators or generators_of_training(table.images)):
        sides = (comparison.real, comparison.fake)
        if min(len(distinct(unit_of_image[rows])) for rows in sides) < 2:
            name = comparison.generator or UNNAMED
            left_out.setdefault(comparison.test_set, []).append(name)
        else:
            comparisons.setdefault(comparison.test_set, []).append(comparison)
    if not comparisons:
        raise InputError(
            f"{table.path} has no generator to rank by: give at least two independent fakes of one "
            "and two real images."
        )
    return [
        _leaderboard(test_set, members, images, scores, left_out.get(test_set, []))
        for test_set, members in comparisons.items()
    ]


def _leaderboard(
    test_set: str,
    comparisons: Sequence[Comparison],
    images: Scores,
    scores: Mapping[str, Floats],
    left_out: list[str],
) -> Leaderboard:
    """Return the leaderboard over comparisons whose classes have two units at least.

    scores: Those [N] of the detectors, for the rows of ``images``.
    """
    unit_of_image = units(images.group, images.images)
    placed = {
        detector: PlacedScores(compared(comparisons, values, unit_of_image))
        for detector, values in scores.items()
    }
    aucs = np.array([placed_scores.aucs for placed_scores in placed.values()])
    means = aucs.mean(axis=1)
    detectors = [list(placed)[number] for number in np.argsort(-means, kind="stable")]
    hardest_first = np.argsort(aucs.mean(axis=0), kind="stable").tolist()

    differences = {
        (worse, better): _difference(placed[detectors[worse]], placed[detectors[better]])
        for better, worse in combinations(range(len(detectors)), 2)
    }
    adjusted = holm([difference.p_value for difference in differences.values()])
    tests = {
        pair: (difference.value, float(p_value))
        for (pair, difference), p_value in zip(differences.items(), adjusted, strict=True)
    }
    ranks = rank_sets(len(detectors), tests)

    standings = []
    for number, (detector, (first_rank, last_rank)) in enumerate(
        zip(detectors, ranks, strict=True)
    ):
        placed_scores = placed[detector]
        auc, interval = placed_scores.auc, placed_scores.interval
        assert auc is not None
        assert interval is not None

        aucs_of_generators = placed_scores.aucs
        intervals_of_generators = placed_scores.intervals
        standings.append(
            Standing(
                detector=detector,
                auc=auc,
                interval=interval,
                aucs=[aucs_of_generators[generator] for generator in hardest_first],
                intervals=[intervals_of_generators[generator] for generator in hardest_first],
                difference=differences.get((number, 0)),
                p_holm=tests[number, 0][1] if number else None,
                first_rank=first_rank,
                last_rank=last_rank,
            )
        )

    generators = [
        ScoredGenerator(c.generator or UNNAMED, len(c.real), len(c.fake)) for c in comparisons
    ]
    return Leaderboard(
        test_set=test_set,
        real=len(union((c.real for c in comparisons), images.images)),
        synthetic=len(union((c.fake for c in comparisons), images.images)),
        generators=[generators[generator] for generator in hardest_first],
        standings=standings,
        left_out=left_out,
    )


def _difference(first: PlacedScores, second: PlacedScores) -> Difference:
    difference = first.minus(second)
    assert difference is not None, "each class has at least two units"
    return difference


def rank_sets(
    count: int, differences: Mapping[tuple[int, int], tuple[float, float]], level: float = 0.05
) -> list[tuple[int, int]]:
    """Return the first and the last rank that each of ``count`` detectors may have, 1 the best.

    ``differences`` has of each pair the first detector's figure minus the second's and its adjusted
    p-value. A detector that n others are significantly better than, and m significantly worse, has
    a rank from 1 + n to ``count`` - m. Where the p-values are adjusted for all pairs, all true
    ranks are within these at once with a chance of 1 - ``level`` (Mogstad et al., 2024).
    """
    better, worse = [0] * count, [0] * count
    for (first, second), (difference, p_value) in differences.items():
        if p_value >= level or difference == 0:
            continue
        winner, loser = (first, second) if difference > 0 else (second, first)
        better[loser] += 1
        worse[winner] += 1
    return [(1 + n, count - m) for n, m in zip(better, worse, strict=True)]


def write(boards: Sequence[Leaderboard], folder: Path) -> Path:
    """Write ``leaderboard.csv`` into ``folder``; return its path."""
    rows: list[tuple[object, ...]] = []
    for board in boards:
        for standing in board.standings:
            name = shown(standing.detector)
            ranks = (standing.first_rank, standing.last_rank)
            difference = standing.difference
            tested: tuple[object, ...] = ("", "", "", "")
            if difference is not None:
                tested = (difference.value, difference.low, difference.high, standing.p_holm)
            mean = (board.real, board.synthetic, standing.auc, *standing.interval)
            rows.append((board.test_set, *ranks, name, "", *mean, *tested))
            for generator, auc, interval in zip(
                board.generators, standing.aucs, standing.intervals, strict=True
            ):
                counts = (generator.real, generator.synthetic)
                of_generator = (generator.name, *counts, auc, *interval, "", "", "", "")
                rows.append((board.test_set, "", "", name, *of_generator))
    folder.mkdir(parents=True, exist_ok=True)
    return write_csv(folder / FILE, _HEADER, rows)
