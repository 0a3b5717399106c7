"""Metrics of CAMs, and their agreement with maps: by hand, at the edges, and by the loss."""

import math

import numpy as np
import pytest
import torch

from focus.kernels import focus_head
from focus.metrics import cams as metrics


def test_cells_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 4 CAM cells"):
        metrics.sum_entropy(np.array([[[0.0, 1.0], [2.0, np.nan]]]))


def test_sum_entropy_by_hand() -> None:
    # Minus the minimum 1: 0, 0, 4, 4, that is two of four cells with 1/2 each: log 2 / log 4.
    two_of_four = [[1.0, 1.0], [5.0, 5.0]]
    # 0, 1, 1, 2: p = 0, 1/4, 1/4, 1/2; H = 2 * 1/4 log 4 + 1/2 log 2 = 1.5 log 2.
    graded = [[-3.0, -2.0], [-2.0, -1.0]]
    one_hot = [[0.0, 0.0], [0.0, 9.0]]
    entropies = metrics.sum_entropy(np.array([two_of_four, graded, one_hot]))
    assert entropies == pytest.approx([0.5, 0.75, 0.0], abs=1e-15)


def test_z_entropy_by_hand() -> None:
    # Two cells at -1, two at +1 are their own z-scores: p = 1 / (2 + 2 e^2), e^2 / (2 + 2 e^2).
    low, high = 1 / (2 + 2 * math.e**2), math.e**2 / (2 + 2 * math.e**2)
    expected = -2 * (low * math.log(low) + high * math.log(high)) / math.log(4)
    cam = np.array([[[-1.0, 1.0], [1.0, -1.0]]])
    assert metrics.z_entropy(cam) == pytest.approx([expected], rel=1e-14)
    # Neither scale nor offset of the map matters.
    assert metrics.z_entropy(1000 * cam - 17) == pytest.approx([expected], rel=1e-12)


@pytest.mark.parametrize("entropy", [metrics.sum_entropy, metrics.z_entropy])
def test_entropy_of_maps_without_a_shape(entropy: object) -> None:
    assert callable(entropy)
    assert entropy(np.full((2, 3, 5), 0.1)).tolist() == [1.0, 1.0]
    assert entropy(np.zeros((1, 3, 5))).tolist() == [1.0]
    # Constant but for float32 rounding: the two values are neighbours.
    nearly = np.full((1, 4, 4), 3.0, np.float32)
    nearly[0, 0, 0] = np.nextafter(np.float32(3), np.float32(4))
    assert entropy(nearly).tolist() == [1.0]
    # The same difference is a difference in float64.
    assert entropy(nearly.astype(np.float64))[0] < 0.9
    assert entropy(np.array([[[4.0]], [[0.0]]])).tolist() == [0.0, 0.0]
    assert entropy(np.zeros((0, 4, 4))).tolist() == []


@pytest.mark.parametrize(("steps", "flat"), [(32, True), (64, True), (128, False)])
def test_a_map_is_constant_up_to_64_steps_of_rounding(steps: int, flat: bool) -> None:
    cam = np.full((1, 3, 3), 2.0, np.float32)
    cam[0, 1, 1] += 2 * steps * np.finfo(np.float32).eps
    assert (metrics.sum_entropy(cam)[0] == 1) == flat
    assert (metrics.stretched(cam).max() == 0) == flat


def test_stretched() -> None:
    cams = np.array([[[-1.0, 0.0], [3.0, 1.0]], [[0.1, 0.1], [0.1, 0.1]]], np.float32)
    assert metrics.stretched(cams).tolist() == [[[0, 0.25], [1, 0.5]], [[0, 0], [0, 0]]]


def test_commonest_peak_share() -> None:
    assert metrics.commonest_peak_share(np.array([3, 9, 3, 1, 3])) == 0.6
    assert metrics.commonest_peak_share(np.array([4])) == 1.0
    assert metrics.commonest_peak_share(np.array([], np.int64)) is None


@pytest.mark.parametrize(
    ("coverage", "peak", "hit"),
    [
        ([[0.25, 0.0], [0.0, 0.9]], 0, True),  # covered to a quarter
        ([[0.24, 0.0], [0.0, 0.9]], 0, False),
        ([[0.10, 0.0], [0.0, 0.05]], 0, True),  # small, but no cell is covered more
        ([[0.10, 0.0], [0.0, 0.05]], 3, False),
        ([[0.10, 0.1], [0.0, 0.0]], 1, True),  # two cells covered equally
        ([[0.10, 0.0], [0.0, 0.0]], 2, False),
        ([[0.0, 0.0], [0.0, 0.0]], 0, None),  # an empty mask has nothing to point at
    ],
)
def test_pointing_hit(coverage: list[list[float]], peak: int, hit: bool | None) -> None:
    cells = metrics.hit_cells(np.array(coverage))
    assert (None if cells is None else bool(cells.ravel()[peak])) is hit


CAM = np.array([[[-2.0, 0.0], [6.0, 2.0]]])  # normalised: 0, 1/4, 1, 1/2
MAP = np.array([[[0.25, 0.75], [0.5, 0.25]]])  # normalised: 0, 1, 1/2, 0


def everything(cams: np.ndarray, maps: np.ndarray) -> dict[str, np.ndarray]:
    return metrics.map_agreement(cams, maps) | {"mask_mass": metrics.mask_mass(cams, maps)}


def test_agreement_with_a_map_by_hand() -> None:
    agreement = metrics.map_agreement(CAM, MAP)
    assert agreement["map_mse"] == pytest.approx([(0 + 9 / 16 + 1 / 4 + 1 / 4) / 4])
    expected = (1 / 4 + 1 / 2) / (math.sqrt(1 / 16 + 1 + 1 / 4) * math.sqrt(1 + 1 / 4))
    assert agreement["map_cosine"] == pytest.approx([expected])
    # The peak is in a cell that has half of the map's maximum, exactly; as one more of four has.
    assert (agreement["map_hit"].tolist(), agreement["map_chance"].tolist()) == ([1.0], [0.5])
    assert agreement["map_mass"] == pytest.approx([(1 / 4 + 1) / (7 / 4)])
    agreement = metrics.map_agreement(CAM, np.array([[[0.25, 0.75], [0.49, 0.25]]]))
    assert (agreement["map_hit"].tolist(), agreement["map_chance"].tolist()) == ([0.0], [0.25])
    assert agreement["map_mass"] == pytest.approx([1 / 7])
    # A mask is taken as it is: it covers all of one cell and a fifth of another.
    mask = np.array([[[1.0, 0.0], [0.2, 0.0]]])
    assert metrics.mask_mass(CAM, mask) == pytest.approx([0.2 / (7 / 4)])


def test_neither_scale_nor_offset_counts_for_agreement() -> None:
    agreement = metrics.map_agreement(5 * CAM - 3, 0.5 * MAP + 0.2)
    for name, expected in metrics.map_agreement(CAM, MAP).items():
        np.testing.assert_allclose(agreement[name], expected)


def test_a_map_that_says_nothing_has_no_agreement_whatever_its_value() -> None:
    cams = np.repeat(CAM, 3, axis=0)
    maps = np.stack([np.full((2, 2), value) for value in (0.0, 0.7, 1.0)])
    agreement = everything(cams, maps)
    # A mask may well cover everything; one that covers nothing says nothing.
    assert agreement.pop("mask_mass") == pytest.approx([math.nan, 0.7, 1.0], nan_ok=True)
    assert np.isnan(list(agreement.values())).all()


def test_a_constant_cam_has_a_distance_but_no_place() -> None:
    flat = np.full((1, 2, 2), 3.0, np.float32) + np.float32(2e-7) * np.eye(2, dtype=np.float32)
    agreement = everything(flat, MAP)
    assert agreement.pop("map_mse") == pytest.approx([(1 + 1 / 4) / 4])
    assert np.isnan(list(agreement.values())).all()


def test_the_first_of_equal_peaks_counts() -> None:
    cams, maps = np.array([[[1.0, 0.0], [1.0, 0.0]]] * 2), np.zeros((2, 2, 2))
    maps[0, 0, 0] = maps[1, 1, 0] = 1
    assert metrics.map_agreement(cams, maps)["map_hit"].tolist() == [1.0, 0.0]


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
        metrics.map_agreement(cams, maps)["map_mse"], out.saliency.numpy(), rtol=1e-12
    )
