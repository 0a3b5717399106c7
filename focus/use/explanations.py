"""What ``python -m focus explain`` leaves in its folder; docs/formats.md describes each file."""

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import special
from torch import Tensor

from focus.data.bad_files import BAD_FILES, BadFile, write_bad_files
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC
from focus.data.overlay import overlay
from focus.metrics import Calibration
from focus.runtime.files import RowsEnding, atomic_write

VERSION = 1
MANIFEST, TABLE, FRAMES = "manifest.json", "explanations.csv", "frames.csv"
_OVERLAYS, _CAMS = "overlays", "cams"
_LONGEST_NAME = 180  # bytes; most file systems take 255, with the number and the ending


@dataclass(frozen=True)
class Item:
    """What is asked about, number from 1.

    frames: of a folder that is a video the images to look at, with their numbers in it from 0.
    """

    number: int
    path: Path
    kind: Literal["image", "video"]
    frames: tuple[tuple[int, Path], ...] = ()


class View(NamedTuple):
    """One picture that the detector sees: an image, or a frame of a video."""

    item: Item
    frame: int | None
    """From 0; None: an image."""
    at: str
    """Where in the video: in seconds, or the file in a folder."""
    pixels: Tensor
    """[3, S, S] uint8."""
    face: Image.Image
    """To lay the CAM over."""
    last: bool
    """Of its item."""


class Seen(NamedTuple):
    """What the detector makes of a view."""

    view: View
    score: np.float64
    predicted: np.int64
    cams: NDArray[np.float32]
    """[2, H, W], of the predicted and of the synthetic class."""
    entropy: NDArray[np.float32]
    """[2] of these."""


@dataclass(frozen=True)
class Judge:
    """From a score to a decision. point: name of the threshold; "" and None: there is none."""

    point: str
    threshold: float | None
    calibration: Calibration | None

    def decision(self, score: np.float64) -> str:
        """``synthetic`` above the threshold, else ``real``; "" without one."""
        if self.threshold is None:
            return ""
        return LABEL_NAMES[SYNTHETIC if score > self.threshold else REAL]

    def llr(self, score: np.float64) -> np.float32 | None:
        """Natural logarithm of the likelihood ratio, synthetic over real; None uncalibrated."""
        if self.calibration is None:
            return None
        return np.float32(self.calibration.llr(np.array([score]))[0])


def video_score(scores: Sequence[np.float64]) -> np.float64:
    """The probability whose log-odds are the mean of those of the frames' scores.

    A mean of probabilities would let one undecided frame pull a video below a threshold near 1,
    whatever the others say. Frames of a video are alike, so their log-odds are not summed up.
    """
    # Beyond 37 float64 rounds to 1; a 0 or a 1 is as sure as that, and no surer.
    log_odds = special.logit(np.array(scores, np.float64)).clip(-37, 37)
    return np.float64(special.expit(log_odds.mean()))


class Writer:
    """Writes rows as they come, so that what an interrupted run has found is there.

    The folder is made by the first row. ``manifest.json`` is written at the end, and says so.
    """

    def __init__(self, folder: Path, judge: Judge) -> None:
        self.folder, self.judge = folder, judge
        self.bad: list[BadFile] = []
        self.written = 0
        self._tables: dict[str, Any] = {}
        self._frames: list[dict[str, Any]] = []
        self._items = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed at the exit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for file, _ in self._tables.values():
            file.close()
        if kind is not None:
            self._write_bad()
            self._items.close()

    def save(self, seen: Seen) -> tuple[str, str]:
        """Write a view's overlay and CAMs, from any thread; their paths below the folder."""
        name = _file_name(seen.view)
        places = f"{_OVERLAYS}/{name}.png", f"{_CAMS}/{name}.npy"
        for place in places:
            (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
        overlay(seen.view.face, seen.cams[0]).save(self.folder / places[0])
        np.save(self.folder / places[1], seen.cams)
        return places

    def add(self, seen: Seen, places: tuple[str, str]) -> dict[str, Any] | None:
        """Add a view's row, in order; the row of its item once that is complete."""
        view, item = seen.view, seen.view.item
        found = {
            "score": seen.score,
            "predicted": int(seen.predicted),
            "entropy_predicted": seen.entropy[0],
            "entropy_synthetic": seen.entropy[1],
            "overlay": places[0],
            "cam": places[1],
        }
        if item.kind == "video":
            row = {"path": str(item.path), "frame": view.frame, "at": view.at, **found}
            self._write(FRAMES, row)
            self._frames.append(row)
            if not view.last:
                return None
            found = self._of_frames()
        score = found["score"]
        row = {
            "path": str(item.path),
            "kind": item.kind,
            "frames": len(self._frames) or None,
            "score": score,
            "decision": self.judge.decision(score),
            "llr": self.judge.llr(score),
            **found,
        }
        self._write(TABLE, row)
        frames = [{k: v for k, v in frame.items() if k != "path"} for frame in self._frames]
        self._items.write(",\n" if self.written else "\n")
        json.dump(_plain({**row, "frames": frames} if frames else row), self._items)
        self.written += 1
        self._frames = []
        return row

    def flush(self) -> None:
        """Hand the rows to the system."""
        for file, _ in self._tables.values():
            file.flush()

    def finish(self, about: Mapping[str, Any]) -> list[Path]:
        """Write ``manifest.json``, ``about`` first; the paths of all that was written."""
        self._write_bad()
        head = {"version": VERSION, **about, "n_items": self.written, "n_bad": len(self.bad)}
        with atomic_write(self.folder / MANIFEST) as aside, aside.open("w") as file:
            file.write(json.dumps(head, indent=1)[:-2] + ',\n "items": [')
            self._items.seek(0)
            shutil.copyfileobj(self._items, file)
            file.write("\n]}\n")
        self._items.close()
        names = [MANIFEST, *self._tables, _OVERLAYS, _CAMS, *([BAD_FILES] if self.bad else [])]
        return [self.folder / name for name in names]

    def _write_bad(self) -> None:
        if self.written and self.bad:
            write_bad_files(self.bad, self.folder / BAD_FILES)

    def _of_frames(self) -> dict[str, Any]:
        def mean(name: str) -> np.float32:
            return np.float32(np.mean([frame[name] for frame in self._frames]))

        return {
            "score": video_score([frame["score"] for frame in self._frames]),
            "predicted": None,
            "entropy_predicted": mean("entropy_predicted"),
            "entropy_synthetic": mean("entropy_synthetic"),
            "overlay": None,
            "cam": None,
        }

    def _write(self, name: str, row: Mapping[str, Any]) -> None:
        if name not in self._tables:
            # File names that are not UTF-8 reach us as surrogates and leave as they came.
            file = (self.folder / name).open(
                "w", newline="", encoding="utf-8", errors="surrogateescape"
            )
            file.write(f"# focus-{Path(name).stem} {VERSION}\n")
            writer = csv.DictWriter(RowsEnding(file, "\n"), row)
            writer.writeheader()
            self._tables[name] = file, writer
        # numpy prints a float with the fewest digits that read back to the same one of its type.
        cells = {key: "" if value is None else str(value) for key, value in row.items()}
        self._tables[name][1].writerow(cells)


def _file_name(view: View) -> str:
    """By the item's number, so that no two are alike, and its name, to be found by."""
    stem = view.item.path.stem
    while len(os.fsencode(stem)) > _LONGEST_NAME:  # a cut between bytes may split a character
        stem = stem[:-1]
    frame = "" if view.frame is None else f"-frame{view.frame:06d}"
    return f"{view.item.number:06d}-{stem}{frame}"


def _plain(value: Any) -> Any:
    """For JSON, with the digits of the CSV."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return float(str(value)) if isinstance(value, np.float32) else value
