"""The detector: features and head against timm, its scores, what it costs."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from focus.errors import InputError
from focus.kernels import class_activation
from focus.model.detector import Detector

from .detectors import assert_one_sentence, images, lifelike, small_detector

# Pixels a side that give a 3x3 map (12x12 in focus_small).
SIZES = {
    "densenet121": 96,
    "resnet50": 96,
    "inception_v3": 139,
    "legacy_xception": 96,
    "convnext_tiny": 96,
    "vit_small_patch16_224": 48,
    "swin_tiny_patch4_window7_224": 96,
    "focus_small": 96,
}
# timm's network with a classifier whose logits are ours. A published ViT classifies by its class
# token; a ConvNeXt normalises after pooling, except with `head_norm_first`.
TIMM_OPTIONS: dict[str, dict[str, Any]] = {
    "vit_small_patch16_224": {"img_size": 48, "global_pool": "avg", "fc_norm": False},
    "swin_tiny_patch4_window7_224": {"img_size": 96},
    "convnext_tiny": {"head_norm_first": True},
}
# Of focus_small from the seed 0.
STEM = [0.0654924, -0.0397826, 0.117111]
BLOCK = [0.0107975, -0.0212415, -0.1047132]
HEAD = [0.0169692, -0.034635, -0.0583151]
RENAMED = {"head.norm.": "norm_pre."}  # a ConvNeXt's last norm, with `head_norm_first`


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(
    scope="module", params=[slow(name) if name != "focus_small" else name for name in SIZES]
)
def detector(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(0)
    return lifelike(Detector(request.param, image_size=SIZES[request.param]))


@pytest.fixture(scope="module")
def small() -> Detector:
    return small_detector()


def test_logits_are_the_mean_of_the_cam_plus_bias(detector: Detector) -> None:
    exact = deepcopy(detector).double()
    x = images(2, detector.image_size, seed=2).double()
    fc = exact.head.fc
    with torch.no_grad():
        features = exact.features(x)
        assert features.abs().mean() > 1e-3
        assert features.shape[2:] == detector.grid
        _, cams, entropy = class_activation(features, fc.weight, fc.bias, range(2))
        mean = cams.mean((2, 3)) + fc.bias
        out, predicted = exact.head(features), mean.argmax(1)
        logits = exact(x)
        trained = exact(x, target := torch.tensor([1, 0]))
    for output_logits in (logits, out.logits, trained.logits):
        torch.testing.assert_close(output_logits, mean, rtol=1e-12, atol=1e-12)
    rows = torch.arange(2)
    torch.testing.assert_close(out.cam, cams[rows, predicted], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.entropy, entropy[rows, predicted], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trained.cam, cams[rows, target], rtol=1e-12, atol=1e-12)
    assert out.loss is None
    assert (out.cross_entropy, out.focus, out.saliency) == (None, None, None)
    assert trained.cross_entropy is trained.terms.classification


@pytest.mark.parametrize(
    "detector", [slow(name) for name in SIZES if name != "focus_small"], indirect=True
)
def test_logits_are_those_of_timms_own_network(detector: Detector) -> None:
    name = detector.config.model
    full = timm.create_model(name, num_classes=2, **TIMM_OPTIONS.get(name, {})).eval()
    state = dict(detector.backbone.state_dict())
    if name == "convnext_tiny":
        for ours, theirs in RENAMED.items():
            for key in [k for k in state if k.startswith(ours)]:
                state[key.replace(ours, theirs)] = state.pop(key)
    classifier = full.get_classifier()
    prefix = next(k for k, module in full.named_modules() if module is classifier)
    state |= {f"{prefix}.{k}": v for k, v in detector.head.fc.state_dict().items()}
    full.load_state_dict(state, strict=True)
    x = images(2, detector.image_size, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(detector(x), full(x), rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient(detector: Detector) -> None:
    """DistributedDataParallel needs it; and the loss reaches the first layer."""
    network = deepcopy(detector).train()
    out = network(images(2, detector.image_size, seed=5), torch.tensor([0, 1]))
    out.loss.backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == []
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    first = next(iter(network.backbone.parameters()))
    assert first.grad.abs().max() > 0


# What pooling sees, which in timm's DenseNet is a norm with its ReLU, and the classifier.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "classifier"),
    [("resnet50", "layer4", "fc"), ("densenet121", "features.norm5", "classifier")],
)
def test_cams_are_those_of_torch_cam(name: str, layer: str, classifier: str) -> None:
    """It hooks timm's own network with its pooling and classifier."""
    from torchcam.methods import CAM

    torch.manual_seed(0)
    ours = lifelike(Detector(name, image_size=128))
    nn.init.normal_(ours.head.fc.weight)
    network = timm.create_model(name, num_classes=2).eval()
    network.load_state_dict(ours.backbone.state_dict(), strict=False)
    network.get_submodule(classifier).load_state_dict(ours.head.fc.state_dict())
    x = images(3, 128)
    with torch.no_grad():
        _, cams, _ = ours.head.activations(ours.features(x))
    for index in (0, 1):
        expected = cams[:, index]
        scale = float(expected.abs().max())
        assert expected.min() < 0 < expected.max()
        with CAM(network, layer, classifier) as extract:
            with torch.no_grad():
                scores = network(x)
            (cam,) = extract(index, scores, normalized=False)
        torch.testing.assert_close(cam, expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.slow
def test_pytorch_grad_cam_takes_a_detector_as_it_is() -> None:
    """With the network as the layer it finds our CAM: cut at 0, stretched to [0, 1]."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    detector = lifelike(Detector("test_vit", image_size=64))
    x = images(3, 64)
    with torch.no_grad():
        cams = detector.head.activations(detector.features(x))[1].clamp(min=0).numpy()
    predicted = detector(x).argmax(1).tolist()
    with GradCAM(detector, [detector.backbone], detector.layout.features) as cam:
        # None: the predicted classes; else a class an image.
        for targets, classes in (
            (None, predicted),
            ([ClassifierOutputTarget(one) for one in (1, 0, 1)], [1, 0, 1]),
        ):
            expected = scale_cam_image(scale_cam_image(cams[range(3), classes], (64, 64)))
            assert expected.max() > 0.99
            np.testing.assert_allclose(cam(x, targets), expected, atol=1e-4)


# With a class token alone, and with four registers behind it.
@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 48), ("vit_small_patch14_reg4_dinov2", 42)]
)
def test_the_class_token_is_pooled_beside_the_mean(name: str, size: int) -> None:
    torch.manual_seed(0)
    detector = Detector(name, image_size=size, pool="both").eval()
    x = images(3, size)
    with torch.no_grad():
        tokens = detector.backbone.fc_norm(detector.backbone.forward_features(x))
        features, token = detector.encode(x)
        out, head = detector(x), detector.head
        assert head.fc_token is not None
        mean = tokens[:, detector.layout.prefix :].mean(1)
        logits = head.fc(mean) + head.fc_token(tokens[:, 0])
    assert token is not None
    assert torch.equal(token, tokens[:, 0])
    assert torch.equal(features, detector.features(x))
    torch.testing.assert_close(out, logits)
    prediction = detector.predict_batch(x)
    torch.testing.assert_close(prediction.score, logits.double().softmax(1)[:, 1])
    # All of it is trained: DistributedDataParallel needs that.
    detector.train()(x, torch.tensor([0, 1, 1])).loss.backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def test_a_head_of_both_is_saved_and_begun_with(tmp_path: Path) -> None:
    detector = Detector("test_vit", image_size=48, pool="both").eval()
    detector.save_pretrained(tmp_path)
    loaded = Detector.from_pretrained(tmp_path)
    assert loaded.config == detector.config
    begun = Detector(
        "test_vit", image_size=48, pool="both", initial_checkpoint=tmp_path / "model.safetensors"
    )
    expected = detector.predict_batch(x := images(2, 48))
    for other in (loaded, begun):
        assert torch.equal(other.predict_batch(x).score, expected.score)


def test_a_layer_after_num_features_is_part_of_the_features() -> None:
    """MobileNetV3 goes on after pooling, from 288 to 1024 channels."""
    detector = Detector("mobilenetv3_small_050", image_size=64).eval()
    x = images(2, 64)
    assert detector.head.fc.in_features == detector.features(x).shape[1] == 1024
    assert detector(x).shape == (2, 2)


def test_the_small_network_begins_with_the_same_weights_from_a_seed() -> None:
    """Else no result of a published seed could be had again."""
    torch.manual_seed(0)
    detector = Detector(image_size=64)
    state = detector.state_dict()
    assert state["backbone.stem.0.weight"][0, 0, 0].tolist() == pytest.approx(STEM, rel=1e-5)
    assert state["backbone.blocks.3.conv2.weight"][-1, -1, -1].tolist() == pytest.approx(
        BLOCK, rel=1e-5
    )
    assert state["head.fc.weight"][0, :3].tolist() == pytest.approx(HEAD, rel=1e-5)
    assert detector.grid == (8, 8)
    parameters = detector.backbone.parameters()
    assert sum(p.numel() for p in parameters) == pytest.approx(0.22e6, rel=0.02)


def test_the_score_is_the_probability_of_synthetic(small: Detector) -> None:
    x = images(5, 32)
    prediction = small.predict_batch(x)
    with torch.no_grad():
        logits = small(x)
        out = small.head.activations(small.features(x))
    torch.testing.assert_close(prediction.score, logits.double().softmax(1)[:, 1])
    assert ((prediction.score >= 0) & (prediction.score <= 1)).all()
    assert prediction.predicted.equal(logits.argmax(1))
    of_predicted = out[1][torch.arange(5), prediction.predicted]
    assert prediction.cams.equal(torch.stack((of_predicted, out[1][:, 1]), 1))
    assert prediction.entropy[:, 1].equal(out[2][:, 1])
    assert not any(field.requires_grad for field in prediction)


def test_a_prediction_is_evaluation_and_leaves_the_detector_as_it_was() -> None:
    detector = lifelike(Detector(image_size=32)).train()
    detector.backbone.blocks[0].eval()  # frozen
    modes = [module.training for module in detector.modules()]
    before = deepcopy(detector.state_dict())
    x = images(5, 32)
    prediction = detector.predict_batch(x)
    assert [module.training for module in detector.modules()] == modes
    assert all(tensor.equal(before[key]) for key, tensor in detector.state_dict().items())
    for field, expected in zip(prediction, detector.eval().predict_batch(x), strict=True):
        assert field.equal(expected)


def test_a_prediction_in_bfloat16_can_become_arrays(small: Detector) -> None:
    with torch.autocast("cpu"):
        prediction = small.predict_batch(torch.zeros(2, 3, 64, 64))
    assert [field.numpy().shape for field in prediction][4] == (2, 0, 0)


def test_sure_scores_do_not_tie() -> None:
    """1 - p(real) would round the first two to 0, float32 the last two to 1."""
    detector = Detector(image_size=32).eval()
    nn.init.zeros_(detector.head.fc.weight)
    scores = []
    for bias in ([20.0, 0.0], [21.0, 0.0], [0.0, 20.0], [0.0, 30.0]):
        detector.head.fc.bias.data = torch.tensor(bias)
        scores.append(detector.predict_batch(images(1, 32)).score.item())
    # 1 / (1 + exp(20)), 1 / (1 + exp(21)), 1 minus the first, 1 - 1 / (1 + exp(30))
    assert scores[:2] == pytest.approx([2.0611536e-9, 7.5825604e-10], rel=1e-5, abs=0)
    distances = [1 - score for score in scores[2:]]
    assert distances == pytest.approx([2.0611536e-9, 9.3576e-14], rel=1e-2, abs=0)
    detector = Detector(image_size=32, num_classes=3).eval()
    nn.init.zeros_(detector.head.fc.weight)
    detector.head.fc.bias.data = torch.tensor([-60.0, 0, 3])  # in float64 the sum is 1 + 2e-16
    assert detector.predict_batch(images(2, 32)).score.tolist() == [1, 1]


def test_equal_logits_have_equal_scores_wherever_in_the_batch() -> None:
    """A sigmoid's vectors and what is left over of them differ in the last bit."""
    detector = Detector(image_size=32).eval()
    nn.init.zeros_(detector.head.fc.weight)
    for margin in torch.linspace(-9, 9, 50):
        detector.head.fc.bias.data = torch.stack([torch.tensor(0.0), margin])
        assert len(detector.predict_batch(images(7, 32)).score.unique()) == 1


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("resnet18", {"image_size": 32}, r"'resnet18' has no spatial map .* 32 x 32 .*512, 1, 1"),
        ("efficientvim_m1", {}, "no spatial map .*list"),
        ("coat_tiny", {}, "no map of features .*choose another model"),
        ("test_vit", {"image_size": 33}, "'test_vit'"),
        ("resnet5", {}, r"no network 'resnet5' in timm.*did you mean.*resnet50"),
        ("focus_small", {"pretrained": True}, "pretrained.*'focus_small'.*--pretrained false"),
        ("resnet18.foo", {"pretrained": True}, r"'resnet18.foo' \(RuntimeError: .*tag.*--pre"),
        ("focus_small", {"num_classes": 1}, "num_classes is 1"),
        ("focus_small", {"pool": "both"}, "'focus_small' has no class token for --pool both: give"),
        ("test_vit2", {"pool": "both"}, "'test_vit2' has no class token"),  # its one is a register
        ("swin_tiny_patch4_window7_224", {"image_size": 96, "pool": "both"}, "no class token"),
        ("test_vit", {"pool": "token"}, "--pool token leaves no CAM, .*: give --pool both"),
        ("test_vit", {"pool": "max"}, "--pool got 'max': give one of mean, both"),
        ("focus_small", {"image_size": 0}, "does not take 0 x 0 images"),
        ("focus_small", {"loss": "blnd"}, r"no loss 'blnd' \(did you mean blend\?\)"),
        (
            "focus_small",
            {"initial_checkpoint": "nowhere.pth"},
            "no weights nowhere.pth: put the file there",
        ),
    ],
)
def test_a_network_that_cannot_be_used(model: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Detector(model, **options)
    assert_one_sentence(caught.value)


def test_without_a_network_the_file_to_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to the Hub")

    monkeypatch.setattr(timm.models._builder, "load_pretrained", fail)
    with pytest.raises(InputError, match=r"no route to the Hub|The Hub was not") as caught:
        Detector("vit_small_patch14_reg4_dinov2.lvd142m", pretrained=True)
    hub = "huggingface.co/timm/vit_small_patch14_reg4_dinov2.lvd142m"
    assert f"--initial-checkpoint FILE (model.safetensors of {hub})" in str(caught.value)
    assert_one_sentence(caught.value)
