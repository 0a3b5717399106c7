"""Training of the head alone on cached features: as without the cache, and without the network."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from focus.config.train import TrainConfig, resolve
from focus.data.augment import Augmentation
from focus.data.bad_files import check_images
from focus.data.images import Preprocessing, load_image
from focus.data.known_images import content_hash
from focus.data.manifest import Manifest
from focus.errors import InputError, UnreadableError
from focus.model.detector import Detector
from focus.model.inputs import Normalise
from focus.model.pictures import as_seen
from focus.training.dry_run import dry_run
from focus.training.features import feature_cache
from focus.training.trainer import Trainer

from .trainers import few_faces, trainer

MODELS = {"test_vit": 160, "test_convnext": 64, "test_efficientnet": 64}
"""Prefix tokens, channels last within, batch norms; and the pixels that they take."""
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that a network was run on."""
    numbers: list[int] = []
    encode = Detector.encode

    def counted(detector: Detector, images: Tensor) -> tuple[Tensor, Tensor | None]:
        numbers.append(len(images))
        return encode(detector, images)

    monkeypatch.setattr(Detector, "encode", counted)
    return numbers


def head_settings(**changed_settings: Any) -> dict[str, Any]:
    return {
        "tune": "head",
        "loss": "blend",
        "epochs": 2,
        "lr": 0.1,
        "eval_batch_size": 16,
    } | changed_settings


def test_the_map_that_takes_a_map_s_place_has_features_of_its_own(tmp_path: Path) -> None:
    """Where nobody has checked the files: the maps of before would train the head in silence."""
    faces = few_faces(tmp_path)
    weights = tmp_path / "weights.pth"
    torch.save(Detector("test_convnext").backbone.state_dict(), weights)

    def saliency_in_training(name: str) -> float:
        settings = head_settings(initial_checkpoint=str(weights))
        run = trainer(faces, tmp_path / name, **settings)
        run.fit()
        return float(run.state.rows[-1]["train_saliency"])

    before = saliency_in_training("before")
    assert saliency_in_training("again") == before
    for sample in faces.split("train"):
        if sample.human_map is not None:
            load_image(sample.human_map).rotate(90).convert("L").save(sample.human_map)
    assert saliency_in_training("after") != before


@pytest.mark.parametrize(
    ("model", "pool"),
    [
        ("test_vit", "both"),
        pytest.param("test_convnext", "mean", marks=SLOW),
        pytest.param("test_efficientnet", "mean", marks=SLOW),
    ],
)
def test_the_head_is_that_of_a_run_without_the_cache(
    faces: Manifest, tmp_path: Path, model: str, pool: str
) -> None:
    weights_and_figures = {}
    for cached in ("no", "float32", "bfloat16"):
        settings = head_settings(
            model=model, pool=pool, image_size=MODELS[model], cached_features=cached
        )
        run = trainer(faces, tmp_path / cached, augment="none", **settings)
        run.fit()
        figures = run.state.rows[-1]["train_loss"], run.state.rows[-1]["eval_auc"]
        weights = [value.detach().clone() for value in run.detector.head.parameters()]
        weights_and_figures[cached] = *weights, *figures
        kept = Detector.from_pretrained(run.folder / "model")
        assert kept.backbone.state_dict().keys() == run.detector.backbone.state_dict().keys()
    for cached, tolerance in (("float32", 1e-4), ("bfloat16", 2e-2)):
        for ours, theirs in zip(
            weights_and_figures[cached], weights_and_figures["no"], strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert not weights_and_figures["bfloat16"][0].equal(weights_and_figures["float32"][0])


def test_the_network_runs_once_for_all_epochs_losses_and_seeds(
    faces: Manifest, tmp_path: Path, seen: list[int]
) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(Detector("test_convnext").backbone.state_dict(), weights)
    for loss, seed in (("blend", 0), ("focus", 1)):
        settings = head_settings(loss=loss, seed=seed, initial_checkpoint=str(weights))
        trainer(faces, tmp_path / loss, **settings).fit()
        assert sum(seen) == len(faces)
    # Other weights are other features.
    other = trainer(faces, tmp_path / "other", **head_settings())
    assert sum(seen) == 2 * len(faces)
    (one, two) = (tmp_path / "cache" / "features").iterdir()
    assert one.name.startswith("test_convnext-bfloat16-")
    assert one != two
    other.fit()
    assert sum(seen) == 2 * len(faces)


def test_views_are_drawn_by_content_and_taken_in_turn(
    faces: Manifest, tmp_path: Path, seen: list[int]
) -> None:
    settings = head_settings(augment="shift,flip", views=3, cached_features="float32")
    run = trainer(faces, tmp_path / "a", **settings)
    assert sum(seen) == 3 * 70 + 12
    plan = run.plan.epoch(4)[0]
    batch = next(run.images.load(4, [plan]))
    row, detector = plan[0].rows[0], run.detector.eval()
    pixels = as_seen(load_image(faces[row].path), Preprocessing(64, (8, 8)))
    key = 4 % 3, int(content_hash(faces[row].path), 16), 0
    augmentation = Augmentation(("shift", "flip"), 64)
    changed = augmentation.change(pixels[None], [augmentation.draw(key, 64, 64)])
    with torch.no_grad():
        expected = detector.features(Normalise(detector.mean, detector.std)(changed))
    torch.testing.assert_close(batch.images[:1], expected, rtol=1e-4, atol=1e-5)
    seen.clear()
    # Another seed and fewer images, yet the same views of the same weights.
    again = replace(run.config, seed=5, name="b")
    Trainer(again, detector, Manifest(faces[10:]), run.accelerator)
    assert not seen


def test_views_of_cut_pictures_are_parts_of_them(
    faces: Manifest, tmp_path: Path, seen: list[int]
) -> None:
    """Faces of 32 pixels are continued to 64; other features than those of squashed ones."""
    weights = tmp_path / "weights.pth"
    torch.save(Detector("test_convnext").backbone.state_dict(), weights)
    of = {"initial_checkpoint": str(weights), "cached_features": "float32"}
    for fit in ("squash", "crop"):
        seen.clear()
        run = trainer(faces, tmp_path / fit, **head_settings(fit=fit, **of))
        assert sum(seen) == len(faces), "none are those of the other"
        plan = run.plan.epoch(0)[0]
        batch, row = next(run.images.load(0, [plan])), plan[0].rows[0]
        image = as_seen(load_image(faces[row].path), Preprocessing(64, (8, 8), fit))
        with torch.no_grad():
            expected = run.detector.eval().features(run.detector.normalise(image[None]))
        torch.testing.assert_close(batch.images[:1], expected, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_goes_on_with_the_same_bits(
    faces: Manifest, tmp_path: Path, seen: list[int]
) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(Detector("test_convnext").backbone.state_dict(), weights)
    settings = head_settings(augment="flip", views=2, epochs=3, model_ema_decay=0.9)
    settings |= {"initial_checkpoint": str(weights)}
    whole = trainer(faces, tmp_path / "whole", **settings)
    whole.fit()
    part = trainer(faces, tmp_path / "part", **settings)
    part.open_folder()
    plan, loaded = part.plan.epoch(0), part.images.load(0, part.plan.epoch(0))
    part.model.train()
    for batches in plan[:4]:
        part.train_step(batches, loaded)
    part.read_tally()
    part.save()
    # A resumed run begins with other weights than those of its checkpoint.
    torch.save(Detector("test_convnext").backbone.state_dict(), weights)
    seen.clear()
    resumed = trainer(faces, tmp_path / "part", **settings, resume=True)
    assert resumed.saved is not None
    resumed.fit()
    assert not seen
    for name, value in whole.kept.state_dict().items():
        assert value.equal(resumed.kept.state_dict()[name]), name
    assert whole.state.rows == resumed.state.rows


def test_images_swapped_while_features_are_made_and_put_back_leave_none(tmp_path: Path) -> None:
    """The next run took the features of one image for those of another, in silence."""
    weights = tmp_path / "weights.pth"
    torch.save(Detector("test_convnext").backbone.state_dict(), weights)
    settings = head_settings(initial_checkpoint=str(weights), cached_features="float32")
    checked = check_images(few_faces(tmp_path), progress=False).manifest
    fakes, reals = ([s.path for s in checked if s.label == label][:25] for label in (1, 0))

    def swap() -> None:
        for fake, real in zip(fakes, reals, strict=False):
            os.replace(fake, tmp_path / "aside")  # noqa: PTH105
            os.replace(real, fake)  # noqa: PTH105
            os.replace(tmp_path / "aside", real)  # noqa: PTH105

    swap()
    with pytest.raises(UnreadableError, match="was replaced after it was checked"):
        trainer(checked, tmp_path / "one", **settings)
    swap()
    run = trainer(checked, tmp_path / "two", **settings)
    plan = run.plan.epoch(0)[0]
    batch = next(run.images.load(0, [plan]))
    for row, features in zip(plan[0].rows, batch.images, strict=True):
        image = as_seen(load_image(run.train[row].path), Preprocessing(64, (8, 8)))
        with torch.no_grad():
            expected = run.detector.eval().features(run.detector.normalise(image[None]))[0]
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "focus.training.features.AUGMENTATION_VERSION",
        "torch.__version__",
        "torchvision.__version__",
        "timm.__version__",
        "numpy.__version__",
        "PIL.__version__",
    ],
)
def test_what_decides_a_feature_is_in_its_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(TrainConfig.of(**head_settings(model="test_convnext", image_size=64)))
    detector = Detector("test_convnext", image_size=64)
    before = feature_cache(config, detector).store.folder
    assert feature_cache(config, detector).store.folder == before
    monkeypatch.setattr(name, "0.0")
    assert feature_cache(config, detector).store.folder != before


def test_features_of_another_arithmetic_are_not_taken() -> None:
    """TF32 keeps 10 bits of a product's factors, so that its features are others."""
    detector = Detector("test_convnext", image_size=64)
    configs = [
        resolve(TrainConfig.of(**head_settings(model="test_convnext", image_size=64), **arithmetic))
        for arithmetic in ({}, {"tf32": False}, {"mixed_precision": "bf16"})
    ]
    folders = {feature_cache(config, detector).store.folder for config in configs}
    assert len(folders) == 3


def test_a_run_whose_features_are_changed_keeps_nothing_of_them(
    faces: Manifest, tmp_path: Path
) -> None:
    """Records change places in the midst of an epoch; what is printed is followed."""
    weights = tmp_path / "weights.pth"
    torch.save(Detector("test_convnext").backbone.state_dict(), weights)
    settings = head_settings(epochs=3, initial_checkpoint=str(weights))
    whole = trainer(faces, tmp_path / "whole", **settings)
    whole.fit()
    part = trainer(faces, tmp_path / "part", **settings)
    steps = part.train_step

    def step(*arguments: Any) -> None:
        if part.state.step == 4:
            (rows,) = (tmp_path / "cache").rglob("rows-2.bin")
            content = np.fromfile(rows, np.uint8).reshape(len(faces), -1)
            with rows.open("r+b") as file:  # a run reads on from a file that is removed
                file.write(np.roll(content, 1, axis=0).tobytes())
        steps(*arguments)

    part.train_step = step  # type: ignore[method-assign]
    with pytest.raises(UnreadableError, match="changed while they were used") as error:
        part.fit()
    assert "end what changes that folder" in str(error.value)
    assert "--resume --name run" in str(error.value)
    assert part.state.step == 4
    resumed = trainer(faces, tmp_path / "part", **settings, resume=True)
    resumed.fit()
    for name, value in whole.kept.state_dict().items():
        assert value.equal(resumed.kept.state_dict()[name]), name
    assert whole.state.rows == resumed.state.rows


def test_a_disk_without_locks_is_one_sentence(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_lock(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", no_lock)
        with pytest.raises(InputError, match=r"\(its file system has no locks\).*-features no\.$"):
            trainer(faces, tmp_path / "one", **head_settings())
        assert not list((tmp_path / "cache").rglob("*.bin"))
        trainer(faces, tmp_path / "two", **head_settings(cached_features="no")).fit()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": "flip"}, "--augment flip changes .* give --views N, or --cached-features no"),
        ({"tune": "full", "views": 2}, "--views 2 needs cached features: give --tune head"),
        ({"cached_features": "no", "views": 2}, "--views 2 needs cached features"),
        ({"tune": "norm", "cached_features": "float32"}, "needs a frozen network"),
        ({"input": "npr"}, "--input npr is not what a frozen .*: give --tune full, or --initial-"),
    ],
)
def test_what_cannot_be_cached_is_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve(TrainConfig.of(**{"tune": "head", **settings}))


def test_features_of_a_frozen_network_are_cached_unless_it_says_no() -> None:
    cached = resolve(TrainConfig.of(tune="head"))
    assert (cached.cached_features, cached.augment) == ("bfloat16", "none")
    assert resolve(cached) == cached
    assert resolve(TrainConfig.of(tune="head", views=2)).augment == "shift,flip"
    plain = resolve(TrainConfig.of(tune="head", cached_features="no"))
    assert (plain.cached_features, plain.augment) == ("no", "shift,flip")
    assert resolve(TrainConfig()).cached_features is None


def test_a_dry_run_says_size_and_time_and_computes_no_features(
    faces: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(faces, tmp_path, **head_settings(augment="flip", views=3, dry_run=True))
    dry_run(run.config, run.detector, faces, run.accelerator)
    record = 64 * 2 * 2 * 2 + 2 * 2 * 4 + 4
    said = capsys.readouterr().out
    assert f"on 222 images or views, whose features take {222 * record / 1e9:.3g} GB" in said
    assert not (tmp_path / "cache").exists()
