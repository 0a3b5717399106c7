"""The configuration: what recipes, losses and flags make of it, what is refused, and its YAML."""

import itertools
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from focus.config.command_line import load_config, parse
from focus.config.flags import LARGEST, RANGES, flag
from focus.config.losses import LOSSES, LossConfig
from focus.config.recipes import RECIPES
from focus.config.train import (
    EvaluateConfig,
    TrainConfig,
    loss_config,
    resolve,
    write_config,
)
from focus.config.use import ExplainConfig, ExportConfig
from focus.errors import InputError, did_you_mean
from focus.training.optimizer import make_optimizer, make_scheduler


def test_the_demo_recipe_serves_the_demo_set_and_the_paper_recipe_own_data() -> None:
    demo = resolve(TrainConfig())
    assert (demo.recipe, demo.model, demo.image_size, demo.pretrained) == (
        "demo",
        "focus_small",
        64,
        False,
    )
    assert (demo.optimizer, demo.lr, demo.weight_decay, demo.schedule, demo.warmup) == (
        "adamw",
        2e-3,
        0.02,
        "one-cycle",
        0.2,
    )
    assert (demo.epochs, demo.batch_size, demo.augment, demo.channels_last) == (
        20,
        16,
        "shift,flip",
        True,
    )
    assert demo.workers == 0
    paper = resolve(TrainConfig(data=("faces.csv",)))
    assert (paper.recipe, paper.model, paper.image_size, paper.pretrained) == (
        "paper",
        "densenet121.tv_in1k",
        224,
        True,
    )
    assert (paper.optimizer, paper.lr, paper.momentum, paper.weight_decay) == (
        "sgd",
        0.005,
        0.9,
        1e-6,
    )
    assert (paper.schedule, paper.step_epochs, paper.step_gamma) == ("step", 12, 0.1)
    assert (paper.epochs, paper.batch_size, paper.augment) == (50, 20, "none")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"recipe": "paper"}, 0.9),
        ({"recipe": "paper", "momentum": 0.5}, 0.5),
        ({"recipe": "paper", "schedule": "one-cycle"}, None),
        ({"recipe": "demo"}, None),
    ],
)
def test_momentum_where_there_is_a_constant_one(given: dict[str, Any], expected: Any) -> None:
    assert resolve(TrainConfig(**given)).momentum == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"optimizer": "sgd", "schedule": "one-cycle"}, "moves it between 0.85 and 0.95: drop it"),
        ({"optimizer": "adamw"}, "with AdamW"),
    ],
)
def test_a_momentum_without_effect_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"--momentum 0.8 has no effect .*{words}"):
        resolve(TrainConfig(momentum=0.8, **given))


def test_a_flag_wins_over_the_recipe() -> None:
    config = TrainConfig(recipe="paper", lr=0.1, epochs=3, pretrained=False, channels_last=True)
    resolved = resolve(config)
    assert (resolved.lr, resolved.epochs, resolved.pretrained, resolved.channels_last) == (
        0.1,
        3,
        False,
        True,
    )
    assert resolved.batch_size == RECIPES["paper"].batch_size


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"recipe": "paper", "model": "inception_v3"}, 299),
        ({"recipe": "paper", "model": "resnet50"}, 224),
        ({"recipe": "paper", "model": "inception_v3", "image_size": 128}, 128),
        ({"recipe": "demo", "model": "inception_v3"}, 64),
    ],
)
def test_image_size_of_the_paper_follows_the_network(given: dict[str, Any], size: int) -> None:
    assert resolve(TrainConfig(**given)).image_size == size


@pytest.mark.parametrize(
    ("model", "name", "size"),
    [
        ("xception", "legacy_xception", 299),
        ("tf_inception_v3", "inception_v3.tf_in1k", 299),
        ("tv_densenet121", "densenet121.tv_in1k", 224),
    ],
)
def test_a_name_that_timm_has_given_up_is_the_one_that_it_has_now(
    model: str, name: str, size: int
) -> None:
    config = resolve(TrainConfig(recipe="paper", model=model))
    assert (config.model, config.image_size) == (name, size)
    assert resolve(config) == config


def test_no_pretrained_weights_where_none_exist_or_others_are_given() -> None:
    assert not resolve(TrainConfig(recipe="paper", model="focus_small")).pretrained
    assert not resolve(TrainConfig(recipe="paper", initial_checkpoint="w.safetensors")).pretrained


def test_run_names_tell_data_loss_and_seed() -> None:
    assert resolve(TrainConfig()).name == "demo-blend-seed0"
    named = TrainConfig(data=("sets/original.csv",), loss="ce", seed=7)
    assert resolve(named).name == "original-ce-seed7"
    assert resolve(TrainConfig(name="first")).name == "first"
    assert resolve(TrainConfig(data=("caf\udce9?.csv",))).name == "caf_?-blend-seed0"
    assert resolve(TrainConfig(data=("tests/..",))).name == f"{Path.cwd().stem}-blend-seed0"


@pytest.mark.parametrize("name", LOSSES)
def test_a_named_loss_is_taken_as_it_is(name: str) -> None:
    assert loss_config(TrainConfig(loss=name)) == LOSSES[name]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # A weight given to a loss without a focus term: the entropy is minimised.
        ({"loss": "ce", "focus_weight": 0.1}, LossConfig(1, 0.1, 0, "minimize")),
        (
            {"loss": "cyborg", "focus_weight": 0.2, "cam_class": "contrast"},
            LossConfig(0.5, 0.2, 0.5, "minimize", "contrast"),
        ),
        (
            {"loss": "ce", "focus_weight": 1, "focus_level": "hinge", "entropy_target": 0.5},
            LossConfig(1, 1, 0, "hinge", entropy_target=0.5),
        ),
        # No weight, or no level: no focus term, in one spelling.
        ({"loss": "focus", "focus_weight": 0}, LossConfig(1, 0, 0, "none")),
        ({"loss": "blend", "focus_level": "none"}, LossConfig(1, 0, 5, "none")),
        ({"loss": "hinge", "focus_weight": 0}, LossConfig(1, 0, 0, "none")),
        ({"loss": "hinge", "focus_level": "none"}, LossConfig(1, 0, 0, "none")),
        ({"loss": "focus", "focus_weight": 0, "focus_level": "none"}, LossConfig(1, 0, 0, "none")),
        # The named loss's target goes with its level.
        ({"loss": "hinge", "focus_level": "minimize"}, LossConfig(1, 1, 0, "minimize")),
        ({"loss": "hinge", "entropy_target": 0.4}, replace(LOSSES["hinge"], entropy_target=0.4)),
        (
            {"loss": "blend", "temperature": 2.0, "label_smoothing": 0.1, "saliency_weight": 1.0},
            LossConfig(1, 0.1, 1, "minimize", temperature=2.0, label_smoothing=0.1),
        ),
    ],
)
def test_flags_on_top_of_a_loss(given: dict[str, Any], expected: LossConfig) -> None:
    assert loss_config(TrainConfig(**given)) == expected


def test_resolving_twice_changes_nothing() -> None:
    tried = 0
    for loss, weight, level, target in itertools.product(
        LOSSES, (None, 0.0, 0.3, 1.0), (None, "none", "match", "hinge", "minimize"), (None, 0.5)
    ):
        given = {"loss": loss, "focus_weight": weight, "focus_level": level}
        try:
            config = TrainConfig(**given, entropy_target=target)
        except InputError:
            continue
        tried += 1
        resolved = resolve(config)
        assert loss_config(resolved) == loss_config(config)
        again = resolve(TrainConfig(**asdict(resolved)))
        assert again == resolved
    assert tried > 100


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"recipe": "papre"}, "--recipe got 'papre': it is one of paper, demo .did you mean paper"),
        ({"loss": "blnd"}, "--loss got 'blnd'.*match, blend .did you mean blend"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"batch_size": -1}, "--batch-size must be at least 1"),
        ({"lr": float("inf")}, "--lr must be above 0, got inf"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"weight_decay": float("nan")}, "--weight-decay must be at least 0, got nan"),
        ({"saliency_weight": -0.1}, "--saliency-weight must be at least 0"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be at least 0 and below 1, got 1.0"),
        ({"loss": "hinge", "entropy_target": 1.1}, "--entropy-target must be from 0 to 1, got 1.1"),
        ({"image_size": 31}, "--image-size must be at least 32"),
        ({"threads": 0}, "--threads must be at least 1"),
        ({"workers": -1}, "--workers must be at least 0"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"name": "a/b"}, "--name got 'a/b'.*without slashes"),
        ({"name": ".."}, "--name got '..'"),
        ({"data_root": "images"}, "--data-root is of no use without --data"),
        (
            {"heatmaps": "maps", "test_data": {"A": "fakes"}},
            "--heatmaps maps is of no use without --data",
        ),
        ({"layout": "cyborg"}, "--layout is of no use without --data"),
        ({"allow_outside_root": True}, "--allow-outside-root is of no use without --data"),
        ({"data": ("a",), "columns": "path"}, "--columns got 'path': give path=NAME,label=NAME"),
        ({"data": ("a",), "columns": "paht=x"}, "--columns got 'paht=x': give path=NAME"),
        ({"data": ("a",), "columns": "map=x,heatmap=y"}, "--columns names map_path twice"),
        ({"test_data": {"a/b": "x"}}, "--test-data got a/b=x: give NAME=PATH"),
        (
            {"test_real": {"G\udce9": "x"}},
            r"--test-real has the name 'G\\udce9', which is not UTF-8",
        ),
        ({"data": ("a",), "generator": "\udce9"}, r"--generator got '\\udce9', which is not UTF-8"),
        ({"name": "nm\udce9"}, r"--name got 'nm\\udce9', which is not UTF-8: give another one"),
        ({"output": "o\udce9"}, r"--output got 'o\\udce9', which is not UTF-8"),
        ({"pretrained": True, "initial_checkpoint": "w"}, "--pretrained and --initial-checkpoint"),
        ({"loss": "ce", "compare_ce": True}, "--compare-ce with --loss ce"),
        ({"loss": "ce", "focus_level": "hinge"}, "--focus-level hinge has no effect .*'ce'"),
        (
            {"loss": "ce", "cam_class": "contrast"},
            "--cam-class contrast has no effect while the focus and the saliency term of the loss "
            "'ce' weigh 0: give --focus-weight or --saliency-weight, or drop it",
        ),
        (
            {"loss": "cyborg", "saliency_weight": 0.0, "cam_class": "true"},
            "--cam-class true has no effect",
        ),
        ({"loss": "ce", "entropy_target": 0.5}, "--entropy-target 0.5 has no effect"),
        ({"loss": "focus", "entropy_target": 0.5}, "add --focus-level match or hinge"),
        (
            {"loss": "focus", "focus_level": "none", "entropy_target": 0.5},
            "--entropy-target 0.5 has no effect while the focus term of the loss 'focus' weighs 0",
        ),
        (
            {"loss": "hinge", "focus_weight": 0, "entropy_target": 0.5},
            "--entropy-target 0.5 has no effect while the focus term of the loss 'hinge' weighs 0",
        ),
        (
            {"loss": "focus", "focus_weight": 0, "focus_level": "match"},
            "--focus-level match has no effect while the focus term of the loss 'focus' weighs 0",
        ),
        ({"loss": "focus", "target_from_maps": True}, "--target-from-maps has no effect when the"),
        (
            {"loss": "hinge", "focus_weight": 0, "target_from_maps": True},
            "--target-from-maps has no effect while .*: give --focus-weight and --focus-level, or",
        ),
        (
            {"loss": "hinge", "entropy_target": 0.5, "target_from_maps": True},
            "--target-from-maps and --entropy-target are two aims",
        ),
        (
            {"loss": "saliency", "focus_schedule": "0:0,5:1"},
            "--focus-schedule 0:0,5:1 has no effect while that term of the loss weighs 0: give its",
        ),
        (
            {"loss": "focus", "saliency_schedule": "0:1"},
            "--saliency-schedule 0:1 has no effect while that term of the loss weighs 0",
        ),
        ({"focus_schedule": "0"}, "--focus-schedule got '0': give EPOCH:FACTOR pairs"),
        (
            {"loss": "focus", "focus_weight": 2, "focus_schedule": "0:0,5:1e30"},
            r"--focus-schedule 0:0,5:1e30 makes the weight 2e\+30: give factors that leave it at "
            r"1e\+30 or below",
        ),
        ({"focus_weight": 0.3, "focus_level": "none"}, "no focus term for --focus-weight 0.3"),
        ({"loss": "ce", "classification_weight": 0.0}, "All three weights of the loss are 0"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        TrainConfig(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"recipe": "demo", "step_epochs": 3},
            "--step-epochs 3 has no effect with the schedule one-cycle: give --schedule step, or "
            "drop it",
        ),
        (
            {"recipe": "paper", "schedule": "cosine", "step_gamma": 0.3},
            "--step-gamma 0.3 has no effect with the schedule cosine",
        ),
    ],
)
def test_steps_that_no_schedule_takes_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve(TrainConfig(**given))
    assert resolve(TrainConfig(**given | {"schedule": "step"})).schedule == "step"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"sampling": "balanced", "class_weight": "balanced"},
            "--sampling balanced and --class-weight balanced .*: give one",
        ),
        (
            {"loss": "saliency", "classification_weight": 0.0, "label_smoothing": 0.2},
            "--label-smoothing 0.2 has no effect with --classification-weight 0: drop one",
        ),
        (
            {"loss": "saliency", "classification_weight": 0.0, "class_weight": "balanced"},
            "--class-weight balanced has no effect with --classification-weight 0",
        ),
    ],
)
def test_classes_that_count_twice_or_for_nothing_are_refused(
    given: dict[str, Any], words: str
) -> None:
    config = TrainConfig(**given)  # as that of a run of earlier
    with pytest.raises(InputError, match=words):
        resolve(config)
    if "classification_weight" in given:
        resolve(replace(config, compare_ce=True))


def test_each_range_is_that_of_a_field() -> None:
    configs = (TrainConfig, EvaluateConfig, ExplainConfig, ExportConfig)
    names = {field.name for config in configs for field in fields(config)}
    assert set(RANGES) - names == set(LARGEST) - names == set()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": 1e300}, "--lr must be at most 1e+30, got 1e+300"),
        ({"weight_decay": 1e300}, "--weight-decay must be at most 1000000.0, got 1e+300"),
        ({"clip_grad": 1e39}, "--clip-grad must be at most 1e+30, got 1e+39"),
        ({"temperature": 1e39}, "--temperature must be at most 1e+30, got 1e+39"),
        ({"focus_weight": 1e39}, "--focus-weight must be at most 1e+30, got 1e+39"),
        ({"step_gamma": 1.5}, "--step-gamma must be at most 1, got 1.5"),
        ({"threads": 100_000}, "--threads must be at most 1024, got 100000"),
        ({"workers": 100_000}, "--workers must be at most 1024, got 100000"),
        ({"image_size": 10**6}, "--image-size must be at most 16384, got 1000000"),
        (
            {"eval_batch_size": 2**31},
            "--eval-batch-size must be at most 2147483647, got 2147483648",
        ),
        ({"batch_size": 10**400}, "--batch-size must be at most 2147483647, got 1000"),
        ({"seed": 10**400}, "--seed must be at least 0 and below 2**32, got 1000"),
    ],
)
def test_numbers_that_are_too_large_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        TrainConfig(**given)
    with pytest.raises(InputError, match="--batch-size must be at most 2147483647"):
        EvaluateConfig(run="a", batch_size=99999999999999999999)


def test_every_number_has_a_largest_one() -> None:
    """But those whose range ends by itself; numpy and torch take no larger whole number."""
    ends = {name for name, (allowed, _) in RANGES.items() if not allowed(2.0**33)}
    assert set(RANGES) - ends == set(LARGEST)
    for name in ("epochs", "batch_size", "gradient_accumulation_steps", "frames"):
        assert LARGEST[name] < 2**31


def test_the_largest_learning_rate_and_decay_are_numbers_that_torch_takes() -> None:
    """Of AdamW's first step, which divides by 1 - beta1, and whose decay multiplies the two."""
    for optimizer, schedule in itertools.product(("adamw", "sgd"), ("one-cycle", "step")):
        config = resolve(
            TrainConfig(
                recipe="demo",
                optimizer=optimizer,
                schedule=schedule,
                warmup=0.0,
                epochs=int(LARGEST["epochs"]),
                step_gamma=LARGEST["step_gamma"] if schedule == "step" else None,
                lr=LARGEST["lr"],
                weight_decay=LARGEST["weight_decay"],
            )
        )
        model = torch.nn.Linear(2, 1)
        made = make_optimizer(config, model)
        schedule_of = make_scheduler(config, made, 10)
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
            made.step()
            schedule_of.step()


def test_an_empty_text_is_no_value() -> None:
    for name in ("output", "initial_checkpoint", "heatmaps", "data_root", "model", "columns"):
        with pytest.raises(InputError, match=f"{flag(name)} got an empty text: give a value, or"):
            TrainConfig(**{name: ""})
    for name in ("data", "report_to"):
        with pytest.raises(InputError, match=f"{flag(name)} got an empty text"):
            TrainConfig(**{name: ("a", "")})
    for name in ("run", "model_dir", "output"):
        with pytest.raises(InputError, match=f"{flag(name)} got an empty text"):
            EvaluateConfig(**{"run": "a"} | {name: ""})
    with pytest.raises(InputError, match="--compare got an empty text"):
        EvaluateConfig(compare=("a", ""))
    with pytest.raises(InputError, match="--paths got an empty text"):
        ExplainConfig(model_dir="a", paths=("",))
    with pytest.raises(InputError, match="--model-dir got an empty text"):
        ExplainConfig(model_dir="", paths=("a",))
    with pytest.raises(InputError, match="--onnx got an empty text"):
        ExportConfig(model_dir="a", onnx="")


def test_evaluation_takes_one_model() -> None:
    assert EvaluateConfig(run="runs/a").model_dir is None
    with pytest.raises(InputError, match="got neither"):
        EvaluateConfig()
    with pytest.raises(InputError, match="got both"):
        EvaluateConfig(run="a", model_dir="b")
    assert EvaluateConfig(compare=("a", "b")).run is None


def test_a_written_configuration_reads_back_the_same(tmp_path: Any) -> None:
    config = TrainConfig(
        data=("a b.csv", "1", "null"),
        heatmaps="maps: all",
        layout="0_real-1_fake",
        columns="path=a b,label=",
        allow_outside_root=True,
        test_data={"stylegan": "x.csv", "007": "true"},
        test_real={"no": "ffhq"},
        loss="cyborg",
        focus_weight=1e-7,
        cam_class="true",
        mixed_precision="no",
        seed=2**32 - 1,
        name="1e3",
        resume=True,
    )
    path = tmp_path / "config.yaml"
    for written in (config, resolve(config)):
        write_config(written, path)
        assert path.read_text().startswith("version: 1\n")
        read = load_config(TrainConfig, path)
        assert asdict(read) == asdict(written)
        assert resolve(read) == resolve(config)
    evaluation = EvaluateConfig(run="runs/a", data=("b",), batch_size=3)
    write_config(evaluation, path)
    assert load_config(EvaluateConfig, path) == evaluation


def _train(*words: str) -> TrainConfig:
    return parse(TrainConfig, words)


def test_another_loss_or_recipe_over_a_runs_configuration(tmp_path: Path) -> None:
    """It spells out what its own loss and recipe decided, which no other takes over."""
    file = tmp_path / "config.yaml"
    shared = ("--label-smoothing", "0.1", "--temperature", "2")  # by these losses are compared
    run = _train("--loss", "match", "--focus-schedule", "0:0,5:1", "--focus-weight", "2", *shared)
    write_config(resolve(run), file)
    config = ["--config", str(file)]
    assert resolve(_train(*config)) == resolve(run)
    assert resolve(_train(*config, "--loss", "match")) == resolve(run)
    name = resolve(run).name
    for given in (["--loss", "ce"], ["--loss", "hinge", "--entropy-target", "0.4"]):
        expected = resolve(_train(*given, *shared, "--name", name))
        assert resolve(_train(*config, *given)) == expected
    paper = resolve(_train(*config, "--recipe", "paper", "--lr", "0.1"))
    assert (paper.model, paper.optimizer, paper.lr) == ("densenet121.tv_in1k", "sgd", 0.1)
    assert loss_config(paper) == loss_config(run)


def test_what_somebody_wrote_into_a_file_stays_beside_another_loss_or_recipe(
    tmp_path: Path,
) -> None:
    file, second = tmp_path / "mine.yaml", tmp_path / "second.yaml"
    file.write_text("recipe: paper\nloss: match\nepochs: 5\ntemperature: 2\n")
    second.write_text("loss: hinge\n")
    files = ["--config", str(file), "--config", str(second)]
    found = resolve(_train(*files, "--recipe", "demo"))
    assert (found.loss, found.temperature, found.entropy_target) == ("hinge", 2, 0.6)
    assert (found.epochs, found.image_size) == (5, 64)


def test_did_you_mean_is_silent_when_nothing_is_like_it() -> None:
    assert did_you_mean("epoch", ["epochs", "seed"], "--") == " (did you mean --epochs?)"
    assert did_you_mean("zzz", ["epochs", "seed"]) == ""
