"""The variants of the kernels compile for a GPU: what the interpreter runs, a compiler may not.

It has no types to agree on after a branch, and no layouts that a shuffle between threads must fit.
"""

import json
from pathlib import Path

import pytest

from .background import background
from .cases import SLOW_WITH_OTHERS

pytest.importorskip("triton", reason="triton is not installed")

# The oldest compiler has faults that are mended since.
pytestmark = list(SLOW_WITH_OTHERS)

KERNELS = {"maps", "terms", "entropy", "grad_cam"}
KERNELS |= {"few", "several", "factors", "rows", "class_sums", "sum_groups"}


def test_variants_compile(tmp_path: Path) -> None:
    with background(tmp_path, "compile_variants.py") as program:
        variants = json.loads((program.wait() / "variants.json").read_text())
    faults = {(v["kernel"], v["case"]): v["error"] for v in variants if v["error"]}
    assert faults.pop(("two_types", "planted"))
    assert faults.pop(("promoted", "planted")) == "computes in float64"
    assert not faults
    assert {v["kernel"] for v in variants} == KERNELS | {"two_types", "promoted"}
    assert len(variants) > 700
    # What sm_86, sm_89 and sm_120 have.
    assert max(v["shared"] for v in variants) <= 99 * 1024
