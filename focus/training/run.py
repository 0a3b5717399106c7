"""Train: data, detector, trainer, fit and evaluate."""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from accelerate.tracking import get_available_trackers

from focus.config.losses import WITHOUT_MAPS
from focus.config.recipes import FROM_SCRATCH
from focus.config.train import ResolvedTrainConfig, TrainConfig, resolve
from focus.data.bad_files import write_bad_files
from focus.data.cache.images import ImageCache
from focus.data.copies import write_copies
from focus.data.images import BAD_FILES
from focus.data.known_images import BEFORE, known_before
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.maps import source_findings
from focus.data.near_far import families_tested, relation_findings, training_families, with_families
from focus.data.training_set import RunImages, listed_images, readable_images
from focus.errors import ImageError, InputError
from focus.evaluation.error_rates import errors_in_words
from focus.evaluation.inference import images_only, outlier_norm
from focus.evaluation.provenance import provenance
from focus.evaluation.result_table import SHOWN_ROWS, difference_lines, format_table
from focus.findings import Finding, finding, worst_first
from focus.model.card import write_card
from focus.model.config import CONFIG_FILE, DetectorConfig
from focus.model.detector import Detector
from focus.model.training_pictures import training_pictures
from focus.report.contact_sheet import write_sheet
from focus.report.evaluation import OVERLAYS, Evaluation
from focus.report.files import REPORT
from focus.runtime.cpu_time import phase
from focus.runtime.files import sole_writer
from focus.runtime.launch import (
    begin_run,
    choose_arithmetic,
    closing_process_group,
    describe,
    finish_trackers,
    processes_of,
    run_on_all,
    run_on_main_first,
    start,
)
from focus.training.run_folder import CHECKPOINTS, SUMMARY, SavedRun, check_begun, check_folder
from focus.training.trainer import Trainer
from focus.training.tuning import checkpoint_gradients, describe_tuning, freeze


@dataclass(frozen=True)
class Trained:
    """What training has made; as text, what the program prints at the end.

    runs: The evaluation of the run, and with ``compare_ce`` that of plain cross-entropy.

    Examples:
        >>> from focus import TrainConfig, train
        >>> trained = train(TrainConfig(data=("faces",), recipe="quick", epochs=1, name="again"))
        >>> [run.name for run in trained.runs]
        ['again']
        >>> auc = trained.runs[0].results["closed"]["generators"]["StyleGAN2"]["auc"]
        >>> print(trained.table())
    """

    runs: tuple[Evaluation, ...]

    def table(self, most: int | None = SHOWN_ROWS) -> str:
        """Return the figures of the runs side by side; most: of the generators' rows."""
        return format_table({run.name: run.results or {} for run in self.runs}, most=most)

    def __str__(self) -> str:
        lines = []
        if self.runs[0].manifest:
            lines += ["", self.table(), ""]
            named = [(run.name, run.scores, run.results or {}) for run in self.runs]
            lines += difference_lines(*named) if len(named) == 2 else []
        else:
            for run in self.runs:
                told = (run.results or {})["model"].items()
                best = ", ".join(f"{key} {value:.4g}" for key, value in told)
                lines.append(
                    f"{run.name}: no test images (--test-data, --test-real); the best model: {best}"
                )
        for run in self.runs:
            folder = run.folder
            if (folder / REPORT).is_file():
                lines.append(f"all results:  {folder / REPORT}")
            model = shlex.quote(str(folder / "model"))
            lines.append(f"your faces:   focus explain PATH --model-dir {model}")
            run_folder = shlex.quote(str(folder))
            lines.append(f"other tests:  focus evaluate --run {run_folder} --test-data NAME=PATH")
        # Last, where they are seen.
        for run in self.runs:
            whose = f"{run.name}: " * (len(self.runs) > 1)
            lines += [f"{each.severity}: {whose}{each.text}" for each in run.findings]
        return "\n".join(lines)


@closing_process_group()
def train(config: TrainConfig) -> Trained | None:
    """Train and test; everything that can be wrong is found before the first step.

    Returns what was made, in the main process; None in the others and after a dry run.

    Raises:
        InputError: something that was given cannot be used.

    Examples:
        Train a small network from scratch on the folder ``faces``, and look at the figures.

        >>> from focus import TrainConfig, train
        >>> config = TrainConfig(data=("faces",), recipe="quick", epochs=1, name="small")
        >>> trained = train(config)
        >>> trained.runs[0].folder.as_posix()
        'runs/small'
        >>> sorted(trained.runs[0].results["model"])
        ['epoch', 'validation_auc']
    """
    accelerator = start(config.mixed_precision, config.threads, config.device)
    choose_arithmetic(accelerator.device, tf32=config.tf32, cudnn_benchmark=config.cudnn_benchmark)
    config = config.changed(mixed_precision=accelerator.mixed_precision)
    main = accelerator.is_main_process
    processes = accelerator.num_processes
    listing = None
    if config.data and config.loss.name is None:  # which the images' maps decide
        from focus.data.readers import read_given  # a dozen modules, for who has data

        place = Path(config.output, config.name or "-")
        listing = run_on_main_first(accelerator, lambda: read_given(config, output=place))
    runs = _runs(config, maps=listing is None or bool(listing.data.has("human_map").any()))
    run = runs[0]
    run_on_all(accelerator, lambda: check_begun(run))
    saved = run_on_all(accelerator, lambda: [check_folder(each, processes) for each in runs])
    # First what takes seconds, then weights, which may have to be fetched, then every image.
    recorded = next((checkpoint.manifest for checkpoint in saved if checkpoint), None)
    output = None if recorded else run.run_folder
    listed = run_on_main_first(
        accelerator,
        lambda: listed_images(run, listing, progress=main, output=output, resumed=not output),
    )
    detectors = run_on_all(accelerator, lambda: [*map(make_detector, runs, saved)])
    decoded = ImageCache.of(detectors[0].image_size, run.image_cache, run.fit)
    images = readable_images(
        listed, run, decoded, recorded=recorded, processes=processes_of(accelerator)
    )
    used = images.used
    accelerator.print(images_line(used))
    if listing and run.loss.name == WITHOUT_MAPS:
        accelerator.print(
            f"loss: {WITHOUT_MAPS}, as no image has a human map (--human-maps); --loss names "
            "another"
        )
    findings: list[Finding] = []
    if main:  # who prints and writes them
        with phase("findings"):
            findings = [*images.findings, *source_findings(images.manifest)]
    findings_by_run = [map_findings(images.manifest, run_config) for run_config in runs]
    if run.dry_run:
        from focus.training.dry_run import dry_run

        for each, detector in zip(runs, detectors, strict=True):
            dry_run(each, detector, used, accelerator, decoded)
    test_findings = tested_findings(used, detectors[0].config)
    for line in worst_first([*findings, *test_findings, *chain.from_iterable(findings_by_run)]):
        accelerator.print(line)
    if run.dry_run:
        return None
    done = []
    for each, detector, checkpoint, run_findings in zip(
        runs, detectors, saved, findings_by_run, strict=True
    ):
        begin_run(accelerator, each.run_folder, each.report_to)
        trainer = Trainer(
            each,
            detector,
            images.manifest,
            accelerator,
            saved=checkpoint,
            decoded=decoded,
            left_out=images.left_out,
        )
        done.append(_run(trainer, images, [*findings, *run_findings]))
        accelerator.free_memory()
    return Trained(tuple(filter(None, done))) if main else None


def make_detector(config: ResolvedTrainConfig, saved: SavedRun | None = None) -> Detector:
    """Make the detector to train, its weights drawn from the seed and frozen as ``--tune`` says.

    saved: The checkpoint that will replace what the run began with.
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
        loads = "another --model" if run.model in FROM_SCRATCH else "--pretrained true"
        raise InputError(
            f"--tune {run.tune} would freeze a network of random weights, as none are loaded: give "
            f"--initial-checkpoint FILE or {loads}, or --tune full."
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


def _run(trainer: Trainer, images: RunImages, findings: Sequence[Finding]) -> Evaluation | None:
    """Train, then evaluate the best model; findings: Those on the images and their files."""
    config, accelerator, detector = trainer.config, trainer.accelerator, trainer.detector
    folder, main, saved = trainer.folder, accelerator.is_main_process, trainer.saved
    with ExitStack() as lock:
        # Only now there is a folder: what is wrong before leaves nothing.
        held = sole_writer(
            folder, folder / CHECKPOINTS / ".lock", flag="--name", even_without_locks=True
        )
        run_on_main_first(accelerator, lambda: lock.enter_context(held) if main else None)
        accelerator.print(describe(accelerator))
        size = sum(p.numel() for p in detector.parameters()) / 1e6
        accelerator.print(
            f"training {config.model}, {size:.2f} million parameters, with the loss "
            f"{config.loss.name} for {config.epochs} epochs: {folder}"
        )
        accelerator.print(f"initial weights: {detector.config.initial_weights or 'not recorded'}")
        if tuned := describe_tuning(detector, config.tune):
            accelerator.print(tuned)
        if images.decoded.bad and main:
            write_bad_files(images.decoded.bad, folder / BAD_FILES)
        if images.copies and main:
            write_copies(images.copies, folder, images.left_out)
        if main and saved is None and (before := known_before(config)):
            before.to_csv(folder / BEFORE)
        trainer.fit()
        with trainer.saying_how_to_go_on(), phase("test"):
            evaluation = evaluate_best(trainer, findings)
        finish_trackers(accelerator)
    return evaluation


def evaluate_best(trainer: Trainer, findings: Sequence[Finding] = ()) -> Evaluation | None:
    """Score the test images with the best model; write scores, results, overlays and a report.

    findings: What must be known of the images and their files.
    Returns the evaluation in the main process, None in the others.
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
    shown = None
    if not trainer.test:  # then the sheet shows images of validation
        shown = trainer.score(best, images_only(trainer.validation), progress=False)
    evaluation = None
    if accelerator.is_main_process:
        try:
            pictures = training_pictures(trainer.train, best.preprocessing)
        except ImageError as error:  # of a file that is gone: the scores are worth more
            print(f"What training saw is not measured, as a file cannot be read: {error}")
            pictures = None
        best.config = replace(best.config, training_pictures=pictures)
        best.config.write(folder / "model" / CONFIG_FILE)
        facts = {
            "model": {
                "epoch": trainer.state.best_epoch,
                f"validation_{config.eval_metric}": trainer.state.best,
            },
            "provenance": provenance(
                config.model, trainer.manifest, config, best.config.initial_weights
            ),
        }
        evaluation = Evaluation.of(config.name, folder, best, trainer.test, scores, facts, findings)
        evaluation.save()
        if shown is not None:
            write_sheet(best, trainer.validation, shown, folder / OVERLAYS)
        error_rates = map(str, errors_in_words(evaluation.results or {}))
        lines = [evaluation.table(most=None), "", *error_rates]
        lines += ["", *map(str, evaluation.findings)]
        write_card(folder / "model", trainer.card(best, "\n".join(lines)))
        if config.report:
            said = evaluation.save_report(folder / SUMMARY, config.eval_metric)
            if not (folder / REPORT).is_file():  # else it is named at the end
                print(said)
    accelerator.wait_for_everyone()
    return evaluation


def images_line(manifest: Manifest) -> str:
    """Count the images of each split in a line."""
    of_split = manifest.counts("split", "label")
    counts = []
    for split in ("train", "validation", "test"):
        counts.append(f"{split} {of_split[split, REAL]} + {of_split[split, SYNTHETIC]}")
    n_maps = int(manifest.split("train").has("human_map").sum())
    return f"images (real + synthetic): {', '.join(counts)}; {n_maps} human maps to train with"


def tested_findings(manifest: Manifest, before: DetectorConfig | None) -> list[Finding]:
    """Return findings on test generators near training; before: Config of the initial weights."""
    known = training_families(manifest.split("train"))
    if before is not None:
        after = before.after(known, known, ())
        known = with_families(after.training_generators, after.training_families)
    fakes = manifest.take(manifest.equals("split", "test") & (manifest.labels == SYNTHETIC))
    tested = families_tested(fakes.counts("test_set", "generator", "family").elements(), known)
    return relation_findings(tested, known)


def map_findings(manifest: Manifest, run: ResolvedTrainConfig) -> list[Finding]:
    """Return a finding if the loss of a run asks for human maps and there are none."""
    if manifest.split("train").has("human_map").any():
        return []
    terms = ["saliency"] if run.loss.saliency_weight else []
    if run.loss.aims_at_maps:
        terms.append("focus")
    return [finding("no_maps", terms=" and ".join(terms), run=run.name)] if terms else []
