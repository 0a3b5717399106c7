"""The benchmarks that take rounds run, each in its smallest case: what is measured is no figure."""

import csv
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench.harness import ALLOCATOR

from ..launching import CHECKOUT

WITH_SHORT = sorted(
    path.stem
    for path in (CHECKOUT / "bench").glob("*.py")
    if f"python -m bench.{path.stem} [--short]" in path.read_text(encoding="utf-8")
)


class Smallest(NamedTuple):
    """Flags and constants that make a case of a benchmark small."""

    flags: tuple[str, ...] = ()
    constants: Mapping[str, Any] = {}


SMALLEST = {
    "busy": Smallest(),
    "cached": Smallest(
        constants={"SHAPES": ((8, 3, 3),), "BATCH": 4, "BATCHES": 2, "MORE": 2, "IMAGES": 2}
    ),
    "head": Smallest(flags=("--shapes", "2x8x9", "--layouts", "nchw", "--dtypes", "fp32")),
    "loader": Smallest(
        constants={
            "FILES": {
                "256² JPEG": (256, "jpg", 16),
                "1024² JPEG": (1024, "jpg", 4),
                "1024² PNG": (1024, "png", 4),
            },
            "BATCH": 2,
        }
    ),
    "step": Smallest(flags=("--models", "resnet18", "--image-size", "64", "--batches", "2")),
    "stores": Smallest(),
    "trainer": Smallest(
        flags=("--steps", "2"), constants={"EPOCHS": ("focus_small",), "IMAGES": 8, "BATCH": 4}
    ),
}


def test_each_that_takes_rounds_is_tried() -> None:
    assert list(SMALLEST) == WITH_SHORT


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_SHORT)
def test_a_short_benchmark_ends_with_figures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "stores":
        pytest.importorskip("lmdb", reason="lmdb, which is compared, is not installed")
    program = importlib.import_module(f"bench.{name}")
    for constant, value in SMALLEST[name].constants.items():
        monkeypatch.setattr(program, constant, value)
    for variable, value in ALLOCATOR.items():  # else the process would be replaced
        monkeypatch.setenv(variable, value)
    flags = ("--short", "--rounds", "1", "--output", str(tmp_path), *SMALLEST[name].flags)
    monkeypatch.setattr(sys, "argv", [name, *flags])
    assert not program.main()
    tables = list(tmp_path.glob(f"{name}*.csv"))
    assert tables
    for table in tables:
        with table.open(encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) > 1
