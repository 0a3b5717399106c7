"""Run by ``test_variants`` in a process of its own: compile each variant of each kernel for a GPU.

    python tests/kernels/compile_variants.py FOLDER

writes ``variants.json``: of each kernel that the launchers launch in a pairwise cover of shapes,
types, layouts and options, what the compiler says of it (nothing, if it is well), and its shared
memory.
"""

import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from bench.codegen import TARGETS, Launch, capture
from focus.kernels import triton_cam_entropy, triton_focus_head
from focus.kernels.types import accumulation_dtype
from tests.kernels.cases import HEAD, Case, arrange, name_of, pairwise

TARGET = "sm_90"
PROCESSES = 2
FACTORS = HEAD | {
    # Without a batch of 0, for which nothing is launched. Triton tells 1, multiples of 16 and the
    # rest apart; the further grids take other tiles or several blocks.
    "batch": (1, 3, 16, 20, 128),
    "grid": (*HEAD["grid"], (3, 3), (6, 6), (9, 15), (16, 17)),
    "classes": (1, 2, 3, 4, 5, 16, 17, 1000),
    "bias": (True, False),
    "class_weight": (True, False),
    "entropy_target": (True, False),
    "needs": tuple((f, w, b) for f in (True, False) for w in (True, False) for b in (True, False)),
    "upstream": ("of the mean", "of each sample"),
    # Of class_activation: classes that serve every sample, or each has its own. 17 take two reads.
    "activations": (1, 2, 4, 9, 17),
    "activations_of": ("all", "each"),
}


class Variant(NamedTuple):
    """A kernel as one case, the first of several, launches it; ``error`` is "" where it is well."""

    kernel: str
    case: str
    error: str
    shared: int


@triton.jit
def _two_types(out_ptr, wide, BLOCK: tl.constexpr):
    # The interpreter runs it; compiled, a value has one type after either branch.
    value = tl.zeros((BLOCK,), tl.float32)
    if wide > 0:
        value = tl.zeros((BLOCK,), tl.float64)
    tl.store(out_ptr + tl.arange(0, BLOCK), value)


@triton.jit
def _promoted(out_ptr, BLOCK: tl.constexpr):
    # Stored as float32, it looks like float32: of consumer cards a 64th of the speed.
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.exp(tl.load(out_ptr + i).to(tl.float64)))


def planted() -> None:
    out = torch.empty(64, device="meta")
    _two_types[(1,)](out, 2, BLOCK=64)
    _promoted[(1,)](out, BLOCK=64)


def allowed(case: Case) -> bool:
    return case.get("cam_class") != "contrast" or case.get("classes") != 1


def calls(case: Case) -> Iterator[Callable[[], Any]]:
    """Every launcher, with tensors that have no memory."""

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    batch, classes, grid = case["batch"], case["classes"], case["grid"]
    features = empty(batch, case["channels"], *grid, dtype=case["dtype"])
    features = arrange(features, case["layout"])
    weight_type = torch.float32 if case["weight_dtype"] == "float32" else features.dtype
    weight = empty(classes, case["channels"], dtype=weight_type)
    bias = empty(classes, dtype=weight_type) if case["bias"] else None
    index = empty(batch, dtype=torch.int64)
    wide = partial(empty, dtype=accumulation_dtype(features))
    cams, has_maps = wide(batch, *grid), case["maps"] != "no maps"
    of_mean = case["upstream"] == "of the mean"
    yield lambda: triton_focus_head.focus_head_forward(
        features,
        weight,
        bias,
        index,
        saliency=empty(batch, *grid, dtype=torch.float32) if has_maps else None,
        saliency_mask=empty(batch, dtype=torch.bool) if case["maps"] == "masked maps" else None,
        entropy_target=wide(batch) if case["entropy_target"] else None,
        class_weight=empty(classes, dtype=torch.float32) if case["class_weight"] else None,
        scalars=wide(5),
        level=case["level"],
        cam_class=case["cam_class"],
        reduction="mean" if of_mean else "none",
    )
    yield lambda: triton_focus_head.focus_head_backward(
        features,
        weight,
        index,
        wide(0),
        cams.flatten(1),
        wide(batch, classes),
        upstream=wide().expand(batch) if of_mean else wide(batch),
        cam_class=case["cam_class"],
        needs=case["needs"],
    )
    yield lambda: triton_cam_entropy.cam_entropy_forward(features, weight, index, wide())
    yield lambda: triton_cam_entropy.cam_entropy_backward(
        features, weight, index, wide(), cams, cams, wide(batch), case["needs"][:2]
    )
    count = case["activations"]
    several = empty(batch, count, dtype=torch.int64)
    if case["activations_of"] == "all":
        several = empty(count, dtype=torch.int64).expand(batch, -1)
    yield lambda: triton_cam_entropy.class_activation(features, weight, bias, several, wide())


def launches() -> list[tuple[str, Launch]]:
    """Each kernel once, with the first case that launches it; the planted ones before them."""
    found = {}
    for case in pairwise(FACTORS, allowed):
        for call in calls(case):
            for launch in capture(TARGET, call):
                found.setdefault((launch.source.hash(), str(launch.options)), (case, launch))
    faults = [("planted", fault) for fault in capture(TARGET, planted)]
    return [*faults, *((name_of(case), launch) for case, launch in found.values())]


def compiled(part: int) -> list[Variant]:
    """The ``part``-th of PROCESSES shares."""
    return [judged(case, launch) for case, launch in launches()[part::PROCESSES]]


def judged(case: str, launch: Launch) -> Variant:
    # For the log, where a compiler that aborts leaves nothing else.
    print(launch.name, case, flush=True)
    try:
        kernel = triton.compile(launch.source, target=TARGETS[TARGET], options=launch.options)
    # A RuntimeError comes from a pass. Any other kind ends this program, and fails the test.
    except (TritonError, RuntimeError) as error:
        return Variant(launch.name, case, f"{type(error).__name__}: {error}", 0)
    # Where it is asked for, it is in what the kernel is given.
    asked = "fp64" in str(launch.source.signature)
    promoted = not asked and re.search(r"\bf64\b|xf64\b", kernel.asm["ttir"])
    error = "computes in float64" if promoted else ""
    return Variant(launch.name, case, error, kernel.metadata.shared)


def main(folder: Path) -> None:
    os.nice(10)
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        variants = [v._asdict() for part in pool.map(compiled, range(PROCESSES)) for v in part]
    (folder / "variants.json").write_text(json.dumps(variants))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
