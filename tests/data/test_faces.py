"""Where a face is: the square around a box, the largest of several, the detectors."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from focus.data.faces import DETECTORS, Box, detector, largest, window
from focus.errors import InputError

# Where a person sees the face of skimage.data.astronaut().
ASTRONAUT = (180, 65, 270, 175)


def test_the_square_around_a_face() -> None:
    squares: list[tuple[Box, float, tuple[int, int, int, int] | None]] = [
        ((40, 40, 60, 50), 0.5, (30, 25, 70, 65)),  # side 20, and half of it on either side
        ((0, 0, 20, 20), 0.5, (0, 0, 40, 40)),  # moved inside
        ((90, 60, 120, 90), 0.1, (64, 44, 100, 80)),  # the box itself sticks out
        ((-1e308, -1e308, 1e308, 1e308), 0.5, (0, 0, 100, 80)),  # larger than the image
        ((10, 0, 90, 80), 0.1, (2, 0, 98, 80)),  # larger than its height
        ((50, 50, 50.1, 50.2), 0.0, (50, 50, 51, 51)),
        # Without pixels: turned, outside.
        *(((60, 40, 40, 50), 0.3, None), ((100, 0, 120, 20), 0.3, None)),
    ]
    for box, margin, expected in squares:
        assert window(box, margin, (100, 80)) == expected, box


def test_the_largest_face() -> None:
    """By neither its side nor its place."""
    assert largest([(0, 0, 10, 1), (8, 0, 10, 9), (0, 3, 5, 8), (3, 0, 4, 20)]) == (0, 3, 5, 8)
    assert largest([]) is None


def overlap(box: Box, other: Box) -> float:
    """Intersection over union."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    shared = float(np.prod(sides.clip(0)))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_find_a_face_at_any_size(name: str) -> None:
    if name == "dlib" and importlib.util.find_spec("dlib") is None:
        pytest.skip("dlib is not installed")
    find = detector(name)
    face = Image.fromarray(skimage.data.astronaut())
    for scale in (0.75, 1, 4):
        boxes = find(face.resize((round(512 * scale), round(512 * scale))))
        found = largest(boxes)
        assert found is not None
        left, top, right, bottom = (side / scale for side in found)
        assert overlap((left, top, right, bottom), ASTRONAUT) > 0.5
    assert find(Image.fromarray(skimage.data.coffee())) == []
    assert find(Image.new("RGB", (1, 1))) == []


def test_a_detector_of_ones_own_may_lie_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_faces.py").write_text("def find(image):\n    return [(0, 0, *image.size)]\n")
    monkeypatch.chdir(tmp_path)
    assert detector("own_faces:find")(Image.new("RGB", (4, 3))) == [(0, 0, 4, 3)]


def test_an_unknown_detector_is_refused() -> None:
    for name, message in (
        ("yolo", "^There is no face detector 'yolo': give lbp, dlib"),
        ("json:faces", "^The face detector json:faces cannot be imported"),
    ):
        with pytest.raises(InputError, match=message):
            detector(name)
