"""Run Triton's machine code for AMD's GPUs on the CPU, instruction by instruction.

What an instruction does is AMD's pseudocode, from the documents of its instruction sets, in the
form in which a checkout of tinygrad (MIT) compiles it for the CPU. This file has what is around an
instruction: the program, arguments, waves and workgroups in any order, barriers, when a store is
seen. It checks each access against the tensors that a kernel was given; registers and local memory begin
as NaN.

Of tinygrad's emulator it replaces what is wrong or absent at ``COMMIT``: lanes that read each
other's registers (DPP, v_permlane: from the documents, so by the same hand as this project), the
result of CDNA's atomics, local memory touched by lanes that are off, and the cache's instructions,
which do nothing here. It says nothing of time, of caches, or of loads that are not waited for.
"""

import ctypes
import mmap
import os
import random
import re
import shutil
import struct
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime.driver import driver

from bench.host import StubDriver
from focus.errors import InputError

COMMIT = "a9069c1"
"""The commit of tinygrad whose emulator this file mends."""
ISAS = {"gfx1100": ("rdna3", 32), "gfx942": ("cdna", 64)}
ORDERS = ("serial", "reverse", "shuffle", "interleave")
BURST = 20
"""Instructions that a wave does at most before another's turn comes, where all interleave."""
NAN = 0x7FC0BEEF
PC_LOW, EXEC_LOW = 256, 126

Lanes = npt.NDArray[np.int64]
emu: Any = None
"""tinygrad's test.mockgpu.amd.emu, once it is loaded."""
_copied = (ctypes.c_uint32 * 128)()  # a lane's neighbour's value, then whether it takes it


class Fault(Exception):
    """A kernel did what it may not."""


def load(checkout: Path) -> None:
    """Import tinygrad's emulator from a checkout, and mend it.

    Raises:
        InputError: there is no such emulator, or no clang, which compiles the instructions.
    """
    global emu
    if not (checkout / "test/mockgpu/amd/emu.py").exists():
        raise InputError(f"{checkout} is no checkout of tinygrad: see {COMMIT} of its repository.")
    compiler = next(filter(shutil.which, ("clang", "clang-19", "clang-14")), None)
    if compiler is None:
        raise InputError("The emulator compiles instructions with clang, and found none: install it.")
    os.environ.setdefault("CC", compiler)
    sys.path.insert(0, str(checkout))
    import test.mockgpu.amd.emu as found

    emu, attribute = found, found._iattr

    def copied(ctx: Any, inst: Any, lane: Any, fallback: Any) -> Any:
        before = emu.UOp.param(6, emu.dtypes.uint32, (128,))
        index = lane.cast(emu.dtypes.int)
        taken = before.index(index + emu._c(64, emu.dtypes.int)).load().ne(emu._c(0))
        return taken.where(before.index(index).load(), fallback)

    def mended(inst: Any, name: str, default: int = 0) -> Any:
        return attribute(inst, "sc0" if name == "glc" and hasattr(inst, "sc0") else name, default)

    emu._load_dpp16_src0, emu._iattr = copied, mended


def neighbours(control: int, size: int) -> tuple[Lanes, npt.NDArray[np.bool_]]:
    """Return the lane that each lane reads by a DPP control, and whether there is one."""
    lane = np.arange(size)
    row, i, n = lane & ~15, lane & 15, control & 15
    always = np.full(size, True)
    if control < 0x100:
        return (lane & ~3) + (control >> 2 * (lane & 3) & 3), always
    kinds = {
        0x100: (lane + n, i + n < 16),
        0x110: (lane - n, i >= n),
        0x120: (row + (i - n) % 16, always),
        0x150: (row + n, always),
        0x160: (row + (i ^ n), always),
    }
    singles = {
        0x140: (row + 15 - i, always),
        0x141: (lane ^ 7, always),
        0x142: (row - 1, lane >= 16),
        0x143: (np.full(size, 31), lane >= 32),
    }
    found = singles.get(control) or kinds.get(control & 0x1F0)
    if found is None:
        raise NotImplementedError(f"DPP control {control:#x}")
    return found


class Code:
    """A compiled kernel in memory."""

    def __init__(self, kernel: Any) -> None:
        self.name = kernel.metadata.name
        self.isa, self.size = ISAS[kernel.metadata.target.arch]
        elf = kernel.asm["hsaco"]
        segments, sections = struct.unpack_from("<QQ", elf, 32)
        _, count, _, tables, _ = struct.unpack_from("<5H", elf, 54)
        parts = [struct.unpack_from("<IIQQQQQQ", elf, segments + 56 * i) for i in range(count)]
        parts = [part for part in parts if part[0] == 1]
        self.memory = mmap.mmap(-1, max(part[3] + part[6] for part in parts) + 4096)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for _, _, offset, address, _, length, *_ in parts:
            self.memory[address : address + length] = elf[offset : offset + length]
        places = {}
        heads = [struct.unpack_from("<IIQQQQIIQQ", elf, sections + 64 * i) for i in range(tables)]
        for _, kind, _, _, offset, length, link, *_ in heads:
            for entry in range(offset, offset + length, 24) if kind in (2, 11) else ():
                name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", elf, entry)
                start = heads[link][4] + name
                places[elf[start : elf.index(b"\0", start)].decode()] = value
        descriptor = places[f"{self.name}.kd"]
        _, self.scratch, _, _, entry = struct.unpack_from("<IIIIq", self.memory, descriptor)
        _, _, self.resources, _ = struct.unpack_from("<IIIH", self.memory, descriptor + 44)
        self.entry = self.base + descriptor + entry
        text = re.search(r"\.amdgpu_metadata\n(.*?)\n\s*\.end_", kernel.asm["amdgcn"], re.DOTALL)
        assert text is not None
        (described,) = yaml.safe_load(text[1])["amdhsa.kernels"]
        self.slots = described[".args"]
        self.program: dict[int, tuple[Any, Any, Any]] = {}

    def at(self, pc: int) -> tuple[Any, Any, Any]:
        """Return the instruction there, tinygrad's function that does it, and its buffers."""
        if pc not in self.program:
            data = bytes((ctypes.c_char * 16).from_address(pc).raw)
            if self.isa == "rdna3" and data[3] >> 2 == 0b111000:  # buffer_gl0_inv, buffer_gl1_inv
                self.program[pc] = None, None, None
            else:
                inst = emu.decode_inst(data, self.isa)
                by_hand = re.match("BUFFER_(INV|WBL2)|V_PERMLANE", emu._op_name(inst))
                found = (None, None) if by_hand else self._compiled(data, inst)
                self.program[pc] = inst, *found
        return self.program[pc]

    def _compiled(self, data: bytes, inst: Any) -> tuple[Any, Any]:
        program, runtime = emu._get_runner(data[: inst.size() + 4], self.isa)
        return runtime.fxn, program.arg.globals


WIDTHS = {"8": 1, "BYTE": 1, "16": 2, "SHORT": 2, "32": 4, "64": 8, "96": 12, "128": 16}
WIDTHS |= {"DWORD": 4, "DWORDX2": 8, "DWORDX3": 12, "DWORDX4": 16}


def width_of(op: str) -> int:
    """Return the bytes that each lane moves."""
    found = re.search(r"(DWORDX?\d?|BYTE|SHORT|(?<=[UIBF])(?:128|96|64|32|16|8))(?=$|_D16|_HI)", op)
    return WIDTHS[found[1]] if found else 4


@dataclass
class Report:
    """What a launch did: bytes by kind and tensor, and what it may not do."""

    name: str
    programs: int
    instructions: int = 0
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Group:
    """A workgroup: its waves, its local memory, and what its cache holds."""

    def __init__(self, code: Code, number: int, threads: int, arguments: int) -> None:
        self.number = number
        self.lds = emu.Buffer("CPU", 16384, emu.dtypes.uint32).ensure_allocated()
        place = self.lds._buf.va_addr
        np.frombuffer((ctypes.c_uint32 * 16384).from_address(place), np.uint32)[:] = NAN
        self.cache: dict[int, bytes] = {}
        self.waves = [Wave(code, self, i, threads, arguments) for i in range(threads // code.size)]

    def pass_barrier(self) -> "list[Wave]":
        """Let the waves go on that wait, if all that live do."""
        alive = [wave for wave in self.waves if wave.state != "done"]
        if any(wave.state != "barrier" for wave in alive):
            return []
        for wave in alive:
            wave.state = "run"
        return alive


class Wave:
    """The registers of 32 or 64 lanes, and the stores that others need not see yet."""

    def __init__(self, code: Code, group: Group, index: int, threads: int, arguments: int) -> None:
        self.group, self.index, self.size, self.state = group, index, code.size, "run"
        low_high = [arguments & 0xFFFFFFFF, arguments >> 32]
        self.held = emu._init_wave(
            code.entry, index * code.size, threads, threads, 1, 1, arguments, code.resources,
            code.scratch, code.isa, group.number, 0, 0, low_high, code.size,
        )  # fmt: skip
        held = self.held
        scratch = emu.Buffer("CPU", max(code.scratch * code.size, 4), emu.dtypes.uint8)
        self.scratch = scratch.ensure_allocated()
        buffers = (held.sgpr_buf, held.vgpr_buf, VMEM, group.lds, self.scratch, held.accvgpr_buf)
        places = [x._buf.va_addr if x is not VMEM else 0 for x in buffers]
        self.buffers = [ctypes.c_uint64(x) for x in (*places, ctypes.addressof(_copied))]
        self.vector = np.frombuffer(held._vgpr_mv, np.uint32).reshape(256, code.size)
        self.vector[1:] = NAN
        self.scalar = np.frombuffer(held._sgpr_mv, np.uint32)
        self.stores: list[tuple[list[int], list[bytes]]] = []  # on their way
        self.before_barrier = 0  # how many of them were there at the last barrier

    def lanes(self) -> Lanes:
        """Return the lanes that are on."""
        mask = int(self.scalar[EXEC_LOW])
        if self.size == 64:
            mask |= int(self.scalar[EXEC_LOW + 1]) << 32
        bits = np.frombuffer(mask.to_bytes(8, "little"), np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def arrive(self, left: int) -> None:
        """Let all but the last stores be seen."""
        while len(self.stores) > left:
            for address, new in zip(*self.stores.pop(0), strict=True):
                ctypes.memmove(address, new, len(new))
        self.before_barrier = min(self.before_barrier, left)

    def jump(self, size: int) -> None:
        """Go on behind an instruction."""
        self.held.pc = self.held.pc + size


VMEM = object()  # all of memory, from address 0


class Emulator:
    """Executes launches, in an order; stores are seen late: once they have been waited for."""

    def __init__(self, order: str = "serial", seed: int = 0) -> None:
        self.order, self.seed, self.launches = order, seed, list[Report]()

    def launch(
        self, code: Code, programs: int, threads: int, arguments: bytes, tensors: dict[str, Any]
    ) -> None:
        """Run a kernel; tensors: those that it may touch, by the names of its arguments."""
        draw = random.Random(self.seed + len(self.launches))
        self.report = Report(code.name.strip("_"), programs)
        self.launches.append(self.report)
        kept = ctypes.create_string_buffer(len(arguments) + 128)
        place = (ctypes.addressof(kept) + 63) // 64 * 64
        ctypes.memmove(place, arguments, len(arguments))
        ranges = {t.untyped_storage().data_ptr(): (t, n) for n, t in tensors.items()}
        ordered = sorted((a, a + t.untyped_storage().nbytes(), n) for a, (t, n) in ranges.items())
        self.starts = np.array([start for start, _, _ in ordered], np.int64)
        self.ends = np.array([end for _, end, _ in ordered], np.int64)
        self.names = [name for _, _, name in ordered]
        numbers = list(range(programs))
        if self.order == "reverse":
            numbers.reverse()
        elif self.order != "serial":
            draw.shuffle(numbers)
        together = len(numbers) if self.order == "interleave" else 1
        groups = []
        for first in range(0, len(numbers), together):
            new = [Group(code, n, threads, place) for n in numbers[first : first + together]]
            groups += new
            running = [wave for group in new for wave in group.waves]
            while running:
                wave = draw.choice(running) if self.order != "serial" else running[0]
                steps = draw.randint(1, BURST) if together > 1 else 10**9
                self.run(code, wave, steps)
                if wave.state != "run":
                    running.remove(wave)
                    running += wave.group.pass_barrier()
        for group in groups:
            for wave in group.waves:
                wave.arrive(0)

    def run(self, code: Code, wave: Wave, steps: int) -> None:
        """Do some instructions of a wave, or up to a barrier or its end."""
        registers = wave.held._sgpr_mv
        for done in range(1, steps + 1):
            pc = registers[PC_LOW] | registers[PC_LOW + 1] << 32
            if pc == emu.ENDPGM_PC:
                wave.state = "done"
                break
            inst, function, buffers = code.at(pc)
            name = "BUFFER_INV" if inst is None else emu._op_name(inst)
            if function is None:
                self.by_hand(wave, inst, name)
                continue
            after = self.watch(wave, inst, name, pc - code.base)
            if 6 in buffers:
                self.copy_neighbours(wave, inst)
            function(*[wave.buffers[i] for i in buffers])
            if after is not None:
                after()
            if name == "S_BARRIER":
                wave.state = "barrier"
                break
        self.report.instructions += done

    def by_hand(self, wave: Wave, inst: Any, name: str) -> None:
        """Do what tinygrad does not: the cache's instructions, and lanes of a row of another."""
        if name.startswith("BUFFER"):
            if "INV" in name:
                wave.group.cache.clear()
            if "WBL2" in name:
                wave.arrive(0)
            wave.jump(8 if inst is None else inst.size())
            return
        lane, on = np.arange(wave.size), wave.lanes()
        low, high = (
            inst.literal if source.offset == 255 else int(wave.scalar[source.offset])
            for source in (inst.src1, inst.src2)
        )
        of_row = (high << 32 | low) >> 4 * (lane & 15).astype(object) & 15
        base = (lane & ~15) ^ (16 if "X16" in name else 0)
        source = (base + of_row).astype(np.int64)
        values = wave.vector[inst.src0.offset - 256][source]
        live = np.isin(source, on) | bool(inst.opsel & 1)
        values = np.where(live, values, 0)
        taken = on[live[on] | bool(inst.opsel & 2)]
        wave.vector[inst.vdst.offset - 256][taken] = values[taken]
        wave.jump(inst.size())

    def copy_neighbours(self, wave: Wave, inst: Any) -> None:
        """Leave what each lane reads of another, as it was before the instruction."""
        source, there = neighbours(inst.dpp, wave.size)
        lane = np.arange(wave.size)
        enabled = (inst.row_mask >> (lane >> 4) & inst.bank_mask >> (lane >> 2 & 3) & 1) > 0
        there &= np.isin(source, wave.lanes())
        row = wave.vector[inst.vsrc0.offset - 256]
        found = np.frombuffer(_copied, np.uint32)
        found[: wave.size] = np.where(there, row[np.where(there, source, 0)], 0)
        found[64 : 64 + wave.size] = enabled & (there | bool(inst.bc))

    def watch(self, wave: Wave, inst: Any, name: str, pc: int) -> Any:
        """Check an instruction's accesses; return what is to be done after it, if anything."""
        kind = type(inst).__name__
        if name == "S_BARRIER":
            wave.before_barrier = len(wave.stores)
        elif name == "S_WAITCNT" and wave.size == 64:  # CDNA counts stores with loads
            count = int(inst.simm16)
            wave.arrive(count & 15 | count >> 14 << 4 & 48)
        elif name == "S_WAITCNT_VSCNT":
            wave.arrive(int(inst.simm16) & 63)
        elif kind == "DS" and "PERMUTE" not in name and "SWIZZLE" not in name:
            return self.send_along(wave, inst)
        elif kind in ("GLOBAL", "FLAT"):
            return self.watch_memory(wave, inst, name, pc)
        elif kind == "MUBUF":
            raise NotImplementedError(f"{name}: switch buffer operations off")
        return None

    def watch_memory(self, wave: Wave, inst: Any, name: str, pc: int) -> Any:
        """Check a load, store or atomic of global memory, and keep a store back."""
        on, width = wave.lanes(), width_of(name)
        low = wave.vector[inst.addr.offset - 256][on].astype(np.int64)
        offset = inst.offset - (inst.offset >> 12 & 1) * 2**13
        scalar = inst.saddr.offset if inst.saddr is not None else 125
        if scalar < 124:
            base = int(wave.scalar[scalar]) | int(wave.scalar[scalar + 1]) << 32
            places = low + base + offset
        else:
            high = wave.vector[inst.addr.offset - 255][on].astype(np.int64)
            places = (low | high << 32) + offset
        tensor = np.searchsorted(self.starts, places, side="right") - 1
        if (tensor < 0).any() or (places + width > self.ends[tensor]).any():
            raise Fault(f"{self.report.name}: {name} at {pc:#x} outside of every tensor")
        kind = next(k for k in ("atomic", "store", "load") if k.upper() in name)
        for index in np.unique(tensor):
            moved = width * int((tensor == index).sum())
            self.report.bytes[kind, self.names[index]] += moved
        group, addresses = wave.group, places.tolist()
        if kind == "atomic":
            late = [w.index for w in group.waves if w.stores and (w is wave or w.before_barrier)]
            if late and addresses:
                text = f"atomic at {pc:#x} while stores of waves {late} may be on their way"
                self.report.faults.append(text)
            return None
        if kind == "load":
            for other in group.waves:  # which its own workgroup sees
                other.arrive(0)
            if not any(emu._iattr(inst, bit) for bit in ("glc", "sc0", "sc1")):
                self.look_for_old_bytes(group, addresses, width, pc)
            return None
        old = [ctypes.string_at(address, width) for address in addresses]

        def keep_back() -> None:
            new = [ctypes.string_at(address, width) for address in addresses]
            for address, before, now in zip(addresses, old, new, strict=True):
                ctypes.memmove(address, before, width)
                if line := group.cache.get(address >> 7):
                    start = address & 127
                    group.cache[address >> 7] = line[:start] + now + line[start + width :]
            wave.stores.append((addresses, new))

        return keep_back

    def look_for_old_bytes(self, group: Group, addresses: list[int], width: int, pc: int) -> None:
        """Find a load that a cache which nothing but an invalidation empties would answer wrong."""
        for address in addresses:
            line = address >> 7
            now = ctypes.string_at(line << 7, 128)
            kept = group.cache.setdefault(line, now)
            start = address & 127
            if kept[start : start + width] != now[start : start + width]:
                self.report.faults.append(f"load at {pc:#x} may see old bytes")
                return

    def send_along(self, wave: Wave, inst: Any) -> Any:
        """Send lanes that are off where one that is on goes, and put their addresses back after."""
        row, on = wave.vector[inst.addr.offset - 256], wave.lanes()
        off = np.setdiff1d(np.arange(wave.size), on)
        kept = row[off].copy()
        row[off] = row[on[0]] if len(on) else 0
        return lambda: row.__setitem__(off, kept)


class EmulatedDriver(StubDriver):
    """Triton's driver of a GPU that is an emulator; its tensors are the CPU's."""

    def __init__(self, target: str, emulator: Emulator) -> None:
        self.target, self.emulator = target, emulator

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("hip", self.target, ISAS[self.target][1])

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """Return what launches a kernel with arguments of these types."""
        formats = {"i1": "b", "i32": "i", "i64": "q", "fp32": "f"}
        kernel, code = _compiled[id(source)], list[Code]()

        def launch(x: int, y: int, z: int, *given: Any) -> None:
            assert (y, z) == (1, 1)
            code[:] = code or [Code(kernel)]
            data, tensors, slots = b"", dict[str, Any](), iter(code[0].slots)
            for (name, kind), value in zip(source.signature.items(), given[6:], strict=True):
                if kind == "constexpr":
                    continue
                slot = next(slots)
                data += b"\0" * (slot[".offset"] - len(data))
                if kind.startswith("*"):
                    tensors[name] = value
                    data += struct.pack("<Q", value.data_ptr())
                else:
                    data += struct.pack("<" + formats[kind], value)
            for slot in slots:
                data += b"\0" * (slot[".offset"] - len(data) + slot[".size"])
            threads = metadata.num_warps * metadata.warp_size
            self.emulator.launch(code[0], x, threads, data, tensors)

        return launch


_compiled: dict[int, Any] = {}


def install(target: str, emulator: Emulator) -> None:
    """Let Triton launch on the emulator from here on."""
    init = CompiledKernel._init_handles

    def kept(self: Any) -> None:
        _compiled[id(self.src)] = self
        init(self)

    if init.__name__ != "kept":
        CompiledKernel._init_handles = kept
    driver.set_active(EmulatedDriver(target, emulator))
