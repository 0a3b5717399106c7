"""A GPU or a machine without memory left is one line, whatever process meets it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..launching import free_port, told
from .test_program import program

OUT_OF_MEMORY = """
import os
from focus.config.command_line import run
from focus.config.train import EvaluateConfig, TrainConfig
from focus.config.use import ExportConfig

def main(config):
    import torch
    if getattr(config, "name", "") == "other":
        raise RuntimeError("another")
    if words := os.environ.get("WORDS"):
        raise getattr(torch, os.environ["KIND"], RuntimeError)(words)
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 14.74 GiB "
        "of which 1.06 GiB is free. See documentation for Memory Management"
    )

run(main, globals()[os.environ.get("CONFIG", "TrainConfig")])
"""


@pytest.mark.slow
def test_a_gpu_without_memory_is_one_line_of_any_process(tmp_path: Path) -> None:
    """Raised here as torch does: there is no GPU to fill."""
    from focus.config.train import EVALUATION_BATCH

    done = program(tmp_path, source=OUT_OF_MEMORY, RANK="1", LOCAL_RANK="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "program.py: error: A GPU is out of memory (tried to allocate 2.25 GiB): give a smaller "
        "--batch-size, of which --gradient-accumulation-steps N takes N for a step, or, where it "
        f"scores, {EVALUATION_BATCH} images at a time, a smaller --image-size, or fewer by "
        "--eval-batch-size.\n"
    )
    other = program(tmp_path, "--name", "other", source=OUT_OF_MEMORY)
    assert other.returncode == 1
    assert other.stderr.endswith("RuntimeError: another\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        # Of a GPU that others have filled: there is no room for what CUDA itself needs.
        ("AcceleratorError", "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
        ("AcceleratorError", "HIP error: out of memory"),
        # Beside a cache of torch that has all the rest, for what torch does not allocate.
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        ("RuntimeError", "Triton Error [CUDA]: out of memory"),
    ],
)
def test_a_gpu_without_memory_for_others_than_torchs_tensors_is_the_same_line(
    kind: str, words: str, tmp_path: Path
) -> None:
    env = {"CONFIG": "EvaluateConfig", "KIND": kind, "WORDS": words}
    done = program(tmp_path, "--model-dir=m", source=OUT_OF_MEMORY, **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "program.py: error: A GPU is out of memory: give a smaller --batch-size.\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words", "advice"),
    [
        ("EvaluateConfig", [], "give a smaller --batch-size."),
        ("ExportConfig", ["--onnx=x"], "free some of it, or take a larger GPU."),
    ],
)
def test_what_helps_against_too_little_memory_is_a_flag_of_the_program(
    kind: str, words: list[str], advice: str, tmp_path: Path
) -> None:
    done = program(tmp_path, "--model-dir=m", *words, source=OUT_OF_MEMORY, CONFIG=kind)
    assert done.stderr == (
        f"program.py: error: A GPU is out of memory (tried to allocate 2.25 GiB): {advice}\n"
    )


GONE = """
import os, sys
import torch
from datetime import timedelta
from focus.config.command_line import run
from focus.config.train import TrainConfig

def main(config):
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=50))
    torch.distributed.barrier()
    if rank == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    torch.distributed.all_reduce(torch.ones(1))

run(main, TrainConfig)
"""


@pytest.mark.slow
def test_what_one_process_alone_meets_is_no_traceback_of_the_others(tmp_path: Path) -> None:
    port = free_port()
    with ThreadPoolExecutor() as pool:
        ranks = [
            pool.submit(program, tmp_path, source=GONE, **told(rank, 3, port, local=3))
            for rank in range(3)
        ]
    first, lacking, other = (rank.result() for rank in ranks)
    assert [done.returncode for done in (first, lacking, other)] == [2, 2, 2]
    assert "error: A GPU is out of memory" in lacking.stderr
    assert first.stderr.splitlines()[-1] == (
        "program.py: error: Another process of the launch has ended: its last line, or the "
        "launcher's, says why."
    )
    assert "error: " not in other.stderr  # of each machine one says so
    assert "Traceback" not in first.stderr + lacking.stderr + other.stderr


FULL_MACHINE = """
import os, resource
import numpy as np
import torch
from focus.config.command_line import run
from focus.config.train import EvaluateConfig
from focus.config.use import ExportConfig

def main(config):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    exec(os.environ["STATEMENT"])

run(main, globals()[os.environ.get("CONFIG", "EvaluateConfig")])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("statement", "kind", "words", "end"),
    [
        (
            "torch.empty(2**31, dtype=torch.uint8)",
            "EvaluateConfig",
            [],
            " (tried to allocate 2.00 GiB): give a smaller --batch-size.",
        ),
        (
            "torch.empty(2**30 - 2**20, dtype=torch.uint8)",
            "EvaluateConfig",
            [],
            " (tried to allocate 1023.00 MiB): give a smaller --batch-size.",
        ),
        (
            "np.empty(2**31, np.uint8)",
            "EvaluateConfig",
            [],
            " (tried to allocate 2.00 GiB): give a smaller --batch-size.",
        ),
        ("bytearray(2**31)", "EvaluateConfig", [], ": give a smaller --batch-size."),
        (
            "bytearray(2**31)",
            "ExportConfig",
            ["--onnx=m.onnx"],
            ": free some of it, or take a larger machine.",
        ),
    ],
)
def test_a_machine_without_memory_is_one_line(
    statement: str, kind: str, words: list[str], end: str, tmp_path: Path
) -> None:
    env = {"STATEMENT": statement, "CONFIG": kind}
    done = program(tmp_path, "--model-dir=m", *words, source=FULL_MACHINE, **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"program.py: error: The machine is out of memory{end}\n"
