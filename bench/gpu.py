"""Measure the head on a GPU: correctness first, then times, in one JSON and at most 8 minutes.

    python -m bench.gpu [--output FILE] [--minutes N] [--parts NAME ...] [--shapes BxCxHW ...]

Parts, in this order:

- ``correctness``: gradients of ``focus_head`` against the float64 reference on the device, at odd
  sizes and many numbers of classes, both types and layouts.
- ``copy``: F copied, the bandwidth that a gradient of F is measured by.
- ``plain``, ``branches``, ``compiled``, ``ours``: forward and gradients of plain pooling +
  classifier + cross-entropy, of the head as autograd branches, of these under torch.compile, and of
  ``focus_head``, each checked against the reference of what it computes.

A row has microseconds as [median, 10 %, 90 %]: ``cold_us`` by triton.testing.do_bench, which
overwrites the L2 before each repetition (writing that back is part of small times, of all providers
alike); ``graph_us`` by do_bench_cudagraph, where F may be in the L2; and ``host_us``, the median
time that a call keeps the CPU busy. ``floor_us`` is the time in which the copy's bandwidth reads F
and writes dF once.

Each part is a process of its own with a share of the time, so that a crash, a hang or a poisoned
CUDA context ends no other part: its error is in the JSON, which is replaced after each row. A case
that cannot run is a row with ``error``. The exit code is 0; 1 if anything is wrong or could not
run; 2 without a device. ``--device cpu`` rehearses the program and says nothing about a GPU.
"""

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench import head
from bench.harness import Step, run_program, settings
from focus.kernels import backend_for

Row = dict[str, Any]

SHAPES: tuple[head.Shape, ...] = tuple((batch, 2048, 49) for batch in (20, 64, 128, 256, 1024))
ODD_SHAPES: tuple[head.Shape, ...] = ((20, 2048, 49), (3, 70, 49), (5, 256, 64), (2, 129, 100))
ODD_CLASSES = (2, 3, 16, 17, 1000)
QUANTILES = (0.5, 0.1, 0.9)
ROOT = Path(__file__).parents[1]


class Case(NamedTuple):
    """Sizes, type and layout of the features, and the number of classes."""

    shape: head.Shape
    dtype: str
    layout: str
    classes: int = 2

    def labels(self) -> Row:
        """Return the first columns of a row."""
        return self._asdict() | {"shape": "x".join(map(str, self.shape))}

    def features_bytes(self) -> int:
        """Return the size of F, and of its gradient."""
        return math.prod(self.shape) * head.DTYPES[self.dtype].itemsize

    def inputs(self, device: str) -> head.Inputs:
        """Return random tensors on the device."""
        dtype = head.DTYPES[self.dtype]
        return head.make_inputs(self.shape, self.layout, self.classes, dtype, device)


def timed_cases(shapes: tuple[head.Shape, ...]) -> list[Case]:
    """Return the cases that are timed, the most telling first."""
    layouts = ("channels_last", "nchw")
    cases = [Case(shape, "bf16", layout) for layout in layouts for shape in shapes]
    return cases + [Case(shapes[len(shapes) // 2], "fp32", layout) for layout in layouts]


def measure(step: Callable[[], object], device: str) -> Row:
    """Return the times of a step on the device, and of the host's call."""
    step()
    if device == "cpu":
        return {"cold_us": [round(host_us(step, device), 1)] * 3}
    from triton.testing import do_bench, do_bench_cudagraph

    cold = do_bench(step, warmup=10, rep=50, quantiles=QUANTILES)
    row: Row = {"cold_us": _microseconds(cold), "host_us": round(host_us(step, device), 1)}
    gc.collect()  # a graph of autograd in a cycle would keep its nodes on the other stream
    try:
        row["graph_us"] = _microseconds(do_bench_cudagraph(step, rep=20, quantiles=QUANTILES))
    except Exception as error:  # what cannot be captured still has its other times
        torch.cuda.set_stream(torch.cuda.default_stream())
        row["graph_error"] = one_line(error)
    return row


def _microseconds(milliseconds: list[float]) -> list[float]:
    return [round(1e3 * value, 2) for value in milliseconds]


def host_us(step: Callable[[], object], device: str, repeats: int = 20) -> float:
    """Return the median of the microseconds that a call takes to return."""
    seconds = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return 1e6 * sorted(seconds)[repeats // 2]


def correctness(device: str, shapes: tuple[head.Shape, ...]) -> Iterator[tuple[Row, Any]]:
    """Yield the cases of ``focus_head`` that are compared with the reference."""
    cases = [Case(s, *kind) for s, kind in product(ODD_SHAPES, product(head.DTYPES, head.LAYOUTS))]
    cases += [Case((17, 96, 49), "bf16", "channels_last", classes) for classes in ODD_CLASSES]
    for case in cases:
        yield case.labels(), partial(_compare, case, device)


def _compare(case: Case, device: str) -> Row:
    inputs = case.inputs(device)
    return compared(inputs, "ours", partial(head.gradients, inputs, head.ours_loss))


def compared(inputs: head.Inputs, name: str, step: Step) -> Row:
    """Return the relative error of a step's gradients, and whether it is over its limit."""
    ((_, error, limit),) = head.relative_errors(inputs, {name: step})
    row: Row = {"relative_error": error if math.isfinite(error) else str(error)}
    return row if error <= limit else row | {"error": f"wrong: relative error above {limit:.1e}"}


def copies(device: str, shapes: tuple[head.Shape, ...]) -> Iterator[tuple[Row, Any]]:
    """Yield a copy of each size of F, the largest first."""
    sizes = {case.features_bytes() for case in timed_cases(shapes)}
    for size in sorted(sizes, reverse=True):
        yield {"bytes": size}, partial(_copy, size, device)


def _copy(size: int, device: str) -> Row:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    row = measure(lambda: target.copy_(source), device)
    return row | {"bytes_per_second": round(2e6 * size / row["cold_us"][0])}


def provider(
    names: tuple[str, ...], device: str, shapes: tuple[head.Shape, ...]
) -> Iterator[tuple[Row, Any]]:
    """Yield the steps of :func:`bench.head.steps_of` by these names, case by case."""
    for case, name in product(timed_cases(shapes), names):
        yield case.labels() | {"provider": name}, partial(_step, case, name, device)


def _step(case: Case, name: str, device: str) -> Row:
    torch.compiler.reset()  # it compiles a function for a few shapes, and then no more
    inputs = case.inputs(device)
    step = head.steps_of(inputs)[name]
    row = compared(inputs, name, step)
    if name == "ours":
        row["backend"] = ": ".join(backend_for(inputs.features))
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated() - before
        row["memory_of_features"] = round(peak / case.features_bytes(), 3)
    return row | measure(step, device)


PARTS: dict[str, tuple[float, Callable[..., Iterator[tuple[Row, Any]]]]] = {
    "correctness": (2, correctness),
    "copy": (0.5, copies),
    "plain": (1, partial(provider, ("plain mean", "plain adaptive"))),
    "branches": (1, partial(provider, ("branches",))),
    "compiled": (2, partial(provider, ("compiled",))),
    "ours": (2.5, partial(provider, ("ours",))),
}
"""By name: its share of the time, and the function that yields labels and measurements."""


def run_part(name: str, device: str, shapes: tuple[head.Shape, ...]) -> None:
    """Print a JSON line a row; a case that fails is a row with ``error``."""
    torch.set_float32_matmul_precision("highest")  # which some images have lowered
    for labels, call in PARTS[name][1](device, shapes):
        try:
            row = labels | call()
        except Exception as error:  # one that cannot run must not end the others
            row = labels | {"error": one_line(error)}
        print(json.dumps(row), flush=True)


def run_process(command: list[str], seconds: float, add: Callable[[Row], None]) -> str | None:
    """Run a part as a process for at most some seconds; return its error, if there is one.

    add: takes each row as it is printed.
    """
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,  # compilers that it started end with it
        ) as child,
    ):
        assert child.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            for line in child.stdout:
                if line.startswith("{"):
                    add(json.loads(line))
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            code = child.wait()
            timer.cancel()
        if late.is_set():
            return f"ended after its share of {seconds:.0f} s"
        said.seek(0)
        lines = said.read().strip().splitlines()
    return f"exit code {code}: {' | '.join(lines[-3:])}" if code else None


def one_line(error: BaseException) -> str:
    """Return the kind of an error and the beginning of its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def machine(device: str) -> Row:
    """Return card, driver, versions and commit."""
    row: Row = settings("python -m bench.gpu") | {"started": time.strftime("%FT%T%z")}
    row["system"] = platform.platform()
    if device == "cpu":
        return row
    card = torch.cuda.get_device_properties(0)
    row |= {"card": card.name, "cuda": torch.version.cuda, "rocm": torch.version.hip}
    row |= {"memory_bytes": card.total_memory, "multiprocessors": card.multi_processor_count}
    row["capability"] = f"{card.major}.{card.minor}"
    row["l2_bytes"] = getattr(card, "L2_cache_size", None)
    query = "--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        row["nvidia_smi"] = done.stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        row["nvidia_smi"] = one_line(error)
    return row


def summarise(report: Row) -> int:
    """Add ``floor_us`` to the rows that were timed; print them; return the exit code."""
    parts, wrong = report["parts"], 0
    speeds = [row.get("bytes_per_second", 0) for row in parts.get("copy", {}).get("rows", [])]
    for name, part in parts.items():
        wrong += "error" in part
        print(f"{name}: {len(part['rows'])} rows in {part['seconds']} s {part.get('error', '')}")
        for row in part["rows"]:
            wrong += "error" in row
            if "provider" in row and any(speeds):
                size = Case(head.shape_of(row["shape"]), row["dtype"], "").features_bytes()
                row["floor_us"] = round(2e6 * size / max(speeds), 2)
            if "cold_us" in row or "error" in row:
                print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
    return 1 if wrong else 0


def main() -> int:
    """Run the parts one after the other; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="bench/results/gpu-CARD.json")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts (default: 8)")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), metavar="NAME")
    parser.add_argument("--shapes", type=head.shape_of, nargs="+", default=SHAPES, metavar="BxCxHW")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: rehearse")
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print(f"No CUDA or ROCm device: torch {torch.__version__} finds none.", file=sys.stderr)
        return 2
    if given.here:
        run_part(given.here, given.device, tuple(given.shapes))
        return 0

    # So that the part at hand ends with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    about = machine(given.device)
    card = re.sub(r"[^a-z0-9]+", "-", about.get("card", "cpu").lower()).strip("-")
    path = (given.output or ROOT / "bench" / "results" / f"gpu-{card}.json").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    report: Row = {"settings": about | {"device": given.device}, "parts": {}}

    def save() -> None:
        aside = path.with_suffix(".part")
        aside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        aside.replace(path)

    deadline = time.monotonic() + 60 * given.minutes
    for number, name in enumerate(given.parts):
        part: Row = {"rows": []}
        report["parts"][name] = part
        share = PARTS[name][0] / sum(PARTS[later][0] for later in given.parts[number:])
        seconds = max(1.0, share * (deadline - time.monotonic()))
        print(f"{name}: {seconds:.0f} s at most", flush=True)

        def add(row: Row, part: Row = part) -> None:
            part["rows"].append(row)
            save()

        shapes = ["x".join(map(str, shape)) for shape in given.shapes]
        command = [sys.executable, "-m", "bench.gpu", "--here", name, "--device", given.device]
        started = time.monotonic()
        error = run_process([*command, "--shapes", *shapes], seconds, add)
        part["seconds"] = round(time.monotonic() - started, 1)
        part |= {"error": error} if error else {}
        save()
    code = summarise(report)
    save()
    print(path)
    return code


if __name__ == "__main__":
    run_program(main)
