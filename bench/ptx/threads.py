"""Do what instructions do to the threads that go in step, a register being an array over them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.ptx.arithmetic import Array, from_bf16, round_to_zero
from bench.ptx.memory import BUFFER_BITS, Access, Buffer
from bench.ptx.translate import SHARED_BASE

if TYPE_CHECKING:
    from bench.ptx.machine import Machine

_POISON = {"?": False, "u2": 0x7FC1, "u4": 0x7FC0BEEF, "u8": 0x7FC0BEEF7FC0BEEF}
"""What a register holds before it is written, by its dtype: NaN, or far from any address."""
_ALL_LANES = 0xFFFFFFFF
_BLOCK_OF_PRODUCTS, _BITS_OF_PRODUCTS = 8, 25
"""A tensor core adds 8 products at once, cut off to 25 bits of the largest."""


class Path:
    """Where some of the threads are in the code. mask: which, None for all."""

    def __init__(self, chunk: int, mask: Array | None, waiting: bool = False) -> None:
        self.chunk, self.mask, self.waiting = chunk, mask, waiting


class Copies:
    """Copies to shared memory that one instruction began.

    lanes: threads [n]; data: bytes [n, size]; group: the number of each thread's group of copies.
    """

    def __init__(self, lanes: Array, first: Array, data: Array, group: Array) -> None:
        self.lanes, self.first, self.data, self.group = lanes, first, data, group

    def only(self, chosen: Array) -> "Copies":
        """Return the copies of some of its threads."""
        return Copies(self.lanes[chosen], self.first[chosen], self.data[chosen], self.group[chosen])


class Threads:
    """Warps that go in step: all of a launch, those of a CTA, or one.

    cta: the number [n] of each thread's CTA among those that run; tid: the thread's in its CTA.
    """

    def __init__(
        self, machine: "Machine", cta: Array, tid: Array, registers: list[Array] | None = None
    ) -> None:
        self.machine, self.cta, self.tid, self.count = machine, cta, tid, len(tid)
        self.number = cta * machine.threads + tid  # in the launch
        self.ctas = np.unique(cta)
        self.whole_ctas = self.count == len(self.ctas) * machine.threads
        self.shared_offset = cta.astype("i8") * machine.shared.stride
        if registers is None:
            # Registers are replaced and never written to, so that they may begin as the same array.
            poison = {dtype: np.full(self.count, bits, dtype) for dtype, bits in _POISON.items()}
            registers = [poison[dtype] for dtype in machine.program.dtypes]
        self.registers = registers
        self.paths = [Path(0, None)]
        self.copies: list[Copies] = []
        self.group_of_copies = np.zeros(self.count, "i8")
        self._constants: dict[tuple[bytes, str], Array] = {}
        self.pass_barrier()

    def is_ready(self) -> bool:
        """Return whether a path does not wait at a barrier."""
        return any(not path.waiting for path in self.paths)

    def pass_barrier(self) -> None:
        """Take a tag for accesses from now on: the number of barriers passed, and the warp."""
        self.tag = self.machine.epoch[self.number // 32] * 64 + (self.tid >> 5)

    def some(self, chosen: Array) -> "Threads":
        """Return some of the threads, without their paths."""
        registers = [register[chosen] for register in self.registers]
        threads = Threads(self.machine, self.cta[chosen], self.tid[chosen], registers)
        threads.group_of_copies = self.group_of_copies[chosen]
        new_lane = np.cumsum(chosen) - 1
        for copies in self.copies:
            there = copies.only(chosen[copies.lanes])
            there.lanes = new_lane[there.lanes]
            if len(there.lanes):
                threads.copies.append(there)
        return threads

    # Operands.

    def special(self, name: str, axis: str) -> Array:
        """Return a special register; grids and CTAs have one axis."""
        sizes = {"ntid": self.machine.threads, "nctaid": self.machine.grid}
        if axis != "x":
            return np.full(self.count, int(name in sizes), "u4")
        if name in sizes:
            return np.full(self.count, sizes[name], "u4")
        ids: Array = self.tid if name == "tid" else self.machine.ctas[self.cta]
        return ids.astype("u4")

    def full(self, value: Any, dtype: str) -> Array:
        """Return a constant for all threads, which nobody may change."""
        key = np.array(value).tobytes(), dtype
        if key not in self._constants:
            self._constants[key] = np.full(self.count, value, dtype)
        return self._constants[key]

    def parameter(self, number: int, dtype: str, register: str) -> Array:
        """Return an argument of the launch in a register, by its sign if the type has one."""
        value = np.frombuffer(self.machine.arguments[number], dtype)[0]
        wide = register.replace("u", "i") if dtype[0] == "i" else dtype
        return np.full(self.count, value).astype(wide).view(register)

    def near(self, x: Array) -> Array:
        """Return results of approximations: off by up to ``machine.ulps``, equal for equal ones."""
        ulps = self.machine.ulps
        if not ulps:
            return x
        bits = np.ascontiguousarray(x).view("u4")
        drawn = (bits * np.uint32(2654435761)) >> np.uint32(20)
        error = drawn.astype("i8") % (2 * ulps + 1) - ulps
        exponent = (bits >> np.uint32(23)) & np.uint32(255)
        moved = (bits.astype("i8") + error).astype("u4").view("f4")
        return np.where((exponent > 1) & (exponent < 254), moved, x)

    def refuse_zero(self, divisor: Any, mask: Array | None, statement: int) -> None:
        """Fault where an integer is divided by 0."""
        if (self._of_mask(mask, np.broadcast_to(divisor, self.count)) == 0).any():
            raise self.machine.fault(statement, "an integer is divided by 0")

    def whole_warps(self, mask: Array | None, statement: int) -> None:
        """Fault unless each warp is there as a whole or not at all."""
        if mask is not None:
            warps = mask.reshape(-1, 32)
            if (warps.any(1) != warps.all(1)).any():
                raise self.machine.fault(statement, "not all threads of a warp are there")

    def _of_mask(self, mask: Array | None, x: Array) -> Array:
        return x if mask is None else x[mask]

    def _lanes(self, mask: Array | None) -> Array:
        return np.arange(self.count) if mask is None else np.flatnonzero(mask)

    def _spread(self, mask: Array | None, parts: list[Array]) -> list[Array]:
        if mask is None:
            return parts
        spread = [np.zeros(self.count, part.dtype) for part in parts]
        for whole, part in zip(spread, parts, strict=True):
            whole[mask] = part
        return spread

    def _bytes_of(self, mask: Array | None, dtype: str, values: tuple[Array, ...]) -> Array:
        """Return what threads store, bytes [n, size]."""
        columns = [self._of_mask(mask, np.broadcast_to(x, self.count)) for x in values]
        data = np.stack([column.astype(dtype) for column in columns], 1)
        size = len(values) * np.dtype(dtype).itemsize
        return np.ascontiguousarray(data).view("u1").reshape(len(data), size)

    # Shared memory.

    def _shared(
        self, base: Array, offset: int, size: int, mask: Array | None, statement: int
    ) -> Array:
        """Return the first bytes of accesses of the threads that are on, checked."""
        first = self._of_mask(mask, base).astype("i8") + (offset - SHARED_BASE)
        limit = self.machine.shared.size
        if len(first) and (first.min() < 0 or first.max() + size > limit):
            where = f"bytes {first.min()} to {first.max() + size} of {limit}"
            raise self.machine.fault(statement, f"outside of shared memory: {where}")
        if (first & (size - 1)).any():
            raise self.machine.fault(statement, "a misaligned access of shared memory")
        return first + self._of_mask(mask, self.shared_offset)

    def load_shared(
        self, base: Array, offset: int, dtype: str, count: int, mask: Array | None, statement: int
    ) -> list[Array]:
        """Load ``count`` values of a type."""
        size = np.dtype(dtype).itemsize
        first = self._shared(base, offset, size * count, mask, statement)
        access = Access(first, size * count, self._of_mask(mask, self.tag), statement)
        self.machine.shared.check_load(access)
        values, index = self.machine.shared.bytes.view(dtype), first // size
        return self._spread(mask, [values[index + i] for i in range(count)])

    def store_shared(
        self, base: Array, offset: int, dtype: str, values: tuple[Array, ...],
        mask: Array | None, statement: int,
    ) -> None:  # fmt: skip
        """Store values of a type."""
        data = self._bytes_of(mask, dtype, values)
        first = self._shared(base, offset, data.shape[1], mask, statement)
        access = Access(first, data.shape[1], self._of_mask(mask, self.tag), statement)
        self.machine.shared.store(access, data)

    def _matrix_rows(
        self, base: Array, offset: int, count: int, mask: Array | None, statement: int
    ) -> tuple[Array, Access]:
        """Return the lanes of the warps that are on, and the rows that the first lanes point to."""
        self.whole_warps(mask, statement)
        warps = np.arange(self.count).reshape(-1, 32)
        warps = warps if mask is None else warps[mask.reshape(-1, 32)[:, 0]]
        lanes = warps[:, : 8 * count].reshape(-1)
        pointing = np.zeros(self.count, bool)
        pointing[lanes] = True
        first = self._shared(base, offset, 16, pointing, statement)
        return warps, Access(first, 16, self.tag[lanes], statement)

    def load_matrix(
        self, base: Array, offset: int, count: int, transposed: bool, mask: Array | None,
        statement: int,
    ) -> list[Array]:  # fmt: skip
        """Load matrices of 8 x 8 halves, two halves of a row to a lane."""
        warps, access = self._matrix_rows(base, offset, count, mask, statement)
        self.machine.shared.check_load(access)
        halves = self.machine.shared.bytes.view("u2")[(access.first >> 1)[:, None] + np.arange(8)]
        halves = halves.reshape(-1, count, 8, 8)  # warp, matrix, row, column
        if transposed:
            halves = halves.swapaxes(2, 3)
        words = np.ascontiguousarray(halves).view("u4").reshape(-1, count, 32)
        loaded = np.zeros((count, self.count), "u4")
        loaded[:, warps.reshape(-1)] = words.swapaxes(0, 1).reshape(count, -1)
        return list(loaded)

    def store_matrix(
        self, base: Array, offset: int, values: tuple[Array, ...], transposed: bool,
        mask: Array | None, statement: int,
    ) -> None:  # fmt: skip
        """Store matrices of 8 x 8 halves."""
        count = len(values)
        warps, access = self._matrix_rows(base, offset, count, mask, statement)
        words = np.stack([np.broadcast_to(x, self.count)[warps] for x in values], 1)
        halves = np.ascontiguousarray(words).view("u2").reshape(-1, count, 8, 8)
        if transposed:
            halves = halves.swapaxes(2, 3)
        data = np.ascontiguousarray(halves).view("u1").reshape(len(access.first), 16)
        self.machine.shared.store(access, data)

    # Asynchronous copies, which read when they begin and write when they are waited for.

    def copy(
        self, target: Array, target_offset: int, source: Array, source_offset: int, size: int,
        count: Array, mask: Array | None, statement: int,
    ) -> None:  # fmt: skip
        """Begin to copy ``size`` bytes; what is past a thread's count is 0, and not read."""
        first = self._shared(target, target_offset, size, mask, statement)
        lanes, count = self._lanes(mask), self._of_mask(mask, np.broadcast_to(count, self.count))
        data = np.zeros((len(first), size), "u1")
        for read in np.unique(count[count > 0]):
            chosen = np.zeros(self.count, bool)
            chosen[lanes[count == read]] = True
            width = 4 if read % 4 == 0 else 2
            words = self.load_global(
                source, source_offset, f"u{width}", int(read) // width, chosen, statement
            )
            loaded = np.stack([word[chosen] for word in words], 1)
            data[count == read, :read] = loaded.view("u1").reshape(-1, read)
        access = Access(first, size, self._of_mask(mask, self.tag), statement)
        self.machine.shared.begin_copy(access)
        self.copies.append(Copies(lanes, first, data, self.group_of_copies[lanes].copy()))

    def commit_copies(self, mask: Array | None, statement: int) -> None:
        """End a group of copies."""
        self.group_of_copies = self.group_of_copies + (1 if mask is None else mask)

    def wait_for_copies(self, pending: int, mask: Array | None, statement: int) -> None:
        """Let copies arrive until so many groups, the last, are under way."""
        under_way = []
        for copies in self.copies:
            arrive = copies.group < self.group_of_copies[copies.lanes] - pending
            if mask is not None:
                arrive &= mask[copies.lanes]
            arrived = copies.only(arrive)
            if len(arrived.lanes):
                tag, size = self.tag[arrived.lanes], arrived.data.shape[1]
                self.machine.shared.end_copy(
                    Access(arrived.first, size, tag, statement), arrived.data
                )
            if not arrive.all():
                under_way.append(copies.only(~arrive))
        self.copies = under_way

    # Global memory.

    def _by_buffer(
        self, kind: str, base: Array, offset: int, size: int, mask: Array | None, statement: int
    ) -> list[tuple[Buffer, Array, Access]]:
        """Return each tensor that is touched, which of the threads that are on do, and where."""
        address = self._of_mask(mask, base).astype("i8") + offset
        number, first = address >> BUFFER_BITS, address & ((1 << BUFFER_BITS) - 1)
        if (first & (size - 1)).any():
            raise self.machine.fault(statement, "a misaligned access of global memory")
        tag = self._of_mask(mask, self.tag)
        touched = []
        for one in np.unique(number):
            chosen = number == one
            access = Access(first[chosen], size, tag[chosen], statement)
            if not 0 < one <= len(self.machine.buffers):
                raise self.machine.fault(statement, "outside of every tensor")
            buffer = self.machine.buffers[one - 1]
            low, high = int(access.first.min()), int(access.first.max()) + size
            if low < buffer.start or high > buffer.start + buffer.size:
                where = f"bytes {low - buffer.start} to {high - buffer.start} of {buffer.size}"
                raise self.machine.fault(statement, f"outside of {buffer.name}: {where}")
            self.machine.count_bytes(kind, buffer, low, high, size * len(access.first))
            touched.append((buffer, chosen, access))
        return touched

    def load_global(
        self, base: Array, offset: int, dtype: str, count: int, mask: Array | None, statement: int
    ) -> list[Array]:
        """Load ``count`` values of a type."""
        size, lanes = np.dtype(dtype).itemsize, self._lanes(mask)
        loaded = [np.zeros(len(lanes), dtype) for _ in range(count)]
        touched = self._by_buffer("load", base, offset, size * count, mask, statement)
        for buffer, chosen, access in touched:
            data = self.machine.memory.load(buffer, access, self.number[lanes[chosen]])
            for i, column in enumerate(loaded):
                column[chosen] = data.view(dtype)[:, i]
        return self._spread(mask, loaded)

    def store_global(
        self, base: Array, offset: int, dtype: str, values: tuple[Array, ...],
        mask: Array | None, statement: int,
    ) -> None:  # fmt: skip
        """Store values of a type."""
        data, lanes = self._bytes_of(mask, dtype, values), self._lanes(mask)
        touched = self._by_buffer("store", base, offset, data.shape[1], mask, statement)
        for buffer, chosen, access in touched:
            if buffer.constant:
                raise self.machine.fault(statement, f"a store to the input {buffer.name}")
            self.machine.memory.store(buffer, access, data[chosen], self.number[lanes[chosen]])

    def atomic_add(
        self, base: Array, offset: int, addend: Array, semantics: str, mask: Array | None,
        statement: int,
    ) -> Array:  # fmt: skip
        """Add to integers of 32 bits, one thread after another; return what was there."""
        lanes, addend = self._lanes(mask), np.broadcast_to(addend, self.count)
        before = np.zeros(self.count, "u4")
        for buffer, chosen, access in self._by_buffer("atomic", base, offset, 4, mask, statement):
            for lane, first in zip(lanes[chosen], access.first.tolist(), strict=True):
                before[lane] = self.machine.memory.atomic_add(
                    buffer, first, addend[lane], semantics, int(self.number[lane])
                )
        return before

    def fence(self, mask: Array | None, statement: int) -> None:
        """Order each thread's accesses before the fence and after it."""
        for lane in self._lanes(mask):
            self.machine.memory.fence(int(self.number[lane]))

    # Warps.

    def shuffle(
        self, mode: str, x: Array, lane_operand: Array, clamp: Array, members: Array,
        mask: Array | None, statement: int,
    ) -> Array:  # fmt: skip
        """Return the register of another lane; its own where there is none."""
        self.whole_warps(mask, statement)
        limit = np.unique(np.asarray(clamp))
        if (np.asarray(members) != _ALL_LANES).any() or len(limit) > 1 or limit[0] & 0x1F00:
            raise self.machine.fault(statement, "a shuffle of a part of a warp, which is not known")
        lane, bound = np.arange(32), int(limit[0]) & 31
        by = np.asarray(lane_operand).astype("i8") & 31
        by = by.reshape(-1, 32) if by.ndim else by
        source = {"bfly": lane ^ by, "idx": lane * 0 + by, "down": lane + by, "up": lane - by}[mode]
        source = np.where(source >= bound if mode == "up" else source <= bound, source, lane)
        warps = np.broadcast_to(x, self.count).reshape(-1, 32)
        if source.ndim == 1:  # the same for all warps, which is faster
            return np.ascontiguousarray(warps[:, source]).reshape(-1)
        return np.take_along_axis(warps, source, 1).reshape(-1)

    def reduce_warp(
        self, how: str, x: Array, members: Array, mask: Array | None, statement: int
    ) -> Array:
        """Return the reduction of a register over the lanes, to each."""
        self.whole_warps(mask, statement)
        if (np.asarray(members) != _ALL_LANES).any():
            raise self.machine.fault(
                statement, "a reduction of a part of a warp, which is not known"
            )
        functions: dict[str, np.ufunc] = {
            "max": np.fmax, "min": np.fmin, "add": np.add, "or": np.bitwise_or,
            "and": np.bitwise_and,
        }  # fmt: skip
        warps = np.broadcast_to(x, self.count).reshape(-1, 32)
        return np.repeat(functions[how].reduce(warps, 1), 32).astype(x.dtype)

    def multiply_matrices(
        self, a: tuple[Array, ...], b: tuple[Array, ...], c: tuple[Array, ...],
        mask: Array | None, statement: int,
    ) -> list[Array]:  # fmt: skip
        """Return A [16,16] B [16,8] + C of bfloat16, as a tensor core of a warp.

        Products are exact. Blocks of them are added in fixed point, with as many bits as the
        largest allows; the rest is cut off.
        """
        self.whole_warps(mask, statement)
        warps, lane = self.count // 32, np.arange(32)
        row, column = lane >> 2, lane & 3
        of_a, of_b, total = (np.zeros((warps, *size)) for size in ((16, 16), (16, 8), (16, 8)))
        pair = np.array([0, 1])
        for i, register in enumerate(a):
            rows, columns = row + 8 * (i & 1), 2 * column + 8 * (i >> 1)
            of_a[:, rows[:, None], columns[:, None] + pair] = self._halves(register)
        for i, register in enumerate(b):
            rows = 2 * column + 8 * i
            of_b[:, rows[:, None] + pair, row[:, None]] = self._halves(register)
        places = [(row + 8 * (i >> 1), 2 * column + (i & 1)) for i in range(4)]
        for (rows, columns), register in zip(places, c, strict=True):
            total[:, rows, columns] = np.broadcast_to(register, self.count).reshape(warps, 32)
        for start in range(0, 16, _BLOCK_OF_PRODUCTS):
            block = slice(start, start + _BLOCK_OF_PRODUCTS)
            products = of_a[:, :, block, None] * of_b[:, None, block, :]
            total = _add_cut_off(np.concatenate([products, total[:, :, None, :]], 2))
        results = [total[:, rows, columns] for rows, columns in places]
        return [np.ascontiguousarray(x).astype("f4").reshape(-1) for x in results]

    def _halves(self, register: Array) -> Array:
        bits = np.ascontiguousarray(np.broadcast_to(register, self.count)).view("u2")
        return from_bf16(bits.reshape(-1, 32, 2)).astype("f8")


def _add_cut_off(terms: Array) -> Array:
    """Return sums over the third axis in fixed point, cut off to float32."""
    largest = np.frexp(np.abs(terms).max(2, keepdims=True))[1]
    scale = np.ldexp(1.0, np.clip(_BITS_OF_PRODUCTS - largest, -1000, 1000))
    total = round_to_zero((np.trunc(terms * scale) / scale).sum(2))
    return np.where(np.isfinite(terms).all(2), total, terms.sum(2))
