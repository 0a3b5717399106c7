"""Which images a model knows, where they lie elsewhere by now."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.known_images import tell_known
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, file_key
from focus.data.readers.embedded import store
from focus.data.splits import check_unseen
from focus.errors import InputError

COUNT = 10


def tree(root: Path, count: int = COUNT, generator: str = "genA", split: Split = "") -> Manifest:
    """Images 0.png, 1.png, ... of both classes, whose content is that of their root."""
    draw = np.random.default_rng(list(root.name.encode()))
    samples = []
    for label, name in ((REAL, "real"), (SYNTHETIC, "fake")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            path = root / name / f"{number}.png"
            Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(path)
            samples.append(Sample(str(path), label, generator if label else "", split=split))
    return Manifest(samples)


def below(manifest: Manifest, there: Path, here: Path) -> Manifest:
    return Manifest(replace(s, path=s.path.replace(str(there), str(here))) for s in manifest)


def told(known: Manifest, given: Manifest) -> tuple[int, str]:
    """How many are known, and the warning."""
    found = tell_known(known, given)
    return sum(found.by_what(sample) == "file" for sample in given), found.warning


@pytest.mark.parametrize("how", ["link", "copy"])
def test_links_and_copies_of_known_images_are_known(tmp_path: Path, how: str) -> None:
    """Not images of their names, whatever their size."""
    known = tree(tmp_path / "old")
    new = tmp_path / "new"
    new.mkdir()
    for number in range(COUNT):
        there = tmp_path / "old" / "real" / f"{number}.png"
        if how == "link":
            (new / f"as-{number}.png").symlink_to(there)
        else:
            shutil.copyfile(there, new / f"{number}.png")
    given = Manifest(Sample(str(path)) for path in sorted(new.iterdir()))
    assert told(known, given) == (COUNT, "")
    assert told(known, tree(tmp_path / "other")) == (0, "")
    content = (tmp_path / "old" / "real" / "0.png").read_bytes()
    (new / "0.png").unlink(missing_ok=True)
    (new / "0.png").write_bytes(content[:-1] + b"!")
    assert told(known, Manifest([Sample(str(new / "0.png"))])) == (0, "")


def test_a_link_whose_file_is_known_by_another_link_is_known(tmp_path: Path) -> None:
    """And one that leads nowhere has a key, as a file that is not there."""
    known = tree(tmp_path / "old")
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(known[0].path)
    assert file_key(str(tmp_path / "one")) == file_key(str(tmp_path / "two"))
    (tmp_path / "none").symlink_to(tmp_path / "gone.png")
    assert file_key(str(tmp_path / "none")) == os.path.realpath(tmp_path / "gone.png")


def test_an_image_of_a_table_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    for cache in ("one", "two"):
        monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / cache))
        places.append([store(b"\x89PNG\r\n\x1a\n" + bytes([i])) for i in range(3)])
    known, given = (Manifest(map(Sample, paths)) for paths in places)
    shutil.rmtree(tmp_path / "one")
    assert told(known[:2], given) == (2, "")
    assert {file_key(s.path) for s in known} == {file_key(s.path) for s in given}


@pytest.mark.slow
@pytest.mark.parametrize("here", ["elsewhere/old", "renamed", "deep/er/than/before"])
def test_images_that_were_moved_are_known(tmp_path: Path, here: str) -> None:
    """Beside any number of others, and where but a part is given."""
    old, new = tmp_path / "old", tmp_path / here
    record = tree(old)
    known = record.where(lambda s: not s.path.endswith("9.png"))  # which were tested on
    others = tree(tmp_path / "others", count=500, generator="genB")
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(old, new)
    moved = below(record, old, new)
    for given in (moved, moved + others, others + moved[:COUNT], moved[COUNT:]):
        n_moved = sum(s.path.startswith(str(new)) for s in given)
        n_found, warning = told(known, given)
        assert n_found == n_moved * (COUNT - 1) // COUNT
        assert warning.startswith(f"{n_found} images in {tmp_path}")
        assert "not there any more" in warning
    given = Manifest(replace(s, split="test") for s in moved)
    with pytest.raises(InputError, match=f"^{2 * COUNT - 2} test images"):
        check_unseen(given, Manifest(replace(s, split="train") for s in known), "w")


def test_others_of_their_names_are_not_taken_for_images_that_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning counts them."""
    known = tree(tmp_path / "old", split="train")
    shutil.rmtree(tmp_path / "old")
    fewer = tree(tmp_path / "fewer", COUNT // 2)
    more = tree(tmp_path / "more", 3 * COUNT)
    of_another = tree(tmp_path / "another", generator="genB")
    unlabelled = Manifest(replace(s, label=None) for s in tree(tmp_path / "unlabelled"))
    swapped = Manifest(replace(s, label=1 - (s.label or 0)) for s in tree(tmp_path / "swapped"))
    for given in (fewer, more, of_another, unlabelled, swapped):
        count = min(len(given), len(known))
        n_known, warning = told(known, given)
        assert n_known == 0
        assert warning.startswith(f"{count} of {len(given)} images have the names of images that")
        check_unseen(Manifest(replace(s, split="test") for s in given), known, "w")
        assert f"{count} of {len(given)} images have the names" in caplog.records[-1].message
    named = Manifest(replace(s, path=s.path.replace(".png", "x.png")) for s in fewer)
    assert told(known, named) == (0, "")


def test_an_image_that_was_removed_alone_was_not_moved(tmp_path: Path) -> None:
    known = tree(tmp_path / "old")
    Path(known[0].path).unlink()
    assert told(known, tree(tmp_path / "other")) == (0, "")
