"""The configuration: what recipes, losses and flags make of it, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from focus.config.losses import LOSSES, LossConfig
from focus.config.recipes import RECIPES
from focus.config.train import TrainConfig, resolve
from focus.config.use import EvaluateConfig, ExplainConfig, ExportConfig
from focus.errors import InputError


def test_the_demo_recipe_serves_the_demo_set_and_the_paper_recipe_own_data() -> None:
    demo, paper = resolve(TrainConfig()), resolve(TrainConfig(data=("faces.csv",)))
    for config, name in ((demo, "demo"), (paper, "paper")):
        settings = dict(RECIPES[name])
        if name == "demo":
            settings["momentum"] = None  # AdamW has none
        assert {key: getattr(config, key) for key in settings} == settings
        assert config.recipe == name
    assert (demo.model, demo.image_size, demo.lr, demo.epochs) == ("focus_small", 64, 3e-3, 16)
    assert (demo.workers, demo.report_to) == (0, ("tensorboard",))
    # Boyd et al., 2023.
    assert (paper.model, paper.image_size, paper.pretrained) == ("densenet121.tv_in1k", 224, True)
    assert (paper.opt, paper.lr) == ("sgd", 0.005)
    assert (paper.momentum, paper.weight_decay) == (0.9, 1e-6)
    assert (paper.sched, paper.step_epochs, paper.step_gamma) == ("step", 12, 0.1)
    assert (paper.epochs, paper.batch_size, paper.augment) == (50, 20, "none")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"recipe": "paper", "lr": 0.1, "epochs": 3}, {"lr": 0.1, "epochs": 3, "batch_size": 20}),
        ({"recipe": "paper", "momentum": 0.5}, {"momentum": 0.5}),
        ({"recipe": "paper", "sched": "one-cycle", "momentum": 0.5}, {"momentum": None}),
        ({"recipe": "paper", "model": "inception_v3"}, {"image_size": 299}),
        ({"recipe": "quick", "data": ("faces",)}, {"model": "focus_small", "pretrained": False}),
        ({"recipe": "paper", "model": "xception"}, {"model": "legacy_xception"}),
        ({"recipe": "paper", "initial_checkpoint": "w.safetensors"}, {"pretrained": False}),
        (
            {"recipe": "foundation"},
            {"image_size": None, "pretrained": True, "tune": "head", "cached_features": "bfloat16"},
        ),
        (
            {"recipe": "npr"},
            {"model": "resnet50_npr", "input": "npr", "fit": "crop", "changes": ("cut", "flip")},
        ),
        ({"recipe": "univfd"}, {"views": 4, "cached_features": "bfloat16", "pool": "both"}),
        (
            {"recipe": "univfd", "tune": "full"},
            {"views": None, "cached_features": None, "augment": "flip,blur,jpeg"},
        ),
        # The features of an image are computed once: of its middle.
        ({"recipe": "foundation", "fit": "crop"}, {"augment": "none", "changes": ()}),
        ({}, {"name": "demo-blend-seed0"}),
        ({"data": ("sets/faces.csv",), "loss": "ce", "seed": 7}, {"name": "faces-ce-seed7"}),
        ({"data": ("tests/..",)}, {"name": f"{Path.cwd().stem}-blend-seed0"}),
    ],
)
def test_flags_on_top_of_a_recipe(flags: dict[str, Any], expected: dict[str, Any]) -> None:
    config = resolve(TrainConfig.of(**flags))
    assert {name: getattr(config, name) for name in expected} == expected
    assert resolve(config) == config


def test_without_human_maps_the_loss_is_cross_entropy_unless_another_is_asked_for() -> None:
    for flags, with_maps, without in (
        ({}, "blend", "ce"),
        ({"loss": "focus"}, "focus", "focus"),
        ({"focus_weight": 0.1}, "blend", "blend"),
    ):
        config = TrainConfig.of(**flags)
        assert (resolve(config).loss.name, resolve(config, maps=False).loss.name) == (
            with_maps,
            without,
        )
    plain = resolve(TrainConfig(), maps=False)
    assert (plain.name, plain.loss) == ("demo-ce-seed0", LOSSES["ce"])
    assert resolve(plain) == plain


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        *(({"loss": name}, loss) for name, loss in LOSSES.items()),
        # A weight given to a loss without a focus term: the entropy is minimised.
        ({"loss": "ce", "focus_weight": 0.1}, LossConfig(1, 0.1, focus_level="minimize")),
        (
            {"loss": "ce", "focus_weight": 1, "focus_level": "hinge", "entropy_target": 0.5},
            LossConfig(1, 1, focus_level="hinge", entropy_target=0.5),
        ),
        # No weight, or no level: no focus term, in one spelling.
        ({"loss": "focus", "focus_weight": 0}, LossConfig(focus_level="none")),
        ({"loss": "blend", "focus_level": "none"}, LossConfig(1, 0, 5, focus_level="none")),
        (
            {"loss": "focus", "focus_weight": 0, "focus_level": "none"},
            LossConfig(focus_level="none"),
        ),
        # The named loss's target goes with its level.
        ({"loss": "hinge", "focus_weight": 0}, LossConfig(focus_level="none")),
        ({"loss": "hinge", "focus_level": "minimize"}, LossConfig(1, 1, focus_level="minimize")),
        ({"loss": "hinge", "entropy_target": 0.4}, replace(LOSSES["hinge"], entropy_target=0.4)),
        (
            {"loss": "blend", "temperature": 2.0, "label_smoothing": 0.1, "saliency_weight": 1.0},
            LossConfig(1, 0.1, 1, temperature=2.0, label_smoothing=0.1),
        ),
        ({"loss": "match", "entropy": "sum"}, LossConfig(1, 1, focus_level="match", entropy="sum")),
        ({"loss": "ce", "entropy": "sum", "focus_weight": 3}, LossConfig(1, 3, entropy="sum")),
    ],
)
def test_flags_on_top_of_a_loss(flags: dict[str, Any], expected: LossConfig) -> None:
    loss = TrainConfig.of(**flags).loss
    assert loss == replace(expected, name=flags["loss"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"recipe": "dem"}, "--recipe got 'dem': it is one of paper, demo, foundation"),
        ({"loss": "blnd"}, "There is no loss 'blnd' .did you mean blend"),
        ({"augment": "crop,flap"}, "--augment got 'flap'"),
        ({"lr": float("inf")}, "--lr must be above 0, got inf"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be at least 0 and below 1, got 1.0"),
        (
            {"loss": "hinge", "entropy_target": 1.1},
            "--entropy-target must be .* at most 1, got 1.1",
        ),
        ({"name": "a/b"}, "--name got 'a/b'"),
        ({"data": "a"}, "data takes several texts, got 'a': give"),
        ({"data": ("a",), "columns": ("paht=x",)}, "--columns got 'paht=x': give path=NAME"),
        ({"test_data": {"a/b": "x"}}, "--test-data got a/b=x: give a name without slash"),
        ({"loss": "ce", "compare_ce": True}, "--compare-ce beside the loss ce"),
        ({"sampling": "balanced", "class_weight": "balanced"}, "--sampling balanced and --class-w"),
        ({"loss": "ce", "focus_level": "hinge"}, "--focus-level: .*'ce' has no focus term"),
        ({"loss": "ce", "entropy": "sum"}, "--entropy: the loss 'ce' has no focus term"),
        ({"loss": "ce", "entropy_target": 0.5}, "The loss 'ce' aims at no entropy"),
        ({"loss": "focus", "target_from_maps": True}, "The loss 'focus' aims at no entropy"),
        (
            {"loss": "hinge", "entropy_target": 0.5, "target_from_maps": True},
            "--target-from-maps and --entropy-target are two aims",
        ),
        ({"pool": "token"}, "--pool token leaves no CAM"),
        (
            {"compile": True, "compile_mode": "reduce-overhead", "grad_accum_steps": 2},
            "--grad-accum-steps 2 does: give --compile-mode default, or a larger --batch-size",
        ),
        ({"focus_schedule": "0"}, "--focus-schedule got '0': give EPOCH:FACTOR pairs"),
        (
            {"focus_weight": 0.3, "focus_level": "none"},
            "--focus-level none leaves nothing to --focus-weight",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(
    flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        TrainConfig.of(**flags)
    assert "\n" not in str(caught.value)


def test_what_else_is_needed_is_said() -> None:
    for config_class, flags, words in (
        (EvaluateConfig, {}, "Give one of --run, --model-dir, .* got none of them"),
        (EvaluateConfig, {"run": "a", "model_dir": "b"}, "got --run and --model-dir"),
        (EvaluateConfig, {"compare": ("a",)}, "--compare needs two runs at least, got a alone"),
        (EvaluateConfig, {"compare": ("a", "b"), "run": "c"}, "got --run and --compare"),
        (EvaluateConfig, {"run": "a", "common": True}, "--common is for --compare"),
        (TrainConfig, {"max_images": 9}, "--max-images takes a part of --data or --test-data"),
        (ExplainConfig, {"paths": ("a",)}, "There is no model: give --model-dir"),
        (ExplainConfig, {"model_dir": "a"}, "There is nothing to explain"),
        (
            ExplainConfig,
            {"model_dir": "a", "paths": ("a.png",), "as_video": True},
            "--as-video is of no use: no PATH is a folder",
        ),
        (ExportConfig, {"model_dir": "a"}, "There is no file to write: give --onnx"),
    ):
        with pytest.raises(InputError, match=words):
            config_class(**flags)
