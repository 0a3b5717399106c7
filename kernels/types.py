"""What the operations, and all forms of them, share: types of arguments and results, scales."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

Level = Literal["none", "match", "hinge", "minimize"]
CamClass = Literal["true", "predicted", "contrast"]
Reduction = Literal["mean", "sum", "none"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

FLAT_STEPS = 64
"""A map is flat whose range is at most so many rounding steps of its largest value."""


def flat_floor(dtype: torch.dtype) -> float:
    """The range up to which a map is flat whatever its values: its inverse is near overflow."""
    return torch.finfo(dtype).tiny / torch.finfo(dtype).eps


class FocusHeadOutput(NamedTuple):
    """What :func:`focus.kernels.focus_head` returns; only ``loss`` carries gradient.

    The terms ``classification``, ``focus`` and ``saliency`` are per sample, before they are
    multiplied by their weights.
    """

    loss: Tensor
    """Scalar, or ``[B]`` with ``reduction="none"``."""
    logits: Tensor
    """``[B,K]``."""
    cam: Tensor
    """Raw CAM ``[B,H,W]`` of the class that the loss looks at."""
    entropy: Tensor
    """``[B]`` in [0, 1]: 0 = all on one cell, 1 = uniform."""
    classification: Tensor
    """Cross-entropy ``[B]`` in nats, with class weights and label smoothing."""
    focus: Tensor
    """``[B]`` in [0, 1]; 0 for a sample without a target entropy."""
    saliency: Tensor
    """``[B]``, in [0, 1] if the maps are; 0 for a sample without a map."""


class MapGradients(NamedTuple):
    """Gradients of the class maps ``[B,K,HW]``, ``h = s (a g + d / HW)``, by their factors.

    a is one-hot of the CAM's class; of the contrast, also ``-1 / (K-1)`` at each other class.
    """

    classes: Tensor
    """``[B]``: the CAM's."""
    cam: Tensor
    """g ``[B,HW]``, contiguous."""
    logits: Tensor | None
    """d ``[B,K]``, contiguous; None: 0."""
    upstream: Tensor
    """s ``[B]``; 1 where d is None."""
    contrast: bool


class HeadForward(NamedTuple):
    """Results of the head's forward, then what its backward needs."""

    terms: Tensor
    """``[5,B]``: total, entropy, classification, focus, saliency."""
    logits: Tensor
    """``[B,K]``."""
    cam: Tensor
    """``[B,H,W]``."""
    classes: Tensor
    """``[B]`` class of each CAM."""
    pooled: Tensor
    """``[B,C]``; empty where backward does without."""
    grad_cam: Tensor
    """``[B,HW]`` of the loss."""
    grad_logits: Tensor
    """``[B,K]`` of the loss."""


@dataclass(frozen=True)
class HeadArguments:
    """Checked and normalised options of the head.

    scalars: ``[5]`` tensor of the accumulation type on the features' device: classification,
    focus and saliency weight, temperature, label smoothing. One tensor, so that a weight that
    changes with each step neither recompiles a graph nor syncs the device.
    """

    scalars: Tensor
    level: Level
    cam_class: CamClass
    reduction: Reduction
    saliency: Tensor | None
    saliency_mask: Tensor | None
    entropy_target: Tensor | None
    class_weight: Tensor | None
    grad_scale: Tensor | None

    def reduce(self, total: Tensor) -> Tensor:
        """Per-sample losses ``[B]`` to the loss. "mean" divides by B (an empty batch gives 0)."""
        if self.reduction == "none":
            return total
        return total.mean() if self.reduction == "mean" and total.shape[0] else total.sum()


def accumulation_dtype(features: Tensor) -> torch.dtype:
    """float64 for float64 features, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def channels_last(features: Tensor) -> bool:
    """Whether the features' channels are contiguous."""
    return features.stride(1) == 1 and features.shape[1] > 1


def empty_gradient(features: Tensor) -> Tensor:
    """An unwritten gradient of the features: their shape, type, and layout (dense)."""
    layout = torch.channels_last if channels_last(features) else torch.contiguous_format
    return torch.empty(
        features.shape, dtype=features.dtype, device=features.device, memory_format=layout
    )


def inverse_log(cells: int) -> float:
    """``1 / log(cells)``, by which an entropy becomes a share of its largest; 0 of one cell."""
    return 1 / math.log(cells) if cells > 1 else 0.0


def inverse_log_of(cam: Tensor) -> float | Tensor:
    """``inverse_log`` of the cells of CAMs ``[..., P]``.

    Where torch.compile or torch.export trace, a tensor: a float of a symbolic size would tie the
    graph to one number of cells.
    """
    cells = cam.shape[-1]
    if torch.compiler.is_compiling() and cells > 1:
        return cam.new_full((), cells).log().reciprocal()
    return inverse_log(cells)


def flat_threshold(cam: Tensor) -> Tensor:
    """The range ``[..., 1]`` up to which CAMs ``[..., P]`` count as flat.

    It is FLAT_STEPS eps max|z|, at least ``flat_floor``. A test for ``max == min`` would not do:
    cells summed in different orders differ by rounding, and dividing by such a range makes the
    gradient explode.
    """
    relative = FLAT_STEPS * torch.finfo(cam.dtype).eps * cam.abs().amax(-1, keepdim=True)
    return relative.clamp_min(flat_floor(cam.dtype))


def linear(pooled: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits ``[B,K]`` of pooled features ``[B,C]`` in the type of both; bias of any type."""
    return functional.linear(pooled, weight, None if bias is None else bias.to(weight.dtype))


def without_autocast(
    function: Callable[Concatenate[Tensor, Arguments], Result],
) -> Callable[Concatenate[Tensor, Arguments], Result]:
    """``function(features, ...)`` outside autocast, which would round its products to 16 bits.

    Autocast reaches into registered operators, in backward too if that is called under it.
    """

    @functools.wraps(function)
    def exact(features: Tensor, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        device = features.device.type
        # Tensors of torch's meta device have none. Where it is off, asking costs the least.
        if features.is_meta or not torch.is_autocast_enabled(device):
            return function(features, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(features, *args, **kwargs)

    return exact
