# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
"""The gradients of weight and bias from the parts that the programs of a backward leave."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels import triton_tiles
from focus.kernels.triton_target import OPTIONS, triton_type
from focus.kernels.types import MapGradients

# Parts of dW that are summed at once.
GROUPS = 16


# A kernel for a stride of 1 would add in another order, and its db differ in the last bits.
@triton.jit(do_not_specialize=["stride_u"])
def _sum_groups_kernel(
    partial_ptr,
    grad_logits_ptr,
    upstream_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    stride_u,
    batch,
    groups,
    channels,
    classes,
    ACC: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """dW [K,C] of a class and block of channels, summed over its parts [groups,K,C]; and db [K]."""
    k = tl.program_id(0).to(tl.int64)
    if grad_weight_ptr is not None:
        channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = channel < channels
        parts = tl.zeros((BLOCK_G, BLOCK_C), ACC)
        for start in range(0, groups, BLOCK_G):
            group = start + tl.arange(0, BLOCK_G)
            row = (group.to(tl.int64) * classes + k) * channels
            parts += tl.load(
                partial_ptr + row[:, None] + channel[None, :],
                mask=(group < groups)[:, None] & inside[None, :],
                other=0,
            )
        out = tl.sum(parts, 0)
        if grad_weight_ptr.dtype.element_ty == tl.bfloat16:
            out = out.to(tl.float32)  # Triton's interpreter makes no bfloat16 of float64
        out = out.to(grad_weight_ptr.dtype.element_ty)
        tl.store(grad_weight_ptr + k * channels + channel, out, mask=inside)
    if grad_bias_ptr is not None and tl.program_id(1) == 0:
        i = tl.arange(0, BLOCK_B)
        total = tl.zeros((BLOCK_B,), ACC)
        for start in range(0, batch, BLOCK_B):
            b = (start + i).to(tl.int64)
            d = tl.load(grad_logits_ptr + b * classes + k, mask=b < batch, other=0)
            total += d * tl.load(upstream_ptr + b * stride_u, mask=b < batch, other=0)
        tl.store(grad_bias_ptr + k, tl.sum(total, 0))


def sum_groups(
    partial: Tensor | None, maps: MapGradients, weight: Tensor, *, need_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dW ``[K,C]`` from ``partial [groups,K,C]``, None if there are none; db ``[K]`` if needed."""
    count, channels = weight.shape
    dtype = maps.cam.dtype
    grad_weight = None if partial is None else weight.new_empty((count, channels))
    grad_bias = weight.new_empty((count,), dtype=dtype) if need_bias else None
    if partial is not None or need_bias:
        block_c = 64 * triton_tiles.tile_scale
        blocks = 1 if partial is None else triton.cdiv(channels, block_c)
        with torch.cuda.device_of(weight):
            _sum_groups_kernel[(count, blocks)](
                partial,
                maps.logits,
                maps.upstream,
                grad_weight,
                grad_bias,
                maps.upstream.stride(0),
                len(maps.upstream),
                0 if partial is None else len(partial),
                channels,
                count,
                ACC=triton_type(dtype),
                BLOCK_G=GROUPS,
                BLOCK_C=block_c,
                BLOCK_B=256,
                **OPTIONS,
            )
    return grad_weight, grad_bias
