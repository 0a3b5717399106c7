"""The measurement of the head: nothing wrong is timed, and a step's memory is what it says."""

import csv
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import harness, head
from bench import test_operations as operations

from ..launching import CHECKOUT, python


def test_peak_is_what_lives_at_once() -> None:
    def step() -> tuple[torch.Tensor, ...]:
        first = torch.zeros(1000)
        second = first + 1  # 8000 bytes live
        del first
        third = torch.cat([second, second])  # 12000
        del second
        return (third,)

    assert harness.peak_bytes(step) == 12000


@pytest.mark.parametrize("layout", head.LAYOUTS)
def test_a_training_step_needs_little_more_than_the_gradient_of_the_features(layout: str) -> None:
    """1.1 times their size in fp32, where autograd's branches take three times."""
    inputs = head.make_inputs((20, 1024, 49), layout)
    size = inputs.features.nbytes
    ours = partial(head.gradients, inputs, head.ours_loss)
    assert size < harness.peak_bytes(ours) <= 1.1 * size
    assert harness.peak_bytes(partial(head.gradients, inputs, head.branches_loss)) >= 3 * size


@pytest.mark.parametrize("layout", head.LAYOUTS)
@pytest.mark.parametrize("dtype", head.DTYPES)
def test_wrong_gradients_are_not_timed(dtype: str, layout: str) -> None:
    inputs = head.make_inputs((4, 64, 16), layout, 3, head.DTYPES[dtype])
    steps = head.steps_of(inputs)
    del steps["compiled"]  # has a test of its own
    head.check(inputs, steps)
    for name, step in steps.items():
        # The branches' CAM is bfloat16, and ties of its cells move whole gradients.
        off = {"fp32": 1.001, "bf16": 1.01 if name == "ours" else 1.5}[dtype]
        for factor, said in ((off, "error "), (math.nan, "error nan")):
            wrong = tuple(gradient * factor for gradient in step())
            with pytest.raises(SystemExit, match=f"{name} is wrong: relative {said}"):
                head.check(inputs, {name: lambda wrong=wrong: wrong})


@pytest.mark.slow
def test_the_program_writes_all_ratios_and_says_what_could_not_run(tmp_path: Path) -> None:
    words = ["--shapes", "4x16x9", "--rounds", "3", "--output", tmp_path]
    said = python("-m", "bench.head", *words, cwd=CHECKOUT, CXX="/no/such/compiler")
    assert "rounds 3" in said.splitlines()[0]
    with (tmp_path / "head.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(head.RATIOS) * len(head.LAYOUTS) * len(head.DTYPES)
    for row in table:
        if row["ratio"] == "compiled / ours":
            assert (row["median"], "C++ compiler" in row["note"]) == ("", True)
        else:
            assert 0 < float(row["low"]) <= float(row["median"]) <= float(row["high"])
    kept = json.loads((tmp_path / "head.json").read_text())
    assert kept["settings"]["torch"] == torch.__version__


@pytest.mark.slow
def test_pytest_bench_takes_cpu_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # with it, nothing is timed
    report = tmp_path / "report.json"
    words = ["-k", "nchw and fp32 and not 128", "-p", "no:cacheprovider"]
    python("-m", "pytest", "bench/", *words, f"--benchmark-json={report}", cwd=CHECKOUT)
    benchmarks = json.loads(report.read_text())["benchmarks"]
    assert {entry["group"] for entry in benchmarks} == set(operations.OPERATIONS)
    assert {entry["options"]["timer"] for entry in benchmarks} == {"process_time"}
