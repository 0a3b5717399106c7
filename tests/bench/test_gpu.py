"""``bench.gpu`` on a borrowed GPU: no part takes the others with it, and what is cut off stays.

No GPU runs these tests: they rehearse the program on a CPU.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from bench import head
from bench.gpu import heads, images
from bench.gpu.processes import run_process
from bench.gpu.results import Results
from bench.gpu.settings import Settings
from bench.gpu.timing import Row, clocks_under, time_cold
from focus.kernels import use_backend

from ..launching import CHECKOUT, Begin, run

SHORTEST = Settings(device="cpu", short=True, batch_size=4)
PROGRAM = ("-m", "bench.gpu", "--device", "cpu", "--short")


def tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Return the rows of each table of a Markdown text by its title, as GitHub reads it."""
    parsed: dict[str, list[dict[str, str]]] = {}
    for section in text.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        cells = [line.replace("\\|", "¦")[2:-2].split(" | ") for line in lines]
        assert all(len(row) == len(cells[0]) for row in cells), lines
        assert set(cells[1]) == {"---"}
        parsed[title] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return parsed


def rows_of(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def plain_precision() -> Iterator[None]:
    """Take no precision of Accelerate's state from another test, and leave no bf16 to one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("program", "seconds", "error"),
    [
        ("print('{\"n\": 1}')", 30, None),
        ("print('{\"n\": 1}', flush=True); import os; os.abort()", 30, "exit code -6"),
        ("print('{\"n\": 1}', flush=True); import time; time.sleep(60)", 0.5, "ended after its"),
    ],
)
def test_a_part_that_crashes_or_hangs_keeps_its_rows_and_says_so(
    program: str, seconds: float, error: str | None
) -> None:
    rows: list[Row] = []
    message = run_process([sys.executable, "-c", program], seconds, rows.append)
    assert rows == [{"n": 1}]
    if error is None:
        assert message is None
    else:
        assert message is not None
        assert message.startswith(error)


def test_rows_are_a_table_to_paste_and_lines_to_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results" / "card.jsonl"
    for _ in range(2):  # a second run takes nothing from the first
        results = Results(file)
        results.begin({"card": "none"})
        results.begin_part("Heads", ("F", "ours us", "SM MHz"))
        results.add("head", {"F": "4x64", "ours us": [12.345678, 12.0, 13.0], "SM MHz": "1755"})
        results.add("head", {"F": "8x64", "error": "TypeError: a | b\n  is not c"})
        results.add("head", {"test": "one of hundreds"})  # for the file alone
        assert results.errors == 1
        assert tables(capsys.readouterr().out)["Heads"] == [
            {"F": "4x64", "ours us": "12.35 [12, 13]", "SM MHz": "1755", "error": ""},
            {"F": "8x64", "ours us": "", "SM MHz": "", "error": "TypeError: a ¦ b is not c"},
        ]
    first, second = rows_of(file)[:4], rows_of(file)[4:]
    assert first == second
    assert first[0] == {"part": "settings", "card": "none"}
    assert first[1]["ours us"] == [12.345678, 12.0, 13.0]


@pytest.mark.parametrize(
    ("script", "clocks"),
    [
        ("sleep 0.3; echo '1755, 2619, 61, 512.34'", {"SM MHz": "1755", "watts": "512.34"}),
        ("echo 'No devices were found'; exit 6", {"SM MHz": "not read"}),
        (None, {"SM MHz": "not read"}),
    ],
    ids=["a card", "no card", "no nvidia-smi"],
)
def test_the_clock_is_read_under_load_or_the_row_says_why_not(
    script: str | None, clocks: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    times: list[float] = []

    def load() -> None:
        times.append(time.perf_counter())
        time.sleep(0.01)

    reading = clocks_under(load, "cpu")
    assert reading.items() >= clocks.items()
    if reading["SM MHz"] == "not read":
        assert "nvidia-smi" in reading["clocks"]
    else:
        assert times[-1] - times[0] > 0.2


def test_a_cold_time_is_that_of_one_step_without_the_flush() -> None:
    def fails() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    cold = time_cold({"sleep": lambda: time.sleep(0.05), "fails": fails}, 3, "cpu")
    assert list(cold.seconds) == ["sleep"]
    assert 0.03 < sorted(cold.seconds["sleep"])[1] < 0.09  # of several times a replay
    assert cold.errors == {
        "fails": "RuntimeError: operation not permitted when stream is capturing"
    }


def test_a_head_is_measured_beside_its_rivals() -> None:
    (row,) = heads.measure_heads("fp16", SHORTEST)
    assert "error" not in row
    assert row["F"] == "4x64x7x7"
    assert all(len(row[ratio]) == 3 for ratio in ("ours / plain", "branches / ours", "A/A"))
    assert min(row["ours us"]) > 0


def test_a_head_that_falls_back_is_an_error_and_not_timed() -> None:
    with use_backend("reference"):
        (row,) = heads.measure_heads("vit", SHORTEST)
    assert "ours: ours ran as reference in place of eager: asked for" in row["error"]
    assert "plain us" in row
    assert not {"ours us", "ours / plain"} & row.keys()


def test_wrong_gradients_and_a_step_that_fails_are_errors() -> None:
    inputs = head.make_inputs((4, 64, 16), "channels_last", dtype=torch.float16)
    ours = head.steps_of(inputs)["ours"]
    assert heads.check("ours", inputs, ours) is None
    wrong = tuple(1.002 * gradient for gradient in ours())
    assert "wrong gradients" in str(heads.check("ours", inputs, lambda: wrong))

    def fails() -> Any:
        raise RuntimeError("no compiler")

    assert heads.check("compiled", inputs, fails) == "RuntimeError: no compiler"


def test_a_case_that_fails_is_a_row_with_its_error(
    plain_precision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(images.SIZES, "cpu", 8)  # less than a patch
    (row,) = images.measure_images("vit_base_patch16_224", SHORTEST)
    assert row["network"] == "rehearsal_vit"
    assert "8" in row["error"]
    assert "ours images/s" not in row


def test_training_is_measured_beside_that_of_timm(plain_precision: None) -> None:
    (row,) = images.measure_images("vit_base_patch16_224", SHORTEST)
    assert "error" not in row
    assert (row["network"], row["batch"], row["mode"]) == ("rehearsal_vit", 4, "eager")
    assert min(row["ours images/s"]) > 0
    assert min(row["timm images/s"]) > 0


@pytest.mark.slow
def test_the_program_rehearsed(tmp_path: Path) -> None:
    """Each kind of part in its process; the compiled forms take minutes of a C++ compiler."""
    file = tmp_path / "rows.jsonl"
    parts = ("vit_base_patch16_224", "head-vit", "tests", "memory")
    done = run(*PROGRAM, "--output", file, "--parts", *parts, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [len(table) for table in tables(done.stdout).values()] == [1, 1, 1, 2]
    kept = rows_of(file)
    assert {row["part"] for row in kept} == {"settings", *parts}
    assert any(row.get("outcome") == "skipped" for row in kept)  # of each test of a kernel


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_its_rows(tmp_path: Path, begin: Begin) -> None:
    file = tmp_path / "rows.jsonl"
    words = [*PROGRAM, "--output", file, "--parts", "head-fp16", "tests"]
    program = begin([sys.executable, *words], cwd=CHECKOUT, stdout=subprocess.PIPE)
    printed = ""
    while "4x64x7x7" not in printed:
        printed += program.stdout.readline()
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    settings, row = rows_of(file)
    assert settings["part"] == "settings"
    assert row["part"] == "head-fp16"
    assert tables(printed)["The head, fp16"][0]["F"] == row["F"]


@pytest.mark.slow
def test_an_error_in_a_row_is_exit_code_1(tmp_path: Path) -> None:
    """Here ours takes another form than its kernels, as on a GPU whose driver Triton cannot use."""
    pytest.importorskip("triton", reason="triton is not installed")
    environment = {"TRITON_INTERPRET": "1", "FOCUS_BACKEND": "eager"}
    words = (*PROGRAM, "--output", tmp_path / "rows.jsonl", "--parts", "head-fp16")
    done = run(*words, cwd=CHECKOUT, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    (row,) = tables(done.stdout)["The head, fp16"]
    assert "ours ran as eager in place of triton: asked for" in row["error"]
