"""Measure how time and memory of the head grow with batch, channels, cells and classes on the CPU.

    python -m bench.growth [--short] [--output FOLDER] [--rounds N]

Ours and plain pooling + classifier + cross-entropy, forward and gradients, fp32, with one of B, C,
HW and K doubled several times. The slope of the logarithms is fitted by least squares to the
medians of CPU time and to the most bytes that a step holds at once; 1 is in proportion to the
features. Its 95 % interval is over resampled rounds, so it says how sure the slope is, not how
straight the line.

The features F take 51 to 411 MB, more than caches hold: where F is small, fixed costs flatten the
slope, and where it leaves the cache its elements become dearer and steepen it. The smallest size of
each kind is checked against the float64 reference first.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from bench import head
from bench.harness import (
    Interval,
    begin,
    make_parser,
    peak_bytes,
    run_program,
    time_rounds,
    write,
)


class Point(NamedTuple):
    """A size of the features, and the number of classes."""

    batch: int
    channels: int
    cells: int
    classes: int = 2


# F doubles from 51 to 411 MB, except where the classes grow.
POINTS = {
    "batch": [Point(batch, 1024, 49) for batch in (256, 512, 1024, 2048)],
    "channels": [Point(512, channels, 49) for channels in (512, 1024, 2048, 4096)],
    "cells": [Point(128, 1024, side * side) for side in (10, 14, 20, 28)],
    "classes": [Point(128, 2048, 49, classes) for classes in (2, 16, 128, 1024)],
}
SHORT = 3  # sizes of each kind, in channels_last alone
ROUNDS, SHORT_ROUNDS = 21, 9
LOSSES: dict[str, head.Loss] = {
    "ours": head.ours_loss,
    "plain": partial(head.plain_loss, head.pool_by_mean),
}


@dataclass
class Slope:
    """The power of a size by which time or memory grows between two ends."""

    provider: str
    layout: str
    against: str
    quantity: str
    smallest: int
    largest: int
    slope: float
    low: float
    high: float

    def __str__(self) -> str:
        where = f"{self.layout:>13}  {self.against:<9} {self.smallest:>5} to {self.largest:<5}"
        figures = f"{self.slope:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{where} {self.quantity:<7} of {self.provider:<6} {figures}"


def fit(sizes: Sequence[int], values: np.ndarray) -> Interval:
    """Return the slope of ``log median`` over ``log size``, and its 95 % bootstrap interval.

    values: [sizes, rounds], positive; the rounds of all sizes are resampled together.
    """
    logs = np.log(sizes)
    logs -= logs.mean()
    weights = logs / (logs @ logs)
    rounds = values.shape[1]
    draws = np.random.default_rng(0).integers(rounds, size=(2000, rounds))
    slopes = weights @ np.log(np.median(values[:, draws], axis=2))
    low, high = np.quantile(slopes, [0.025, 0.975])
    return float(weights @ np.log(np.median(values, axis=1))), float(low), float(high)


def measure(against: str, points: Sequence[Point], layout: str, rounds: int) -> list[Slope]:
    """Time and weigh both heads at all sizes of one kind, in the same rounds."""
    inputs = [head.make_inputs(point[:3], layout, point.classes) for point in points]
    steps = {
        f"{name} {n}": partial(head.gradients, given, loss)
        for name, loss in LOSSES.items()
        for n, given in enumerate(inputs)
    }
    head.check(inputs[0], {name: steps[f"{name} 0"] for name in LOSSES})
    seconds = time_rounds(steps, rounds)
    sizes = [getattr(point, against) for point in points]
    slopes = []
    for name in LOSSES:
        own = [f"{name} {n}" for n in range(len(points))]
        times = np.stack([seconds[step] for step in own])
        peaks = np.array([[peak_bytes(steps[step])] for step in own], float)
        for quantity, values in (("time", times), ("memory", peaks)):
            fitted = (round(figure, 3) for figure in fit(sizes, values))
            slopes.append(Slope(name, layout, against, quantity, sizes[0], sizes[-1], *fitted))
    return slopes


def main() -> None:
    """Check, measure, print the slopes, and write them with ``--output``."""
    given = make_parser(__doc__, ROUNDS, SHORT_ROUNDS).parse_args()
    measured_with = begin("bench.growth", given)
    layouts, slopes = head.LAYOUTS[-1:] if given.short else head.LAYOUTS, list[Slope]()
    for layout, (against, points) in tqdm([*product(layouts, POINTS.items())], "growth"):
        found = measure(against, points[: SHORT if given.short else None], layout, given.rounds)
        tqdm.write("\n".join(map(str, found)))
        slopes += found
    if given.output:
        write(given.output, "growth", [asdict(slope) for slope in slopes], measured_with)


if __name__ == "__main__":
    run_program(main)
