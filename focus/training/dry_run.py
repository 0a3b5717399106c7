"""``focus train --dry-run``: say what would be trained, how large it is, how long it takes."""

import textwrap
import time
from contextlib import closing
from typing import Any

from accelerate import Accelerator

from focus.config.losses import LOSSES
from focus.config.options import GROUPS, flag, flags, flat
from focus.config.recipes import RECIPES, SOURCES
from focus.config.train import ResolvedTrainConfig, TrainConfig
from focus.data.cache.images import ImageCache, gb
from focus.data.manifest import LABEL_NAMES, UNLABELLED, Manifest
from focus.errors import shown
from focus.evaluation.inference import images_only
from focus.model.detector import Detector
from focus.runtime.launch import describe
from focus.runtime.progress import format_duration
from focus.training.features import feature_cache
from focus.training.trainer import Trainer
from focus.training.tuning import describe_tuning

_TIMED_STEPS = 3  # of training
_TIMED_BATCHES = 8  # of validation
_WRAPPED: dict[str, Any] = {"subsequent_indent": "    ", "break_on_hyphens": False}
_PREFETCHED = 2  # batches of each worker, as torch's DataLoader has it


def dry_run(
    config: ResolvedTrainConfig,
    detector: Detector,
    manifest: Manifest,
    accelerator: Accelerator,
    decoded: ImageCache | None = None,
) -> None:
    """Print the configuration, the images, the model, and the time that a few real steps took."""
    say = accelerator.print
    for line in ("", *settings(config), "", *image_counts(manifest)):
        say(line)
    trainer = Trainer(config, detector, manifest, accelerator, decoded=decoded)
    parameters = sum(p.numel() for p in detector.parameters())
    say(
        f"model: {config.model}, {parameters / 1e6:.2f} million parameters "
        f"({4 * parameters / 2**20:.1f} MiB), maps of {detector.grid[0]} x {detector.grid[1]} cells"
    )
    say(describe(accelerator))
    if config.recipe in SOURCES:
        say(f"the recipe follows {SOURCES[config.recipe]}; docs/baselines.md: what differs")
    if RECIPES[config.recipe] is not RECIPES["quick"]:
        say("a first trial: --recipe quick trains a small network in minutes, on a CPU too")
    tuning = describe_tuning(detector, config.tune)
    if tuning:
        say(tuning)
    plan = trainer.plan
    steps = f"steps: {config.epochs} epochs x {plan.steps} = {config.epochs * plan.steps}"
    if config.caches_features:
        images = len(manifest) + len(trainer.train) * ((config.views or 1) - 1)
        seconds = images * _seconds_per_image(trainer)
        size = gb(images * feature_cache(config, detector).record.itemsize)
        say(
            f"{steps}, of {plan.images_per_step} images each\ntime: {format_duration(seconds)} to "
            f"run the network once on {images} images or views, whose features take {size}, the "
            "steps of the head apart"
        )
        return
    with closing(trainer.images):
        seconds = _seconds_per_step(trainer)
    validation = config.epochs * len(trainer.validation) * _seconds_per_image(trainer)
    say(
        f"{steps}, of {plan.images_per_step} images each\ntime: "
        f"{format_duration(config.epochs * plan.steps * seconds + validation)} (a step took "
        f"{seconds:.3g} s, validation {format_duration(validation)} of it), the test images apart"
    )


def settings(config: ResolvedTrainConfig) -> list[str]:
    """Return a paragraph for each section of the flags: their values, and who decided them.

    What has its usual value is not named.
    """
    by_recipe = RECIPES[config.recipe]
    by_loss = LOSSES[str(config.loss.name)].settings
    defaults = flat(TrainConfig())
    values = flat(config)
    sections: dict[str, dict[str, list[str]]] = {}
    for name, field in flags(TrainConfig).items():
        value = values[name]
        if value is None:
            continue
        if value == by_recipe.get(name):
            by = f"by the recipe {config.recipe}"
        elif name in by_loss and value == by_loss[name]:
            by = f"by the loss {config.loss.name}"
        elif value == defaults[name]:
            continue
        else:
            by = "given or found"
        if isinstance(value, dict):
            value = [f"{key}={path}" for key, path in value.items()]
        text = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
        section = sections.setdefault(field.metadata["group"], {})
        section.setdefault(by, []).append(f"{flag(name)[2:]} {text}")
    return [
        textwrap.fill(f"{group} {by}: {', '.join(values)}", 79, **_WRAPPED)
        for group in GROUPS
        for by, values in sections.get(group, {}).items()
    ]


def image_counts(manifest: Manifest) -> list[str]:
    """Return a line for each split, with its classes and generators."""
    lines = []
    for split in ("train", "validation", "test"):
        of_split = manifest.split(split)
        labelled = of_split.take(of_split.labels != UNLABELLED)
        by_kind = labelled.counts("label", "generator")
        counts = {(LABEL_NAMES[label], name): count for (label, name), count in by_kind.items()}
        kinds = [
            f"{count} {label}{f' of {shown(generator)}' if generator else ''}"
            for (label, generator), count in sorted(counts.items())
        ]
        text = f"{split}: {sum(counts.values())} images: {', '.join(kinds)}"
        lines.append(textwrap.shorten(text, 3 * 79, placeholder=" ..."))
    return [textwrap.fill(line, 79, **_WRAPPED) for line in lines]


def _seconds_per_step(trainer: Trainer) -> float:
    trainer.model.train()
    # What the workers loaded while the first step compiled says nothing of how fast they load.
    before = 1 + -(-_PREFETCHED * trainer.config.workers // trainer.plan.accumulation)
    steps = trainer.plan.epoch(0)[: before + _TIMED_STEPS]
    loaded = trainer.images.load(0, steps)
    untimed = min(before, len(steps) - 1)
    began = time.perf_counter()
    for number, step in enumerate(steps):
        if number == untimed:
            trainer.tally.read()  # waits for a GPU, which the steps do not
            began = time.perf_counter()
        trainer.train_step(step, loaded)
    trainer.tally.read()
    return (time.perf_counter() - began) / (len(steps) - untimed)


def _seconds_per_image(trainer: Trainer) -> float:
    """Time validation by all processes, with the start of its workers, which each has."""
    count = _TIMED_BATCHES * trainer.config.eval_batch_size
    images = trainer.validation[:count]
    began = time.perf_counter()
    trainer.score(trainer.kept, images_only(images), progress=False)
    return (time.perf_counter() - began) / len(images)
