"""A model of the head's time on a GPU, until one has measured it.

    python -m bench.model

Time is bytes over bandwidth, where bandwidth is the memory's, or what the programs that run at the
same time keep in flight divided by the latency, if that is less. Forward reads F from memory with
all programs; the last of each sample's makes the terms, a chain of reductions, and reads the sample
again from the cache. Backward writes dF. The model is good to about 30 % and meant to compare
numbers of splits, not to be quoted as a time.
"""

from dataclasses import dataclass

from focus.kernels import triton_cam
from focus.kernels.triton_cam import RESIDENT

MICRO = 1e-6


@dataclass(frozen=True)
class Card:
    """A GPU, as the model knows it: bytes per second, multiprocessors, bytes of cache."""

    memory: float
    cache: float
    processors: int
    cache_bytes: float


CARDS = {
    "H100": Card(0.9 * 3.35e12, 5.5e12, 132, 50e6),
    "A100": Card(0.9 * 2.0e12, 4.0e12, 108, 40e6),
}
MEMORY_LATENCY, CACHE_LATENCY = 1.0 * MICRO, 0.4 * MICRO
TERMS = 3.0 * MICRO
"""Some thirty reductions over a block of threads, one after the other."""
LAUNCH_IN_GRAPH, LAUNCH_EAGER = 1.5 * MICRO, 4.0 * MICRO
TILE_BYTES = 2 * triton_cam.TILE
CHANNELS, CELLS = 2048, 49


def moved(bytes_: float, programs: int, peak: float, latency: float, card: Card) -> float:
    """Return the seconds in which so many programs move these bytes."""
    at_once = min(programs, RESIDENT * card.processors)
    return latency + bytes_ / min(peak, at_once * TILE_BYTES / latency)


def step(batch: int, channels: int, cells: int, splits: int, card: Card) -> float:
    """Return the seconds of a forward and a backward of 16-bit features, without launches."""
    features = 2.0 * batch * channels * cells
    first = moved(features, batch * splits, card.memory, MEMORY_LATENCY, card)
    resident = min(features, RESIDENT * card.processors / splits * 2 * channels * cells)
    cached = resident <= card.cache_bytes
    peak = card.cache if cached else card.memory
    second = moved(features, batch, peak, CACHE_LATENCY if cached else MEMORY_LATENCY, card)
    blocks = batch * max(1, 2 * channels * cells // TILE_BYTES)
    small = 4.0 * 2 * batch * channels  # u and f
    write = moved(features, blocks, card.memory, CACHE_LATENCY, card)
    return first + TERMS + second + write + 2 * small / card.cache


def floor(batch: int, channels: int, cells: int, card: Card) -> float:
    """Return the seconds in which memory reads F and takes dF."""
    return 4.0 * batch * channels * cells / card.memory


def main() -> None:
    """Print the table of docs/kernels.md."""
    print("| card | B | floor | splits 1 | 2 | 4 | 8 | chosen | + 2 launches, in graph / eager |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, card in CARDS.items():
        for batch in (20, 64, 128, 256, 1024):
            times = {s: step(batch, CHANNELS, CELLS, s, card) / MICRO for s in (1, 2, 4, 8)}
            sample, blocks = 2 * CHANNELS * CELLS, CHANNELS // 128
            limits = card.processors, int(card.cache_bytes)
            chosen = triton_cam.splits(batch, sample, blocks, *limits)
            launches = [2 * x / MICRO for x in (LAUNCH_IN_GRAPH, LAUNCH_EAGER)]
            ends = " / ".join(f"{times[chosen] + launch:.0f}" for launch in launches)
            cells = " | ".join(f"{time:.1f}" for time in times.values())
            bound = floor(batch, CHANNELS, CELLS, card) / MICRO
            print(f"| {name} | {batch} | {bound:.1f} | {cells} | {chosen} | {ends} |")


if __name__ == "__main__":
    main()
