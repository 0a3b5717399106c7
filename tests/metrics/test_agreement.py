"""Agreement of a CAM with human maps and masks: by hand, at the edges, against the loss's term."""

import math

import numpy as np
import pytest
import torch

from focus.kernels import focus_head
from focus.metrics.agreement import map_chance, map_cosine, map_hit, map_mass, map_mse, mask_mass

ALL = (map_mse, map_cosine, map_hit, map_chance, map_mass, mask_mass)

CAM = np.array([[[-2.0, 0.0], [6.0, 2.0]]])  # normalised: 0, 1/4, 1, 1/2
MAP = np.array([[[0.25, 0.75], [0.5, 0.25]]])  # normalised: 0, 1, 1/2, 0


def test_by_hand() -> None:
    assert map_mse(CAM, MAP) == pytest.approx([(0 + 9 / 16 + 1 / 4 + 1 / 4) / 4])
    expected = (1 / 4 + 1 / 2) / (math.sqrt(1 / 16 + 1 + 1 / 4) * math.sqrt(1 + 1 / 4))
    assert map_cosine(CAM, MAP) == pytest.approx([expected])
    # The peak is in a cell that has half of the map's maximum, exactly.
    assert map_hit(CAM, MAP).tolist() == [1.0]
    assert map_mass(CAM, MAP) == pytest.approx([(1 / 4 + 1) / (7 / 4)])
    assert map_hit(CAM, np.array([[[0.25, 0.75], [0.49, 0.25]]])).tolist() == [0.0]
    # Two of the four cells have at least half of it; with the third below, one.
    assert map_chance(CAM, MAP).tolist() == [0.5]
    assert map_chance(CAM, np.array([[[0.25, 0.75], [0.49, 0.25]]])).tolist() == [0.25]
    assert map_mass(CAM, np.array([[[0.25, 0.75], [0.49, 0.25]]])) == pytest.approx([1 / 7])
    # A mask is taken as it is: it covers all of one cell and a fifth of another.
    mask = np.array([[[1.0, 0.0], [0.2, 0.0]]])
    assert mask_mass(CAM, mask) == pytest.approx([0.2 / (7 / 4)])


def test_neither_scale_nor_offset_counts() -> None:
    for measure in ALL[:-1]:
        np.testing.assert_allclose(measure(5 * CAM - 3, 0.5 * MAP + 0.2), measure(CAM, MAP))


def test_a_map_that_says_nothing_has_no_agreement_whatever_its_value() -> None:
    cams = np.repeat(CAM, 3, axis=0)
    maps = np.stack([np.full((2, 2), value) for value in (0.0, 0.7, 1.0)])
    for measure in (map_mse, map_cosine, map_hit, map_chance, map_mass):
        assert np.isnan(measure(cams, maps)).all(), measure
    # A mask may well cover everything; one that covers nothing says nothing.
    assert mask_mass(cams, maps) == pytest.approx([math.nan, 0.7, 1.0], nan_ok=True)


def test_a_constant_cam_has_a_distance_but_no_place() -> None:
    flat = np.full((1, 2, 2), 3.0, np.float32) + np.float32(2e-7) * np.eye(2, dtype=np.float32)
    assert map_mse(flat, MAP) == pytest.approx([(1 + 1 / 4) / 4])
    for measure in (map_cosine, map_hit, map_chance, map_mass, mask_mass):
        assert np.isnan(measure(flat, MAP)).all(), measure


def test_the_first_of_equal_peaks_counts() -> None:
    cam = np.array([[[1.0, 0.0], [1.0, 0.0]]])
    assert map_hit(cam, np.array([[[1.0, 0.0], [0.0, 0.0]]])).tolist() == [1.0]
    assert map_hit(cam, np.array([[[0.0, 0.0], [1.0, 0.0]]])).tolist() == [0.0]


def test_each_image_is_on_its_own() -> None:
    draw = np.random.default_rng(0)
    cams, maps = draw.normal(size=(5, 3, 4)), draw.uniform(size=(5, 3, 4))
    maps[2] = 0
    cams[3] = 1
    for measure in ALL:
        one_by_one = [measure(cams[i : i + 1], maps[i : i + 1])[0] for i in range(5)]
        np.testing.assert_array_equal(measure(cams, maps), one_by_one)
        assert measure(cams[:0], maps[:0]).shape == (0,)


def test_the_distance_is_the_saliency_term_of_the_loss() -> None:
    draw = np.random.default_rng(1)
    cams, maps = draw.normal(size=(6, 7, 7)), draw.uniform(size=(6, 7, 7))
    cams[1] = 2.5
    maps -= maps.min(axis=(1, 2), keepdims=True)
    maps /= maps.max(axis=(1, 2), keepdims=True)
    out = focus_head(
        torch.tensor(cams)[:, None],  # one channel, which the weight of class 0 takes as it is
        torch.tensor([[1.0], [0.0]], dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(6, dtype=torch.int64),
        saliency=torch.tensor(maps),
        saliency_weight=1.0,
    )
    np.testing.assert_allclose(map_mse(cams, maps), out.saliency.numpy(), rtol=1e-12)


def test_maps_on_another_grid_are_an_error() -> None:
    for measure in ALL:
        with pytest.raises(ValueError, match=r"\[1, 2, 2\] and maps of shape \[1, 2, 3\] differ"):
            measure(CAM, np.zeros((1, 2, 3)))
        with pytest.raises(ValueError, match="NaN"):
            measure(CAM, np.full((1, 2, 2), math.nan))
