"""The layout of a path is the documented one, whatever its authors called files and folders."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from focus.config.shared import COLUMNS, DataConfig, DataLayout
from focus.data.manifest import Manifest, Sample
from focus.data.readers.detect import read_path
from focus.data.readers.tables import NAMES
from focus.errors import InputError

from ..reading import read_data
from ..trees import TREES, arrow_table, pictures, write, write_parquet


def test_the_cyborg_csv_whose_root_is_elsewhere(tmp_path: Path) -> None:
    write(TREES["cyborg"], tmp_path)
    root = tmp_path / "Data"
    reading = read_path(f"{tmp_path}/csvs/original.csv", DataConfig(data_root=str(root)), {})
    assert list(reading.manifest) == [
        Sample(f"{root}/real/10.png", 0, split="train"),
        Sample(f"{root}/real/9.png", 0, split="train", human_map=f"{root}/heatmaps/9.png"),
        Sample(
            f"{root}/SG2/seed0001.png",
            1,
            "StyleGAN2",
            split="train",
            human_map=f"{root}/heatmaps/seed0001.png",
        ),
        Sample(f"{root}/real/11.png", 0, split="validation"),
        Sample(f"{root}/SG2/seed0002.png", 1, "synthetic", split="validation"),
    ]
    assert str(reading) == (
        f"{tmp_path}/csvs/original.csv: layout cyborg, 5 images, 3 real, 2 synthetic, "
        "2 with a human map"
    )
    with pytest.raises(InputError, match=r"original.csv, line 1: 5 of 5 images do not exist"):
        read_data(tmp_path / "csvs/original.csv")


def test_a_manifest_is_read_wherever_its_images_are(tmp_path: Path) -> None:
    write({"a.png": "face 1", "set/b.png": "face 2", "maps/b.png": "face 3"}, tmp_path)
    samples = [Sample(f"{tmp_path}/a.png", 0, group="g"), Sample(f"{tmp_path}/set/b.png", 1, "X")]
    Manifest(samples).to_csv(tmp_path / "set/m.csv")
    assert list(read_data(tmp_path / "set/m.csv")) == samples
    manifest = read_data(tmp_path / "set/m.csv", human_maps=f"{tmp_path}/maps")
    assert [s.human_map for s in manifest] == [None, f"{tmp_path}/maps/b.png"]
    (tmp_path / "set/m.csv").write_text(",".join(COLUMNS) + "\n../a.png" + "," * 9)
    with pytest.raises(InputError, match=r"line 2: path '../a.png' leaves the data root"):
        read_data(tmp_path / "set/m.csv")


def test_plain_images_in_natural_order_with_odd_names_and_links(tmp_path: Path) -> None:
    write(TREES["plain"], tmp_path)
    reading = read_path(str(tmp_path), DataConfig(), {})
    assert [s.path.removeprefix(f"{tmp_path}/") for s in reading.manifest] == [
        "9.png",
        "10.png",
        "album/1.tif",
        "gone.png",
        "latin1-\udce9.png",
        "new\nline.png",
    ]
    assert reading.layout == "images"
    one = read_path(f"{tmp_path}/new\nline.png", DataConfig(), {})
    assert len(one.manifest) == 1
    assert str(one).isprintable()
    with pytest.raises(InputError, match=r"6 of 6 images .* have no label"):
        read_data(tmp_path)


def test_a_layout_that_is_given(tmp_path: Path) -> None:
    write(TREES["real-fake"], tmp_path / "tree")
    write({"a.png": "face 1", "train": "face 2"}, tmp_path)
    table = tmp_path / "list"
    table.write_text("path,label\ntrain,fake\na.png,real\n")
    assert [s.label for s in read_data(table, layout="csv")] == [1, 0]
    for path, layout, message in (
        (table, None, r"list is no CSV, no parquet file .*: give --layout"),
        (table, "cyborg", "line 1: 2 columns, where a CYBORG CSV"),
        (tmp_path, "cyborg", "--layout cyborg suits none"),
        (tmp_path / "tree", "0_real-1_fake", r"No image of .* is in a folder 0_real or 1_fake"),
        ("hf://nobody/nothing", "csv", "--layout csv suits none"),
        (tmp_path / "gone.csv", None, "There is no file or folder .*gone.csv"),
    ):
        with pytest.raises(InputError, match=message):
            read_data(path, layout=layout)  # type: ignore[arg-type]
    manifest = read_data(tmp_path / "tree", layout="images", allow_unlabelled=True)
    assert {s.label for s in manifest} == {None}


@pytest.mark.parametrize("name", [name for name in get_args(DataLayout) if name != "hub"])
def test_the_documented_example_has_the_layout(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = re.findall(r"```text\n(.*?)```", documented(name), re.DOTALL)[0]
    data_path = tmp_path
    paths = example.splitlines()
    if name in ("manifest", "cyborg", "csv"):
        data_path = tmp_path / "table.csv"
        data_path.write_text(example)
        paths = re.findall(r"\w+/\w+\.\w+", example)
    if name == "parquet":
        pytest.importorskip("datasets")
        monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
        for i, path in enumerate(paths):
            columns: dict[str, list[Any]] = {"image": pictures(i), "label": [i % 2]}
            write_parquet(tmp_path / path, arrow_table(columns))
    else:
        write(dict.fromkeys(paths, "face 1"), tmp_path)
    reading = read_path(str(data_path), DataConfig(), {})
    assert (reading.layout, len(reading.manifest)) == (name, len(paths))


def test_the_documented_names_of_columns_are_those_that_are_read() -> None:
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", documented("csv"), re.MULTILINE)
    assert {role: tuple(re.findall(r"`(\w+)`", names)) for role, names in table} == NAMES


def documented(name: str) -> str:
    """Return the section of a layout."""
    document = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
    layouts = document.partition("\n## Layouts\n")[2].partition("\n## ")[0]
    return layouts.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
