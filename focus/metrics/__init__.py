"""Metrics as pure functions on numpy arrays: they know no model, no file and no test set.

Everything is computed in float64. A metric that the data cannot give is ``None`` ("not
defined"), never 0 and never NaN. A number that is not finite is an error.
"""

from focus.metrics.arrays import Array, mean
from focus.metrics.calibration import Calibration, cllr, fit_calibration, llr_costs, logits
from focus.metrics.cams import (
    HIT_COVERAGE,
    cam_range,
    commonest_peak_share,
    peak_cell,
    pointing_hit,
    stretched,
    sum_entropy,
    z_entropy,
)
from focus.metrics.intervals import (
    LEVEL,
    Difference,
    Interval,
    Resampler,
    auc_difference,
    auc_interval,
    grouped,
    mean_auc_interval,
    mean_interval,
    percentiles,
    rate_interval,
    units,
)
from focus.metrics.ranking import (
    BINS,
    SUPPORT,
    Mass,
    Ranking,
    Rates,
    Side,
    auc,
    average_precision,
    brier,
    ece,
    eer,
    tpr_at_fpr,
)

__all__ = [
    "BINS",
    "HIT_COVERAGE",
    "LEVEL",
    "SUPPORT",
    "Array",
    "Calibration",
    "Difference",
    "Interval",
    "Mass",
    "Ranking",
    "Rates",
    "Resampler",
    "Side",
    "auc",
    "auc_difference",
    "auc_interval",
    "average_precision",
    "brier",
    "cam_range",
    "cllr",
    "commonest_peak_share",
    "ece",
    "eer",
    "fit_calibration",
    "grouped",
    "llr_costs",
    "logits",
    "mean",
    "mean_auc_interval",
    "mean_interval",
    "peak_cell",
    "percentiles",
    "pointing_hit",
    "rate_interval",
    "stretched",
    "sum_entropy",
    "tpr_at_fpr",
    "units",
    "z_entropy",
]
