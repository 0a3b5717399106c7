"""The detector: features and head against timm, its files, its weights from elsewhere."""

import gc
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import LayerNorm, LayerNorm2d
from torch import Tensor, nn

from focus.errors import InputError
from focus.kernels import class_activation
from focus.losses import LossConfig
from focus.models import Detector
from focus.optimization import synchronise_batch_norms

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


def images(batch: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size, size, generator=generator)


def lifelike(detector: Detector) -> Detector:
    """Norms as training leaves them; as initialised, some networks' features vanish or explode."""
    generator = torch.Generator().manual_seed(1)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
        if isinstance(module, nn.BatchNorm2d | LayerNorm | LayerNorm2d):
            for parameter in (module.weight, module.bias):
                noise = torch.rand(parameter.shape, generator=generator)
                parameter.data += 0.4 * noise - 0.2
    with torch.no_grad():
        detector.train().features(images(4, detector.image_size))
    return detector.eval()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=SIZES)
def detector(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(0)
    return lifelike(Detector(request.param, image_size=SIZES[request.param]))


@pytest.fixture(scope="module")
def small() -> Detector:
    torch.manual_seed(0)
    return lifelike(Detector(image_size=32, training_generators=("kA", "kB")))


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
    torch.testing.assert_close(prediction.score, logits.softmax(1)[:, 1])
    assert ((prediction.score >= 0) & (prediction.score <= 1)).all()
    assert prediction.predicted.equal(logits.argmax(1))
    of_predicted = out[1][torch.arange(5), prediction.predicted]
    assert prediction.cams.equal(torch.stack((of_predicted, out[1][:, 1]), 1))
    assert prediction.entropy[:, 1].equal(out[2][:, 1])
    assert not any(field.requires_grad for field in prediction)


def test_sure_scores_do_not_tie() -> None:
    """1 - p(real) would round both to 0."""
    detector = Detector(image_size=32).eval()
    nn.init.zeros_(detector.head.fc.weight)
    scores = []
    for bias in (20.0, 21.0):
        detector.head.fc.bias.data = torch.tensor([bias, 0.0])
        scores.append(detector.predict_batch(images(1, 32)).score.item())
    # 1 / (1 + exp(20)), 1 / (1 + exp(21))
    assert scores == pytest.approx([2.0611536e-9, 7.5825604e-10], rel=1e-5, abs=0)


def test_with_more_classes_all_but_real_are_synthetic() -> None:
    detector = Detector(image_size=32, num_classes=3).eval()
    x = images(4, 32)
    with torch.no_grad():
        expected = 1 - detector(x).logits.softmax(1)[:, 0]
    torch.testing.assert_close(detector.predict_batch(x).score, expected)


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
        ("focus_small", {"initial_checkpoint": "nowhere.pth"}, "no file nowhere.pth"),
    ],
)
def test_a_network_that_cannot_be_used(model: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Detector(model, **options)
    assert_one_sentence(caught.value)


def assert_one_sentence(error: InputError) -> None:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500


OFFLINE = """
import sys, torch, safetensors.torch
from focus.errors import InputError
from focus.models import Detector
detector = Detector("test_resnet", image_size=64, pretrained=True)
safetensors.torch.save_file(detector.backbone.state_dict(), sys.argv[1])
try:
    Detector("test_vit", pretrained=True)
except InputError as error:
    print(error)
"""


def test_pretrained_weights_come_from_the_cache_and_nowhere_else(tmp_path: Path) -> None:
    """Two networks without a network: one in the Hub's cache, one not."""
    published = timm.create_model("test_resnet")
    revision = "0" * 40
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(published.state_dict(), snapshot / "model.safetensors")
    got = tmp_path / "got.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(got)],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded, state = safetensors.torch.load_file(got), published.state_dict()
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(tensor.equal(state[key]) for key, tensor in loaded.items())
    (line,) = done.stdout.splitlines()
    assert "pretrained weights of 'test_vit' could not be loaded" in line
    assert "--initial-checkpoint FILE" in line


Save = Callable[[dict[str, Any], Path], Any]
SAVES: dict[str, Save] = {
    "weights.safetensors": safetensors.torch.save_file,
    "weights.pth": torch.save,
    "timm.pth": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "ddp.pt": lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path),
}


@pytest.mark.parametrize("file", SAVES)
def test_an_initial_checkpoint_of_the_backbone(file: str, tmp_path: Path) -> None:
    published = timm.create_model("test_resnet", num_classes=7)
    SAVES[file](published.state_dict(), tmp_path / file)
    detector = Detector("test_resnet", image_size=64, initial_checkpoint=tmp_path / file)
    state = published.state_dict()
    for key, tensor in detector.backbone.state_dict().items():
        assert tensor.equal(state[key]), key
    assert detector.head.fc.weight.shape == (2, published.num_features)


def test_an_initial_checkpoint_of_a_detector(small: Detector, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "model")
    other = Detector(image_size=32, initial_checkpoint=tmp_path / "model" / "model.safetensors")
    for key, tensor in other.state_dict().items():
        assert tensor.equal(small.state_dict()[key]), key


class Planted:
    """Unpickled carelessly, it runs code."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_planted_pickle_would_run(tmp_path: Path) -> None:
    """The plant itself works, so that the tests that use it can fail."""
    pickle.loads(pickle.dumps(Planted(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize("file", ["a.pth", "raw.pth", "a.safetensors", "raw.safetensors"])
def test_a_planted_pickle_is_refused_and_does_not_run(
    file: str, small: Detector, tmp_path: Path
) -> None:
    state = small.state_dict() | {"planted": Planted(tmp_path / "trace")}
    path = tmp_path / file
    if file.startswith("raw"):
        path.write_bytes(pickle.dumps(Planted(tmp_path / "trace"), protocol=2))
    else:
        torch.save(state, path)
    with pytest.raises(InputError, match=file) as caught:
        Detector(image_size=32, initial_checkpoint=path)
    assert_one_sentence(caught.value)
    assert not (tmp_path / "trace").exists()


def backbone_state(small: Detector) -> dict[str, Any]:
    return {k: v.clone() for k, v in small.backbone.state_dict().items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks.1.bn1.weight": None, "stem.0.weight": None}, "2 are missing.*is stem.0.weight"),
        ({"blocks.1.bn1.weight": torch.ones(7)}, r"blocks.1.bn1.weight should be \[32\], got \[7"),
        ({"blocks.1.bn1.weight": 3}, "1 are missing.*is blocks.1.bn1.weight"),
    ],
)
def test_an_initial_checkpoint_that_does_not_fit(
    change: dict[str, Any], words: str, small: Detector, tmp_path: Path
) -> None:
    state = backbone_state(small) | change
    path = tmp_path / "weights.pth"
    torch.save({k: v for k, v in state.items() if v is not None}, path)
    with pytest.raises(InputError, match=words) as caught:
        Detector(image_size=32, initial_checkpoint=path)
    assert str(path) in str(caught.value)
    assert_one_sentence(caught.value)


def test_a_detector_of_other_classes_is_refused(tmp_path: Path) -> None:
    Detector(image_size=32, num_classes=3).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="has 3 classes but the detector 2") as caught:
        Detector(image_size=32, initial_checkpoint=tmp_path / "model" / "model.safetensors")
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights\nat all"])
@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_a_file_that_holds_no_weights(file: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=f"{file} could not be read as weights") as caught:
        Detector(image_size=32, initial_checkpoint=tmp_path / file)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("model", ["focus_small", "test_vit"])
def test_a_saved_detector_predicts_the_same_bits(model: str, tmp_path: Path) -> None:
    detector = Detector(
        model,
        image_size=64,
        loss=LossConfig(temperature=0.7, focus_weight=0.1),
        training_generators=("kA", "kB"),
    )
    detector = lifelike(detector)
    detector.save_pretrained(tmp_path / "model")
    back = Detector.from_pretrained(str(tmp_path / "model"))
    assert back.config == detector.config
    assert not any(module.training for module in back.modules())
    for mine, other in zip(
        back.predict_batch(images(3, 64)), detector.predict_batch(images(3, 64)), strict=True
    ):
        assert mine.equal(other)
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["version"] == 1
    assert (config["model"], config["image_size"], config["temperature"]) == (model, 64, 0.7)
    assert config["training_generators"] == ["kA", "kB"]


def test_saving_replaces_an_earlier_detector_whole(small: Detector, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    other = Detector("test_vit", image_size=64)
    other.save_pretrained(folder)
    # What a run that was killed left behind.
    (tmp_path / "run" / ".model.writing").mkdir()
    (tmp_path / "run" / ".model.writing" / "rest").touch()
    with (folder / "model.safetensors").open("rb") as open_before:
        before = open_before.read(100)
        small.save_pretrained(folder)
        # The earlier file is not written over: who reads it goes on with its whole content.
        assert (before + open_before.read()) == safetensors.torch.save(other.state_dict())
    assert Detector.from_pretrained(folder).config == small.config
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model"]


def test_a_failed_save_leaves_the_earlier_detector(small: Detector, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "model")
    broken = deepcopy(small)
    broken.config = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        broken.save_pretrained(tmp_path / "model")
    x = images(2, 32)
    back = Detector.from_pretrained(tmp_path / "model")
    assert back.predict_batch(x).score.equal(small.predict_batch(x).score)


def test_saving_does_not_delete_other_files(small: Detector, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex") as caught:
        small.save_pretrained(tmp_path)
    assert_one_sentence(caught.value)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.tex"]


def test_other_files_can_be_kept(small: Detector, tmp_path: Path) -> None:
    folder, old = tmp_path / "model", tmp_path / ".model.old"
    small.save_pretrained(folder)
    (folder / "detector.onnx").write_text("hours of work")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("of a person")
    # What a save left that was killed before it had moved everything.
    small.save_pretrained(old)
    (old / "lost.txt").write_text("found")
    other = Detector(image_size=64)
    other.save_pretrained(folder, keep_others=True)
    assert Detector.from_pretrained(folder).config == other.config
    assert (folder / "detector.onnx").read_text() == "hours of work"
    assert (folder / "notes" / "a.txt").read_text() == "of a person"
    assert (folder / "lost.txt").read_text() == "found"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    folder.rename(old)  # killed between its two renames
    small.save_pretrained(folder, keep_others=True)
    assert Detector.from_pretrained(folder).config == small.config
    assert (folder / "detector.onnx").read_text() == "hours of work"
    with pytest.raises(InputError, match=r"more than a detector \(detector\.onnx\)"):
        small.save_pretrained(folder)


def test_saving_to_a_link_and_to_the_current_folder(
    small: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/model")
    for _ in range(2):
        small.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "link"}
    assert Detector.from_pretrained(tmp_path / "disk" / "model").config == small.config
    monkeypatch.chdir(tmp_path / "disk" / "model")
    for place in (".", tmp_path / "link"):
        with pytest.raises(InputError, match="is the current folder, which saving would replace"):
            small.save_pretrained(place)
    assert Path.cwd().samefile(tmp_path / "disk" / "model")


@pytest.fixture
def saved(small: Detector, tmp_path: Path) -> Path:
    small.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "has version 2: update focus"),
        ({"version": None}, "not the config of a detector"),
        ({"model": None}, "model"),
        ({"model": "resnet1"}, "did you mean"),
        ({"image_size": "large"}, "image_size"),
        ({"mean": [0.5]}, "mean"),
        ({"unknown": 1}, "unknown"),
        ({"num_classes": 3}, "has 2 classes but the detector 3"),
        ({"model": "test_resnet", "image_size": 64}, "does not fit test_resnet"),
    ],
)
def test_a_config_that_cannot_be_used(change: dict[str, Any], words: str, saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text()) | change
    values = {k: v for k, v in values.items() if v is not None}
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=words) as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"version": "one"}', "\udcff"])
def test_a_damaged_config(text: str, saved: Path) -> None:
    (saved / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"config\.json is not the config") as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


def test_a_folder_without_a_detector(tmp_path: Path, saved: Path) -> None:
    (saved / "config.json").unlink()
    for folder in (tmp_path, tmp_path / "nowhere", saved, saved / "model.safetensors"):
        with pytest.raises(InputError, match="holds no detector") as caught:
            Detector.from_pretrained(folder)
        assert str(folder) in str(caught.value)
        assert_one_sentence(caught.value)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_truncated_weights(kept: int, saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"model\.safetensors could not be read") as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


def test_missing_weights(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no file .*model\.safetensors") as caught:
        Detector.from_pretrained(saved)
    assert_one_sentence(caught.value)


def test_a_pickle_in_place_of_the_weights_does_not_run(saved: Path, tmp_path: Path) -> None:
    torch.save({"planted": Planted(tmp_path / "trace")}, saved / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        Detector.from_pretrained(saved)
    assert not (tmp_path / "trace").exists()
