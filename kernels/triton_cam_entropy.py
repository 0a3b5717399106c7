# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""``cam_entropy`` in Triton: forward reads the features once, backward reads and writes them once.

    z[b,p]    = sum_c W[y_b,c] F[b,c,p]
    q         = softmax(z / T),   H = -sum_p q log q,   h = H / log(HW)
    dh/dz_p   = -q_p (z_p - sum_r q_r z_r) / (T^2 log HW)
    g[b,p]    = dL/dz[b,p] + dL/dh[b] dh/dz[b,p]
    dF[b,c,p] = W[y_b,c] g[b,p]
    u[b,c]    = sum_p g[b,p] F[b,c,p],   dW[k,c] = sum_{b: y_b = k} u[b,c]

Loads of features are converted to the accumulation type at once: nothing is computed in bfloat16.
No atomics: every sum has a fixed order.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.eager import empty_gradient
from focus.kernels.triton_common import OPTIONS, softmax_entropy, triton_type
from focus.kernels.types import accumulation_dtype

# Elements of one tile of features; a channel block is this divided by the padded cells.
TILE = 2048


@triton.jit
def _forward_kernel(
    features_ptr,
    weight_ptr,
    index_ptr,
    temperature_ptr,
    cam_ptr,
    entropy_ptr,
    stride_fb,
    stride_fc,
    stride_fh,
    stride_fw,
    stride_wk,
    stride_wc,
    stride_i,
    channels,
    height,
    width,
    classes,
    inverse_log_cells,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One sample: z over all channels, then its softmax entropy.

    features [B,C,H,W], weight [K,C], index [B]; cam [B,HW] and entropy [B] of type ACC.
    """
    b = tl.program_id(0).to(tl.int64)
    y = tl.load(index_ptr + b * stride_i)
    # A class that does not exist reads no weight and shows as NaN.
    known = (y >= 0) & (y < classes)
    readable = tl.where(known, channels, 0)
    p = tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    inside = p < height * width
    cell_offset = (p // width).to(tl.int64) * stride_fh + (p % width).to(tl.int64) * stride_fw
    partial = tl.zeros((BLOCK_C, BLOCK_P), ACC)
    for start in range(0, channels, BLOCK_C):
        channel = (start + c).to(tl.int64)
        exists = channel < channels
        tile = tl.load(
            features_ptr + b * stride_fb + channel[:, None] * stride_fc + cell_offset[None, :],
            mask=exists[:, None] & inside[None, :],
            other=0,
        ).to(ACC)
        row = tl.load(
            weight_ptr + y * stride_wk + channel * stride_wc, mask=channel < readable, other=0
        ).to(ACC)
        partial += row[:, None] * tile
    z = tl.sum(partial, 0)
    z = tl.where(known, z, float("nan"))

    _, _, total, mean = softmax_entropy(z, inside, tl.load(temperature_ptr))
    scale = tl.load(inverse_log_cells)
    tl.store(cam_ptr + b * height * width + p, z, mask=inside)
    tl.store(entropy_ptr + b, (tl.log(total) - mean) * scale)


@triton.jit
def _backward_kernel(
    features_ptr,
    weight_ptr,
    index_ptr,
    temperature_ptr,
    cam_ptr,
    grad_cam_ptr,
    grad_entropy_ptr,
    grad_features_ptr,
    grad_rows_ptr,
    stride_fb,
    stride_fc,
    stride_fh,
    stride_fw,
    stride_wk,
    stride_wc,
    stride_i,
    stride_gb,
    stride_gc,
    stride_gh,
    stride_gw,
    channels,
    height,
    width,
    classes,
    inverse_log_cells,
    ACC: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    NEED_WEIGHT: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One sample and one block of channels: g from z, then dF = W g and u = sum_p g F.

    cam, grad_cam [B,HW], grad_entropy [B], grad_rows u [B,C] of type ACC; grad_features [B,C,H,W].
    """
    b = tl.program_id(0).to(tl.int64)
    y = tl.load(index_ptr + b * stride_i)
    readable = tl.where((y >= 0) & (y < classes), channels, 0)
    p = tl.arange(0, BLOCK_P)
    inside = p < height * width
    z = tl.load(cam_ptr + b * height * width + p, mask=inside, other=0)
    q, shifted, _, mean = softmax_entropy(z, inside, tl.load(temperature_ptr))
    slope = q * (mean - shifted) * (tl.load(inverse_log_cells) / tl.load(temperature_ptr))
    g = tl.load(grad_cam_ptr + b * height * width + p, mask=inside, other=0)
    g = tl.where(inside, g + tl.load(grad_entropy_ptr + b) * slope, 0)

    row, column = (p // width).to(tl.int64), (p % width).to(tl.int64)
    channel = tl.program_id(1).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < channels
    mask = exists[:, None] & inside[None, :]
    if NEED_FEATURES:
        w = tl.load(
            weight_ptr + y * stride_wk + channel * stride_wc, mask=channel < readable, other=0
        ).to(ACC)
        offset = channel[:, None] * stride_gc + (row * stride_gh + column * stride_gw)[None, :]
        # Explicit: the interpreter's own conversion to bfloat16 truncates.
        tl.store(
            grad_features_ptr + b * stride_gb + offset,
            (w[:, None] * g[None, :]).to(grad_features_ptr.dtype.element_ty),
            mask=mask,
        )
    if NEED_WEIGHT:
        offset = channel[:, None] * stride_fc + (row * stride_fh + column * stride_fw)[None, :]
        tile = tl.load(features_ptr + b * stride_fb + offset, mask=mask, other=0).to(ACC)
        tl.store(grad_rows_ptr + b * channels + channel, tl.sum(g[None, :] * tile, 1), mask=exists)


@triton.jit
def _gather_rows_kernel(
    rows_ptr,
    index_ptr,
    out_ptr,
    stride_i,
    batch,
    channels,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dW[k,c] = sum of u[b,c] over the samples of class k, in the order of the batch."""
    k = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < channels
    total = tl.zeros((BLOCK_C,), ACC)
    rows = rows_ptr + channel
    for _ in range(batch):
        # Rows of other classes are masked off: not read, and their NaN stays theirs.
        readable = tl.where(tl.load(index_ptr) == k, channels, 0)
        total += tl.load(rows, mask=channel < readable, other=0)
        rows += channels
        index_ptr += stride_i
    tl.store(
        out_ptr + k.to(tl.int64) * channels + channel,
        total.to(out_ptr.dtype.element_ty),
        mask=exists,
    )


def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    """Raw CAM ``[B,H,W]`` and entropy ``[B]``."""
    batch, channels, height, width = features.shape
    dtype = accumulation_dtype(features)
    cam = features.new_empty((batch, height, width), dtype=dtype)
    entropy = features.new_empty((batch,), dtype=dtype)
    if batch:
        block_c, block_p = _blocks(channels, height * width)
        with torch.cuda.device_of(features):
            _forward_kernel[(batch,)](
                features,
                weight,
                index,
                temperature,
                cam,
                entropy,
                *features.stride(),
                *weight.stride(),
                index.stride(0),
                channels,
                height,
                width,
                len(weight),
                _inverse_log(temperature, height * width),
                ACC=triton_type(dtype),
                BLOCK_C=block_c,
                BLOCK_P=block_p,
                **OPTIONS,
            )
    return cam, entropy


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
    batch, channels, height, width = features.shape
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    rows = features.new_empty((batch, channels), dtype=dtype) if needs[1] else None
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    block_c, block_p = _blocks(channels, height * width)
    with torch.cuda.device_of(features):
        if batch:
            _backward_kernel[(batch, triton.cdiv(channels, block_c))](
                features,
                weight,
                index,
                temperature,
                cam,
                grad_cam.contiguous(),
                grad_entropy.contiguous(),
                grad_features,
                rows,
                *features.stride(),
                *weight.stride(),
                index.stride(0),
                *(features if grad_features is None else grad_features).stride(),
                channels,
                height,
                width,
                len(weight),
                _inverse_log(temperature, height * width),
                ACC=triton_type(dtype),
                NEED_FEATURES=needs[0],
                NEED_WEIGHT=needs[1],
                BLOCK_C=block_c,
                BLOCK_P=block_p,
                **OPTIONS,
            )
        if rows is None:
            return grad_features, None
        _gather_rows_kernel[(len(weight), triton.cdiv(channels, 1024))](
            rows,
            index,
            grad_weight,
            index.stride(0),
            batch,
            channels,
            ACC=triton_type(dtype),
            BLOCK_C=1024,
            **OPTIONS,
        )
    return grad_features, grad_weight


def _blocks(channels: int, cells: int) -> tuple[int, int]:
    block_p = triton.next_power_of_2(cells)
    return min(max(TILE // block_p, 1), triton.next_power_of_2(channels)), block_p


def _inverse_log(temperature: Tensor, cells: int) -> Tensor:
    """1 / log(HW) on the device, 0 for one cell: a float argument would lose float64."""
    return torch.full_like(temperature, 1 / math.log(cells) if cells > 1 else 0.0)
