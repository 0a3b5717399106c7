"""A run that begins with the weights of another: what that one was trained on stays known."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from timm.models import save_for_hf

from focus.config.train import EvaluateConfig, TrainConfig
from focus.data.manifest import Manifest, Sample
from focus.data.splits import assign_splits, check_unseen
from focus.errors import InputError
from focus.evaluation.scores import Scores
from focus.model.config import DetectorConfig
from focus.runtime.signals import Stopped
from focus.training.run import train
from focus.training.trainer import Trainer
from focus.use.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("plain_cpu")


def faces(folder: Path, *generators: str, count: int = 8) -> str:
    """A 0_real/1_fake tree without splits, whose images no other folder has."""
    draw = np.random.default_rng(list(folder.name.encode()))
    for generator in generators:
        for label in ("0_real", "1_fake"):
            (folder / generator / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (24, 24, 3), np.uint8)
                Image.fromarray(pixels).save(folder / generator / label / f"{number}.png")
    return str(folder)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Path]:
    """Train in ``tmp_path``, on from the run ``after`` if one is given; the run's folder."""

    def fit(name: str, data: str, after: str | None = None, **flags: Any) -> Path:
        if after is not None:
            flags["initial_checkpoint"] = str(tmp_path / after / "model" / "model.safetensors")
        flags = {"epochs": 1, "batch_size": 8, "workers": 0, "threads": 1, "report": False} | flags
        flags |= {"recipe": "demo", "report_to": ("none",), "output": str(tmp_path), "name": name}
        train(TrainConfig(data=(data,), **flags))
        return tmp_path / name

    return fit


def known(run: Path) -> tuple[str, ...]:
    return DetectorConfig.read(run / "model" / "config.json").training_generators


@pytest.mark.slow
def test_generators_that_the_weights_knew_stay_closed(
    fit: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run from a run from a run, where a manifest says the family that no table has."""
    faces(tmp_path / "a", "genA")
    rows = [
        f"{path},{label},{generator},{family}"
        for place, label, generator, family in (
            ("0_real", "real", "", ""),
            ("1_fake", "synthetic", "genA", "mine"),
        )
        for path in sorted((tmp_path / "a" / "genA" / place).iterdir())
    ]
    (tmp_path / "one.csv").write_text("path,label,generator,family\n" + "\n".join(rows))
    fit("first", str(tmp_path / "one.csv"))
    fit("second", faces(tmp_path / "b", "genB"), after="first")
    capsys.readouterr()
    new = faces(tmp_path / "new", "gen-a")
    third = fit("third", faces(tmp_path / "c", "genC"), after="second", test_data={"gen-a": new})
    renamed = "warning: Tested as known, since training knew it by another name: gen-a (as genA)."
    assert renamed in capsys.readouterr().out
    assert known(third) == ("genA", "genB", "genC")
    config = DetectorConfig.read(third / "model" / "config.json")
    assert config.training_families == {"genA": "mine", "genB": "", "genC": ""}
    results = json.loads((third / "results.json").read_text())
    assert sorted(results["closed"]["generators"]) == ["gen-a", "genC"]
    assert not results["open"]["generators"]
    card = (third / "model" / "README.md").read_text()
    assert "- Generators of its fakes: genA (family mine), genB, genC\n" in card


@contextmanager
def stopped_at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run that is told to stop in its first step, and does."""
    step = Trainer.train_step

    def stopped(self: Trainer, *given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopped)
        with pytest.raises(Stopped):
            yield


def test_a_resumed_run_knows_them_without_the_weights(
    fit: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped before there was a model of its own."""
    first = fit("first", faces(tmp_path / "a", "genA"))
    two = faces(tmp_path / "b", "genB")
    with stopped_at_once(monkeypatch):
        fit("second", two, after="first")
    assert not (tmp_path / "second" / "model").exists()
    shutil.rmtree(first)
    assert known(fit("second", two, after="first", resume=True)) == ("genA", "genB")


@pytest.mark.slow
def test_a_mean_of_the_initial_weights_stays(
    fit: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """That of timm's folder is said, and is that of the run when it is resumed, and of the next."""
    network = timm.create_model("test_resnet", num_classes=10)
    network.pretrained_cfg |= {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.5)}
    save_for_hf(network, tmp_path / "w5", safe_serialization=True)
    weights = str(tmp_path / "w5" / "model.safetensors")
    flags: dict[str, Any] = {"model": "test_resnet", "image_size": 64, "pretrained": False}
    data = faces(tmp_path / "a", "genA")
    with stopped_at_once(monkeypatch):
        fit("first", data, initial_checkpoint=weights, **flags)
    line = (
        "images are normalised by mean 0.5, 0.5, 0.5 and std 0.25, 0.25, 0.5, as the config.json "
        "beside the initial weights says\n"
    )
    assert capsys.readouterr().out.count(line) == 1
    shutil.rmtree(tmp_path / "w5")
    fit("first", data, initial_checkpoint=weights, resume=True, **flags)
    fit("second", faces(tmp_path / "b", "genB"), after="first", **flags)
    for name in ("first", "second"):
        config = DetectorConfig.read(tmp_path / name / "model" / "config.json")
        assert (config.mean, config.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.5))


@pytest.mark.slow
def test_images_that_the_weights_know_are_no_test(fit: Callable[..., Path], tmp_path: Path) -> None:
    """By their files, whatever links lead there, and by their groups; the remedies work."""
    data = faces(tmp_path / "a", "genA", count=20)
    first = fit("first", data)
    record = Manifest.from_csv(first / "manifest.csv")
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(InputError) as caught:
        fit("second", str(tmp_path / "link"), after="first", seed=1)
    drawn = assign_splits(Manifest(replace(s, split="") for s in record), seed=1)
    then = {s.path: s.split for s in record}
    validated = sum(s.split == "validation" and then[s.path] == "train" for s in drawn)
    tested = sum(s.split == "test" and then[s.path] != "test" for s in drawn)
    assert validated
    assert tested
    assert str(caught.value) == (
        f"{validated} validation and {tested} test images of {tmp_path / 'link'}, or others of "
        f"their groups, are among those that {first}/model/model.safetensors was trained or chosen "
        "on: give the manifest.csv of its run as --data, the --seed of that run, or other images."
    )
    assert not (tmp_path / "second").exists()
    fit("same-seed", data, after="first")
    second = fit("second", str(first / "manifest.csv"), after="first", seed=1)
    assert list(Manifest.from_csv(second / "manifest.csv")) == list(record)


def test_nor_are_others_of_their_groups() -> None:
    before = Manifest(
        [Sample("/1", 0, split="train", group="anna"), Sample("/2", split="validation")]
    )
    sound = [
        Sample("/3", split="test", group="ben"),
        Sample("/2", split="validation"),
        Sample("/1", split="train", group="anna"),
    ]
    check_unseen(Manifest(sound), before, "w")
    for bad, counts in (
        (Sample("/4", split="test", group="anna"), "1 test"),
        (Sample("/4", split="validation", group="anna"), "1 validation"),
        (Sample("/2", split="test"), "1 test"),
    ):
        with pytest.raises(
            InputError, match=f"^{counts} images of the data, or others of their"
        ) as caught:
            check_unseen(Manifest([*sound, bad]), before, "w")
        by_group = bad.group == "anna"
        assert str(caught.value).endswith("--columns group=." if by_group else "or other images.")


@pytest.mark.slow
def test_evaluation_leaves_out_what_the_weights_before_knew(
    fit: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run from a run from a run, where that one and the first have been moved or are gone."""
    one = faces(tmp_path / "a", "genA")
    first = fit("first", one)
    n_known = sum(s.split != "test" for s in Manifest.from_csv(first / "manifest.csv"))
    fit("second", faces(tmp_path / "b", "genB"), after="first")
    third = fit("third", faces(tmp_path / "c", "genC"), after="second")
    shutil.rmtree(first)
    moved = shutil.move(third, tmp_path / "elsewhere")
    capsys.readouterr()
    out = tmp_path / "out"
    evaluate(EvaluateConfig(run=str(moved), data=(one,), output=str(out), workers=0, report=False))
    assert f"{n_known} of 16 images are left out: they are for" in capsys.readouterr().out
    assert len(Scores.from_csv(out / "scores.csv")) == 16 - n_known
