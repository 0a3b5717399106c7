"""How time and memory of the head grow with batch, channels, cells and classes, on the CPU.

    python -m bench.growth [--short] [--output FOLDER] [--rounds N] [--dtypes NAME ...]
                           [--layouts NAME ...]

Ours and plain pooling + classifier + cross-entropy, forward and gradients, with one of B, C, HW and
K doubled several times. The slope of the logarithms is fitted by least squares to the medians of
CPU time and to the most bytes that a step holds at once; 1 is in proportion to the features. Its
95 % interval is over resampled rounds, so it says how sure the slope is, not how straight the line.

The features F take 51 to 411 MB in fp32, more than caches hold: where F is small, fixed costs
flatten the slope, and where it leaves the cache its elements become dearer and steepen it. The
smallest size of each kind is checked against the float64 reference first. The method is that of
:mod:`bench.timing`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from bench import head
from bench.entry import end_in_a_line
from bench.timing import (
    MET,
    begin,
    judge,
    median,
    parser_of,
    peak_bytes,
    rounds_of,
    time_rounds,
    write,
)


class Point(NamedTuple):
    """A size of the features, and how many classes; both as they are named in rows."""

    batch: int
    channels: int
    cells: int
    classes: int = 2


# F doubles from 51 to 411 MB in fp32, except where the classes grow.
POINTS = {
    "batch": [Point(batch, 1024, 49) for batch in (256, 512, 1024, 2048)],
    "channels": [Point(512, channels, 49) for channels in (512, 1024, 2048, 4096)],
    "cells": [Point(128, 1024, side * side) for side in (10, 14, 20, 28)],
    "classes": [Point(128, 2048, 49, classes) for classes in (2, 16, 128, 1024)],
}
SHORT = 3
"""How many sizes of each kind ``--short`` takes."""

BAR = ("<=", 1.05)
PROVIDERS = ("ours", "plain")
ROUNDS, SHORT_ROUNDS = 21, 9


@dataclass
class Size:
    """A step's CPU time with the 95 % interval of its median, and its peak of memory."""

    provider: str
    layout: str
    dtype: str
    against: str
    batch: int
    channels: int
    cells: int
    classes: int
    milliseconds: float
    low: float
    high: float
    megabytes: float


@dataclass
class Slope:
    """By which power of a size time or memory grows between two ends; memory has no interval."""

    provider: str
    layout: str
    dtype: str
    against: str
    quantity: str
    smallest: int
    largest: int
    slope: float
    low: float
    high: float
    bar: str
    met: bool | None


def fit(sizes: Sequence[int], values: np.ndarray) -> tuple[float, float, float]:
    """Slope of ``log median`` over ``log size``, and its 95 % bootstrap interval.

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


def measure(
    against: str, points: Sequence[Point], layout: str, dtype: str, rounds: int
) -> tuple[list[Size], list[Slope]]:
    """Time and weigh both heads at all sizes of one kind, in the same rounds."""
    inputs = [head.make_inputs(p[:3], layout, p.classes, head.DTYPES[dtype]) for p in points]
    steps = {
        "ours": [partial(head.ours, given) for given in inputs],
        "plain": [partial(head.plain, given, head.pool_by_mean) for given in inputs],
    }
    head.check(inputs[0], {provider: steps[provider][0] for provider in PROVIDERS})
    seconds = time_rounds(
        {f"{name} {n}": step for name in PROVIDERS for n, step in enumerate(steps[name])}, rounds
    )
    varied = [getattr(point, against) for point in points]
    sizes, slopes = [], []
    for provider in PROVIDERS:
        times = np.stack([seconds[f"{provider} {n}"] for n in range(len(points))])
        peaks = np.array([[peak_bytes(step)] for step in steps[provider]], np.float64)
        labels = provider, layout, dtype, against
        for point, time, peak in zip(points, times, peaks[:, 0], strict=True):
            middle, low, high = (round(1e3 * figure, 3) for figure in median(time))
            sizes.append(Size(*labels, *point, middle, low, high, round(peak / 1e6, 3)))
        for quantity, values in (("time", times), ("memory", peaks)):
            slopes.append(make_slope(labels, quantity, varied, values))
    return sizes, slopes


def make_slope(
    labels: tuple[str, str, str, str], quantity: str, varied: Sequence[int], values: np.ndarray
) -> Slope:
    """A fitted slope; ours is held to the bar against all but the classes."""
    provider, _, _, against = labels
    asked = BAR if provider == "ours" and against != "classes" else None
    slope, low, high = fit(varied, values)
    return Slope(
        *labels,
        quantity,
        smallest=varied[0],
        largest=varied[-1],
        slope=round(slope, 3),
        low=round(low, 3),
        high=round(high, 3),
        bar="" if asked is None else f"{asked[0]} {asked[1]:.2f}",
        met=judge(asked, low, high),
    )


def table(slopes: Sequence[Slope]) -> list[str]:
    """A line per fitted slope."""
    lines = [
        f"{'layout':>13} {'dtype':>5}  {'against':<10} {'from':>5} {'to':>5}  {'quantity':<9}"
        f"{'of':<6} {'slope':>6} {'95 %':<16} bar"
    ]
    for s in slopes:
        interval = f"[{s.low:.3f}, {s.high:.3f}]"
        line = f"{s.layout:>13} {s.dtype:>5}  {s.against:<10} {s.smallest:>5} {s.largest:>5}  "
        line += f"{s.quantity:<9}{s.provider:<6} {s.slope:6.3f} {interval:<16} {s.bar} {MET[s.met]}"
        lines.append(line.rstrip())
    return lines


def main() -> None:
    """Check, measure, print the slopes, and write them and the sizes with ``--output``."""
    files, fewer = "growth*.csv and growth*.json", "fewer sizes, layouts and rounds"
    parser = parser_of(__doc__, files, fewer, ROUNDS, SHORT_ROUNDS)
    parser.add_argument("--dtypes", choices=head.DTYPES, nargs="+", default=["fp32"])
    parser.add_argument("--layouts", choices=head.LAYOUTS, nargs="+")
    given = parser.parse_args()
    measured_with = begin("bench.growth", given)
    layouts = given.layouts or (head.LAYOUTS[-1:] if given.short else head.LAYOUTS)
    sizes: list[Size] = []
    slopes: list[Slope] = []
    kinds = list(product(given.dtypes, layouts, POINTS.items()))
    for dtype, layout, (against, points) in tqdm(kinds, "growth", unit="kind"):
        taken = points[:SHORT] if given.short else points
        found = measure(against, taken, layout, dtype, rounds_of(given))
        sizes += found[0]
        slopes += found[1]
    print("\n".join(table(slopes)))
    if given.output:
        write(given.output, "growth", [asdict(size) for size in sizes], measured_with)
        write(given.output, "growth-slopes", [asdict(slope) for slope in slopes], measured_with)


if __name__ == "__main__":
    end_in_a_line(main)
