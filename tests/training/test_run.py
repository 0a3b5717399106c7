"""The programs as a user runs them: real processes, real files, one's own data and bad input.

The pictures are scikit-image's ``lfw_subset`` (its first 100 are 25x25 crops of real faces, its
last 100 are not faces): this tests the plumbing, so no AUC is asserted.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import yaml
from PIL import Image
from skimage.data import lfw_subset

from focus.config.command_line import load_config
from focus.config.command_line import run as run_program
from focus.config.train import EvaluateConfig, TrainConfig, resolve
from focus.data.manifest import Manifest, Sample
from focus.evaluation.scores import Scores
from focus.model.detector import Detector
from focus.training.checkpoint import CHECKPOINT_VERSION
from focus.training.run import data_lines, train
from focus.use.evaluate import evaluate

from ..launching import CHECKOUT, trained

SMALL = [
    *("--recipe", "demo", "--epochs", "1", "--threads", "1", "--workers", "0"),
    *("--report", "false"),
]


def run(
    script: str, *words: object, cwd: Path, launcher: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*(launcher or [sys.executable]), str(CHECKOUT / script), *map(str, words)],
        cwd=cwd,
        env=os.environ | {"FOCUS_CACHE": str(cwd / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def succeeds(script: str, *words: object, cwd: Path, launcher: list[str] | None = None) -> str:
    done = run(script, *words, cwd=cwd, launcher=launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def forked(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``train.py`` as a process of its own too, without the seconds of its imports."""
    return trained(*words, cwd=cwd, FOCUS_CACHE=str(cwd / "cache"), **environment)


def forked_well(*words: object, cwd: Path) -> str:
    done = forked(*words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inside(script: str, *words: object) -> None:
    """What a script does with these words, in this process: the imports take seconds."""
    argv = [*map(str, words), "--threads", "1", "--workers", "0", "--report", "false"]
    if script == "train.py":
        run_program(train, TrainConfig, argv=argv, prog=script)
    else:
        run_program(evaluate, EvaluateConfig, argv=argv, prog=script)


def documented(title: str) -> list[str]:
    """The names in the first column of the table in a section of docs/formats.md."""
    text = (CHECKOUT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = text.partition(f" {title}\n")[2].partition("\n##")[0]
    return re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|[^|]*", section, re.MULTILINE)))


def accelerate_launch(*flags: str) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.launch", *flags]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CYBORG tree, a 0_real/1_fake tree and test folders, written without this package's code."""
    root = tmp_path_factory.mktemp("data")
    pictures = [Image.fromarray((p * 255).astype(np.uint8)) for p in lfw_subset()]
    reals, fakes = pictures[:100], pictures[100:]
    rows = []
    for name, members, label in (("real", reals, "Real"), ("fake", fakes, "Synthetic")):
        for folder in (root / "cyborg" / "images" / name, root / "cyborg" / "heatmaps"):
            folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(members[:40]):
            picture.save(root / "cyborg" / "images" / name / f"{name}{number:03}.png")
            split = "train" if number < 28 else "test"
            rows.append([split, label, f"/{name}/{name}{number:03}.png"])
            if split == "train" and number % 2:
                heat = np.zeros((25, 25), np.uint8)
                heat[5:15, 5 + number % 5 : 15] = 255
                Image.fromarray(heat).save(root / "cyborg" / "heatmaps" / f"{name}{number:03}.png")
    (root / "cyborg" / "csvs").mkdir()
    with (root / "cyborg" / "csvs" / "original.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    for generator, first in (("ganA", 40), ("ganB", 60)):
        for label, members in (("0_real", reals), ("1_fake", fakes)):
            folder = root / "tree" / generator / label
            folder.mkdir(parents=True)
            for number in range(first, first + 20):
                members[number].convert("RGB").save(folder / f"{number}.jpg", quality=90)
    for name, members in (("newgan", fakes), ("camera", reals)):
        (root / name).mkdir()
        for number in range(80, 100):
            members[number].save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def cyborg_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One epoch on the CYBORG tree, tested on an unknown generator; the run folder and output."""
    cwd = tmp_path_factory.mktemp("cyborg")
    out = succeeds(
        "train.py",
        *SMALL,
        *("--data", data / "cyborg/csvs/original.csv", "--data-root", data / "cyborg/images"),
        *("--heatmaps", data / "cyborg/heatmaps"),
        *("--test-data", f"NewGAN={data / 'newgan'}", "--test-real", f"camera={data / 'camera'}"),
        *("--name", "mine", "--report", "true"),
        cwd=cwd,
        launcher=accelerate_launch(),
    )
    return cwd / "runs" / "mine", out


def test_a_run_folder_holds_what_the_documentation_says(cyborg_run: tuple[Path, str]) -> None:
    folder, out = cyborg_run
    files = {path.name for path in folder.iterdir()}
    assert files == {name.rstrip("/") for name in documented("Run folder")}
    assert "head: eager" in out
    assert str(Path("runs") / "mine") in out.splitlines()[-1]

    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["loss"], config["epochs"], config["model"]) == ("blend", 1, "focus_small")
    (row,) = csv.DictReader((folder / "summary.csv").open())
    assert list(row) == documented("summary.csv")
    assert row["epoch"] == "1"
    assert float(row["train_saliency"]) > 0, "the human maps reached the loss"
    assert list((folder / "tensorboard").rglob("events*"))
    with Image.open(folder / "overlays.png") as sheet:
        assert sheet.width > 300


def test_results_are_those_of_the_scores(cyborg_run: tuple[Path, str]) -> None:
    from sklearn.metrics import roc_auc_score

    folder, _ = cyborg_run
    results = json.loads((folder / "results.json").read_text())
    scores = Scores.from_csv(folder / "scores.csv")
    assert sorted(set(scores.generator)) == ["", "NewGAN"]
    assert results["model"].keys() == {"epoch", "validation_auc"}
    new = results["open"]["generators"]["NewGAN"]
    assert (new["n_real"], new["n_fake"]) == (20, 20)
    assert new["auc"] == pytest.approx(roc_auc_score(scores.label, scores.score), abs=1e-12)
    assert results["open"]["mean"]["auc"] == results["open"]["pooled"]["auc"] == new["auc"]
    assert results["closed"]["pooled"]["auc"] is None, "CYBORG's own test split is validation"
    card = (folder / "model" / "README.md").read_text()
    assert f"{new['auc']:.3f} [" in card
    how_long = r"the best on validation of up to \d+ epochs?, seed \d+"
    assert re.search(rf"Loss: `\w+`, .* recipe `\w+`, {how_long}\n", card)
    assert re.search(r"Data: \d+ real and \d+ synthetic images of original\.csv, \d+ with a", card)


def test_evaluate_gives_the_scores_of_the_run(
    cyborg_run: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    folder, _ = cyborg_run
    tests = ["--test-data", f"NewGAN={data / 'newgan'}", "--test-real", f"cam={data / 'camera'}"]
    succeeds("evaluate.py", "--run", folder, *tests, "--output", "run", cwd=tmp_path)
    inside("evaluate.py", "--model-dir", folder / "model", *tests, "--output", tmp_path / "model")
    inside("evaluate.py", "--run", folder, "--output", tmp_path / "alone")
    first = Scores.from_csv(folder / "scores.csv")
    for name in ("run", "model", "alone"):
        again = Scores.from_csv(tmp_path / name / "scores.csv")
        assert list(again.path) == list(first.path)
        np.testing.assert_allclose(again.score, first.score, atol=1e-6)
        assert (tmp_path / name / "results.json").exists()


def test_unlabelled_images_get_scores_only(
    cyborg_run: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    folder, _ = cyborg_run
    inside("evaluate.py", "--run", folder, "--data", data / "camera", "--output", tmp_path / "out")
    scores = Scores.from_csv(tmp_path / "out" / "scores.csv")
    assert len(scores) == 20
    assert set(scores.label) == {-1}
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_model_loads_as_a_library(cyborg_run: tuple[Path, str]) -> None:
    detector = Detector.from_pretrained(cyborg_run[0] / "model")
    assert not detector.training
    assert detector.config.training_generators == ("synthetic",)


@pytest.fixture(scope="module")
def tree_runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Three epochs on the folders with blend and with plain cross-entropy; runs and output."""
    cwd = tmp_path_factory.mktemp("tree")
    out = forked_well(*tree_words(data), "--compare-ce", cwd=cwd)
    return cwd / "runs", out


def tree_words(data: Path) -> list[object]:
    words = [*SMALL, "--data", data / "tree", "--name", "tree", "--epochs", "3"]
    return [*words, "--focus-weight", "0.2"]


@pytest.mark.slow
def test_folders_are_split_and_tested_closed(tree_runs: tuple[Path, str]) -> None:
    runs, out = tree_runs
    results = json.loads((runs / "tree" / "results.json").read_text())
    assert set(results["closed"]["generators"]) == {"ganA", "ganB"}
    assert results["closed"]["pooled"]["auc"] is not None
    assert results["open"]["mean"]["auc"] is None
    assert re.search(r"closed-set AUC, mean of 2 +\d\.\d+", out)


@pytest.mark.slow
def test_without_test_images_the_best_epoch_is_named(data: Path, tmp_path: Path) -> None:
    table = data / "cyborg/csvs/original.csv"
    words = [*SMALL, "--data", table, "--data-root", data / "cyborg/images", "--name", "untested"]
    done = forked(*words, "--report-to", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    best = r"untested: no test images \(--test-data, --test-real\); the best model: epoch 1, "
    assert re.search(best + r"validation_auc [01]\.?\d*\n", done.stdout)
    assert "open-set" not in done.stdout
    assert "log_with" not in done.stderr  # Accelerate's, of no tracker


def test_compare_ce_trains_both_and_shows_both(tree_runs: tuple[Path, str]) -> None:
    runs, out = tree_runs
    assert re.search(r"\btree +tree-ce\b", out)
    plain = yaml.safe_load((runs / "tree-ce" / "config.yaml").read_text())
    assert (plain["loss"], plain["saliency_weight"], plain["focus_level"]) == ("ce", 0.0, "none")
    # What the other is given for its own loss is none of it.
    assert plain["focus_weight"] == 0.0
    rows = list(csv.DictReader((runs / "tree-ce" / "summary.csv").open()))
    assert float(rows[0]["train_loss"]) == pytest.approx(float(rows[0]["train_classification"]))


def test_an_existing_run_is_refused_and_resumed(
    tree_runs: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    """A run stopped within its third epoch ends with the bits of one that was never stopped."""
    whole, words = tree_runs[0] / "tree", tree_words(data)
    parts = tmp_path / "runs" / "tree"
    shutil.copytree(whole, parts)
    *_, third = sorted((parts / "checkpoints").iterdir())
    shutil.rmtree(third)
    (parts / "scores.csv").unlink()
    shortened = "".join((parts / "summary.csv").read_text().splitlines(keepends=True)[:3])
    (parts / "summary.csv").write_text(shortened)

    refused = forked(*words, cwd=tmp_path)
    assert (refused.returncode, "--resume" in refused.stderr) == (2, True)
    other = forked(*words, "--resume", "--lr", "0.1", cwd=tmp_path)
    assert (other.returncode, "lr" in other.stderr) == (2, True)
    assert "images" not in other.stdout, "before the images are read"
    assert (parts / "summary.csv").read_text() == shortened

    for epoch in (2, 3):
        out = forked_well(*words, "--resume", cwd=tmp_path)
        assert f"after epoch {epoch}" in out
        assert yaml.safe_load((parts / "config.yaml").read_text())["resume"] is False
        last = f"checkpoints/{third.name}"
        for name in (
            *("summary.csv", "scores.csv", "model/model.safetensors"),
            *(f"{last}/model.safetensors", f"{last}/optimizer.safetensors"),
        ):
            assert (parts / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_checkpoint_without_its_state_is_named(
    tree_runs: tuple[Path, str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tree_runs[0] / "tree", tmp_path / "tree")
    for folder in (tmp_path / "tree" / "checkpoints").glob("step-*"):
        text = json.dumps({"version": CHECKPOINT_VERSION})
        (folder / "state.json").write_text(text)
        checksums = json.loads((folder / "checksums.json").read_text())
        checksums["state.json"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(SystemExit) as end:
        inside("train.py", *tree_words(data), "--output", tmp_path, "--resume")
    assert end.value.code == 2
    assert "lacks what a run goes on from" in capsys.readouterr().err


@pytest.mark.slow
def test_bf16_and_accumulation(data: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--data", data / "tree", "--mixed-precision", "bf16"]
    out = forked_well(*words, "--gradient-accumulation-steps", 2, cwd=tmp_path)
    assert "mixed precision bf16" in out


@pytest.mark.slow
def test_two_processes_score_each_image_once(data: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--data", data / "tree", "--name", "two"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node", "2"]
    out = succeeds("train.py", *words, cwd=tmp_path, launcher=launcher)
    assert "2 processes" in out
    assert out.count("run folder:") == 1
    scores = Scores.from_csv(tmp_path / "runs" / "two" / "scores.csv")
    assert len(set(scores.path)) == len(scores) > 0

    # What stops the main process stops the other, which has nothing to add.
    done = run("train.py", *SMALL, "--data", "nowhere", cwd=tmp_path, launcher=launcher)
    assert done.returncode == 1
    assert done.stderr.count("train.py: error: ") == 1
    assert "[rank1]" not in done.stderr


def test_the_images_are_counted_and_missing_human_maps_named() -> None:
    samples = [
        *(Sample(f"/r{i}", 0, split="train") for i in range(3)),
        *(Sample(f"/f{i}", 1, "g", split="train") for i in range(2)),
        Sample("/v", 0, split="validation", map_path="/m"),
        Sample("/t", 1, split="test"),
    ]
    runs = [
        resolve(TrainConfig(name="a", focus_level="match")),
        resolve(TrainConfig(name="b", loss="ce")),
        resolve(TrainConfig(name="c", loss="hinge")),  # aims at a number
    ]
    counts, warning = data_lines(Manifest(samples), runs)
    assert counts == (
        "images: train 3 real + 2 synthetic, validation 1 real + 0 synthetic, "
        "test 0 real + 1 synthetic; 0 training images have a human map"
    )
    assert "saliency and focus term of a is 0" in warning
    with_map = Manifest([*samples, Sample("/m", 0, split="train", map_path="/m")])
    assert len(data_lines(with_map, runs)) == 1


def test_a_dry_run_says_all_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--data", data / "tree", "--epochs", "7", "--batch-size", "4", "--name", "dry"]
    out = forked_well(*words, "--dry-run", "--output", tmp_path / "runs", cwd=tmp_path)
    assert not (tmp_path / "runs").exists()
    config = out.partition("\n\n")[2].partition("\n\n")[0]
    assert yaml.safe_load(config)["epochs"] == 7
    (train_images,) = re.findall(r"^train: (\d+) images$", out, re.MULTILINE)
    assert re.search(r"^  synthetic of ganA: \d+$", out, re.MULTILINE)
    assert re.search(r"^model: focus_small, 0\.2\d million parameters", out, re.MULTILINE)
    assert "head: eager" in out
    assert "kernel launches: none on a CPU" in out
    per_epoch = -(-int(train_images) // 4)
    assert f"steps: 7 epochs x {per_epoch} = {7 * per_epoch}, of 4 images each" in out
    assert re.search(r"^time: \d+ (s|min) \(a step took [\d.]+ s, validation", out, re.MULTILINE)


@pytest.mark.usefixtures("plain_cpu")
def test_a_recipe_of_another_size_than_the_networks_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "demo", "--data", data / "tree", "--dry-run", "--output", tmp_path]
    said = "warning: the recipe gives test_vit images of 64 x 64 pixels, it is made for 160 x 160"
    for more, lines in (
        (["--model", "test_vit"], 1),
        (["--model", "test_vit", "--image-size", "64"], 0),
        ([], 0),
    ):
        inside("train.py", *words, *more)
        assert capsys.readouterr().out.count(said) == lines


@pytest.mark.slow
@pytest.mark.usefixtures("plain_cpu")
def test_a_run_goes_on_without_the_weights_that_it_began_with(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    safetensors.torch.save_file(Detector().state_dict(), weights)
    words = [*SMALL[:4], "--data", data / "tree", "--initial-checkpoint", weights]
    words += ["--output", tmp_path, "--name", "r"]
    inside("train.py", *words)
    (tmp_path / "r" / "results.json").unlink()
    weights.unlink()
    inside("train.py", *words, "--resume")
    assert (tmp_path / "r" / "results.json").exists()
    assert load_config(TrainConfig, tmp_path / "r" / "config.yaml").initial_checkpoint == str(
        weights
    )
    with pytest.raises(SystemExit):
        inside("train.py", *words[:-1], "another")


TRAIN, EVALUATE = "train.py", "evaluate.py"
BAD_INPUT = {
    "missing folder": (TRAIN, ["--data", "nowhere"], "nowhere"),
    # The weights that the recipe has come from the Hub, which is not asked yet.
    "missing folder before weights": (
        TRAIN,
        ["--recipe", "paper", "--model", "resnet18", "--data", "nowhere"],
        "nowhere",
    ),
    "unknown model": (TRAIN, ["--data", "DATA/tree", "--model", "resnet5o"], "resnet50"),
    "unknown flag": (TRAIN, ["--focus-wieght", "1"], "--focus-weight"),
    "one class": (TRAIN, ["--data", "DATA/one"], "0 real"),
    "empty folder": (TRAIN, ["--data", "DATA/empty"], "empty"),
    "wrong label": (TRAIN, ["--data", "DATA/label.csv"], "line 2"),
    "fp16 on a CPU": (TRAIN, ["--data", "DATA/tree", "--mixed-precision", "fp16"], "bf16"),
    "output is a file": (TRAIN, ["--data", "DATA/tree", "--output", "DATA/label.csv"], "--output"),
    "no checkpoint": (
        TRAIN,
        ["--data", "DATA/tree", "--initial-checkpoint", "absent.pth"],
        "absent.pth",
    ),
    "unknown tracker": (
        TRAIN,
        ["--data", "DATA/tree", "--report-to", "tensorbord"],
        "none, all, aim, tensorboard",
    ),
    "tracker not installed": (
        TRAIN,
        ["--data", "DATA/tree", "--report-to", "wandb"],
        "install wandb",
    ),
    "unknown augmentation": (TRAIN, ["--data", "DATA/tree", "--augment", "mirror"], "crop, shift"),
    "two aims": (
        TRAIN,
        ["--data", "DATA/tree", "--loss", "hinge", "--entropy-target", "0.5", "--target-from-maps"],
        "two aims",
    ),
    "no maps to aim at": (
        TRAIN,
        ["--data", "DATA/tree", "--loss", "match", "--target-from-maps"],
        "no training image has a human map",
    ),
    "no maps to aim at, dry": (
        TRAIN,
        ["--data", "DATA/tree", "--loss", "match", "--target-from-maps", "--dry-run"],
        "no training image has a human map",
    ),
    "no model": (EVALUATE, ["--model-dir", "DATA/empty", "--data", "DATA/tree"], "config.json"),
    "no run": (EVALUATE, ["--run", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, words, hint = BAD_INPUT[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "1_fake").mkdir(parents=True)
    for picture in sorted((data / "newgan").iterdir())[:4]:
        (tmp_path / "one" / "1_fake" / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "label.csv").write_text("train,Real,/a.png\ntrain,Fake,/b.png\n")
    words = [
        w.replace("DATA/tree", str(data / "tree")).replace("DATA", str(tmp_path)) for w in words
    ]
    if "--model" not in words and script == TRAIN:
        words += ["--recipe", "demo"]
    if case in ("unknown flag", "fp16 on a CPU"):
        # The script as it is; and Accelerate keeps its precision for the life of a process.
        if case == "unknown flag":
            found = run(script, *words, cwd=tmp_path)
        else:
            found = forked(*words, cwd=tmp_path)
        code, errors = found.returncode, found.stderr
    else:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            inside(script, *words)
        code, errors = end.value.code, capsys.readouterr().err
    assert code == 2, errors
    lines = [line for line in errors.splitlines() if line.strip()]
    assert hint in lines[-1]
    assert lines[-1].startswith(f"{script}: error: ")
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_launcher_told_another_precision_is_not_overruled_silently(tmp_path: Path) -> None:
    launcher = accelerate_launch("--mixed_precision", "bf16")
    done = run("train.py", *SMALL, cwd=tmp_path, launcher=launcher)
    assert done.returncode != 0
    assert "train.py: error: The launcher was told mixed precision bf16" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = forked("--data", "nowhere", "--debug", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
