"""The reports of real runs: the kept epoch in both programs' report, and several runs in one."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from focus.config.command_line import run as run_program
from focus.config.train import EvaluateConfig, TrainConfig
from focus.data.perturbations import STRENGTHS
from focus.errors import InputError
from focus.evaluation.robustness import read
from focus.training.run import train
from focus.use.evaluate import evaluate

from ..documented import write_files
from ..reports import Page

pytestmark = pytest.mark.slow

EPOCHS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two runs on drawn faces, chosen by log loss, and their evaluations with robustness."""
    folder = tmp_path_factory.mktemp("place")
    write_files(folder)
    data = ["--data", "original.csv", "--data-root", "images", "--heatmaps", "heatmaps"]
    tests = ["--test-data", "uNear=fakes", "--test-real", "FFHQ=reals"]
    settings = ["--threads", "1", "--workers", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, loss in (("blend", "blend"), ("ce", "ce")):
            chosen = ["--recipe", "demo", "--eval-metric", "log_loss", "--epochs", str(EPOCHS)]
            argv = [*data, *tests, *chosen, *settings, "--loss", loss, "--name", name]
            run_program(train, TrainConfig, argv=argv, prog="train.py")
            argv = ["--run", f"runs/{name}", *tests, *settings, "--robustness"]
            run_program(evaluate, EvaluateConfig, argv=argv, prog="evaluate.py")
        yield folder


def test_both_programs_mark_the_kept_epoch(place: Path) -> None:
    run = place / "runs" / "blend"
    epoch = json.loads((run / "results.json").read_text())["model"]["epoch"]
    with (run / "summary.csv").open(newline="") as file:
        losses = [float(row["eval_log_loss"]) for row in csv.DictReader(file)]
    assert epoch == 1 + np.argmin(losses)
    words = f"The kept model is that of epoch {epoch}."
    for folder in (run, run / "evaluation"):
        assert (folder / "report.html").read_text().count(words) == 3
    for figure in ("loss", "validation", "focus"):
        name = f"figures/training-{figure}.svg"
        assert (run / name).read_bytes() == (run / "evaluation" / name).read_bytes()


def test_a_model_that_lies_in_no_run_has_no_kept_epoch(place: Path) -> None:
    """Nor does a run whose settings cannot be read, and each has its report."""
    run = place / "runs" / "blend"
    (run / "config.yaml").rename(run / "aside.yaml")
    try:
        argv = ["--model-dir", str(run / "model"), "--data", "pictures", "--output", "scores"]
        settings = ["--threads", "1", "--workers", "0"]
        run_program(evaluate, EvaluateConfig, argv=[*argv, *settings], prog="evaluate.py")
    finally:
        (run / "aside.yaml").rename(run / "config.yaml")
    found = Page(place / "scores" / "report.html")
    assert f"Loss by epoch, {EPOCHS} epochs" in found.html
    assert "The kept model" not in found.html


def test_the_robustness_of_runs_is_compared(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"runs/{name}/evaluation" for name in ("blend", "ce")]
    argv = ["--compare", *folders, "--output", "both"]
    run_program(evaluate, EvaluateConfig, argv=argv, prog="evaluate.py")
    found = Page(place / "both" / "report.html")
    kept = {
        name: read(place / "runs" / name / "evaluation/robustness.csv") for name in ("blend", "ce")
    }
    for name, strengths in STRENGTHS.items():
        assert (place / "both" / "figures" / f"robustness-open-{name}.svg").exists()
        said = []
        for run, rows in kept.items():
            auc = {r.strength: r.auc for r in rows if r.perturbation == name}
            said.append(
                f"{run} {rows[0].clean:.3f} clean, {auc[strengths[-1]]:.3f} at {strengths[-1]:g}"
            )
        assert f"open set, uNear: {'; '.join(said)}." in found.html
    assert "robustness" not in capsys.readouterr().out
    assert found.html.count("AUC of each run by the strength") == 4


def test_a_run_without_robustness_says_where_it_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--compare", "runs/blend/evaluation", "runs/ce", "--output", "one"]
    run_program(evaluate, EvaluateConfig, argv=argv, prog="evaluate.py")
    words = "ce: its robustness is in runs/ce/evaluation; give that folder to see it."
    assert words in capsys.readouterr().out
    found = Page(place / "one" / "report.html")
    assert words in found.text
    assert "open set, uNear: blend 0." in found.html
    assert "AUC under jpeg, open set, uNear" in found.text
    # Without any there is no such heading.
    argv = ["--compare", "runs/blend", "runs/ce", "--output", "none"]
    run_program(evaluate, EvaluateConfig, argv=argv, prog="evaluate.py")
    found = Page(place / "none" / "report.html")
    assert "Robustness" not in found.text
    assert not list((place / "none" / "figures").glob("robustness*"))


def test_robustness_of_other_scores_is_refused(place: Path, tmp_path: Path) -> None:
    for name in ("results.json", "scores.csv", "robustness.csv"):
        shutil.copy(place / "runs/blend/evaluation" / name, tmp_path)
    table = (place / "runs/ce/evaluation/robustness.csv").read_bytes()
    assert table != (tmp_path / "robustness.csv").read_bytes()
    (tmp_path / "robustness.csv").write_bytes(table)
    config = EvaluateConfig(compare=("runs/ce", str(tmp_path)), output=str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"robustness\.csv is of other scores than results\.json"):
        evaluate(config)
    assert not (tmp_path / "out").exists()
