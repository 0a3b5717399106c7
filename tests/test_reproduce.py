"""docs/reproduce.md: its commands run on a tree of CYBORG's shape, without pretrained weights."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from focus.__main__ import main as focus
from focus.model.detector import Detector

from .experiment.test_real_data import FAKES, write_tree
from .test_readme import CHECKOUT, as_focus, commands, text

pytestmark = pytest.mark.slow

DOCUMENT = "docs/reproduce.md"


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the data where the document has them, and configs/."""
    write_tree(tmp_path)
    (tmp_path / "configs").symlink_to(CHECKOUT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(name: str) -> Iterator[list[str]]:
    """Yield the document's commands of this name, as words of ``focus``."""
    return (words for words in map(as_focus, commands(DOCUMENT)) if words[0] == name)


def test_the_check_that_is_shown_counts_what_the_table_lists(working_folder: Path) -> None:
    (words,) = shown("data")
    focus([*words, "--output=out"])
    report = json.loads((working_folder / "out" / "check.json").read_text(encoding="utf-8"))
    kinds = [(k["split"], k["label"], k["images"], k["with_map"]) for k in report["kinds"]]
    assert kinds == [
        ("train", "real", 24, 24),
        ("train", "synthetic", 24, 24),
        ("validation", "real", 16, 0),
        ("validation", "synthetic", 16, 0),
        ("test", "real", 16, 0),
        *(("test", "synthetic", 8, 0) for _ in FAKES),
    ]
    table = re.findall(r"^\| (train|validation|test) \| (\w+)", text(DOCUMENT), re.MULTILINE)
    assert list(dict.fromkeys(kind[:2] for kind in kinds)) == table


def test_the_evaluation_that_is_shown(working_folder: Path) -> None:
    torch.manual_seed(0)
    run = working_folder / "runs" / "cyborg-densenet121-ce-seed0"
    Detector().save_pretrained(run / "model")
    # Read here, where the pattern of the loop over run folders finds one.
    (words,) = shown("evaluate")
    focus([*words, "--threads", "1", "--workers", "0", "--report", "false"])
    results = json.loads((run / "evaluation" / "results.json").read_text(encoding="utf-8"))
    generators = results["open"]["generators"]
    counts = {
        name: (figures["n_real"], figures["n_synthetic"]) for name, figures in generators.items()
    }
    assert counts == dict.fromkeys(FAKES, (16, 8))


@pytest.mark.usefixtures("working_folder")
def test_a_training_that_is_shown_would_start(capsys: pytest.CaptureFixture[str]) -> None:
    """Its steps are really made, in small batches; images have the size the weights want."""
    model = "inception_v3.tv_in1k"
    (words,) = (
        command for command in shown("train") if "cyborg-inception_v3-focus-seed0" in command
    )
    scaled = ["--no-pretrained", "--batch-size", "4", "--threads", "1", "--workers", "0"]
    focus([*words, *scaled, "--dry-run"])
    printed = " ".join(capsys.readouterr().out.replace(",", " ").split())
    settings = ["loss focus", f"model {model}", "image-size 299", "augment none"]
    settings += ["opt sgd", "lr 0.005", "momentum 0.9", "weight-decay 1e-06"]
    settings += ["step-epochs 12", "step-gamma 0.1", "epochs 50"]
    for setting in settings:
        assert f" {setting} " in printed, setting
    detector = Detector(model, image_size=299)
    assert detector.grid == (8, 8)
    # torchvision's network turns images normalised by ImageNet's figures into these.
    assert (detector.mean, detector.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
