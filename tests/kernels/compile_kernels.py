"""Run by ``test_codegen`` in a process of its own: compile the kernels, and some planted faults.

    python tests/kernels/compile_kernels.py FOLDER NAME...

writes what was found in the planted kernels to ``planted.json``, what else tests ask for beside it
and, to a folder for each of the named tables, ``codegen.json`` and ``codegen.csv`` as
``bench.codegen`` does and the printed lines.
"""

import json
import math
import multiprocessing
import os
import re
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from bench import codegen


@triton.jit
def _copy(features_ptr, grad_features_ptr, stride, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tile = tl.load(features_ptr + i * stride)
    tl.store(grad_features_ptr + i * stride, tile)


@triton.jit
def _sum(features_ptr, out_ptr, stride, rows, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for row in tl.range(0, rows, num_stages=3):
        total += tl.load(features_ptr + row * 65536 + i * stride)
    tl.store(out_ptr + i, total)


@triton.jit
def _count(features_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(out_ptr + i % 7, tl.load(features_ptr + i))


@triton.jit
def _one_line(features_ptr, weight_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(features_ptr + i) + tl.load(weight_ptr + i))


def planted() -> dict[str, Callable[[], Any]]:
    """A launch of each, by what is planted."""
    flat = torch.empty(1 << 20, device="meta")
    grid, many = (1,), torch.empty(64, device="meta")
    return {
        "wide": lambda: _copy[grid](flat, flat, 1, BLOCK=2048),
        "narrow, stride 2": lambda: _copy[grid](flat, flat, 2, BLOCK=2048),
        "narrow, offset 1": lambda: _copy[grid](flat[1:], flat, 1, BLOCK=2048),
        "asynchronous, wide": lambda: _sum[grid](flat, many, 1, 99, BLOCK=2048),
        "asynchronous, narrow": lambda: _sum[grid](flat, many, 2, 99, BLOCK=2048),
        "atomics": lambda: _count[grid](flat, many, BLOCK=2048),
        "spills": lambda: _copy[grid](flat, flat, 1, BLOCK=32768, num_warps=1),
        "one line": lambda: _one_line[grid](flat, flat, flat, BLOCK=2048),
    }


def inspect(target: str, call: Callable[[], Any]) -> dict[str, Any]:
    (launch,) = codegen.capture(target, call)
    try:
        code = codegen.inspect(target, launch)
    except ValueError as error:
        return {"error": str(error)}
    return asdict(code) | {"faults": code.faults()}


def scaled_entropies(cells: int = 49) -> list[str]:
    """The instructions of the terms' PTX on 1 / log(HW), by which entropies are multiplied."""
    step = codegen.steps(torch.float32, torch.contiguous_format, (7, 7))["focus_head forward K 2"]
    (terms,) = (each for each in codegen.capture("sm_90", step) if each.name == "terms")
    target = codegen.TARGETS["sm_90"]
    text = triton.compile(terms.source, target=target, options=terms.options).asm["ptx"]
    factor = f"0f{struct.pack('>f', 1 / math.log(cells)).hex().upper()}"
    moved = re.findall(rf"mov\.b32\s+(%r\d+), {factor};", text)
    used = re.compile(rf"(mul|fma|div|add|sub)\..*({'|'.join([factor, *moved])})[,;]")
    return [found[1] for found in map(used.search, text.splitlines()) if found]


def single_cell() -> dict[str, Any]:
    """The backward of 16 classes and one cell: the tile of F is small beside that of W."""
    step = codegen.steps(torch.bfloat16, torch.channels_last, (1, 1))["focus_head backward K 16"]
    (several,) = (each for each in codegen.capture("sm_90", step) if each.name == "several")
    return asdict(codegen.inspect("sm_90", several))


# Targets, grids, layouts and types of the rows, of which each takes a second.
BOTH = tuple(codegen.LAYOUTS)
Job = tuple[tuple[str, ...], tuple[tuple[int, int], ...], tuple[str, ...], tuple[str, ...]]


def usual_grid(*targets_and_types: tuple[str, str]) -> list[Job]:
    return [((target,), ((7, 7),), BOTH, (dtype,)) for target, dtype in targets_and_types]


TABLES: dict[str, list[Job]] = {
    # Both types on one target, the usual one on others.
    "quick": usual_grid(("sm_80", "fp32"), *((t, "bf16") for t in ("sm_80", "sm_90", "gfx942"))),
    "further": usual_grid(
        *((target, "fp32") for target in ("sm_90", "sm_100", "gfx942")), ("sm_100", "bf16")
    ),
    # The cells of a grid of 10 x 10 are the other that no vector divides.
    "grids": [
        ((target,), (grid,), BOTH, (dtype,))
        for grid in ((8, 8), (10, 10))
        for target, dtype in (("sm_80", "fp32"), ("sm_90", "bf16"), ("gfx942", "bf16"))
    ],
    # Four bytes an element are the most shared memory.
    "smaller": [
        ((target,), ((7, 7),), ("channels_last",), ("fp32",)) for target in codegen.SMALLER
    ],
    # Each value once, not in all combinations.
    "large": [
        (("sm_80",), ((32, 32),), ("channels_last",), ("fp32",)),
        (("sm_90",), ((64, 64),), ("channels_last",), ("bf16",)),
        (("sm_80",), ((64, 64),), ("NCHW",), ("fp32",)),
        (("sm_90",), ((128, 128),), ("NCHW",), ("bf16",)),
    ],
}


def compiled(job: Job) -> list[codegen.Row]:
    return list(codegen.rows(*job))


def main(folder: Path, *names: str) -> None:
    # For what the tests that run beside this leave of the cores.
    os.nice(10)
    found = {
        target: {name: inspect(target, call) for name, call in planted().items()}
        for target in ("sm_80", "gfx942")
    }
    (folder / "planted.json").write_text(json.dumps(found))
    (folder / "scaled.json").write_text(json.dumps(scaled_entropies()))
    (folder / "single.json").write_text(json.dumps(single_cell()))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        made = {name: pool.map(compiled, TABLES[name]) for name in names}
        for name, jobs in made.items():
            table = [row for rows in jobs for row in rows]
            (folder / name).mkdir()
            codegen.write(table, folder / name)
            (folder / name / "table.txt").write_text("\n".join(map(codegen.line, table)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
