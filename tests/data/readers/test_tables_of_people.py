"""Tables and folders as people have them: what they would type first works, or says what does."""

from pathlib import Path

import pytest

from focus.config.command_line import parse
from focus.config.shared import DataConfig, SharedConfig
from focus.config.train import TrainConfig
from focus.data.manifest import Manifest
from focus.data.readers import read_given
from focus.data.readers.detect import Reading, read_labels, read_path
from focus.data.readers.files import images_without_maps
from focus.data.readers.given import GivenImages
from focus.errors import InputError

from ..reading import read_data
from ..trees import write


@pytest.fixture(autouse=True)
def faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write({"a.png": "face 1", "Zoë.png": "face 2"}, tmp_path)


def read(path: str, **settings: object) -> Reading:
    config = DataConfig(data=(path,), **settings)  # type: ignore[arg-type]
    return read_path(path, config, {}, labels=read_labels(config))


def facts(manifest: Manifest) -> list[tuple[str, int | None, str]]:
    return [(Path(s.path).name, s.label, s.generator) for s in manifest]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize(("separator", "name"), [(";", "t.csv"), ("\t", "t.tsv"), ("\t", "t.txt")])
def test_a_table_of_a_spreadsheet(encoding: str, separator: str, name: str) -> None:
    text = "Datei;label;Modell;Größe\na.png;echt;;7\nZoë.png;gefälscht;Bär;\n"
    Path(name).write_bytes(text.replace(";", separator).encode(encoding))
    columns = ("path=Datei,generator=Modell",)
    reading = read(name, columns=columns, labels=("real=echt,synthetic=gefälscht",))
    assert facts(reading.manifest) == [("a.png", 0, ""), ("Zoë.png", 1, "Bär")]
    assert "not used: Größe" in str(reading)
    assert ("taken for cp1252" in str(reading)) == (encoding == "cp1252")
    assert f"separated by {'tabs' if separator != ';' else 'semicolons'}" in str(reading)


def test_a_file_s_own_bytes_come_before_cp1252(tmp_path: Path) -> None:
    (tmp_path / "Zo\udceb.png").write_bytes((tmp_path / "a.png").read_bytes())
    Path("t.csv").write_bytes("path,label\nZoë.png,real\n".encode("cp1252"))
    (sample,) = read("t.csv").manifest
    assert sample.path == f"{tmp_path}/Zo\udceb.png"


def test_each_table_has_columns_of_its_own(tmp_path: Path) -> None:
    Path("a.csv").write_text("file,what\na.png,real\n")
    Path("b.csv").write_text("pic,label\nZoë.png,fake\n")
    words = "--data a.csv b.csv --columns label=what b.csv:path=pic,label=label"
    manifest = read_given(parse(TrainConfig, words.split())).data
    assert facts(manifest) == [("a.png", 0, ""), ("Zoë.png", 1, "synthetic")]
    # By the whole path, where two files have one name; in a test set, too.
    for folder in ("x", "y"):
        Path(folder).mkdir()
        Path(folder, "t.csv").write_text(f"pic_{folder},label\n{tmp_path}/a.png,fake\n")
    words = "--test-data X=x/t.csv --test-data Y=y/t.csv --columns x/t.csv:path=pic_x"
    config = parse(SharedConfig, [*words.split(), "y/t.csv:path=pic_y"])
    assert config.columns_of("x/t.csv") == {"path": "pic_x"}
    assert config.columns_of("y/t.csv") == {"path": "pic_y"}
    for table, message in (
        ("t.csv", "t.csv: may be x/t.csv or y/t.csv; write the whole path"),
        ("z/t.csv", r"z/t.csv: is for a table that is not read \(did you mean [xy]/t.csv"),
    ):
        with pytest.raises(InputError, match=message):
            DataConfig(data=("x/t.csv", "y/t.csv"), columns=(f"{table}:path=pic",))
    with pytest.raises(InputError, match="names the path twice, 'a' and 'b': give one name"):
        DataConfig(data=("x",), columns=("path=a,label=c", "path=b"))


def test_a_column_of_another_table_leads_to_the_setting_for_one() -> None:
    Path("a.csv").write_text("what,label\na.png,real\n")
    Path("b.csv").write_text("path,label\nZoë.png,fake\n")
    with pytest.raises(InputError, match=r"no column 'what' .*, as in --columns TABLE:path=what"):
        read_given(TrainConfig(data=("a.csv", "b.csv"), columns=("path=what",)))
    manifest = read_given(TrainConfig(data=("a.csv", "b.csv"), columns=("a.csv:path=what",))).data
    assert len(manifest) == 2


def test_a_column_that_is_named_counts_in_a_manifest_too() -> None:
    """It was passed over in silence."""
    header = "path,label,generator,family,split,test_set,human_map,mask_path,box,group,second"
    Path("m.csv").write_text(f"{header}\na.png,real{',' * 9}fake\n")
    assert [s.label for s in read_data("m.csv")] == [0]
    assert [s.label for s in read_data("m.csv", columns=("label=second",))] == [1]


def test_words_name_the_classes_of_folders() -> None:
    write({"set/genuine/1.png": "face 1", "set/Morphed/2.png": "face 2"}, Path())
    assert read("set").layout == "images"
    reading = read("set", labels=("real=genuine,synthetic=morphed",))
    assert [s.label for s in reading.manifest] == [0, 1]
    assert reading.layout == "real-fake"


def test_a_table_labels_the_images_of_a_folder(caplog: pytest.LogCaptureFixture) -> None:
    write({f"set/{n}.png": f"face {n[-1]}" for n in ("x/1", "x/2", "y/3", "y/4")}, Path())
    table = "id;label;generator\n1;real;\nx/2.png;fake;A\n3.png;0;\n9;1;A\n"
    Path("labels.csv").write_text(table)
    reading = read("set", labels=("labels.csv",))
    assert facts(reading.manifest) == [("1.png", 0, ""), ("2.png", 1, "A"), ("3.png", 0, "")]
    assert "1 of 4 rows name no image of" in caplog.text
    assert "left out 1 of 4 images that labels.csv has no label for" in caplog.text
    Path("labels.csv").write_text("path,label\nz/1.png,real\n")
    with pytest.raises(InputError, match=r"names no image of .*give the paths below the folder"):
        read("set", labels=("labels.csv",))
    write({"set/z/1.jpg": "face 7"}, Path())
    Path("labels.csv").write_text("path,label\n1,real\n")
    with pytest.raises(InputError, match=r"labels.csv, line 2: '1' may be .*1.png.* or .*1.jpg"):
        read("set", labels=("labels.csv",))
    with pytest.raises(InputError, match="is a table for a folder of images, and no folder is giv"):
        read_given(TrainConfig(data=("labels.csv",), labels=("labels.csv",)))


def test_a_table_of_labels_is_for_the_folders_of_data_alone() -> None:
    """Files of one name in a test set, or a further folder, got the labels of others in silence."""
    names = [f"0000{i}.png" for i in range(4)]
    write({f"{f}/{n}": f"face {ord(f) + i}" for f in "AB" for i, n in enumerate(names)}, Path())
    write({"C/x.png": "face 9"}, Path())
    rows = [f"{name},{label}" for name, label in zip(names, ("real", "fake") * 2, strict=True)]
    Path("labels.csv").write_text("\n".join(["file,klass", *rows]))
    columns = ("labels.csv:path=file,label=klass",)

    def images(*data: str, **tests: dict[str, str]) -> GivenImages:
        config = TrainConfig(data=data, labels=("labels.csv",), columns=columns, **tests)  # type: ignore[arg-type]
        return read_given(config)

    fakes = images("A", test_data={"SG3": "B"})
    assert [label for _, label, _ in facts(fakes.data)] == [0, 1, 0, 1]
    assert facts(fakes.tests) == [(name, 1, "SG3") for name in names]
    with_reals = images("A", test_data={"SG3": "B"}, test_real={"FFHQ": "C"})
    assert facts(with_reals.tests) == [*facts(fakes.tests), ("x.png", 0, "SG3")]
    with pytest.raises(InputError, match=r"no folder is given as --data: give .*--test-data NAME="):
        images("labels.csv", test_data={"SG3": "B"})

    ambiguous = r"line 2: '00000.png' may be .*A/00000.png' or .*B/00000.png'; write its whole path"
    with pytest.raises(InputError, match=ambiguous):
        images("A", "B")
    whole = [f"{Path('A', name).absolute()},fake" for name in names]
    whole += [f"{Path('B', name).absolute()},real" for name in names]
    Path("labels.csv").write_text("\n".join(["file,klass", *whole, "x,real"]))
    labels = [(Path(s.path).parent.name, s.label) for s in images("A", "B", "C").data]
    assert labels == [*[("A", 1)] * 4, *[("B", 0)] * 4, ("C", 0)]


def test_a_further_folder_needs_rows_in_the_table_of_labels_or_a_table_of_its_own() -> None:
    write({"A/1.png": "face 1", "A/2.png": "face 2", "B/3.png": "face 3"}, Path())
    Path("labels.csv").write_text("path,label\n1,real\n2,fake\n")

    def labels_of(*data: str) -> list[int | None]:
        images = read_given(TrainConfig(data=data, labels=("labels.csv",))).data
        return [sample.label for sample in images]

    with pytest.raises(
        InputError,
        match=r"^--labels labels.csv has rows for other folders of --data and none for \S+/B "
        r"\(1 images\): add rows that name its images by their paths below it, or give a table of "
        r"these paths and labels as --data in its place\.$",
    ):
        labels_of("A", "B")
    Path("B.csv").write_text("path,label\nB/3.png,real\n")
    assert labels_of("A", "B.csv") == [0, 1, 0]
    with Path("labels.csv").open("a") as table:
        table.write("3.png,real\n")
    assert labels_of("A", "B") == [0, 1, 0]


def test_each_folder_is_listed_once_for_a_table_of_labels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each of n folders was listed n times, and the table read n times."""
    folders = [f"set/{n}" for n in range(20)]
    write({f"{folder}/{n}.png": "face 1" for n, folder in enumerate(folders)}, Path())
    rows = [f"{n},{('real', 'fake')[n % 2]}" for n in range(20)]
    Path("labels.csv").write_text("\n".join(["path,label", *rows, "20,real"]))
    listed: list[Path] = []

    def listing(folder: Path, maps: Path | None) -> list[Path]:
        listed.append(folder)
        return images_without_maps(folder, maps)

    monkeypatch.setattr("focus.data.readers.label_tables.images_without_maps", listing)
    images = read_given(TrainConfig(data=tuple(folders), labels=("labels.csv",))).data
    assert [sample.label for sample in images] == [0, 1] * 10
    assert len(listed) == len(folders)
    assert caplog.text.count("1 of 21 rows name no image of") == 1


def test_a_table_of_labels_may_have_an_equals_sign_in_its_path() -> None:
    write({"set/1.png": "face 1", "split=train/set/2.png": "face 2"}, Path())
    Path("split=train/labels.csv").write_text("path,label\n1,real\n")
    reading = read("set", labels=("split=train/labels.csv", "synthetic=morphed"))
    assert facts(reading.manifest) == [("1.png", 0, "")]
    with pytest.raises(InputError, match=r"--labels got 'fake=morphed': give real=WORD,synthetic="):
        DataConfig(labels=("fake=morphed",))


def test_a_decimal_comma_without_quotes_is_named() -> None:
    Path("t.csv").write_text("path,label,age\na.png,real,21,5\n")
    with pytest.raises(
        InputError, match=r"4 columns instead of 3 .numbers with a decimal comma ne"
    ):
        read("t.csv")
