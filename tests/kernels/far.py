"""Tensors whose elements lie further apart than int32 can count."""

import mmap
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LIMIT = 2**31
"""More than int32 holds."""
NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which not every Python names."""


def spread(tensor: Tensor, axis: int) -> Tensor:
    """The same numbers, the last along an axis more than 2^31 elements from the first.

    It takes address space only: a page of memory is there once it is written.
    """
    strides = list(tensor.contiguous().stride())
    steps = tensor.shape[axis] - 1
    strides[axis] = LIMIT // steps // 16 * 16 + 16
    elements = steps * strides[axis] + tensor.numel()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    memory = mmap.mmap(-1, elements * tensor.element_size(), flags=flags)
    far = torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, strides)
    return far.copy_(tensor)


class FarGradients(TorchDispatchMode):
    """Memory asked for in the shape of the features comes from :func:`spread`."""

    def __init__(self, features: Tensor, axis: int) -> None:
        super().__init__()
        self.features, self.axis, self.given = features, axis, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        is_memory = func._schema.name.removeprefix("aten::") in ("empty", "empty_like", "new_empty")
        if is_memory and out.shape == self.features.shape and out.dtype == self.features.dtype:
            self.given += 1
            return spread(out, self.axis)
        return out
