"""Broken kernels, each of which an execution of compiled kernels must find."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from triton.runtime.jit import JITFunction

from focus.kernels import triton_cam, triton_focus_head

_MODULES = triton_cam, triton_focus_head


class Mutant(NamedTuple):
    """A function of the kernels, a part of its source, what takes its place, and a case that
    finds it."""

    function: str
    part: str
    replacement: str
    case: str


FAR = "far"
"""The case of tensors whose elements lie more than 2^31 apart; see :mod:`bench.ptx.far`."""

MUTANTS = {
    # Who arrives last, and what it sees.
    "early": Mutant("arrives_last", "== count - 1", "== count - 2", "fp32 8 splits"),
    "counter kept": Mutant("arrives_last", "(ticket_ptr, 0)", "(ticket_ptr, count)", "bf16 last"),
    "relaxed": Mutant("arrives_last", '"acq_rel"', '"relaxed"', "bf16 8 splits"),
    "no acquire": Mutant("arrives_last", '"acq_rel"', '"release"', "bf16 8 splits"),
    "no release": Mutant("arrives_last", '"acq_rel"', '"acquire"', "bf16 8 splits"),
    "one counter": Mutant("class_maps", "ticket_ptr + b", "ticket_ptr", "bf16 8 splits"),
    "one counter of blocks": Mutant(
        "_cams_backward", "ticket_ptr + block", "ticket_ptr", "cam"
    ),
    # Splits.
    "wrong split": Mutant(
        "class_maps", "partials + other * ROWS", "partials + (other // 2) * ROWS", "fp32 8 splits"
    ),
    "a split less": Mutant(
        "class_maps", "in range(splits)", "in range(splits - 1)", "fp32 8 splits"
    ),
    "place of a split": Mutant(
        "class_maps", "partials + split * ROWS", "partials + (split // 2) * ROWS", "fp32 5 splits"
    ),
    "splits overlap": Mutant(
        "class_maps", "first, end = split * per_split", "first, end = split", "fp32 5 splits"
    ),
    # Where memory ends, and what is written.
    "channels past the end": Mutant(
        "tile_pointers", "c < channels", "c < channels + 8", "gap"
    ),
    "cells past the end": Mutant(
        "tile_pointers", "p < P", "p < P + 1", "bf16 odd nchw"
    ),
    "rows past the end": Mutant("_head_backward", "row = b < batch", "row = b <= batch", "fp32"),
    "u past its end": Mutant(
        "_sums_over_cells", "g[:, None], 0), c < channels)", "g[:, None], 0))", "fp32 odd"
    ),
    "u and f past their ends": Mutant(
        "_sums_over_cells", "(c < channels)[None, :]", "(c < channels + 8)[None, :]", "bf16 odd"
    ),
    "f among u": Mutant("_sums_over_cells", "number == 4", "number == 3", "bf16 last"),
    "columns not written": Mutant("_head", "rest < _COLUMNS(P, K) - P - K", "rest < 1", "fp32"),
    "db by all programs": Mutant(
        "_head_backward", "not BIAS_OF_SAMPLE and pid == 0", "not BIAS_OF_SAMPLE", "fp32"
    ),
    # Sums over the batch.
    "a sample less": Mutant("_head", "i < batch, 0", "i < batch - 1, 0", "batch 70"),
    "samples past 64": Mutant("_head", "range(0, batch, 64)", "range(0, 64, 64)", "batch 70"),
    "samples past 32": Mutant(
        "_cams_backward", "range(0, batch, BLOCK_B)", "range(0, BLOCK_B, BLOCK_B)", "cam batch 35"
    ),
    # Arithmetic.
    "two thirds": Mutant("third", "rest - middle", "0", "bf16 last"),
    "a part of W": Mutant("third", "n == 1, middle", "n == 9, middle", "bf16 16 classes"),
    "mean of the others": Mutant("_direction", "(K - 1)", "K", "contrast"),
    "slope of the focus": Mutant("_focus", "excess < 0, -1.0", "excess < 0, 1.0", "fp32"),
    "half a slope": Mutant("_saliency", "error * (2 / P)", "error * (1 / P)", "fp32"),
    "ties": Mutant("_through_minmax", "at_low * (by_low", "at_low * 2 * (by_low", "sum entropy"),
    # Inputs that may be there or not.
    "one bias": Mutant("_head", "b * stride_bias + k", "k", "bias of each sample"),
    "one bias of the maps": Mutant("_cams", "b * stride_bias + r", "r", "maps 16 classes"),
    "a map that is missing": Mutant("_head", "present, P, 0", "present, P, P", "some maps"),
    "one target entropy": Mutant("_head", "b * stride_h", "0 * stride_h", "an aim each"),
    "absent target hidden": Mutant("_head", "exists, z, float", "True, z, float", "absent target"),
    "absent class read": Mutant("_cams", "(row >= 0) & (row < classes)", "row >= 0", "cam absent"),
    # Offsets in 32 bits.
    "sample in 32 bits": Mutant(
        "_head", "(tl.program_id(0) // splits).to(tl.int64)", "tl.program_id(0) // splits", FAR
    ),
    "sample in 32 bits, backward": Mutant(
        "_grad_features", "(pid // blocks).to(tl.int64)", "pid // blocks", FAR
    ),
    "sample in 32 bits, of dW": Mutant(
        "_head_backward", "(start + tl.arange(0, BLOCK_B)).to(tl.int64)",
        "start + tl.arange(0, BLOCK_B)", FAR,
    ),
    "sample in 32 bits, of maps": Mutant(
        "_cams", "(tl.program_id(0) // splits).to(tl.int64)", "tl.program_id(0) // splits", FAR
    ),
    "sample in 32 bits, of cam": Mutant(
        "_cams_backward", "(tl.program_id(0) // blocks).to(tl.int64)", "tl.program_id(0) // blocks",
        FAR,
    ),
}  # fmt: skip
"""By name."""


class Rewriting(NamedTuple):
    """A pattern in the machine code, what takes its place, and a case that finds it."""

    pattern: str
    replacement: str | Callable[[re.Match[str]], str]
    case: str

    def apply(self, code: str) -> str:
        """Return the code, broken."""
        return re.sub(self.pattern, self.replacement, code)


def _one_group_more(wait: re.Match[str]) -> str:
    return f"cp.async.wait_group {int(wait[1]) + 1};"


REWRITINGS = {
    "no barriers": Rewriting(r"\bbar\.sync\s+0;", "", "bf16 8 splits"),
    "copies not waited for": Rewriting(r"cp\.async\.wait_group\s+\d+;", "", "bf16 last"),
    "a wait too short": Rewriting(r"cp\.async\.wait_group\s+(\d+);", _one_group_more, "bf16 last"),
}
"""Of PTX, by name: what a compiler might do wrong."""


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Put a mutant into the kernels; take it out again on leaving."""
    function = _function(mutant.function)
    source = function.src
    if source.count(mutant.part) != 1:
        count = source.count(mutant.part)
        raise ValueError(f"{mutant.part!r} stands {count} times in {mutant.function}, not once")
    _replace(function, source.replace(mutant.part, mutant.replacement))
    try:
        yield
    finally:
        _replace(function, source)


def _function(name: str) -> JITFunction:
    (function,) = (getattr(module, name) for module in _MODULES if hasattr(module, name))
    return function


def _replace(function: JITFunction, source: str) -> None:
    """Change a function's source; those that call it are compiled anew, too."""
    function._unsafe_update_src(source)
    for module in _MODULES:
        for value in vars(module).values():
            if isinstance(value, JITFunction):
                value.hash = None
