"""CSV files: each column means what its name says, CYBORG's too, and a bad row has its line."""

import time
from pathlib import Path

import pytest

from focus.config.shared import COLUMNS, DataConfig
from focus.data.manifest import Manifest, Sample
from focus.data.readers.detect import read_path
from focus.errors import InputError

from ..reading import read_data
from ..trees import TREES, write


def test_grip_names_the_generator_in_typ(tmp_path: Path) -> None:
    write(TREES["csv-grip"], tmp_path)
    reading = read_path(f"{tmp_path}/list.csv", DataConfig(), {})
    assert [(s.label, s.generator) for s in reading.manifest] == [
        *((1, "dalle2"), (0, ""), (1, "firefly"))
    ]
    assert "layout csv (path=filename, label=typ, generator=typ), 3 images" in str(reading)
    # Told that it is the label, it must be one.
    options = ("path=filename,label=typ",)
    with pytest.raises(InputError, match=r"list.csv, line 2: label 'dalle2' is none of real, natu"):
        read_data(tmp_path / "list.csv", columns=options)


def test_a_csv_with_all_that_spreadsheets_do(tmp_path: Path) -> None:
    write(TREES["csv-full"], tmp_path)
    reading = read_path(f"{tmp_path}/faces.csv", DataConfig(), {})
    assert list(reading.manifest) == [
        Sample(
            *(f"{tmp_path}/a, b.png", 1, "SG2", "", "train"),
            human_map=f"{tmp_path}/maps/a.png",
            box=(12, 20, 21.5, 22),
            group="id 1",
            extra={"camera": "phone"},
        ),
        # Where the reals are from is no generator, unless its fakes are there.
        Sample(
            *(f'{tmp_path}/say "hi".png', 0),
            split="validation",
            group="id 2",
            extra={"source": "FFHQ"},
        ),
        Sample(
            *(f"{tmp_path}/sub/café.png", 0, "SG2", "", "test"),
            group="id 3",
            extra={"camera": "scanner"},
        ),
        Sample(f"{tmp_path}/c.png", 1, "synthetic", "", "test"),
    ]
    assert str(reading.columns) == (
        "path=Image, label=Target, generator=Model, split=Split, human_map=Heatmap, box=Box, "
        "group=Identity; not used: camera"
    )
    options = ("human_map=,generator=",)
    manifest = read_data(tmp_path / "faces.csv", columns=options)
    assert manifest[3].human_map == f"{tmp_path}/heatmaps/c.png"
    assert (manifest[0].generator, manifest[0].extra["Model"]) == ("synthetic", "SG2")


def test_columns_that_are_given_come_first(tmp_path: Path) -> None:
    write({"x.png": "face 1", "y.png": "face 2"}, tmp_path)
    (tmp_path / "t.csv").write_text("path,what,label\n1,x.png,ai\n2,y.png,real\n")
    manifest = read_data(tmp_path / "t.csv", columns=("path=what",))
    assert manifest[0] == Sample(f"{tmp_path}/x.png", 1, "synthetic", extra={"original_path": "1"})
    # And the manifest made of it can be written.
    Manifest(manifest).to_csv(tmp_path / "m.csv")
    with pytest.raises(InputError, match="there is no column 'who' among path, what, label; give"):
        read_data(tmp_path / "t.csv", columns=("generator=who",))


def test_words_for_columns_labels_splits_and_groups(tmp_path: Path) -> None:
    write({f"{i}.png": "face 1" for i in range(4)}, tmp_path)
    for column, cells, labels in (
        ("label", ("0", "1.0", "Real", "FAKE"), [0, 1, 0, 1]),
        ("target", ("nature", "ai", "0_real", "1_fake"), [0, 1, 0, 1]),
        ("Is Real", ("1", "0", "True", "false"), [0, 1, 0, 1]),
        ("is-fake", ("false", "true", "0.0", "1"), [0, 1, 0, 1]),
    ):
        rows = "".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells))
        (tmp_path / "t.csv").write_text(f"File Name,{column}\n{rows}")
        assert [s.label for s in read_data(tmp_path / "t.csv")] == labels
    splits = {"Training Set": "train", "val_set": "validation", "eval": "test", "holdout": "test"}
    rows = "".join(f" {i}.png ,0,{cell},{i}.0\n" for i, cell in enumerate(splits))
    (tmp_path / "t.csv").write_text(f"path,label,split,video\n{rows}")
    manifest = read_data(tmp_path / "t.csv")
    assert [s.split for s in manifest] == list(splits.values())
    assert [s.group for s in manifest] == ["0", "1", "2", "3"]  # as pandas writes whole numbers
    for column, one in (("label", "synthetic"), ("is_real", "real")):
        (tmp_path / "t.csv").write_text(f"path,{column}\n0.png,0\n1.png,1\n")
        reading = read_path(f"{tmp_path}/t.csv", DataConfig(), {})
        assert f"label={column} (1 is {one})" in str(reading)
    (tmp_path / "t.csv").write_text(
        "path,label,Subset,tool,annotation\n0.png,0,a,b,c\n1.png,1,a,b,c\n"
    )
    said = str(read_path(f"{tmp_path}/t.csv", DataConfig(), {}))
    assert "--columns split=Subset,generator=tool,human_map=annotation if it means that" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,real\n\n\nb.png,reel\n", "line 5: label 'reel' is none of real, natur"),
        ("path,label\n../out.png,real\n", "line 2: path '../out.png' leaves the data root"),
        ("path,label,map\na.png,real,../m.png\n", "line 2: path '../m.png' leaves the data root"),
        ("split,label,path\ntrain,Real,/a.png\n", "line 2: path '/a.png' .* without a slash"),
        ("path,label\na.png\n", "line 2: 1 columns instead of 2"),
        ("path,split\na.png,later\n", "line 2: split 'later' is none of train, val"),
        ("path,label,box\na.png,real,1 2 3 inf\n", "line 2: box .* is not four numbers"),
        ("path,label\nz.png,real\n", "line 2: 1 of 1 images do not exist, .*z.png"),
        ("path,label\n", "t.csv has no rows"),
        ("\n\nname,label\na.png,real\n", "line 3: no column names the image among name, label; "),
        ("path label\na.png real\n", "among path label; .*columns by commas, semicolons or tabs"),
        (
            "path,label\na.png,real\nb.png,\n",
            r"1 of 2 images .* have no label .*b.png': name a column",
        ),
    ],
)
def test_bad_rows_have_their_line_and_reason(tmp_path: Path, text: str, message: str) -> None:
    write({"out.png": "face 0", "set/a.png": "face 1", "set/b.png": "face 2"}, tmp_path)
    table = tmp_path / "set" / "t.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_data(table)
    assert "\n" not in str(caught.value)


def test_a_path_leads_out_of_the_root_only_if_that_is_allowed(tmp_path: Path) -> None:
    write({"out.png": "face 0", "set/a.png": "face 1"}, tmp_path)
    table = tmp_path / "set" / "t.csv"
    # "link/.." is the root itself, wherever the link leads.
    write({"set/link ->": "/usr/lib", "set/b.png": "face 2"}, tmp_path)
    table.write_text("path,label\nlink/../b.png,real\n")
    assert read_data(table)[0].path == f"{tmp_path}/set/b.png"
    manifest = f"{','.join(COLUMNS)}\n{{}},real,,,,,,,,\n"
    for text in ("path,label\n{},real\n", "train,Real,{}\n", manifest):
        table.write_text(text.format("../out.png"))
        with pytest.raises(InputError, match=r"path '\.\./out.png' leaves the data root"):
            read_data(table)
        (sample,) = read_data(table, allow_outside_root=True)
        assert sample.path == f"{tmp_path}/out.png"
    # Below the root an absolute path is as good as another.
    table.write_text(f"path,label\n{tmp_path}/set/a.png,real\n")
    assert read_data(table)[0].path == f"{tmp_path}/set/a.png"


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    """One of the two would be taken, and nobody be told."""
    (tmp_path / "a.png").touch()
    columns = ",".join(COLUMNS)
    for header, name in (
        ("path,label,label", "label"),
        ("path,File Name,file_name", "file_name"),
        ("path,label,note,note", "note"),
        (f"{columns},label", "label"),
    ):
        (tmp_path / "list.csv").write_text(f"{header}\na.png,real,synthetic\n")
        with pytest.raises(InputError) as caught:
            read_data(tmp_path / "list.csv")
        assert str(caught.value) == (
            f"{tmp_path}/list.csv, line 1: the column {name!r} is there twice; rename or remove "
            "one."
        )
    # A spreadsheet leaves columns without a name.
    (tmp_path / "list.csv").write_text("path,label,,\na.png,real,,\n")
    assert len(read_data(tmp_path / "list.csv")) == 1


def test_a_table_that_lies_on_its_side_is_refused_at_once(tmp_path: Path) -> None:
    """One of pandas' transposed tables; its columns are not all listed in the message."""
    path = tmp_path / "list.csv"
    path.write_text(",".join(f"{n}.png" for n in range(1_000_000)))
    began = time.process_time()
    with pytest.raises(InputError, match=r"list.csv, line 1: 1000000 columns, more than 10000: gi"):
        read_data(path)
    assert time.process_time() - began < 5
    path.write_text(",".join(f"{n}.png" for n in range(1000)))
    with pytest.raises(InputError, match=r"among 0.png, .*, 19.png and 980 more; call it path"):
        read_data(path)


def test_a_bad_row_of_cyborg_is_named_with_its_line(tmp_path: Path) -> None:
    write({"set/a.png": "face 1", "a.png": "face 2"}, tmp_path)
    for text, message in (
        ("train,Real,/a.png\ntrain,Fake,/a.png\n", "line 2: label 'Fake' is neither"),
        ("train,Real,/a.png\nval,Real,/a.png\n", "line 2: split 'val' is neither"),
        ("train,Real,/a.png,x,y\n", "line 1: 5 columns"),
        ("train,Real,/../a.png\n", "line 1: path '../a.png' leaves the data root"),
        ("train,Real,/a.png\ntest,Real,/c.png\n", "line 2: 1 of 2 images do not exist.*c.png'"),
    ):
        (tmp_path / "set/d.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_data(tmp_path / "set/d.csv")


def test_spaces_and_slashes_before_a_path_of_cyborg_and_a_given_generator(tmp_path: Path) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    (tmp_path / "d.csv").write_text("train , Real , //a.png\ntrain,Synthetic,b.png\n")
    images = read_data(tmp_path / "d.csv", generator="SG2")
    assert [(s.path, s.generator) for s in images] == [
        (f"{tmp_path}/a.png", ""),
        (f"{tmp_path}/b.png", "SG2"),
    ]
