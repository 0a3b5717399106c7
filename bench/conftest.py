"""What ``pytest bench/`` sets for its process: one thread, an allocator that keeps its memory."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # bench is not installed, nor on pytest's path

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As :mod:`bench.timing` does it."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def kept_memory() -> None:
    """What :func:`bench.timing.keep_memory` sets by starting anew, which pytest cannot."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
