"""The detector: features and head against timm, its scores, what it costs."""

import gc
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from focus.config.losses import LOSSES, LossConfig
from focus.errors import InputError
from focus.kernels import FocusHeadOutput, class_activation
from focus.model.detector import Detector
from focus.model.head import DetectorOutput, FocusHead
from focus.training.optimizer import synchronise_batch_norms

from ..detectors import assert_one_sentence, images, lifelike, small_detector

pytestmark = pytest.mark.usefixtures("one_thread")

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
RENAMED = {"head.norm.": "norm_pre."}  # a ConvNeXt's last norm, with `head_norm_first`


@pytest.fixture(scope="module", params=SIZES)
def detector(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(0)
    return lifelike(Detector(request.param, image_size=SIZES[request.param]))


@pytest.fixture(scope="module")
def small() -> Detector:
    return small_detector()


@pytest.mark.slow
def test_synchronised_norms_compute_the_same(detector: Detector) -> None:
    """timm's norms hold the activation that follows, which torch's own conversion drops."""
    converted = deepcopy(detector)
    synchronise_batch_norms(converted)
    kinds = [type(module) for module in detector.modules()]
    norms = sum(issubclass(kind, torch.nn.BatchNorm2d) for kind in kinds)
    found = sum(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    assert found == norms
    x = images(2, detector.image_size, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(converted.features(x), detector.features(x))
    assert converted.state_dict().keys() == detector.state_dict().keys()


@pytest.mark.slow
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
        out, predicted = exact(x), mean.argmax(1)
        trained = exact(x, target := torch.tensor([1, 0]))
    for logits in (out.logits, trained.logits):
        torch.testing.assert_close(logits, mean, rtol=1e-12, atol=1e-12)
    rows = torch.arange(2)
    torch.testing.assert_close(out.cam, cams[rows, predicted], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.entropy, entropy[rows, predicted], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trained.cam, cams[rows, target], rtol=1e-12, atol=1e-12)
    assert out.loss is None
    assert (out.classification, out.focus, out.saliency) == (None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "detector", [name for name in SIZES if name != "focus_small"], indirect=True
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
        torch.testing.assert_close(detector(x).logits, full(x), rtol=1e-5, atol=1e-5)


# Untrained, the two Inceptions scatter a change over the whole map.
@pytest.mark.parametrize(
    "detector", [name for name in SIZES if "ception" not in name], indirect=True
)
def test_the_map_has_the_orientation_of_the_image(detector: Detector) -> None:
    x = images(1, detector.image_size, seed=4)
    third = detector.image_size // 3
    top_right, bottom_left = x.clone(), x.clone()
    top_right[:, :, :third, -third:] += 2
    bottom_left[:, :, -third:, :third] += 2
    with torch.no_grad():
        features = detector.features(torch.cat((x, top_right, bottom_left)))
    change = (features[1:] - features[0]).square().sum(1)
    share = change / change.sum((1, 2), keepdim=True)
    rows, cols = (torch.linspace(-1, 1, n) for n in detector.grid)
    row, col = (share.sum(2) * rows).sum(1), (share.sum(1) * cols).sum(1)
    # A network sees far beyond a cell: the centre of the change moves, the rest may change, too.
    assert row[0] < row[1] - 0.3
    assert col[1] < col[0] - 0.3


@pytest.mark.slow
def test_every_parameter_gets_a_gradient(detector: Detector) -> None:
    """What DistributedDataParallel needs; and the loss reaches the first layer."""
    network = deepcopy(detector).train()
    out = network(images(2, detector.image_size, seed=5), torch.tensor([0, 1]))
    out.loss.backward()
    grads = {name: p.grad for name, p in network.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == []
    assert all(bool(grad.isfinite().all()) for grad in grads.values())
    first = next(iter(network.backbone.parameters()))
    assert first.grad.abs().max() > 0


def test_a_convnext_is_normalised_before_pooling() -> None:
    torch.manual_seed(0)
    detector = lifelike(Detector("test_convnext", image_size=96))
    full = timm.create_model("test_convnext", num_classes=2).eval()
    full.load_state_dict(detector.backbone.state_dict(), strict=False)
    x = images(2, 96)
    with torch.no_grad():
        before = full.forward_features(x)
        torch.testing.assert_close(detector.features(x), full.head.norm(before))
        # timm's own head normalises the pooled vector, so that its CAM would not sum up.
        pooled = full.forward_head(before, pre_logits=True)
        assert not torch.allclose(detector.features(x).mean((2, 3)), pooled, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "size", "prefix"),
    [
        ("vit_tiny_patch16_224", 48, 1),
        ("vit_small_patch14_reg4_dinov2", 42, 5),
        ("test_vit_relpos", 48, 0),
    ],
)
def test_prefix_tokens_are_dropped(name: str, size: int, prefix: int) -> None:
    detector = Detector(name, image_size=size).eval()
    x = images(2, size)
    with torch.no_grad():
        tokens = detector.backbone.fc_norm(detector.backbone.forward_features(x))
        features = detector.features(x)
    assert tokens.shape[1] == prefix + 9
    for row in range(3):
        for col in range(3):
            cell = tokens[:, prefix + 3 * row + col]
            torch.testing.assert_close(features[:, :, row, col], cell, rtol=0, atol=0)


def test_a_norm_that_timm_applies_after_pooling_keeps_its_weights(tmp_path: Path) -> None:
    """Published EVA and BEiT weights have `fc_norm`: no other norm may take its place."""
    full = timm.create_model("eva02_tiny_patch14_224", img_size=42).eval()
    nn.init.uniform_(full.fc_norm.weight)
    safetensors.torch.save_file(full.state_dict(), tmp_path / "eva.safetensors")
    detector = Detector(
        "eva02_tiny_patch14_224", image_size=42, initial_checkpoint=tmp_path / "eva.safetensors"
    ).eval()
    x = images(2, 42)
    with torch.no_grad():
        tokens = full.fc_norm(full.forward_features(x))[:, 1:]
        torch.testing.assert_close(detector.features(x).flatten(2).transpose(1, 2), tokens)


def test_a_layer_after_num_features_is_part_of_the_features() -> None:
    """MobileNetV3 goes on after pooling, from 288 to 1024 channels."""
    detector = Detector("mobilenetv3_small_050", image_size=64).eval()
    x = images(2, 64)
    assert detector.head.fc.in_features == detector.features(x).shape[1] == 1024
    assert detector(x).logits.shape == (2, 2)


def test_focus_small_is_stem_and_blocks(small: Detector) -> None:
    x = images(2, 32)
    backbone = small.backbone
    with torch.no_grad():
        torch.testing.assert_close(small.features(x), backbone.blocks(backbone.stem(x)))
    assert small.grid == (4, 4)
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(0.22e6, rel=0.02)


def test_the_network_says_how_images_are_normalised() -> None:
    detector = Detector("resnet18")
    assert (detector.image_size, detector.grid) == (224, (7, 7))
    assert detector.mean == (0.485, 0.456, 0.406)
    assert detector.std == (0.229, 0.224, 0.225)


def test_a_gradient_of_the_focus_term_alone_reaches_the_backbone() -> None:
    torch.manual_seed(0)
    loss = LossConfig(classification_weight=0.0, focus_weight=1.0)
    detector = Detector(image_size=32, loss=loss)
    out = detector(images(2, 32), torch.tensor([0, 1]))
    torch.testing.assert_close(out.loss, out.entropy.mean())
    out.loss.backward()
    assert next(detector.backbone.parameters()).grad.abs().max() > 0
    assert detector.head.fc.weight.grad.abs().max() > 0


def test_autocast_gives_nearly_the_same_loss(small: Detector) -> None:
    x, target = images(4, 32), torch.tensor([0, 1, 1, 0])
    with torch.autocast("cpu", torch.bfloat16):
        out = small(x, target)
        assert small.features(x).dtype == torch.bfloat16
        unlabelled = small(x).logits
    exact = small(x, target)
    assert out.loss.dtype == out.logits.dtype == out.cam.dtype == torch.float32
    # bfloat16 has 8 bits: 0.4 % a layer.
    torch.testing.assert_close(out.loss, exact.loss, rtol=0.02, atol=0.02)
    torch.testing.assert_close(out.cam, exact.cam, rtol=0.05, atol=0.05)
    # From the same features, the head works in float32.
    torch.testing.assert_close(unlabelled, out.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_compiled_without_a_graph_break_it_gives_the_same(small: Detector) -> None:
    loss = LossConfig(focus_weight=0.1, saliency_weight=5.0)
    plain = Detector(image_size=32, loss=loss)
    plain.load_state_dict(small.state_dict())
    arguments = (
        images(4, 32),
        torch.tensor([0, 1, 1, 0]),
        torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([True, False, True, True]),
    )
    compiled = torch.compile(deepcopy(plain), fullgraph=True, backend="aot_eager")
    out, expected = compiled(*arguments), plain(*arguments)
    torch.testing.assert_close(out.loss, expected.loss)
    torch.testing.assert_close(out.entropy, expected.entropy)
    out.loss.backward()
    expected.loss.backward()
    for (name, ours), theirs in zip(
        compiled._orig_mod.named_parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda m, n=name: f"{n}: {m}")


def live_tensors() -> int:
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


@pytest.mark.slow
def test_memory_is_steady() -> None:
    detector = Detector(image_size=32, loss=LossConfig(focus_weight=0.1))
    optimizer = torch.optim.AdamW(detector.parameters())
    x, target = images(2, 32), torch.tensor([0, 1])
    gc.collect()
    counts = []
    for _ in range(20):
        out = detector(x, target)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        detector.predict_batch(x)
        counts.append(live_tensors())
    assert set(counts[1:]) == {counts[1]}


def test_the_score_is_the_probability_of_synthetic(small: Detector) -> None:
    x = images(5, 32)
    prediction = small.predict_batch(x)
    with torch.no_grad():
        logits = small(x).logits
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
    for found, expected in zip(prediction, detector.eval().predict_batch(x), strict=True):
        assert found.equal(expected)
    detector.backbone.train()  # the root alone does not tell
    assert detector.predict_batch(x).score.equal(prediction.score)
    assert detector.backbone.training
    assert not detector.training
    detector.backbone.stem.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the midst"):
        detector.train().predict_batch(x)
    assert all(module.training for module in detector.modules())


def fail(*_: Any) -> None:
    raise RuntimeError("in the midst")


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


def test_equal_logits_have_equal_scores_wherever_in_the_batch() -> None:
    """A sigmoid's vectors and what is left over of them differ in the last bit."""
    detector = Detector(image_size=32).eval()
    nn.init.zeros_(detector.head.fc.weight)
    for margin in torch.linspace(-9, 9, 50):
        detector.head.fc.bias.data = torch.stack([torch.tensor(0.0), margin])
        assert len(detector.predict_batch(images(7, 32)).score.unique()) == 1


def test_with_more_classes_all_but_real_are_synthetic() -> None:
    detector = Detector(image_size=32, num_classes=3).eval()
    x = images(4, 32)
    with torch.no_grad():
        expected = 1 - detector(x).logits.double().softmax(1)[:, 0]
    torch.testing.assert_close(detector.predict_batch(x).score, expected)


def test_the_scores_of_several_classes_add_up_to_1_at_most() -> None:
    detector = Detector(image_size=32, num_classes=3).eval()
    nn.init.zeros_(detector.head.fc.weight)
    detector.head.fc.bias.data = torch.tensor([-60.0, 0, 3])  # in float64 the sum is 1 + 2e-16
    assert detector.predict_batch(images(2, 32)).score.tolist() == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("resnet18", {"image_size": 32}, r"'resnet18' has no spatial map .* 32 x 32 .*512, 1, 1"),
        ("vgg11", {}, "no spatial map"),
        ("efficientvim_m1", {}, "no spatial map .*list"),
        ("coat_tiny", {}, "no map of features .*choose another --model"),
        ("inception_v3", {"image_size": 32}, "does not take 32 x 32 images"),
        ("resnet5", {}, r"no network 'resnet5' in timm.*did you mean.*resnet50"),
        ("resnet18.nonsense", {}, r"'resnet18.nonsense'"),
        ("focus_smal", {}, r"did you mean.*focus_small"),
        ("focus_small", {"pretrained": True}, "pretrained.*'focus_small'.*--pretrained false"),
        ("focus_small", {"num_classes": 1}, "num_classes is 1"),
        ("focus_small", {"num_classes": "2"}, "num_classes is '2': give 2"),
        ("focus_small", {"num_classes": 2.0}, "num_classes is 2.0: give 2"),
        ("focus_small", {"training_generators": "A"}, "are the text 'A': give a tuple of names"),
        ("focus_small", {"image_size": (32, 32)}, r"at least 1, got \(32, 32\): give whole pixels"),
        (None, {}, "The model is of type NoneType: give a timm name, or use focus.FocusHead"),
        ("focus_small", {"image_size": 0}, "The image_size must be at least 1, got 0"),
        ("focus_small", {"image_size": -64}, "image_size must be at least 1, got -64"),
        ("focus_small", {"loss": "blnd"}, r"no loss 'blnd' \(did you mean blend\?\)"),
        ("focus_small", {"initial_checkpoint": "nowhere.pth"}, "no file nowhere.pth"),
    ],
)
def test_a_network_that_cannot_be_used(model: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Detector(model, **options)
    assert_one_sentence(caught.value)


def test_a_set_of_generators_is_saved(tmp_path: Path) -> None:
    Detector(image_size=32, training_generators={"A"}).save_pretrained(tmp_path / "model")
    assert Detector.from_pretrained(tmp_path / "model").config.training_generators == ("A",)


def test_whole_numbers_of_numpys_are_taken(tmp_path: Path) -> None:
    """As ``labels.max() + 1`` is one."""
    detector = Detector(image_size=np.int64(32), num_classes=np.int64(3))
    detector.save_pretrained(tmp_path / "model")
    config = Detector.from_pretrained(tmp_path / "model").config
    assert (config.image_size, config.num_classes) == (32, 3)
    pictures = np.zeros((1, 32, 32, 3), np.uint8)
    assert len(detector.predict(pictures, batch_size=np.int64(4)).score) == 1


def test_tokens_that_fill_no_square_are_no_map() -> None:
    """Of five, four would be."""

    def tokens(count: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(2), nn.Linear(32 * 32, 8), nn.Conv1d(3, count, 1))

    detector = Detector(image_size=32)
    detector.backbone = tokens(4)
    assert detector._probe(32, "own") == ((2, 2), 8)
    detector.backbone = tokens(5)
    with pytest.raises(InputError, match=r"'own' has no spatial map .* output is \[5, 8\]"):
        detector._probe(32, "own")


def test_the_output_has_the_fields_of_the_heads() -> None:
    assert DetectorOutput._fields == FocusHeadOutput._fields


def test_a_loss_goes_by_its_name_too() -> None:
    assert Detector(image_size=32, loss="blend").head.loss == LOSSES["blend"]
    assert FocusHead(4, 2, "hinge").loss == LOSSES["hinge"]
    assert FocusHead(4, 2).loss == LossConfig()
