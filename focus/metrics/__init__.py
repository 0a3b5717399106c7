"""Metrics as pure functions on numpy arrays: they know no model, no file and no test set.

Everything is computed in float64. A metric that the data cannot give is ``None`` or NaN ("not
defined"), never 0. A score or CAM that is not finite is an error. Names are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus.metrics.cams import map_agreement as map_agreement
    from focus.metrics.cams import mask_mass as mask_mass
    from focus.metrics.detection import DetectionMetrics as DetectionMetrics
    from focus.metrics.detection import detection_metrics as detection_metrics
    from focus.metrics.intervals import mean_auc_difference as mean_auc_difference
    from focus.metrics.intervals import mean_auc_interval as mean_auc_interval
    from focus.metrics.intervals import rate_interval as rate_interval
    from focus.metrics.ranking import Ranking as Ranking
    from focus.metrics.ranking import auc as auc

_HOME = dict.fromkeys(("map_agreement", "mask_mass"), "cams")
_HOME |= dict.fromkeys(("DetectionMetrics", "detection_metrics"), "detection")
_HOME |= dict.fromkeys(("mean_auc_difference", "mean_auc_interval", "rate_interval"), "intervals")
_HOME |= dict.fromkeys(("Ranking", "auc"), "ranking")
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'focus.metrics' has no attribute {name!r}")
    return getattr(import_module(f"focus.metrics.{_HOME[name]}"), name)
