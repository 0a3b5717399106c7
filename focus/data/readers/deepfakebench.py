"""Frames of FaceForensics++, Celeb-DF and DF40 in the folders in which these sets come.

``original_sequences/youtube/c23/frames/033/0.png``, ``Celeb-real/frames/id0_0000/0.png``,
``DF40/simswap/ff/frames/033_097/0.png``: with or without ``frames``, and other folders above.
"""

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from focus.data.manifest import REAL, SYNTHETIC, Sample, Split
from focus.data.readers.tables import split_of
from focus.runtime.json_files import read_json

_DF40 = "/df40(?:_train)?/(?:(?P<split>train|val|test)/)?"
_LEVEL = "(?:/(?P<compression>raw|c[0-9]+))?"
# Where a folder lies and its label, by the first that fits; the names in them are kept.
_FOLDERS = (
    (f"/original_sequences/(?P<source>youtube|actors){_LEVEL}", REAL),
    (f"/manipulated_sequences/(?P<generator>[^/]+){_LEVEL}", SYNTHETIC),
    # In DF40's folders cdf, the fakes made of Celeb-DF's images lie in folders of these names.
    ("(?<!/cdf)(?<!/cdf/frames)/(?P<source>celeb-real|youtube-real)", REAL),
    ("(?<!/cdf)(?<!/cdf/frames)/celeb-synthesis", SYNTHETIC),
    (f"{_DF40}(?:(?P<generator>[^/]+)/(?:[^/]+/)*)?(?:0_)?real", REAL),
    (f"{_DF40}(?:(?:1_)?fake/)?(?P<generator>[^/]+)", SYNTHETIC),
)
_PATTERNS = [(re.compile(f"{folders}(?=/)", re.IGNORECASE), label) for folders, label in _FOLDERS]
# Names of videos: the one that is seen, and in swaps the one whose face was put in.
_VIDEOS = [
    (re.compile("([0-9]{3})(?:_[0-9]{3})?"), "FF++"),
    (re.compile("([0-9]{2})(?:_[0-9]{2})?__.*"), "DFD"),
    (re.compile("(id[0-9]+)(?:_id[0-9]+)?_[0-9]+"), "Celeb-DF"),
    (re.compile("([0-9]{5})"), "Celeb-DF"),
]


def read_folders(root: Path, folders: Iterable[str]) -> dict[str, Sample]:
    """Return what is known of the images in each folder, without their paths.

    The group is the video that is seen, or in Celeb-DF and DFD the person, with all that was made
    of it at any level of compression. Splits come from ``train.json``, ``val.json`` and
    ``test.json``, lists of pairs of numbers, beside ``original_sequences``. Other folders have no
    entry.
    """
    splits = cache(_official_splits)
    samples = {}
    for folder in folders:
        match_and_label = _match(root, folder)
        if match_and_label is None:
            continue
        match, label = match_and_label
        extra = {name: text for name, text in match.groupdict().items() if text}
        generator = extra.pop("generator", "" if label == REAL else "Celeb-DF")
        name = os.path.basename(folder)  # noqa: PTH119 - a million Path objects take seconds
        group = ""
        split: Split = split_of(extra.pop("split", "")) or ""
        for pattern, data_set in _VIDEOS:
            if video := pattern.fullmatch(name):
                group = f"{data_set} {video[1]}"
                if data_set == "FF++" and "_sequences" in match[0]:
                    split = splits(folder[: match.start()]).get(video[1], "")
                break
        samples[folder] = Sample("", label, generator, split=split, group=group, extra=extra)
    return samples


def _match(root: Path, folder: str) -> tuple[re.Match[str], int] | None:
    # A part of a set may be given, as the folder of one level.
    for pattern, label in _PATTERNS:
        # A project may be called DF40: of that name are only the given folder and those below.
        start = len(str(root)) - len(root.name) - 1 if "df40" in pattern.pattern else 0
        if match := pattern.search(f"{folder.replace(os.sep, '/')}/", start):
            return match, label
    return None


def _official_splits(folder: str) -> dict[str, Split]:
    """Return number of a video -> split, as the files in the set's folder say; {} without them."""
    splits: dict[str, Split] = {}
    for name in ("train", "val", "test"):
        path = Path(folder, f"{name}.json")
        if not path.is_file():
            continue
        pairs = read_json(path, list[list[str]], "put the official file there, or remove it")
        splits |= {number: split_of(name) or "" for pair in pairs for number in pair}
    return splits
