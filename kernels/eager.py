"""Pooled features and CAMs in torch calls; the rest of an operation is the reference's.

The features are read in parts that stay in a core's cache, which also bounds what their copy in 32
bits takes. Of their gradient, which has rank two, no more is made than its own size:

    f[b,c]  = mean_p F[b,c,p]           z[b,p]    = sum_c V[b,c] F[b,c,p]
    dV[b,c] = sum_p dz[b,p] F[b,c,p]    dF[b,c,p] = V[b,c] dz[b,p] + df[b,c] / P
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from focus.kernels.types import channels_last, empty_features, refuse_second_derivative

PART_ELEMENTS = 2**18
"""Elements of features that are worked on together."""


def read(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return pooled features ``[B,C]`` and CAMs ``[B,k,P]`` of vectors ``[B,k,C]``."""
    pooled, cams = [], []
    for part, v in _parts(features, vectors):
        part = part.to(v.dtype)
        # Where channels are adjacent, a product is faster than mean.
        ones = part.new_full((), 1 / part.shape[2]).expand(len(part), part.shape[2], 1)
        pooled.append(torch.bmm(part, ones)[:, :, 0] if part.stride(1) == 1 else part.mean(2))
        cams.append(torch.bmm(v, part))
    return torch.cat(pooled), torch.cat(cams)


def pool_and_project(features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Do as :func:`focus.kernels.reference.pool_and_project`, for one vector a sample.

    Once differentiable.
    """
    out: tuple[Tensor, Tensor] = _PoolAndProject.apply(features, vectors)  # type: ignore[no-untyped-call]
    return out


class _PoolAndProject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(features, vectors)
        return read(features, vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        refuse_second_derivative()
        (features, vectors), (grad_pooled, grad_cams) = ctx.saved_tensors, grads
        grad_features = grad_vectors = None
        if ctx.needs_input_grad[0]:
            last, device = channels_last(features), features.device
            grad_features = empty_features(features.shape, features.dtype, last, device)
            beside, cells = (grad_pooled[:, :, None], vectors, grad_cams), grad_cams.shape[2]
            for part, f, v, g in _parts(grad_features, *beside):
                # In its layout, which a result of torch's own making would not have.
                product = part if part.dtype == g.dtype else torch.empty_like(part, dtype=g.dtype)
                torch.addcmul(f / cells, v.transpose(1, 2), g, out=product)
                if product is not part:
                    part.copy_(product)
        if ctx.needs_input_grad[1]:
            parts = _parts(features, grad_cams)
            grad_vectors = torch.cat(
                [torch.bmm(g, x.to(g.dtype).transpose(1, 2)) for x, g in parts]
            )
        return grad_features, grad_vectors


def _parts(features: Tensor, *beside: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield parts of features as ``[b,C,P]``, and of the tensors beside them; one on a GPU."""
    parts = 1 if features.is_cuda else max(features.numel() // PART_ELEMENTS, 1)
    size = max(-(-len(features) // parts), 1)
    for part, *others in zip(features.split(size), *(x.split(size) for x in beside), strict=True):
        yield part.flatten(2), *others
