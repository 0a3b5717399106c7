"""The kernels' PTX for NVIDIA's GPUs, executed by the project's interpreter; no GPU ran it."""

from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from bench.cases import CASES, random_cases
from bench.mutants import MUTANTS, REWRITINGS
from bench.ptx.__main__ import is_found
from bench.ptx.far import far_faults
from bench.ptx.verdict import judge_in_orders

# All orders, all GPUs and more random cases are for ``python -m bench.ptx``, after a change of the
# kernels. The launch in lockstep is made twice; the warps of the other one run at random.
ORDERS = ("lockstep", "warps")
RANDOM_CASES = random_cases(3, seed=0)
QUICK_CASES = ("bf16 3x3", "maps 4 splits")
QUICK_MUTANTS = ("counter kept", "a wait too short")  # of the kernels and of their PTX


def slow_but(quick: tuple[str, ...], names: Iterable[str]) -> list[Any]:
    """Return the names as parameters, of which all but the quick ones are slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", slow_but(QUICK_CASES, [*CASES, *RANDOM_CASES]))
def test_the_ptx_is_right(name: str) -> None:
    case = (CASES | RANDOM_CASES)[name]
    assert not judge_in_orders(case, "sm_90", ORDERS).faults


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_the_ptx_of_other_gpus_is_right(target: str) -> None:
    assert not judge_in_orders(CASES["bf16 last"], target, ORDERS).faults


@pytest.mark.slow
def test_no_product_of_32_bits_makes_an_offset() -> None:
    assert not far_faults("sm_90")


@pytest.mark.parametrize("mutant", slow_but(QUICK_MUTANTS, [*MUTANTS, *REWRITINGS]))
def test_a_broken_kernel_is_found(mutant: str) -> None:
    assert is_found(mutant, "sm_90")
