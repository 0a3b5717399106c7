"""The kernels' PTX for NVIDIA's GPUs, executed by the project's interpreter; no GPU ran it."""

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from bench.cases import CASES, random_cases
from bench.mutants import MUTANTS, REWRITINGS
from bench.ptx.__main__ import is_found
from bench.ptx.driver import TARGETS
from bench.ptx.far import far_faults
from bench.ptx.verdict import judge_in_orders

RANDOM_CASES = random_cases(12, seed=0)
QUICK_CASES = ("bf16 3x3", "maps 4 splits")
QUICK_ORDERS = ("lockstep", "warps")
QUICK_MUTANTS = ("counter kept", "a wait too short")  # of the kernels and of their PTX


@pytest.mark.parametrize("name", QUICK_CASES)
def test_the_ptx_is_right(name: str) -> None:
    assert not judge_in_orders(CASES[name], "sm_90", QUICK_ORDERS).faults


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES, *RANDOM_CASES])
def test_the_ptx_is_right_in_all_orders(name: str) -> None:
    case = (CASES | RANDOM_CASES)[name]
    assert not judge_in_orders(case, "sm_90").faults


# ``python -m bench.ptx --target`` executes all cases of these.
@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_the_ptx_of_other_gpus_is_right(target: str) -> None:
    assert not judge_in_orders(CASES["bf16 last"], target).faults


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_product_of_32_bits_makes_an_offset(target: str) -> None:
    assert not far_faults(target)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, marks=() if mutant in QUICK_MUTANTS else pytest.mark.slow)
        for mutant in [*MUTANTS, *REWRITINGS]
    ],
)
def test_a_broken_kernel_is_found(mutant: str) -> None:
    assert is_found(mutant, "sm_90")
