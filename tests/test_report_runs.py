"""The reports of real runs: the kept epoch in both programs' report, and several runs in one."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from focus.cli import run as run_program
from focus.config import EvaluateConfig, TrainConfig
from focus.evaluation import evaluate
from focus.training import train

from .documented import write_files
from .reports import Page

EPOCHS = 4


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
    assert "Loss by epoch, 4 epochs" in found.html
    assert "The kept model" not in found.html
