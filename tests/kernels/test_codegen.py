"""The machine code of the kernels, compiled without a GPU; says nothing about running on one.

A process of its own compiles: here the interpreter may have taken the compiler's place.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from focus.kernels.backend import MAX_CELLS

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).parents[2]
NVIDIA = ("sm_80", "sm_90", "sm_100")
TARGETS = (*NVIDIA, "gfx942")
READ_FEATURES = {
    "focus_head forward K 2: maps",
    "focus_head backward K 2: gradient",
    "focus_head forward K 1000: maps",
    "focus_head contrast forward K 1000: maps",
    "focus_head backward K 1000: rows",
    "cam_entropy forward: maps",
    "cam_entropy backward: gradient",
    "class_activation: maps",
}
WRITE_GRADIENT = {name for name in READ_FEATURES if "backward" in name}
FORWARD_LOOPS = {name for name in READ_FEATURES if name.endswith("maps")}


class Compiled(NamedTuple):
    report: dict[str, Any]
    table: list[dict[str, str]]
    printed: list[str]
    planted: dict[str, dict[str, Any]]
    smaller: list[dict[str, Any]]
    large: list[dict[str, Any]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    from triton import knobs

    try:
        tools = knobs.nvidia.cuobjdump.path, knobs.nvidia.nvdisasm.path
    except RuntimeError as error:
        pytest.skip(f"triton without its disassembler: {error}")
    assert all(map(os.access, tools, [os.X_OK] * 2))
    folder = tmp_path_factory.mktemp("codegen")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_kernels.py"), folder],
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    with (folder / "codegen.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return Compiled(
        json.loads((folder / "codegen.json").read_text()),
        table,
        (folder / "table.txt").read_text().splitlines(),
        json.loads((folder / "planted.json").read_text()),
        json.loads((folder / "smaller.json").read_text()),
        json.loads((folder / "large.json").read_text()),
    )


def rows(compiled: Compiled, **wanted: str) -> list[dict[str, Any]]:
    found = [r for r in compiled.report["rows"] if all(r[k] == v for k, v in wanted.items())]
    assert found
    return found


@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("target", TARGETS)
def test_resources(compiled: Compiled, target: str, dtype: str, layout: str) -> None:
    found = rows(compiled, target=target, dtype=dtype, layout=layout)
    assert {row["kernel"] for row in found} > READ_FEATURES
    for row in found:
        assert row["spills"] == row["local"] == row["atomics"] == 0, row
        assert row["warps"] == 4, row
        assert 0 < row["registers"] <= 128, row
        assert row["shared"] <= 99 * 1024, row


@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("target", TARGETS)
def test_features_and_gradient_move_16_bytes_at_a_time(
    compiled: Compiled, target: str, dtype: str, layout: str
) -> None:
    found = rows(compiled, target=target, dtype=dtype, layout=layout)
    loads = {r["kernel"]: r["loads"] for r in found if r["loads"] is not None}
    stores = {r["kernel"]: r["stores"] for r in found if r["stores"] is not None}
    assert loads.keys() == READ_FEATURES
    assert stores.keys() == WRITE_GRADIENT
    for widths in (*loads.values(), *stores.values()):
        assert list(widths) == ["16"]
        assert widths["16"] > 0


@pytest.mark.parametrize("target", NVIDIA)
def test_forward_loops_copy_asynchronously(compiled: Compiled, target: str) -> None:
    found = {r["kernel"]: r for r in rows(compiled, target=target) if r["kernel"] in FORWARD_LOOPS}
    assert found.keys() == FORWARD_LOOPS
    for row in rows(compiled, target=target):
        if row["kernel"] in FORWARD_LOOPS:
            assert row["asynchronous"] == sum(row["loads"].values()) > 0, row


def test_cards_with_less_shared_memory_take_the_kernels(compiled: Compiled) -> None:
    assert {row["target"] for row in compiled.smaller} == {"sm_86", "sm_89", "sm_120"}
    assert {row["kernel"] for row in compiled.smaller} > READ_FEATURES
    for row in compiled.smaller:
        assert row["shared"] <= 99 * 1024, row
        assert row["spills"] == row["local"] == 0, row


def test_large_grids_take_no_more_registers_or_shared_memory(compiled: Compiled) -> None:
    """Tiles are of blocks of the cells: only what holds a whole CAM grows, by its warps."""
    assert {row["cells"] for row in compiled.large} == {1024, 4096, MAX_CELLS}
    assert {row["kernel"] for row in compiled.large} > READ_FEATURES
    for row in compiled.large:
        assert 0 < row["registers"] <= 128, row
        assert row["shared"] <= 99 * 1024, row
        assert row["atomics"] == 0, row
        for what in ("loads", "stores"):
            assert row[what] is None or list(row[what]) == ["16"], row
        # 128 x 128 cells are 32 for each thread of the kernel of the terms, in local memory.
        if not (row["cells"] == MAX_CELLS and row["kernel"].endswith("terms")):
            assert row["spills"] == row["local"] == 0, row


@pytest.mark.parametrize("target", ["sm_80", "gfx942"])
def test_planted_faults_are_found(compiled: Compiled, target: str) -> None:
    planted = compiled.planted[target]
    faults = {name: code.get("faults") for name, code in planted.items()}
    assert faults["wide"] == faults["asynchronous, wide"] == []
    assert faults["narrow, stride 2"] == ["narrow F loads", "narrow dF stores"]
    assert faults["asynchronous, narrow"] == ["narrow F loads"]
    assert faults["atomics"] == ["atomics"]
    assert "spills" in faults["spills"]
    assert "touches one of ['features_ptr', 'weight_ptr']" in planted["one line"]["error"]


def test_asynchronous_copies_count_as_loads(compiled: Compiled) -> None:
    planted = compiled.planted["sm_80"]
    for name, width in (("asynchronous, wide", "16"), ("asynchronous, narrow", "4")):
        assert list(planted[name]["loads"]) == [width]
        assert planted[name]["asynchronous"] == planted[name]["loads"][width] > 0


def test_specialisation_is_that_of_the_tensors(compiled: Compiled) -> None:
    # 2048 floats over 128 threads: 16 of 4 bytes, or 4 of 16; one float off, 16 bytes would fault.
    planted = compiled.planted["sm_80"]
    assert planted["wide"]["loads"] == {"16": 4}
    assert planted["narrow, offset 1"]["loads"] == {"4": 16}
    assert planted["narrow, offset 1"]["stores"] == {"16": 4}


def test_tables_say_what_was_found(compiled: Compiled) -> None:
    report, table, printed = compiled.report, compiled.table, compiled.printed
    import torch
    import triton

    assert (report["triton"], report["torch"]) == (triton.__version__, torch.__version__)
    assert len(report["rows"]) == len(table) == len(printed)
    for row, flat, line in zip(report["rows"], table, printed, strict=True):
        assert flat["registers"] == str(row["registers"])
        assert flat["faults"] == ", ".join(row["faults"])
        assert line.startswith(row["kernel"])
        assert line.endswith(flat["faults"] or "ok")
        for what in ("loads", "stores"):
            for width, count in (row[what] or {}).items():
                assert f"{count} x {width} B" in flat[what]
                assert f"{count} x {width} B" in line
        narrow = any(int(w) < 16 for what in ("loads", "stores") for w in row[what] or ())
        assert narrow == ("narrow" in flat["faults"])
