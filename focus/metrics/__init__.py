"""Metrics as pure functions on numpy arrays: they know no model, no file and no test set.

Everything is computed in float64. A metric that the data cannot give is ``None`` or NaN ("not
defined"), never 0. A score or CAM that is not finite is an error.
"""

from focus.metrics.agreement import map_agreement, mask_mass
from focus.metrics.detection import DetectionMetrics, detection_metrics
from focus.metrics.intervals import mean_auc_difference, mean_auc_interval, rate_interval
from focus.metrics.ranking import Ranking, auc

__all__ = [
    "DetectionMetrics",
    "Ranking",
    "auc",
    "detection_metrics",
    "map_agreement",
    "mask_mass",
    "mean_auc_difference",
    "mean_auc_interval",
    "rate_interval",
]
