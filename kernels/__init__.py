"""Fused operations on features and classifier: CAM, its entropy, the head with its loss.

The maths on tensors; knows no model, no face, no trainer. :mod:`focus.kernels.reference` holds the
definitions. Names are loaded on first use: :mod:`focus.kernels.terms` does without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus.kernels.backend import Backend as Backend
    from focus.kernels.backend import backend_for as backend_for
    from focus.kernels.backend import use_backend as use_backend
    from focus.kernels.operations import cam_entropy as cam_entropy
    from focus.kernels.operations import class_activation as class_activation
    from focus.kernels.operations import focus_head as focus_head
    from focus.kernels.types import FocusHeadOutput as FocusHeadOutput

_HOME = dict.fromkeys(("Backend", "backend_for", "use_backend"), "backend")
_HOME |= dict.fromkeys(("cam_entropy", "class_activation", "focus_head"), "operations")
_HOME["FocusHeadOutput"] = "types"
__all__ = [
    "Backend",
    "FocusHeadOutput",
    "backend_for",
    "cam_entropy",
    "class_activation",
    "focus_head",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'focus.kernels' has no attribute {name!r}")
    return getattr(import_module(f"focus.kernels.{_HOME[name]}"), name)
