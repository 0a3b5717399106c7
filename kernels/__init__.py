"""Fused operations on features and classifier: CAM, its entropy, the head with its loss.

The maths on tensors; knows no model, no face, no trainer. :mod:`focus.kernels.reference` holds the
definitions.
"""

from focus.kernels.backend import Backend, backend_for, use_backend
from focus.kernels.operations import cam_entropy, class_activation, focus_head
from focus.kernels.types import FocusHeadOutput

__all__ = [
    "Backend",
    "FocusHeadOutput",
    "backend_for",
    "cam_entropy",
    "class_activation",
    "focus_head",
    "use_backend",
]
