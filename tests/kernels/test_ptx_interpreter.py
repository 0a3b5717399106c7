"""The interpreter of PTX: its arithmetic against exact fractions, and what it finds in PTX in
which a fault was planted."""

import itertools
import struct
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from bench.ptx import arithmetic
from bench.ptx.errors import Fault, UnknownInstruction
from bench.ptx.machine import ORDERS, Machine
from bench.ptx.memory import BUFFER_BITS, Buffer
from bench.ptx.program import Program

NUMBERS = [0.0, 1.0, -1.0, 3.0, 1 + 2**-23, 1 - 2**-24, 2**-149, 2**-126, 1e-30, -7e15, 1 / 3]


def nearest(exact: Fraction, digits: int) -> Fraction:
    """Return the nearest number with so many binary digits, of two the even one, as float32 or
    bfloat16 has them above 2^-126, and with a fixed last digit below."""
    if not exact:
        return exact
    power = -126
    while abs(exact) >= Fraction(2) ** (power + 1):
        power += 1
    last_digit = Fraction(2) ** (power - digits + 1)
    return round(exact / last_digit) * last_digit


def triples() -> np.ndarray:
    draw = np.random.default_rng(0)
    drawn = draw.standard_normal((300, 3)) * 2.0 ** draw.integers(-40, 40, (300, 3))
    drawn[:100, 2] = -drawn[:100, 0] * drawn[:100, 1] * (1 + draw.standard_normal(100) * 2**-24)
    return np.concatenate([np.array(list(itertools.product(NUMBERS, repeat=3))), drawn])


def test_a_fused_product_and_sum_are_rounded_once() -> None:
    a, b, c = triples().astype("f4").T
    computed = arithmetic.fma(a, b, c)
    for x, y, z, result in zip(a, b, c, computed, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        assert Fraction(float(result)) == nearest(exact, 24), (x, y, z)


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    values = np.array([*triples().flat, 1 + 2**-8, 1 + 3 * 2**-8, 3e38], "f4")
    back = arithmetic.from_bf16(arithmetic.to_bf16(values))
    for value, result in zip(values, back, strict=True):
        assert Fraction(float(result)) == nearest(Fraction(float(value)), 8), value
    assert np.isnan(arithmetic.from_bf16(arithmetic.to_bf16(np.array([np.nan], "f4"))))


def test_the_smaller_of_two_numbers_is_never_nan_and_minus_0_is_below_0() -> None:
    nan, zero = np.float32(np.nan), np.float32(0)
    assert arithmetic.fmax(nan, np.float32(2)) == arithmetic.fmin(np.float32(2), nan) == 2
    assert np.signbit(arithmetic.fmin(zero, -zero))
    assert not np.signbit(arithmetic.fmax(-zero, zero))
    assert arithmetic.flush(np.float32(-(2.0**-130))) == 0


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8"])
def test_integers_are_divided_towards_0(dtype: str) -> None:
    numbers = np.array([-7, -1, 1, 7, 100, 2**31 - 1]).astype(dtype)
    a, b = (x.ravel() for x in np.meshgrid(numbers, numbers))
    quotient, rest = arithmetic.divide(a, b), arithmetic.remainder(a, b)
    for x, y, q, r in zip(a.tolist(), b.tolist(), quotient.tolist(), rest.tolist(), strict=True):
        assert q == int(Fraction(x, y)), (x, y)
        assert r == x - q * y


def test_bits_are_moved() -> None:
    ones = np.array([0x80F01234], "u4")
    by = np.array([33], "u4")
    assert arithmetic.shift("shr", ones.view("i4"), by, "i4") == -1
    assert arithmetic.shift("shl", ones, by, "u4") == 0
    assert arithmetic.shift("shr", ones, np.array([4], "u4"), "u4") == 0x080F0123
    assert arithmetic.bit_field(ones, np.uint32(20), np.uint32(4), "u4") == 0xF
    assert arithmetic.bit_field(ones.view("i4"), np.uint32(20), np.uint32(4), "i4") == -1
    # Byte 7 is b's highest; with 8 added, a byte of the sign of byte 3.
    selected = arithmetic.permute(ones, np.array([0x55667788], "u4"), np.uint32(0xB470))
    assert selected == 0xFF885534


KERNEL = """
.visible .entry planted(
	.param .u64 .ptr .global .align 1 planted_param_0,
	.param .u64 .ptr .global .align 1 planted_param_1
)
.reqntid 64
{{
	.reg .b32 	%r<99>;
	mov.u32 	%r1, %tid.x;
	mov.u32 	%r2, %ctaid.x;
	ld.param.b64 	%rd1, [planted_param_0];
	ld.param.b64 	%rd2, [planted_param_1];
	mad.lo.s32 	%r3, %r2, 64, %r1;
	mul.wide.u32 	%rd9, %r3, 4;
	add.s64 	%rd3, %rd1, %rd9;
	add.s64 	%rd4, %rd2, %rd9;
	shl.b32 	%r4, %r1, 2;
	mov.b32 	%r5, global_smem;
	add.s32 	%r6, %r5, %r4;
	xor.b32 	%r7, %r6, 128;
	setp.eq.b32 	%p1, %r1, 0;
	setp.eq.b32 	%p2, %r2, 0;
	setp.lt.u32 	%p3, %r1, 32;
{body}
	ret;
}}
"""
"""%r1 tid, %r2 CTA, %rd3 and %rd4 the thread's element of input and output, %r6 its place in shared
memory and %r7 that of a thread of the other warp; %p1 thread 0, %p2 CTA 0, %p3 warp 0."""
READ_INPUT = "ld.global.b32 { %r10 }, [ %rd3 + 0 ];"
WRITE = "st.global.b32 [ %rd4 + 0 ], { %r10 };"


def execute(body: str, order: str = "lockstep", ctas: int = 2, seed: int = 0) -> Machine:
    """Execute a kernel of 64 threads, whose input are the threads' numbers in the launch."""
    program = Program(KERNEL.format(body=body), fine=order != "lockstep")
    count = ctas * 64
    numbers = np.arange(count, dtype="u4").view("u1")
    result = np.zeros(4 * count + 256, "u1")
    buffers = [
        Buffer("input", numbers, size=4 * count, constant=True),
        Buffer("output", result, size=4 * count, fresh=True),
    ]
    arguments = [struct.pack("<Q", number << BUFFER_BITS) for number in (1, 2)]
    machine = Machine(
        program, arguments, buffers, grid=ctas, threads=64, shared=256, order=ORDERS[order],
        seed=seed,
    )  # fmt: skip
    machine.run()
    return machine


def output(machine: Machine) -> list[int]:
    buffer = machine.buffers[1]
    values: list[int] = buffer.bytes[: buffer.size].view("u4").tolist()
    return values


@pytest.mark.parametrize("order", ORDERS)
def test_threads_that_part_meet_again(order: str) -> None:
    body = f"""{READ_INPUT}
        and.b32 %r11, %r10, 1;
        setp.eq.b32 %p4, %r11, 0;
        @%p4 bra $L__BB0_2;
        mul.lo.s32 %r10, %r10, 3;
        bra.uni $L__BB0_3;
    $L__BB0_2:
        add.s32 %r10, %r10, 1000;
    $L__BB0_3:
        add.s32 %r10, %r10, 1;
        {WRITE}"""
    machine = execute(body, order)
    assert output(machine) == [3 * n + 1 if n % 2 else n + 1001 for n in range(128)]
    assert not machine.faults


@pytest.mark.parametrize("order", ["lockstep", "warps"])
@pytest.mark.parametrize("barrier", [True, False])
def test_warps_race_in_shared_memory_without_a_barrier(barrier: bool, order: str) -> None:
    body = f"""{READ_INPUT}
        st.shared.b32 [ %r6 + 0 ], %r10;
        {"bar.sync 0;" if barrier else ""}
        ld.shared.b32 %r10, [%r7];
        {WRITE}"""
    faults = str(execute(body, order).faults)
    assert ("a race: read without a barrier" in faults) is not barrier


@pytest.mark.parametrize("barrier", [True, False])
def test_a_store_after_another_warps_read_is_a_race(barrier: bool) -> None:
    body = f"""{READ_INPUT}
        st.shared.b32 [ %r6 + 0 ], %r10;
        bar.sync 0;
        ld.shared.b32 %r11, [%r7];
        {"bar.sync 0;" if barrier else ""}
        st.shared.b32 [ %r6 + 0 ], %r1;"""
    # Each stores what was there already in CTA 0, which is no race.
    faults = str(execute(body).faults)
    assert ("a race: stored without a barrier" in faults) is not barrier


COPY = "cp.async.ca.shared.global [ %r6 + 0 ], [ %rd3 + 0 ], 0x4;\ncp.async.commit_group;\n"


@pytest.mark.parametrize(
    ("wait", "fault"),
    [
        ("cp.async.wait_group 0;\nbar.sync 0;", ""),
        ("cp.async.wait_group 1;\nbar.sync 0;", "while a copy to it is under way"),
        ("bar.sync 0;", "while a copy to it is under way"),
        ("cp.async.wait_group 0;", "a race: read without a barrier"),
    ],
)
def test_a_copy_is_waited_for_by_each_thread_and_then_by_all(wait: str, fault: str) -> None:
    machine = execute(f"{COPY}{wait}\nld.shared.b32 %r10, [%r7];\n{WRITE}")
    assert fault in str(machine.faults)
    assert bool(fault) is bool(machine.faults)
    if not fault:
        assert output(machine) == [n ^ 32 for n in range(128)]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("ld.global.b32 { %r10 }, [ %rd3 + 512 ];", "outside of input: bytes .* of 512"),
        ("ld.global.b32 { %r10 }, [ %rd3 + 2 ];", "a misaligned access"),
        ("st.global.b32 [ %rd3 + 0 ], { %r1 };", "a store to the input"),
        ("ld.shared.b32 %r10, [%r6+256];", "outside of shared memory: bytes .* of 256"),
        ("ld.global.b32 { %r10 }, [ %rd9 + 0 ];", "outside of every tensor"),
        ("@%p3 bra $L__BB0_9;\nbar.sync 0;\n$L__BB0_9:\nret;", ""),
        ("@%p1 bra $L__BB0_9;\nbar.sync 0;\n$L__BB0_9:", "not all threads of a warp are there"),
        ("@%p3 bra $L__BB0_9;\nbar.sync 0;\nbra $L__BB0_8;\n$L__BB0_9:\nbar.sync 0;\n$L__BB0_8:",
         "wait at different barriers"),
        ("and.b32 %r11, %r1, 7;\ndiv.s32 %r10, %r1, %r11;", "an integer is divided by 0"),
        ("@%p1 bra $L__BB0_9;\nshfl.sync.bfly.b32 %r10, %r1, 1, 31, -1;\n$L__BB0_9:",
         "not all threads of a warp are there"),
    ],
)  # fmt: skip
def test_what_cannot_go_on_ends_the_launch(body: str, fault: str) -> None:
    if not fault:
        execute(body, "warps")
        return
    with pytest.raises(Fault, match=fault):
        execute(body, "warps")


@pytest.mark.parametrize("order", ["lockstep", "warps"])
@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("ld.global.b32 { %r10 }, [ %rd4 + 0 ];", "output is read where nobody has written"),
        ("ld.shared.b32 %r10, [%r6];", "shared memory is read that nobody has written"),
        ("st.global.b32 [ %rd2 + 0 ], { %r1 };", "store different bits to one place of output"),
        ("st.shared.b32 [ global_smem + 0 ], %r1;", "bits to one place of shared memory"),
    ],
)  # fmt: skip
def test_what_may_not_be_done_is_reported(body: str, fault: str, order: str) -> None:
    assert fault in str(execute(body, order).faults)


@pytest.mark.parametrize("order", ["forward", "ctas", "warps"])
def test_two_ctas_that_store_different_bits_to_one_place_are_reported(order: str) -> None:
    body = "@%p1 st.global.b32 [ %rd2 + 0 ], { %r2 };"
    assert "output is stored twice, with other bits" in str(execute(body, order).faults)


def test_a_warp_that_reads_anothers_store_to_a_tensor_needs_a_barrier() -> None:
    body = f"""{READ_INPUT}
        {WRITE}
        bar.sync 0;
        xor.b32 %r11, %r3, 32;
        mul.wide.u32 %rd9, %r11, 4;
        add.s64 %rd5, %rd2, %rd9;
        ld.global.b32 {{ %r12 }}, [ %rd5 + 0 ];"""
    assert not execute(body, "warps").faults
    without = body.replace("bar.sync 0;", "")
    races = [execute(without, "warps", seed=seed).faults for seed in range(4)]
    assert any("a race: output is read without a barrier" in str(faults) for faults in races)


# CTA 0 sends: it stores 7, then counts up a flag. CTA 1 waits for the flag, then reads.
MESSAGE = """
    mov.b32 %r20, 1;
    mov.b32 %r21, 0;
    mov.b32 %r22, 7;
    @%p2 bra $L__BB0_5;
$L__BB0_3:
    {acquire}
    bar.sync 0;
    @%p1 st.shared.b32 [ %r5 + 0 ], %r23;
    bar.sync 0;
    ld.shared.b32 %r24, [%r5];
    bar.sync 0;
    setp.eq.b32 %p5, %r24, 0;
    @%p5 bra $L__BB0_3;
    {after}
    ld.global.b32 {{ %r25 }}, [ %rd2 + 0 ];
    bra.uni $L__BB0_9;
$L__BB0_5:
    @%p3 bra $L__BB0_6;
    st.global.b32 [ %rd2 + 0 ], {{ %r22 }};
$L__BB0_6:
    {between}
    {release}
$L__BB0_9:
"""
FLAG = "@%p1 atom.global.gpu.{order}.add.u32 %r23, [ %rd2 + {at} ], {number};"


def send(
    release: str, acquire: str, between: str = "bar.sync 0;", after: str = "", second: str = ""
) -> str:
    """Return the faults of a message with these orders of the flag, in some orders of CTAs."""
    body = MESSAGE.format(
        release=FLAG.format(order=release, at=128, number="%r20"),
        acquire=FLAG.format(order=acquire, at=128, number="%r21"),
        between=between, after=after + second,
    )  # fmt: skip
    with_flag = "@%p2 bra $L__BB0_1;\n$L__BB0_1:\n" + body
    faults = []
    for order, seed in itertools.product(("ctas", "warps"), range(3)):
        faults.append(str(dict(execute_with_flag(with_flag, order, seed).faults)))
    return " ".join(faults)


def execute_with_flag(body: str, order: str, seed: int) -> Machine:
    """Execute with an output of 0, whose element 32 is the flag."""
    program = Program(KERNEL.format(body=body), fine=True)
    buffers = [
        Buffer("input", np.zeros(512, "u1"), size=512, constant=True),
        Buffer("output", np.zeros(512, "u1"), size=512),
    ]
    buffers[1].initialized[:128] = False
    arguments = [struct.pack("<Q", number << BUFFER_BITS) for number in (1, 2)]
    machine = Machine(
        program, arguments, buffers, grid=2, threads=64, shared=256, order=ORDERS[order], seed=seed
    )
    machine.run()
    return machine


@pytest.mark.parametrize("release", ["relaxed", "acquire", "release", "acq_rel"])
@pytest.mark.parametrize("acquire", ["relaxed", "acquire", "release", "acq_rel"])
def test_a_message_arrives_if_it_is_released_and_acquired(release: str, acquire: str) -> None:
    right = release in ("release", "acq_rel") and acquire in ("acquire", "acq_rel")
    assert ("before it may be seen" in send(release, acquire)) is not right


def test_a_release_has_the_stores_of_other_warps_from_before_a_barrier_alone() -> None:
    assert "before it may be seen" in send("acq_rel", "acq_rel", between="")


def test_fences_order_relaxed_atomics() -> None:
    fence, barrier = "fence.acq_rel.gpu;\n", "bar.sync 0;\n"
    unseen = "before it may be seen"
    assert unseen not in send("relaxed", "relaxed", barrier + fence, after=fence + barrier)
    assert unseen in send("relaxed", "relaxed", barrier + fence, after=barrier)
    assert unseen in send("relaxed", "relaxed", barrier, after=fence + barrier)


def test_acquiring_another_address_acquires_nothing() -> None:
    elsewhere = FLAG.format(order="acquire", at=256, number="%r21") + "\nbar.sync 0;"
    assert "before it may be seen" in send("release", "relaxed", second=elsewhere)


@pytest.mark.parametrize(
    "instruction",
    [
        "add.f32 %r10, %r1, %r2;",  # which ptxas may fuse
        "fma.rz.f32 %r10, %r1, %r2, %r3;",
        "add.sat.s32 %r10, %r1, %r2;",
        "st.release.gpu.global.b32 [ %rd4 + 0 ], { %r1 };",
        "red.global.gpu.add.f32 [ %rd4 + 0 ], %r1;",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, 1;",
    ],
)
def test_an_unknown_instruction_is_named(instruction: str) -> None:
    with pytest.raises(UnknownInstruction, match=instruction.split()[0]):
        execute(instruction)


def test_matrices_are_multiplied_as_the_manual_lays_them_out() -> None:
    """A [16,16] B [16,8] + C of small whole numbers, which are exact."""
    draw = np.random.default_rng(0)
    a, b, c = (draw.integers(-9, 10, size).astype("f4") for size in ((16, 16), (16, 8), (16, 8)))

    def pair(low: float, high: float) -> int:
        bits = arithmetic.to_bf16(np.array([low, high], "f4")).astype("u4")
        return int(bits[0] | bits[1] << np.uint32(16))

    fragments: list[list[int]] = [[] for _ in range(10)]
    for lane in range(32):
        group, thread = divmod(lane, 4)
        for i, (row, column) in enumerate([(0, 0), (8, 0), (0, 8), (8, 8)]):
            left, top = 2 * thread + column, group + row
            fragments[i].append(pair(a[top, left], a[top, left + 1]))
        for i, row in enumerate([0, 8]):
            top = 2 * thread + row
            fragments[4 + i].append(pair(b[top, group], b[top + 1, group]))
        for i, (row, column) in enumerate([(0, 0), (0, 1), (8, 0), (8, 1)]):
            value = c[group + row, 2 * thread + column]
            fragments[6 + i].append(int(np.float32(value).view("u4")))
    results = multiply(fragments)
    product = a @ b + c
    for lane in range(32):
        group, thread = divmod(lane, 4)
        for i, (row, column) in enumerate([(0, 0), (0, 1), (8, 0), (8, 1)]):
            assert results[i][lane] == product[group + row, 2 * thread + column]


def multiply(fragments: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the result's four registers [4,32] of one warp's instruction."""
    loads = "\n".join(f"ld.global.b32 {{ %r{30 + i} }}, [ %rd3 + {128 * i} ];" for i in range(10))
    stores = "\n".join(f"st.global.b32 [ %rd4 + {128 * i} ], {{ %r{40 + i} }};" for i in range(4))
    text = KERNEL.replace(".reqntid 64", ".reqntid 32").format(
        body=f"""{loads}
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%r40,%r41,%r42,%r43}},
        {{%r30,%r31,%r32,%r33}}, {{%r34,%r35}}, {{%r36,%r37,%r38,%r39}};
        {stores}"""
    )
    result = np.zeros(512, "u1")
    buffers = [
        Buffer("input", np.array(fragments, "u4").ravel().view("u1"), size=1280, constant=True),
        Buffer("output", result, size=512, fresh=True),
    ]
    arguments = [struct.pack("<Q", number << BUFFER_BITS) for number in (1, 2)]
    Machine(Program(text), arguments, buffers, grid=1, threads=32).run()
    buffers[1].give_back()
    return result.view("f4").reshape(4, 32)
