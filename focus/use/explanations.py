"""What ``focus explain`` has found, and the folder that holds it; docs/formats.md has each file."""

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray
from PIL import Image
from scipy import special

from focus.data.bad_files import write_bad_files
from focus.data.file_pass import BadFile
from focus.data.images import BAD_FILES
from focus.data.making.faces import NO_FACE, write_no_face
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC
from focus.errors import shown
from focus.metrics.calibration import Calibration
from focus.model.operating_points import Threshold, score_text
from focus.runtime.files import atomic_write, write_csv

VERSION = 2
MANIFEST = "manifest.json"
TABLE = "explanations.csv"
FRAMES = "frames.csv"
PAGE = "index.html"
OVERLAYS = "overlays"
CAMS = "cams"

UNLIKE = ", unlike what training saw: "
_PRINTED = 20  # rows, each on a line

CsvRow = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """An image or a video to explain, with its number from 1.

    frames: The images to look at in a folder that is a video, with their numbers in it from 0.
    """

    number: int
    path: Path
    kind: Literal["image", "video"]
    frames: tuple[tuple[int, Path], ...] = ()


def item_row(
    item: Item, views: Sequence[CsvRow], threshold: float, calibration: Calibration | None
) -> CsvRow:
    """Return the row of an item, or of a face in it: of an image from one view, else one a frame.

    A score above the threshold says synthetic.
    """
    if item.kind == "video":
        scores = [view["score"] for view in views]
        score = video_score(scores)
        score_q90 = np.quantile(scores, 0.9)
        seen = _seen_in_frames(views)
    else:
        (view,) = views
        score = view["score"]
        score_q90 = None
        seen = view
    return {
        "path": str(item.path),
        "kind": item.kind,
        "face": views[0]["face"],
        "box": seen["box"],
        "frames": len(views) if item.kind == "video" else None,
        "score": score,
        "score_q90": score_q90,
        "decision": LABEL_NAMES[SYNTHETIC if score > threshold else REAL],
        "llr": calibration and np.float32(calibration.llr(np.array([score]))[0]),
        "predicted": seen["predicted"],
        "entropy_predicted": seen["entropy_predicted"],
        "entropy_synthetic": seen["entropy_synthetic"],
        "overlay": seen["overlay"],
        "cam": seen["cam"],
        "unlike": seen["unlike"],
    }


def _seen_in_frames(views: Sequence[CsvRow]) -> CsvRow:
    """Return the cells of a video that stand for all its frames: means, and none of files."""
    unlike = [view["unlike"] for view in views if view["unlike"]]
    # Of many frames one or two are beyond the limits by chance alone.
    most_are = len(unlike) > len(views) / 2
    return {
        "box": None,
        "predicted": None,
        "entropy_predicted": np.float32(np.mean([view["entropy_predicted"] for view in views])),
        "entropy_synthetic": np.float32(np.mean([view["entropy_synthetic"] for view in views])),
        "overlay": None,
        "cam": None,
        "unlike": f"{len(unlike)} of {len(views)} frames: {unlike[0]}" if most_are else "",
    }


def video_score(scores: Sequence[np.float64]) -> np.float64:
    """Return the probability whose log-odds are the mean of those of the frames' scores.

    A mean of probabilities would let one undecided frame pull a video below a threshold near 1,
    whatever the others say. Frames of a video are alike, so their log-odds are not summed up.
    """
    # Beyond 37 float64 rounds to 1; a 0 or a 1 is as sure as that, and no surer.
    log_odds = special.logit(np.array(scores, np.float64)).clip(-37, 37)
    return np.float64(special.expit(log_odds.mean()))


@dataclass(frozen=True)
class Explanation:
    """The verdict on an image or a video, or on one face in it.

    row: The row of ``explanations.csv``: score, decision, the box of the face, and more. frames:
    The rows of ``frames.csv``, of a video. folder: Where the files are that rows name.

    Examples:
        >>> from focus import ExplainConfig, explain
        >>> config = ExplainConfig(
        ...     paths=("picture.jpg",), model_dir="runs/first/model", output="one"
        ... )
        >>> (verdict,) = explain(config)
        >>> verdict.row["kind"]
        'image'
        >>> verdict.picture().save("verdict.png")  # the face with the CAM over it
    """

    row: CsvRow
    frames: Sequence[CsvRow]
    folder: Path

    @property
    def views(self) -> Sequence[CsvRow]:
        """The rows of the frames of a video, or the row of an image."""
        return self.frames or [self.row]

    @property
    def cams(self) -> NDArray[np.float32]:
        """Raw CAMs [V, 2, H, W] of each view: of the predicted class and of synthetic."""
        return np.stack([np.load(self.folder / view["cam"]) for view in self.views])

    def picture(self, view: int = 0) -> Image.Image:
        """Return the picture with the CAM over it; view: of a video the number of the row."""
        with Image.open(self.folder / self.views[view]["overlay"]) as overlay:
            return overlay.copy()

    def __str__(self) -> str:
        row = self.row
        frames = f" over {row['frames']} frames" if row["frames"] else ""
        face = f" face {row['face']}" if row["face"] else ""
        return (
            f"{shown(row['path'])}{face}: {row['decision']}, "
            f"score {score_text(row['score'])}{frames}, "
            f"entropy of the CAM {row['entropy_predicted']:.2f}"
            f"{UNLIKE + row['unlike'] if row['unlike'] else ''}"
        )


def _cell(value: object) -> str:
    """Return the text of a value; a float32 has the fewest digits that read back to it."""
    return "" if value is None else str(value)


@dataclass
class Explanations:
    """Everything that was found in some files; as text, what the program prints.

    Iterating gives an :class:`Explanation` for each image and video, or for each face in it.

    Attributes:
        folder: Where all files are.
        threshold: A score above it says synthetic.
        head: What ``manifest.json`` says of the model, the threshold and the faces.
        notes: What a reader must know.
        rows: The rows of ``explanations.csv``.
        frames: The rows of the frames of videos, by the path and the number of the face.
        bad: Files that cannot be decoded.
        no_face: Files without a face, each with the reason.
        written: The files written, but for the pictures.

    Examples:
        >>> from focus import ExplainConfig, explain
        >>> config = ExplainConfig(
        ...     paths=("pictures",), model_dir="runs/first/model", output="all"
        ... )
        >>> verdicts = explain(config)
        >>> len(verdicts), len(verdicts.bad)
        (4, 0)
        >>> suspicious = [verdict for verdict in verdicts if verdict.row["score"] > 0.9]
    """

    folder: Path
    threshold: Threshold
    head: dict[str, Any]
    notes: list[str]
    rows: list[CsvRow] = field(default_factory=list)
    frames: dict[tuple[str, int | None], list[CsvRow]] = field(default_factory=dict)
    bad: list[BadFile] = field(default_factory=list)
    no_face: list[tuple[str, str]] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Explanation]:
        for row in self.rows:
            yield Explanation(row, self.frames.get((row["path"], row["face"]), ()), self.folder)

    def table(self) -> str:
        """Return a line for each explanation."""
        return "\n".join(map(str, self))

    def summary(self) -> str:
        """Return the counts of files in a line."""
        kinds = Counter({row["path"]: row["kind"] for row in self.rows}.values())
        return (
            f"explained: {kinds['image']} pictures, {kinds['video']} videos, left out without "
            f"a face: {len(self.no_face)}, not decoded: {len(self.bad)}"
        )

    def __str__(self) -> str:
        lines = [f"threshold: {self.threshold}; a score above it says synthetic"]
        if self.head["faces"]:
            lines.append(f"faces: {self.head['faces']}, cut out by {self.head['geometry']}")
        lines += self.notes
        if len(self) <= _PRINTED:
            lines.append(self.table())
        lines.append(self.summary())
        if self.no_face:
            lines.append(f"left out because no face was found: {len(self.no_face)} ({NO_FACE})")
        if self.bad:
            lines.append(f"left out because they cannot be decoded: {len(self.bad)} ({BAD_FILES})")
        for path in (*self.written, self.folder / OVERLAYS, self.folder / CAMS):
            lines.append(f"written: {path}")
        return "\n".join(lines)

    def save_tables(self) -> None:
        """Write the tables of items, of frames and of what is left out."""
        frame_rows = []
        for (path, _), rows_of_face in self.frames.items():
            frame_rows += [{"path": path} | row for row in rows_of_face]
        for name, rows in ((TABLE, self.rows), (FRAMES, frame_rows)):
            if rows:
                cells = ([_cell(value) for value in row.values()] for row in rows)
                self.written.append(write_csv(self.folder / name, rows[0], cells))
        if self.bad:
            self.written.append(self.folder / BAD_FILES)
            write_bad_files(self.bad, self.written[-1])
        if self.no_face:
            self.written.append(write_no_face(self.no_face, self.folder))

    def save(self) -> None:
        """Write ``manifest.json``, which says that all is there, and the page."""
        rows = []
        for explanation in self:
            frames = {"frames": explanation.frames} if explanation.frames else {}
            rows.append(explanation.row | frames)
        manifest = {
            "version": VERSION,
            **self.head,
            "n_items": len(rows),
            "n_bad": len(self.bad),
            "n_no_face": len(self.no_face),
            "items": rows,
        }
        with atomic_write(self.folder / MANIFEST) as aside:
            # A float32 of numpy is written with the few digits that it has in the table.
            text = json.dumps(manifest, indent=1, default=lambda number: float(_cell(number)))
            aside.write_text(text + "\n", encoding="utf-8")
        self.written[:0] = [self.folder / MANIFEST, self.save_page()]

    def save_page(self) -> Path:
        """Write ``index.html``: each face with its CAM, sortable, by decision; return its path.

        A video shows the first of its frames.
        """
        rows = []
        for explanation in self:
            overlay = explanation.views[0]["overlay"]
            address = quote(os.fsencode(overlay))  # the name of a file need not be UTF-8
            rows.append(explanation.row | {"overlay": address})
        script = resources.files("focus.use").joinpath("index.js").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        style = resources.files("focus.report").joinpath("page.css").read_text(encoding="utf-8")
        environment = Environment(loader=PackageLoader("focus.use", ""), autoescape=True)
        environment.filters["score_text"] = score_text
        text = environment.get_template(PAGE).render(
            rows=rows,
            head=self.head,
            threshold=str(self.threshold),
            n_unlike=sum(bool(row["unlike"]) for row in rows),
            summary=self.summary(),
            findings=self.notes,
            style=style,
            script=script,
            digest=digest,
        )
        with atomic_write(self.folder / PAGE) as aside:
            aside.write_bytes(text.encode("utf-8", "replace"))
        return self.folder / PAGE
