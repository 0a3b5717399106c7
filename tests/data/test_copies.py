"""Copies of training images are no test, wherever they lie."""

import csv
from pathlib import Path
from typing import Any

import pytest

from focus.data.copies import (
    Copy,
    Pictures,
    check_left,
    copy_findings,
    find_copies,
    without,
    write_copies,
)
from focus.data.known_images import CONTENT
from focus.data.manifest import Manifest, Sample, Split
from focus.data.signatures import SignatureStore
from focus.errors import InputError


def image(content: str, split: Split, label: int = 0, **more: Any) -> Sample:
    """An image of that content, in a file that no other image has."""
    source = more.pop("source", None)
    extra = {CONTENT: content.encode().hex().zfill(32)} | ({"source": source} if source else {})
    path = f"/{split}/{label}/{source}/{more.get('generator', '')}/{content}.png"
    return Sample(path, label, split=split, extra=extra, **more)


def copies_in(manifest: Manifest, folder: Path) -> list[Copy]:
    return find_copies(manifest, Pictures(manifest, SignatureStore(folder)))


OWN = [image(content, "train", n % 2) for n, content in enumerate("abcd")]


def test_of_an_image_in_several_splits_only_the_first_is_used(tmp_path: Path) -> None:
    used = [*OWN, image("e", "validation"), image("f", "test", source="LFW")]
    gone = [
        image("a", "validation"),
        image("b", "test", source="LFW"),
        image("e", "test", source="LFW"),
        image("c", "test", 1, generator="GAN"),
        image("a", "test", 1, generator="GAN"),  # also with the other label
    ]
    twice = [image("f", "test", source="again"), Sample("/no/digest", 1, split="test")]
    manifest = Manifest([*gone, *used, *twice])  # in any order
    copies = copies_in(manifest, tmp_path)
    assert [copy.sample for copy in copies] == [gone[0], *gone[1:]]
    assert set(without(manifest, copies)) == {*used, *twice}
    write_copies(copies, tmp_path, copies)
    rows = list(csv.DictReader((tmp_path / "copies.csv").open()))
    assert rows[2] == {
        "path": gone[2].path,
        "split": "test",
        "label": "real",
        "set": "LFW",
        "original": used[4].path,
        "original_split": "validation",
        "kind": "same file",
        "similarity": "1.0000",
        "left_out": "yes",
    }
    first, *_ = texts = [one.text for one in copy_findings(manifest, copies, copies)]
    assert first == (
        "2 of 2 synthetic test images of GAN are left out, being copies of training images (same "
        f"file: 2), the first is {gone[3].path!r} of {used[2].path!r}."
    )
    assert texts[2].startswith("1 of 3 real test images of LFW are left out, being copies of train")
    assert texts[3].startswith("1 of 3 real test images of LFW are left out, being copies of valid")


def test_a_set_that_is_all_copies_ends_the_run(tmp_path: Path) -> None:
    def check(*more: Sample) -> None:
        manifest = Manifest([*OWN, *more])
        check_left(manifest, copies_in(manifest, tmp_path))

    new = image("x", "test"), image("y", "test", 1, generator="A")
    check(*new, image("a", "test"))
    for copied, message in (
        (image("b", "test", 1, generator="B"), "All synthetic test images of B are copies of"),
        (image("a", "validation"), "All real validation images are copies of training images, the"),
    ):
        with pytest.raises(InputError, match=message):
            check(*new, copied)
    with pytest.raises(InputError, match=r"All real test images of LFW are copies .*: give others"):
        check(image("a", "test", source="LFW"), new[1])
