"""The operations in torch calls with analytic gradients: the form that CPU tensors take.

Gradients are of rank two at most per sample, so nothing here has the size ``[B,K,H,W]`` and the
features' gradient is written once:

    g[b,p]     = dL/dz[b,p]                    dpool[b,c] = sum_k dlogits[b,k] W[k,c]
    dF[b,c,p]  = V[b,c] g[b,p] + dpool[b,c] / HW
    u[b,c]     = sum_p g[b,p] F[b,c,p]         (gradient of V)
    dW         = (gather of V)^T u + dlogits^T pooled,      db = sum_b dlogits
    dh/dz_p    = -p_p (z_p - sum_q p_q z_q) / (T^2 log HW)

``dh/dz`` is never written ``p (log p + H)``, which is ``0 * -inf`` where p underflows.
"""

import math

import torch
from torch import Tensor

from focus.kernels.types import (
    FLAT_STEPS,
    CamClass,
    HeadForward,
    Level,
    Reduction,
    accumulation_dtype,
    channels_last,
    empty_gradient,
    flat_floor,
    inverse_log_of,
    linear,
    without_autocast,
)

# Elements of features that a product reads while they stay in a core's cache.
PART_ELEMENTS = 2**20
# Samples whose class vectors, and gradients of pooled features, are made at once.
PRODUCT_SAMPLES = 64


@without_autocast
def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw CAM ``[B,H,W]`` and entropy ``[B]``."""
    wide = weight.to(accumulation_dtype(features))
    size = _part_size(features)
    parts = zip(features.split(size), _existing(index, len(weight)).split(size), strict=True)
    cam = _join([_products(wide.index_select(0, i), _matrix(f)) for f, i in parts])
    cam = _nan_where_missing(cam, index, len(weight))
    entropy, _ = _entropy(cam, temperature)
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
    _, slope = _entropy(cam.flatten(1), temperature)
    grad = torch.addcmul(grad_cam.flatten(1), grad_entropy[:, None], slope)
    grad_features = grad_weight = None
    if needs[1]:
        grad_weight = _scatter_rows(weight, index, _pool(features, grad), contrast=False)
        grad_weight = grad_weight.to(weight.dtype)
    if needs[0]:
        grad_features = _grad_features(features, weight, index, grad, None, contrast=False)
    return grad_features, grad_weight


@without_autocast
def class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]``."""
    weight = weight.to(accumulation_dtype(features))
    if torch.compiler.is_compiling():
        # One part: a graph would have their number in it, and so be of one batch size.
        parts = [(features, classes)]
    else:
        size = _part_size(features)
        parts = list(zip(features.split(size), classes.split(size), strict=True))
    found = []
    for part, chosen in parts:
        matrix = _matrix(part)
        found.append((_mean(matrix), torch.bmm(weight[_existing(chosen, len(weight))], matrix)))
    pooled, cams = (_join(field) for field in zip(*found, strict=True))
    cams = _nan_where_missing(cams, classes, len(weight))
    logits = linear(pooled, weight, bias)
    entropy, _ = _entropy(cams, temperature)
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
    reduction: Reduction,
) -> HeadForward:
    """Everything small: terms, and the gradients of the reduced total by CAM and logits."""
    a, b, c, temperature, smoothing = scalars.unbind()
    weight = weight.to(accumulation_dtype(features))
    predicted = cam_class == "predicted"
    total_row = _total_row(weight, cam_class == "contrast")
    size = _part_size(features)
    found, guesses = [], []
    for part, index in zip(features.split(size), target.split(size), strict=True):
        matrix = _matrix(part)
        pooled = _mean(matrix)
        if predicted:
            guesses.append(linear(pooled, weight, bias))
        index = guesses[-1].argmax(1) if predicted else index.clone()
        found.append((pooled, index, _products(_class_vectors(weight, index, total_row), matrix)))
    pooled, index, cam = (_join(field) for field in zip(*found, strict=True))
    cam = _nan_where_missing(cam, target, len(weight))
    # Of the whole batch where possible: with many classes each product reads a large weight.
    logits = _join(guesses) if predicted else linear(pooled, weight, bias)

    classification, grad_logits = _cross_entropy(logits, target, class_weight, smoothing)
    entropy, slope = _entropy(cam, temperature)
    human = _human_maps(cam, saliency, saliency_mask)
    focus, sign = _focus(entropy, human, entropy_target, level)
    total = torch.addcmul(a * classification, b, focus)
    grad_cam = slope * (b if sign is None else (b * sign)[:, None])
    if human is None:
        saliency_term = torch.zeros_like(total)
    else:
        saliency_term, grad_saliency = _saliency(cam, human, saliency_mask)
        total = torch.addcmul(total, c, saliency_term)
        grad_cam = torch.addcmul(grad_cam, c, grad_saliency)
    grad_logits = a * grad_logits
    if reduction == "mean":
        share = 1 / max(len(cam), 1)
        grad_cam, grad_logits = grad_cam.mul_(share), grad_logits.mul_(share)
    return HeadForward(
        terms=torch.stack((total, entropy, classification, focus, saliency_term)),
        logits=logits,
        cam=_grid(cam, features),
        classes=index,
        pooled=pooled,
        grad_cam=grad_cam,
        grad_logits=grad_logits,
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
    """Gradients of features, weight and bias for upstream gradients ``[B]`` of the loss.

    The upstream gradient is folded into the small gradients, before any rounding to the features'
    type, so that it costs no pass over the features and is right per sample.
    """
    contrast = cam_class == "contrast"
    upstream = upstream[:, None]
    grad_cam, grad_logits = upstream * grad_cam, upstream * grad_logits
    grad_features = grad_weight = None
    if needs[1]:
        grad_weight = _scatter_rows(weight, index, _pool(features, grad_cam), contrast)
        grad_weight = grad_weight.addmm_(grad_logits.T, pooled).to(weight.dtype)
    if needs[0]:
        grad_features = _grad_features(features, weight, index, grad_cam, grad_logits, contrast)
    return grad_features, grad_weight, grad_logits.sum(0) if needs[2] else None


def _total_row(weight: Tensor, contrast: bool) -> Tensor | None:
    """Sum ``[C]`` of the rows, which the contrast takes; made once, as it reads all the weight."""
    return weight.sum(0) if contrast else None


def _class_vectors(weight: Tensor, index: Tensor, total_row: Tensor | None) -> Tensor:
    """``[B,C]``; with the sum of the rows, of the contrast."""
    rows = weight.index_select(0, _existing(index, len(weight)))
    return rows if total_row is None else rows - (total_row - rows) / (len(weight) - 1)


def _scatter_rows(weight: Tensor, index: Tensor, grad_vectors: Tensor, contrast: bool) -> Tensor:
    """Gradient ``[K,C]`` of the class vectors' rows: the transpose of ``_class_vectors``."""
    grad = grad_vectors.new_zeros(weight.shape)
    if (missing := _missing(index, len(weight))) is not None:
        index, grad_vectors = _existing(index, len(weight)), grad_vectors.masked_fill(missing, 0)
    if not contrast:
        return grad.index_add_(0, index, grad_vectors)
    others = 1 / (len(weight) - 1)
    return grad.index_add_(0, index, (1 + others) * grad_vectors) - others * grad_vectors.sum(0)


def _unchecked(index: Tensor) -> bool:
    """On a GPU nothing has looked whether the classes exist: that would wait for it.

    Nor where torch.compile or torch.export trace.
    """
    return index.device.type != "cpu" or torch.compiler.is_compiling()


def _missing(index: Tensor, classes: int) -> Tensor | None:
    """Which of ``index [...]`` are none of so many classes, as ``[...,1]``; None: none."""
    return ((index < 0) | (index >= classes))[..., None] if _unchecked(index) else None


def _existing(index: Tensor, classes: int) -> Tensor:
    """The index, with a class that exists in the place of each that does not."""
    return index.clamp(0, classes - 1) if _unchecked(index) else index


def _nan_where_missing(values: Tensor, index: Tensor, classes: int) -> Tensor:
    missing = _missing(index, classes)
    return values if missing is None else values.masked_fill(missing, math.nan)


def _grid(cells: Tensor, features: Tensor) -> Tensor:
    return cells.view(len(cells), *features.shape[2:])


def _part_size(features: Tensor) -> int:
    """Samples that are worked on together, so that they stay in the cache between products.

    This also bounds what 16-bit features cost: only a part of them is there in 32 bits at a time.
    """
    parts = max(features.numel() // PART_ELEMENTS, 1)
    return max(-(-len(features) // parts), 1)


def _join(parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _matrix(features: Tensor) -> Tensor:
    """Features as ``[B,C,HW]`` of the accumulation type; a view where type and strides allow."""
    return features.to(accumulation_dtype(features)).flatten(2)


def _products(rows: Tensor, matrices: Tensor) -> Tensor:
    """Each sample's row times its matrix, ``[B,n]`` by ``[B,n,m]`` to ``[B,m]``."""
    return torch.bmm(rows.unsqueeze(1), matrices).squeeze(1)


def _mean(matrix: Tensor) -> Tensor:
    """Pooled features ``[B,C]``; where channels are adjacent, a product is faster than ``mean``."""
    if matrix.stride(1) != 1:
        return matrix.mean(2)
    batch, _, cells = matrix.shape
    return _products(matrix.new_full((), 1 / cells).expand(batch, cells), matrix.transpose(1, 2))


def _pool(features: Tensor, weights: Tensor) -> Tensor:
    """``sum_p weights[b,p] F[b,c,p]`` as ``[B,C]``."""
    size = _part_size(features)
    parts = zip(features.split(size), weights.split(size), strict=True)
    # g F^T is twice as fast as F g on NCHW.
    return _join([_products(g, _matrix(f).transpose(1, 2)) for f, g in parts])


def _grad_features(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    grad_cam: Tensor,
    grad_logits: Tensor | None,
    contrast: bool,
) -> Tensor:
    """``V g + dpool / HW`` in the features' shape, type and memory layout."""
    out = empty_gradient(features)
    weight = weight.to(accumulation_dtype(features))
    last = channels_last(features)
    # [B,HW,C] or [B,C,HW], as it lies in memory; the other factor runs along the other axis.
    cells = out.permute(0, 2, 3, 1).flatten(1, 2) if last else out.flatten(2)
    along, across = (1, 2) if last else (2, 1)
    size = _part_size(features)
    # Class vectors and dpool / HW of many samples at once, as each product reads all of the weight;
    # of half the batch at most, since they show in the peak of memory.
    group = max(min(PRODUCT_SAMPLES, -(-len(features) // 2)), 1)
    spread = None if grad_logits is None else grad_logits / grad_cam.shape[1]
    total_row = _total_row(weight, contrast)
    for start in range(0, len(features), group):
        samples = slice(start, start + group)
        _write_products(
            cells[samples],
            _class_vectors(weight, index[samples], total_row).unsqueeze(along),
            grad_cam[samples].unsqueeze(across),
            None if spread is None else (spread[samples] @ weight).unsqueeze(along),
            size,
            last,
        )
    return out


def _write_products(
    out: Tensor, vectors: Tensor, grad_cam: Tensor, added: Tensor | None, size: int, last: bool
) -> None:
    """``out = vectors * grad_cam + added``, ``size`` samples at a time.

    Vectors, and what is added, are ``[B,1,C]`` where channels are last, else ``[B,C,1]``.
    """
    for part in (slice(start, start + size) for start in range(0, len(out), size)):
        # Straight into place, or through 32 bits.
        place = out[part] if out.dtype == vectors.dtype else None
        if added is None:
            result = torch.mul(vectors[part], grad_cam[part], out=place)
        elif last:
            result = torch.addcmul(added[part], vectors[part], grad_cam[part], out=place)
        else:
            # Along rows of 49 cells two passes in the cache are quicker than addcmul's one.
            result = torch.mul(vectors[part], grad_cam[part], out=place)
            result += added[part]
        if place is None:
            out[part].copy_(result)


def _entropy(cam: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """``h`` and ``dh/dz`` of raw CAMs ``[..., P]``."""
    scale = inverse_log_of(cam)
    shifted = (cam - cam.amax(-1, keepdim=True)) / temperature
    # The clamp keeps 0 * -inf out where a finite CAM spans more than the type's range.
    shifted = shifted.clamp_min_(torch.finfo(cam.dtype).min)
    log_p = shifted.log_softmax(-1)
    p = log_p.exp()
    entropy = (p * log_p).sum(-1) * -scale + 0.0  # of one cell 0, not -0
    mean = (p * shifted).sum(-1, keepdim=True)
    return entropy, p * (mean - shifted) * scale / temperature


def _cross_entropy(
    logits: Tensor, target: Tensor, class_weight: Tensor | None, smoothing: Tensor
) -> tuple[Tensor, Tensor]:
    """torch's unreduced cross-entropy ``[B]`` and its gradient by the logits ``[B,K]``."""
    classes = logits.shape[1]
    hot = torch.zeros_like(logits).scatter_(1, _existing(target, classes)[:, None], 1)
    share = torch.addcmul(hot, smoothing, 1 / classes - hot)
    share = _nan_where_missing(share, target, classes)
    # A share of 0 is no term at all, also where its log-probability would be -inf.
    log_p = logits.log_softmax(1).clamp_min_(torch.finfo(logits.dtype).min)
    p = log_p.exp()
    if class_weight is not None:
        share = share * class_weight.to(logits.dtype)
        p = p * share.sum(1, keepdim=True)
    return -(share * log_p).sum(1), p - share


def _human_maps(cam: Tensor, saliency: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Maps ``[B,HW]``, zero where absent."""
    if saliency is None:
        return None
    human = saliency.to(cam.dtype).flatten(1)
    return human if mask is None else torch.where(mask[:, None], human, 0)


def _focus(
    entropy: Tensor, human: Tensor | None, target: Tensor | None, level: Level
) -> tuple[Tensor, Tensor | None]:
    """Focus term ``[B]`` and its derivative by the entropy, None for 1."""
    if level == "minimize":
        return entropy, None
    if level == "none" or (target is None and human is None):
        return torch.zeros_like(entropy), torch.zeros_like(entropy)
    if target is not None:
        excess = entropy - target
    else:
        assert human is not None
        total = human.sum(1, keepdim=True)
        # A cell just below 0, as bicubic resizing leaves it, has no part; its entr were -inf.
        share = (human / torch.where(total > 0, total, 1)).clamp_min_(0)
        own = torch.special.entr(share).sum(1) * inverse_log_of(human)
        excess = torch.where(total[:, 0] > 0, entropy - own, 0)
    if level == "hinge":
        return excess.relu(), (excess > 0).to(entropy.dtype)
    return excess.abs(), excess.sign()


def _saliency(cam: Tensor, human: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Saliency term ``[B]`` and its gradient by the raw CAM ``[B,HW]``.

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
