"""The kernels' machine code for AMD's GPUs, run in an emulator where there is one.

FOCUS_TINYGRAD names a checkout of tinygrad at the commit that bench/emulator.py names.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from bench import emulated

CHECKOUT = os.environ.get("FOCUS_TINYGRAD")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHECKOUT, reason="FOCUS_TINYGRAD names no checkout of tinygrad"),
    pytest.mark.skipif(not shutil.which("clang"), reason="the emulator takes clang"),
]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own: it stays Triton's driver of that process."""
    command = [sys.executable, "-m", "bench.emulated", "--tinygrad", str(CHECKOUT), *options]
    root = Path(emulated.__file__).parents[1]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=3600)


@pytest.mark.parametrize("target", ["gfx942", "gfx1100"])
def test_the_machine_code_is_right_in_any_order(target: str) -> None:
    cases = ("bf16", "bf16 last", "bf16 8 splits", "bf16 16 classes", "cam 8 splits")
    done = run("--target", target, "--orders", "interleave", "reverse", "--cases", *cases)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "mutant", ["no wait", "early", "counter kept", "wrong split", "channels past the end"]
)
def test_a_broken_kernel_is_found(mutant: str) -> None:
    done = run("--mutant", mutant)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("1 cases, 1 wrong\n")
