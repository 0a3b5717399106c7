"""Merge neighbouring scores of many images, so that resampling takes time for cells, not images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from focus.evaluation.protocol import Comparison
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Floats, Integers, distinct
from focus.metrics.bootstrap import CellResampler, Resampler, merged


class MergedScores(NamedTuple):
    """The scores of an evaluation with a row for each cell of images.

    scores: The mean score and the mean log-likelihood ratio of each cell. counts: How many images
    [cells] each has. comparisons: Those of the images, with the numbers of cells for rows.
    resampler: It draws the images of all cells.
    """

    scores: Scores
    counts: Floats
    comparisons: list[Comparison]
    resampler: CellResampler


def merge(
    scores: Scores, strata: Integers, comparisons: Sequence[Comparison], resampler: Resampler
) -> MergedScores:
    """Merge the neighbouring scores of each stratum, as :func:`focus.metrics.bootstrap.merged`.

    Images of one stratum are of one class and in the same comparisons, so each comparison has all
    images of a cell or none.
    """
    first_rows, image = np.unique(resampler.images, return_inverse=True)
    of_images = merged(scores.score[first_rows], strata[first_rows])
    order = np.argsort(of_images, kind="stable")
    rows, starts = first_rows[order], np.flatnonzero(np.diff(of_images[order], prepend=-1))
    counts = np.diff(starts, append=len(rows)).astype(np.float64)

    score, llr = scores.score[rows], scores.llr[rows].astype(np.float64)
    lowest, highest = np.minimum.reduceat(score, starts), np.maximum.reduceat(score, starts)
    mean = np.add.reduceat(score, starts) / counts
    cells = Scores.without_cams(
        label=scores.label[rows[starts]],
        # The mean of equal scores may be rounded, and would not tie with those of another stratum.
        score=np.where(lowest == highest, lowest, mean),
        llr=np.add.reduceat(llr, starts) / counts,
    )
    cell_of_row = of_images[image]
    shared_rows = {id(c.real): c.real for c in comparisons}  # of several generators
    real_cells = {key: distinct(cell_of_row[rows]) for key, rows in shared_rows.items()}
    of_cells = [
        replace(c, real=real_cells[id(c.real)], fake=distinct(cell_of_row[c.fake]))
        for c in comparisons
    ]
    return MergedScores(cells, counts, of_cells, CellResampler(resampler, cell_of_row))
