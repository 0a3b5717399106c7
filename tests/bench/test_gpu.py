"""``bench.gpu`` on a borrowed GPU: no part takes the others with it."""

import sys

import pytest

from bench import gpu


@pytest.mark.parametrize(
    ("program", "seconds", "error"),
    [
        ("print('{\"n\": 1}')", 30, ""),
        ("print('{\"n\": 1}', flush=True); import os; os.abort()", 30, "exit code -6"),
        ("print('{\"n\": 1}', flush=True); import time; time.sleep(60)", 0.5, "ended after its"),
    ],
)
def test_a_part_that_crashes_or_hangs_keeps_its_rows_and_says_so(
    program: str, seconds: float, error: str
) -> None:
    rows: list[gpu.Row] = []
    found = gpu.run_process([sys.executable, "-c", program], seconds, rows.append)
    assert rows == [{"n": 1}]
    assert (found or "")[: len(error) or None] == error
