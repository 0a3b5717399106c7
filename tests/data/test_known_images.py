"""Images that a model was trained or chosen on, which say nothing in a test."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.known_images import CONTENT, KnownImages, check_unseen, with_content_hashes
from focus.data.manifest import Manifest, Sample, Split
from focus.errors import InputError


def images(root: Path, count: int = 5, split: Split = "train") -> Manifest:
    """Images 0.png, 1.png, ..., whose content is that of their root."""
    draw = np.random.default_rng(list(root.name.encode()))
    root.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(root / f"{number}.png")
    return Manifest(Sample(f"{root}/{n}.png", n % 2, split=split) for n in range(count))


def matches(known: Manifest, given: Manifest) -> list[str]:
    found = KnownImages(known)
    return [found.match(sample) for sample in given]


@pytest.mark.parametrize("how", ["link", "copy", "move"])
def test_known_images_are_known_wherever_and_by_whatever_name_they_lie(
    how: str, tmp_path: Path
) -> None:
    known = with_content_hashes(images(tmp_path / "old"), progress=False)
    known.to_csv(tmp_path / "manifest.csv")
    known = Manifest.from_csv(tmp_path / "manifest.csv")
    new = tmp_path / "new"
    new.mkdir()
    for number in range(5):
        there, here = tmp_path / "old" / f"{number}.png", new / f"as-{number}.png"
        if how == "link":
            here.symlink_to(there)
        else:
            (shutil.copyfile if how == "copy" else shutil.move)(there, here)
    given = Manifest(Sample(str(path)) for path in sorted(new.iterdir()))
    assert matches(known, given) == ["file"] * 5
    # Not others of the same names.
    assert matches(known, images(tmp_path / "other")) == [""] * 5


def test_a_test_image_of_the_run_is_not_known_though_it_equals_one_of_training(
    tmp_path: Path,
) -> None:
    """A run and its evaluation score the same images."""
    known = with_content_hashes(images(tmp_path / "old"), progress=False)
    shutil.copyfile(known[0].path, tmp_path / "test.png")
    test = Sample(str(tmp_path / "test.png"), split="test")
    assert KnownImages(known).match(test) == "file"
    assert KnownImages(known, Manifest([test])).match(test) == ""


def test_only_images_to_train_and_validate_on_are_hashed(tmp_path: Path) -> None:
    """An earlier run's manifest may be given as the data."""
    manifest = Manifest(images(tmp_path / "old", split="validation")[:1]) + images(
        tmp_path / "t", 1, "test"
    )
    again = with_content_hashes(with_content_hashes(manifest, progress=False), progress=False)
    assert [bool(sample.extra.get(CONTENT)) for sample in again] == [True, False]
    gone = Manifest([Sample(str(tmp_path / "gone.png"), split="train")])
    assert matches(with_content_hashes(gone, progress=False), manifest) == ["", ""]


def test_nothing_that_the_initial_weights_know_is_validated_or_tested_on() -> None:
    before = Manifest(
        [Sample("/1", 0, split="train", group="anna"), Sample("/2", split="validation")]
    )
    sound = [
        Sample("/3", split="test", group="ben"),
        Sample("/2", split="validation"),
        Sample("/1", split="train", group="anna"),
    ]
    check_unseen(Manifest(sound), before, "w")
    for bad, counts in (
        (Sample("/4", split="test", group="anna"), "1 test"),
        (Sample("/4", split="validation", group="anna"), "1 validation"),
        (Sample("/2", split="test"), "1 test"),
    ):
        message = f"^{counts} images of the data, or others of their"
        with pytest.raises(InputError, match=message) as caught:
            check_unseen(Manifest([*sound, bad]), before, "w")
        by_group = bad.group == "anna"
        assert str(caught.value).endswith("--columns group=." if by_group else "or other images.")
        check_unseen(Manifest([*sound, replace(bad, split="train")]), before, "w")
