"""Texts of the command line and of configuration files as the values of typed fields."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from focus.errors import InputError, did_you_mean

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "one text",
    tuple: "a list of texts",
    dict: "`name: path` lines",
}


def typed_value(kind: Any, value: Any, where: str) -> Any:
    """The value of a field of type ``kind``.

    Numbers are those of Python, not YAML's, of which ``1:30`` is 90; a text is what it is.

    Args:
        kind: int, float, bool, str, a Literal of texts, a tuple or a dict of texts.
        value: a text, or a list or a mapping of texts; where: what it is of, for the error.

    Raises:
        InputError: it is no value of that type.
    """
    try:
        return _read(kind, value)
    except ValueError as error:
        meant = ""
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            wanted = f"one of {', '.join(choices)}"
            meant = did_you_mean(str(value), choices)
        else:
            wanted = _WORDS[get_origin(kind) or kind]
        raise InputError(f"{where} takes {wanted}, got {value!r}{meant}.") from error


def _read(kind: Any, value: Any) -> Any:
    """Raises ValueError for what is none of that kind."""
    origin = get_origin(kind)
    if origin is tuple and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if origin is dict and isinstance(value, dict):
        if all(isinstance(text, str) for pair in value.items() for text in pair):
            return value
    elif isinstance(value, str):
        if origin is Literal and value in get_args(kind):
            return value
        if kind in _READERS:
            return _READERS[kind](value)
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


_READERS: dict[Any, Callable[[str], Any]] = {int: int, float: _number, bool: _switch, str: str}
