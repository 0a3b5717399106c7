"""The configuration of the two programs: typed, frozen, written as YAML beside the results.

A field that a recipe or a loss decides is None until :func:`resolve` fills it in. A flag is the
field's name with dashes; :mod:`focus.config.command_line` makes the command line from these
classes. What both programs take is in :mod:`focus.config.shared`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from focus.config.flags import LARGEST, check_utf8, declare, flag
from focus.config.losses import LOSSES, CamClass, Level, LossConfig
from focus.config.recipes import (
    PAPER_IMAGE_SIZES,
    RECIPES,
    SMALL_MODEL,
    Optimizer,
    Recipe,
    Sampling,
    Schedule,
    parse_augment,
)
from focus.config.schedules import parse_points
from focus.config.shared import SharedConfig
from focus.errors import InputError, did_you_mean
from focus.runtime.machine import default_workers

CONFIG_VERSION = 1
AS_THE_LOSS_SAYS: dict[str, Any] = {
    **dict.fromkeys(("cam_class", "classification_weight", "focus_weight", "saliency_weight")),
    **dict.fromkeys(("focus_level", "entropy_target", "focus_schedule", "saliency_schedule")),
    "target_from_maps": False,
}
"""What goes with the loss that is named beside it, as it is where nobody chose: all but temperature
and label smoothing, which no named loss sets, and by which losses are compared."""
ClassWeight = Literal["none", "balanced"]
EvalMetric = Literal["auc", "average_precision", "balanced_accuracy", "log_loss"]
# Of both programs alike: the last digits of a score may differ with it.
EVALUATION_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class TrainConfig(SharedConfig):
    """What train.py takes. None means: as the recipe, or the loss, says."""

    recipe: str | None = declare(
        None,
        "training",
        f"{' or '.join(RECIPES)}: the defaults of the flags marked 'recipe', with paper those "
        "of CYBORG's training (default: demo without --data, else paper)",
        "NAME",
    )
    model: str | None = declare(
        None, "model", f"{SMALL_MODEL} or a network of timm (default: recipe)", "NAME"
    )
    image_size: int | None = declare(None, "model", "pixels a side (default: recipe)")
    pretrained: bool | None = declare(
        None, "model", "start from timm's ImageNet weights (default: recipe)"
    )
    initial_checkpoint: str | None = declare(
        None, "model", "start from the weights in this file", "FILE"
    )
    loss: str = declare(
        "blend",
        "loss",
        f"{', '.join(LOSSES)}: what the flags below marked (default: loss) are set to",
        "NAME",
    )
    cam_class: CamClass | None = declare(
        None, "loss", "class whose activation map the loss looks at (default: loss)"
    )
    classification_weight: float | None = declare(
        None, "loss", "weight of the cross-entropy (default: loss)"
    )
    focus_weight: float | None = declare(None, "loss", "weight of the focus term (default: loss)")
    saliency_weight: float | None = declare(
        None, "loss", "weight of the distance to the human map (default: loss)"
    )
    focus_level: Level | None = declare(
        None,
        "loss",
        "how the entropy of the activation map is controlled (default: loss; minimize when only "
        "--focus-weight is given)",
    )
    entropy_target: float | None = declare(
        None,
        "loss",
        "entropy that match and hinge aim at, in [0, 1] (default: loss, else the human map's)",
    )
    temperature: float | None = declare(
        None, "loss", "of the softmax over the activation map (default: loss)"
    )
    label_smoothing: float | None = declare(
        None, "loss", "of the cross-entropy, in [0, 1) (default: loss)"
    )
    class_weight: ClassWeight = declare(
        "none", "loss", "balanced: weight each class's cross-entropy by its inverse frequency"
    )
    focus_schedule: str | None = declare(
        None,
        "loss",
        "factor of --focus-weight by epoch, linear in between: 0:0,5:1 rises from 0 over the first "
        "five epochs (default: 1 throughout)",
        "POINTS",
    )
    saliency_schedule: str | None = declare(
        None, "loss", "factor of --saliency-weight, likewise", "POINTS"
    )
    target_from_maps: bool = declare(
        False,
        "loss",
        "aim match and hinge at the mean entropy of the training set's human maps, measured first",
    )
    epochs: int | None = declare(None, "training", "passes over the training set (default: recipe)")
    batch_size: int | None = declare(
        None, "training", "images in a step of one process (default: recipe)"
    )
    optimizer: Optimizer | None = declare(None, "training", "the optimiser (default: recipe)")
    lr: float | None = declare(None, "training", "highest learning rate (default: recipe)")
    momentum: float | None = declare(
        None, "training", "of SGD, where the schedule does not set it (default: recipe)"
    )
    weight_decay: float | None = declare(None, "training", "of the optimiser (default: recipe)")
    schedule: Schedule | None = declare(
        None, "training", "how the learning rate changes (default: recipe)"
    )
    warmup: float | None = declare(
        None, "training", "share of the steps in which the learning rate rises (default: recipe)"
    )
    step_epochs: int | None = declare(
        None, "training", "epochs between two steps of the step schedule (default: recipe)"
    )
    step_gamma: float | None = declare(
        None, "training", "factor of a step of the step schedule (default: recipe)"
    )
    clip_grad: float | None = declare(
        None, "training", "largest norm of a step's gradient (default: no limit)"
    )
    ema_decay: float | None = declare(
        None,
        "training",
        "also average the weights over the steps, by this decay; the average is validated and kept "
        "(default: off)",
    )
    sampling: Sampling = declare(
        "shuffled", "training", "each image once per epoch, or equal numbers of real and fake ones"
    )
    augment: str | None = declare(
        None,
        "training",
        "changes made to training images and their maps: none, or some of "
        "crop,shift,flip,blur,jpeg (default: recipe)",
        "NAMES",
    )
    eval_metric: EvalMetric = declare(
        "auc", "training", "validation metric that selects the best model"
    )
    patience: int | None = declare(
        None, "training", "epochs without a better model after which to stop (default: never)"
    )
    max_nonfinite: int = declare(
        10, "training", "steps in a row with a loss that is not finite after which to stop"
    )
    seed: int = declare(
        0,
        "training",
        "of initial weights, order of the images, augmentation, and splits if the data name none",
    )
    gradient_accumulation_steps: int = declare(
        1, "training", "batches whose gradients make one step of the optimiser"
    )
    channels_last: bool | None = declare(
        None, "machine", "memory order of images and features (default: recipe)"
    )
    eval_batch_size: int = declare(
        EVALUATION_BATCH, "machine", "validation and test images at a time in one process"
    )
    compile: bool = declare(False, "machine", "compile the network with torch.compile")
    sync_bn: bool = declare(
        False, "machine", "share batch statistics among the processes of several GPUs"
    )
    output: str = declare("runs", "output", "folder of the run folders", "DIR")
    name: str | None = declare(
        None, "output", "name of the run folder (default: made of the data, the loss and the seed)"
    )
    resume: bool = declare(False, "output", "go on from the last checkpoint of the run folder")
    checkpoint_steps: int | None = declare(
        None,
        "output",
        "also save a checkpoint after so many steps (default: after each epoch only)",
    )
    checkpoints_kept: int = declare(2, "output", "how many checkpoints stay")
    report_to: tuple[str, ...] = declare(
        ("tensorboard",),
        "output",
        "where the run is logged: none, all, tensorboard or another tracker of Accelerate; "
        "may be repeated (default: tensorboard)",
        "NAME",
    )
    log_steps: int = declare(50, "output", "steps between two entries of the log")
    sheet_epochs: int = declare(
        10, "output", "epochs between two sheets of validation images with their maps, 0 = none"
    )
    compare_ce: bool = declare(False, "output", "also train with plain cross-entropy and compare")
    dry_run: bool = declare(
        False, "output", "say what would be trained, how large it is and how long it takes; stop"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("recipe", self.recipe, RECIPES)
        _check_choice("loss", self.loss, LOSSES)
        if self.name is not None and (
            self.name in ("", ".", "..") or "/" in self.name or "\\" in self.name
        ):
            raise InputError(
                f"--name got {self.name!r}: give the name of one folder, without slashes; "
                "--output says where it goes."
            )
        # Below such a folder safetensors reads no file.
        check_utf8("--name got", self.name)
        check_utf8("--output got", self.output)
        if self.pretrained and self.initial_checkpoint is not None:
            raise InputError(
                "--pretrained and --initial-checkpoint are two places to start from: give one."
            )
        if self.compare_ce and self.loss == "ce":
            raise InputError("--compare-ce with --loss ce would train the same twice: drop one.")
        if self.augment is not None:
            parse_augment(self.augment)
        _check_schedules(self, loss_config(self))


@dataclass(frozen=True, kw_only=True)
class ResolvedTrainConfig(TrainConfig):
    """A :class:`TrainConfig` that :func:`resolve` completed; what a run folder's config.yaml holds.

    None remains where it has a meaning of its own: ``entropy_target`` (the human map's entropy, or
    none needed), ``momentum`` (the optimiser has none, or the schedule sets it) and ``threads``
    (all cores of the machine that runs it).
    """

    recipe: str
    model: str
    image_size: int
    pretrained: bool
    cam_class: CamClass
    classification_weight: float
    focus_weight: float
    saliency_weight: float
    focus_level: Level
    temperature: float
    label_smoothing: float
    epochs: int
    batch_size: int
    optimizer: Optimizer
    lr: float
    weight_decay: float
    schedule: Schedule
    warmup: float
    step_epochs: int
    step_gamma: float
    augment: str
    channels_last: bool
    workers: int
    name: str

    @property
    def run_folder(self) -> Path:
        """The folder of the run's files: ``output/name``."""
        return Path(self.output) / self.name


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SharedConfig):
    """What evaluate.py takes; exactly one of ``run``, ``model_dir`` and ``compare``."""

    run: str | None = declare(
        None, "model", "a run folder of train.py, whose best model is taken", "DIR"
    )
    model_dir: str | None = declare(None, "model", "a folder with a saved model", "DIR")
    output: str | None = declare(
        None,
        "output",
        "folder for results.json and scores.csv, made if need be "
        "(default: evaluation in the folder of --run, with --model-dir evaluation here, with "
        "--compare comparison here)",
        "DIR",
    )
    compare: tuple[str, ...] = declare(
        (),
        "output",
        "score nothing, write a report of these run folders, or folders of evaluate.py, side by "
        "side; two at least, differences are those to the first",
        "RUN...",
        words="many",
    )
    robustness: bool = declare(
        False,
        "output",
        "also score the images under JPEG, blur, resizing and noise, each in five strengths: the "
        "AUC that is kept (20 times the time)",
    )
    faithfulness: bool = declare(
        False,
        "output",
        "also blur the place where each CAM peaks, and others: how far the decision rests on it "
        "(10 times the time)",
    )
    batch_size: int = declare(EVALUATION_BATCH, "machine", "images at a time in one process")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compare:
            self._check_compared()
        elif (self.run is None) == (self.model_dir is None):
            got = "neither" if self.run is None else "both"
            raise InputError(f"Give one of --run and --model-dir, got {got}.")

    def _check_compared(self) -> None:
        others = (
            *("run", "model_dir", "data", "test_data", "test_real"),
            *("robustness", "faithfulness"),
        )
        given = [flag(name) for name in others if getattr(self, name)]
        if given:
            raise InputError(f"{given[0]} has no effect with --compare, which scores nothing.")
        if len(self.compare) < 2:
            raise InputError(f"--compare needs two runs at least, got {self.compare[0]} alone.")
        if not self.report:
            raise InputError("--compare writes a report, and --report false none: drop one.")


def loss_config(config: TrainConfig) -> LossConfig:
    """The named loss with the flags that were given on top.

    A focus weight on a loss without a focus term minimises the entropy; without weight the level
    is "none".

    Raises:
        InputError: the flags contradict each other, or one of them would have no effect.
    """
    given = {
        f.name: value
        for f in fields(LossConfig)
        if (value := getattr(config, "focus_level" if f.name == "level" else f.name)) is not None
    }
    loss = replace(LOSSES[config.loss], **given)
    if loss.level == "none" and loss.focus_weight > 0:
        if config.focus_level is None:
            loss = replace(loss, level="minimize")
        elif config.focus_weight is None:
            loss = replace(loss, focus_weight=0.0)
        else:
            raise InputError(
                f"--focus-level none leaves no focus term for --focus-weight {loss.focus_weight:g}:"
                " drop one of them."
            )
    elif loss.focus_weight == 0:
        loss = replace(loss, level="none")
    aims = loss.level in ("match", "hinge")
    _refuse_idle(config, loss, aims)
    if config.target_from_maps and config.entropy_target is not None:
        raise InputError("--target-from-maps and --entropy-target are two aims: give one.")
    if config.target_from_maps or not aims:
        loss = replace(loss, entropy_target=None)
    if loss.classification_weight == loss.focus_weight == loss.saliency_weight == 0:
        raise InputError("All three weights of the loss are 0: give one of them above 0.")
    return loss


def _refuse_idle(config: TrainConfig, loss: LossConfig, aims: bool) -> None:
    """Raise InputError for a flag of a term that nothing asks for. aims: at an entropy.

    What :func:`resolve` fills in is no flag that was given.
    """
    if (
        loss.focus_weight == loss.saliency_weight == 0
        and loss.cam_class != LOSSES[config.loss].cam_class
    ):
        raise InputError(
            f"--cam-class {loss.cam_class} has no effect while the focus and the saliency term of "
            f"the loss {config.loss!r} weigh 0: give --focus-weight or --saliency-weight, or drop "
            "it."
        )
    idle = {
        "focus_level": config.focus_level not in (None, loss.level),
        "entropy_target": config.entropy_target is not None and not aims,
        "target_from_maps": config.target_from_maps and not aims,
    }
    for name in (name for name, is_idle in idle.items() if is_idle):
        given = getattr(config, name)
        what = flag(name) if given is True else f"{flag(name)} {given}"
        if loss.level == "none":
            raise InputError(
                f"{what} has no effect while the focus term of the loss {config.loss!r} weighs 0: "
                "give --focus-weight and --focus-level, or drop it."
            )
        raise InputError(
            f"{what} has no effect when the entropy is minimised: add --focus-level match or hinge."
        )


def resolve(config: TrainConfig) -> ResolvedTrainConfig:
    """Fill in what the recipe and the loss decide; resolving twice changes nothing."""
    recipe_name = config.recipe or ("paper" if config.data else "demo")
    recipe = RECIPES[recipe_name]
    model = config.model or recipe.model
    if config.model is not None:
        from timm.models import get_deprecated_models  # --help does without

        model = get_deprecated_models().get(model) or model
    size = PAPER_IMAGE_SIZES.get(model.partition(".")[0])  # without the tag of its weights
    if recipe_name == "paper" and size:
        recipe = replace(recipe, image_size=size)
    if model == SMALL_MODEL or config.initial_checkpoint is not None:
        recipe = replace(recipe, pretrained=False)

    values = asdict(config) | {"model": model}
    for f in fields(Recipe):
        if values[f.name] is None:
            values[f.name] = getattr(recipe, f.name)
    values["momentum"] = _momentum(config, values)
    for name in ("step_epochs", "step_gamma"):
        # Resolved before, it has the recipe's.
        if values["schedule"] != "step" and values[name] != getattr(recipe, name):
            raise InputError(
                f"{flag(name)} {values[name]:g} has no effect with the schedule "
                f"{values['schedule']}: give --schedule step, or drop it."
            )
    loss = asdict(loss_config(config))
    _refuse_of_classes(config, loss)
    values |= {"focus_level": loss.pop("level"), **loss, "recipe": recipe_name}
    if config.workers is None:
        values["workers"] = default_workers() if config.data else 0
    if config.name is None:
        data = Path(config.data[0]).resolve().stem or "data" if config.data else "demo"
        data = re.sub("[\ud800-\udfff]", "_", data)  # bytes that are not UTF-8
        values["name"] = f"{data}-{config.loss}-seed{config.seed}"
    return ResolvedTrainConfig(**values)


def _refuse_of_classes(config: TrainConfig, loss: Mapping[str, Any]) -> None:
    """Raise InputError for what of the classes is done twice, or for nothing.

    Here and not in the class, which reads the configuration of each run that there is.
    """
    if config.sampling == config.class_weight == "balanced":
        raise InputError(
            "--sampling balanced and --class-weight balanced each make the classes count alike, "
            "and together the rare one for more: give one."
        )
    if loss["classification_weight"] == 0 and not config.compare_ce:
        given = {"label_smoothing": loss["label_smoothing"], "class_weight": config.class_weight}
        for name, value in given.items():
            if value not in (0, "none"):
                raise InputError(
                    f"{flag(name)} {value} has no effect with --classification-weight 0: drop one "
                    "of them."
                )


def _momentum(config: TrainConfig, values: Mapping[str, Any]) -> float | None:
    """SGD's, if it is constant."""
    free = values["optimizer"] == "sgd" and values["schedule"] != "one-cycle"
    if config.momentum is not None and not free:
        why = (
            "with AdamW, which has betas"
            if values["optimizer"] == "adamw"
            else "with the schedule one-cycle, which moves it between 0.85 and 0.95"
        )
        raise InputError(f"--momentum {config.momentum:g} has no effect {why}: drop it.")
    return values["momentum"] if free else None


def write_config(config: TrainConfig | EvaluateConfig, path: str | Path) -> None:
    """Write a configuration as YAML that ``--config`` reads back to the same configuration."""
    text = yaml.safe_dump({"version": CONFIG_VERSION, **asdict(config)}, sort_keys=False)
    Path(path).write_text(text, encoding="utf-8")


def _check_schedules(config: TrainConfig, loss: LossConfig) -> None:
    for name, weight in (
        ("focus_schedule", loss.focus_weight),
        ("saliency_schedule", loss.saliency_weight),
    ):
        points = getattr(config, name)
        if points is not None:
            largest = weight * max(factor for _, factor in parse_points(flag(name), points))
            if largest > (most := LARGEST["focus_weight"]):
                raise InputError(
                    f"{flag(name)} {points} makes the weight {largest:g}: give factors that leave "
                    f"it at {most:g} or below."
                )
            if weight == 0:
                raise InputError(
                    f"{flag(name)} {points} has no effect while that term of the loss weighs 0: "
                    "give its weight too."
                )


def _check_choice(name: str, value: str | None, choices: Iterable[str]) -> None:
    if value is not None and value not in (names := list(choices)):
        raise InputError(
            f"{flag(name)} got {value!r}: it is one of {', '.join(names)}"
            f"{did_you_mean(value, names)}."
        )
