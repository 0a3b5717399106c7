"""``python -m bench.instructions``: its rows, and what the docs say of its file."""

import csv
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from bench import instructions

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rows_of_a_small_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "BATCHES", (4,))
    monkeypatch.setattr(instructions, "CHANNELS", 64)
    monkeypatch.setattr(instructions, "DTYPES", {"fp32": torch.float32})
    monkeypatch.setattr(instructions, "LAYOUTS", {"channels_last": torch.channels_last})
    rows = {row.kernel: row for row in instructions.rows("sm_90")}
    assert list(rows) == ["maps", "terms", "few", "sum_groups"]
    assert rows["terms"].programs == 4
    size = 4 * 64 * 49 * 4
    assert rows["maps"].features_us == round(size / 3.35e6, 2)
    assert rows["few"].features_us == round(2 * size / 3.35e6, 2)
    for row in rows.values():
        assert row.instructions > 50
        assert row.conflicts >= 1
        cycles = row.warps * row.instructions / 4
        assert row.issue_us == pytest.approx(cycles / 1980, abs=0.01)
        assert row.shared_us == pytest.approx(row.passes / 1980, abs=0.01)
    assert rows["maps"].conflicts < 1.05 > rows["few"].conflicts


def test_classes_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "BATCHES", (4,))
    monkeypatch.setattr(instructions, "CHANNELS", 64)
    monkeypatch.setattr(instructions, "DTYPES", {"bf16": torch.bfloat16})
    monkeypatch.setattr(instructions, "LAYOUTS", {"channels_last": torch.channels_last})
    rows = list(instructions.rows("sm_90", (3, 5, 17)))
    touched = [(row.classes, row.kernel) for row in rows if row.features_us]
    assert touched == [
        *((3, kernel) for kernel in ("maps", "few")),
        *((5, kernel) for kernel in ("maps", "several")),
        *((17, kernel) for kernel in ("maps", "rows")),
    ]


def test_grids_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "BATCHES", (4,))
    monkeypatch.setattr(instructions, "CHANNELS", 32)
    monkeypatch.setattr(instructions, "DTYPES", {"bf16": torch.bfloat16})
    monkeypatch.setattr(instructions, "LAYOUTS", {"channels_last": torch.channels_last})
    rows = [row for row in instructions.rows("sm_90", sides=(3, 7)) if row.kernel == "maps"]
    assert [row.cells for row in rows] == [9, 49]
    assert rows[0].instructions < rows[1].instructions


def test_a_tensor_as_large_as_the_features_is_not_taken_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instructions, "BATCHES", (4,))
    monkeypatch.setattr(instructions, "CHANNELS", 32)
    monkeypatch.setattr(instructions, "DTYPES", {"bf16": torch.bfloat16})
    monkeypatch.setattr(instructions, "LAYOUTS", {"channels_last": torch.channels_last})
    monkeypatch.setattr(instructions, "BYTES_PER_US", 1)
    size, classes = 4 * 32 * 3**2 * 2, 18
    assert classes * 32 * 4 == size
    rows = {row.kernel: row for row in instructions.rows("sm_90", (classes,), (3,))}
    assert rows["maps"].features_us == size
    assert rows["rows"].features_us == 2 * size


def test_the_document_says_what_the_file_says() -> None:
    with (CHECKOUT / "bench/results/instructions.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    text = (CHECKOUT / "docs/kernels.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+), (\S+) \| (\S+): (.+?) \| (\S+): (.+?) \|$", text, re.MULTILINE)
    assert len(table) == 4
    more = re.findall(r"^\| K (\d+), (\S+) \| (\S+): (.+?) \| (\S+): (.+?) \|$", text, re.MULTILINE)
    assert len(more) == 6
    grids = re.findall(
        r"^\| (\d+).\1, K (\d+) \| (\S+): (.+?) \| (\S+): (.+?) \|$", text, re.MULTILINE
    )
    assert len(grids) == 8
    lines = [
        *(("2", "7", *line) for line in table),
        *((classes, "7", "128", *line) for classes, *line in more),
        *((classes, side, "128", "NCHW", *line) for side, classes, *line in grids),
    ]
    backward = {"2": "few", "4": "few", "16": "several", "1000": "rows"}
    for classes, side, batch, layout, *said in lines:
        of_case = {
            row["kernel"]: row
            for row in rows
            if [row[name] for name in ("classes", "cells", "batch", "layout", "dtype")]
            == [classes, str(int(side) ** 2), batch, layout, "bf16"]
        }
        kernels = ("maps", backward[classes])
        for kernel, programs, times in zip(kernels, said[::2], said[1::2], strict=True):
            row = of_case[kernel]
            figures = [float(row[f"{what}_us"]) for what in ("issue", "shared", "features")]
            assert programs == row["programs"]
            assert times == " / ".join(f"{figure:.1f}" for figure in figures)
    assert f"columns\n  make {int(rows[0]['passes']):,}." in text
