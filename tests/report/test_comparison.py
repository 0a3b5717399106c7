"""``evaluate.py --compare``: several runs side by side, from the files that they left."""

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus.errors import InputError
from focus.evaluation import robustness
from focus.evaluation.results import figure_at, summarise, write_results
from focus.evaluation.scores import Scores
from focus.model.detector import Detector
from focus.report import comparison, gallery, plots
from focus.report.comparison import compare
from focus.report.files import REPORT

from .reports import Page, made, perturbed


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs on the same images; of the third the results are evaluate.py's."""
    folder = tmp_path_factory.mktemp("runs")
    _, scores, _ = made(folder / "images", 12, resamples=0)
    draw = np.random.default_rng(0)
    folders = [folder / "first", folder / "second", folder / "third" / "evaluation"]
    for number, run_folder in enumerate(folders):
        columns = scores.columns()
        columns["score"] = (0.7 * scores.score + 0.1 * number * draw.random(len(scores))) % 1
        changed = Scores(**columns)
        write_results(run_folder, changed, summarise(changed, ["kA"], resamples=20))
    return folders


def compared(folders: list[Path], output: Path) -> Page:
    compare([str(folder) for folder in folders], output)
    return Page(output / REPORT)


def test_a_column_a_run_the_differences_and_a_figure_a_generator(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What an earlier report of more generators left.
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "roc-07-open-gone.svg").write_text("x")
    page = compared(runs, tmp_path)
    everything = [json.loads((run / "results.json").read_text()) for run in runs]
    assert ("open", "generators", "uB", "auc") in page.figures
    for keys, texts in page.figures.items():
        assert len(texts) in (3, 6), "in the table, and AUCs in the plot"
        for results, text in zip(everything * (len(texts) // 3), texts, strict=True):
            value, interval = figure_at(results, keys)
            expected = "-" if value is None else f"{value:.3f}"
            if interval is not None:
                expected += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
            assert text.strip() == expected, keys
    printed = capsys.readouterr().out
    means = [results["open"]["mean"]["auc"] for results in everything]
    for name, mean in zip(("second", "third"), means[1:], strict=True):
        difference = re.search(rf"AUC, mean of 2: {name} - first = ([+-][.\d]+) \[", printed)
        assert difference
        # Three digits, of which the last may be that of a tie.
        assert float(difference[1]) == pytest.approx(mean - means[0], abs=0.000501)
        assert difference[0] in page.text
    assert "The p-values are not adjusted for 2 runs compared with one." in page.text
    assert f"written: {tmp_path / REPORT}" in printed
    files = sorted(path.name for path in (tmp_path / "figures").glob("*.svg"))
    kinds = ["00-closed-kA", "01-open-b-u-C-b", "02-open-uB"]
    assert files == [f"{kind}-{name}.svg" for kind in ("det", "roc") for name in kinds]
    aucs = [results["open"]["generators"]["uB"]["auc"] for results in everything]
    words = f"AUC: first {aucs[0]:.3f}, second {aucs[1]:.3f}, third {aucs[2]:.3f}."
    assert re.search(f'aria-label="ROC, uB, open set, [^"]*{re.escape(words)}"', page.html)
    assert page.tags.count("script") == 1, "there are no images, so nothing to sort"


def test_the_same_faces_lie_side_by_side(tmp_path: Path) -> None:
    """Those that the runs disagree about most, each kind first once; without a model, no faces."""
    _, scores, _ = made(tmp_path / "images", 6, resamples=0)
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        Detector(image_size=32).save_pretrained(tmp_path / name / "model")
        columns = scores.columns()
        columns["score"] = np.where(np.arange(len(scores)) % 6 == 3, number, scores.score)
        changed = Scores(**columns)
        results = summarise(changed, ["kA"], resamples=0)
        results["provenance"] = {"network": "focus_small", "recipe": "quick"}
        write_results(tmp_path / name, changed, results)
    folders = [tmp_path / "one", tmp_path / "two"]
    page = compared(folders, tmp_path / "out")
    pictures = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="([^"]+)"', page.html)
    assert len(pictures) == 12
    assert "recipe quick, focus_small, " in page.text
    kinds = [words.partition(":")[0] for _, words in pictures[:4]]
    assert sorted(kinds) == ["&lt;b&gt;u&amp;C&lt;/b&gt;", "kA", "real", "uB"]
    assert all("score 0.00" in words and "two" in words for _, words in pictures[:4])
    with Image.open(io.BytesIO(base64.b64decode(pictures[0][0]))) as picture:
        assert picture.size == (3 * gallery.SIDE, gallery.SIDE), "a face and two CAMs"
    assert "input rgb, squash to 32 pixels, 0.223 million parameters, " in page.text
    shutil.rmtree(tmp_path / "two" / "model")
    page = compared(folders, tmp_path / "out")
    assert "No faces are shown: " in page.text
    assert "img" not in page.tags


def test_runs_of_one_name_are_told_apart_by_their_paths(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "first")
    page = compared([runs[0], tmp_path / "first"], tmp_path / "out")
    for name in (runs[0], tmp_path / "first"):
        assert f"{name} 60 images, threshold 0.5" in page.text


def run(name: str, folder: Path, perturbed: list[robustness.PerturbedAUC]) -> comparison.RunData:
    empty: dict[str, Any] = {column: [] for column in Scores.__dataclass_fields__}
    return comparison.RunData(name, folder, Scores(**empty), {}, perturbed)


def test_robustness_is_the_mean_over_the_generators_that_all_have(tmp_path: Path) -> None:
    first = perturbed("uB", "open", 0.9, [0.8, 0.7, 0.6, 0.5, 0.5])
    first += perturbed("uC", "open", 0.7, [0.6, 0.5, 0.5, 0.5, 0.4])
    second = perturbed("uB", "open", 0.8, [0.8, 0.8, 0.8, 0.8, 0.7])
    second += perturbed("uC", "open", 0.6, [0.6, 0.6, 0.6, 0.6, 0.5])
    second += perturbed("kA", "closed", 0.9, [0.9] * 5)
    (tmp_path / "four" / "evaluation").mkdir(parents=True)
    robustness.write(first, tmp_path / "four" / "evaluation")
    aucs_by_run = {"one": first, "two": second, "three": [], "four": []}
    drawn, remarks = comparison._robustness(
        [run(name, tmp_path / name, aucs) for name, aucs in aucs_by_run.items()]
    )
    assert remarks == [
        "three: not measured by focus evaluate --robustness.",
        f"four: its robustness is in {tmp_path}/four/evaluation; give that folder to see it.",
    ]
    strengths = ("jpeg", "blur", "resize", "noise", "shared")
    assert [plot.name for plot in drawn] == [
        f"robustness-{test_set}-{name}" for test_set in ("closed", "open") for name in strengths
    ]
    plot = drawn[5]
    assert plot.title == "AUC under jpeg, open set, mean of 2 generators"
    assert plot.alt.endswith(
        "mean of uB, uC: one 0.800 clean, 0.450 at 30; two 0.700 clean, 0.600 at 30."
    )
    (axes,) = plots.figure_of(plot).axes
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    assert lines["one"].get_ydata() == pytest.approx([0.8, 0.7, 0.6, 0.55, 0.5, 0.45])
    assert "three" not in lines
    # A run has one colour, also in a figure that the one before it is not in.
    (closed, _) = plots.figure_of(drawn[0]).axes[0].get_lines()
    assert closed.get_color() == lines["two"].get_color() != lines["one"].get_color()


def test_what_cannot_be_compared_is_refused_and_nothing_is_written(
    runs: list[Path], tmp_path: Path
) -> None:
    texts = {"OLD": '{"version": 1}', "BROKEN": "{", "HALF": '{"version": 3}'}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(text)
    shutil.copy(runs[0] / "scores.csv", tmp_path / "OLD")
    (tmp_path / "UNENDED").mkdir()
    for name in ("config.yaml", "manifest.csv"):
        (tmp_path / "UNENDED" / name).touch()
    for name, message in (
        ("nowhere", "nowhere has no results.json: give folders of"),
        ("UNENDED", "UNENDED is a run that has not ended: .* --resume --name UNENDED --output"),
        ("OLD", "OLD cannot be read .*version 1, this program reads 4"),
        ("BROKEN", "BROKEN cannot be read .JSONDecodeError.*evaluate the run again"),
        ("HALF", "HALF cannot be read .FileNotFoundError"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            compare([str(runs[0]), str(tmp_path / name)], tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is one of the runs, whose report it would replace"):
        compare([str(run) for run in runs], runs[1])


def test_of_many_generators_those_have_curves_that_the_runs_differ_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    label = np.repeat([0, 1], 100)
    names = [""] * 100 + [f"g{row % 10}" for row in range(100)]
    for run in ("first", "second"):
        score = 0.5 + 0.4 * (label - 0.5) + random.uniform(0, 0.05, 200)
        if run == "second":
            score[np.isin(names, ["g3", "g7"])] -= 0.41
        scores = Scores.without_cams(
            path=[f"{row}.png" for row in range(200)], label=label, generator=names, score=score
        )
        write_results(tmp_path / run, scores, summarise(scores, [], resamples=10))
    page = compared([tmp_path / "first", tmp_path / "second"], tmp_path / "page")
    drawn = {path.stem[-2:] for path in (tmp_path / "page" / "figures").glob("roc-*.svg")}
    assert len(drawn) == 8
    assert {"g3", "g7"} <= drawn
    words = "ROC and DET are of 8 of 10 generators of the open set"
    assert words in page.text
    assert words in " ".join(capsys.readouterr().out.split())
    for n in range(10):
        assert ("open", "generators", f"g{n}", "auc") in page.figures
