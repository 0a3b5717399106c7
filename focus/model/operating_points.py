"""Choose thresholds and the calibration on validation images, and store them with the model.

They are never chosen on test images. The error rates are named by analogy with ISO/IEC 30107-3:
BPCER is the share of real images that are called synthetic, APCER the share of a generator's fakes
that are called real. Nothing here is a test by that standard.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, cast

from msgspec import Meta

from focus.config.options import POINTS, Point
from focus.errors import InputError
from focus.metrics.arrays import Array
from focus.metrics.calibration import Calibration, fit_calibration
from focus.metrics.ranking import Ranking, needed
from focus.runtime.json_files import Natural, read_json, write_json

THRESHOLDS = "thresholds.json"
VERSION = 2

TARGETS: dict[Point, float] = {"bpcer1": 0.01, "bpcer5": 0.05}
# Below 0, every image counts as synthetic.
_Threshold = Annotated[float, Meta(ge=-1, le=1)]


@dataclass(frozen=True)
class OperatingPoints:
    """A score above ``thresholds[point]`` says synthetic; None where validation cannot tell it.

    calibration: None where it could not be fitted. n_real, n_synthetic: The numbers of validation
    images. decides: The point whose threshold decides, unless another is asked for.
    """

    thresholds: Annotated[Mapping[Point, _Threshold | None], Meta(min_length=len(POINTS))]
    calibration: Calibration | None
    n_real: Natural
    n_synthetic: Natural
    decides: Point = "eer"

    def undefined(self) -> dict[Point, str]:
        """Return what each point without a threshold needs."""
        missing = [point for point, value in self.thresholds.items() if value is None]
        needs = "real and synthetic validation images"
        if self.n_real and self.n_synthetic:
            needs = "validation images told apart better than by chance"
        lacks = dict.fromkeys(missing, f"needs {needs}")
        if self.n_synthetic:
            for point in TARGETS.keys() & lacks.keys():
                lacks[point] = f"needs >= {needed(TARGETS[point])} real validation images"
        return lacks

    def warning(self) -> str:
        """Return a warning where likelihood ratios do not rise with the score, else ""."""
        if self.calibration is None or self.calibration.slope > 0:
            return ""
        return (
            f"The calibration has a slope of {self.calibration.slope:.2g}, as on validation images "
            "a higher score does not speak for synthetic: take another model, or no llr of this "
            "one."
        )

    def write(self, folder: Path) -> None:
        """Write ``thresholds.json`` into ``folder``."""
        write_json(folder / THRESHOLDS, self, VERSION, undefined=self.undefined())

    def restore(self, folder: Path) -> None:
        """Write ``thresholds.json`` unless there is one that can be read."""
        with suppress(InputError):
            if self.read(folder) is not None:
                return
        self.write(folder)

    @classmethod
    def read(cls, folder: Path) -> "OperatingPoints | None":
        """Read what :meth:`write` left in ``folder``; None if there is no such file.

        Raises InputError if it is of another version or cannot be read.
        """
        if not (path := folder / THRESHOLDS).exists():
            return None
        return read_json(path, cls, "remove it, or train the model again", VERSION, "undefined")


class Threshold(NamedTuple):
    """The one rule that decides: a score above ``value`` says synthetic.

    name: The operating point, "given" for a score, or "default" where validation fixed none.
    """

    name: str
    value: float

    @property
    def origin(self) -> str:
        """Say where it comes from."""
        whence = {"given": "given", "default": "none was fixed on validation images"}
        return whence.get(self.name, f"{self.name}, fixed on validation images")

    def __str__(self) -> str:
        """Return it in words, for a reader; ``value`` has all digits."""
        return f"{score_text(self.value)} ({self.origin})"


def score_text(value: float) -> str:
    """Return a score or a threshold for a reader: four digits, or how far below 1 it lies.

    Most scores lie near 1, so there four digits would not tell them apart. Files hold all digits.
    """
    return f"1 - {1 - value:.2g}" if 0.999 < value < 1 else f"{value:.4g}"


def choose_threshold(
    points: OperatingPoints | None, choice: str | float | None = None
) -> Threshold:
    """Return the threshold that decides everywhere.

    choice: The name of an operating point, or a score; None takes the model's own, else 0.5.

    Raises InputError if the model has no threshold for the point that is named.
    """
    if choice is not None and choice not in POINTS:
        return Threshold("given", float(choice))
    name = cast("Point", choice or (points.decides if points else ""))
    value = points.thresholds[name] if points else None
    if value is not None:
        return Threshold(name, value)
    if choice is None:
        return Threshold("default", 0.5)
    reason = f"it {points.undefined()[name]}" if points else "there is none at all"
    raise InputError(
        f"--threshold {name}: validation fixed no such threshold ({reason}); give a score, or drop "
        "the flag."
    )


def choose_points(
    real_scores: Array,
    fake_scores: Array,
    real_units: Array | None = None,
    fake_units: Array | None = None,
) -> OperatingPoints:
    """Choose them from the scores [M] of real and [N] of fake validation images.

    A point that the sample cannot support is None: all of them where a class is empty, and
    ``balanced`` where no threshold does better than chance. real_units, fake_units: The units [M]
    and [N] for :func:`focus.metrics.calibration.fit_calibration`.
    """
    ranking = Ranking.of(real_scores, fake_scores)
    thresholds: dict[Point, float | None] = dict.fromkeys(POINTS)
    if len(real_scores) and len(fake_scores):
        thresholds["eer"] = float(ranking.threshold_at_eer()[0])
        balanced = float(ranking.threshold_of_best_balance()[0])
        # Below all scores, the lowest of equals, it is no better than calling all images synthetic.
        thresholds["balanced"] = balanced if balanced >= ranking.levels[0] else None
        for point, target in TARGETS.items():
            if len(real_scores) >= needed(target):
                thresholds[point] = float(ranking.threshold_at_fpr(target)[0])
    calibration = fit_calibration(real_scores, fake_scores, real_units, fake_units)
    return OperatingPoints(thresholds, calibration, len(real_scores), len(fake_scores))
