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
