"""``python -m bench``: which programs run, and what becomes of failures."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..launching import CHECKOUT, Begin

everything = importlib.import_module("bench.__main__")


def test_a_checkout_that_is_not_installed_is_said_in_a_line(tmp_path: Path) -> None:
    for name in ("bench", "focus"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("results"))
    # Without site-packages, where an editable install names the kernels of this checkout.
    done = subprocess.run(
        [sys.executable, "-S", "-m", "bench.head", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    sentence = "error: This checkout is not the installed one: call pip install -e . in it.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("traffic", "features_read 2.0, gradient_written 1.0"),
        ("codegen", "kernel focus_head forward K 2: head, target sm_80"),
        ("model", "| H100 | 20 |"),
    ],
)
def test_a_proof_starts_as_a_program(program: str, found: str, begin: Begin) -> None:
    """Its whole table takes minutes; what it counts and compiles, tests of the kernels see."""
    pytest.importorskip("triton", reason="triton is not installed")
    process = begin([sys.executable, "-m", f"bench.{program}"], cwd=CHECKOUT, stdout=-1)
    assert any(found in process.stdout.readline() for _ in range(3))
