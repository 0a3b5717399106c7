"""Make numbers in a table into scores in [0, 1]: probabilities, percent, log-odds, or any others.

The scale is recognised only where the numbers leave no doubt, and what was taken is said: AUC does
not depend on it, thresholds and calibration do.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from focus.config.use import ScoreScale
from focus.errors import InputError
from focus.metrics.arrays import Floats

ROUNDING = 1e-6
"""By how much a probability may leave [0, 1], as a softmax in float32 does."""
_LEAST_SHARE = 0.2
"""Share of the scores outside [0, 1] from which on they are of another scale, and no slips."""
_LIKELY_PERCENT = 50.0
"""Percent have a score above it; other numbers that are never negative need not."""
_DECIMAL_COMMA = re.compile(r"[+-]?(\d+),(\d+)([eE][+-]?\d+)?")
_WITHOUT_POINT = re.compile(r"[+-]?\d*(,\d+)?([eE][+-]?\d+)?")
_FROM_0_TO_100 = (
    "The scores go from {low:g} to {high:g} and were taken for percent, that is divided by 100; "
    "if they are no percent, give --score-scale raw."
)
_BELOW_AND_ABOVE_0 = (
    "The scores go from {low:g} to {high:g} and were taken for log-odds, 0 being a probability of "
    "one half; if they are none, give --score-scale raw."
)


@dataclass(frozen=True, eq=False)
class DetectorScores:
    """The scores of one detector.

    name: The table's name of the column. values: The scores [N], in [0, 1], 1 synthetic. remark:
    What was done to the numbers of the table, in words, "" for probabilities. assumption: A
    sentence that says what the numbers were taken for, "" where that was said. raw_ends: The raw
    scores that became 0 and 1, None for other scales.
    """

    name: str
    values: Floats
    remark: str
    assumption: str
    raw_ends: tuple[float, float] | None


def detector_scores(
    name: str,
    cells: Sequence[str],
    lines: Sequence[str],
    scale: ScoreScale,
    higher_is: Literal["synthetic", "real"],
) -> DetectorScores:
    """Return the scores in a column of a table.

    Args:
        name: The name of the column.
        cells: Its cells [N].
        lines: Where each of them is, for messages.
        scale: The scale of the numbers; ``auto`` recognises probabilities, percent and log-odds.
        higher_is: The class that a high score means.

    Raises InputError for a cell that is no number, numbers of no scale that is recognised, and
    different numbers that would all be 0 or 1, such as log-odds from some 37 on.
    """
    numbers, written = _numbers(cells, lines)
    low, high = float(numbers.min(initial=np.inf)), float(numbers.max(initial=-np.inf))
    assumption = ""
    if scale == "auto":
        scale = "percent" if "percent signs" in written else _recognised(numbers)
        if scale == "percent" and "percent signs" not in written:
            assumption = _FROM_0_TO_100.format(low=low, high=high)
        if scale == "log-odds":
            assumption = _BELOW_AND_ABOVE_0.format(low=low, high=high)
    if scale in ("probability", "percent"):
        _refuse_outside(numbers, 100.0 if scale == "percent" else 1.0, cells, lines)

    raw_ends = None
    if scale == "log-odds":
        distinct = numbers
        values: Floats = special.expit(-numbers if higher_is == "real" else numbers)
    else:
        if scale == "raw":
            raw_ends = low, high
            values = (numbers - low) / ((high - low) or 1.0)
        else:
            values = np.clip(numbers / 100 if scale == "percent" else numbers, 0.0, 1.0)
        distinct = values
        if higher_is == "real":
            values = 1 - values
            raw_ends = raw_ends and raw_ends[::-1]
    _refuse_lost_ranks(distinct, values, scale)

    done = {"percent": "percent, divided by 100", "log-odds": "log-odds", "raw": "raw"}
    remark = ", ".join([*([done[scale]] if scale in done else []), *written])
    return DetectorScores(name, values, remark, assumption, raw_ends)


def _recognised(numbers: Floats) -> ScoreScale:
    """Return the scale that numbers are of; ``probability`` also where none is certain."""
    outside = np.mean((numbers < -ROUNDING) | (numbers > 1 + ROUNDING)) if len(numbers) else 0.0
    if outside < _LEAST_SHARE:
        return "probability"
    if numbers.min() >= 0 and _LIKELY_PERCENT < numbers.max() <= 100 + ROUNDING:
        return "percent"
    if numbers.min() < -1 and numbers.max() > 1:
        return "log-odds"
    return "probability"


def _refuse_outside(
    numbers: Floats, highest: float, cells: Sequence[str], lines: Sequence[str]
) -> None:
    """Raise InputError for the first number outside [0, ``highest``]."""
    slack = ROUNDING * highest
    outside = np.flatnonzero((numbers < -slack) | (numbers > highest + slack))
    if not len(outside):
        return
    row = int(outside[0])
    kind = "probability, from 0 to 1" if highest == 1 else "percent, from 0 to 100"
    raise InputError(
        f"{lines[row]}: the score {cells[row]!r} is no {kind}: give --score-scale percent or "
        "log-odds if all are, or raw for any other number; fix the row if it is the only one."
    )


def _refuse_lost_ranks(numbers: Floats, values: Floats, scale: ScoreScale) -> None:
    """Raise InputError if different numbers have become 0 or 1 alike.

    Between the two only close neighbours become the same, as in any table of many digits.
    """
    advice = "give --score-scale raw"
    if scale != "log-odds":
        advice = "give the detector's logits in their place, with --score-scale raw"
    for end in (0.0, 1.0):
        alike = np.unique(numbers[values == end])
        if len(alike) > 1:
            raise InputError(
                f"Scores from {alike[0]:g} to {alike[-1]:g} become one probability, {end:g}, and "
                f"lose their ranks: {advice}."
            )


def _numbers(cells: Sequence[str], lines: Sequence[str]) -> tuple[Floats, list[str]]:
    """Return the numbers [N] in cells, and what is unusual about how they are written."""
    try:
        numbers = np.array(cells, dtype=np.float64)
    except ValueError:
        numbers, written = _written_otherwise([cell.strip() for cell in cells], lines)
    else:
        written = []
    infinite = np.flatnonzero(~np.isfinite(numbers))
    if len(infinite):
        row = int(infinite[0])
        raise InputError(f"{lines[row]}: the score {cells[row]!r} is not finite; fix the row.")
    return numbers, written


def _written_otherwise(texts: Sequence[str], lines: Sequence[str]) -> tuple[Floats, list[str]]:
    """Return the numbers [N] in texts with percent signs or decimal commas, and which they have.

    Raises InputError for a text that is no number, and where a comma may be something else.
    """
    for text, line in zip(texts, lines, strict=True):
        if not text:
            raise InputError(
                f"{line}: there is no score; fix the row, or give --common, which leaves out the "
                "images that a detector has no score for."
            )
    written = []
    with_sign = [text.endswith("%") for text in texts]
    if any(with_sign):
        if not all(with_sign):
            row = with_sign.index(False)
            raise InputError(
                f"{lines[row]}: the score {texts[row]!r} has no percent sign, as others have; fix "
                "the row."
            )
        written.append("percent signs")
        texts = [text.removesuffix("%").rstrip() for text in texts]
    with_comma = [text for text in texts if "," in text]
    if with_comma:
        _refuse_other_commas(texts, with_comma, lines)
        written.append("decimal commas")
        texts = [text.replace(",", ".") for text in texts]

    numbers = np.empty(len(texts))
    for row, text in enumerate(texts):
        try:
            numbers[row] = float(text)
        except ValueError as error:
            raise InputError(
                f"{lines[row]}: the score {text!r} is no number; fix the row."
            ) from error
    return numbers, written


def _refuse_other_commas(
    texts: Sequence[str], with_comma: Sequence[str], lines: Sequence[str]
) -> None:
    """Raise InputError unless each comma is a decimal one.

    It is where no number has a point, and at least one cannot be thousands: 0,931 or 12,5.
    """
    for text, line in zip(texts, lines, strict=True):
        if not _WITHOUT_POINT.fullmatch(text):
            raise InputError(
                f"{line}: the score {text!r} beside {with_comma[0]!r} leaves open what a comma "
                "means: write all numbers with a decimal point."
            )
    for text in with_comma:
        match = _DECIMAL_COMMA.fullmatch(text)
        if match and (len(match[2]) != 3 or match[1].startswith("0") or len(match[1]) > 3):
            return
    raise InputError(
        f"{lines[list(texts).index(with_comma[0])]}: the score {with_comma[0]!r} may have a "
        "decimal comma or thousands: write all numbers with a decimal point."
    )
