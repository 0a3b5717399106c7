"""The configuration of ``focus train``: typed, frozen, written as YAML beside the results.

A field that a recipe or a loss decides is None until :func:`resolve` fills it in. A flag is the
field's name with dashes; :mod:`focus.config.command_line` makes the command line from these
classes. What other programs take too is in :mod:`focus.config.shared`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from focus.config.losses import (
    DEFAULT_LOSS,
    LOSS_SETTINGS,
    LOSSES,
    UNDECIDED,
    WITHOUT_MAPS,
    LossConfig,
    parse_points,
)
from focus.config.options import (
    BELOW_1,
    BETWEEN_0_AND_1,
    COUNT,
    NON_NEGATIVE,
    PIXELS,
    POSITIVE,
    SEED,
    flag,
    flat,
    in_loss,
    in_machine,
    in_model,
    in_output,
    in_training,
)
from focus.config.recipes import (
    CUT,
    FROM_SCRATCH,
    PAPER_IMAGE_SIZES,
    RECIPES,
    SMALL_MODEL,
    CachedFeatures,
    Fit,
    Input,
    Optimizer,
    Sampling,
    Schedule,
    Tune,
    check_pool,
    parse_augment,
)
from focus.config.shared import SharedConfig
from focus.config.use import EVALUATION_BATCH, EvaluateConfig
from focus.errors import InputError
from focus.runtime.machine import MixedPrecision, default_workers

CONFIG_VERSION = 2
ClassWeight = Literal["none", "balanced"]
CompileMode = Literal["default", "reduce-overhead"]
EvalMetric = Literal["auc", "average_precision", "balanced_accuracy", "log_loss"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(SharedConfig):
    """Settings of focus train. None leaves the choice to the recipe, or to the loss.

    Examples:
        >>> from focus import TrainConfig
        >>> config = TrainConfig.of(data=("faces",), loss="focus", focus_weight=0.3)
        >>> config.loss.focus_weight
        0.3
        >>> config.changed(seed=1).seed
        1
    """

    recipe: str | None = in_training(
        f"{', '.join(RECIPES)}: the defaults of the flags marked recipe. paper is CYBORG's "
        "training; quick, for the demo set called demo, a small network from scratch, minutes on "
        "a CPU; foundation the head of a frozen transformer; the others are others' detectors "
        "(docs/baselines.md) (default: demo without --data, else paper)"
    )
    model: str | None = in_model(f"{SMALL_MODEL} or a network of timm")
    image_size: int | None = in_model("pixels a side", within=PIXELS)
    pretrained: bool | None = in_model("start from timm's weights, which are downloaded once")
    initial_checkpoint: str | None = in_model("start from the weights in this file", metavar="FILE")
    tune: Tune | None = in_model(
        "what is trained: full (all weights), last-stage (that of the network, and head), norm "
        "(normalisation layers and head), head (alone), or lora (adapters of low rank, by peft, "
        "and head)"
    )
    pool: str | None = in_model(
        "what is classified: the mean of the cells or patch tokens, or both it and the class token",
        metavar="{mean,both}",
    )
    input: Input | None = in_model(
        "what the network sees: the colours, or of each pixel the difference to its neighbour (npr)"
    )
    fit: Fit | None = in_model(
        "how a picture comes to its size: squash resamples all of it, crop takes a part of its own "
        "pixels, at random in training, else the middle"
    )
    cached_features: CachedFeatures | None = in_model(
        "with --tune head, run the network once on each image and keep the features on disk, in "
        "this type; no: run it in each epoch (default: bfloat16)"
    )
    loss: LossConfig = in_loss(
        f"{', '.join(LOSSES)}: what the flags below marked (default: loss) are set to (default: "
        f"{DEFAULT_LOSS}, without human maps {WITHOUT_MAPS})",
        UNDECIDED,
        metavar="NAME",
    )
    class_weight: ClassWeight = in_loss(
        "balanced: weight the classes by their inverse frequency", "none"
    )
    focus_schedule: str | None = in_loss(
        "factor of --focus-weight by epoch, linear in between: 0:0,5:1 rises from 0 over the "
        "first five epochs (default: 1 throughout)",
        metavar="POINTS",
    )
    saliency_schedule: str | None = in_loss("of --saliency-weight, likewise", metavar="POINTS")
    target_from_maps: bool = in_loss(
        "aim match and hinge at the mean entropy of the human maps", False
    )
    epochs: int | None = in_training("passes over the training set", within=COUNT)
    batch_size: int | None = in_training("images in a step of one process", within=COUNT)
    opt: Optimizer | None = in_training("the optimiser")
    lr: float | None = in_training("highest learning rate", within=POSITIVE)
    momentum: float | None = in_training("of SGD, unless the schedule sets it", within=BELOW_1)
    weight_decay: float | None = in_training("of the optimiser", within=NON_NEGATIVE)
    layer_decay: float | None = in_training(
        "factor of the learning rate from each layer to the one before (default: none)",
        within=BETWEEN_0_AND_1,
    )
    sched: Schedule | None = in_training("how the learning rate changes")
    warmup: float | None = in_training("share of the steps in which the rate rises", within=BELOW_1)
    step_epochs: int | None = in_training("epochs between steps of the step schedule", within=COUNT)
    step_gamma: float | None = in_training("factor of a step of the step schedule", within=POSITIVE)
    clip_grad: float | None = in_training(
        "largest norm of a gradient (default: any)", within=POSITIVE
    )
    model_ema_decay: float | None = in_training(
        "keep the average of the weights over the steps, by this decay (default: off)",
        within=BETWEEN_0_AND_1,
    )
    sampling: Sampling = in_training(
        "each image once per epoch, or as many real as synthetic", "shuffled"
    )
    augment: str | None = in_training(
        "changes made to training images: none, or some of crop,shift,flip,blur,jpeg",
        metavar="NAMES",
    )
    views: int | None = in_training(
        "with cached features, fixed augmented views of each training image, one an epoch in turn",
        within=COUNT,
    )
    eval_metric: EvalMetric = in_training("validation metric that selects the best model", "auc")
    patience: int | None = in_training(
        "epochs without a better model at which to stop (default: never)", within=COUNT
    )
    max_nonfinite: int = in_training(
        "steps in a row without a finite loss at which to stop", 10, within=COUNT
    )
    seed: int = in_training(
        "of initial weights, order of the images, augmentation, and splits if the data name none",
        0,
        within=SEED,
    )
    grad_accum_steps: int = in_training("batches in one step", 1, within=COUNT)
    channels_last: bool | None = in_machine(
        "memory order of images and features (default: on a GPU, and in the recipe demo)"
    )
    mixed_precision: MixedPrecision | None = in_machine(
        "arithmetic of the network (default: what the launcher was told; else on a GPU bf16, or "
        "fp16 where bf16 is emulated, and no on a CPU)"
    )
    tf32: bool = in_machine("round float32 products of an NVIDIA GPU to TF32", True)
    cudnn_benchmark: bool = in_machine(
        "let cuDNN try which of its algorithms is the fastest for a size of batch", True
    )
    eval_batch_size: int = in_machine(
        "images at a time in validation and test", EVALUATION_BATCH, within=COUNT
    )
    compile: bool = in_machine("compile the network with torch.compile", False)
    compile_mode: CompileMode = in_machine(
        "of --compile; reduce-overhead replays CUDA graphs", "default"
    )
    grad_checkpointing: bool = in_machine(
        "compute features again for the gradient instead of keeping them: less memory", False
    )
    sync_bn: bool = in_machine("share batch statistics among the processes of several GPUs", False)
    output: str = in_output("folder of the run folders", "runs", metavar="DIR")
    name: str | None = in_output("the run folder (default: from the data, the loss and the seed)")
    resume: bool = in_output("go on from the last checkpoint of the run folder", False)
    checkpoint_steps: int | None = in_output(
        "also save after so many steps (default: after each epoch)", within=COUNT
    )
    checkpoints_kept: int = in_output("how many checkpoints stay", 2, within=COUNT)
    report_to: tuple[str, ...] = in_output(
        "none, all, tensorboard or another tracker of Accelerate (default: tensorboard)", ()
    )
    log_steps: int = in_output("steps between two entries of the log", 50, within=COUNT)
    sheet_epochs: int = in_output(
        "epochs between two sheets of validation images, 0 = none", 10, within=NON_NEGATIVE
    )
    compare_ce: bool = in_output("also train with plain cross-entropy and compare", False)
    dry_run: bool = in_output("say what would be trained, its size and time, and stop", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe not in (None, *RECIPES):
            raise InputError(f"--recipe got {self.recipe!r}: it is one of {', '.join(RECIPES)}.")
        if self.name and "/" in self.name:
            raise InputError(f"--name got {self.name!r}: give one folder, and --output its place.")
        if self.compare_ce and self.loss.name == WITHOUT_MAPS:
            raise InputError(
                "--compare-ce beside the loss ce, the default without human maps, would train the "
                "same twice: drop it, or give another --loss."
            )
        if self.sampling == self.class_weight == "balanced":
            raise InputError("--sampling balanced and --class-weight balanced: give one of them.")
        if self.compile and self.compile_mode == "reduce-overhead" and self.grad_accum_steps > 1:
            # From the second batch on, the graph overwrites the gradient that it should add to
            # (pytorch #169545).
            raise InputError(
                "--compile-mode reduce-overhead cannot add up gradients, as --grad-accum-steps "
                f"{self.grad_accum_steps} does: give --compile-mode default, or a larger "
                "--batch-size."
            )
        if self.pool is not None:
            check_pool(self.pool)
        if self.augment is not None:
            parse_augment(self.augment)
        for name in ("focus_schedule", "saliency_schedule"):
            if getattr(self, name) is not None:
                parse_points(flag(name), getattr(self, name))
        if self.target_from_maps:
            self.loss.check_aim()

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Return a configuration of settings by the names of their flags, those of the loss too."""
        return cls(**_nested(UNDECIDED, settings))

    def changed(self, **settings: Any) -> Self:
        """Return the configuration with other settings, by the names of their flags."""
        return replace(self, **_nested(self.loss, settings))


@dataclass(frozen=True, kw_only=True)
class ResolvedTrainConfig(TrainConfig):
    """A :class:`TrainConfig` that :func:`resolve` completed; what a run folder's config.yaml holds.

    None remains where it has a meaning of its own: ``entropy_target`` (the human map's entropy, or
    none needed), ``image_size`` (the network's own), ``momentum`` (the optimiser has none, or the
    schedule sets it), ``channels_last`` (on a GPU) and ``threads`` (all cores of the machine that
    runs it).
    """

    recipe: str
    model: str
    pretrained: bool
    tune: Tune
    # These have a default, so that a run of before they were flags can go on.
    pool: str = "mean"
    input: Input = "rgb"
    fit: Fit = "squash"
    epochs: int
    batch_size: int
    mixed_precision: MixedPrecision
    opt: Optimizer
    lr: float
    weight_decay: float
    sched: Schedule
    warmup: float
    step_epochs: int
    step_gamma: float
    augment: str
    workers: int
    name: str

    @property
    def run_folder(self) -> Path:
        """Return the folder of the run's files: ``output/name``."""
        return Path(self.output) / self.name

    @property
    def caches_features(self) -> bool:
        """Return whether a frozen network runs once on each image."""
        return self.cached_features not in (None, "no")

    @property
    def changes(self) -> tuple[str, ...]:
        """Return what changes training images, for :class:`focus.data.augment.Augmentation`."""
        if self.caches_features and self.views is None:
            return ()
        changes = parse_augment(self.augment)
        if self.fit == "crop":
            return (CUT, *changes)
        return changes


def _nested(loss: LossConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of which those of the loss are one, made of ``loss``."""
    by_field = {name: value for name, value in settings.items() if name not in LOSS_SETTINGS}
    by_field["loss"] = loss.changed(settings)
    return by_field


def resolve(config: TrainConfig, *, maps: bool = True) -> ResolvedTrainConfig:
    """Fill in what the recipe and the loss decide; resolving twice changes nothing.

    A precision that is not given is that of a CPU: the device's own is known once it is started.

    maps: Whether images have human maps, by which the loss is chosen if nothing of it is given.
    """
    loss = config.loss
    if loss.name is None:
        loss = loss.changed({"loss": DEFAULT_LOSS if maps else WITHOUT_MAPS})
    if config.target_from_maps:
        loss = replace(loss, entropy_target=None)

    recipe_name = config.recipe or ("paper" if config.data else "demo")
    recipe = dict(RECIPES[recipe_name])

    model = config.model or recipe["model"]
    if config.model is not None:
        from timm.models import get_deprecated_models  # --help does without

        model = get_deprecated_models().get(model) or model
    paper_size = PAPER_IMAGE_SIZES.get(model.partition(".")[0])  # without the tag of its weights
    if recipe_name == "paper" and paper_size:
        recipe["image_size"] = paper_size
    if model in FROM_SCRATCH or config.initial_checkpoint is not None:
        recipe["pretrained"] = False

    values = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    values["model"] = model
    values |= {name: value for name, value in recipe.items() if values[name] is None}
    if values["opt"] == "adamw" or values["sched"] == "one-cycle":
        values["momentum"] = None  # AdamW has betas, and one-cycle moves it
    values |= _cached_features(values, config)
    values["loss"] = loss
    values["recipe"] = recipe_name
    values["mixed_precision"] = config.mixed_precision or "no"
    if config.workers is None:
        values["workers"] = default_workers() if config.data else 0
    if config.name is None:
        data_name = "demo"
        if config.data:
            data_name = Path(config.data[0]).resolve().stem or "data"
        values["name"] = f"{data_name}-{loss.name}-seed{config.seed}"
    values["report_to"] = config.report_to or ("tensorboard",)
    return ResolvedTrainConfig(**values)


def _cached_features(values: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Return the settings that the features of a frozen network, if they are cached, decide.

    Raises:
        InputError: they contradict the others.
    """
    tune = values["tune"]
    views = values["views"]
    stored_as = values["cached_features"]
    caches = tune == "head" and stored_as != "no"
    if config.views is not None and not caches:
        raise InputError(f"--views {views} needs cached features: give --tune head, or drop it.")
    if caches and values["input"] == "npr" and config.initial_checkpoint is None:
        raise InputError(
            "--input npr is not what a frozen network was trained on: give --tune full, or "
            "--initial-checkpoint of one that was."
        )
    if tune != "head" and stored_as not in (None, "no"):
        raise InputError(
            f"--cached-features {stored_as} needs a frozen network: give --tune head, or drop it."
        )
    if not caches:
        return {"views": None}
    if views is None and config.augment not in (None, "none"):
        raise InputError(
            f"--augment {config.augment} changes each epoch's images, but cached features are "
            "computed once: give --views N, or --cached-features no."
        )
    decided = {"cached_features": stored_as or "bfloat16"}
    if not views:
        decided["augment"] = "none"
    return decided


def write_config(config: TrainConfig | EvaluateConfig, path: str | Path) -> None:
    """Write a configuration as YAML that ``--config`` reads back to the same configuration."""
    import yaml  # --help does without

    text = yaml.safe_dump({"version": CONFIG_VERSION, **flat(config)}, sort_keys=False)
    Path(path).write_text(text, encoding="utf-8")
