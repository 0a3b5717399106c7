"""Which model a run keeps, and what it says where that is not the one it should be."""

import csv
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.model.detector import Detector
from focus.training.monitoring import validation_figures
from focus.training.run_folder import SavedRun, TrainState, check_model
from focus.training.trainer import Trainer

from ..trainers import few_faces, trainer

# Sums in one order, and the tests' networks are small.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


@pytest.mark.slow
def test_best_patience_and_what_is_written(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, lr=1e-9, epochs=9, patience=2, eval_metric="log_loss", loss="ce")
    run.fit()
    # Nothing changes, so that no epoch after the first is better by more than rounding.
    rows = list(csv.DictReader((tmp_path / "run" / "summary.csv").open()))
    values = [float(row["eval_log_loss"]) for row in rows]
    best = min(range(len(values)), key=values.__getitem__)
    assert run.state.best_epoch == best + 1
    assert len(rows) == min(9, best + 3)
    assert run.state.best == values[best]
    kept = Detector.from_pretrained(tmp_path / "run" / "model")
    assert kept.config.training_generators == ("g",)


@pytest.mark.slow
def test_the_thresholds_are_those_of_the_kept_epoch(faces: Manifest, tmp_path: Path) -> None:
    """4 reals, of one video, and 6 fakes that the kept network tells apart."""
    fewer = Manifest(
        replace(s, group="" if s.split == "train" or s.label else "video") for s in list(faces)[:-2]
    )
    run = trainer(fewer, tmp_path, model="test_resnet", optimizer="adamw", lr=3e-3, epochs=4)
    run.fit()
    kept = Detector.from_pretrained(tmp_path / "run" / "model")
    samples = list(run.validation)
    score = kept.predict([sample.path for sample in samples]).score.double()
    fake = torch.tensor([sample.label == 1 for sample in samples])

    def balance(threshold: float) -> float:
        called = score > threshold
        return float((called[fake].double().mean() + (~called[~fake]).double().mean()) / 2)

    assert kept.points is not None
    assert (kept.points.n_real, kept.points.n_fake) == (4, 6)
    ordered = [-1.0, *score.sort().values.tolist()]
    best = max(map(balance, ordered))
    assert best > 0.7
    chosen = kept.points.thresholds["balanced"]
    assert chosen is not None
    assert balance(chosen) == best
    assert kept.points.calibration is not None
    assert kept.points.calibration.slope > 0
    assert kept.points.calibration.largest_llr == math.log(2)


def test_no_run_goes_on_over_a_model_without_its_checkpoints(
    faces: Manifest, tmp_path: Path
) -> None:
    trainer(faces, tmp_path, epochs=1, loss="ce").fit()
    model = tmp_path / "run" / "model"
    before = sorted(file.name for file in model.iterdir())
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        shutil.rmtree(path)
    with pytest.raises(InputError, match="has a model and no checkpoint to go on from: give"):
        trainer(faces, tmp_path, resume=True)
    assert sorted(file.name for file in model.iterdir()) == before


@pytest.mark.parametrize(
    ("epoch", "best", "sums", "lost"),
    [
        (0, 0, [1.0], False),
        (3, 3, None, False),  # right after the validation: written again
        (3, 3, [1.0], True),
        (3, 2, None, True),
        (3, 2, [1.0], True),
    ],
)
def test_a_best_model_that_is_lost_is_said_before_training(
    epoch: int, best: int, sums: list[float] | None, lost: bool, tmp_path: Path
) -> None:
    state = TrainState(epoch=epoch, best_epoch=best, sums=sums)
    saved = SavedRun(tmp_path / "step-1", {}, state, [])
    (tmp_path / "model").mkdir()
    check_model(tmp_path, saved)
    (tmp_path / "model").rmdir()
    with (
        pytest.raises(InputError, match=rf"lacks model/, .* of epoch {best}: put it back")
        if lost
        else nullcontext()
    ):
        check_model(tmp_path, saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "repeated", "best"),
    [
        # Back to before the third epoch, the best so far: its model is there, of no checkpoint.
        (2, 0.7, 3),
        (2, 0.95, 3),
        # Back to the first, which is written again.
        (1, 0.7, 1),
    ],
)
def test_a_best_model_after_the_checkpoint_is_not_taken_for_that_of_before(
    kept: int,
    repeated: float,
    best: int,
    faces: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As where a repeated epoch is another, on a GPU."""
    given: dict[str, Any] = {"epochs": 3, "checkpoints_kept": 3, "lr": 1e-3}

    def fit(aucs: list[float], **more: Any) -> Trainer:
        values = iter(aucs)
        monkeypatch.setattr(
            "focus.training.trainer.validation_figures",
            lambda scores: validation_figures(scores) | {"eval_auc": next(values)},
        )
        run = trainer(faces, tmp_path, **given, **more)
        run.fit()
        return run

    folder = fit([0.8, 0.6, 0.9]).folder
    saved = sorted((folder / "checkpoints").glob("step-*"))
    assert len(saved) == 3
    for later in saved[kept:]:
        shutil.rmtree(later)
    capsys.readouterr()
    again = fit([repeated] * (3 - kept), resume=True)
    warning = f"warning: {folder / 'model'} is of an epoch after that checkpoint, not of epoch 1: "
    assert (warning in capsys.readouterr().out) == (kept == 2)
    assert again.state.best_epoch == best
    assert again.state.best == (repeated if best == 3 else 0.8)
    model, expected = (
        load_file(path / "model.safetensors") for path in (folder / "model", saved[best - 1])
    )
    assert all(torch.equal(model[name], tensor) for name, tensor in expected.items())
