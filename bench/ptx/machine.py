"""Run a launch: whose turn it is, branches, barriers, and what the launch did wrong."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bench.ptx.arithmetic import Array
from bench.ptx.errors import Fault
from bench.ptx.memory import Buffer, GlobalMemory, SharedMemory, WeakMemory
from bench.ptx.program import Chunk, Program
from bench.ptx.threads import Path, Threads

_TRIES = 10
"""How often to draw who goes on before asking all whether they can."""
BURST = 20
"""Chunks that threads execute at most before another's turn comes, where all take turns."""


class Order(NamedTuple):
    """An order of execution. step: what goes in step, "launch", "cta" or "warp"; turns: "forward"
    and "reverse" end each CTA before the next, "random" goes from one to another at random. Memory
    is weak where CTAs do not go in step."""

    step: str
    turns: str


ORDERS = {
    "lockstep": Order("launch", "forward"),
    "forward": Order("cta", "forward"),
    "reverse": Order("cta", "reverse"),
    "ctas": Order("cta", "random"),
    "warps": Order("warp", "random"),
}


class Machine:
    """A launch.

    Args:
        arguments: Bytes of each parameter; of a pointer, the number of its buffer from 1 above
            ``BUFFER_BITS`` bits, and the offset into it below.
        grid: The number of CTAs; ``ctas`` are those of them that run, all by default.
        shared: Bytes of dynamic shared memory of a CTA.
        seed: Of the turns.
        ulps: By how much approximations are off at most.

    ``faults`` counts what the launch did that it may not do; ``moved`` the bytes by kind ("load",
    "store" or "atomic") and tensor, and ``extent`` from where to where in it they lie.
    """

    def __init__(
        self, program: Program, arguments: Sequence[bytes], buffers: Sequence[Buffer], *,
        grid: int, threads: int, shared: int = 0, order: Order = ORDERS["lockstep"], seed: int = 0,
        ulps: int = 0, ctas: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.program, self.arguments, self.buffers = program, list(arguments), list(buffers)
        self.grid, self.threads, self.order, self.ulps = grid, threads, order, ulps
        self.ctas = np.arange(grid) if ctas is None else np.array(ctas)
        self.faults, self.moved = Counter[str](), Counter[tuple[str, str]]()
        self.extent: dict[tuple[str, str], tuple[int, int]] = {}
        self.outputs: dict[str, str] = {}
        self.executed = np.zeros(len(program.chunks), "i8")
        count = len(self.ctas)
        self.epoch = np.zeros(count * threads // 32, "i8")  # barriers that each warp has passed
        self.shared = SharedMemory(shared, count, program.shared_unit, self.complain)
        self.memory = GlobalMemory(self.complain)
        if order.step != "launch":
            self.memory = WeakMemory(buffers, count, threads, self.complain)
        self._draw = random.Random(seed)
        self._alive, self._arrived = np.full(count, threads), np.zeros(count, "i8")
        self._barrier = np.full(count, -1)  # the chunk at whose end a CTA's threads wait
        self._running: list[Threads] = []

    def fault(self, statement: int, text: str) -> Fault:
        """Return the error of a statement."""
        where = f"statement {statement} ({self.program.statements[statement]})"
        return Fault(f"{self.program.name}, {where}: {text}")

    def complain(self, statement: int, text: str) -> None:
        """Count a fault after which execution can go on."""
        self.faults[str(self.fault(statement, text))] += 1

    def count_bytes(self, kind: str, buffer: Buffer, low: int, high: int, size: int) -> None:
        """Count an access of a tensor, from one byte of its memory to another."""
        key = kind, buffer.name
        self.moved[key] += size
        least, most = self.extent.get(key, (low - buffer.start, 0))
        self.extent[key] = min(least, low - buffer.start), max(most, high - buffer.start)

    def instructions(self) -> Counter[str]:
        """Return how many instructions warps have executed, by opcode."""
        total = Counter[str]()
        for times, chunk in zip(self.executed.tolist(), self.program.chunks, strict=True):
            for opcode, count in chunk.opcodes.items():
                total[opcode] += count * times
        return total

    def run(self) -> None:
        """Execute all of it.

        Raises:
            Fault: execution cannot go on.
        """
        numbers = np.arange(len(self.ctas) * self.threads)
        size = {"launch": len(numbers), "cta": self.threads, "warp": 32}[self.order.step]
        groups = numbers.reshape(-1, size)
        self._running = [Threads(self, n // self.threads, n % self.threads) for n in groups]
        if self.order.turns == "reverse":
            self._running.reverse()
        with np.errstate(all="ignore"):
            while self._running:
                if self.order.turns == "random":
                    self._advance(self._choose(), self._draw.randint(1, BURST))
                else:
                    self._advance(self._ready()[0], 10**9)
            self.memory.finish()

    def _choose(self) -> Threads:
        """Return at random who goes on."""
        for _ in range(_TRIES):
            threads = self._draw.choice(self._running)
            if threads.is_ready():
                return threads
        return self._draw.choice(self._ready())

    def _ready(self) -> list[Threads]:
        """Return who can go on; Fault where all wait."""
        ready = [threads for threads in self._running if threads.is_ready()]
        if not ready:
            raise Fault(f"{self.program.name}: threads wait at a barrier that others do not reach")
        return ready

    def _advance(self, threads: Threads, chunks: int) -> None:
        """Execute some chunks, or up to where all wait; the path at the lowest address is next."""
        for _ in range(chunks):
            ready = [path for path in threads.paths if not path.waiting]
            if not ready:
                return
            path = min(ready, key=lambda path: path.chunk)
            chunk = self.program.chunks[path.chunk]
            if path.mask is None:
                self.executed[path.chunk] += threads.count // 32
                chunk.of_all(threads, threads.registers, None)
            else:
                self.executed[path.chunk] += int(path.mask.reshape(-1, 32).any(1).sum())
                chunk.of_mask(threads, threads.registers, path.mask)
            finish = {
                "next": self._go_on, "branch": self._branch, "barrier": self._wait,
                "exit": self._leave,
            }[chunk.end]  # fmt: skip
            if finish(threads, path, chunk):
                return
            _join(threads)

    # How a chunk ends. Each returns whether the threads are in other groups now, or gone.

    def _go_on(self, threads: Threads, path: Path, chunk: Chunk) -> bool:
        path.chunk += 1
        return False

    def _branch(self, threads: Threads, path: Path, chunk: Chunk) -> bool:
        if chunk.predicate is None:
            path.chunk = chunk.target
            return False
        condition = threads.registers[chunk.predicate]
        taken = ~condition if chunk.negated else condition
        others = ~taken
        if path.mask is not None:
            taken, others = taken & path.mask, others & path.mask
        if not taken.any():
            path.chunk += 1
        elif not others.any():
            path.chunk = chunk.target
        elif len(threads.paths) == 1 and self._by_cta(threads, taken, others):
            self._replace(threads, [(taken, chunk.target), (others, path.chunk + 1)])
            return True
        else:
            threads.paths.remove(path)
            threads.paths += [Path(chunk.target, taken), Path(path.chunk + 1, others)]
        return False

    def _by_cta(self, threads: Threads, *masks: Array) -> bool:
        """Return whether several CTAs go in step, and masks have each as a whole or not at all."""
        if len(threads.ctas) == 1 or not threads.whole_ctas:
            return False
        of_ctas = [mask.reshape(-1, self.threads) for mask in masks]
        return all((ctas.any(1) == ctas.all(1)).all() for ctas in of_ctas)

    def _replace(self, threads: Threads, parts: Sequence[tuple[Array, int]]) -> None:
        """Go on with some of the threads, each at a chunk of their own."""
        self._running.remove(threads)
        for chosen, chunk in parts:
            part = threads.some(chosen)
            part.paths = [Path(chunk, None)]
            self._running.append(part)

    def _wait(self, threads: Threads, path: Path, chunk: Chunk) -> bool:
        threads.whole_warps(path.mask, chunk.statement)
        if threads.whole_ctas and path.mask is None:
            path.chunk += 1
            self._pass(threads.ctas)
            threads.pass_barrier()
            return False
        if len(threads.ctas) > 1:
            if (
                path.mask is not None
                and len(threads.paths) == 1
                and self._by_cta(threads, path.mask)
            ):
                path.chunk += 1
                self._pass(np.unique(threads.cta[path.mask]))
                threads.pass_barrier()
                return False
            self._part_ctas(threads)
            return True
        (cta,) = threads.ctas
        path.chunk += 1
        if self._barrier[cta] not in (-1, path.chunk):
            raise self.fault(chunk.statement, "warps of a CTA wait at different barriers")
        self._barrier[cta], path.waiting = path.chunk, True
        self._arrived[cta] += threads.count if path.mask is None else int(path.mask.sum())
        self._open_barrier(cta)
        return False

    def _part_ctas(self, threads: Threads) -> None:
        """Let CTAs no longer go in step."""
        self._running.remove(threads)
        for cta in threads.ctas:
            chosen = threads.cta == cta
            part = threads.some(chosen)
            part.paths = []
            for path in threads.paths:
                mask = None if path.mask is None else path.mask[chosen]
                if mask is None or mask.any():
                    whole = mask is None or mask.all()
                    part.paths.append(Path(path.chunk, None if whole else mask))
            if part.paths:
                self._running.append(part)

    def _open_barrier(self, cta: int) -> None:
        """Let a CTA's threads go on if all that live have arrived."""
        if not self._alive[cta] or self._arrived[cta] < self._alive[cta]:
            return
        self._arrived[cta], self._barrier[cta] = 0, -1
        self._pass(np.array([cta]))
        for threads in self._running:
            if len(threads.ctas) == 1 and threads.ctas[0] == cta:
                for path in threads.paths:
                    path.waiting = False
                threads.pass_barrier()

    def _pass(self, ctas: Array) -> None:
        warps = self.threads // 32
        for cta in ctas:
            self.epoch[cta * warps : (cta + 1) * warps] += 1
            self.memory.pass_barrier(int(cta))

    def _leave(self, threads: Threads, path: Path, chunk: Chunk) -> bool:
        gone = threads.cta if path.mask is None else threads.cta[path.mask]
        np.subtract.at(self._alive, gone, 1)
        threads.paths.remove(path)
        if not threads.paths:
            self._running.remove(threads)
        for cta in np.unique(gone):
            self._open_barrier(cta)
        return not threads.paths


def _join(threads: Threads) -> None:
    """Unite the paths that meet."""
    if len(threads.paths) == 1:
        return
    met: dict[tuple[int, bool], Path] = {}
    for path in threads.paths:
        first = met.setdefault((path.chunk, path.waiting), path)
        if first is not path:
            assert first.mask is not None
            assert path.mask is not None
            first.mask = first.mask | path.mask
    threads.paths = list(met.values())
    only = threads.paths[0]
    if len(threads.paths) == 1 and only.mask is not None and only.mask.all():
        only.mask = None
