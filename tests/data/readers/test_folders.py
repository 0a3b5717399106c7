"""Folder trees: their names say label, generator, class and split, and maps are no images."""

from pathlib import Path

import pytest

from focus.errors import InputError

from ..reading import read_data
from ..trees import TREES, write

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
    found = read(tree(tmp_path, *labels("0_real 1_fake", *names.split())))
    of = dict(zip(names.split(), splits.split(), strict=True))
    assert [row[3] for row in found] == [of[row[0].rsplit("/", 2)[0]] for row in found]
    assert {row[2] for row in found if row[1]} == ({"X", "Y"} if "/" in names else {"synthetic"})


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
        found = read(tree(tmp_path / root, *names))
        assert all(row[3] in row[0].split("/") for row in found)
        assert {row[2] for row in found if row[1]} == {generator}


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
    found = read_data(root)
    assert [(s.path, s.human_map) for s in found] == [
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
