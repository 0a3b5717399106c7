"""Operating points: thresholds and the calibration, fixed on validation images.

They are stored with the model (``thresholds.json``) and never chosen on test images. The error
rates are named by analogy with ISO/IEC 30107-3: BPCER is the share of real images that are called
synthetic, APCER the share of a generator's fakes that are called real; this is no test of
presentation attacks, and no test by that standard.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from focus.data.images import text_of
from focus.errors import InputError
from focus.metrics import SUPPORT, Array, Calibration, Ranking, fit_calibration, largest_llr
from focus.runtime.files import atomic_write

THRESHOLDS = "thresholds.json"
VERSION = 1

TARGETS = {"bpcer1": 0.01, "bpcer5": 0.05}
POINTS = ("eer", *TARGETS, "balanced")
"""Where both errors are as likely; BPCER of 1 % and of 5 % at most; the best balanced accuracy."""


@dataclass(frozen=True)
class OperatingPoints:
    """A score above ``thresholds[point]`` says synthetic; None where validation cannot tell it.

    calibration: None where it could not be fitted. n_real, n_fake: of the validation images.
    """

    thresholds: Mapping[str, float | None]
    calibration: Calibration | None
    n_real: int
    n_fake: int

    def undefined(self) -> dict[str, str]:
        """What a point without threshold needs."""
        return {p: self._needs(p) for p, value in self.thresholds.items() if value is None}

    def _needs(self, point: str) -> str:
        if self.n_fake and point in TARGETS:
            return f"needs >= {needed(TARGETS[point])} real validation images"
        if self.n_real and self.n_fake:
            return "needs validation images told apart better than by chance"
        return "needs real and synthetic validation images"

    def warning(self) -> str:
        """What to say where likelihood ratios do not rise with the score; "" where they do."""
        if self.calibration is None or self.calibration.slope > 0:
            return ""
        return (
            f"The calibration has a slope of {self.calibration.slope:.2g}, as on validation images "
            "a higher score does not speak for synthetic: take another model, or no llr of this "
            "one."
        )

    def write(self, folder: Path) -> None:
        """As ``thresholds.json`` in ``folder``."""
        values = {
            "version": VERSION,
            **asdict(self),
            "undefined": self.undefined(),
        }
        with atomic_write(folder / THRESHOLDS) as aside:
            aside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "OperatingPoints | None":
        """What :meth:`write` left in ``folder``; None if there is no such file.

        Raises:
            InputError: it is of another version or cannot be read.
        """
        path = folder / THRESHOLDS
        if not path.exists():
            return None
        try:
            values = json.loads(text_of(path))
            version = values["version"]
            if version == VERSION:
                return cls.from_values(values)
        except (
            *(OSError, ValueError, TypeError, KeyError),
            *(RecursionError, OverflowError),
        ) as error:
            raise InputError(
                f"{path} cannot be read ({type(error).__name__}: {error}): remove it, or train "
                "the model again."
            ) from error
        raise InputError(
            f"{path} has version {version}, this program reads {VERSION}: remove it, or use the "
            "version that wrote it."
        )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "OperatingPoints":
        """From ``dataclasses.asdict`` of one."""
        given, line = values["thresholds"], values["calibration"]
        n_real, n_fake = int(values["n_real"]), int(values["n_fake"])
        return cls(
            {p: None if given[p] is None else _number(given[p]) for p in POINTS},
            None if line is None else _calibration(line, n_real, n_fake),
            n_real,
            n_fake,
        )


def _calibration(line: Mapping[str, Any], n_real: int, n_fake: int) -> Calibration:
    slope, intercept = _number(line["slope"]), _number(line["intercept"])
    # Files of before there was a largest ratio were fitted to as many images.
    largest = line["largest_llr"] if "largest_llr" in line else largest_llr(n_real, n_fake)
    temperature, largest = _number(line["temperature"]), largest and _number(largest)
    for name, value in (("temperature", temperature), ("largest_llr", largest)):
        if value is not None and not value > 0:
            raise ValueError(f"the {name} is not above 0")
    return Calibration(slope, intercept, temperature, largest)


def needed(target: float) -> int:
    """How many real images a rate of ``target`` asks for."""
    return math.ceil(SUPPORT / target)


def choose(
    real_scores: Array,
    fake_scores: Array,
    real_units: Array | None = None,
    fake_units: Array | None = None,
) -> OperatingPoints:
    """From the scores [M] of real and [N] of fake validation images.

    A point that the sample cannot support is None: all of them where a class is empty, and
    ``balanced`` where no threshold does better than chance. real_units [M], fake_units [N]: for the
    calibration, as of :func:`focus.metrics.fit_calibration`.
    """
    ranking = Ranking.of(real_scores, fake_scores)
    rates = ranking.at()
    found: dict[str, float | None] = dict.fromkeys(POINTS)
    if len(real_scores) and len(fake_scores):
        found["eer"] = float(rates.threshold_at_eer()[0])
        balanced = float(rates.threshold_of_best_balance()[0])
        # Below all scores, the lowest of equals, it is no better than calling all images synthetic.
        found["balanced"] = balanced if balanced >= ranking.levels[0] else None
        for point, target in TARGETS.items():
            if len(real_scores) >= needed(target):
                found[point] = float(rates.threshold_at_fpr(target)[0])
    calibration = fit_calibration(real_scores, fake_scores, real_units, fake_units)
    return OperatingPoints(found, calibration, len(real_scores), len(fake_scores))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
