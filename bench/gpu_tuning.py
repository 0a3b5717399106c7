"""Parts of :mod:`bench.gpu` that vary what the launchers choose by shape and layout."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch

from bench import head
from bench.gpu_report import Row, Run
from bench.gpu_steps import Case, inputs_of, profiled
from bench.gpu_timing import captured, leave_capture, measure, same
from bench.gpu_tools import one_line
from bench.timing import Step

SPLITS = (None, 1, 2, 4, 8, 16, 32)
# Each gives other stages, in both layouts; the third is the kernels' own.
KIB_AHEAD = (8, 48, 72, 144)
NO_KERNELS = "the launchers need a device, or TRITON_INTERPRET=1"


def splits(run: Run) -> None:
    """Part ``splits``: the launcher alone."""
    if without_kernels(run.device):
        run.out["obstacle"] = NO_KERNELS
        return
    for case in run.part.over(profiled(run.shapes)):
        call = forward_of(inputs_of(case, run.device))
        for number in SPLITS:
            add_timed(run, case.labels() | {"splits": number}, partial(call, splits=number))


def forward_of(inputs: head.Inputs) -> Callable[..., Any]:
    """The launcher of the forward, which can be told ``splits``."""
    from focus.kernels.triton_focus_head import focus_head_forward

    scalars = [1.0, head.FOCUS_WEIGHT, head.SALIENCY_WEIGHT, 1.0, 0.0]
    features, weight, bias = (leaf.detach() for leaf in inputs.leaves)
    return partial(
        focus_head_forward,
        features,
        weight,
        bias,
        target=inputs.target,
        saliency=inputs.saliency,
        saliency_mask=None,
        entropy_target=None,
        class_weight=None,
        scalars=torch.tensor(scalars, device=features.device),
        level="minimize",
        cam_class="true",
        reduction="mean",
    )


def stages(run: Run) -> None:
    """Part ``stages``: the step, by how many bytes a program asks for before it needs them."""
    if without_kernels(run.device):
        run.out["obstacle"] = NO_KERNELS
        return
    from triton.runtime.errors import OutOfResources

    for case in run.part.over(profiled(run.shapes)):
        step = partial(head.ours, inputs_of(case, run.device))
        for kib in KIB_AHEAD:
            with bytes_ahead(kib) as seen:
                # What more bytes take of shared memory, not every card has.
                row = case.labels() | {"kib_ahead": kib}
                add_timed(run, row, step, obstacle=OutOfResources)
            row["stages"] = seen[:2]  # of forward and backward, at each step alike


def variants(case: Case) -> list[Callable[[str], None]]:
    """What the parts launch of a case, on a device."""
    return [partial(_splits, case), *(partial(_step, case, kib) for kib in KIB_AHEAD)]


def _splits(case: Case, device: str) -> None:
    call = forward_of(inputs_of(case, device))
    for number in SPLITS:
        call(splits=number)


def _step(case: Case, kib: int, device: str) -> None:
    with bytes_ahead(kib):
        head.ours(inputs_of(case, device))


@contextmanager
def bytes_ahead(kib: int) -> Iterator[list[int]]:
    """The launchers ask for so many KiB ahead; gives the stages of their kernels, as launched."""
    from focus.kernels import triton_gradient_few, triton_maps, triton_tiles

    found: list[int] = []

    def stages_ahead(*arguments: Any) -> int:
        found.append(triton_tiles.stages_ahead(*arguments))
        return found[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(triton_tiles, "BYTES_AHEAD", 1024 * kib))
        for module in (triton_maps, triton_gradient_few):
            stack.enter_context(mock.patch.object(module, "stages_ahead", stages_ahead))
        yield found


def without_kernels(device: str) -> bool:
    """Whether the launchers cannot run."""
    return device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"


def add_timed(run: Run, row: Row, step: Step, obstacle: type[Exception] | tuple[()] = ()) -> None:
    """Add a row with the time of a step, from a CUDA graph where there is a device.

    obstacle: what may keep it from running without being a problem.
    """
    try:
        launch = captured(partial(same, step)) if run.device == "cuda" else step
        row |= measure(launch, run.device)
    except Exception as error:  # a number that cannot run must not end the others
        leave_capture(run.device)
        kind = "obstacle" if isinstance(error, obstacle) else "problem"
        row[kind] = one_line(f"{type(error).__name__}: {error}")
    run.add(row)
