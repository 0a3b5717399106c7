"""The folder that ``focus explain`` writes; docs/formats.md describes each file."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader
from scipy import special

from focus.data.bad_files import BAD_FILES, BadFile, write_bad_files
from focus.data.making.faces import write_no_face
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC
from focus.metrics.calibration import Calibration
from focus.runtime.files import atomic_write, write_csv

VERSION = 2
MANIFEST, TABLE, FRAMES = "manifest.json", "explanations.csv", "frames.csv"
PAGE = "index.html"
OVERLAYS, CAMS = "overlays", "cams"

Row = dict[str, Any]
Frames = Mapping[tuple[str, int | None], Sequence[Row]]
"""The rows of the frames of videos, by the path and the number of the face."""


@dataclass(frozen=True)
class Item:
    """An image or a video to explain, with its number from 1.

    frames: of a folder that is a video the images to look at, with their numbers in it from 0.
    """

    number: int
    path: Path
    kind: Literal["image", "video"]
    frames: tuple[tuple[int, Path], ...] = ()


def item_row(
    item: Item, views: Sequence[Row], threshold: float, calibration: Calibration | None
) -> Row:
    """Return the row of an item, or of a face in it: of an image from one view, else one a frame.

    A score above the threshold says synthetic.
    """
    found = {name: value for name, value in views[0].items() if name not in ("frame", "at")}
    score, face, box = (found.pop(name) for name in ("score", "face", "box"))
    high = None
    if item.kind == "video":
        scores = [view["score"] for view in views]
        score, high, box = video_score(scores), np.quantile(scores, 0.9), None
        found |= {"predicted": None, "overlay": None, "cam": None}
        for name in ("entropy_predicted", "entropy_synthetic"):
            found[name] = np.float32(np.mean([view[name] for view in views]))
    return {
        "path": str(item.path),
        "kind": item.kind,
        "face": face,
        "box": box,
        "frames": len(views) if item.kind == "video" else None,
        "score": score,
        "score_q90": high,
        "decision": LABEL_NAMES[SYNTHETIC if score > threshold else REAL],
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
    folder: Path,
    items: Sequence[Row],
    frames: Frames,
    bad: Sequence[BadFile],
    no_face: Sequence[tuple[str, str]],
) -> list[Path]:
    """Write the tables of items, of frames and of what is left out; return their paths."""
    of_videos = [{"path": path} | row for (path, _), rows in frames.items() for row in rows]
    written = []
    for name, rows in ((TABLE, items), (FRAMES, of_videos)):
        if rows:
            # str: numpy's float32 has the fewest digits that read back to the same number.
            cells = (["" if v is None else str(v) for v in row.values()] for row in rows)
            written.append(write_csv(folder / name, rows[0], cells))
    if bad:
        written.append(folder / BAD_FILES)
        write_bad_files(bad, written[-1])
    if no_face:
        written.append(write_no_face(no_face, folder))
    return written


def write_page(
    folder: Path, summary: str, notes: Sequence[str], items: Sequence[Row], frames: Frames
) -> Path:
    """Write ``index.html``: each face with its CAM, sortable, by decision; return its path.

    A video shows the first of its frames.
    """
    rows = []
    for row in items:
        overlay = row.get("overlay") or frames[row["path"], row["face"]][0]["overlay"]
        rows.append(row | {"overlay": quote(os.fsencode(overlay))})  # no name need be UTF-8
    script = resources.files("focus.use").joinpath("index.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = (
        Environment(loader=PackageLoader("focus.use", ""), autoescape=True)
        .get_template(PAGE)
        .render(
            rows=rows,
            summary=summary,
            findings=notes,
            style=resources.files("focus.report").joinpath("page.css").read_text(encoding="utf-8"),
            script=script,
            digest=digest,
        )
    )
    with atomic_write(folder / PAGE) as aside:
        aside.write_bytes(text.encode("utf-8", "replace"))
    return folder / PAGE


def write_manifest(
    folder: Path,
    about: Mapping[str, Any],
    items: Sequence[Row],
    frames: Frames,
    n_bad: int,
    n_no_face: int,
) -> Path:
    """Write ``manifest.json``: ``about``, then all items; return its path."""
    rows = [
        row | ({"frames": frames[row["path"], row["face"]]} if row["frames"] else {})
        for row in items
    ]
    counts = {"n_items": len(rows), "n_bad": n_bad, "n_no_face": n_no_face}
    manifest = {"version": VERSION, **about, **counts, "items": rows}
    with atomic_write(folder / MANIFEST) as aside:
        # numpy's float32 with the digits of the table.
        text = json.dumps(manifest, indent=1, default=lambda number: float(str(number)))
        aside.write_text(text + "\n", encoding="utf-8")
    return folder / MANIFEST
