"""The images of a report: which are shown, their pictures, and the table of all of them.

A picture is one small WebP: squares side by side of the face, the CAM of the predicted class over
it with the artefact outlined, and the human map, the last two where the manifest has them.
"""

import base64
import io
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from focus.data.images import load_image, load_map
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.data.maps import human_map
from focus.data.overlay import overlay
from focus.data.videos import evenly
from focus.evaluation.inference import predictions
from focus.evaluation.protocol import UNNAMED, match
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.plotting import printable

if TYPE_CHECKING:
    from focus.model.detector import Detector

SHOWN = 480
"""Images with a picture, at most, if there are no more kinds of them."""
LISTED = 20_000
"""Rows of the table, at most."""
OUTCOMES = ("right", "false alarm", "missed", "unlabelled")

_SIDE = 160  # pixels
_QUALITY = 62  # of 100; a strip of three is about 7 kB
_OUTLINE = (25, 227, 255)  # as in the sheet of overlays

Rows = NDArray[np.int64]


def outcomes(scores: Scores) -> Rows:
    """[N] index into ``OUTCOMES``, by the class with the largest logit."""
    called = scores.predicted != REAL
    found = np.where(scores.label == REAL, np.where(called, 1, 0), np.where(called, 0, 2))
    return np.where(scores.label < 0, 3, found)


def sets(scores: Scores, results: Results | None) -> NDArray[np.object_]:
    """[N] the test set: of a fake the one that its figures are in, else as in the manifest."""
    found = scores.test_set.copy()
    if results is not None:
        for comparison in match(scores, results["training_generators"]):
            found[comparison.fake] = comparison.test_set
    return found


def choose(scores: Scores, results: Results | None, shown: int = SHOWN) -> tuple[Rows, int]:
    """The rows that get a picture, by rising number: no more than ``shown``, but one a kind.

    A kind is a test set, class, generator and outcome. Each gives the same number of images, all
    if it has no more: at even steps of its order by score, ties by row. So it shows what it is
    like from the lowest score to the highest, and nobody has picked. With them comes that number.
    """
    where, outcome = sets(scores, results), outcomes(scores)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for row, kind in enumerate(
        zip(where, scores.label.tolist(), scores.generator, outcome.tolist(), strict=True)
    ):
        kinds.setdefault(kind, []).append(row)
    each = _each([len(rows) for rows in kinds.values()], shown)
    chosen = []
    for rows in kinds.values():
        ordered = np.array(rows)[np.argsort(scores.score[rows], kind="stable")]
        chosen.append(ordered[evenly(len(ordered), each)])
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen])), each


def _each(sizes: Sequence[int], shown: int) -> int:
    """The largest number with which the kinds together give at most ``shown``; 1 at least."""
    each = 1
    while each < max(sizes, default=1) and sum(min(n, each + 1) for n in sizes) <= shown:
        each += 1
    return each


def pictures(
    detector: "Detector", manifest: Manifest, rows: Sequence[int]
) -> Iterator[tuple[int, str]]:
    """Yields each row and its picture as a data URI; a batch is in memory at a time.

    Raises ImageError, naming the file, for what cannot be decoded any more.
    """
    for batch, prediction in predictions(detector, manifest, batch_size=32, indices=rows):
        cams = prediction.cams[:, 0].float().cpu().numpy()
        for row, cam in zip(batch, cams, strict=True):
            yield row, _data_uri(strip(manifest[row], cam))


def strip(sample: Sample, cam: NDArray[np.floating[Any]]) -> Image.Image:
    """The picture of a sample with its CAM [h, w]: two squares, three if there is a human map."""
    face = load_image(sample.path).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    looked = overlay(face, cam)
    if sample.mask_path is not None:
        _outline(looked, load_map(sample.mask_path))
    parts = [face, looked]
    if sample.map_path is not None:
        parts.append(overlay(face, human_map(sample.map_path)))
    whole = Image.new("RGB", (_SIDE * len(parts), _SIDE))
    for number, part in enumerate(parts):
        whole.paste(part, (_SIDE * number, 0))
    return whole


def table(scores: Scores, results: Results | None, shown: Rows) -> dict[str, Any]:
    """What the page's script needs of the images, column by column.

    Of more than ``LISTED`` images only those of ``shown``. ``shown`` of the table: the places in
    its columns. root: the folder that all paths have in common.
    """
    listed = np.arange(len(scores)) if len(scores) <= LISTED else shown
    own = scores.select(listed)
    root, paths = _below_one_folder([printable(path) for path in own.path])
    where = sets(scores, results)[listed]
    names, generator = _indexed(
        [_kind(*pair) for pair in zip(own.label, own.generator, strict=True)]
    )
    set_names, test_set = _indexed([str(name).replace("_", "-") for name in where])
    return {
        "root": root,
        "generators": names,
        "sets": set_names,
        "outcomes": OUTCOMES,
        "path": paths,
        "label": own.label.tolist(),
        "generator": generator,
        "set": test_set,
        "outcome": outcomes(own).tolist(),
        "score": _short(own.score),
        "entropy": _short(own.entropy_predicted),
        "shown": np.searchsorted(listed, shown).tolist(),
    }


def _kind(label: int, generator: str) -> str:
    """What the filter by generator calls an image."""
    name = printable(generator)
    if label == SYNTHETIC:
        return name or UNNAMED
    return ("real" if label == REAL else "unlabelled") + (f" ({name})" if name else "")


def _indexed(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """Each name once, sorted, and the place of each of ``names`` among them."""
    unique = sorted(set(names))
    place = {name: number for number, name in enumerate(unique)}
    return unique, [place[name] for name in names]


def _below_one_folder(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that holds all of them, and where they are in it."""
    folders = {path.rpartition(os.sep)[0] for path in paths}
    try:
        root = os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative ones
        root = ""
    length = len(root) + 1 if root and root != os.sep else len(root)
    return root, [path[length:] for path in paths]


def _short(values: NDArray[np.floating[Any]]) -> list[float]:
    """With four digits behind the point; more are in scores.csv."""
    return [round(float(value), 4) for value in values]


def _outline(image: Image.Image, mask: NDArray[np.float32]) -> None:
    """Draw the edge of a mask into its face."""
    area = Image.fromarray((255 * mask).astype(np.uint8)).resize(image.size)
    # The outline of a small mask would be stairs.
    smooth = area.filter(ImageFilter.GaussianBlur(_SIDE / 40)).point(lambda v: 255 * (v >= 128))
    inner = np.asarray(smooth.filter(ImageFilter.MinFilter(3)))
    edge = Image.fromarray(np.asarray(smooth) - inner)
    image.paste(_OUTLINE, mask=edge)


def _data_uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
