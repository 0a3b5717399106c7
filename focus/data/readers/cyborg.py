"""The CSV of CYBORG (Boyd et al., 2023): ``split,label,/path`` without header.

``label`` is ``Real`` or ``Synthetic``; ``split`` is ``train`` or ``test``, and its "test" is what
everybody else calls validation; a leading slash means the image root. A fourth column, which is
this project's addition, names the generator. Human maps lie in a folder ``heatmaps``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, parsed
from focus.data.readers.rows import from_rows
from focus.runtime.csv_files import csv_rows

SPLITS: dict[str, Split] = {"train": "train", "test": "validation"}
_LABELS = {"Real": REAL, "Synthetic": SYNTHETIC}


def read(path: Path, inside: Callable[[str], str]) -> Manifest:
    """Read the CSV; raises InputError with the line number.

    inside: Makes the path of a cell absolute, or raises ValueError.
    """

    def sample(row: Sequence[str]) -> Sample:
        if len(row) not in (3, 4):
            raise ValueError(f"{len(row)} columns, where a CYBORG CSV has split,label,/path")
        split, label, image, generator = (cell.strip() for cell in (*row, "")[:4])
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is neither train nor test (there is no header line)")
        if label not in _LABELS:
            raise ValueError(f"label {label!r} is neither Real nor Synthetic")
        if not image:
            raise ValueError("an empty path")
        return Sample(inside(image.lstrip("/")), _LABELS[label], generator, split=SPLITS[split])

    return from_rows(parsed(csv_rows(path), f"{path}, line", sample), path)
