"""`make sanitize`, in the environment that it makes for itself."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE = re.compile(r" *(\d+)/(\d+) (clean|found|-) +(.+?): (.+)")
EXTENT = re.compile(r"(\d+) accesses by (\d+) programs, \d+\.\d s")


def make(target: str) -> subprocess.CompletedProcess[str]:
    """Run make with this Python as the one to make environments of."""
    return subprocess.run(
        ["make", "--silent", target, f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def environment() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = make(".venv/triton-3.6/ready")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if line.lower().startswith("error")), lines[-1])
        pytest.skip(f"no environment with triton 3.6 could be made: {reason}")


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_kernels_are_clean_and_planted_faults_are_found() -> None:
    done = make("sanitize")
    assert done.returncode == 0, done.stdout + done.stderr
    head, *body, summary = done.stdout.splitlines()
    assert head.startswith("triton 3.6.")

    runs = [match for line in body if (match := LINE.fullmatch(line))]
    total = len(runs)
    assert [(int(run[1]), int(run[2])) for run in runs] == [(i + 1, total) for i in range(total)]
    not_in_triton = sum(run[3] == "-" for run in runs)
    assert summary == f"{total} runs: 0 wrong, {not_in_triton} not in Triton"

    # What is said to be checked was looked at.
    extents = {run[4]: EXTENT.fullmatch(run[5]) for run in runs if run[3] != "-"}
    assert all(extent and int(extent[1]) >= int(extent[2]) > 0 for extent in extents.values())

    # Each planted fault once, and the sound kernels beside them not at all.
    planted = {run[4]: run[3] for run in runs if run[4].startswith("planted")}
    assert planted == {name: "clean" if "no fault" in name else "found" for name in planted}
    assert list(planted.values()).count("found") == 8
    places = [line for line in body if "sanitize.py:" in line]
    assert len(places) == len([line for line in body if not LINE.fullmatch(line)]) == 8
    assert places[0].startswith("      load at byte 52 of source_ptr, [13] of 4 bytes each")

    # Every operation, in both layouts.
    for operation in ("cam_entropy", "focus_head", "class_activation"):
        for layout in ("nchw", "channels_last"):
            assert any(name.startswith(operation) and layout in name for name in extents)
