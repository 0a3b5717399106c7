"""The CSV of CYBORG (Boyd et al., 2023): ``split,label,/path`` without header.

``label`` is ``Real`` or ``Synthetic``; ``split`` is ``train`` or ``test``, and its "test" is what
everybody else calls validation; a leading slash means the image root. A fourth column, which is
this project's addition, names the generator. Human maps lie in a folder ``heatmaps``.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from focus.data.manifest import (
    REAL,
    SYNTHETIC,
    Manifest,
    Sample,
    Split,
    csv_rows,
    open_csv,
    place_inside,
)
from focus.data.readers.files import Request, find_maps, from_rows, with_maps
from focus.errors import InputError

SPLITS: dict[str, Split] = {"train": "train", "test": "validation"}
_LABELS = {"Real": REAL, "Synthetic": SYNTHETIC}


def read(request: Request) -> Manifest:
    """Read the CSV; raises InputError with the line number."""
    manifest = from_rows(_samples(request), request.path)
    if not manifest:
        raise InputError(f"{request.path} is empty: give a CSV with rows of split,label,/path.")
    folder, required = find_maps(request.heatmaps, request.path.parent, request.root)
    return with_maps(manifest, request.root, folder, required=required) if folder else manifest


def _samples(request: Request) -> Iterator[tuple[int, Sample]]:
    with open_csv(request.path) as file:
        for line, row in csv_rows(file, request.path):
            try:
                yield line, _sample(row, request.root, request.outside)
            except ValueError as error:
                raise InputError(f"{request.path}, line {line}: {error}; fix the row.") from error


def _sample(row: list[str], root: Path, outside: bool) -> Sample:
    if len(row) not in (3, 4):
        raise ValueError(
            f"{len(row)} columns, where a CYBORG CSV has split,label,/path and may have a generator"
        )
    split, label, image, generator = (*(cell.strip() for cell in row[:2]), *row[2:], "")[:4]
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is neither train nor test (there is no header line)")
    if label not in _LABELS:
        raise ValueError(f"label {label!r} is neither Real nor Synthetic")
    path = place_inside(re.sub(r"^\s*/+", "", image), str(root), outside=outside)
    return Sample(path, _LABELS[label], generator.strip(), split=SPLITS[split])
