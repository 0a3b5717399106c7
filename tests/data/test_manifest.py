"""The manifest's file form gives back what was written, and a bad row is named."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
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
        manifest = Manifest.from_csv(path)
        assert [s.path for s in manifest] == [f"{tmp_path}/set/a.png"] * 5 + [f"{tmp_path}/a.png"]
        assert [s.mask_path for s in manifest] == [s.path for s in manifest]
    (sample,) = read_data(tmp_path / "x/../set/a.png", allow_unlabelled=True)
    assert sample.path == f"{tmp_path}/set/a.png"


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


def hard_samples(folder: str) -> list[Sample]:
    """Return samples whose fields are each empty, unusual or repeated in some of the rows."""
    rows = [
        Sample(f"{folder}/a, b.png", 1, "StyleGAN2", "stylegan", "train", "closed", group="1"),
        Sample(f"{folder}/Zoë 019_0.png", 0, "StyleGAN2 | ü", split="validation", group="vidéo"),
        Sample(f"{folder}/x/two\nlines.png", None, human_map=f"{folder}/maps/{{a.png,b.png}}"),
        Sample("no folder.png", 1, "ü", mask_path="/m.png", box=(0.1 + 0.2, 2.0, 1e-17, -4.5)),
        Sample(f"{folder}/not-utf8-\udcff.png", extra={"source": "FFHQ", "age": "30"}),
        Sample(f"{folder}/half-\ud83d.png", split="test", test_set="open", extra={"age": ""}),
        Sample(f"{folder}/漢字/😀.png", 0, extra={"licence": "", "source": "a;b"}, group="1"),
        Sample("", 1, "StyleGAN2", "stylegan", "train", human_map="/faces.json#7"),
        Sample("/", 0, split="train", group="1", box=(0, 0, 1, 1)),
    ]
    return [*rows, *reversed(rows), *rows[::2]]


def test_a_manifest_is_the_sequence_of_its_samples() -> None:
    """Whatever is in them, in what is selected and joined too: a list is the measure."""
    samples = hard_samples("/data/faces")
    manifest = Manifest(iter(samples), "here")
    joined = manifest[3:9] + Manifest(samples[:4], "there") + Manifest()
    of_list = samples[3:9] + samples[:4]
    later = joined.where(lambda sample: sample.split != "train").take(np.array([4, 0, 0, 5]))
    of_later = [[s for s in of_list if s.split != "train"][row] for row in (4, 0, 0, 5)]
    for table, rows in (
        (manifest, samples),
        (manifest[::-2], samples[::-2]),
        (joined, of_list),
        (later, of_later),
        (manifest.split("train"), [sample for sample in samples if sample.split == "train"]),
        (manifest.split(""), [sample for sample in samples if not sample.split]),
        (manifest.take(np.zeros(len(samples), bool)), []),
    ):
        assert list(table) == rows
        assert [table[row] for row in range(-len(rows), len(rows))] == rows * 2
        assert (len(table), bool(table), table == Manifest(rows)) == (len(rows), bool(rows), True)
        assert table.labels.tolist() == [-1 if s.label is None else s.label for s in rows]
        assert table.generators() == sorted({s.generator for s in rows if s.label == 1})
        for name in ("path", "human_map", "mask_path", "generator", "family", "split", "group"):
            cells = [getattr(sample, name) or "" for sample in rows]
            assert list(table.cells(name)) == cells
            assert [table.cell(name, row) for row in range(len(rows))] == cells
            assert table.has(name).tolist() == [bool(cell) for cell in cells]
        for name in ("generator", "group", "age"):
            numbers, texts = table.numbered(name)
            cells = list(table.cells(name))
            assert [texts[n] if n >= 0 else "" for n in numbers.tolist()] == cells
            assert len({*numbers.tolist()}) == len({*cells})
    assert joined.source == "here, there"
    assert manifest != Manifest(samples[:-1] + samples[:1])
    for row in (len(samples), -len(samples) - 1):
        with pytest.raises(IndexError):
            manifest[row]


def test_columns_are_changed_in_the_rows_of_a_selection() -> None:
    """Also where a row is there twice; what they were taken from stays as it was."""
    samples = hard_samples("/data/faces")
    manifest = Manifest(samples)
    for rows in ([4, 7, 10, 13], [7, 2, 2, 0]):
        changed = manifest.take(np.array(rows)).with_cells("group", "wxyz")
        changed = changed.with_cells("split", ["test", ""], np.array([False, True, False, True]))
        changed = changed.with_cells("human_map", ["/maps/1.png"], np.array([2]))
        changed = changed.with_cells("new", iter(["1", "", "", "1"]))
        changed = changed.with_labels(np.array([1, -1, 0, 1]))
        first, second, third, fourth = (samples[row] for row in rows)
        assert list(changed) == [
            replace(first, group="w", label=1, extra={**first.extra, "new": "1"}),
            replace(second, group="x", label=None, split="test"),
            replace(third, group="y", label=0, human_map="/maps/1.png"),
            replace(fourth, group="z", label=1, split="", extra={**fourth.extra, "new": "1"}),
        ]
    assert list(manifest) == samples


def test_what_is_written_is_what_rows_say(tmp_path: Path) -> None:
    """Byte by byte: the header with the columns beside, sorted; paths below the folder; boxes."""
    folder = tmp_path / "faces"
    folder.mkdir()
    samples = [s for s in hard_samples(str(folder)) if s.path and "\ud83d" not in s.path]
    Manifest(samples).to_csv(folder / "m.csv")
    names = ["path", "label", "generator", "family", "split", "test_set", "human_map"]
    names += ["mask_path", "box", "group"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "age", "licence", "source"])
    for sample in samples:
        row = {name: getattr(sample, name) or "" for name in names}
        for name in ("path", "human_map", "mask_path"):
            row[name] = row[name].removeprefix(f"{folder}/")
        row["label"] = "" if sample.label is None else ("real", "synthetic")[sample.label]
        row["box"] = " ".join(repr(float(side)) for side in sample.box or ())
        extra = [sample.extra.get(name, "") for name in ("age", "licence", "source")]
        writer.writerow([*row.values(), *extra])
    assert (folder / "m.csv").read_bytes() == text.getvalue().encode("utf-8", "surrogateescape")
    Manifest().to_csv(folder / "empty.csv")
    assert (folder / "empty.csv").read_text() == ",".join(names) + "\n"


def test_plain_rows_are_read_as_others_are(tmp_path: Path) -> None:
    """Plain ones by whole columns, for which an odd row among them is no reason to differ."""
    header = "camera,path,label,split,map_path,mask_path,group,age"
    rows = [
        f"phone {n % 3},{('a', f'{tmp_path}/b', 'ü/ü')[n % 3]}/{n}.png,{('real', '')[n % 2]},"
        f"{('train', '')[n // 2 % 2]},{('', 'm.png', '/far/m.png')[n % 3]},,{n % 4 or ''},"
        f"{'30' if n > 5 else ''}"
        for n in range(9)
    ]
    tables = {"plain.csv": rows, "odd.csv": [*rows, ",./z.png,,,,,,"]}
    for name, lines in tables.items():
        (tmp_path / name).write_text("\n".join([header, *lines]) + "\n", "utf-8")
    plain, odd = (list(Manifest.from_csv(tmp_path / name)) for name in tables)
    assert plain == odd[:-1]
    assert plain[7] == Sample(
        f"{tmp_path}/b/7.png",
        human_map=f"{tmp_path}/m.png",
        group="3",
        extra={"camera": "phone 1", "age": "30"},
    )
    assert list(plain[7].extra) == ["camera", "age"]
    for cell, message in (("", "line 11: an empty path"), ("a.png,x", "line 11: 9 columns")):
        (tmp_path / "wrong.csv").write_text("\n".join([header, *rows, f"x,{cell},,,,,,"]), "utf-8")
        with pytest.raises(InputError, match=message):
            Manifest.from_csv(tmp_path / "wrong.csv")


def test_hashes_are_equal_where_the_texts_are() -> None:
    """In columns of paths and of texts alike, however long a text is."""
    long = [f"/{'a' * 2**17}/{n}.png" for n in "121"] + [
        "/" + "b" * 2**18,
        "/a",
        "/",
        "",
        "a/",
        "b",
    ]
    samples = hard_samples("/data") + [Sample(path, group=path) for path in long]
    manifest = Manifest(samples)
    number_of: dict[str, int] = {}
    for name in ("path", "human_map", "group", "nothing"):
        for text, number in zip(manifest.cells(name), manifest.hashes(name), strict=True):
            assert number_of.setdefault(text, number) == number
    assert len({*number_of.values()}) == len(number_of) > 15


def test_words_in_the_names_of_files_are_those_of_the_names_alone() -> None:
    """In any case, of letters that fold into ASCII too, and not across two names."""
    names = [
        "fake.png",
        "x",
        "re",
        "al",
        "REAL",
        "FaKe1",
        "\u017fynthetic",
        "fa\u212ae",
        "ﬁ",
        "",
        "al",
    ]
    names += ["é real", "漢字", "re\u0301al", "fakefake", "notfa", "ke.png", "real"]
    manifest = Manifest(Sample(f"/real/fake/{name}") for name in names)
    parts = ("real", "fake", "synthe")
    expected = [any(part in name.casefold() for part in parts) for name in names]
    assert manifest.names_contain(parts).tolist() == expected
    assert manifest[::-2].names_contain(parts).tolist() == expected[::-2]
    assert 0 < sum(expected) < len(names)
