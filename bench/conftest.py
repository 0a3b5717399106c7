"""Prepare the process of ``pytest bench/``: one thread on one core, memory that is kept."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # bench is not installed, nor on pytest's path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@pytest.fixture(scope="session", autouse=True)
def pinned_process() -> Iterator[None]:
    """Take the last core, since the first ones take the interrupts, where the system can pin."""
    torch.set_num_threads(1)
    # As bench.harness.keep_memory, which starts the process anew.
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    yield
    os.sched_setaffinity(0, cores)
