"""The loss that holds the range or the shape of the CAM."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.modules import module as torch_module

from focus.experiment.held import deviation, entropy_z, hold
from focus.metrics.cams import z_entropy
from focus.model.head import FocusHead

from ..launching import write_faces

AIMS = {"range": 3.0, "entropy_z": 0.7}


def images(draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [5,7,3,4], a classifier [2,7] and targets [5], float64."""
    features, weight = (torch.tensor(draw.normal(size=s)) for s in ((5, 7, 3, 4), (2, 7)))
    return features.requires_grad_(), weight.requires_grad_(), torch.tensor([0, 1, 1, 0, 1])


def by_hand(
    figure: str, features: NDArray[np.float64], weight: NDArray[np.float64], target: list[int]
) -> float:
    """The mean share of the aim by which CAMs miss it, one image and one cell after the other."""
    shares = []
    for image, label in zip(features, target, strict=True):
        cells = [
            sum(weight[label][c] * image[c, y, x] for c in range(len(image)))
            for y in range(image.shape[1])
            for x in range(image.shape[2])
        ]
        if figure == "range":
            value = max(cells) - min(cells)
        else:
            mean = sum(cells) / len(cells)
            deviation = math.sqrt(sum((z - mean) ** 2 for z in cells) / len(cells))
            weights = [math.exp((z - mean) / deviation) for z in cells]
            p = [w / sum(weights) for w in weights]
            value = -sum(q * math.log(q) for q in p) / math.log(len(cells))
        shares.append(abs(value - AIMS[figure]) / AIMS[figure])
    return float(np.mean(shares))


@pytest.mark.parametrize("figure", AIMS)
def test_the_deviation_is_that_by_hand_and_has_its_gradient(figure: str) -> None:
    features, weight, target = images(np.random.default_rng(0))
    expected = by_hand(figure, features.detach().numpy(), weight.detach().numpy(), target.tolist())
    mean_share = deviation(features, weight, target, figure, AIMS[figure])
    assert mean_share.item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(
        lambda f, w: deviation(f, w, target, figure, AIMS[figure]), (features, weight)
    )


def test_the_shape_is_the_figure_that_is_reported() -> None:
    cams = np.random.default_rng(1).normal(size=(6, 8, 8))
    entropies = entropy_z(torch.tensor(cams).flatten(1))
    np.testing.assert_allclose(entropies, z_entropy(cams), rtol=1e-12)
    scaled = entropy_z(torch.tensor(40 * cams + 3).flatten(1))
    np.testing.assert_allclose(scaled, entropies, rtol=1e-12)


@pytest.mark.parametrize("figure", AIMS)
def test_it_comes_on_top_of_the_loss_of_training_alone(figure: str) -> None:
    features, _, target = images(np.random.default_rng(2))
    head = FocusHead(7, 2, "blend").double()
    plain = head(features, target).loss
    before = dict(torch_module._global_forward_hooks)
    hold(figure, AIMS[figure])
    try:
        held = head(features, target).loss
        assert plain is not None
        assert held is not None
        added = deviation(features, head.fc.weight, target, figure, AIMS[figure])
        assert (held - plain).item() == pytest.approx(added.item(), rel=1e-12)
        assert added.item() > 0.01
        assert head(features).loss is None
    finally:
        torch_module._global_forward_hooks.clear()
        torch_module._global_forward_hooks.update(before)


@pytest.mark.slow
def test_a_run_with_a_held_range_keeps_it_near_its_aim(tmp_path: Path) -> None:
    write_faces(tmp_path / "faces", 24)
    ranges = {}
    for aim in ("2", "8"):
        program = [sys.executable, "-P", "-m", "focus.experiment.held", "range", aim]
        flags = ["--data", str(tmp_path / "faces"), "--recipe", "demo", "--epochs", "4"]
        flags += ["--loss", "focus", "--output", str(tmp_path), "--name", aim, "--report", "false"]
        subprocess.run([*program, *flags], check=True, capture_output=True, timeout=120)
        lines = (tmp_path / aim / "summary.csv").read_text().splitlines()
        last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
        ranges[aim] = float(last["eval_cam_range"])
    assert ranges["2"] < ranges["8"] / 2
