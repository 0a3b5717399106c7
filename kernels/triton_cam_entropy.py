# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""``cam_entropy`` and ``class_activation`` in Triton: one read of F forward, one read backward.

    z[b,p]    = sum_c W[y_b,c] F[b,c,p]
    q         = softmax(z / T),   H = -sum_p q log q,   h = H / log(HW)
    dh/dz_p   = -q_p (z_p - sum_r q_r z_r) / (T^2 log HW)
    g[b,p]    = dL/dz[b,p] + dL/dh[b] dh/dz[b,p]

The maps are made by ``triton_maps``, the gradients of features and weight from g by
``triton_gradient``; the kernels here are small.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.triton_gradient import gradients
from focus.kernels.triton_maps import MAX_ROWS, class_maps
from focus.kernels.triton_target import small_options, triton_type
from focus.kernels.triton_tiles import padded
from focus.kernels.types import MapGradients, inverse_log, linear, without_autocast


@triton.jit
def entropy_and_slope(z, inside, temperature, INVERSE_LOG: tl.constexpr):
    """``h`` of the cells inside, and ``dh/dz``; INVERSE_LOG is 1 / log(HW).

    ``H = log(sum) - mean`` stays exact to rounding, where ``log S + m - E[z]`` cancels.
    """
    # tl.max drops NaN, the sum below keeps it.
    top = tl.max(tl.where(inside, z, float("-inf")), 0)
    # The clamp keeps 0 * -inf out where a finite CAM spans more than the type's range.
    shifted = (z - top) / temperature
    shifted = tl.where(shifted < -1e30, -1e30, shifted)
    shifted = tl.where(inside, shifted, 0)
    e = tl.where(inside, tl.exp(shifted), 0)
    total = tl.sum(e, 0)
    q = e / total
    mean = tl.sum(q * shifted, 0)
    entropy = (tl.log(total) - mean) * INVERSE_LOG
    return entropy, q * (mean - shifted) * (INVERSE_LOG / temperature)


@triton.jit
def _entropy_kernel(
    maps_ptr,
    index_ptr,
    temperature_ptr,
    cam_ptr,
    entropy_ptr,
    stride_ib,
    stride_ik,
    splits,
    classes,
    ACC: tl.constexpr,
    INVERSE_LOG: tl.constexpr,
    CELLS: tl.constexpr,
):
    """One CAM: the sum of its parts maps [B,S,rows,HW], and its entropy.

    index [B,rows]; cam [B,rows,HW] and entropy [B,rows] of ACC. A class that does not exist shows
    as NaN.
    """
    b = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1)
    rows = tl.num_programs(1)
    p = tl.arange(0, padded(CELLS))
    inside = p < CELLS
    z = tl.zeros((padded(CELLS),), ACC)
    for s in range(splits):
        z += tl.load(maps_ptr + ((b * splits + s) * rows + row) * CELLS + p, mask=inside, other=0)
    y = tl.load(index_ptr + b * stride_ib + row.to(tl.int64) * stride_ik)
    z = tl.where((y >= 0) & (y < classes), z, float("nan"))
    entropy, _ = entropy_and_slope(z, inside, tl.load(temperature_ptr), INVERSE_LOG)
    tl.store(cam_ptr + (b * rows + row) * CELLS + p, z, mask=inside)
    tl.store(entropy_ptr + b * rows + row, entropy)


@triton.jit
def _grad_cam_kernel(
    cam_ptr,
    temperature_ptr,
    upstream_cam_ptr,
    upstream_entropy_ptr,
    grad_cam_ptr,
    INVERSE_LOG: tl.constexpr,
    CELLS: tl.constexpr,
):
    """g of one sample; cam, upstream_cam, grad_cam [B,HW], upstream_entropy [B]."""
    b = tl.program_id(0).to(tl.int64)
    p = tl.arange(0, padded(CELLS))
    inside = p < CELLS
    z = tl.load(cam_ptr + b * CELLS + p, mask=inside, other=0)
    _, slope = entropy_and_slope(z, inside, tl.load(temperature_ptr), INVERSE_LOG)
    g = tl.load(upstream_cam_ptr + b * CELLS + p, mask=inside, other=0)
    g += tl.load(upstream_entropy_ptr + b) * slope
    tl.store(grad_cam_ptr + b * CELLS + p, g, mask=inside)


def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw CAM ``[B,H,W]`` and entropy ``[B]``."""
    maps, _ = class_maps(features, weight, index[:, None])
    return _cams(features, maps, weight, index, temperature)


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
    grad = torch.empty_like(cam, memory_format=torch.contiguous_format).flatten(1)
    if len(features):
        with torch.cuda.device_of(features):
            _grad_cam_kernel[(len(features),)](
                cam.contiguous(),
                temperature,
                grad_cam.contiguous(),
                grad_entropy.contiguous(),
                grad,
                INVERSE_LOG=inverse_log(grad.shape[1]),
                CELLS=grad.shape[1],
                **small_options(grad.shape[1]),
            )
    one = grad.new_ones(()).expand(len(grad))
    maps = MapGradients(index, grad, None, one, contrast=False)
    return gradients(features, weight, maps, (*needs, False))[:2]


@without_autocast
def class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]`` of ``classes [B,k]``."""
    # A program holds few classes: more than that read F again.
    parts = classes.split(MAX_ROWS, 1) if classes.shape[1] else [classes[:, :0]]
    maps, pooled = class_maps(features, weight, parts[0], pool=True)
    assert pooled is not None
    logits = linear(pooled, weight.to(pooled.dtype), bias)
    found = [_cams(features, maps, weight, parts[0], temperature)]
    for part in parts[1:]:
        maps, _ = class_maps(features, weight, part)
        found.append(_cams(features, maps, weight, part, temperature))
    if len(found) == 1:
        return logits, *found[0]
    cams, entropies = zip(*found, strict=True)
    return logits, torch.cat(cams, 1), torch.cat(entropies, 1)


def _cams(
    features: Tensor, maps: Tensor, weight: Tensor, index: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """CAMs ``[B,k,H,W]`` and their entropies ``[B,k]`` from partial maps; no k of ``index [B]``.

    They are no views, which autograd would not let anybody change in place.
    """
    batch, splits, rows, cells = maps.shape
    cams = maps.new_empty((*index.shape, *features.shape[2:]))
    entropy = maps.new_empty(index.shape)
    if batch and rows:
        with torch.cuda.device_of(features):
            _entropy_kernel[(batch, rows)](
                maps,
                index,
                temperature,
                cams,
                entropy,
                *(*index.stride(), 1)[:2],  # of one class any stride
                splits,
                len(weight),
                ACC=triton_type(maps.dtype),
                INVERSE_LOG=inverse_log(cells),
                CELLS=cells,
                **small_options(cells),
            )
    return cams, entropy
