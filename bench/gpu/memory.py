"""Weigh a training step, ours and timm's, and the steps of the head: the most that each holds.

A network's is all that torch has allocated at once, weights and optimiser included. A head's is
what its step adds, in times the features.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator

from bench import head
from bench.gpu import heads, images
from bench.gpu.images import Workload
from bench.gpu.settings import Settings
from bench.gpu.timing import Call, Row, one_line
from bench.harness import Step, peak_bytes

COLUMNS = ("of", "size", "ours", "timm", "plain", "branches", "unit")


def measure_memory(settings: Settings) -> Iterator[Row]:
    """Yield a row for each network and for the first head of each kind."""
    accelerator = images.begin(settings.device)
    networks = list(images.SMALL)
    kinds = list(heads.CASES)
    if settings.short:
        networks, kinds = networks[:1], kinds[:1]
    for network in networks:
        work = images.workload(network, settings)
        row: Row = {"of": work.network, "size": f"{work.batch_size} images", "unit": "MiB"}
        try:
            row["ours"] = _training_peak(work, lambda w: _ours(w, accelerator))
            row["timm"] = _training_peak(work, _timm)
        except Exception as error:  # most often, the card's memory is too small for this batch
            row["error"] = one_line(error)
        yield row
    for kind in kinds:
        case = heads.cases(kind, settings)[0]
        labels = case.labels()
        row = {"of": "head", "size": f"{labels['F']} {labels['type']}", "unit": "times F"}
        try:
            row |= _head_peaks(case, settings.device)
        except Exception as error:  # as above
            row["error"] = one_line(error)
        yield row


def _ours(work: Workload, accelerator: Accelerator) -> Call:
    with TemporaryDirectory() as folder:
        trainer = images.make_trainer(work, accelerator, Path(folder))
    return images.our_step(trainer, work.batch(trainer.detector.grid))


def _timm(work: Workload) -> Call:
    return images.timm_step(work, work.batch(grid=(1, 1)))


def _training_peak(work: Workload, make: Callable[[Workload], Call]) -> float:
    """Return the most MiB that training holds; on a CPU what a step adds, by torch's profiler."""
    images.free()
    step = make(work)
    step()  # makes the optimiser's state, and chooses convolutions with memory of their own
    if work.device == "cpu":
        return peak_bytes(step) / 2**20
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def _head_peaks(case: heads.Case, device: str) -> Row:
    inputs = case.inputs(device)
    steps = head.steps_of(inputs)
    if error := heads.check("ours", inputs, steps["ours"]):
        raise RuntimeError(error)
    names = {"ours": "ours", "plain": "plain mean", "branches": "branches"}
    return {
        title: _step_peak(steps[name], device) / inputs.features.nbytes
        for title, name in names.items()
    }


def _step_peak(step: Step, device: str) -> int:
    if device == "cpu":
        return peak_bytes(step)
    step()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before
