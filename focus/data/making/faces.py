"""Where the face is, and the square that is cut out around it."""

import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from focus.config.options import MARGIN
from focus.data.manifest import WHOLE, Box
from focus.errors import InputError
from focus.runtime.files import write_csv

Square = tuple[int, int, int, int]
"""A box of whole pixels, all of them in the image."""
FaceDetector = Callable[[Image.Image], list[Box]]
"""An RGB image to the boxes of the faces in it, none or several. Threads may share one."""

NO_FACE = "no_face.csv"
"""The images that no face was found in, and why."""
BOXES = "box"
"""Stands in the place of a detector's name for the manifest's own boxes."""


class Way(NamedTuple):
    """How faces are cut out.

    source: The name of a :func:`detector`, or :data:`BOXES`. margin: That of :func:`window`.
    """

    source: str
    margin: float

    def __str__(self) -> str:
        return f"{self.source} margin {self.margin:g}"


def way_of(geometry: Collection[str]) -> tuple[Way, bool]:
    """Return how to find and cut faces for a model, and whether training found and cut all so.

    geometry: of the model's config. What it does not say, or says in several ways, is taken from
    the first that cuts, else from ``focus data crop``. Where the detector is none of the package's,
    dlib is taken, which finds the smallest faces: a model's config must not name what is run.
    """
    cutting = [way for way in geometry if way != WHOLE]
    source, _, margin = cutting[0].rpartition(" margin ") if cutting else ("", "", "")
    try:
        way = Way(source if source in DETECTORS else "dlib", float(margin))
    except ValueError:
        way = Way("dlib", MARGIN)
    return way, [str(way)] == list(geometry)


class Face(NamedTuple):
    """A face in an image: its box, and the square around it that is cut out."""

    box: Box
    square: Square


class Seen(NamedTuple):
    """A face, and the number of the person whom it shows, from 1."""

    person: int
    face: Face


_LEAST_OVERLAP = 0.2
"""Intersection over union with a person's last square, from which on a face continues it."""


class FaceFinder:
    """Find faces in images, and the squares to cut out. Threads may share it.

    every: whether :meth:`people` returns all of them. Raises InputError for a detector that cannot
    be had.
    """

    def __init__(self, every: bool, way: Way) -> None:
        self.every = every
        self.way = way
        self._detect = detector(way.source)

    def __call__(self, image: Image.Image) -> list[Face]:
        """Return the faces in an RGB image, from left to right."""
        squares = ((box, window(box, self.way.margin, image.size)) for box in self._detect(image))
        return sorted(Face(box, square) for box, square in squares if square)

    def people(self, frames: Sequence[Sequence[Face]]) -> list[list[Seen]]:
        """Return the faces of each frame with the numbers, from 1, of the people whom they show.

        A face continues the person whose last square its own overlaps, by an intersection over
        union of at least a fifth; of all pairings of a frame the one with the largest sum counts.
        Any other face is of a new person. Who is not found in some frames is the same afterwards;
        who moves by more than two thirds of the square between two frames is another.

        Unless all count, only the person stays whose boxes have the largest area in all.
        """
        last_squares: list[Square] = []  # of the persons so far, by their numbers
        seen_in_frames: list[list[Seen]] = []
        for faces in frames:
            persons = _continued_persons([face.square for face in faces], last_squares)
            seen = []
            for face, continued in zip(faces, persons, strict=True):
                if continued is None:
                    last_squares.append(face.square)
                    person = len(last_squares)
                else:
                    last_squares[continued - 1] = face.square
                    person = continued
                seen.append(Seen(person, face))
            seen_in_frames.append(seen)

        if self.every:
            return seen_in_frames
        return _largest_person_alone(seen_in_frames)


def _continued_persons(
    squares: Sequence[Square], last_squares: Sequence[Square]
) -> list[int | None]:
    """Return the number of the person whom each square continues, from 1; None for a new person.

    last_squares: The square in which each person was seen last.
    """
    shared = np.array([[overlap(square, last) for last in last_squares] for square in squares])
    shared = np.where(shared < _LEAST_OVERLAP, 0, shared).reshape(len(squares), len(last_squares))
    rows, columns = linear_sum_assignment(shared, maximize=True)
    persons: list[int | None] = [None] * len(squares)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if shared[row, column] > 0:
            persons[row] = column + 1
    return persons


def _largest_person_alone(seen_in_frames: list[list[Seen]]) -> list[list[Seen]]:
    """Return what is seen of the person whose boxes have the largest area in all, as number 1."""
    areas = defaultdict[int, float](float)
    for seen in chain.from_iterable(seen_in_frames):
        areas[seen.person] += area(seen.face.box)
    largest_person = max(areas, key=areas.__getitem__, default=None)
    return [
        [Seen(1, face) for person, face in seen if person == largest_person]
        for seen in seen_in_frames
    ]


def face_finder(which: str | None, geometry: Collection[str]) -> FaceFinder | None:
    """Return what cuts faces out as a model's training did; None to take pictures whole.

    which: "all", "largest" or "none"; None for the largest if training found and cut all faces in
    one way that is known, else none. Raises InputError as :class:`FaceFinder`.
    """
    way, cut_all_alike = way_of(geometry)
    which = which or ("largest" if cut_all_alike else "none")
    return None if which == "none" else FaceFinder(which == "all", way)


def overlap(box: Box, other: Box) -> float:
    """Return the intersection over union of two boxes, in [0, 1]."""
    wide = min(box[2], other[2]) - max(box[0], other[0])
    high = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (area(box) + area(other) - shared) if shared else 0.0


def write_no_face(rows: Iterable[tuple[str, str]], folder: Path) -> Path:
    """Write the paths of images without a face, each with the reason; return the file's path."""
    return write_csv(folder / NO_FACE, ("path", "reason"), rows)


def window(box: Box, margin: float, size: tuple[int, int]) -> Square | None:
    """Return the square around a face, left, top, right, bottom in pixels; None outside the image.

    Its side is the box's longer one and ``margin`` times that on either side; its middle the box's.
    Where it sticks out of the image it is moved inside, and where it is larger than the image it
    is cut: no pixel is invented.
    """
    left, top, right, bottom = box
    width, height = size
    is_inside = max(left, 0) < min(right, width) and max(top, 0) < min(bottom, height)
    if not is_inside:
        return None

    wanted_side = (1 + 2 * margin) * max(right - left, bottom - top)
    # The longer side of the image is the most, also for an infinite margin.
    side = max(1, round(min(wanted_side, max(size))))

    x, x_end = _side_within((left + right) / 2, side, width)
    y, y_end = _side_within((top + bottom) / 2, side, height)
    return x, y, x_end, y_end


def _side_within(middle: float, side: int, end: int) -> tuple[int, int]:
    """Return where a side of this length and middle begins and ends, moved and cut to [0, end]."""
    length = min(side, end)
    start = round(middle - length / 2)
    start = min(max(start, 0), end - length)
    return start, start + length


def area(box: Box) -> float:
    """Return the area of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def largest(boxes: Iterable[Box]) -> Box | None:
    """Return the box with the largest area, the first of equals."""
    return max(boxes, key=area, default=None)


def detector(name: str) -> FaceDetector:
    """Return a detector by its name in :data:`DETECTORS`, or as ``module:function``.

    Raises InputError for an unknown name or a package that is not installed.
    """
    if name in DETECTORS:
        try:
            return _for_each_thread(DETECTORS[name])
        except ImportError as error:
            raise InputError(
                f"The face detector {name} needs a package that is not installed ({error}): "
                "pip install 'focus-faces[faces]'."
            ) from error
    module, colon, function = name.partition(":")
    if not colon:
        raise InputError(
            f"There is no face detector {name!r}: give {', '.join(DETECTORS)}, or module:function "
            "of your own."
        )
    sys.path.append(str(Path.cwd()))  # last, where it hides no package
    try:
        imported: FaceDetector = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"The face detector {name} cannot be imported ({error}): give a module that "
            "Python finds and a function in it."
        ) from error
    return imported


def _for_each_thread(make: Callable[[], FaceDetector]) -> FaceDetector:
    """Return a detector that is made again in each thread that uses it, and in this one now."""
    of_thread = threading.local()
    of_thread.find = make()

    def find(image: Image.Image) -> list[Box]:
        if not hasattr(of_thread, "find"):
            of_thread.find = make()
        boxes: list[Box] = of_thread.find(image)
        return boxes

    return find


def _lbp() -> FaceDetector:
    """Return the cascade of local binary patterns of scikit-image, for frontal faces."""
    cascade: Any = import_module("skimage.feature").Cascade(
        import_module("skimage.data").lbp_frontal_face_cascade_filename()
    )

    def find(pixels: NDArray[np.uint8]) -> list[Box]:
        height, width, _ = pixels.shape
        faces = cascade.detect_multi_scale(
            img=pixels,
            scale_factor=1.2,
            step_ratio=1,
            min_size=(min(40, width, height),) * 2,
            max_size=(max(width, height),) * 2,
        )
        return [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in faces]

    # A face fills a good part of a picture of it; small ones are not looked for.
    return _scaled(find, 320)


def _dlib() -> FaceDetector:
    """Return dlib's detector by histograms of oriented gradients, for frontal faces."""
    detect: Any = import_module("dlib").get_frontal_face_detector()

    def find(pixels: NDArray[np.uint8]) -> list[Box]:
        return [(f.left(), f.top(), f.right() + 1, f.bottom() + 1) for f in detect(pixels, 1)]

    # It finds faces of 80 pixels and more: enlarged twice, a sixteenth of the picture's side.
    return _scaled(find, 640)


DETECTORS: dict[str, Callable[[], FaceDetector]] = {"lbp": _lbp, "dlib": _dlib}


def _scaled(find: Callable[[NDArray[np.uint8]], list[Box]], longest: int) -> FaceDetector:
    """Return a detector that looks at images of at most ``longest`` pixels a side."""

    def detect(image: Image.Image) -> list[Box]:
        scale = max(1.0, max(image.size) / longest)
        if scale > 1:
            size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        boxes = find(np.asarray(image))
        return [(scale * a, scale * b, scale * c, scale * d) for a, b, c, d in boxes]

    return detect
