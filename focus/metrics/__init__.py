"""Metrics as pure functions on numpy arrays: they know no model, no file and no test set.

Everything is computed in float64. A metric that the data cannot give is ``None`` ("not
defined"), never 0 and never NaN. A number that is not finite is an error.
"""

from focus.metrics.arrays import Array, mean
from focus.metrics.bootstrap import Resampler, units
from focus.metrics.calibration import Calibration, fit_calibration
from focus.metrics.cams import (
    cam_range,
    commonest_peak_share,
    peak_cell,
    stretched,
    sum_entropy,
    z_entropy,
)
from focus.metrics.intervals import (
    LEVEL,
    Interval,
    auc_difference,
    auc_interval,
    mean_auc_difference,
    mean_auc_interval,
    rate_interval,
)
from focus.metrics.ranking import BINS, SUPPORT, Ranking, auc

__all__ = [
    "BINS",
    "LEVEL",
    "SUPPORT",
    "Array",
    "Calibration",
    "Interval",
    "Ranking",
    "Resampler",
    "auc",
    "auc_difference",
    "auc_interval",
    "cam_range",
    "commonest_peak_share",
    "fit_calibration",
    "mean",
    "mean_auc_difference",
    "mean_auc_interval",
    "peak_cell",
    "rate_interval",
    "stretched",
    "sum_entropy",
    "units",
    "z_entropy",
]
