"""A draw and its pictures: they stay the same, and masks and maps lie where the artefacts are."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from focus.data.check.properties import look, pixel_statistics
from focus.data.check.shortcuts import audit
from focus.data.demo import benchmark, render_face
from focus.data.demo.artefacts import Artefact
from focus.data.demo.benchmark import (
    NAMES,
    ORACLE,
    PAIRS,
    SPLITS,
    Generator,
    ImageName,
    Shortcut,
    World,
    generators,
    image_names,
)
from focus.metrics.ranking import auc

ARTEFACTS = [artefact for pair in PAIRS for artefact in pair]
NEIGHBOUR = {a.__name__: b.__name__ for pair in PAIRS for a, b in (pair, pair[::-1])}


def change(split: str, generator: str, number: int) -> NDArray[np.float64]:
    """Squared difference that the artefacts make at each pixel, [64, 64]."""
    spoilt = render_face(split, generator, number).image.astype(np.float64)
    plain = render_face(split, generator, number, artefacts=False).image
    squared: NDArray[np.float64] = np.square(spoilt - plain).sum(-1)
    return squared


def test_the_pictures_are_those_of_this_version() -> None:
    """Published figures are of these pictures; a processor may round one pixel otherwise."""
    expected = {"real": 110.730, "known-1": 110.252, "known-2": 107.812}
    means = {
        generator: np.mean([render_face("train", generator, n).image.mean() for n in range(8)])
        for generator in expected
    }
    assert means == pytest.approx(expected, abs=0.02)


def test_the_set_has_the_documented_counts() -> None:
    totals = {split: sum(counts.values()) for split, counts in SPLITS.items()}
    assert totals == {
        "train": 1600,
        "validation": 240,
        "closed": 480,
        "closed_balanced": 480,
        "open": 1640,
    }
    known_generators = {name for name, grade in NAMES.items() if grade == "known"}
    assert {*SPLITS["train"], *SPLITS["closed"]} == {"real", *known_generators}
    assert {*SPLITS["open"]} == {*ORACLE["oracle"]} == {"real", *NAMES.keys() - known_generators}
    assert sum(ORACLE["oracle"].values()) - ORACLE["oracle"]["real"] == 2002


@pytest.mark.parametrize("draw", range(8))
def test_artefacts_are_of_their_generators_grade(draw: int) -> None:
    drawn = generators(draw)
    assert {name: generator.grade for name, generator in drawn.items()} == NAMES
    artefacts = {name: {a.__name__ for a in drawn[name].artefacts} for name in drawn}
    by_grade = {
        grade: [artefacts[name] for name in drawn if NAMES[name] == grade]
        for grade in ("known", "recombined", "near", "far")
    }
    assert [len(generators_of_grade) for generators_of_grade in by_grade.values()] == [4, 4, 4, 4]
    trained = set().union(*by_grade["known"])
    neighbours = {NEIGHBOUR[name] for name in trained}
    assert len(trained) == 6
    assert not trained & neighbours
    for recombined in by_grade["recombined"]:
        assert recombined <= trained
        assert not any(recombined <= of_known for of_known in by_grade["known"])
    assert set().union(*by_grade["near"]) == neighbours
    assert set().union(*by_grade["far"]) == NEIGHBOUR.keys() - trained - neighbours
    assert artefacts["global"] == {"spectrum"}


def test_draws_differ_and_one_is_always_the_same() -> None:
    assert generators(3) == generators(3)
    assert len({str(generators(draw)) for draw in range(20)}) == 20


@pytest.mark.parametrize("agreement", [0.9, 0.5])
def test_a_world_has_its_agreement_in_each_generator(agreement: float) -> None:
    agrees: dict[tuple[str, str], list[bool]] = {}
    for image in image_names():
        is_fake = image.generator != "real"
        agrees.setdefault(image[:2], []).append(image.source(agreement) == is_fake)
    for (split, _), values in agrees.items():
        share = 0.5 if split in ("closed_balanced", "open") else agreement
        assert np.mean(values) == pytest.approx(share, abs=0.01)


def test_worlds_share_faces_and_artefacts() -> None:
    both = [
        number
        for number in range(40)
        if len({ImageName("train", "known-1", number).source(share) for share in (0.9, 0.5)}) == 2
    ]
    for number in (0, both[0]):
        one, other = (render_face("train", "known-1", number, World(3, a)) for a in (0.9, 0.5))
        assert one.artefacts == other.artefacts
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.human_map, other.human_map)
        assert np.array_equal(one.image, other.image) == (number not in both)
    fresh = render_face("train", "known-1", 0, World(4, 0.9)).image
    assert not np.array_equal(fresh, render_face("train", "known-1", 0, World(3, 0.9)).image)


@pytest.mark.parametrize(
    ("shortcut", "colours_tell", "border_tells"),
    [("background", False, True), ("cast", True, False)],
)
def test_the_cast_is_on_the_face_and_the_background_behind_it(
    shortcut: Shortcut, colours_tell: bool, border_tells: bool
) -> None:
    """By the AUC of the source: of the middle's red to blue, and of the border's contrast."""
    world, sources, red_to_blue, contrast = World(3, 0.9, shortcut), [], [], []
    for number in range(160):
        image = render_face("closed_balanced", "real", number, world).image.astype(np.float64)
        red, _, blue = image[16:48, 16:48].mean((0, 1))
        red_to_blue.append(red / blue)
        contrast.append(image[:, [0, 1, -2, -1]].std((0, 1)).mean())
        sources.append(ImageName("closed_balanced", "real", number).source(world.agreement))
    second = np.array(sources) == 1
    for values, tells in ((red_to_blue, colours_tell), (contrast, border_tells)):
        area = auc(np.array(values)[~second], np.array(values)[second])
        assert area is not None
        assert (abs(area - 0.5) > 0.2) == tells, area
        assert tells or abs(area - 0.5) < 0.1, area


def test_both_shortcuts_have_the_same_faces() -> None:
    for number in range(4):
        one, other = (
            render_face("train", "known-1", number, World(3, 0.9, shortcut))
            for shortcut in get_args(Shortcut)
        )
        assert one.artefacts == other.artefacts
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.human_map, other.human_map)
        assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.__name__)
def test_an_artefact_is_visible_and_where_its_mask_says(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"far-1": Generator("far", (artefact,))}
    monkeypatch.setattr(benchmark, "_generators", lambda _: alone)
    inside, outside = [], []
    for number in range(12):
        mask = render_face("open", "far-1", number).mask
        assert mask is not None
        assert 10 < mask.sum() < 64 * 64 / 6
        changed = change("open", "far-1", number)
        inside.append(changed[mask].mean())
        outside.append(changed[~mask].mean())
    assert np.sqrt(np.min(inside)) > 6.0
    assert np.mean(inside) > 25.0 * np.mean(outside)


def test_the_fingerprint_is_everywhere_and_has_no_mask() -> None:
    for number in range(8):
        assert render_face("open", "global", number).mask is None
        changed = change("open", "global", number)
        quarters = [changed[y : y + 32, x : x + 32].mean() for y in (0, 32) for x in (0, 32)]
        assert min(quarters) > 0.2 * max(quarters)


def test_maps_are_normalised_and_point_at_artefacts() -> None:
    inside, outside = [], []
    for number in range(30):
        picture = render_face("train", f"known-{number % 4 + 1}", number)
        assert picture.human_map is not None
        assert picture.mask is not None
        assert picture.human_map.max() == 255
        inside.append(picture.human_map[picture.mask].mean() / 255)
        outside.append(picture.human_map[~picture.mask].mean() / 255)
    assert np.mean(inside) > 0.4
    assert np.mean(outside) < 0.15


@pytest.mark.slow
def test_files_noise_and_mean_colours_do_not_tell_fakes(tmp_path: Path) -> None:
    """The audit of ``focus data check``; of noise and colours without what artefacts change."""
    labels, metadata, pixels = [], [], []
    for generator, count in SPLITS["train"].items():
        for number in range(count):
            path = tmp_path / f"{generator}-{number}.png"
            for spoilt in (False, True):
                picture = render_face("train", generator, number, artefacts=spoilt)
                Image.fromarray(picture.image).save(path, compress_level=1)
                if not spoilt:
                    statistics = pixel_statistics(str(path))
                    names = ("noise", "mean red", "mean green", "mean blue")
                    pixels.append({name: statistics[name] for name in names})
            header = look(str(path))
            metadata.append({**header.storage, "bits": header.bits_per_pixel})
            labels.append(int(generator != "real"))
    for rows in (metadata, pixels):
        assert (told := audit(rows, labels)) is not None
        assert told.auc < 0.55
