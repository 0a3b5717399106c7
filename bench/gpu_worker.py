"""A process for :mod:`bench.gpu` to start, and for other programs to watch.

    python -m bench.gpu_worker profile|watch [--device cuda] [--shapes BxCxHW,...]
    python -m bench.gpu_worker compile [--device cuda] [--shapes BxCxHW,...] [--share I/N]

``profile``: a step a case between ``cudaProfilerStart`` and ``Stop``, forward and backward each
followed by a kernel that divides them. ``watch``: every operation once, on small tensors unless
told otherwise, for a sanitizer. ``compile``: what the other parts launch; of that every N-th, from
the I-th on.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle

import torch

from bench import head
from bench.gpu_steps import (
    LAYOUTS,
    SHAPES,
    WATCHED,
    Case,
    cases,
    inputs_of,
    loss_of,
    profiled,
    shapes_of,
)
from bench.gpu_timing import MIB
from bench.gpu_tuning import variants, without_kernels
from bench.head_table import Shape
from focus.kernels import cam_entropy, class_activation, focus_head
from focus.kernels.types import CamClass

DONE = "all steps done"

Work = Callable[[str], None]
"""Something to do on a device."""


def profile(given: list[Case], device: str) -> None:
    """A cold step of each case, marked for a profiler."""
    other = torch.zeros(128 * MIB if device == "cuda" else 1, device=device)
    for case in given:
        inputs = inputs_of(case, device)
        head.ours(inputs)  # compiles
        other.amax()  # fills the L2 with what nobody has to write back
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        loss = loss_of(inputs)
        _divide(device)
        torch.autograd.grad(loss, inputs.leaves)
        _divide(device)
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


def _divide(device: str) -> None:
    if device == "cuda":
        torch.cuda._sleep(1)


def run(case: Case, device: str) -> None:
    """Forward and backward of the operations."""
    inputs = inputs_of(case, device)
    head.ours(inputs)
    cam, entropy = cam_entropy(inputs.features, inputs.weight, inputs.target)
    torch.autograd.grad(cam.square().sum() + entropy.sum(), inputs.leaves[:2])


def run_head(case: Case, cam_class: CamClass, device: str) -> None:
    """The whole head with the CAM of another class, where some samples have no human map."""
    inputs = inputs_of(case, device)
    loss = focus_head(
        *inputs.leaves,
        inputs.target,
        saliency=inputs.saliency,
        saliency_mask=inputs.target != 0,
        focus_weight=head.FOCUS_WEIGHT,
        saliency_weight=head.SALIENCY_WEIGHT,
        cam_class=cam_class,
    ).loss
    torch.autograd.grad(loss, inputs.leaves)


def run_maps(case: Case, device: str) -> None:
    """The maps of all classes."""
    class_activation(*inputs_of(case, device).leaves, range(case.classes))


def watched(shapes: tuple[Shape, ...] = WATCHED) -> list[Work]:
    """What a sanitizer watches: each kernel, in both layouts."""
    work: list[Work] = [partial(run, case) for case in cases(shapes)]
    for shape, layout in zip(cycle(shapes), LAYOUTS, strict=False):
        half, few, several = (
            Case(shape, dtype, layout, classes)
            for dtype, classes in (("fp16", 2), ("bf16", 4), ("bf16", 17))
        )
        work += [partial(run, half), partial(run, few), partial(run_maps, several)]
        work += [partial(run_head, case, "contrast") for case in (few, several)]
        work += [partial(run_head, case, "predicted") for case in (few, several)]
    return work


def compiled(shapes: tuple[Shape, ...], device: str) -> list[Work]:
    """What the parts launch, the most telling first, since time may run out."""
    work: list[Work] = [partial(run, case) for case in cases(shapes)]
    if not without_kernels(device):
        work += [variant for case in profiled(shapes) for variant in variants(case)]
    return [*work, *watched()]


def main() -> None:
    """Run the steps, then say so: a program that watches cannot tell that they all ran."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=["profile", "watch", "compile"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shapes", type=shapes_of)
    parser.add_argument("--share", metavar="I/N")
    arguments = parser.parse_args()
    if arguments.task != "compile" and arguments.share:
        parser.error(f"{arguments.task} runs all of its steps: drop --share.")
    torch.set_num_threads(1)
    device = arguments.device
    if arguments.task == "profile":
        profile(profiled(arguments.shapes or SHAPES), device)
    elif arguments.task == "watch":
        for work in watched(arguments.shapes or WATCHED):
            work(device)
            if device == "cuda":
                torch.cuda.synchronize()
    else:
        first, step = map(int, (arguments.share or "0/1").split("/"))
        failed = 0
        for work in compiled(arguments.shapes or SHAPES, device)[first::step]:
            try:
                work(device)
            except Exception:  # which the part that launches it will say
                failed += 1
        if failed:
            sys.exit(f"{failed} launches failed")
    print(DONE)


if __name__ == "__main__":
    main()
