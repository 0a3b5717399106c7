"""A model of the head's time on a GPU, until one has measured it.

    python -m bench.model

Time is the longest of three: bytes over the memory's bandwidth; instructions over what
multiprocessors issue; and the chain of a program's tiles. Where tiles are copied while others are
summed, a tile of the chain takes the longer of its instructions and its share of the latency; where
nothing overlaps, their sum. Forward reads F from memory with all programs; the last of each
sample's makes the terms, a chain of reductions, and reads the sample again, from the cache.
Backward writes dF. The model is good to about 30 % and meant to compare numbers of splits, not to
be quoted as a time.
"""

from dataclasses import dataclass

from focus.kernels import triton_cam
from focus.kernels.triton_cam import RESIDENT, STAGES

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
INSTRUCTIONS = {"channels_last": (114, 88, 300), "nchw": (312, 262, 300)}
"""Of a warp for a tile of bf16 and K 2: both readings by ``python -m bench.codegen``, in sm_90's
code, and the writing of dF, an estimate."""
OVERLAPPED = {"channels_last": True, "nchw": False}
"""Whether tiles are copied while others are summed: not rows of 49 cells, read by the element."""
WARPS, ISSUED = 8, 2.0
"""Warps of a program; instructions that a multiprocessor issues in a clock, half of its most."""
CHANNELS, CELLS, TILE_CHANNELS = 2048, 49, 128
SAMPLE_BYTES, SAMPLE_TILES = 2 * CHANNELS * CELLS, CHANNELS // TILE_CHANNELS


@dataclass(frozen=True)
class Pass:
    """A reading or a writing of all samples: where the bytes lie, and what a tile takes."""

    peak: float
    """Bytes per second."""
    latency: float
    instructions: int
    overlapped: bool


def seconds(of: Pass, batch: int, programs: int, card: Card) -> float:
    """Return the seconds in which so many programs move ``batch`` samples, tile by tile."""
    tiles = batch * SAMPLE_TILES
    busy, at_once = min(programs, card.processors), min(programs, RESIDENT * card.processors)
    tile_issue = WARPS * of.instructions / (ISSUED * card.clock)
    if of.overlapped:
        tiles_under_way: int = STAGES.value - 1
        tile_chain = max(of.latency / tiles_under_way, tile_issue)
    else:
        tile_chain = of.latency + tile_issue
    transfer = batch * SAMPLE_BYTES / of.peak
    return of.latency + max(transfer, tiles / busy * tile_issue, tiles / at_once * tile_chain)


def step(batch: int, splits: int, layout: str, card: Card) -> float:
    """Return the seconds of a forward and a backward of 16-bit features, without launches."""
    first_code, second_code, write_code = INSTRUCTIONS[layout]
    overlapped = OVERLAPPED[layout]
    first = Pass(card.memory, MEMORY_LATENCY, first_code, overlapped)
    samples_at_once = min(batch, RESIDENT * card.processors / splits)
    # The cache is two halves, and what both read may lie in both.
    if samples_at_once * SAMPLE_BYTES <= card.cache_bytes / 2:
        second = Pass(card.cache, CACHE_LATENCY, second_code, overlapped)
    else:
        second = Pass(card.memory, MEMORY_LATENCY, second_code, overlapped)
    write = Pass(card.memory, CACHE_LATENCY, write_code, overlapped=False)
    forward = seconds(first, batch, batch * splits, card) + TERMS
    forward += seconds(second, batch, batch, card)
    backward = seconds(write, batch, batch * SAMPLE_TILES, card)
    small = 4.0 * 2 * batch * CHANNELS  # u and f
    return forward + backward + 2 * small / card.cache


def main() -> None:
    """Print the table of docs/kernels.md."""
    print("| card, layout | B | floor | splits 1 | 2 | 4 | 8 | chosen | in a graph / eager |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, card in CARDS.items():
        for layout in INSTRUCTIONS:
            for batch in (20, 64, 256, 1024):
                times = {s: step(batch, s, layout, card) / MICRO for s in (1, 2, 4, 8)}
                limits = card.processors, card.cache_bytes // 2
                chosen = triton_cam.splits(batch, SAMPLE_BYTES, SAMPLE_TILES, *limits)
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
