"""Definitions in plain torch: the oracle that every other form is tested against.

Features ``F [B,C,H,W]``, classifier ``W [K,C]``, bias ``b [K]`` or ``[B,K]``, target ``t [B]`` or
shares ``[B,K]``; p runs over the ``H*W`` cells.

    V[b,c]     = W[y_b,c]                                  (class y_b), or for the contrast CAM
                 W[y_b,c] - mean of the other rows of W
    z[b,p]     = sum_c V[b,c] F[b,c,p]                     the raw CAM, without bias
    logits     = mean_p(CAM_k) + b_k                       pooling + classifier + CAM: one product
    p          = softmax(z / T)                            focus distribution
    h          = -sum_p p log p / log(HW)                  in [0, 1]; 0 when HW = 1
    h_sum      = h of p = (z - min z) / sum(z - min z)     1 for a flat z
    focus      = 0 | |h - h*| | relu(h - h*) | h           levels none, match, hinge, minimize;
                                                           of h, or of h_sum
    saliency   = mean_p (minmax(z) - S)^2                  S the human map on the CAM grid
    loss_b     = sum_t weight_t term_t,b                   CE, focus and saliency

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

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from focus.kernels.terms import FLAT_STEPS, Terms
from focus.kernels.types import (
    FocusHeadOutput,
    HeadArguments,
    Number,
    accumulation_dtype,
    flat_floor,
    inverse_log,
    linear,
    without_autocast,
)

PoolAndProject = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class _Entropy(torch.autograd.Function):
    """-sum q log q of q = softmax(s), twice differentiable.

    The derivative of the product would lose its digits where q is nearly uniform.
    """

    @staticmethod
    def forward(s: Tensor) -> Tensor:
        log_q = s.log_softmax(-1)
        return 0.0 - (log_q.exp() * log_q).sum(-1)  # 0 of one cell, not -0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        q = s.softmax(-1)
        slope: Tensor = q * ((q * s).sum(-1, keepdim=True) - s)
        return grads[0][..., None] * slope


def class_vectors(weight: Tensor, index: Tensor, contrast: bool) -> Tensor:
    """Return ``V [B,C]``: the row of each class, minus the mean of the others if ``contrast``."""
    rows = weight[index]
    if not contrast:
        return rows
    return rows - (weight.sum(0) - rows) / (weight.shape[0] - 1)


def normalised_entropy(cam: Tensor, temperature: Number = 1.0) -> Tensor:
    """Return ``h`` of raw CAMs ``[..., P]`` over the last dimension, in [0, 1]; 0 when P is 1."""
    shifted = (cam - cam.detach().amax(-1, keepdim=True)) / temperature
    # No 0 * -inf where a finite CAM spans more than the type's range; NaN stays.
    entropy: Tensor = _Entropy.apply(torch.where(shifted < -1e30, -1e30, shifted))  # type: ignore[no-untyped-call]
    return entropy * _inverse_log(cam)


def sum_entropy(cam: Tensor) -> Tensor:
    """Return ``h_sum`` of raw CAMs ``[..., P]`` over the last dimension, in [0, 1].

    The softmax of logarithms is the division by the sum. A flat CAM has 1, and no gradient.
    """
    return normalised_entropy(minmax(cam).clamp_min(flat_floor(cam.dtype)).log())


def map_entropy(saliency: Tensor) -> Tensor:
    """Return ``h*`` of maps ``[..., P]`` divided by their sum; 0 for an all-zero map.

    A cell just below 0, as bicubic resizing leaves it, counts as 0.
    """
    total = saliency.sum(-1, keepdim=True)
    share = (saliency / torch.where(total > 0, total, 1)).clamp_min(0)
    entropy: Tensor = torch.special.entr(share).sum(-1)
    return entropy * _inverse_log(saliency)


def minmax(cam: Tensor) -> Tensor:
    """Return CAMs ``[..., P]`` scaled to [0, 1]; a flat one becomes 0.

    A CAM is flat if ``max - min <= 64 eps max|z|``. A test for ``max == min`` would not do: cells
    summed in different orders differ by rounding, and the gradient would explode.
    """
    half = cam / 2  # the range of the halves cannot overflow
    low, high = half.amin(-1, keepdim=True), half.amax(-1, keepdim=True)
    relative = FLAT_STEPS * torch.finfo(cam.dtype).eps * half.detach().abs().amax(-1, keepdim=True)
    flat = (high - low).detach() <= relative.clamp_min(flat_floor(cam.dtype) / 2)
    scaled: Tensor = torch.where(flat, 0, (half - low) / torch.where(flat, 1, high - low))
    return scaled


def _inverse_log(cam: Tensor) -> float | Tensor:
    """Return ``1 / log(P)``, which scales entropies of ``[..., P]`` to [0, 1]; 0 for one cell.

    A tensor where torch.compile or torch.export trace: a float of a symbolic size would tie the
    graph to one number of cells.
    """
    cells = cam.shape[-1]
    if torch.compiler.is_compiling() and cells > 1:
        return cam.new_full((), cells).log().reciprocal()
    return inverse_log(cells)


def pool_and_project(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return pooled features ``[B,C]`` and CAMs ``[B,k,P]`` of vectors ``[B,k,C]``."""
    features = features.to(vectors.dtype)
    return features.mean((2, 3)), torch.einsum("bkc,bchw->bkhw", vectors, features).flatten(2)


@without_autocast
def cam_entropy(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    temperature: Number,
    pool_and_project: PoolAndProject = pool_and_project,
) -> tuple[Tensor, Tensor]:
    """Return raw CAMs ``[B,H,W]`` and entropies ``[B]`` of class ``index [B]``.

    pool_and_project: reads the features, here and below.
    """
    _, cams, entropies = class_activation(
        features, weight, None, index[:, None], temperature, pool_and_project
    )
    return cams[:, 0], entropies[:, 0]


@without_autocast
def class_activation(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    classes: Tensor,
    temperature: Number,
    pool_and_project: PoolAndProject = pool_and_project,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[B,K]``, raw CAMs ``[B,k,H,W]``, entropies ``[B,k]`` of ``classes [B,k]``."""
    weight = weight.to(accumulation_dtype(features))
    pooled, cams = pool_and_project(features, weight[classes])
    entropies = normalised_entropy(cams, temperature)
    return linear(pooled, weight, bias), cams.unflatten(2, features.shape[2:]), entropies


@without_autocast
def focus_head(
    arguments: HeadArguments, pool_and_project: PoolAndProject = pool_and_project
) -> FocusHeadOutput[Tensor]:
    """Return the whole head; see :func:`focus.kernels.focus_head`."""
    features, bias = arguments.features, arguments.bias
    constants = {
        name: _constant(value)
        for name, value in arguments._asdict().items()
        if name not in ("features", "weight", "bias")
    }
    arguments = arguments._replace(**constants)
    dtype = accumulation_dtype(features)
    weight = arguments.weight.to(dtype)
    if arguments.cam_class == "predicted":
        one_row = weight[:1].expand(features.shape[0], 1, -1)
        by = linear(pool_and_project(features.detach(), one_row)[0], weight, bias)
    else:
        by = shares(arguments.target, len(weight), dtype)
    vectors = class_vectors(weight, by.argmax(1), arguments.cam_class == "contrast")
    pooled, cams = pool_and_project(features, vectors[:, None])
    logits, cam = linear(pooled, weight, bias), cams[:, 0]
    entropy = normalised_entropy(cam, arguments.temperature)
    terms = losses(cam, logits, entropy, arguments)
    total: Any = sum(weight * term for weight, term in zip(arguments.weights, terms, strict=True))
    cam = cam.detach().unflatten(1, features.shape[2:])
    loss = reduce(total, arguments.reduction)
    entropy, *terms_of_samples = torch.stack([entropy, *terms]).detach().unbind()
    return FocusHeadOutput(loss, logits, cam, entropy, Terms(*terms_of_samples))


def _constant(value: Any) -> Any:
    """Return an argument, or the weights, without gradient."""
    if isinstance(value, Terms):
        return Terms(*(_constant(weight) for weight in value))
    return value.detach() if isinstance(value, Tensor) else value


def losses(cam: Tensor, logits: Tensor, entropy: Tensor, arguments: HeadArguments) -> Terms[Tensor]:
    """Return the terms ``[B]`` of CAMs ``[B,P]``, their entropies ``[B]`` and logits ``[B,K]``."""
    classes, smoothing = logits.shape[1], arguments.label_smoothing
    smoothed = (1 - smoothing) * shares(arguments.target, classes, logits.dtype)
    smoothed = smoothed + smoothing / classes
    if arguments.class_weight is not None:
        smoothed = smoothed * arguments.class_weight.to(logits.dtype)
    log_p = functional.log_softmax(logits, 1)
    # A share of 0 is no term at all, also where its log-probability is -inf.
    classification = -torch.where(smoothed == 0, 0, smoothed * log_p).sum(1)

    h = entropy if arguments.entropy == "softmax" else sum_entropy(cam)
    zero = torch.zeros_like(entropy)
    saliency, map_target, has_target = zero, zero, zero > 0
    if arguments.saliency is not None:
        human = arguments.saliency.to(cam.dtype).flatten(1)
        present = zero == 0 if arguments.saliency_mask is None else arguments.saliency_mask
        human = torch.where(present[:, None], human, 0)
        saliency = torch.where(present, (minmax(cam) - human).square().mean(1), 0)
        map_target, has_target = map_entropy(human), human.sum(1) > 0
    if arguments.entropy_target is not None:
        map_target, has_target = zero + arguments.entropy_target, zero == 0

    focus = zero
    if arguments.focus_level == "minimize":
        focus = h
    elif arguments.focus_level != "none":
        excess = h - map_target
        excess = excess.relu() if arguments.focus_level == "hinge" else excess.abs()
        focus = torch.where(has_target, excess, 0)
    return Terms(classification=classification, focus=focus, saliency=saliency)


def shares(target: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return the share of each class ``[B,K]`` in the target."""
    return (target if target.dim() == 2 else functional.one_hot(target, classes)).to(dtype)


def reduce(total: Tensor, reduction: str) -> Tensor:
    """Return the loss of losses ``[B]``. "mean" divides by B; an empty batch gives 0."""
    if reduction == "none":
        return total
    return total.mean() if reduction == "mean" and len(total) else total.sum()
