"""Train: data, detector, trainer, fit, evaluate, and the table at the end."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import get_available_trackers

from focus import report
from focus.config.losses import WITHOUT_MAPS
from focus.config.train import (
    ResolvedTrainConfig,
    TrainConfig,
    resolve,
)
from focus.data.bad_files import BAD_FILES, BadFile, write_bad_files
from focus.data.cache.images import ImageCache
from focus.data.check.headers import stored_apart
from focus.data.copies import copies, left_out_findings, without, write_left_out
from focus.data.known_images import BEFORE, known_before
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.maps import source_findings
from focus.data.near_far import (
    families_tested,
    relation_findings,
    training_families,
    with_families,
)
from focus.data.readers import read_given
from focus.data.training_set import listed_images, readable_images
from focus.errors import InputError
from focus.evaluation.findings import add_findings, recorded
from focus.evaluation.inference import outlier_norm
from focus.evaluation.provenance import provenance
from focus.evaluation.result_table import (
    SHOWN_ROWS,
    difference_lines,
    errors_in_words,
    format_table,
)
from focus.evaluation.results import Results, summarise, write_results
from focus.evaluation.scores import Scores
from focus.findings import Finding, worst_first
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
    accelerator = start(config.mixed_precision, config.threads, config.device)
    main = accelerator.is_main_process
    processes = accelerator.num_processes
    given = None
    if config.data and config.loss.name is None:  # which the images' maps decide
        place = Path(config.output, config.name or "-")
        given = run_on_main_first(accelerator, lambda: read_given(config, output=place))
    runs = _runs(config, maps=given is None or any(sample.human_map for sample in given[0]))
    run = runs[0]
    saved = run_on_all(accelerator, lambda: [check_folder(each, processes) for each in runs])
    # First what takes seconds, then weights, which may have to be fetched, then every image.
    recorded = next((checkpoint.manifest for checkpoint in saved if checkpoint), None)
    output = None if recorded else run.run_folder
    listed = run_on_main_first(
        accelerator,
        lambda: listed_images(run, given, progress=main, output=output, resumed=not output),
    )
    detectors = run_on_all(accelerator, lambda: [*map(make_detector, runs, saved)])
    decoded = ImageCache.of(detectors[0].image_size, run.image_cache, run.fit)
    noticed: list[Finding] = []
    told: dict[str, Any] = {"recorded": recorded, "progress": main, "noticed": noticed}
    manifest, bad = run_on_main_first(
        accelerator, lambda: readable_images(listed, run, decoded, **told)
    )
    used = without(manifest, copies(manifest))
    accelerator.print(images_line(used))
    if given and run.loss.name == WITHOUT_MAPS:
        accelerator.print(
            f"loss: {WITHOUT_MAPS}, as no image has a human map (--human-maps); --loss names "
            "another"
        )
    found = [*noticed, *tested_findings(used, detectors[0].config)]
    found += [each for run in runs for each in data_findings(manifest, run)]
    if run.dry_run:
        for each, detector in zip(runs, detectors, strict=True):
            dry_run(each, detector, used, accelerator, decoded)
    for finding in worst_first(found):
        accelerator.print(finding)
    if run.dry_run:
        return
    results = {
        each.name: _run(each, detector, manifest, bad, checkpoint, decoded, noticed)
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
        input=config.input,
        fit=config.fit,
        pretrained=config.pretrained and saved is None,
        initial_checkpoint=config.initial_checkpoint if saved is None else None,
        loss=config.loss,
    )
    if config.grad_checkpointing:
        checkpoint_gradients(detector)
    freeze(detector, config.tune)
    if saved is not None:
        detector.config = saved.state.seen or detector.config
    return detector


def _runs(config: TrainConfig, *, maps: bool) -> list[ResolvedTrainConfig]:
    """Resolve the run, and with ``--compare-ce`` that with plain cross-entropy.

    maps: Whether images have human maps.
    """
    run = resolve(config, maps=maps)
    if run.tune != "full" and not run.pretrained and run.initial_checkpoint is None:
        raise InputError(
            f"--tune {run.tune} would freeze a network of random weights, as none are loaded: give "
            "--initial-checkpoint FILE or --pretrained true, or --tune full."
        )
    # Accelerate passes over a tracker whose package is missing.
    trackers = ["none", "all", *map(str, get_available_trackers())]
    if missing := ", ".join(name for name in run.report_to if name not in trackers):
        raise InputError(
            f"--report-to got {missing}: install its package, or give one of {', '.join(trackers)}."
        )
    if not run.compare_ce:
        return [run]
    plain = config.changed(
        loss="ce", focus_schedule=None, saliency_schedule=None, target_from_maps=False,
        compare_ce=False, name=f"{run.name}-ce",
    )  # fmt: skip
    return [run, resolve(plain)]


def _run(
    config: ResolvedTrainConfig,
    detector: Detector,
    manifest: Manifest,
    bad: list[BadFile],
    saved: SavedRun | None,
    decoded: ImageCache | None,
    noticed: Sequence[Finding],
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
            f"training {config.model}, {size:.2f} million parameters, with the loss "
            f"{config.loss.name} for {config.epochs} epochs: {folder}"
        )
        if tuned := describe_tuning(detector, config.tune):
            accelerator.print(tuned)
        if bad and main:
            write_bad_files(bad, folder / BAD_FILES)
        if trainer.left_out and main:
            write_left_out(trainer.left_out, folder)
        if main and saved is None and (before := known_before(config)):
            before.to_csv(folder / BEFORE)
        trainer.fit()
        results = evaluate(trainer, noticed)
        finish_trackers(accelerator)
    return results


def evaluate(trainer: Trainer, noticed: Sequence[Finding] = ()) -> Results:
    """Score the test images with the best model; write scores, results, overlays and a report.

    noticed: what is to be known of the images' files.
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
        results["provenance"] = provenance(config.model, trainer.manifest, config)
        found = [*noticed, *data_findings(trainer.manifest, config)]
        add_findings(results, scores, best.points, found)
        write_results(folder, scores, results)
        lines = [format_table({config.name: results}), "", *map(str, errors_in_words(results))]
        lines += ["", *map(str, recorded(results))]
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
        print(f"other tests:  focus evaluate --run {folder} --test-data NAME=PATH")
    # Last, where they are seen.
    for name, found in results.items():
        for finding in recorded(found):
            print(f"{finding.severity}: {f'{name}: ' * (len(runs) > 1)}{finding.text}")


def images_line(manifest: Manifest) -> str:
    """Count the images of each split in a line."""
    counts = []
    for split in ("train", "validation", "test"):
        labels = Counter(s.label for s in manifest if s.split == split)
        counts.append(f"{split} {labels[REAL]} + {labels[SYNTHETIC]}")
    n_maps = sum(sample.human_map is not None for sample in manifest.split("train"))
    return f"images (real + synthetic): {', '.join(counts)}; {n_maps} human maps to train with"


def tested_findings(manifest: Manifest, before: DetectorConfig | None) -> list[Finding]:
    """Return what is to be known of test generators near training. before: of initial weights."""
    known = training_families(manifest.split("train"))
    if before is not None:
        after = before.after(known, known, ())
        known = with_families(after.training_generators, after.training_families)
    fakes = manifest.where(lambda sample: sample.split == "test" and sample.label == SYNTHETIC)
    tested = families_tested(((s.test_set, s.generator, s.family) for s in fakes), known)
    return relation_findings(tested, known)


def data_findings(manifest: Manifest, run: ResolvedTrainConfig) -> list[Finding]:
    """Return what is to be known of the images of a run, copies among them included."""
    left_out = copies(manifest)
    found = left_out_findings(manifest, left_out)
    chosen_on = [s for s in without(manifest, left_out) if s.split in ("train", "validation")]
    then = "the network may learn that, see `focus data check`"
    if stored := stored_apart(chosen_on, "images to train with", then):
        found.append(stored)
    found += source_findings(manifest)
    if any(sample.human_map for sample in manifest.split("train")):
        return found
    terms = ["saliency"] if run.loss.saliency_weight else []
    if run.loss.aims_at_maps:
        terms.append("focus")
    if terms:
        text = (
            f"No training image has a human map (--human-maps), so the {' and '.join(terms)} term "
            f"of {run.name} is 0."
        )
        found.append(Finding("warning", text))
    return found
