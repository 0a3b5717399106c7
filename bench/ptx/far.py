"""Show that no product of 32-bit integers makes an offset of tensors that are larger than that.

Tensors of torch's meta device take the launchers, and buffers that take no memory the kernels. Only
the programs of the last sample run, and those of the classifier's gradient: an offset that wraps
around lies outside of the tensor, or in another sample.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from bench.ptx.driver import Gpu
from bench.ptx.errors import Fault
from bench.ptx.machine import Machine
from focus.kernels import triton_cam, triton_focus_head
from focus.kernels.terms import Terms
from focus.kernels.types import HeadArguments

CHANNELS, SIDE, CLASSES, SPLITS = 1024, 7, 2, 8
CELLS = SIDE * SIDE
LARGE_BATCH, SMALL_BATCH = 70_000, 40
"""2^31 elements of features are 42,799 samples."""
STRIDES = (2**26, 2**31 + 2**20)
"""Of a sample of features in a small batch, in 32 bits and beyond them."""
SAVED_STRIDE = 2**26


class Far(NamedTuple):
    """Features whose last element lies further than 2^31 from the first."""

    layout: str
    batch: int
    stride: int

    def __str__(self) -> str:
        return f"{self.batch} samples, {self.layout}, {self.stride} elements apart"


FAR_CASES = tuple(
    Far(layout, batch, stride)
    for layout in ("nchw", "channels_last")
    for batch, stride in (
        (LARGE_BATCH, CHANNELS * CELLS),
        (SMALL_BATCH, STRIDES[0]),
        (SMALL_BATCH, STRIDES[1]),
    )
)


def far_faults(target: str, far_cases: Sequence[Far] = FAR_CASES) -> list[str]:
    """Return what the kernels do wrong with such features, in words."""
    faults = []
    for far in far_cases:
        for name, launcher, programs in _launchers(far):
            gpu = Gpu(target)
            gpu.ctas = programs
            splits = mock.patch.object(triton_cam, "splits_of", return_value=SPLITS)
            try:
                with gpu.active(), splits:
                    launcher()
            except Fault as fault:
                faults.append(f"{name} of {far}: {fault}")
                continue
            for machine in gpu.launches:
                faults += [f"{name} of {far}: {fault}" for fault in machine.faults]
                faults += [f"{name} of {far}: {fault}" for fault in _of_last_sample(machine, far)]
    return faults


def _of_last_sample(machine: Machine, far: Far) -> Iterator[str]:
    """Yield which features, or gradients of them, are not just those of the last sample."""
    stride = {"x_ptr": far.stride, "dx_ptr": CHANNELS * CELLS}
    for (kind, name), extent in machine.extent.items():
        if name in stride:
            first = (far.batch - 1) * stride[name] * _BYTES
            if extent != (first, first + CHANNELS * CELLS * _BYTES):
                yield f"{machine.program.name}: {kind} of {name} at bytes {extent}, not {first}"


_BYTES = 2


def _launchers(
    far: Far,
) -> Iterator[tuple[str, Callable[[], object], Callable[[int], Sequence[int]]]]:
    """Yield launchers by name, and which of their programs run."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    batch, last = far.batch, far.layout == "channels_last"
    strides = (1, SIDE * CHANNELS, CHANNELS) if last else (CELLS, SIDE, 1)
    shape = [batch, CHANNELS, SIDE, SIDE]
    features = torch.empty_strided(
        shape, (far.stride, *strides), dtype=torch.bfloat16, device="meta"
    )
    weight, index, maps = empty(CLASSES, CHANNELS), empty(batch, dtype=torch.int64), shape[2:]
    cams = empty(batch, *maps)
    saved_columns = triton_focus_head.columns(CELLS, CLASSES) + 2 * CHANNELS
    saved = torch.empty_strided(
        (batch, saved_columns),
        (SAVED_STRIDE if batch == SMALL_BATCH else saved_columns, 1),
        device="meta",
    )

    def head_forward() -> object:
        arguments = HeadArguments(
            features=features, weight=weight, bias=empty(CLASSES), target=index, saliency=cams,
            saliency_mask=None, entropy_target=None, class_weight=None,
            weights=Terms(**dict.fromkeys(Terms._fields, 1.0)), temperature=1.0,
            label_smoothing=0.0, focus_level="match", cam_class="true", entropy="softmax",
            reduction="none",
        )  # fmt: skip
        return triton_focus_head.focus_head_forward(arguments, need_weight=True)

    def head_backward() -> object:
        return triton_focus_head.focus_head_backward(
            saved, weight, upstream=empty(), upstream_logits=empty(batch, CLASSES),
            contrast=False, bias_of_sample=False, shape=shape, dtype=torch.bfloat16, last=last,
            need_features=True, need_weight=True, need_bias=True,
        )  # fmt: skip

    def cam_backward() -> object:
        return triton_cam.cam_entropy_backward(
            features, weight, index, cams, temperature=1.0, grad_cam=cams,
            grad_entropy=empty(batch), need_features=True, need_weight=True,
        )  # fmt: skip

    def last_programs(count: int) -> Callable[[int], Sequence[int]]:
        return lambda grid: range(grid - count, grid)

    _, blocks = triton_cam.constants(CHANNELS, CELLS, CLASSES, last)
    yield "focus_head", head_forward, last_programs(SPLITS)
    yield "focus_head's backward", head_backward, last_programs(blocks)
    if batch == SMALL_BATCH:
        yield "focus_head's dW", head_backward, lambda _: [0]
    yield (
        "cam_entropy",
        lambda: triton_cam.cam_entropy_forward(features, weight, index, 1.0),
        last_programs(SPLITS),
    )
    yield "cam_entropy's backward", cam_backward, last_programs(blocks)
    yield (
        "class_activation",
        lambda: triton_cam.class_activation(features, weight, None, index[:, None], 1.0),
        last_programs(SPLITS),
    )
