"""A model of the head's time on a GPU, until one has measured it.

    python -m bench.model

Time is the longest of three: bytes over the memory's bandwidth; bytes that the programs which run
at the same time keep in flight over the latency; and instructions over what multiprocessors issue.
Forward reads F from memory with all programs; the last of each sample's makes the terms, a chain of
reductions, and reads the sample again, from the cache. Backward writes dF. The model is good to
about 30 % and meant to compare numbers of splits, not to be quoted as a time.
"""

from dataclasses import dataclass

from focus.kernels import triton_cam
from focus.kernels.triton_cam import RESIDENT

MICRO = 1e-6


@dataclass(frozen=True)
class Card:
    """A GPU: bytes per second of memory and cache, multiprocessors, clock, bytes of cache."""

    memory: float
    cache: float
    processors: int
    clock: float
    cache_bytes: int


CARDS = {
    "H100": Card(0.9 * 3.35e12, 5.5e12, 132, 1.7e9, 50 * 2**20),
    "A100": Card(0.9 * 2.0e12, 4.0e12, 108, 1.4e9, 40 * 2**20),
}
MEMORY_LATENCY, CACHE_LATENCY = 1.0 * MICRO, 0.4 * MICRO
TERMS = 3.0 * MICRO
"""Some thirty reductions over a block of threads, one after the other."""
LAUNCH_IN_GRAPH, LAUNCH_EAGER = 1.5 * MICRO, 4.0 * MICRO
LAUNCHES_IN_GRAPH, LAUNCHES_EAGER = 4, 3
"""Forward, the gradient of 1 that autograd makes, backward; in a graph the counters' zeros, too."""
INSTRUCTIONS = {"channels_last": (211, 123, 300), "nchw": (463, 302, 300)}
"""Of a warp for a tile of bf16 and K 2: both readings by ``python -m bench.codegen``, in sm_90's
code, and the writing of dF, an estimate."""
WARPS, ISSUED = 8, 2.0
"""Warps of a program; instructions that a multiprocessor issues in a clock, half of its most."""
TILE_BYTES = 2 * triton_cam.TILE
CHANNELS, CELLS = 2048, 49


def moved(
    bytes_: float, programs: int, peak: float, latency: float, instructions: int, card: Card
) -> float:
    """Return the seconds in which so many programs move these bytes, tile by tile."""
    at_once = min(programs, RESIDENT * card.processors)
    busy = min(programs, card.processors)
    issue = bytes_ / TILE_BYTES * WARPS * instructions / (busy * ISSUED * card.clock)
    return latency + max(bytes_ / min(peak, at_once * TILE_BYTES / latency), issue)


def step(batch: int, splits: int, layout: str, card: Card) -> float:
    """Return the seconds of a forward and a backward of 16-bit features, without launches."""
    features = 2.0 * batch * CHANNELS * CELLS
    first_code, second_code, write_code = INSTRUCTIONS[layout]
    first = moved(features, batch * splits, card.memory, MEMORY_LATENCY, first_code, card)
    resident = min(features, RESIDENT * card.processors / splits * 2 * CHANNELS * CELLS)
    # The cache is two halves, and what both read may lie in both.
    cached = resident <= card.cache_bytes / 2
    peak, latency = (card.cache, CACHE_LATENCY) if cached else (card.memory, MEMORY_LATENCY)
    second = moved(features, batch, peak, latency, second_code, card)
    blocks = batch * max(1, 2 * CHANNELS * CELLS // TILE_BYTES)
    small = 4.0 * 2 * batch * CHANNELS  # u and f
    write = moved(features, blocks, card.memory, CACHE_LATENCY, write_code, card)
    return first + TERMS + second + write + 2 * small / card.cache


def main() -> None:
    """Print the table of docs/kernels.md."""
    print("| card, layout | B | floor | splits 1 | 2 | 4 | 8 | chosen | in a graph / eager |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, card in CARDS.items():
        for layout in INSTRUCTIONS:
            for batch in (20, 64, 256, 1024):
                times = {s: step(batch, s, layout, card) / MICRO for s in (1, 2, 4, 8)}
                limits = card.processors, card.cache_bytes // 2
                sample, blocks = 2 * CHANNELS * CELLS, CHANNELS // 128
                chosen = triton_cam.splits(batch, sample, blocks, *limits)
                launches = (
                    LAUNCHES_IN_GRAPH * LAUNCH_IN_GRAPH / MICRO,
                    LAUNCHES_EAGER * LAUNCH_EAGER / MICRO,
                )
                ends = " / ".join(f"{times[chosen] + launch:.0f}" for launch in launches)
                cells = " | ".join(f"{time:.1f}" for time in times.values())
                bound = 4.0 * batch * CHANNELS * CELLS / card.memory / MICRO
                print(f"| {name}, {layout} | {batch} | {bound:.1f} | {cells} | {chosen} | {ends} |")


if __name__ == "__main__":
    main()
