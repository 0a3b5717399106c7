"""``bench.gpu`` as far as a CPU shows it: it says nothing here about a GPU.

It is the first program on a borrowed GPU, so that no part may take the others with it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import gpu, head
from bench.harness import Step

from ..launching import CHECKOUT, python, run


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("part", [name for name in gpu.PARTS if name != "compiled"])
def test_a_part_prints_a_row_a_case(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "ODD_SHAPES", ((3, 8, 9),))
    monkeypatch.setattr(gpu, "ODD_CLASSES", (2, 17))
    gpu.run_part(part, "cpu", ((2, 16, 9),))
    rows = lines(capsys)
    timed = 2 * len(gpu.timed_cases(((2, 16, 9),))) if part == "plain" else 4
    assert len(rows) == {"correctness": 6, "copy": 2}.get(part, timed)
    for row in rows:
        assert "error" not in row
        assert ("relative_error" in row) == (part != "copy")
        assert ("cold_us" in row) == (part != "correctness")
    if part == "ours":
        assert str(rows[0]["backend"]).startswith("eager: features on cpu")


def test_a_case_that_is_wrong_or_cannot_run_is_a_row_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def steps_of(inputs: head.Inputs) -> dict[str, Step]:
        if inputs.features.dtype == torch.float32:
            raise RuntimeError("CUDA error:\nan illegal memory access")
        exact = head.gradients(inputs, head.ours_loss)
        return {"ours": lambda: tuple(1.5 * gradient for gradient in exact)}

    monkeypatch.setattr(head, "steps_of", steps_of)
    gpu.run_part("ours", "cpu", ((2, 16, 9),))
    said = [str(row["error"]) for row in lines(capsys)]
    assert [text.startswith("wrong: relative error above") for text in said[:2]] == [True, True]
    assert said[2:] == ["RuntimeError: CUDA error: an illegal memory access"] * 2


@pytest.mark.parametrize(
    ("program", "seconds", "error"),
    [
        ("print('{\"n\": 1}')", 30, None),
        ("print('{\"n\": 1}', flush=True); import os; os.abort()", 30, "exit code -6"),
        ("print('{\"n\": 1}'); raise SystemExit('no driver')", 30, "exit code 1: no driver"),
        ("print('{\"n\": 1}', flush=True); import time; time.sleep(60)", 0.5, "ended after its"),
    ],
)
def test_a_part_that_crashes_or_hangs_keeps_its_rows_and_says_so(
    program: str, seconds: float, error: str | None
) -> None:
    rows: list[gpu.Row] = []
    found = gpu.run_process([sys.executable, "-c", program], seconds, rows.append)
    assert rows == [{"n": 1}]
    assert (found or "").startswith(error or "")
    assert (found is None) == (error is None)


def test_the_json_has_the_parts_with_their_rows_and_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = {"shape": "2x16x9", "dtype": "bf16", "provider": "ours", "cold_us": [3, 2, 4]}

    def run_process(
        command: list[str], seconds: float, add: Callable[[gpu.Row], None]
    ) -> str | None:
        part = command[command.index("--here") + 1]
        add({"copy": {"bytes_per_second": 1e6}, "ours": case}[part])
        return "ended after its share" if part == "ours" else None

    path = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "run_process", run_process)
    words = ["gpu", "--device", "cpu", "--parts", "copy", "ours", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    assert gpu.main() == 1
    report = json.loads(path.read_text())
    assert {"torch", "triton", "commit", "device"} <= set(report["settings"])
    assert report["parts"]["copy"]["rows"] == [{"bytes_per_second": 1e6}]
    assert report["parts"]["ours"]["error"] == "ended after its share"
    # 2 x 16 x 9 cells of two bytes, read and written at a megabyte a second.
    assert report["parts"]["ours"]["rows"] == [case | {"floor_us": 1152.0}]


@pytest.mark.slow
def test_the_program_runs_its_parts_as_processes(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--shapes", "2x16x9", "--output", path, "--parts", "plain"]
    python("-m", "bench.gpu", *words, cwd=CHECKOUT)
    assert len(json.loads(path.read_text())["parts"]["plain"]["rows"]) == 8
    assert run("-m", "bench.gpu", *words, "--minutes", "0", cwd=CHECKOUT).returncode == 1
    assert json.loads(path.read_text())["parts"]["plain"]["error"].startswith("ended after")
