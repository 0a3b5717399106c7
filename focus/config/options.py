"""Declare fields of a configuration as flags, with their ranges.

:mod:`focus.config.command_line` makes the command line from what is declared here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, field, fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from focus.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Range(NamedTuple):
    """Values that a setting takes: a test, and its words for a message."""

    holds: Callable[[Any], bool]
    words: str


TEMPERATURES = 1e-4, 1e4
"""Lowest and highest temperature: beyond, float32 does not tell a softmax from its limits."""

POSITIVE = Range(lambda x: 0 < x < math.inf, "above 0")
NON_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "at least 0")
COUNT = Range(lambda x: x >= 1, "at least 1")
SHARE = Range(lambda x: 0 <= x <= 1, "at least 0 and at most 1")
BELOW_1 = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")
BETWEEN_0_AND_1 = Range(lambda x: 0 < x < 1, "above 0 and below 1")
PIXELS = Range(lambda x: x >= 32, "at least 32")
TEMPERATURE = Range(
    lambda x: TEMPERATURES[0] <= x <= TEMPERATURES[1], "at least 0.0001 and at most 10000"
)
SEED = Range(lambda x: 0 <= x < 2**32, "at least 0 and at most 4294967295")


def flag(name: str) -> str:
    """Return the flag of a field: ``--image-size`` for ``image_size``, ``--from`` for ``from_``."""
    return "--" + name.rstrip("_").replace("_", "-")


def flags(config_class: type[Any]) -> "dict[str, Field[Any]]":
    """Return the fields of a configuration by their names, those of a nested one after its own."""
    declared: dict[str, Field[Any]] = {}
    for outer in fields(config_class):
        declared[outer.name] = outer
        if is_dataclass(outer.type):
            declared |= {inner.name: inner for inner in fields(outer.type) if inner.metadata}
    return declared


def flat(config: "DataclassInstance") -> dict[str, Any]:
    """Return the values of the :func:`flags` of a configuration.

    A nested one gives its name. One without a name has no values but those that differ from its
    default.
    """
    values: dict[str, Any] = {}
    for outer in fields(config):
        value = getattr(config, outer.name)
        if not is_dataclass(value) or isinstance(value, type):
            values[outer.name] = value
            continue
        inner_values = asdict(value)
        name = inner_values.pop("name")
        values[outer.name] = name
        defaults: dict[str, Any] = {} if name else asdict(outer.default)  # type: ignore[arg-type]
        for inner, inner_value in inner_values.items():
            values[inner] = None if defaults.get(inner) == inner_value else inner_value
    return values


def nested(config_class: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`flat`: put the values of each nested configuration into a dictionary of its own.

    ``{"loss": "focus", "focus_weight": 1.0}`` becomes
    ``{"loss": {"name": "focus", "focus_weight": 1.0}}``.
    """
    by_field = dict(values)
    for outer in fields(config_class):
        if not is_dataclass(outer.type):
            continue
        inner_values = {"name": values.get(outer.name)}
        for inner in fields(outer.type):
            is_flag = bool(inner.metadata)
            if is_flag and inner.name in values:
                inner_values[inner.name] = by_field.pop(inner.name)
        by_field[outer.name] = inner_values
    return by_field


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

    group, help, metavar: What ``--help`` shows.
    default: The value of a setting that is not given, dict for an empty one.
    within: The numbers that are allowed.
    positional: Whether the words stand alone, without a flag.
    """
    metadata = {
        "group": group,
        "help": help,
        "metavar": metavar,
        "within": within,
        "positional": positional,
    }
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


GROUPS = ("data", "model", "loss", "training", "output", "machine")
"""The groups of flags, in the order in which ``--help`` shows them."""

in_data, in_model, in_loss, in_training, in_output, in_machine = (
    partial(option, group) for group in GROUPS
)

MAX_PIXELS = 64_000_000
"""The largest image. A file of a few bytes may claim any number, which its decoder allocates."""

MARGIN = 0.3
"""Kept around a face on either side, as a share of its longer side."""


def max_pixels() -> Any:
    """Declare ``--max-pixels``."""
    return in_data(
        "pixels of an image, a map, a mask or a frame; larger ones count as broken",
        MAX_PIXELS,
        within=COUNT,
    )


Point = Literal["eer", "bpcer1", "bpcer5", "balanced"]
POINTS: tuple[Point, ...] = get_args(Point)
"""Thresholds that validation fixes: both errors as frequent; at most 1 %, 5 % of real images called
synthetic; the best balanced accuracy."""


def in_threshold() -> Any:
    """Declare ``--threshold``."""
    names = ", ".join(POINTS)
    return in_model(
        f"decides everywhere: {names}, or a score (default: that of the model)",
        metavar="POINT",
        within=Range(_is_threshold, f"{names} or a score from 0 to 1"),
    )


def _is_threshold(value: Any) -> bool:
    try:
        return value in POINTS or SHARE.holds(float(value))
    except ValueError:
        return False


def in_device() -> Any:
    """Declare ``--device``."""
    return in_machine(
        "cpu, cuda, cuda:1, mps (default: the first GPU; with several processes, one each)"
    )


def check_options(config: "DataclassInstance") -> None:
    """Raise InputError for a number out of its range, or an empty text; None is neither.

    An empty text is usually a shell variable that is not set, and as a path the current folder.
    One text in the place of several would be taken apart into its letters.
    """
    declared = flags(type(config))
    for name, value in flat(config).items():
        if isinstance(declared[name].default, tuple) and isinstance(value, str):
            raise InputError(f"{name} takes several texts, got {value!r}: give ({value!r},).")
        within = declared[name].metadata.get("within")
        if value is not None and within is not None and not within.holds(value):
            raise InputError(f"{flag(name)} must be {within.words}, got {value}.")
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise InputError(f"{flag(name)} got an empty text: give a value, or leave it out.")
