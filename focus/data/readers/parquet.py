"""Parquet files, by pyarrow (extra ``parquet``), and data sets of the Hugging Face Hub.

A parquet file or a folder of them; by the Hub's library ``datasets`` (extra ``hub``) a folder of
``save_to_disk``, or ``hf://user/name[/configuration]``. Columns are found as in a CSV; an image is
its bytes, which go into the cache, or a path. Where the label's column names its classes, the names
count and not their numbers.
"""

import hashlib
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from focus.data.manifest import STORED_IN, Manifest, Sample, Split, parsed, refuse_repeated
from focus.data.readers.files import images_below
from focus.data.readers.rows import Portion, from_rows
from focus.data.readers.tables import NO_WORDS, PATHS, Columns, reals_by_generator, split_of
from focus.errors import InputError
from focus.runtime.files import atomic_write
from focus.runtime.machine import cache_dir, is_main_process

PARQUET = (".parquet",)
ClassNames = Mapping[str, Sequence[str] | None]
"""The columns of a part, each with the names of its classes if it has such."""


class _Row(NamedTuple):
    """A row of a data set.

    split: Of the part that it is in. class_names: The columns of that part. cells: By column.
    source: Its file, and its number in that.
    """

    split: Split
    class_names: ClassNames
    cells: dict[str, Any]
    source: str


Wants = Callable[[_Row], bool]


class _Part(NamedTuple):
    """Rows of a data set that lie together.

    file: Where they lie. first: The number of the first of them there. tables: Tables of Arrow
    with a row each.
    """

    split: Split
    class_names: ClassNames
    file: str
    first: int
    tables: Iterator[Any]


_SAVED = ("dataset_dict.json", "state.json")  # files of save_to_disk
_UNPACKED = 2**26  # bytes; a column or its rows may hold more in at least a hundredth of it
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"RIFF": ".webp",
}


def is_parquet(folder: Path) -> bool:
    """Return whether a folder holds parquet files, or what ``save_to_disk`` writes."""
    saved = any((folder / name).is_file() for name in _SAVED)
    return saved or next(images_below(folder, extensions=PARQUET), None) is not None


def read(
    path: Path,
    column_names: Mapping[str, str],
    inside: Callable[[str], str],
    words: Mapping[str, int] = NO_WORDS,
    *,
    hub: bool,
    most: int | None = None,
) -> tuple[Columns, Manifest]:
    """Read a data set; the split is a column's, else the part's or the file's.

    path: The file or folder or, if ``hub``, the name of the data set to download.
    column_names: The names of its columns, by the manifest's.
    inside: Makes the path of a cell absolute.
    words: The class of each word for a label, beside the usual ones.
    most: How many images of each class, generator and split are kept; of the Hub no more groups of
        rows are fetched than that takes.

    Raises InputError with the row's number, counted from 1 over all splits, in what is kept.
    """
    reader = _RowReader(column_names, inside, words, _licence_of(path) if hub else "")
    if most is None:
        rows = _rows(path, hub)
    else:
        portion = Portion(most)
        all_rows = _rows(path, hub, partial(reader.passes, takes=portion.wants))
        rows = (row for row in all_rows if reader.passes(row, portion.takes))

    samples = parsed(enumerate(rows, start=1), f"{path}, row", reader.sample)
    manifest = from_rows(reals_by_generator(samples), path, embedded=True)
    return reader.first_columns(), manifest


class _RowReader:
    """Make samples of rows, whose parts may have different columns.

    column_names, inside, words: As of :func:`read`. licence: Of the data set, "" if it names none.
    """

    def __init__(
        self,
        column_names: Mapping[str, str],
        inside: Callable[[str], str],
        words: Mapping[str, int],
        licence: str,
    ) -> None:
        self._column_names, self._inside, self._words = column_names, inside, words
        self._licence = licence
        self._first_columns: Columns | None = None
        # Of the part that was read last.
        self._class_names: ClassNames | None = None
        self._columns: Columns | None = None

    def first_columns(self) -> Columns:
        """Return the columns of the first part, once a row of it has been read."""
        assert self._first_columns is not None
        return self._first_columns

    def sample(self, row: _Row, stored: bool = True) -> Sample:
        """Return the sample of a row; ValueError if it cannot be one.

        stored: Whether images that are bytes are written to the cache.
        """
        columns = self._columns_of(row.class_names)
        cells = [_cell(value, row.class_names[name]) for name, value in row.cells.items()]
        for role in PATHS:
            if role in columns.positions:
                position = columns.positions[role]
                value = row.cells[columns.header[position]]
                cells[position] = _file(value, self._inside) if stored else "not stored"

        sample = columns.sample(cells, str)
        extra = sample.extra
        if self._licence:
            extra = {"license": self._licence, **extra}
        image = row.cells[columns.header[columns.positions["path"]]]
        source = row.source
        if isinstance(image, Mapping) and image.get("bytes"):
            if image.get("path"):
                source = f"{source}, {image['path']}"
            image = image["bytes"]
        if isinstance(image, bytes):
            extra = {**extra, STORED_IN: source}
        return replace(sample, split=sample.split or row.split, extra=extra)

    def passes(self, row: _Row, takes: Callable[[Sample], bool]) -> bool:
        """Return whether the sample of a row is taken, or cannot be made, which is told later."""
        try:
            return takes(self.sample(row, stored=False))
        except ValueError:
            return True

    def _columns_of(self, class_names: ClassNames) -> Columns:
        if self._columns is None or class_names is not self._class_names:
            self._columns = Columns.find(list(class_names), self._column_names, self._words)
            self._class_names = class_names
            if self._first_columns is None:
                self._first_columns = self._columns
        return self._columns


def text_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the names of a parquet file's columns, then its rows from 1, as a CSV has them."""
    for number, row in enumerate(_rows(path, hub=False), start=1):
        if number == 1:
            yield 0, list(row.cells)
        yield number, [_cell(value, row.class_names[name]) for name, value in row.cells.items()]


def store_image(content: bytes) -> str:
    """Write an encoded image to the cache under its SHA-256, unless it is there whole; its path."""
    digest = hashlib.sha256(content).hexdigest()
    extension = next((e for start, e in _BEGINNINGS.items() if content.startswith(start)), ".img")
    path = cache_dir().absolute() / "embedded" / digest[:2] / f"{digest}{extension}"
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, flushed=False) as aside:  # there may be a million
            aside.write_bytes(content)
    return str(path)


def _rows(path: Path, hub: bool, wants: Wants | None = None) -> Iterator[_Row]:
    """Yield the rows, nothing in them decoded.

    wants: Says by the other cells of a row whether its images are needed. The images of a row
        group of a parquet file that has no such row are not read.
    """
    needs_datasets = hub or any((path / name).is_file() for name in _SAVED)
    if needs_datasets:
        datasets = _imported("datasets", path, extra="hub")
    else:
        _imported("pyarrow", path, extra="parquet")

    try:
        if needs_datasets:
            parts = _parts(datasets, path, hub, wants)
        else:
            parts = _in_files(_files(path), wants)
        for part in parts:
            yield from _rows_of(part)
    except Exception as error:  # the library raises what its many backends raise
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise InputError(
            f"Cannot read {path} as parquet or Hub data set ({reason}): check "
            f"{'its name and the connection' if hub else 'the file'}."
        ) from error


def _imported(package: str, path: Path, *, extra: str) -> Any:
    """Return a package that reads ``path``; InputError names the extra that brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{path} needs the package {package}: install it by pip install 'focus-faces[{extra}]'."
        ) from error


def _rows_of(part: _Part) -> Iterator[_Row]:
    """Yield the rows of a part; those of a part without names of classes share one object."""
    class_names = part.class_names
    number = part.first
    for table in part.tables:
        for row in table.to_pylist():
            class_names = class_names or dict.fromkeys(row)
            yield _Row(part.split, class_names, row, f"{part.file}, row {number}")
            number += 1


def _parts(datasets: Any, path: Path, hub: bool, wants: Wants | None) -> Iterator[_Part]:
    """Yield the parts of a data set that the library ``datasets`` reads or finds.

    A row is a table of Arrow's: else the library decodes an image in a list or a struct, and
    fetches it. Rows come one at a time, since each may be as large as a few bytes can unpack to.
    """
    remote = _files_on_hub(datasets, path) if hub and wants else {}
    if remote:
        yield from _in_files(remote, wants, importlib.import_module("fsspec").open)
        return
    if hub:
        name, streamed = "/".join(path.parts[:2]), wants is not None
        loaded = datasets.load_dataset(name, *path.parts[2:], streaming=streamed)
    else:
        loaded = datasets.load_from_disk(str(path))
    parts = loaded if isinstance(loaded, Mapping) else {"": loaded}
    for name, part in parts.items():
        features = (part.features or {}).items()
        class_names = {column: getattr(feature, "names", None) for column, feature in features}
        source = f"{path.name} {name}".rstrip()
        rows = part.with_format("arrow").iter(1)
        yield _Part(split_of(name) or "", class_names, source, 1, rows)


def _in_files(
    files: Mapping[Split, Sequence[str]], wants: Wants | None, opener: Callable[..., Any] = open
) -> Iterator[_Part]:
    """Yield the groups of rows in parquet files.

    Not by ``datasets``, which holds a whole group of rows, often the whole file.
    """
    parquet = importlib.import_module("pyarrow.parquet")
    for split, names in files.items():
        for name in names:
            with (
                opener(name, "rb") as opened,
                parquet.ParquetFile(opened, buffer_size=2**20) as file,
            ):
                _check_sizes(file.metadata)
                refuse_repeated(file.schema_arrow.names)
                classes, first = _classes(file.schema_arrow), 1
                for group in range(file.num_row_groups):
                    if wants is None or _has_wanted(file, group, split, classes, wants):
                        yield _Part(split, classes, name, first, _bounded(file, group))
                    first += file.metadata.row_group(group).num_rows


def _classes(schema: Any) -> ClassNames:
    """Return the columns with the names of their classes, which ``datasets`` notes in a schema."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = noted.get("info", {}).get("features", {})
    notes = {name: features.get(name) for name in schema.names}
    return {n: note.get("names") if isinstance(note, dict) else None for n, note in notes.items()}


def _files(path: Path) -> Mapping[Split, list[str]]:
    files = defaultdict[Split, list[str]](list)
    folder = path if path.is_dir() else path.parent
    for file in images_below(path, extensions=PARQUET) if path.is_dir() else [path]:
        files[_split_in(file, folder)].append(str(file))
    return files


def _has_wanted(file: Any, group: int, split: Split, names: ClassNames, wants: Wants) -> bool:
    """Return whether a group of rows has a wanted one, by the columns that hold no image."""
    types = importlib.import_module("pyarrow.types")
    small = [
        column.name
        for column in file.schema_arrow
        # Of any kind of binary: large, of a fixed size, a view.
        if not (types.is_nested(column.type) or "binary" in str(column.type))
    ]
    rows = file.read_row_group(group, columns=small).to_pylist()
    return any(wants(_Row(split, names, dict.fromkeys(names) | row, "")) for row in rows)


def _check_sizes(metadata: Any) -> None:
    """Raise InputError for a column that a few bytes unpack to, which may be all at once."""
    for group, column in product(range(metadata.num_row_groups), range(metadata.num_columns)):
        chunk = metadata.row_group(group).column(column)
        packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
        if unpacked > max(_UNPACKED, 100 * packed):
            raise InputError(
                f"{chunk.path_in_schema} unpacks from {packed} to {unpacked} bytes in the group "
                f"of rows {group}"
            )


def _bounded(file: Any, group: int) -> Iterator[Any]:
    """Yield the rows of a group; raise InputError once one value of a few bytes was many rows."""
    metadata = file.metadata.row_group(group)
    columns = [metadata.column(number) for number in range(metadata.num_columns)]
    packed = sum(column.total_compressed_size for column in columns)
    most = max(_UNPACKED, 100 * packed)
    unpacked = 0
    for row in file.iter_batches(1, [group]):
        unpacked += row.nbytes
        if unpacked > most:
            raise InputError(f"its rows hold more than {most} bytes in a group of {packed}")
        yield row


def _split_in(path: Path, root: Path) -> Split:
    """Return the split that a file's name, or that of a folder above it, begins with."""
    for name in reversed(path.relative_to(root).parts):
        if split := split_of(re.split(r"[-_.]", name)[0]):
            return split
    return ""


def _file(value: Any, inside: Callable[[str], str]) -> str:
    """Return the file of an image: bytes, a path, or a mapping with either."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return store_image(value)
    return inside(value) if value else ""


def _cell(value: Any, names: Sequence[str] | None) -> str:
    """Return the value as a CSV would have it; "" for what has no place in one.

    names: The names of the classes, if a number stands for one.
    """
    if value is None or isinstance(value, bytes | Mapping):
        return ""
    if isinstance(value, list):
        return " ".join(filter(None, (_cell(v, None) for v in value)))
    if names and isinstance(value, int):
        return str(names[value]) if value >= 0 else ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return "" if value != value else str(value)  # NaN is not itself


def _licence_of(path: Path) -> str:
    """Print what a data set of the Hub takes before it is fetched; return its card's licence.

    "" if the card names none, or cannot be reached: the data may be in the cache.
    """
    from huggingface_hub import HfApi  # takes as long to import as all readers

    name = "/".join(path.parts[:2])
    try:
        dataset = HfApi().dataset_info(name, files_metadata=True)
    except Exception as error:  # the Hub's own errors, and those of the connection
        licence, size = "", f"size and licence are not known ({type(error).__name__})"
    else:
        licences = dataset.card_data.get("license") if dataset.card_data else None
        licence = licences if isinstance(licences, str) else ", ".join(licences or [])
        total = sum(file.size or 0 for file in dataset.siblings or ())
        size = f"{total / 1e6:,.0f} MB in all, licence: {licence or 'none is named'}"
    if is_main_process():
        print(f"hf://{path}: {size}", flush=True)
    return licence


def _files_on_hub(datasets: Any, path: Path) -> dict[Split, list[str]]:
    """Return the addresses of a data set's files by split, none if they are not all parquet."""
    builder = datasets.load_dataset_builder("/".join(path.parts[:2]), *path.parts[2:])
    files = defaultdict[Split, list[str]](list)
    for part, addresses in builder.config.data_files.items():
        files[split_of(str(part)) or ""] += map(str, addresses)
    are_parquet = all(name.endswith(".parquet") for names in files.values() for name in names)
    return files if are_parquet else {}
