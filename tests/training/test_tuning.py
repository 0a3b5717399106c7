"""What is trained and what is frozen: weights, gradients, running statistics."""

from pathlib import Path

import pytest
import torch
from torch import nn

from focus.config.recipes import Tune
from focus.errors import InputError
from focus.model.detector import Detector
from focus.training.tuning import freeze

from .trainers import few_faces, trainer


@pytest.mark.parametrize("tune", ["full", "norm", "head"])
@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_only_what_is_tuned_changes(tmp_path: Path, model: str, tune: Tune) -> None:
    given = {"model": model, "tune": tune, "epochs": 1, "lr": 0.1}
    run = trainer(few_faces(tmp_path), tmp_path, **given)
    before = {name: value.clone() for name, value in run.detector.state_dict().items()}
    run.fit()
    changed = {
        name for name, value in run.detector.state_dict().items() if not value.equal(before[name])
    }
    norms = {
        f"{name}.{key}"
        for name, module in run.detector.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
        for key in module.state_dict()
    }
    head = {"head.fc.weight", "head.fc.bias"}
    if tune == "full":
        assert changed > norms | head
    else:
        assert changed == head | (norms if tune == "norm" else set())


def test_the_frozen_stay_in_evaluation_mode() -> None:
    detector = Detector("test_resnet", image_size=64)
    freeze(detector, "head")
    detector.train()
    assert not any(module.training for module in detector.backbone.modules())
    assert detector.head.training
    detector = Detector("test_resnet", image_size=64)
    freeze(detector, "norm")
    detector.train()
    assert detector.backbone.bn1.training
    assert not detector.backbone.conv1[0].training


def test_no_gradient_reaches_the_frozen() -> None:
    detector = Detector("test_vit", image_size=160)
    freeze(detector, "head")
    features = detector.features(torch.zeros(1, 3, 160, 160))
    assert not features.requires_grad


def test_norm_needs_a_normalisation_layer() -> None:
    with pytest.raises(InputError, match=r"test_nfnet has no normalisation layers"):
        freeze(Detector("test_nfnet", image_size=96), "norm")
