"""Train: data, detector, trainer, fit, evaluate, and the table at the end."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from accelerate.tracking import get_available_trackers

from focus import report
from focus.config.train import (
    SET_BY_LOSS,
    ResolvedTrainConfig,
    TrainConfig,
    loss_config,
    resolve,
)
from focus.data.bad_files import BAD_FILES, BadFile, write_bad_files
from focus.data.check.headers import stored_apart
from focus.data.generators import families_tested, training_families, warnings, with_families
from focus.data.image_cache import ImageCache
from focus.data.known_images import BEFORE, known_before
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.training_set import listed_images, readable_images
from focus.errors import InputError
from focus.evaluation.inference import outlier_norm
from focus.evaluation.provenance import provenance
from focus.evaluation.result_table import (
    SHOWN_ROWS,
    difference_lines,
    errors_in_words,
    format_table,
    outlier_warning,
)
from focus.evaluation.results import Results, summarise, write_results
from focus.evaluation.scores import Scores
from focus.evaluation.storage import storage_notes
from focus.model.card import write_card
from focus.model.config import CONFIG_FILE, DetectorConfig
from focus.model.detector import Detector
from focus.report.contact_sheet import contact_sheet
from focus.report.page import REPORT
from focus.runtime.files import sole_writer
from focus.runtime.launch import (
    closing_process_group,
    describe,
    finish_trackers,
    run_on_all,
    run_on_main_first,
    start,
)
from focus.training.dry_run import dry_run
from focus.training.run_folder import CHECKPOINTS, SUMMARY, SavedRun, check_folder
from focus.training.trainer import Trainer
from focus.training.tuning import checkpoint_gradients, describe_tuning, freeze


@closing_process_group()
def train(config: TrainConfig) -> None:
    """Train, test and print; everything that can be wrong is found before the first step.

    Raises:
        InputError: something that was given cannot be used.
    """
    runs = _runs(config)
    run = runs[0]
    accelerator = start(run.mixed_precision, run.threads, run.device)
    main = accelerator.is_main_process
    processes = accelerator.num_processes
    saved = run_on_all(accelerator, lambda: [check_folder(each, processes) for each in runs])
    # First what takes seconds, then weights, which may have to be fetched, then every image.
    recorded = next((checkpoint.manifest for checkpoint in saved if checkpoint), None)
    output = None if recorded else run.run_folder
    listed = run_on_main_first(
        accelerator, lambda: listed_images(run, progress=main, output=output, resumed=not output)
    )
    detectors = run_on_all(accelerator, lambda: [*map(make_detector, runs, saved)])
    decoded = ImageCache.of(detectors[0].image_size, run.image_cache)
    manifest, bad = run_on_main_first(
        accelerator,
        lambda: readable_images(listed, run, decoded, recorded=recorded, progress=main),
    )
    for line in data_lines(manifest, runs, detectors[0].config):
        accelerator.print(line)
    if run.dry_run:
        for each, detector in zip(runs, detectors, strict=True):
            dry_run(each, detector, manifest, accelerator, decoded)
        return
    results = {
        each.name: _run(each, detector, manifest, bad, checkpoint, decoded)
        for each, detector, checkpoint in zip(runs, detectors, saved, strict=True)
    }
    if main:
        _print_results(runs, results, tested=bool(manifest.split("test")))


def make_detector(config: ResolvedTrainConfig, saved: SavedRun | None = None) -> Detector:
    """Make the detector to train, its weights drawn from the seed and frozen as ``--tune`` says.

    saved: a checkpoint, which will replace what the run began with.
    """
    torch.manual_seed(config.seed)
    detector = Detector(
        config.model,
        image_size=config.image_size,
        pool=config.pool,
        pretrained=config.pretrained and saved is None,
        initial_checkpoint=config.initial_checkpoint if saved is None else None,
        loss=loss_config(config),
    )
    if config.grad_checkpointing:
        checkpoint_gradients(detector)
    freeze(detector, config.tune)
    if saved is not None and saved.state.seen is not None:
        detector.config = replace(detector.config, **saved.state.seen)
    return detector


def _runs(config: TrainConfig) -> list[ResolvedTrainConfig]:
    """Resolve the run, and with ``--compare-ce`` that with plain cross-entropy."""
    run = resolve(config)
    # Accelerate passes over a tracker whose package is missing.
    trackers = ["none", "all", *map(str, get_available_trackers())]
    if missing := ", ".join(name for name in run.report_to if name not in trackers):
        raise InputError(
            f"--report-to got {missing}: install its package, or give one of {', '.join(trackers)}."
        )
    if not run.compare_ce:
        return [run]
    plain = replace(config, loss="ce", **SET_BY_LOSS, compare_ce=False, name=f"{run.name}-ce")
    return [run, resolve(plain)]


def _run(
    config: ResolvedTrainConfig,
    detector: Detector,
    manifest: Manifest,
    bad: list[BadFile],
    saved: SavedRun | None,
    decoded: ImageCache | None,
) -> Results:
    folder = config.run_folder
    trackers = [name for name in config.report_to if name != "none"]
    # Without any, Accelerate would warn that none is installed.
    accelerator = start(
        config.mixed_precision,
        config.threads,
        device=config.device,
        log_with=trackers or None,
        project_dir=folder,
    )
    main = accelerator.is_main_process
    trainer = Trainer(config, detector, manifest, accelerator, saved, decoded)
    with ExitStack() as lock:
        # Only now there is a folder: what is wrong before leaves nothing.
        held = sole_writer(folder, folder / CHECKPOINTS / ".lock", flag="--name")
        run_on_main_first(accelerator, lambda: lock.enter_context(held) if main else None)
        accelerator.print(describe(accelerator))
        size = sum(p.numel() for p in detector.parameters()) / 1e6
        accelerator.print(
            f"training {config.model}, {size:.2f} million parameters, with the loss {config.loss} "
            f"for {config.epochs} epochs: {folder}"
        )
        if tuned := describe_tuning(detector, config.tune):
            accelerator.print(tuned)
        if bad and main:
            write_bad_files(bad, folder / BAD_FILES)
        if main and saved is None and (before := known_before(config)):
            before.to_csv(folder / BEFORE)
        trainer.fit()
        results = evaluate(trainer)
        finish_trackers(accelerator)
    return results


def evaluate(trainer: Trainer) -> Results:
    """Score the test images with the best model; write scores, results, overlays and a report.

    Returns the results on the main process, nothing on the others.
    """
    config, folder, accelerator = trainer.config, trainer.folder, trainer.accelerator
    best = Detector.from_pretrained(folder / "model").to(accelerator.device)
    norm = outlier_norm(
        best,
        trainer.train,
        batch_size=config.eval_batch_size,
        workers=config.workers,
        accelerator=accelerator,
        cached=trainer.images.cached,
        images=trainer.decoded,
    )
    best.config = replace(best.config, outlier_norm=norm)
    if best.points is not None and (warning := best.points.warning()):
        accelerator.print(f"warning: {warning}")
    scores = trainer.score(best, trainer.test, description="test images")
    results: Results = {}
    if accelerator.is_main_process:
        best.config.write(folder / "model" / CONFIG_FILE)
        known = best.config.training_generators, best.config.training_families
        results = summarise(scores, *known, best.points, progress=True)
        results["model"] = {
            "epoch": trainer.state.best_epoch,
            f"validation_{config.eval_metric}": trainer.state.best,
        }
        results["notes"] = storage_notes(scores, known[0])
        results["provenance"] = provenance(config.model, trainer.manifest, config)
        write_results(folder, scores, results)
        for warning in filter(None, [outlier_warning(scores), *results["notes"]]):
            print(f"warning: {warning}")
        lines = [format_table({config.name: results}), "", *map(str, errors_in_words(results))]
        write_card(folder / "model", trainer.card(best, "\n".join(lines)))
        contact_sheet(best, trainer.test or trainer.validation, folder / "overlays.png")
        report.remove(folder)  # of other scores
        if config.report:
            run = folder, config.name, best, trainer.test, scores, results
            write = partial(report.write, *run, summary=folder / SUMMARY)
            said = report.attempt(partial(write, eval_metric=config.eval_metric))
            if not (folder / REPORT).is_file():  # else it is named at the end
                print(said)
    accelerator.wait_for_everyone()
    return results


def _print_results(
    runs: list[ResolvedTrainConfig], results: dict[str, Results], *, tested: bool
) -> None:
    if tested:
        print(f"\n{format_table(results, most=SHOWN_ROWS)}\n")
        named = [
            (run.name, Scores.from_csv(run.run_folder / "scores.csv"), results[run.name])
            for run in runs
        ]
        for line in difference_lines(*named) if len(runs) == 2 else ():
            print(line)
    else:
        for name, found in results.items():
            best = ", ".join(f"{key} {value:.4g}" for key, value in found["model"].items())
            print(f"{name}: no test images (--test-data, --test-real); the best model: {best}")
    for run in runs:
        folder = run.run_folder
        if (folder / REPORT).is_file():
            print(f"all results:  {folder / REPORT}")
        print(f"your faces:   focus explain PATH --model-dir {folder / 'model'}")
        print(f"other tests:  python evaluate.py --run {folder} --test-data NAME=PATH")


def data_lines(
    manifest: Manifest, runs: list[ResolvedTrainConfig], before: DetectorConfig | None = None
) -> list[str]:
    """Describe the images in a line; warn of test generators near training, and of missing maps.

    before: that of the initial weights.
    """
    counts = []
    for split in ("train", "validation", "test"):
        labels = Counter(s.label for s in manifest if s.split == split)
        counts.append(f"{split} {labels[REAL]} + {labels[SYNTHETIC]}")
    train = manifest.split("train")
    n_maps = sum(sample.human_map is not None for sample in train)
    lines = [f"images (real + synthetic): {', '.join(counts)}; {n_maps} human maps to train with"]
    known = training_families(train)
    if before is not None:
        after = before.after(known, known, ())
        known = with_families(after.training_generators, after.training_families)
    fakes = manifest.where(lambda sample: sample.split == "test" and sample.label == SYNTHETIC)
    tested = families_tested(((s.test_set, s.generator, s.family) for s in fakes), known)
    lines += [f"warning: {line}" for line in warnings(tested, known)]
    if found := stored_apart([s for s in manifest if s.split in ("train", "validation")]):
        lines.append(
            "warning: formats and sizes of the files alone tell real from synthetic "
            f"({found}), and the network may learn that: see `focus data check`"
        )
    for run in runs if not n_maps else ():
        terms = ["saliency"] if run.saliency_weight else []
        if run.focus_level in ("match", "hinge") and run.entropy_target is None:
            terms.append("focus")
        if terms:
            lines.append(
                f"warning: no training image has a human map (--human-maps), so the "
                f"{' and '.join(terms)} term of {run.name} is 0"
            )
    return lines
