"""Which images a model knows: those that it was trained or chosen on, wherever they lie by now."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Literal, NamedTuple

from focus.config.train import TrainConfig
from focus.data.generators import canonical
from focus.data.manifest import SYNTHETIC, Manifest, Sample, absolute, file_key

_FOLDERS = 3  # that are compared, with a name, to guess a move; all are then to prove it
_GUESSES = 8
_FOUND = 0.9  # of the images whose place is gone, at the new one
_KNOWN = 0.5  # of the images given there: another set that numbers its images has more, or fewer

_NONE = Manifest(())


class Known(NamedTuple):
    """By what images are known, and a warning of what is not sure; "" without one."""

    files: frozenset[str]
    groups: frozenset[str]
    warning: str

    def by_what(self, sample: Sample) -> Literal["", "file", "group"]:
        """What an image shares with a known one; "" for nothing."""
        if file_key(sample.path) in self.files:
            return "file"
        return "group" if sample.group in self.groups else ""


def tell_known(known: Manifest, given: Manifest, beside: Manifest = _NONE) -> Known:
    """What tells the images of ``given`` that are among the known ones.

    Those are the files themselves, by whatever links, copies of the same name and content, and, of
    a place that is gone, the images of a place that has them all by now, below the same folders.
    Images that have no more than a name of those that are gone are counted in the warning.
    beside: images of the same record that are not known, which are none of these.
    """
    unknown = {file_key(s.path) for s in beside}
    files = {file_key(s.path): s for s in known}
    keys = {key: s for s in given if (key := file_key(s.path)) not in unknown}
    found = set(files)
    warning = ""
    names = {_name(key) for key in files}
    others = {key: s for key, s in keys.items() if key not in files and _name(key) in names}
    if others:
        # What is known by its content has no place that it could have moved from.
        sizes = {key: _size(key) for key in files if key.startswith(os.sep)}
        found.update(_copies(sizes, others))
        gone = {key: files[key] for key in _gone(sizes)}
        others = {key: s for key, s in others.items() if key not in found}
        same, warning = _moved(gone, others, keys, unknown)
        found.update(same)
    return Known(frozenset(found), frozenset(s.group for s in known) - {""}, warning)


def _copies(sizes: Mapping[str, int], others: Iterable[str]) -> Iterable[str]:
    """Those that have name and content of a known file that is there."""
    alike: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for key, size in sizes.items():
        if size >= 0:
            alike[_name(key), size].append(key)
    contents: dict[tuple[str, int], set[bytes]] = {}  # once, of frames that all have one size
    for key in others:
        if (which := (_name(key), _size(key))) not in alike:
            continue
        if which not in contents:
            contents[which] = {_content(original) for original in alike[which]} - {b""}
        if _content(key) in contents[which]:
            yield key


def _gone(sizes: Mapping[str, int]) -> Iterable[str]:
    """Those in whose folders none is left: one that was removed alone has not been moved."""
    left = {_folder(key) for key, size in sizes.items() if size >= 0}
    return (key for key in sizes if _folder(key) not in left)


def _moved(
    gone: Mapping[str, Sample],
    others: Mapping[str, Sample],
    given: Mapping[str, Sample],
    unknown: Container[str],
) -> tuple[set[str], str]:
    """The others that are known images which have been moved; what to say of them, or of doubts."""
    names = {_name(key) for key in gone}
    alike = sorted(key for key in others if _name(key) in names)
    if not alike:
        return set(), ""
    for there, here in _guesses(gone, alike):
        n_found = sum(
            key.startswith(there) and _size(here + key.removeprefix(there)) >= 0 for key in gone
        )
        below = {key: there + key.removeprefix(here) for key in given if key.startswith(here)}
        below = {key: then for key, then in below.items() if then not in unknown}
        same = {key for key, then in below.items() if then in gone}
        contradicted = any(_differ(given[key], gone[below[key]]) for key in same)
        if n_found >= _FOUND * len(gone) and len(same) > _KNOWN * len(below) and not contradicted:
            return same, (
                f"{len(same)} images in {here} are taken for those that the model was trained or "
                f"chosen on in {there}, which are not there any more, since all their names "
                "and labels agree: if they are others, give a copy of the model's folder that lies "
                "in no run"
            )
    return set(), (
        f"{len(alike)} of {len(given)} images have the names of images that the model was trained "
        f"or chosen on and that are no longer where they were, the first is {alike[0]!r}: if they "
        "are the same, in another place, their scores say nothing, so give others"
    )


def _guesses(gone: Iterable[str], alike: Iterable[str]) -> list[tuple[str, str]]:
    """Where files were and where they may be now, the commonest first: two beginnings of paths."""
    votes: Counter[tuple[str, str]] = Counter()
    for folders in range(_FOLDERS + 1):
        ends = {_end(key, folders): key for key in gone}
        for key in alike:
            if (then := ends.get(_end(key, folders))) is not None:
                votes[_beginnings(then, key)] += 1
    return [guess for guess, _ in votes.most_common(_GUESSES)]


def _end(key: str, folders: int) -> tuple[str, ...]:
    return tuple(key.rsplit(os.sep, folders + 1)[-folders - 1 :])


def _beginnings(then: str, now: str) -> tuple[str, str]:
    """Two paths without the folders, and the name, that they end in alike."""
    pairs = zip(reversed(then.rsplit(os.sep)), reversed(now.rsplit(os.sep)), strict=False)
    # Each with the separator before it, of which the first stays with the beginning.
    end = sum(1 + len(name) for name, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) - 1
    return then[: len(then) - end], now[: len(now) - end]


def _differ(now: Sample, then: Sample) -> bool:
    """Whether they are not said to be of one class and, of fakes, of one generator."""
    return now.label != then.label or (
        now.label == SYNTHETIC and canonical(now.generator) != canonical(then.generator)
    )


def _name(key: str) -> str:
    return key.rpartition(os.sep)[2]


def _folder(key: str) -> str:
    return key.rpartition(os.sep)[0]


def _size(path: str) -> int:
    """-1 where there is no file."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a million Path objects take seconds
    except (OSError, ValueError):
        return -1


def _content(path: str) -> bytes:
    """A digest, empty for what cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return b""


MANIFEST = "manifest.csv"


BEFORE = "trained_before.csv"


def is_run(folder: Path) -> bool:
    """Whether it is a run's."""
    return (folder / MANIFEST).is_file() and (folder / "config.yaml").is_file()


def record_of(run: Path) -> Manifest:
    """What a run trains, validates and tests on; empty for a folder that is no run's."""
    return Manifest.from_csv(run / MANIFEST) if is_run(run) else Manifest(())


def known_to(model: Path) -> Manifest:
    """What the model of a run was trained or chosen on, also by the runs whose weights it began
    with; empty for a model that lies in no run."""
    run = absolute(model).parent
    known = record_of(run).where(lambda sample: sample.split in ("train", "validation"))
    before = run / BEFORE
    return known + Manifest.from_csv(before) if known and before.is_file() else known


def known_before(config: TrainConfig) -> Manifest:
    """:func:`known_to` of the model whose weights the run begins with; empty without one."""
    weights = config.initial_checkpoint
    return Manifest(()) if weights is None else known_to(Path(weights).parent)
