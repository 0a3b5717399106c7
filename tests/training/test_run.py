"""The programs as a user runs them: real files, one's own data and bad input.

The pictures are scikit-image's ``lfw_subset`` (its first 100 are 25x25 crops of real faces, its
last 100 are not faces): this tests the plumbing, so no AUC is asserted.
"""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import yaml
from huggingface_hub import constants
from PIL import Image
from skimage.data import lfw_subset

from focus.config.command_line import load_config
from focus.config.command_line import run as run_program
from focus.config.train import EvaluateConfig, TrainConfig, resolve
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.evaluation.inference import outlier_norm
from focus.evaluation.scores import Scores
from focus.model.config import DetectorConfig
from focus.model.detector import Detector
from focus.runtime.files import sole_writer
from focus.training.run import map_findings, train
from focus.use.evaluate import evaluate

from ..launching import CHECKOUT, in_another_process, python, write_faces
from .trainers import trained

ONE_EPOCH = ["--recipe", "demo", "--epochs", "1"]
SMALL = [*ONE_EPOCH, "--threads", "1", "--workers", "0", "--report", "false"]


def forked(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``train.py`` as a process of its own, without the seconds of its imports."""
    return trained(*words, cwd=cwd, FOCUS_CACHE=str(cwd / "cache"))


def forked_well(*words: object, cwd: Path) -> str:
    done = forked(*words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inside(*words: object) -> None:
    """What ``train.py`` does with these words, in this process: the imports take seconds."""
    argv = [*map(str, words), "--threads", "1", "--workers", "0", "--report", "false"]
    run_program(train, TrainConfig, argv=argv, prog="train.py")


def documented(title: str) -> list[str]:
    """The names in the first column of the table in a section of docs/formats.md."""
    text = (CHECKOUT / "docs" / "formats.md").read_text(encoding="utf-8")
    section = text.partition(f" {title}\n")[2].partition("\n##")[0]
    return re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|[^|]*", section, re.MULTILINE)))


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


def test_of_two_processes_one_trains_in_a_folder(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = TrainConfig.of(
        recipe="demo",
        data=(str(data / "tree"),),
        output=str(tmp_path),
        name="run",
        resume=True,
        threads=1,
        workers=0,
    )
    with (
        in_another_process(lambda: sole_writer(folder, folder / "checkpoints" / ".lock")),
        pytest.raises(InputError, match=f"process writes to {folder}: .*, or give another --name"),
    ):
        train(config)


@pytest.fixture(scope="module")
def cyborg_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One epoch on the CYBORG tree, tested on an unknown generator; the run folder and output."""
    cwd = tmp_path_factory.mktemp("cyborg")
    words = ["-m", "accelerate.commands.launch", CHECKOUT / "train.py", *SMALL]
    words += ["--data", data / "cyborg/csvs/original.csv", "--data-root", data / "cyborg/images"]
    words += ["--human-maps", data / "cyborg/heatmaps"]
    words += ["--test-data", f"NewGAN={data / 'newgan'}"]
    words += ["--test-real", f"camera={data / 'camera'}", "--name", "mine", "--report", "true"]
    out = python(*words, cwd=cwd)
    return cwd / "runs" / "mine", out


def test_a_run_folder_holds_what_the_documentation_says(cyborg_run: tuple[Path, str]) -> None:
    folder, out = cyborg_run
    files = {path.name for path in folder.iterdir()}
    assert files == {name.rstrip("/") for name in documented("Run folder")}
    assert "head: eager" in out
    findings = json.loads((folder / "results.json").read_text())["findings"]
    report, explained, tested = out.splitlines()[-3 - len(findings) : -len(findings)]
    assert report.endswith(" runs/mine/report.html")
    assert explained.endswith("focus explain PATH --model-dir runs/mine/model")
    assert tested.endswith("focus evaluate --run runs/mine --test-data NAME=PATH")

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
    assert (new["n_real"], new["n_synthetic"]) == (20, 20)
    assert new["auc"] == pytest.approx(roc_auc_score(scores.label, scores.score), abs=1e-12)
    assert results["open"]["mean"]["auc"] == results["open"]["pooled"]["auc"] == new["auc"]
    assert results["closed"]["pooled"]["auc"] is None, "CYBORG's own test split is validation"
    card = (folder / "model" / "README.md").read_text()
    assert f"{new['auc']:.3f} [" in card
    how_long = r"the best on validation of up to \d+ epochs?, seed \d+"
    assert re.search(rf"Loss: `\w+`, .* recipe `\w+`, {how_long}\n", card)
    assert re.search(r"Data: \d+ real and \d+ synthetic images of original\.csv, \d+ with a", card)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_cpu")
# As a whole, and its head on cached features.
@pytest.mark.parametrize("tuned", [(), ("--tune", "head", "--augment", "none")])
def test_a_transformer_is_trained_with_its_class_token_and_its_outliers_are_counted(
    tuned: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    words = ["--recipe", "demo", "--epochs", 1, "--model", "test_vit", "--image-size", 48]
    words += ["--pool", "both", "--data", data / "tree", "--name", "run", "--output", tmp_path]
    weights = tmp_path / "weights.safetensors"
    detector = Detector("test_vit", image_size=48, pool="both")
    safetensors.torch.save_file(detector.state_dict(), weights)
    words += ["--initial-checkpoint", weights]
    inside(*words, "--report-to", "none", *tuned)
    run = tmp_path / "run"
    config = DetectorConfig.read(run / "model" / "config.json")
    assert (config.pool, config.model) == ("both", "test_vit")
    detector = Detector.from_pretrained(run / "model")
    manifest = Manifest.from_csv(run / "manifest.csv")
    expected = outlier_norm(detector, manifest.split("train"), batch_size=64)
    assert config.outlier_norm == pytest.approx(expected, rel=1e-6)
    peaks = Scores.from_csv(run / "scores.csv").peak_outlier
    assert set(peaks) <= {0, 1}
    closed = json.loads((run / "results.json").read_text())["closed"]["pooled"]
    assert closed["peak_outlier"] == pytest.approx(peaks.mean())
    evaluate(EvaluateConfig(run=str(run), workers=0, report=False))
    again = Scores.from_csv(run / "evaluation" / "scores.csv")
    assert again.peak_outlier.tolist() == peaks.tolist()


@pytest.mark.slow
def test_compare_ce_trains_both_and_shows_both(data: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--data", data / "tree", "--name", "tree", "--focus-weight", "0.2"]
    out = forked_well(*words, "--epochs", "3", "--compare-ce", cwd=tmp_path)
    runs = tmp_path / "runs"
    results = json.loads((runs / "tree" / "results.json").read_text())
    assert set(results["closed"]["generators"]) == {"ganA", "ganB"}
    assert results["open"]["mean"]["auc"] is None
    assert re.search(r"closed-set AUC, mean of 2 +\d+\+\d+ +\d\.\d+", out)
    assert re.search(r"\btree \[95 % interval\] +tree-ce \[95", out)
    plain = yaml.safe_load((runs / "tree-ce" / "config.yaml").read_text())
    assert (plain["loss"], plain["saliency_weight"], plain["focus_level"]) == ("ce", 0.0, "none")
    # What the other is given for its own loss is none of it.
    assert plain["focus_weight"] == 0.0
    rows = list(csv.DictReader((runs / "tree-ce" / "summary.csv").open()))
    assert float(rows[0]["train_loss"]) == pytest.approx(float(rows[0]["train_classification"]))


def test_missing_human_maps_are_named() -> None:
    samples = [Sample("/r", 0, split="train"), Sample("/v", 0, split="validation", human_map="/m")]
    # The last aims at a number.
    losses: list[dict[str, Any]] = [{"focus_level": "match"}, {"loss": "ce"}, {"loss": "hinge"}]
    runs = [resolve(TrainConfig.of(name=n, **loss)) for n, loss in zip("abc", losses, strict=True)]
    (warning,) = (finding for run in runs for finding in map_findings(Manifest(samples), run))
    assert "saliency and focus term of a is 0" in warning.text
    with_map = Manifest([*samples, Sample("/m", 0, split="train", human_map="/m")])
    assert not any(map_findings(with_map, run) for run in runs)


@pytest.mark.slow
def test_copies_of_training_images_are_no_test(data: Path, tmp_path: Path) -> None:
    """Five of them lie among the real images to test on: neither training nor evaluation scores
    them, a resumed run leaves out the same, and all that show results say so."""
    real = tmp_path / "real"
    shutil.copytree(data / "camera", real)
    tree = data / "tree"
    words = [*SMALL, "--data", tree, "--test-data", f"new={data / 'newgan'}", "--name", "r"]
    words += ["--test-real", f"LFW={real}", "--epochs", "2"]
    first = forked_well(*words, "--name", "first", "--epochs", "1", cwd=tmp_path)
    assert "left out" not in first
    assert "loss: ce, as no image has a human map (--human-maps); --loss names another" in first
    assert load_config(TrainConfig, tmp_path / "runs" / "first" / "config.yaml").loss.name == "ce"
    run = tmp_path / "runs" / "first"
    trained = [s for s in Manifest.from_csv(run / "manifest.csv") if s.split == "train"]
    for number, sample in enumerate([s for s in trained if s.label == 0][:5]):
        shutil.copyfile(sample.path, real / f"a-{number}.jpg")
    said = "5 of 25 real test images of LFW are left out, being copies of training images"
    out = forked_well(*words, cwd=tmp_path)
    assert f"\nwarning: {said}" in out
    assert f"warning: {said}" in out.partition("other tests:")[2]
    run = tmp_path / "runs" / "r"
    kept = names(run)
    assert not {f"a-{number}.jpg" for number in range(5)} & {*kept}
    rows = list(csv.DictReader((run / "copies.csv").open()))
    assert {Path(row["path"]).name for row in rows} == {f"a-{number}.jpg" for number in range(5)}
    assert said in (run / "model" / "README.md").read_text()
    findings = json.loads((run / "results.json").read_text())["findings"]
    assert any(said in finding["text"] for finding in findings)
    forked_well("--resume", "--name", "r", "--epochs", "2", cwd=tmp_path)  # the rest is the run's
    assert names(run) == kept
    evaluate(EvaluateConfig(run=str(run), threads=1, workers=0, report=False))
    assert sorted(names(run / "evaluation")) == sorted(kept)
    # A test set that is nothing else.
    shutil.rmtree(real)
    real.mkdir()
    for number, sample in enumerate([s for s in trained if s.label == 0][:5]):
        shutil.copyfile(sample.path, real / f"a-{number}.jpg")
    done = forked(*words, "--name", "none", cwd=tmp_path)
    assert done.returncode == 2
    assert "All real test images of LFW are copies of training images" in done.stderr
    assert not (tmp_path / "runs" / "none").exists()


def names(folder: Path) -> list[str]:
    return [Path(path).name for path in Scores.from_csv(folder / "scores.csv").path]


def test_a_dry_run_says_all_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--data", data / "tree", "--epochs", "7", "--batch-size", "4", "--name", "dry"]
    out = forked_well(*words, "--dry-run", "--output", tmp_path / "runs", cwd=tmp_path)
    assert not (tmp_path / "runs").exists()
    assert len(out.splitlines()) <= 40, "it fits a screen"
    assert re.search(r"^training by the recipe demo: .*opt adamw", out, re.MULTILINE)
    assert re.search(r"^loss by the loss ce: cam-class true, ", out, re.MULTILINE)
    settings_line = "training given or found: recipe demo, epochs 7, batch-size 4"
    assert f"\n{settings_line}\n" in out
    (train_images,) = re.findall(r"^train: (\d+) images: \d+ real", out, re.MULTILINE)
    assert re.search(r"\d+ synthetic of ganA\b", out)
    assert re.search(r"^model: focus_small, 0\.2\d million parameters", out, re.MULTILINE)
    assert "head: eager" in out
    per_epoch = -(-int(train_images) // 4)
    assert f"steps: 7 epochs x {per_epoch} = {7 * per_epoch}, of 4 images each" in out
    assert re.search(r"^time: \d+ (s|min) \(a step took [\d.]+ s, validation", out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_cpu")
def test_a_run_goes_on_without_the_weights_that_it_began_with(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    safetensors.torch.save_file(Detector().state_dict(), weights)
    words = [*ONE_EPOCH, "--data", data / "tree", "--initial-checkpoint", weights]
    words += ["--output", tmp_path, "--name", "r"]
    inside(*words)
    (tmp_path / "r" / "results.json").unlink()
    weights.unlink()
    inside(*words, "--resume")
    assert (tmp_path / "r" / "results.json").exists()
    config = load_config(TrainConfig, tmp_path / "r" / "config.yaml")
    assert config.initial_checkpoint == str(weights)
    with pytest.raises(SystemExit):
        inside(*words[:-1], "another")


BAD_INPUT = {
    "a frozen network of random weights": (
        ["--data", "DATA/tree", "--model", "test_vit", "--tune", "head", "--pretrained", "false"],
        "--tune head would freeze a network of random weights, as none are loaded: give",
    ),
    "twice the same": (["--data", "DATA/tree", "--compare-ce"], "the default without human maps"),
    # The weights that the recipe has come from the Hub, which is not asked yet.
    "missing folder": (
        ["--recipe", "paper", "--model", "resnet18", "--data", "no"],
        "folder no: check",
    ),
    "unknown model": (["--data", "DATA/tree", "--model", "resnet5o"], "resnet50"),
    "one class": (["--data", "DATA/one"], "0 real"),
    "no weights": (["--data", "DATA/tree", "--initial-checkpoint", "absent.pth"], "absent.pth"),
    "no tracker": (["--data", "DATA/tree", "--report-to", "wandb"], "got wandb: install its"),
    "no maps": (
        ["--data", "DATA/tree", "--loss", "match", "--target-from-maps"],
        "no training image has a human map",
    ),
}


@pytest.mark.usefixtures("plain_cpu")
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, hint = BAD_INPUT[case]
    (tmp_path / "one" / "1_fake").mkdir(parents=True)
    for picture in sorted((data / "newgan").iterdir())[:4]:
        (tmp_path / "one" / "1_fake" / picture.name).write_bytes(picture.read_bytes())
    words = [
        w.replace("DATA/tree", str(data / "tree")).replace("DATA", str(tmp_path)) for w in words
    ]
    if "--recipe" not in words:
        words += ["--recipe", "demo"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        inside(*words)
    errors = capsys.readouterr().err
    assert end.value.code == 2, errors
    last = [line for line in errors.splitlines() if line.strip()][-1]
    assert hint in last
    assert last.startswith("train.py: error: ")
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists()


ADVISED_WITHOUT_WEIGHTS = {
    "the recipe that was given before": ["--recipe", "quick", "--model", "test_vit"],
    "a frozen network": ["--recipe", "foundation"],
    "a network whose weights are a package": ["--model", "tf_efficientnet_lite0"],
    "none for the small network": ["--model", "focus_small"],
}


@pytest.mark.usefixtures("plain_cpu")
@pytest.mark.parametrize("case", ADVISED_WITHOUT_WEIGHTS)
def test_advice_without_pretrained_weights_helps(
    case: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """None of it was given before, and followed as it is printed it makes the command work."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("focus.model.weights.PackagedWeights.path", lambda _: None)
    words = [*ADVISED_WITHOUT_WEIGHTS[case], "--pretrained", "true", "--tune", "head"]
    words += ["--data", str(data / "tree"), "--output", str(tmp_path), "--dry-run"]
    with pytest.raises(SystemExit):
        inside(*words)
    message = [line for line in capsys.readouterr().err.splitlines() if line.strip()][-1]
    advice = re.search(r"(--recipe quick --model \S+ )?--pretrained false --tune full", message)
    assert advice, message
    assert "--pretrained true" not in message
    assert ("focus-faces[weights]" in message) == ("tf_efficientnet_lite0" in words)
    inside(*words, *advice[0].split())


@pytest.mark.usefixtures("plain_cpu")
@pytest.mark.slow
def test_evaluation_leaves_out_what_the_weights_before_knew(tmp_path: Path) -> None:
    """Of a run from a run from a run, where that one and the first have been moved or are gone."""

    def fit(name: str, data: str, after: str | None = None) -> Path:
        weights = after and str(tmp_path / after / "model" / "model.safetensors")
        flags: dict[str, Any] = {"epochs": 1, "batch_size": 8, "workers": 0, "threads": 1}
        flags |= {"report": False, "recipe": "demo", "report_to": ("none",), "name": name}
        train(
            TrainConfig.of(data=(data,), output=str(tmp_path), initial_checkpoint=weights, **flags)
        )
        return tmp_path / name

    one, two, new = (str(write_faces(tmp_path / name, 8, seed)) for seed, name in enumerate("abc"))
    first = fit("first", one)
    n_known = sum(s.split != "test" for s in Manifest.from_csv(first / "manifest.csv"))
    fit("second", two, after="first")
    third = fit("third", new, after="second")
    shutil.rmtree(first)
    moved = shutil.move(third, tmp_path / "elsewhere")
    out = tmp_path / "out"
    settings: dict[str, Any] = {"run": str(moved), "data": (one,), "output": str(out)}
    said = str(evaluate(EvaluateConfig(**settings, workers=0, report=False)))
    assert f"{n_known} of 16 images are left out: they, or" in said
    assert len(Scores.from_csv(out / "scores.csv")) == 16 - n_known
