"""docs/formats.md says what the code writes, name by name."""

import json
import re
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus.config.command_line import parse
from focus.config.data import CheckConfig
from focus.config.options import POINTS
from focus.config.train import CONFIG_VERSION, TrainConfig
from focus.config.use import ExplainConfig
from focus.data.check.report import check
from focus.data.manifest import Manifest, Sample, Split
from focus.data.perturbations import STRENGTHS
from focus.evaluation import faithfulness, other_detectors, robustness
from focus.evaluation.people import ANSWER_VERSION, Answer
from focus.evaluation.provenance import PRECISION, WEIGHTS, provenance
from focus.evaluation.results import VERSION as RESULTS_VERSION
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.metrics.calibration import Calibration
from focus.metrics.figures import CONFUSION, FIGURE
from focus.model.config import CONFIG_VERSION as MODEL_VERSION
from focus.model.config import DetectorConfig
from focus.model.detector import Detector
from focus.model.operating_points import THRESHOLDS, OperatingPoints, choose_points
from focus.model.operating_points import VERSION as THRESHOLDS_VERSION
from focus.training.checkpoint import CHECKPOINT_VERSION, CheckpointWriter, Parts
from focus.training.run_folder import TrainState
from focus.use.explain import explain
from focus.use.explanations import VERSION as EXPLANATIONS_VERSION
from focus.use.export import INPUT, OUTPUTS, metadata
from focus.use.export import VERSION as ONNX_VERSION

DOCUMENT = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text below a heading, up to the next one of any level."""
    _, _, after = DOCUMENT.partition(f" {title}\n")
    assert after, title
    return re.split(r"^##+ ", after, maxsplit=1, flags=re.MULTILINE)[0]


def listed(title: str, header: str) -> list[str]:
    """Return the names in backticks in the first column of the tables with this header."""
    names = []
    for table in section(title).split("\n\n"):
        lines = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
        if lines and lines[0].strip() == header:
            names += re.findall(r"`([^`]+)`", "".join(lines))
    return names


def test_columns_of_csvs(tmp_path: Path) -> None:
    Manifest([]).to_csv(tmp_path / "Manifest")
    robustness.write([], tmp_path)
    falls = faithfulness.Falls(np.zeros(0), np.zeros((0, 8)))
    faithfulness.write(falls, Scores(**{f.name: [] for f in fields(Scores)}), tmp_path)
    for name in ("Manifest", "robustness.csv", "faithfulness.csv"):
        (head,) = (tmp_path / name).read_text().splitlines()
        assert ",".join(listed(name, "column")) == head
    assert listed("Annotation", "column of answers/NAME.csv") == [f.name for f in fields(Answer)]
    columns = [f.name for f in fields(Scores) if f.name not in ("index", "cams")]
    assert listed("scores.csv", "column") == columns
    (row,) = re.findall(r"^\| `strength` \|(.*)\|$", section("robustness.csv"), re.MULTILINE)
    strengths = [float(number) for number in re.findall(r"\b\d[\d.]*", row)]
    assert strengths == [strength for levels in STRENGTHS.values() for strength in levels]


def keys(value: Any, names: set[str]) -> set[str]:
    """Return all keys of nested dictionaries, apart from the names of generators."""
    if not isinstance(value, dict):
        return set()
    return set(value) - names | {k for inner in value.values() for k in keys(inner, names)}


def checked(folder: Path) -> dict[str, Any]:
    """Return check.json of data with each finding: a leak, a bad file and a shortcut."""
    random, samples = np.random.default_rng(0), list[Sample]()
    splits: tuple[tuple[Split, int], ...] = (("train", 24), ("validation", 4), ("test", 4))
    for split, n in splits:
        for number, label in product(range(n), (0, 1)):
            side = 64 - 8 * label
            pixels = random.integers(0, 256, (side, side, 3), np.uint8)
            path = str(folder / f"{split}-{label}-{number}.png")
            Image.fromarray(pixels).save(path)
            samples.append(Sample(path, label=label, generator="kA" * label, split=split))
    leak = folder / "leak.png"
    leak.write_bytes(Path(samples[0].path).read_bytes())
    samples.append(Sample(str(leak), label=0, split="test"))
    (folder / "broken.png").write_bytes(b"no image")
    samples.append(Sample(str(folder / "broken.png"), label=0, split="train"))
    Manifest(samples).to_csv(folder / "faces.csv")
    words = [str(folder / "faces.csv"), "--drop-copies", "--max-bad", "0.1", "--no-strict"]
    check(parse(CheckConfig, [*words, "--output", str(folder / "out")]))
    report: dict[str, Any] = json.loads((folder / "out" / "check.json").read_text(encoding="utf-8"))
    return report


@pytest.mark.slow
def test_keys_of_the_check(tmp_path: Path) -> None:
    written = checked(tmp_path)
    assert listed("check.json", "key") == list(written)
    parts = ("maps", "masks", "copies", "without_copies")
    inner = {name: list(written[name]) for name in parts}
    (inner["kinds"],) = {tuple(kind): list(kind) for kind in written["kinds"]}.values()
    audits = written["shortcuts"]
    inner["shortcuts"] = [*audits, *audits["storage"]]
    assert list(audits["storage"]) == list(audits["pixels"])
    for name, keys_of_part in inner.items():
        assert listed("check.json", f"key of `{name}`") == [name, *keys_of_part]  # the head's too
    assert written["copies"]["between"] == {"train-test": 1}
    # Lists of objects, whose keys the row names.
    rows = section("check.json").splitlines()
    lists = {"bad_files": written["bad_files"], "causes": audits["storage"]["causes"]}
    for name, (first, *_) in lists.items():
        (row,) = (row for row in rows if row.startswith(f"| `{name}` |"))
        named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
        assert set(first) == named, name


def test_keys_of_results(tmp_path: Path) -> None:
    columns: dict[str, Any] = {f.name: [0] * 4 for f in fields(Scores)}
    columns |= {"label": [0, 0, 1, 1], "generator": ["", "", "kA", "uB"]}
    columns |= {"test_set": ["", "", "closed_balanced", ""], "group": ["v", "v", "", ""]}
    points = OperatingPoints(dict.fromkeys(POINTS, 0.5), Calibration(1, 0, 1), 9, 9)
    results = summarise(Scores(**columns), ["kA"], None, points, resamples=9)
    text = section("results.json")
    (block,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    outline = set(re.findall(r'"(\w+)"', block))
    figures = set(listed("results.json", "field")) | {
        "n_real",
        "n_synthetic",
        "n_pointing",
        "n_maps",
    }
    # A program adds the model and the provenance.
    origin = provenance("net", Manifest(), TrainConfig())
    added = {"given", "default"}  # names of a decision
    added |= {
        "model",
        "epoch",
        "validation_METRIC",
        "findings",
        "people",  # as Annotation has it
        "severity",
        "id",
        "text",
        "provenance",
        "name",
        *origin,
        WEIGHTS,
        PRECISION,
    }
    (tmp_path / "theirs.csv").write_text("path,label,score\na,1,0.5\n")
    _, theirs = other_detectors.evaluate_scores(other_detectors.read(tmp_path / "theirs.csv", {}))
    added |= {*theirs["provenance"], *theirs["provenance"]["scores"]}
    assert added <= outline
    documented = (outline - added) | figures | set(POINTS) | set(CONFUSION)
    assert all(f"`{name}`" in text for name in CONFUSION)
    assert keys(results, {"kA", "uB"}) == documented
    assert set(listed("results.json", "field")) == {*FIGURE, "apcer_max_generator", "confusion"}


def test_keys_of_thresholds(tmp_path: Path) -> None:
    choose_points(np.array([0.1, 0.2]), np.array([0.9])).write(tmp_path)
    written = json.loads((tmp_path / THRESHOLDS).read_text())
    assert listed(THRESHOLDS, "field") == list(written)
    assert set(written["thresholds"]) == set(POINTS)
    assert set(written["calibration"]) == {"slope", "intercept", "temperature", "largest_llr"}


def test_fields_of_a_models_config() -> None:
    assert listed("config.json", "field") == [f.name for f in fields(DetectorConfig)]


@pytest.mark.usefixtures("plain_cpu")
def test_files_of_explanations(tmp_path: Path) -> None:
    detector = Detector(image_size=32)
    detector.save_pretrained(tmp_path / "m")
    (tmp_path / "video").mkdir()
    for name in ("b.png", "video/a.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / "bad.png").touch()
    out = tmp_path / "out"
    paths = tuple(str(tmp_path / name) for name in ("b.png", "video", "bad.png"))
    explain(
        ExplainConfig(paths=paths, model_dir=str(tmp_path / "m"), output=str(out), as_video=True)
    )
    names = {path.name for path in out.iterdir()}
    assert {name.strip("/") for name in listed("Explanations", "file")} >= names
    assert len(names) == 7
    for name in ("explanations.csv", "frames.csv"):
        head = (out / name).read_text().splitlines()[0]
        assert ",".join(listed("Explanations", f"column of {name}")) == head
    written = json.loads((out / "manifest.json").read_text())
    assert listed("Explanations", "field of manifest.json") == list(written)
    columns = listed("Explanations", "column of frames.csv")
    assert ["path", *written["items"][1]["frames"][0]] == columns


def test_metadata_of_onnx() -> None:
    assert set(listed("ONNX", "metadata")) == set(metadata(Detector(image_size=32)))
    for name in (INPUT, *OUTPUTS):
        assert f"`{name}`" in section("ONNX")


def test_files_and_fields_of_a_checkpoint(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    parts = Parts(model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1), ema=model)
    extra: dict[str, object] = {"scaler": None, "train_state": {}, "config": {}}
    CheckpointWriter(tmp_path).save(7, parts, extra)
    folder = tmp_path / "step-00000007"
    assert sorted(listed("Checkpoint", "file")) == sorted(path.name for path in folder.iterdir())
    state = json.loads((folder / "state.json").read_text())
    documented = section("Checkpoint").partition("field of state.json")[2]
    assert re.findall(r"^\| `(\w+)`", documented, re.MULTILINE) == list(state)
    (row,) = re.findall(r"^\| `train_state` \|(.*)\|$", documented, re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == [f.name for f in fields(TrainState)]


def test_versions() -> None:
    for title, version in {
        "results.json": RESULTS_VERSION,
        "thresholds.json": THRESHOLDS_VERSION,
        "config.json": MODEL_VERSION,
        "Run folder": CONFIG_VERSION,
        "Checkpoint": CHECKPOINT_VERSION,
        "Explanations": EXPLANATIONS_VERSION,
        "ONNX": ONNX_VERSION,
        "Annotation": ANSWER_VERSION,
    }.items():
        assert section(title).strip().startswith(f"Version {version}"), title
    assert (
        f"| field of state.json | meaning |\n|---|---|\n| `version` | {CHECKPOINT_VERSION} |"
        in (section("Checkpoint"))
    )
