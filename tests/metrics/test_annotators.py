"""How far annotators mark the same places: values worked out by hand, and chance."""

import numpy as np
import pytest
from numpy.typing import NDArray

from focus.metrics.annotators import between_annotators, overall

Floats = NDArray[np.float64]
SIDE = 64


def box(left: int, top: int, width: int, height: int) -> Floats:
    mark = np.zeros((SIDE, SIDE))
    mark[top : top + height, left : left + width] = 1
    return mark


def alike(one: Floats, other: Floats) -> Floats:
    """Return the two measures of two marks."""
    both, _ = between_annotators(np.stack([one, other]), ["face"] * 2, ["a", "b"], [0, 0])["face"]
    return both


def test_two_boxes() -> None:
    one, shifted = box(20, 20, 12, 12), box(26, 20, 12, 12)
    correlation, iou = alike(one, one)
    assert correlation == pytest.approx(1, abs=1e-5)
    assert iou == 1
    correlation, iou = alike(one, shifted)
    assert iou == 72 / 216
    # A wide blur, as of the definition, but made by sums: each cell by its distance.
    cells = np.arange(SIDE)
    kernel = np.exp(-((cells[:, None] - cells) ** 2) / (2 * (0.05 * SIDE) ** 2))
    kernel /= np.exp(-(np.arange(-200, 201) ** 2) / (2 * (0.05 * SIDE) ** 2)).sum()
    blurred = [(kernel @ mark @ kernel.T).ravel() for mark in (one, shifted)]
    assert correlation == pytest.approx(np.corrcoef(*blurred)[0, 1], abs=1e-3)
    assert alike(one, box(50, 50, 8, 8))[1] == 0
    assert alike(one, box(50, 50, 8, 8))[0] < 0
    assert np.isnan(alike(np.zeros((SIDE, SIDE)), one)[0])
    assert np.isnan(alike(np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE)))).all()


def test_agreement_beyond_what_other_faces_give() -> None:
    """Three annotators: of one class they mark one place in every face, of the other each its own.

    Where all faces have the same place, agreement is no more than chance.
    """
    draw = np.random.default_rng(0)
    marks, faces, annotators, classes = [], [], [], []
    for face in range(40):
        kind = face % 2
        corner = (8, 8) if kind else tuple(draw.integers(0, 48, 2))
        for name in "abc":
            marks.append(box(*(int(coordinate) for coordinate in corner), 12, 12))
            faces.append(face)
            annotators.append(name)
            classes.append(kind)
    agreement = between_annotators(np.array(marks), faces, annotators, classes)
    assert sorted(agreement) == list(range(40))
    for face, ((correlation, iou), chance) in agreement.items():
        assert correlation == pytest.approx(1, abs=1e-5)
        assert iou == 1
        if face % 2:
            assert chance == pytest.approx([1, 1], abs=1e-5)
        else:
            assert chance[1] < 0.5
    told = overall(agreement, [face % 2 for face in range(40)])
    assert told["n_images"] == 40
    assert told["iou"]["value"] == 1
    assert tuple(told["iou"]["interval"]) == (1, 1)
    low, high = told["iou_above_chance"]["interval"]
    middle = told["iou_above_chance"]["value"]
    assert 0.4 < low < middle < high < 0.5
    assert told["iou_chance"]["value"] == pytest.approx(1 - middle)


def test_one_annotator_agrees_with_nobody() -> None:
    marks = np.array([box(0, 0, 9, 9), box(9, 9, 9, 9), box(0, 0, 9, 9)])
    assert between_annotators(marks, [0, 1, 2], ["a"] * 3, [0] * 3) == {}
    assert overall({}, []) == {"n_images": 0}
    # Two of one face, and no other face to compare with.
    agreement = between_annotators(marks[:2], [0, 0], ["a", "b"], [0, 0])
    assert agreement[0][0, 1] == 0
    assert np.isnan(agreement[0][1]).all()
    assert overall(agreement, [0]) == {"n_images": 0}
