"""The definitions, in plain torch: the oracle that every other form is tested against.

Features ``F [B,C,H,W]``, classifier ``W [K,C]``, bias ``b [K]``, target ``t [B]``; p runs over the
``H*W`` cells.

    V[b,c]     = W[y_b,c]                                  (class y_b), or for the contrast CAM
                 W[y_b,c] - mean of the other rows of W
    z[b,p]     = sum_c V[b,c] F[b,c,p]                     the raw CAM, without bias
    logits     = mean_p(CAM_k) + b_k                       pooling + classifier + CAM: one product
    p          = softmax(z / T)                            focus distribution
    h          = -sum_p p log p / log(HW)                  in [0, 1]; 0 when HW = 1
    focus      = 0 | |h - h*| | relu(h - h*) | h           levels none, match, hinge, minimize
    saliency   = mean_p (minmax(z) - S)^2                  S the human map on the CAM grid
    loss_b     = a CE_b + b focus_b + c saliency_b

Sources: the CAM is that of Zhou et al. (2016), the saliency term CYBORG's (Boyd et al., 2023). To
lower the entropy of where a network looks while it is trained is Schöttl's (2020, arXiv 2009.12546;
of a Grad-CAM divided by its sum) and Piland et al.'s (2023, arXiv 2303.00818), whose equations were
not available. This project's own are therefore the softmax and the division by log(HW), the four
levels, and the map's entropy as h*. That classes' CAMs should be set against each other is said in
DiffGradCAM (arXiv 2506.08514) and "Divisive Decisions" (arXiv 2507.17000); as a change of the
weight vector alone, the contrast CAM is this project's.

Everything is differentiable by autograd (twice, too) and runs in the accumulation type: float64 for
float64 features, else float32.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focus.kernels.types import (
    FocusHeadOutput,
    HeadArguments,
    accumulation_dtype,
    flat_threshold,
    inverse_log_of,
    without_autocast,
)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grads[0] * scale.to(grads[0].dtype), None


def _scale_gradient(tensor: Tensor, scale: Tensor) -> Tensor:
    scaled: Tensor = _ScaleGradient.apply(tensor, scale)  # type: ignore[no-untyped-call]
    return scaled


def class_vectors(weight: Tensor, index: Tensor, contrast: bool) -> Tensor:
    """``V [B,C]``: the row of each sample's class, minus the mean of the others if ``contrast``."""
    rows = weight[index]
    if not contrast:
        return rows
    return rows - (weight.sum(0) - rows) / (weight.shape[0] - 1)


def normalised_entropy(cam: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """``h`` of raw CAMs ``[..., P]`` over the last dimension, in [0, 1]; 0 when P is 1."""
    log_p = functional.log_softmax(cam / temperature, dim=-1)
    return 0.0 - (log_p.exp() * log_p).sum(-1) * inverse_log_of(cam)  # of one cell 0, not -0


def map_entropy(saliency: Tensor) -> Tensor:
    """``h*`` of maps ``[..., P]`` divided by their sum, with 0 log 0 = 0; 0 for an all-zero map.

    A cell just below 0, as bicubic resizing leaves it, counts as 0.
    """
    total = saliency.sum(-1, keepdim=True)
    share = (saliency / torch.where(total > 0, total, 1)).clamp_min(0)
    entropy: Tensor = torch.special.entr(share).sum(-1)
    return entropy * inverse_log_of(saliency)


def minmax(cam: Tensor) -> Tensor:
    """CAMs ``[..., P]`` scaled to [0, 1]; a flat one (see ``flat_threshold``) becomes 0."""
    low, high = cam.amin(-1, keepdim=True), cam.amax(-1, keepdim=True)
    flat = (high - low).detach() <= flat_threshold(cam.detach())
    scaled: Tensor = torch.where(flat, 0, (cam - low) / torch.where(flat, 1, high - low))
    return scaled


@without_autocast
def cam_entropy(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw CAM ``[B,H,W]`` and entropy ``[B]`` of class ``index [B]``."""
    dtype = accumulation_dtype(features)
    vectors = class_vectors(weight.to(dtype), index, contrast=False)
    cam = torch.einsum("bc,bchw->bhw", vectors, features.to(dtype))
    return cam, normalised_entropy(cam.flatten(1), temperature)


@without_autocast
def class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]`` of ``classes [B,k]``."""
    dtype = accumulation_dtype(features)
    features, weight = features.to(dtype), weight.to(dtype)
    logits = _logits(features, weight, None if bias is None else bias.to(dtype))
    cams = torch.einsum("bkc,bchw->bkhw", weight[classes], features)
    return logits, cams, normalised_entropy(cams.flatten(2), temperature)


@without_autocast
def focus_head(
    features: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, arguments: HeadArguments
) -> FocusHeadOutput:
    """The whole head; see :func:`focus.kernels.focus_head`."""
    a, b, c, temperature, smoothing = arguments.scalars.unbind()
    dtype = accumulation_dtype(features)
    features, weight = features.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    if arguments.grad_scale is not None:
        features = _scale_gradient(features, arguments.grad_scale)
        weight = _scale_gradient(weight, arguments.grad_scale)
        bias = None if bias is None else _scale_gradient(bias, arguments.grad_scale)

    logits = _logits(features, weight, bias)
    classification = _cross_entropy(logits, target, arguments.class_weight, smoothing)

    index = logits.argmax(1) if arguments.cam_class == "predicted" else target
    vectors = class_vectors(weight, index, arguments.cam_class == "contrast")
    cam = torch.einsum("bc,bchw->bhw", vectors, features)
    cells = cam.flatten(1)
    entropy = normalised_entropy(cells, temperature)
    zero = torch.zeros_like(entropy)

    saliency = arguments.saliency
    if saliency is None:
        saliency_term, map_target, has_target = zero, zero, zero > 0
    else:
        human = saliency.to(dtype).flatten(1)
        present = torch.ones_like(zero, dtype=torch.bool)
        if arguments.saliency_mask is not None:
            present = arguments.saliency_mask
        human = torch.where(present[:, None], human, 0)
        error = (minmax(cells) - human).square().mean(1)
        saliency_term = torch.where(present, error, 0)
        map_target, has_target = map_entropy(human), human.sum(1) > 0
    if arguments.entropy_target is not None:
        map_target, has_target = arguments.entropy_target.expand_as(zero), zero == 0

    if arguments.level == "minimize":
        focus = entropy
    elif arguments.level == "match":
        focus = torch.where(has_target, (entropy - map_target).abs(), 0)
    elif arguments.level == "hinge":
        focus = torch.where(has_target, (entropy - map_target).relu(), 0)
    else:
        focus = zero

    total = a * classification + b * focus + c * saliency_term
    return FocusHeadOutput(
        arguments.reduce(total),
        logits.detach(),
        cam.detach(),
        entropy.detach(),
        classification.detach(),
        focus.detach(),
        saliency_term.detach(),
    )


def _logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = features.mean((2, 3)) @ weight.T
    return logits if bias is None else logits + bias


def _cross_entropy(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, smoothing: Tensor
) -> Tensor:
    """torch's unreduced cross-entropy ``[B]``, with the smoothing as a tensor."""
    log_p = functional.log_softmax(logits, 1)
    k = logits.shape[1]
    if class_weight is None:
        hard = -log_p.gather(1, target[:, None])[:, 0]
        return (1 - smoothing) * hard - smoothing / k * log_p.sum(1)
    class_weight = class_weight.to(logits.dtype)
    hard = -(class_weight[target]) * log_p.gather(1, target[:, None])[:, 0]
    return (1 - smoothing) * hard - smoothing / k * (class_weight * log_p).sum(1)
