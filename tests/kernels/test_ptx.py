"""The kernels' PTX for NVIDIA's GPUs, executed by the project's interpreter; no GPU ran it."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from bench.cases import CASES, random_cases
from bench.mutants import MUTANTS, REWRITINGS
from bench.ptx.__main__ import is_found
from bench.ptx.driver import TARGETS
from bench.ptx.far import FAR_CASES, far_faults
from bench.ptx.verdict import judge_in_orders

# One of each kind; all cases in all orders run with --run-slow.
QUICK_CASES = ("fp32 5x13", "bf16 3x3", "sum entropy last", "soft 16", "cam", "maps 4 splits")
QUICK_ORDERS = ("lockstep", "warps")
QUICK_MUTANTS = ("counter kept", "relaxed", "columns not written", "two thirds", "a wait too short")


@pytest.mark.parametrize("name", QUICK_CASES)
def test_the_ptx_is_right(name: str) -> None:
    assert not judge_in_orders(CASES[name], "sm_90", QUICK_ORDERS).faults


@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_the_ptx_of_other_gpus_is_right(target: str) -> None:
    assert not judge_in_orders(CASES["bf16 last"], target, QUICK_ORDERS).faults


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [*CASES, *random_cases(12, seed=0)])
def test_all_cases_are_right_in_all_orders(name: str, target: str) -> None:
    case = (CASES | random_cases(12, seed=0))[name]
    assert not judge_in_orders(case, target).faults


def test_no_product_of_32_bits_makes_an_offset() -> None:
    assert not far_faults("sm_90", FAR_CASES[-2:-1])


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_product_of_32_bits_makes_an_offset_of_any_layout(target: str) -> None:
    assert not far_faults(target)


@pytest.mark.parametrize("mutant", QUICK_MUTANTS)
def test_a_broken_kernel_is_found(mutant: str) -> None:
    assert is_found(mutant, "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [*MUTANTS, *REWRITINGS])
def test_every_broken_kernel_is_found(mutant: str) -> None:
    assert is_found(mutant, "sm_90")
