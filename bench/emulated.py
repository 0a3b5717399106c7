"""Run the operations' machine code for AMD's GPUs in an emulator, and compare it with float64.

    python -m bench.emulated --tinygrad CHECKOUT [--target gfx942|gfx1100] [--orders NAME ...]
                             [--cases NAME ...] [--mutant NAME] [--seed N]

CHECKOUT is of tinygrad's repository, at the commit that bench/emulator.py names; it takes clang. A
case takes 5 to 60 seconds. It is right if its results are the reference's, F is read as often as it
may be, no access is outside of a tensor, no store is on its way when a program counts itself in, no
counter is left, and every order of waves and workgroups gives the same bits. With --mutant the
kernels are broken, which must be found.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from triton import knobs
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from bench import emulator, head
from bench.harness import run_program
from bench.test_operations import OPERATIONS, check
from focus.kernels import backend, triton_cam, triton_focus_head


class Case(NamedTuple):
    """An operation, and its features: type, layout, batch, channels and cells.

    products: Sum the products of bfloat16 by matrix instructions, as on NVIDIA's GPUs.
    """

    operation: str
    dtype: str
    layout: str
    shape: head.Shape
    classes: int
    splits: int
    products: bool = False


CASES = {
    "head fp32": Case("focus_head", "fp32", "nchw", (2, 200, 49), 2, 1),
    "head fp32 last": Case("focus_head", "fp32", "channels_last", (2, 256, 64), 3, 1),
    "head fp32 splits": Case("focus_head", "fp32", "nchw", (3, 1000, 49), 2, 8),
    "head fp32 odd": Case("focus_head", "fp32", "nchw", (3, 37, 81), 3, 1),
    "head fp32 16": Case("focus_head", "fp32", "channels_last", (2, 256, 49), 16, 2),
    "head bf16": Case("focus_head", "bf16", "nchw", (2, 200, 49), 2, 1),
    "head bf16 last": Case("focus_head", "bf16", "channels_last", (2, 256, 49), 2, 1),
    "head bf16 64": Case("focus_head", "bf16", "channels_last", (2, 256, 64), 3, 1, True),
    "head bf16 splits": Case("focus_head", "bf16", "channels_last", (3, 1024, 49), 2, 8, True),
    "head bf16 16": Case("focus_head", "bf16", "channels_last", (2, 256, 49), 16, 2, True),
    "head sum": Case("focus_head sum", "bf16", "channels_last", (2, 256, 49), 2, 1),
    "head sum splits": Case("focus_head sum", "fp32", "nchw", (3, 1000, 49), 2, 8),
    "cam fp32": Case("cam_entropy", "fp32", "nchw", (3, 300, 49), 2, 1),
    "cam bf16 splits": Case("cam_entropy", "bf16", "channels_last", (4, 1024, 49), 3, 8),
    "maps fp32 splits": Case("class_activation", "fp32", "nchw", (2, 600, 49), 3, 4),
}
MUTANTS = {
    "no wait": ("arrives_last", "if _barrier_leaves_stores():", "if False:"),
    "early": ("arrives_last", "== count - 1", "== count - 2"),
    "counter kept": ("arrives_last", "tl.store(ticket_ptr, 0)", "tl.store(ticket_ptr, count)"),
    "wrong split": ("class_maps", "place + other * ROWS", "place + (other // 2) * ROWS"),
    "no mask": ("tile_pointers", "(c < channels)", "(c < channels + 8)"),
}
"""By name: a device function, a part of its source, and what breaks it."""


def judge(case: Case, target: str, order: str, seed: int) -> tuple[list[str], str]:
    """Run a case; return what is wrong with it, and a digest of its results' bits."""
    machine, counters, zeros = emulator.Emulator(order, seed), list[Tensor](), torch.zeros
    driver.set_active(emulator.EmulatedDriver(target, machine))

    def kept(*size: Any, **options: Any) -> Tensor:
        counters.append(zeros(*size, **options))
        return counters[-1]

    inputs = head.make_inputs(case.shape, case.layout, case.classes, head.DTYPES[case.dtype])
    splits = mock.patch.object(triton_cam, "splits_of", lambda _, blocks: min(case.splits, blocks))
    products = mock.patch.object(torch.version, "hip", None if case.products else target)
    try:
        with splits, products, mock.patch.object(torch, "zeros", kept):
            found = OPERATIONS[case.operation](inputs)
        check(case.operation, found, inputs)
    except (emulator.Fault, AssertionError) as error:
        return [str(error)], ""
    wrong = ["a counter of arrivals is left"] * any(bool(t.any()) for t in counters)
    for launch in machine.launches:
        wrong += [f"{launch.name}: {fault}" for fault in launch.faults]
        times = launch.bytes["load", "x_ptr"] / inputs.features.nbytes
        if times != {"_head": 2, "_head_backward": 0}.get(launch.name, 1):
            wrong.append(f"{launch.name} reads F {times} times")
    bits = [t.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes() for t in found]
    return wrong, hashlib.sha256(b"".join(bits)).hexdigest()


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
