"""Execute the operations' PTX for NVIDIA's GPUs without a GPU, and compare it with float64.

    python -m bench.ptx [--target sm_80|sm_90|sm_100] [--orders NAME ...] [--cases NAME ...]
                        [--mutant NAME ...] [--seed N]

Triton compiles the kernels; ptxas is not run, an interpreter executes their PTX. A case is right if
its results are the reference's, bit for bit the same in every order of CTAs and warps, F is read
as often as docs/kernels.md says, each output is stored once, no counter is left for the next
launch, and no access is one that PTX does not allow. By default all cases of bench/cases.py are
executed, some that the seed draws, and "far", whose offsets exceed 32 bits: minutes for a target.
--mutant breaks the kernels, or the PTX ("all": in each way that is known, one after another), which
the mutant's case must find. Nothing here is a time.
"""

import argparse
from collections import Counter
from contextlib import nullcontext

import torch

from bench.cases import CASES, LIMIT, random_cases
from bench.harness import run_program
from bench.mutants import FAR, MUTANTS, REWRITINGS, broken
from bench.ptx.driver import TARGETS
from bench.ptx.far import FAR_CASES, far_faults
from bench.ptx.machine import ORDERS
from bench.ptx.verdict import judge, judge_in_orders

RANDOM_CASES = 12


def is_found(mutant: str, target: str, seed: int = 0) -> bool:
    """Return whether a broken kernel is found by its case, in one of the orders."""
    rewriting = REWRITINGS.get(mutant)
    case = rewriting.case if rewriting else MUTANTS[mutant].case
    rewrite = rewriting.apply if rewriting else str
    with nullcontext() if rewriting else broken(MUTANTS[mutant]):
        if case == FAR:
            return any(far_faults(target, [far]) for far in FAR_CASES)
        verdicts = (
            judge(CASES[case], target, order, seed=seed, rewrite=rewrite) for order in ORDERS
        )
        return any(verdict.faults for verdict in verdicts)


def judge_mutants(names: list[str], target: str, seed: int) -> int:
    """Print which mutants are found; return 1 if one is not."""
    missed = 0
    for name in names:
        if is_found(name, target, seed):
            print(f"{name}: found", flush=True)
        else:
            missed += 1
            print(f"{name}: NOT FOUND", flush=True)
    print(f"{target}: {len(names)} mutants, {missed} not found")
    return int(missed > 0)


def judge_cases(names: list[str], target: str, orders: list[str], seed: int) -> int:
    """Print what is wrong with cases; return 1 if something is."""
    cases = CASES | random_cases(RANDOM_CASES, seed)
    faulty, runs, instructions, errors = 0, 0, 0, Counter[str]()
    for name in names or [*cases, FAR]:
        if name == FAR:
            faults = far_faults(target)
        else:
            verdict = judge_in_orders(cases[name], target, orders, seed=seed)
            faults, runs = verdict.faults, runs + verdict.runs
            instructions += verdict.instructions
            errors |= Counter(verdict.errors)  # the larger of both
        faulty += bool(faults)
        print(f"{name}: {'; '.join(faults) or 'right'}", flush=True)
    of_largest = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    print(f"largest errors as a share of the largest element (limit {LIMIT}): {of_largest}")
    print(f"{target}: {runs} runs of {instructions:.3g} warp instructions, {faulty} cases wrong")
    return int(faulty > 0)


def main() -> int:
    """Execute the cases, or find the mutants; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--target", choices=TARGETS, default="sm_90")
    parser.add_argument("--orders", choices=ORDERS, nargs="+", default=list(ORDERS))
    parser.add_argument("--cases", nargs="+", default=[], metavar="NAME")
    parser.add_argument(
        "--mutant", choices=["all", *MUTANTS, *REWRITINGS], nargs="+", metavar="NAME"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args()
    names = {*CASES, *random_cases(RANDOM_CASES, options.seed), FAR}
    if unknown := [name for name in options.cases if name not in names]:
        parser.error(f"no case is named {unknown[0]!r}; there are {', '.join(sorted(names))}")
    torch.set_num_threads(1)
    if options.mutant:
        every = [*MUTANTS, *REWRITINGS]
        chosen = every if "all" in options.mutant else options.mutant
        return judge_mutants(chosen, options.target, options.seed)
    return judge_cases(options.cases, options.target, options.orders, options.seed)


if __name__ == "__main__":
    run_program(main)
