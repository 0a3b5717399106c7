"""Images that a model was trained or chosen on, which say nothing in a test."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.bad_files import check_images
from focus.data.known_images import KnownImages, check_unseen
from focus.data.manifest import Manifest, Sample, Split
from focus.errors import InputError


def images(root: Path, count: int = 5, split: Split = "train") -> Manifest:
    """Images 0.png, 1.png, ..., whose content is that of their root."""
    draw = np.random.default_rng(list(root.name.encode()))
    root.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(root / f"{number}.png")
    return Manifest(Sample(f"{root}/{n}.png", n % 2, split=split) for n in range(count))


def matches(known_manifest: Manifest, manifest: Manifest) -> list[str]:
    known_images = KnownImages(known_manifest)
    return [known_images.match(sample) for sample in manifest]


@pytest.mark.parametrize("how", ["link", "copy", "move"])
def test_known_images_are_known_wherever_and_by_whatever_name_they_lie(
    how: str, tmp_path: Path
) -> None:
    known_manifest = check_images(images(tmp_path / "old"), cache=tmp_path, progress=False).manifest
    known_manifest.to_csv(tmp_path / "manifest.csv")
    known_manifest = Manifest.from_csv(tmp_path / "manifest.csv")
    new = tmp_path / "new"
    new.mkdir()
    for number in range(5):
        there, here = tmp_path / "old" / f"{number}.png", new / f"as-{number}.png"
        if how == "link":
            here.symlink_to(there)
        else:
            (shutil.copyfile if how == "copy" else shutil.move)(there, here)
    manifest = Manifest(Sample(str(path)) for path in sorted(new.iterdir()))
    manifest = check_images(manifest, cache=tmp_path, progress=False).manifest
    assert matches(known_manifest, manifest) == ["file"] * 5
    # Not others of the same names.
    others = check_images(images(tmp_path / "other"), cache=tmp_path, progress=False).manifest
    assert matches(known_manifest, others) == [""] * 5


def test_nothing_that_the_initial_weights_know_is_validated_or_tested_on() -> None:
    anna = Sample("/1", 0, split="train", group="anna")
    before = Manifest([anna, Sample("/2", split="validation")])
    sound = [Sample("/3", split="test", group="ben"), Sample("/2", split="validation"), anna]
    check_unseen(Manifest(sound), before, "w")
    for bad, counts, end in (
        (Sample("/4", split="test", group="anna"), "1 test", r"--columns group=\.$"),
        (Sample("/4", split="validation", group="anna"), "1 validation", r"--columns group=\.$"),
        (Sample("/2", split="test"), "1 test", r"or other images\.$"),
    ):
        message = f"^{counts} images or groups of the data are those.*{end}"
        with pytest.raises(InputError, match=message):
            check_unseen(Manifest([*sound, bad]), before, "w")
        check_unseen(Manifest([*sound, replace(bad, split="train")]), before, "w")
