"""The data that a resumed run takes: those that it recorded, without the files lost since then."""

from dataclasses import replace
from pathlib import Path

import pytest

from focus.data.bad_files import BadFile
from focus.data.manifest import Manifest, Sample, Split
from focus.data.resumed import Resumed, resumed_data
from focus.errors import InputError

SPLITS: tuple[Split, ...] = ("train", "train", "train", "train", "validation", "test")


@pytest.fixture
def record(tmp_path: Path) -> list[Sample]:
    """Six fakes, then six reals, the first of each with a map of two annotators and a mask."""
    samples = []
    for label, kind in ((1, "fake"), (0, "real")):
        for number, split in enumerate(SPLITS):
            beside = not number
            samples.append(
                Sample(
                    f"{tmp_path}/old/{kind}/{number}.png",
                    label,
                    "g" * label,
                    split=split,
                    map_path=f"{tmp_path}/old/maps/{{1/{kind}.png,2/{kind}.png}}"
                    if beside
                    else None,
                    mask_path=f"{tmp_path}/old/masks/{kind}.png" if beside else None,
                    extra={"class": "cat"} if number == 4 else {},
                )
            )
    for sample in samples:
        write(sample.path)
        if sample.mask_path:
            kind = Path(sample.mask_path).name
            for path in (sample.mask_path, *(f"{tmp_path}/old/maps/{i}/{kind}" for i in "12")):
                write(path)
    return samples


def write(path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(b"")


def unsplit(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, split="") for sample in samples]


def resumed(
    now: list[Sample], record: list[Sample], bad: tuple[BadFile, ...] = (), max_bad: float = 0.5
) -> Resumed:
    return resumed_data(Manifest(now), Manifest(record), Path("runs/x"), bad=bad, max_bad=max_bad)


def elsewhere(sample: Sample, old: str = "/old", new: str = "/mnt/new") -> Sample:
    return replace(
        sample,
        path=sample.path.replace(old, new),
        map_path=sample.map_path and sample.map_path.replace(old, new),
        mask_path=sample.mask_path and sample.mask_path.replace(old, new),
    )


def test_recorded_splits_are_taken_and_the_data_may_have_moved(record: list[Sample]) -> None:
    back = resumed(unsplit(record), record)
    assert (list(back.manifest), list(back.record), back.warning) == (record, record, "")
    moved = [elsewhere(sample) for sample in record]
    back = resumed(unsplit(moved), record)
    assert (list(back.manifest), list(back.record), back.warning) == (moved, moved, "")


def test_data_that_had_no_folder_in_common_may_have_moved() -> None:
    record = [Sample("/a/1.png", 0, split="train"), Sample("/b/2.png", 1, split="train")]
    moved = [replace(sample, path=f"/mnt{sample.path}") for sample in record]
    assert list(resumed(unsplit(moved), record).manifest) == moved


def test_maps_that_lie_beside_the_images_move_with_them(record: list[Sample]) -> None:
    """What all files have in common is above the folder that all images have in common."""
    together = [
        replace(s, path=s.path.replace("/old/", "/old/images/"), split="train") for s in record
    ]
    moved = [elsewhere(sample) for sample in together]
    back = resumed([replace(sample, split="") for sample in moved], together)
    assert (list(back.manifest), back.warning) == (moved, "")


def test_training_images_that_became_validation_are_no_other_data(record: list[Sample]) -> None:
    """Data with a training and a test split, of which validation was cut off."""
    given = [replace(s, split="train" if s.split == "validation" else s.split) for s in record]
    assert list(resumed(given, record).manifest) == record
    own = replace(record[0], path=f"{record[0].path}.png", split="validation")
    with pytest.raises(InputError, match=r"is '.*/fake/4\.png'"):
        resumed([*given, own], [*record, own])


def test_other_data_than_those_recorded_are_refused(record: list[Sample]) -> None:
    now = unsplit(record)
    new = Sample(record[3].path + ".png", 0)
    beside = {"map_path": None, "mask_path": None}
    others_in_another_place = [
        elsewhere(elsewhere(s, "/fake", "/others"), "/old", "/new") for s in now
    ]
    others = [
        (now[:-1], "12 images then, 11 now", record[-1]),  # whose file is there
        ([*now[:2], *now[3:]], "12 images then, 11 now", record[2]),
        ([*now, new], "12 images then, 13 now", new),
        ([*now[:4], new, *now[4:]], "12 images then, 13 now", new),
        ([now[1], now[0], *now[2:]], "12 images then, 12 now", now[1]),
        ([now[0], replace(now[1], label=0), *now[2:]], "12 images then, 12 now", now[1]),
        *(([replace(now[0], **{k: None}), *now[1:]], "12 images then", now[0]) for k in beside),
        ([now[0], replace(now[1], split="test"), *now[2:]], "12 images", now[1]),
        ([*now[:4], replace(now[4], extra={}), *now[5:]], "12 images", now[4]),
        ([elsewhere(s, "/old/fake", "/other") for s in now], "12 images", now[0]),
        (others_in_another_place, "12 images", others_in_another_place[0]),
    ]
    for data, counts, first in others:
        with pytest.raises(InputError) as error:
            resumed(data, record)
        said = str(error.value)
        assert said.startswith(f"The data are not those that the run runs/x began with ({counts}")
        assert f"the first that differs is {first.path!r})" in said


def test_a_lost_training_image_leaves_its_place_to_the_next_of_its_class(
    record: list[Sample],
) -> None:
    """So the batches are of the same rows, and the same classes."""
    Path(record[1].path).unlink()
    Path(record[2].path).unlink()
    bad = BadFile(record[9].path, "image", "truncated")  # the last real one to train on
    now = [s for s in unsplit(record) if s.path not in (record[1].path, record[2].path, bad.path)]
    back = resumed(now, record, (bad,))
    taken = [*record[:1], *[record[3]] * 2, *record[3:9], record[6], *record[10:]]
    assert list(back.manifest) == taken
    assert list(back.record) == record
    assert back.warning.startswith(
        f"3 of the files that the run runs/x began with cannot be read any more, the first is "
        f"{record[1].path!r}: "
    )
    # Of data that lie elsewhere by now, too, and once they are back all is as it was.
    moved = [elsewhere(s, "/old", "/new") for s in record]
    back = resumed([elsewhere(s, "/old", "/new") for s in now], record, (elsewhere_bad(bad),))
    assert list(back.manifest) == [elsewhere(s, "/old", "/new") for s in taken]
    assert list(resumed(unsplit(moved), list(back.record)).manifest) == moved


def elsewhere_bad(bad: BadFile) -> BadFile:
    return replace(bad, path=bad.path.replace("/old", "/new"))


def test_lost_images_of_validation_and_test_are_left_out(record: list[Sample]) -> None:
    for row in (4, 11):
        Path(record[row].path).unlink()
    now = unsplit([*record[:4], *record[5:11]])
    back = resumed(now, record)
    assert list(back.manifest) == [*record[:4], *record[5:11]]
    assert list(back.record) == record


def test_the_last_file_of_a_folder_moves_nothing(tmp_path: Path) -> None:
    record = [
        Sample(f"{tmp_path}/a/{i}.png", i % 2, "g" * (i % 2), split="train") for i in range(4)
    ]
    lost = Sample(f"{tmp_path}/b/1.png", 1, "g", split="train")
    back = resumed(unsplit(record), [lost, *record])
    assert list(back.manifest) == [record[1], *record]


def test_lost_maps_and_masks_are_none(record: list[Sample]) -> None:
    """Of an annotator's, the others are left; the record keeps all."""
    first, other = record[0], record[6]
    assert first.map_path
    assert first.mask_path
    assert other.map_path
    Path(first.map_path.replace("{1/fake.png,2/fake.png}", "1/fake.png")).unlink()
    Path(first.mask_path).unlink()
    bad = BadFile(other.map_path, "map", "truncated")
    of_one = first.map_path.replace("{1/fake.png,2/fake.png}", "2/fake.png")
    now = [*record]
    now[0] = replace(first, map_path=of_one, mask_path=None)
    now[6] = replace(other, map_path=None)
    back = resumed(unsplit(now), record, (bad,), max_bad=1)
    assert list(back.manifest) == now
    assert list(back.record) == record
    with pytest.raises(InputError, match=r"^2 of the 2 map files that the run runs/x began with"):
        resumed(unsplit(now), record, (bad,))


def test_more_lost_files_than_max_bad_allows_are_refused(record: list[Sample]) -> None:
    Path(record[1].path).unlink()
    now = unsplit([record[0], *record[2:]])
    resumed(now, record, max_bad=1 / 12)
    with pytest.raises(InputError) as error:
        resumed(now, record, max_bad=0.08)
    assert str(error.value) == (
        "1 of the 12 image files that the run runs/x began with cannot be read any more, more than "
        f"the share of 0.08 that --max-bad allows: bring them back, the first is "
        f"{record[1].path!r}, or raise it, or give another --name."
    )


def test_the_share_of_lost_masks_is_of_the_masks(record: list[Sample]) -> None:
    """An image without a mask has none to lose."""
    masks = [sample.mask_path for sample in record if sample.mask_path]
    for mask in masks:
        Path(mask).unlink()
    now = [replace(sample, mask_path=None) for sample in unsplit(record)]
    assert len(resumed(now, record, max_bad=1).manifest) == len(record)
    with pytest.raises(InputError, match=r"^2 of the 2 mask files .* the first is '.*/fake\.png'"):
        resumed(now, record, max_bad=0.7)


def test_a_class_that_is_lost_is_left_out(record: list[Sample]) -> None:
    """What then lacks a class is refused as other data that cannot be trained on."""
    for sample in record[6:10]:
        Path(sample.path).unlink()
    back = resumed(unsplit([*record[:6], *record[10:]]), record)
    assert list(back.manifest) == [*record[:6], *record[10:]]
