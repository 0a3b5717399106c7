"""Run by ``test_codegen`` in a process of its own: compile the kernels, and some planted faults.

    python tests/kernels/compile_kernels.py FOLDER

writes ``codegen.json`` and ``codegen.csv`` as ``bench.codegen`` does, for one grid, the printed
lines to ``table.txt``, what was found in the planted kernels to ``planted.json``, and the rows of
cards with less shared memory to ``smaller.json``, of large grids to ``large.json``.
"""

import json
import sys
from collections.abc import Callable
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


def main(folder: Path) -> None:
    found = {
        target: {name: inspect(target, call) for name, call in planted().items()}
        for target in ("sm_80", "gfx942")
    }
    (folder / "planted.json").write_text(json.dumps(found))
    table = list(codegen.rows(grids=((7, 7),)))
    smaller = codegen.rows(tuple(codegen.SMALLER), ((7, 7),), layouts=("channels_last",))
    (folder / "smaller.json").write_text(json.dumps([row.flat() for row in smaller]))
    # Each grid, layout, type and target once, not in all combinations: a row takes a second.
    large = [
        *codegen.rows(("sm_80",), ((32, 32),), ("channels_last",), ("fp32",)),
        *codegen.rows(("sm_90",), ((64, 64),), ("channels_last",), ("bf16",)),
        *codegen.rows(("sm_80",), ((64, 64),), ("NCHW",), ("fp32",)),
        *codegen.rows(("sm_90",), ((128, 128),), ("NCHW",), ("bf16",)),
    ]
    (folder / "large.json").write_text(json.dumps([row.flat() for row in large]))
    codegen.write(table, folder)
    (folder / "table.txt").write_text("\n".join(map(codegen.line, table)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
