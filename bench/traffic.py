"""Count the bytes that the operations move per step, in Triton's interpreter.

    python -m bench.traffic [--output FOLDER] [--batch B]

prints a line per path (a training step, a forward, a step with one side frozen), shape, type and
memory layout: how often the features F are read and their gradient dF is written, all other bytes
relative to F in bfloat16, and the launches. Batches are of 20; a training step is also counted for
``--batch``, 32 (128 takes long: the interpreter needs a millisecond a block), other grids and other
numbers of classes. ``--output`` writes the same as ``traffic.csv`` and ``traffic.json``.

Nothing here is a time. :mod:`bench.interpreter_counter` says what is counted.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import head
from bench.harness import judged, make_parser, run_program, settings, write
from bench.head import Inputs
from bench.interpreter_counter import Kind, Role, Traffic, measure
from focus.kernels import backend, cam_entropy, class_activation, focus_head
from focus.kernels.terms import WEIGHTS

SIDE, BATCH, CLASSES = 7, 20, 2

MAX_OTHER = 0.5
"""Limit of all bytes but those of F and dF, relative to F in bfloat16: u and f, and W for each."""

Step = Callable[[], Tensor | None]
"""Runs once and returns the gradient of the features, where there is one."""


class Case(NamedTuple):
    """Shape, type and memory layout; the maps have ``side * side`` cells."""

    batch: int
    channels: int
    classes: int
    dtype: str
    layout: str
    side: int = SIDE


class Usage(NamedTuple):
    """A way to use an operation, and its limits.

    ``reads`` of F and ``writes`` of dF are exact, in times their bytes; ``wide`` launches may touch
    F. Forward reads it twice where the classifier has a gradient: from memory, then from the cache.
    With ``other`` the limit above holds for up to 2 classes and from 1024 channels on.
    """

    step: Callable[[Inputs], Step]
    reads: int
    writes: int
    wide: int
    other: bool = False


def make_inputs(case: Case, device: str = "cpu") -> Inputs:
    """Return random inputs of a case; the classifier is float32, as under autocast."""
    shape = case.batch, case.channels, case.side**2
    return head.make_inputs(shape, case.layout, case.classes, head.DTYPES[case.dtype], device)


def head_step(inputs: Inputs, *, backbone: bool = True, classifier: bool = True) -> Step:
    """Return the head's forward and backward; a frozen side needs no gradient."""
    for leaf, needed in zip(inputs.leaves, (backbone, classifier, classifier), strict=True):
        leaf.requires_grad_(needed)
    leaves = [tensor for tensor in inputs.leaves if tensor.requires_grad]
    weights: dict[str, Any] = dict.fromkeys(WEIGHTS, 0.5)

    def step() -> Tensor | None:
        out = focus_head(
            *inputs.leaves,
            inputs.target,
            saliency=inputs.saliency,
            focus_level="match",
            **weights,
        )
        gradients = torch.autograd.grad(out.loss, leaves) if leaves else ()
        return gradients[0] if backbone else None

    return step


def entropy_forward(inputs: Inputs) -> Step:
    """Return the forward of ``cam_entropy``."""

    def step() -> None:
        cam_entropy(inputs.features, inputs.weight, inputs.target)

    return step


def entropy_backward(inputs: Inputs) -> Step:
    """Return the backward of ``cam_entropy``."""
    outputs: list[Tensor] = []
    call = partial(cam_entropy, inputs.features, inputs.weight, inputs.target)
    measure(lambda: outputs.extend(call()), inputs.features)  # which alone takes meta tensors
    upstream = [torch.ones_like(output) for output in outputs]
    leaves = inputs.features, inputs.weight
    return lambda: torch.autograd.grad(outputs, leaves, upstream)[0]


def activation(inputs: Inputs) -> Step:
    """Return ``class_activation`` of two classes."""

    def step() -> None:
        class_activation(*inputs.leaves, inputs.target[:, None].expand(-1, 2))

    return step


USAGES = {
    "focus_head step": Usage(head_step, 2, 1, wide=2, other=True),
    "focus_head frozen backbone": Usage(partial(head_step, backbone=False), 2, 0, 1, other=True),
    "focus_head frozen head": Usage(partial(head_step, classifier=False), 1, 1, 2, other=True),
    "focus_head no gradient": Usage(
        partial(head_step, backbone=False, classifier=False), 1, 0, wide=1, other=True
    ),
    "cam_entropy forward": Usage(entropy_forward, 1, 0, wide=1),
    "cam_entropy backward": Usage(entropy_backward, 1, 1, wide=1),
    "class_activation": Usage(activation, 1, 0, wide=1),
}


def faults(traffic: Traffic, usage: Usage, case: Case, features: Tensor) -> tuple[str, ...]:
    """Return what misses the limits, in words."""
    size = features.numel() * features.element_size()
    found = []
    exact: dict[tuple[Role, Kind], int] = {
        ("F", "read"): usage.reads,
        ("F", "write"): 0,
        ("dF", "read"): 0,
        ("dF", "write"): usage.writes,
    }
    for (role, kind), times in exact.items():
        moved = traffic.moved(role, kind) / size
        if moved != times:
            found.append(f"{role} {kind} x {moved:.4g}, not {times}")
    if traffic.wide_launches > usage.wide:
        found.append(f"{traffic.wide_launches} launches touch F, not {usage.wide}")
    limited = usage.other and case.classes <= CLASSES and case.channels >= 1024
    if limited and traffic.other > MAX_OTHER * 2 * features.numel():
        found.append(f"other over {MAX_OTHER}")
    return tuple(found)


def count(name: str, case: Case) -> dict[str, Any]:
    """Count the bytes of a path and a case; return a row of the table.

    F read and dF written are in times their size, other bytes in times F in bfloat16; launches are
    those of a GPU.
    """
    usage = USAGES[name]
    inputs, shapes = make_inputs(case), make_inputs(case, "meta")
    features = inputs.features
    size = features.numel() * features.element_size()
    traffic = measure(usage.step(inputs), features)
    on_gpu = measure(usage.step(shapes), shapes.features)
    return {
        "path": name,
        **case._asdict(),
        "features_read": round(traffic.moved("F", "read") / size, 4),
        "gradient_written": round(traffic.moved("dF", "write") / size, 4),
        "other": round(traffic.other / (2 * features.numel()), 4),
        "wide_launches": traffic.wide_launches,
        "other_launches": len(on_gpu.launches) - traffic.wide_launches,
        "faults": ", ".join(faults(traffic, usage, case, features)),
    }


def rows(batch: int) -> Iterator[dict[str, Any]]:
    """Yield the table line by line; ``batch`` is the second one, of a training step."""
    shapes = list(product((1024, 2048), head.DTYPES, head.LAYOUTS))
    for name, (channels, dtype, layout) in product(USAGES, shapes):
        yield count(name, Case(BATCH, channels, CLASSES, dtype, layout))
    for channels, dtype, layout in shapes:
        yield count("focus_head step", Case(batch, channels, CLASSES, dtype, layout))
    for side, dtype, layout in product((8, 10), head.DTYPES, head.LAYOUTS):
        yield count("focus_head step", Case(BATCH, 1024, CLASSES, dtype, layout, side))
    for classes in (1, 3, 4, 8, 16):
        yield count("focus_head step", Case(BATCH, 1024, classes, "bf16", "channels_last"))


def main() -> None:
    """Print the table as it grows, then write it with ``--output``."""
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=32, metavar="B", help="the second batch size")
    given = parser.parse_args()
    # Triton reads it when it is imported, which the operations do on their first call.
    os.environ["TRITON_INTERPRET"], backend.INTERPRETED = "1", True
    torch.set_num_threads(1)
    table = judged(rows(given.batch))
    write(given.output, "traffic", table, settings("python -m bench.traffic"))


if __name__ == "__main__":
    run_program(main)
