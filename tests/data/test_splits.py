"""Splits: by group and generator, and those that cannot be trained."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from focus.data.manifest import Manifest, Sample, Split
from focus.data.splits import assign_splits, check_trainable
from focus.errors import InputError


def videos(count: int) -> list[Sample]:
    """Each group has two reals and a fake of each of two of five generators."""
    samples = []
    for video in range(count):
        kinds = [(0, ""), (0, ""), (1, f"g{video % 5}"), (1, f"g{(video * 3 + 1) % 5}")]
        samples += [
            Sample(f"/v/{video}/{i}.png", label, generator, group=f"video {video}")
            for i, (label, generator) in enumerate(kinds)
        ]
    return samples


def test_groups_of_several_generators_are_cut_by_the_share_of_each() -> None:
    assigned = assign_splits(Manifest(videos(200)), seed=0)
    homes: dict[str, set[str]] = {}
    for sample in assigned:
        homes.setdefault(sample.group, set()).add(sample.split)
    assert all(len(home) == 1 for home in homes.values())
    counts = Counter((s.generator, s.split) for s in assigned)
    for split in ("validation", "test"):
        assert counts["", split] == 60  # 15 % of 400 reals, two a group
        for generator in ("g0", "g1", "g2", "g3", "g4"):
            total = sum(counts[generator, s] for s in ("train", "validation", "test"))
            assert 0.1 * total <= counts[generator, split] <= 0.15 * total + 1


SAMPLES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, None]),
        st.sampled_from(["", "a", "b"]),
        st.sampled_from(["", "", "u", "v", "w", "x", "y", "z"]),
        st.sampled_from(["", "", "", "train", "validation", "test"]),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(rows=SAMPLES, seed=st.integers(0, 3), turn=st.randoms())
def test_what_holds_for_any_data(
    rows: list[tuple[int | None, str, str, Split]], seed: int, turn: random.Random
) -> None:
    given_split: dict[str, Split] = {}
    samples = [
        Sample(f"/{i}.png", label, generator, group=group, split=given_split.setdefault(group, s))
        if group
        else Sample(f"/{i}.png", label, generator, split=s)
        for i, (label, generator, group, s) in enumerate(rows)
    ]
    assigned = assign_splits(Manifest(samples), seed=seed)
    # Given ones stay (train gives some to a validation split), and nothing else changes.
    no_validation = all(s.split != "validation" for s in samples)
    for after, before in zip(assigned, samples, strict=True):
        assert after.split
        if before.split and after.split != before.split:
            assert no_validation
            assert (before.split, after.split) == ("train", "validation")
    assert [replace(a, split=s.split) for a, s in zip(assigned, samples, strict=True)] == samples
    # No group is divided.
    homes = {(s.group, s.split) for s in assigned if s.group}
    assert len(homes) == len({group for group, _ in homes})
    # No kind is used up by the cuts.
    if not any(s.split for s in samples):
        kinds = {(s.label, s.generator) for s in samples}
        assert {(s.label, s.generator) for s in assigned if s.split == "train"} == kinds
    shuffled = samples[:]
    turn.shuffle(shuffled)
    again = assign_splits(Manifest(shuffled), seed=seed)
    assert {s.path: s.split for s in again} == {s.path: s.split for s in assigned}


GOOD = [
    *(Sample(f"/t{i}", i % 2, "g" * (i % 2), split="train") for i in range(4)),
    *(Sample(f"/v{i}", i % 2, "g" * (i % 2), split="validation") for i in range(2)),
]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            [
                Sample("/x", 0, group="v1", split="train"),
                Sample("/y", 0, group="v1", split="test"),
                Sample("/z", 1, group="v1", split="test"),
            ],
            r"is 'v1' in train \('/x'\) and test \('/y'\): give",
        ),
        ([Sample("/t1", 1, "g", split="validation")], r"is '/t1' in train .* and validation"),
        ([Sample("/x", 1, "g", split="test")], "test split of X has 0 real and 1 synthetic"),
        ([Sample("/x", split="validation")], "1 of 3 validation images of X have no label"),
    ],
)
def test_splits_that_cannot_be_trained_are_refused(more: list[Sample], message: str) -> None:
    check_trainable(Manifest(GOOD, "X"))
    with pytest.raises(InputError, match=message):
        check_trainable(Manifest([*GOOD, *more], "X"))


def test_a_file_is_one_by_whatever_links_its_folder_is_reached(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "faces")
    rows = [
        Sample(f"{tmp_path}/link/1.png", 1, "g", split="train"),
        Sample(f"{tmp_path}/faces/2.png", 1, "g", split="train"),
    ]
    check_trainable(Manifest([*GOOD, *rows]))
    rows += [Sample(f"{tmp_path}/faces/1.png", 1, "g", split="validation")]
    with pytest.raises(
        InputError, match=r"1 images .* in train .*/link/1.png'\) and val.*/faces/1"
    ):
        check_trainable(Manifest([*GOOD, *rows]))


def test_a_group_given_two_splits_is_found_though_others_follow_it() -> None:
    rows = [*GOOD, Sample("/x", 0, group="v", split="train"), Sample("/y", 0, group="v")]
    assert assign_splits(Manifest(rows), seed=0)[-1].split == "train"
    torn = [*rows, Sample("/z", 1, group="v", split="validation")]
    with pytest.raises(InputError, match=r"1 groups of the data .*give --columns group="):
        check_trainable(assign_splits(Manifest(torn), seed=0))


def faces(n_real: int, n_synthetic: dict[str, int], split: Split = "") -> list[Sample]:
    reals = [Sample(f"/data/real/{i}.png", 0, split=split) for i in range(n_real)]
    fakes = [
        Sample(f"/data/{g}/{i}.png", 1, g, split=split)
        for g, n in n_synthetic.items()
        for i in range(n)
    ]
    return reals + fakes


def test_splits_are_stratified_and_independent_of_the_order_and_the_folder() -> None:
    samples = faces(100, {"kA": 60, "kB": 20})
    assigned = assign_splits(Manifest(samples), seed=1)
    assert Counter((s.generator, s.split) for s in assigned) == {
        ("", "train"): 70,
        ("", "validation"): 15,
        ("", "test"): 15,
        ("kA", "train"): 42,
        ("kA", "validation"): 9,
        ("kA", "test"): 9,
        ("kB", "train"): 14,
        ("kB", "validation"): 3,
        ("kB", "test"): 3,
    }
    split = {s.path: s.split for s in assigned}
    backwards = assign_splits(Manifest(samples[::-1]), seed=1)
    assert {s.path: s.split for s in backwards} == split
    moved = [replace(s, path=s.path.replace("/data", "/mnt/disk")) for s in samples]
    assert [s.split for s in assign_splits(Manifest(moved), seed=1)] == list(split.values())
    assert {s.path: s.split for s in assign_splits(Manifest(samples), seed=2)} != split
    check_trainable(assigned)


def test_given_splits_are_kept() -> None:
    samples = faces(20, {"kA": 20}, "train") + faces(4, {"uB": 4}, "test")
    assigned = assign_splits(Manifest(samples), seed=0)
    assert Counter(s.split for s in assigned) == {"train": 34, "validation": 6, "test": 8}
    assert list(assign_splits(assigned, seed=5)) == list(assigned)
    loose = [*assigned, Sample("/data/more.png", 0)]
    assert assign_splits(Manifest(loose), seed=0)[-1].split == "train"
