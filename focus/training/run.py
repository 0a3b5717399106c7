"""Train: data, detector, trainer, fit and evaluate."""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

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
from focus.model.config import CONFIG_FILE, DetectorConfig, TrainingPictures
from focus.model.detector import Detector
from focus.model.training_pictures import training_pictures
from focus.report.evaluation import OVERLAYS, Evaluation
from focus.report.files import REPORT
from focus.report.gallery import write_sheet
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

if TYPE_CHECKING:
    from focus.data.readers.given import GivenImages


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
        lines: list[str] = []
        if self.runs[0].manifest:
            lines += ["", self.table(), ""]
            if len(self.runs) == 2:
                first, second = ((run.name, run.scores, run.results or {}) for run in self.runs)
                lines += difference_lines(first, second)
        else:
            lines += [_untested_line(run) for run in self.runs]
        for run in self.runs:
            if (run.folder / REPORT).is_file():
                lines.append(f"all results:  {run.folder / REPORT}")
            model = shlex.quote(str(run.folder / "model"))
            lines.append(f"your faces:   focus explain PATH --model-dir {model}")
            run_folder = shlex.quote(str(run.folder))
            lines.append(f"other tests:  focus evaluate --run {run_folder} --test-data NAME=PATH")

        # Last, where they are seen.
        for run in self.runs:
            name = f"{run.name}: " if len(self.runs) > 1 else ""
            lines += [f"{entry.severity}: {name}{entry.text}" for entry in run.findings]
        return "\n".join(lines)


def _untested_line(run: Evaluation) -> str:
    """Name the validation figures of a run without images to test on."""
    figures = (run.results or {})["model"]
    best = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    return f"{run.name}: no test images (--test-data, --test-real); the best model: {best}"


@dataclass(frozen=True)
class _PreparedRun:
    """A run that may begin: everything that can be wrong with it has been looked for.

    detector: What is trained, with its initial weights. saved: The checkpoint to go on from, None
    for a new run. findings: What is to be known of this run alone.
    """

    config: ResolvedTrainConfig
    detector: Detector
    saved: SavedRun | None
    findings: list[Finding]


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

    listing = None
    if config.data and config.loss.name is None:  # which the images' maps decide
        listing = run_on_main_first(accelerator, lambda: _listing(config))
    have_maps = listing is None or bool(listing.data.has("human_map").any())
    configs = _resolved(config, maps=have_maps)
    run = configs[0]  # the one that was asked for; with --compare-ce a second follows

    # First what takes seconds, then weights, which may have to be fetched, then every image.
    run_on_all(accelerator, lambda: check_begun(run))
    saved_runs = run_on_all(
        accelerator,
        lambda: [check_folder(config, accelerator.num_processes) for config in configs],
    )
    recorded = next((saved.manifest for saved in saved_runs if saved), None)
    listed = run_on_main_first(
        accelerator,
        lambda: listed_images(
            run,
            listing,
            progress=accelerator.is_main_process,
            output=None if recorded else run.run_folder,
            resumed=recorded is not None,
        ),
    )
    detectors = run_on_all(accelerator, lambda: list(map(make_detector, configs, saved_runs)))
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
    image_findings: list[Finding] = []
    if accelerator.is_main_process:  # which prints and writes them
        with phase("findings"):
            image_findings = [*images.findings, *source_findings(images.manifest)]
    prepared_runs = [
        _PreparedRun(config, detector, saved, map_findings(images.manifest, config))
        for config, detector, saved in zip(configs, detectors, saved_runs, strict=True)
    ]
    if run.dry_run:
        from focus.training.dry_run import dry_run

        for prepared in prepared_runs:
            dry_run(prepared.config, prepared.detector, used, accelerator, decoded)

    findings = [*image_findings, *tested_findings(used, detectors[0].config)]
    for prepared in prepared_runs:
        findings += prepared.findings
    for line in worst_first(findings):
        accelerator.print(line)
    if run.dry_run:
        return None

    evaluations = []
    for prepared in prepared_runs:
        begin_run(accelerator, prepared.config.run_folder, prepared.config.report_to)
        trainer = Trainer(
            prepared.config,
            prepared.detector,
            images.manifest,
            accelerator,
            saved=prepared.saved,
            decoded=decoded,
            left_out=images.left_out,
        )
        evaluation = _train_and_test(trainer, images, [*image_findings, *prepared.findings])
        if evaluation is not None:
            evaluations.append(evaluation)
        accelerator.free_memory()
    return Trained(tuple(evaluations)) if accelerator.is_main_process else None


def _listing(config: TrainConfig) -> "GivenImages":
    from focus.data.readers import read_given  # a dozen modules, for who has data

    return read_given(config, output=Path(config.output, config.name or "-"))


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


def _resolved(config: TrainConfig, *, maps: bool) -> list[ResolvedTrainConfig]:
    """Resolve the run, and with ``--compare-ce`` that with plain cross-entropy.

    maps: Whether images have human maps.
    """
    run = resolve(config, maps=maps)
    if run.tune != "full" and not run.pretrained and run.initial_checkpoint is None:
        remedy = "another --model" if run.model in FROM_SCRATCH else "--pretrained true"
        raise InputError(
            f"--tune {run.tune} would freeze a network of random weights, as none are loaded: give "
            f"--initial-checkpoint FILE or {remedy}, or --tune full."
        )
    # Accelerate passes over a tracker whose package is missing.
    trackers = ["none", "all", *map(str, get_available_trackers())]
    missing = [name for name in run.report_to if name not in trackers]
    if missing:
        raise InputError(
            f"--report-to got {', '.join(missing)}: install its package, or give one of "
            f"{', '.join(trackers)}."
        )
    if not run.compare_ce:
        return [run]
    plain = config.changed(
        loss="ce",
        focus_schedule=None,
        saliency_schedule=None,
        target_from_maps=False,
        compare_ce=False,
        name=f"{run.name}-ce",
    )
    return [run, resolve(plain)]


def _train_and_test(
    trainer: Trainer, images: RunImages, findings: Sequence[Finding]
) -> Evaluation | None:
    """Train, then evaluate the best model; findings: Those on the images and their files."""
    accelerator = trainer.accelerator
    with ExitStack() as stack:

        def lock_folder() -> None:
            # Only now there is a folder: what is wrong before leaves nothing.
            if accelerator.is_main_process:
                lock_file = trainer.folder / CHECKPOINTS / ".lock"
                stack.enter_context(
                    sole_writer(trainer.folder, lock_file, flag="--name", even_without_locks=True)
                )

        run_on_main_first(accelerator, lock_folder)
        for line in _opening_lines(trainer):
            accelerator.print(line)
        if accelerator.is_main_process:
            _write_what_images_are_left_out(trainer, images)
        trainer.fit()
        with trainer.saying_how_to_go_on(), phase("test"):
            evaluation = evaluate_best(trainer, findings)
        finish_trackers(accelerator)
    return evaluation


def _opening_lines(trainer: Trainer) -> list[str]:
    """Say on what machine is trained, what, and from which weights."""
    config, detector = trainer.config, trainer.detector
    millions = sum(parameter.numel() for parameter in detector.parameters()) / 1e6
    lines = [
        describe(trainer.accelerator),
        f"training {config.model}, {millions:.2f} million parameters, with the loss "
        f"{config.loss.name} for {config.epochs} epochs: {trainer.folder}",
        f"initial weights: {detector.config.initial_weights or 'not recorded'}",
    ]
    tuning = describe_tuning(detector, config.tune)
    if tuning:
        lines.append(tuning)
    return lines


def _write_what_images_are_left_out(trainer: Trainer, images: RunImages) -> None:
    """Write the files that cannot be decoded, the copies, and what the initial weights know."""
    if images.decoded.bad:
        write_bad_files(images.decoded.bad, trainer.folder / BAD_FILES)
    if images.copies:
        write_copies(images.copies, trainer.folder, images.left_out)
    if trainer.saved is None:
        images_before = known_before(trainer.config)
        if images_before:
            images_before.to_csv(trainer.folder / BEFORE)


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
    validation_scores = None
    if not trainer.test:  # then the sheet shows images of validation
        validation_scores = trainer.score(best, images_only(trainer.validation), progress=False)

    evaluation = None
    if accelerator.is_main_process:
        best.config = replace(best.config, training_pictures=_training_pictures(trainer, best))
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
        if validation_scores is not None:
            write_sheet(best, trainer.validation, validation_scores, folder / OVERLAYS)
        write_card(folder / "model", trainer.card(best, _card_text(evaluation)))
        if config.report:
            line = evaluation.save_report(folder / SUMMARY, config.eval_metric)
            if not (folder / REPORT).is_file():  # else it is named at the end
                print(line)
    accelerator.wait_for_everyone()
    return evaluation


def _training_pictures(trainer: Trainer, best: Detector) -> TrainingPictures | None:
    """Measure what training saw; None if a file is gone by now: the scores are worth more."""
    try:
        return training_pictures(trainer.train, best.preprocessing)
    except ImageError as error:
        print(f"What training saw is not measured, as a file cannot be read: {error}")
        return None


def _card_text(evaluation: Evaluation) -> str:
    """Return the results that the model card shows: all rows, error rates and findings."""
    lines = [evaluation.table(most=None), ""]
    lines += [str(line) for line in errors_in_words(evaluation.results or {})]
    lines.append("")
    lines += [str(entry) for entry in evaluation.findings]
    return "\n".join(lines)


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
    trained_on = training_families(manifest.split("train"))
    if before is not None:
        after = before.after(trained_on, trained_on, ())
        trained_on = with_families(after.training_generators, after.training_families)
    fakes = manifest.take(manifest.equals("split", "test") & (manifest.labels == SYNTHETIC))
    counts = fakes.counts("test_set", "generator", "family")
    return relation_findings(families_tested(counts.elements(), trained_on), trained_on)


def map_findings(manifest: Manifest, run: ResolvedTrainConfig) -> list[Finding]:
    """Return a finding if the loss of a run asks for human maps and there are none."""
    if manifest.split("train").has("human_map").any():
        return []
    terms = ["saliency"] if run.loss.saliency_weight else []
    if run.loss.aims_at_maps:
        terms.append("focus")
    if not terms:
        return []
    return [finding("no_maps", terms=" and ".join(terms), run=run.name)]
