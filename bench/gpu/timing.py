"""Time steps on a device, in turn, and read the card's clocks while it works.

A step of the head takes some ten microseconds, less than Python needs to launch it. So it is
captured in a CUDA graph, many times in a row, and before each time the L2 is overwritten: a
replay needs one launch, and its features come from memory. The same graph without the step gives
the time of overwriting, which is taken off. No GPU has run this: on a CPU the same loop runs
without a graph.
"""

import gc
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

Call = Callable[[], object]
Row = dict[str, Any]

WARM_UP_SECONDS = {"cuda": 1.0, "cpu": 0.1}
"""Work before anything is timed, in which the card raises its clocks."""
FLUSHED_BYTES = {"cuda": 256 * 2**20, "cpu": 2**20}
"""Bytes that are overwritten to empty the L2: more than any card's has."""
REPEATS = {"cuda": 20, "cpu": 2}
"""Times that a replay flushes and steps."""
LONGEST_QUERY_SECONDS = 20.0


class ColdTimes(NamedTuple):
    """What :func:`time_cold` measured."""

    seconds: dict[str, np.ndarray]
    """Of each step that could be captured, ``[rounds]``."""
    errors: dict[str, str]
    """Of each step that could not."""
    clocks: Row
    """See :func:`clocks_under`."""


def synchronise(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Call, device: str) -> float:
    """Return the seconds from a call to the end of the device's work."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def host_seconds(call: Call, device: str, repeats: int = 20) -> float:
    """Return the median time that a call keeps the CPU busy."""
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def warm_up(calls: Sequence[Call], device: str) -> None:
    """Make the calls in turn for ``WARM_UP_SECONDS``, each at least once."""
    end = time.perf_counter() + WARM_UP_SECONDS[device]
    while True:
        for call in calls:
            call()
        synchronise(device)
        if time.perf_counter() >= end:
            return


def time_in_turn(calls: Mapping[str, Call], rounds: int, device: str) -> dict[str, np.ndarray]:
    """Return the seconds ``[rounds]`` of each call; each round has its own order."""
    warm_up(list(calls.values()), device)
    seconds = {name: np.zeros(rounds) for name in calls}
    order = np.random.default_rng(0)
    for number in range(rounds):
        for name in order.permutation(list(calls)):
            seconds[name][number] = seconds_of(calls[name], device)
    return seconds


def time_cold(steps: Mapping[str, Call], rounds: int, device: str) -> ColdTimes:
    """Time short steps in turn, none of which finds its inputs in the L2."""
    scratch = torch.empty(FLUSHED_BYTES[device], dtype=torch.uint8, device=device)
    replays: dict[str, Call] = {}
    errors: dict[str, str] = {}
    replays["flush"] = _replay_of(lambda: None, scratch, device)
    for name, step in steps.items():
        try:
            replays[name] = _replay_of(step, scratch, device)
        except Exception as error:  # one step that cannot be captured must not end the others
            errors[name] = one_line(error)
    seconds = time_in_turn(replays, rounds, device)
    clocks = clocks_under(lambda: [replay() for replay in replays.values()], device)
    flush = seconds.pop("flush")
    cold = {name: (values - flush) / REPEATS[device] for name, values in seconds.items()}
    return ColdTimes(cold, errors, clocks)


def _replay_of(step: Call, scratch: torch.Tensor, device: str) -> Call:
    def flush_and_step() -> None:
        for _ in range(REPEATS[device]):
            scratch.zero_()
            step()

    step()  # compiles, or fails
    if device == "cpu":
        return flush_and_step
    return _captured(flush_and_step).replay


def _captured(call: Call) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of a call, whose tensors are the graph's own.

    The call runs once on the stream on which it is captured, so that libraries have made their
    handles there. Garbage is collected before and not during the capture, as a kernel that is freed
    then unloads its module, which CUDA forbids.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    gc.collect()
    gc.disable()
    try:
        with torch.cuda.graph(graph, stream=stream):
            call()
    finally:
        gc.enable()
        torch.cuda.set_stream(torch.cuda.default_stream())  # which a failed capture has not left
    return graph


def clocks_under(load: Call, device: str) -> Row:
    """Return what nvidia-smi reads of the card while ``load`` runs again and again.

    Returns:
        ``SM MHz``, ``memory MHz``, ``degrees C`` and ``watts`` as nvidia-smi prints them; or
        ``SM MHz`` "not read", and the reason as ``clocks``.
    """
    command = ["nvidia-smi", "--format=csv,noheader,nounits"]
    command.append("--query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw")
    if device == "cuda":  # CUDA_VISIBLE_DEVICES counts the cards otherwise than nvidia-smi
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        command.append(f"--id=GPU-{card.uuid}")
    end = time.perf_counter() + LONGEST_QUERY_SECONDS
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as query:
            assert query.stdout is not None
            while query.poll() is None:
                load()
                synchronise(device)
                if time.perf_counter() > end:
                    query.kill()
                    return _not_read(f"no answer in {LONGEST_QUERY_SECONDS:.0f} s")
            answer = query.stdout.read().strip()
    except OSError as error:
        return _not_read(one_line(error))
    readings = answer.split(", ")
    if query.returncode or len(readings) != 4:
        return _not_read(f"nvidia-smi, exit code {query.returncode}: {answer}")
    return dict(zip(("SM MHz", "memory MHz", "degrees C", "watts"), readings, strict=True))


def _not_read(reason: str) -> Row:
    return {"SM MHz": "not read", "clocks": reason}


def one_line(error: BaseException) -> str:
    """Return the kind of an error and the beginning of its message."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
