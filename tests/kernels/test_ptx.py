"""The kernels' PTX for NVIDIA's GPUs, executed by the project's interpreter; no GPU ran it.

Of each path of the kernels this is the hardest case, and of each kind of fault one mutant; all
cases, with some drawn at random, and all mutants are those of ``python -m bench.ptx``.
"""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from bench.cases import CASES
from bench.ptx.__main__ import is_found
from bench.ptx.far import far_faults
from bench.ptx.verdict import judge_in_orders

QUICK_CASES = ("bf16 3x3", "maps 4 splits")
QUICK_ORDERS = ("lockstep", "warps")
QUICK_MUTANTS = ("counter kept", "a wait too short")  # of the kernels and of their PTX
HARD_CASES = (
    # Types, layouts, grids, splits and numbers of classes.
    "fp32 5 splits",
    "fp32 odd",
    "fp32 16 classes nchw",
    "bf16 8 splits",
    "bf16 3 splits nchw",
    "bf16 1x1",
    "bf16 16x16 16 classes",
    "fp16 last",
    "batch 70",
    # The features' memory.
    "offset last",
    "gap last",
    # Paths of the loss.
    "an aim each",
    "level minimize",
    "predicted",
    "contrast 16",
    "sum entropy last",
    "no reduction splits",
    "soft 16",
    "weighted",
    "some maps last",
    "bias of each sample last",
    "absent target splits",
    "frozen classifier",
    "frozen backbone",
    # The other operations.
    "cam 8 splits",
    "cam absent",
    "cam frozen backbone",
    "maps 16 classes",
    "maps absent",
)
HARD_MUTANTS = (
    "no acquire",
    "splits overlap",
    "cells past the end",
    "rows past the end",
    "columns not written",
    "two thirds",
    "mean of the others",
    "one target entropy",
    "sample in 32 bits, of dW",
    "no barriers",
)


@pytest.mark.parametrize("name", QUICK_CASES)
def test_the_ptx_is_right(name: str) -> None:
    assert not judge_in_orders(CASES[name], "sm_90", QUICK_ORDERS).faults


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD_CASES)
def test_the_ptx_is_right_in_all_orders(name: str) -> None:
    assert not judge_in_orders(CASES[name], "sm_90").faults


# ``python -m bench.ptx --target`` executes all cases of these.
@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_the_ptx_of_other_gpus_is_right(target: str) -> None:
    assert not judge_in_orders(CASES["bf16 last"], target).faults


@pytest.mark.slow
def test_no_product_of_32_bits_makes_an_offset() -> None:
    assert not far_faults("sm_90")


@pytest.mark.parametrize(
    "mutant",
    [*QUICK_MUTANTS, *(pytest.param(mutant, marks=pytest.mark.slow) for mutant in HARD_MUTANTS)],
)
def test_a_broken_kernel_is_found(mutant: str) -> None:
    assert is_found(mutant, "sm_90")
