"""Declare each figure of ``results.json`` once: what it is of, its interval and where it is shown.

Results, intervals, the printed table and the report with its CSV follow from :data:`FIGURES`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import numpy as np

from focus.metrics.arrays import Floats
from focus.metrics.ranking import Ranking, needed

Keys = tuple[str, ...]
"""Where a figure lies in ``results.json``, or in a part of it: the keys, from the outermost."""
Unit = Literal["real", "fake", "both", "smaller"]
"""The class whose images, or groups of them, a figure is of; of two classes the smaller one."""
POINTS = "operating_points"
DECISION = "decision"
"""The operating point of the threshold that decides, beside those that validation fixed."""
CONFUSION = ("real_as_real", "real_as_synthetic", "synthetic_as_real", "synthetic_as_synthetic")
"""The counts of images by label and by what an operating point calls them."""
WIDE = 0.2
"""An interval that is wider says little; few images, or few groups, are the reason."""
CHANCE = "chance level of that peak"
"""Stands below the share of CAMs that peak in the artefact: that of uniformly random cells."""


class Method(Enum):
    """How the 95 % interval of a figure is computed."""

    NONE = "There is no interval."
    DELONG = "DeLong's, from the ranks of the scores."
    MEAN = "The percentiles of the resamples."
    SHARE = "As MEAN; Clopper and Pearson's where no resample moves the figure from a bound."
    RATE = "Clopper and Pearson's where the images are independent, else as SHARE."
    RATE_OF_FAKES = "As RATE, also in the mean over generators, since these share no fakes."
    TWO_RATES = "From those of the two classes where the images are independent, else as SHARE."
    LARGEST = "As SHARE, by the basic bootstrap: a sample overstates the largest of several."
    COST = "As MEAN; longer where few images are wrong, since the next one may cost the most."
    ERROR = "As COST, by the basic bootstrap, less the error that chance adds to a sample."


@dataclass(frozen=True)
class Figure:
    """A figure: [R] values, one for each resample, NaN where a resample leaves it undefined.

    Args:
        name: The key in ``results.json``.
        interval: How its interval is computed.
        compute: Returns the values from what ``where`` says, None where there are none.
        heading: The heading of its column in the report, which has only figures with a heading.
        column: Its number among these; the first five show at once.
        row: The title of its row in the printed table, of all images of a test set.
        unit: The class that it is of; one of the ``smaller`` class needs images of both.
        where: It is computed from the ``ranking`` of a group's scores, from this and the threshold
            that decides (``cut``) or that of each operating ``point``, from the ``group``, from it
            ``once`` without resamples, or from the :class:`Errors` of a test ``set`` at a point.
        bounds: The smallest and the largest value that it can have.
        source: The column of ``scores.csv`` whose mean it is.
        excess: Returns what chance adds to an ERROR, None where there are no values.
        reals: The number of real images that it needs.
        fakes: The key of the number of fakes that it is of, where it is of fakes.
        probability: Whether it takes the scores for probabilities.
    """

    name: str
    interval: Method
    compute: Callable[..., Any]
    heading: str = ""
    column: int = 99
    row: str = ""
    unit: Unit = "smaller"
    where: Literal["ranking", "cut", "point", "group", "once", "set"] = "ranking"
    bounds: tuple[float, float] = (0.0, 1.0)
    source: str = ""
    excess: Callable[[Ranking], float | None] | None = None
    reals: int = 0
    fakes: str = "n_synthetic"
    probability: bool = False

    @property
    def is_resampled(self) -> bool:
        """Whether its interval may be that of resamples."""
        return self.interval not in (Method.NONE, Method.DELONG)

    @property
    def counts(self) -> tuple[str, str]:
        """The keys of the numbers of real images and of fakes, "" for a class that it is not of."""
        return "" if self.unit == "fake" else "n_real", "" if self.unit == "real" else self.fakes


class Errors(NamedTuple):
    """Error rates of a test set at an operating point, [R] each; three of the APCER."""

    bpcer: Floats
    pooled: Floats
    mean: Floats
    largest: Floats


class _Shown(TypedDict, total=False):
    """Where a figure is shown, as :class:`Figure` has it; a figure without these is not."""

    heading: str
    column: int
    row: str


def _tpr(rate: float, **shown: Unpack[_Shown]) -> Figure:
    return Figure(
        name=f"tpr_at_fpr_{rate:g}",
        interval=Method.SHARE,
        compute=partial(Ranking.tpr_at_fpr, target=rate),
        reals=needed(rate),
        **shown,
    )


def _ece(
    name: str, *, balanced: bool = False, tempered: bool = False, **shown: Unpack[_Shown]
) -> Figure:
    def measured_by(measure: Callable[..., Any], ranking: Ranking) -> Any:
        probabilities = (
            (ranking.real.tempered, ranking.fake.tempered)
            if tempered
            else (ranking.real.scores, ranking.fake.scores)
        )
        if probabilities[0] is None:
            return None
        return measure(ranking, balanced=balanced, probabilities=probabilities)

    return Figure(
        name=name,
        interval=Method.ERROR,
        compute=partial(measured_by, Ranking.ece),
        excess=partial(measured_by, Ranking.calibrated_ece),
        probability=True,
        **shown,
    )


def _mean(name: str, source: str, interval: Method, unit: Unit, **shown: Unpack[_Shown]) -> Figure:
    """Return the mean of a column over the images of a class."""
    return Figure(
        name=name,
        interval=interval,
        compute=lambda group: group.mean(source, unit),
        unit=unit,
        where="group",
        source=source,
        **shown,
    )


def _of_artefacts(name: str, interval: Method, **shown: Unpack[_Shown]) -> Figure:
    """Return the mean of the column of that name over the fakes with an artefact mask."""
    return replace(_mean(name, name, interval, "fake", **shown), fakes="n_pointing")


def _by_class(
    name: str, interval: Method, *, source: str = "", **shown: Unpack[_Shown]
) -> list[Figure]:
    """Return the means of a column over the real images, over the fakes, and over both.

    source: The column, if it has another name. shown: Where the mean over both is shown.
    """
    column = source or name
    return [
        _mean(f"{name}_on_real", column, interval, "real"),
        _mean(f"{name}_on_synthetic", column, interval, "fake"),
        _mean(name, column, interval, "both", **shown),
    ]


def _peak_share(name: str, unit: Unit, **shown: Unpack[_Shown]) -> Figure:
    """Return the share of the CAMs of a class that peak in the commonest cell."""
    return Figure(
        name=name,
        interval=Method.LARGEST,
        compute=lambda group: group.peak_share(unit),
        unit=unit,
        where="group",
        **shown,
    )


FIGURES = (
    Figure("auc", Method.DELONG, Ranking.auc, heading="AUC", column=1),
    Figure("average_precision", Method.SHARE, Ranking.average_precision, heading="AP", column=8),
    Figure(
        "average_precision_balanced",
        Method.SHARE,
        partial(Ranking.average_precision, balanced=True),
        heading="AP at 50 % synthetic",
        column=9,
    ),
    Figure("eer", Method.SHARE, Ranking.eer, heading="EER", column=2),
    _tpr(0.001),
    _tpr(0.002),
    _tpr(0.01, heading="TPR at 1 % FPR", column=3),
    _tpr(0.05, heading="TPR at 5 % FPR", column=6),
    Figure("accuracy", Method.RATE, Ranking.accuracy, where="cut"),
    Figure(
        "balanced_accuracy",
        Method.TWO_RATES,
        Ranking.balanced_accuracy,
        heading="balanced accuracy",
        column=10,
        where="cut",
    ),
    Figure("brier", Method.COST, Ranking.brier, probability=True),
    Figure("brier_balanced", Method.COST, partial(Ranking.brier, balanced=True), probability=True),
    Figure("prevalence", Method.NONE, Ranking.prevalence, heading="share of synthetic", column=7),
    _ece("ece", heading="ECE", column=11),
    _ece("ece_balanced", heading="ECE at 50 % synthetic", column=12, balanced=True),
    _ece("ece_tempered", tempered=True),
    _ece("ece_tempered_balanced", tempered=True, balanced=True),
    Figure(
        "cllr",
        Method.COST,
        lambda group: group.cllr(),
        where="group",
        bounds=(0.0, math.inf),
        probability=True,
    ),
    Figure(
        "bpcer", Method.RATE, Ranking.bpcer, heading="BPCER", column=5, unit="real", where="point"
    ),
    Figure(
        "apcer", Method.RATE, Ranking.apcer, heading="APCER", column=4, unit="fake", where="point"
    ),
    *_by_class(
        "entropy",
        Method.MEAN,
        source="entropy_predicted",
        heading="entropy h",
        column=13,
        row="CAM entropy, all images",
    ),
    *_by_class("entropy_synthetic", Method.MEAN),
    *_by_class("entropy_sum", Method.MEAN),
    *_by_class("entropy_z", Method.MEAN, heading="entropy z", column=14),
    *_by_class("cam_range", Method.MEAN, heading="CAM range", column=15),
    *_by_class("map_mse", Method.MEAN),
    *_by_class("map_cosine", Method.MEAN, heading="cosine with human map", column=22),
    *_by_class("map_hit", Method.RATE, heading="peaks where people looked", column=20),
    *_by_class("map_chance", Method.MEAN, heading="chance level where people looked", column=21),
    *_by_class("map_mass", Method.MEAN),
    *_by_class("peak_outlier", Method.RATE, heading="peaks on outlying tokens", column=17),
    _of_artefacts(
        "pointing_hit",
        Method.RATE_OF_FAKES,
        heading="peaks in artefact",
        column=18,
        row="peaks in artefact, synthetic",
    ),
    _of_artefacts("pointing_hit_synthetic", Method.RATE_OF_FAKES),
    _of_artefacts("pointing_chance", Method.MEAN, heading=CHANCE, column=19, row=CHANCE),
    _of_artefacts("mask_mass", Method.MEAN),
    _peak_share("peak_share_on_real", "real"),
    _peak_share("peak_share_on_synthetic", "fake"),
    _peak_share("peak_share", "both", heading="peaks in the commonest cell", column=16),
    Figure(
        "apcer_pooled",
        Method.SHARE,
        lambda errors: errors.pooled,
        heading="APCER, all synthetic",
        unit="fake",
        where="set",
    ),
    Figure(
        "apcer_mean",
        Method.SHARE,
        lambda errors: errors.mean,
        heading="APCER, mean",
        unit="fake",
        where="set",
    ),
    Figure(
        "apcer_max",
        Method.LARGEST,
        lambda errors: errors.largest,
        heading="APCER, largest",
        unit="fake",
        where="set",
    ),
    Figure(
        "acer_mean",
        Method.SHARE,
        lambda errors: (errors.mean + errors.bpcer) / 2,
        where="set",
    ),
    Figure(
        "acer_max",
        Method.LARGEST,
        lambda errors: (errors.largest + errors.bpcer) / 2,
        where="set",
    ),
    Figure("min_cllr", Method.NONE, lambda group: group.min_cllr, where="once"),
    Figure(
        "calibration_loss",
        Method.NONE,
        lambda group: group.calibration_loss(),
        where="once",
        probability=True,
    ),
)
FIGURE = {figure.name: figure for figure in FIGURES}


def of_ranking(
    ranking: Ranking, threshold: float, *, only_resampled: bool = False
) -> dict[str, Floats]:
    """Return the figures that the scores of a group give, by name.

    They need both classes: of one alone, accuracy would be another figure by the same name.

    only_resampled: Whether those are left out whose interval needs no resamples.
    """
    figures = {}
    for figure in FIGURES:
        if only_resampled and not figure.is_resampled:
            continue
        if figure.where == "ranking":
            values = figure.compute(ranking)
        elif figure.where == "cut":
            values = figure.compute(ranking, threshold)
        else:
            continue
        if values is not None:
            figures[figure.name] = np.where(ranking.defined, values, np.nan)
    return figures
