"""Weights from elsewhere: torchvision's networks give the same features, others are refused."""

import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from focus.errors import InputError
from focus.model.detector import Detector
from focus.model.weights import _TORCHVISION, read_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def of_torchvision(name: str) -> nn.Module:
    """Random weights, with norms as training leaves them: not all alike, nor 0 and 1."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Inception, about its initialisation
        network = torchvision.models.get_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def seen_by_the_classifier(network: nn.Module, name: str, images: Tensor) -> Tensor:
    """What torchvision's network pools; of a ConvNeXt with the norm that we have before pooling."""
    if name.startswith("resnet"):
        parts = [part for n, part in network.named_children() if n not in ("avgpool", "fc")]
        return nn.Sequential(*parts)(images)
    if name == "inception_v3":
        seen: list[Tensor] = []
        hook = network.Mixed_7c.register_forward_hook(lambda *call: seen.append(call[2]))
        network(images)
        hook.remove()
        return seen[0]
    features: Tensor = network.features(images)
    if name.startswith("densenet"):
        return functional.relu(features)
    return network.classifier[0](features) if name.startswith("convnext") else features


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torchvision's files of DenseNets name them; and torch counted no batches then."""
    found = {}
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            for name in ("norm1", "norm2", "conv1", "conv2"):
                if "denselayer" in key:
                    key = key.replace(f".{name}.", f".{name[:-1]}.{name[-1]}.")
            found[key] = value
    return found


def same(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model", "size", "change", "suffix"),
    [
        ("resnet50", "resnet50", 96, same, ".pth"),
        ("resnet50", "resnet50.tv_in1k", 96, as_published, ".pth"),
        ("densenet121", "densenet121", 96, same, ".safetensors"),
        ("densenet121", "densenet121.tv_in1k", 96, as_published, ".pth"),
        ("inception_v3", "inception_v3.tv_in1k", 139, same, ".pth"),
        ("convnext_tiny", "convnext_tiny", 96, same, ".safetensors"),
        ("efficientnet_b0", "efficientnet_b0", 96, same, ".safetensors"),
        ("mobilenet_v2", "mobilenetv2_100", 96, same, ".safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_torchvisions_weights_give_its_features(
    name: str,
    model: str,
    size: int,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    suffix: str,
    tmp_path: Path,
) -> None:
    network = of_torchvision(name)
    state, path = change(dict(network.state_dict())), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)  # which puts them in another order
    detector = Detector(model, image_size=size, initial_checkpoint=path).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = seen_by_the_classifier(network, name, images)
        features = detector.features(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(
        features, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", _TORCHVISION)
def test_the_two_libraries_have_the_same_modules_in_the_same_order(model: str) -> None:
    """Their names are paired by it; shapes tell if one of them is moved."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(_TORCHVISION[model]).state_dict()
        ours = timm.create_model(model).state_dict()
    assert len(ours) == len(theirs)
    for (key, one), (name, other) in zip(ours.items(), theirs.items(), strict=True):
        assert one.squeeze().shape == other.squeeze().shape, (key, name)
        assert key.rpartition(".")[2] in (name.rpartition(".")[2], "gamma"), (key, name)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_wrapped_checkpoint_of_several_gpus(wrapper: str, tmp_path: Path) -> None:
    network = of_torchvision("resnet18")
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, wrapper: state, "optimizer": {}}, tmp_path / "last.pth")
    detector = Detector("resnet18", initial_checkpoint=tmp_path / "last.pth").eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = seen_by_the_classifier(network, "resnet18", images)
        torch.testing.assert_close(detector.features(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ({"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}, 0.5, None),
        ({"pretrained_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}}, 0.0, 1.0),
        ({"architecture": "resnet18", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, 0.5, 0.5),
        ({"architecture": "resnet18", "pretrained_cfg": {}}, None, None),
        ({"mean": [0.5, 0.5, 0.5]}, None, None),  # of something else
        (["architecture"], None, None),
    ],
)
def test_mean_and_std_are_those_of_a_config_of_timm_beside_the_weights(
    values: object, mean: float | None, std: float | None, tmp_path: Path
) -> None:
    state = of_torchvision("resnet18").state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(values))
    path = tmp_path / "model.safetensors"
    detector = Detector("resnet18", image_size=96, initial_checkpoint=path)
    plain = timm.get_pretrained_cfg("resnet18")
    assert detector.mean == (plain.mean if mean is None else (mean,) * 3)
    assert detector.std == (plain.std if std is None else (std,) * 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": [0.5]}, r"mean in .*config\.json takes a list of 3 numbers, got \[0\.5\]\.$"),
        ({"std": [0.5, 0.5, 0]}, r"config\.json cannot be used: std is .* above 0\.$"),
    ],
)
def test_a_config_of_timm_that_cannot_be_used(
    given: dict[str, object], words: str, tmp_path: Path
) -> None:
    safetensors.torch.save_file(
        of_torchvision("resnet18").state_dict(), tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": given}))
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match=words):
        Detector("resnet18", image_size=96, initial_checkpoint=path)


def refusal(model: str, state: object, path: Path) -> str:
    torch.save(state, path)
    with pytest.raises(InputError) as caught:
        Detector(model, image_size=96, initial_checkpoint=path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")
    assert ". " not in text.replace(str(path), "")
    return text


def weights_only_in(state: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [k for k in state if k not in other and not k.endswith("num_batches_tracked")]


@pytest.mark.parametrize("other", ["resnet34", "seresnet18"])
def test_a_larger_network_of_the_family_is_refused(other: str, tmp_path: Path) -> None:
    """It holds every weight that a ResNet-18 has, and in the same shapes."""
    state = timm.create_model(other).state_dict()
    own = timm.create_model("resnet18").state_dict()
    assert all(state[key].shape == own[key].shape for key in own)
    text = refusal("resnet18", state, tmp_path / "w.pth")
    more = weights_only_in(state, own)
    assert f"{len(more)} are not this network's, the first is {more[0]};" in text


def test_a_smaller_network_is_refused(tmp_path: Path) -> None:
    state, own = (timm.create_model(name).state_dict() for name in ("resnet18", "resnet34"))
    text = refusal("resnet34", state, tmp_path / "w.pth")
    lacking = weights_only_in(own, state)
    assert f"{len(lacking)} are missing, the first is layer1.2.conv1.weight;" in text


@pytest.mark.parametrize("name", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_read_first(name: str, tmp_path: Path) -> None:
    states = {
        key: {"a.weight": torch.full((2,), value)} for key, value in ((name, 2), ("model", 1))
    }
    torch.save(states, tmp_path / "last.pth.tar")
    assert read_weights(tmp_path / "last.pth.tar")["a.weight"].tolist() == [2, 2]


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    state = of_torchvision("mobilenet_v2").state_dict()
    assert "are missing, the first is stem.0.weight" in refusal(
        "convnext_tiny", state, tmp_path / "w.pth"
    )
    state = of_torchvision("efficientnet_b0").state_dict()
    state["features.0.0.weight"] = torch.zeros(7, 3, 3, 3)
    text = refusal("efficientnet_b0", state, tmp_path / "w.pth")
    assert "backbone.conv_stem.weight should be [32, 3, 3, 3], got [7, 3, 3, 3]" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.to_sparse(), "has a torch.sparse_coo tensor; save the network's state_dict()"),
        (lambda w: w.to("meta"), "has no values; save the network's state_dict()"),
        (lambda w: w * float("nan"), "has numbers that are not finite; give another"),
        (lambda w: w.double() * 1e300, "has numbers that are not finite; give another"),
        (lambda w: w.to(torch.complex64), "should hold torch.float32, got torch.complex64; give a"),
    ],
    ids=["sparse", "meta", "NaN", "too large for float32", "complex"],
)
def test_a_weight_without_finite_numbers_is_refused(
    change: Callable[[torch.Tensor], torch.Tensor], words: str, tmp_path: Path
) -> None:
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.0.weight"] = change(state["conv1.0.weight"])
    text = refusal("test_resnet", state, tmp_path / "w.pth")
    assert f"does not fit test_resnet: backbone.conv1.0.weight {words}" in text


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "model._orig_mod."])
def test_the_prefix_of_a_wrapper_is_named(prefix: str, tmp_path: Path) -> None:
    own = timm.create_model("test_resnet").state_dict()
    state = {prefix + key: value for key, value in own.items()} | {"criterion.w": torch.ones(2)}
    text = refusal("test_resnet", {"state_dict": state, "epoch": 1}, tmp_path / "w.ckpt")
    assert "the first is conv1.0.weight; all of the network's are there with " in text
    assert text.endswith(f"with {prefix!r} before their names: save them without it.")


def test_a_prefix_of_some_weights_is_not_to_blame(tmp_path: Path) -> None:
    state = {f"net.{key}": w for key, w in timm.create_model("resnet18").state_dict().items()}
    text = refusal("resnet34", state, tmp_path / "w.pth")
    assert text.endswith("give a checkpoint of this network.")


@pytest.mark.parametrize("name", ["model_state_dict", "net"])
def test_weights_below_another_name_are_found_for_the_message(name: str, tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    optimizer = {"state": {}, "param_groups": []}
    saved = {"epoch": 1, name: state, "optimizer": optimizer, "loss": torch.tensor(0.5)}
    text = refusal("test_resnet", saved, tmp_path / "w.pth")
    assert text.endswith(f"w.pth has its weights under {name!r}: save what is there alone.")


class Planted:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.trace,)


def test_a_pickle_with_code_is_refused_and_named(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    text = refusal("resnet18", {"fc": Planted(trace)}, tmp_path / "w.pth")
    assert "a pickle of more than tensors (it names posix.mkdir), which" in text
    assert not trace.exists()
    # torch.load would have run it.
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert trace.exists()


def pickled(value: object) -> bytes:
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


TENSORS = {"a": torch.arange(100.0)}
SAFE = safetensors.torch.save(TENSORS)
NEITHER = "neither safetensors nor a pickle"
CUT = "cut off or damaged"


# torch takes the letters of a text for the opcodes of a pickle: h fetches what is stored.
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"hello", NEITHER),
        ("a.yaml", b"epochs: 3\n", NEITHER),
        ("a.json", b'{"version": 1}', NEITHER),
        ("a.pth", b"PKs are scored", NEITHER),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", NEITHER),
        ("a.safetensors", b"", "it is empty"),
        ("a.pth", b"", "it is empty"),
        ("a.safetensors", SAFE[:30], f"safetensors, {CUT}: SafetensorError: Error while"),
        ("a.safetensors", SAFE[:-10], f"safetensors, {CUT}: SafetensorError: Error while"),
        ("a.pth", pickled(TENSORS)[:500], f"a pickle or an archive, {CUT}, or of something else: "),
        ("a.pth", pickled([1, 2]), "it holds no tensors by their names"),
        ("a.pth", pickled({1: torch.zeros(3)}), "it holds no tensors by their names"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_file_without_weights_is(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (path := tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    text = str(caught.value)
    assert text.startswith(f"{path} could not be read as weights ({reason}")
    assert text.endswith(
        "): give an undamaged file of safetensors, or a checkpoint that holds tensors only."
    )
    assert ". " not in text.replace(str(path), "")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "a.pth",
            SAFE,
            "safetensors, and the name does not end in .safetensors): rename it to a name that "
            "ends in .safetensors.",
        ),
        (
            "a.safetensors",
            pickled(TENSORS),
            "a pickle or an archive, and the name ends in .safetensors): rename it to a name that "
            "ends in .pth.",
        ),
    ],
    ids=["safetensors", "pickle"],
)
def test_a_misnamed_file_is_to_be_renamed(
    name: str, content: bytes, text: str, tmp_path: Path
) -> None:
    (path := tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert str(caught.value) == f"{path} could not be read as weights ({text}"
    other = path.with_suffix(".pth" if path.suffix == ".safetensors" else ".safetensors")
    assert torch.equal(read_weights(path.rename(other))["a"], TENSORS["a"])


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (path := tmp_path / "w.pth").write_bytes(SAFE)
    monkeypatch.setattr("focus.model.weights.load_state_dict", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    refused = r"\(PermissionError: \[Errno 13\] Permission denied\): make the file readable\.$"
    with pytest.raises(InputError, match=refused):
        read_weights(path)
    # Of which safetensors says that there is none.
    path = path.rename(tmp_path / "w.safetensors")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=refused):
        read_weights(path, "the file is damaged, copy it again")


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path} is a folder, .*: give the file in it.$"):
        read_weights(tmp_path)


def test_a_whole_network_is_refused(tmp_path: Path) -> None:
    text = refusal("resnet18", timm.create_model("resnet18"), tmp_path / "w.pth")
    assert "save the network's state_dict() alone" in text
    assert "weights_only=False" not in text  # which torch's own message recommends


# Absolute positions, and tables of relative ones.
@pytest.mark.slow
@pytest.mark.parametrize("model", ["test_vit", "swin_tiny_patch4_window7_224", "test_vit.whole"])
def test_weights_of_another_image_size_are_resampled_as_timm_does(
    model: str, tmp_path: Path
) -> None:
    model, _, whole = model.partition(".")
    torch.manual_seed(0)
    published = timm.create_model(model, img_size=64)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(published.state_dict(), path)
    expected = timm.create_model(
        model, img_size=160, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ).state_dict()
    if whole:  # a detector's own file
        at_64 = Detector(model, image_size=64, initial_checkpoint=path)
        safetensors.torch.save_file(at_64.state_dict(), path)
    detector = Detector(model, image_size=160, initial_checkpoint=path)
    found = detector.backbone.state_dict()
    at_64 = published.state_dict()
    assert any(at_64[key].shape != value.shape for key, value in found.items())
    for key, value in found.items():
        assert value.equal(expected[key]), key


def test_a_network_with_two_classifiers_loads_without_them(tmp_path: Path) -> None:
    """One of them learns from a teacher."""
    name, path = "repvit_m0_9", tmp_path / "repvit.safetensors"
    given = timm.create_model(name).state_dict()
    safetensors.torch.save_file(given, path)
    found = Detector(name, image_size=64, initial_checkpoint=path).backbone.state_dict()
    assert found.keys() == {key for key in given if not key.startswith("head.")}
    for key, value in found.items():
        torch.testing.assert_close(value, given[key], rtol=0, atol=0)


def test_a_network_with_other_patches_is_refused(tmp_path: Path) -> None:
    """timm would resample them, too."""
    state = timm.create_model("vit_tiny_patch16_224", img_size=96, patch_size=8).state_dict()
    text = refusal("vit_tiny_patch16_224", state, tmp_path / "w.pth")
    assert "patch_embed.proj.weight should be [192, 3, 16, 16], got [192, 3, 8, 8]" in text
