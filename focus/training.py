"""What ``train.py`` does: data, one run or two, and the table at the end."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from timm.data import resolve_model_data_config

from focus.config import AS_THE_LOSS_SAYS, ResolvedTrainConfig, TrainConfig, loss_config, resolve
from focus.data.bad_files import BAD_FILES, BadFile, check_images, write_bad_files
from focus.data.demo import demo_manifest
from focus.data.generators import families_tested, training_families, warnings, with_families
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.readers import read_given
from focus.data.resumed import Resumed, resumed_data
from focus.data.splits import SHARE, assign_splits, check_trainable, check_unseen
from focus.detector_config import DetectorConfig
from focus.dry_run import dry_run
from focus.errors import InputError
from focus.models import Detector
from focus.result_table import difference_lines, format_table
from focus.results import Results
from focus.runs import (
    BEFORE,
    SavedRun,
    check_alike,
    check_folder,
    check_processes,
    folder_of,
    held,
    known_before,
    recorded_manifest,
)
from focus.runtime import describe, ended_together, finish_trackers, main_first, start, together
from focus.scores import Scores
from focus.trainer import Trainer


@ended_together()
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
            **AS_THE_LOSS_SAYS,
            compare_ce=False,
            name=f"{run.name}-ce",
        )
        runs.append(resolve(plain))
    accelerator = start(run)
    main = accelerator.is_main_process
    saved, recorded = together(accelerator, lambda: _before(runs))
    for each, before in zip(runs, saved, strict=True):
        check_alike(folder_of(each), before and before.state.step)
        check_processes(folder_of(each), before, accelerator.num_processes)
    # What takes seconds first, then weights, which may have to be fetched, then every image.
    listed = main_first(
        accelerator,
        lambda: listed_images(run, recorded=recorded, progress=main, output=folder_of(run)),
    )
    detectors = together(accelerator, lambda: [*map(_untrained, runs, saved)])
    (manifest, record, lost), bad = main_first(
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
                (run.name, Scores.from_csv(folder_of(run) / "scores.csv"), results[run.name])
                for run in runs
            )
            for line in difference_lines(first, second):
                print(line)
    for each in runs:
        accelerator.print(f"run folder: {folder_of(each)}")


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
    folder = folder_of(config)
    # Without any, Accelerate would warn that none is installed.
    accelerator = start(config, log_with=_trackers(config) or None, project_dir=folder)
    trainer = Trainer(config, detector, manifest, accelerator, saved, record)
    with ExitStack() as stack:  # which makes the folder: what is wrong before leaves nothing
        main = accelerator.is_main_process
        main_first(accelerator, lambda: stack.enter_context(held(config, saved)) if main else None)
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


def training_manifest(config: ResolvedTrainConfig, *, progress: bool = True) -> Manifest:
    """The images that a run would take, with their splits; raises InputError as its two steps."""
    listed = listed_images(config, progress=progress)
    return sound_images(listed, config, progress=progress)[0].manifest


def listed_images(
    config: ResolvedTrainConfig,
    *,
    recorded: Manifest | None = None,
    progress: bool = True,
    output: Path | None = None,
) -> Manifest:
    """All images of a run with their splits: the demo set, or ``--data`` and the test sets.

    recorded: what the run that is resumed trains on; its splits are taken, none is drawn. output:
    the folder of a new run, whose pictures may not be taken for images.

    Raises:
        InputError: no usable images, a split without one of the classes, images to validate or
            test on that the weights which training begins with know.
    """
    own, tests = read_given(config, output=output if recorded is None else None)
    if not own:
        manifest = demo_manifest(progress=progress)
    else:
        if progress and recorded is None and (line := _drawn_line(own, config)):
            print(line)
        manifest = own if recorded is not None else assign_splits(own, seed=config.seed)
    manifest += tests
    if recorded is None:
        check_trainable(manifest)
        check_unseen(manifest, known_before(config), str(config.initial_checkpoint))
    return manifest


def sound_images(
    listed: Manifest,
    config: ResolvedTrainConfig,
    *,
    recorded: Manifest | None = None,
    progress: bool = True,
) -> tuple[Resumed, list[BadFile]]:
    """Those of the images that can be decoded, and the files of those that cannot.

    recorded: what the run that is resumed began with, of which files may be lost since.

    Raises:
        InputError: a split without one of the classes, too many bad files, other data than those
            recorded.
    """
    manifest, bad = listed, list[BadFile]()
    if config.data or config.test_data or config.test_real:
        # The demo set's own checksum has been verified.
        manifest, bad = check_images(manifest, progress=progress, max_bad=config.max_bad)
    found = Resumed(manifest, manifest, "")
    if recorded is not None:
        run = folder_of(config)
        found = resumed_data(manifest, recorded, run, bad=bad, max_bad=config.max_bad)
    check_trainable(found.manifest)
    return found, bad


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


def _drawn_line(own: Manifest, config: TrainConfig) -> str:
    """What to say of images without a split; a table may have a column for it by another name."""
    without = [sample.path for sample in own if not sample.split]
    if not without:
        return ""
    if len(without) < len(own):
        return (
            f"warning: {len(without)} of {len(own)} images have no split, the first is "
            f"{without[0]!r}: they count as train unless others of their group are elsewhere"
        )
    in_tables = not all(Path(path).is_dir() for path in config.data)
    return (
        f"no column or folder names a split: {SHARE:.0%} validation and {SHARE:.0%} test are drawn"
        + (" (--columns split=NAME names a column)" if in_tables else "")
    ).replace("%", " %")


def _generator_warnings(manifest: Manifest, before: DetectorConfig | None) -> list[str]:
    known = training_families(manifest.split("train"))
    if before is not None:
        seen = before.after(known, known, ())
        known = with_families(seen.training_generators, seen.training_families)
    fakes = manifest.where(lambda sample: sample.split == "test" and sample.label == SYNTHETIC)
    return warnings(
        families_tested(((s.test_set, s.generator, s.family) for s in fakes), known), known
    )
