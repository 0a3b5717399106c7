"""What :mod:`bench.gpu` times: cases, steps, CUDA graphs, and a process for others to watch.

    python -m bench.gpu_steps profile|run [--device cuda] [--shapes BxCxHW,...] [--share I/N]

runs one step a case between ``cudaProfilerStart`` and ``Stop``, forward and backward each followed
by a kernel that divides them; or every operation once, for a sanitizer, or so that its kernels are
compiled; of every N-th case, from the I-th on.
"""

import argparse
import gc
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench import head
from bench.head_table import Shape, shape_of
from bench.timing import Step
from focus.kernels import cam_entropy, use_backend

Row = dict[str, Any]

SHAPES = head.SHAPES
# Small, since each access is watched; odd numbers of cells, and channels that fill no block.
WATCHED: tuple[Shape, ...] = ((3, 70, 49), (5, 256, 64), (2, 129, 100))
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
LAYOUTS = ("channels_last", "nchw")
MANY_CLASSES = (16, 1000)
REPEAT_MS = 50
MIB = 1024**2
DONE = "all steps done"

# Largest error of a gradient, as a share of its maximum. ours: 40 roundings and the approximate exp
# of a GPU, and in bfloat16 half an ulp of dF. The others compute in bfloat16 what autocast leaves
# in it; in the branches' CAM that makes ties, and ties move whole gradients.
LIMITS = {
    ("ours", "fp32"): 1e-5,
    ("ours", "bf16"): 2**-8 + 1e-5,
    ("plain", "fp32"): 1e-4,
    ("plain", "bf16"): 0.1,
    ("branches", "fp32"): 1e-4,
    ("branches", "bf16"): math.inf,
}


class Case(NamedTuple):
    """What is measured at once."""

    shape: Shape
    dtype: str
    layout: str
    classes: int = 2

    @property
    def size(self) -> str:
        """``20x2048x49``."""
        return "x".join(map(str, self.shape))

    @property
    def features_bytes(self) -> int:
        """Size of F, and of dF."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def labels(self) -> Row:
        """The first columns of each row."""
        return self._asdict() | {"shape": self.size}

    def __str__(self) -> str:
        return f"{self.size} {self.dtype} {self.layout} K={self.classes}"


class Operation(NamedTuple):
    """Something to time: ``make`` prepares it on the current stream and gives the step."""

    provider: str
    phase: str
    make: Callable[[], Step]
    expected: tuple[Tensor, ...]

    def error(self, found: tuple[Tensor, ...]) -> float:
        """Against the float64 reference: of the worst tensor, as a share of its maximum."""
        errors = [
            (got.detach().double() - exact).abs().max() / exact.abs().max()
            for got, exact in zip(found, self.expected, strict=True)
        ]
        return float(torch.stack(errors).max())

    def limit(self, dtype: str) -> float:
        """The largest error to allow."""
        return LIMITS[self.provider.split()[0], dtype]


def cases(shapes: tuple[Shape, ...]) -> list[Case]:
    """The most telling first, since time may run out."""
    found = [
        Case(shape, dtype, layout) for dtype in DTYPES for layout in LAYOUTS for shape in shapes
    ]
    wide = [Case(shapes[:2][-1], "bf16", "channels_last", k) for k in MANY_CLASSES]
    return [*found[: len(shapes)], *wide, *found[len(shapes) :]]


def inputs_of(case: Case, device: str) -> head.Inputs:
    """As in mixed-precision training: features of the case's type, a float32 classifier."""
    made = head.make_inputs(case.shape, case.layout, case.classes, DTYPES[case.dtype])
    return head.Inputs(
        made.features.detach().to(device).requires_grad_(),
        made.weight.detach().to(device).requires_grad_(),
        made.bias.detach().to(device).requires_grad_(),
        made.target.to(device),
        made.saliency.to(device),
    )


def loss_of(inputs: head.Inputs) -> Tensor:
    """The forward of :func:`bench.head.ours`."""
    return head.ours_loss(*inputs)


def backward_of(inputs: head.Inputs) -> Step:
    """A backward that can be repeated."""
    return partial(torch.autograd.grad, loss_of(inputs), inputs.leaves, retain_graph=True)


def operations(case: Case, inputs: head.Inputs) -> list[Operation]:
    """All that is timed, with what it has to give; the branches come last."""
    features, weight, bias = (t.detach().double().requires_grad_() for t in inputs.leaves)
    wide = head.Inputs(features, weight, bias, inputs.target, inputs.saliency.double())
    with use_backend("reference"):
        focused, loss = head.ours(wide), loss_of(wide).detach()
    plain = head.plain(wide, head.pool_by_mean)

    def step(function: Callable[..., tuple[Tensor, ...]], *more: Any) -> Callable[[], Step]:
        return lambda: partial(function, inputs, *more)

    return [
        Operation("ours", "forward", lambda: lambda: (loss_of(inputs),), (loss,)),
        Operation("ours", "backward", lambda: backward_of(inputs), focused),
        Operation("ours", "step", step(head.ours), focused),
        Operation("plain mean", "step", step(head.plain, head.pool_by_mean), plain),
        Operation("plain adaptive", "step", step(head.plain, head.pool_adaptive), plain),
        Operation("branches", "step", step(head.branches), focused),
    ]


def captured(make: Callable[[], Step]) -> Step:
    """The step as a CUDA graph; calling it replays the graph."""
    gc.collect()  # a graph of autograd in a cycle, too, would keep the leaves' nodes out of it
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # backward runs on the stream that forward ran on
        step = make()
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        results = step()
    held = step, results  # the graph reads and writes their memory

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return held[1]

    return replay


def measure(step: Callable[[], object], device: str) -> Row:
    """Microseconds on the device (on the CPU: by the clock), and of the host's call."""
    if device == "cpu":
        seconds = _clocked(step, 5)
    else:
        from triton.testing import do_bench

        seconds = np.array(do_bench(step, warmup=5, rep=REPEAT_MS, return_mode="all")) / 1e3
        torch.cuda.synchronize()
    low, median, high = np.quantile(seconds, [0.1, 0.5, 0.9])
    named = {"median_us": median, "p10_us": low, "p90_us": high}
    if device == "cuda":
        named["host_us"] = np.median(_clocked(step, 20))
        torch.cuda.synchronize()
        named["warm_us"] = _one_after_the_other(step, 20)
    return {name: round(1e6 * float(s), 3) for name, s in named.items()} | {"repeats": len(seconds)}


def _clocked(step: Callable[[], object], repeats: int) -> np.ndarray:
    seconds = np.zeros(repeats)
    for number in range(repeats):
        start = time.perf_counter()
        step()
        seconds[number] = time.perf_counter() - start
    return seconds


def _one_after_the_other(step: Callable[[], object], repeats: int) -> float:
    """Seconds on the device, of each."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def launched(step: Step, device: str, features_bytes: int) -> Row:
    """Kernels of one call by name (on the CPU: operators), and its peak of memory."""
    step()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    before = 0
    if device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    with torch.profiler.profile(activities=kinds) as profiler:
        results = step()
        if device == "cuda":
            torch.cuda.synchronize()
    del results
    names: dict[str, list[float]] = {}
    for event in profiler.events() or ():
        on_device = event.device_type.name == "CUDA"  # of ROCm, too
        if on_device != (device == "cuda") or getattr(event, "is_user_annotation", False):
            continue
        if on_device or event.cpu_parent is None:
            names.setdefault(event.name, []).append(event.time_range.elapsed_us())
    row: Row = {
        "total": sum(map(len, names.values())),
        "kernels" if device == "cuda" else "operators": {
            name: {"count": len(us), "us": round(sum(us), 2)} for name, us in names.items()
        },
    }
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() - before
        row["peak_memory_of_features"] = round(peak / features_bytes, 3)
    return row


def profiled(shapes: tuple[Shape, ...]) -> list[Case]:
    """The cases of ``profile``: those with two classes."""
    return [case for case in cases(shapes) if case.classes == 2]


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


def run(given: list[Case], device: str) -> None:
    """Forward and backward of the operations at each case."""
    for case in given:
        inputs = inputs_of(case, device)
        head.ours(inputs)
        cam, entropy = cam_entropy(inputs.features, inputs.weight, inputs.target)
        torch.autograd.grad(cam.square().sum() + entropy.sum(), inputs.leaves[:2])
        if device == "cuda":
            torch.cuda.synchronize()


def shapes_of(text: str) -> tuple[Shape, ...]:
    """``20x2048x49,128x2048x49``: batch, channels, cells (a square number)."""
    return tuple(shape_of(word) for word in text.split(","))


def main() -> None:
    """Run the steps, then say so: a program that watches cannot tell that they all ran."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=["profile", "run"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shapes", type=shapes_of, action="append", help="can be repeated")
    parser.add_argument("--share", default="0/1", metavar="I/N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, step = map(int, arguments.share.split("/"))
    task, every = (profile, profiled) if arguments.task == "profile" else (run, cases)
    given = [case for shapes in arguments.shapes or [WATCHED] for case in every(shapes)]
    task(given[first::step], arguments.device)
    print(DONE)


if __name__ == "__main__":
    main()
