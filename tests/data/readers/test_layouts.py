"""The readers, on trees that an independent script writes; what is refused; properties."""

import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from focus.config.layouts import Layout
from focus.config.train import EvaluateConfig, TrainConfig
from focus.data.manifest import Manifest, Sample
from focus.data.readers import Reading, read_data, read_given, read_tests
from focus.data.readers.columns import NAMES
from focus.errors import InputError

from ...trees import TREES, arrow_table, face, pictures, write, write_parquet

TRAIN_FACES = ("train,Real,/a.png", "train,Synthetic,/b.png")


def relative(found: Manifest, folder: Path) -> list[Sample]:
    """The samples with paths relative to a folder."""
    start = f"{folder}/"
    return [
        replace(
            s,
            path=s.path.removeprefix(start),
            map_path=s.map_path and s.map_path.removeprefix(start),
        )
        for s in found
    ]


def read_tree(folder: Path, **options: Any) -> tuple[list[Sample], Reading]:
    readings: list[Reading] = []
    place = folder / options.pop("file") if "file" in options else folder
    found = read_data(place, say=readings.append, **options)
    (reading,) = readings
    assert reading.manifest is found or list(reading.manifest) == list(found)
    return relative(found, folder), reading


def test_cyborg(tmp_path: Path) -> None:
    write(TREES["cyborg"], tmp_path)
    found, reading = read_tree(tmp_path, file="csvs/original.csv", data_root=tmp_path / "Data")
    assert found == [
        Sample("Data/real/10.png", 0, split="train"),
        Sample("Data/real/9.png", 0, split="train", map_path="Data/heatmaps/9.png"),
        Sample(
            *("Data/SG2/seed0001.png", 1, "StyleGAN2"),
            split="train",
            map_path="Data/heatmaps/seed0001.png",
        ),
        Sample("Data/real/11.png", 0, split="validation"),
        Sample("Data/SG2/seed0002.png", 1, "synthetic", split="validation"),
    ]
    assert str(reading) == (
        f"{tmp_path}/csvs/original.csv: layout cyborg, 5 images, 3 real, 2 synthetic, "
        "2 with a human map"
    )


def test_numbered_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(TREES["0_real-1_fake"], tmp_path)
    found, reading = read_tree(tmp_path)
    airplane, train = {"class": "airplane"}, {"class": "train"}
    assert found == [
        Sample("progan/airplane/0_real/00009.png", 0, "progan", extra=airplane),
        Sample("progan/airplane/0_real/00010.png", 0, "progan", extra=airplane),
        Sample("progan/airplane/1_fake/00009.png", 1, "progan", extra=airplane),
        Sample("progan/train/0_real/00009.png", 0, "progan", extra=train),
        Sample("progan/train/1_fake/00009.PNG", 1, "progan", extra=train),
        Sample("StyleGAN2/0_Real/2.Jpg", 0, "StyleGAN2"),
        Sample("StyleGAN2/0_Real/10.jpg", 0, "StyleGAN2"),
        Sample("StyleGAN2/1_Fake/part1/a.jpeg", 1, "StyleGAN2"),
    ]
    assert reading.layout == "0_real-1_fake"
    assert "left out 1 images that are in no folder 0_real or 1_fake" in caplog.text


def test_a_class_called_train_is_no_split(tmp_path: Path) -> None:
    write(TREES["0_real-1_fake"], tmp_path)
    found, _ = read_tree(tmp_path / "progan")
    assert [(s.generator, s.split) for s in found[-2:]] == [("train", "")] * 2
    write({"progan/train/0_real/1.png": "face 1"}, tmp_path / "alone")
    found, _ = read_tree(tmp_path / "alone")
    assert [(s.generator, s.split, s.extra) for s in found] == [("progan", "", {"class": "train"})]
    write(
        {f"{name}/x.png": "face 1" for name in ("a/train/0_real", "a/val/1_fake")}, tmp_path / "z"
    )
    found, _ = read_tree(tmp_path / "z")
    assert [(s.generator, s.split) for s in found] == [("a", "train"), ("a", "validation")]


def test_nature_and_ai(tmp_path: Path) -> None:
    found, reading = read_tree(write(TREES["nature-ai"], tmp_path))
    sdv4, mj = "imagenet_ai_0419_sdv4", "imagenet_midjourney"
    assert found == [
        Sample(f"{sdv4}/train/ai/000_sdv4_2.png", 1, sdv4, split="train"),
        Sample(f"{sdv4}/train/ai/000_sdv4_10.png", 1, sdv4, split="train"),
        Sample(f"{sdv4}/train/nature/n01440764_18.JPEG", 0, sdv4, split="train"),
        Sample(f"{sdv4}/val/ai/001_sdv4_1.png", 1, sdv4, split="validation"),
        Sample(f"{sdv4}/val/nature/ILSVRC2012_val_00000293.JPEG", 0, sdv4, split="validation"),
        Sample(f"{mj}/val/ai/1_midjourney_21.png", 1, mj, split="validation"),
        Sample(f"{mj}/val/nature/ILSVRC2012_val_00000294.JPEG", 0, mj, split="validation"),
    ]
    assert reading.layout == "nature-ai"


def test_generators_of_different_depths_have_their_own_splits(tmp_path: Path) -> None:
    """GenImage, as its archives unpack."""
    biggan = "BigGAN/imagenet_ai_0419_biggan"
    files = [
        f"{generator}/{split}/{label}/{at}.png"
        for generator in ("Midjourney", biggan)
        for at, split in enumerate(("train", "val"))
        for label in ("ai", "nature")
    ]
    write(dict.fromkeys(files, "face 1"), tmp_path)
    found, _ = read_tree(tmp_path)
    assert {s.path: (s.generator, s.split, s.extra.get("class")) for s in found} == {
        name: (
            name.split("/")[0],
            "validation" if "/val/" in name else "train",
            "imagenet_ai_0419_biggan" if biggan in name else None,
        )
        for name in files
    }


CLASSES = [
    *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]


@pytest.mark.parametrize("split", ["", "train/"])
def test_folders_of_classes(split: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CNNDetection's training set, whose one generator no folder names."""
    labels = ("0_real", "1_fake")
    files = [f"{split}{name}/{label}/1.png" for name in CLASSES for label in labels]
    write(dict.fromkeys(files, "face 1"), tmp_path / "set")
    write({f"own/{name}": "face 1" for name in ("g/0_real/1.png", "g/1_fake/1.png")}, tmp_path)

    def own(data: str, generator: str | None) -> Manifest:
        caplog.clear()
        return read_given(TrainConfig(data=(f"{tmp_path}/{data}",), generator=generator))[0]

    assert own("set", None).generators() == CLASSES
    found = own("set", "ProGAN")
    assert [(s.label, s.generator, s.extra["class"]) for s in found] == [
        (label, "ProGAN" * label, name) for name in CLASSES for label in (0, 1)
    ]
    assert caplog.messages == [
        f"{tmp_path}/set: the generator ProGAN is given and no folder has the name of a known one, "
        "so the folders airplane, bicycle, bird, ... are taken for its classes"
    ]
    for name, generators in (("ProGAN", ["ProGAN"]), ("mine", CLASSES)):
        assert read_tests({name: f"{tmp_path}/set"}).generators() == generators
    # Where folders have the names of generators the flag is of no use.
    (tmp_path / "own/g").rename(tmp_path / "own/StyleGAN2")
    assert own("own", "ProGAN").generators() == ["StyleGAN2"]
    assert caplog.messages == [
        "--generator ProGAN names no fake: the data name the generators of all"
    ]


def test_real_and_fake(tmp_path: Path) -> None:
    found, reading = read_tree(write(TREES["real-fake"], tmp_path))
    faces = {"class": "faces"}
    assert found == [
        Sample("DDPM/faces/fake/1.png", 1, "DDPM", extra=faces),
        Sample("DDPM/faces/real/1.png", 0, "DDPM", extra=faces),
        Sample("StyleGAN3/Fake/1.png", 1, "StyleGAN3"),
        Sample("StyleGAN3/Fake/2.webp", 1, "StyleGAN3"),
        Sample("StyleGAN3/Real/1.png", 0, "StyleGAN3"),
    ]
    assert reading.layout == "real-fake"


def test_splits_on_top(tmp_path: Path) -> None:
    found, _ = read_tree(write(TREES["split-real-fake"], tmp_path), generator="X")
    assert [(s.path, s.label, s.generator, s.split) for s in found] == [
        ("test/fake/3.png", 1, "X", "test"),
        ("test/real/3.png", 0, "", "test"),
        ("train/fake/1.png", 1, "X", "train"),
        ("train/real/1.png", 0, "", "train"),
        ("valid/fake/2.png", 1, "X", "validation"),
        ("valid/real/2.png", 0, "", "validation"),
    ]


@pytest.mark.parametrize("split", ["", "train/"])
def test_generators_below_the_label(split: str, tmp_path: Path) -> None:
    files = ("fake/SG2/1.png", "fake/mine/a/1.png", "real/1.png", "real/FFHQ/1.png")
    write(dict.fromkeys((split + file for file in files), "face 1"), tmp_path)
    found, _ = read_tree(tmp_path)
    assert [(s.label, s.generator, dict(s.extra)) for s in found] == [
        (1, "mine", {}),
        (1, "SG2", {}),
        (0, "", {}),
        (0, "", {"source": "FFHQ"}),
    ]
    # A number is no name, and what lies in no folder has none.
    write({f"{split}fake/00000/1.png": "face 1"}, tmp_path)
    assert Manifest(read_tree(tmp_path)[0]).generators() == ["synthetic"]
    (tmp_path / split / "fake/00000/1.png").unlink()
    write({f"{split}fake/1.png": "face 1"}, tmp_path)
    assert Manifest(read_tree(tmp_path)[0]).generators() == ["synthetic"]


def test_maps_in_the_folder_are_no_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("real/1.png", "fake/1.png")
    folders = ("", "Heatmaps/", "MASKS/", "elsewhere/")
    write({folder + name: "face 1" for folder in folders for name in names}, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.rename(elsewhere := tmp_path.with_name(f"{tmp_path.name} maps"))
    passed = f"{tmp_path}: passed over 2 files in {{}}, which by its name holds maps and no images"
    for chosen, maps, said in (
        (None, tmp_path / "Heatmaps", ["MASKS"]),
        (elsewhere, elsewhere, ["MASKS", "Heatmaps"]),
    ):
        caplog.clear()
        found = read_data(tmp_path, heatmaps=chosen)
        assert [(s.path, s.map_path) for s in found] == [
            (f"{tmp_path}/{name}", f"{maps}/{name}") for name in sorted(names)
        ]
        assert caplog.messages == [passed.format(name) for name in said]


def test_names_that_may_be_missed_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a.jfif", "b.JPE", "c.avif", "d.tga")
    beside = ("e.heic", "f.HEIC", "g.mp4", "noname", "README", "x.txt", "Thumbs.db", "y.json")
    write(dict.fromkeys((*names, *beside), "face 1"), tmp_path)
    found, _ = read_tree(tmp_path, allow_unlabelled=True)
    assert [s.path for s in found] == list(names)
    assert caplog.messages == [
        f"{tmp_path}: left out 4 files that are no images by the ends of their names (.heic: 2, "
        "none: 1, .mp4: 1)"
    ]


def test_a_folder_real_alone_is_no_label(tmp_path: Path) -> None:
    write({"real/1.png": "face 1", "other/2.png": "face 2"}, tmp_path)
    found, reading = read_tree(tmp_path, allow_unlabelled=True)
    assert (reading.layout, [s.label for s in found]) == ("images", [None, None])
    found, _ = read_tree(tmp_path, layout="real-fake")
    assert found == [Sample("real/1.png", 0)]


def test_plain_images_with_odd_names_and_links(tmp_path: Path) -> None:
    found, reading = read_tree(write(TREES["plain"], tmp_path), allow_unlabelled=True)
    assert [s.path for s in found] == [
        *("9.png", "10.png", "album/1.tif", "gone.png", "itself.png", "latin1-\udce9.png"),
        "new\nline.png",
    ]
    assert reading.layout == "images"
    odd, line = read_tree(tmp_path, file="new\nline.png", allow_unlabelled=True)
    assert len(odd) == 1
    assert str(line).isprintable()


def test_a_tree_deeper_than_calls_may_be(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 300, "real")
    deep.mkdir(parents=True)
    (deep / "1.png").write_bytes(face(1))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        (sample,) = read_data(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert (sample.label, sample.extra["class"]) == (0, "/".join("d" * 299))


def test_grip_names_the_generator_in_typ(tmp_path: Path) -> None:
    write(TREES["csv-grip"], tmp_path)
    found, reading = read_tree(tmp_path, file="list.csv")
    assert found == [
        Sample("synthbuster/dalle2/r05839451t.png", 1, "dalle2"),
        Sample("real_RAISE_1k/r000da54ft.png", 0),
        Sample("synthbuster/firefly/r1.png", 1, "firefly"),
    ]
    assert "layout csv (path=filename, label=typ, generator=typ), 3 images" in str(reading)
    # Told that it is the label, it must be one.
    with pytest.raises(InputError, match=r"list.csv, line 2: label 'dalle2' is none of real, natu"):
        read_data(tmp_path / "list.csv", columns={"path": "filename", "label": "typ"})


def test_a_csv_with_all_that_spreadsheets_do(tmp_path: Path) -> None:
    write(TREES["csv-full"], tmp_path)
    found, reading = read_tree(tmp_path, file="faces.csv")
    assert found == [
        Sample(
            *("a, b.png", 1, "SG2", "", "train"),
            map_path="maps/a.png",
            box=(12, 20, 21.5, 22),
            group="id 1",
            extra={"camera": "phone"},
        ),
        # Where the reals are from is no generator, unless its fakes are there.
        Sample('say "hi".png', 0, split="validation", group="id 2", extra={"source": "FFHQ"}),
        Sample("sub/café.png", 0, "SG2", "", "test", group="id 3", extra={"camera": "scanner"}),
        Sample("c.png", 1, "synthetic", "", "test"),
    ]
    assert reading.columns == (
        "path=Image, label=Target, generator=Model, split=Split, map_path=Heatmap, box=Box, "
        "group=Identity"
    )
    found, _ = read_tree(tmp_path, file="faces.csv", columns={"map_path": "", "generator": ""})
    assert found[3].map_path == "heatmaps/c.png"
    assert (found[0].generator, found[0].extra["Model"]) == ("synthetic", "SG2")


def test_columns_that_are_given_come_first(tmp_path: Path) -> None:
    write({"x.png": "face 1", "y.png": "face 2"}, tmp_path)
    (tmp_path / "t.csv").write_text("path,what,label\n1,x.png,ai\n2,y.png,real\n")
    found, _ = read_tree(tmp_path, file="t.csv", columns={"path": "what"})
    assert found[0] == Sample("x.png", 1, "synthetic", extra={"original_path": "1"})
    # And the manifest made of it can be written.
    Manifest(found).to_csv(tmp_path / "m.csv")


def test_a_layout_that_is_given(tmp_path: Path) -> None:
    write(TREES["real-fake"], tmp_path / "tree")
    write({"a.png": "face 1", "train": "face 2"}, tmp_path)
    (tmp_path / "list").write_text("path,label\ntrain,fake\na.png,real\n")
    found, _ = read_tree(tmp_path, file="list", layout="csv")
    assert [s.label for s in found] == [1, 0]
    with pytest.raises(InputError, match=r"list is no CSV, no parquet file .*: give --layout"):
        read_data(tmp_path / "list")
    with pytest.raises(InputError, match="line 1: 2 columns, where a CYBORG CSV"):
        read_data(tmp_path / "list", layout="cyborg")
    with pytest.raises(InputError, match=r"--layout cyborg reads files, and .* is none"):
        read_data(tmp_path, layout="cyborg")
    with pytest.raises(InputError, match=r"No image of .* is in a folder 0_real or 1_fake"):
        read_data(tmp_path / "tree", layout="0_real-1_fake")
    found, _ = read_tree(tmp_path / "tree", layout="images", allow_unlabelled=True)
    assert {s.label for s in found} == {None}


def test_what_was_read_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(TREES["csv-grip"], tmp_path / "grip")
    write(TREES["real-fake"], tmp_path / "tree")
    given: dict[str, Any] = {
        "data": (f"{tmp_path}/grip/list.csv",),
        "test_data": {"T": f"{tmp_path}/tree"},
    }
    own, tests = read_given(EvaluateConfig(model_dir="m", **given, layout="csv"))
    assert (len(own), len(tests)) == (3, 5)
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/grip/list.csv: layout csv (path=filename, label=typ, generator=typ), "
        "3 images, 1 real, 2 synthetic",
        f"{tmp_path}/tree: layout real-fake, 5 images, 2 real, 3 synthetic",
    ]
    with pytest.raises(InputError, match="label 'dalle2' is none"):
        read_given(TrainConfig(**given, columns="path=filename,label=typ"))
    only: dict[str, Any] = {"data": (f"{tmp_path}/tree",)}
    with pytest.raises(InputError, match="--layout cyborg suits none of the paths"):
        read_given(TrainConfig(**only, layout="cyborg"))
    with pytest.raises(InputError, match="--columns is for tables, and no path is one"):
        read_given(TrainConfig(**only, columns="path=x"))


def test_other_processes_are_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    read_given(TrainConfig(data=(str(write(TREES["real-fake"], tmp_path)),)))
    assert capsys.readouterr().out == ""


SLOW_FILES = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FILE_NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=12
)


@pytest.mark.slow
@SLOW_FILES
@given(
    rows=st.lists(
        st.tuples(
            FILE_NAMES.filter(lambda name: name not in ("", ".", "..", "data.csv", "again.csv")),
            st.sampled_from(["real", "fake", "SYNTHETIC", "0", "1", "ai", "nature", ""]),
            WORDS,
            st.sampled_from(["", "train", "val", "test"]),
            WORDS,
            st.sampled_from(["", "1 2 3 4", "(0.1, 1e-9, 7, 8)"]),
            WORDS,
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
def test_reader_manifest_writer_reader_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("set")
    for name, *_ in rows:
        if len(name.encode()) > 200:
            return
        (folder / name).write_bytes(b"")

    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    lines = ["path,label,generator,split,group,box,remark"]
    lines += [",".join(map(quoted, row)) for row in rows]
    (folder / "data.csv").write_bytes("\r\n".join(lines).encode())
    found = read_data(folder / "data.csv", allow_unlabelled=True)
    assert [s.path for s in found] == [f"{folder}/{name}" for name, *_ in rows]
    found.to_csv(folder / "again.csv")
    again = read_data(folder / "again.csv", allow_unlabelled=True)
    assert list(again) == list(found)


CSV_LIKE = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda start, cells: start + b"".join(cells),
        st.sampled_from(
            [b"", b"\xef\xbb\xbf", b"# focus-manifest 1\n", b"path,label\n", b"train,Real,/a.png\n"]
        ),
        st.lists(
            st.sampled_from(
                [b",", b"\n", b"\r", b'"', b"a.png", b"real", b"..", b"/", b"\0", b"\xff"]
            ),
            max_size=20,
        ),
    ),
)


@settings(SLOW_FILES, max_examples=300)
@given(content=CSV_LIKE, layout=st.sampled_from([None, "manifest", "cyborg", "csv"]))
def test_random_bytes_are_refused_by_a_sentence(
    tmp_path: Path, content: bytes, layout: Layout | None
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "t.csv").write_bytes(content)
    message = ""
    try:
        found = read_data(tmp_path / "t.csv", layout=layout, allow_unlabelled=True)
    except InputError as error:
        message = str(error)
    assert message.endswith(".") if message else len(found) > 0


@pytest.mark.parametrize("name", [name for name in get_args(Layout) if name != "hub"])
def test_the_documented_example_has_the_layout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = re.findall(r"```text\n(.*?)```", documented(name), re.DOTALL)[0]
    place = tmp_path
    if name in ("manifest", "cyborg", "csv"):
        place = tmp_path / "table.csv"
        place.write_text(example)
        paths = re.findall(r"\w+/\w+\.\w+", example)
    elif name == "parquet":
        pytest.importorskip("datasets")
        monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
        for i, path in enumerate(example.splitlines()):
            columns: dict[str, list[Any]] = {"image": pictures(i), "label": [i % 2]}
            write_parquet(tmp_path / path, arrow_table(columns))
        paths = []
    else:
        paths = example.splitlines()
    write(dict.fromkeys(paths, "face 1"), tmp_path)
    readings: list[Reading] = []
    found = read_data(place, say=readings.append, allow_unlabelled=True)
    assert readings[0].layout == name
    assert len(found) == len(paths or example.splitlines())


def documented(name: str) -> str:
    """The section of a layout."""
    document = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
    layouts = document.partition("\n## Layouts\n")[2].partition("\n## ")[0]
    return layouts.partition(f"\n### {name}\n")[2].partition("\n### ")[0]


def test_the_documented_names_are_those_that_are_read() -> None:
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", documented("csv"), re.MULTILINE)
    assert {role: tuple(re.findall(r"`(\w+)`", names)) for role, names in table} == NAMES
    assert documented("hub")
