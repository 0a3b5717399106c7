"""How a field of a configuration is declared as a flag, and which values it takes.

:mod:`focus.config.command_line` makes the command line from what is declared here.
"""

import math
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any

from focus.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Range:
    """An interval of numbers; without its ends if they are open."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        low = self.low < value if self.open_low else self.low <= value
        return low and (value < self.high or (value == self.high and not self.open_high))

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low}"
        if self.high == math.inf:
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high}"


POSITIVE = Range(0, open_low=True, open_high=True)
NON_NEGATIVE = Range(0, open_high=True)
COUNT = Range(1)
SHARE = Range(0, 1)
BELOW_1 = Range(0, 1, open_high=True)
PIXELS = Range(32)


def flag(name: str) -> str:
    """Return the flag of a field: ``--image-size`` for ``image_size``."""
    return "--" + name.replace("_", "-")


def option(
    group: str,
    help: str,
    default: Any = None,
    metavar: str = "",
    *,
    within: Range | None = None,
    positional: bool = False,
) -> Any:
    """Declare a field of a configuration.

    Args:
        group: one of :data:`GROUPS`.
        help: the text in ``--help``.
        default: the value, or the type of an empty dict.
        metavar: what stands for the value there; by default that of the type.
        within: the numbers that are allowed.
        positional: the words stand alone, without a flag.
    """
    metadata = {"group": group, "help": help, "metavar": metavar}
    metadata |= {"within": within, "positional": positional}
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


GROUPS = ("data", "model", "loss", "training", "output", "machine")
"""The groups of flags, in the order in which ``--help`` shows them."""

in_data, in_model, in_loss, in_training, in_output, in_machine = (
    partial(option, group) for group in GROUPS
)


def check_options(config: "DataclassInstance") -> None:
    """Raise InputError for a number out of its range, or an empty text; None is neither.

    An empty text is usually a shell variable that is not set, and as a path the current folder.
    """
    for each in fields(config):
        value, within = getattr(config, each.name), each.metadata.get("within")
        if value is not None and within is not None and value not in within:
            raise InputError(f"{flag(each.name)} must be {within}, got {value}.")
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise InputError(f"{flag(each.name)} got an empty text: give a value, or leave it out.")
