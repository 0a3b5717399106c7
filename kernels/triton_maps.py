# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
"""Class maps ``sum_c W[k,c] F[b,c,p]`` in one read of F: the forward of every operation.

Each program takes up to four samples, which share each read of W, one split of the channels and one
block of the cells; its part of the maps goes to scratch, from where the next, small launch sums the
splits in a fixed order. It can leave the pooled features as well.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.triton_planes import as_tile, products
from focus.kernels.triton_target import MAX_REGISTERS, OPTIONS, on_amd, triton_type, warp_size
from focus.kernels.triton_tiles import (
    add_products,
    arrangement,
    load_channels,
    samples_in_registers,
    spread_channels,
    stages_ahead,
    sum_cells,
    sum_channels,
    tile_offsets,
    vector_of,
    zero_products,
)
from focus.kernels.types import accumulation_dtype

# Up to here, a program's products with W stay in place until they are summed over the channels.
MAX_CLASSES_IN_PLACE = tl.constexpr(4)
# So many CAMs are held by a program, where their classes are given.
MAX_ROWS = 16
# Up to here the head makes the maps of all classes: of more, W is read so often that pooled
# features, from which matrix products make the logits, are less traffic (docs/kernels.md).
FUSED_CLASSES = 4
# Samples that share a program's reads of W.
SAMPLES = 4
# Programs that keep a large GPU busy, two to a multiprocessor, and threads of each.
PROGRAMS, THREADS = 256, 256


@triton.jit
def minus_others(w, rest, classes):
    """A tile of rows of W, minus the mean of the others; ``rest`` is the sum of all."""
    tile = ()
    for e in tl.static_range(len(w)):
        tile += (w[e] + (w[e] - rest[e]) / (classes - 1),)
    return tile


@triton.jit
def _maps_kernel(
    features_ptr,
    weight_ptr,
    index_ptr,
    rest_ptr,
    maps_ptr,
    pooled_ptr,
    stride_f,
    stride_w,
    stride_i,
    batch,
    channels,
    width,
    rows,
    classes,
    channels_per_split,
    ACC: tl.constexpr,
    SAMPLES: tl.constexpr,
    STAGES: tl.constexpr,
    CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    V: tl.constexpr,
    L: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Partial maps [B,S,rows,HW] of ACC, for SAMPLES samples, a split of the channels and a block
    of the cells.

    The rows of W are the classes in order, or those of index [B,rows]; a class that does not exist
    reads no weight. With rest [C], the sum of all rows, from each the mean of the others is
    subtracted: the contrast. pooled: None or [blocks,B,C] of ACC, to be summed over the blocks.
    """
    INDEXED: tl.constexpr = index_ptr is not None
    POOL: tl.constexpr = pooled_ptr is not None
    CONTRAST: tl.constexpr = rest_ptr is not None
    tl.static_assert(not INDEXED or SAMPLES == 1, "samples of one program share their rows of W")
    tl.static_assert(not POOL or SAMPLES == 1, "pooled features have no mask of the batch")
    tl.static_assert(INDEXED or not CONTRAST, "of all classes, terms make the contrast")
    first_b = tl.program_id(0) * SAMPLES
    split = tl.program_id(1)
    k = tl.arange(0, L)
    first_p = 0
    if BLOCK_P < CELLS:
        first_p = tl.program_id(2) * BLOCK_P
    p = first_p + tl.arange(0, BLOCK_P)
    if INDEXED:
        own = index_ptr + first_b.to(tl.int64) * stride_i[0]
        row = tl.load(own + k.to(tl.int64) * stride_i[1], mask=k < rows, other=-1)
        known = (row >= 0) & (row < classes)
    else:
        row = k.to(tl.int64)
        known = k < rows
    # Sums stay in place until the end, unless that is too many: then channels are summed at once.
    AT_ONCE: tl.constexpr = L > MAX_CLASSES_IN_PLACE and V >= 0
    maps = ()
    for _ in tl.static_range(SAMPLES):
        if AT_ONCE:
            maps += (tl.zeros((L, BLOCK_P), ACC),)
        else:
            maps += (zero_products(ACC, L, CELLS, V, BLOCK_C, BLOCK_P),)
    first = split * channels_per_split
    last = tl.minimum(first + channels_per_split, channels)
    of_rows = weight_ptr + row * stride_w[0]
    for start in tl.range(first, last, BLOCK_C, num_stages=STAGES):
        w = load_channels(of_rows, known, start, channels, stride_w[1], ACC, CELLS, V, BLOCK_C)
        if CONTRAST:
            # Not by load_channels: bench.codegen tells tensors apart by the lines of their loads.
            channel = start + tl.arange(0, BLOCK_C)
            rest = tl.load(rest_ptr + channel, mask=channel < channels, other=0)[None, :]
            w = minus_others(w, spread_channels(rest, CELLS, V), classes)
        summed = ()
        for i in tl.static_range(SAMPLES):
            b = (first_b + i).to(tl.int64)
            # The mask knows the end of all channels, not that of the split, which BLOCK_C divides:
            # with it the loads would no longer be known to be aligned.
            readable = tl.where(b < batch, channels, 0)
            offsets, mask = tile_offsets(
                start, readable, first_p, stride_f, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
            )
            tile = tl.load(features_ptr + b * stride_f[0] + offsets, mask=mask, other=0)
            tile = as_tile(tile, ACC, V)
            if AT_ONCE:
                summed += (maps[i] + sum_channels(products(w, tile), CELLS, V),)
            else:
                summed += (add_products(maps[i], w, tile, V),)
            if POOL:
                channel = start + tl.arange(0, BLOCK_C)
                pooled = tl.sum(sum_cells(tile, CELLS, V, BLOCK_C), 0) / CELLS
                block = (first_p // BLOCK_P).to(tl.int64) if BLOCK_P < CELLS else 0
                place = (block * batch + b) * channels + channel
                tl.store(pooled_ptr + place, pooled, mask=channel < channels)
        maps = summed
    for i in tl.static_range(SAMPLES):
        b = (first_b + i).to(tl.int64)
        out = (b * tl.num_programs(1) + split) * rows + k
        values = maps[i] if AT_ONCE else sum_channels(maps[i], CELLS, V)
        tl.store(
            maps_ptr + out[:, None] * CELLS + p[None, :],
            values,
            mask=(k < tl.where(b < batch, rows, 0))[:, None] & (p < CELLS)[None, :],
        )


def class_maps(
    features: Tensor,
    weight: Tensor,
    index: Tensor | None = None,
    rest: Tensor | None = None,
    *,
    pool: bool = False,
    splits: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Partial maps ``[B,S,rows,HW]``, whose sum over S are the class maps; ``[B,C]`` means of F.

    ``rows`` are all classes, or those of ``index [B,rows]``; with ``rest [C]``, the sum of W over
    the classes, minus the mean of the others. ``splits`` None: by shape and layout, so that results
    repeat.
    """
    batch, channels, height, width = features.shape
    rows, cells = len(weight) if index is None else index.shape[1], height * width
    dtype = accumulation_dtype(features)
    lead = triton.next_power_of_2(max(rows, 1))
    in_place = lead <= MAX_CLASSES_IN_PLACE.value
    vector = vector_of(features, classes=lead, vectors=in_place)
    # With vectors eight warps would take more channels, and more registers; and programs of one
    # sample are many.
    crowded = vector > 0 and lead > 2
    four_warps = vector == 8 or crowded or (vector > 0 and index is not None)
    threads = 4 * warp_size() if four_warps else THREADS
    # Samples share reads of W as far as registers for their products last.
    roomy = (lead <= 2 or vector < 0) and not on_amd()
    share = 1 if not in_place else SAMPLES if roomy else 2
    samples = samples_in_registers(vector, cells, share, threads) if index is None else 1
    if vector > 0:
        # Of one class registers hold two vectors, which share what says whose channel they are of.
        per_thread = 2 * vector if index is not None and lead == 1 else max(vector, 4)
    elif samples == 1 and (lead <= 2 or (lead == 8 and vector == 0)):
        per_thread = 16
    else:
        per_thread = 8
    tile = arrangement(
        features, vector=vector, per_thread=per_thread, classes=lead, threads=threads
    )
    # Without a limit ptxas takes more registers, or spills with 64 or 80 of them; in other cases it
    # takes fewer, and spills under a limit.
    pressed = lead == 8 or (lead > 8 and not pool)
    limited = (pressed if vector < 0 else vector > 0 and lead > 1) and not on_amd()
    most = 6 if not crowded else 2 if vector == 8 else 3
    block_c = tile["BLOCK_C"]
    groups, blocks = triton.cdiv(batch, samples), triton.cdiv(cells, tile["BLOCK_P"])
    if splits is None:
        # Where samples share W, here or in the backward, that leaves bytes for scratch.
        shared = index is None and in_place and vector <= 0 and roomy
        scratch = 0.02 if not shared else 0.03 if lead <= 2 else 0.04
        splits = default_splits(max(groups * blocks, 1), channels, max(rows, 1), scratch)
    per_split = channels_per_split(channels, block_c, splits)
    splits = triton.cdiv(channels, per_split)
    maps = features.new_empty((batch, splits, rows, cells), dtype=dtype)
    pooled = features.new_empty((blocks, batch, channels), dtype=dtype) if pool else None
    if not batch:
        return maps, None if pooled is None else pooled[0]
    with torch.cuda.device_of(features):
        _maps_kernel[(groups, splits, blocks)](
            features,
            weight,
            index,
            rest,
            maps,
            pooled,
            features.stride(),
            weight.stride(),
            (0, 0) if index is None else index.stride(),
            batch,
            channels,
            width,
            rows,
            len(weight),
            per_split,
            ACC=triton_type(dtype),
            SAMPLES=samples,
            STAGES=stages_ahead(tile, samples, lead, features, most),
            L=lead,
            **tile,
            **OPTIONS,
            num_warps=threads // warp_size(),
            **({"maxnreg": MAX_REGISTERS} if limited else {}),
        )
    if pooled is not None:
        pooled = pooled[0] if blocks == 1 else pooled.sum(0)
    return maps, pooled


def default_splits(groups: int, channels: int, rows: int, scratch: float) -> int:
    """How many programs share the channels of a group of samples and a block of their cells.

    ``groups`` counts these pairs.

    Enough to keep a large GPU busy, while scratch, which is written and read once, stays under this
    share of the features in 16 bits; for very small batches a dozen programs in any case.
    """
    most = int(scratch * 2 * channels / (8 * max(rows, 2)))
    return max(1, min(PROGRAMS // groups, max(most, 12 // groups)))


def channels_per_split(channels: int, block_c: int, splits: int) -> int:
    """Channels of a split, a multiple of a program's blocks, where there are about ``splits``."""
    return int(triton.cdiv(triton.cdiv(channels, splits), block_c)) * block_c
