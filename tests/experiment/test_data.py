"""The manifests that the experiment trains on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.config.experiment import ExperimentConfig
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.data.maps import human_map
from focus.errors import InputError
from focus.experiment.__main__ import make_setup
from focus.experiment.data import (
    centered_maps,
    shuffled_maps,
    trainable_arms,
    write_data,
)


def faces(folder: Path) -> Manifest:
    """Four training images a class with maps, one without; validation and test."""
    samples = []
    for label in (REAL, SYNTHETIC):
        for number in range(4):
            path = folder / f"{label}{number}.png"
            Image.fromarray(np.full((4, 4), 40 * number + label, np.uint8)).save(path)
            samples.append(Sample(f"/i/{path.name}", label, split="train", human_map=str(path)))
        samples.append(Sample(f"/i/{label}bare.png", label, split="train"))
        samples.append(Sample(f"/i/{label}v.png", label, split="validation", human_map="/m/v.png"))
        samples.append(Sample(f"/i/{label}t.png", label, split="test"))
    return Manifest(samples, "faces")


def test_shuffled_maps_are_anothers_of_the_same_class(tmp_path: Path) -> None:
    before = faces(tmp_path)
    after = shuffled_maps(before)
    for old, new in zip(before, after, strict=True):
        moved = old.split == "train" and old.human_map is not None
        assert (new.human_map != old.human_map) == moved
        assert replace(new, human_map=old.human_map) == old
    for label in (REAL, SYNTHETIC):
        kept = [[s.human_map for s in m if s.label == label] for m in (before, after)]
        assert Counter(kept[0]) == Counter(kept[1])
    assert list(shuffled_maps(before)) == list(after)


def test_the_center_is_the_mean_of_all_maps(tmp_path: Path) -> None:
    before, path = faces(tmp_path), tmp_path / "center.png"
    changed = [
        new for old, new in zip(before, centered_maps(before, path), strict=True) if old != new
    ]
    assert len(changed) == 8
    assert {(sample.human_map, sample.split) for sample in changed} == {(str(path), "train")}
    left, right = np.zeros((4, 4), np.uint8), np.zeros((8, 8), np.uint8)
    left[0, 0], right[:2, :2], right[6:, 6:] = 255, 255, 85
    two = []
    for name, values in (("left", left), ("right", right)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        two.append(Sample(name, 1, split="train", human_map=str(tmp_path / f"{name}.png")))
    centered_maps(Manifest(two), path)
    wanted = np.zeros((4, 4))
    wanted[0, 0], wanted[3, 3] = 1.0, 1 / 6  # (255 + 255, 0 + 85) / 2, over the largest
    assert human_map(str(path)) == pytest.approx(wanted, abs=1e-4)


def test_manifests_are_written_once(tmp_path: Path) -> None:
    manifest, path = faces(tmp_path), tmp_path / "new" / "data" / "own.csv"
    for _ in range(2):
        write_data(manifest, path)
        write_data(manifest, path.with_name("center.csv"), "center")
    assert len(Manifest.from_csv(path)) == len(manifest)
    with pytest.raises(InputError, match="other images"):
        write_data(manifest.split("train"), path)


def test_losses_that_need_human_maps_are_left_out_where_there_are_none(
    tmp_path: Path,
) -> None:
    """``match`` takes its target from the maps; the others that are left out compare with them."""
    setup, with_maps = make_setup(ExperimentConfig(output=str(tmp_path))), faces(tmp_path)
    arms = ["ce", "saliency", "focus", "hinge", "match", "blend", "focus-contrast", "blend-center"]
    assert trainable_arms(setup, with_maps, arms) == arms
    # Maps of other images than those of training are of no use.
    bare = with_maps.where(lambda sample: sample.split != "train" or sample.human_map is None)
    assert trainable_arms(setup, bare, arms) == ["ce", "focus", "hinge", "focus-contrast"]
    with pytest.raises(InputError, match=r"which all losses given need \(match, cyborg\): give "):
        trainable_arms(setup, bare, ["match", "cyborg"])
