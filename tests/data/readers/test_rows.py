"""Rows about one image: repetitions are left out, contradictions are refused."""

from pathlib import Path

import pytest

from focus.config.train import TrainConfig
from focus.data.readers import read_given
from focus.errors import InputError

from ..reading import read_data
from ..trees import write


@pytest.mark.parametrize(
    ("columns", "one", "other", "what"),
    [
        ("label,split", "0,train", "0,test", "split"),
        ("label,heatmap", "1,m.png", "1,", "human_map"),
    ],
)
def test_two_rows_that_contradict_each_other(
    tmp_path: Path, columns: str, one: str, other: str, what: str
) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    (tmp_path / "t.csv").write_text(f"path,{columns}\na.png,{one}\nb.png,1,\na.png,{other}\n")
    message = f"t.csv, line 4: .*a.png' is in .*t.csv, line 2 too, with another {what}; keep one"
    with pytest.raises(InputError, match=message):
        read_data(tmp_path / "t.csv")


def test_rows_that_repeat_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,real\nb.png,1\na.png,0\n./a.png,nature\n")
    assert [s.path for s in read_data(table)] == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]
    assert caplog.messages == [
        f"left out 2 images that were given before, the first in {table}, line 4, "
        f"'{tmp_path}/a.png'"
    ]
    # The reals of two generators' test sets may be the same ones, and those of two test sets.
    head = "path,label,generator,test_set\n"
    table.write_text(head + "a.png,real,X,\na.png,real,Y,\na.png,real,Y,\na.png,real,Y,open\n")
    manifest = read_data(table, layout="manifest")
    assert [(s.generator, s.test_set) for s in manifest] == [("X", ""), ("Y", ""), ("Y", "open")]


def test_two_tables_of_one_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    (tmp_path / "1.csv").write_text("path,label\na.png,real\n")
    both = TrainConfig(data=(f"{tmp_path}/1.csv", f"{tmp_path}/2.csv"))
    (tmp_path / "2.csv").write_text("path,label\nb.png,real\na.png,fake\n")
    with pytest.raises(InputError, match=r"2.csv: .*a.png' is in .*1.csv too, with another label"):
        read_given(both)
    (tmp_path / "2.csv").write_text("path,label\nb.png,fake\na.png,real\n")
    manifest = read_given(both).data
    assert [s.label for s in manifest] == [0, 1]
    assert "left out 1 images that were given before, the first in" in caplog.text
