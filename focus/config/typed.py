"""What the command line and configuration files say as the values of typed fields."""

import math
import reprlib
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from focus.errors import InputError, did_you_mean

# A few lines of YAML can be a list of a billion words, by aliases within aliases.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 8, 8
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 200

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "one text",
    tuple[str, ...]: "a list of texts",
    tuple[float, float, float]: "a list of 3 numbers",
    dict[str, str]: "`name: path` lines",
}


def typed_value(kind: Any, value: Any, where: str) -> Any:
    """The value of a field of type ``kind``.

    Numbers in a text are those of Python, not YAML's, of which ``1:30`` is 90; a text is what it
    is, and what is of the type already, as JSON's numbers are, stays.

    Args:
        kind: int, float, bool, str, a Literal of texts, a tuple or a dict of those.
        value: as it was read; where: what it is of, for the error.

    Raises:
        InputError: it is no value of that type.
    """
    try:
        return _read(kind, value)
    except (ValueError, OverflowError) as error:  # that of a number that no float holds
        meant = ""
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            wanted = f"one of {', '.join(choices)}"
            meant = did_you_mean(value, choices) if isinstance(value, str) else ""
        else:
            wanted = _WORDS[kind]
        raise InputError(f"{where} takes {wanted}, got {_SHORT.repr(value)}{meant}.") from error


def _read(kind: Any, value: Any) -> Any:
    """Raises ValueError or OverflowError for what is none of that kind."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_read(k, v) for k, v in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {_read(parts[0], k): _read(parts[1], v) for k, v in value.items()}
    if isinstance(value, str) and "\0" in value:  # which no name of a file may have
        raise ValueError(value)
    if type(value) is kind or (origin is Literal and value in parts):
        return value
    if isinstance(value, str) and kind in _READERS:
        return _READERS[kind](value)
    if kind is float and type(value) is int:
        return float(value)
    raise ValueError(value)


def _number(text: str) -> float:
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(text)


def _switch(text: str) -> bool:
    if text.lower() in ("true", "yes", "on"):
        return True
    if text.lower() in ("false", "no", "off"):
        return False
    raise ValueError(text)


_READERS: dict[Any, Callable[[str], Any]] = {int: int, float: _number, bool: _switch}
