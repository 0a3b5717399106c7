"""The folder that ``python -m focus explain`` writes; docs/formats.md describes each file."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import special

from focus.data.bad_files import BAD_FILES, BadFile, write_bad_files
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC
from focus.metrics.calibration import Calibration
from focus.runtime.files import atomic_write

VERSION = 1
MANIFEST, TABLE, FRAMES = "manifest.json", "explanations.csv", "frames.csv"
OVERLAYS, CAMS = "overlays", "cams"
_LONGEST_NAME = 180  # bytes; most file systems take 255, with the number and the ending

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """An image or a video to explain, with its number from 1.

    frames: of a folder that is a video the images to look at, with their numbers in it from 0.
    """

    number: int
    path: Path
    kind: Literal["image", "video"]
    frames: tuple[tuple[int, Path], ...] = ()

    def file_name(self, frame: int | None) -> str:
        """Return a name by the number, so that no two are alike, and the file's, to be found by."""
        stem = self.path.stem
        while len(os.fsencode(stem)) > _LONGEST_NAME:  # a cut between bytes may split a character
            stem = stem[:-1]
        return f"{self.number:06d}-{stem}" + ("" if frame is None else f"-frame{frame:06d}")


def item_row(
    item: Item, views: Sequence[Row], threshold: float | None, calibration: Calibration | None
) -> Row:
    """Return the row of an item from the rows of its views: one of an image, one a frame.

    A score above the threshold says synthetic; without one there is no decision.
    """
    found = {name: value for name, value in views[0].items() if name not in ("frame", "at")}
    score = found.pop("score")
    if item.kind == "video":
        score = video_score([view["score"] for view in views])
        found |= {"predicted": None, "overlay": None, "cam": None}
        for name in ("entropy_predicted", "entropy_synthetic"):
            found[name] = np.float32(np.mean([view[name] for view in views]))
    decision = LABEL_NAMES[SYNTHETIC if threshold is not None and score > threshold else REAL]
    return {
        "path": str(item.path),
        "kind": item.kind,
        "frames": len(views) if item.kind == "video" else None,
        "score": score,
        "decision": "" if threshold is None else decision,
        "llr": calibration and np.float32(calibration.llr(np.array([score]))[0]),
        **found,
    }


def video_score(scores: Sequence[np.float64]) -> np.float64:
    """Return the probability whose log-odds are the mean of those of the frames' scores.

    A mean of probabilities would let one undecided frame pull a video below a threshold near 1,
    whatever the others say. Frames of a video are alike, so their log-odds are not summed up.
    """
    # Beyond 37 float64 rounds to 1; a 0 or a 1 is as sure as that, and no surer.
    log_odds = special.logit(np.array(scores, np.float64)).clip(-37, 37)
    return np.float64(special.expit(log_odds.mean()))


def write_tables(
    folder: Path, items: Mapping[Path, tuple[Row, list[Row]]], bad: Sequence[BadFile]
) -> list[Path]:
    """Write the tables of items, each with its row and those of its frames; return their paths."""
    tables = {
        TABLE: [row for row, _ in items.values()],
        FRAMES: [{"path": str(path)} | frame for path, (_, fs) in items.items() for frame in fs],
    }
    for name, rows in tables.items():
        if rows:
            _write_table(folder / name, rows)
    if bad:
        write_bad_files(bad, folder / BAD_FILES)
    names = [*(name for name, rows in tables.items() if rows), *([BAD_FILES] if bad else [])]
    return [folder / name for name in names]


def write_manifest(
    folder: Path, about: Mapping[str, Any], items: Mapping[Path, tuple[Row, list[Row]]], n_bad: int
) -> Path:
    """Write ``manifest.json``: ``about``, then all items; return its path."""
    rows = [{**row, **({"frames": frames} if frames else {})} for row, frames in items.values()]
    manifest = {"version": VERSION, **about, "n_items": len(rows), "n_bad": n_bad, "items": rows}
    with atomic_write(folder / MANIFEST) as aside:
        # numpy's float32 with the digits of the table.
        text = json.dumps(manifest, indent=1, default=lambda number: float(str(number)))
        aside.write_text(text + "\n", encoding="utf-8")
    return folder / MANIFEST


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    # File names that are not UTF-8 reach us as surrogates and leave as they came.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"# focus-{path.stem} {VERSION}\n")
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        # numpy prints a float with the fewest digits that read back to the same one of its type.
        writer.writerows(
            {key: "" if value is None else str(value) for key, value in row.items()} for row in rows
        )
