"""Parts of :mod:`bench.gpu` that vary what the launchers choose by the shapes."""

import os
from functools import partial

import torch

from bench import head
from bench.gpu_report import Row, Run
from bench.gpu_steps import inputs_of, profiled
from bench.gpu_timing import captured, leave_capture, measure, same
from bench.gpu_tools import one_line
from bench.timing import Step

SPLITS = (None, 1, 2, 4, 8, 16, 32)
KIB_AHEAD = (8, 24, 72, 144)


def splits(run: Run) -> None:
    """Part ``splits``: the launcher alone."""
    if _without_kernels(run):
        return
    from focus.kernels.triton_focus_head import focus_head_forward

    for case in run.part.over([c for c in profiled(run.shapes) if c.dtype == "bf16"]):
        inputs = inputs_of(case, run.device)
        scalars = [1.0, head.FOCUS_WEIGHT, head.SALIENCY_WEIGHT, 1.0, 0.0]
        features, weight, bias = (leaf.detach() for leaf in inputs.leaves)
        call = partial(
            focus_head_forward,
            features,
            weight,
            bias,
            target=inputs.target,
            saliency=inputs.saliency,
            saliency_mask=None,
            entropy_target=None,
            class_weight=None,
            scalars=torch.tensor(scalars, device=run.device),
            level="minimize",
            cam_class="true",
            reduction="mean",
        )
        for number in SPLITS:
            add_timed(run, case.labels() | {"splits": number}, partial(call, splits=number))


def stages(run: Run) -> None:
    """Part ``stages``: the step, by how many bytes a program asks for before it needs them."""
    if _without_kernels(run):
        return
    from focus.kernels import triton_tiles

    usual = triton_tiles.BYTES_AHEAD
    try:
        for case in run.part.over([c for c in profiled(run.shapes) if c.dtype == "bf16"]):
            inputs = inputs_of(case, run.device)
            for kib in KIB_AHEAD:
                triton_tiles.BYTES_AHEAD = 1024 * kib
                add_timed(run, case.labels() | {"kib_ahead": kib}, partial(head.ours, inputs))
    finally:
        triton_tiles.BYTES_AHEAD = usual


def _without_kernels(run: Run) -> bool:
    """Whether the launchers cannot run; it is then said."""
    if run.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        run.out["obstacle"] = "the launchers need a device, or TRITON_INTERPRET=1"
    return "obstacle" in run.out


def add_timed(run: Run, row: Row, step: Step) -> None:
    """Add a row with the time of a step, from a CUDA graph where there is a device."""
    try:
        launch = captured(partial(same, step)) if run.device == "cuda" else step
        row |= measure(launch, run.device)
    except Exception as error:  # a number that cannot run must not end the others
        leave_capture(run.device)
        row["problem"] = one_line(f"{type(error).__name__}: {error}")
    run.add(row)
