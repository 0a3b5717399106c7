"""Run the operations' machine code for AMD's GPUs in an emulator, and compare it with float64.

    python -m bench.emulated --tinygrad CHECKOUT [--target gfx942|gfx1100] [--orders NAME ...]
                             [--cases NAME ...] [--mutant NAME] [--seed N]

CHECKOUT is one of tinygrad's repository, at the commit that :mod:`bench.emulator` names; it takes
clang. The operations are called as ever, and compiled by Triton. A case takes 5 to 60 seconds. It is
right if its results are the reference's, no access is outside of a tensor, no counter of arrivals
is left, no store is on its way when the program counts itself in, and every order of waves and
workgroups gives the same bits. With ``--mutant`` the kernels are broken, which must be found.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import knobs
from triton.runtime.jit import JITFunction

from bench import emulator
from bench.harness import run_program
from focus.kernels import backend, cam_entropy, class_activation, focus_head, use_backend
from focus.kernels import triton_cam, triton_focus_head

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


class Case(NamedTuple):
    """An operation, the features' type, layout, batch, channels and grid, classes and splits."""

    operation: str
    dtype: torch.dtype
    last: bool
    shape: tuple[int, int, int, int]
    classes: int = 2
    splits: int = 1
    options: tuple[tuple[str, Any], ...] = ()


CASES = {
    "head fp32": Case("head", FP32, False, (2, 200, 7, 7), 2),
    "head fp32 last contrast": Case(
        "head", FP32, True, (2, 256, 8, 8), 3, 1, (("cam_class", "contrast"),)
    ),
    "head bf16": Case("head", BF16, False, (2, 200, 7, 7), 2, 1, (("focus_level", "hinge"),)),
    "head bf16 last": Case("head", BF16, True, (2, 256, 7, 7), 2, 1, (("reduction", "none"),)),
    "head bf16 8x8": Case("head", BF16, False, (2, 256, 8, 8), 3, 1, (("cam_class", "predicted"),)),
    "head fp16 last": Case("head", FP16, True, (2, 256, 7, 7), 3),
    "head odd": Case("head", FP32, False, (3, 37, 5, 13), 3),
    "head 16 classes": Case("head", FP32, True, (2, 256, 7, 7), 16, 2),
    "head bf16 16 classes": Case("head", BF16, True, (2, 256, 7, 7), 16, 2),
    "head fp32 splits": Case("head", FP32, False, (3, 1000, 7, 7), 2, 8),
    "head bf16 last splits": Case("head", BF16, True, (3, 1024, 7, 7), 2, 8),
    "cam fp32": Case("cam", FP32, False, (3, 300, 7, 7), 2),
    "cam bf16 last splits": Case("cam", BF16, True, (4, 1024, 7, 7), 3, 8),
    "cam fp16 8x8": Case("cam", FP16, False, (3, 300, 8, 8), 3),
    "maps splits": Case("maps", FP32, False, (2, 600, 7, 7), 3, 4),
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


def run(case: Case, wide: bool) -> dict[str, Tensor]:
    """Return results and gradients; wide: of the float64 reference."""
    draw = torch.Generator().manual_seed(0)
    batch, channels, *grid = case.shape
    features = torch.randn(case.shape, generator=draw).to(case.dtype)
    layout = torch.channels_last if case.last else torch.contiguous_format
    weight = torch.randn(case.classes, channels, generator=draw) / channels**0.5
    bias, index = torch.randn(case.classes, generator=draw), torch.arange(batch) % case.classes
    maps, there = torch.rand(batch, *grid, generator=draw), torch.arange(batch) % 3 != 1
    aim, logits = torch.rand(batch, generator=draw), torch.randn(batch, case.classes, generator=draw)
    tensors = (features.contiguous(memory_format=layout), weight, bias, maps, aim, logits)
    if wide:
        tensors = tuple(tensor.double() for tensor in tensors)
    features, weight, bias, maps, aim, logits = tensors
    leaves = [tensor.requires_grad_() for tensor in (features, weight, bias)]
    if case.operation == "maps":
        names = ("logits", "cams", "entropies")
        return dict(zip(names, class_activation(*leaves, range(case.classes)), strict=True))
    if case.operation == "cam":
        cam, entropy = cam_entropy(features, weight, index, temperature=0.7)
        total = (cam * maps).sum() + (entropy * aim).sum()
        found = {"cam": cam, "entropy": entropy}
        leaves.pop()
    else:
        options = {"focus_level": "match", "focus_weight": 0.9, "saliency_weight": 1.3}
        out = focus_head(
            *leaves, index, saliency=maps, saliency_mask=there, entropy_target=aim,
            temperature=0.8, label_smoothing=0.1, **options | dict(case.options),
        )  # fmt: skip
        total = (out.loss * (aim if out.loss.dim() else 0.7)).sum() + (out.logits * logits).sum()
        found = out._asdict()
    gradients = torch.autograd.grad(total, leaves)
    return found | dict(zip(("dF", "dW", "db"), gradients, strict=False))


def errors(case: Case, found: dict[str, Tensor]) -> list[str]:
    """Return the results that are further from the reference than rounding explains."""
    wrong = []
    with use_backend("reference"):
        exact = run(case, wide=True)
    for name, tensor in found.items():
        got, expected = tensor.detach().double(), exact[name].detach()
        limit = 1e-5 * expected.abs().max()
        if tensor.dtype != FP32:
            limit = limit + torch.finfo(tensor.dtype).eps * expected.abs()
        if not bool(((got - expected).abs() <= limit).all()):  # nor where one is NaN
            wrong.append(f"{name} off by {float((got - expected).abs().max()):.1e}")
    return wrong


def digest(found: dict[str, Tensor]) -> str:
    """Return a hash of all bits."""
    data = [t.detach().contiguous().reshape(-1).view(torch.uint8).numpy() for t in found.values()]
    return hashlib.sha256(b"".join(part.tobytes() for part in data)).hexdigest()[:12]


def judge(case: Case, target: str, order: str, seed: int) -> tuple[list[str], str]:
    """Run a case; return what is wrong with it, and the digest of its results."""
    machine = emulator.Emulator(order, seed)
    emulator.install(target, machine)
    counters: list[Tensor] = []
    real_zeros, real_splits = torch.zeros, triton_cam.splits_of

    def zeros(*size: Any, **options: Any) -> Tensor:
        counters.append(real_zeros(*size, **options))
        return counters[-1]

    torch.zeros = zeros
    for module in (triton_cam, triton_focus_head):
        module.splits_of = lambda _, blocks: min(case.splits, blocks)
    try:
        found = run(case, wide=False)
    except emulator.Fault as fault:
        return [str(fault)], ""
    finally:
        torch.zeros = real_zeros
        triton_cam.splits_of = triton_focus_head.splits_of = real_splits
    wrong = errors(case, found)
    wrong += [f"{launch.name}: {text}" for launch in machine.launches for text in launch.faults]
    wrong += ["a counter of arrivals is left"] * any(bool(t.any()) for t in counters)
    size = found["cam" if "cam" in found else "cams"].shape[-1] ** 0  # F's bytes follow
    features = case.dtype.itemsize * size
    for length in case.shape:
        features *= length
    once = 2 if case.operation == "head" else 1
    read = {launch.name: launch.bytes["load", "x_ptr"] / features for launch in machine.launches}
    if any(times not in (0, once) for times in read.values()):
        wrong.append(f"F was read {read} times")
    print(f"  {case.operation} {order}: {sum(x.instructions for x in machine.launches)} instructions")
    return wrong, digest(found)


def break_kernels(mutant: str) -> None:
    """Put a mutant into the kernels."""
    name, part, broken = MUTANTS[mutant]
    function = getattr(triton_cam, name)
    assert function.src.count(part) == 1, function.src
    function._unsafe_update_src(function.src.replace(part, broken))
    for value in (*vars(triton_cam).values(), *vars(triton_focus_head).values()):
        if isinstance(value, JITFunction):
            value.hash = None


def main() -> int:
    """Run the cases in all orders; return 1 if one is wrong, or if a mutant was not found."""
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
        wrong, digests = list[str](), set[str]()
        for order in given.orders:
            found, bits = judge(CASES[name], given.target, order, given.seed)
            wrong += found
            digests.add(bits)
        wrong += ["another order gives other bits"] * (len(digests) > 1)
        print(f"{name}: {'; '.join(wrong) or 'right'}", flush=True)
        faulty += bool(wrong)
    print(f"{len(given.cases)} cases, {faulty} wrong")
    return int(bool(faulty) != bool(given.mutant))


if __name__ == "__main__":
    run_program(main)
