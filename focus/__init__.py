"""Detectors of synthetic faces trained for focus.

Names are loaded on first use, so that ``import focus.kernels`` imports no model code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus.errors import InputError as InputError
    from focus.head import DetectorOutput as DetectorOutput
    from focus.head import FocusHead as FocusHead
    from focus.losses import LOSSES as LOSSES
    from focus.losses import LossConfig as LossConfig
    from focus.models import Detector as Detector

__version__ = "0.1.0"
__all__ = [
    "LOSSES",
    "Detector",
    "DetectorOutput",
    "FocusHead",
    "InputError",
    "LossConfig",
    "__version__",
]

_HOME = {
    "LOSSES": "focus.losses",
    "Detector": "focus.models",
    "DetectorOutput": "focus.head",
    "FocusHead": "focus.head",
    "InputError": "focus.errors",
    "LossConfig": "focus.losses",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'focus' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
