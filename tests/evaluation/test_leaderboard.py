"""Several detectors of one table, ranked with what could be chance."""

import csv
import shutil
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from focus.config.command_line import parse
from focus.config.use import EvaluateConfig
from focus.errors import InputError
from focus.evaluation.leaderboard import rank_sets
from focus.metrics.intervals import holm, mean_auc_difference, mean_auc_interval
from focus.use import evaluate as program

from ..report.reports import Page

Row = dict[str, str]


def wide_table(
    path: Path, skills: Sequence[float], generators: int, images: int, seed: int = 0
) -> list[Row]:
    """Write a table, half of it real images, with a column a detector; return its rows.

    A detector of skill s moves the fakes of generator g by s and something of its own.
    """
    random = np.random.default_rng(seed)
    fakes = images // 2
    generator = np.arange(fakes) % generators
    difficulty = random.normal(0, 0.4, images)
    columns = {}
    for number, skill in enumerate(skills):
        of_generator = random.normal(0, 0.2, generators)
        logits = difficulty + random.normal(0, 1, images)
        logits[images - fakes :] += skill + of_generator[generator]
        columns[f"d{number}"] = 1 / (1 + np.exp(-logits))
    rows = []
    for row in range(images):
        fake = row - (images - fakes)
        name = f"g{generator[fake]}" if fake >= 0 else ""
        cells = {"path": f"{row}.png", "label": str(int(fake >= 0)), "generator": name}
        rows.append(cells | {d: repr(float(values[row])) for d, values in columns.items()})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def rank(path: Path, detectors: int, output: Path, *words: str) -> list[Row]:
    """Run the program as from a command line; return the rows of ``leaderboard.csv``."""
    columns = [f"score=d{number}" for number in range(detectors)]
    flags = ["--scores", str(path), "--columns", *columns, "--output", str(output), *words]
    assert program.evaluate(parse(EvaluateConfig, flags)) is None
    with (output / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_figures_are_those_of_the_paired_comparison_of_each_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skills = (0.5, 1.6, 0.55, 0.5)
    rows = wide_table(tmp_path / "wide.csv", skills, generators=3, images=240)
    for row in rows:
        row["d3"] = row["d0"]  # a detector that is there twice
    with (tmp_path / "wide.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    written = rank(tmp_path / "wide.csv", len(skills), tmp_path)

    generator = np.array([row["generator"] for row in rows])
    real = np.flatnonzero(generator == "")
    compared = {}
    for detector in ("d0", "d1", "d2", "d3"):
        score = np.array([float(row[detector]) for row in rows])
        compared[detector] = [
            (score[real], score[fake], real, fake)
            for fake in (np.flatnonzero(generator == name) for name in ("g0", "g1", "g2"))
        ]
    means = [row for row in written if not row["generator"]]
    order = [row["detector"] for row in means]
    assert order[0] == "d1"
    assert [float(row["auc"]) for row in means] == sorted(
        (float(row["auc"]) for row in means), reverse=True
    )
    pairs = list(combinations(range(4), 2))
    tests = [mean_auc_difference(compared[order[a]], compared[order[b]]) for a, b in pairs]
    adjusted = holm([test.p_value for test in tests if test is not None])
    expected_ranks = rank_sets(
        4,
        {
            pair: (test.value, p)
            for pair, test, p in zip(pairs, tests, adjusted, strict=True)
            if test is not None
        },
    )
    for number, row in enumerate(means):
        interval = mean_auc_interval(compared[row["detector"]])
        assert (float(row["auc_low"]), float(row["auc_high"])) == interval
        assert (int(row["first_rank"]), int(row["last_rank"])) == expected_ranks[number]
        if number:
            difference = mean_auc_difference(compared[row["detector"]], compared[order[0]])
            assert difference is not None
            ends = [float(row[f"difference{end}"]) for end in ("", "_low", "_high")]
            assert tuple(ends) == difference[:3]
            assert float(row["p_holm"]) == adjusted[pairs.index((0, number))]
    assert expected_ranks[0] == (1, 1)
    assert expected_ranks[1:] == [(2, 4)] * 3
    twins = [row for row in means if row["detector"] in ("d0", "d3")]
    assert twins[0]["auc"] == twins[1]["auc"]

    for row in (row for row in written if row["generator"]):
        fake = generator == row["generator"]
        chosen = fake | (generator == "")
        scores = [
            float(r[row["detector"]]) for r, wanted in zip(rows, chosen, strict=True) if wanted
        ]
        assert float(row["auc"]) == pytest.approx(roc_auc_score(fake[chosen], scores), abs=1e-12)
        assert (row["real"], row["synthetic"]) == ("120", "40")

    out = capsys.readouterr().out
    assert "open set, mean AUC of 3 generators, 120 real + 120 synthetic images" in out
    assert "2-4" in out
    page = Page(tmp_path / "report.html")
    assert "4 detectors of wide.csv" in page.text
    assert "2-4" in page.text
    assert (tmp_path / "figures" / "leaderboard-open-1.svg").is_file()


def test_ranks_that_a_detector_may_have_by_hand() -> None:
    # The first is better than the third for sure, the second may be as good as either.
    differences = {(0, 1): (0.01, 0.2), (0, 2): (0.05, 0.01), (1, 2): (0.04, 0.05)}
    assert rank_sets(3, differences) == [(1, 2), (1, 3), (2, 3)]
    certain = {(0, 1): (-0.1, 0.001), (0, 2): (0.05, 0.01), (1, 2): (0.15, 0.0)}
    assert rank_sets(3, certain) == [(2, 2), (1, 1), (3, 3)]
    assert rank_sets(2, {(0, 1): (0.0, 1.0)}) == [(1, 2), (1, 2)]


def test_no_report_of_another_command_is_replaced(tmp_path: Path) -> None:
    """Neither that of a run or an evaluation by a leaderboard, nor the other way round."""
    table = tmp_path / "wide.csv"
    wide_table(table, (0.5, 1.0), generators=2, images=40)
    one_column = ["--scores", str(table), "--columns", "score=d0", "--report", "false", "--output"]
    program.evaluate(parse(EvaluateConfig, [*one_column, str(tmp_path / "evaluation")]))
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "evaluation", run)
    for name in ("manifest.csv", "config.yaml"):
        (run / name).touch()
    before = files_in(tmp_path)
    assert {run / "scores.csv", run / "results.json"} <= before.keys()
    with pytest.raises(InputError, match=r"folder of a run or a model.*as .*run/leaderboard\."):
        rank(table, 2, run)
    with pytest.raises(InputError, match=r"holds results\.json of another command"):
        rank(table, 2, tmp_path / "evaluation")
    compared = ["--compare", str(table), str(table), "--columns", "score=d0", "--output"]
    for folder in (run, tmp_path / "evaluation"):
        with pytest.raises(InputError, match="whose files would be replaced"):
            program.evaluate(parse(EvaluateConfig, [*compared, str(folder)]))
    assert files_in(tmp_path) == before
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "robustness.csv").touch()
    with pytest.raises(InputError, match=r"holds robustness\.csv of another command"):
        program.evaluate(parse(EvaluateConfig, [*one_column, str(tmp_path / "measured")]))
    shutil.rmtree(tmp_path / "measured")
    rank(table, 2, run / "leaderboard", "--report", "false")
    before = files_in(tmp_path)
    with pytest.raises(InputError, match=r"holds leaderboard\.csv of another command"):
        program.evaluate(parse(EvaluateConfig, [*one_column, str(run / "leaderboard")]))
    assert files_in(tmp_path) == before
    rank(table, 2, run / "leaderboard", "--report", "false")  # a leaderboard anew


def files_in(folder: Path) -> dict[Path, bytes]:
    """Return the contents of all files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_generator_of_one_image_is_left_out_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = wide_table(tmp_path / "wide.csv", (0.5, 1.0), generators=2, images=40)
    with (tmp_path / "wide.csv").open("a") as file:
        file.write("one.png,1,single,0.5,0.5\n")
    written = rank(tmp_path / "wide.csv", 2, tmp_path / "new", "--report", "false")
    assert {row["generator"] for row in written} == {"", "g0", "g1"}
    assert next(row for row in written)["synthetic"] == str(len(rows) // 2)
    assert "note: The open set is without single, of which a class" in capsys.readouterr().out
    assert not (tmp_path / "new" / "report.html").exists()


def test_rows_without_a_score_are_left_out_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide_table(tmp_path / "wide.csv", (0.5, 1.0), generators=2, images=40)
    with (tmp_path / "wide.csv").open("a") as file:
        file.write("one.png,1,g0,0.5,\n")
    rank(tmp_path / "wide.csv", 2, tmp_path / "new", "--common")
    said = "warning: 1 of 41 rows lack the score of a detector"
    assert said in capsys.readouterr().out
    assert "1 of 41 rows" in Page(tmp_path / "new" / "report.html").text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--scores a.csv --columns score=a score=b --threshold eer", "--threshold eer is for one"),
        ("--compare a.csv b.csv --columns score=a score=b", "of which --compare takes one"),
    ],
)
def test_flags_that_do_not_go_together(flags: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(EvaluateConfig, flags.split())


@pytest.mark.slow
def test_24_detectors_on_10_000_images_take_20_seconds_of_a_processor(tmp_path: Path) -> None:
    skills = np.linspace(0.5, 2.0, 24).tolist()
    wide_table(tmp_path / "wide.csv", skills, generators=47, images=10_000)
    begin = time.process_time()
    written = rank(tmp_path / "wide.csv", 24, tmp_path)
    assert time.process_time() - begin < 20
    assert len(written) == 24 * 48
