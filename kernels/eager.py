"""The operations in torch calls, with analytic gradients of all that is large.

With g = dloss/dz [B,P], d = dloss/dlogits [B,K] and s [B] the upstream gradient, the gradient of
the features has rank two, and the classifier needs two sums over the cells, which forward leaves:

    dF[b,c,p] = s (V[b,c] g[b,p] + v[b,c])       v = sum_k d[k] W[k,c] / P
    dW        = (gather of V)^T (s u) + (s d)^T f     u = sum_p g[p] F[c,p],  f = mean_p F[c,p]

    dh/dz_p   = -q_p (z_p - sum_r q_r z_r) / (T^2 log P)

``dh/dz`` is never written ``q (log q + H)``, which is ``0 * -inf`` where q underflows. Features are
worked on in parts that stay in a core's cache, which also bounds what their copy in 32 bits takes.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from focus.kernels.reference import class_vectors, map_entropy, reduce
from focus.kernels.types import (
    FLAT_STEPS,
    HeadArguments,
    HeadForward,
    Level,
    Number,
    accumulation_dtype,
    channels_last,
    empty_features,
    flat_floor,
    inverse_log,
    linear,
    without_autocast,
)

PoolAndProject = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]

PART_ELEMENTS = 2**20
"""Elements of features that are worked on together."""
PRODUCT_SAMPLES = 64
"""Samples whose class vectors, and gradients of pooled features, are made at once."""


@without_autocast
def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Number
) -> tuple[Tensor, Tensor]:
    """Return raw CAMs ``[B,H,W]`` and entropies ``[B]``."""
    _, cams, entropies = class_activation(features, weight, None, index[:, None], temperature)
    return cams[:, 0].clone(), entropies[:, 0].clone()


@without_autocast
def cam_entropy_backward(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    temperature: Number,
    cam: Tensor,
    grad_cam: Tensor | None,
    grad_entropy: Tensor | None,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return gradients of features and weight, each where ``needs`` asks for it."""
    grad = torch.zeros_like(cam).flatten(1) if grad_cam is None else grad_cam.flatten(1)
    if grad_entropy is not None:
        _, slope = _entropy(cam.flatten(1), temperature)
        grad = torch.addcmul(grad, grad_entropy[:, None], slope)
    grad_weight = grad_features = None
    if needs[1]:
        grad_weight = _scatter_rows(weight, index, _over_cells(features, grad), contrast=False)
        grad_weight = grad_weight.to(weight.dtype)
    if needs[0]:
        last = channels_last(features)
        grad_features = empty_features(features.shape, features.dtype, last, features.device)
        _write_gradient(grad_features, weight, index, grad, None, contrast=False)
    return grad_features, grad_weight


@without_autocast
def class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Number
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]``."""
    weight = weight.to(accumulation_dtype(features))
    pooled, cams = _pool_and_project(features, weight[_existing(classes, len(weight))])
    cams = _nan_where_missing(cams, classes, len(weight))
    entropies, _ = _entropy(cams, temperature)
    return linear(pooled, weight, bias), cams.unflatten(2, features.shape[2:]), entropies


@without_autocast
def focus_head_forward(
    given: HeadArguments, need_weight: bool, pool_and_project: PoolAndProject | None = None
) -> HeadForward:
    """Return the loss, its terms, and what the backward needs.

    need_weight: whether the classifier has a gradient. pool_and_project: in the place of this
    module's.
    """
    features, target, classes = given.features, given.target, len(given.weight)
    pool_and_project = pool_and_project or _pool_and_project
    weight = given.weight.to(accumulation_dtype(features))
    if given.cam_class == "predicted":
        index = linear(pool_and_project(features, None)[0], weight, given.bias).argmax(1)
    else:
        index = target.argmax(1) if target.dim() == 2 else target.clone()
    vectors = _class_vectors(weight, index, given.cam_class == "contrast")
    pooled, cams = pool_and_project(features, vectors[:, None])
    logits, cam = linear(pooled, weight, given.bias), cams.flatten(1)
    share = target.to(logits.dtype)
    if target.dim() == 1:
        cam = _nan_where_missing(cam, target, classes)
        share = torch.zeros_like(logits).scatter_(1, _existing(target, classes)[:, None], 1)
        share = _nan_where_missing(share, target, classes)

    a, b, c = given.classification_weight, given.focus_weight, given.saliency_weight
    classification, grad_logits = _cross_entropy(logits, share, given)
    entropy, slope = _entropy(cam, given.temperature)
    human = None if given.saliency is None else given.saliency.to(cam.dtype).flatten(1)
    if human is not None and given.saliency_mask is not None:
        human = torch.where(given.saliency_mask[:, None], human, 0)
    focus, sign = _focus(entropy, human, given.entropy_target, given.level)
    total = _plus(a * classification, b, focus)
    grad_cam = slope * (b if sign is None else (b * sign)[:, None])
    saliency = torch.zeros_like(total)
    if human is not None:
        saliency, grad_saliency = _saliency(cam, human, given.saliency_mask)
        total = _plus(total, c, saliency)
        grad_cam = _plus(grad_cam, c, grad_saliency)
    grad_logits = a * grad_logits
    if given.reduction == "mean":
        of_one = 1 / max(len(cam), 1)
        grad_cam, grad_logits = of_one * grad_cam, of_one * grad_logits
    none = cam.new_empty(0)
    return HeadForward(
        loss=reduce(total, given.reduction),
        logits=logits,
        cam=cam.view(len(cam), *features.shape[2:]),
        terms=torch.stack((entropy, classification, focus, saliency)),
        classes=index,
        grad_cam=grad_cam,
        grad_logits=grad_logits,
        pooled=pooled if need_weight else none,
        projected=_over_cells(features, grad_cam) if need_weight else none,
    )


@without_autocast
def focus_head_backward(
    grad_cam: Tensor,
    grad_logits: Tensor,
    pooled: Tensor,
    projected: Tensor,
    classes: Tensor,
    weight: Tensor,
    upstream: Tensor | None,
    upstream_logits: Tensor | None,
    grad_scale: Tensor | None,
    contrast: bool,
    out: Tensor | None,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Write the gradient of the features into ``out``; return those of weight and bias.

    upstream: scalar or ``[B]``, of the loss; upstream_logits ``[B,K]``. They are folded into the
    small gradients, before any rounding to the features' type.
    """
    scale = 1.0 if grad_scale is None else grad_scale.to(grad_cam.dtype)
    s = grad_cam.new_zeros(()) if upstream is None else upstream * scale
    s = s.expand(len(grad_cam))[:, None]
    grad_logits = s * grad_logits
    if upstream_logits is not None:
        grad_logits = grad_logits + scale * upstream_logits
    grad_weight = None
    if needs[0]:
        grad_weight = _scatter_rows(weight, classes, s * projected, contrast)
        grad_weight = grad_weight.addmm_(grad_logits.T, pooled).to(weight.dtype)
    if out is not None:
        _write_gradient(out, weight, classes, s * grad_cam, grad_logits, contrast)
    return grad_weight, grad_logits.sum(0) if needs[1] else None


def _plus(total: Tensor, factor: Number, term: Tensor) -> Tensor:
    """Return ``total + factor * term``, rounded once."""
    factor = factor if isinstance(factor, Tensor) else term.new_full((), factor)
    return torch.addcmul(total, factor, term)


def _class_vectors(weight: Tensor, index: Tensor, contrast: bool) -> Tensor:
    """Return V ``[B,C]``."""
    return class_vectors(weight, _existing(index, len(weight)), contrast)


def _scatter_rows(weight: Tensor, index: Tensor, grad_vectors: Tensor, contrast: bool) -> Tensor:
    """Return the gradient ``[K,C]`` of the class vectors' rows: the transpose of the gather."""
    grad = grad_vectors.new_zeros(weight.shape)
    if _unchecked(index):
        missing = ((index < 0) | (index >= len(weight)))[:, None]
        index, grad_vectors = _existing(index, len(weight)), grad_vectors.masked_fill(missing, 0)
    if not contrast:
        return grad.index_add_(0, index, grad_vectors)
    others = 1 / (len(weight) - 1)
    return grad.index_add_(0, index, (1 + others) * grad_vectors) - others * grad_vectors.sum(0)


def _unchecked(index: Tensor) -> bool:
    """Return whether classes may not exist: on a GPU nobody looks, which would wait for it."""
    return index.device.type != "cpu"


def _existing(index: Tensor, classes: int) -> Tensor:
    return index.clamp(0, classes - 1) if _unchecked(index) else index


def _nan_where_missing(values: Tensor, index: Tensor, classes: int) -> Tensor:
    if not _unchecked(index):
        return values
    return values.masked_fill(((index < 0) | (index >= classes))[..., None], math.nan)


def _parts(features: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield parts of features as ``[b,C,P]`` of the accumulation type, and of tensors beside."""
    size = max(-(-len(features) // max(features.numel() // PART_ELEMENTS, 1)), 1)
    for part, *beside in zip(features.split(size), *(x.split(size) for x in others), strict=True):
        yield part.to(accumulation_dtype(features)).flatten(2), *beside


def _cat(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _over_cells(features: Tensor, weights: Tensor) -> Tensor:
    """Return ``sum_p weights[b,p] F[b,c,p]`` as ``[B,C]``."""
    # g F^T is twice as fast as F g on NCHW.
    parts = _parts(features, weights)
    return _cat([torch.bmm(w[:, None], part.transpose(1, 2))[:, 0] for part, w in parts])


def _pool_and_project(features: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return pooled features ``[B,C]`` and CAMs ``[B,k,P]`` of vectors ``[B,k,C]``."""
    pooled, cams = [], []
    for part, *v in _parts(features, *(() if vectors is None else (vectors,))):
        ones = part.new_full((), 1 / part.shape[2]).expand(len(part), 1, part.shape[2])
        # Where channels are adjacent, a product is faster than mean.
        last = part.stride(1) == 1
        pooled.append(torch.bmm(ones, part.transpose(1, 2))[:, 0] if last else part.mean(2))
        cams += [torch.bmm(x, part) for x in v]
    return _cat(pooled), _cat(cams) if cams else pooled[0]


def _write_gradient(
    out: Tensor,
    weight: Tensor,
    index: Tensor,
    grad_cam: Tensor,
    grad_logits: Tensor | None,
    contrast: bool,
) -> None:
    """Write ``V g + v`` into ``out [B,C,H,W]``."""
    weight = weight.to(grad_cam.dtype)
    last = channels_last(out)
    # [B,P,C] or [B,C,P], as it lies in memory; the other factor runs along the other axis.
    flat = out.permute(0, 2, 3, 1).flatten(1, 2) if last else out.flatten(2)
    along, across = (1, 2) if last else (2, 1)
    spread = None if grad_logits is None else grad_logits / grad_cam.shape[1]
    # Half the batch at most, since they show in the peak of memory.
    group = max(min(PRODUCT_SAMPLES, -(-len(out) // 2)), 1)
    for start in range(0, len(out), group):
        some = slice(start, start + group)
        vectors = _class_vectors(weight, index[some], contrast).unsqueeze(along)
        added = None if spread is None else (spread[some] @ weight).unsqueeze(along)
        _write_products(flat[some], vectors, grad_cam[some].unsqueeze(across), added, last)


def _write_products(
    out: Tensor, vectors: Tensor, cells: Tensor, added: Tensor | None, last: bool
) -> None:
    """Write ``vectors * cells + added``, a part of the samples at a time."""
    size = max(PART_ELEMENTS // max(out[:1].numel(), 1), 1)
    for part in (slice(start, start + size) for start in range(0, len(out), size)):
        # In 32 bits straight into place.
        place = out[part] if out.dtype == vectors.dtype else None
        if added is None:
            result = torch.mul(vectors[part], cells[part], out=place)
        elif last:
            result = torch.addcmul(added[part], vectors[part], cells[part], out=place)
        else:
            # Along rows of 49 cells two passes in the cache are quicker than addcmul's one.
            result = torch.mul(vectors[part], cells[part], out=place)
            result += added[part]
        if place is None:
            out[part].copy_(result)


def _entropy(cam: Tensor, temperature: Number) -> tuple[Tensor, Tensor]:
    """Return ``h`` and ``dh/dz`` of raw CAMs ``[..., P]``."""
    scale = inverse_log(cam.shape[-1])
    shifted = (cam - cam.amax(-1, keepdim=True)) / temperature
    # The clamp keeps 0 * -inf out where a finite CAM spans more than the type's range.
    shifted = shifted.clamp_min_(torch.finfo(cam.dtype).min)
    log_p = shifted.log_softmax(-1)
    p = log_p.exp()
    entropy = (p * log_p).sum(-1) * -scale + 0.0  # of one cell 0, not -0
    mean = (p * shifted).sum(-1, keepdim=True)
    return entropy, p * (mean - shifted) * scale / temperature


def _cross_entropy(logits: Tensor, share: Tensor, given: HeadArguments) -> tuple[Tensor, Tensor]:
    """Return torch's unreduced cross-entropy ``[B]`` and its gradient by the logits ``[B,K]``."""
    smoothing = given.label_smoothing
    share = share + smoothing * (1 / logits.shape[1] - share)
    # A share of 0 is no term at all, also where its log-probability would be -inf.
    log_p = logits.log_softmax(1).clamp_min_(torch.finfo(logits.dtype).min)
    p = log_p.exp()
    if given.class_weight is not None:
        share = share * given.class_weight.to(logits.dtype)
        p = p * share.sum(1, keepdim=True)
    elif given.target.dim() == 2:
        p = p * share.sum(1, keepdim=True)
    return -(share * log_p).sum(1), p - share


def _focus(
    entropy: Tensor, human: Tensor | None, target: Number | None, level: Level
) -> tuple[Tensor, Tensor | None]:
    """Return the focus term ``[B]`` and its derivative by the entropy, None for 1."""
    if level == "minimize":
        return entropy, None
    if level == "none" or (target is None and human is None):
        return torch.zeros_like(entropy), torch.zeros_like(entropy)
    if target is not None:
        excess = entropy - target
    else:
        assert human is not None
        excess = torch.where(human.sum(1) > 0, entropy - map_entropy(human), 0)
    if level == "hinge":
        return excess.relu(), (excess > 0).to(entropy.dtype)
    return excess.abs(), excess.sign()


def _saliency(cam: Tensor, human: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the saliency term ``[B]`` and its gradient by the raw CAM ``[B,HW]``.

    With ``m = (z - min) / r``, ``dm/dz`` has the direct part ``1/r``, and ``-(1 - m)/r`` and
    ``-m/r`` at the minimum and maximum, shared evenly between ties (torch's amin/amax rule).
    """
    half = cam / 2  # the range of the halves cannot overflow
    low, high = half.aminmax(dim=1, keepdim=True)
    span = high - low
    # That of flat_threshold: in a flat CAM max|z| is the mean of |min| and |max|, to rounding.
    relative = (low.abs() + high.abs()) * (FLAT_STEPS / 2 * torch.finfo(cam.dtype).eps)
    flat = span <= relative.clamp_min_(flat_floor(cam.dtype) / 2)
    scaled = ((half - low) / span).masked_fill_(flat, 0)
    error = scaled - human
    by_high = (error * scaled).sum(1, keepdim=True)
    by_low = error.sum(1, keepdim=True) - by_high
    grad = error
    for end, by_end in ((low, by_low), (high, by_high)):
        at_end = half == end
        grad = grad - at_end * (by_end / at_end.sum(1, keepdim=True))
    cells = cam.shape[1]
    term = (error * error).sum(1) / cells
    grad = (grad / (span * cells)).masked_fill_(flat, 0)
    if mask is None:
        return term, grad
    return torch.where(mask, term, 0), torch.where(mask[:, None], grad, 0)
