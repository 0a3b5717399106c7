"""How :mod:`bench.gpu` times a step: from a CUDA graph, by events, and kernel by kernel."""

import gc
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.gpu_report import Row
from bench.timing import Step

REPEAT_MS = 50
PROFILED_STEPS = 20
MIB = 1024**2


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
        named["warm_us"] = device_seconds(step, 20)
    return {name: round(1e6 * float(s), 3) for name, s in named.items()} | {"repeats": len(seconds)}


def _clocked(step: Callable[[], object], repeats: int) -> np.ndarray:
    seconds = np.zeros(repeats)
    for number in range(repeats):
        start = time.perf_counter()
        step()
        seconds[number] = time.perf_counter() - start
    return seconds


def device_seconds(step: Callable[[], object], repeats: int = 1) -> float:
    """Seconds on the device, of each of several steps, one after the other."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        step()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def launched(step: Step, device: str, features_bytes: int) -> Row:
    """Kernels of a call by name (on the CPU: operators), each with the median of its time where F
    is not in the L2, and the call's peak of memory."""
    on_device = device == "cuda"
    repeats = PROFILED_STEPS if on_device else 2
    other = torch.empty(256 * MIB if on_device else 1, dtype=torch.uint8, device=device)
    step()
    row: Row = {}
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if on_device:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peak = torch.cuda.max_memory_allocated() - before
        row["peak_memory_of_features"] = round(peak / features_bytes, 3)
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(repeats):
            other.zero_()
            step()
        if on_device:
            torch.cuda.synchronize()
    events = [
        event
        for event in profiler.events() or ()
        if (event.device_type.name == "CUDA") == on_device  # of ROCm, too
        and not getattr(event, "is_user_annotation", False)
        and (on_device or event.cpu_parent is None)
    ]
    events.sort(key=lambda event: event.time_range.start)
    timed = [(event.name, event.time_range.elapsed_us()) for event in events]
    return row | by_name(timed, repeats, "kernels" if on_device else "operators")


def by_name(timed: list[tuple[str, float]], repeats: int, kind: str) -> Row:
    """Of launches with their microseconds, in the order of so many steps that are alike, the first
    of each being what overwrites the L2: how often a step has each, and for how long at the median.
    """
    size = len(timed) // repeats
    steps = [timed[start : start + size] for start in range(0, len(timed), size or 1)]
    names = [name for name, _ in steps[0]] if steps else []
    if size < 2:
        return {"obstacle": f"the profiler recorded {len(timed)} {kind} of {repeats} steps"}
    if any([name for name, _ in one] != names for one in steps):
        return {"obstacle": f"the {len(timed)} {kind} of {repeats} steps do not repeat"}
    found: dict[str, Row] = {}
    for name in names[1:]:
        if name not in found:
            sums = [sum(us for other, us in one[1:] if other == name) for one in steps]
            count = names[1:].count(name)
            found[name] = {"count": count, "us": round(float(np.median(sums)), 2)}
    return {"total": size - 1, kind: found}


def leave_capture(device: str) -> None:
    """A capture that fails leaves its stream in the place of the usual one."""
    if device == "cuda":
        torch.cuda.set_stream(torch.cuda.default_stream())


def copy(nbytes: int, device: str) -> Row:
    """Time and bandwidth of a copy."""
    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    row = measure(lambda: target.copy_(source), device)
    return {"bytes": nbytes, "bytes_per_second": round(2e6 * nbytes / row["median_us"])} | row


def same(step: Step) -> Step:
    """For what is to be given a way to make a step, of one that is made."""
    return step


def launch_floor(count: int, device: str) -> Row:
    """What launching alone takes: so many kernels on one element, one after the other."""
    element = torch.zeros(1, device=device)

    def step() -> tuple[Tensor, ...]:
        for _ in range(count):
            element.add_(1)
        return (element,)

    launch = captured(lambda: step) if device == "cuda" else step
    return {"launches": count} | measure(launch, device)
