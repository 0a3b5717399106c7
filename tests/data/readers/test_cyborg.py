"""The predecessor's CSV: splits, labels and slashes mean what its authors meant."""

from pathlib import Path

import pytest

from focus.errors import InputError

from ..reading import read_data
from ..trees import write


def test_a_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
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


def test_spaces_and_slashes_before_a_path_and_a_given_generator(tmp_path: Path) -> None:
    write({"a.png": "face 1", "b.png": "face 2"}, tmp_path)
    (tmp_path / "d.csv").write_text("train , Real , //a.png\ntrain,Synthetic,b.png\n")
    found = read_data(tmp_path / "d.csv", generator="SG2")
    assert [(s.path, s.generator) for s in found] == [
        (f"{tmp_path}/a.png", ""),
        (f"{tmp_path}/b.png", "SG2"),
    ]
