"""Detectors of synthetic faces trained for focus.

Names are loaded on first use, so that ``import focus.kernels`` imports no model code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus.config.losses import LOSSES as LOSSES
    from focus.config.losses import LossConfig as LossConfig
    from focus.errors import InputError as InputError
    from focus.model.detector import Detector as Detector
    from focus.model.head import DetectorOutput as DetectorOutput
    from focus.model.head import FocusHead as FocusHead

__version__ = "0.1.0"
_HOME = {
    "LOSSES": "focus.config.losses",
    "Detector": "focus.model.detector",
    "DetectorOutput": "focus.model.head",
    "FocusHead": "focus.model.head",
    "InputError": "focus.errors",
    "LossConfig": "focus.config.losses",
}
__all__ = [
    "LOSSES",
    "Detector",
    "DetectorOutput",
    "FocusHead",
    "InputError",
    "LossConfig",
    "__version__",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'focus' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
