# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The machine code of the kernels, compiled without a GPU; says nothing about running on one."""

import math
import os
import re
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl
from triton import knobs

from bench import codegen

from .cases import HEAD, Case, name_of, pairwise, run_on_meta

READ_FEATURES = {
    "focus_head forward K 2: head",
    "focus_head forward K 16: head",
    "focus_head contrast forward K 2: head",
    "focus_head sum forward K 2: head",
    "cam_entropy forward: cams",
    "cam_entropy backward: cams_backward",
    "class_activation: cams",
}


@pytest.fixture(scope="module", autouse=True)
def compilers() -> None:
    if knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set, so nothing is compiled")
    try:
        tools = knobs.nvidia.cuobjdump.path, knobs.nvidia.nvdisasm.path
    except RuntimeError as error:
        pytest.skip(f"triton without its disassembler: {error}")
    assert all(map(os.access, tools, [os.X_OK] * 2))


@triton.jit
def _copy(x_ptr, dx_ptr, stride, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tile = tl.load(x_ptr + i * stride)
    tl.store(dx_ptr + i * stride, tile)


@triton.jit
def _count(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(out_ptr + i % 7, tl.load(x_ptr + i))


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


def test_planted_faults_are_found() -> None:
    flat, many = torch.empty(1 << 20, device="meta"), torch.empty(64, device="meta")

    def faults(kernel: Any, *arguments: Any, block: int = 2048, **options: Any) -> list[str]:
        call = partial(kernel[(1,)], *arguments, BLOCK=block, **options)
        (launch,) = codegen.capture("sm_80", call)
        return codegen.faults(codegen.inspect("sm_80", launch))

    assert faults(_copy, flat, flat, 1) == []
    assert faults(_copy, flat, flat, 2) == ["narrow F loads", "narrow dF stores"]
    # Specialised as the tensors are: one float off, 16 bytes would fault.
    assert faults(_copy, flat[1:], flat, 1) == ["narrow F loads"]
    assert "spills" in faults(_copy, flat, flat, 1, block=8192, num_warps=1)
    assert faults(_count, flat, many) == ["atomics"]


def assert_limits(*wanted: Any, paths: Sequence[str] | None = None) -> set[str]:
    """F is loaded and dF stored 16 bytes at a time; few spills, no local memory, no atomics."""
    table = list(codegen.rows(*wanted, paths=paths))
    for row in table:
        # Triton 3.6 takes up to 216 registers where 3.9 takes 128, and spills none either.
        oldest = triton.__version__.startswith("3.6")
        faults = [fault for fault in row.faults() if not (oldest and "registers" in fault)]
        assert faults == [], row
    return {row.kernel for row in table if codegen.FEATURES in row.code.widths}


def test_a_step_meets_the_limits() -> None:
    usual = ["sm_90"], [(7, 7)], ["channels_last"], ["bf16"]
    step = ["focus_head forward K 2", "focus_head backward K 2"]
    assert assert_limits(*usual, paths=step) == {"focus_head forward K 2: head"}


def test_tensor_cores_read_bfloat16_features() -> None:
    """Without them both readings of a tile take a warp 644 instructions, of 16 classes 2164."""
    for classes, limit in ((2, 220), (16, 600)):
        usual = ["sm_90"], [(7, 7)], ["channels_last"], ["bf16"]
        (row,) = codegen.rows(*usual, paths=[f"focus_head forward K {classes}"])
        first, second = row.code.loops[codegen.FEATURES]
        assert 100 < first + second < limit


def asynchronous_loops(ptx: str) -> int:
    """Return how many loops copy 16 bytes at a time, and wait for an older copy than the last."""
    lines = ptx.splitlines()
    labels = {line.partition(":")[0]: n for n, line in enumerate(lines) if line.startswith("$L")}
    count = 0
    for end, line in enumerate(lines):
        branch = re.search(r"\bbra(?:\.uni)?\s+(\$\w+);", line)
        start = labels.get(branch[1], end) if branch else end
        body = "\n".join(lines[start:end])
        copies = re.search(r"cp\.async\.cg\.shared\.global .*, 0x10\b", body)
        count += bool(copies and re.search(r"cp\.async\.wait_group\s+[1-9]", body))
    return count


@pytest.mark.parametrize(("layout", "grid"), [("channels_last", (7, 7)), ("nchw", (16, 16))])
def test_tiles_are_copied_while_others_are_summed(layout: str, grid: tuple[int, int]) -> None:
    """In both readings: a copy that the next tile waits for at once overlaps with nothing."""
    step = codegen.steps(torch.bfloat16, codegen.LAYOUTS[layout], grid)["focus_head forward K 2"]
    (launch,) = codegen.capture("sm_90", step)
    assert asynchronous_loops(codegen.compiled("sm_90", launch).asm["ptx"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "dtype", "layout", "grid"),
    [
        ("sm_80", "fp32", "channels_last", (10, 10)),
        ("gfx942", "bf16", "nchw", (8, 8)),
        ("sm_100", "bf16", "channels_last", (14, 14)),
    ],
)
def test_all_kernels_meet_the_limits(target: str, dtype: str, layout: str, grid: Any) -> None:
    assert assert_limits([target], [grid], [layout], [dtype]) == READ_FEATURES


def test_on_cdna_all_waves_wait_for_their_stores_before_the_barrier() -> None:
    """Only the wave of the atomic would; another's partial sums may then be on their way."""
    steps = codegen.steps(torch.bfloat16, torch.channels_last, (7, 7))
    for name, atomics in (("focus_head forward K 2", 2), ("cam_entropy backward", 1)):
        (launch,) = codegen.capture("gfx942", steps[name])
        listing = codegen.compiled("gfx942", launch).asm["amdgcn"]
        code = re.findall(r"^\s+((?:s_waitcnt|s_barrier|\w+_store|\w+_atomic).*)", listing, re.M)
        counts = [line_number for line_number, line in enumerate(code) if "atomic_add" in line]
        assert len(counts) == atomics
        for line_number in counts:
            barrier = max(i for i in range(line_number) if code[i].startswith("s_barrier"))
            before = [line for line in code[:barrier] if re.search(r"vmcnt\(0\)|_store_", line)]
            assert "vmcnt(0)" in before[-1], code[barrier - 4 : line_number + 1]


def test_an_entropy_is_rounded_before_its_target_is_subtracted() -> None:
    """Fused into the subtraction, the product would leave its rounding where nothing is left."""
    step = codegen.steps(torch.float32, torch.contiguous_format, (7, 7))["focus_head forward K 2"]
    (terms,) = codegen.capture("sm_90", step)
    text = codegen.compiled("sm_90", terms).asm["ptx"]
    # The instructions on 1 / log(HW), by which entropies are multiplied.
    factor = f"0f{struct.pack('>f', 1 / math.log(49)).hex().upper()}"
    moved = re.findall(rf"mov\.b32\s+(%r\d+), {factor};", text)
    used = re.compile(rf"(mul|fma|div|add|sub)\..*({'|'.join([factor, *moved])})[,;]")
    names = [match[1] for match in map(used.search, text.splitlines()) if match]
    assert "mul" in names
    assert "fma" not in names


# What the interpreter runs, a compiler may refuse: it has no types to agree on after a branch, and
# no layouts that a shuffle between threads must fit.

FACTORS = HEAD | {
    # Without a batch of 0, for which nothing is launched. Triton tells 1, multiples of 16 and the
    # rest apart; the further grids take other tiles or several blocks.
    "batch": (1, 3, 16, 128),
    "grid": ((1, 1), (7, 7), (8, 8), (10, 10), (5, 13), (16, 17), (32, 32)),
    "classes": (1, 2, 3, 5, 17, 1000),
}


def compiler_error(launch: codegen.Launch, target: str = "sm_90") -> str:
    """Return what the compiler says of a launch; "" if it is well."""
    try:
        kernel = codegen.compiled(target, launch)
    except (triton.errors.TritonError, RuntimeError) as error:  # the second is of a pass
        return f"{type(error).__name__}: {error}"
    if kernel.metadata.shared > codegen.MAX_SHARED:
        return "more shared memory than sm_86, sm_89 and sm_120 have"
    # Where it is asked for, it is in what the kernel is given.
    asked = "fp64" in str(launch.source.signature)
    promoted = not asked and re.search(r"\bf64\b|xf64\b", kernel.asm["ttir"])
    return "computes in float64" if promoted else ""


def test_a_compiler_says_what_the_interpreter_does_not() -> None:
    out = torch.empty(64, device="meta")
    (fault,) = codegen.capture("sm_90", lambda: _two_types[(1,)](out, 2, BLOCK=64))
    assert compiler_error(fault)
    (fault,) = codegen.capture("sm_90", lambda: _promoted[(1,)](out, BLOCK=64))
    assert compiler_error(fault) == "computes in float64"


@pytest.mark.slow
def test_the_variants_of_the_kernels_compile() -> None:
    def allowed(case: Case) -> bool:
        contrast_of_one = case.get("cam_class") == "contrast" and case.get("classes") == 1
        return not contrast_of_one and case.get("dtype") != torch.float64

    distinct_launches: dict[tuple[str, str], tuple[str, codegen.Launch]] = {}
    for case in pairwise(FACTORS, allowed):
        for launch in codegen.capture("sm_90", partial(run_on_meta, case, "triton")):
            key = launch.source.hash(), str(launch.options)
            distinct_launches.setdefault(key, (name_of(case), launch))
    kernels = {launch.name for _, launch in distinct_launches.values()}
    assert kernels == {"head", "head_backward", "cams", "cams_backward"}
    variants = list(distinct_launches.values())[:: max(1, len(distinct_launches) // 16)]
    errors = {(launch.name, case): compiler_error(launch) for case, launch in variants}
    assert {name: error for name, error in errors.items() if error} == {}
