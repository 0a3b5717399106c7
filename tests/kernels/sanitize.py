"""Every address that the Triton kernels form, judged by triton-viz's sanitizer; no GPU is needed.

    make sanitize

runs planted faulty kernels, then the operations, forward and backward. It prints a line for each
and exits with 0 only if every planted fault is found and the operations are clean. An address that
the sanitizer cannot follow makes the run fail. It does not see: integers that overflow, two
programs that write to the same place, wrong values.
"""

import importlib
import os
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

os.environ["TRITON_INTERPRET"] = "1"  # read by triton when it is imported

import torch
import triton
import triton.language as tl
from torch import Tensor

import focus.kernels
from focus.kernels import backend_for, class_activation, focus_head

from .cases import (
    Form,
    Inputs,
    head_options,
    make_inputs,
    name_of,
    run_cam_entropy,
    run_focus_head,
)
from .sanitizer import OutOfBoundsError, Sanitizer, install

TRITON = Form("triton")


@triton.jit
def _copy(source_ptr, out_ptr, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(source_ptr + i, mask=i < count, other=0), mask=i < count)


@triton.jit
def _square(source_ptr, out_ptr, stride, count, BLOCK: tl.constexpr):
    i, j = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    mask = i[:, None] * BLOCK + j[None, :] < count
    tile = tl.load(source_ptr + i[:, None] * stride + j[None, :], mask=mask, other=0)
    tl.store(out_ptr + i[:, None] * BLOCK + j[None, :], tile)


@triton.jit
def _gather(source_ptr, index_ptr, out_ptr, BLOCK_K: tl.constexpr, BLOCK: tl.constexpr):
    k, i = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK)
    row = tl.load(index_ptr + k)
    tile = tl.load(source_ptr + row[:, None] * BLOCK + i[None, :], mask=(row >= 0)[:, None])
    tl.store(out_ptr + k[:, None] * BLOCK + i[None, :], tile)


@triton.jit
def _branch(out_ptr, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    if tl.program_id(0) == 0:
        tl.store(out_ptr + i, i.to(tl.float32), mask=i < count)
    else:
        tl.store(out_ptr + i + 1, i.to(tl.float32), mask=i < count)


@triton.jit
def _rows(source_ptr, index_ptr, out_ptr, stride, count, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(count):
        total += tl.load(source_ptr + tl.load(index_ptr + step) * stride + i)
    tl.store(out_ptr + i, total)


CASE = ("batch", "channels", "grid", "classes", "layout", "dtype")
CHOICE = ("level", "cam_class", "maps")
SHAPES = (
    ((3, 40, (7, 7), 2, "nchw", torch.float32), ("hinge", "true", "masked maps")),
    ((3, 40, (7, 7), 2, "channels_last", torch.bfloat16), ("match", "predicted", "maps")),
    ((2, 48, (7, 7), 2, "nchw", torch.bfloat16), ("minimize", "contrast", "no maps")),
    ((2, 37, (3, 5), 2, "sliced", torch.float32), ("hinge", "contrast", "maps")),
    ((3, 24, (5, 5), 3, "offset", torch.bfloat16), ("match", "true", "no maps")),
    ((2, 24, (3, 3), 2, "expanded", torch.float32), ("minimize", "true", "maps")),
    ((2, 33, (1, 1), 2, "channels_last", torch.float32), ("none", "true", "no maps")),
    ((2, 20, (4, 4), 16, "nchw", torch.float32), ("hinge", "predicted", "maps")),
    ((17, 12, (3, 5), 5, "nchw", torch.bfloat16), ("hinge", "contrast", "maps")),
    ((2, 20, (3, 3), 17, "channels_last", torch.float16), ("match", "true", "masked maps")),
    ((2, 19, (3, 3), 17, "offset", torch.float32), ("minimize", "predicted", "maps")),
    # So many channels that the default splits them.
    ((1, 1030, (7, 7), 2, "nchw", torch.bfloat16), ("hinge", "true", "maps")),
    ((1, 1040, (7, 7), 2, "channels_last", torch.bfloat16), ("hinge", "true", "maps")),
)


class Run(NamedTuple):
    """A line of the output: what is run, and whether a fault is planted in it."""

    name: str
    call: Callable[[], Any]
    faulty: bool = False
    obstacle: str = ""
    """Why it does not run in Triton, if so."""


def planted() -> Iterator[Run]:
    """Small kernels, some with one fault."""

    def copy(source: Tensor, out: Tensor, count: int) -> None:
        _copy[(1,)](source, out, count, BLOCK=32)

    def square(source: Tensor, stride: int, count: int) -> None:
        _square[(1,)](source, torch.zeros(16, 16), stride, count, BLOCK=16)

    def rows(index: list[int]) -> None:
        source, out = torch.zeros(16, 16), torch.zeros(16)
        _rows[(1,)](source, torch.tensor(index), out, 16, len(index), BLOCK=16)

    def gather(index: list[int]) -> None:
        source, out = torch.zeros(16, 8), torch.zeros(4, 8)
        _gather[(1,)](source, torch.tensor(index), out, BLOCK_K=4, BLOCK=8)

    def branch(programs: int) -> None:
        _branch[(programs,)](torch.zeros(16), 16, BLOCK=16)

    full, short = torch.zeros(17), torch.zeros(13)
    first, second = torch.zeros(30).split([13, 17])
    gaps = torch.zeros(16, 20)[:, :16]
    yield Run("planted, no fault, copy", partial(copy, full, full.clone(), 17))
    yield Run("planted, load of one element too many", partial(copy, short, full, 14), True)
    yield Run("planted, store of one element too many", partial(copy, full, short, 14), True)
    yield Run("planted, load from the next tensor", partial(copy, first, second, 14), True)
    yield Run("planted, no fault, sliced rows", partial(square, gaps, 20, 256))
    yield Run("planted, gap between sliced rows", partial(square, gaps, 19, 256), True)
    # Only lane 15 of the second axis is outside, with lane 0 of the first.
    yield Run("planted, end of a row", partial(square, torch.zeros(15), 16, 16), True)
    yield Run("planted, no fault, first branch", partial(branch, 1))
    yield Run("planted, second branch of the second program", partial(branch, 2), True)
    yield Run("planted, no fault, index by lane", partial(gather, [3, 0, 15, 15]))
    yield Run("planted, index by lane too large by one", partial(gather, [3, 0, 16, 15]), True)
    yield Run("planted, no fault, rows by index", partial(rows, [3, 0, 15]))
    yield Run("planted, index too large by one", partial(rows, [3, 16, 0]), True)


def operations() -> Iterator[Run]:
    """All public operations on all shapes."""
    for shape, options in SHAPES:
        case = dict(zip(CASE, shape, strict=True))
        choice = dict(zip(CHOICE, options, strict=True))
        inputs = make_inputs(case)
        head = head_options(choice, inputs)
        calls = {
            "cam_entropy": (name_of(case), partial(run_cam_entropy, TRITON, inputs)),
            "focus_head": (
                name_of(case | choice),
                partial(run_focus_head, TRITON, inputs, **head),
            ),
            "focus_head, one gradient each": (
                name_of(case | choice),
                partial(one_gradient_each, inputs, head),
            ),
            "class_activation": (name_of(case), partial(activate, inputs)),
        }
        backend = backend_for(inputs.features)
        obstacle = "" if backend.name == "triton" else backend.reason
        for operation, (label, call) in calls.items():
            yield Run(f"{operation} {label}", call, obstacle=obstacle)


def one_gradient_each(inputs: Inputs, options: dict[str, Any]) -> None:
    """The head on a frozen backbone, and the backbone under a frozen head."""
    for wanted in range(3):
        leaves = [t.detach() for t in (inputs.features, inputs.weight, inputs.bias)]
        leaves[wanted].requires_grad_()
        with TRITON.active():
            focus_head(*leaves, inputs.index, **options).loss.backward()


def activate(inputs: Inputs) -> None:
    """Two classes of each sample, of which the last class is one."""
    last = torch.full_like(inputs.index, len(inputs.weight) - 1)
    classes = torch.stack([inputs.index, last], 1)
    with TRITON.active():
        class_activation(inputs.features, inputs.weight, inputs.bias, classes)


def check(sanitizer: Sanitizer, run: Run, progress: str) -> bool:
    """Print the line of a run, and below it what was found; whether that is as wanted."""
    if run.obstacle:
        print(f"{progress} -      {run.name}: {run.obstacle}", flush=True)
        return True
    start = time.process_time()
    sanitizer.reset()
    refusals = []
    try:
        run.call()
    except OutOfBoundsError:
        pass
    except Exception as error:
        refusals.append(f"not checked to the end: {type(error).__name__}: {error}")
    found = sanitizer.faults()
    as_wanted = sanitizer.accesses > 0 and not refusals and len(found) == run.faulty
    verdict = ("found" if run.faulty else "clean") if as_wanted else "WRONG"
    extent = f"{sanitizer.accesses} accesses by {sanitizer.programs} programs"
    spent = f"{time.process_time() - start:.1f} s"
    print(f"{progress} {verdict:<6} {run.name}: {extent}, {spent}", flush=True)
    for words in found + refusals:
        print(f"      {words}", flush=True)
    return as_wanted


def main() -> str | None:
    """Check all; None or what is wrong."""
    torch.set_num_threads(1)
    sanitizer = Sanitizer()
    names = [m.name for m in pkgutil.iter_modules(focus.kernels.__path__, "focus.kernels.")]
    install(sanitizer, [*map(importlib.import_module, names), sys.modules[__name__]])

    todo = [*planted(), *operations()]
    print(f"triton {triton.__version__}, torch {torch.__version__}")
    results = [
        check(sanitizer, run, f"{number:>2}/{len(todo)}") for number, run in enumerate(todo, 1)
    ]
    wrong = len(todo) - sum(results)
    not_in_triton = sum(bool(run.obstacle) for run in todo)
    print(f"{len(todo)} runs: {wrong} wrong, {not_in_triton} not in Triton")
    return f"error: {wrong} of {len(todo)} runs are not as they should be" if wrong else None


if __name__ == "__main__":
    sys.exit(main())
