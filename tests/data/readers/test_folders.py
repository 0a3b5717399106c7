"""Folders whose names may mislead: below the label, and those that are called as maps are."""

from collections.abc import Collection
from pathlib import Path

import pytest

from focus.config.train import EvaluateConfig
from focus.data.readers import files as reader_files
from focus.data.readers import read_data, read_given, read_tests
from focus.data.readers.files import find_maps, folders_called
from focus.errors import InputError

from ...trees import write


@pytest.mark.parametrize(
    ("files", "advised"),
    [
        ("real/train/1 real/test/2 fake/train/3 fake/test/4", False),
        ("nature/n01440764/1 nature/n01443537/2 ai/n01440764/3 ai/n01443537/4", True),
        ("real/id0_0000/1 fake/id0_id1_0000/1 fake/id0_id2_0000/1 fake/id1_id0_0003/1", True),
        ("real/images/1 fake/images/1", False),
    ],
)
def test_unknown_folders_below_the_label_are_no_generators(
    files: str, advised: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write({f"{name}.png": "face 1" for name in files.split()}, tmp_path)

    def of_fakes(generator: str | None = None) -> set[str]:
        found = read_data(tmp_path, generator=generator)
        assert {s.split for s in found} == ({"train", "test"} if "train" in files else {""})
        assert not any(s.extra for s in found)
        assert {s.generator for s in found if s.label == 0} == {""}
        return {s.generator for s in found if s.label == 1}

    assert of_fakes() == {"synthetic"}
    assert ["call them NAME/fake or give --test-data" in text for text in caplog.messages] == [
        True
    ] * advised
    caplog.clear()
    assert of_fakes("X") == {"X"}
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("files", "fakes", "reals"),
    [
        ("training_real/1 training_fake/2", "training_fake", "training_real"),
        ("ff/reals/1 ff/fakes/2", "ff/fakes", "ff/reals"),
        (
            "original_sequences/youtube/1 manipulated_sequences/Deepfakes/2",
            *("manipulated_sequences", "original_sequences"),
        ),
        ("Celeb-real/1 Celeb-synthesis/2", "Celeb-synthesis", "Celeb-real"),
        ("real/1 SG2/2", "SG2", "real"),
        ("real/1 2", "", "real"),
    ],
)
def test_a_folder_of_both_classes_is_not_taken_for_one(
    files: str, fakes: str, reals: str, tmp_path: Path
) -> None:
    write({f"{name}.png": "face 1" for name in files.split()}, tmp_path)
    with pytest.raises(InputError) as caught:
        read_tests({"X": str(tmp_path)})
    place = tmp_path / fakes if fakes else "FOLDER"
    assert str(caught.value) == (
        f"All images of {tmp_path} would count as fakes (--test-data X), and those in "
        f"{tmp_path / reals} are real by the folder's name: give --test-data X={place} or the "
        f"like, and --test-real NAME={tmp_path / reals}."
    )
    if fakes not in ("", "SG2"):
        with pytest.raises(InputError, match=f"as real .*{fakes} are fakes by .* --test-data NAME"):
            read_tests({}, {"X": str(tmp_path)})
        found = read_tests({"X": f"{tmp_path / fakes}"}, {"Y": f"{tmp_path / reals}"})
        assert [(s.label, s.generator) for s in found] == [(1, "X"), (0, "")]


@pytest.mark.parametrize(
    "files",
    [
        "original/1 original/a/2",  # all of them, as an archive unpacks
        "stylegan2_original/1 sd/2",
        "Real-ESRGAN/1 sd/2",
        "fake_of_real/1 sd/2",
        "realistic/1 sd/2",
        "sd/real_1 real_2",
    ],
)
def test_folders_of_fakes_may_be_called_much(files: str, tmp_path: Path) -> None:
    write({f"{name}.png": "face 1" for name in files.split()}, tmp_path)
    assert [s.label for s in read_tests({"X": str(tmp_path)})] == [1, 1]
    one = f"{tmp_path}/{files.split()[0]}.png"
    assert [s.label for s in read_tests({"X": one}, {"Y": one})] == [1, 0]


@pytest.mark.parametrize("labels", [("real", "fake"), ("0_real", "1_fake")])
@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("train eval", "train test"),
        ("train dev Evaluation", "train validation test"),
        ("train_set Test-Set", "train test"),
        ("trainset testset", "train test"),
        ("training_set val_set", "train validation"),
        ("train holdout", "train test"),
        ("train val held_out", "train validation test"),
        ("eval", "test"),
        ("X/train X/eval Y/train Y/eval", "train test train test"),
    ],
)
def test_whatever_the_folders_of_splits_are_called(
    labels: tuple[str, ...], names: str, splits: str, tmp_path: Path
) -> None:
    of = dict(zip(names.split(), splits.split(), strict=True))
    write({f"{name}/{label}/1.png": "face 1" for name in of for label in labels}, tmp_path)
    found = read_data(tmp_path)
    assert {s.path: s.split for s in found} == {
        f"{tmp_path}/{name}/{label}/1.png": split for name, split in of.items() for label in labels
    }
    assert set(found.generators()) == ({"X", "Y"} if "/" in names else {"synthetic"})


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        ("train unseen", "real fake", "/set has a folder train beside unseen, which names no spli"),
        ("train unseen", "nature ai", "/set has a folder train beside unseen"),
        ("train test unseen", "real fake", "/set has a folder test beside unseen"),
        ("train val unseen", "0_real 1_fake", "/set has a folder train beside unseen"),
        ("X/train X/more Y/train Y/val", "real fake", "/set/X has a folder train beside more, .*"),
        ("test unseen", "0_real 1_fake", "/set has a folder test beside unseen"),
        # Classes, of which one may be called train, generators, and what is below a split.
        ("train unseen", "0_real 1_fake", ""),
        ("train/train train/cat val/train val/cat", "real fake", ""),
        ("X/train X/val Y/a/train Y/a/val Z", "real fake", ""),
    ],
)
def test_a_split_beside_what_is_none(names: str, labels: str, message: str, tmp_path: Path) -> None:
    """It would be trained on, as its split is not known."""
    files = [f"set/{name}/{label}/1.png" for name in names.split() for label in labels.split()]
    write(dict.fromkeys(files, "face 1"), tmp_path)
    if message:
        with pytest.raises(InputError, match=message):
            read_data(tmp_path / "set")
    else:
        assert len(read_data(tmp_path / "set")) == len(files)


def test_test_data_with_equal_folders_below_the_label_stay_apart(tmp_path: Path) -> None:
    write({f"{name}/fake/images/1.png": "face 1" for name in "ab"}, tmp_path)
    found = read_tests({name: f"{tmp_path}/{name}" for name in "ab"})
    assert [s.generator for s in found] == ["a", "b"]


@pytest.mark.parametrize("name", ["maps", "Masks"])
def test_a_class_may_be_called_as_maps_are(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [f"{top}/{label}/1.png" for top in ("horse", name) for label in ("0_real", "1_fake")]
    write(dict.fromkeys(files, "face 1"), tmp_path)
    found = read_data(tmp_path)
    assert {s.path.removeprefix(f"{tmp_path}/"): s.generator for s in found} == {
        file: file.split("/")[0] for file in files
    }
    assert caplog.messages == []
    # Maps lie below the folders of their images.
    (tmp_path / name).rename(tmp_path / "horses")
    write({f"{name}/Horse/1_fake/1.png": "face 1"}, tmp_path)
    assert {s.generator for s in read_data(tmp_path)} == {"horse", "horses"}
    # As are those of fakes alone, and of images in splits.
    trees = (("a", ("x/0_real", "x/1_fake"), ("1_fake",)), ("b", ("train/fake",), ("real", "fake")))
    for root, images, maps in trees:
        names = [f"{root}/{image}/1.png" for image in images]
        write(
            dict.fromkeys([*names, *(f"{root}/{name}/{m}/1.png" for m in maps)], "face 1"), tmp_path
        )
        found = read_data(tmp_path / root)
        assert [s.path for s in found] == [f"{tmp_path}/{image}" for image in names]


@pytest.mark.parametrize("name", ["maps", "masks"])
def test_folders_called_as_maps_hold_the_images_if_no_other_does(name: str, tmp_path: Path) -> None:
    write({f"{name}/1.png": "face 1", "heatmaps/1.png": "face 1"}, tmp_path)
    assert [s.path for s in read_data(tmp_path, allow_unlabelled=True)] == [
        f"{tmp_path}/{name}/1.png"
    ]
    # Labels of maps alone are none of the images beside them.
    write({f"{name}/{label}/1.png": "face 1" for label in ("real", "fake")}, tmp_path)
    write({"2.png": "face 2"}, tmp_path)
    assert [s.path for s in read_data(tmp_path, allow_unlabelled=True)] == [f"{tmp_path}/2.png"]


def test_the_folder_of_maps_is_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []

    def called(place: Path, names: Collection[str]) -> list[Path]:
        listed.append(place)
        return folders_called(place, names)

    monkeypatch.setattr(reader_files, "folders_called", called)
    one, other = tmp_path / "one", tmp_path / "other"
    other.mkdir()
    (one / "HeatMaps").mkdir(parents=True)
    assert find_maps(None, other, other, one) == (one / "HeatMaps", False)
    assert listed == [other, one]
    (other / "heatmaps").mkdir()
    assert find_maps(None, other, one) == (other / "heatmaps", False)
    assert listed == [other, one]


def test_an_image_is_given_with_one_label(tmp_path: Path) -> None:
    """Real images of a folder that holds the fakes, too, would count as of either class."""
    names = ("all/1.png", "all/new/2.png", "data/real/3.png", "data/fake/4.png")
    write(dict.fromkeys(names, "face 1"), tmp_path)

    def read(data: Collection[str] = (), **tests: str) -> tuple[int, int]:
        given = {name: {"new": f"{tmp_path}/{path}"} for name, path in tests.items()}
        paths = tuple(f"{tmp_path}/{path}" for path in data)
        config = EvaluateConfig(model_dir="m", data=paths, **given)
        own, others = read_given(config, allow_unlabelled=True)
        return len(own), len(others)

    message = r"2\.png' is given as real and as synthetic: keep one of them"
    with pytest.raises(InputError, match=message):
        read(test_data="all/new", test_real="all")
    with pytest.raises(InputError, match=r"3\.png' is given as real and as synthetic"):
        read(["data"], test_data="data/real")
    # In two roles, but of one class.
    assert read(["data"], test_data="data/fake", test_real="data/real") == (2, 2)
    assert read(["all"], test_data="all") == (2, 2)
