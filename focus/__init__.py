"""Detectors of synthetic faces trained for focus.

Names are loaded on first use, so that ``import focus.kernels`` imports no model code.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Read when torch is first imported. By default OpenMP's threads spin while they wait for another,
# which on a machine that others use does not run: bench/busy.py measures what that costs.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

if TYPE_CHECKING:
    from focus.config.losses import LOSSES as LOSSES
    from focus.config.losses import LossConfig as LossConfig
    from focus.config.train import TrainConfig as TrainConfig
    from focus.config.use import EvaluateConfig as EvaluateConfig
    from focus.config.use import ExplainConfig as ExplainConfig
    from focus.errors import InputError as InputError
    from focus.model.detector import Detector as Detector
    from focus.model.head import DetectorOutput as DetectorOutput
    from focus.model.head import FocusHead as FocusHead
    from focus.training.run import train as train
    from focus.use.evaluate import evaluate as evaluate
    from focus.use.explain import explain as explain

__version__ = "0.2.0"
_HOME = {
    "LOSSES": "focus.config.losses",
    "Detector": "focus.model.detector",
    "DetectorOutput": "focus.model.head",
    "EvaluateConfig": "focus.config.use",
    "ExplainConfig": "focus.config.use",
    "FocusHead": "focus.model.head",
    "InputError": "focus.errors",
    "LossConfig": "focus.config.losses",
    "TrainConfig": "focus.config.train",
    "evaluate": "focus.use.evaluate",
    "explain": "focus.use.explain",
    "train": "focus.training.run",
}


def __dir__() -> list[str]:
    return [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name not in _HOME:
        raise AttributeError(f"module 'focus' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
