"""``pytest bench/``: figures in CPU time, of results that are right."""

import json
from pathlib import Path

import pytest

from bench import test_operations as bench
from bench.gpu_steps import Case

from ..launching import python

ROOT = Path(__file__).parents[2]


def test_it_runs_apart_from_the_tests(request: pytest.FixtureRequest) -> None:
    assert request.config.getini("testpaths") == ["tests"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("operation", bench.OPERATIONS)
def test_wrong_results_are_not_timed(operation: str, dtype: str) -> None:
    prepared = bench.prepare(Case((4, 16, 9), dtype, "channels_last", 3))
    found = bench.OPERATIONS[operation](prepared.inputs)
    bench.check(operation, found, prepared)
    for number, tensor in enumerate(found):
        off = 1.02 if tensor.element_size() == 2 else 1 + 1e-4
        wrong = (*found[:number], tensor * off, *found[number + 1 :])
        with pytest.raises(AssertionError, match=f"{operation}, 4x16x9 {dtype} .* relative error"):
            bench.check(operation, wrong, prepared)


@pytest.mark.slow
def test_figures_are_cpu_time_by_operation(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    words = ["bench/", "-k", "20x1024x49 and fp32 and nchw", f"--benchmark-json={report}"]
    python("-m", "pytest", "-p", "no:cacheprovider", *words, cwd=ROOT)
    benchmarks = json.loads(report.read_text())["benchmarks"]
    assert [entry["group"] for entry in benchmarks] == list(bench.OPERATIONS)
    assert {entry["options"]["timer"] for entry in benchmarks} == {"process_time"}
    assert all(entry["stats"]["rounds"] >= 5 for entry in benchmarks)
