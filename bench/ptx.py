"""A machine for PTX, the code of NVIDIA's GPUs as Triton's compiler leaves it: a block of threads.

The interpreter of Triton runs a kernel's Python. What is run here is what its compiler made of it:
who of 256 threads holds which value, shuffles between them, asynchronous copies into shared memory,
and the barriers. An instruction is executed for all threads at once, as one numpy operation.

Beside the results it finds what a GPU would not tell, or by a crash alone: an access outside of
every tensor or not on a multiple of its width, shared memory that one warp reads or writes while
another writes it with no barrier between, an asynchronous copy read before it was waited for,
threads that write different values to one place.

Semantics are those of NVIDIA's "PTX ISA" 8 and 9. Not modelled: the last bits of approximations
(``ex2``, ``lg2``, ``rcp``, ``sqrt``, ``div.full``: here they are rounded rightly), the sign of a
zero that ``min`` and ``max`` give, the single rounding of ``fma`` in float32 (here by way of
float64, whose own may tip it), and time. An instruction that is not known raises.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

WARP = 32
SECTOR = 32
BANKS = 32
FLOATS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
COMPARISONS |= {f"{name}u": function for name, function in COMPARISONS.items()}


class Fault(Exception):
    """What a kernel does wrong."""


@dataclass
class Region:
    """A piece of global memory: bytes ``[N]`` from an address on; what went over the bus."""

    name: str
    start: int
    data: Array
    read: int = 0
    written: int = 0


class GlobalMemory:
    """The tensors of a launch, each access to which is checked."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions

    def parts(
        self, addresses: Array, width: int, lanes: Array, write: bool
    ) -> list[tuple[Array, Region, Array]]:
        """Which lanes access a region, the region, and where in it, ``[n, width]``."""
        found = []
        left = np.ones(len(addresses), bool)
        for region in self.regions:
            offset = addresses.astype(np.int64) - region.start
            here = left & (offset >= 0) & (offset + width <= len(region.data))
            if here.any():
                if (addresses[here] % width).any():
                    raise Fault(f"an access of {width} bytes to {region.name} is not aligned")
                sectors = lanes[here] // WARP * 2**48 + addresses[here].astype(np.int64) // SECTOR
                moved = len(np.unique(sectors)) * SECTOR
                if write:
                    region.written += moved
                else:
                    region.read += moved
                found.append((here, region, offset[here][:, None] + np.arange(width)))
                left &= ~here
        if left.any():
            raise Fault(
                f"an access of {width} bytes at {addresses[left][0]:#x}, outside of every tensor"
            )
        return found

    def load(self, addresses: Array, width: int, lanes: Array) -> Array:
        """Bytes ``[n, width]``."""
        out = np.empty((len(addresses), width), np.uint8)
        for here, region, places in self.parts(addresses, width, lanes, write=False):
            out[here] = region.data[places]
        return out

    def store(self, addresses: Array, values: Array, lanes: Array) -> None:
        """Bytes ``[n, width]``."""
        for here, region, places in self.parts(addresses, values.shape[1], lanes, write=True):
            region.data[places] = values[here]
            if (region.data[places] != values[here]).any():
                raise Fault(f"threads write different values to one place of {region.name}")


class SharedMemory:
    """Shared memory of a block, NaN at first; knows which warps used it since the barrier."""

    def __init__(self, size: int, warps: int) -> None:
        self.data = np.full(size, 0xFF, np.uint8)
        self.writer = np.full(size, -1, np.int64)
        self.read = np.zeros((warps, size), bool)
        self.copying = np.zeros(size, bool)
        # Passes over the banks that all accesses took, and would take if no two words of a pass
        # were of one bank.
        self.passes = self.least_passes = 0

    def count(self, addresses: Array, width: int, lanes: Array) -> None:
        """Each bank gives a word of 4 bytes at a time; a pass takes 128 bytes of one warp."""
        turn = lanes // WARP * 4 + lanes % WARP * max(width, 4) // 128
        words = addresses.astype(np.int64) // 4
        words = (words[:, None] + np.arange(max(width // 4, 1))).ravel()
        turn = np.repeat(turn, max(width // 4, 1))
        seen = np.unique(turn * 2**32 + words)
        banks, count = np.unique(seen // 2**32 * BANKS + seen % BANKS, return_counts=True)
        longest = np.zeros(int(turn.max()) + 1, np.int64)
        np.maximum.at(longest, banks // BANKS, count)
        self.passes += int(longest.sum())
        self.least_passes += len(np.unique(turn))

    def barrier(self) -> None:
        """What came before it is known to all."""
        self.writer[:] = -1
        self.read[:] = False

    def places(self, addresses: Array, width: int) -> Array:
        """``[n, width]``."""
        if (addresses % min(width, 16)).any():
            raise Fault(f"an access of {width} bytes to shared memory is not aligned")
        places = addresses.astype(np.int64)[:, None] + np.arange(width)
        for place in (int(places.min()), int(places.max())):
            if not 0 <= place < len(self.data):
                raise Fault(f"shared memory of {len(self.data)} bytes is accessed at {place}")
        return places

    def load(self, addresses: Array, width: int, lanes: Array) -> Array:
        """Bytes ``[n, width]``."""
        places, warps = self.places(addresses, width), lanes // WARP
        self.count(addresses, width, lanes)
        if self.copying[places].any():
            raise Fault("shared memory is read before the asynchronous copy to it was waited for")
        writer = self.writer[places]
        if ((writer >= 0) & (writer != warps[:, None])).any():
            raise Fault("a warp reads shared memory that another wrote, with no barrier between")
        self.read[warps[:, None], places] = True
        return self.data[places]

    def touch(self, places: Array, warps: Array) -> None:
        """Before bytes are written."""
        writer = self.writer[places]
        readers = self.read[:, places].sum(0) - self.read[warps[:, None], places]
        if ((writer >= 0) & (writer != warps[:, None])).any() or readers.any():
            raise Fault("a warp writes shared memory that another uses, with no barrier between")
        self.writer[places] = warps[:, None]

    def store(self, addresses: Array, values: Array, lanes: Array) -> None:
        """Bytes ``[n, width]``."""
        places = self.places(addresses, values.shape[1])
        self.count(addresses, values.shape[1], lanes)
        if self.copying[places].any():
            raise Fault("shared memory is written while an asynchronous copy writes it")
        self.touch(places, lanes // WARP)
        self.write(places, values)

    def copy(self, addresses: Array, width: int, lanes: Array) -> Array:
        """Begin a copy that may write from now on; the bytes' places ``[n, width]``."""
        places = self.places(addresses, width)
        self.count(addresses, width, lanes)
        if self.copying[places].any():
            raise Fault("an asynchronous copy begins while another writes to its place")
        self.touch(places, lanes // WARP)
        self.copying[places] = True
        return places

    def write(self, places: Array, values: Array) -> None:
        """All threads at once: where they disagreed, who comes last would not be known."""
        self.data[places] = values
        if (self.data[places] != values).any():
            raise Fault("threads write different values to one place of shared memory")


@dataclass
class Instruction:
    """``@guard name.modifiers operands``; a guard is a predicate and whether it is negated."""

    text: str
    number: int
    name: str
    modifiers: list[str]
    operands: list[Any]
    guard: tuple[str, bool] | None
    run: Callable[["Block", Array | None], Array | None] = field(init=False)


@dataclass
class Program:
    """A kernel's instructions, where its labels are, names and bits of its parameters, threads."""

    instructions: list[Instruction]
    labels: dict[str, int]
    parameters: list[tuple[str, int]]
    threads: int


class Block:
    """The threads of one program: registers ``[T]``, shared memory, copies under way."""

    def __init__(
        self,
        program: Program,
        arguments: dict[str, Array],
        memory: GlobalMemory,
        shared: int,
        place: tuple[int, int, int],
        grid: tuple[int, int, int],
    ) -> None:
        self.program, self.arguments, self.memory = program, arguments, memory
        self.threads = program.threads
        self.lanes = np.arange(self.threads)
        self.warps = self.lanes // WARP
        self.registers: dict[str, Array] = {}
        self.shared = SharedMemory(shared, self.threads // WARP)
        self.groups: list[list[tuple[Array, Array, Array]]] = []
        self.copies: list[tuple[Array, Array, Array]] = []
        self.special = {"%tid.x": self.lanes.astype(np.uint32)}
        for axis, at, count in zip("xyz", place, grid, strict=True):
            self.special[f"%ctaid.{axis}"] = np.full(1, at, np.uint32)
            self.special[f"%nctaid.{axis}"] = np.full(1, count, np.uint32)
        # Instructions, of every path where threads go apart.
        self.executed = 0

    def run(self) -> None:
        """Until every thread has returned: of those that are apart, the ones behind go first."""
        instructions, end = self.program.instructions, len(self.program.instructions)
        together = 0
        while together < end:
            instruction = instructions[together]
            jump = self.step(instruction, None)
            if jump is None:
                together += 1
                continue
            at = jump
            while (at != at[0]).any():
                first = int(at.min())
                active = at == first
                jump = self.step(instructions[first], active)
                at = np.where(active, first + 1 if jump is None else jump, at)
            together = int(at[0])

    def step(self, instruction: Instruction, active: Array | None) -> Array | None:
        """One instruction for the active threads, None: all; where they go on, None: behind it."""
        self.executed += 1
        if instruction.guard and instruction.name != "bra":
            name, negated = instruction.guard
            guard = self.predicate(name) != negated
            guard = np.broadcast_to(guard, (self.threads,))
            active = guard if active is None else active & guard
            if active.all():
                active = None
        try:
            return instruction.run(self, active)
        except Fault as fault:
            raise Fault(f"{fault}, in: {instruction.text}") from None

    def read(self, operand: Any, kind: str) -> Array:
        """An operand as numbers of a type, of each thread or ``[1]`` of all."""
        value: Array = operand
        if isinstance(operand, str):
            value = self.special[operand] if operand in self.special else self.register(operand)
        if value.dtype == bool:
            return value
        bits = width_of(kind)
        if value.itemsize * 8 != bits:
            value = value.astype(UNSIGNED[bits])
        return as_kind(value, kind)

    def predicate(self, name: str) -> Array:
        """``[T]`` or ``[1]`` of bool."""
        if name not in self.registers:
            raise Fault(f"{name} is read, and was never written")
        return self.registers[name]

    def register(self, name: str) -> Array:
        """The bits of a register; one that nothing was written to holds those of a NaN."""
        if name not in self.registers:
            bits = register_width(name)
            self.registers[name] = np.full(self.threads, 2**bits - 1, UNSIGNED[bits])
        return self.registers[name]

    def write(self, name: str, value: Array, active: Array | None) -> None:
        """Numbers ``[T]`` or ``[1]`` to a register, of the active threads."""
        if name[0] != "%":  # A part that is not wanted.
            return
        if value.dtype != bool:
            bits = register_width(name)
            if value.itemsize * 8 != bits:
                signed = value.dtype.kind == "i"
                value = value.astype((SIGNED if signed else UNSIGNED)[bits])
            value = value.view(UNSIGNED[bits])
        if active is None:
            self.registers[name] = np.broadcast_to(value, (self.threads,))
        elif name in self.registers or value.dtype != bool:
            old = self.registers[name] if value.dtype == bool else self.register(name)
            self.registers[name] = np.where(active, value, old)
        else:
            self.registers[name] = np.where(active, value, False)

    def address(self, operand: tuple[Any, int]) -> Array:
        """Addresses ``[T]`` in bytes."""
        base, offset = operand
        if base == "global_smem":
            return np.full(self.threads, offset, np.int64)
        value = self.register(base)
        # A 32-bit register is an address in shared memory, where an offset may be negative.
        return value.astype(np.int64) + offset

    def wait(self, left: int) -> None:
        """Until no more than so many groups of asynchronous copies are under way."""
        while len(self.groups) > left:
            for places, values, warps in self.groups.pop(0):
                self.shared.copying[places] = False
                self.shared.touch(places, warps)
                self.shared.write(places, values)


def as_kind(bits: Array, kind: str) -> Array:
    """Unsigned integers as numbers of the type whose bits they are; bf16 as float32."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind in FLOATS:
        return bits.view(FLOATS[kind])
    return bits.view((SIGNED if kind[0] == "s" else UNSIGNED)[bits.itemsize * 8])


@cache
def width_of(kind: str) -> int:
    """Bits of a type such as ``f32`` or ``bf16``."""
    match = re.fullmatch(r"(?:bf|[busf])(\d+)", kind)
    if not match:
        raise Fault(f"{kind} is no type")
    return int(match[1])


@cache
def register_width(name: str) -> int:
    """Bits of a register, by its name."""
    kind = re.fullmatch(r"%(rs|h|r|f|hh|rd|fd)\d+", name)
    if not kind:
        raise Fault(f"{name} is no register that is modelled")
    return {"rs": 16, "h": 16, "r": 32, "f": 32, "hh": 32, "rd": 64, "fd": 64}[kind[1]]


def to_bf16(value: Array) -> Array:
    """float32 to the nearest bf16, ties to even, as bits of 16."""
    bits = value.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(value), 0x7FFF, rounded).astype(np.uint16)


def flushed(value: Array, instruction: Instruction) -> Array:
    """With ``.ftz``, a subnormal float32 is 0 with its sign."""
    if "ftz" in instruction.modifiers and value.dtype == np.float32:
        tiny = np.abs(value) < np.finfo(np.float32).smallest_normal
        return np.where(tiny, np.copysign(np.float32(0), value), value)
    return value
