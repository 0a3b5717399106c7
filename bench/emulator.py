"""Run Triton's machine code for AMD's GPUs on the CPU, instruction by instruction.

What an instruction does is AMD's pseudocode, in the form in which a checkout of tinygrad (MIT)
compiles it for the CPU. This file has what is around an instruction: the program, its arguments,
waves and workgroups in any order, barriers, and when a store is seen: once it has been waited for.
It checks accesses against the tensors that a kernel was given; registers and local memory begin as
NaN.

Of tinygrad's emulator it replaces what is wrong or absent at ``COMMIT``, from AMD's documents:
lanes that read each other's registers (DPP, v_permlane), the result of CDNA's atomics, local memory
touched by lanes that are off or read into half a register, and the cache's instructions, which do
nothing here. It says nothing of time, of caches, or of loads that are not waited for.
"""

import ctypes
import importlib
import mmap
import os
import random
import re
import shutil
import struct
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from triton.backends.compiler import GPUTarget

from bench.host import StubDriver
from focus.errors import InputError

COMMIT = "a9069c1"
"""The commit of tinygrad whose emulator this file mends."""
ISAS = {"gfx1100": ("rdna3", 32), "gfx942": ("cdna", 64)}
ORDERS = ("forward", "reverse", "shuffle", "interleave")
"""Of workgroups, whose waves take turns at random; interleave: all waves of all workgroups do."""
BURST = 20
"""Instructions that a wave does at most before another's turn comes, where all interleave."""
BY_HAND = "BUFFER_(INV|WBL2)|V_PERMLANE"
NAN, LDS_WORDS = 0x7FC0BEEF, 16384
PC, EXEC = 256, 126  # places among the scalar registers

emu: Any = None
"""tinygrad's test.mockgpu.amd.emu, once it is loaded."""
_copied = np.zeros(128, np.uint32)
"""What each lane reads of another, then whether it takes it."""


class Fault(Exception):
    """A kernel touched memory that is no tensor's."""


def load(checkout: Path) -> None:
    """Import tinygrad's emulator from a checkout, and mend it; InputError where it cannot be."""
    global emu
    if not (checkout / "test/mockgpu/amd/emu.py").exists():
        raise InputError(f"{checkout} is no checkout of tinygrad: clone it at commit {COMMIT}.")
    compiler = next(filter(shutil.which, ("clang", "clang-19", "clang-14")), None)
    if compiler is None:
        raise InputError("The emulator takes clang, and finds none: install it.")
    os.environ.setdefault("CC", compiler)
    sys.path.insert(0, str(checkout))
    emu = importlib.import_module("test.mockgpu.amd.emu")
    attribute = emu._iattr

    def copied(ctx: Any, inst: Any, lane: Any, fallback: Any) -> Any:
        read, index = emu.UOp.param(6, emu.dtypes.uint32, (128,)), lane.cast(emu.dtypes.int)
        taken = read.index(index + emu._c(64, emu.dtypes.int)).load().ne(emu._c(0))
        return taken.where(read.index(index).load(), fallback)

    def mended(inst: Any, name: str, default: int = 0) -> Any:
        return attribute(inst, "sc0" if name == "glc" and hasattr(inst, "sc0") else name, default)

    emu._load_dpp16_src0, emu._iattr = copied, mended


def neighbours(control: int, size: int) -> tuple[Any, Any]:
    """Return the lane that each lane reads by a DPP control, and where there is one."""
    lane, n = np.arange(size), control & 15
    row, i, always = lane & ~15, lane & 15, lane >= 0
    if control < 0x100:
        return (lane & ~3) + (control >> 2 * (lane & 3) & 3), always
    if control in (0x142, 0x143):
        return (row - 1, row > 0) if n == 2 else (lane * 0 + 31, row > 16)
    return {
        0x100: (lane + n, i + n < 16), 0x110: (lane - n, i >= n),
        0x120: (row + (i - n) % 16, always), 0x140: (lane ^ (7 if n else 15), always),
        0x150: (row + n, always), 0x160: (row + (i ^ n), always),
    }[control & 0x1F0]  # fmt: skip


def width_of(op: str) -> int:
    """Return the bytes that each lane moves."""
    if found := re.search(r"[UIB](8|16|32|64|96|128)(?=$|_)", op):
        return int(found[1]) // 8
    found = re.search(r"(BYTE|SHORT|DWORD)(?:X(\d))?", op)
    return {"BYTE": 1, "SHORT": 2, "DWORD": 4}[found[1]] * int(found[2] or 1) if found else 4


class Code:
    """A compiled kernel in memory."""

    def __init__(self, name: str, elf: bytes, target: str) -> None:
        self.name, (self.isa, self.size) = name, ISAS[target]
        (segments, sections), (_, count, _, tables) = (
            struct.unpack_from("<QQ", elf, 32), struct.unpack_from("<4H", elf, 54)
        )  # fmt: skip
        parts = [struct.unpack_from("<IIQQQQQ", elf, segments + 56 * i) for i in range(count)]
        self.memory = mmap.mmap(-1, max(part[3] + part[6] for part in parts) + 4096)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for _, _, offset, address, _, length, _ in (part for part in parts if part[0] == 1):
            self.memory[address : address + length] = elf[offset : offset + length]
        heads = [struct.unpack_from("<IIQQQQI", elf, sections + 64 * i) for i in range(tables)]
        ((symbols, link),) = [((head[4], head[5]), head[6]) for head in heads if head[1] == 11]
        places = {}
        for entry in range(symbols[0], sum(symbols), 24):
            offset, _, value = struct.unpack_from("<IIQ", elf, entry)
            start = heads[link][4] + offset
            places[elf[start : elf.index(b"\0", start)].decode()] = value
        kernel_at = places[f"{self.name}.kd"]
        _, self.scratch, _, _, entry = struct.unpack_from("<IIIIq", self.memory, kernel_at)
        (self.resources,) = struct.unpack_from("<I", self.memory, kernel_at + 52)
        self.entry = self.base + kernel_at + entry
        self.program: dict[int, tuple[Any, Any, Any]] = {}

    def at(self, pc: int) -> tuple[Any, Any, Any]:
        """Return the instruction there, tinygrad's function that does it, and its buffers."""
        if pc not in self.program:
            data = ctypes.string_at(pc, 16)
            inst = function = buffers = None
            if self.isa != "rdna3" or data[3] >> 2 != 0b111000:  # buffer_gl0_inv, buffer_gl1_inv
                inst = emu.decode_inst(data, self.isa)
                if not re.match(BY_HAND, emu._op_name(inst)):
                    program, runtime = emu._get_runner(data[: inst.size() + 4], self.isa)
                    function, buffers = runtime.fxn, program.arg.globals
            self.program[pc] = inst, function, buffers
        return self.program[pc]


class Report:
    """What a launch did: bytes by kind and tensor, and what it may not do."""

    def __init__(self, name: str) -> None:
        self.name, self.bytes, self.faults = name, Counter[tuple[str, str]](), list[str]()


class Group:
    """A workgroup: its waves and its local memory."""

    def __init__(self, code: Code, number: int, threads: int, arguments: int) -> None:
        self.number = number
        self.lds = np.full(LDS_WORDS, NAN, np.uint32)
        self.waves = [Wave(code, self, i, threads, arguments) for i in range(threads // code.size)]

    def pass_barrier(self) -> "list[Wave]":
        """Let the waves go on that wait, if all that live do."""
        alive = [wave for wave in self.waves if wave.state != "done"]
        alive = alive if all(wave.state == "barrier" for wave in alive) else []
        for wave in alive:
            wave.state = "run"
        return alive


class Wave:
    """The registers of 32 or 64 lanes, and the stores that others need not see yet."""

    def __init__(self, code: Code, group: Group, index: int, threads: int, arguments: int) -> None:
        self.group, self.index, self.size, self.state = group, index, code.size, "run"
        self.held = emu._init_wave(
            code.entry, index * code.size, threads, threads, 1, 1, arguments, code.resources,
            code.scratch, code.isa, group.number, 0, 0,
            [arguments & 0xFFFFFFFF, arguments >> 32], code.size,
        )  # fmt: skip
        self.scratch = np.zeros(max(code.scratch * code.size, 4), np.uint8)
        scalar, vector, more = (
            x._buf.va_addr for x in (self.held.sgpr_buf, self.held.vgpr_buf, self.held.accvgpr_buf)
        )
        own = (group.lds.ctypes.data, self.scratch.ctypes.data, more, _copied.ctypes.data)
        self.buffers = [ctypes.c_uint64(x) for x in (scalar, vector, 0, *own)]
        self.vector = np.asarray(self.held._vgpr_mv).reshape(256, code.size)
        self.vector[1:] = NAN
        self.scalar = np.asarray(self.held._sgpr_mv)
        self.stores: list[tuple[list[int], list[bytes]]] = []  # on their way
        self.before_barrier = 0  # how many of them were there at the last barrier

    def lanes(self) -> Any:
        """Return the lanes that are on."""
        bits = self.scalar[EXEC : EXEC + self.size // 32].copy().view(np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def arrive(self, left: int = 0) -> None:
        """Let all but the last stores be seen."""
        while len(self.stores) > left:
            for address, new in zip(*self.stores.pop(0), strict=True):
                ctypes.memmove(address, new, len(new))
        self.before_barrier = min(self.before_barrier, left)


class Emulator:
    """Executes launches in an order; ``launches`` says what each did."""

    def __init__(self, order: str = "forward", seed: int = 0) -> None:
        self.order, self.seed, self.launches = order, seed, list[Report]()

    def launch(
        self, code: Code, programs: int, threads: int, arguments: bytes, tensors: dict[str, Any]
    ) -> None:
        """Run a kernel; tensors: those that it may touch, by the names of its arguments."""
        draw = random.Random(self.seed + len(self.launches))
        self.report = Report(code.name)
        self.launches.append(self.report)
        kept = ctypes.create_string_buffer(len(arguments) + 128)
        place = (ctypes.addressof(kept) + 63) // 64 * 64
        ctypes.memmove(place, arguments, len(arguments))
        memory = {t.untyped_storage().data_ptr(): (t, name) for name, t in tensors.items()}
        ranges = sorted((a, a + t.untyped_storage().nbytes(), n) for a, (t, n) in memory.items())
        starts, ends, self.names = zip(*ranges, strict=True)
        self.starts, self.ends = np.array(starts), np.array(ends)
        numbers = list(range(programs))[:: -1 if self.order == "reverse" else 1]
        if self.order in ("shuffle", "interleave"):
            draw.shuffle(numbers)
        together = programs if self.order == "interleave" else 1
        groups = []
        for first in range(0, programs, together):
            new = [Group(code, n, threads, place) for n in numbers[first : first + together]]
            groups += new
            running = [wave for group in new for wave in group.waves]
            while running:
                wave = draw.choice(running)
                self.run(code, wave, draw.randint(1, BURST) if together > 1 else 10**9)
                if wave.state != "run":
                    running.remove(wave)
                    running += wave.group.pass_barrier()
        for wave in (wave for group in groups for wave in group.waves):
            wave.arrive()

    def run(self, code: Code, wave: Wave, steps: int) -> None:
        """Do some instructions of a wave, or up to a barrier or its end."""
        for _ in range(steps):
            pc = wave.held.pc
            if pc == emu.ENDPGM_PC:
                wave.state = "done"
                return
            inst, function, buffers = code.at(pc)
            name = "BUFFER_INV" if inst is None else emu._op_name(inst)
            if function is None:
                do_by_hand(wave, inst, name)
                wave.held.pc = pc + (8 if inst is None else inst.size())
                continue
            after = self.watch(wave, inst, name, pc - code.base)
            if 6 in buffers:
                copy_neighbours(wave, inst)
            function(*[wave.buffers[i] for i in buffers])
            if after is not None:
                after()
            if name == "S_BARRIER":
                wave.state = "barrier"
                return

    def watch(self, wave: Wave, inst: Any, name: str, pc: int) -> Any:
        """Check an instruction's accesses; return what is to be done after it, if anything."""
        kind = type(inst).__name__
        if name == "S_BARRIER":
            wave.before_barrier = len(wave.stores)
        elif name == "S_WAITCNT" and wave.size == 64:  # CDNA counts stores with loads
            wave.arrive(inst.simm16 & 15 | inst.simm16 >> 14 << 4 & 48)
        elif name == "S_WAITCNT_VSCNT":
            wave.arrive(inst.simm16 & 63)
        elif kind in ("GLOBAL", "FLAT"):
            return self.watch_memory(wave, inst, name, pc)
        elif kind == "DS" and not re.search("PERMUTE|SWIZZLE", name):
            # Lanes that are off go where one that is on goes; half a register keeps its other half.
            row, on = wave.vector[inst.addr.offset - 256], wave.lanes()
            off, to = np.setdiff1d(np.arange(wave.size), on), wave.vector[inst.vdst.offset - 256]
            kept, old, row[off] = row[off].copy(), to.copy(), row[on[0]] if len(on) else 0

            def mend() -> None:
                if re.search("(LOAD|READ).*D16", name):
                    high = 16 if "HI" in name else 0
                    to[on] = (to[on] & 0xFFFF) << high | old[on] & (0xFFFF0000 >> high)
                row[off] = kept

            return mend
        return None

    def watch_memory(self, wave: Wave, inst: Any, name: str, pc: int) -> Any:
        """Check a load, store or atomic of global memory, and keep a store back."""
        on, width, register = wave.lanes(), width_of(name), inst.addr.offset - 256
        places = wave.vector[register][on].astype(np.int64) + inst.offset
        places -= (inst.offset >> 12 & 1) << 13
        scalar = inst.saddr.offset if inst.saddr is not None else 125
        if scalar < 124:
            places += int(wave.scalar[scalar]) | int(wave.scalar[scalar + 1]) << 32
        else:
            places += wave.vector[register + 1][on].astype(np.int64) << 32
        tensor = np.searchsorted(self.starts, places, side="right") - 1
        if (tensor < 0).any() or (places + width > self.ends[tensor]).any():
            raise Fault(f"{self.report.name}: {name} at {pc:#x} outside of every tensor")
        (kind,) = re.findall("ATOMIC|STORE|LOAD", name)
        for index in np.unique(tensor):
            moved = width * int((tensor == index).sum())
            self.report.bytes[kind.lower(), self.names[index]] += moved
        addresses = places.tolist()
        if kind == "ATOMIC":
            if any(w.stores if w is wave else w.before_barrier for w in wave.group.waves) and len(
                on
            ):
                self.report.faults.append(f"atomic at {pc:#x} while stores may be on their way")
            return None
        if kind == "LOAD":
            for other in wave.group.waves:  # whose stores its own workgroup sees
                other.arrive()
            return None
        old = [ctypes.string_at(address, width) for address in addresses]

        def keep_back() -> None:
            new = [ctypes.string_at(address, width) for address in addresses]
            wave.stores.append((addresses, new))
            for address, before in zip(addresses, old, strict=True):
                ctypes.memmove(address, before, width)

        return keep_back


def do_by_hand(wave: Wave, inst: Any, name: str) -> None:
    """Do what tinygrad does not, or not as AMD's documents say."""
    lane, on = np.arange(wave.size), wave.lanes()
    if name.startswith("BUFFER"):
        wave.arrive(0 if "WBL2" in name else len(wave.stores))
    else:  # v_permlane: each lane names one of its row, or of the row beside it
        low, high = (
            inst.literal if source.offset == 255 else int(wave.scalar[source.offset])
            for source in (inst.src1, inst.src2)
        )
        of_row = np.array([(high << 32 | low) >> 4 * i & 15 for i in range(16)])[lane & 15]
        source = ((lane & ~15) ^ (16 if "X16" in name else 0)) + of_row
        there = np.isin(source, on) | bool(inst.opsel & 1)
        values = np.where(there, wave.vector[inst.src0.offset - 256][source], 0)
        taken = on[there[on] | bool(inst.opsel & 2)]
        wave.vector[inst.vdst.offset - 256][taken] = values[taken]


def copy_neighbours(wave: Wave, inst: Any) -> None:
    """Leave what each lane reads of another, as it was before the instruction."""
    source, there = neighbours(inst.dpp, wave.size)
    lane = np.arange(wave.size)
    enabled = (inst.row_mask >> (lane >> 4) & inst.bank_mask >> (lane >> 2 & 3) & 1) > 0
    there = there & (np.isin(source, wave.lanes()) | bool(emu._iattr(inst, "fi")))
    row = wave.vector[inst.vsrc0.offset - 256]
    _copied[: wave.size] = np.where(there, row[np.where(there, source, 0)], 0)
    _copied[64 : 64 + wave.size] = enabled & (there | bool(inst.bc))


class EmulatedDriver(StubDriver):
    """Triton's driver of a GPU that is an emulator; its tensors are the CPU's."""

    def __init__(self, target: str, emulator: Emulator) -> None:
        super().__init__(GPUTarget("hip", target, ISAS[target][1]))
        self.emulator = emulator
        self.launcher_cls = self.launcher  # type: ignore[method-assign]
        self.utils = SimpleNamespace(  # type: ignore[assignment]
            load_binary=lambda name, elf, *_: (None, Code(name, elf, target), 0, 0, 1024),
            get_device_properties=lambda _: {"max_shared_mem": 4 * LDS_WORDS},
            unload_module=lambda _: None,
        )

    def launcher(self, source: Any, metadata: Any) -> Any:
        """Return what launches a kernel with arguments of these types."""

        def launch(x: int, y: int, z: int, _: int, code: Code, *given: Any) -> None:
            assert (y, z) == (1, 1)
            data, tensors = b"", dict[str, Any]()
            for (name, kind), value in zip(source.signature.items(), given[4:], strict=True):
                if kind != "constexpr":
                    if kind.startswith("*"):
                        tensors[name], kind, value = value, "i64", value.data_ptr()
                    packed = struct.pack({"i32": "<i", "i64": "<q", "fp32": "<f"}[kind], value)
                    data += b"\0" * (-len(data) % len(packed)) + packed
            threads = metadata.num_warps * metadata.warp_size
            self.emulator.launch(code, x, threads, data + b"\0" * 256, tensors)

        return launch
