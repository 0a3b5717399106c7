"""The scale of a table's scores is recognised where it is certain, said, and refused otherwise."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from focus.errors import InputError
from focus.evaluation.other_detectors import ScoreTable, evaluate_scores, read

PROBABILITIES = [0.02, 0.1, 0.304, 0.25, 0.93, 0.7, 0.88, 0.415]


def table(
    folder: Path, cells: list[str], separator: str = ",", encoding: str = "utf-8", **how: object
) -> ScoreTable:
    lines = [separator.join(("path", "label", "score", "Straße"))]
    lines += [
        separator.join((f"{n}.png", str(int(n >= 4)), cell, "")) for n, cell in enumerate(cells)
    ]
    path = folder / "t.csv"
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode(encoding))
    return read(path, {}, **how)  # type: ignore[arg-type]


def texts(numbers: list[float], form: str = "{:.6g}", comma: str = ".") -> list[str]:
    return [form.format(number).replace(".", comma) for number in numbers]


PERCENT = [100 * p for p in PROBABILITIES]
ODDS = [float(np.log(p / (1 - p))) for p in PROBABILITIES]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize(
    ("cells", "remark"),
    [
        (texts(PROBABILITIES, comma=","), "decimal commas"),
        (texts(PERCENT), "percent, divided by 100"),
        (texts(PERCENT, comma=","), "percent, divided by 100, decimal commas"),
        (texts(PERCENT, "{:.6g} %"), "percent, divided by 100, percent signs"),
        (
            texts(PERCENT, "{:.4g}%", ","),
            "percent, divided by 100, percent signs, decimal commas",
        ),
        (texts(ODDS, "{:.15g}"), "log-odds"),
        (texts(PROBABILITIES), ""),
    ],
)
def test_the_same_scores_however_they_are_written(
    cells: list[str], remark: str, separator: str, encoding: str, tmp_path: Path
) -> None:
    scores = table(tmp_path, cells, separator, encoding)
    np.testing.assert_allclose(scores.scores.score, PROBABILITIES, rtol=0, atol=1e-12)
    assert (f"score=score ({remark})" if remark else "score=score)") in str(scores)
    assert "not used: Straße" in str(scores)
    assert ("separated by tabs" if separator == "\t" else "by semicolons") in str(scores)


def test_what_numbers_were_taken_for_is_a_note_unless_it_was_given(tmp_path: Path) -> None:
    for cells, words in (
        (texts(PERCENT), "The scores go from 2 to 93 and were taken for percent"),
        (texts(ODDS), "were taken for log-odds"),
    ):
        _, results = evaluate_scores(table(tmp_path, cells))
        assert words in str(results["findings"])
        assert results["open"]["mean"]["brier"] is not None
        scale = "percent" if "percent" in words else "log-odds"
        _, results = evaluate_scores(table(tmp_path, cells, scale=scale))
        assert "were taken for" not in str(results["findings"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({5: "87"}, "line 7: the score '87' is no probability"),  # one slip makes no percent
        ({5: "1.5", 6: "3"}, "the score '1.5' is no probability, from 0 to 1: give --score-scale"),
        ({5: "-1", 6: "-1"}, "the score '-1' is no probability"),  # what means "failed"
        ({5: "-999", 6: "-999"}, "the score '-999' is no probability"),
        ({5: "55 %"}, "line 2: the score '0.02' has no percent sign, as others have"),
        ({5: '"0,7"'}, "line 2: the score '0.02' beside '0,7' leaves open what a comma"),
        ({5: ""}, "line 7: there is no score; fix the row, or give --common"),
        ({5: "NaN"}, "line 7: the score 'NaN' is not finite"),
        ({5: "high"}, "line 7: the score 'high' is no number"),
    ],
)
def test_what_is_not_certain_is_refused(
    change: dict[int, str], message: str, tmp_path: Path
) -> None:
    cells = [change.get(row, cell) for row, cell in enumerate(texts(PROBABILITIES))]
    with pytest.raises(InputError, match=message):
        table(tmp_path, cells)


@pytest.mark.parametrize("scale", ["probability", "raw"])
def test_probabilities_of_real_that_lose_their_ranks_are_refused(
    scale: Literal["probability", "raw"], tmp_path: Path
) -> None:
    """An overconfident detector: one less such a number is 1.0, whatever the number."""
    cells = ["1e-18", "3e-20", *texts(PROBABILITIES)[2:]]
    with pytest.raises(InputError, match="lose their ranks: give the detector's logits"):
        table(tmp_path, cells, scale=scale, higher_is="real")


def test_thousands_are_no_decimals(tmp_path: Path) -> None:
    for cells in (["1,234", "2,345"], ["1,234,567", "0,5"]):
        with pytest.raises(InputError, match=r"thousands: write|leaves open what a comma means"):
            table(tmp_path, cells, ";", scale="raw")
    assert table(tmp_path, ["1,234", "2,3456"], ";", scale="raw").detectors[0].raw_ends == (
        1.234,
        2.3456,
    )


def test_a_decimal_comma_in_a_table_with_commas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"5 columns instead of 4 .numbers with a decimal comma n"):
        table(tmp_path, texts(PROBABILITIES, comma=","))


def test_common_leaves_out_what_has_no_score(tmp_path: Path) -> None:
    cells = texts(PROBABILITIES)
    cells[3] = ""
    scores = table(tmp_path, cells, common=True)
    assert len(scores.scores) == len(cells) - 1
    assert "1 rows without a score left out" in str(scores)
