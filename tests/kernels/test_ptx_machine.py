"""The machine for PTX: hand-worked numbers of its instructions, and the faults that it finds."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from bench.emulated_gpu import region
from bench.ptx import Array, Block, Fault, GlobalMemory
from bench.ptx_instructions import parse

THREADS = 64
LANES = np.arange(THREADS, dtype=np.uint32)
COPY = "cp.async.ca.shared.global [ %r2 + 0 ], [ %rd1 + 0 ], 0x4; cp.async.commit_group;"


def machine(instructions: str, *tensors: torch.Tensor, **registers: Array) -> Block:
    """64 threads with such values in registers run the instructions; then the block."""
    program = parse(f".reqntid {THREADS}\n{{\n{instructions}\nret;\n}}\n")
    memory = GlobalMemory([region(tensor) for tensor in tensors])
    block = Block(program, {}, memory, shared=1024, place=(0, 0, 0), grid=(1, 1, 1))
    for name, value in registers.items():
        block.write(f"%{name}", value, None)
    with np.errstate(all="ignore"):
        block.run()
    return block


def result(instructions: str, name: str = "r9", **registers: Array) -> Array:
    return machine(instructions, **registers).registers[f"%{name}"]


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        # Of a = -7 and b = 3, in 32 bits.
        ("add.s32 %r9, %r1, %r2", -4),
        ("div.s32 %r9, %r1, %r2", -2),
        ("rem.s32 %r9, %r1, %r2", -1),
        ("min.s32 %r9, %r1, %r2", -7),
        ("min.u32 %r9, %r1, %r2", 3),
        ("shr.s32 %r9, %r1, 1", -4),
        ("shr.u32 %r9, %r1, 1", 2**31 - 4),
        ("shr.u32 %r9, %r1, 32", 0),
        ("shr.s32 %r9, %r1, 40", -1),
        ("shl.b32 %r9, %r2, 33", 0),
        ("mul.lo.s32 %r9, %r1, %r2", -21),
        ("mul.hi.u32 %r9, %r1, %r2", 2),
        ("mul.hi.s32 %r9, %r1, %r2", -1),
        ("mad.lo.s32 %r9, %r1, %r2, 1", -20),
        ("bfe.u32 %r9, %r1, 4, 8", 0xFF),
        ("bfe.s32 %r9, %r1, 0, 3", 1),
        ("bfe.s32 %r9, %r1, 1, 3", -4),
        ("popc.b32 %r9, %r1", 30),
        ("prmt.b32 %r9, %r1, %r2, 0x7104", 0x00FFF903),
        ("prmt.b32 %r9, %r1, %r2, 0xC888", 0x00FFFFFF),
        ("min.s32 %r9, %r2, 5, %r1", -7),
        ("neg.s32 %r9, %r1", 7),
        ("abs.s32 %r9, %r1", 7),
        ("not.b32 %r9, %r1", 6),
    ],
)
def test_integers(instruction: str, expected: int) -> None:
    a, b = np.full(1, -7, np.int32), np.full(1, 3, np.int32)
    assert result(instruction + ";", r1=a, r2=b)[0] == expected % 2**32


def test_wide_products() -> None:
    a = np.full(1, -7, np.int32)
    assert result("mul.wide.s32 %rd9, %r1, 3;", "rd9", r1=a)[0] == -21 % 2**64
    assert result("mul.wide.u32 %rd9, %r1, 3;", "rd9", r1=a)[0] == (2**32 - 7) * 3
    assert result("mad.wide.s32 %rd9, %r1, 3, %rd1;", "rd9", r1=a, rd1=LANES)[5] == -16 % 2**64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_conversions_of_16_bits_round_as_torch(dtype: torch.dtype) -> None:
    bits = torch.arange(THREADS, dtype=torch.int64) * 67108859 - 2**31  # All over float32.
    values = bits.int().view(torch.float32)
    values[:4] = torch.tensor([math.inf, -math.inf, math.nan, 65519.99])
    name = {torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    code = f"cvt.rn.{name}.f32 %rs1, %r1; cvt.f32.{name} %r9, %rs1;"
    code += f"cvt.rn.{name}x2.f32 %r2, %r1, 0f3F800000; mov.b32 {{%rs2, %rs3}}, %r2;"
    block = machine(code, r1=values.numpy())
    expected = values.to(dtype)
    there, low, high = (block.registers[f"%{n}"] for n in ("r9", "rs2", "rs3"))
    np.testing.assert_array_equal(there.view(np.float32), expected.float().numpy())
    known = ~expected.isnan().numpy()
    stored = expected.view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(high[known], stored[known])
    assert (low == torch.ones(1, dtype=dtype).view(torch.int16).item()).all()


def test_fused_products_are_rounded_once() -> None:
    draw = np.random.default_rng(0)
    for dtype, name, register in ((np.float32, "f32", "r"), (np.float64, "f64", "rd")):
        a, b = draw.standard_normal((2, THREADS)).astype(dtype)
        c = -(a * b)  # What is left is what the product's rounding lost.
        code = f"fma.rn.{name} %{register}9, %{register}1, %{register}2, %{register}3;"
        given = {f"{register}{n}": x for n, x in enumerate((a, b, c), 1)}
        found = result(code, f"{register}9", **given).view(dtype)
        for n in range(THREADS):
            x, y, z = (Fraction(*float(v[n]).as_integer_ratio()) for v in (a, b, c))
            assert found[n] == dtype(float(x * y + z))
        assert (found != 0).any()


def test_floats_to_integers_stop_at_the_ends() -> None:
    values = np.array([3e9, -3e9, -1.9, np.nan] * 16, np.float32)
    signed = result("cvt.rzi.s32.f32 %r9, %r1;", r1=values).view(np.int32)
    assert list(signed[:4]) == [2**31 - 1, -(2**31), -1, 0]
    assert list(result("cvt.rzi.u32.f32 %r9, %r1;", r1=values)[:3]) == [3 * 10**9, 0, 0]


def test_a_reciprocal_of_64_bits_has_the_upper_half_of_them() -> None:
    """1 / 3 is 0x3FD5555555555555."""
    code = "mov.b64 %rd1, 0d4008000000000000; rcp.approx.ftz.f64 %rd9, %rd1;"
    assert result(code, "rd9")[0] == 0x3FD5555500000000


def test_there_is_one_nan_of_32_bits() -> None:
    """Threads that hold the same sum, of operands in another order, hold the same bits."""
    a, b = (np.full(1, bits, np.uint32) for bits in (0x7FC00001, 0xFFC00002))
    for code in ("add.f32 %r9, %r1, %r2;", "add.f32 %r9, %r2, %r1;", "mul.f32 %r9, %r2, %r1;"):
        assert (result(code, r1=a, r2=b).view(np.uint32) == 0x7FFFFFFF).all()


def test_two_numbers_in_a_register() -> None:
    pair = np.array([1.5, -2.0], np.float32).view(np.uint64)
    found = result("fma.rn.f32x2 %rd9, %rd1, %rd1, %rd1;", "rd9", rd1=pair)[:1].view(np.float32)
    assert list(found) == [3.75, 2.0]
    half = np.array([1.5, -2.0], np.float16).view(np.uint32)
    found = result("mul.rn.f16x2 %r9, %r1, %r1;", r1=half)[:1].view(np.float16)
    assert list(found) == [2.25, 4.0]


def test_numbers_of_two_types() -> None:
    half, quarter = np.full(1, 0x3F00, np.uint16), np.full(1, 0.25, np.float32)
    found = result("add.rn.f32.bf16 %r9, %rs1, %r1;", rs1=half, r1=quarter)
    assert found.view(np.float32)[0] == 0.75
    found = result("fma.rn.f32.bf16 %r9, %rs1, %rs1, %r1;", rs1=half, r1=quarter)
    assert found.view(np.float32)[0] == 0.5


def test_comparisons_know_nan() -> None:
    a = np.where(LANES < 8, np.nan, 1).astype(np.float32)
    one = np.ones(1, np.float32)
    for name, expected in (("lt", False), ("ltu", True), ("ne", False), ("neu", True)):
        code = f"setp.{name}.f32 %p1, %r1, %r2; selp.b32 %r9, 1, 0, %p1;"
        found = result(code, r1=a, r2=one)
        assert (found[:8] == expected).all()
        assert (found[8:] == 0).all()
    assert (result("max.f32 %r9, %r1, %r2;", r1=a, r2=one).view(np.float32) == 1).all()
    half = np.where(LANES < 8, 0x7FC0, 0x3F80).astype(np.uint16)
    found = result("setp.nan.bf16 %p1, %rs1, %rs1; selp.b32 %r9, 1, 0, %p1;", rs1=half)
    assert (found == (LANES < 8)).all()
    assert np.isnan(result("max.NaN.f32 %r9, %r1, %r2;", r1=a, r2=one).view(np.float32)[:8]).all()


def test_subnormal_numbers_are_flushed_where_the_code_says_so() -> None:
    tiny = np.full(1, 1e-40, np.float32)
    assert result("add.f32 %r9, %r1, %r1;", r1=tiny).view(np.float32)[0] == 2 * tiny[0]
    assert result("add.ftz.f32 %r9, %r1, %r1;", r1=tiny)[0] == 0


def test_shuffles_stay_within_a_warp() -> None:
    assert (result("shfl.sync.bfly.b32 %r9, %r1, 5, 31, -1;", r1=LANES) == (LANES ^ 5)).all()
    of_third = result("shfl.sync.idx.b32 %r9, %r1, 3, 31, -1;", r1=LANES)
    assert (of_third == LANES // 32 * 32 + 3).all()
    total = result("redux.sync.add.s32 %r9, %r1, -1;", r1=LANES)
    assert list(total[[0, 31, 32]]) == [496, 496, 1520]


def test_extremes_of_a_warp_drop_nan_but_where_it_is_asked_for() -> None:
    values = np.where(LANES == 7, np.nan, LANES).astype(np.float32)
    found = result("redux.sync.max.f32 %r9, %r1, -1;", r1=values).view(np.float32)
    assert list(found[[0, 63]]) == [31, 63]
    found = result("redux.sync.max.NaN.f32 %r9, %r1, -1;", r1=values).view(np.float32)
    assert np.isnan(found[0])
    assert found[63] == 63


@pytest.mark.parametrize(
    ("code", "passes", "least"),
    [
        # Of two warps: words side by side, one word for all, a word of each second bank.
        ("ld.shared.b32 %r9, [%r2];", 2, 2),
        ("ld.shared.b32 %r9, [%r0];", 2, 2),
        ("shl.b32 %r3, %r2, 1; ld.shared.b32 %r9, [%r3];", 4, 2),
        # 2 bytes of cells that are 32 bytes apart: each eighth bank, of four.
        ("shl.b32 %r3, %r2, 3; and.b32 %r3, %r3, 1023; ld.shared.b16 %rs9, [%r3];", 16, 2),
        # A warp's vectors of 16 bytes go in four quarters, of 8 bytes in two halves.
        ("shl.b32 %r3, %r2, 2; ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%r3];", 8, 8),
        ("shl.b32 %r3, %r2, 1; ld.shared.b64 %rd9, [%r3];", 4, 4),
        ("shl.b32 %r3, %r2, 1; @%p1 ld.shared.b64 %rd9, [%r3];", 4, 4),
        (f"{COPY}", 2, 2),
    ],
)
def test_passes_over_the_banks(code: str, passes: int, least: int) -> None:
    values = torch.zeros(THREADS, dtype=torch.int32)
    address = values.data_ptr() + LANES.astype(np.uint64) * 4
    given = {"r0": np.zeros(1, np.uint32), "r2": LANES * 4, "rd1": address, "p1": LANES % 2 == 1}
    shared = machine(code, values, **given).shared
    assert (shared.passes, shared.least_passes) == (passes, least)


def test_threads_agree_on_a_place() -> None:
    zero = np.zeros(1, np.uint32)
    assert machine("st.shared.b32 [%r1], 7;", r1=zero).shared.passes == 2
    with pytest.raises(Fault, match="threads write different values to one place of shared memory"):
        machine("st.shared.b32 [%r1], %r2;", r1=zero, r2=LANES // 32)


def test_threads_go_apart_and_come_together() -> None:
    code = """
    mov.u32 %r1, %tid.x;
    mov.b32 %r9, 0;
    setp.lt.u32 %p1, %r1, 40;
    @%p1 bra $FEW;
    add.s32 %r9, %r9, 100;
    bra $END;
    $FEW:
    add.s32 %r9, %r9, 1;
    setp.lt.u32 %p2, %r9, %r1;
    @%p2 bra $FEW;
    $END:
    add.s32 %r9, %r9, 1000;
    bar.sync 0;
    setp.ne.u32 %p3, %r1, 5;
    @%p3 ret;
    mov.b32 %r9, 7;
    """
    expected = np.where(LANES < 40, np.maximum(LANES, 1), 100) + 1000
    expected[5] = 7
    np.testing.assert_array_equal(result(code), expected)


def test_a_guard_is_for_those_threads_alone_that_are_there() -> None:
    code = """
    mov.b32 %r9, 0;
    @%p1 bra $FEW;
    bra $END;
    $FEW:
    @%p2 mov.b32 %r9, 1;
    $END:
    """
    found = result(code, p1=LANES < 8, p2=LANES >= 4)
    np.testing.assert_array_equal(found, (LANES >= 4) & (LANES < 8))


def test_a_predicate_is_false_where_a_guard_left_it_out() -> None:
    code = "@%p1 setp.eq.u32 %p2, %r1, %r1; selp.b32 %r9, 1, 0, %p2;"
    np.testing.assert_array_equal(result(code, p1=LANES < 8, r1=LANES), LANES < 8)


def test_instructions_of_each_path_count() -> None:
    """One that 40 of the threads jump over counts, since the others execute it."""
    code = "mov.b32 %r9, 0;\n@%p1 bra $END;\nmov.b32 %r9, 1;\n$END:\nmov.b32 %r9, 2;"
    assert machine(code, p1=LANES < 40).executed == 5
    assert machine(code, p1=LANES < 0).executed == 5
    assert machine(code, p1=LANES < 64).executed == 4


@pytest.mark.parametrize("transposed", ["", ".trans"])
def test_matrices_lie_as_the_manual_has_them(transposed: str) -> None:
    """A lane has a row of 8; of matrix row t / 4, lane t gets the elements 2 (t mod 4) on."""
    code = f"""
    mov.u32 %r1, %tid.x;
    shl.b32 %r2, %r1, 4;
    st.shared.v4.b32 [%r2], {{%r3, %r4, %r5, %r6}};
    bar.sync 0;
    ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 {{%r11, %r12, %r13, %r14}}, [%r2];
    bar.sync 0;
    stmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 [%r2], {{%r11, %r12, %r13, %r14}};
    ld.shared.v4.b32 {{%r21, %r22, %r23, %r24}}, [%r2];
    """
    rows = np.arange(THREADS * 8, dtype=np.uint16).reshape(THREADS, 4, 2).view(np.uint32)[:, :, 0]
    block = machine(code, **{f"r{n + 3}": rows[:, n] for n in range(4)})
    row, column = LANES % 32 // 4, 2 * (LANES % 4)
    for n in range(4):
        matrix = LANES // 32 * 256 + n * 64
        first = matrix + (column * 8 + row if transposed else row * 8 + column)
        second = first + (8 if transposed else 1)
        np.testing.assert_array_equal(block.registers[f"%r1{n + 1}"], first | second << 16)
        np.testing.assert_array_equal(block.registers[f"%r2{n + 1}"], rows[:, n])


READ_OF_OTHERS = "xor.b32 %r3, %r2, 128; ld.shared.b32 %r9, [%r3];"
FAULTS = {
    "a read of what another warp wrote": f"""
        st.shared.b32 [%r2], %r1;
        NEEDED bar.sync 0;
        {READ_OF_OTHERS}
    """,
    "a write over what another warp reads": f"""
        st.shared.b32 [%r2], %r1;
        bar.sync 0;
        {READ_OF_OTHERS}
        NEEDED bar.sync 0;
        st.shared.b32 [%r2], %r1;
    """,
    "a copy over what another warp reads": f"""
        st.shared.b32 [%r2], %r1;
        bar.sync 0;
        {READ_OF_OTHERS}
        NEEDED bar.sync 0;
        {COPY}
    """,
    "a copy of another warp that none but it waited for": f"""
        {COPY}
        cp.async.wait_group 0;
        NEEDED bar.sync 0;
        {READ_OF_OTHERS}
    """,
    "a copy that is not waited for": f"""
        {COPY}
        NEEDED cp.async.wait_group 0;
        ld.shared.b32 %r9, [%r2];
    """,
    "the last but one of the copies is waited for": f"""
        cp.async.commit_group;
        {COPY}
        cp.async.wait_group 1;
        NEEDED cp.async.wait_group 0;
        ld.shared.b32 %r9, [%r2];
    """,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_races_and_unfinished_copies_are_found(fault: str) -> None:
    values = torch.arange(THREADS, dtype=torch.int32) + 7
    start = "mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; cvt.u64.u32 %rd2, %r2;"
    start += "add.s64 %rd1, %rd1, %rd2;\n"
    address = np.full(1, values.data_ptr(), np.uint64)
    sound = machine(start + FAULTS[fault].replace("NEEDED ", ""), values, rd1=address)
    written = LANES + 7 if COPY in FAULTS[fault].split("ld.shared")[0] else LANES
    np.testing.assert_array_equal(
        sound.registers["%r9"], written[LANES ^ 32] if "another" in fault else written
    )
    with pytest.raises(Fault, match=r"barrier between|waited for"):
        machine(start + re.sub("NEEDED.*", "", FAULTS[fault]), values, rd1=address)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("st.shared.b32 [%r2], %r1; ld.shared.b32 %r9, [%r3];", "reads shared memory that an"),
        ("st.shared.b32 [%r2], %r1; st.shared.b32 [%r3], %r1;", "writes shared memory that an"),
        ("ld.shared.b32 %r9, [%r2]; st.shared.b32 [%r3], %r1;", "writes shared memory that an"),
        (f"@%p1 {COPY} ld.shared.b32 %r9, [%r2];", "read before the asynchronous copy"),
        (f"@%p1 {COPY} st.shared.b32 [%r2], %r1;", "while an asynchronous copy writes"),
        (f"@%p1 {COPY} {COPY}", "begins while another"),
    ],
)
def test_one_thread_of_many_is_enough_for_a_race(code: str, words: str) -> None:
    values = torch.zeros(THREADS, dtype=torch.int32)
    # One of the second warp takes the place of one of the first, which goes out of its way.
    places = LANES * 4
    places[40], places[8] = 8 * 4, 800
    address = values.data_ptr() + LANES.astype(np.uint64) * 4
    given = {"r1": LANES, "r2": LANES * 4, "r3": places, "rd1": address, "p1": LANES == 40}
    with pytest.raises(Fault, match=words):
        machine(code, values, **given)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ld.global.b32 %r9, [%rd1+256];", "outside of every tensor"),
        ("ld.global.b32 %r9, [%rd1+-4];", "outside of every tensor"),
        ("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd1+8];", "not aligned"),
        ("st.global.b32 [%rd1+2], %r1;", "not aligned"),
        ("ld.shared.b64 %rd9, [%r1+4];", "not aligned"),
        ("ld.shared.b32 %r9, [%r1+1024];", "1024 bytes is accessed at"),
        ("ld.shared.b32 %r9, [%r1+-4];", "1024 bytes is accessed at -4"),
        ("st.global.b32 [%rd1], %r5;", "different values to one place"),
        (f"{COPY} {COPY}", "begins while another"),
        ("bar.sync 1, 32;", "of a part of the threads"),
        ("setp.lt.u32 %p1, %r5, 9; @%p1 cp.async.commit_group;", "committed or waited for"),
        ("shfl.sync.bfly.b32 %r9, %r1, 1, 31, 1;", "part of a warp"),
        ("shfl.sync.bfly.b32 %r9|%p1, %r1, 1, 31, -1;", "second result"),
        ("ld.b32 %r9, [%r1];", "any kind of memory"),
        ("setp.lt.u32 %p1, %r5, 9; @%p1 bra $E; bar.sync 0;\n$E:", "by a part of the threads"),
        ("tanh.approx.f32 %r9, %r1;", "no such instruction"),
        ("bfe.u64 %rd9, %rd1, 4, 8;", "field of 64 bits is not modelled"),
        ("bfe.s32 %r9, %r1, 30, 3;", "field beyond the register"),
        ("cvt.rn.e4m3x2.f32 %r9, %r1;", "no such instruction"),
        ("selp.b32 %r9, 1, 0, %p7;", "never written"),
    ],
)
def test_what_is_wrong_is_said(code: str, words: str) -> None:
    values = torch.zeros(64, dtype=torch.int32)
    address = np.full(1, values.data_ptr(), np.uint64)
    with pytest.raises(Fault, match=words):
        machine(code, values, rd1=address, r1=np.zeros(1, np.uint32), r2=LANES * 4, r5=LANES)
