"""Scores of any detector from a table: what they give, and what is refused."""

import csv
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from focus.config.command_line import parse
from focus.config.shared import parse_labels
from focus.config.use import EvaluateConfig
from focus.errors import InputError
from focus.evaluation import other_detectors
from focus.evaluation.other_detectors import evaluate_scores, read
from focus.evaluation.results import Results, summarise
from focus.evaluation.scores import Scores
from focus.metrics.intervals import mean_auc_difference
from focus.model.operating_points import choose_points
from focus.use import evaluate as program

from ..report.reports import Page

HEADER = ("path", "label", "score", "generator", "split")
GENERATORS = ("StyleGAN2", "StyleGAN3", "Midjourney")


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_detectors, "summarise", partial(summarise, resamples=40))
        yield


def write(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows_of(seed: int, count: int = 20) -> list[tuple[object, ...]]:
    """Real images and fakes of three generators; some scores tie, some differ by one bit."""
    random, rows = np.random.default_rng(seed), list[tuple[object, ...]]()
    for split in ("test", "validation"):
        for generator in ("", *GENERATORS):
            label = int(bool(generator))
            scores = random.beta(2 + 2 * label, 3, count).round(1 + label)
            scores[:4] = np.nextafter(0.5, [0, 1, 0, 1])
            rows += [
                (
                    f"{split}/{generator or 'real'}/{number}.png",
                    label,
                    repr(float(s)),
                    generator,
                    split,
                )
                for number, s in enumerate(scores)
            ]
    return rows


def run(*words: object) -> None:
    if evaluation := program.evaluate(parse(EvaluateConfig, [str(word) for word in words])):
        print(evaluation)


def results_of(folder: Path) -> Results:
    results: Results = json.loads((folder / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tables") / "theirs.csv", rows_of(0))


@pytest.fixture(scope="module")
def written(table: Path) -> Path:
    """The folder of an evaluation with all that belongs to it."""
    out = table.parent / "out"
    run("--scores", table, "--training-generators", "StyleGAN2", "--output", out)
    return out


def test_figures_are_those_of_scikit_learn(written: Path) -> None:
    results = results_of(written)
    rows = [row for row in rows_of(0) if row[4] == "test"]
    for name in GENERATORS:
        labels_and_scores = [(row[1], float(str(row[2]))) for row in rows if row[3] in ("", name)]
        label, score = zip(*labels_and_scores, strict=True)
        test_set = "closed" if name == "StyleGAN2" else "open"
        entry = results[test_set]["generators"][name]
        assert entry["auc"] == pytest.approx(roc_auc_score(label, score), abs=1e-12)
        precision = average_precision_score(label, score)
        assert entry["average_precision"] == pytest.approx(precision, abs=1e-12)
        assert entry["intervals"]["auc"][0] < entry["auc"] < entry["intervals"]["auc"][1]
        assert "entropy" not in entry
    relations = {n: e["relation"] for n, e in results["open"]["generators"].items()}
    assert relations == {"StyleGAN3": "near", "Midjourney": "far"}


def test_thresholds_are_those_of_rows_for_validation(written: Path) -> None:
    results = results_of(written)
    labels_and_scores = [
        (row[1], float(str(row[2]))) for row in rows_of(0) if row[4] == "validation"
    ]
    real, fake = ([score for label, score in labels_and_scores if label == side] for side in (0, 1))
    points = choose_points(real, fake)
    assert results["thresholds"] == points.thresholds
    assert results["decision"] == {"point": "eer", "threshold": points.thresholds["eer"]}
    scores = Scores.from_csv(written / "scores.csv")
    assert set(scores.split) == {"test"}
    assert (scores.predicted == (scores.score > points.thresholds["eer"])).all()
    assert points.calibration is not None
    np.testing.assert_array_equal(scores.llr, points.calibration.llr(scores.score).astype("f4"))
    assert results["open"]["mean"]["cllr"] is not None


def test_scores_on_any_scale_and_turned_around_rank_alike(tmp_path: Path) -> None:
    """ISO's words for the classes are known, others are given."""
    rows = [
        (*row[:2], min(max(round(float(str(row[2])), 2), 0.01), 0.99), *row[3:])
        for row in rows_of(0)
    ]
    plain = write(tmp_path / "plain.csv", rows)
    _, expected = evaluate_scores(read(plain, {}))

    def results(name: str, change: Callable[[float], float], **how: Any) -> dict[str, Any]:
        changed = [
            (row[0], ("attack" if row[1] else "bona fide"), change(row[2]), *row[3:])
            for row in rows
        ]
        return evaluate_scores(read(write(tmp_path / f"{name}.csv", changed), {}, **how))[1]

    odds = results("odds", lambda p: math.log(p / (1 - p)), scale="log-odds")
    turned = results("turned", lambda p: 1 - p, higher_is="real")
    mirrored = {"scale": "log-odds", "higher_is": "real"}
    both = results("both", lambda p: math.log((1 - p) / p), **mirrored)
    for rescaled in (odds, turned, both):
        for name in ("auc", "brier", "cllr"):
            assert rescaled["open"]["mean"][name] == pytest.approx(
                expected["open"]["mean"][name], 1e-6
            )
    raw = results("raw", lambda p: -1000 * p, scale="raw", higher_is="real")
    assert raw["open"]["mean"]["auc"] == pytest.approx(expected["open"]["mean"]["auc"])
    rates, expected_rates = (r["open"]["operating_points"]["eer"] for r in (raw, expected))
    assert rates["apcer_mean"] == expected_rates["apcer_mean"]
    for entry in (raw["open"]["mean"], raw["open"]["pooled"], *raw["open"]["generators"].values()):
        assert not any(entry.get(name) for name in ("ece", "brier", "cllr", "calibration_loss"))
    assert any("Raw scores are shown from 0 (" in finding["text"] for finding in raw["findings"])
    with pytest.raises(InputError, match=r"--threshold 0.4 is no raw score"):
        EvaluateConfig(scores="raw.csv", score_scale="raw", threshold="0.4")
    with pytest.raises(InputError, match="lose their ranks: give --score-scale raw"):
        results("far", lambda p: 1000 * p, scale="log-odds")
    with pytest.raises(InputError, match="lose their ranks: give --score-scale raw"):
        results("far", lambda p: -1000 * p, **mirrored)
    near = [("a", "real", 25.0, "", ""), ("b", "fake", 25.0 + 1e-7, "", "")]
    assert read(write(tmp_path / "near.csv", near), {}, scale="log-odds").scores.score[0] < 1
    with pytest.raises(InputError, match=r"label 'genuine' is none of .*--labels names others"):
        read(write(tmp_path / "w.csv", [("a", "genuine", 0.1, "", "")]), {})
    assert read(tmp_path / "w.csv", {}, words=parse_labels(['real="genuine"'])).scores.label == [0]


def test_the_results_say_whose_scores_they_are(written: Path, table: Path) -> None:
    origin = results_of(written)["provenance"]["scores"]
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    columns = {n: n for n in ("path", "label", "generator", "split", "score")}
    assert origin == {"file": "theirs.csv", "sha256": digest, "columns": columns}


def test_the_report_is_without_pictures_and_without_cams(written: Path) -> None:
    page = Page(written / "report.html")
    assert "img" not in page.tags
    assert "theirs.csv" in page.text
    assert "CAM" not in page.text.partition("Glossary")[0].partition("Tables")[2]
    names = {path.name for path in (written / "figures").glob("*.svg")}
    assert names >= {"roc-open.svg", "det-closed.svg", "scores-open.svg", "reliability.svg"}
    assert not any(name.startswith(("entropy", "range")) for name in names)


def test_the_scores_that_were_written_can_be_evaluated_again(written: Path) -> None:
    header = (written / "scores.csv").read_text().partition("\n")[0]
    assert header == "path,label,generator,family,split,test_set,group,score,predicted,llr"
    scores, results = evaluate_scores(read(written / "scores.csv", {}), ["StyleGAN2"])
    assert results["open"]["mean"]["auc"] == results_of(written)["open"]["mean"]["auc"]
    assert scores.path.tolist() == Scores.from_csv(written / "scores.csv").path.tolist()


def test_a_parquet_file_is_read_as_the_csv(table: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra hub brings pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [(n, bool(row[1]), float(str(row[2])), *row[3:]) for n, row in enumerate(rows_of(0))]
    columns = dict(zip(("id", *HEADER[1:]), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "theirs.parquet")
    from_parquet, from_csv = read(tmp_path / "theirs.parquet", {}).scores, read(table, {}).scores
    for name in ("label", "score", "generator", "split"):
        assert getattr(from_parquet, name).tolist() == getattr(from_csv, name).tolist()
    assert from_parquet.path[:2].tolist() == ["0", "1"]


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    rows = [("a", "x", "real", 0.25, "7.0"), ("b", "y", "fake", 0.75, "8")]
    path = write(tmp_path / "t.csv", rows, ("id", "note", "Truth", "out", "clip"))
    scores = read(path, {"label": "truth", "group": "clip"}, scores=["OUT"]).scores
    assert scores.path.tolist() == ["a", "b"]
    assert scores.label.tolist() == [0, 1]
    assert scores.score.tolist() == [0.25, 0.75]
    assert scores.group.tolist() == ["7", "8"]


def test_scores_count_before_decisions_and_a_rounding_is_no_fault(tmp_path: Path) -> None:
    header = ("id", "File Name", "label", "prediction", "p fake")
    rows = [(1, "a.png", 0, 0, 0.25), (2, "b.png", 1, 1, 1.0000001)]
    score_table = read(write(tmp_path / "t.csv", rows, header), {})
    assert score_table.scores.score.tolist() == [0.25, 1.0]
    assert score_table.scores.path.tolist() == ["a.png", "b.png"]


def test_the_table_is_not_written_over(table: Path, tmp_path: Path) -> None:
    (mine := tmp_path / "scores.csv").write_bytes(table.read_bytes())
    with pytest.raises(InputError, match="is a file that is written: give another --output"):
        run("--scores", mine, "--output", tmp_path)
    assert mine.read_bytes() == table.read_bytes()
    assert [*tmp_path.iterdir()] == [mine]


def test_training_generators_are_by_default_those_of_rows_for_training(tmp_path: Path) -> None:
    rows = [("a", 0, 0.1, "", "test"), ("b", 1, 0.9, "A", "test"), ("c", 1, 0.8, "A", "train")]
    _, results = evaluate_scores(read(write(tmp_path / "t.csv", rows), {}))
    assert results["training_generators"] == ["A"]
    assert results["closed"]["pooled"]["n_synthetic"] == 1, "rows for training are not tested on"


def test_without_rows_for_validation_no_threshold_is_fixed_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(*row[:4], "") for row in rows_of(0) if row[4] == "test"]
    path = write(tmp_path / "t.csv", rows)
    run("--scores", path, "--output", tmp_path / "out", "--no-report")
    results = results_of(tmp_path / "out")
    assert results["thresholds"] is None
    assert results["decision"] == {"point": "default", "threshold": 0.5}
    assert any("No threshold was fixed" in finding["text"] for finding in results["findings"])
    assert "No threshold was fixed" in capsys.readouterr().out
    with pytest.raises(InputError, match="--threshold bpcer5: validation fixed no such threshold"):
        run("--scores", path, "--output", tmp_path / "out", "--threshold", "bpcer5")
    _, with_threshold = evaluate_scores(read(path, {}), threshold="0.25")
    assert with_threshold["decision"] == {"point": "given", "threshold": 0.25}
    assert not any("No threshold" in finding["text"] for finding in with_threshold["findings"])


def test_two_tables_are_compared_by_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first_rows, second_rows = (
        [row for row in rows_of(seed) if row[3] in ("", "Midjourney") and row[4] == "test"]
        for seed in (0, 1)
    )
    first = write(tmp_path / "first.csv", first_rows)
    second = write(tmp_path / "second.csv", second_rows[::-1])
    run("--compare", first, second, "--output", tmp_path)
    out = capsys.readouterr().out
    real, fake = np.split(np.arange(len(first_rows)), 2)
    compared = []
    for rows in (first_rows, second_rows):
        score = np.array([float(str(row[2])) for row in rows])
        compared.append((score[real], score[fake], real, fake))
    expected = mean_auc_difference(compared[1:], compared[:1])
    assert expected is not None
    words = f"second.csv - first.csv = {expected.value:+.3f} [{expected.low:+.3f}, "
    assert f"open-set AUC, mean of 1: {words}" in out
    assert "a table of scores has no CAMs" in Page(tmp_path / "report.html").text
    # Of tables that overlap in part the common images are tested, whatever others there are.
    write(tmp_path / "first.csv", first_rows[:-3])
    write(tmp_path / "second.csv", second_rows[:2:-1])
    expected = mean_auc_difference(
        *([(s[3:], f[:-3], real[3:], fake[:-3])] for s, f, *_ in compared[::-1])
    )
    assert expected is not None
    words = f"second.csv - first.csv = {expected.value:+.3f} [{expected.low:+.3f}, "
    run("--compare", first, second, "--output", tmp_path)
    out = capsys.readouterr().out
    assert f"open-set AUC, mean of 1, {len(first_rows) - 6} images in common: {words}" in out
    assert "--common computes all figures of the images that second.csv and first.csv share" in out
    run("--compare", first, second, "--common", "--output", tmp_path)
    out = capsys.readouterr().out
    assert f"open-set AUC, mean of 1: {words}" in out
    labels = np.repeat([0, 1], len(real) - 3)
    aucs = [roc_auc_score(labels, [*score[3:], *fakes[:-3]]) for score, fakes, *_ in compared]
    assert re.search(rf"open-set AUC, mean.*{aucs[0]:.3f} .*{aucs[1]:.3f} ", out)
    assert (
        f"the {len(first_rows) - 6} images in common ({len(first_rows) - 3} of first.csv, " in out
    )
    write(tmp_path / "second.csv", [(f"other/{row[0]}", *row[1:]) for row in second_rows])
    with pytest.raises(InputError, match="--common: no image is in all of them"):
        run("--compare", first, second, "--common", "--output", tmp_path)


def test_with_their_root_the_faces_are_shown(tmp_path: Path) -> None:
    rows = [(f"{n}.png", n % 2, 0.1 + n / 10, "A" * (n % 2), "") for n in range(6)]
    path = write(tmp_path / "t.csv", rows)
    for n in range(6):
        Image.new("RGB", (40, 40), (40 * n, 0, 0)).save(tmp_path / f"{n}.png")
    run("--scores", path, "--data-root", tmp_path, "--output", tmp_path / "out")
    page = Page(tmp_path / "out" / "report.html")
    assert page.html.count('<img src="data:image/webp') == 6
    assert "Which faces?" in page.text
    (data,) = re.findall(r'id="data">(.*?)</script>', page.html, re.DOTALL)
    shown = json.loads(data)
    assert shown["parts"] == [1] * 6
    assert "entropy" not in shown
    (tmp_path / "3.png").unlink()
    with pytest.raises(InputError, match=r"line 5: 1 of 6 images do not exist, .*3.png"):
        run("--scores", path, "--data-root", tmp_path, "--output", tmp_path / "new")
    assert not (tmp_path / "new").exists()


BAD: dict[str, tuple[str, str]] = {
    "no score": ("path,label\na,0\n", "no column holds the score among path, label"),
    "no path": ("label,score\n0,.1\n", "no column names the image"),
    "no label": ("path,score\na,.1\n", "No row of t.csv has a label"),
    "a logit": ("path,label,score\na,0,.1\nb,1,3.2\n", r"line 3: the score '3.2' is no probab"),
    "an empty score": ("path,label,score\na,0,\n", "line 2: there is no score; fix the row"),
    "a word": ("path,label,score\na,0,high\n", "line 2: .*high"),
    "nan": ("path,label,score\na,0,nan\n", "line 2: the score 'nan' is not finite; fix"),
    "infinity": ("path,label,score\na,0,inf\n", "line 2: the score 'inf' is not finite; fix"),
    "both classes": (
        "path,label,score\na,0,.1\nb,1,.9\na,1,.1\n",
        "t.csv, line 4: 'a' is synthetic, and real in t.csv, line 2; remove one of them",
    ),
    "two labels": ("path,label,label,score\na,0,1,.1\n", "line 1: the column 'label' is there tw"),
    "another class": ("path,label,score\na,2,.1\n", "line 2: label '2' is none of"),
    "a short row": ("path,label,score\na,0\n", "line 2: 2 columns instead of 3"),
    "two scores": ("path,label,score\na,0,.1\na,0,.2\n", "line 3: 'a' is there before, with ano"),
    "nothing to test": ("path,label,score,split\na,0,.1,train\n", "no row with a label to test on"),
    "spaces": ("path label score\na 0 0\n", "or separate the columns by commas, semicolons or"),
    "an empty file": ("", "no column holds the score among"),
    "no rows": ("path,label,score\n", "No row of t.csv has a label"),
    "no text": ("\0\0", "t.csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        run("--scores", "t.csv", "--output", "out")
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--scores a.csv --run b", "got --run and --scores"),
        ("--scores a.csv --data b", "--scores scores no image: give it without --data"),
        ("--scores a.csv --robustness", "give it without --robustness"),
        ("--run a --training-generators B", "--training-generators is for --scores"),
        ("--run a --columns score=b", "--columns got 'score=b'"),
        ("--output a", "got none of them"),
    ],
)
def test_flags_that_do_not_go_together(flags: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(EvaluateConfig, flags.split())


@pytest.mark.slow
def test_fifty_thousand_rows_take_no_half_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_detectors, "summarise", summarise)
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 50_000)
    score = np.clip(random.normal(0.4 + 0.2 * label, 0.15), 0, 1)
    pairs = zip(label, score, strict=True)
    rows = [(n, is_fake, s, f"g{n % 10}" * is_fake, "") for n, (is_fake, s) in enumerate(pairs)]
    path = write(tmp_path / "t.csv", rows, ("id", *HEADER[1:]))
    begin = time.process_time()
    run("--scores", path, "--output", tmp_path / "out")
    assert time.process_time() - begin < 30
    auc = results_of(tmp_path / "out")["open"]["pooled"]["auc"]
    assert auc == pytest.approx(roc_auc_score(label, score), abs=1e-12)
