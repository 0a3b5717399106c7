"""Labels that are the other way round are said: a detector would learn the opposite."""

import random
from pathlib import Path
from typing import Any

import pytest

from focus.config.train import TrainConfig
from focus.data.manifest import Manifest, Sample
from focus.data.readers import read_given
from focus.data.readers.label_conflicts import label_conflicts

from ..reading import read_data
from ..trees import arrow_table, face, write, write_parquet

KAGGLE = """,id,label,label_str,path
0,31355,1,real,real/1.jpg
1,02884,1,real,real/2.jpg
2,33988,1,real,real/3.jpg
3,AAAA,0,fake,fake/4.jpg
"""


def conflicts_in(**options: Any) -> list[str]:
    """Return what is said of labels, which is an error."""
    findings = read_given(TrainConfig(**options)).findings
    conflicts = [one for one in findings if one.id.startswith("labels_")]
    assert {one.severity for one in conflicts} <= {"error"}
    return [one.text for one in conflicts]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (KAGGLE, "3 of 3 images taken for synthetic are real by the name 'real'"),
        # By the folders alone.
        (KAGGLE.replace(",real,", ",a,").replace(",fake,", ",b,"), "3 of 3 images taken for synth"),
        (KAGGLE.replace("label,", "is_real,"), ""),
        (KAGGLE.replace(",1,", ",one,").replace(",0,", ",1,").replace(",one,", ",0,"), ""),
        (KAGGLE.replace(",real,real/", ",x,Real-ESRGAN/").replace("fake,fake", "x,x"), ""),
    ],
)
def test_numbers_that_the_words_beside_them_contradict(
    tmp_path: Path, text: str, said: str
) -> None:
    """Kaggle's "140k real and fake faces": 1 is real."""
    paths = [line.rpartition(",")[2] for line in text.splitlines()[1:]]
    write(dict.fromkeys(paths, "face 1"), tmp_path)
    (tmp_path / "t.csv").write_text(text)
    conflicts = conflicts_in(data=(str(tmp_path / "t.csv"),))
    assert len(conflicts) == bool(said)
    assert said in "".join(conflicts)
    if text == KAGGLE:
        manifest = read_data(tmp_path / "t.csv", columns=("label=label_str",))
        assert [s.label for s in manifest] == [0, 0, 0, 1]
        assert conflicts_in(data=(str(tmp_path / "t.csv"),), columns=("label=label_str",)) == []


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("FFHQ-real/1 FFHQ-synthesis/2", "by the name 'FFHQ-real' beside them"),
        ("stylegan2_original/1 Real-ESRGAN/2 fake_of_real/3 realistic/4", ""),
    ],
)
def test_a_folder_of_fakes_that_holds_real_images(names: str, said: str, tmp_path: Path) -> None:
    write({f"{name}.png": "face 1" for name in names.split()}, tmp_path)
    conflicts = conflicts_in(test_data={"X": str(tmp_path)})
    assert len(conflicts) == bool(said)
    assert said in "".join(conflicts)


def labelled(tmp_path: Path, rows: dict[str, str]) -> list[str]:
    """Return what is said of a table of these labels by path."""
    write(dict.fromkeys(rows, "face 1"), tmp_path)
    lines = "".join(f"{path},{label}\n" for path, label in rows.items())
    (tmp_path / "t.csv").write_text(f"path,label\n{lines}")
    return conflicts_in(data=(str(tmp_path / "t.csv"),))


def test_some_labels_that_their_folders_or_names_contradict(tmp_path: Path) -> None:
    classes = {"real": "real", "fake": "synthetic"}
    folders = {f"{name}/{i}.png": label for name, label in classes.items() for i in range(20)}
    assert labelled(tmp_path / "sound", folders) == []
    wrong = {"fake/3.png": "real", "fake/7.png": "real"}
    (said,) = labelled(tmp_path / "folders", folders | wrong)
    assert "2 of 22 images taken for real are synthetic by the name 'fake' beside them" in said
    assert "fake/3.png" in said
    names = {f"all/{name}_{i}.png": label for name, label in classes.items() for i in range(20)}
    (said,) = labelled(tmp_path / "names", names | {"all/real_5.png": "synthetic"})
    assert "1 of 21 images taken for synthetic are real by the name 'real_5'" in said


def test_words_that_say_nothing_of_the_labels(tmp_path: Path) -> None:
    """What all pictures share, a fake that is named after its original, a folder in a folder."""
    shared = {f"real_world/{i}.png": ("real", "synthetic")[i % 4 == 0] for i in range(40)}
    assert labelled(tmp_path / "shared", shared) == []
    after = {f"swaps/original_{i}.png": "synthetic" for i in range(20)}
    after |= {f"ffhq/{i}.png": "real" for i in range(20)}
    assert labelled(tmp_path / "after", after) == []
    inner = {f"fake/of_real/{i}.png": "synthetic" for i in range(5)}
    inner |= {f"fake/{i}.png": "synthetic" for i in range(15)}
    inner |= {f"real/{i}.png": "real" for i in range(20)}
    assert labelled(tmp_path / "inner", inner) == []


@pytest.mark.parametrize("original", [0.5, 0.02])
def test_a_column_that_has_nothing_to_do_with_the_labels(original: float) -> None:
    """By chance 8 of 20 tables, of a rare word more, had "their labels the other way round"."""
    weights = (original, 1 - original)
    for seed in range(20):
        draw = random.Random(seed)
        rows = [
            Sample(f"/set/{i}.png", draw.randrange(2), extra={"version": version})
            for i, version in enumerate(draw.choices(("original", "resized"), weights, k=400))
        ]
        assert label_conflicts(Manifest(rows, "t.csv"), "/set") == []


def test_labels_of_which_most_are_the_other_way_round(tmp_path: Path) -> None:
    folders = {"real": "synthetic", "fake": "real"}
    rows = {f"{name}/{i}.png": label for name, label in folders.items() for i in range(20)}
    mended = {"real/3.png": "real", "fake/7.png": "synthetic", "fake/8.png": "synthetic"}
    (said,) = labelled(tmp_path, rows | mended)
    assert "19 of 21 images taken for synthetic are real by the name 'real' beside them" in said


def test_folders_beside_labels_of_a_table(tmp_path: Path) -> None:
    """They were taken for what says the labels, and so were not compared with them."""
    write({f"C/{name}/{i}.png": "face 1" for name in ("real", "fake") for i in range(4)}, tmp_path)
    rows = [f"{name}/{i}.png,{int(name == 'real')}" for name in ("real", "fake") for i in range(4)]
    table = tmp_path / "c.csv"
    table.write_text("\n".join(["path,label", *rows]))
    (said,) = conflicts_in(data=(str(tmp_path / "C"),), labels=(str(table),))
    assert "4 of 4 images taken for synthetic are real by the name 'real'" in said
    assert conflicts_in(data=(str(tmp_path / "C"),)) == []


def test_cells_beside_labels_in_a_folder_of_parquet_files(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet brings pyarrow")
    sources = {"image": [face(i) for i in range(8)], "label": [0, 1] * 4}
    table = arrow_table({**sources, "source": ["fake", "real"] * 4})
    write_parquet(tmp_path / "P" / "train.parquet", table)
    (said,) = conflicts_in(data=(str(tmp_path / "P"),))
    assert "4 of 4 images taken for synthetic are real by the name 'real'" in said
