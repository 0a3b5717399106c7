"""Data sets of the Hub, from folders that stand in for it: what they take, and a part of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from ..reading import read_data
from ..trees import arrow_table, face, pictures, write


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
    found = read_data("hf://user/name", max_images=4)
    expected = [
        (face(start + first + i), label, generator, split)
        for start, split in ((0, "train"), (100, "test"))
        for first, label, generator in ((0, 0, "kA"), (9, 1, "kA"), (21, 1, "kB"))
        for i in range(4)
    ]
    told = [(Path(s.path).read_bytes(), s.label, s.generator, s.split) for s in found]
    assert sorted(told) == sorted(expected)
    assert fetched == [0, 1, 3, 4, 7, 8] * 2, "other groups of rows are not fetched"
    assert len(list((hub.parents[1] / "cache").rglob("*.png"))) == 24, "the others are not stored"
    assert {s.extra["license"] for s in found} == {"cc-by-nc-4.0"}
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
    found = read_data("hf://user/name", max_images=2)
    assert [(Path(s.path).name, s.split) for s in found] == [
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
