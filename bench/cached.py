"""Measure an epoch of the head on cached features, beside a linear probe and a whole network.

    python -m bench.cached [--short] [--output FOLDER] [--rounds N]

An epoch reads batches of 64 from a cache on disk, in random order, and for each does forward,
backward and a step of SGD: with the loss `blend` (``focus``), or with a mean over the cells, a
linear layer and cross-entropy (``probe``). ResNet-50 is a step of 8 images of 224 x 224 pixels,
without decoding, as many times as the epoch needs. ``more memory`` is what the process has for
itself (RssAnon) in an epoch of eight times as many images, less that in one: the pages of the file
are the system's. The method is that of :mod:`bench.harness`.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.harness import Interval, begin, make_parser, note, ratio, run_program, time_rounds, write
from focus.data.cache.features import CachedFaces, Encoded, FeatureCache, digests
from focus.data.dataset import Batch
from focus.data.manifest import Manifest, Sample
from focus.kernels import use_backend
from focus.model.detector import Detector
from focus.model.head import FocusHead

Epoch = Callable[[], Iterable[Batch]]

SHAPES = ((384, 16, 16), (2048, 7, 7))
BATCH, BATCHES, MORE = 64, 4, 8
IMAGES, SIZE = 8, 224  # of a step of the whole network


def a_batch(index: Tensor, size: tuple[int, ...], grid: tuple[int, ...]) -> Batch:
    """Return random numbers, of which half have a map."""
    images, maps = torch.randn(len(index), *size), torch.rand(len(index), *grid)
    return Batch(images, index % 2, maps, index // 2 % 2 == 0, index, torch.empty(len(index), 0))


def cached(shape: tuple[int, int, int], batches: int) -> Epoch:
    """Cache features of random numbers; return what reads an epoch of them."""
    draw, count = np.random.default_rng(0), batches * BATCH

    def computed(places: list[int]) -> Iterator[tuple[Batch, Encoded]]:
        for index in torch.tensor(places).split(BATCH):
            yield (batch := a_batch(index, shape, shape[1:])), (batch.images, None, None)

    faces = Manifest(Sample("", n % 2, extra={"content_hash": f"{n:x}"}) for n in range(count))
    cache = FeatureCache("bench", f"{batches}", shape)
    cache.fill(digests(faces).ravel(), computed, progress=False)
    found = CachedFaces(cache, faces)
    return lambda: map(found.batch, draw.permutation(count).reshape(batches, -1).tolist())


def train(model: Any, epoch: Epoch, probe: bool = False) -> tuple[Tensor, ...]:
    """Train on each batch; probe: with plain pooling, the classifier and cross-entropy."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    for batch in epoch():
        if not probe:
            loss = model(batch.images, batch.target, batch.saliency, batch.saliency_mask).loss
        else:
            pooled = batch.images.mean((2, 3), dtype=torch.float32)
            loss = cross_entropy(model.fc(pooled), batch.target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tuple(parameter.grad for parameter in model.parameters())


def memory(epoch: Epoch, head: FocusHead) -> int:
    """Return the most kilobytes that the process has for itself in an epoch."""
    most = 0
    for batch in epoch():
        train(head, partial(iter, [batch]))
        found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
        most = max(most, int(found[1]) if found else 0)
    return most


def measure(shape: tuple[int, int, int], rounds: int) -> Iterator[tuple[str, Interval]]:
    """Yield the figures of features of one shape."""
    epoch, longer = cached(shape, BATCHES), cached(shape, MORE * BATCHES)
    head, whole = FocusHead(shape[0], 2, "blend"), Detector("resnet50", loss="blend")
    one = partial(iter, [next(iter(epoch()))])
    with use_backend("reference"):
        exact = train(head, one)
    torch.testing.assert_close(train(head, one), exact, rtol=1e-4, atol=1e-5)
    few = memory(epoch, head)
    yield "more memory, kB", (float(memory(longer, head) - few),) * 3
    pictures = [a_batch(torch.arange(IMAGES), (3, SIZE, SIZE), (7, 7))]
    steps = {"focus": partial(train, head, epoch), "probe": partial(train, head, epoch, True)}
    steps["whole"] = partial(train, whole, lambda: pictures)
    focus, probe, network = time_rounds(steps, rounds).values()
    yield "focus / probe", ratio(focus, probe)
    yield "resnet50 / focus", ratio(BATCHES * BATCH / IMAGES * network, focus)


def main() -> None:
    """Measure, print and write."""
    given, rows = make_parser(__doc__, 21, 5).parse_args(), []
    measured_with = begin("bench.cached", given)
    with tempfile.TemporaryDirectory() as os.environ["FOCUS_CACHE"]:
        for shape in SHAPES:
            name = "x".join(map(str, (BATCH, *shape)))
            for figure, found in measure(shape, given.rounds):
                rows.append(note(found, figure, shape=name))
    write(given.output, "cached", rows, measured_with)


if __name__ == "__main__":
    run_program(main)
