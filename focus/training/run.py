"""What ``train.py`` does: data, one run or two, and the table at the end."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import torch
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from timm.data import resolve_model_data_config

from focus.config.train import (
    SET_BY_LOSS,
    ResolvedTrainConfig,
    TrainConfig,
    loss_config,
    resolve,
)
from focus.data.bad_files import BAD_FILES, BadFile, write_bad_files
from focus.data.generators import families_tested, training_families, warnings, with_families
from focus.data.known_images import BEFORE, known_before
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.training_set import listed_images, sound_images
from focus.errors import InputError
from focus.evaluation.result_table import difference_lines, format_table
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.model.config import DetectorConfig
from focus.model.detector import Detector
from focus.runtime.launch import (
    closing_process_group,
    describe,
    finish_trackers,
    run_on_all,
    run_on_main_first,
    start,
)
from focus.training.dry_run import dry_run
from focus.training.run_folder import (
    SavedRun,
    check_alike,
    check_folder,
    check_processes,
    held,
    recorded_manifest,
)
from focus.training.trainer import Trainer


@closing_process_group()
def train(config: TrainConfig) -> None:
    """Train, test and print; everything that can be wrong is found before the first step.

    Raises:
        InputError: something that was given cannot be used.
    """
    run = resolve(config)
    runs = [run]
    if run.compare_ce:
        plain = replace(
            config,
            loss="ce",
            **SET_BY_LOSS,
            compare_ce=False,
            name=f"{run.name}-ce",
        )
        runs.append(resolve(plain))
    accelerator = start(run)
    main = accelerator.is_main_process
    saved, recorded = run_on_all(accelerator, lambda: _before(runs))
    for each, before in zip(runs, saved, strict=True):
        check_alike(each.run_folder, before and before.state.step)
        check_processes(each.run_folder, before, accelerator.num_processes)
    # What takes seconds first, then weights, which may have to be fetched, then every image.
    listed = run_on_main_first(
        accelerator,
        lambda: listed_images(run, recorded=recorded, progress=main, output=run.run_folder),
    )
    detectors = run_on_all(accelerator, lambda: [*map(_untrained, runs, saved)])
    (manifest, record, lost), bad = run_on_main_first(
        accelerator, lambda: sound_images(listed, run, recorded=recorded, progress=main)
    )
    if lost:
        accelerator.print(f"warning: {lost}")
    for line in data_lines(manifest, runs, detectors[0].config):
        accelerator.print(line)
    if line := other_normalisation(detectors[0]):
        accelerator.print(line)
    if config.image_size is None and (warning := other_size(detectors[0])):
        accelerator.print(f"warning: {warning}")
    if run.dry_run:
        for each, detector in zip(runs, detectors, strict=True):
            dry_run(each, detector, manifest, accelerator)
        return
    results = {
        each.name: _run(each, detector, manifest, record, bad, before)
        for each, detector, before in zip(runs, detectors, saved, strict=True)
    }
    if main and not manifest.split("test"):
        for name, found in results.items():
            best = ", ".join(f"{key} {value:.4g}" for key, value in found["model"].items())
            print(f"{name}: no test images (--test-data, --test-real); the best model: {best}")
    elif main:
        print(f"\n{format_table(results)}\n")
        if len(runs) == 2:
            first, second = (
                (run.name, Scores.from_csv(run.run_folder / "scores.csv"), results[run.name])
                for run in runs
            )
            for line in difference_lines(first, second):
                print(line)
    for each in runs:
        accelerator.print(f"run folder: {each.run_folder}")


def make_detector(config: ResolvedTrainConfig) -> Detector:
    """The untrained detector, its weights drawn from the seed.

    Raises:
        InputError: as :class:`Detector`.
    """
    torch.manual_seed(config.seed)
    return Detector(
        config.model,
        image_size=config.image_size,
        pretrained=config.pretrained,
        initial_checkpoint=config.initial_checkpoint,
        loss=loss_config(config),
    )


def _before(runs: list[ResolvedTrainConfig]) -> tuple[list[SavedRun | None], Manifest | None]:
    """What the runs go on from if they are resumed, and what they train on."""
    _trackers(runs[0])
    saved = [check_folder(each) for each in runs]
    records = map(recorded_manifest, runs, saved)
    return saved, next((record for record in records if record is not None), None)


def _untrained(config: ResolvedTrainConfig, saved: SavedRun | None) -> Detector:
    """The detector to train; what it starts from is not needed where a checkpoint replaces it."""
    if saved is not None:
        config = replace(config, pretrained=False, initial_checkpoint=None)
    detector = make_detector(config)
    if saved is not None:
        seen = dict(saved.state.seen)
        seen |= {name: tuple(seen[name]) for name in ("mean", "std") if name in seen}
        detector.config = replace(detector.config, **seen)
    return detector


def _run(
    config: ResolvedTrainConfig,
    detector: Detector,
    manifest: Manifest,
    record: Manifest,
    bad: list[BadFile],
    saved: SavedRun | None,
) -> Results:
    folder = config.run_folder
    # Without any, Accelerate would warn that none is installed.
    accelerator = start(config, log_with=_trackers(config) or None, project_dir=folder)
    trainer = Trainer(config, detector, manifest, accelerator, saved, record)
    with ExitStack() as stack:  # which makes the folder: what is wrong before leaves nothing
        main = accelerator.is_main_process
        run_on_main_first(
            accelerator, lambda: stack.enter_context(held(config, saved)) if main else None
        )
        accelerator.print(describe(accelerator, config))
        if bad and main:
            write_bad_files(bad, folder / BAD_FILES)
        if main and saved is None and (before := known_before(config)):
            before.to_csv(folder / BEFORE)
        trainer.fit()
        results = trainer.evaluate()
        finish_trackers(accelerator)
    return results


def _trackers(config: ResolvedTrainConfig) -> list[str]:
    """Accelerate's names of the trackers; it passes over those that are not installed."""
    names = [name for name in config.report_to if name != "none"]
    for name in names:
        if name not in (known := [str(kind) for kind in LoggerType]):
            raise InputError(f"--report-to got {name!r}: it is one of none, {', '.join(known)}.")
        if name not in ("all", *map(str, get_available_trackers())):
            raise InputError(f"--report-to {name} needs its package: install {name}, or drop it.")
    return names


def data_lines(
    manifest: Manifest, runs: list[ResolvedTrainConfig], before: DetectorConfig | None = None
) -> list[str]:
    """What is trained on, in a line, and a line for whatever is not as it seems.

    That is, a test generator that training knows or that is near it, and a loss that misses human
    maps. before: of the weights that training begins with.
    """
    counts = []
    for split in ("train", "validation", "test"):
        labels = Counter(s.label for s in manifest if s.split == split)
        counts.append(f"{split} {labels[REAL]} real + {labels[SYNTHETIC]} synthetic")
    train = manifest.split("train")
    n_maps = sum(sample.map_path is not None for sample in train)
    lines = [f"images: {', '.join(counts)}; {n_maps} training images have a human map"]
    lines += [f"warning: {line}" for line in _generator_warnings(manifest, before)]
    for run in runs:
        terms = []
        if run.saliency_weight:
            terms.append("saliency")
        if run.focus_level in ("match", "hinge") and run.entropy_target is None:
            terms.append("focus")
        if terms and not n_maps:
            lines.append(
                f"warning: no training image has a human map (--heatmaps), so the "
                f"{' and '.join(terms)} term of {run.name} is 0"
            )
    return lines


def other_size(detector: Detector) -> str:
    """What to say if a recipe's images are not of the size that the network is made for; or ""."""
    size = detector.image_size
    native = resolve_model_data_config(detector.backbone)["input_size"][-1]
    if size == native:
        return ""
    return (
        f"the recipe gives {detector.config.model} images of {size} x {size} pixels, it is made "
        f"for {native} x {native}: say which by --image-size"
    )


def other_normalisation(detector: Detector) -> str:
    """What to say if images are normalised otherwise than the network of that name does; or ""."""
    data = resolve_model_data_config(detector.backbone)
    mean, std = detector.mean, detector.std
    if (mean, std) == (tuple(data["mean"]), tuple(data["std"])):
        return ""
    return (
        f"images are normalised by mean {', '.join(map(str, mean))} and std "
        f"{', '.join(map(str, std))}, as the config.json beside the initial weights says"
    )


def _generator_warnings(manifest: Manifest, before: DetectorConfig | None) -> list[str]:
    known = training_families(manifest.split("train"))
    if before is not None:
        seen = before.after(known, known, ())
        known = with_families(seen.training_generators, seen.training_families)
    fakes = manifest.where(lambda sample: sample.split == "test" and sample.label == SYNTHETIC)
    return warnings(
        families_tested(((s.test_set, s.generator, s.family) for s in fakes), known), known
    )
