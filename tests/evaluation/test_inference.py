"""Scoring: every column by hand, what stays untouched, and what an image costs."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageOps
from torch import Tensor, nn

from focus.data.bad_files import check_images
from focus.data.images import REPLACED, Preprocessing
from focus.data.manifest import Manifest, Sample
from focus.errors import ImageError
from focus.evaluation import inference
from focus.evaluation.inference import cost, images_only, outlier_norm, predictions, score_images
from focus.evaluation.scores import Scores
from focus.model.detector import Detector
from focus.model.inputs import Normalise
from focus.model.prediction import Prediction

GRID = (2, 4)
SIZE = 8


class RedDetector(nn.Module):
    """A detector whose every output can be worked out by hand.

    The CAM of class synthetic is how far each cell's red lies above one half, 8 times; that of
    class real is its negative. The score is the sigmoid of the difference of the means.
    """

    image_size = SIZE
    grid = GRID
    normalise = Normalise((0.5,) * 3, (1.0,) * 3)
    points = None
    config = SimpleNamespace(geometry=(), outlier_norm=None)
    preprocessing = Preprocessing(SIZE, GRID)

    predict_pixels = Detector.predict_pixels

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))
        self.modes: list[tuple[bool, bool]] = []

    def predict_batch(self, images: Tensor) -> Prediction:
        self.modes.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        synthetic = self.gain * nn.functional.adaptive_avg_pool2d(images[:, 0], GRID)
        logits = torch.stack([-synthetic, synthetic], 1).mean((2, 3))
        predicted = logits.argmax(1)
        sign = (2 * predicted - 1)[:, None, None]
        cams = torch.stack([sign * synthetic, synthetic], 1)
        p = cams.flatten(2).softmax(2)
        entropy = -(p * p.log()).sum(2) / math.log(8)
        norms = images.new_empty((len(images), 0, 0))
        return Prediction(logits.softmax(1)[:, 1], predicted, cams, entropy, norms)


def red(folder: Path, name: str, cells: list[list[int]]) -> str:
    """An image of 2 x 4 red cells with these levels in 0..255."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[..., 0] = np.kron(np.array(cells), np.ones((4, 2)))
    Image.fromarray(pixels).save(folder / name)
    return str(folder / name)


@pytest.fixture
def pictures(tmp_path: Path) -> Manifest:
    """A fake whose peak is on its artefact, one whose peak is not, a real, an unlabelled image."""
    on = [[0, 0, 0, 0], [0, 0, 255, 0]]
    bright = [[250, 255, 250, 250], [250, 250, 250, 250]]
    dark = [[10, 10, 10, 10], [10, 10, 10, 0]]
    mask = np.zeros((16, 16), np.uint8)
    mask[8:, 8:12] = 255  # the cell in row 1, column 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked: dict[str, Any] = {
        "label": 1,
        "generator": "kA",
        "mask_path": str(tmp_path / "mask.png"),
    }
    return Manifest(
        [
            Sample(red(tmp_path, "0.png", on), family="k", group="g", split="test", **masked),
            Sample(red(tmp_path, "1.png", bright), test_set="closed", **masked),
            Sample(red(tmp_path, "2.png", dark), label=0, mask_path=masked["mask_path"]),
            Sample(red(tmp_path, "3.png", dark)),
        ],
        "pictures",
    )


def score(detector: nn.Module, manifest: Manifest, **settings: Any) -> Scores:
    settings = {"batch_size": 3, "progress": False} | settings
    return score_images(detector, manifest, **settings)  # type: ignore[arg-type]


def test_a_mask_that_is_replaced_after_its_check_is_an_error(
    pictures: Manifest, tmp_path: Path
) -> None:
    """The pointing figures would be of a mask that nobody has checked."""
    decoded = check_images(pictures, cache=tmp_path / "cache", progress=False)
    checked, bad = decoded.manifest, decoded.bad
    assert not bad
    hits = score(RedDetector(), checked).pointing_hit_synthetic
    mask = tmp_path / "mask.png"
    with Image.open(mask) as image:
        mirrored = ImageOps.mirror(image)
    mirrored.save(mask)
    with pytest.raises(ImageError, match=rf"mask.png' \({REPLACED}\)"):
        score(RedDetector(), checked)
    assert not np.array_equal(score(RedDetector(), pictures).pointing_hit_synthetic, hits)


def test_every_column_by_hand(pictures: Manifest) -> None:
    scores = score(RedDetector(), pictures)
    assert scores.path.tolist() == [sample.path for sample in pictures]
    assert scores.index.tolist() == [0, 1, 2, 3]
    assert scores.label.tolist() == [1, 1, 0, -1]
    assert scores.generator.tolist() == ["kA", "kA", "", ""]
    assert [scores.family[0], scores.group[0], scores.split[0]] == ["k", "g", "test"]
    assert scores.test_set.tolist() == ["", "closed", "", ""]
    # Image 0: one cell at 8 * 0.5 = 4, seven at -4: mean -3, logits (3, -3).
    assert scores.score[0] == pytest.approx(1 / (1 + math.exp(6)), rel=1e-5)
    assert scores.predicted.tolist() == [0, 1, 0, 0]
    # Its CAM of the predicted class real is the negative: the peak is the first of seven cells,
    # h_sum that of seven equal cells. The synthetic class's peak is on the artefact.
    assert (scores.peak_row[0], scores.peak_col[0]) == (0, 0)
    assert scores.entropy_sum[0] == pytest.approx(math.log(7) / math.log(8))
    assert scores.cam_range[0] == pytest.approx(8.0, rel=1e-6)
    assert scores.entropy_predicted[0] == pytest.approx(math.log(7) / math.log(8), abs=1e-3)
    assert scores.entropy_synthetic[0] < 0.02
    # Image 1: peak in row 0, column 1. Image 2: negated, in row 1, column 3.
    assert (scores.peak_row[1], scores.peak_col[1]) == (0, 1)
    assert (scores.peak_row[2], scores.peak_col[2]) == (1, 3)
    assert scores.cam_range[1] == pytest.approx(8 * 5 / 255, rel=1e-4)
    # Only fakes are asked; the real image's mask plays no part.
    assert scores.pointing_hit.tolist() == [0, 0, -1, -1]
    assert scores.pointing_hit_synthetic.tolist() == [1, 0, -1, -1]
    # One cell of eight is covered.
    np.testing.assert_array_equal(
        scores.pointing_chance, np.float32([1 / 8, 1 / 8, np.nan, np.nan])
    )
    # Of the CAM's mass, stretched to 0 in the artefact's cell and 1 in the seven others, none lies
    # on the artefact; in image 1 the peak holds all of it.
    np.testing.assert_array_equal(scores.mask_mass, np.float32([0, 0, np.nan, np.nan]))
    for name in ("map_mse", "map_cosine", "map_mass", "map_chance"):
        assert np.isnan(getattr(scores, name)).all(), "no image has a human map"
    assert scores.map_hit.tolist() == scores.peak_outlier.tolist() == [-1] * 4
    # z-scores of one cell among eight: sqrt(7) and -1/sqrt(7), here negated.
    weights = np.exp([-math.sqrt(7)] + [1 / math.sqrt(7)] * 7)
    p = weights / weights.sum()
    assert scores.entropy_z[0] == pytest.approx(-(p * np.log(p)).sum() / math.log(8), rel=1e-5)


def grey(folder: Path, name: str, cells: list[list[int]]) -> str:
    """A human map of 2 x 4 cells with these levels."""
    Image.fromarray(np.kron(np.array(cells, np.uint8), np.ones((8, 8), np.uint8))).save(
        folder / name
    )
    return str(folder / name)


def test_agreement_with_human_maps_by_hand(pictures: Manifest, tmp_path: Path) -> None:
    """The predicted class's CAM counts: of image 0 that is 0 in row 1, column 2 and 1 elsewhere."""
    one_cell = grey(tmp_path, "m0.png", [[0, 0, 0, 0], [0, 0, 200, 0]])
    two_cells = grey(tmp_path, "m1.png", [[0, 200, 0, 100], [0, 0, 0, 0]])
    constant = grey(tmp_path, "m3.png", [[90] * 4] * 2)
    maps = [one_cell, two_cells, None, constant]
    mapped = Manifest(replace(s, human_map=m) for s, m in zip(pictures, maps, strict=True))
    scores = score(RedDetector(), mapped)
    # Image 1: its CAM is 1 in row 0, column 1, where the map is 1, too, and 0 elsewhere.
    expected = {
        "map_mse": [1.0, 0.5**2 / 8, math.nan, math.nan],
        "map_cosine": [0.0, 1 / math.sqrt(1.25), math.nan, math.nan],
        "map_mass": [0.0, 1.0, math.nan, math.nan],
        # One of eight cells; in the second map two, one of them with half of its maximum.
        "map_chance": [1 / 8, 2 / 8, math.nan, math.nan],
    }
    for name, column in expected.items():
        np.testing.assert_allclose(getattr(scores, name), column, atol=2e-3, err_msg=name)
    assert scores.map_hit.tolist() == [0, 1, -1, -1]


def test_a_map_that_cannot_be_read_is_named_by_scoring_but_not_needed_by_a_prediction(
    pictures: Manifest, tmp_path: Path
) -> None:
    lost = Manifest([replace(pictures[0], human_map=str(tmp_path / "lost.png"))])
    with pytest.raises(ImageError, match=r"lost\.png"):
        score(RedDetector(), lost)
    ((batch, prediction),) = predictions(RedDetector(), images_only(lost), batch_size=2)
    assert (batch.index.tolist(), prediction.predicted.tolist()) == ([0], [0])


def tokens_before_the_last_norm(detector: Detector, batch: Tensor) -> Tensor:
    """By a hook on timm's network, [B, N, C], without the prefix tokens."""
    kept: list[Tensor] = []
    hook = detector.backbone.norm.register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0])
    )
    with torch.no_grad():
        detector.backbone(batch)
    hook.remove()
    return kept[0][:, detector.layout.prefix :]


@pytest.mark.parametrize(
    ("name", "size"), [("test_vit", 48), ("vit_small_patch14_reg4_dinov2", 42)]
)
def test_outliers_are_told_by_the_tokens_of_training_images(
    name: str, size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    detector = Detector(name, image_size=size).eval()
    draw = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(draw.integers(0, 256, (size, size, 3), np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    faces = Manifest([Sample(str(tmp_path / f"{n}.png"), n % 2) for n in range(6)], "faces")
    ((batch, prediction),) = predictions(detector, faces, batch_size=6)
    images = detector.normalise(batch.images)
    norms = tokens_before_the_last_norm(detector, images).norm(dim=2)
    torch.testing.assert_close(prediction.norms.flatten(1), norms)
    with torch.no_grad():  # the way to the norms changes no bit of the rest
        _, cams, _ = detector.head.activations(detector.features(images))
    assert torch.equal(prediction.cams[:, 1], cams[:, 1])
    limit = outlier_norm(detector, faces, batch_size=4)
    assert limit == pytest.approx(float(np.quantile(norms.numpy(), 0.995)), rel=1e-5)
    assert score(detector, faces).peak_outlier.tolist() == [-1] * 6
    of_peaks = norms[torch.arange(6), prediction.cams[:, 0].flatten(1).argmax(1)]
    middle = float(of_peaks.mean())
    detector.config = replace(detector.config, outlier_norm=middle)
    scores = score(detector, faces)
    assert scores.peak_outlier.tolist() == (of_peaks > middle).long().tolist()
    assert 0 < scores.peak_outlier.sum() < 6


def test_of_many_images_some_are_measured_and_of_a_map_without_tokens_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pictures: Manifest
) -> None:
    detector = Detector("test_vit", image_size=48).eval()
    one = outlier_norm(detector, pictures, batch_size=4)
    monkeypatch.setattr(inference, "NORM_IMAGES", 2)
    assert outlier_norm(detector, pictures, batch_size=4) != one
    chosen = Manifest([pictures[1], pictures[3]], "two")
    expected = outlier_norm(detector, chosen, batch_size=4)
    assert outlier_norm(detector, pictures, batch_size=4) == expected
    assert outlier_norm(Detector(image_size=32), pictures, batch_size=4) is None
    assert outlier_norm(detector, Manifest([], "none"), batch_size=4) is None


def test_the_network_runs_in_the_precision_of_the_accelerator(pictures: Manifest) -> None:
    detector = RedDetector()
    accelerator: Any = SimpleNamespace(
        process_index=0, num_processes=1, autocast=lambda: torch.autocast("cpu")
    )
    arguments: dict[str, Any] = {"batch_size": 2, "accelerator": accelerator}
    assert len(list(predictions(detector, pictures, **arguments))) == 2  # type: ignore[arg-type]
    assert detector.modes == [(True, True)] * 2


class Spoilt(RedDetector):
    """One number of the third image is none."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self.field, self.seen = field, 0

    def predict_batch(self, images: Tensor) -> Prediction:
        prediction = super().predict_batch(images)
        third = 2 - self.seen
        self.seen += len(images)
        if 0 <= third < len(images):
            getattr(prediction, self.field)[third].view(-1)[-1] = math.nan
        return prediction


@pytest.mark.parametrize(("field", "batch_size"), [("score", 2), ("cams", 4)])
def test_an_output_that_is_not_finite_names_the_image(
    field: str, batch_size: int, pictures: Manifest
) -> None:
    with pytest.raises(ImageError, match=r"output for '[^']*/2\.png' is not finite"):
        score(Spoilt(field), pictures, batch_size=batch_size)


def test_images_cut_out_otherwise_than_in_training_are_warned_of_once(
    pictures: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    """Not once more for each perturbation."""
    detector = RedDetector()
    detector.config = SimpleNamespace(geometry=("box margin 0.25",), outlier_norm=None)
    for perturb, count in ((None, 1), (lambda image, _: image, 0)):
        caplog.clear()
        score(detector, pictures, perturb=perturb, accelerator=Accelerator(cpu=True))
        assert sum("are cut out otherwise" in line for line in caplog.messages) == count


class Copy:
    """Stand in for CUDA's event: the predictions have not arrived before it has been waited for."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number, self.log = number, log

    def synchronize(self) -> None:
        self.log.append(f"wait for {self.number}")


def test_a_gpu_has_its_next_batch_before_the_predictions_of_one_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU runs this: the order in which the host begins batches and waits for them."""
    for number in range(3):
        Image.new("RGB", (SIZE, SIZE), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    faces = Manifest(Sample(str(tmp_path / f"{number}.png"), 0) for number in range(3))
    log: list[str] = []

    def on_host(prediction: Prediction) -> tuple[Prediction, Copy]:
        number = sum(line.startswith("begin") for line in log)
        log.append(f"begin {number}")
        return prediction, Copy(number, log)

    expected = [float(p.score) for _, p in predictions(RedDetector(), faces, batch_size=1)]
    monkeypatch.setattr(Prediction, "on_host", on_host)
    scores = []
    for batch, prediction in predictions(RedDetector(), faces, batch_size=1):
        log.append(f"read {int(batch.index)}")
        scores.append(float(prediction.score))
    assert scores == expected
    steps = "begin 0, begin 1, wait for 0, read 0, begin 2, wait for 1, read 1, wait for 2, read 2"
    assert ", ".join(log) == steps


def test_the_operations_of_the_small_network_by_hand() -> None:
    """Multiplications and additions of each convolution of 64 x 64 pixels, two each."""
    per_place = 9 * 3 * 16 * 32**2  # the stem
    for inputs, outputs, side in ((16, 16, 32), (16, 32, 16), (32, 64, 8), (64, 96, 8)):
        per_place += 9 * (inputs + outputs) * outputs * side**2
        per_place += inputs * outputs * side**2 * (inputs != outputs)
    words = cost(Detector(image_size=64))
    assert f", {2 * per_place / 1e9:.3g} GFLOPs and " in words
    assert re.fullmatch(r"0.223 million parameters, .* and \S+ s an image \(cpu\)", words)


def test_the_products_of_an_attention_are_counted() -> None:
    """In each block two, of all pairs of tokens, beside what the linear layers do."""
    detector = Detector("test_vit", image_size=64)
    blocks, width = detector.backbone.blocks, detector.backbone.embed_dim
    patch = detector.backbone.patch_embed.proj
    cells = detector.grid[0] * detector.grid[1]
    tokens = cells + detector.layout.prefix
    linear = 0
    for block in blocks:
        layers = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        linear += sum(layer.weight.numel() for layer in layers)
    total = tokens * linear + cells * patch.weight.numel() + len(blocks) * 2 * tokens**2 * width
    assert f", {2 * total / 1e9:.3g} GFLOPs" in cost(detector)
