"""Robustness on a network that sees stripes only: AUCs told in advance, and the file."""

import csv
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from focus.data.images import Preprocessing
from focus.data.manifest import Manifest, Sample
from focus.data.perturbations import ROBUSTNESS, STRENGTHS
from focus.errors import InputError
from focus.evaluation.inference import score_images
from focus.evaluation.robustness import MEAN, PerturbedAUC, lines, measure, read, write
from focus.evaluation.scores import Scores
from focus.metrics.intervals import mean_auc_difference, mean_auc_interval
from focus.model.detector import Detector
from focus.model.inputs import Normalise
from focus.model.prediction import Prediction

SIZE = 32


class Stripes(nn.Module):
    """Synthetic as far as neighbouring pixels differ by more than a fifth of the range.

    What is smooth has the same score to the last bit, so AUCs can be told in advance.
    """

    image_size, grid = SIZE, (2, 2)
    preprocessing = Preprocessing(SIZE, grid)
    normalise = Normalise((0.5,) * 3, (1.0,) * 3)
    config = SimpleNamespace(training_generators=("kA",), geometry=(), outlier_norm=None)
    points = None

    predict_pixels = Detector.predict_pixels

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))

    def predict_batch(self, images: Tensor) -> Prediction:
        contrast = images.diff(dim=3).abs().mean((1, 2, 3))
        score = (self.gain * (contrast - 0.2).relu()).sigmoid()
        cams = torch.arange(8.0).reshape(1, 2, 2, 2).expand(len(images), -1, -1, -1)
        entropy, norms = torch.zeros(len(images), 2), torch.zeros(len(images), 0, 0)
        return Prediction(score, (score > 0.5).long(), cams, entropy, norms)


STRIPES: Any = Stripes()


def picture(path: Path, stripes: bool) -> str:
    pixels = np.full((SIZE, SIZE, 3), 128, np.uint8)
    if stripes:
        pixels[:, ::2], pixels[:, 1::2] = 40, 216
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Fakes with stripes of a known generator, without of an unknown one, and one of each more.

    The last, without a label, is in no comparison and is not even read again.
    """
    folder = tmp_path_factory.mktemp("pictures")
    striped, smooth = picture(folder / "s.png", True), picture(folder / "g.png", False)
    return Manifest(
        [
            *(Sample(smooth, 0), Sample(smooth, 0), Sample(smooth, 0)),
            *(Sample(striped, 1, "kA"), Sample(striped, 1, "kA")),
            *(Sample(smooth, 1, "uB"), Sample(striped, 1, "")),
            Sample(striped),
        ],
        "pictures",
    )


@pytest.fixture(scope="module")
def scores(manifest: Manifest) -> Scores:
    return score_images(STRIPES, manifest, batch_size=4, progress=False)


def measured(
    manifest: Manifest, scores: Scores, names: Sequence[str] = ROBUSTNESS
) -> list[PerturbedAUC]:
    arguments: dict[str, Any] = {"batch_size": 4, "progress": False}
    return measure(Accelerator(cpu=True), STRIPES, manifest, scores, names, **arguments)


@pytest.fixture(scope="module")
def results(manifest: Manifest, scores: Scores) -> list[PerturbedAUC]:
    return measured(Manifest([*manifest[:7], Sample("/lost.png")]), scores)


def test_aucs_are_those_told_in_advance(results: list[PerturbedAUC]) -> None:
    assert [r.generator for r in results[:5]] == ["kA", MEAN, "", "uB", MEAN]
    assert [(r.perturbation, r.strength) for r in results[::5]] == [
        (name, strength) for name in ROBUSTNESS for strength in STRENGTHS[name]
    ]
    of = {(r.perturbation, r.strength, r.generator): r for r in results}
    for name, strength, auc in [
        ("blur", 1, 0.5),  # a Gaussian of 1 pixel leaves 0.7 % of stripes of one pixel
        ("resize", 0.5, 0.5),
        ("jpeg", 95, 1.0),
        ("noise", 32, 1.0),
    ]:
        row = of[name, strength, "kA"]
        assert (row.test_set, row.n_real, row.n_synthetic) == ("closed", 3, 2)
        assert (row.auc_clean, row.auc, row.auc_change) == (1.0, auc, auc - 1.0)
        assert row.auc_kept == (0.0 if auc == 0.5 else 1.0)
    unknown = of["blur", 4, "uB"]
    assert (unknown.test_set, unknown.auc_clean, unknown.auc) == ("open", 0.5, 0.5)
    assert (unknown.auc_change, unknown.auc_kept) == (0.0, None), "nothing above chance can be kept"


def test_intervals_are_delongs_of_groups_and_paired(manifest: Manifest, scores: Scores) -> None:
    """Two images of one person are one sample: their intervals are those of one image each."""
    labels = [0] * 8 + [1] * 8
    samples = [replace(manifest[3], label=n, generator="uB" if n else "") for n in labels]
    columns = {name: np.resize(column, 16) for name, column in scores.columns().items()}
    clean = np.repeat(np.random.default_rng(0).random(8), 2)
    columns |= {"label": labels, "generator": [s.generator for s in samples], "score": clean}
    columns |= {"group": [f"p{n // 2}" for n in range(16)], "test_set": [""] * 16}
    changed = measured(Manifest(samples), Scores(**columns))[0]
    units = np.arange(4), 4 + np.arange(4)
    alike = (np.full(4, 0.7), np.full(4, 0.7), *units)  # as the pictures are
    change = mean_auc_difference([alike], [(clean[:8:2], clean[8::2], *units)])
    assert (changed.auc_low, changed.auc_high) == pytest.approx(mean_auc_interval([alike]))
    assert change is not None
    assert (changed.change_low, changed.change_high) == pytest.approx((change.low, change.high))


def test_a_classifier_of_the_format_is_found_out(tmp_path: Path) -> None:
    """Stripes in colour alone are what a JPEG cannot hold, those in brightness it can."""
    smooth, striped = picture(tmp_path / "s.png", False), picture(tmp_path / "g.png", True)
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[:, ::2, 0], pixels[:, 1::2, 2] = 97, 255  # of the same brightness, 29
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    coloured = str(tmp_path / "colour.png")
    manifest = Manifest(
        [Sample(smooth, 0)] * 3 + [Sample(striped, 1, "uA")] * 3 + [Sample(coloured, 1, "uB")] * 2
    )
    scores = score_images(STRIPES, manifest, batch_size=4, progress=False)
    changed = measured(manifest, scores, ["equalise"])
    assert [(r.generator, r.n_real, r.n_synthetic, r.auc, r.auc_change) for r in changed] == [
        ("uA", 3, 3, 1.0, 0.0),
        ("uB", 3, 2, 0.5, -0.5),
        (MEAN, 3, 5, 0.75, -0.25),
    ]
    unit = np.arange(8)
    groups = [slice(3, 6), slice(6, 8)]
    kept, lost = np.repeat([0.0, 1.0], [3, 5]), np.repeat([0.0, 1.0, 0.0], 3)[:8]
    after, before = (
        [(score[:3], score[fake], unit[:3], unit[fake]) for fake in groups]
        for score in (lost, kept)
    )
    change = mean_auc_difference(after, before)
    assert change is not None
    assert (changed[2].change_low, changed[2].change_high) == pytest.approx(
        (change.low, change.high)
    )
    *_, mean = lines(changed)
    assert mean == (
        "AUC, open, equalise (quality): clean 1.000; 0.750 at 75, change -0.250 "
        f"(95 % interval {change.low:+.3f} to {change.high:+.3f})"
    )


def test_a_generator_without_reals_has_empty_cells(
    manifest: Manifest, scores: Scores, tmp_path: Path
) -> None:
    fakes = scores.select([3, 4])
    changed = measured(Manifest(manifest[3:5]), fakes)
    write(changed, tmp_path)
    rows = (tmp_path / "robustness.csv").read_text().splitlines()[1:3]
    assert rows == [
        "jpeg,95,quality,closed,kA,0,2,,,,,,,,",
        "jpeg,95,quality,closed,(mean),0,0" + 8 * ",",
    ]
    assert lines(changed) == []


def test_the_file_and_that_it_is_read_back(results: list[PerturbedAUC], tmp_path: Path) -> None:
    odd = [replace(results[0], generator='a, "b"\udcff', n_real=0, auc=None, auc_low=None)]
    path = write([*results, *odd], tmp_path)
    rows = list(csv.DictReader(path.read_text(errors="surrogateescape").splitlines()))
    blurred = next(r for r in rows if (r["perturbation"], r["generator"]) == ("blur", "kA"))
    cells = ",".join(list(blurred.values())[:8])
    assert cells == "blur,0.5,sigma in pixels,closed,kA,3,2,1"
    rows = read(path)
    for got, expected in zip(rows, [*results, *odd], strict=True):
        for field in fields(PerturbedAUC):
            wanted = getattr(expected, field.name)
            wanted = pytest.approx(wanted, rel=1e-5) if isinstance(wanted, float) else wanted
            assert getattr(got, field.name) == wanted, field.name
    text = path.read_text(errors="surrogateescape")
    for old, new in (("kA,3", "kA,three"), ("auc_kept", "kept")):
        path.write_text(text.replace(old, new, 1), errors="surrogateescape")
        with pytest.raises(InputError, match="evaluate with --robustness again"):
            read(path)
