"""The manifest's file form gives back what was written, and a bad row is named."""

from pathlib import Path

import pytest

from focus.data.manifest import Manifest, Sample
from focus.errors import InputError

from .reading import read_data
from .trees import write


def test_round_trip_is_exact(tmp_path: Path) -> None:
    below, outside = tmp_path / "faces", tmp_path.parent / "elsewhere.png"
    samples = [
        Sample(f"{below}/a, b.png", 1, "StyleGAN2", "stylegan", "train", "closed"),
        Sample(f'{below}/say "hi".png', 0, split="validation", group="video, 1"),
        Sample(f"{below}/two\nlines.png", None, human_map=f"{below}/maps/x.png"),
        Sample(f"{below}/carriage\rreturn.png"),
        Sample(str(outside), 1, "ü", mask_path=f"{below}/m.png", box=(0.1 + 0.2, 2.0, 1e-17, -4.5)),
        Sample(f"{below}/not-utf8-\udcff.png", extra={"source": "FFHQ", "age": "30"}),
        Sample(f"{tmp_path}/up.png", test_set="closed_balanced", split="test"),
        Sample(f"{below}/.hidden..png"),
    ]
    path = tmp_path / "faces" / "manifest.csv"
    below.mkdir()
    Manifest(samples).to_csv(path)
    assert list(Manifest.from_csv(path)) == samples


def test_a_file_has_one_name(tmp_path: Path) -> None:
    """So what two rows, tables or roots say of it is compared."""
    write({"set/a.png": "face 1", "a.png": "face 2"}, tmp_path)
    detours = ["a.png", "./a.png", "../set/a.png", ".//a.png", "x/../a.png"]
    cells = [*detours, f"{tmp_path}/no/../a.png"]
    rows = "".join(f"{cell},{cell}\n" for cell in cells)
    (tmp_path / "set/m.csv").write_text(f"path,mask_path\n{rows}")
    for path in (tmp_path / "set/m.csv", tmp_path / "set/../set/m.csv"):
        found = Manifest.from_csv(path)
        assert [s.path for s in found] == [f"{tmp_path}/set/a.png"] * 5 + [f"{tmp_path}/a.png"]
        assert [s.mask_path for s in found] == [s.path for s in found]
    (found,) = read_data(tmp_path / "x/../set/a.png", allow_unlabelled=True)
    assert found.path == f"{tmp_path}/set/a.png"


def test_paths_below_the_csv_move_with_it(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old = tmp_path / "old" / "manifest.csv"
    Manifest([Sample(f"{tmp_path}/old/x/1.png"), Sample("/far/2.png")]).to_csv(old)
    new = old.rename(tmp_path / "new" / "manifest.csv")
    assert [s.path for s in Manifest.from_csv(new)] == [f"{tmp_path}/new/x/1.png", "/far/2.png"]


def test_a_hand_written_file_and_an_older_one_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("\ufefflabel,path,camera\n\nsynthetic,a.png,\n,b.png,phone\n", "utf-8")
    assert list(Manifest.from_csv(path)) == [
        Sample(f"{tmp_path}/a.png", 1),
        Sample(f"{tmp_path}/b.png", None, extra={"camera": "phone"}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\nreal\n", "its first line must name .*'path' among them"),
        ("path,split\n\na.png,dev\n", "line 3: split 'dev' is none of train,"),
        ("path,box\na.png,1 2 3\n", "line 2: box '1 2 3' is not four numbers"),
        ('path\na.png\n"b.png\n', "line 3: not a row of a CSV"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Manifest.from_csv(path)
