"""All paths of a command: test sets keep to their generators, and no image has two labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from focus.config.shared import COLUMNS
from focus.config.train import TrainConfig
from focus.config.use import EvaluateConfig
from focus.data.manifest import Sample
from focus.data.readers import read_given
from focus.errors import InputError

from ..trees import TREES, write


def read_tests(
    fakes: Mapping[str, str], reals: Mapping[str, str] | None = None, **options: Any
) -> list[Sample]:
    """Return the samples of test sets alone."""
    config = TrainConfig(test_data=dict(fakes), test_real=dict(reals or {}), **options)
    return list(read_given(config).tests)


def test_each_path_is_printed_with_its_layout_by_the_main_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(TREES["csv-grip"], tmp_path / "grip")
    write(TREES["real-fake"], tmp_path / "tree")
    arguments: dict[str, Any] = {
        "data": (f"{tmp_path}/grip/list.csv",),
        "test_data": {"T": f"{tmp_path}/tree"},
    }
    given_images = read_given(EvaluateConfig(model_dir="m", **arguments, layout="csv"))
    manifest, tests = given_images.data, given_images.tests
    assert (len(manifest), len(tests)) == (3, 5)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/grip/list.csv: layout csv (path=filename, label=typ, generator=typ), "
        "3 images, 1 real, 2 synthetic",
        f"{tmp_path}/tree: layout real-fake, 5 images, 2 real, 3 synthetic",
    ]
    monkeypatch.setenv("RANK", "1")
    read_given(TrainConfig(data=(f"{tmp_path}/tree",)))
    assert capsys.readouterr().out == ""


def test_test_sets_carry_their_generators(tmp_path: Path) -> None:
    names = ("fakes/1", "both/0_real/r", "both/1_fake/f", "tree/sg/0_real/r", "tree/sg/1_fake/f")
    write({f"{name}.png": "face 1" for name in (*names, "ffhq/1", "celeba/0_real/1")}, tmp_path)
    paths = {name: f"{tmp_path}/{name}" for name in ("fakes", "both", "tree")}
    assert read_tests(paths) == [
        Sample(f"{tmp_path}/fakes/1.png", 1, "fakes", split="test"),
        Sample(f"{tmp_path}/both/0_real/r.png", 0, "both", split="test"),
        Sample(f"{tmp_path}/both/1_fake/f.png", 1, "both", split="test"),
        Sample(f"{tmp_path}/tree/sg/0_real/r.png", 0, "sg", split="test"),
        Sample(f"{tmp_path}/tree/sg/1_fake/f.png", 1, "sg", split="test"),
    ]
    # A name of the table of families has folders of classes.
    assert {s.generator for s in read_tests({"ProGAN": paths["tree"]})} == {"ProGAN"}
    reals = {name: f"{tmp_path}/{name}" for name in ("ffhq", "celeba")}
    samples = read_tests({"fakes": paths["fakes"]}, reals)[1:]
    assert [(s.label, s.generator, s.extra["source"]) for s in samples] == [
        *((0, "fakes", "ffhq"), (0, "fakes", "celeba"))
    ]


def test_reals_of_a_generators_name_are_its_own_and_others_serve_those_without(
    tmp_path: Path,
) -> None:
    folders = ("tree/sg/1_fake", "new", "newer", "reals", "ffhq")
    write({f"{folder}/1.png": "face 1" for folder in folders}, tmp_path)
    paths = {name: f"{tmp_path}/{name}" for name in ("tree", "new", "newer", "reals", "ffhq")}
    fakes = {name: paths[name] for name in ("tree", "new", "newer")}
    samples = read_tests(
        fakes, {"sg": paths["reals"], "ffhq": paths["ffhq"], "again": paths["ffhq"]}
    )
    assert [(s.generator, s.extra["source"]) for s in samples if s.label == 0] == [
        *(("sg", "sg"), ("new | newer", "ffhq"))
    ]
    # Beside --data with real images of their own, the shared ones are those of the new fakes.
    rows = "own/r.png,real,test\nown/f.png,fake,test\n"
    write({"own/r.png": "face 1", "own/f.png": "face 2"}, tmp_path)
    (tmp_path / "own.csv").write_text(f"path,label,split\n{rows}")
    data = (f"{tmp_path}/own.csv",)
    samples = read_tests({"new": paths["new"]}, {"ffhq": paths["ffhq"]}, data=data)
    assert [s.generator for s in samples] == ["new", "new"]
    (tmp_path / "own.csv").write_text(f"path,label,split\n{rows.partition(chr(10))[2]}")
    samples = read_tests({"new": paths["new"]}, {"ffhq": paths["ffhq"]}, data=data)
    assert [s.generator for s in samples] == ["new", ""]


def test_the_stand_in_for_a_name_is_none(tmp_path: Path) -> None:
    write({f"{name}.png": "face 1" for name in ("r", "f", "g")}, tmp_path)
    table = tmp_path / "m.csv"
    for generator in ("synthetic", ""):
        rows = f"r.png,real,{generator}\nf.png,synthetic,{generator}\ng.png,synthetic,SG2\n"
        table.write_text(f"path,label,generator\n{rows}")
        assert [s.generator for s in read_tests({"X": str(table)})][1:] == ["X", "SG2"]
        for fakes_name, names in ((None, ["synthetic", "SG2"]), ("Y", ["Y", "SG2"])):
            manifest = read_given(TrainConfig(data=(str(table),), generator=fakes_name)).data
            assert [s.generator for s in manifest][1:] == names
        manifest = read_given(TrainConfig(data=(str(table),)), name_fakes=False).data
        assert manifest.generators() == ["", "SG2"]


def test_a_table_without_label_is_of_one_class_only_if_it_is_said(tmp_path: Path) -> None:
    write({f"{name}.png": "face 1" for name in "abc"}, tmp_path)
    table = {"X": f"{tmp_path}/t.csv"}

    def read(text: str, columns: tuple[str, ...] = ()) -> list[int | None]:
        (tmp_path / "t.csv").write_text(text)
        return [sample.label for sample in read_tests(table, columns=columns)]

    assert read("path,is_real\na.png,1\nb.png,0\n") == [0, 1]
    assert read("path\na.png\nb.png\n") == [1, 1]
    assert read(f"{','.join(COLUMNS)},geometry\na.png{',' * 10}box margin 0\n") == [1]
    authentic = "path,authentic\na.png,yes\nb.png,no\n"
    assert read(authentic, ("label=",)) == [1, 1]
    with pytest.raises(InputError, match=r"t.csv has no column .* authentic may be: .* label= if"):
        read(authentic)
    # "There is none" is said of the tables of test sets, where there are any.
    (tmp_path / "own.csv").write_text("path,label\nc.png,real\n")
    data = (f"{tmp_path}/own.csv",)
    given_images = read_given(TrainConfig(data=data, test_data=table, columns=("label=",)))
    manifest, tests = given_images.data, given_images.tests
    assert [[s.label for s in part] for part in (manifest, tests)] == [[0], [1, 1]]
    with pytest.raises(InputError, match="have no label"):
        read_given(TrainConfig(data=data, columns=("label=",)))


def test_test_sets_without_their_class(tmp_path: Path) -> None:
    names = ("reals/0_real/r.png", "tree/1_fake/f.png")
    write(dict.fromkeys(names, "face 1"), tmp_path)
    rows = f"{names[0]},real\n{names[1]},\n"
    (tmp_path / "some.csv").write_text(f"path,label\n{rows}")
    for test_data, test_real, message in (
        ("none", "", "There is no file or folder"),
        ("reals", "", "'a', .*reals, holds no fakes"),
        ("", "tree", "'a', .*tree, hold 1 synthetic images"),
        ("some.csv", "", r"1 of 2 images of .*some.csv have no label"),
    ):
        data, reals = ({"a": f"{tmp_path}/{n}"} if n else {} for n in (test_data, test_real))
        with pytest.raises(InputError, match=message):
            read_tests(data, reals)


def test_no_image_is_given_with_two_labels(tmp_path: Path) -> None:
    """Real images of a folder that holds the fakes, too, would count as of either class."""
    names = ("all/1.png", "all/new/2.png", "data/real/3.png", "data/fake/4.png")
    write(dict.fromkeys(names, "face 1"), tmp_path)
    data = (f"{tmp_path}/data",)
    folders = ("all", "all/new", "data/real", "data/fake")
    test_sets = {name: {"X": f"{tmp_path}/{name}"} for name in folders}
    with pytest.raises(InputError, match=r"2\.png' is in .*all/new too, with another label"):
        read_tests(test_sets["all/new"], test_sets["all"])
    with pytest.raises(InputError, match=r"3\.png' is given as real and as synthetic, there as"):
        read_tests(test_sets["data/real"], data=data)
    # In two roles, but of one class.
    assert len(read_tests(test_sets["data/fake"], test_sets["data/real"], data=data)) == 2
    # A link is the image that it leads to.
    write({"data/fake/l.png ->": "../real/3.png"}, tmp_path)
    with pytest.raises(InputError, match=r"3.png' is given as real and as synthetic"):
        read_given(TrainConfig(data=data))
    with pytest.raises(InputError, match=r"2.png' is in .* too, with another generator"):
        read_tests({"SG3": f"{tmp_path}/all", "SDXL": f"{tmp_path}/all/new"})


def test_nothing_is_written_where_images_are_read(tmp_path: Path) -> None:
    write({"tree/real/0.png": "face 1", "tree/fake/1.png": "face 2", "x/2.png": "face 3"}, tmp_path)
    config = TrainConfig(data=(f"{tmp_path}/tree",), test_data={"SG3": f"{tmp_path}/x"})
    with pytest.raises(InputError, match=r"--output .*/x/run lies in .*/x, where its pictures"):
        read_given(config, output=tmp_path / "x/run")
    read_given(config, output=tmp_path / "tree/run")
