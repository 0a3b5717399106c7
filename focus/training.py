"""What ``train.py`` does: data, one run or two, and the table at the end."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from focus.config import ResolvedTrainConfig, TrainConfig, resolve
from focus.data.demo import demo_manifest
from focus.data.images import check_images
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.readers import read_given
from focus.data.splits import assign_splits, check_trainable
from focus.models import Detector
from focus.results import Results, format_table
from focus.runtime import main_first, start
from focus.trainer import Trainer, describe, make_detector, run_folder


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
            cam_class=None,
            classification_weight=None,
            focus_weight=None,
            saliency_weight=None,
            focus_level=None,
            entropy_target=None,
            compare_ce=False,
            name=f"{run.name}-ce",
        )
        runs.append(resolve(plain))
    accelerator = start(run)
    for each in runs:
        run_folder(each)
    # Before the images, which may take long to check.
    detectors = [make_detector(each) for each in runs]
    main = accelerator.is_main_process
    manifest = main_first(accelerator, lambda: training_manifest(run, progress=main))
    for line in data_lines(manifest, runs):
        accelerator.print(line)
    results = {
        each.name: _run(each, detector, manifest)
        for each, detector in zip(runs, detectors, strict=True)
    }
    accelerator.print(f"\n{format_table(results)}\n")
    for each in runs:
        accelerator.print(f"run folder: {Path(each.output) / each.name}")


def _run(config: ResolvedTrainConfig, detector: Detector, manifest: Manifest) -> Results:
    accelerator = start(
        config,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with="tensorboard",
        project_dir=Path(config.output) / config.name,
    )
    trainer = Trainer(config, detector, manifest, accelerator)
    accelerator.print(describe(accelerator, config))
    trainer.fit()
    results = trainer.evaluate()
    accelerator.end_training()
    return results


def training_manifest(config: ResolvedTrainConfig, *, progress: bool = True) -> Manifest:
    """All images of a run with their splits: the demo set, or ``--data`` and the test sets.

    Raises:
        InputError: no usable images, a split without one of the classes, too many bad files.
    """
    own, tests = read_given(config)
    manifest = assign_splits(own, seed=config.seed) if own else demo_manifest(progress=progress)
    manifest += tests
    check_trainable(manifest)
    if own or tests:
        # The demo set's own checksum has been verified.
        manifest, _ = check_images(manifest, progress=progress)
        check_trainable(manifest)
    return manifest


def data_lines(manifest: Manifest, runs: list[ResolvedTrainConfig]) -> list[str]:
    """What is trained on, in a line, and a line for each run whose loss misses human maps."""
    counts = []
    for split in ("train", "validation", "test"):
        labels = Counter(s.label for s in manifest if s.split == split)
        counts.append(f"{split} {labels[REAL]} real + {labels[SYNTHETIC]} synthetic")
    train = manifest.split("train")
    n_maps = sum(sample.map_path is not None for sample in train)
    lines = [f"images: {', '.join(counts)}; {n_maps} training images have a human map"]
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
