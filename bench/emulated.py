"""Run the operations' machine code for AMD's GPUs in an emulator, and compare it with float64.

    python -m bench.emulated --tinygrad CHECKOUT [--target gfx942|gfx1100] [--orders NAME ...]
                             [--cases NAME ...] [--products] [--mutant NAME] [--seed N]

CHECKOUT is of tinygrad's repository, at the commit that bench/emulator.py names; it takes clang.
The cases are those of bench/cases.py; one takes 5 to 60 seconds. It is right if its results are the
reference's, F is read as often as it may be, no access is outside of a tensor, no store is on its
way when a program counts itself in, no counter is left, and every order of waves and workgroups
gives the same bits. --products lets matrix instructions sum the products of bfloat16, as on
NVIDIA's GPUs. With --mutant the kernels are broken, which must be found.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton import knobs
from triton.runtime.driver import driver

from bench import cases, emulator
from bench.cases import CASES, Case
from bench.harness import run_program
from bench.mutants import FAR, MUTANTS, Mutant, broken
from focus.kernels import backend

NO_WAIT = Mutant("arrives_last", "if _barrier_leaves_stores():", "if False:", "fp32 8 splits")
"""Only here: what waits for stores before a barrier, which NVIDIA's barriers need not."""
AMD_MUTANTS = {name: mutant for name, mutant in MUTANTS.items() if mutant.case != FAR}
AMD_MUTANTS |= {"no wait": NO_WAIT}


def judge(
    case: Case, target: str, order: str, *, products: bool = False, seed: int = 0
) -> tuple[list[str], str]:
    """Run a case; return what is wrong with it, and a digest of its results' bits."""
    machine, counters, zeros = emulator.Emulator(order, seed), list[Tensor](), torch.zeros
    driver.set_active(emulator.EmulatedDriver(target, machine))

    def kept(*size: Any, **options: Any) -> Tensor:
        counters.append(zeros(*size, **options))
        return counters[-1]

    inputs = cases.make_inputs(case)
    launched = cases.with_absent_target(case, inputs)
    version = mock.patch.object(torch.version, "hip", None if products else target)
    try:
        with cases.splits_of(case), version, mock.patch.object(torch, "zeros", kept):
            results = cases.run(case, launched)
    except emulator.Fault as fault:
        return [str(fault)], ""
    faults = cases.wrong(results, cases.expected(case, inputs))
    if any(bool(counter.any()) for counter in counters):
        faults.append("a counter of arrivals is left")
    for launch in machine.launches:
        faults += [f"{launch.name}: {fault}" for fault in launch.faults]
        reads = launch.bytes["load", "x_ptr"] / inputs.features.nbytes
        if reads != case.reads(launch.name):
            faults.append(f"{launch.name} reads F {reads} times")
    return faults, cases.digest(results)


def main() -> int:
    """Run the cases in all orders; return 1 if one is wrong, or if a mutant is not found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tinygrad", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--target", choices=emulator.ISAS, default="gfx942")
    parser.add_argument("--orders", choices=emulator.ORDERS, nargs="+", default=["interleave"])
    parser.add_argument("--cases", choices=CASES, nargs="+", metavar="NAME")
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--mutant", choices=AMD_MUTANTS, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args()
    emulator.load(options.tinygrad)
    knobs.amd.use_buffer_ops, backend.INTERPRETED = False, True
    torch.set_num_threads(1)
    mutant = AMD_MUTANTS.get(options.mutant)
    names = options.cases or ([mutant.case] if mutant else list(CASES))
    faulty = 0
    with broken(mutant) if mutant else nullcontext():
        for name in names:
            verdicts = [
                judge(
                    CASES[name], options.target, order, products=options.products, seed=options.seed
                )
                for order in options.orders
            ]
            faults = [fault for faults, _ in verdicts for fault in faults]
            if len({digest for _, digest in verdicts}) > 1:
                faults.append("another order gives other bits")
            print(f"{name}: {'; '.join(faults) or 'right'}", flush=True)
            faulty += bool(faults)
    print(f"{len(names)} cases, {faulty} wrong")
    return int(bool(faulty) != bool(mutant))


if __name__ == "__main__":
    run_program(main)
