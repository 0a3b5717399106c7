"""A process for :mod:`bench.gpu` to start, and for other programs to watch.

    python -m bench.gpu_worker profile|run [--device cuda] [--shapes BxCxHW,...] [--share I/N]

runs one step a case between ``cudaProfilerStart`` and ``Stop``, forward and backward each followed
by a kernel that divides them; or every operation once, for a sanitizer, or so that its kernels are
compiled; of every N-th case, from the I-th on.
"""

import argparse

import torch

from bench import head
from bench.gpu_steps import WATCHED, Case, cases, inputs_of, loss_of, profiled, shapes_of
from bench.gpu_timing import MIB
from focus.kernels import cam_entropy

DONE = "all steps done"


def profile(given: list[Case], device: str) -> None:
    """A cold step of each case, marked for a profiler."""
    other = torch.zeros(128 * MIB if device == "cuda" else 1, device=device)
    for case in given:
        inputs = inputs_of(case, device)
        head.ours(inputs)  # compiles
        other.amax()  # fills the L2 with what nobody has to write back
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        loss = loss_of(inputs)
        _divide(device)
        torch.autograd.grad(loss, inputs.leaves)
        _divide(device)
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


def _divide(device: str) -> None:
    if device == "cuda":
        torch.cuda._sleep(1)


def run(given: list[Case], device: str) -> None:
    """Forward and backward of the operations at each case."""
    for case in given:
        inputs = inputs_of(case, device)
        head.ours(inputs)
        cam, entropy = cam_entropy(inputs.features, inputs.weight, inputs.target)
        torch.autograd.grad(cam.square().sum() + entropy.sum(), inputs.leaves[:2])
        if device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Run the steps, then say so: a program that watches cannot tell that they all ran."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=["profile", "run"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shapes", type=shapes_of, action="append", help="can be repeated")
    parser.add_argument("--share", default="0/1", metavar="I/N")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first, step = map(int, arguments.share.split("/"))
    task, every = (profile, profiled) if arguments.task == "profile" else (run, cases)
    given = [case for shapes in arguments.shapes or [WATCHED] for case in every(shapes)]
    task(given[first::step], arguments.device)
    print(DONE)


if __name__ == "__main__":
    main()
