"""Rows of tables: what their cells may say, which are left out, and which are refused."""

import os
import re
from pathlib import Path

import pytest

from focus.config.train import EvaluateConfig, TrainConfig
from focus.data.readers import Reading, read_data, read_given, read_tests
from focus.errors import InputError

from ...trees import write


@pytest.mark.parametrize(
    ("column", "words", "labels"),
    [
        ("is_fake", "True FALSE true 1.0 0.00 1 0 fake REAL", [1, 0, 1, 1, 0, 1, 0, 1, 0]),
        ("Is-Synthetic", "True False", [1, 0]),
        ("label", "1.0 0.0 1.", [1, 0, None]),
        ("label", "1_fake 0_real", [1, 0]),
        ("is_real", "True False 1 0.0 real fake", [0, 1, 0, 1, 0, 1]),
        # Elsewhere it may mean either.
        ("label", "0 True", [0, None]),
        ("target", "false", [None]),
        ("is_fake", "2.0", [None]),
    ],
)
def test_words_of_labels(tmp_path: Path, column: str, words: str, labels: list[int | None]) -> None:
    """None is refused."""
    files = [f"{at}.png" for at in range(len(labels))]
    write(dict.fromkeys(files, "face 1"), tmp_path)
    for row, (word, label) in enumerate(zip(words.split(), labels, strict=True)):
        lines = [f"{file},{w}" for file, w in zip(files, words.split(), strict=True) if w == word]
        (tmp_path / "t.csv").write_text("\n".join([f"path,{column}", *lines]))
        if label is None:
            with pytest.raises(InputError, match=f"line 2: label '{word}' is none of"):
                read_data(tmp_path / "t.csv", columns={"label": column})
        else:
            found = read_data(tmp_path / "t.csv", columns={"label": column})
            assert {s.label for s in found} == {label}, (row, word)


@pytest.mark.parametrize(
    ("header", "row", "label"),
    [
        ("is_real", "1", 0),
        ("is_synthetic", "1", 1),
        ("Real", "true", 0),
        ("fake", "0", 0),
        ("class,is_fake", "0,1", 1),  # 0 is a cat
        ("real,fake", "0,1", 1),
    ],
)
def test_columns_that_are_known_as_the_label(
    tmp_path: Path, header: str, row: str, label: int
) -> None:
    write({"a.png": "face 1"}, tmp_path)
    (tmp_path / "t.csv").write_text(f"path,{header}\na.png,{row}\n")
    assert [s.label for s in read_data(tmp_path / "t.csv")] == [label]


def test_a_number_as_pandas_writes_it_beside_empty_cells_is_the_same_group(tmp_path: Path) -> None:
    names = ["12.0", "12", "", "v12.0", "1.5", "1.00"]
    write({f"{n}.png": f"face {n}" for n in range(len(names))}, tmp_path)
    lines = [f"{n}.png,real,{name}" for n, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,identity", *lines]))
    found = [sample.group for sample in read_data(tmp_path / "t.csv")]
    assert found == ["12", "12", "", "v12.0", "1.5", "1.00"]


@pytest.mark.parametrize(
    ("column", "cells", "may_be"),
    [
        ("width", "512 640 768", False),
        ("width", "512 512 512", False),
        ("id", "0 1 2", False),
        ("caption", "dog cat horse", False),
        ("nothing", "", False),
        ("kind", "a b b", True),
        ("kind", "a a a", True),
        ("kind", "REAL sd15 sdxl", True),
        ("answer", "yes no 1", True),
        ("kind", "2 1 1", True),
    ],
)
def test_which_columns_may_be_the_label(
    tmp_path: Path, column: str, cells: str, may_be: bool
) -> None:
    files = ["a.png", "b.png", "c.png"]
    write(dict.fromkeys(files, "face 1"), tmp_path)
    rows = zip(files, cells.split() or ["", "", ""], strict=True)
    (tmp_path / "t.csv").write_text(f"path,{column}\n" + "\n".join(map(",".join, rows)))
    test_data = {"X": f"{tmp_path}/t.csv"}
    if may_be:
        with pytest.raises(InputError, match=f"which one of {column} may be"):
            read_tests(test_data)
    else:
        assert [s.label for s in read_tests(test_data)] == [1, 1, 1]


KAGGLE = """,id,label,label_str,path
0,31355,1,real,real/1.jpg
1,02884,1,real,real/2.jpg
2,33988,1,real,real/3.jpg
3,AAAA,0,fake,fake/4.jpg
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            KAGGLE,
            "t.csv: 1 in the column label is taken for synthetic, and the column label_str says "
            "the opposite in 4 rows, as in 'real'; give --columns label=label_str.",
        ),
        (
            KAGGLE.replace("label_str", "what").replace(",real,", ",a,").replace(",fake,", ",b,"),
            "and the column path says the opposite in 4 rows, as in 'real/1.jpg'; write real and "
            "synthetic for the numbers, or call label is_real.",
        ),
        (
            KAGGLE.replace("label_str", "model").replace(",fake,", ",SG2,"),
            "the column model says the opposite in 3 rows, as in 'real'; write real and",
        ),
        (
            KAGGLE.replace("label_str", "Is Real").replace(",real,", ",1,").replace("fake,", "0,"),
            "column Is Real says the opposite in 4 rows, as in '1'; give --columns label=Is Real.",
        ),
        (KAGGLE.replace(",1,real", ",1.0,Real").replace(",0,", ",0.0,"), "label=label_str"),
        # A slip of few rows does not make it right.
        (KAGGLE + "".join(f"4,x,1,real,real/{i}.jpg\n" for i in range(5, 30)), "in 29 rows"),
        # What agrees, or says nothing.
        (KAGGLE.replace("label,", "is_real,"), ""),
        (KAGGLE.replace(",1,", ",one,").replace(",0,", ",1,").replace(",one,", ",0,"), ""),
        (KAGGLE.replace("fake", "real"), ""),
        (KAGGLE.replace(",0,fake", ",1,fake").replace("fake/", "real/"), ""),
        (KAGGLE.replace(",real,real/", ",ai,nature/").replace("fake/", "nature/fake-"), ""),
    ],
)
def test_numbers_that_the_words_beside_them_contradict(
    tmp_path: Path, text: str, message: str
) -> None:
    """Kaggle's "140k real and fake faces": 1 is real."""
    paths = [line.rpartition(",")[2] for line in text.splitlines()[1:]]
    write(dict.fromkeys(paths, "face 1"), tmp_path)
    (tmp_path / "t.csv").write_text(text)
    if message:
        with pytest.raises(InputError, match=re.escape(message)):
            read_data(tmp_path / "t.csv")
    else:
        read_data(tmp_path / "t.csv")


def test_words_beside_numbers_count_if_they_are_asked_for(tmp_path: Path) -> None:
    write({f"{name}.jpg": "face 1" for name in ("real/1", "real/2", "real/3", "fake/4")}, tmp_path)
    (tmp_path / "t.csv").write_text(KAGGLE)
    found = read_data(tmp_path / "t.csv", columns={"label": "label_str"})
    assert [s.label for s in found] == [0, 0, 0, 1]


def test_splits_by_their_other_names(tmp_path: Path) -> None:
    cells = {"Training Set": "train", "val_set": "validation", "eval": "test", "testset": "test"}
    write({f"{i}.png": "face 1" for i in range(len(cells))}, tmp_path)
    rows = "".join(f"{i}.png,0,{cell}\n" for i, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"path,label,split\n{rows}")
    assert [s.split for s in read_data(tmp_path / "t.csv")] == list(cells.values())


@pytest.mark.parametrize(("column", "one"), [("label", "synthetic"), ("is_real", "real")])
def test_what_numbers_were_taken_for_is_said(tmp_path: Path, column: str, one: str) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    said: list[Reading] = []
    for second in ("1", "fake"):
        (tmp_path / "t.csv").write_text(f"path,{column}\na.png,0.0\nb.png,{second}\n")
        read_data(tmp_path / "t.csv", say=said.append)
    assert [reading.columns for reading in said] == [
        f"path=path, label={column} (1 is {one})",
        f"path=path, label={column}",
    ]


def test_a_label_that_is_not_there_is_that_of_test_tables(tmp_path: Path) -> None:
    write({"a.png": "face 1", "b.png": "face 2", "c.png": "face 3"}, tmp_path)
    (tmp_path / "own.csv").write_text("path,label\na.png,real\nb.png,fake\n")
    (tmp_path / "test.csv").write_text("path,kind\nc.png,portrait\n")
    data = (f"{tmp_path}/own.csv",)
    test_data = {"X": f"{tmp_path}/test.csv"}
    own, tests = read_given(TrainConfig(data=data, test_data=test_data, columns="label="))
    assert [[s.label for s in part] for part in (own, tests)] == [[0, 1], [1]]
    with pytest.raises(InputError, match="have no label"):
        read_given(TrainConfig(data=data, columns="label="))


def test_a_generator_for_data_without_fakes_is_no_mistake(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write({"a.png": "face 1", "b/0_real/1.png": "face 2"}, tmp_path)
    for data in ("a.png", "b"):
        config = EvaluateConfig(model_dir="m", data=(f"{tmp_path}/{data}",), generator="X")
        read_given(config, allow_unlabelled=True)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "text", ["path,label,video\n{} , real , v \n", "train,Real,{} \n", "train , Real , /{}\n"]
)
def test_spaces_around_cells(tmp_path: Path, text: str) -> None:
    """They are dropped, unless a file's name has them."""
    write({"set/a.png": "face 1", "out.png": "face 2"}, tmp_path)
    csv = tmp_path / "set" / "t.csv"
    csv.write_text(text.format("a.png"))
    (found,) = read_data(csv)
    assert (found.path, found.label, found.group) == (
        *(f"{tmp_path}/set/a.png", 0),
        "v" if "video" in text else "",
    )
    for cell, message in ((" ../out.png", r"path '\.\./out.png' leaves"), ("  ", "an empty path")):
        csv.write_text(text.format(cell))
        with pytest.raises(InputError, match=message):
            read_data(csv)
    if not text.startswith("train ,"):
        write({"set/a.png ": "face 3"}, tmp_path)
        csv.write_text(text.format("a.png"))
        assert read_data(csv)[0].path == f"{tmp_path}/set/a.png "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,label\na.png,real\na.png,fake\n",
            "line 3: .*a.png' is in line 2 too, with another l",
        ),
        ("path,label,split\na.png,0,train\na.png,0,test\n", "line 3: .* with another split"),
        ("path,label,model\na.png,1,X\na.png,1,Y\n", "line 3: .* with another generator"),
        *(
            (
                f"path,label,{column}\na.png,1,{one}\nb.png,1,\na.png,1,{other}\n",
                f"line 4: .*a.png' is in line 2 too, with another {what}; keep one of them",
            )
            for column, one, other, what in (
                ("heatmap", "m.png", "", "human map"),
                ("heatmap", "m.png", "n.png", "human map"),
                ("mask", "", "m.png", "artefact mask"),
                ("box", "0 0 9 9", "0 0 9 8", "face box"),
                ("video", "v1", "v2", "group"),
                ("family", "f", "g", "family"),
            )
        ),
        (
            "# focus-manifest 1\npath,label,generator,group\na.png,real,X,g\na.png,real,Y,h\n",
            "line 4: .* is in line 3 too, with another group",
        ),
        (
            "path,label\na.png,real\n\n\nb.png,reel\n",
            "line 5: label 'reel' is none of real, nature",
        ),
        ("path,label\n../out.png,real\n", "line 2: path '../out.png' leaves the data root"),
        ("path,label\na.png,real\n/etc/x.png,real\n", "line 3: path '/etc/x.png' leaves the data"),
        ("path,label\na.png\n", "line 2: 1 columns instead of 2"),
        ("name,label\na.png,real\n", "line 1: no column names the image among name, label; call"),
        ("\n\nname,label\na.png,real\n", "line 3: no column names the image"),
        ("path,label,Label\na.png,real,fake\n", "line 1: the column 'label' is there twice"),
        ("path,label,x,x\na.png,real,1,2\n", "line 1: the column 'x' is there twice; rename one"),
        (
            "split,label,path\ntrain,Real,/a.png\n",
            "line 2: path '/a.png' begins with a slash, which stands .*; drop the slash; fix",
        ),
        ("path,label\na.png,real\nb.png,\n", "1 of 2 images of .* have no label, .*b.png': say in"),
        ("path,generator\na.png,X\n", "1 of 1 images of .* have no label, .*a.png': say in a col"),
        ("path,kind,x\na.png,real,1\n", "known as the label, .* kind, x may be: give --columns la"),
        (
            "# focus-manifest 1\npath,is_real\na.png,1\n",
            "no column .* which one of is_real may be: call it label, and its classes real and syn",
        ),
        ("path,label\n,real\n", "line 2: an empty path"),
        ("path,split\na.png,holdout\n", "line 2: split 'holdout' is none of train, val"),
        ("path,label,box\na.png,real,1 2 3\n", "line 2: box '1 2 3' is not four numbers"),
        ("path,label,box\na.png,real,1 2 3 inf\n", "line 2: box .* is not four numbers"),
        ("path,label,map\na.png,real,../m.png\n", "line 2: path '../m.png' leaves the data root"),
        ("path,label\nz.png,real\n", "1 of the 1 images .* do not exist.*line 2"),
        ('path,label\na.png,"real\n', "line 2: not a row of a CSV"),
        ("path,label\n", "has no rows"),
        (
            "path;label\na.png;real\n",
            "no column names the image among path;label; separate the columns by commas",
        ),
        (
            "# focus-manifest 1\npath\n../out.png\n",
            "line 3: path '../out.png' leaves the data root",
        ),
        (
            "# focus-manifest 1\npath,label\na.png,real\na.png,synthetic\n",
            "line 4: .* in line 3 too",
        ),
        ("train,Real,/../out.png\n", "line 1: path '../out.png' leaves the data root"),
        (
            "train,Real,/a.png\ntest,Real,/a.png\n",
            "line 2: .* is in line 1 too, with another split",
        ),
    ],
)
def test_bad_rows_have_their_line_and_reason(tmp_path: Path, text: str, message: str) -> None:
    write({"out.png": "face 0", "set/a.png": "face 1", "set/b.png": "face 2"}, tmp_path)
    csv = tmp_path / "set" / "t.csv"
    csv.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_data(csv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["path,label\n{},real\n", "train,Real,{}\n", "# focus-manifest 1\npath,label\n{},real\n"],
)
def test_outside_the_root_if_allowed(tmp_path: Path, text: str) -> None:
    write({"out.png": "face 0", "set/a.png": "face 1"}, tmp_path)
    csv = tmp_path / "set" / "t.csv"
    csv.write_text(text.format("../out.png"))
    (sample,) = read_data(csv, allow_outside_root=True)
    assert Path(sample.path).samefile(tmp_path / "out.png")
    # Below the root an absolute path is as good as another.
    csv.write_text(f"path,label\n{tmp_path}/set/a.png,real\n")
    assert read_data(csv)[0].path == f"{tmp_path}/set/a.png"


def test_rows_that_repeat_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    csv = tmp_path / "t.csv"
    csv.write_text("path,label\na.png,real\nb.png,1\na.png,0\n./a.png,nature\n")
    assert [s.path for s in read_data(csv)] == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
    assert "left out 2 duplicate rows, the first is line 4, which repeats line 2" in caplog.text
    # The reals of two generators' test sets may be the same ones.
    csv.write_text("# focus-manifest 1\npath,label,generator\na.png,real,X\na.png,real,Y\n")
    assert [s.generator for s in read_data(csv)] == ["X", "Y"]
    with csv.open("a") as file:
        file.write("a.png,real,Y\nb.png,real,\nb.png,real,\n")
    caplog.clear()
    assert [s.generator for s in read_data(csv)] == ["X", "Y", ""]
    assert "left out 2 duplicate rows, the first is line 5, which repeats line 4" in caplog.text
    # All that a row can say, twice; what else it holds does not count. A second test set does.
    csv.write_text(
        "path,label,model,family,split,heatmap,mask,box,video,test_set,camera\n"
        "a.png,fake,X,f,test,b.png,b.png,0 0 9 9,v,closed,1\n"
        'a.png,1,X,f,testing,./b.png,b.png,"[0, 0, 9, 9]",v,closed,2\n'
        "a.png,1,X,f,test,b.png,b.png,0 0 9 9,v,closed_balanced,\n"
    )
    assert [s.test_set for s in read_data(csv)] == ["closed", "closed_balanced"]


def test_utf16_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.png,real\n", "utf-16")
    with pytest.raises(InputError, match=r"t.csv is UTF-16 text: save it as UTF-8"):
        read_data(tmp_path / "t.csv")


def test_generators_that_are_not_utf8_are_refused_and_paths_are_not(tmp_path: Path) -> None:
    """No config.json and no report could name them; a file may have any name."""
    odd = os.fsdecode(b"a\xe9.png")
    write({odd: "face 1", "b.png": "face 2"}, tmp_path)
    for column in ("generator", "family"):
        text = f"path,label,{column}\n{odd},real,\nb.png,fake,SG\udce9\n"
        (tmp_path / "t.csv").write_bytes(os.fsencode(text))
        words = r"t.csv names a generator or family 'SG\\udce9', which is not UTF-8: save the table"
        with pytest.raises(InputError, match=words):
            read_data(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(os.fsencode(f"path,label\n{odd},real\nb.png,fake\n"))
    assert Path(read_data(tmp_path / "t.csv")[0].path).name == odd
    folder = os.fsdecode(b"SG\xe9")
    write({f"x/{folder}/0_real/1.png": "face 1", f"x/{folder}/1_fake/2.png": "face 2"}, tmp_path)
    with pytest.raises(InputError, match=r"x names .* or rename the folder"):
        read_data(tmp_path / "x")


def test_two_paths_that_disagree(tmp_path: Path) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    (tmp_path / "1.csv").write_text("path,label\na.png,real\n")
    (tmp_path / "2.csv").write_text("path,label\nb.png,real\na.png,fake\n")
    both = (f"{tmp_path}/1.csv", f"{tmp_path}/2.csv")
    with pytest.raises(
        InputError, match=r"a.png' of .*2.csv is in .*1.csv too, with another label"
    ):
        read_given(TrainConfig(data=both))
    (tmp_path / "2.csv").write_text("path,label\nb.png,fake\na.png,real\n")
    assert [s.label for s in read_given(TrainConfig(data=both))[0]] == [0, 1]
    for name, text in (("1", "a.png,real,v\nb.png,fake,v\n"), ("2", "a.png,real,v\nb.png,fake,\n")):
        (tmp_path / f"{name}.csv").write_text(f"path,label,video\n{text}")
    with pytest.raises(InputError, match=r"b.png' of .*2.csv is in .*1.csv too, with another grou"):
        read_given(TrainConfig(data=both))
    # A real that serves two generators, told of twice.
    for name, rows in (("1", "XY"), ("2", "YZ")):
        lines = "".join(f"a.png,real,{generator}\n" for generator in rows)
        text = f"# focus-manifest 1\npath,label,generator\n{lines}"
        (tmp_path / f"{name}.csv").write_text(text)
    assert [s.generator for s in read_given(TrainConfig(data=both))[0]] == ["X", "Y", "Z"]
