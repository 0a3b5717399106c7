"""Which GPU the kernels are compiled for, and the options with which they are launched."""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs
from triton.runtime.driver import driver

# Explicit, since the default changes in triton 3.10.
OPTIONS = {"enable_fp_fusion": True}
# Products are rounded before they are summed: fused into a sum over threads, each thread would
# round another of them, and hold another sum.
ROUNDED = {"enable_fp_fusion": False}
# With more, fewer than 512 threads share a multiprocessor.
MAX_REGISTERS = 128


def triton_type(dtype: torch.dtype) -> tl.dtype:
    """Triton's name for an accumulation type."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def small_options(values: int) -> dict[str, Any]:
    """Options of a kernel whose program holds so many cells or classes: eight or more to a thread.

    Products are rounded: fused into ``entropy - target``, one would leave the entropy's rounding
    error where the difference is 0.
    """
    warps = min(max(triton.next_power_of_2(values) // 256, 4), 16)
    return ROUNDED | {"num_warps": warps}


def warp_size() -> int:
    """Threads of a warp."""
    return 32 if knobs.runtime.interpret else int(_target(driver.active).warp_size)


def on_amd() -> bool:
    """Whether kernels are compiled for an AMD GPU, where loads are not asynchronous copies."""
    return not knobs.runtime.interpret and bool(_target(driver.active).backend == "hip")


@functools.lru_cache
def _target(active: Any) -> Any:
    # Remembered, as a launch asks for it several times; GPUs of one machine count as alike.
    return active.get_current_target()
