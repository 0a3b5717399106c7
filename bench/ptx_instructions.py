"""What each instruction of PTX does to a block of threads, and how its text is read."""

import re
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

import numpy as np

from bench.ptx import (
    COMPARISONS,
    FLOATS,
    SIGNED,
    UNSIGNED,
    WARP,
    Array,
    Block,
    Fault,
    GlobalMemory,
    Instruction,
    Program,
    SharedMemory,
    as_kind,
    flushed,
    to_bf16,
    width_of,
)

TYPE = re.compile(r"(?:bf|[busf])(?:8|16|32|64)(?:x2)?|pred")
# Of other words, an instruction may do what is not done here.
WORDS = {"rn", "rzi", "ftz", "approx", "full", "lo", "hi", "wide", "add", "min", "max"}
WORDS |= {"num", "nan", "NaN", "sync", "aligned", "uni", "warp", "bfly", "idx", "down"}
WORDS |= {"param", "global", "shared", "async", "ca", "cg", "commit_group", "wait_group"}
WORDS |= {"v2", "v4", "x1", "x2", "x4", "m8n8", "trans", "L1", "L2", "evict_first", "evict_last"}
ONLY_NAN = np.uint32(0x7FFFFFFF).view(np.float32)

Handler = Callable[[Instruction, Block, Array | None], Array | None]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a function as what these instructions do."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def numbers(
    it: Instruction, block: Block, active: Array | None, function: Callable[..., Array]
) -> None:
    """A function of operands of the instruction's last type, whose result is of that type.

    ``f32.bf16``: the last operand and the result are float32, the others are not.
    """
    kinds = [m for m in it.modifiers if TYPE.fullmatch(m)]
    packed = kinds[-1].endswith("x2")  # Two numbers to a register.
    one = kinds[-1].removesuffix("x2")
    operands = it.operands[1:]
    read = _pairs if packed else Block.read
    values = [flushed(read(block, operand, one), it) for operand in operands]
    if len(kinds) == 2:
        one = kinds[0]
        values = [v.astype(FLOATS[one]) for v in values[:-1]] + [block.read(operands[-1], one)]
    result = function(it, *values)
    if one == "f32":  # Of 32 bits there is one NaN, where numpy keeps the bits of an operand's.
        result = np.where(np.isnan(result), ONLY_NAN, result)
    result = to_bf16(result) if one == "bf16" else flushed(result, it)
    if packed:
        result = result.view(UNSIGNED[result.itemsize * 16])
    block.write(it.operands[0], result, active)


def of_numbers(name: str, function: Callable[..., Array]) -> None:
    """Register an instruction that is a function of numbers."""
    HANDLERS[name] = lambda it, block, active: numbers(it, block, active, function)


def _pairs(block: Block, operand: Any, kind: str) -> Array:
    """The halves of each thread's register as numbers ``[2 T]``."""
    bits = width_of(kind)
    value = np.broadcast_to(block.read(operand, f"b{2 * bits}"), (block.threads,))
    halves = np.ascontiguousarray(value).view(UNSIGNED[bits])
    return as_kind(halves, kind)


def _fma(it: Instruction, a: Array, b: Array, c: Array) -> Array:
    if a.dtype != np.float64:  # The product of two float32 is exact in float64.
        return (a.astype(np.float64) * b + c).astype(a.dtype)
    # What rounding took from the product and from the sum is added at the last (Dekker, Knuth).
    product, total = a * b, a * b + c
    halves = [(x * 134217729.0) - (x * 134217729.0 - x) for x in (a, b)]
    rests = [a - halves[0], b - halves[1]]
    lost = halves[0] * halves[1] - product + halves[0] * rests[1] + rests[0] * halves[1]
    lost = lost + rests[0] * rests[1]
    of_c = total - product
    lost = lost + ((product - (total - of_c)) + (c - of_c))
    return np.where(np.isfinite(lost), total + lost, total)


def _extreme(it: Instruction, *values: Array) -> Array:
    # Of two values or three; NaN is no value, but where it is asked for.
    keeps_nan = values[0].dtype.kind != "f" or "NaN" in it.modifiers
    functions = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}
    return reduce(functions[it.name][keeps_nan], values)


def _divide(it: Instruction, a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    # Towards zero, where Python's goes down.
    quotient: Array = np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64))
    quotient = quotient * np.sign(a.astype(np.int64)) * np.sign(b.astype(np.int64))
    return quotient.astype(a.dtype)


def _remainder(it: Instruction, a: Array, b: Array) -> Array:
    rest: Array = a - _divide(it, a, b) * b
    return rest.astype(a.dtype)


def _reciprocal(it: Instruction, a: Array) -> Array:
    exact = 1 / a
    if a.dtype == np.float64:  # ".approx.ftz.f64" has the upper half of the bits alone.
        exact = (exact.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
    return exact


of_numbers("add", lambda it, a, b: a + b)
of_numbers("sub", lambda it, a, b: a - b)
of_numbers("and", lambda it, a, b: a & b)
of_numbers("or", lambda it, a, b: a | b)
of_numbers("xor", lambda it, a, b: a ^ b)
of_numbers("not", lambda it, a: ~a)
of_numbers("neg", lambda it, a: -a)
of_numbers("abs", lambda it, a: np.abs(a))
of_numbers("fma", _fma)
of_numbers("min", _extreme)
of_numbers("max", _extreme)
of_numbers("div", _divide)
of_numbers("rem", _remainder)
of_numbers("rcp", _reciprocal)
of_numbers("ex2", lambda it, a: np.exp2(a.astype(np.float64)).astype(a.dtype))
of_numbers("lg2", lambda it, a: np.log2(a.astype(np.float64)).astype(a.dtype))
of_numbers("sqrt", lambda it, a: np.sqrt(a))


@handles("mul", "mad")
def _multiply(it: Instruction, block: Block, active: Array | None) -> None:
    kind = it.modifiers[-1]
    if "f" in kind:
        numbers(it, block, active, lambda it, a, b: a * b)
        return
    a, b = (block.read(o, kind) for o in it.operands[1:3])
    bits, result = width_of(kind), kind
    if "wide" in it.modifiers:
        result = f"{kind[0]}{2 * bits}"
        wide = (SIGNED if kind[0] == "s" else UNSIGNED)[2 * bits]
        product = a.astype(wide) * b.astype(wide)
    elif "hi" in it.modifiers:
        exact = a.astype(object) * b.astype(object) >> bits
        product = np.array([int(x) % 2**bits for x in exact], UNSIGNED[bits]).view(a.dtype)
    else:
        product = a * b
    if it.name == "mad":
        product = product + block.read(it.operands[3], result)
    block.write(it.operands[0], product, active)


@handles("shl", "shr")
def _shift(it: Instruction, block: Block, active: Array | None) -> None:
    kind = it.modifiers[-1]
    value, count = block.read(it.operands[1], kind), block.read(it.operands[2], "u32")
    bits = width_of(kind)
    within = np.minimum(count, bits - 1).astype(value.dtype)
    shifted = value << within if it.name == "shl" else value >> within
    # All bits and more: nothing is left, or the sign alone.
    gone = (value >> value.dtype.type(bits - 1)) if it.name == "shr" and kind[0] == "s" else 0
    block.write(it.operands[0], np.where(count >= bits, gone, shifted).astype(value.dtype), active)


@handles("bfe")
def _bit_field(it: Instruction, block: Block, active: Array | None) -> None:
    kind = it.modifiers[-1]
    value = block.read(it.operands[1], "u32").astype(np.int64)
    first, count = (block.read(o, "u32").astype(np.int64) & 0xFF for o in it.operands[2:])
    if width_of(kind) != 32:
        raise Fault("a bit field of 64 bits is not modelled")
    field = (value >> np.minimum(first, 32)) & ((1 << np.minimum(count, 32)) - 1)
    if kind == "s32":
        if ((first + count > 32) | (count == 0)).any():
            raise Fault("a signed bit field beyond the register is not modelled")
        field = field - ((field >> (count - 1)) & 1) * (1 << count)
    block.write(it.operands[0], field.astype(np.int32), active)


@handles("popc")
def _count_bits(it: Instruction, block: Block, active: Array | None) -> None:
    value = block.read(it.operands[1], it.modifiers[-1])
    bits = np.unpackbits(value[:, None].view(np.uint8), axis=1).sum(1)
    block.write(it.operands[0], bits.astype(np.uint32), active)


@handles("prmt")
def _permute(it: Instruction, block: Block, active: Array | None) -> None:
    a, b, selector = (block.read(o, "u32").astype(np.uint64) for o in it.operands[1:])
    both = a | b << np.uint64(32)
    out = np.zeros(1, np.uint64)
    for byte in range(4):
        chosen = (selector >> np.uint64(4 * byte)) & np.uint64(15)
        value = (both >> (chosen & np.uint64(7)) * np.uint64(8)) & np.uint64(0xFF)
        sign = np.where(value >= 0x80, np.uint64(0xFF), np.uint64(0))
        out = out | np.where(chosen >= 8, sign, value) << np.uint64(8 * byte)
    block.write(it.operands[0], out.astype(np.uint32), active)


@handles("selp")
def _select(it: Instruction, block: Block, active: Array | None) -> None:
    a, b = (block.read(o, it.modifiers[-1]) for o in it.operands[1:3])
    block.write(it.operands[0], np.where(block.predicate(it.operands[3]), a, b), active)


@handles("setp")
def _compare(it: Instruction, block: Block, active: Array | None) -> None:
    comparison, kind = it.modifiers[0], it.modifiers[-1]
    a, b = (flushed(block.read(o, kind), it) for o in it.operands[1:])
    unordered = np.isnan(a) | np.isnan(b) if a.dtype.kind == "f" else np.zeros(1, bool)
    if comparison in ("num", "nan"):
        result = unordered == (comparison == "nan")
    else:  # "ltu": less, or unordered.
        result = COMPARISONS[comparison](a, b)
        result = result | unordered if comparison.endswith("u") else result & ~unordered
    block.write(it.operands[0], result, active)


@handles("cvt")
def _convert(it: Instruction, block: Block, active: Array | None) -> None:
    *modes, to, source = it.modifiers
    values = [flushed(block.read(o, source), it) for o in it.operands[1:]]
    if to in ("f16x2", "bf16x2"):  # The first operand goes to the upper half.
        halves = [to_bf16(v) if to[0] == "b" else v.astype(np.float16) for v in values]
        high, low = (h.view(np.uint16).astype(np.uint32) for h in halves)
        block.write(it.operands[0], high << np.uint32(16) | low, active)
        return
    (value,) = values
    if to == "bf16":
        block.write(it.operands[0], to_bf16(value), active)
        return
    if to in FLOATS:
        result = value.astype(FLOATS[to])
    else:
        if value.dtype.kind == "f":
            if "rzi" not in modes:
                raise Fault("floats are converted to integers towards zero alone")
            value = np.nan_to_num(np.trunc(value.astype(np.float64)))
            bits = width_of(to)
            if bits > 32:
                raise Fault("floats are converted to integers of up to 32 bits alone")
            least = -(2 ** (bits - 1)) if to[0] == "s" else 0
            value = np.clip(value, least, least + 2**bits - 1)
        result = value.astype((SIGNED if to[0] == "s" else UNSIGNED)[width_of(to)])
    block.write(it.operands[0], flushed(result, it), active)


@handles("mov")
def _move(it: Instruction, block: Block, active: Array | None) -> None:
    to, source = it.operands
    kind = it.modifiers[-1]
    if isinstance(to, tuple):  # Into parts, the lowest first.
        value = block.read(source, kind)
        bits = width_of(kind) // len(to)
        for n, part in enumerate(to):
            piece = value >> value.dtype.type(n * bits)
            block.write(part, piece.astype(UNSIGNED[bits]), active)
    elif isinstance(source, tuple):
        wide = UNSIGNED[width_of(kind)]
        bits = width_of(kind) // len(source)
        value = np.zeros(1, wide)
        for n, part in enumerate(source):
            value = value | block.read(part, f"b{bits}").astype(wide) << wide(n * bits)
        block.write(to, value, active)
    elif kind == "pred":
        value = block.predicate(source) if isinstance(source, str) else source != 0
        block.write(to, value, active)
    elif source == "global_smem":
        block.write(to, np.zeros(1, UNSIGNED[width_of(kind)]), active)
    else:
        block.write(to, block.read(source, kind), active)


def _lanes(block: Block, active: Array | None) -> Array:
    return block.lanes if active is None else block.lanes[active]


@handles("ld")
def _load(it: Instruction, block: Block, active: Array | None) -> None:
    kind, place = it.modifiers[-1], it.operands[1]
    if it.modifiers[0] == "param":
        value = block.arguments[place[0]]
        block.write(it.operands[0], value.view(SIGNED[32]) if kind == "s32" else value, active)
        return
    to = it.operands[0] if isinstance(it.operands[0], tuple) else (it.operands[0],)
    item = width_of(kind) // 8
    lanes = _lanes(block, active)
    if kind[0] == "s" and item < 4:
        raise Fault("a load of a small signed integer is not modelled")
    if not len(lanes):
        return
    loaded = _memory(it, block).load(block.address(place)[lanes], item * len(to), lanes)
    for n, name in enumerate(to):
        value = np.zeros(block.threads, UNSIGNED[item * 8])
        part = np.ascontiguousarray(loaded[:, n * item : (n + 1) * item])
        value[lanes] = part.view(UNSIGNED[item * 8])[:, 0]
        block.write(name, value, active)


def _memory(it: Instruction, block: Block) -> GlobalMemory | SharedMemory:
    if "global" in it.modifiers:
        return block.memory
    if "shared" not in it.modifiers:
        raise Fault("an address of any kind of memory is not modelled")
    return block.shared


@handles("st")
def _store(it: Instruction, block: Block, active: Array | None) -> None:
    kind, (place, source) = it.modifiers[-1], it.operands
    parts = source if isinstance(source, tuple) else (source,)
    lanes = _lanes(block, active)
    if not len(lanes):
        return
    columns = []
    for part in parts:
        value = np.broadcast_to(block.read(part, f"b{width_of(kind)}"), (block.threads,))[lanes]
        columns.append(np.ascontiguousarray(value)[:, None].view(np.uint8))
    _memory(it, block).store(block.address(place)[lanes], np.concatenate(columns, 1), lanes)


@handles("cp")
def _copy(it: Instruction, block: Block, active: Array | None) -> None:
    if it.modifiers[1] in ("commit_group", "wait_group") and active is not None:
        raise Fault("copies of a part of the threads are committed or waited for")
    if it.modifiers[1] == "commit_group":
        block.groups.append(block.copies)
        block.copies = []
        return
    if it.modifiers[1] == "wait_group":
        block.wait(int(it.operands[0][0]))
        return
    width = int(it.operands[2][0])
    size = np.full(block.threads, width, np.int64)
    if len(it.operands) > 3:
        size = np.broadcast_to(block.read(it.operands[3], "u32"), (block.threads,)).astype(int)
    if not np.isin(size, (0, width)).all():
        raise Fault("a copy of a part of its width is not modelled")
    lanes = _lanes(block, active)
    if not len(lanes):
        return
    places = block.shared.copy(block.address(it.operands[0])[lanes], width, lanes)
    warps = block.warps[lanes]
    values = np.zeros((len(lanes), width), np.uint8)
    full = size[lanes] > 0
    if full.any():
        source = block.address(it.operands[1])[lanes]
        values[full] = block.memory.load(source[full], width, lanes[full])
    block.copies.append((places, values, warps))


@handles("bar")
def _barrier(it: Instruction, block: Block, active: Array | None) -> None:
    if "warp" in it.modifiers:
        return
    if active is not None:
        raise Fault("a barrier is reached by a part of the threads")
    if [int(operand[0]) for operand in it.operands] not in ([0], [0, block.threads]):
        raise Fault("a barrier of a part of the threads is not modelled")
    block.shared.barrier()


@handles("shfl")
def _shuffle(it: Instruction, block: Block, active: Array | None) -> None:
    to, source, by, clamp, members = it.operands
    if int(block.read(clamp, "u32")[0]) != WARP - 1 or int(block.read(members, "s32")[0]) != -1:
        raise Fault("a shuffle of a part of a warp is not modelled")
    lane, by = block.lanes % WARP, block.read(by, "u32").astype(np.int64)
    mode = it.modifiers[1]
    source_lane = {"bfly": lane ^ by, "idx": by % WARP, "down": lane + by}[mode]
    source_lane = np.where(source_lane < WARP, source_lane, lane)
    value = np.broadcast_to(block.read(source, "b32"), (block.threads,))
    if active is not None and not active[block.lanes - lane + source_lane][active].all():
        raise Fault("a shuffle from a thread that takes no part")
    block.write(to, value[block.lanes - lane + source_lane], active)


@handles("redux")
def _reduce(it: Instruction, block: Block, active: Array | None) -> None:
    if active is not None or int(block.read(it.operands[2], "s32")[0]) != -1:
        raise Fault("a reduction over a part of a warp is not modelled")
    value = np.broadcast_to(block.read(it.operands[1], it.modifiers[-1]), (block.threads,))
    functions = {"add": np.add, "min": np.minimum, "max": np.maximum}
    if value.dtype.kind == "f" and "NaN" not in it.modifiers:
        functions = {"min": np.fmin, "max": np.fmax}
    out = functions[it.modifiers[1]].reduce(value.reshape(-1, WARP), 1).astype(value.dtype)
    block.write(it.operands[0], np.repeat(out, WARP), active)


def _matrix_rows(
    it: Instruction, block: Block, active: Array | None, place: Any
) -> tuple[int, Array, Array]:
    """How many matrices, the lanes that name their rows, and the addresses of these."""
    if active is not None:
        raise Fault("matrices of a part of the threads are not modelled")
    count = next(int(m[1:]) for m in it.modifiers if re.fullmatch(r"x\d", m))
    lanes = block.lanes[block.lanes % WARP < 8 * count]
    return count, lanes, block.address(place)[lanes]


@handles("ldmatrix")
def _load_matrices(it: Instruction, block: Block, active: Array | None) -> None:
    to = it.operands[0]
    count, lanes, addresses = _matrix_rows(it, block, active, it.operands[1])
    rows = block.shared.load(addresses, 16, lanes).view(np.uint16)
    matrices = rows.reshape(-1, count, 8, 8)
    if "trans" in it.modifiers:
        matrices = matrices.swapaxes(2, 3)
    pairs = np.ascontiguousarray(matrices).view(np.uint32)  # [warps, count, 8, 4]
    for n, name in enumerate(to):
        block.write(name, pairs[:, n].reshape(-1), active)


@handles("stmatrix")
def _store_matrices(it: Instruction, block: Block, active: Array | None) -> None:
    _, lanes, addresses = _matrix_rows(it, block, active, it.operands[0])
    values = [np.broadcast_to(block.read(o, "b32"), (block.threads,)) for o in it.operands[1]]
    pairs = np.stack([v.reshape(-1, 8, 4) for v in values], 1)
    matrices = np.ascontiguousarray(pairs).view(np.uint16)  # [warps, count, 8, 8]
    if "trans" in it.modifiers:
        matrices = np.ascontiguousarray(matrices.swapaxes(2, 3))
    rows = matrices.reshape(-1, 8).view(np.uint8)
    block.shared.store(addresses, rows, lanes)


@handles("bra")
def _branch(it: Instruction, block: Block, active: Array | None) -> Array:
    target = block.program.labels[it.operands[0]]
    taken = np.ones(block.threads, bool)
    if it.guard:
        taken = np.broadcast_to(block.predicate(it.guard[0]) != it.guard[1], (block.threads,))
    follow = it.number + 1
    return np.where(taken, target, follow)


@handles("ret")
def _return(it: Instruction, block: Block, active: Array | None) -> Array:
    gone = np.ones(block.threads, bool) if active is None else active
    return np.where(gone, len(block.program.instructions), it.number + 1)


STATEMENT = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)")
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
PARAMETER = re.compile(r"\.param \.(\w+)(?: [^,)]*?)? (\w+_param_\d+)")


def parse(ptx: str) -> Program:
    """The entry of a module of PTX.

    Raises:
        Fault: for an instruction that is not known.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    parameters = [(match[2], width_of(match[1])) for match in PARAMETER.finditer(ptx)]
    threads = re.search(r"\.reqntid (\d+)", ptx)
    if not threads:
        raise Fault("the kernel does not say how many threads it has")
    body = ptx[ptx.index("{", threads.end()) + 1 : ptx.index("\n}", threads.end())]
    for statement in _statements(body):
        if statement.endswith(":"):
            labels[statement[:-1]] = len(instructions)
            continue
        match = STATEMENT.fullmatch(statement)
        name, *modifiers = re.split(r"\.|::", match[3]) if match else [""]
        known = all(m in WORDS or m in COMPARISONS or TYPE.fullmatch(m) for m in modifiers)
        if not match or name not in HANDLERS or not known:
            raise Fault(f"no such instruction is modelled: {statement}")
        guard = (match[2], bool(match[1])) if match[2] else None
        operands = [_operand(text) for text in OPERAND.findall(match[4])]
        it = Instruction(statement, len(instructions), name, modifiers, operands, guard)
        it.run = partial(HANDLERS[name], it)
        instructions.append(it)
    return Program(instructions, labels, parameters, int(threads[1]))


def _statements(body: str) -> Iterator[str]:
    for line in re.sub(r"//.*", "", body).splitlines():
        line = line.strip()
        # A block of its own, with a register that only takes what is not wanted.
        parts = line[1:-1].split(";") if re.fullmatch(r"\{.*;\s*\}", line) else line.split(";")
        for part in map(str.strip, parts):
            if part not in ("", "{", "}") and not part.startswith("."):
                yield part


def _operand(text: str) -> Any:
    """A register's name, a label, numbers [1] of 64 bits, an address or a vector."""
    if text[0] == "{":
        return tuple(_operand(part) for part in text.strip("{} ").split(", "))
    if text[0] == "[":
        base, _, offset = text.strip("[] ").replace(" ", "").partition("+")
        return base, int(offset or "0", 0)
    if text[:2] == "0f":
        return np.array([int(text[2:], 16)], np.uint32)
    if text[:2] == "0d":
        return np.array([int(text[2:], 16)], np.uint64)
    if "|" in text:
        raise Fault(f"a second result is not modelled: {text}")
    if re.fullmatch(r"-?\d\w*", text):
        return np.array([int(text.rstrip("U"), 0) % 2**64], np.uint64)
    return text
