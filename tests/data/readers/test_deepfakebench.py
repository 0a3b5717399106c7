"""FaceForensics++, Celeb-DF and DF40 in their own folders."""

import json
from pathlib import Path

import pytest

from focus.config.shared import SharedConfig
from focus.data.readers import read_given
from focus.errors import InputError

from ..reading import read_data
from ..trees import write

Row = tuple[str, int | None, str, str, dict[str, str]]


def read(folder: Path, *names: str) -> list[Row]:
    """Write images and return path, label, generator, group and extra of each."""
    write({f"{name}.png": "face 1" for name in names}, folder)
    found = read_data(folder)
    return [
        (s.path.removeprefix(f"{folder}/")[:-4], s.label, s.generator, s.group, dict(s.extra))
        for s in found
    ]


def test_faceforensics(tmp_path: Path) -> None:
    """One video at two levels, with what was made of it, is one group."""
    real, fake = "original_sequences", "manipulated_sequences"
    rows = read(
        tmp_path / "FF",
        *(f"{real}/youtube/{level}/frames/033/0001" for level in ("c23", "c40")),
        *(f"{fake}/Deepfakes/c23/frames/{video}/0001" for video in ("033_097", "097_033")),
        f"{fake}/DeepFakeDetection/raw/01_02__walking__YVGY8LOK/0001",
        f"{real}/actors/raw/images/01__walking/0001",
        f"{fake}/Deepfakes/c23/masks/033_097/0001",
        "downloaded/0001",
    )
    found = {row[0].rsplit("/", 1)[0]: (*row[1:4], *row[4].values()) for row in rows}
    assert found == {
        f"{fake}/DeepFakeDetection/raw/01_02__walking__YVGY8LOK": (
            *(1, "DeepFakeDetection", "DFD 01", "raw"),
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
    found = read_given(SharedConfig(data=tuple(paths))).data
    assert [(s.label, s.generator, s.extra["compression"], s.group) for s in found] == [
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
    rows = read(
        tmp_path,
        *("Celeb-real/frames/id0_0000/0", "YouTube-real/00043/0"),
        *("Celeb-synthesis/frames/id0_id16_0000/0", "Celeb-synthesis/id16_id0_0003/0"),
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
    assert [row[:4] for row in sorted(read(root, *names))] == [
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
    assert [row[:3] for row in sorted(read(tmp_path / "DF40", *names))] == [
        ("0_real/1", 0, ""),
        ("real/1", 0, ""),
        ("test/1_fake/simswap/1", 1, "simswap"),
        ("train/real/1", 0, ""),
        ("train/simswap/1", 1, "simswap"),
    ]


def test_a_project_called_df40_is_no_such_set(tmp_path: Path) -> None:
    found = read_data(
        write({f"DF40/mine/{label}/1.png": "face 1" for label in ("real", "fake")}, tmp_path)
        / "DF40/mine"
    )
    assert [(s.label, s.generator) for s in found] == [(1, "synthetic"), (0, "")]
