"""What the whole head costs on the CPU, against plain pooling + classifier + cross-entropy.

    python -m bench.head [--output FOLDER] [--rounds N]

Each provider does forward and the gradients of features, weight and bias. Before timing, each is
checked against the float64 reference of what it computes. Method: one thread, CPU time, providers
interleaved in one process in an order that changes by round, medians of the rounds' paired ratios
with a 95 % bootstrap bound; the ratio of the plain head to itself (A/A) stands beside them and
says what the method cannot tell apart.
"""

import argparse
import csv
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from focus.kernels import focus_head, use_backend

SHAPES = ((20, 1024, 49), (20, 2048, 49), (128, 2048, 49), (128, 2048, 100))
CLASSES = 2
FOCUS_WEIGHT, SALIENCY_WEIGHT = 0.1, 5.0

Step = Callable[[], tuple[Tensor, ...]]


@dataclass
class Inputs:
    """One training step's tensors: features [B,C,H,W], weight [K,C], bias [K], target [B]."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    target: Tensor
    saliency: Tensor

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        """What gradients are taken of."""
        return self.features, self.weight, self.bias


def make_inputs(shape: tuple[int, int, int], layout: str) -> Inputs:
    """Random float32 tensors of (B, C, HW); the features non-negative, as after a ReLU."""
    batch, channels, cells = shape
    side = math.isqrt(cells)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(batch, channels, side, side, generator=draw).relu()
    if layout == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CLASSES, channels, generator=draw) / channels**0.5
    return Inputs(
        features.requires_grad_(),
        weight.requires_grad_(),
        torch.zeros(CLASSES, requires_grad=True),
        torch.randint(CLASSES, (batch,), generator=draw),
        torch.rand(batch, side, side, generator=draw),
    )


def plain(inputs: Inputs, pool: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """Pooling, classifier, cross-entropy."""
    logits = functional.linear(pool(inputs.features), inputs.weight, inputs.bias)
    loss = functional.cross_entropy(logits, inputs.target)
    return torch.autograd.grad(loss, inputs.leaves)


def pool_by_mean(features: Tensor) -> Tensor:
    """Global average pooling, one spelling."""
    return features.mean((2, 3))


def pool_adaptive(features: Tensor) -> Tensor:
    """Global average pooling, the other spelling."""
    return functional.adaptive_avg_pool2d(features, 1).flatten(1)


def ours(inputs: Inputs) -> tuple[Tensor, ...]:
    """The whole head in one operation."""
    loss = focus_head(
        *inputs.leaves,
        inputs.target,
        saliency=inputs.saliency,
        focus_weight=FOCUS_WEIGHT,
        saliency_weight=SALIENCY_WEIGHT,
    ).loss
    return torch.autograd.grad(loss, inputs.leaves)


def branches(inputs: Inputs) -> tuple[Tensor, ...]:
    """The head as one writes it: a differentiable CAM beside the classifier, by autograd."""
    features, weight, bias = inputs.leaves
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    loss = functional.cross_entropy(logits, inputs.target)
    cam = torch.einsum("bc,bchw->bhw", weight[inputs.target], features).flatten(1)
    loss = loss + _cam_terms(cam, inputs.saliency.flatten(1)).mean()
    return torch.autograd.grad(loss, inputs.leaves)


def per_sample(inputs: Inputs) -> tuple[Tensor, ...]:
    """The algorithm of the predecessor's training step: one CAM after the other, in Python."""
    features, weight, bias = inputs.leaves
    logits = functional.linear(features.mean((2, 3)), weight, bias)
    loss = functional.cross_entropy(logits, inputs.target)
    terms = []
    for sample, target, human in zip(features, inputs.target, inputs.saliency, strict=True):
        cam = (weight[target] @ sample.flatten(1))[None]
        terms.append(_cam_terms(cam, human.flatten()[None]))
    loss = loss + torch.cat(terms).mean()
    return torch.autograd.grad(loss, inputs.leaves)


def _cam_terms(cam: Tensor, human: Tensor) -> Tensor:
    log_p = cam.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1) / math.log(cam.shape[1])
    low, high = cam.amin(1, keepdim=True), cam.amax(1, keepdim=True)
    error = (cam - low) / (high - low) - human
    return FOCUS_WEIGHT * entropy + SALIENCY_WEIGHT * error.square().mean(1)


def providers(inputs: Inputs) -> dict[str, Step]:
    """What is timed; ``plain again`` is the A/A comparison."""
    pool = _faster_pool(inputs)
    return {
        "plain": lambda: plain(inputs, pool),
        "plain again": lambda: plain(inputs, pool),
        "ours": lambda: ours(inputs),
        "branches": lambda: branches(inputs),
        "per sample": lambda: per_sample(inputs),
    }


def _faster_pool(inputs: Inputs) -> Callable[[Tensor], Tensor]:
    """The spelling of the plain head that is faster in this layout and at this size."""
    spellings = (pool_by_mean, pool_adaptive)
    seconds = time_rounds({p.__name__: partial(plain, inputs, p) for p in spellings}, rounds=9)
    medians = [float(np.median(seconds[p.__name__])) for p in spellings]
    return spellings[int(np.argmin(medians))]


def check(inputs: Inputs) -> None:
    """Each provider's gradients against the float64 reference; raises where one is off."""
    features, weight, bias = (t.detach().double().requires_grad_() for t in inputs.leaves)
    wide = Inputs(features, weight, bias, inputs.target, inputs.saliency.double())
    with use_backend("reference"):
        focused = ours(wide)
    expected = {"plain": plain(wide, pool_by_mean), "plain again": plain(wide, pool_by_mean)}
    for name, step in providers(inputs).items():
        for got, exact in zip(step(), expected.get(name, focused), strict=True):
            error = (got.double() - exact).abs().max() / exact.abs().max()
            if error > 5e-6:
                raise SystemExit(f"{name} is wrong: relative error {float(error):.1e}")


def time_rounds(steps: dict[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """CPU seconds of each step in each round."""
    names = list(steps)
    seconds = {name: np.zeros(rounds) for name in names}
    for name in names * 2:  # warm allocator and caches
        steps[name]()
    order = np.random.default_rng(0)
    for number in range(rounds):
        # At random, so that none always finds the caches as the same neighbour left them.
        for name in order.permutation(names):
            start = time.process_time()
            steps[name]()
            seconds[name][number] = time.process_time() - start
    return seconds


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float, float]:
    """Median of the paired ratios, and its 95 % bootstrap interval."""
    paired = numerator / denominator
    draws = np.random.default_rng(0).choice(paired, (2000, len(paired)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    return float(np.median(paired)), float(low), float(high)


def main() -> None:
    """Check, time, print a table, and write ``head.csv`` with ``--output``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="folder for head.csv")
    parser.add_argument("--rounds", type=int, default=41)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [(shape, layout) for shape in SHAPES for layout in ("nchw", "channels_last")]
    rows = []
    for shape, layout in tqdm(cases, "head", unit="case"):
        inputs = make_inputs(shape, layout)
        check(inputs)
        seconds = time_rounds(providers(inputs), arguments.rounds)
        compared = {
            "A/A": ratio(seconds["plain again"], seconds["plain"]),
            "ours / plain": ratio(seconds["ours"], seconds["plain"]),
            "branches / ours": ratio(seconds["branches"], seconds["ours"]),
            "per sample / ours": ratio(seconds["per sample"], seconds["ours"]),
        }
        for name, (median, low, high) in compared.items():
            rows.append(
                {
                    "shape": "x".join(map(str, shape)),
                    "layout": layout,
                    "ratio": name,
                    "median": round(median, 3),
                    "low": round(low, 3),
                    "high": round(high, 3),
                    "rounds": arguments.rounds,
                    "torch": torch.__version__,
                    "machine": platform.machine(),
                }
            )
    for row in rows:
        print(
            f"{row['shape']:>12} {row['layout']:>13}  {row['ratio']:<18} "
            f"{row['median']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        )
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        with (arguments.output / "head.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
