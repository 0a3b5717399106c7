"""Parquet files and data sets of the Hugging Face Hub, by its library ``datasets`` (extra ``hub``).

A parquet file, a folder of them, a folder of ``save_to_disk``, or ``hf://user/name[/configuration]``.
Columns are found as in a CSV; an image is its bytes, which go into the cache, or a path. Where the
label's column names its classes, the names count and not their numbers.
"""

import importlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from focus.data.manifest import Manifest, Sample, Split, absolute, place_inside
from focus.data.readers.columns import PATHS, Columns, reals_by_generator
from focus.data.readers.embedded import store
from focus.data.readers.files import Request, from_rows, images_below, split_of, with_maps
from focus.errors import InputError

PARQUET = (".parquet",)
_SAVED = ("dataset_dict.json", "state.json")
_AT_ONCE = 16  # rows in memory, each with an image or several


def is_parquet(folder: Path) -> bool:
    """Whether a folder holds parquet files, or what ``save_to_disk`` writes."""
    saved = any((folder / name).is_file() for name in _SAVED)
    return saved or next(images_below(folder, extensions=PARQUET), None) is not None


def read(request: Request) -> tuple[Columns, Manifest]:
    """The columns, and the manifest; raises InputError with the row's number.

    Rows count from 1, over all splits. The split is a column's, else the part's or the file's.
    """
    columns: list[Columns] = []
    samples = reals_by_generator(_samples(request, columns))
    manifest = from_rows(samples, request.path, embedded=True)
    if not manifest:
        raise InputError(f"{request.path} has no rows: give a data set with at least one image.")
    if request.heatmaps is not None:
        maps = absolute(request.heatmaps)
        manifest = with_maps(manifest, request.root, maps, required=True)
    return columns[0], manifest


def _samples(request: Request, found: list[Columns]) -> Iterator[tuple[int, Sample]]:
    """The samples with their rows' numbers; ``found`` gets the columns of each part."""
    features: Any = None
    for number, (split, part, row) in enumerate(_rows(request), start=1):
        if part is not features:
            features = part
            try:
                found.append(Columns.find(list(features), request.columns))
            except ValueError as error:
                raise InputError(f"{request.path}: {error}.") from error
        columns = found[-1]
        cells = [_cell(value, features[name]) for name, value in row.items()]
        try:
            for role in PATHS:
                if role in columns.at:
                    at = columns.at[role]
                    cells[at] = _file(row[columns.header[at]], request)
            sample = columns.sample(cells, str)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{request.path}, row {number}: {error}; fix the row.") from error
        yield number, sample if sample.split else replace(sample, split=split)
    for columns in found:
        columns.refuse_contradictions(request.path)


def _rows(request: Request) -> Iterator[tuple[Split, Any, dict[str, Any]]]:
    """Each row with its split and the features of its part, nothing in it decoded."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise InputError(
            f"{request.path} needs the package datasets: install the extra, as in "
            "pip install 'focus-faces[hub]'."
        ) from error
    try:
        for split, part in _parts(datasets, request):
            features = part.features
            # As Arrow's: else the library decodes an image in a list or a struct, and fetches it.
            for table in part.with_format("arrow").iter(batch_size=_AT_ONCE):
                for row in table.to_pylist():
                    yield split, features, row
    except Exception as error:  # it raises what its many backends raise
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(
            f"Cannot read {request.path} as parquet or Hub data set ({reason}): check "
            f"{'its name and the connection' if request.hub else 'the path'}."
        ) from error


def _parts(datasets: Any, request: Request) -> Iterator[tuple[Split, Any]]:
    if request.hub:
        words = request.hub.split("/", 2)
        loaded = datasets.load_dataset("/".join(words[:2]), *words[2:])
        yield from _named(loaded)
    elif any((request.path / name).is_file() for name in _SAVED):
        yield from _named(datasets.load_from_disk(str(request.path)))
    else:
        files: defaultdict[Split, list[str]] = defaultdict(list)
        if request.path.is_file():
            files[_split_in(request.path, request.path.parent)].append(str(request.path))
        else:
            for path in images_below(request.path, extensions=PARQUET):
                files[_split_in(path, request.path)].append(str(path))
        for split, names in files.items():
            # Streamed: else all of it would be copied into the library's own cache first.
            yield (
                split,
                datasets.load_dataset("parquet", data_files=names, split="train", streaming=True),
            )


def _named(loaded: Any) -> Iterator[tuple[Split, Any]]:
    """The parts of what the library loaded: a data set, or a mapping from splits to data sets."""
    if not isinstance(loaded, Mapping):
        yield "", loaded
        return
    for name, part in loaded.items():
        yield split_of(name) or "", part


def _split_in(path: Path, root: Path) -> Split:
    """The split that a file's name, or that of a folder above it, begins with."""
    for name in (path.name, *reversed(path.relative_to(root).parts[:-1])):
        if split := split_of(re.split(r"[-_.]", name)[0]):
            return split
    return ""


def _file(value: Any, request: Request) -> str:
    """The file of an image: bytes, a path, or a mapping with either."""
    content, path = value, None
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
    elif isinstance(value, str):
        content, path = None, value
    if isinstance(content, bytes):
        return store(content)
    return place_inside(path, str(request.root), outside=request.outside) if path else ""


def _cell(value: Any, feature: Any) -> str:
    """The value as a CSV would have it; "" for what has no place in one."""
    if value is None or isinstance(value, bytes | Mapping):
        return ""
    if isinstance(value, list):
        held = (_cell(v, None) if isinstance(v, bytes | list | Mapping) else str(v) for v in value)
        return " ".join(filter(None, held))
    if (names := getattr(feature, "names", None)) and isinstance(value, int):
        return str(names[value]) if value >= 0 else ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() else str(value)
    return str(int(value)) if isinstance(value, bool) else str(value)
