"""What is trained and what is frozen: weights, gradients, running statistics."""

import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from focus.config.recipes import Tune
from focus.errors import InputError
from focus.model.detector import Detector
from focus.training.tuning import checkpoint_gradients, freeze, merged

from .trainers import few_faces, trainer

LAST_STAGE = {
    "test_resnet": ("backbone.layer4.",),
    "test_efficientnet": ("backbone.blocks.4.", "backbone.conv_head.", "backbone.bn2."),
}
"""How the names of the weights of the last stage begin."""


@pytest.mark.parametrize(
    ("model", "tune"),
    [
        ("test_resnet", "full"),
        ("test_resnet", "norm"),
        ("test_resnet", "last-stage"),
        ("test_efficientnet", "last-stage"),
        ("test_vit", "head"),
        ("test_vit", "lora"),
    ],
)
def test_only_what_is_tuned_changes(tmp_path: Path, model: str, tune: Tune) -> None:
    settings = {"model": model, "tune": tune, "cached_features": "no", "epochs": 1, "lr": 0.1}
    run = trainer(few_faces(tmp_path), tmp_path, **settings)
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
    elif tune == "last-stage":
        last = LAST_STAGE[model]
        assert changed == head | {name for name in before if name.startswith(last)}
    else:
        adapters = {name for name in before if "lora" in name}
        assert len(adapters) == (48 if tune == "lora" else 0)
        assert changed == head | adapters | (norms if tune == "norm" else set())


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


def test_adapters_are_merged_into_the_kept_model(tmp_path: Path) -> None:
    settings = {"model": "test_vit", "tune": "lora", "epochs": 1, "lr": 0.1, "model_ema_decay": 0.5}
    run = trainer(few_faces(tmp_path), tmp_path, **settings)
    images, plain = torch.rand(3, 3, 64, 64), Detector("test_vit", image_size=64).state_dict()
    before = run.detector.predict_batch(images)
    run.fit()
    kept = Detector.from_pretrained(run.folder / "model")
    assert kept.state_dict().keys() == plain.keys()
    predicted, expected = kept.predict_batch(images), run.kept.predict_batch(images)
    torch.testing.assert_close(predicted.cams, expected.cams, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(predicted.cams, before.cams, rtol=1e-2)
    assert merged(kept) is kept


def test_layers_whose_weights_alone_are_used_get_no_adapter() -> None:
    """EVA multiplies by those of some layers itself, where an adapter would do nothing."""
    detector = Detector("eva02_tiny_patch14_224", image_size=56, loss="ce")
    freeze(detector, "lora")
    detector(torch.rand(1, 3, 56, 56), torch.tensor([1])).loss.backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


def noted(sizes: list[int], tensor: torch.Tensor) -> torch.Tensor:
    sizes.append(tensor.numel())
    return tensor


def test_gradients_from_features_that_are_computed_again() -> None:
    detector, images = Detector("test_vit", image_size=64, loss="ce"), torch.rand(2, 3, 64, 64)
    kept: list[list[int]] = []
    gradients = []
    for again in (False, True):
        if again:
            checkpoint_gradients(detector)
        kept.append([])
        detector.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(partial(noted, kept[-1]), lambda x: x):
            loss = detector(images, torch.tensor([0, 1])).loss
        loss.backward()
        gradients.append([p.grad.clone() for p in detector.parameters()])
    assert all(one.equal(other) for one, other in zip(*gradients, strict=True))
    assert sum(kept[1]) < sum(kept[0]) / 2


def test_the_foundation_recipe_trains_a_head_on_a_file_of_weights(tmp_path: Path) -> None:
    network = timm.create_model("test_vit3")
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    save_file(weights, file := tmp_path / "model.safetensors")
    settings = {"recipe": "foundation", "model": "test_vit3", "initial_checkpoint": str(file)}
    settings |= {"image_size": None, "epochs": 2, "opt": "adamw", "lr": 1e-3}
    run = trainer(few_faces(tmp_path), tmp_path, **settings)
    run.fit()
    kept = Detector.from_pretrained(run.folder / "model")
    assert kept.image_size == 160
    backbone = kept.backbone.state_dict()
    assert all(value.equal(weights[name]) for name, value in backbone.items())


def test_what_a_network_lacks_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"test_nfnet has no normalisation layers"):
        freeze(Detector("test_nfnet", image_size=96), "norm")
    with pytest.raises(InputError, match=r"test_resnet has no linear layers"):
        freeze(Detector("test_resnet", image_size=64), "lora")
    with pytest.raises(InputError, match=r"--grad-checkpointing: focus_small has none"):
        checkpoint_gradients(Detector())
    with pytest.raises(InputError, match=r"not say which the stages of focus_small are .*: give"):
        freeze(Detector(), "last-stage")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"needs peft: pip install 'focus-faces\[lora\]'"):
        freeze(Detector("test_vit", image_size=64), "lora")
