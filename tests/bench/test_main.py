"""The proofs of the kernels start as programs."""

import sys

import pytest

from ..launching import CHECKOUT, Begin


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("traffic", "features_read 2.0, gradient_written 1.0"),
        ("codegen", "kernel focus_head forward K 2: head, target sm_80"),
        ("model", "| H100, channels_last | 20 |"),
    ],
)
def test_a_proof_starts_as_a_program(program: str, printed: str, begin: Begin) -> None:
    """Its whole table takes minutes; what it counts and compiles, tests of the kernels see."""
    pytest.importorskip("triton", reason="triton is not installed")
    process = begin([sys.executable, "-m", f"bench.{program}"], cwd=CHECKOUT, stdout=-1)
    assert any(printed in process.stdout.readline() for _ in range(3))
