"""The table of scores, its file and its joining."""

import csv
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus.errors import InputError
from focus.evaluation.scores import Scores


def table(n: int, **columns: Any) -> Scores:
    """``n`` rows of distinct values; ``columns`` replaces some."""
    rows = np.arange(n)
    given: dict[str, Any] = {
        "index": rows,
        "path": [f"/faces/{row}.png" for row in rows],
        "label": rows % 2,
        "generator": ["" if row % 2 == 0 else "kA" for row in rows],
        "family": [""] * n,
        "split": ["test"] * n,
        "test_set": ["closed"] * n,
        "group": [f"id{row}" for row in rows],
        "score": (rows + 1) / (n + 3),
        "predicted": rows % 2,
        "entropy_predicted": rows / 70,
        "entropy_synthetic": rows / 71,
        "entropy_sum": rows / 72,
        "entropy_z": rows / 73,
        "cam_range": 1e-7 * rows,
        "peak_row": rows % 4,
        "peak_col": rows % 5,
        "pointing_hit": [-1 if row % 2 == 0 else row % 3 % 2 for row in rows],
        "pointing_hit_synthetic": [-1 if row % 2 == 0 else 1 for row in rows],
        "map_mse": rows / 74,
        "map_cosine": [math.nan if row % 3 == 0 else row / 75 for row in rows],
        "map_hit": [-1 if row % 3 == 0 else row % 2 for row in rows],
        "map_mass": [math.nan if row % 3 == 0 else row / 76 for row in rows],
        "map_chance": [math.nan if row % 3 == 0 else row / 79 for row in rows],
        "pointing_chance": [math.nan if row % 2 == 0 else row / 78 for row in rows],
        "mask_mass": [math.nan if row % 2 == 0 else row / 77 for row in rows],
        "llr": [math.nan if row % 5 == 4 else (row - 2) / 78 for row in rows],
    }
    return Scores(**(given | columns))


def assert_same(left: Scores, right: Scores) -> None:
    for name, column in left.columns().items():
        other = getattr(right, name)
        assert column.dtype == other.dtype, name
        np.testing.assert_array_equal(column, other, err_msg=name)


def test_the_file_brings_back_every_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    bits = generator.integers(0, 0x7F800000, 2000, dtype=np.uint32).view(np.float32)
    to_one = generator.integers(0, 0x3FF0000000000001, 2000, dtype=np.uint64).view(np.float64)
    scores = table(2000, score=to_one, cam_range=bits)
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
    first, *rest = (tmp_path / "scores.csv").read_text().splitlines()
    assert first == "# focus-scores 2"
    unlabelled, fake = csv.DictReader(rest)
    assert [unlabelled[name] for name in ("map_cosine", "map_hit", "mask_mass")] == [""] * 3
    assert (fake["map_hit"], np.float32(fake["map_mass"])) == ("1", np.float32(1 / 76))
    assert (unlabelled["path"], unlabelled["label"]) == ("/faces/0.png", "")
    assert (unlabelled["score"], unlabelled["pointing_hit"]) == ("0.1", "")
    assert (fake["label"], fake["pointing_hit"], fake["generator"]) == ("1", "0", "kA")
    assert float(fake["score"]) == 1 / 3


def test_an_empty_table_has_a_file(tmp_path: Path) -> None:
    table(0).to_csv(tmp_path / "scores.csv")
    assert len(Scores.from_csv(tmp_path / "scores.csv")) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("focus-scores 2", "focus-scores 3", "begins with '# focus-scores 3'"),
        ("entropy_sum", "entropy_total", "lacks the column 'entropy_sum'"),
        ("/faces/1.png,1,", "/faces/1.png,fake,", "line 4: label is 'fake'"),
        (",0.16666666666666666,0,", ",,0,", "line 3: score is ''"),
        (",0.16666666666666666,0,", ",nan,0,", "line 3: score is 'nan'"),
        (",0.16666666666666666,0,", ",1.01,0,", "line 3: score is '1.01'"),
        (",0.16666666666666666,0,", ",-0.1,0,", "line 3: score is '-0.1'"),
        ("/faces/1.png,", '"/faces/1.png"",', "line 5: unexpected end of data; fix"),
        ("/faces/1.png,", '"/faces/1.png"x,', "line 4: ',' expected after '\"'; fix"),
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


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("label", ("-1", "2")),
        ("predicted", ("", "-1")),
        *((name, ("", "-1", str(2**31))) for name in ("peak_row", "peak_col")),
        *((name, ("-1", "2")) for name in ("pointing_hit", "pointing_hit_synthetic", "map_hit")),
    ],
)
def test_a_cell_that_no_image_can_have_is_refused(
    tmp_path: Path, name: str, cells: tuple[str, ...]
) -> None:
    file = tmp_path / "scores.csv"
    table(3).to_csv(file)
    mark, head, *rows = file.read_text().splitlines()
    for cell in (*cells, "9" * 23, "0.5"):
        changed = rows[1].split(",")
        changed[head.split(",").index(name)] = cell
        file.write_text("\n".join([mark, head, rows[0], ",".join(changed), rows[2]]))
        with pytest.raises(InputError, match=f"line 4: {name} is '{cell}'; fix the line or "):
            Scores.from_csv(file)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    table(3).to_csv(file)
    file.write_text(file.read_text()[:-25])
    with pytest.raises(InputError, match=r"line 5: \w+ is "):
        Scores.from_csv(file)


def test_columns_added_by_others_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    table(3).to_csv(file)
    mark, head, *rows = file.read_text().splitlines()
    file.write_text("\n".join([mark, f"{head},note", *(f"{row},x" for row in rows)]))
    assert_same(Scores.from_csv(file), table(3))


def test_a_file_from_before_a_column_lacks_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    unknown = {name: [math.nan] * 3 for name in ("pointing_chance", "map_chance")}
    table(3, **unknown).to_csv(file)
    mark, head, *rows = file.read_text().splitlines()
    assert head.endswith(",pointing_chance,map_chance")
    shorter = (line.rsplit(",", 2)[0] for line in (head, *rows))
    file.write_text("\n".join([mark, *shorter]))
    assert_same(Scores.from_csv(file), table(3, **unknown))


def test_a_path_with_a_carriage_return_comes_back(tmp_path: Path) -> None:
    scores = table(3, path=["/faces/a\r.png", "/faces/b\r\n.png", "/faces/c\n.png"])
    scores.to_csv(tmp_path / "scores.csv")
    assert_same(Scores.from_csv(tmp_path / "scores.csv"), scores)


def test_merge_orders_the_parts_of_several_processes() -> None:
    whole = table(7)
    parts = [whole.select(range(rank, 7, 3)) for rank in (2, 0, 1)]
    assert_same(Scores.merge(parts, 7), whole)
    with pytest.raises(ValueError, match="row 2 of 7 is scored 0 times"):
        Scores.merge(parts[1:], 7)
    with pytest.raises(ValueError, match="row 2 of 7 is scored 2 times"):
        Scores.merge([*parts, parts[0]], 7)
    with pytest.raises(ValueError, match="row 6 is scored, but there are only 6 rows"):
        Scores.merge(parts, 6)


def test_select() -> None:
    assert table(4).select([True, False, False, True]).index.tolist() == [0, 3]
    assert table(4).select([2, 0]).path.tolist() == ["/faces/2.png", "/faces/0.png"]
    assert len(table(4).select([])) == 0


def test_columns_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"column 'score' has shape \(3,\), not \(4,\)"):
        table(4, score=[0.1, 0.2, 0.3])


@pytest.mark.slow
def test_a_long_file_is_read_in_parts(tmp_path: Path) -> None:
    """Its text takes several times the memory of the table, and is never there as a whole."""
    scores, file = table(20000), tmp_path / "scores.csv"
    scores.to_csv(file)
    tracemalloc.start()
    found = Scores.from_csv(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_same(found, scores)
    assert peak < 2.2e7, f"{peak / 1e6:.0f} MB"
    lines = file.read_text().splitlines()
    lines[-1] = lines[-1][:40]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"line 20002: .* is None; fix the line"):
        Scores.from_csv(file)
