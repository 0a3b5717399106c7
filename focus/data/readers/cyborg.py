"""The CSV of CYBORG (Boyd et al., 2023): ``split,label,/path`` without header.

``label`` is ``Real`` or ``Synthetic``; ``split`` is ``train`` or ``test``, and its "test" is what
everybody else calls validation; a leading slash means the image root. A fourth column, which is
this project's addition, names the generator. Human maps lie in a folder ``heatmaps``.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, csv_rows, open_csv
from focus.data.readers.rows import from_rows
from focus.errors import InputError

SPLITS: dict[str, Split] = {"train": "train", "test": "validation"}
_LABELS = {"Real": REAL, "Synthetic": SYNTHETIC}


def read(path: Path, inside: Callable[[str], str]) -> Manifest:
    """Read the CSV; raises InputError with the line number.

    inside: makes the path of a cell absolute, or raises ValueError.
    """
    return from_rows(_samples(path, inside), path)


def _samples(path: Path, inside: Callable[[str], str]) -> Iterator[tuple[int, Sample]]:
    with open_csv(path) as file:
        for line, row in csv_rows(file, path):
            try:
                yield line, _sample([cell.strip() for cell in row], inside)
            except ValueError as error:
                raise InputError(f"{path}, line {line}: {error}; fix the row.") from error


def _sample(row: Sequence[str], inside: Callable[[str], str]) -> Sample:
    if len(row) not in (3, 4):
        raise ValueError(
            f"{len(row)} columns, where a CYBORG CSV has split,label,/path and may have a generator"
        )
    split, label, image, generator = (*row, "")[:4]
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is neither train nor test (there is no header line)")
    if label not in _LABELS:
        raise ValueError(f"label {label!r} is neither Real nor Synthetic")
    return Sample(inside(image.lstrip("/")), _LABELS[label], generator, split=SPLITS[split])
