"""``python -m bench.plot``: tables and pictures say what the files say, and docs what both say."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from bench import plot, tables
from focus.errors import InputError

from .. import launching

ROOT = Path(__file__).parents[2]

SETTINGS = {
    "command": "python -m bench.x",
    "commit": "abc1234",
    "rounds": 9,
    "threads": 1,
    "torch": "2.13.0",
    "python": "3.11.7",
    "cpu": "a CPU",
    "cores": 2,
    "pinned": "yes",
}
WHERE = (
    "(`python -m bench.x`, 9 rounds, commit abc1234, torch 2.13.0, Python 3.11.7, a CPU, "
    "2 virtual cores, 1 thread, pinned: yes.)"
)


def head_row(ratio: str, *figures: str, dtype: str = "fp32", classes: str = "2") -> dict[str, str]:
    """figures: median, low, high, bar, met, memory, memory_met."""
    row = {"shape": "20x16x9", "layout": "nchw", "dtype": dtype, "classes": classes, "ratio": ratio}
    names = ("median", "low", "high", "bar", "met", "memory", "memory_met")
    return row | dict(zip(names, figures, strict=True))


HEAD = [
    head_row("A/A", "1.0", "0.98", "1.02", "", "", "1.0", ""),
    head_row("ours / plain", "1.05", "1.01", "1.09", "<= 1.10", "True", "1.04", "True"),
    head_row("compiled / ours", "", "", "", ">= 1.00", "", "", ""),
    head_row("branches / ours", "2.4", "2.3", "2.5", ">= 2.50", "False", "3.0", ""),
    head_row("ours / plain", "1.3", "1.2", "1.4", "<= 1.15", "False", "2.1", "", dtype="bf16"),
    head_row("ours / plain", "1.1", "1.0", "1.2", "<= 1.10", "False", "1.5", "", classes="1000"),
    head_row(
        *("K 1000 / K 2, ours / plain", "1.05", "1.0", "1.1", "<= 1.10", "True", "", ""),
        classes="1000",
    ),
]
STEP = [
    {"model": "resnet50", "batch": "8", "ratio": ratio, "median": m, "low": m, "high": high}
    | {"bar": bar, "met": met}
    for ratio, m, high, bar, met in (
        ("A/A", "1.0", "1.01", "", ""),
        ("ours / CE-only", "1.01", "1.04", "<= 1.02", "False"),
        ("head / step", "0.0006", "0.0007", "", ""),
    )
]
IMPORTS = [
    {"what": "train.py --help", "median": "0.1", "low": "0.1", "high": "0.12"}
    | {"bar": "<= 1.0", "met": "True"}
]


def slope_row(provider: str, quantity: str, slope: str, bar: str, met: str) -> dict[str, str]:
    labels = {"provider": provider, "layout": "nchw", "dtype": "fp32", "against": "cells"}
    ends = {"smallest": "100", "largest": "400", "low": slope, "high": "1.01"}
    return labels | ends | {"quantity": quantity, "slope": slope, "bar": bar, "met": met}


SLOPES = [
    slope_row("ours", "time", "0.97", "<= 1.05", "True"),
    slope_row("ours", "memory", "1.0", "<= 1.05", "True"),
    slope_row("plain", "time", "0.9", "", ""),
    slope_row("plain", "memory", "1.0", "", ""),
]


def size_row(provider: str, cells: str, milliseconds: str) -> dict[str, str]:
    labels = {"provider": provider, "layout": "nchw", "dtype": "fp32", "against": "cells"}
    sizes = {"batch": "8", "channels": "16", "cells": cells, "classes": "2"}
    return labels | sizes | {"milliseconds": milliseconds, "megabytes": "7"}


SIZES = [
    size_row("ours", "100", "1"),
    size_row("ours", "400", "4"),
    size_row("plain", "100", "0.5"),
    size_row("plain", "400", "2"),
]
FILES = {
    "head": HEAD,
    "growth": SIZES,
    "growth-slopes": SLOPES,
    "step": STEP,
    "imports": IMPORTS,
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for name, rows in FILES.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        (folder / f"{name}.json").write_text(json.dumps({"settings": SETTINGS}))
    return folder


def made(name: str, folder: Path) -> list[str]:
    """The lines of a table in a document that had another."""
    filled = tables.fill(f"before\n<!-- {name} -->\nold\n<!-- end -->\nafter\n", folder)
    lines = filled.splitlines()
    assert lines[:3] == ["before", f"<!-- {name} -->", ""]
    assert lines[-3:] == ["", "<!-- end -->", "after"]
    return lines[3:-3]


def test_tables_of_the_head(results: Path) -> None:
    assert made("head-fp32", results)[2:] == [
        "| 20x16x9 nchw | 1.00 [0.98, 1.02] | **1.05 [1.01, 1.09]** |  |  | 2.40 [2.30, 2.50] "
        "|  |  | 1.04 |",
        "",
        WHERE,
    ]
    assert made("head-bf16", results)[2].startswith("| 20x16x9 nchw |  | 1.30 [1.20, 1.40] | ")
    assert made("head-classes", results)[2] == (
        "| 20x16x9 nchw fp32 | 1000 | 1.10 [1.00, 1.20] |  |  |  | **1.05 [1.00, 1.10]** |"
    )


def test_tables_of_growth_and_step(results: Path) -> None:
    assert made("growth", results)[2] == (
        "| HW, 100 to 400 | nchw fp32 | **0.97 [0.97, 1.01]** | 0.90 [0.90, 1.01] | **1.00** "
        "| 1.00 |"
    )
    assert made("step", results)[:3] == [
        "|  | A/A | ours / CE-only | head / step |",
        "|---|---|---|---|",
        "| resnet50, batch 8 | 1.00 [1.00, 1.01] | 1.01 [1.01, 1.04] | 0.0006 [0.0006, 0.0007] |",
    ]


def test_pictures_are_shown_where_they_can_be_drawn(results: Path) -> None:
    assert made("step-picture", results) == [
        "![Ratios of CPU time of a training step, a panel for each](bench-step.png)"
    ]
    assert made("growth-picture", results)[0].endswith("](bench-growth.png)")
    (results / "growth.csv").unlink()
    assert made("growth-picture", results) == ["Not measured yet."]


def test_table_of_the_bars_counts_by_the_bound_that_decides(results: Path) -> None:
    found = [line.replace("\u00a0", " ").split(" | ") for line in made("bars", results)[2:]]
    assert found == [
        ["| ours / plain", "<= 1.10 or <= 1.15", "1 of 3", "20x16x9 nchw bf16, K 2: 1.40 |"],
        ["| peak memory of ours / F", "<= 1.06", "1 of 1", "20x16x9 nchw fp32, K 2: 1.04 |"],
        ["| branches / ours", ">= 2.50", "0 of 1", "20x16x9 nchw fp32, K 2: 2.30 |"],
        [
            *("| K 1000 / K 2, ours / plain", "<= 1.10", "1 of 1"),
            "20x16x9 nchw fp32, K 1000: 1.10 |",
        ],
        ["| slope of time against HW", "<= 1.05", "1 of 1", "nchw fp32: 1.01 |"],
        ["| slope of memory against HW", "<= 1.05", "1 of 1", "nchw fp32: 1.01 |"],
        ["| step of resnet50: ours / CE-only", "<= 1.02", "0 of 1", "batch 8: 1.04 |"],
        ["| train.py --help, CPU seconds", "<= 1.0", "1 of 1", "0.12 |"],
    ]


def test_a_bar_that_is_met_after_rounding_alone_does_not_count(results: Path) -> None:
    path = results / "imports.csv"
    path.write_text(path.read_text().replace("True", "False"))
    assert made("bars", results)[-1].endswith("| 0 of 1 | 0.12 |")


def test_what_was_not_measured_is_said(results: Path) -> None:
    (results / "step.csv").unlink()
    assert made("step", results) == ["Not measured yet."]
    assert not any("step" in line for line in made("bars", results))
    path = results / "head.csv"
    path.write_text("".join(line for line in path.open() if "bf16" not in line))
    assert made("head-bf16", results) == ["Not measured yet."]


def test_unknown_tables_and_older_results_are_refused(results: Path) -> None:
    with pytest.raises(InputError, match="no table 'heads'; there are bars, head-picture"):
        made("heads", results)
    path = results / "head.csv"
    path.write_text(path.read_text().replace("dtype", "type"))
    with pytest.raises(InputError, match=r"head\.csv has no dtype: measure again"):
        made("head-fp32", results)


def points(axes: Axes) -> list[tuple[float, str]]:
    """Where the ratios of a panel are, and their filling."""
    marks = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    return [(float(line.get_xdata()[0]), str(line.get_markerfacecolor())) for line in marks]


def test_picture_of_the_head() -> None:
    panels = {axes.get_title(): axes for axes in plot.head_picture(HEAD).axes}
    assert tuple(panels) == plot.PANELS
    filled, hollow = points(panels["ours / plain"])
    assert (filled[0], hollow) == (1.05, (1.3, "white"))
    assert filled[1] != "white"
    ticks = [line for line in panels["ours / plain"].lines if line.get_marker() == "|"]
    assert [float(line.get_xdata()[0]) for line in ticks] == [1.10, 1.15]
    assert points(panels["compiled / ours"]) == []
    assert [x for x, _ in points(panels["K 1000 / K 2, ours / plain"])] == [1.05]


def test_picture_of_the_growth() -> None:
    time, memory = (plot.growth_picture(SIZES, SLOPES).axes[n] for n in (2, 6))
    assert (time.get_xlabel(), time.get_xscale(), time.get_yscale()) == ("HW", "log", "log")
    labels = [text.get_text() for text in time.get_legend().get_texts()]
    assert labels == ["0.97 ours, nchw", "0.90 plain, nchw"]
    assert len(memory.get_legend().get_texts()) == 2


def test_picture_of_the_step() -> None:
    panels = {axes.get_title(): axes for axes in plot.step_picture(STEP).axes}
    assert list(panels) == ["A/A", "ours / CE-only"]
    assert points(panels["ours / CE-only"]) == [(1.01, "white")]


def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
    return launching.run("-m", "bench.plot", *options, cwd=ROOT)


@pytest.mark.slow
def test_program_draws_what_there_is(results: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    document = docs / "benchmarks.md"
    document.write_text("<!-- step -->\n<!-- end -->\n")
    (results / "growth.csv").unlink()
    done = run("--results", results, "--docs", docs)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in docs.iterdir()) == [
        *("bench-head.png", "bench-step.png", "benchmarks.md"),
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in docs.glob("*.png"))
    assert "ours / CE-only" in document.read_text()
    for path in results.iterdir():
        path.unlink()
    done = run("--results", results, "--docs", docs)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {results} has none of head.csv, growth.csv and step.csv")


def test_docs_hold_the_tables_and_pictures_of_the_results() -> None:
    text = (ROOT / "docs" / plot.DOCUMENT).read_text(encoding="utf-8")
    assert tables.fill(text, ROOT / "bench" / "results") == text, "run python -m bench.plot"
    assert all(f"<!-- {name} -->" in text for name in tables.TABLES)
