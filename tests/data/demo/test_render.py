"""The drawn pictures: they stay the same, and masks and maps lie where the artefacts are."""

import numpy as np
import pytest
from numpy.typing import NDArray

from focus.data.demo import render_face
from focus.data.demo.artefacts import FAMILIES
from focus.data.demo.render import REAL_FAMILY, SPLITS, Item, items


def change(split: str, family: str, index: int) -> NDArray[np.float64]:
    """Squared difference that the artefacts make at each pixel, [64, 64]."""
    spoilt = render_face(split, family, index).image.astype(np.float64)
    plain = render_face(split, family, index, artefacts=False).image
    squared: NDArray[np.float64] = np.square(spoilt - plain).sum(-1)
    return squared


def test_the_pictures_are_those_of_version_1() -> None:
    """Published figures are of these pictures; a processor may round one pixel otherwise."""
    expected = {"real": 118.613, "kA": 97.538, "kB": 108.618}
    found = {
        family: np.mean([render_face("train", family, n).image.mean() for n in range(8)])
        for family in expected
    }
    assert found == pytest.approx(expected, abs=0.02)


def test_the_set_has_the_documented_counts_and_shares() -> None:
    totals = {split: sum(families.values()) for split, families in SPLITS.items()}
    assert list(totals.values()) == [1600, 300, 600, 600, 2000]
    assert all(families[REAL_FAMILY] * 2 == totals[split] for split, families in SPLITS.items())
    assert len(set(items())) == 5100
    agreements: dict[str, list[bool]] = {}
    for item in items():
        agreements.setdefault(item.split, []).append(item.source == (item.family != REAL_FAMILY))
    shares = {split: np.mean(values) for split, values in agreements.items()}
    for split in ("train", "validation", "closed"):
        assert shares[split] == pytest.approx(0.75, abs=0.01)
    assert shares["closed_balanced"] == shares["open"] == 0.5
    # Within each family too, or the source would tell a generator.
    for family, count in SPLITS["open"].items():
        assert sum(Item("open", family, i).source for i in range(count)) == count / 2


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "uSpectrum"])
def test_the_artefacts_are_visible_and_where_the_mask_says(family: str) -> None:
    split = "train" if family.startswith("k") else "open"
    for index in range(12):
        mask = render_face(split, family, index).mask
        assert mask is not None
        changed = change(split, family, index)
        assert np.sqrt(changed[mask].mean()) > 6.0
        assert changed[mask].mean() > 20.0 * changed[~mask].mean()


def test_spectrum_is_everywhere_and_has_no_mask() -> None:
    for index in range(8):
        assert render_face("open", "uSpectrum", index).mask is None
        changed = change("open", "uSpectrum", index)
        quarters = [changed[y : y + 32, x : x + 32].mean() for y in (0, 32) for x in (0, 32)]
        assert min(quarters) > 0.2 * max(quarters)


def test_maps_are_normalised_and_point_at_artefacts() -> None:
    inside, outside = [], []
    for index in range(30):
        picture = render_face("train", "kA" if index % 2 else "kB", index)
        assert picture.human_map is not None
        assert picture.mask is not None
        assert picture.human_map.max() == 255
        inside.append(picture.human_map[picture.mask].mean() / 255)
        outside.append(picture.human_map[~picture.mask].mean() / 255)
    assert np.mean(inside) > 0.4
    assert np.mean(outside) < 0.15
