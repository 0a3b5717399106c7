"""Agreement of a CAM with human maps and masks: by hand, at the edges, against the loss's term."""

import math

import numpy as np
import pytest
import torch

from focus.kernels import focus_head
from focus.metrics.agreement import map_agreement, mask_mass

CAM = np.array([[[-2.0, 0.0], [6.0, 2.0]]])  # normalised: 0, 1/4, 1, 1/2
MAP = np.array([[[0.25, 0.75], [0.5, 0.25]]])  # normalised: 0, 1, 1/2, 0


def everything(cams: np.ndarray, maps: np.ndarray) -> dict[str, np.ndarray]:
    return map_agreement(cams, maps) | {"mask_mass": mask_mass(cams, maps)}


def test_by_hand() -> None:
    found = map_agreement(CAM, MAP)
    assert found["map_mse"] == pytest.approx([(0 + 9 / 16 + 1 / 4 + 1 / 4) / 4])
    expected = (1 / 4 + 1 / 2) / (math.sqrt(1 / 16 + 1 + 1 / 4) * math.sqrt(1 + 1 / 4))
    assert found["map_cosine"] == pytest.approx([expected])
    # The peak is in a cell that has half of the map's maximum, exactly; as one more of four has.
    assert (found["map_hit"].tolist(), found["map_chance"].tolist()) == ([1.0], [0.5])
    assert found["map_mass"] == pytest.approx([(1 / 4 + 1) / (7 / 4)])
    found = map_agreement(CAM, np.array([[[0.25, 0.75], [0.49, 0.25]]]))
    assert (found["map_hit"].tolist(), found["map_chance"].tolist()) == ([0.0], [0.25])
    assert found["map_mass"] == pytest.approx([1 / 7])
    # A mask is taken as it is: it covers all of one cell and a fifth of another.
    mask = np.array([[[1.0, 0.0], [0.2, 0.0]]])
    assert mask_mass(CAM, mask) == pytest.approx([0.2 / (7 / 4)])


def test_neither_scale_nor_offset_counts() -> None:
    found = map_agreement(5 * CAM - 3, 0.5 * MAP + 0.2)
    for name, expected in map_agreement(CAM, MAP).items():
        np.testing.assert_allclose(found[name], expected)


def test_a_map_that_says_nothing_has_no_agreement_whatever_its_value() -> None:
    cams = np.repeat(CAM, 3, axis=0)
    maps = np.stack([np.full((2, 2), value) for value in (0.0, 0.7, 1.0)])
    found = everything(cams, maps)
    # A mask may well cover everything; one that covers nothing says nothing.
    assert found.pop("mask_mass") == pytest.approx([math.nan, 0.7, 1.0], nan_ok=True)
    assert np.isnan(list(found.values())).all()


def test_a_constant_cam_has_a_distance_but_no_place() -> None:
    flat = np.full((1, 2, 2), 3.0, np.float32) + np.float32(2e-7) * np.eye(2, dtype=np.float32)
    found = everything(flat, MAP)
    assert found.pop("map_mse") == pytest.approx([(1 + 1 / 4) / 4])
    assert np.isnan(list(found.values())).all()


def test_the_first_of_equal_peaks_counts() -> None:
    cams, maps = np.array([[[1.0, 0.0], [1.0, 0.0]]] * 2), np.zeros((2, 2, 2))
    maps[0, 0, 0] = maps[1, 1, 0] = 1
    assert map_agreement(cams, maps)["map_hit"].tolist() == [1.0, 0.0]


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
    np.testing.assert_allclose(
        map_agreement(cams, maps)["map_mse"], out.saliency.numpy(), rtol=1e-12
    )
