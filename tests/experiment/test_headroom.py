"""The gate: its runs, its bars, and the classifier of spectra that stands beside."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.config.experiment import ExperimentConfig
from focus.data.manifest import Manifest, Sample
from focus.experiment.__main__ import make_setup
from focus.experiment.data import exact_maps
from focus.experiment.frozen import SPARE
from focus.experiment.grid import headroom_runs
from focus.experiment.headroom import fft_baseline, verdict


def noise(path: Path, seed: int, wave: float = 0.0) -> str:
    pixels = 128 + 20 * np.random.default_rng(seed).standard_normal((16, 16))
    pixels += wave * np.sin(2 * np.pi * np.arange(16) / 4)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return str(path)


def test_a_fingerprint_is_found_by_its_frequency(tmp_path: Path) -> None:
    samples = []
    for number in range(400):
        label, test = number % 2, number >= 300
        generator = ("wave", "none")[number // 2 % 2] if label else ""
        path = noise(tmp_path / f"{number}.png", number, 20.0 if generator == "wave" else 0.0)
        split = "test" if test else "train"
        samples.append(Sample(path, label, generator, split=split, test_set="open" if test else ""))
    (found,) = fft_baseline(Manifest(samples)).values()
    assert found["wave"] > 0.8
    assert found["none"] < 0.7


def test_exact_maps_are_masks_and_whole_faces(tmp_path: Path) -> None:
    face = tmp_path / "face.png"
    rows = [
        Sample("real", 0, split="train", human_map="marks"),
        Sample("fake", 1, "g", split="train", human_map="marks", mask_path="mask"),
        Sample("global", 1, "g", split="train", human_map="marks"),
        Sample("test", 1, "g", split="test", human_map="marks", mask_path="mask"),
    ]
    maps = [sample.human_map for sample in exact_maps(Manifest(rows), face)]
    assert maps == [str(face), "mask", None, "marks"]
    assert 0.2 < np.asarray(Image.open(face)).mean() / 255 < 0.4


def test_the_runs_are_of_spare_draws(tmp_path: Path) -> None:
    runs = headroom_runs(make_setup(ExperimentConfig(output=str(tmp_path))), SPARE)
    assert len({run.folder for run in runs}) == len({(run.arm, run.unit) for run in runs}) == 9
    assert min(run.unit for run in runs) >= 100
    assert len({run.data for run in runs}) == 9


@pytest.mark.parametrize(("closed", "said"), [(0.95, "reached"), (0.9, "MISSED")])
def test_each_bar_is_told(closed: float, said: str) -> None:
    def row(opened: float, closed: float) -> dict[str, float]:
        grades = dict.fromkeys(("recombined", "near", "far"), opened)
        return {"closed_balanced": closed, **grades, "global": 0.5}

    rows = [
        ("ce", 100, row(0.7, 0.99)),
        ("ce", 101, row(0.8, closed)),
        *(("perfect-focus", unit, row(0.85, 0.99)) for unit in (100, 101)),
        *(("oracle", unit, row(0.92, 0.99)) for unit in (100, 101)),
    ]
    assert "not judged" in verdict(rows[1:])
    text = verdict(rows)
    assert "| ce | 101 | " + f"{closed:.3f}"[1:] + " | .800 | .800 | .800 | .800 | .500 |" in text
    assert "| oracle, open, mean | .920 | .900 | reached |" in text
    assert text.count(said) == (3 if said == "reached" else 1)
