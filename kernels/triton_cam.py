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
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.backend import MAX_CLASSES, rows_held
from focus.kernels.types import (
    Number,
    empty_features,
    inverse_log,
    linear,
    next_power_of_2,
    without_autocast,
)

# Elements of a tile: 64 for each of 256 threads.
TILE = 16384
_HERE = nullcontext()


@triton.jit
def number(x, offset):
    """Return a setting: a float, or a tensor's element; neither costs a launch or a copy."""
    x = tl.full((), 0, tl.int32) + x  # the interpreter passes floats as Python's, without a type
    return tl.load(x + offset).to(tl.float32) if x.dtype.is_ptr() else x.to(tl.float32)


@triton.jit
def tile_pointers(
    x_ptr, b, c, p, channels, stride_b, stride_p, STRIDE_C: tl.constexpr, P: tl.constexpr
):
    """Pointers [BLOCK_C, BLOCK_P] of channels c and cells p of sample b, and their mask."""
    pointers = x_ptr + b * stride_b + c[:, None].to(tl.int64) * STRIDE_C + p[None, :] * stride_p
    return pointers, (c < channels)[:, None] & (p < P)[None, :]


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
def _cams(
    cam_ptr, entropy_ptr, logits_ptr, pooled_ptr, x_ptr, w_ptr, bias_ptr, index_ptr, partial_ptr,
    ticket_ptr, temperature, stride_xb, stride_xp, stride_wk, stride_ib, stride_ik, channels,
    classes, wanted, STRIDE_C: tl.constexpr, P: tl.constexpr, INVERSE_LOG: tl.constexpr,
    ROWS: tl.constexpr, ALL: tl.constexpr, SPLITS: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program (split, b): CAMs [B,wanted,P] of classes index [B,wanted], and their entropies.

    ALL: the maps are those of all classes, and their means the logits; else those of the ROWS
    classes that are wanted. pooled [B,C] is written if it is there. Without an index the row of
    sample b is w[b], a vector of its own.
    """
    split, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    r, p = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    inside = p < P
    per_split = tl.cdiv(tl.cdiv(channels, BLOCK_C), SPLITS) * BLOCK_C
    maps = tl.zeros((BLOCK_K, BLOCK_P), tl.float32)
    for c0 in range(split * per_split, tl.minimum((split + 1) * per_split, channels), BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        pointers, mask = tile_pointers(x_ptr, b, c, p, channels, stride_xb, stride_xp, STRIDE_C, P)
        x = tl.load(pointers, mask, 0).to(tl.float32)
        for i in tl.static_range(ROWS):
            row = tl.full((), i, tl.int64) if ALL else b
            if index_ptr is not None and not ALL:
                row = tl.load(index_ptr + b * stride_ib + i * stride_ik)
                row = tl.where((row >= 0) & (row < classes), row, 0)
            w = tl.load(w_ptr + row * stride_wk + c, c < channels, 0).to(tl.float32)
            maps += tl.where((r == i)[:, None], tl.sum(w[:, None] * x, 0)[None, :], 0)
        if pooled_ptr is not None:
            tl.store(pooled_ptr + b * channels + c, tl.sum(x, 1) / P, c < channels)
    last = True
    if SPLITS > 1:
        place = partial_ptr + (b * SPLITS * ROWS + r)[:, None] * P + p[None, :]
        keep = (r < ROWS)[:, None] & inside[None, :]
        tl.store(place + split * ROWS * P, maps, keep)
        last = arrives_last(ticket_ptr + b, SPLITS)
        if last:
            maps = tl.zeros((BLOCK_K, BLOCK_P), tl.float32)
            for other in range(SPLITS):
                maps += tl.load(place + other * ROWS * P, keep, 0, cache_modifier=".cg")
    if last:
        if ALL:
            logits = tl.sum(maps, 1) / P
            if bias_ptr is not None:
                logits += tl.load(bias_ptr + r, r < ROWS, 0).to(tl.float32)
            tl.store(logits_ptr + b * classes + r, logits, r < ROWS)
        for i in range(wanted):
            z = tl.sum(tl.where((r == i)[:, None], maps, 0), 0)
            if index_ptr is not None:
                y = tl.load(index_ptr + b * stride_ib + i * stride_ik)
                if ALL:
                    z = tl.sum(tl.where((r == y)[:, None], maps, 0), 0)
                # A class that does not exist shows.
                z = tl.where((y >= 0) & (y < classes), z, float("nan"))
            tl.store(cam_ptr + (b * wanted + i) * P + p, z, inside)
            if entropy_ptr is not None:
                h, _ = entropy_and_slope(z, inside, number(temperature, 0), INVERSE_LOG)
                tl.store(entropy_ptr + b * wanted + i, h)


@triton.jit
def _cams_backward(
    dx_ptr, dw_ptr, x_ptr, w_ptr, index_ptr, cam_ptr, up_cam_ptr, up_entropy_ptr, partial_ptr,
    ticket_ptr, temperature, stride_xb, stride_xp, stride_dxb, stride_dxp, stride_wk, stride_ib,
    batch, channels, classes, STRIDE_C: tl.constexpr, P: tl.constexpr,
    INVERSE_LOG: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
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
    y = tl.load(index_ptr + b * stride_ib)
    exists = (y >= 0) & (y < classes)
    if dx_ptr is not None:
        row = tl.where(exists, y, 0)
        w = tl.load(w_ptr + row * stride_wk + c, c < channels, 0).to(tl.float32)
        pointers, mask = tile_pointers(
            dx_ptr, b, c, p, channels, stride_dxb, stride_dxp, STRIDE_C, P
        )
        dx = w[:, None] * tl.where(exists, g, float("nan"))[None, :]
        tl.store(pointers, dx.to(dx_ptr.dtype.element_ty), mask)
    if dw_ptr is not None:
        pointers, mask = tile_pointers(x_ptr, b, c, p, channels, stride_xb, stride_xp, STRIDE_C, P)
        x = tl.load(pointers, mask, 0).to(tl.float32)
        # 0 * inf of a cell that has no gradient is no gradient.
        u = tl.sum(tl.where(mask, x * g[None, :], 0), 1)
        tl.store(partial_ptr + b * channels + c, u, c < channels)
        if arrives_last(ticket_ptr + block, batch):
            for k0 in range(0, classes, BLOCK_K):
                k = k0 + tl.arange(0, BLOCK_K)
                sums = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
                for i in range(batch):
                    place = partial_ptr + tl.full((), i, tl.int64) * channels + c
                    of_one = tl.load(place, c < channels, 0, cache_modifier=".cg")
                    chosen = k == tl.load(index_ptr + i * stride_ib)
                    sums += tl.where(chosen[:, None], of_one[None, :], 0)
                tl.store(
                    dw_ptr + k[:, None] * channels + c[None, :],
                    sums.to(dw_ptr.dtype.element_ty),
                    (k < classes)[:, None] & (c < channels)[None, :],
                )


class Tiles(NamedTuple):
    """Strides of features ``[B,C,H,W]`` by sample and cell, and the constants of a launch."""

    stride_b: int
    stride_p: int
    constants: dict[str, Any]
    channel_blocks: int


def dense(tensor: Tensor | None) -> Tensor | None:
    """Return a small tensor without gaps, as kernels read it."""
    return None if tensor is None else tensor.contiguous()


def dense_rows(weight: Tensor) -> Tensor:
    """Return a weight whose rows have no gaps, copied if need be."""
    return weight if weight.stride(1) == 1 else weight.contiguous()


def dense_cells(features: Tensor) -> Tensor:
    """Return features whose cells lie at one stride, copied if need be (a crop of a grid)."""
    _, channels, height, width = features.shape
    _, c, h, w = features.stride()
    rows = h == width * w or height == 1 or width == 1
    cell = w if width > 1 else h
    if rows and (c == 1 or channels == 1 or (cell == 1 and c == height * width)):
        return features
    return features.contiguous()


def tiles(features: Tensor, rows: int) -> Tiles:
    """Return how the kernels walk over features that :func:`dense_cells` has passed.

    rows: of the classifier whose maps, or weights, a program holds.
    """
    _, channels, height, width = features.shape
    b, c, h, w = features.stride()
    last = c == 1 and channels > 1
    cell = (w if width > 1 else h if height > 1 else channels) if last else 1
    size = features.element_size()
    return Tiles(b, cell, *_constants(channels, height * width, rows, size, last))


@functools.cache
def _constants(
    channels: int, cells: int, rows: int, itemsize: int, last: bool
) -> tuple[dict[str, Any], int]:
    block_p = max(next_power_of_2(cells), 16)
    # Less where registers would not do: rows of NCHW, read by the element, large grids, many maps.
    elements = TILE * 2 // itemsize if last and block_p <= 128 else TILE // 2
    if rows > 4:
        elements //= 2
    block_c = max(min(elements // block_p, next_power_of_2(channels)), 4)
    constants = {
        "STRIDE_C": 1 if last else cells,
        "P": cells,
        "BLOCK_C": block_c,
        "BLOCK_P": block_p,
        "BLOCK_K": max(next_power_of_2(rows), 2),
        "num_warps": 8,
        # Products are rounded before they are summed: fused into a sum over threads, each thread
        # would round another of them, and hold another sum.
        "enable_fp_fusion": False,
    }
    return constants, -(-channels // block_c)


RESIDENT = 2
"""Programs that run on a multiprocessor at the same time, by their registers."""


@functools.cache
def splits(batch: int, sample_bytes: int, blocks: int, processors: int, cache_bytes: int) -> int:
    """Return the number of programs, up to 8, that share a sample's blocks of channels.

    As many as have a multiprocessor each; and more while the samples that are worked on at the same
    time do not fit into the cache, from which each is read again. See ``python -m bench.model``.
    """
    shares = 1
    while shares < min(blocks, 8) and (
        2 * shares * batch <= processors
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
    capacity = next_power_of_2(count)
    if not features.is_cuda:
        return _tickets(features.device, 0, capacity)
    if torch.cuda.is_current_stream_capturing():  # a graph may be replayed on another stream
        return torch.zeros(capacity, dtype=torch.int32, device=features.device)
    return _tickets(
        features.device, torch.cuda.current_stream(features.device).cuda_stream, capacity
    )


def on_device(features: Tensor) -> AbstractContextManager[object]:
    """Make the features' device the current one, where a launch goes, if it is not."""
    if not features.is_cuda or features.get_device() == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device(features.device)


def activations(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    index: Tensor | None,
    temperature: Number,
    *,
    all_classes: bool = False,
    pool: bool = False,
    entropy: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the forward: CAMs ``[B,k,H,W]``, entropies, logits and pooled features.

    index: ``[B,k]``, or ``[B]`` without the axis k; None: a CAM ``[B,H,W]`` of each sample's own
    vector ``weight[b]``. What is not asked for is empty.
    """
    features = dense_cells(features)
    weight = dense_rows(weight)
    batch, channels, height, width = features.shape
    shape = (batch,) if index is None else tuple(index.shape)
    wanted, rows = math.prod(shape[1:]), len(weight)
    held = rows if all_classes else wanted
    at = tiles(features, held)
    shares = splits_of(features, at.channel_blocks)
    new = functools.partial(torch.empty, dtype=torch.float32, device=features.device)
    cams = new((*shape, height, width))
    entropies = new(shape if entropy else 0)
    logits = new((batch, rows) if all_classes else 0)
    pooled = new((batch, channels) if pool else 0)
    if not (batch and held):
        return cams, entropies, logits, pooled
    with on_device(features):
        _cams[(shares, batch)](
            cams, entropies if entropy else None, logits if all_classes else None,
            pooled if pool else None, features, weight, dense(bias), index,
            new((batch, shares, held, height * width)) if shares > 1 else None,
            tickets(features, batch), temperature, at.stride_b, at.stride_p, weight.stride(0),
            *((0, 0) if index is None else (*index.stride(), 0)[:2]), channels, rows, wanted,
            INVERSE_LOG=inverse_log(height * width), ROWS=held, ALL=all_classes, SPLITS=shares,
            **at.constants,
        )  # fmt: skip
    return cams, entropies, logits, pooled


def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Number
) -> tuple[Tensor, Tensor]:
    """Return raw CAMs ``[B,H,W]`` and entropies ``[B]``."""
    cam, entropy, *_ = activations(features, weight, None, index, temperature)
    return cam, entropy


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
    features = dense_cells(features)
    batch, channels, height, width = features.shape
    at = tiles(features, min(len(weight), MAX_CLASSES))
    grad_features = grad_weight = partial = None
    out = at
    if needs[0]:
        last = at.constants["STRIDE_C"] == 1
        grad_features = empty_features(features.shape, features.dtype, last, features.device)
        out = tiles(grad_features, 1)
    if needs[1]:
        grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        partial = torch.empty((batch, channels), dtype=torch.float32, device=weight.device)
    if not batch:
        return grad_features, None if grad_weight is None else grad_weight.zero_()
    weight = dense_rows(weight)
    with on_device(features):
        _cams_backward[(at.channel_blocks, batch)](
            grad_features, grad_weight, features, weight, index, cam,
            dense(grad_cam),
            dense(grad_entropy), partial,
            tickets(features, at.channel_blocks), temperature, at.stride_b, at.stride_p,
            out.stride_b, out.stride_p, weight.stride(0), index.stride(0), batch, channels,
            len(weight), INVERSE_LOG=inverse_log(height * width), **at.constants,
        )  # fmt: skip
    return grad_features, grad_weight


@without_autocast
def class_activation(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    classes: Tensor,
    temperature: Number,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]``.

    Up to 16 classes take one launch. With more, logits are a matrix product of the pooled features,
    and each 16 CAMs read F again.
    """
    held = rows_held(features.shape[2] * features.shape[3])
    if len(weight) <= held:
        cams, entropies, logits, _ = activations(
            features, weight, bias, classes, temperature, all_classes=True
        )
        return logits, cams, entropies
    parts = classes.split(held, 1)
    found = [
        activations(features, weight, None, part, temperature, pool=not i)
        for i, part in enumerate(parts)
    ]
    pooled = found[0][3] if classes.numel() else features.float().mean((2, 3))
    cams, entropies = (torch.cat([out[i] for out in found], 1) for i in (0, 1))
    return linear(pooled, weight.float(), bias), cams, entropies
