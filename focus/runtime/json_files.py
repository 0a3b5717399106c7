"""Write dataclasses as JSON, and read JSON by the types of a dataclass.

msgspec checks what a folder holds: the types, the ranges that an annotation's
:class:`msgspec.Meta` gives, the names of a :data:`~typing.Literal`, and lengths.
"""

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from focus.errors import InputError
from focus.runtime.files import atomic_write

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

Natural = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]


class Versioned(msgspec.Struct):
    """The field that every file of this program has."""

    version: int


def write_json(path: Path, content: "DataclassInstance", version: int, **derived: Any) -> None:
    """Write a dataclass with its version, and what is derived from it for other readers."""
    values = {"version": version, **asdict(content), **derived}
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_json(path: Path) -> Any:
    """Return what a file holds; raise ValueError if it is no JSON, OSError if it cannot be read."""
    try:
        # Not by msgspec, which takes no names of files that are not UTF-8.
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from error


def read_json(
    path: Path, kind: type[T], advice: str, version: int | None = None, *derived: str
) -> T:
    """Return the content of a file as an object of the type ``kind``.

    version: The version of a file of :func:`write_json`, in which fields that ``kind`` lacks are an
    error, except those of ``derived``; None for another program's file, whose other fields are
    ignored.

    Raises:
        InputError: with ``advice``, the file cannot be read as one.
    """
    try:
        values = load_json(path)
        if version is not None:
            version_of_file = msgspec.convert(values, Versioned).version
            if version_of_file != version:
                advice = "read it with the version of focus that wrote it"
                raise ValueError(f"version {version_of_file}, this program reads {version}")
            names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
            unknown = min(values.keys() - {"version", *derived, *names}, default="")
            if unknown:
                raise ValueError(f"unknown field {unknown!r}")
        return msgspec.convert(values, kind)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path} cannot be read ({text}): {advice}.") from error
