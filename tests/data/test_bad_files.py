"""What a run does with files that cannot be decoded: one warning, a row in its folder, a limit."""

import csv
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus.config.command_line import parse
from focus.config.train import EvaluateConfig, TrainConfig, resolve
from focus.data import bad_files
from focus.data.readers import read_data
from focus.data.training_set import training_manifest
from focus.errors import ImageError, InputError, sentence
from focus.model.detector import Detector
from focus.training.run import train
from focus.use import evaluate as evaluation
from focus.use.evaluate import evaluate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 images in folders, two of them broken: one to train on, one to test on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 6), ("test", 8)):
        for kind in ("0_real", "1_fake"):
            place = tmp_path / "data" / split / "kA" / kind
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    whole = (tmp_path / "data/test/kA/0_real/1.png").read_bytes()
    (tmp_path / "data/test/kA/0_real/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data/train/kA/1_fake/2.png").write_bytes(b"")
    return tmp_path


def rows(path: Path) -> list[tuple[str, str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        assert file.readline() == "# focus-bad-files 1\r\n"
        return [(r["path"], r["role"], r["reason"]) for r in csv.DictReader(file)]


@pytest.fixture
def flags(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("FOCUS_CACHE", str(folder / "cache"))
    return [f"--data={folder}/data", "--workers=0", "--threads=1"]


@pytest.mark.slow
def test_a_run_names_leaves_out_and_lists(
    folder: Path, flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["--recipe=demo", "--loss=ce", "--epochs=1", "--image-size=32", "--name=run"]
    run = folder / "runs/run"
    config = parse(TrainConfig, [*flags, *settings, f"--output={folder}/runs", "--max-bad=0.05"])
    with caplog.at_level(logging.WARNING):
        train(config)
    found = rows(run / "bad_files.csv")
    broken = ["train/kA/1_fake/2.png", "test/kA/0_real/1.png"]
    assert sorted(path for path, _, _ in found) == sorted(f"{folder}/data/{p}" for p in broken)
    for path, role, reason in found:
        assert role == "image"
        assert reason
        assert sum(path in message for message in caplog.messages) == 1
    with (run / "scores.csv").open() as file:
        assert len(file.readlines()) == 2 + 15

    evaluate(parse(EvaluateConfig, [*flags, f"--run={run}", "--max-bad=0.05"]))
    assert len(rows(run / "evaluation/bad_files.csv")) == 1  # training images are not scored


def test_too_many_stop_before_a_folder_is_made(
    folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from focus.config.command_line import run

    argv = [*flags, "--recipe=demo", f"--output={folder}/runs"]
    with pytest.raises(SystemExit) as ended:
        run(train, TrainConfig, argv=argv, prog="train.py")
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("train.py: error: 2 of 40 image files of ")
    assert "more than the share of 0.01 that --max-bad allows" in said
    assert not (folder / "runs").exists()
    with pytest.raises(SystemExit):
        run(train, TrainConfig, argv=[*argv, "--max-bad", "1.5"], prog="train.py")
    assert "--max-bad must be at least 0" in capsys.readouterr().err


def test_a_class_without_a_sound_image_is_found_before_training(
    folder: Path, flags: list[str]
) -> None:
    for picture in (folder / "data/train/kA/1_fake").iterdir():
        picture.write_bytes(b"")
    config = resolve(parse(TrainConfig, [*flags, "--recipe=demo", "--max-bad=1"]))
    with pytest.raises(InputError, match="0 synthetic"):
        training_manifest(config, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "workers"), [("check_images", 1), ("write_results", 0)])
def test_of_a_file_lost_while_it_is_scored_or_drawn_it_is_said_how_to_go_on(
    folder: Path, flags: list[str], after: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    Detector(training_generators=("kA",)).save_pretrained(folder / "model")
    lost = folder / "data/test/kA/0_real/0.png"
    words = [*flags, f"--workers={workers}", f"--model-dir={folder}/model", "--max-bad=0.1"]
    config = parse(EvaluateConfig, [*words, f"--output={folder}/out", "--report=false"])
    original = getattr(evaluation, after)

    def losing(*given: Any, **options: Any) -> Any:
        found = original(*given, **options)
        lost.write_bytes(b"")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, after, losing)
        with pytest.raises(ImageError) as ended:
            evaluate(config)
    assert sentence(ended.value) == (
        f"Cannot decode '{lost}' (cannot identify image file): fix or remove the file, or "
        "evaluate again, which leaves it out where --max-bad allows it."
    )
    evaluate(config)
    assert str(lost) in {path for path, _, _ in rows(folder / "out/bad_files.csv")}


def noting(looked: list[str]) -> Callable[[str], Image.Image]:
    """In place of load_image: a small image, once the path is noted."""

    def load_image(path: str) -> Image.Image:
        looked.append(path)
        return Image.new("RGB", (1, 1))

    return load_image


def test_what_was_found_before_a_stop_is_not_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_data(folder / "data")[8:20]  # whole ones
    looked: list[str] = []

    def interrupted(found: Iterable[Any], **_: Any) -> Iterator[Any]:
        yield from islice(found, 9)
        raise KeyboardInterrupt

    # Also what came after it was last stored.
    monkeypatch.setattr(bad_files, "_STORED_EVERY", 4)
    with monkeypatch.context() as patch:
        patch.setattr(bad_files, "progress_bar", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bad_files.check_images(manifest, threads=1, cache=folder / "cache", progress=False)
    monkeypatch.setattr(bad_files, "load_image", noting(looked))
    bad_files.check_images(manifest, threads=1, cache=folder / "cache", progress=False)
    assert looked == [sample.path for sample in manifest][9:]


def test_what_was_found_is_added_to_what_is_known(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_data(folder / "data")[8:20]  # whole ones
    cache = folder / "cache"
    stored = cache / "decoded-4.txt"
    looked: list[str] = []

    def check(count: int) -> str:
        bad_files.check_images(manifest[:count], threads=1, cache=cache, progress=False)
        return stored.read_text()

    first = check(4)
    assert len(first.split()) == 4
    # A run that was killed has left a part of a key.
    stored.write_text(first + "\npart")
    assert check(8).startswith(f"{first}\npart\n")
    monkeypatch.setattr(bad_files, "load_image", noting(looked))
    check(8)
    assert looked == []
