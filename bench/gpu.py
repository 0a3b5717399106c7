"""What a GPU says about the kernels: tests, times, launches, traffic, in one JSON file.

    python -m bench.gpu [--output FILE] [--minutes N] [--parts NAME,...] [--shapes BxCxHW,...]

Parts, in this order, each within its share of the time; what one leaves goes to the later ones:

- ``tests``: ``pytest -m gpu`` of the kernels; counts, names and messages of failures. Nearly all
  of its time goes to compiling, so that as many processes as there are cores share the tests.
- ``compilation``: compiles, in as many processes, what the later parts launch.
- ``copies``: measured bandwidth of a large copy, and of F -> dF at each size; and a graph of one
  and of eight kernels on one element, below which no step of as many launches can come.
- ``times``: the head (forward, backward, step) beside the plain head and the head written as
  separate branches, launched eagerly and replayed from a CUDA graph. Before it is timed, each is
  checked against the float64 reference, but for the branches in bf16, where ties move gradients.
  ``compiled``: the branches under torch.compile.
- ``splits``: the forward launcher alone, with the channels divided among 1 to 32 programs a sample.
- ``stages``: a step, with at most 8 to 144 KB of F and W under way in each program, and the stages
  that this gives the loops of forward and backward.
- ``launches``: kernels by name, with the median of their time, and the peak of memory, of a
  forward, a backward, a step; bf16.
- ``step``: a training step of two networks with cross-entropy alone (twice, which says what cannot
  be told apart), our loss, and the branches.
- ``traffic``: DRAM and L2 bytes of each kernel, where ``ncu`` is on the path or in the CUDA
  toolkit (``CUDA_HOME``, else /usr/local/cuda); bf16, two shapes before the others.
- ``memcheck``, ``racecheck``: where ``compute-sanitizer`` is.

Times are microseconds between two events on the device: median, 10 % and 90 % quantile. Before each
repetition triton.testing.do_bench overwrites the L2, so that F is not in it; writing that back is
part of small times, of all providers alike. ``host_us`` is how long the call keeps the CPU busy;
overwriting the L2 hides part of that from the eager times. ``of_copy`` is the time in which the
large copy's bandwidth would move the floor (F once in forward; F and dF in backward; F twice and dF
in a step), as a share of the time measured; a second read of F from L2 can lift it above 1.

Where a command may not run for so long, several can share the parts, each with a file of its own:
``tests``; those from ``compilation`` to ``step``; and the last three, which find on the disk
what was compiled for them.

The file is replaced after every case, so that an abort loses no more than the case at hand. The
exit code is 0; 1, if ``problems`` is not empty; 2 without a device, or where no kernel runs. A tool
that is absent or lacks a permission, a baseline that cannot run, and what a card has too little
memory for in ``stages`` and ``step``, is an ``obstacle`` and no problem. ``--device cpu`` rehearses
the program; it says nothing about a GPU.
"""

import argparse
import math
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import torch

from bench import gpu_tools as tools
from bench import head
from bench.entry import end_in_a_line
from bench.gpu_report import Budget, Report, Row, Run
from bench.gpu_steps import (
    SHAPES,
    Case,
    Operation,
    cases,
    inputs_of,
    operations,
    profiled,
    shapes_of,
)
from bench.gpu_timing import (
    MIB,
    captured,
    copy,
    launch_floor,
    launched,
    leave_capture,
    measure,
    same,
)
from bench.gpu_training import training_step
from bench.gpu_tuning import splits, stages
from bench.gpu_worker import DONE
from bench.head_table import Shape
from bench.timing import above_0
from focus.errors import InputError
from focus.kernels import backend_for
from focus.runtime.machine import usable_cores

FORMAT = 1
# Each has a context on the device, of some 500 MB, and the tensors of a test.
MOST_PROCESSES, BYTES_OF_PROCESS = 16, 2 * 1024 * MIB
# Of the traffic: a small batch and a large one.
TELLING = SHAPES[1:3]
# How often F or dF passes through memory at the least.
PASSES = {"forward": 1, "backward": 2, "step": 3}


def tests(run: Run) -> None:
    """Part ``tests``."""
    out = run.out
    out |= tools.kernel_tests(run.tests, run.part.left(), processes(run.device))
    if out["failures"]:
        run.problem(f"{len(out['failures'])} failed")
    if not out["finished"]:
        until = f"not all of them ran, the last {', '.join(out['last']) or 'unknown'}"
        run.problem(f"interrupted after {out['seconds']:.0f} s: {until}")
    elif out["exit_code"] not in (0, 1) or (out["exit_code"] == 1 and not out["failures"]):
        run.problem(f"pytest ended with exit code {out['exit_code']}")
    elif run.device == "cuda" and not out["passed"]:
        run.problem("none passed")


def processes(device: str) -> int:
    """How many work side by side: one a core, as far as the device has memory for them."""
    cores = usable_cores()
    if device == "cpu":
        return cores
    memory = torch.cuda.get_device_properties(0).total_memory
    return max(1, min(cores, MOST_PROCESSES, memory // BYTES_OF_PROCESS))


def compilation(run: Run) -> None:
    """Part ``compilation``: what they launch is kept on the disk, where the later parts find it."""
    count = processes(run.device)
    run.out["processes"] = count
    command = steps_command("compile", run.device, run.shapes)
    shares = [[*command, "--share", f"{number}/{count}"] for number in range(count)]
    for ran in tools.run_at_once(shares, run.part.left()):
        if ran.code or not ran.in_time:
            run.out["obstacle"] = "not all were compiled, so later parts take longer"


def copies(run: Run) -> None:
    """Part ``copies``: bytes read plus bytes written, a second."""
    size = 16 * MIB
    if run.device == "cuda":
        size = min(1024 * MIB, torch.cuda.get_device_properties(0).total_memory // 8)
    # The first one may find the clocks still low, and all shares of its bandwidth too high.
    large = [copy(size, run.device) for _ in range(3)]
    run.out["large"] = min(large, key=lambda row: float(row["median_us"]))
    run.out["launch_floor"] = [launch_floor(count, run.device) for count in (1, 8)]
    sizes = {case.features_bytes: case for case in cases(run.shapes)}
    for case in run.part.over(sizes.values()):
        row = {"shape": case.size, "dtype": case.dtype}
        run.add(row | copy(case.features_bytes, run.device))


def times(run: Run) -> None:
    """Part ``times``."""
    for case in run.part.over(cases(run.shapes)):
        inputs = inputs_of(case, run.device)
        form = backend_for(inputs.features).name
        for operation in operations(inputs):
            for row in time_operation(operation, case, run):
                run.add(row | ({"form": form} if operation.provider == "ours" else {}))


def compiled(run: Run) -> None:
    """Part ``compiled``: torch.compile, for each case anew, with fixed shapes."""
    for case in run.part.over([c for c in cases(run.shapes) if c.classes == 2]):
        torch.compiler.reset()
        inputs = inputs_of(case, run.device)
        step = head.compiled(inputs)
        branches = operations(inputs)[-1]
        operation = Operation("branches compiled", "step", partial(same, step), branches.expected)
        for row in time_operation(operation, case, run):
            run.add(row)


def time_operation(operation: Operation, case: Case, run: Run) -> Iterator[Row]:
    """A row per way of launching; what cannot run or is wrong is a row with ``problem``."""
    copied = run.report.data.get("copies", {}).get("large", {}).get("bytes_per_second")
    for launch in ("eager", "graph") if run.device == "cuda" else ("eager",):
        row = case.labels() | {"provider": operation.provider, "phase": operation.phase}
        row["launch"] = launch
        step = None  # an eager loss would keep the leaves' nodes on its stream, out of a capture's
        try:
            step = operation.make() if launch == "eager" else captured(operation.make)
            error, limit = operation.error(step()), operation.limit(case.dtype)
            row["error"] = error if math.isfinite(error) else None
            if error <= limit or limit == math.inf:
                row |= measure(step, run.device)
            else:
                row["problem"] = f"wrong: relative error {error:.1e} above {limit:.1e}"
        except Exception as error:  # one that cannot run must not end the others
            leave_capture(run.device)
            kind = "problem" if operation.provider == "ours" else "obstacle"
            row[kind] = tools.one_line(f"{type(error).__name__}: {error}")
        if copied and operation.provider == "ours" and "median_us" in row:
            floor = PASSES[operation.phase] * case.features_bytes / copied
            row["of_copy"] = round(1e6 * floor / row["median_us"], 4)
        yield row


def launches(run: Run) -> None:
    """Part ``launches``: kernels and memory."""
    for case in run.part.over([c for c in cases(run.shapes) if c.dtype == "bf16"]):
        inputs = inputs_of(case, run.device)
        for operation in operations(inputs):
            row = case.labels() | {"provider": operation.provider, "phase": operation.phase}
            row |= launched(operation.make(), run.device, case.features_bytes)
            run.add(row)
            if "obstacle" in row:
                run.out["obstacle"] = row["obstacle"]


def traffic(run: Run) -> None:
    """Part ``traffic``: two shapes by themselves, since a profile without an end is lost."""
    telling = tuple(shape for shape in run.shapes if shape in TELLING) or run.shapes[:2]
    others = tuple(shape for shape in run.shapes if shape not in telling)
    for shapes in run.part.over([telling, others] if others else [telling]):
        found = tools.profile(steps_command("profile", run.device, shapes), run.part.left())
        if "obstacle" in found:
            run.out["obstacle"] = found["obstacle"]
            return
        phases, watched = tools.phases(found["kernels"]), profiled(shapes)
        if len(phases) != 2 * len(watched):
            run.out["kernels"] = found["kernels"]
            run.problem(f"{len(phases)} phases instead of 2 for each of {len(watched)} steps")
            return
        for case, forward, backward in zip(watched, phases[::2], phases[1::2], strict=True):
            run.add(case.labels() | tools.traffic(forward, backward, case.features_bytes))


def sanitized(tool: str, run: Run) -> None:
    """Parts ``memcheck`` and ``racecheck``."""
    out, command = run.out, steps_command("watch", run.device)
    out |= tools.sanitize(tool, command, DONE, run.part.left())
    if out.get("errors"):
        run.problem(f"{out['errors']} errors")
    elif "obstacle" not in out and not out["target_ended"]:
        run.problem(f"the steps did not come to their end (exit code {out['exit_code']})")


def steps_command(task: str, device: str, shapes: tuple[Shape, ...] = ()) -> list[str]:
    """The process that compiles, or that a tool watches."""
    options = ["--device", device]
    if shapes:
        options += ["--shapes", ",".join("x".join(map(str, shape)) for shape in shapes)]
    return [sys.executable, "-m", "bench.gpu_worker", task, *options]


def smi() -> Row:
    """What nvidia-smi says of the card that is measured, as long as that is from NVIDIA."""
    uuid = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    return tools.smi(None if uuid is None else str(uuid)) if torch.version.cuda else {}


def machine(device: str) -> Row:
    """Card, driver and versions."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    row: Row = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton,
        "system": platform.platform(),
        "commit": tools.commit(),
    }
    if device == "cpu":
        return row
    card, amd = torch.cuda.get_device_properties(0), Path("/sys/module/amdgpu/version")
    nvidia = smi()
    return row | {
        "card": card.name,
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "driver": nvidia.get("driver_version")
        or (amd.read_text().strip() if amd.exists() else None),
        "capability": card.gcnArchName if torch.version.hip else f"{card.major}.{card.minor}",
        "memory_bytes": card.total_memory,
        "l2_bytes": getattr(card, "L2_cache_size", None),
        "multiprocessors": card.multi_processor_count,
        "nvidia_smi": nvidia,
    }


PARTS: dict[str, tuple[float, Callable[[Run], None]]] = {
    "tests": (4, tests),
    "compilation": (1, compilation),
    "copies": (0.3, copies),
    "times": (2.5, times),
    "compiled": (1, compiled),
    "splits": (0.4, splits),
    "stages": (0.4, stages),
    "launches": (0.5, launches),
    "step": (0.6, training_step),
    "traffic": (1, traffic),
    "memcheck": (1.2, partial(sanitized, "memcheck")),
    "racecheck": (1.2, partial(sanitized, "racecheck")),
}
"""Share of the time, and what is done, in this order."""

# Without it the part only says so, and needs no time.
NEEDS = {"traffic": "ncu", "memcheck": "compute-sanitizer", "racecheck": "compute-sanitizer"}


def parts_of(text: str) -> list[str]:
    """Names of parts, in their order."""
    named = text.split(",")
    if unknown := set(named) - set(PARTS):
        listed = ", ".join(PARTS)
        raise argparse.ArgumentTypeError(f"no part {sorted(unknown)[0]!r}; there are {listed}")
    return [name for name in PARTS if name in named]


def usual_path(card: str, parts: list[str]) -> Path:
    """Some parts alone have a file of their own, which does not replace that of another command."""
    some = parts if parts != list(PARTS) else []
    return tools.ROOT / "bench" / "results" / f"{'-'.join(['gpu', card, *some])}.json"


def main() -> int:
    """Run the parts one after the other; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="bench/results/gpu-CARD[-PARTS].json"
    )
    parser.add_argument("--minutes", type=above_0, default=9.0, help="for all parts (default: 9)")
    parser.add_argument("--parts", type=parts_of, default=list(PARTS), help="default: all")
    parser.add_argument("--shapes", type=shapes_of, default=SHAPES, metavar="BxCxHW,...")
    parser.add_argument("--tests", default="tests/kernels", help="of pytest (default: %(default)s)")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="cpu: a rehearsal")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    # Where many images have ncu and compute-sanitizer, without naming it on the path.
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")
    os.environ["PATH"] += f"{os.pathsep}{toolkit}"
    device = "cuda" if arguments.device == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip or "the CPU only"
        print(
            f"No CUDA or ROCm device: torch {torch.__version__}, built for {built}, finds none, "
            "so nothing was run or written.",
            file=sys.stderr,
        )
        return 2
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")  # which some images have lowered
    if device == "cuda" and (obstacle := tools.kernel_obstacle()):
        print(
            f"No kernel runs here, so nothing was measured or written: {obstacle}", file=sys.stderr
        )
        return 2

    found = machine(device)
    card = re.sub(r"[^a-z0-9]+", "-", found.get("card", "cpu").lower()).strip("-")
    report = Report(
        (arguments.output or usual_path(card, arguments.parts)).absolute(),
        {"format": FORMAT, "device": device, "complete": False, "started": time.strftime("%FT%T%z")}
        | {"arguments": sys.argv[1:], "machine": found},
    )
    report.save()
    print(f"report: {report.path}", flush=True)
    absent = {name for name, program in NEEDS.items() if not shutil.which(program)}
    shares = {name: 0.01 if name in absent else PARTS[name][0] for name in arguments.parts}
    budget = Budget(60 * arguments.minutes, shares)
    try:
        for name in arguments.parts:
            run_part(name, budget, report, device, arguments.shapes, arguments.tests)
        report.data["complete"] = True
    except KeyboardInterrupt:
        report.problems.append("interrupted")
        report.save()  # before anything else: there may be seconds left
    found |= {"nvidia_smi_afterwards": smi()} if device == "cuda" else {}
    report.save()
    for problem in report.problems:
        print(f"problem: {problem}")
    print(report.path)
    return 1 if report.problems else 0


def _interrupt(number: int, frame: object) -> NoReturn:
    """As from the keyboard, so that children are ended and the report is written; once, since
    ``timeout`` sends SIGTERM to the process and to its group."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def run_part(
    name: str, budget: Budget, report: Report, device: str, shapes: tuple[Shape, ...], target: str
) -> None:
    """One part; what ends it early is in the report, and the next one follows."""
    part = budget.begin(name, report.save)
    print(f"{name}: {part.left():.0f} s at most", flush=True)
    out = report.data[name] = Row()
    run = Run(device, shapes, target, report, part, out)
    started = part.left()
    try:
        PARTS[name][1](run)
    except InputError:
        raise
    except Exception as error:
        out["error"] = tools.one_line(f"{type(error).__name__}: {error}", 1000)
        run.problem(out["error"])
    if part.skipped:
        out["skipped"] = part.skipped
    out["wall_seconds"] = round(started - part.left(), 1)
    if "obstacle" in out:
        print(f"{name}: {out['obstacle']}")
    report.save()


if __name__ == "__main__":
    end_in_a_line(main)
