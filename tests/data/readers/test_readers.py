"""The readers, on trees that this file writes by itself."""

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from PIL import Image

from focus.config.layouts import parse_columns
from focus.config.train import EvaluateConfig, TrainConfig
from focus.data.manifest import Manifest, Sample
from focus.data.readers import read_data, read_given, read_tests
from focus.data.readers.files import from_rows
from focus.errors import InputError


def touch(*paths: Path) -> None:
    """Small images; the readers do not decode them."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(path)


@pytest.fixture
def cyborg(tmp_path: Path) -> Path:
    """A CYBORG set whose CSV is not at the image root."""
    root = tmp_path / "Data"
    touch(root / "real/1.png", root / "real/2.png", root / "sg2/3.jpg", root / "sg2/4.png")
    touch(root / "heatmaps/1.jpg", root / "heatmaps/3.png")
    csv = tmp_path / "csvs" / "original.csv"
    csv.parent.mkdir()
    csv.write_text(
        "train,Real,/real/1.png\r\ntrain,Synthetic,/sg2/3.jpg,StyleGAN2\r\n\r\n"
        "test,Real,/real/2.png\r\ntest,Synthetic,/sg2/4.png\r\n"
    )
    return csv


def test_cyborg_csv(cyborg: Path) -> None:
    root = cyborg.parent.parent / "Data"
    assert list(read_data(cyborg, data_root=root)) == [
        Sample(f"{root}/real/1.png", 0, split="train", map_path=f"{root}/heatmaps/1.jpg"),
        Sample(
            f"{root}/sg2/3.jpg", 1, "StyleGAN2", split="train", map_path=f"{root}/heatmaps/3.png"
        ),
        Sample(f"{root}/real/2.png", 0, split="validation"),
        Sample(f"{root}/sg2/4.png", 1, "synthetic", split="validation"),
    ]
    assert read_data(cyborg, data_root=root, generator="SG2").generators() == ["SG2", "StyleGAN2"]


def test_cyborg_root_is_the_csv_folder_and_heatmaps_can_be_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "maps/a.tif")
    (tmp_path / "d.csv").write_text("train,Real,/a.png\n")
    assert read_data(tmp_path / "d.csv")[0].map_path is None
    (found,) = read_data(tmp_path / "d.csv", heatmaps=tmp_path / "maps")
    assert found.map_path == f"{tmp_path}/maps/a.tif"
    with pytest.raises(InputError, match=r"human maps .*nowhere are neither a folder nor"):
        read_data(tmp_path / "d.csv", heatmaps=tmp_path / "nowhere")
    touch(tmp_path / "others/z.png")
    with pytest.raises(InputError, match=r"None of the 1 human maps in .*others"):
        read_data(tmp_path / "d.csv", heatmaps=tmp_path / "others")


def test_a_map_of_two_images_of_one_name_is_the_training_images(tmp_path: Path) -> None:
    touch(tmp_path / "x/1.png", tmp_path / "y/1.png", tmp_path / "heatmaps/1.png")
    csv = tmp_path / "d.csv"
    csv.write_text("test,Real,/x/1.png\ntrain,Synthetic,/y/1.png\n")
    assert [s.map_path for s in read_data(csv)] == [None, f"{tmp_path}/heatmaps/1.png"]
    csv.write_text("train,Real,/x/1.png\ntrain,Synthetic,/y/1.png\n")
    with pytest.raises(InputError, match=r"heatmaps/1.png' could belong to 2 images"):
        read_data(csv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("train,Real,/a.png\ntrain,Fake,/a.png\n", "line 2: label 'Fake' is neither"),
        ("train,Real,/a.png\nval,Real,/a.png\n", "line 2: split 'val' is neither"),
        ("train,Real,/a.png\n\ntrain,/a.png\n", "line 3: 2 columns"),
        ("train,Real,/a.png,x,y\n", "line 1: 5 columns"),
        ("train,Real,/../a.png\n", "line 1: path '../a.png' leaves the data root"),
        ("train,Real,/a.png\ntrain,Real,/b.png\ntest,Real,/c.png\n", "2 of the 3 .*b.png' .line 2"),
        ("train,Real,\n", "line 1: an empty path"),
    ],
)
def test_bad_cyborg_rows(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path / "set/a.png", tmp_path / "a.png")
    csv = tmp_path / "set" / "d.csv"
    csv.write_text(text)
    with pytest.raises(InputError, match=message):
        read_data(csv)


def test_a_manifest_csv_is_known_by_its_marker(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "maps/b.png")
    samples = [Sample(f"{tmp_path}/a.png", 0, group="g"), Sample(f"{tmp_path}/b.png", 1, "X")]
    Manifest(samples).to_csv(tmp_path / "m.csv")
    assert list(read_data(tmp_path / "m.csv")) == samples
    found = read_data(tmp_path / "m.csv", heatmaps=tmp_path / "maps")
    assert [s.map_path for s in found] == [None, f"{tmp_path}/maps/b.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"1 of the 2 images .*a.png"):
        read_data(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_text("# focus-manifest 1\npath,label\n")
    with pytest.raises(InputError, match="has no rows"):
        read_data(tmp_path / "m.csv")


def test_a_manifest_that_was_written_is_read_wherever_its_images_are(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "set/b.png")
    samples = [Sample(f"{tmp_path}/a.png", 0), Sample(f"{tmp_path}/set/b.png", 0)]
    detour = replace(samples[1], path=f"{tmp_path}/set/../set/b.png")
    Manifest([*samples, detour]).to_csv(tmp_path / "set/m.csv")
    assert list(read_data(tmp_path / "set/m.csv")) == samples
    other = Sample(f"{tmp_path}/set/../a.png", 1, "X")
    Manifest([*samples, other]).to_csv(tmp_path / "set/m.csv")
    with pytest.raises(
        InputError, match=r"line 5: '.*/a.png' is in line 3 too, with another label"
    ):
        read_data(tmp_path / "set/m.csv")


def test_a_cell_as_long_as_it_was_written(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    many = f"{tmp_path}/maps/{{{','.join(f'annotator {i}/a.png' for i in range(9000))}}}"
    samples = [Sample(f"{tmp_path}/a.png", 0, map_path=many)]
    Manifest(samples).to_csv(tmp_path / "m.csv")
    assert list(read_data(tmp_path / "m.csv")) == samples


def test_trees_of_generators_classes_and_splits(tmp_path: Path) -> None:
    touch(
        *(tmp_path / "train/progan/cat/0_real" / f"{i}.png" for i in (10, 9)),
        tmp_path / "train/progan/cat/1_fake/x1.jpg",
        tmp_path / "val/progan/cat/1_fake/y.PNG",
        tmp_path / "test/stylegan/0_real/r.png",
        tmp_path / "test/stylegan/1_fake/f.webp",
    )
    (tmp_path / "train/progan/cat/0_real/notes.txt").write_text("no image")
    (tmp_path / "train/progan/cat/0_real/._9.png").write_text("a macOS leftover")
    cat = {"class": "cat"}
    at = f"{tmp_path}/train/progan/cat"
    assert list(read_data(tmp_path)) == [
        Sample(f"{tmp_path}/test/stylegan/0_real/r.png", 0, "stylegan", split="test"),
        Sample(f"{tmp_path}/test/stylegan/1_fake/f.webp", 1, "stylegan", split="test"),
        Sample(f"{at}/0_real/9.png", 0, "progan", split="train", extra=cat),
        Sample(f"{at}/0_real/10.png", 0, "progan", split="train", extra=cat),
        Sample(f"{at}/1_fake/x1.jpg", 1, "progan", split="train", extra=cat),
        Sample(
            f"{tmp_path}/val/progan/cat/1_fake/y.PNG", 1, "progan", split="validation", extra=cat
        ),
    ]


def test_a_bare_tree_with_maps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "0_real/1.png", tmp_path / "1_fake/1.png", tmp_path / "1_fake/sub/2.png")
    touch(tmp_path / "heatmaps/1_fake/1.jpg", tmp_path / "heatmaps/2.png", tmp_path / "cover.png")
    with caplog.at_level(logging.WARNING):
        found = read_data(tmp_path, generator="SG3")
    assert list(found) == [
        Sample(f"{tmp_path}/0_real/1.png", 0, ""),
        Sample(
            f"{tmp_path}/1_fake/1.png",
            *(1, "SG3"),
            map_path=f"{tmp_path}/heatmaps/1_fake/1.jpg",
        ),
        Sample(
            f"{tmp_path}/1_fake/sub/2.png",
            *(1, "SG3"),
            map_path=f"{tmp_path}/heatmaps/2.png",
        ),
    ]
    assert "left out 1 images" in caplog.text


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "store/r.png", tmp_path / "set/a/1_fake/f.png")
    (tmp_path / "set/a/0_real").symlink_to(tmp_path / "store")
    (tmp_path / "set/b").symlink_to(tmp_path / "set/a")
    (tmp_path / "set/a/1_fake/loop").symlink_to(tmp_path / "set")
    found = read_data(tmp_path / "set")
    assert [(s.path.removeprefix(f"{tmp_path}/set/"), s.generator) for s in found] == [
        ("a/0_real/r.png", "a"),
        ("a/1_fake/f.png", "a"),
        ("b/0_real/r.png", "b"),
        ("b/1_fake/f.png", "b"),
    ]


def test_unlabelled_images(tmp_path: Path) -> None:
    touch(tmp_path / "new/b2.png", tmp_path / "new/b10.png", tmp_path / "new/a/z.png")
    found = read_data(tmp_path / "new", allow_unlabelled=True)
    names = ["a/z.png", "b2.png", "b10.png"]
    assert list(found) == [Sample(f"{tmp_path}/new/{name}") for name in names]
    one = tmp_path / "new/b2.png"
    assert list(read_data(one, allow_unlabelled=True)) == [Sample(str(one))]
    for path in (tmp_path / "new", one):
        with pytest.raises(InputError, match="images without label"):
            read_data(path)


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file or folder .*nope: give"):
        read_data(tmp_path / "nope")
    with pytest.raises(InputError, match=r"Cannot read .*nope.csv"):
        read_data(tmp_path / "nope.csv")
    (tmp_path / "empty/0_real").mkdir(parents=True)
    with pytest.raises(InputError, match=r"There are no images in the folder .*empty"):
        read_data(tmp_path / "empty")
    (tmp_path / "d.csv").write_text("train,Real,/a.png\n")
    with pytest.raises(InputError, match=r"image root .*nope of .* is no folder"):
        read_data(tmp_path / "d.csv", data_root=tmp_path / "nope")


@pytest.mark.parametrize("layout", [None, "images"])
def test_an_archive_is_to_be_unpacked(tmp_path: Path, layout: Any) -> None:
    """As data sets are downloaded; read as an image it would be called broken."""
    with ZipFile(tmp_path / "Real.ZIP", "w") as archive:
        archive.writestr("a.png", b"")
    with pytest.raises(InputError, match=r"Real.ZIP is an archive: unpack it and give what was"):
        read_data(tmp_path / "Real.ZIP", layout=layout, allow_unlabelled=True)
    (tmp_path / "sets").mkdir()
    (tmp_path / "Real.ZIP").rename(tmp_path / "sets/fake.tar.gz")
    with pytest.raises(InputError, match=r"no images in .*, but archives, one is sets/fake.tar.gz"):
        read_data(tmp_path, layout=layout, allow_unlabelled=True)


def test_test_sets_carry_their_generators(tmp_path: Path) -> None:
    touch(tmp_path / "fakes/1.png", tmp_path / "both/0_real/r.png", tmp_path / "both/1_fake/f.png")
    touch(tmp_path / "tree/sg/0_real/r.png", tmp_path / "tree/sg/1_fake/f.png")
    touch(tmp_path / "ffhq/1.png", tmp_path / "celeba/0_real/1.png")
    at = {name: f"{tmp_path}/{name}" for name in ("fakes", "both", "tree", "ffhq", "celeba")}
    fakes = {name: at.pop(name) for name in ("fakes", "both", "tree")}
    found = read_tests(fakes, at)
    assert list(found) == [
        Sample(f"{tmp_path}/fakes/1.png", 1, "fakes", split="test"),
        Sample(f"{tmp_path}/both/0_real/r.png", 0, "both", split="test"),
        Sample(f"{tmp_path}/both/1_fake/f.png", 1, "both", split="test"),
        Sample(f"{tmp_path}/tree/sg/0_real/r.png", 0, "sg", split="test"),
        Sample(f"{tmp_path}/tree/sg/1_fake/f.png", 1, "sg", split="test"),
        Sample(f"{tmp_path}/ffhq/1.png", 0, split="test", extra={"source": "ffhq"}),
        Sample(f"{tmp_path}/celeba/0_real/1.png", 0, split="test", extra={"source": "celeba"}),
    ]


def test_a_table_is_all_fakes_only_if_no_column_can_be_its_label(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.png")
    table = tmp_path / "t.csv"

    def read(text: str, columns: str = "") -> list[int | None]:
        table.write_text(text)
        found = read_tests({"X": str(table)}, columns=parse_columns(columns) if columns else None)
        return [sample.label for sample in found]

    assert read("path,is_real\na.png,1\nb.png,0\n") == [0, 1]
    authentic = "path,authentic\na.png,yes\nb.png,no\n"
    with pytest.raises(InputError, match=r"t.csv has no column .* authentic may be: .* label= if"):
        read(authentic)
    with pytest.raises(InputError, match="one of authentic may be"):
        read_tests({}, {"X": str(table)})
    assert read(authentic, "label=") == [1, 1]
    assert read("path,source\na.png,x\nb.png,y\n") == [1, 1]
    # What the crop writes of a plain folder.
    assert read("# focus-manifest 1\npath,label,geometry\na.png,,box margin 0\n") == [1]
    with pytest.raises(InputError, match="one of is_real may be: call it label"):
        read("# focus-manifest 1\npath,is_real\na.png,1\n")


def test_the_stand_in_for_a_name_is_none(tmp_path: Path) -> None:
    touch(tmp_path / "real/r.png", tmp_path / "fake/f.png", tmp_path / "sg/f.png")
    rows = "real/r.png,real,{0}\nfake/f.png,synthetic,{0}\nsg/f.png,synthetic,SG2\n"
    table = tmp_path / "m.csv"
    for generator in ("synthetic", ""):
        table.write_text(f"# focus-manifest 1\npath,label,generator\n{rows.format(generator)}")
        found = read_tests({"X": str(table)})
        assert [s.generator for s in found] == ["X", "X", "SG2"]
        assert read_data(table, generator="Y").generators() == ["SG2", "Y"]
        assert read_data(table, generator="").generators() == ["", "SG2"]


def test_reals_beside_named_generators_serve_all(cyborg: Path) -> None:
    root = cyborg.parent.parent / "Data"
    cyborg.write_text("test,Real,/real/1.png\ntest,Synthetic,/sg2/3.jpg,StyleGAN2\n")
    found = read_tests({"set": str(cyborg)}, data_root=root)
    assert [(s.label, s.generator, s.split) for s in found] == [
        (0, "", "test"),
        (1, "StyleGAN2", "test"),
    ]


@pytest.mark.parametrize(
    ("test_data", "test_real", "message"),
    [
        ("none", None, "There is no file or folder"),
        ("reals", None, "'a', .*reals, holds no fakes"),
        (None, "tree", "'a', .*tree, hold 1 fakes"),
        ("some.csv", None, "1 of 2 images of .*some.csv have no label"),
    ],
)
def test_bad_test_sets(
    tmp_path: Path, test_data: str | None, test_real: str | None, message: str
) -> None:
    touch(tmp_path / "reals/0_real/r.png", tmp_path / "tree/1_fake/f.png")
    (tmp_path / "some.csv").write_text(
        "# focus-manifest 1\npath,label\nreals/0_real/r.png,real\ntree/1_fake/f.png,\n"
    )
    data, reals = ({"a": f"{tmp_path}/{n}"} if n else {} for n in (test_data, test_real))
    with pytest.raises(InputError, match=message):
        read_tests(data, reals)


def test_test_reals_of_a_generator_are_its_own_and_others_serve_all(tmp_path: Path) -> None:
    touch(tmp_path / "tree/sg/1_fake/f.png", tmp_path / "fakes/f.png", tmp_path / "reals/r.png")
    tests = {"set": f"{tmp_path}/tree", "new": f"{tmp_path}/fakes"}
    touch(tmp_path / "ffhq/r.png")
    reals = dict.fromkeys(("sg", "new", "set", "again"), f"{tmp_path}/reals")
    reals["ffhq"] = f"{tmp_path}/ffhq"
    found = read_tests(tests, reals).where(lambda sample: sample.label == 0)
    # One folder by two names that are no generators ("set", "again") is there once.
    # "set" is where the layout names another generator: nothing there would be called that.
    assert [(s.extra["source"], s.generator) for s in found] == [
        ("sg", "sg"),
        ("new", "new"),
        ("set", ""),
        ("ffhq", ""),
    ]


@pytest.fixture
def two_sources(tmp_path: Path) -> dict[str, str]:
    """Data with real images of their own, test fakes of three generators, and other real images."""
    touch(tmp_path / "data/0_real/r.png", tmp_path / "data/1_fake/f.png", tmp_path / "ffhq/1.png")
    touch(tmp_path / "b/1.png", tmp_path / "a/1.png")
    touch(tmp_path / "both/0_real/1.png", tmp_path / "both/1_fake/1.png")
    return {name: f"{tmp_path}/{name}" for name in ("data", "b", "a", "both", "ffhq")}


def test_reals_given_apart_serve_the_test_fakes_and_those_of_the_data_the_data(
    two_sources: dict[str, str], tmp_path: Path
) -> None:
    tests = {name: two_sources[name] for name in ("b", "a", "both")}
    ffhq = {"ffhq": two_sources["ffhq"]}

    def served(*data: str, reals: dict[str, str] = ffhq) -> list[tuple[str, str]]:
        own, found = read_given(TrainConfig(data=data, test_data=tests, test_real=reals))
        return [(Path(s.path).parts[-2], s.generator) for s in own + found if s.label == 0]

    own, both = ("0_real", ""), ("0_real", "both")
    assert served(two_sources["data"]) == [own, both, ("ffhq", "a | b")]
    # The demo set's own, which have test sets, would otherwise come first.
    assert served() == [both, ("ffhq", "a | b")]
    assert served(two_sources["data"], reals={}) == [own, both]
    # Data without real images to test on need those that there are.
    table = tmp_path / "data.csv"
    table.write_text("# focus-manifest 1\npath,label,split\n")
    rows = "data/0_real/r.png,real,train\ndata/1_fake/f.png,synthetic,test\n"
    table.write_text(table.read_text() + rows)
    assert served(str(table)) == [own, both, ("ffhq", "")]
    # All have their own: these are for whatever fakes of the data have none.
    tests = {"both": two_sources["both"]}
    assert served(two_sources["data"]) == [own, both, ("ffhq", "")]
    # A manifest's own words count.
    tests, table = {"a": two_sources["a"]}, tmp_path / "reals.csv"
    table.write_text("# focus-manifest 1\npath,label,test_set\nffhq/1.png,real,closed\n")
    assert served(reals={"ffhq": str(table)}) == [("ffhq", "")]


def test_what_a_configuration_gives(tmp_path: Path) -> None:
    touch(tmp_path / "one/1_fake/f.png", tmp_path / "two/r.png", tmp_path / "new/f.png")
    given = {name: str(tmp_path / name) for name in ("one", "two", "new")}
    config = EvaluateConfig(
        model_dir="m", data=(given["one"], given["two"]), test_data={"new": given["new"]}
    )
    own, tests = read_given(config, allow_unlabelled=True)
    assert [(s.label, s.split) for s in own] == [(1, ""), (None, "")]
    assert [(s.label, s.generator, s.split) for s in tests] == [(1, "new", "test")]
    with pytest.raises(InputError, match="two has images without label"):
        read_given(config)
    assert not any(read_given(EvaluateConfig(model_dir="m")))
    twice = (given["one"], f"{tmp_path}/two/../one")
    with pytest.raises(InputError, match=r"^/.*/one is given twice: "):
        read_given(EvaluateConfig(model_dir="m", data=twice))


def test_a_flag_names_the_generator_where_the_data_do_not(tmp_path: Path) -> None:
    touch(tmp_path / "bare/0_real/1.png", tmp_path / "bare/1_fake/1.png")
    touch(tmp_path / "named/progan/0_real/1.png", tmp_path / "named/progan/1_fake/1.png")
    both = (str(tmp_path / "bare"), str(tmp_path / "named"))
    own, _ = read_given(TrainConfig(data=both, generator="StyleGAN3"))
    assert own.generators() == ["StyleGAN3", "progan"]
    own, _ = read_given(TrainConfig(data=both))
    assert own.generators() == ["progan", "synthetic"]
    with pytest.raises(InputError, match="--generator X is of no use without --data"):
        TrainConfig(generator="X")


def test_the_files_of_a_table_are_asked_for_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a network's file system each takes its time."""
    asked: dict[str, str] = {}
    original = os.path.lexists

    def lexists(path: str) -> bool:
        asked[path] = threading.current_thread().name
        return original(path)

    monkeypatch.setattr(os.path, "lexists", lexists)
    (tmp_path / "1.png").touch()
    rows = [(2, Sample(f"{tmp_path}/1.png", 0)), (3, Sample(f"{tmp_path}/2.png", 0))]
    with pytest.raises(InputError, match=r"^1 of the 2 images of t do not .*/2\.png' \(line 3\)"):
        from_rows(rows, "t")
    assert len(asked) == 2
    assert threading.main_thread().name not in asked.values()
