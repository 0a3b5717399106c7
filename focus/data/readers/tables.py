"""CSV files: tables with named columns, the sample of a row, and CYBORG's table without a header.

Columns are found by their names, unless ``--columns`` gives them; labels are words or 0 and 1.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np

from focus.config.shared import COLUMNS
from focus.data.manifest import (
    GEOMETRY,
    LABEL_NAMES,
    REAL,
    STORED_IN,
    SYNTHETIC,
    Manifest,
    Sample,
    Split,
    parsed,
    refuse_repeated,
    sample_of,
)
from focus.data.readers.rows import TableRows, from_rows
from focus.errors import InputError, listed
from focus.runtime.csv_files import column_count_error, csv_form, csv_rows, legible

NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "filename", "file", "image", "file_name", "filepath", "file_path"),
        *("image_path", "img_path", "img"),
    ),
    # The last ones may well be something else: what is in a picture, or another file.
    "label": (
        *("label", "typ", "is_fake", "is_synthetic", "is_real", "target"),
        *("fake", "synthetic", "real", "class"),
    ),
    "generator": ("generator", "model", "source"),
    "family": ("family",),
    "split": ("split",),
    "test_set": ("test_set",),
    "human_map": ("human_map", "map_path", "heatmap", "map"),
    "mask_path": ("mask_path", "mask"),
    "box": ("box", "face_box"),
    "group": ("group", "identity", "video"),
}
"""Usual names of each column of the manifest in other tables; the first that is there counts."""

_PERHAPS = {
    "split": ("subset", "partition", "fold", "phase"),
    "generator": ("tool", "method", "manipulation"),
    "human_map": ("annotation", "saliency"),
}
"""Names that may mean such a column; the line that is printed for a table suggests them."""

_READ_BACK = (STORED_IN, GEOMETRY, "map_source", "content_hash", "source", "license")
"""Columns beside the manifest's that the program reads, as it wrote them itself."""

LABELS = {
    **dict.fromkeys(("real", "nature", "0_real", "0"), REAL),
    **dict.fromkeys(("fake", "synthetic", "ai", "1_fake", "1"), SYNTHETIC),
    # Words of ISO/IEC 30107-3 and 20059.
    **dict.fromkeys(("bona fide", "bonafide", "bona_fide", "bona-fide"), REAL),
    **dict.fromkeys(("attack", "morph", "spoof"), SYNTHETIC),
}
NO_WORDS: Mapping[str, int] = {}
PATHS = ("path", "human_map", "mask_path")
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("holdout", "hold_out", "hold-out", "heldout", "held_out", "held-out"), "test"),
}

# What the words in CYBORG's CSV mean.
CYBORG_SPLITS: dict[str, Split] = {"train": "train", "test": "validation"}
_CYBORG_LABELS = {"Real": REAL, "Synthetic": SYNTHETIC}


@lru_cache(maxsize=256)
def split_of(word: str) -> Split | None:
    """Return the split of a word such as ``val`` or ``train_set``; None for other words."""
    return _SPLITS.get(re.sub(r"(?<=.)[-_ ]?set$", "", word.strip().casefold()))


def read(
    path: Path,
    names: Mapping[str, str],
    inside: Callable[[str], str],
    words: Mapping[str, int] = NO_WORDS,
) -> tuple["Columns", Manifest]:
    """Read a CSV with a header; raises InputError with the line number.

    names: The names of its columns, by the manifest's. inside: Makes the path of a cell absolute.
    words: The class of each word for a label, beside the usual ones.
    """
    form = csv_form(path)
    rows = csv_rows(path, form)
    line, header = next(rows, (1, []))
    try:
        columns = Columns.find(header, names, words, str(form))
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {error}.") from error
    samples = parsed(rows, f"{path}, line", lambda row: columns.sample(row, inside))
    return columns, from_rows(reals_by_generator(samples), path)


def read_cyborg(path: Path, inside: Callable[[str], str]) -> Manifest:
    """Read the CSV of CYBORG (Boyd et al., 2023), ``split,label,/path`` without a header.

    ``label`` is ``Real`` or ``Synthetic``. ``split`` is ``train`` or ``test``, and its "test" is
    what everybody else calls validation. A leading slash means the image root. A fourth column,
    which is this project's addition, names the generator. Human maps lie in a folder ``heatmaps``.
    Raises InputError with the line number.

    inside: Makes the path of a cell absolute, or raises ValueError.
    """

    def sample(row: Sequence[str]) -> Sample:
        if len(row) not in (3, 4):
            raise ValueError(f"{len(row)} columns, where a CYBORG CSV has split,label,/path")
        split, label, image, generator = (cell.strip() for cell in (*row, "")[:4])
        if split not in CYBORG_SPLITS:
            raise ValueError(f"split {split!r} is neither train nor test (there is no header line)")
        if label not in _CYBORG_LABELS:
            raise ValueError(f"label {label!r} is neither Real nor Synthetic")
        if not image:
            raise ValueError("an empty path")
        return Sample(
            path=inside(image.lstrip("/")),
            label=_CYBORG_LABELS[label],
            generator=generator,
            split=CYBORG_SPLITS[split],
        )

    return from_rows(parsed(csv_rows(path), f"{path}, line", sample), path)


@dataclass(frozen=True)
class Columns:
    """The columns of one table.

    positions: The position of each column of the manifest. rest: The positions of the others.
    labels: The class of each word for a label. no_label: Whether ``--columns`` says that none is
    the label. form: How the table is written, "" for the usual way. words: The labels read so far.
    """

    header: Sequence[str]
    positions: Mapping[str, int]
    rest: Mapping[str, int]
    labels: Mapping[str, int]
    no_label: bool
    form: str = ""
    words: set[str] = field(default_factory=set)

    @classmethod
    def find(
        cls,
        header: Sequence[str],
        names: Mapping[str, str],
        words: Mapping[str, int] = NO_WORDS,
        form: str = "",
    ) -> "Columns":
        """Find columns by the names that ``--columns`` gives, else by the usual ones.

        GRIP's column ``typ`` holds ``real`` or the generator: it is both, unless one is given.
        Raises ValueError for a column that is not there or there twice, and if none is the path.
        """
        header = [legible(name) for name in header]
        plain_header = [plain_name(name) for name in header]
        refuse_repeated(plain_header)
        positions: dict[str, int] = {}
        for role, usual in NAMES.items():
            wanted = (names[role],) if role in names else usual
            for name in filter(None, map(plain_name, wanted)):
                if name in plain_header:
                    positions[role] = plain_header.index(name)
                    break
            if role not in positions and names.get(role):
                raise ValueError(
                    f"there is no column {names[role]!r} among {listed(header)}; give another, or "
                    f"say of which table it is, as in --columns TABLE:{role}={names[role]}"
                )
        if "path" not in positions:
            separators = ", or separate the columns by commas, semicolons or tabs"
            raise ValueError(
                f"no column names the image among {listed(header)}; call it path or filename, or "
                f"give --columns path=NAME{separators if len(header) == 1 else ''}"
            )
        label = plain_header[positions["label"]] if "label" in positions else ""
        is_named = bool({"label", "generator"} & names.keys())
        if label == "typ" and "generator" not in positions and not is_named:
            positions["generator"] = positions["label"]
        rest = {
            # A column of the manifest that was given another name is not mistaken for it.
            f"original_{name}" if name in COLUMNS else name: i
            for i, name in enumerate(header)
            if name and i not in positions.values()
        }
        labels = {**_labels(label), **words}
        return cls(header, positions, rest, labels, names.get("label") == "", form)

    def __str__(self) -> str:
        parts = {role: f"{role}={self.header[i]}" for role, i in self.positions.items()}
        if {"0", "1"} & self.words and self.words <= {"0", "1", ""}:
            parts["label"] += f" (1 is {LABEL_NAMES[self.labels['1']]})"
        text = ", ".join(parts.values())
        if self.form:
            text += f"; {self.form}"
        if self.unused:
            text += f"; not used: {listed(self.unused)}"
        perhaps = [
            f"{role}={name}"
            for role, names in _PERHAPS.items()
            for name in self.rest
            if role not in self.positions and plain_name(name) in names
        ]
        return f"{text}; --columns {','.join(perhaps)} if it means that" if perhaps else text

    @property
    def unused(self) -> list[str]:
        """The columns that mean nothing to the program, by their names in the table."""
        return [self.header[i] for name, i in self.rest.items() if name not in _READ_BACK]

    def sample(self, cells: Sequence[str], inside: Callable[[str], str]) -> Sample:
        """Return the sample of a row; raises ValueError."""
        if len(cells) != len(self.header):
            raise column_count_error(cells, self.header)
        cell = dict.fromkeys(COLUMNS, "")
        for role, i in self.positions.items():
            # inside tells which file a path means that is not UTF-8.
            cell[role] = cells[i].strip() if role in PATHS else legible(cells[i]).strip()
        cell["label"], cell["generator"] = self._label(cell["label"], cell["generator"])
        cell["split"] = split_of(cell["split"]) or cell["split"]
        if cell["box"]:
            cell["box"] = re.sub(r"[][(),;]", " ", cell["box"]).strip()
        cell["group"] = plain_group(cell["group"])
        return sample_of(cell, {name: legible(cells[i]) for name, i in self.rest.items()}, inside)

    def _label(self, word: str, generator: str) -> tuple[str, str]:
        """Return the name of the class, "" for none, and the generator."""
        plain = _plain_label(word)
        label = self.labels.get(plain)
        self.words.add(plain)
        if self.positions.get("label") == self.positions.get("generator", -1):
            generator = "" if label is not None else word
            label = SYNTHETIC if label is None and word else label
        elif label is None and word:
            names = ", ".join(self.labels)
            raise ValueError(f"label {word!r} is none of {names} (--labels names others)")
        return "" if label is None else LABEL_NAMES[label], generator


def reals_by_generator(rows: Iterable[tuple[int, Sample]]) -> TableRows:
    """Return the rows; a real image keeps a generator only if the table has fakes of it.

    Else the column says where the real image is from, which is kept as ``source``.
    """
    table = TableRows.of(rows)
    manifest = table.manifest
    generator = manifest.numbered("generator")
    of_fakes = np.unique(generator.numbers[manifest.labels == SYNTHETIC])
    is_named = (manifest.labels == REAL) & (generator.numbers >= 0)
    renamed = np.flatnonzero(is_named & ~np.isin(generator.numbers, of_fakes))
    if len(renamed):
        without_source = renamed[~manifest.has("source")[renamed]]
        sources = manifest.take(without_source).cells("generator")
        manifest = manifest.with_cells("source", sources, without_source)
        table.manifest = manifest.with_cells("generator", repeat("", len(renamed)), renamed)
    return table


def _labels(column: str) -> Mapping[str, int]:
    """Return the class of each word: in ``is_real``, 1 and true are real."""
    if column in ("is_real", "real"):
        return LABELS | {"1": REAL, "true": REAL, "0": SYNTHETIC, "false": SYNTHETIC}
    if column in ("is_fake", "fake", "is_synthetic", "synthetic"):
        return LABELS | {"true": SYNTHETIC, "false": REAL}
    return LABELS


@lru_cache(maxsize=256)
def _plain_label(word: str) -> str:
    """Return a label as it is compared: 1 for 1.0, as pandas writes 1 beside empty cells."""
    return re.sub(r"^([01])\.0+$", r"\1", word.casefold())


@lru_cache(maxsize=4096)
def plain_group(group: str) -> str:
    """Return the name of a group: 12.0, as pandas writes 12 beside empty cells, is 12."""
    return re.sub(r"^(\d+)\.0$", r"\1", group)


def plain_name(name: str) -> str:
    """Return a column's name as it is compared, ``file_name`` for ``File Name``."""
    return re.sub(r"[ -]", "_", name.strip().casefold())
