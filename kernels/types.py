"""Types of arguments and results, and the few lines that all forms share."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from focus.kernels.terms import CamClass, Entropy, FocusLevel, Reduction, Terms

Number = float | Tensor
"""A setting: a float, or a tensor of one element on the features' device."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Loss = TypeVar("Loss", covariant=True)


class FocusHeadOutput(NamedTuple, Generic[Loss]):
    """Results of :func:`focus.kernels.focus_head` and of :class:`focus.FocusHead`.

    ``loss`` and ``logits`` carry gradient. The other fields are constants:
    :func:`focus.kernels.cam_entropy` gives a CAM and an entropy with gradient. A term is an
    attribute, too: ``focus`` is ``terms.focus``. Without a target, loss and terms are None, and the
    CAM is the predicted class's.

    Examples:
        >>> import torch
        >>> from focus.kernels import focus_head
        >>> features, weight = torch.rand(2, 8, 7, 7), torch.randn(2, 8)
        >>> out = focus_head(features, weight, None, torch.tensor([0, 1]), focus_weight=0.5)
        >>> torch.allclose(out.loss, (out.cross_entropy + 0.5 * out.focus).mean())
        True
    """

    loss: Loss
    """Scalar, or ``[B]`` with ``reduction="none"``."""
    logits: Tensor
    """``[B,K]``."""
    cam: Tensor
    """Raw CAM ``[B,H,W]`` of the class that the loss looks at; no gradient."""
    entropy: Tensor
    """``[B]`` in [0, 1]: 0 = all on one cell, 1 = uniform; no gradient."""
    terms: Terms[Loss]
    """Each ``[B]``, without its weight; no gradient."""

    def __getattr__(self, name: str) -> Loss:
        """Return a term by its name, and ``cross_entropy``, as which users know the first one."""
        if name.startswith("__"):  # torch.compile asks before there are terms
            raise AttributeError(name)
        term: Loss = getattr(self.terms, {"cross_entropy": "classification"}.get(name, name))
        return term


class HeadArguments(NamedTuple):
    """Arguments of :func:`focus.kernels.focus_head`."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    saliency: Tensor | None
    saliency_mask: Tensor | None
    entropy_target: Number | None
    class_weight: Tensor | None
    weights: Terms[Number]
    temperature: Number
    label_smoothing: Number
    focus_level: FocusLevel
    cam_class: CamClass
    entropy: Entropy
    reduction: Reduction


class HeadForward(NamedTuple):
    """Results of the head's forward, and what its backward needs."""

    loss: Tensor
    """Scalar, or ``[B]``."""
    logits: Tensor
    """``[B,K]``."""
    cam: Tensor
    """z ``[B,H,W]``."""
    terms: Tensor
    """``[T + 2,B]``: entropy, the T terms in the order of ``Terms``, and their weighted sum."""
    saved: Tensor
    """``[B,S]``, of each sample g = dloss/dz ``[P]``, d = dloss/dlogits ``[K]`` and the CAM's class
    y; where the classifier has a gradient, u = sum_p g F ``[C]`` and f = mean_p F ``[C]``. The loss
    is reduced as it is."""


def accumulation_dtype(features: Tensor) -> torch.dtype:
    """Return float64 for float64 features, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def channels_last(features: Tensor) -> bool:
    """Return whether the channels are contiguous."""
    return features.stride(1) == 1 and features.shape[1] > 1


def empty_features(
    shape: Sequence[int], dtype: torch.dtype, last: bool, device: torch.device
) -> Tensor:
    """Return unwritten features ``[B,C,H,W]``, dense, with the channels last if ``last``."""
    _, channels, height, width = shape
    cells = height * width
    strides = (1, width * channels, channels) if last else (cells, width, 1)
    return torch.empty_strided(shape, (channels * cells, *strides), dtype=dtype, device=device)


def inverse_log(cells: int) -> float:
    """Return ``1 / log(cells)``, which scales an entropy to [0, 1]; 0 for one cell."""
    return 1 / math.log(cells) if cells > 1 else 0.0


def next_power_of_2(number: int) -> int:
    """Return the smallest power of 2 that is not below a number above 0."""
    return 1 << (number - 1).bit_length()


def flat_floor(dtype: torch.dtype) -> float:
    """Return the range up to which any map is flat: its inverse is near overflow."""
    return torch.finfo(dtype).tiny / torch.finfo(dtype).eps


def linear(pooled: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return logits ``[B,K]`` of pooled features ``[B,C]``; bias ``[K]``, or ``[B,K]``."""
    bias = None if bias is None else bias.to(weight.dtype)
    if bias is None or bias.dim() == 1:
        return functional.linear(pooled, weight, bias)
    return functional.linear(pooled, weight) + bias


def without_autocast(
    function: Callable[Concatenate[Any, Arguments], Result],
) -> Callable[Concatenate[Any, Arguments], Result]:
    """Run a function of a tensor, or of HeadArguments, outside autocast.

    Autocast would round its products to 16 bits.
    """

    @functools.wraps(function)
    def exact(first: Any, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        tensor = first.features if isinstance(first, HeadArguments) else first
        device = tensor.device.type
        # Tensors of torch's meta device have no autocast.
        if tensor.is_meta or not torch.is_autocast_enabled(device):
            return function(first, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(first, *args, **kwargs)

    return exact


def refuse_second_derivative() -> None:
    """Raise RuntimeError in a backward whose own derivative is asked for."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "focus.kernels has no second derivative (create_graph=True): "
            'use_backend("reference") has'
        )
