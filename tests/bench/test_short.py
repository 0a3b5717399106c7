"""The benchmarks that have ``--short`` run with it, as a user would try them first."""

import csv
from pathlib import Path

import pytest

from ..launching import CHECKOUT, run

WITH_SHORT = sorted(
    path.stem
    for path in (CHECKOUT / "bench").glob("*.py")
    if f"python -m bench.{path.stem} [--short]" in path.read_text(encoding="utf-8")
)


def test_each_that_takes_rounds_is_tried() -> None:
    assert WITH_SHORT == ["busy", "cached", "head", "loader", "step", "stores", "trainer"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_SHORT)
def test_a_short_benchmark_ends_with_figures(name: str, tmp_path: Path) -> None:
    """All its cases, once each: what is measured so is worth nothing."""
    if name == "stores":
        pytest.importorskip("lmdb", reason="lmdb, which is compared, is not installed")
    few = ("--steps", 2) if name == "trainer" else ()
    words = ("--short", "--rounds", 1, *few, "--output", tmp_path)
    done = run("-m", f"bench.{name}", *words, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = list(tmp_path.glob(f"{name}*.csv"))
    assert tables
    for table in tables:
        with table.open(encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) > 1
