"""The programs on a GPU, end to end; the same on the CPU, so that these lines have run."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from focus.evaluation.scores import Scores

from .launching import CHECKOUT, python, write_faces

AVERAGED = ["--model-ema-decay", "0.9", "--grad-accum-steps", "2"]
ON_GPU = [[], ["--mixed-precision", "bf16", "--compile"], ["--mixed-precision", "fp16", *AVERAGED]]


def on(device: str, script: str, *words: object) -> str:
    """Return what a program prints; the tests' own setting keeps the others on the CPU."""
    return python(CHECKOUT / script, *words, ACCELERATE_USE_CPU=str(device == "cpu").lower())


@pytest.mark.parametrize(
    ("device", "words"),
    [
        pytest.param("cpu", ["--mixed-precision", "bf16", *AVERAGED], marks=pytest.mark.slow),
        *(pytest.param("cuda", words, marks=pytest.mark.gpu) for words in ON_GPU),
    ],
    ids=str,
)
def test_a_run_from_dry_run_to_evaluation(device: str, words: list[str], tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "faces", 60)
    flags = ["--recipe", "demo", "--epochs", "2", "--batch-size", "16", "--data", faces, *words]
    flags += ["--name", "first", "--output", tmp_path]
    said = on(device, "train.py", *flags, "--dry-run")
    assert f"device {device}" in said
    assert f"head: {'triton' if device == 'cuda' else 'eager'}" in said

    on(device, "train.py", *flags)
    run = tmp_path / "first"
    with (run / "summary.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert len(epochs) == 2
    assert all(math.isfinite(float(row["train_loss"])) for row in epochs)
    if "fp16" not in words:  # whose scale is found by steps that overflow
        assert all(row["train_skipped_steps"] == "0" for row in epochs)
    on(device, "train.py", *flags, "--resume")  # reads the last checkpoint, with nothing left to do

    precision = [] if "fp16" in words else words[:2]
    checks = ["--robustness", "--faithfulness", "--output", tmp_path / "again"]
    on(device, "evaluate.py", "--run", run, *precision, *checks)
    first, again = (Scores.from_csv(f / "scores.csv") for f in (run, tmp_path / "again"))
    assert list(first.path) == list(again.path)
    np.testing.assert_allclose(again.score, first.score, atol=0.02)
    results = json.loads((tmp_path / "again" / "results.json").read_text())
    assert results["n_real"] == results["n_synthetic"] == 9
