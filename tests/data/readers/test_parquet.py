"""Parquet files and data sets of the Hub, from folders that stand in for it."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from PIL import Image

from focus.config.train import TrainConfig
from focus.data.bad_files import check_images, write_bad_files
from focus.data.copies import Pictures, find_copies, write_copies
from focus.data.manifest import STORED_IN, Manifest
from focus.data.readers import read_given
from focus.data.signatures import SignatureStore
from focus.data.splits import check_trainable
from focus.data.training_set import with_recorded_splits
from focus.errors import InputError

from ..reading import read_data
from ..trees import arrow_table, face, pictures, write, write_parquet, write_saved

HUB_FEATURES = {
    "picture": {"_type": "Image"},
    "label": {"_type": "ClassLabel", "names": ["fake", "real"]},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("datasets")
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embedded"


def test_a_parquet_file(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns: dict[str, list[Any]] = {
        "image": pictures(1, 2, 3, 1),
        "label": ["real", "fake", "fake", "real"],
        "model": ["FFHQ", "SG2", None, "FFHQ"],
        "width": [3, 3, 3, 3],
    }
    path = write_parquet(tmp_path / "train-00000-of-00001.parquet", arrow_table(columns))
    for _ in range(2):
        manifest = read_data(path)
        assert [(s.label, s.generator, s.split, s.extra) for s in manifest] == [
            (0, "", "train", {"source": "FFHQ", "width": "3", "stored_in": f"{path}, row 1"}),
            (1, "SG2", "train", {"width": "3", "stored_in": f"{path}, row 2"}),
            (1, "synthetic", "train", {"width": "3", "stored_in": f"{path}, row 3"}),
        ]
        assert [Path(s.path).read_bytes() for s in manifest] == [face(1), face(2), face(3)]
    row = f"{path}, row 4"
    assert f"left out 1 images that were given before, the first in {row}, {row!r}" in caplog.text
    assert str(cache) not in caplog.text, "nobody knows the copies of the images in the cache"
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    assert [path.suffix for path in files] == [".png"] * 3
    # A file that is not what it was is written again, also one of the same size.
    whole = files[0].read_bytes()
    for damaged in (b"", whole[:-1] + b"?"):
        files[0].write_bytes(damaged)
        read_data(path)
        assert files[0].read_bytes() == whole


def test_a_folder_of_parquet_files(tmp_path: Path, cache: Path) -> None:
    for name, greys in {"train-2": (1, 2), "train-10": (3, 4), "validation-0": (5, 6)}.items():
        cells = [face(grey) for grey in greys]
        table = arrow_table({"img": cells, "target": [1.0, 0.0], "seen": [None, True]})
        write_parquet(tmp_path / "set/data" / f"{name}.parquet", table)
    manifest = read_data(tmp_path / "set")
    assert [Path(s.path).read_bytes() for s in manifest] == [face(i) for i in range(1, 7)]
    splits = ["train"] * 4 + ["validation"] * 2
    assert [(s.label, s.split) for s in manifest] == list(zip([1, 0] * 3, splits, strict=True))
    assert [s.extra.get("seen") for s in manifest] == [None, "1"] * 3
    rows = [s.extra["stored_in"].removeprefix(f"{tmp_path}/set/data/") for s in manifest]
    names = "train-2", "train-10", "validation-0"
    assert rows == [f"{name}.parquet, row {number}" for name in names for number in (1, 2)]


def test_a_few_bytes_do_not_fill_the_memory(tmp_path: Path, cache: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    zeros, path = bytes(2**23), tmp_path / "x.parquet"
    for rows in (7, 9):  # of one value in a dictionary
        once = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows), [zeros])
        table = pyarrow.table({"image": once, "label": [1] * rows})
        parquet.write_table(table, path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 6900
        if rows == 7:
            assert len(read_data(path)) == 1
    with pytest.raises(InputError, match=r"its rows hold more than 67108864 bytes in a group of 4"):
        read_data(path)
    assert pyarrow.default_memory_pool().max_memory() < 10 * 2**23, "not of all rows at once"
    table = pyarrow.table({"image": [zeros] * 9, "label": [1] * 9})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 6900 * 2
    with pytest.raises(InputError, match=r"\(image unpacks from \d+ to 75\d+ bytes"):
        read_data(path)


@pytest.mark.parametrize("saved", [False, True])
def test_images_within_other_columns_are_neither_decoded_nor_fetched(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    postscript = {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "path": "a.eps"}
    elsewhere = {"bytes": None, "path": "http://localhost:1/a.png"}
    image = {"_type": "Image"}
    features: dict[str, Any] = {
        "image": image,
        "label": {"_type": "Value", "dtype": "int64"},
        "frames": {"_type": "List", "feature": image},
        "more": {"thumb": image},
        "points": {"_type": "List", "feature": {"_type": "Value", "dtype": "float64"}},
    }
    table = arrow_table({"image": pictures(1, 2), "label": [1, 0]})
    table = table.append_column("frames", [[[postscript], [elsewhere]]])
    table = table.append_column("more", [[{"thumb": elsewhere}, {"thumb": postscript}]])
    table = table.append_column("points", [[[1.5, 2.0], []]])
    if saved:
        path = write_saved(tmp_path / "saved", table, features)
    else:
        note = json.dumps({"info": {"features": features}})
        noted = table.replace_schema_metadata({"huggingface": note})
        path = write_parquet(tmp_path / "a.parquet", noted)

    def decoded(*_: Any, **__: Any) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(Image, "open", decoded)
    manifest = read_data(path)
    assert [Path(s.path).read_bytes() for s in manifest] == [face(1), face(2)]
    assert [s.extra.get("points") for s in manifest] == ["1.5 2", None]


def test_an_image_in_two_splits_is_a_leak_and_no_duplicate(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, greys in {"train": (1, 2, 1), "validation": (1, 3), "test": (4, 5, 4, 2)}.items():
        columns: dict[str, list[Any]] = {
            "image": pictures(*greys),
            "label": [grey % 2 for grey in greys],
        }
        write_parquet(tmp_path / f"{name}-0.parquet", arrow_table(columns))
    manifest = read_given(TrainConfig(data=(str(tmp_path),))).data
    assert [s.split for s in manifest] == ["test"] * 3 + ["train"] * 2 + ["validation"] * 2
    assert "left out 2 images that were given before, the first in" in caplog.text
    with pytest.raises(InputError, match=r"2 images of .* lie in more than one split"):
        check_trainable(manifest)


def test_names_of_classes_count_and_not_their_numbers(tmp_path: Path, cache: Path) -> None:
    table = arrow_table({"picture": pictures(1, 2), "label": [0, 1]}, HUB_FEATURES)
    saved = write_saved(tmp_path / "saved", table, HUB_FEATURES)
    parquet = write_parquet(tmp_path / "p" / "x.parquet", table)
    for path in (saved, parquet, parquet.parent):
        assert [(s.label, s.split) for s in read_data(path, columns=("path=picture",))] == [
            (1, ""),
            (0, ""),
        ]


def test_paths_in_parquet(tmp_path: Path, cache: Path) -> None:
    write({"in/a.png": "face 1", "out.png": "face 2"}, tmp_path)
    path = tmp_path / "x.parquet"
    write_parquet(path, arrow_table({"path": ["in/a.png"], "label": ["real"]}))
    assert [s.path for s in read_data(path)] == [f"{tmp_path}/in/a.png"]
    write_parquet(path, arrow_table({"path": ["../out.png"], "label": ["real"]}))
    with pytest.raises(InputError, match=r"row 1: path '../out.png' leaves the data root"):
        read_data(path, data_root=f"{tmp_path}/in")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": pictures(1), "label": ["maybe"]}, "row 1: label 'maybe' is none of"),
        ({"image": [None], "label": [0]}, "row 1: an empty path"),
        ({"photo": pictures(1), "label": [0]}, "no column names the image among photo, label"),
        (
            {"image": pictures(1, 1), "label": [0, 1]},
            "row 2: '.*x.parquet, row 2' is in .*row 1 too, with another",
        ),
        (None, "Cannot read .*x.parquet as parquet .*: check"),
    ],
)
def test_bad_parquet(
    tmp_path: Path, cache: Path, columns: dict[str, list[Any]] | None, message: str
) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1, or not")
    if columns:
        write_parquet(tmp_path / "x.parquet", arrow_table(columns))
    with pytest.raises(InputError, match=message):
        read_data(tmp_path / "x.parquet")


def test_without_the_extra_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"package datasets: install .*focus-faces\[hub\]'"):
        read_data("hf://user/name")
    table = arrow_table({"picture": pictures(1), "label": [0]}, HUB_FEATURES)
    path = write_parquet(tmp_path / "x.parquet", table)
    assert [s.label for s in read_data(path, columns=("path=picture",))] == [1], "by pyarrow alone"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"package pyarrow: install .*focus-faces\[parquet\]'"):
        read_data(path)


def test_tables_name_the_row_and_the_file_of_the_data_set(tmp_path: Path, cache: Path) -> None:
    """A cached copy's name tells nobody which image is bad, leaks or is scored wrong."""
    parts = {"train": [face(1), face(2), b"no image"], "test": [face(3), face(2)]}
    for split, contents in parts.items():
        cells = [{"bytes": c, "path": f"{split}{n}.png"} for n, c in enumerate(contents)]
        table = arrow_table({"image": cells, "label": [n % 2 for n in range(len(cells))]})
        write_parquet(tmp_path / f"{split}.parquet", table)
    decoded = check_images(read_data(tmp_path), cache=tmp_path, max_bad=1, progress=False)
    manifest, bad = decoded.manifest, decoded.bad
    write_bad_files(bad, tmp_path / "bad_files.csv")
    write_copies(find_copies(manifest, Pictures(manifest, SignatureStore())), tmp_path)
    rows = {
        name: next(csv.DictReader((tmp_path / f"{name}.csv").open()))
        for name in ("bad_files", "copies")
    }
    assert rows["bad_files"]["stored_in"] == f"{tmp_path}/train.parquet, row 3, train2.png"
    assert Path(rows["bad_files"]["path"]).read_bytes() == b"no image"
    assert rows["copies"]["stored_in"] == f"{tmp_path}/test.parquet, row 2, test1.png"
    assert rows["copies"]["original_stored_in"] == f"{tmp_path}/train.parquet, row 2, train1.png"
    # A run that was begun before there was such a column goes on.
    old = Manifest(
        replace(s, extra={n: c for n, c in s.extra.items() if n != STORED_IN}) for s in manifest
    )
    assert [*with_recorded_splits(manifest, old, tmp_path)] == [*manifest]


def test_a_column_that_is_there_twice_is_named(tmp_path: Path, cache: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table([["a.png"], [0], [1]], names=["path", "label", "label"])
    path = write_parquet(tmp_path / "list.parquet", table)
    with pytest.raises(InputError, match=r"list.parquet .*the column 'label' is there twice"):
        read_data(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of user/name, sorted by class and generator, three rows a group."""
    pytest.importorskip("datasets")
    from pyarrow import parquet

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "user" / "name" / "data"
    folder.mkdir(parents=True)
    for start, split in ((0, "train"), (100, "test")):
        columns: dict[str, list[Any]] = {
            "image": pictures(*range(start, start + 30)),
            "label": ["real"] * 9 + ["fake"] * 21,
            "generator": ["kA"] * 9 + ["kA"] * 12 + ["kB"] * 9,
        }
        path = folder / f"{split}-00000-of-00001.parquet"
        parquet.write_table(arrow_table(columns), path, row_group_size=3)
    return folder.parent


def reached(monkeypatch: pytest.MonkeyPatch, licence: object = "cc-by-nc-4.0") -> None:
    def dataset_info(_: HfApi, name: str, *, files_metadata: bool) -> SimpleNamespace:
        assert (name, files_metadata) == ("user/name", True)
        files = [SimpleNamespace(size=size) for size in (2_000_000, 1_500_000, None)]
        return SimpleNamespace(card_data={"license": licence}, siblings=files)

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)


def test_the_first_images_of_each_kind_are_fetched(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyarrow import parquet

    reached(monkeypatch)
    fetched: list[int] = []

    batches = parquet.ParquetFile.iter_batches

    def iter_batches(file: Any, size: int, groups: list[int]) -> Any:
        fetched.extend(groups)
        return batches(file, size, groups)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", iter_batches)
    images = read_data("hf://user/name", max_images=4)
    expected = [
        (face(start + first + i), label, generator, split)
        for start, split in ((0, "train"), (100, "test"))
        for first, label, generator in ((0, 0, "kA"), (9, 1, "kA"), (21, 1, "kB"))
        for i in range(4)
    ]
    told = [(Path(s.path).read_bytes(), s.label, s.generator, s.split) for s in images]
    assert sorted(told) == sorted(expected)
    assert fetched == [0, 1, 3, 4, 7, 8] * 2, "other groups of rows are not fetched"
    assert len(list((hub.parents[1] / "cache").rglob("*.png"))) == 24, "the others are not stored"
    assert {s.extra["license"] for s in images} == {"cc-by-nc-4.0"}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "hf://user/name: 4 MB in all, licence: cc-by-nc-4.0"


def test_other_formats_are_streamed(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV on the Hub has paths, of images that are there."""
    reached(monkeypatch)
    for path in hub.rglob("*.parquet"):
        path.unlink()
    tree = {f"{n}.png": f"face {n}" for n in range(6)}
    write(tree, hub)
    rows = [f"{hub}/{n}.png,{n % 2}\n" for n in range(6)]
    (hub / "data" / "train.csv").write_text("".join(["path,label\n", *rows]))
    images = read_data("hf://user/name", max_images=2)
    assert [(Path(s.path).name, s.split) for s in images] == [
        (f"{n}.png", "train") for n in range(4)
    ]


def test_a_licence_of_an_image_is_its_own_and_all_are_there(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pyarrow import parquet

    for path in hub.rglob("*.parquet"):
        path.unlink()
    columns = {"image": [face(1), face(2)], "label": [0, 1], "license": ["mit", "cc0"]}
    parquet.write_table(arrow_table(columns), hub / "data" / "train.parquet")
    reached(monkeypatch, ["apache-2.0", "other"])
    assert [s.extra["license"] for s in read_data("hf://user/name")] == ["mit", "cc0"]
    assert "licence: apache-2.0, other\n" in capsys.readouterr().out
    reached(monkeypatch, None)
    read_data("hf://user/name")
    assert "licence: none is named\n" in capsys.readouterr().out


def test_without_a_connection_the_cache_is_read(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    assert len(read_data("hf://user/name", max_images=1)) == 6
    said = "hf://user/name: size and licence are not known (ConnectionError)"
    assert capsys.readouterr().out.startswith(said)


def test_a_part_is_the_same_of_a_csv_and_of_parquet(tmp_path: Path) -> None:
    """Real images of two generators, which stand beside fakes that no such name has."""
    from pyarrow import parquet

    names = [f"{n}.png" for n in range(9)]
    labels, generators = [0] * 6 + [1] * 3, [*"AB" * 3, *"CCC"]
    write({name: f"face {n}" for n, name in enumerate(names)}, tmp_path)
    table = arrow_table(
        {"image": [face(n) for n in range(9)], "label": labels, "generator": generators}
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    rows = zip(names, map(str, labels), generators, strict=True)
    (tmp_path / "t.csv").write_text("\n".join(["path,label,generator", *map(",".join, rows)]))
    parts = [read_data(tmp_path / f"t.{kind}", max_images=2) for kind in ("csv", "parquet")]
    assert [[(s.label, s.generator) for s in part] for part in parts] == [
        [(0, ""), (0, ""), (1, "C"), (1, "C")]
    ] * 2
