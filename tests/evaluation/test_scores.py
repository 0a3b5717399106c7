"""The table of scores, its file and its joining."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus.errors import InputError
from focus.evaluation.scores import Scores, in_common

_INTEGERS = ("peak_row", "peak_col", "predicted")


def table(n: int, **columns: Any) -> Scores:
    """``n`` rows of distinct values, with what is not known in some; ``columns`` replaces some."""
    rows = np.arange(n)
    filled: dict[str, Any] = {name: rows / (70 + number) for number, name in enumerate(NAMES)}
    filled |= {name: rows % (3 + number) for number, name in enumerate(_INTEGERS)}
    texts = ("generator", "family", "split", "test_set", "group", "stored_in")
    filled |= dict.fromkeys(texts, [""] * n)
    hits = np.where(rows % 2, rows % 3 % 2, -1)
    filled |= dict.fromkeys(("pointing_hit", "pointing_hit_synthetic", "map_hit"), hits)
    for name in ("map_cosine", "map_mass", "mask_mass", "pointing_chance", "map_chance", "llr"):
        filled[name] = np.where(rows % 3, filled[name], math.nan)
    filled |= {"index": rows, "path": [f"/faces/{row}.png" for row in rows], "label": rows % 2}
    return Scores(**(filled | {"score": (rows + 1) / (n + 3)} | columns))


NAMES = list(Scores.__annotations__)


def assert_same(scores: Scores, expected: Scores) -> None:
    for name, column in scores.columns().items():
        other = getattr(expected, name)
        assert column.dtype == other.dtype, name
        np.testing.assert_array_equal(column, other, err_msg=name)


def test_the_file_brings_back_every_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    bits = random.integers(0, 0x7F800000, 2000, dtype=np.uint32).view(np.float32)
    to_one = random.integers(0, 0x3FF0000000000001, 2000, dtype=np.uint64).view(np.float64)
    for scores in (table(2000, score=to_one, cam_range=bits), table(0)):
        scores.to_csv(tmp_path / "scores.csv")
        assert_same(Scores.from_csv(tmp_path / "scores.csv"), scores)


def test_text_of_every_kind_comes_back(tmp_path: Path) -> None:
    paths = ["/a, b.png", '/"quoted".png', "/line\nbreak.png", "/# no comment.png", "/\udcff.png"]
    scores = table(5, path=paths, label=[0, 1, -1, 1, -1])
    scores.to_csv(tmp_path / "scores.csv")
    assert_same(Scores.from_csv(tmp_path / "scores.csv"), scores)


def test_the_file_as_other_programs_see_it(tmp_path: Path) -> None:
    scores = table(2, label=[-1, 1], pointing_hit=[-1, 0], score=np.array([0.1, 1 / 3]))
    scores.to_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        unlabelled, fake = csv.DictReader(file)
    unknown = ("label", "pointing_hit", "map_cosine", "map_hit", "mask_mass", "llr")
    assert [unlabelled[name] for name in unknown] == [""] * 6
    assert (unlabelled["path"], unlabelled["score"]) == ("/faces/0.png", "0.1")
    assert (fake["label"], fake["pointing_hit"], fake["map_hit"]) == ("1", "0", "1")
    assert float(fake["score"]) == 1 / 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("entropy_sum", "entropy_total", "lacks the column 'entropy_sum'"),
        ("/faces/1.png,1,", "/faces/1.png,fake,", "row 2: label is 'fake'"),
        ("/faces/1.png,1,", "/faces/1.png,2,", "row 2: label is '2'"),
        (",0.16666666666666666,", ",,", "row 1: score is ''"),
        (",0.16666666666666666,", ",nan,", "row 1: score is 'nan'"),
        (",0.16666666666666666,", ",1.01,", "row 1: score is '1.01'"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "scores.csv"
    table(3).to_csv(file)
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        Scores.from_csv(file)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    table(3).to_csv(file)
    file.write_text(file.read_text()[:-40])
    with pytest.raises(InputError, match=r"row 3: \w+ is "):
        Scores.from_csv(file)


def test_columns_added_by_others_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    table(3).to_csv(file)
    head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([f"{head},note", *(f"{row},x" for row in rows)]))
    assert_same(Scores.from_csv(file), table(3))


def test_the_column_of_outliers_is_there_if_one_is_known(tmp_path: Path) -> None:
    for peaks, there in (([-1, -1, -1], False), ([-1, 0, -1], True)):
        scores = table(3, peak_outlier=peaks)
        scores.to_csv(tmp_path / "scores.csv")
        assert ("peak_outlier" in (tmp_path / "scores.csv").read_text()) == there
        assert_same(Scores.from_csv(tmp_path / "scores.csv"), scores)


def test_merge_orders_the_parts_of_several_processes() -> None:
    whole = table(7)
    parts = [whole.select(range(rank, 7, 3)) for rank in (2, 0, 1)]
    assert_same(Scores.merge(parts), whole)


def test_scores_without_cams_come_back_without_their_columns(tmp_path: Path) -> None:
    scores = Scores.without_cams(path=["a", "b"], label=[0, 1], score=[0.25, 1 / 3])
    scores.to_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert not set(next(csv.reader(file))) & {"peak_row", "entropy_sum", "map_hit"}
    read_back = Scores.from_csv(tmp_path / "scores.csv")
    assert (read_back.has_cams, table(2).has_cams) == (False, True)
    assert read_back.score.tolist() == [0.25, 1 / 3]
    assert (read_back.peak_row.tolist(), read_back.map_hit.tolist()) == ([-1, -1], [-1, -1])
    assert math.isnan(read_back.entropy_sum[0])


def test_a_group_has_a_row_for_each_class_and_generator() -> None:
    groups = ["v", "v", "", "v", "v", "w", ""]
    generators = ["", "", "", "A", "B", "A", ""]
    scores = [0.125, 0.375, 0.5, 1.0, 0.75, 0.25, 0.5]
    columns = {"label": [0, 0, 0, 1, 1, 1, 0], "group": groups, "generator": generators}
    read_back = table(7, score=scores, **columns).by_group()
    assert read_back.score.tolist() == [0.25, 0.5, 1.0, 0.75, 0.25, 0.5]
    assert read_back.group.tolist() == ["v", "", "v", "v", "w", ""]
    assert read_back.generator.tolist() == ["", "", "A", "B", "A", ""]
    assert read_back.path.tolist() == [f"/faces/{n}.png" for n in (0, 2, 3, 4, 5, 6)]
    assert not read_back.has_cams
    assert len(Scores.without_cams(score=[]).by_group()) == 0


def test_rows_in_common_are_those_of_all_tables_in_one_order() -> None:
    """Rows that a table lists twice are paired as often as the other has them."""
    columns = {"generator": ["b", "a", "", "a", "a"], "label": [1, 1, 0, 1, -1]}
    one = table(5, path=["y", "x", "x", "x", "x"], score=[0.1, 0.2, 0.3, 0.4, 0.5], **columns)
    columns = {"generator": ["", "c", "a", "b"], "label": [0, 1, 1, 1]}
    other = table(4, path=["x", "x", "x", "y"], score=[0.6, 0.7, 0.8, 0.9], **columns)
    first, second = in_common([one, other])
    assert first.score.tolist() == [0.3, 0.2, 0.1]
    assert second.score.tolist() == [0.6, 0.8, 0.9]
    assert first.has_images_of(second)
    assert not one.in_order().has_images_of(other.in_order())
    assert len(in_common([one, table(0)])[0]) == 0


def test_a_table_of_several_blocks_comes_back_and_names_the_row_of_a_fault(tmp_path: Path) -> None:
    rows = 40_000  # that are read by 16,384
    generators = np.where(np.arange(rows) % 2, "A", "").astype(object)
    labels = np.arange(rows) % 2
    scores = Scores.without_cams(
        path=[f"{row}.png" for row in range(rows)],
        label=labels,
        generator=generators,
        score=np.linspace(0, 1, rows),
    )
    file = tmp_path / "scores.csv"
    scores.to_csv(file)
    assert_same(Scores.from_csv(file), scores)
    file.write_text(file.read_text().replace("\n35000.png,0,", "\n35000.png,fake,"))
    with pytest.raises(InputError, match="row 35001: label is 'fake'"):
        Scores.from_csv(file)
