"""The cases and rows of :mod:`bench.head`: what is asked of a ratio, the table, the verdict."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.timing import MET, judge, ratio

MEMORY_BAR = 1.06
# Of cam_entropy over a copy, in channels_last.
COPY_BARS = {(20, 1024, 49): 2.9, (20, 2048, 49): 2.3, (128, 2048, 49): 1.75}

Shape = tuple[int, int, int]
"""Batch, channels, cells."""


class Case(NamedTuple):
    """What is measured in the same rounds."""

    shape: Shape
    layout: str
    dtype: str
    classes: tuple[int, ...]


@dataclass
class Row:
    """A ratio of two steps; memory is that of the step named first.

    The figures are None where there are none, and the note says why.
    """

    shape: str
    layout: str
    dtype: str
    classes: int
    ratio: str
    median: float | None
    low: float | None
    high: float | None
    bar: str
    met: bool | None
    memory: float | None
    memory_met: bool | None
    note: str


def shape_of(text: str) -> Shape:
    """``20x2048x49``: batch, channels, cells (a square number; one cell has no entropy)."""
    numbers = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x(?!1$)([1-9]\d*)", text)
    if numbers is None or math.isqrt(int(numbers[3])) ** 2 != int(numbers[3]):
        raise argparse.ArgumentTypeError(f"{text!r} is not BxCxHW with a square number HW above 1")
    return int(numbers[1]), int(numbers[2]), int(numbers[3])


def bar(name: str, case: Case, classes: int) -> tuple[str, float] | None:
    """What a ratio should be at most or at least, None where nothing is asked of it."""
    if name in ("ours / plain", "ours / fastest plain"):
        return "<=", 1.10 if case.dtype == "fp32" else 1.15
    if name == "compiled / ours":
        return ">=", 1.0
    if name == growth_of(1000):
        return "<=", 1.1
    if case.dtype != "fp32" or classes != 2:
        return None
    if name == "branches / ours":
        return ">=", 2.5
    if name == "per sample / ours":
        return ">=", 4.5 if case.shape[0] == 20 else 3.2
    if name == "cam_entropy / copy" and case.layout == "channels_last" and case.shape in COPY_BARS:
        return "<=", COPY_BARS[case.shape]
    return None


def growth_of(classes: int) -> str:
    """Name of the ratio of ratios: of ours from 2 classes to more, against plain's."""
    return f"K {classes} / K 2, ours / plain"


def make_row(
    case: Case,
    classes: int,
    name: str,
    seconds: tuple[np.ndarray, np.ndarray] | None,
    memory: float | None = None,
    note: str = "",
) -> Row:
    """A ratio of the rounds' ``seconds``, held to its bar."""
    asked = bar(name, case, classes)
    row = Row(
        shape="x".join(map(str, case.shape)),
        layout=case.layout,
        dtype=case.dtype,
        classes=classes,
        ratio=name,
        median=None,
        low=None,
        high=None,
        bar="" if asked is None else f"{asked[0]} {asked[1]:.2f}",
        met=None,
        memory=None if memory is None else round(memory, 3),
        memory_met=None,
        note=note,
    )
    if seconds is not None:
        median, low, high = ratio(*seconds)
        row.median, row.low, row.high = round(median, 3), round(low, 3), round(high, 3)
        row.met = judge(asked, low, high)
    # In bf16 parts of F are there in 32 bits; with many classes the weight's gradient counts.
    if memory is not None and name == "ours / plain" and (case.dtype, classes) == ("fp32", 2):
        row.memory_met = memory <= MEMORY_BAR
    return row


def verdict(rows: Sequence[Row]) -> list[str]:
    """A line per bar: in how many cases it is met, and the end of the interval furthest from it."""
    found: dict[str, list[tuple[bool, float, str]]] = {}
    for row in rows:
        where = f"{row.shape} {row.layout} {row.dtype} K {row.classes}"
        if row.met is not None:
            sense, limit = row.bar.split()
            end = row.high if sense == "<=" else row.low
            assert end is not None
            excess = end / float(limit) if sense == "<=" else float(limit) / end
            found.setdefault(row.ratio, []).append(
                (row.met, excess, f"{where} {end:.2f} not {row.bar}")
            )
        if row.memory is not None and row.memory_met is not None:
            text = f"{where} {row.memory:.3f} not <= {MEMORY_BAR}"
            found.setdefault("peak memory / F", []).append(
                (row.memory_met, row.memory / MEMORY_BAR, text)
            )
    lines = []
    for name, cases in found.items():
        missed = [case[1:] for case in cases if not case[0]]  # by figures that are not rounded
        line = f"{name}: bar met in {len(cases) - len(missed)} of {len(cases)} cases"
        lines.append(f"{line}; furthest from it {max(missed)[1]}" if missed else line)
    return lines


def table(rows: Sequence[Row]) -> list[str]:
    """A line per ratio: median, interval, bar, and the peak memory of the step named first."""
    lines = [
        f"{'B x C x HW':>12} {'layout':>13} {'dtype':>5} {'K':>4}  {'CPU time':<26} {'median':>6} "
        f"{'95 %':<14} {'bar':<7} {'':<7} peak memory / F"
    ]
    for r in rows:
        line = f"{r.shape:>12} {r.layout:>13} {r.dtype:>5} {r.classes:>4}  {r.ratio:<26} "
        if r.median is None:
            lines.append(f"{line}no figure: {r.note}")
            continue
        memory = "" if r.memory is None else f"{r.memory:.3f} {MET[r.memory_met]}".rstrip()
        interval = f"[{r.low:.2f}, {r.high:.2f}]"
        line += f"{r.median:6.2f} {interval:<14} {r.bar:<7} {MET[r.met]:<7} {memory}"
        lines.append(f"{line} ({r.note})" if r.note else line.rstrip())
    return lines
