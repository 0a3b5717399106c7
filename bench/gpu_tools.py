"""The other programs that :mod:`bench.gpu` asks, and how their answers are read.

pytest, nvidia-smi, Nsight Compute (``ncu``) and Compute Sanitizer run in processes of their own.
What one of them lacks (itself, a permission, a device) comes back as ``obstacle``, one line, and is
no error: the rest of the report does not depend on it.
"""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch

from focus.kernels import cam_entropy, use_backend

ROOT = Path(__file__).parents[1]

# Seconds that an interrupted program has to write what it knows: pytest then ends its session.
GRACE = 20
# pytest's exit code where it collected none, or deselected all.
NO_TESTS = 5

DRAM = ("dram__bytes_read.sum", "dram__bytes_write.sum")
L2 = ("lts__t_sectors_op_read.sum", "lts__t_sectors_op_write.sum")
SECTOR = 32
# torch.cuda._sleep launches it; the profiled steps are divided by it.
DIVIDER = "spin_kernel"

SMI = (
    *("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.limit", "temperature.gpu", "persistence_mode", "compute_mode"),
)

Result = dict[str, Any]


class Ran(NamedTuple):
    """How a program ended; ``output`` is both streams, empty where they went to the terminal."""

    code: int
    output: str
    in_time: bool


class Outcome(NamedTuple):
    """How a test ended: ``passed``, ``failure``, ``error`` or ``skipped``."""

    test: str
    kind: str
    message: str


def run(command: list[str], seconds: float, env: dict[str, str] | None = None) -> Ran:
    """Run a program for at most so long, then interrupt it, then kill it and its children."""
    return _run([command], seconds, env, [subprocess.PIPE])[0]


def run_at_once(commands: list[list[str]], seconds: float) -> list[Ran]:
    """Run programs side by side, likewise; the first one's output goes to the terminal, as an
    example, and that of the others nowhere."""
    return _run(commands, seconds, None, [None, *[subprocess.DEVNULL] * (len(commands) - 1)])


def _run(
    commands: list[list[str]],
    seconds: float,
    env: dict[str, str] | None,
    outputs: list[int | None],
) -> list[Ran]:
    with ExitStack() as stack:
        begun: list[subprocess.Popen[str]] = []
        ended: dict[int, Ran] = {}
        ways = [(None, max(seconds, 1)), (signal.SIGINT, GRACE), (signal.SIGKILL, None)]
        try:
            for command, output in zip(commands, outputs, strict=True):
                process = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=os.environ | {"LC_ALL": "C"} | (env or {}),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT if output else None,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
                begun.append(stack.enter_context(process))
            for ending, patience in ways:
                running = [process for process in begun if process.pid not in ended]
                for process in running:
                    if ending is not None:
                        os.killpg(process.pid, ending)
                until = time.monotonic() + (patience or 0)
                for process in running:
                    left = None if patience is None else max(until - time.monotonic(), 0)
                    with suppress(subprocess.TimeoutExpired):
                        said, _ = process.communicate(timeout=left)
                        ended[process.pid] = Ran(process.returncode, said or "", ending is None)
        except BaseException:
            alive = [process for process in begun if process.pid not in ended]
            for process in alive:
                os.killpg(process.pid, signal.SIGKILL)
            # Where it is interrupted, Python itself does not wait for them.
            for process in alive:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
            raise
    return [ended[process.pid] for process in begun]


def one_line(text: object, length: int = 300) -> str:
    """The text without line breaks, cut."""
    words = " ".join(str(text).split())
    return words if len(words) <= length else words[: length - 1] + "…"


def commit() -> str | None:
    """The commit of the working tree, ``+changes`` where it was edited; None without git."""
    if not shutil.which("git"):
        return None
    head = run(["git", "rev-parse", "HEAD"], 10)
    if head.code:
        return None
    edited = run(["git", "--no-optional-locks", "status", "--porcelain"], 10).output.strip()
    return head.output.strip() + ("+changes" if edited else "")


def smi(uuid: str | None) -> Result:
    """What nvidia-smi says of a card: driver, clocks in MHz, power limit in W."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"obstacle": "nvidia-smi is not on the path"}
    card = [f"--id=GPU-{uuid}"] if uuid else []
    ran = run([program, *card, f"--query-gpu={','.join(SMI)}", "--format=csv,noheader"], 30)
    return parse_smi(ran.output) if not ran.code else {"obstacle": one_line(ran.output)}


def parse_smi(text: str) -> Result:
    """A line of ``nvidia-smi --query-gpu=... --format=csv,noheader``."""
    values = [value.strip() for value in text.partition("\n")[0].split(",")]
    if len(values) != len(SMI):
        return {"obstacle": one_line(f"nvidia-smi said: {text}")}
    return dict(zip(SMI, values, strict=True))


def kernel_obstacle() -> str | None:
    """Why not even a small kernel runs: it takes a C compiler and Python's headers, for one."""
    try:
        features, weight = torch.ones(1, 8, 2, 2, device="cuda"), torch.ones(2, 8, device="cuda")
        with use_backend("triton"):
            cam_entropy(features, weight, torch.zeros(1, dtype=torch.int64, device="cuda"))
        torch.cuda.synchronize()
    except Exception as error:  # the compilers raise anything
        return one_line(f"{type(error).__name__}: {error}")
    return None


def kernel_tests(target: str, seconds: float, processes: int) -> Result:
    """Run the tests marked ``gpu``; counts, the failures, and whether pytest came to its end.

    Each process takes a share of the tests: nearly all of the time is the CPU's, which compiles.
    """
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.xml" for number in range(processes)]
        command = [sys.executable, "-m", "pytest", target, "-m", "gpu", "-q", "--tb=short"]
        command += ["-p", "no:cacheprovider", "-p", "bench.gpu_share"]
        command += ["--continue-on-collection-errors"]
        shares = [
            [*command, f"--share={number}/{processes}", f"--junitxml={file}"]
            for number, file in enumerate(files)
        ]
        ran = run_at_once(shares, seconds)
        found = [parse_junit(f.read_text("utf-8") if f.exists() else "") for f in files]
    # A file that cannot be collected, or is skipped as a whole, is so in each share.
    outcomes = dict.fromkeys(outcome for one in found for outcome in one)
    counts = Counter(outcome.kind for outcome in outcomes)
    return {
        "passed": counts["passed"],
        "failed": counts["failure"],
        "errors": counts["error"],
        "skipped": counts["skipped"],
        "failures": [
            {"test": outcome.test, "message": outcome.message}
            for outcome in outcomes
            if outcome.kind in ("failure", "error")
        ],
        "processes": processes,
        "exit_code": max(_share_code(one) for one in ran),
        "finished": all(one.in_time for one in ran),
        "last": [
            one[-1].test for one, end in zip(found, ran, strict=True) if one and not end.in_time
        ],
        "seconds": round(time.monotonic() - started, 1),
    }


def _share_code(ran: Ran) -> int:
    """pytest's exit code, 0 where a share had no test."""
    return 0 if ran.code == NO_TESTS else abs(ran.code)


def parse_junit(text: str) -> list[Outcome]:
    """How the tests of a JUnit file ended, in their order."""
    found = []
    for test in ElementTree.fromstring(text or "<testsuites/>").iter("testcase"):
        if test.get("name") is None:
            continue  # pytest was interrupted in it
        children = {child.tag: child for child in test}
        kind = next((k for k in ("failure", "error", "skipped") if k in children), "passed")
        message = ""
        if kind != "passed":
            message, text = children[kind].get("message") or "", (children[kind].text or "").strip()
            if message == "collection failure":  # it names no cause, which the traceback ends with
                message += f": {text.rpartition(chr(10))[2]}"
            message = message or text
        name = f"{test.get('classname')}::{test.get('name')}"
        found.append(Outcome(name, kind, one_line(message, 1000)))
    return found


def ncu_command(program: str, log: Path, metrics: tuple[str, ...], worker: list[str]) -> list[str]:
    """Nsight Compute on a worker that marks what to profile.

    Caches and clocks are left as the step leaves them, and several passes would repeat the whole
    program rather than a kernel: else nothing could be said of what a kernel finds in L2.
    """
    return [
        program,
        *("--csv", "--page", "details", "--print-units", "base"),
        *("--log-file", str(log), "--metrics", ",".join(metrics)),
        *("--cache-control", "none", "--clock-control", "none"),
        *("--replay-mode", "application", "--profile-from-start", "off"),
        *("--target-processes", "application-only"),  # not the compilers that it starts
        *worker,
    ]


def profile(worker: list[str], seconds: float, name: str = "ncu") -> Result:
    """Traffic of each kernel of a worker: ``kernels`` in the order of their launch."""
    program = shutil.which(name)
    if program is None:
        return {"obstacle": f"{name} is not on the path"}
    until = time.monotonic() + seconds
    with TemporaryDirectory() as folder:
        log = Path(folder) / "ncu.csv"
        for metrics in ((*DRAM, *L2), DRAM):
            ran = run(ncu_command(program, log, metrics, worker), until - time.monotonic())
            text = log.read_text("utf-8", "replace") if log.exists() else ""
            if "Failed to find metric" not in text + ran.output:
                break
    kernels = parse_ncu(text)
    if not ran.in_time:
        return {"obstacle": f"{name} did not end within {seconds:.0f} s"}
    if not kernels:
        return {"obstacle": ncu_obstacle(text + "\n" + ran.output, ran.code)}
    return {"kernels": kernels}


def parse_ncu(text: str) -> list[Result]:
    """``ncu --csv``: a dictionary per launch, ``kernel`` and each metric that has a value."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    header = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    launches: dict[str, Result] = {}
    for row in csv.DictReader(lines[header:]):
        launch = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"]})
        value = _number(row["Metric Value"], row["Metric Unit"])
        if value is not None:
            launch[row["Metric Name"]] = value
    return list(launches.values())


def _number(text: str, unit: str) -> int | None:
    found = re.fullmatch(r"([KMG]?)(?:byte|sector)s?|", unit)
    if found is None or not re.search(r"\d", text):  # "n/a"
        return None
    power = " KMG".index(found[1] or " ")
    if not power:
        return int(re.sub(r"\D", "", text))  # a count, its digits grouped as the locale does
    return round(float(text.replace(",", "")) * 1000.0**power)


def ncu_obstacle(text: str, code: int) -> str:
    """Why there are no kernels, in one line."""
    errors = [line.split("==ERROR== ", 1)[1] for line in text.splitlines() if "==ERROR== " in line]
    last = one_line(text.strip().splitlines()[-1]) if text.strip() else "no output"
    return one_line((errors or [f"no kernel was profiled (exit code {code}): {last}"])[0])


def phases(kernels: list[Result]) -> list[list[Result]]:
    """The launches between dividers; what follows the last divider belongs to none."""
    found: list[list[Result]] = [[]]
    for kernel in kernels:
        if DIVIDER in kernel["kernel"]:
            found.append([])
        else:
            found[-1].append(kernel)
    return found[:-1]


def traffic(forward: list[Result], backward: list[Result], features_bytes: int) -> Result:
    """Traffic of a step in multiples of the features' bytes, and where F was read the second time.

    The floor of the DRAM is 1 read in forward, and in backward 0 reads (if F is still in L2) and
    1 write; what is still in L2 when a kernel ends is not counted as written.
    """
    row: Result = {"features_bytes": features_bytes}
    for name, kernels in (("forward", forward), ("backward", backward)):
        row[name] = {"kernels": kernels}
        for short, metric, size in (
            ("dram_read", DRAM[0], 1),
            ("dram_written", DRAM[1], 1),
            ("l2_read", L2[0], SECTOR),
            ("l2_written", L2[1], SECTOR),
        ):
            values = [k[metric] * size for k in kernels if metric in k]
            row[name][short] = round(sum(values) / features_bytes, 3) if values else None
    again = row["backward"]["dram_read"]
    row["second_read"] = None
    if again is not None:
        row["second_read"] = "L2" if again < 0.1 else "DRAM" if again > 0.9 else "partly L2"
    return row


def sanitizer_command(program: str, tool: str, log: Path, worker: list[str]) -> list[str]:
    """Compute Sanitizer on a worker; the kernels' errors, not those of the CUDA interface."""
    options = ["--tool", tool, "--log-file", str(log), "--error-exitcode", "99"]
    options += ["--target-processes", "application-only"]
    return [program, *options, "--print-limit", "50", "--report-api-errors", "no", *worker]


def sanitize(
    tool: str, worker: list[str], ends_with: str, seconds: float, name: str = "compute-sanitizer"
) -> Result:
    """memcheck or racecheck of a worker, which says ``ends_with`` when it has come to its end."""
    program = shutil.which(name)
    if program is None:
        return {"obstacle": f"{name} is not on the path"}
    with TemporaryDirectory() as folder:
        log = Path(folder) / "sanitizer.log"
        # Each tensor is an allocation of its own, so that an address beyond it is seen.
        env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        ran = run(sanitizer_command(program, tool, log, worker), seconds, env)
        text = log.read_text("utf-8", "replace") if log.exists() else ""
    found = parse_sanitizer(text)
    ended = ends_with in ran.output
    if not ran.in_time:
        found["obstacle"] = f"{tool} did not end within {seconds:.0f} s"
    elif found["errors"] is None:
        said = next(iter(found["findings"]), ran.output.strip()[-200:] or "no output")
        found["obstacle"] = one_line(f"{tool} gave no summary (exit code {ran.code}): {said}")
    return found | {"exit_code": ran.code, "target_ended": ended}


def parse_sanitizer(text: str) -> Result:
    """``errors`` of the summary (None without one), and how often each finding was reported."""
    lines = [
        line.removeprefix("=========") for line in text.splitlines() if line.startswith("=========")
    ]
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)", "\n".join(lines))
    findings: Counter[str] = Counter()
    for line, below in pairwise([*lines, ""]):
        if line.startswith("  ") or "SUMMARY" in line or line.strip() in ("", "COMPUTE-SANITIZER"):
            continue
        place = below.strip() if below.strip().startswith("at ") else ""
        findings[one_line(f"{line} {place}")] += 1
    return {
        "errors": sum(map(int, summary)) if summary else None,
        "findings": dict(findings.most_common(20)),
    }
