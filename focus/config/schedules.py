"""Factors of the learning rate and of the loss weights in the course of a run."""

import math
from itertools import pairwise

from focus.config.recipes import Schedule
from focus.errors import InputError

Points = tuple[tuple[float, float], ...]
"""(epoch, factor), the epochs rising."""


def rate_factor(
    schedule: Schedule,
    step: int,
    *,
    steps: int,
    warmup: float,
    step_length: int = 1,
    gamma: float = 1,
) -> float:
    """Return the factor of the highest learning rate, in [0, 1] for ``gamma`` up to 1.

    Linear over the first ``round(warmup * steps)`` steps of the optimiser, the last of which has
    the whole rate. Then "constant"; "cosine", half a wave down to 0 after the last step; "step",
    times ``gamma`` every ``step_length`` steps, counted from the start.

    step: The number of the step, from 0. steps: The number of steps of the run. "one-cycle" is
    torch's own.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if schedule == "cosine":
        return (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising)))) / 2
    return gamma ** (step // step_length) if schedule == "step" else 1.0


def parse_points(name: str, text: str) -> Points:
    """Parse ``"0:0,5:1"`` to ``((0, 0), (5, 1))``; ``name`` is the flag, for the message.

    Raises InputError for what is no pair of numbers, epochs that do not rise, numbers below 0.
    """
    try:
        pairs = (point.split(":") for point in text.split(","))
        points = tuple((float(epoch), float(factor)) for epoch, factor in pairs)
        rising = all(a < b for (a, _), (b, _) in pairwise(points))
    except ValueError:
        points, rising = (), False
    if not rising or not all(0 <= number < math.inf for point in points for number in point):
        raise InputError(
            f"{name} got {text!r}: give EPOCH:FACTOR pairs separated by commas, the epochs rising, "
            "no number below 0."
        )
    return points


def factor_at(points: Points, epoch: float) -> float:
    """Return the factor after ``epoch`` epochs: linear between the points, constant outside."""
    if epoch <= points[0][0]:
        return points[0][1]
    for (start, low), (stop, high) in pairwise(points):
        if epoch < stop:
            return low + (high - low) * (epoch - start) / (stop - start)
    return points[-1][1]
