"""How the fields of a configuration are declared as flags, and which values they take.

:mod:`focus.config.command_line` makes the command line from what is declared here.
"""

import math
from collections.abc import Callable
from dataclasses import field, fields
from typing import TYPE_CHECKING, Literal, TypeVar

from focus.errors import InputError
from focus.runtime.files import is_utf8

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

GROUPS = ("data", "model", "loss", "training", "output", "machine")
"""The groups of flags, in the order in which ``--help`` shows them."""

Words = Literal["one", "many", "positional"]
"""What a flag takes: the word behind it, all words up to the next flag, or the word behind it and
each positional one, which stands behind no flag."""

T = TypeVar("T")

_POSITIVE: tuple[Callable[[float], bool], str] = (lambda v: v > 0, "above 0")
_AT_LEAST_0: tuple[Callable[[float], bool], str] = (lambda v: v >= 0, "at least 0")
_AT_LEAST_1: tuple[Callable[[float], bool], str] = (lambda v: v >= 1, "at least 1")
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "image_size": (lambda v: v >= 32, "at least 32 (pixels a side)"),
    "classification_weight": _AT_LEAST_0,
    "focus_weight": _AT_LEAST_0,
    "saliency_weight": _AT_LEAST_0,
    "entropy_target": (lambda v: 0 <= v <= 1, "from 0 to 1"),
    "temperature": (lambda v: v >= 2**-126, "above 0"),  # in float32, too
    "label_smoothing": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "epochs": _AT_LEAST_1,
    "batch_size": _AT_LEAST_1,
    "eval_batch_size": _AT_LEAST_1,
    "lr": _POSITIVE,
    "weight_decay": _AT_LEAST_0,
    "momentum": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "warmup": (lambda v: 0 <= v < 1, "at least 0 and below 1 (a share of the steps)"),
    "clip_grad": _POSITIVE,
    "ema_decay": (lambda v: 0 < v < 1, "above 0 and below 1"),
    "patience": _AT_LEAST_1,
    "max_nonfinite": _AT_LEAST_1,
    "checkpoint_steps": _AT_LEAST_1,
    "checkpoints_kept": _AT_LEAST_1,
    "log_steps": _AT_LEAST_1,
    "sheet_epochs": _AT_LEAST_0,
    "step_epochs": _AT_LEAST_1,
    "step_gamma": _POSITIVE,
    "seed": (lambda v: 0 <= v < 2**32, "at least 0 and below 2**32"),
    "gradient_accumulation_steps": _AT_LEAST_1,
    "max_bad": (lambda v: 0 <= v <= 1, "from 0 to 1 (a share of the files)"),
    "frames": _AT_LEAST_1,
    "overlay_size": (lambda v: v >= 32, "at least 32 (pixels of the longest side)"),
    "threads": _AT_LEAST_1,
    "workers": _AT_LEAST_0,
}
"""Of the fields of that name, in any configuration: which values are allowed, and that in words."""

_WHOLE = 2**31 - 1
# Not float32's largest, 3e38: AdamW's first step takes up to 20 times the rate, as it divides by
# 1 - beta1, and its decay is the product of rate and decay. What torch cannot convert is an error
# in the midst of training.
_FLOAT = 1e30
LARGEST: dict[str, int | float] = {
    "image_size": 2**14,  # a batch of larger ones fits into no memory
    "overlay_size": 2**14,
    **dict.fromkeys(("classification_weight", "focus_weight", "saliency_weight"), _FLOAT),
    **dict.fromkeys(("temperature", "lr", "clip_grad"), _FLOAT),
    "weight_decay": 1e6,
    "step_gamma": 1,  # --lr is the highest rate, and a power of more would pass any number
    **dict.fromkeys(("epochs", "batch_size", "eval_batch_size", "patience", "frames"), _WHOLE),
    **dict.fromkeys(("max_nonfinite", "checkpoint_steps", "checkpoints_kept"), _WHOLE),
    **dict.fromkeys(("log_steps", "sheet_epochs", "step_epochs"), _WHOLE),
    "gradient_accumulation_steps": _WHOLE,
    # More than a machine has cores for, and fewer than the system refuses to start.
    **dict.fromkeys(("threads", "workers"), 1024),
}
"""Of the fields of that name: the largest value, where the range in :data:`RANGES` has no end."""


def flag(name: str) -> str:
    """The flag of a field: ``--image-size`` for ``image_size``."""
    return "--" + name.replace("_", "-")


def about(group: str, help: str, metavar: str = "", words: Words = "one") -> dict[str, str]:
    """The metadata of a field: its group in ``--help``, its text, what stands for its value there.

    words: how many words its flag takes.
    """
    return {"group": group, "help": help, "metavar": metavar, "words": words}


def declare(default: T, group: str, help: str, metavar: str = "", words: Words = "one") -> T:
    """A field with a default that cannot change, and the metadata of :func:`about`."""
    made: T = field(default=default, metadata=about(group, help, metavar, words))
    return made


def check_ranges(config: object) -> None:
    """Raise InputError for a number out of its range; None is in it."""
    for name, (allowed, words) in RANGES.items():
        value = getattr(config, name, None)
        if value is None:
            continue
        # A whole number may be one that no float holds, as isfinite would need.
        finite = isinstance(value, int) or math.isfinite(value)
        if not (finite and allowed(value)):
            raise InputError(f"{flag(name)} must be {words}, got {value}.")
        if name in LARGEST and value > LARGEST[name]:
            raise InputError(f"{flag(name)} must be at most {LARGEST[name]}, got {value}.")


def check_texts(config: "DataclassInstance") -> None:
    """Raise InputError for a text that is empty, which as a path would be the current folder."""
    for each in fields(config):
        value = getattr(config, each.name)
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise InputError(f"{flag(each.name)} got an empty text: give a value, or leave it out.")


def check_utf8(what: str, value: str | None) -> None:
    """Raise InputError for a value that is none. what: the flag, and what it has."""
    if value is not None and not is_utf8(value):
        raise InputError(f"{what} {value!r}, which is not UTF-8: give another one.")
