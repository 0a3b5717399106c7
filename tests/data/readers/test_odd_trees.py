"""Trees that look like another layout, maps that look like other images', images given twice."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.config.evaluate import EvaluateConfig
from focus.config.train import TrainConfig
from focus.data.images import load_image, load_map
from focus.data.maps import files_of
from focus.data.readers import read_data, read_given
from focus.errors import ImageError, InputError
from focus.model.detector import Detector
from focus.training.run import train
from focus.use.evaluate import evaluate

from ... import commands


def pictures(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(path)
    return root


def maps_of(root: Path) -> dict[str, list[str]]:
    """The human maps of each image, below the root."""
    return {
        str(Path(s.path).relative_to(root)): [
            str(Path(file).relative_to(root)) for file in files_of(s.map_path or "") if file
        ]
        for s in read_data(root)
    }


def test_annotators_maps_are_not_the_fakes_that_are_named_after_their_sources(
    tmp_path: Path,
) -> None:
    root = pictures(tmp_path, "real/07.png", "fake/07_1.png", "fake/07_2.png")
    pictures(root, "heatmaps/real/07_1.png", "heatmaps/real/07_2.png")
    reals = ["heatmaps/real/07_1.png", "heatmaps/real/07_2.png"]
    assert maps_of(root) == {"real/07.png": reals, "fake/07_1.png": [], "fake/07_2.png": []}
    # The fakes have annotators too.
    pictures(root, "heatmaps/fake/07_1_1.png", "heatmaps/fake/07_1_2.png")
    fakes = ["heatmaps/fake/07_1_1.png", "heatmaps/fake/07_1_2.png"]
    assert maps_of(root) == {"real/07.png": reals, "fake/07_1.png": fakes, "fake/07_2.png": []}


def test_a_folder_that_images_have_is_no_annotator(tmp_path: Path) -> None:
    root = pictures(tmp_path, "real/1.png", "real/2.png", "fake/3.png")
    pictures(root, "heatmaps/fake/1.png", "heatmaps/fake/2.png")
    assert not any(maps_of(root).values())
    (root / "heatmaps" / "fake").rename(root / "heatmaps" / "anna")
    assert maps_of(root)["real/1.png"] == ["heatmaps/anna/1.png"]


@pytest.mark.parametrize("folder", ["heatmaps", "Heatmaps", "masks"])
def test_maps_below_a_split_or_a_generator_are_no_images(
    folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [f"{split}/{label}/0.png" for split in ("train", "val") for label in ("real", "fake")]
    root = pictures(tmp_path, *images, f"train/{folder}/fake/0.png")
    found = read_data(root)
    assert sorted(str(Path(s.path).relative_to(root)) for s in found) == sorted(images)
    assert {s.generator for s in found} == {"", "synthetic"}
    assert f"passed over 1 files in train/{folder}, which by its name holds maps" in caplog.text


def test_maps_may_be_a_class_below_a_generator(tmp_path: Path) -> None:
    classes = [
        f"gan/{name}/{label}/0.png" for name in ("maps", "cat") for label in ("0_real", "1_fake")
    ]
    assert len(read_data(pictures(tmp_path, *classes))) == 4


@pytest.mark.parametrize(
    "tree",
    [
        "{label}/{split}/0.png",
        "gan/{label}/{split}/0.png",
        "{label}/StyleGAN2/{split}/0.png",
        "{label}/{split}/StyleGAN2/0.png",
    ],
)
def test_a_split_below_the_label_is_kept(tree: str, tmp_path: Path) -> None:
    names = [
        tree.format(label=label, split=split)
        for label in ("real", "fake")
        for split in ("train", "val", "test")
    ]
    found = read_data(pictures(tmp_path, *names))
    for sample in found:
        assert sample.split == {"val": "validation"}.get(
            split := next(s for s in ("train", "val", "test") if f"/{s}/" in sample.path), split
        )
    fakes = {sample.generator for sample in found if sample.label}
    assert fakes == {
        "StyleGAN2" if "StyleGAN2" in tree else "gan" if "gan" in tree else "synthetic"
    }


def test_a_class_of_trains_below_the_label_is_no_split(tmp_path: Path) -> None:
    names = [f"{label}/{name}/0.png" for label in ("0_real", "1_fake") for name in ("train", "cat")]
    assert {sample.split for sample in read_data(pictures(tmp_path, *names))} == {""}


def csv(path: Path, *rows: str) -> str:
    path.write_text("path,label,split\n" + "".join(f"{row}\n" for row in rows))
    return str(path)


def test_one_folder_of_maps_may_be_of_one_source_of_several(tmp_path: Path) -> None:
    pictures(tmp_path, "a/1.png", "a/2.png", "b/3.png", "h/1.png")
    first = csv(tmp_path / "a.csv", "a/1.png,real,train", "a/2.png,fake,train")
    second = csv(tmp_path / "b.csv", "b/3.png,fake,train")
    config = TrainConfig(data=(first, second), heatmaps=str(tmp_path / "h"))
    found, _ = read_given(config)
    assert [sample.map_path for sample in found] == [str(tmp_path / "h/1.png"), None, None]
    (tmp_path / "h" / "1.png").rename(tmp_path / "h" / "9.png")
    with pytest.raises(InputError, match=r"None of the 1 human maps .* image of .*a.csv, .*b.csv:"):
        read_given(config)


def test_a_training_images_map_is_no_test_images(tmp_path: Path) -> None:
    pictures(tmp_path, "real/0.png", "fake/1.png", "new/0.png", "heatmaps/0.png")
    train = csv(tmp_path / "train.csv", "real/0.png,real,train", "fake/1.png,fake,train")
    test = csv(tmp_path / "test.csv", "new/0.png,fake,test")
    own, tests = read_given(TrainConfig(data=(train,), test_data={"New": test}))
    assert own[0].map_path == str(tmp_path / "heatmaps/0.png")
    assert tests[0].map_path is None
    # Where the folders are like the images', each has its own.
    (tmp_path / "heatmaps" / "0.png").unlink()
    pictures(tmp_path, "heatmaps/real/0.png", "heatmaps/new/0.png")
    _, tests = read_given(TrainConfig(data=(train,), test_data={"New": test}))
    assert tests[0].map_path == str(tmp_path / "heatmaps/new/0.png")


def test_a_link_to_the_other_class_is_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path, "0_real/r.png", "1_fake/f.png")
    (root / "1_fake" / "l.png").symlink_to(root / "0_real" / "r.png")
    with pytest.raises(
        InputError, match=r"l.png' is given as real and as synthetic, there as '.*r.png': keep one"
    ):
        read_given(TrainConfig(data=(str(root),)))


def test_a_fake_of_two_generators_is_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path, "train/real/0.png", "train/fake/1.png", "new/sub/2.png")
    data = (str(root / "train"),)
    twice = {"StyleGAN3": str(root / "new"), "SDXL": str(root / "new" / "sub")}
    with pytest.raises(
        InputError, match=r"2.png' is given as a fake of StyleGAN3 and of SDXL: keep"
    ):
        read_given(TrainConfig(data=data, test_data=twice))


def test_crop_and_check_do_not_write_where_they_read(tmp_path: Path) -> None:
    root = pictures(tmp_path, "tree/real/0.png", "tree/fake/1.png", "plain/2.png")
    with pytest.raises(InputError, match=r"--output .*/tree/faces lies in .*/tree, where its pict"):
        commands.crop([str(root / "tree"), "--output", str(root / "tree" / "faces")])
    tests = ["--test-data", f"SG3={root / 'plain'}", "--output", str(root / "plain" / "check")]
    with pytest.raises(InputError, match=r"--output .*/plain/check lies in .*/plain, where its pi"):
        commands.check([str(root / "tree"), *tests])
    assert not (root / "plain" / "check").exists()


@pytest.mark.parametrize("read", [load_image, load_map])
def test_integers_whose_white_is_not_known_are_refused(read: object, tmp_path: Path) -> None:
    """As 16-bit ones they would be black."""
    assert callable(read)
    path = tmp_path / "32.tif"
    Image.fromarray(np.full((4, 4), 255, np.int32)).save(path)
    with pytest.raises(ImageError, match=r"32.tif' \(32 bits a pixel and values up to 255: white"):
        read(path)
    Image.fromarray(np.full((4, 4), 65535, np.int32)).save(path)
    assert np.asarray(read(path)).min() in (255, 1.0)


def test_a_run_or_an_evaluation_writes_nowhere_among_the_images_it_reads(tmp_path: Path) -> None:
    """Its overlays would be fakes of that generator the next time; nor is a table replaced."""
    faces, new = tmp_path / "faces", tmp_path / "new"
    pictures(tmp_path, *(f"faces/{name}.png" for name in "abcd"), "new/e.png")
    rows = ["a.png,real,train", "b.png,fake,train", "c.png,real,val", "d.png,fake,val"]
    table = faces / "scores.csv"
    table.write_text("path,label,split\n" + "\n".join(rows) + "\n")
    Detector().save_pretrained(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    data, model = (str(table),), str(tmp_path / "model")
    inside = "lies in .*new, where its pictures would be taken for images the next"
    tests = {"new": str(new)}
    with pytest.raises(InputError, match=f"--output .*runs/x {inside}"):
        train(TrainConfig(data=data, test_data=tests, output=str(new / "runs"), name="x"))
    with pytest.raises(InputError, match=f"--output .*out {inside}"):
        evaluate(EvaluateConfig(model_dir=model, output=str(new / "out"), test_data=tests))
    with pytest.raises(InputError, match=r"would replace .*scores.csv: give another"):
        evaluate(EvaluateConfig(model_dir=model, output=str(faces), data=data))
    assert sorted(tmp_path.rglob("*")) == before
