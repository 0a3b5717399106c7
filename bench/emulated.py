"""Run the operations' machine code for AMD's GPUs in an emulator, and compare it with float64.

    python -m bench.emulated --tinygrad CHECKOUT [--target gfx942|gfx1100] [--orders NAME ...]
                             [--cases NAME ...] [--mutant NAME] [--seed N]

CHECKOUT is of tinygrad's repository, at the commit that bench/emulator.py names; it takes clang. A
case takes 5 to 60 seconds. It is right if its results are the reference's, F is read as often as it
may be, no access is outside of a tensor, no load may see old bytes, no store is on its way when a
program counts itself in, no counter is left, and every order of waves and workgroups gives the same
bits. With --mutant the kernels are broken, which must be found.
"""

import argparse
import hashlib
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from triton import knobs
from triton.runtime.jit import JITFunction

from bench import emulator
from bench.harness import run_program
from focus.kernels import (
    backend,
    cam_entropy,
    class_activation,
    focus_head,
    triton_cam,
    triton_focus_head,
    use_backend,
)

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
MODULES = triton_cam, triton_focus_head


class Case(NamedTuple):
    """An operation on features ``[B,C,H,W]``, in channels_last if ``last``, in so many splits."""

    operation: str
    dtype: torch.dtype
    last: bool
    shape: tuple[int, int, int, int]
    classes: int
    splits: int
    options: dict[str, str]


CASES = {
    "head fp32": Case("head", FP32, False, (2, 200, 7, 7), 2, 1, {}),
    "head fp32 last": Case("head", FP32, True, (2, 256, 8, 8), 3, 1, {"cam_class": "contrast"}),
    "head fp32 splits": Case("head", FP32, False, (3, 1000, 7, 7), 2, 8, {}),
    "head fp32 16": Case("head", FP32, True, (2, 256, 7, 7), 16, 2, {}),
    "head fp32 odd": Case("head", FP32, False, (3, 37, 5, 13), 3, 1, {}),
    "head fp16 last": Case("head", FP16, True, (2, 256, 7, 7), 3, 1, {}),
    "head bf16": Case("head", BF16, False, (2, 200, 7, 7), 2, 1, {"focus_level": "hinge"}),
    "head bf16 last": Case("head", BF16, True, (2, 256, 7, 7), 2, 1, {"reduction": "none"}),
    "head bf16 8x8": Case("head", BF16, False, (2, 256, 8, 8), 3, 1, {"cam_class": "predicted"}),
    "head bf16 splits": Case("head", BF16, True, (3, 1024, 7, 7), 2, 8, {}),
    "head bf16 16": Case("head", BF16, True, (2, 256, 7, 7), 16, 2, {}),
    "cam fp32": Case("cam", FP32, False, (3, 300, 7, 7), 2, 1, {}),
    "cam fp16 8x8": Case("cam", FP16, False, (3, 300, 8, 8), 3, 1, {}),
    "cam bf16 splits": Case("cam", BF16, True, (4, 1024, 7, 7), 3, 8, {}),
    "maps splits": Case("maps", FP32, False, (2, 600, 7, 7), 3, 4, {}),
}
MUTANTS = {
    "no wait": ("arrives_last", "if _barrier_leaves_stores():", "if False:"),
    "early": ("arrives_last", "== count - 1", "== count - 2"),
    "counter kept": ("arrives_last", "tl.store(ticket_ptr, 0)", "tl.store(ticket_ptr, count)"),
    "wrong split": ("class_maps", "place + other * ROWS", "place + (other // 2) * ROWS"),
    "cached": ("class_maps", ', cache_modifier=".cg"', ""),
    "no mask": ("tile_pointers", "(c < channels)[:, None]", "(c < channels + 8)[:, None]"),
}
"""By name: a device function, a part of its source, and what breaks it."""


def run(case: Case, *, wide: bool) -> dict[str, Tensor]:
    """Return results and gradients; wide: of the float64 reference."""
    draw, (batch, channels, *grid) = torch.Generator().manual_seed(0), case.shape

    def drawn(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
        tensor = torch.randn(shape, generator=draw).to(dtype)
        return tensor.double() if wide else tensor

    layout = torch.channels_last if case.last else torch.contiguous_format
    features = drawn(*case.shape, dtype=case.dtype).contiguous(memory_format=layout)
    weight, bias = drawn(case.classes, channels) / channels**0.5, drawn(case.classes)
    maps, aim, upstream = drawn(batch, *grid).sigmoid(), drawn(batch).sigmoid(), drawn(batch)
    leaves = [tensor.requires_grad_() for tensor in (features, weight, bias)]
    index = torch.arange(batch) % case.classes
    if case.operation == "maps":
        names = ("logits", "cam", "entropy")
        out = class_activation(features, weight, bias, range(case.classes))
        return dict(zip(names, out, strict=True))
    if case.operation == "cam":
        cam, entropy = cam_entropy(features, weight, index, temperature=0.7)
        found, total = {"cam": cam, "entropy": entropy}, (entropy * upstream).sum()
        total, leaves = total + (cam * maps).sum(), leaves[:2]
    else:
        options: dict[str, Any] = {"focus_level": "match", "entropy_target": aim} | case.options
        head = focus_head(
            features, weight, bias, index, saliency=maps, saliency_mask=index < 1, focus_weight=0.9,
            saliency_weight=1.3, temperature=0.8, label_smoothing=0.1, **options,
        )  # fmt: skip
        found, total = head._asdict(), (head.loss * upstream).mean() + head.logits.square().sum()
    gradients = torch.autograd.grad(total, leaves)
    return found | dict(zip(("dF", "dW", "db"), gradients, strict=False))


def errors(case: Case, found: dict[str, Tensor]) -> list[str]:
    """Return the results that are further from the reference than rounding explains."""
    wrong = []
    with use_backend("reference"):
        exact = run(case, wide=True)
    for name, tensor in found.items():
        error, top = (tensor.double() - exact[name]).abs(), exact[name].abs().max()
        rounding = torch.finfo(tensor.dtype).eps * exact[name].abs() if tensor.dtype != FP32 else 0
        if not bool((error <= 1e-5 * top + rounding).all()):  # nor where one is NaN
            wrong.append(f"{name} off by {float(error.max()):.1e}")
    return wrong


def judge(case: Case, target: str, order: str, seed: int) -> tuple[list[str], str]:
    """Run a case; return what is wrong with it, and a digest of its results' bits."""
    machine, counters, zeros = emulator.Emulator(order, seed), list[Tensor](), torch.zeros
    emulator.install(target, machine)

    def kept(*size: Any, **options: Any) -> Tensor:
        counters.append(zeros(*size, **options))
        return counters[-1]

    splits = mock.patch.object(triton_cam, "splits_of", lambda _, blocks: min(case.splits, blocks))
    try:
        with splits, mock.patch.object(torch, "zeros", kept):
            found = run(case, wide=False)
    except emulator.Fault as fault:
        return [str(fault)], ""
    wrong = errors(case, found)
    wrong += ["a counter of arrivals is left"] * any(bool(t.any()) for t in counters)
    size = torch.Size(case.shape).numel() * case.dtype.itemsize
    for launch in machine.launches:
        wrong += [f"{launch.name}: {fault}" for fault in launch.faults]
        times = launch.bytes["load", "x_ptr"] / size
        if times != {"_head": 2, "_head_backward": 0}.get(launch.name, 1):
            wrong.append(f"{launch.name} reads F {times} times")
    bits = [t.detach().contiguous().flatten().view(torch.uint8).numpy() for t in found.values()]
    return wrong, hashlib.sha256(b"".join(part.tobytes() for part in bits)).hexdigest()


def break_kernels(mutant: str) -> None:
    """Put a mutant into the kernels."""
    name, part, broken = MUTANTS[mutant]
    function = getattr(triton_cam, name)
    assert function.src.count(part) == 1, function.src
    function._unsafe_update_src(function.src.replace(part, broken))
    for module, value in product(MODULES, [v for m in MODULES for v in vars(m).values()]):
        if isinstance(value, JITFunction) and value in vars(module).values():
            value.hash = None


def main() -> int:
    """Run the cases in all orders; return 1 if one is wrong, or if a mutant is not found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tinygrad", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--target", choices=emulator.ISAS, default="gfx942")
    parser.add_argument("--orders", choices=emulator.ORDERS, nargs="+", default=["interleave"])
    parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES), metavar="NAME")
    parser.add_argument("--mutant", choices=MUTANTS, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    given = parser.parse_args()
    emulator.load(given.tinygrad)
    knobs.amd.use_buffer_ops, backend.INTERPRETED = False, True
    torch.set_num_threads(1)
    if given.mutant:
        break_kernels(given.mutant)
    faulty = 0
    for name in given.cases:
        judged = [judge(CASES[name], given.target, order, given.seed) for order in given.orders]
        wrong = [fault for faults, _ in judged for fault in faults]
        if len({bits for _, bits in judged}) > 1:
            wrong.append("another order gives other bits")
        print(f"{name}: {'; '.join(wrong) or 'right'}", flush=True)
        faulty += bool(wrong)
    print(f"{len(given.cases)} cases, {faulty} wrong")
    return int(bool(faulty) != bool(given.mutant))


if __name__ == "__main__":
    run_program(main)
