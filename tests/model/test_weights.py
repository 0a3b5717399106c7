"""Weights from elsewhere: published files give their network's features, others are refused."""

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from focus.errors import InputError
from focus.model.detector import Detector
from focus.model.weights import read_weights

from .detectors import assert_one_sentence, small_detector


def torchvision_network(name: str) -> nn.Module:
    """Make a network with norms as training leaves them: not all alike, nor 0 and 1."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Inception, about its initialisation
        network = torchvision.models.get_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                nn.init.uniform_(tensor, low, high)
    return network.eval()


def pooled_features(network: nn.Module, name: str, images: Tensor) -> Tensor:
    """Return what torchvision's network pools."""
    if name.startswith("resnet"):
        parts = [part for n, part in network.named_children() if n not in ("avgpool", "fc")]
        return nn.Sequential(*parts)(images)
    if name == "inception_v3":
        seen: list[Tensor] = []
        network.Mixed_7c.register_forward_hook(lambda *call: seen.append(call[2]))
        network(images)
        return seen[0]
    features: Tensor = functional.relu(network.features(images))
    return features


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as torchvision's files of DenseNets do; torch counted no batches then."""
    old_state = {}
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            for name in ("norm1", "norm2", "conv1", "conv2"):
                if "denselayer" in key:
                    key = key.replace(f".{name}.", f".{name[:-1]}.{name[-1]}.")
            old_state[key] = value
    return old_state


@pytest.mark.parametrize(
    ("name", "model", "size"),
    [
        ("resnet18", "resnet18", 64),
        pytest.param("resnet50", "resnet50.tv_in1k", 64, marks=pytest.mark.slow),
        pytest.param("densenet121", "densenet121.tv_in1k", 64, marks=pytest.mark.slow),
        pytest.param("inception_v3", "inception_v3.tv_in1k", 139, marks=pytest.mark.slow),
    ],
)
def test_torchvisions_files_give_its_features(
    name: str, model: str, size: int, tmp_path: Path
) -> None:
    network, path = torchvision_network(name), tmp_path / "weights.pth"
    torch.save(old_names(dict(network.state_dict())), path)
    detector = Detector(model, image_size=size, initial_checkpoint=path).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = pooled_features(network, name, images)
        features = detector.features(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(
        features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def save_ddp(state: dict[str, Any], path: Path) -> None:
    torch.save({"epoch": 3, "model": {f"module.{k}": v for k, v in state.items()}}, path)


@pytest.mark.parametrize(
    ("file", "save"),
    [("w.safetensors", safetensors.torch.save_file), ("w.pth", torch.save), ("w.ckpt", save_ddp)],
)
def test_a_file_of_the_network_with_other_classes(
    file: str, save: Callable[[dict[str, Any], Path], Any], tmp_path: Path
) -> None:
    published = timm.create_model("test_resnet", num_classes=7)
    state = published.state_dict()
    save(state, tmp_path / file)
    detector = Detector("test_resnet", image_size=64, initial_checkpoint=tmp_path / file)
    for key, tensor in detector.backbone.state_dict().items():
        assert tensor.equal(state[key]), key
    assert detector.head.fc.weight.shape == (2, published.num_features)


def test_a_norm_after_pooling_keeps_its_weights(tmp_path: Path) -> None:
    """Published EVA and BEiT weights have `fc_norm`: no other norm may take its place."""
    name, path = "eva02_tiny_patch14_224", tmp_path / "eva.safetensors"
    full = timm.create_model(name, img_size=42).eval()
    nn.init.uniform_(full.fc_norm.weight)
    safetensors.torch.save_file(full.state_dict(), path)
    detector = Detector(name, image_size=42, initial_checkpoint=path).eval()
    x = torch.randn(2, 3, 42, 42)
    with torch.no_grad():
        tokens = full.fc_norm(full.forward_features(x))[:, 1:]
        torch.testing.assert_close(detector.features(x).flatten(2).transpose(1, 2), tokens)


def test_positions_of_another_image_size_are_resampled_as_timm_does(tmp_path: Path) -> None:
    model = "test_vit"
    torch.manual_seed(0)
    published = timm.create_model(model, img_size=64)
    path, whole = tmp_path / "w.safetensors", tmp_path / "detector.safetensors"
    safetensors.torch.save_file(published.state_dict(), path)
    expected = timm.create_model(
        model, img_size=160, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ).state_dict()
    at_64 = Detector(model, image_size=64, initial_checkpoint=path)
    safetensors.torch.save_file(at_64.state_dict(), whole)
    for file in (path, whole):
        state = Detector(model, image_size=160, initial_checkpoint=file).backbone.state_dict()
        assert any(expected[k].shape != v.shape for k, v in published.state_dict().items())
        for key, value in state.items():
            assert value.equal(expected[key]), key


def test_a_detector_to_begin_with_brings_what_it_was_trained_on(tmp_path: Path) -> None:
    before = small_detector()
    before.config = before.config.after(["kC"], {"kC": "GAN"}, ["whole"])
    before.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    again = Detector(image_size=32, initial_checkpoint=path, training_generators=["new"])
    for key, tensor in again.state_dict().items():
        assert tensor.equal(before.state_dict()[key]), key
    assert again.config.training_generators == ("kA", "kB", "kC", "new")
    assert (again.config.training_families, again.config.geometry) == ({"kC": "GAN"}, ("whole",))


def test_mean_and_std_are_those_of_a_config_of_timm_beside_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), path)
    config = {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "test_vit"}))
    with pytest.raises(InputError, match="is of 'test_vit', not of 'test_resnet': put back the f"):
        Detector("test_resnet", image_size=64, initial_checkpoint=path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    detector = Detector("test_resnet", image_size=64, initial_checkpoint=path)
    assert detector.mean == (0.1, 0.2, 0.3)
    assert detector.std == timm.get_pretrained_cfg("test_resnet").std


@pytest.mark.parametrize(
    ("model", "other", "words"),
    [
        # A ResNet-34 holds every weight that a ResNet-18 has, and in the same shapes.
        ("resnet18", "resnet34", "has no 'layer1.2.conv1.weight': give a checkpoint of this"),
        ("resnet34", "resnet18", "are missing, as 'layer1.2.conv1.weight'"),
        ("test_resnet", "test_resnet.prefix", "and it has 'net.conv1.0.weight'"),
        ("test_resnet", "test_resnet.inner", "and it has 'nothing'"),
        ("test_resnet", "test_resnet.shape", r"conv1.0.weight should be \[16, 3, 3, 3\], got \[1,"),
    ],
)
def test_a_file_of_another_network_is_refused(
    model: str, other: str, words: str, tmp_path: Path
) -> None:
    """Else training would begin with weights that are partly random."""
    other, _, change = other.partition(".")
    state: dict[str, Any] = timm.create_model(other).state_dict()
    if change == "prefix":
        state = {f"net.{key}": value for key, value in state.items()}
    elif change == "inner":
        state = {"model_state_dict": state, "epoch": 3}
    elif change == "shape":
        state["conv1.0.weight"] = torch.zeros(1, 3, 3, 3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=words) as caught:
        Detector(model, image_size=96, initial_checkpoint=tmp_path / "w.pth")
    assert_one_sentence(caught.value)


class Planted:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("file", ["a.pth", "raw.pth", "a.safetensors"])
def test_a_pickle_with_code_is_refused_and_does_not_run(file: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / file
    planted = {"fc": Planted(trace)}
    if file.startswith("raw"):
        path.write_bytes(pickle.dumps(planted, protocol=2))
    else:
        torch.save(planted, path)
    model = tmp_path / "model"
    Detector(image_size=32).save_pretrained(model)
    (model / "model.safetensors").write_bytes(path.read_bytes())
    for load in (
        lambda: read_weights(path),
        lambda: Detector(image_size=32, initial_checkpoint=path),
        lambda: Detector.from_pretrained(model),
    ):
        with pytest.raises(InputError, match="could not be read as weights") as caught:
            load()
        assert_one_sentence(caught.value)
        assert "weights_only=False" not in str(caught.value), "which torch's message recommends"
    assert not trace.exists()
    pickle.loads(pickle.dumps(planted))
    assert trace.exists(), "the plant works"


def test_what_holds_no_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"There are no weights .*: put the file there"):
        read_weights(tmp_path / "nowhere.pth")
    assert caplog.messages == []  # as timm's, before ours
    safe = safetensors.torch.save({"a": torch.arange(100.0)})
    for name, content in (
        ("a.safetensors", b""),
        ("b.safetensors", safe[:-10]),
        ("c.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("d.pth", b"not weights\nat all"),
        ("e.pth", b""),
        ("f.pth", pickle.dumps([1, 2])),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} could not be read as weights") as caught:
            read_weights(tmp_path / name)
        assert_one_sentence(caught.value)
