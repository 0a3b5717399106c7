"""The CSV of CYBORG (Boyd et al., 2023): ``split,label,/path`` without header.

``label`` is ``Real`` or ``Synthetic``; ``split`` is ``train`` or ``test``, and its "test" is what
everybody else calls validation; a leading slash means the image root. A fourth column, which is
this project's addition, names the generator. Human maps lie in a folder ``heatmaps``.
"""

import os
from pathlib import Path

from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, csv_rows, open_csv
from focus.data.readers.files import find_maps, require_files, with_maps
from focus.errors import InputError

_LABELS = {"Real": REAL, "Synthetic": SYNTHETIC}
_SPLITS: dict[str, Split] = {"train": "train", "test": "validation"}


def read(path: Path, root: Path, heatmaps: str | Path | None) -> Manifest:
    """Read a CSV whose paths are relative to ``root``; raises InputError with the line number."""
    with open_csv(path) as file:
        rows = list(csv_rows(file, path))
    if not rows:
        raise InputError(f"{path} is empty: give a CSV with rows of split,label,/path.")
    samples = []
    for line, row in rows:
        try:
            samples.append(_sample(row, root))
        except ValueError as error:
            raise InputError(f"{path}, line {line}: {error}; mend the row.") from error
    require_files([sample.path for sample in samples], path, [line for line, _ in rows])
    folder, required = find_maps(heatmaps, path.parent, root)
    manifest = Manifest(samples, str(path))
    return with_maps(manifest, root, folder, required=required) if folder else manifest


def _sample(row: list[str], root: Path) -> Sample:
    if len(row) not in (3, 4):
        raise ValueError(
            f"{len(row)} columns, where a CYBORG CSV has split,label,/path and may have a generator"
        )
    split, label, image, generator = (*(cell.strip() for cell in row[:2]), *row[2:], "")[:4]
    if split not in _SPLITS:
        raise ValueError(f"split {split!r} is neither train nor test (there is no header line)")
    if label not in _LABELS:
        raise ValueError(f"label {label!r} is neither Real nor Synthetic")
    path = os.path.normpath(f"{root}/{image.lstrip('/')}")
    if not Path(path).is_relative_to(root):
        raise ValueError(f"path {image!r} leaves the image root {root}")
    return Sample(path, _LABELS[label], generator.strip(), split=_SPLITS[split])
