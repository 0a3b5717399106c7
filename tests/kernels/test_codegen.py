"""The machine code of the kernels, compiled without a GPU; says nothing about running on one.

A process of its own compiles: here the interpreter may have taken the compiler's place. What plain
``pytest`` needs is begun with the first test of the kernels, and these tests are the last of them.
"""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from focus.kernels.backend import MAX_CELLS

from .background import Background, background

pytest.importorskip("triton", reason="triton is not installed")


NVIDIA = ("sm_80", "sm_90", "sm_100")
# Targets and types at a grid of 7 x 7: of plain `pytest`, and with the slow tests.
QUICK = [("sm_80", "fp32"), ("sm_80", "bf16"), ("sm_90", "bf16"), ("gfx942", "bf16")]
FURTHER = [("sm_90", "fp32"), ("sm_100", "fp32"), ("gfx942", "fp32"), ("sm_100", "bf16")]
MAX_REGISTERS = 128
READ_FEATURES = {
    "focus_head forward K 2: maps",
    "focus_head backward K 2: few",
    "focus_head forward K 1000: maps",
    "focus_head contrast forward K 1000: maps",
    "focus_head backward K 16: several",
    "focus_head backward K 1000: rows",
    "cam_entropy forward: maps",
    "cam_entropy backward: few",
    "class_activation: maps",
}
WRITE_GRADIENT = {name for name in READ_FEATURES if "backward" in name}
FORWARD_LOOPS = {name for name in READ_FEATURES if name.endswith("maps")}


class Table(NamedTuple):
    report: dict[str, Any]
    flat: list[dict[str, str]]
    printed: list[str]


class Compiled(NamedTuple):
    tables: dict[str, Table]
    planted: dict[str, dict[str, Any]]
    scaled: list[str]
    single: dict[str, Any]


@pytest.fixture(scope="module")
def disassembler() -> None:
    from triton import knobs

    try:
        tools = knobs.nvidia.cuobjdump.path, knobs.nvidia.nvdisasm.path
    except RuntimeError as error:
        pytest.skip(f"triton without its disassembler: {error}")
    assert all(map(os.access, tools, [os.X_OK] * 2))


def read(folder: Path, *names: str) -> Compiled:
    tables = {}
    for name in names:
        with (folder / name / "codegen.csv").open(newline="") as file:
            flat = list(csv.DictReader(file))
        report = json.loads((folder / name / "codegen.json").read_text())
        printed = (folder / name / "table.txt").read_text().splitlines()
        tables[name] = Table(report, flat, printed)
    others = ("planted", "scaled", "single")
    return Compiled(tables, *(json.loads((folder / f"{name}.json").read_text()) for name in others))


@pytest.fixture(scope="module")
def compiled(disassembler: None, quick_tables: Background) -> Compiled:
    return read(quick_tables.wait(), "quick")


@pytest.fixture(scope="module")
def compiled_further(
    disassembler: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compiled]:
    names = ("further", "grids", "smaller", "large")
    folder = tmp_path_factory.mktemp("codegen")
    with background(folder, "compile_kernels.py", *names) as tables:
        yield read(tables.wait(), *names)


def rows(compiled: Compiled, table: str, **wanted: str) -> list[dict[str, Any]]:
    found = [
        r
        for r in compiled.tables[table].report["rows"]
        if all(r[k] == v for k, v in wanted.items())
    ]
    assert found
    return found


def assert_resources(row: dict[str, Any]) -> None:
    assert row["spills"] == row["local"] == row["atomics"] == 0, row
    # Of each of these as many threads share a multiprocessor, 512 with all registers.
    assert row["warps"] in (4, 8), row
    assert 0 < row["registers"] <= MAX_REGISTERS, row
    assert row["shared"] <= 99 * 1024, row


def assert_wide(rows: list[dict[str, Any]]) -> None:
    """F is loaded and dF stored 16 bytes at a time by all kernels that do."""
    loads = [(row["kernel"], row["loads"]) for row in rows if row["loads"] is not None]
    stores = [(row["kernel"], row["stores"]) for row in rows if row["stores"] is not None]
    assert {kernel for kernel, _ in loads} == READ_FEATURES
    assert {kernel for kernel, _ in stores} == WRITE_GRADIENT
    for _, widths in (*loads, *stores):
        assert list(widths) == ["16"]
        assert widths["16"] > 0


def assert_table(rows: list[dict[str, Any]]) -> None:
    """All kernels are there and within the limits."""
    assert {row["kernel"] for row in rows} > READ_FEATURES
    for row in rows:
        assert_resources(row)
    assert_wide(rows)


@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
@pytest.mark.parametrize(("target", "dtype"), QUICK)
def test_resources_and_width(compiled: Compiled, target: str, dtype: str, layout: str) -> None:
    assert_table(rows(compiled, "quick", target=target, dtype=dtype, layout=layout))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
@pytest.mark.parametrize(("target", "dtype"), FURTHER)
def test_resources_and_width_of_further_targets(
    compiled_further: Compiled, target: str, dtype: str, layout: str
) -> None:
    found = rows(compiled_further, "further", target=target, dtype=dtype, layout=layout)
    assert_table(found)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["channels_last", "NCHW"])
@pytest.mark.parametrize(
    ("target", "dtype"), [("sm_80", "fp32"), ("sm_90", "bf16"), ("gfx942", "bf16")]
)
@pytest.mark.parametrize("cells", [64, 100])
def test_resources_and_width_at_other_grids(
    compiled_further: Compiled, target: str, dtype: str, layout: str, cells: int
) -> None:
    found = rows(compiled_further, "grids", target=target, dtype=dtype, layout=layout)
    assert_table([row for row in found if row["cells"] == cells])


@pytest.mark.parametrize(("target", "dtype"), [pair for pair in QUICK if pair[0] in NVIDIA])
def test_forward_loops_copy_asynchronously(compiled: Compiled, target: str, dtype: str) -> None:
    assert_asynchronous(rows(compiled, "quick", target=target, dtype=dtype))


@pytest.mark.slow
def test_forward_loops_copy_asynchronously_on_further_targets(compiled_further: Compiled) -> None:
    for target, dtype in FURTHER:
        if target in NVIDIA:
            assert_asynchronous(rows(compiled_further, "further", target=target, dtype=dtype))


def assert_asynchronous(rows: list[dict[str, Any]]) -> None:
    forward = [row for row in rows if row["kernel"] in FORWARD_LOOPS]
    assert {row["kernel"] for row in forward} == FORWARD_LOOPS
    for row in forward:
        assert row["asynchronous"] == sum(row["loads"].values()) > 0, row


@pytest.mark.slow
def test_cards_with_less_shared_memory_take_the_kernels(compiled_further: Compiled) -> None:
    found = rows(compiled_further, "smaller")
    assert {row["target"] for row in found} == {"sm_86", "sm_89", "sm_120"}
    assert {row["kernel"] for row in found} > READ_FEATURES
    for row in found:
        assert row["shared"] <= 99 * 1024, row
        assert row["spills"] == row["local"] == 0, row


@pytest.mark.slow
def test_large_grids_take_no_more_registers_or_shared_memory(compiled_further: Compiled) -> None:
    """Tiles are of blocks of the cells: only what holds a whole CAM grows, by its warps."""
    found = rows(compiled_further, "large")
    assert {row["cells"] for row in found} == {1024, 4096, MAX_CELLS}
    assert {row["kernel"] for row in found} > READ_FEATURES
    for row in found:
        assert 0 < row["registers"] <= MAX_REGISTERS, row
        assert row["shared"] <= 99 * 1024, row
        assert row["atomics"] == 0, row
        for what in ("loads", "stores"):
            assert row[what] is None or list(row[what]) == ["16"], row
        # 128 x 128 cells are 32 for each thread of the kernel of the terms, in local memory.
        if not (row["cells"] == MAX_CELLS and row["kernel"].endswith("terms")):
            assert row["spills"] == row["local"] == 0, row


def test_an_entropy_is_rounded_before_its_target_is_subtracted(compiled: Compiled) -> None:
    """Fused into the subtraction, the product would leave its rounding where nothing is left."""
    assert compiled.scaled.count("mul") >= 2  # the CAM's entropy and the human map's
    assert "fma" not in compiled.scaled


def test_classes_that_outnumber_the_cells_leave_registers(compiled: Compiled) -> None:
    """With a tile as large as that of many cells W alone would spill hundreds."""
    assert compiled.single["spills"] == compiled.single["local"] == 0
    assert 0 < compiled.single["registers"] <= MAX_REGISTERS


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


def test_an_access_without_a_line_is_held_to_the_limits_of_what_may_miss_it() -> None:
    from bench.machine_code import Access, MachineCode

    on_its_line, lost = Access("load", 16, False, "few.py:1"), Access("load", 4, False, "few.py:0")
    code = MachineCode(
        warps=4,
        registers=1,
        spills=0,
        local=0,
        shared=0,
        atomics=0,
        accesses=[on_its_line, lost],
        arguments={("load", "few.py:1"): "features_ptr", ("load", "few.py:2"): "weight_ptr"},
    )
    assert code.of("load", "features_ptr") == [on_its_line, lost]
    found = replace(code, complete=frozenset({("load", "features_ptr")}))
    assert found.of("load", "features_ptr") == [on_its_line]
    assert found.of("load", "weight_ptr") == [lost]


def test_a_number_names_another_value_in_each_region() -> None:
    from bench.machine_code import _arguments_by_line

    ttir = """
tt.func public @k(%x_ptr: !tt.ptr<f32> loc("x_ptr"), %y_ptr: !tt.ptr<f32> loc("y_ptr")) {
  scf.if %c {
    %0 = tt.splat %x_ptr : !tt.ptr<f32> -> tensor<8x!tt.ptr<f32>> loc(#loc)
    %1 = tt.addptr %0, %p : tensor<8x!tt.ptr<f32>>, tensor<8xi32> loc(#loc)
    %v = tt.load %1 : tensor<8x!tt.ptr<f32>> loc(#loc1)
  }
  scf.if %c {
    %0 = tt.load %x_ptr : !tt.ptr<f32> loc(#loc2)
    %1 = arith.muli %s, %p : i64 loc(#loc)
    %2 = tt.addptr %y_ptr, %1 : !tt.ptr<f32>, i64 loc(#loc)
    %3 = tt.addptr %2, %0 : !tt.ptr<f32>, i64 loc(#loc)
    tt.store %3, %v : !tt.ptr<f32> loc(#loc3)
  }
}
#loc = loc("few.py":1:0)
#loc1 = loc("few.py":2:0)
#loc2 = loc("few.py":3:0)
#loc3 = loc("few.py":4:0)
"""
    assert _arguments_by_line(ttir) == {
        ("load", "few.py:2"): {"x_ptr"},
        ("load", "few.py:3"): {"x_ptr"},
        ("store", "few.py:4"): {"y_ptr"},
    }


def test_accesses_in_llvm() -> None:
    from bench.machine_code import accesses_in_llvm

    ttir = "tt.func public @k(%x_ptr: !tt.ptr<f32>, %n: i32, %y_ptr: !tt.ptr<f32>) {"
    llir = """
  %4 = tail call ptr addrspace(8) @llvm.amdgcn.make.buffer.rsrc.p8.p1(ptr addrspace(1) %0, i16 0)
  %5 = tail call <4 x i32> @llvm.amdgcn.raw.ptr.buffer.load.v4i32(ptr addrspace(8) %4, i32 %1)
  %6 = getelementptr float, ptr addrspace(1) %2, i64 %9
  %7 = load <1 x float>, ptr addrspace(1) %6, align 4
  %8 = load float, ptr addrspace(3) %3, align 4
  store <4 x float> %5, ptr addrspace(1) %6, align 16
  tail call void @llvm.amdgcn.raw.ptr.buffer.store.f32(float %7, ptr addrspace(8) %4, i32 %1)
"""
    assert accesses_in_llvm(llir, ttir) == {
        ("load", "x_ptr"): 1,
        ("load", "y_ptr"): 1,
        ("store", "y_ptr"): 1,
        ("store", "x_ptr"): 1,
    }


def test_asynchronous_copies_count_as_loads(compiled: Compiled) -> None:
    planted = compiled.planted["sm_80"]
    for name, width in (("asynchronous, wide", "16"), ("asynchronous, narrow", "4")):
        assert list(planted[name]["loads"]) == [width]
        assert planted[name]["asynchronous"] == planted[name]["loads"][width] > 0


def test_an_access_with_another_file_is_found_by_its_number() -> None:
    from bench.machine_code import Access, in_its_file

    known = {("load", "few.py:105"): {"grad_cam_ptr"}, ("load", "few.py:141"): {"features_ptr"}}
    misplaced = Access("load", 4, False, "tiles.py:105")
    assert in_its_file(misplaced, known) == misplaced._replace(line="few.py:105")
    # Not where it is known, nor where there is no such number of this kind, or more than one.
    for access in (
        Access("load", 16, True, "few.py:141"),
        Access("load", 4, False, "tiles.py:106"),
        Access("store", 4, False, "tiles.py:105"),
    ):
        assert in_its_file(access, known) == access
    known["load", "maps.py:105"] = {"weight_ptr"}
    assert in_its_file(misplaced, known) == misplaced


def test_specialisation_is_that_of_the_tensors(compiled: Compiled) -> None:
    # 2048 floats over 128 threads: 16 of 4 bytes, or 4 of 16; one float off, 16 bytes would fault.
    planted = compiled.planted["sm_80"]
    assert planted["wide"]["loads"] == {"16": 4}
    assert planted["narrow, offset 1"]["loads"] == {"4": 16}
    assert planted["narrow, offset 1"]["stores"] == {"16": 4}


def test_tables_say_what_was_found(compiled: Compiled) -> None:
    report, table, printed = compiled.tables["quick"]
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
