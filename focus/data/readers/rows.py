"""The rows of tables as a manifest: each image once, and no two rows that contradict each other."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from focus.data.manifest import REAL, Manifest, Sample
from focus.data.readers.files import require_files
from focus.errors import InputError

_log = logging.getLogger(__name__)

# Of one image there can be one of each; an image of a table's bytes may well be in two splits.
_UNIQUE = {
    "label": "label",
    "split": "split",
    "map_path": "human map",
    "mask_path": "artefact mask",
    "box": "face box",
    "group": "group",
}
_UNIQUE_OF_FAKES = {"generator": "generator", "family": "family"}


def from_rows(
    rows: Iterable[tuple[int, Sample]], source: str | Path, *, embedded: bool = False
) -> Manifest:
    """Return the samples of a table's numbered rows, whose files must all be there.

    A row that repeats an earlier one is left out, with one warning for all.

    Args:
        rows: line number and sample of each row.
        source: the table, for messages.
        embedded: the images are contents of the table; the same content may be in two splits.

    Raises:
        InputError: two rows contradict each other, a file is missing, there are no rows.
    """
    numbered = list(rows)
    if not numbered:
        raise InputError(f"{source} has no rows: give a table with at least one image.")
    unit = f"{source}, row " if embedded else f"{source}, line "
    kept = [numbered[i] for i in _unique(numbered, unit, label_only=embedded)]
    require_files([(sample.path, f"{unit}{number}") for number, sample in kept])
    return Manifest((sample for _, sample in kept), str(source))


def join(parts: Sequence[Manifest]) -> Manifest:
    """Return the samples of several manifests, each once; raises InputError as :func:`from_rows`.

    A single manifest is returned as it is.
    """
    if len(parts) == 1:
        return parts[0]
    source = ", ".join(dict.fromkeys(part.source for part in parts if part.source))
    told = [(part.source, sample) for part in parts for sample in part]
    return Manifest((told[i][1] for i in _unique(told, "")), source)


def _unique(
    told: Sequence[tuple[object, Sample]], place: str, *, label_only: bool = False
) -> Iterator[int]:
    """Yield the numbers of the samples to keep: all but repetitions, of which it warns.

    An image may be there several times for several purposes: a test set each, and a real image for
    each generator that it is compared with. place: stands before the first of each pair.
    """
    first: dict[str, int] = {}
    purposes: set[tuple[str, ...]] = set()
    repeated: list[int] = []
    for i, (at, sample) in enumerate(told):
        other, one = told[first.setdefault(sample.path, i)]
        unique = {"label": "label"} if label_only else _UNIQUE
        if sample.label != REAL and not label_only:
            unique = unique | _UNIQUE_OF_FAKES
        for name, words in unique.items():
            if getattr(one, name) != getattr(sample, name):
                raise InputError(
                    f"{place}{at}: {sample.path!r} is in {place}{other} too, with another {words}; "
                    "keep one of them."
                )
        generator = sample.generator if sample.label == REAL else ""
        purpose = sample.path, sample.split, sample.test_set, generator
        if purpose in purposes:
            repeated.append(i)
        else:
            purposes.add(purpose)
            yield i
    if repeated:
        at, sample = told[repeated[0]]
        _log.warning(
            "left out %d images that were given before, the first in %s%s, %r",
            *(len(repeated), place, at, sample.path),
        )
