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
from focus.kernels.launch import Constants, launch
from focus.kernels.types import Number, channels_last, empty_features, inverse_log, next_power_of_2

TILE = 8192
"""Elements of a tile: 32 for each of 256 threads."""
RESIDENT = 3
"""Programs that run on a multiprocessor at the same time, by their registers: with bfloat16 and two
classes at most 80 of a thread, in the code for sm_80, sm_90 and sm_100."""
MIN_PRODUCT = 32
"""Channels that tensor cores sum at least."""
STAGES = tl.constexpr(3)
"""Tiles whose loads are under way together: with 2, the next would be waited for at once."""
BLOCK_B = 32
"""Samples that are added up at once for the gradient of the classifier."""
NOT_SPECIALIZED = ("batch", "splits")
"""Sizes for each of which, 1 or a multiple of 16 or neither, Triton would compile a kernel."""


@triton.jit
def number(x, offset):
    """Return a setting: a float, or a tensor's element; neither costs a launch or a copy."""
    x = tl.full((), 0, tl.int32) + x  # the interpreter passes floats as Python's, without a type
    return tl.load(x + offset).to(tl.float32) if x.dtype.is_ptr() else x.to(tl.float32)


@triton.jit
def tile_pointers(x_ptr, c, p, channels, P: tl.constexpr, LAST: tl.constexpr):
    """Pointers of a sample's channels c and cells p, which lie along different axes; their mask."""
    mask = (c < channels) & (p < P)
    if LAST:
        return x_ptr + (p * channels + c), mask
    return x_ptr + (c * P + p), mask


@triton.constexpr_function
def _barrier_leaves_stores():
    """Whether a wave may pass a barrier before its stores have arrived: on CDNA."""
    target = tl.target_info.current_target()
    return target is not None and target.backend == "hip" and target.arch.startswith("gfx9")


@triton.jit
def arrives_last(ticket_ptr, count):
    """Count this program in; return whether it is the last of ``count``. Its counter starts anew.

    Everything that the others have stored is then visible, if it is read past the first cache. The
    atomic orders the stores of its own wave; the others' have arrived before the barrier.
    """
    if _barrier_leaves_stores():
        wait: tl.constexpr = "s_waitcnt vmcnt(0)\nv_mov_b32 $0, $1"
        count = tl.inline_asm_elementwise(wait, "=v,v", [count], tl.int32, is_pure=False, pack=1)
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
def third(x, n):
    """The n-th of three numbers of 8 bits each, as bfloat16 has, that add up to x; others are 0."""
    high = (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    rest = x - high
    middle = (rest.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
    return tl.where(n == 0, high, tl.where(n == 1, middle, tl.where(n == 2, rest - middle, 0)))


@triton.jit
def class_maps(
    x_ptr, w_ptr, pooled_ptr, partial_ptr, ticket_ptr, b, split, splits, channels,
    P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr, PRODUCTS: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Maps [BLOCK_K, BLOCK_P] of sample b by ROWS rows of w, if this program is the last to arrive.

    A program reads the channels of its split. x is the sample's, and so is pooled [C], the mean of
    x over the cells, which threads write if it is there; tensor cores do not. partial is there if
    there are several splits.
    """
    r, p = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    per_split = tl.cdiv(tl.cdiv(channels, BLOCK_C), splits) * BLOCK_C
    first, end = split * per_split, tl.minimum((split + 1) * per_split, channels)
    # Products of 16 rows or 32: those of 64 are other instructions, with other places of results.
    PARTS: tl.constexpr = 1 if PRODUCTS is None or BLOCK_K > 8 else max(16 // BLOCK_K, 4)
    part = tl.arange(0, PARTS)
    maps = tl.zeros((PARTS * BLOCK_K, BLOCK_P), tl.float32)
    for c0 in tl.range(first, end, BLOCK_C, num_stages=1 if PRODUCTS is None else STAGES):
        c = c0 + tl.arange(0, BLOCK_C)
        pointers, mask = tile_pointers(x_ptr, c[:, None], p[None, :], channels, P, LAST)
        x = tl.load(pointers, mask, 0)
        if PRODUCTS is None:
            x = x.to(tl.float32)
            for i in tl.static_range(ROWS):
                w = tl.load(w_ptr + i * channels + c, c < channels, 0).to(tl.float32)
                maps += tl.where((r == i)[:, None], tl.sum(w[:, None] * x, 0)[None, :], 0)
            if pooled_ptr is not None:
                tl.store(pooled_ptr + c, tl.sum(x, 1) / P, c < channels)
        else:
            w_mask = (r < ROWS)[:, None] & (c < channels)[None, :]
            w = tl.load(w_ptr + r[:, None] * channels + c[None, :], w_mask, 0).to(tl.float32)
            x = x.to(PRODUCTS)
            for n in tl.static_range(1 if PARTS > 1 else 3):
                of_w = third(w[None, :, :], n + part[:, None, None]).to(PRODUCTS)
                of_w = tl.reshape(of_w, (PARTS * BLOCK_K, BLOCK_C))
                # Added, it would be summed on in the tensor cores, which cut off and do not round.
                maps -= tl.dot(of_w, x, input_precision="ieee")
    if PRODUCTS is not None:
        maps = -tl.sum(tl.reshape(maps, (PARTS, BLOCK_K, BLOCK_P)), 0)
    last = True
    if partial_ptr is not None:
        partials = partial_ptr + (b * splits * ROWS + r)[:, None] * P + p[None, :]
        keep = (r < ROWS)[:, None] & (p < P)[None, :]
        tl.store(partials + split * ROWS * P, maps, keep)
        last = arrives_last(ticket_ptr + b, splits)
        if last:
            maps = tl.zeros((BLOCK_K, BLOCK_P), tl.float32)
            for other in range(splits):
                maps += tl.load(partials + other * ROWS * P, keep, 0, cache_modifier=".cg")
    return maps, last


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _cams(
    cam_ptr, entropy_ptr, logits_ptr, x_ptr, w_ptr, bias_ptr, index_ptr, partial_ptr, ticket_ptr,
    temperature, stride_xb, stride_bias, stride_ib, stride_ik, splits, channels, classes, wanted,
    INVERSE_LOG: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, ROWS: tl.constexpr,
    PRODUCTS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program (b, split): CAMs [B,wanted,P] of classes index [B,wanted], and their entropies.

    With logits, all ROWS classes have a map, and the logits are its mean. Else there is one map, of
    the class index[b].
    """
    split, b = tl.program_id(0) % splits, (tl.program_id(0) // splits).to(tl.int64)
    r, p = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_P)
    row = tl.full((), 0, tl.int64)
    if logits_ptr is None:
        row = tl.load(index_ptr + b * stride_ib)
        row = tl.where((row >= 0) & (row < classes), row, 0)
    maps, last = class_maps(
        x_ptr + b * stride_xb, w_ptr + row * channels, pooled_ptr=None, partial_ptr=partial_ptr,
        ticket_ptr=ticket_ptr, b=b, split=split, splits=splits, channels=channels, P=P, LAST=LAST,
        ROWS=ROWS, PRODUCTS=PRODUCTS, BLOCK_C=BLOCK_C, BLOCK_P=BLOCK_P, BLOCK_K=BLOCK_K,
    )  # fmt: skip
    if last:
        if logits_ptr is not None:
            logits = tl.sum(maps, 1) / P
            if bias_ptr is not None:
                logits += tl.load(bias_ptr + b * stride_bias + r, r < ROWS, 0).to(tl.float32)
            tl.store(logits_ptr + b * classes + r, logits, r < ROWS)
        for i in range(wanted):
            y = tl.load(index_ptr + b * stride_ib + i * stride_ik)
            z = tl.sum(tl.where((r == (0 if logits_ptr is None else y))[:, None], maps, 0), 0)
            z = tl.where((y >= 0) & (y < classes), z, float("nan"))  # one that does not exist shows
            tl.store(cam_ptr + (b * wanted + i) * P + p, z, p < P)
            h, _ = entropy_and_slope(z, p < P, number(temperature, 0), INVERSE_LOG)
            tl.store(entropy_ptr + b * wanted + i, h)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _cams_backward(
    dx_ptr, dw_ptr, x_ptr, w_ptr, index_ptr, cam_ptr, up_cam_ptr, up_entropy_ptr, partial_ptr,
    ticket_ptr, temperature, stride_xb, batch, channels, classes, INVERSE_LOG: tl.constexpr,
    BLOCK_B: tl.constexpr, P: tl.constexpr, LAST: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program (b, block of channels): dF; u = sum_p g F. The last of a block makes its dW of u."""
    blocks = tl.cdiv(channels, BLOCK_C)
    block, b = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
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
        dx_ptr += b * channels * P
        pointers, mask = tile_pointers(dx_ptr, c[:, None], p[None, :], channels, P, LAST)
        dx = w[:, None] * tl.where(exists, g, float("nan"))[None, :]
        tl.store(pointers, dx.to(dx_ptr.dtype.element_ty), mask)
    if dw_ptr is not None:
        x_ptr += b * stride_xb
        pointers, mask = tile_pointers(x_ptr, c[:, None], p[None, :], channels, P, LAST)
        x = tl.load(pointers, mask, 0).to(tl.float32)
        u = tl.sum(x * g[None, :], 1)
        tl.store(partial_ptr + b * channels + c, u, c < channels)
        if arrives_last(ticket_ptr + block, batch):
            for k0 in range(0, classes, BLOCK_K):
                k = k0 + tl.arange(0, BLOCK_K)
                sums = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
                for start in range(0, batch, BLOCK_B):
                    i = (start + tl.arange(0, BLOCK_B)).to(tl.int64)
                    of_class = tl.load(index_ptr + i, i < batch, -1)
                    partials = partial_ptr + i[:, None] * channels + c[None, :]
                    there = (i < batch)[:, None] & (c < channels)[None, :]
                    rows = tl.load(partials, there, 0, cache_modifier=".cg")
                    for j in range(BLOCK_K):
                        of_k = tl.sum(tl.where((of_class == k0 + j)[:, None], rows, 0), 0)
                        sums += tl.where((k == k0 + j)[:, None], of_k[None, :], 0)
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


def products(features: Tensor, kernel: Any) -> Any:
    """Return the type whose products tensor cores sum, bfloat16; None where they do not.

    They would take AMD's GPUs too many registers. The interpreter multiplies bit patterns of
    bfloat16: there it is float32.
    """
    if features.dtype != torch.bfloat16 or torch.version.hip:
        return None
    return tl.bfloat16 if isinstance(kernel, triton.JITFunction) else tl.float32


@functools.cache
def constants(
    channels: int, cells: int, rows: int, last: bool, **more: Any
) -> tuple[Constants, int]:
    """Return the constants of a launch, and the number of its blocks of channels.

    rows: of the classifier whose maps, or weights, a program holds; more: constants of one kernel.
    """
    block_p = max(next_power_of_2(cells), 16)
    block_c = TILE // block_p
    # Many maps of rows that are read by the element take a smaller tile, if products still fit it.
    if rows > 4 and not last and (block_c >= 2 * MIN_PRODUCT or not more.get("PRODUCTS")):
        block_c //= 2
    block_c = max(min(block_c, next_power_of_2(channels)), 4)
    if block_c < MIN_PRODUCT and "PRODUCTS" in more:
        more["PRODUCTS"] = None
    settings = Constants(
        P=cells, LAST=last, BLOCK_C=block_c, BLOCK_P=block_p,
        BLOCK_K=max(next_power_of_2(rows), 2), num_warps=8,
        # Products are rounded before they are summed: fused into a sum over threads, each thread
        # would round another of them, and hold another sum.
        enable_fp_fusion=False, **more,
    )  # fmt: skip
    return settings, -(-channels // block_c)


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
    properties = torch.cuda.get_device_properties(device)
    # The cache of large GPUs is two halves, and what both read may lie in both.
    return properties.multi_processor_count, properties.L2_cache_size // 2


def splits_of(features: Tensor, blocks: int) -> int:
    """Return :func:`splits` of features on their device."""
    batch, *sample = features.shape
    sample_bytes = math.prod(sample) * features.element_size()
    return splits(batch, sample_bytes, blocks, *_limits(features.device))


@functools.cache
def _tickets(device: torch.device, stream: int, capacity: int) -> Tensor:
    return torch.zeros(capacity, dtype=torch.int32, device=device)


def tickets(features: Tensor, count: int, in_graph: bool) -> Tensor:
    """Return counters of arrivals, all 0; launches that overlap share none.

    They are 0 again after a launch, and kept for the next on the stream. Not so in a graph, which
    may be replayed on another stream, and whose pool of memory nothing may stay in; nor on a CPU,
    where an interpreted launch may be interrupted.
    """
    device, capacity = features.device, next_power_of_2(count)
    stream = 0
    if features.is_cuda:
        in_graph = in_graph or torch.cuda.is_current_stream_capturing()
        stream = torch.cuda.current_stream(device).cuda_stream
    if in_graph or device.type == "cpu":
        return torch.zeros(capacity, dtype=torch.int32, device=device)
    return _tickets(device, stream, capacity)


def _launch(
    features: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, temperature: Number, *,
    logits: bool = False, in_graph: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return CAMs ``[B,k,H,W]``, entropies ``[B,k]`` and logits, empty where not asked for.

    index: ``[B,k]``, or ``[B]`` without the axis k.
    """
    (batch, channels, height, width), classes = features.shape, len(weight)
    new = functools.partial(torch.empty, dtype=torch.float32, device=features.device)
    cams, entropies = new((*index.shape, height, width)), new(tuple(index.shape))
    all_logits = new((batch, classes) if logits else 0)
    if isinstance(features, FakeTensor) or not batch:
        return cams, entropies, all_logits
    features, rows, cells = dense_samples(features), classes if logits else 1, height * width
    settings, blocks = constants(
        channels, cells, rows, channels_last(features), ROWS=rows,
        INVERSE_LOG=inverse_log(cells), PRODUCTS=products(features, _cams),
    )  # fmt: skip
    shares = splits_of(features, blocks)
    launch(
        _cams, batch * shares, settings, features.device,
        cam_ptr=cams,
        entropy_ptr=entropies,
        logits_ptr=all_logits if logits else None,
        x_ptr=features,
        w_ptr=dense(weight),
        bias_ptr=dense(bias),
        index_ptr=index,
        partial_ptr=new((batch, shares, rows, cells)) if shares > 1 else None,
        ticket_ptr=tickets(features, batch, in_graph),
        temperature=temperature,
        stride_xb=features.stride(0),
        stride_bias=bias_stride(bias),
        stride_ib=index.stride(0),
        stride_ik=index.stride(1) if index.dim() == 2 else 0,
        splits=shares,
        channels=channels,
        classes=classes,
        wanted=math.prod(index.shape[1:]),
    )  # fmt: skip
    return cams, entropies, all_logits


def cam_entropy_forward(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Number, in_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return raw CAMs ``[B,H,W]`` and entropies ``[B]``."""
    return _launch(features, weight, None, index, temperature, in_graph=in_graph)[:2]


def cam_entropy_backward(
    features: Tensor, weight: Tensor, index: Tensor, cam: Tensor, temperature: Number,
    grad_cam: Tensor | None, grad_entropy: Tensor | None, need_features: bool, need_weight: bool,
    in_graph: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return gradients of features and weight; one that is not needed is empty."""
    (batch, channels, height, width), classes = features.shape, len(weight)
    shape, last = features.shape if need_features else (0, 0, 0, 0), channels_last(features)
    grad_features = empty_features(shape, features.dtype, last, features.device)
    grad_weight = weight.new_empty(weight.shape if need_weight else 0)
    if isinstance(features, FakeTensor) or not batch:
        return grad_features, grad_weight.zero_()
    features, cells = dense_samples(features), height * width
    settings, blocks = constants(
        channels, cells, min(classes, MAX_CLASSES), last, BLOCK_B=BLOCK_B,
        INVERSE_LOG=inverse_log(cells),
    )  # fmt: skip
    partial = weight.new_empty((batch, channels) if need_weight else 0, dtype=torch.float32)
    launch(
        _cams_backward, batch * blocks, settings, features.device,
        dx_ptr=grad_features if need_features else None,
        dw_ptr=grad_weight if need_weight else None,
        x_ptr=features,
        w_ptr=dense(weight),
        index_ptr=dense(index),
        cam_ptr=cam,
        up_cam_ptr=dense(grad_cam),
        up_entropy_ptr=dense(grad_entropy),
        partial_ptr=partial,
        ticket_ptr=tickets(features, blocks, in_graph),
        temperature=temperature,
        stride_xb=features.stride(0),
        batch=batch,
        channels=channels,
        classes=classes,
    )  # fmt: skip
    return grad_features, grad_weight


def class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Number
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[B,K]``, raw CAMs ``[B,k,H,W]`` and entropies ``[B,k]``."""
    cams, entropies, logits = _launch(features, weight, bias, classes, temperature, logits=True)
    return logits, cams, entropies
