"""The operations in torch calls with analytic gradients: the form that CPU tensors take.

Gradients are rank-1 per sample, so nothing here has the size ``[B,K,H,W]`` and the features'
gradient is written once:

    g[b,p]     = dL/dz[b,p]                    dpool[b,c] = sum_k dlogits[b,k] W[k,c]
    dF[b,c,p]  = V[b,c] g[b,p] + dpool[b,c] / HW
    u[b,c]     = sum_p g[b,p] F[b,c,p]         (gradient of V)
    dW         = (gather of V)^T u + dlogits^T pooled,      db = sum_b dlogits
    dh/dz_p    = -p_p (z_p - sum_q p_q z_q) / (T^2 log HW)

``dh/dz`` is never written ``p (log p + H)``, which is ``0 * -inf`` where p underflows.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from focus.kernels.types import (
    CamClass,
    Level,
    accumulation_dtype,
    flat_threshold,
    without_autocast,
)

# Elements of features that a product reads while they stay in a core's cache.
PART_ELEMENTS = 2**20


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
    """``[B,HW]`` of the total."""
    grad_logits: Tensor
    """``[B,K]`` of the total."""


@without_autocast
def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw CAM ``[B,H,W]`` and entropy ``[B]``."""
    weight = weight.to(accumulation_dtype(features))
    batch, _, height, width = features.shape
    cam = weight.new_empty((batch, height * width))
    for part in _parts(features):
        cam[part] = _cam(_matrix(features[part]), weight[index[part]])
    _, entropy, _ = _softmax_entropy(cam, temperature)
    return _grid(cam, features), entropy


@without_autocast
def cam_entropy_backward(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    temperature: Tensor,
    cam: Tensor,
    grad_cam: Tensor,
    grad_entropy: Tensor,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of features and weight, each where ``needs`` asks for it."""
    rows = weight.to(accumulation_dtype(features))[index]
    _, _, slope = _softmax_entropy(cam.flatten(1), temperature)
    grad = grad_cam.flatten(1) + grad_entropy[:, None] * slope
    grad_features = _grad_features(features, rows, grad, None) if needs[0] else None
    if not needs[1]:
        return grad_features, None
    grad_weight = _scatter_rows(weight, index, _pool(features, grad), contrast=False)
    return grad_features, grad_weight.to(weight.dtype)


@without_autocast
def class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]``."""
    weight = weight.to(accumulation_dtype(features))
    batch, _, height, width = features.shape
    logits = weight.new_empty((batch, len(weight)))
    cams = weight.new_empty((batch, classes.shape[1], height * width))
    for part in _parts(features):
        matrix = _matrix(features[part])
        logits[part] = _linear(matrix.mean(2), weight, bias)
        cams[part] = torch.bmm(weight[classes[part]], matrix)
    _, entropy, _ = _softmax_entropy(cams, temperature)
    return logits, cams.unflatten(2, features.shape[2:]), entropy


@without_autocast
def focus_head_forward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    saliency: Tensor | None,
    saliency_mask: Tensor | None,
    entropy_target: Tensor | None,
    class_weight: Tensor | None,
    scalars: Tensor,
    level: Level,
    cam_class: CamClass,
) -> HeadForward:
    """Everything small: terms and the gradients of ``total`` by CAM and logits."""
    a, b, c, temperature, smoothing = scalars.unbind()
    weight = weight.to(accumulation_dtype(features))
    batch, channels, height, width = features.shape
    pooled = weight.new_empty((batch, channels))
    logits = weight.new_empty((batch, len(weight)))
    cam = weight.new_empty((batch, height * width))
    index = torch.empty_like(target) if cam_class == "predicted" else target.clone()
    for part in _parts(features):
        matrix = _matrix(features[part])
        pooled[part] = matrix.mean(2)
        logits[part] = _linear(pooled[part], weight, bias)
        if cam_class == "predicted":
            index[part] = logits[part].argmax(1)
        cam[part] = _cam(matrix, _class_vectors(weight, index[part], cam_class == "contrast"))
    classification, grad_logits = _cross_entropy(logits, target, class_weight, smoothing)
    _, entropy, slope = _softmax_entropy(cam, temperature)
    human, present = _human_maps(cam, saliency, saliency_mask)
    focus, sign = _focus(entropy, human, entropy_target, level)
    saliency_term, grad_saliency = _saliency(cam, human, present)
    total = a * classification + b * focus + c * saliency_term
    return HeadForward(
        terms=torch.stack((total, entropy, classification, focus, saliency_term)),
        logits=logits,
        cam=_grid(cam, features),
        classes=index,
        pooled=pooled,
        grad_cam=(b * sign)[:, None] * slope + c * grad_saliency,
        grad_logits=a * grad_logits,
    )


@without_autocast
def focus_head_backward(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    pooled: Tensor,
    grad_cam: Tensor,
    grad_logits: Tensor,
    upstream: Tensor,
    cam_class: CamClass,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of features, weight and bias for upstream gradients ``[B]`` of ``total``.

    The upstream gradient is folded into the small gradients, before any rounding to the features'
    type, so that it costs no pass over the features and is right per sample.
    """
    contrast = cam_class == "contrast"
    grad_cam, grad_logits = upstream[:, None] * grad_cam, upstream[:, None] * grad_logits
    wide = weight.to(accumulation_dtype(features))
    grad_features = grad_weight = None
    if needs[0]:
        vectors = _class_vectors(wide, index, contrast)
        grad_features = _grad_features(features, vectors, grad_cam, grad_logits @ wide)
    if needs[1]:
        grad_weight = _scatter_rows(weight, index, _pool(features, grad_cam), contrast)
        grad_weight = grad_weight.addmm_(grad_logits.T, pooled).to(weight.dtype)
    return grad_features, grad_weight, grad_logits.sum(0) if needs[2] else None


def _class_vectors(weight: Tensor, index: Tensor, contrast: bool) -> Tensor:
    rows = weight[index]
    return rows - (weight.sum(0) - rows) / (len(weight) - 1) if contrast else rows


def _scatter_rows(weight: Tensor, index: Tensor, grad_vectors: Tensor, contrast: bool) -> Tensor:
    """Gradient ``[K,C]`` of the class vectors' rows: the transpose of ``_class_vectors``."""
    grad = grad_vectors.new_zeros(weight.shape)
    if not contrast:
        return grad.index_add_(0, index, grad_vectors)
    others = 1 / (len(weight) - 1)
    return grad.index_add_(0, index, (1 + others) * grad_vectors) - others * grad_vectors.sum(0)


def empty_gradient(features: Tensor) -> Tensor:
    """An unwritten gradient of the features: their shape, type, and layout (dense)."""
    layout = torch.channels_last if _channels_last(features) else torch.contiguous_format
    return torch.empty(
        features.shape, dtype=features.dtype, device=features.device, memory_format=layout
    )


def _channels_last(features: Tensor) -> bool:
    return features.stride(1) == 1 and features.shape[1] > 1


def _grid(cells: Tensor, features: Tensor) -> Tensor:
    return cells.view(len(cells), *features.shape[2:])


def _parts(features: Tensor) -> list[slice]:
    """Slices of the batch whose features stay in the cache from one product to the next.

    They also bound what 16-bit features cost: only a part of them is there in 32 bits at a time.
    """
    sample = features.shape[1] * features.shape[2] * features.shape[3]
    size = max(1, PART_ELEMENTS // sample)
    return [slice(start, start + size) for start in range(0, len(features), size)]


def _matrix(features: Tensor) -> Tensor:
    """Features as ``[B,C,HW]`` of the accumulation type; a view where type and strides allow."""
    return features.to(accumulation_dtype(features)).flatten(2)


def _cam(matrix: Tensor, vectors: Tensor) -> Tensor:
    """``sum_c V F`` as ``[B,HW]``."""
    return torch.bmm(vectors[:, None], matrix)[:, 0]


def _pool(features: Tensor, weights: Tensor) -> Tensor:
    """``sum_p weights[b,p] F[b,c,p]`` as ``[B,C]``."""
    pooled = weights.new_empty((len(features), features.shape[1]))
    for part in _parts(features):
        # g F^T is twice as fast as F g on NCHW.
        matrix = _matrix(features[part])
        pooled[part] = torch.bmm(weights[part, None], matrix.transpose(1, 2))[:, 0]
    return pooled


def _grad_features(
    features: Tensor, vectors: Tensor, grad_cam: Tensor, grad_pooled: Tensor | None
) -> Tensor:
    """``V g + dpool / HW`` in the features' shape, type and memory layout."""
    out = empty_gradient(features)
    spread = None if grad_pooled is None else grad_pooled / grad_cam.shape[1]
    last = _channels_last(features)
    # [B,HW,C] or [B,C,HW], as it lies in memory; the other factor runs along the other axis.
    cells = out.permute(0, 2, 3, 1).flatten(1, 2) if last else out.flatten(2)
    along, across = (1, 2) if last else (2, 1)
    for part in _parts(features):
        channel, cell = vectors[part].unsqueeze(along), grad_cam[part].unsqueeze(across)
        # Straight into place, or through 32 bits.
        written = cells[part] if out.dtype == vectors.dtype else None
        if spread is not None and last:
            added = spread[part].unsqueeze(along)
            result = torch.addcmul(added, channel, cell, out=written)
        else:
            result = torch.mul(channel, cell, out=written)
            if spread is not None:
                # Along rows of 49 cells two passes in the cache are quicker than addcmul's one.
                result += spread[part].unsqueeze(along)
        if written is None:
            cells[part] = result
    return out


def _linear(pooled: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return (
        pooled @ weight.T if bias is None else torch.addmm(bias.to(weight.dtype), pooled, weight.T)
    )


def _softmax_entropy(cam: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p, ``h`` and ``dh/dz`` of raw CAMs ``[..., P]``.

    ``H = log S - sum e (z - m) / S`` with ``e = exp(z - m)`` stays exact to rounding, where
    ``log S + m - E[z]`` cancels.
    """
    cells = cam.shape[-1]
    scale = 1 / math.log(cells) if cells > 1 else 0.0
    # The clamp keeps 0 * -inf out where a finite CAM spans more than the type's range.
    shifted = (cam - cam.amax(-1, keepdim=True)) / temperature
    shifted = shifted.clamp_min(torch.finfo(cam.dtype).min)
    exp = shifted.exp()
    total = exp.sum(-1, keepdim=True)
    p = exp / total
    mean = (p * shifted).sum(-1, keepdim=True)
    entropy = (total.log() - mean)[..., 0] * scale
    return p, entropy, p * (mean - shifted) * (scale / temperature)


def _cross_entropy(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, smoothing: Tensor
) -> tuple[Tensor, Tensor]:
    """torch's unreduced cross-entropy ``[B]`` and its gradient by the logits ``[B,K]``."""
    log_p = logits.log_softmax(1)
    hot = torch.zeros_like(logits).scatter_(1, target[:, None], 1)
    share = (1 - smoothing) * hot + smoothing / logits.shape[1]
    if class_weight is not None:
        share = share * class_weight.to(logits.dtype)
    # A share of 0 is no term at all, also where its log-probability is -inf.
    loss = -torch.where(share == 0, 0, share * log_p).sum(1)
    return loss, log_p.exp() * share.sum(1, keepdim=True) - share


def _human_maps(
    cam: Tensor, saliency: Tensor | None, mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Maps ``[B,HW]``, zero where absent, and which are present ``[B]``."""
    if saliency is None:
        return None, None
    human = saliency.to(cam.dtype).flatten(1)
    present = torch.ones(len(cam), dtype=torch.bool, device=cam.device) if mask is None else mask
    return torch.where(present[:, None], human, 0), present


def _focus(
    entropy: Tensor, human: Tensor | None, target: Tensor | None, level: Level
) -> tuple[Tensor, Tensor]:
    """Focus term ``[B]`` and its derivative by the entropy."""
    if level == "minimize":
        return entropy.clone(), torch.ones_like(entropy)
    if level == "none" or (target is None and human is None):
        return torch.zeros_like(entropy), torch.zeros_like(entropy)
    if target is not None:
        excess = entropy - target
    else:
        assert human is not None
        total = human.sum(1, keepdim=True)
        cells = human.shape[1]
        scale = 1 / math.log(cells) if cells > 1 else 0.0
        own = torch.special.entr(human / torch.where(total > 0, total, 1)).sum(1) * scale
        excess = torch.where(total[:, 0] > 0, entropy - own, 0)
    if level == "hinge":
        return excess.relu(), (excess > 0).to(entropy.dtype)
    return excess.abs(), excess.sign()


def _saliency(cam: Tensor, human: Tensor | None, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Saliency term ``[B]`` and its gradient by the raw CAM ``[B,HW]``.

    With ``m = (z - min) / r``, ``dm/dz`` has the direct part ``1/r``, and ``-(1 - m)/r`` and
    ``-m/r`` at the minimum and maximum, shared evenly between ties (torch's amin/amax rule).
    """
    if human is None or present is None:
        return torch.zeros_like(cam[:, 0]), torch.zeros_like(cam)
    half = cam / 2  # the range of the halves cannot overflow
    low, high = half.amin(1, keepdim=True), half.amax(1, keepdim=True)
    flat = high - low <= flat_threshold(half)
    span = torch.where(flat, 1, high - low)
    scaled = torch.where(flat, 0, (half - low) / span)
    error = scaled - human
    slope = error * (2 / cam.shape[1])
    at_low, at_high = (half == low).to(cam.dtype), (half == high).to(cam.dtype)
    at_low, at_high = at_low / at_low.sum(1, keepdim=True), at_high / at_high.sum(1, keepdim=True)
    by_high = (slope * scaled).sum(1, keepdim=True)
    by_low = slope.sum(1, keepdim=True) - by_high
    grad = (slope - at_low * by_low - at_high * by_high) / (2 * span)
    keep = present[:, None]
    term = torch.where(present, error.square().mean(1), 0)
    return term, torch.where(keep & ~flat, grad, 0)
