# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""``cam_entropy`` and ``class_activation`` in Triton: a launch forward, a launch backward.

    m[b,r,p] = sum_c W[row_r,c] F[b,c,p]            the CAM of a class is one such row
    q        = softmax(z / T),   h = -sum_p q log q / log P
    dh/dz_p  = -q_p (z_p - sum_r q_r z_r) / (T^2 log P)
    g[b,p]   = dL/dz[b,p] + dL/dh[b] dh/dz[b,p]
    dF[b,c,p] = W[y_b,c] g[b,p]                     dW[k,c] = sum_{b: y_b = k} sum_p g[b,p] F[b,c,p]

A program holds all cells of a sample and walks over blocks of channels. Where one program for each
sample would leave most of a GPU idle, several share a sample's channels and leave partial sums; the
last to arrive adds them up, in a fixed order, and goes on. Nobody waits, so nothing can deadlock,
and no float is added by an atomic, so results repeat bit for bit. The functions that the head
shares stand first.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses import FakeTensor

from focus.kernels.backend import MAX_CLASSES
from focus.kernels.types import (
    Number,
    channels_last,
    empty_features,
    inverse_log,
    next_power_of_2,
)

TILE = 8192
"""Elements of a tile: 32 for each of 256 threads."""
RESIDENT = 2
"""Programs that run on a multiprocessor at the same time, by their registers."""


@triton.jit
def number(x, offset):
    """Return a setting: a float, or a tensor's element; neither costs a launch or a copy."""
    x = tl.full((), 0, tl.int32) + x  # the interpreter passes floats as Python's, without a type
    return tl.load(x + offset).to(tl.float32) if x.dtype.is_ptr() else x.to(tl.float32)


@triton.jit
def tile_pointers(x_ptr, c, p, channels, P: tl.constexpr, LAST: tl.constexpr):
    """Pointers [BLOCK_C, BLOCK_P] of a sample's channels c and cells p, and their mask."""
    mask = (c < channels)[:, None] & (p < P)[None, :]
    if LAST:
        return x_ptr + (p[None, :] * channels + c[:, None]), mask
    return x_ptr + (c[:, None] * P + p[None, :]), mask


@triton.jit
def arrives_last(ticket_ptr, count):
    """Count this program in; return whether it is the last of ``count``. Its counter starts anew.

    Everything that the others have stored is then visible, if it is read past the first cache.
    """
    tl.debug_barrier()
    last = tl.atomic_add(ticket_ptr, 1, sem="acq_rel") == count - 1
    if last:
        tl.store(ticket_ptr, 0)
    return last


@triton.jit
def entropy_and_slope(z, inside, temperature, INVERSE_LOG: tl.constexpr):
    """h of the cells inside, and dh/dz; ``log(sum) - mean`` keeps digits where others cancel."""
    # tl.max drops NaN, the sum below keeps it.
    s = (z - tl.max(tl.where(inside, z, -float("inf")), 0)) / temperature
    s = tl.where(s < -1e30, -1e30, s)  # no 0 * -inf where a finite CAM spans more than float32
    s = tl.where(inside, s, 0)
    e = tl.where(inside, tl.exp(s), 0)
    total = tl.sum(e, 0)
    q = e / total
    mean = tl.sum(q * s, 0)
    return (tl.log(total) - mean) * INVERSE_LOG, q * (mean - s) * (INVERSE_LOG / temperature)


@triton.jit
def class_maps(
    x_ptr, w_ptr, pooled_ptr, partial_ptr, ticket_ptr, channels, P: tl.constexpr,
    LAST: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Maps [BLOCK_K, BLOCK_P] of a sample by ROWS rows of w, if this program is the last to arrive.

    A program reads the channels of its split. pooled [B,C] is written if it is there.
    """
    split, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    r, p = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    per_split = tl.cdiv(tl.cdiv(channels, BLOCK_C), SPLITS) * BLOCK_C
    maps = tl.zeros((BLOCK_K, BLOCK_P), tl.float32)
    for c0 in range(split * per_split, tl.minimum((split + 1) * per_split, channels), BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        pointers, mask = tile_pointers(x_ptr, c, p, channels, P, LAST)
        x = tl.load(pointers, mask, 0).to(tl.float32)
        for i in tl.static_range(ROWS):
            w = tl.load(w_ptr + i * channels + c, c < channels, 0).to(tl.float32)
            maps += tl.where((r == i)[:, None], tl.sum(w[:, None] * x, 0)[None, :], 0)
        if pooled_ptr is not None:
            tl.store(pooled_ptr + b * channels + c, tl.sum(x, 1) / P, c < channels)
    last = True
    if SPLITS > 1:
        place = partial_ptr + (b * SPLITS * ROWS + r)[:, None] * P + p[None, :]
        keep = (r < ROWS)[:, None] & (p < P)[None, :]
        tl.store(place + split * ROWS * P, maps, keep)
        last = arrives_last(ticket_ptr + b, SPLITS)
        if last:
            maps = tl.zeros((BLOCK_K, BLOCK_P), tl.float32)
            for other in range(SPLITS):
                maps += tl.load(place + other * ROWS * P, keep, 0, cache_modifier=".cg")
    return maps, last


@triton.jit
def _cams(
    cam_ptr, entropy_ptr, logits_ptr, pooled_ptr, x_ptr, w_ptr, bias_ptr, index_ptr, partial_ptr,
    ticket_ptr, temperature, stride_xb, stride_bias, stride_ib, stride_ik, channels, classes,
    wanted, INVERSE_LOG: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program (split, b): CAMs [B,wanted,P] of classes index [B,wanted], and their entropies.

    With logits, all ROWS classes have a map, and the logits are its mean. Else there is one map, of
    the class index[b], or without an index of a vector w[b] of the sample's own.
    """
    b = tl.program_id(1).to(tl.int64)
    r, p = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    row = tl.full((), 0, tl.int64)
    if logits_ptr is None:
        row = b
        if index_ptr is not None:
            row = tl.load(index_ptr + b * stride_ib)
            row = tl.where((row >= 0) & (row < classes), row, 0)
    maps, last = class_maps(
        x_ptr + b * stride_xb, w_ptr + row * channels, pooled_ptr, partial_ptr, ticket_ptr,
        channels, P, LAST, ROWS, SPLITS, BLOCK_C, BLOCK_P, BLOCK_K,
    )  # fmt: skip
    if last:
        if logits_ptr is not None:
            logits = tl.sum(maps, 1) / P
            if bias_ptr is not None:
                logits += tl.load(bias_ptr + b * stride_bias + r, r < ROWS, 0).to(tl.float32)
            tl.store(logits_ptr + b * classes + r, logits, r < ROWS)
        for i in range(wanted):
            y = tl.full((), 0, tl.int64)
            if index_ptr is not None:
                y = tl.load(index_ptr + b * stride_ib + i * stride_ik)
            z = tl.sum(tl.where((r == (0 if logits_ptr is None else y))[:, None], maps, 0), 0)
            z = tl.where((y >= 0) & (y < classes), z, float("nan"))  # one that does not exist shows
            tl.store(cam_ptr + (b * wanted + i) * P + p, z, p < P)
            h, _ = entropy_and_slope(z, p < P, number(temperature, 0), INVERSE_LOG)
            tl.store(entropy_ptr + b * wanted + i, h)


@triton.jit
def _cams_backward(
    dx_ptr, dw_ptr, x_ptr, w_ptr, index_ptr, cam_ptr, up_cam_ptr, up_entropy_ptr, partial_ptr,
    ticket_ptr, temperature, stride_xb, batch, channels, classes, INVERSE_LOG: tl.constexpr,
    P: tl.constexpr, LAST: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program (block of channels, b): dF; u = sum_p g F. The last of a block makes its dW of u."""
    block, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    c, p = block * BLOCK_C + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    inside = p < P
    g = tl.zeros((BLOCK_P,), tl.float32)
    if up_cam_ptr is not None:
        g += tl.load(up_cam_ptr + b * P + p, inside, 0).to(tl.float32)
    if up_entropy_ptr is not None:
        z = tl.load(cam_ptr + b * P + p, inside, 0)
        _, slope = entropy_and_slope(z, inside, number(temperature, 0), INVERSE_LOG)
        g += tl.load(up_entropy_ptr + b).to(tl.float32) * slope
    y = tl.load(index_ptr + b)
    exists = (y >= 0) & (y < classes)
    if dx_ptr is not None:
        w_row = w_ptr + tl.where(exists, y, 0) * channels
        w = tl.load(w_row + c, c < channels, 0).to(tl.float32)
        pointers, mask = tile_pointers(dx_ptr + b * channels * P, c, p, channels, P, LAST)
        dx = w[:, None] * tl.where(exists, g, float("nan"))[None, :]
        tl.store(pointers, dx.to(dx_ptr.dtype.element_ty), mask)
    if dw_ptr is not None:
        pointers, mask = tile_pointers(x_ptr + b * stride_xb, c, p, channels, P, LAST)
        x = tl.load(pointers, mask, 0).to(tl.float32)
        u = tl.sum(x * g[None, :], 1)
        tl.store(partial_ptr + b * channels + c, u, c < channels)
        if arrives_last(ticket_ptr + block, batch):
            for k0 in range(0, classes, BLOCK_K):
                k = k0 + tl.arange(0, BLOCK_K)
                sums = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
                for i in range(batch):
                    place = partial_ptr + tl.full((), i, tl.int64) * channels + c
                    of_one = tl.load(place, c < channels, 0, cache_modifier=".cg")
                    sums += tl.where((k == tl.load(index_ptr + i))[:, None], of_one[None, :], 0)
                tl.store(
                    dw_ptr + k[:, None] * channels + c[None, :],
                    sums.to(dw_ptr.dtype.element_ty),
                    (k < classes)[:, None] & (c < channels)[None, :],
                )


def dense(tensor: Tensor | None) -> Tensor | None:
    """Return a small tensor without gaps, as kernels read it."""
    return None if tensor is None else tensor.contiguous()


def bias_stride(bias: Tensor | None) -> int:
    """Return how far the biases of two samples are apart: 0 where all share one ``[K]``."""
    return bias.shape[1] if bias is not None and bias.dim() == 2 else 0


def dense_samples(features: Tensor) -> Tensor:
    """Return features of which each sample lies without gaps, copied if need be."""
    _, channels, height, width = features.shape
    last = channels_last(features)
    strides = (1, width * channels, channels) if last else (height * width, width, 1)
    if features.stride()[1:] == strides:
        return features
    layout = torch.channels_last if last else torch.contiguous_format
    return features.contiguous(memory_format=layout)


@functools.cache
def constants(channels: int, cells: int, rows: int, last: bool) -> tuple[dict[str, Any], int]:
    """Return the constants of a launch, and the number of its blocks of channels.

    rows: of the classifier whose maps, or weights, a program holds.
    """
    block_p = max(next_power_of_2(cells), 16)
    elements = TILE if last or rows <= 4 else TILE // 2  # many maps of rows read by the element
    block_c = max(min(elements // block_p, next_power_of_2(channels)), 4)
    found = {
        "P": cells,
        "LAST": last,
        "BLOCK_C": block_c,
        "BLOCK_P": block_p,
        "BLOCK_K": max(next_power_of_2(rows), 2),
        "num_warps": 8,
        # Products are rounded before they are summed: fused into a sum over threads, each thread
        # would round another of them, and hold another sum.
        "enable_fp_fusion": False,
    }
    return found, -(-channels // block_c)


def constants_of(features: Tensor, rows: int) -> tuple[dict[str, Any], int]:
    """Return :func:`constants` of features that :func:`dense_samples` has passed."""
    _, channels, height, width = features.shape
    return constants(channels, height * width, rows, channels_last(features))


@functools.cache
def splits(batch: int, sample_bytes: int, blocks: int, processors: int, cache_bytes: int) -> int:
    """Return the number of programs, up to 8, that share a sample's blocks of channels.

    As many as run at the same time; and more while the samples that are worked on at the same
    time do not fit into the cache, from which each is read again. See ``python -m bench.model``.
    """
    shares = 1
    while shares < min(blocks, 8) and (
        2 * shares * batch <= RESIDENT * processors
        or min(batch, RESIDENT * processors // shares) * sample_bytes > cache_bytes
    ):
        shares *= 2
    return shares


@functools.cache
def _limits(device: torch.device) -> tuple[int, int]:
    if device.type != "cuda":
        return 1, 2**62
    found = torch.cuda.get_device_properties(device)
    return found.multi_processor_count, found.L2_cache_size


def splits_of(features: Tensor, blocks: int) -> int:
    """Return :func:`splits` of features on their device."""
    batch, *sample = features.shape
    sample_bytes = math.prod(sample) * features.element_size()
    return splits(batch, sample_bytes, blocks, *_limits(features.device))


@functools.cache
def _tickets(device: torch.device, stream: int, capacity: int) -> Tensor:
    return torch.zeros(capacity, dtype=torch.int32, device=device)


def tickets(features: Tensor, count: int) -> Tensor:
    """Return counters of arrivals, all 0 between launches; launches that overlap share none."""
    device, capacity = features.device, next_power_of_2(count)
    if not features.is_cuda:
        return _tickets(device, 0, capacity)
    if torch.cuda.is_current_stream_capturing():  # a graph may be replayed on another stream
        return torch.zeros(capacity, dtype=torch.int32, device=device)
    return _tickets(device, torch.cuda.current_stream(device).cuda_stream, capacity)


def _launch(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor | None,
    temperature: Number,
    *,
    logits: bool = False,
    pooled: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return CAMs ``[B,k,H,W]``, entropies ``[B,k]``, logits and pooled features.

    index: ``[B,k]``, or ``[B]`` without the axis k; None: k is 1, and weight has a vector for each
    sample. What is not asked for is empty.
    """
    (batch, channels, height, width), classes = features.shape, len(weight)
    shape = (batch, 1) if index is None else tuple(index.shape)
    new = functools.partial(torch.empty, dtype=torch.float32, device=features.device)
    cams, entropies = new((*shape, height, width)), new(shape)
    all_logits = new((batch, classes) if logits else 0)
    all_pooled = new((batch, channels) if pooled else 0)
    if isinstance(features, FakeTensor) or not batch:
        return cams, entropies, all_logits, all_pooled
    features, rows = dense_samples(features), classes if logits else 1
    settings, blocks = constants_of(features, rows)
    shares = splits_of(features, blocks)
    with torch.cuda.device_of(features):
        _cams[(shares, batch)](
            cams, entropies, all_logits if logits else None, all_pooled if pooled else None,
            features, dense(weight), dense(bias), index,
            new((batch, shares, rows, height * width)) if shares > 1 else None,
            tickets(features, batch), temperature, features.stride(0), bias_stride(bias),
            *((0, 0) if index is None else (*index.stride(), 0)[:2]), channels, classes,
            math.prod(shape[1:]),
            INVERSE_LOG=inverse_log(height * width), ROWS=rows, SPLITS=shares, **settings,
        )  # fmt: skip
    return cams, entropies, all_logits, all_pooled


def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Number
) -> tuple[Tensor, Tensor]:
    """Return raw CAMs ``[B,H,W]`` and entropies ``[B]``."""
    cams, entropies, *_ = _launch(features, weight, None, index, temperature)
    return cams, entropies


def cam_entropy_backward(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    cam: Tensor,
    temperature: Number,
    grad_cam: Tensor | None,
    grad_entropy: Tensor | None,
    need_features: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Return gradients of features and weight; one that is not needed is empty."""
    batch, channels, height, width = features.shape
    shape, last = features.shape if need_features else (0, 0, 0, 0), channels_last(features)
    grad_features = empty_features(shape, features.dtype, last, features.device)
    grad_weight = weight.new_empty(weight.shape if need_weight else 0)
    if isinstance(features, FakeTensor) or not batch:
        return grad_features, grad_weight.zero_()
    features = dense_samples(features)
    settings, blocks = constants_of(features, min(len(weight), MAX_CLASSES))
    partial = weight.new_empty((batch, channels) if need_weight else 0, dtype=torch.float32)
    with torch.cuda.device_of(features):
        _cams_backward[(blocks, batch)](
            grad_features if need_features else None, grad_weight if need_weight else None,
            features, dense(weight), dense(index), cam, dense(grad_cam), dense(grad_entropy),
            partial, tickets(features, blocks), temperature, features.stride(0), batch, channels,
            len(weight), INVERSE_LOG=inverse_log(height * width), **settings,
        )  # fmt: skip
    return grad_features, grad_weight


def class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Number
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]``."""
    cams, entropies, logits, _ = _launch(features, weight, bias, classes, temperature, logits=True)
    return logits, cams, entropies


def read(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Do as :func:`focus.kernels.eager.read`, for one vector a sample, by one launch."""
    cams, _, _, pooled = _launch(features, vectors[:, 0], None, None, 1.0, pooled=True)
    return pooled, cams.flatten(2)
