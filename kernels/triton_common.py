# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""What the Triton kernels share: cell offsets, softmax and its mean, types, compile options."""

import torch
import triton
import triton.language as tl

# Explicit, since the default changes in triton 3.10.
OPTIONS = {"enable_fp_fusion": True}


@triton.jit
def cell_offsets(p, width, stride_h, stride_w, FLAT: tl.constexpr):
    """Offsets [1, BLOCK_P] of the cells p; FLAT: rows follow each other without a gap."""
    if FLAT:
        offsets = p.to(tl.int64) * stride_w
    else:
        offsets = (p // width).to(tl.int64) * stride_h + (p % width).to(tl.int64) * stride_w
    return offsets[None, :]


@triton.jit
def softmax_entropy(z, inside, temperature):
    """q, (z - max) / T, the sum of its exponentials and its mean under q, over the cells inside.

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
    return q, shifted, total, tl.sum(q * shifted, 0)


def triton_type(dtype: torch.dtype) -> tl.dtype:
    """Triton's name for an accumulation type."""
    return tl.float64 if dtype == torch.float64 else tl.float32
