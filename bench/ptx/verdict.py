"""Execute a case, and say what is wrong with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import cases
from bench.cases import Case
from bench.ptx.driver import WHOLE, Gpu
from bench.ptx.errors import Fault
from bench.ptx.machine import ORDERS, Machine

ULPS = 2
"""By how much PTX lets approximations of 2^x and of quotients be off."""


@dataclass
class Verdict:
    """What is wrong with a case, and what its execution was.

    digest: A hash of the results' bits; errors: of each result, as a share of its largest element;
    runs, instructions: How often an operation was executed, and how many instructions of warps.
    """

    faults: list[str] = field(default_factory=list)
    digest: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    runs: int = 0
    instructions: int = 0


def judge(
    case: Case, target: str, order: str, *, seed: int = 0, rewrite: Callable[[str], str] = str
) -> Verdict:
    """Execute a case in an order; in lockstep twice, on the same counters of arrivals.

    seed: Of the inputs, and of whose turn it is. rewrite: Is applied to the PTX.
    """
    gpu = Gpu(target, order, seed=seed, ulps=ULPS)
    gpu.rewrite = rewrite
    inputs = cases.make_inputs(case, seed)
    launched = cases.with_absent_target(case, inputs)
    runs = 2 if order == "lockstep" else 1
    try:
        with gpu.active(), cases.splits_of(case):
            executed = [cases.run(case, launched) for _ in range(runs)]
    except Fault as fault:
        return Verdict([str(fault)], runs=runs)
    right = cases.expected(case, inputs)
    digests = [cases.digest(results) for results in executed]
    faults = cases.wrong(executed[0], right)
    if len(set(digests)) > 1:
        faults.append("a second launch on the same counters gives other bits")
    if gpu.has_counts():
        faults.append("a counter of arrivals is left")
    if not gpu.launches:
        faults.append("no kernel was launched")
    for machine in gpu.launches:
        faults += launch_faults(case, inputs.features.nbytes, machine)
    instructions = sum(machine.instructions().total() for machine in gpu.launches)
    errors = cases.errors(executed[0], right)
    gpu.launches.clear()  # Triton keeps the Gpu, with what it compiled for it
    return Verdict(faults, digests[0], errors, runs, instructions)


def launch_faults(case: Case, feature_bytes: int, machine: Machine) -> list[str]:
    """Return what a launch did that it may not do, and what it moved more than once."""
    name = machine.program.name
    faults = [f"{fault} ({count} times)" for fault, count in machine.faults.items()]
    reads = machine.moved["load", "x_ptr"] / feature_bytes
    if reads != case.reads(name):
        faults.append(f"{name} reads F {reads} times, not {case.reads(name)}")
    for buffer in machine.buffers:
        if machine.outputs.get(buffer.name) != WHOLE:
            continue
        stores = machine.moved["store", buffer.name] / max(buffer.size, 1)
        if stores != 1:
            faults.append(f"{name} stores {buffer.name} {stores} times")
    return faults


def judge_in_orders(
    case: Case, target: str, orders: Sequence[str] = tuple(ORDERS), *, seed: int = 0,
    rewrite: Callable[[str], str] = str,
) -> Verdict:  # fmt: skip
    """Execute a case in several orders, which must give the same bits."""
    verdicts = {order: judge(case, target, order, seed=seed, rewrite=rewrite) for order in orders}
    whole = Verdict()
    for order, verdict in verdicts.items():
        whole.faults += [f"{order}: {fault}" for fault in verdict.faults]
        whole.runs += verdict.runs
        whole.instructions += verdict.instructions
        for name, error in verdict.errors.items():
            whole.errors[name] = max(error, whole.errors.get(name, 0.0))
    if len({verdict.digest for verdict in verdicts.values()}) > 1:
        whole.faults.append("another order gives other bits")
    return whole
