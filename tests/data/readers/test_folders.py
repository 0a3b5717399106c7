"""Folder trees: their names say label, generator, class and split, and maps are no images.

Also FaceForensics++, Celeb-DF and DF40 in their own folders.
"""

import json
from pathlib import Path

import pytest

from focus.config.shared import SharedConfig
from focus.data.readers import read_given
from focus.errors import InputError

from ..reading import read_data
from ..trees import TREES, write

Row = tuple[str, int | None, str, str, dict[str, str]]
CLASSES = ["airplane", "bicycle", "bird", "train"]


def read(folder: Path, generator: str | None = None) -> list[tuple[str, int | None, str, str, str]]:
    """Return path below the folder, label, generator, split and class of each image."""
    return [
        (
            s.path.removeprefix(f"{folder}/"),
            *(s.label, s.generator, s.split),
            s.extra.get("class", s.extra.get("source", "")),
        )
        for s in read_data(folder, generator=generator)
    ]


def tree(folder: Path, *names: str) -> Path:
    return write({f"{name}.png": "face 1" for name in names}, folder)


def labels(names: str, *tops: str) -> list[str]:
    return [f"{top}/{label}/1" for top in tops for label in names.split()]


def test_numbered_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(TREES["0_real-1_fake"], tmp_path)
    assert read(tmp_path) == [
        ("progan/airplane/0_real/00009.png", 0, "progan", "", "airplane"),
        ("progan/airplane/0_real/00010.png", 0, "progan", "", "airplane"),
        ("progan/airplane/1_fake/00009.png", 1, "progan", "", "airplane"),
        ("progan/train/0_real/00009.png", 0, "progan", "", "train"),
        ("progan/train/1_fake/00009.PNG", 1, "progan", "", "train"),
        ("StyleGAN2/0_Real/2.Jpg", 0, "StyleGAN2", "", ""),
        ("StyleGAN2/0_Real/10.jpg", 0, "StyleGAN2", "", ""),
        ("StyleGAN2/1_Fake/part1/a.jpeg", 1, "StyleGAN2", "", ""),
    ]
    assert caplog.messages == [
        f"{tmp_path}: left out 1 images that are in no folder 0_real or 1_fake"
    ]


def test_nature_and_ai(tmp_path: Path) -> None:
    sdv4, mj = "imagenet_ai_0419_sdv4", "imagenet_midjourney"
    assert [row[1:4] for row in read(write(TREES["nature-ai"], tmp_path))] == [
        *((1, sdv4, "train"), (1, sdv4, "train"), (0, sdv4, "train")),
        *((1, sdv4, "validation"), (0, sdv4, "validation")),
        *((1, mj, "validation"), (0, mj, "validation")),
    ]


def test_real_and_fake(tmp_path: Path) -> None:
    assert read(write(TREES["real-fake"], tmp_path)) == [
        ("DDPM/faces/fake/1.png", 1, "DDPM", "", "faces"),
        ("DDPM/faces/real/1.png", 0, "DDPM", "", "faces"),
        ("StyleGAN3/Fake/1.png", 1, "StyleGAN3", "", ""),
        ("StyleGAN3/Fake/2.webp", 1, "StyleGAN3", "", ""),
        ("StyleGAN3/Real/1.png", 0, "StyleGAN3", "", ""),
    ]


def test_folders_of_classes_belong_to_the_generator_that_is_given(tmp_path: Path) -> None:
    """CNNDetection's training set: each class would be taken for a generator."""
    tree(tmp_path, *labels("0_real 1_fake", *(f"train/{name}" for name in CLASSES)))
    assert {row[2:] for row in read(tmp_path)} == {(name, "train", "") for name in CLASSES}
    assert [row[1:] for row in read(tmp_path, "ProGAN")] == [
        (label, "ProGAN" * label, "train", name) for name in CLASSES for label in (0, 1)
    ]
    # Where folders have the names of generators the flag is of no use.
    (tmp_path / "train/airplane").rename(tmp_path / "train/StyleGAN2")
    assert {row[2] for row in read(tmp_path, "ProGAN")} == {*CLASSES[1:], "StyleGAN2"}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("train_set dev Evaluation", "train validation test"),
        ("train holdout", "train test"),
        ("X/train X/val Y/a/train Y/a/val", "train validation train validation"),
    ],
)
def test_whatever_the_folders_of_splits_are_called(names: str, splits: str, tmp_path: Path) -> None:
    rows = read(tree(tmp_path, *labels("0_real 1_fake", *names.split())))
    of = dict(zip(names.split(), splits.split(), strict=True))
    assert [row[3] for row in rows] == [of[row[0].rsplit("/", 2)[0]] for row in rows]
    assert {row[2] for row in rows if row[1]} == ({"X", "Y"} if "/" in names else {"synthetic"})


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    for number, tops in enumerate(("progan/train", "progan/train progan/cat", "train cat")):
        root = tree(tmp_path / str(number), *labels("0_real 1_fake", *tops.split()))
        assert {row[3] for row in read(root)} == {""}
    names = [f"{label}/{name}/0" for label in ("0_real", "1_fake") for name in ("train", "cat")]
    assert {row[3] for row in read(tree(tmp_path / "below", *names))} == {""}


def test_a_split_beside_a_folder_that_is_none_would_be_trained_on(tmp_path: Path) -> None:
    for kind, names, message in (
        ("nature ai", "test unseen", "/set has a folder test beside unseen, which names no split"),
        ("real fake", "X/train X/more Y/train Y/val", "/set/X has a folder train beside more"),
    ):
        with pytest.raises(InputError, match=message):
            read(tree(tmp_path / kind / "set", *labels(kind, *names.split())))


def test_a_split_below_the_label_is_kept(tmp_path: Path) -> None:
    both = [(label, split) for label in ("real", "fake") for split in ("train", "test")]
    for root, shape, generator in (
        ("1", "{label}/{split}/0", "synthetic"),
        ("2", "gan/{label}/{split}/0", "gan"),
        ("3", "{label}/StyleGAN2/{split}/0", "StyleGAN2"),
        ("4", "{label}/{split}/StyleGAN2/0", "StyleGAN2"),
    ):
        names = [shape.format(label=label, split=split) for label, split in both]
        rows = read(tree(tmp_path / root, *names))
        assert all(row[3] in row[0].split("/") for row in rows)
        assert {row[2] for row in rows if row[1]} == {generator}


def test_folders_below_the_label_are_generators_if_one_is_known(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "fake/SG2/1", "fake/mine/a/1", "real/1", "real/FFHQ/1")
    assert [row[1:] for row in read(root)] == [
        *((1, "mine", "", ""), (1, "SG2", "", "")),
        *((0, "", "", ""), (0, "", "", "FFHQ")),
    ]
    # What lies in no folder has no generator, and other folders mean nothing.
    tree(root, "fake/1")
    assert {row[2] for row in read(root) if row[1]} == {"synthetic"}
    root = tree(tmp_path / "b", "real/id0/1", "fake/id0_id1/1", "fake/id0_id2/1")
    assert {row[2] for row in read(root) if row[1]} == {"synthetic"}


def test_folders_of_maps_hold_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = ["train/fake/1", "train/real/1"]
    maps = ("Masks/fake/1", "train/maps/fake/1", "heatmaps/train/fake/1")
    root = tree(tmp_path / "x", *images, *maps)
    manifest = read_data(root)
    assert [(s.path, s.human_map) for s in manifest] == [
        (f"{root}/train/fake/1.png", f"{root}/heatmaps/train/fake/1.png"),
        (f"{root}/train/real/1.png", None),
    ]
    passed = f"{root}: passed over 1 files in {{}}, which by its name holds maps and no images"
    assert caplog.messages == [passed.format(name) for name in ("Masks", "train/maps")]
    write({"train/fake/2.HEIC": "face 1"}, root)
    read(root)
    assert caplog.messages[-1] == f"{root}: left out 1 HEIC or JPEG XL files: convert them"
    (empty := root / "none").mkdir()
    with pytest.raises(InputError, match=r"There are no images in the folder .*/none"):
        read(empty)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    tree(tmp_path, "store/r", "set/a/1_fake/f")
    links = {"a/0_real": "../../store", "b": "a", "a/1_fake/loop": "../../../set"}
    write({f"set/{name} ->": to for name, to in links.items()}, tmp_path)
    assert [row[:3] for row in read(tmp_path / "set")] == [
        *(("a/0_real/r.png", 0, "a"), ("a/1_fake/f.png", 1, "a")),
        *(("b/0_real/r.png", 0, "b"), ("b/1_fake/f.png", 1, "b")),
    ]


def read_frames(folder: Path, *names: str) -> list[Row]:
    """Write images and return path, label, generator, group and extra of each."""
    write({f"{name}.png": "face 1" for name in names}, folder)
    manifest = read_data(folder)
    return [
        (s.path.removeprefix(f"{folder}/")[:-4], s.label, s.generator, s.group, dict(s.extra))
        for s in manifest
    ]


def test_faceforensics(tmp_path: Path) -> None:
    """One video at two levels, with what was made of it, is one group."""
    real, fake = "original_sequences", "manipulated_sequences"
    rows = read_frames(
        tmp_path / "FF",
        *(f"{real}/youtube/{level}/frames/033/0001" for level in ("c23", "c40")),
        *(f"{fake}/Deepfakes/c23/frames/{video}/0001" for video in ("033_097", "097_033")),
        f"{fake}/DeepFakeDetection/raw/01_02__walking__YVGY8LOK/0001",
        f"{real}/actors/raw/images/01__walking/0001",
        f"{fake}/Deepfakes/c23/masks/033_097/0001",
        "downloaded/0001",
    )
    of_folders = {row[0].rsplit("/", 1)[0]: (*row[1:4], *row[4].values()) for row in rows}
    assert of_folders == {
        f"{fake}/DeepFakeDetection/raw/01_02__walking__YVGY8LOK": (
            1,
            "DeepFakeDetection",
            "DFD 01",
            "raw",
        ),
        f"{fake}/Deepfakes/c23/frames/033_097": (1, "Deepfakes", "FF++ 033", "c23"),
        f"{fake}/Deepfakes/c23/frames/097_033": (1, "Deepfakes", "FF++ 097", "c23"),
        f"{real}/actors/raw/images/01__walking": (0, "", "DFD 01", "actors", "raw"),
        f"{real}/youtube/c23/frames/033": (0, "", "FF++ 033", "youtube", "c23"),
        f"{real}/youtube/c40/frames/033": (0, "", "FF++ 033", "youtube", "c40"),
    }


def test_one_level_of_faceforensics(tmp_path: Path) -> None:
    """Its folders are given one by one, as a shell expands FF/*/*/c23."""
    write(
        {
            f"FF/{top}/{level}/frames/033{more}/1.png": "face 1"
            for level in ("c23", "c40")
            for top, more in (
                ("original_sequences/youtube", ""),
                ("manipulated_sequences/FaceSwap", "_097"),
            )
        },
        tmp_path,
    )
    paths = sorted(map(str, (tmp_path / "FF").glob("*/*/c23")))
    images = read_given(SharedConfig(data=tuple(paths))).data
    assert [(s.label, s.generator, s.extra["compression"], s.group) for s in images] == [
        (1, "FaceSwap", "c23", "FF++ 033"),
        (0, "", "c23", "FF++ 033"),
    ]


def test_official_splits_of_faceforensics(tmp_path: Path) -> None:
    videos = ("033", "097", "500", "501", "777")
    names = [f"original_sequences/youtube/c23/{video}/1" for video in videos]
    names += [f"manipulated_sequences/F2F/c23/{a}_{b}/1" for a, b in (("500", "501"),)]
    for name, pairs in (("train", [["033", "097"]]), ("test", [["501", "500"]])):
        (tmp_path / f"{name}.json").write_text(json.dumps(pairs))
    write({f"{name}.png": "face 1" for name in names}, tmp_path)
    assert {Path(s.path).parent.name: s.split for s in read_data(tmp_path)} == {
        **dict.fromkeys(("033", "097"), "train"),
        **dict.fromkeys(("500", "501", "500_501"), "test"),
        "777": "",
    }
    (tmp_path / "val.json").write_text("033 097")
    with pytest.raises(InputError, match=r"val\.json cannot be read .*: put the official file"):
        read_data(tmp_path)


def test_celeb_df(tmp_path: Path) -> None:
    rows = read_frames(
        tmp_path,
        "Celeb-real/frames/id0_0000/0",
        "YouTube-real/00043/0",
        "Celeb-synthesis/frames/id0_id16_0000/0",
        "Celeb-synthesis/id16_id0_0003/0",
    )
    assert {(row[0].split("/")[-2], *row[1:4], row[4].get("source")) for row in rows} == {
        ("id0_0000", 0, "", "Celeb-DF id0", "Celeb-real"),
        ("00043", 0, "", "Celeb-DF 00043", "YouTube-real"),
        ("id0_id16_0000", 1, "Celeb-DF", "Celeb-DF id0", None),
        ("id16_id0_0003", 1, "Celeb-DF", "Celeb-DF id16", None),
    }


def test_df40(tmp_path: Path) -> None:
    """Its fakes are made of the videos of the other two; some methods bring their own reals."""
    root = tmp_path / "DF40"
    names = (
        "simswap/ff/frames/033_097/1",
        "simswap/cdf/id0_id1_0000/1",
        "DiT/cdf/YouTube-real/00043/458",
        "DiT/cdf/frames/Celeb-real/id0_0000/1",
        "MidJourney/fake/1",
        "MidJourney/real/1",
    )
    assert [row[:4] for row in sorted(read_frames(root, *names))] == [
        ("DiT/cdf/YouTube-real/00043/458", 1, "DiT", "Celeb-DF 00043"),
        ("DiT/cdf/frames/Celeb-real/id0_0000/1", 1, "DiT", "Celeb-DF id0"),
        ("MidJourney/fake/1", 1, "MidJourney", ""),
        ("MidJourney/real/1", 0, "MidJourney", ""),
        ("simswap/cdf/id0_id1_0000/1", 1, "simswap", "Celeb-DF id0"),
        ("simswap/ff/frames/033_097/1", 1, "simswap", "FF++ 033"),
    ]
    reals = write({"FF/original_sequences/youtube/c23/033/1.png": "face 1"}, tmp_path) / "FF"
    tests = read_given(
        SharedConfig(test_data={"DF40": str(root)}, test_real={"FF": str(reals)})
    ).tests
    assert tests.generators() == ["DiT", "MidJourney", "simswap"]
    assert sorted(s.generator for s in tests if s.label == 0) == ["DiT | simswap", "MidJourney"]


def test_real_images_put_into_df40(tmp_path: Path) -> None:
    names = ("real/1", "0_real/1", "train/real/1", "train/simswap/1", "test/1_fake/simswap/1")
    assert [row[:3] for row in sorted(read_frames(tmp_path / "DF40", *names))] == [
        ("0_real/1", 0, ""),
        ("real/1", 0, ""),
        ("test/1_fake/simswap/1", 1, "simswap"),
        ("train/real/1", 0, ""),
        ("train/simswap/1", 1, "simswap"),
    ]


def test_a_project_called_df40_is_no_such_set(tmp_path: Path) -> None:
    images = read_data(
        write({f"DF40/mine/{label}/1.png": "face 1" for label in ("real", "fake")}, tmp_path)
        / "DF40/mine"
    )
    assert [(s.label, s.generator) for s in images] == [(1, "synthetic"), (0, "")]
