"""Two evaluations into one folder: what each writes must not be mixed with the other's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus import report
from focus.config.train import EvaluateConfig
from focus.errors import InputError
from focus.model.detector import Detector
from focus.training.run_folder import LOCK
from focus.use import evaluate as evaluation

from ..launching import in_another_process


@pytest.fixture
def config(tmp_path: Path) -> EvaluateConfig:
    """Of an untrained detector on two pictures, into the folder "out", which is not there yet."""
    torch.manual_seed(0)
    Detector().save_pretrained(tmp_path / "model")
    draw = np.random.default_rng(0)
    for label in ("0_real", "1_fake"):
        (tmp_path / "data" / label).mkdir(parents=True)
        pixels = draw.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / label / "0.png")
    return EvaluateConfig(
        model_dir=str(tmp_path / "model"),
        data=(str(tmp_path / "data"),),
        output=str(tmp_path / "out"),
        workers=0,
        threads=1,
        report=False,
    )


def test_of_two_processes_one_evaluates_into_a_folder(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = f"^Another process evaluates into {out}: wait for its end, or give another --output.$"
    with in_another_process(lambda: evaluation.held(out)), monkeypatch.context() as patch:
        patch.setattr(evaluation, "_images", lambda *_, **__: pytest.fail("the images are read"))
        with pytest.raises(InputError, match=words):
            evaluation.evaluate(config)
    assert [path.name for path in out.iterdir()] == [".lock"]
    evaluation.evaluate(config)  # a killed one holds nothing
    assert (out / "results.json").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_was_made_for_nothing_goes(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        assert (tmp_path / "out" / ".lock").exists()
        raise InputError("The model's output is not finite.")

    monkeypatch.setattr(evaluation, "score_shared", failing)
    if there:
        (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="not finite"):
        evaluation.evaluate(config)
    assert (tmp_path / "out").exists() == there
    monkeypatch.undo()
    evaluation.evaluate(config)
    assert (tmp_path / "out" / "results.json").exists()


def test_another_that_begins_while_the_images_are_read_is_noticed(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is made when they are read, since bad images leave none."""
    monkeypatch.setattr(evaluation, "score_shared", lambda *_, **__: pytest.fail("it is scored"))
    out, read = tmp_path / "out", evaluation._images
    other = in_another_process(lambda: evaluation.held(out))

    def begin(*given: Any, **named: Any) -> Any:
        assert not out.exists()
        other.__enter__()
        return read(*given, **named)

    monkeypatch.setattr(evaluation, "_images", begin)
    try:
        with pytest.raises(InputError, match="Another process evaluates into"):
            evaluation.evaluate(config)
    finally:
        other.__exit__(None, None, None)


def test_it_is_held_until_the_end(
    config: EvaluateConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from another process, at the first write and at the last; then it is free."""
    seen: list[bool] = []

    def is_free() -> bool:
        try:
            with in_another_process(lambda: evaluation.held(tmp_path / "out")):
                return True
        except AssertionError:  # it was refused, and said nothing
            return False

    def looking(function: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*given: Any) -> Any:
            seen.append(is_free())
            return function(*given)

        return looked

    for module, name in ((evaluation, "write_results"), (report, "attempt")):
        monkeypatch.setattr(module, name, looking(getattr(module, name)))
    (tmp_path / "out").mkdir()
    evaluation.evaluate(EvaluateConfig(**vars(config) | {"report": True}))
    assert seen == [False, False]
    assert is_free()


def test_a_lock_that_is_a_link_leaves_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "run/evaluation").mkdir(parents=True)
    (tmp_path / "run/evaluation" / LOCK).symlink_to(tmp_path / "mine.txt")
    with evaluation.held(tmp_path / "run/evaluation"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "mine"
