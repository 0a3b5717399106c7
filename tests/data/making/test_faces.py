"""Where a face is: the square around a box, detectors, people followed from frame to frame."""

import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

from focus.config.options import MARGIN
from focus.data.making import faces
from focus.data.making.faces import (
    DETECTORS,
    Face,
    FaceFinder,
    Way,
    detector,
    face_finder,
    largest,
    overlap,
    way_of,
    window,
)
from focus.data.manifest import Box
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


def test_a_models_geometry_says_how_faces_are_cut() -> None:
    assert way_of(["lbp margin 0.25"]) == (Way("lbp", 0.25), True)
    assert way_of(["dlib margin 0.3", "lbp margin 0.3"]) == (Way("dlib", 0.3), False)
    assert way_of(["lbp margin 0.1", "whole"]) == (Way("lbp", 0.1), False)
    # What a model's config names is not imported.
    for other in ("box", "os:system"):
        assert way_of([f"{other} margin 0.4"]) == (Way("dlib", 0.4), False)
    for unknown in ([], ["whole"], ["mtcnn"]):
        assert way_of(unknown) == (Way("dlib", MARGIN), False)


def test_faces_are_looked_for_where_training_cut_them_all_in_one_way() -> None:
    assert face_finder(None, ["box margin 0.3"]) is None
    assert face_finder(None, ["lbp margin 0.3", "whole"]) is None
    assert face_finder("none", ["lbp margin 0.3"]) is None
    finder = face_finder(None, ["lbp margin 0.3"])
    assert finder is not None
    assert (finder.every, finder.way) == (False, ("lbp", 0.3))


def numbers(every: bool, *frames: list[Box]) -> list[list[int]]:
    """Return the numbers of the people in frames with boxes of these squares."""
    people = FaceFinder(every, Way("lbp", 0)).people(
        [[Face(box, window(box, 0, (1000, 100)) or (0, 0, 1, 1)) for box in f] for f in frames]
    )
    for boxes, seen in zip(frames, people, strict=True):
        assert {face.box for _, face in seen} <= set(boxes)
    return [[person for person, _ in seen] for seen in people]


def box_at(left: float, side: float = 30) -> Box:
    return (left, 10, left + side, 10 + side)


def test_people_are_followed_by_overlap() -> None:
    # Two walk towards each other, are found in another order, and one is gone for a frame.
    frames = [
        [box_at(0), box_at(200)],
        [box_at(190), box_at(12)],
        [box_at(24)],
        [box_at(170), box_at(30)],
    ]
    assert numbers(True, *frames) == [[1, 2], [2, 1], [1], [2, 1]]
    # 30 wide: 20 further overlaps by 10 of 50, a fifth; 21 further is another person.
    assert numbers(True, [box_at(0)], [box_at(20)], [box_at(41)]) == [[1], [1], [2]]
    # Both overlap the first; the pairing with the largest sum counts, and none is taken twice.
    assert numbers(True, [box_at(0), box_at(20)], [box_at(10), box_at(18)]) == [[1, 2], [1, 2]]
    assert numbers(True, [], [box_at(0), box_at(5)], []) == [[], [1, 2], []]


def test_the_largest_person_is_the_one_with_the_largest_area_in_all() -> None:
    """Not one who is found once, if larger, in a frame."""
    frames = [[box_at(0, 40), box_at(200, 60)], [box_at(0, 40)], [box_at(5, 40)]]
    assert numbers(False, *frames) == [[1], [1], [1]]
    assert numbers(False, [box_at(0, 20), box_at(100, 30)]) == [[1]]
    assert numbers(False, [], []) == [[], []]


def test_each_thread_has_a_detector_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> faces.FaceDetector:
        made.append(threading.get_ident())
        return lambda _: [(0, 0, 1, threading.get_ident() == made[-1])]

    monkeypatch.setitem(faces.DETECTORS, "lbp", make)
    find, picture = detector("lbp"), Image.new("RGB", (4, 4))
    assert find(picture) == find(picture) == [(0, 0, 1, True)]
    with ThreadPoolExecutor(1) as pool:
        thread_boxes = [pool.submit(find, picture).result() for _ in range(2)]
    assert thread_boxes == [[(0, 0, 1, True)]] * 2
    assert len(set(made)) == len(made) == 2


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_find_a_face_at_any_size(name: str) -> None:
    if name == "dlib" and importlib.util.find_spec("dlib") is None:
        pytest.skip("dlib is not installed")
    find = detector(name)
    face = Image.fromarray(skimage.data.astronaut())
    for scale in (0.75, 1, 4):
        boxes = find(face.resize((round(512 * scale), round(512 * scale))))
        face_box = largest(boxes)
        assert face_box is not None
        left, top, right, bottom = (side / scale for side in face_box)
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
