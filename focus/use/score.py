"""Score images with a trained detector: data, model, scores, results, report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from focus.config.command_line import load_config
from focus.config.evaluate import EvaluateConfig
from focus.config.train import TrainConfig
from focus.data.bad_files import BadFile, check_images, write_bad_files
from focus.data.cache.images import ImageCache
from focus.data.demo import demo_manifest
from focus.data.images import BAD_FILES
from focus.data.known_images import KnownImages, digest_of, is_run, known_to, record_of
from focus.data.manifest import REAL, SYNTHETIC, Manifest, absolute
from focus.data.maps import source_findings
from focus.data.perturbations import ROBUSTNESS
from focus.data.readers import read_given
from focus.data.splits import RENAME_GROUPS
from focus.errors import InputError
from focus.evaluation import faithfulness, robustness
from focus.evaluation.inference import score_images
from focus.evaluation.measured import Measured, check_measured, measured
from focus.evaluation.people import beside, by_image, read_answers
from focus.evaluation.provenance import provenance
from focus.evaluation.result_table import people_lines
from focus.evaluation.results import write_results
from focus.findings import Finding
from focus.model.config import CONFIG_FILE
from focus.model.detector import Detector
from focus.report.evaluation import Evaluation
from focus.report.page import write_robustness
from focus.runtime.cpu_time import phase
from focus.runtime.launch import closing_process_group, run_on_all, run_on_main_first, start
from focus.runtime.machine import default_workers
from focus.training.run_folder import SUMMARY


@closing_process_group()
def score(config: EvaluateConfig, output_of: Callable[[], Path]) -> Evaluation | None:
    """Do what :func:`focus.use.evaluate.evaluate` does for images.

    output_of: It returns the folder to write to, or raises InputError.
    """
    accelerator = start(config.mixed_precision, config.threads, device=config.device)
    main = accelerator.is_main_process
    model, output = run_on_all(accelerator, lambda: (_model_folder(config), output_of()))
    detector = run_on_all(accelerator, lambda: Detector.from_pretrained(model))
    threshold = run_on_all(accelerator, lambda: detector.set_threshold(config.threshold))
    detector.to(accelerator.device)
    decoded = ImageCache.of(detector.image_size, config.image_cache, detector.config.fit)
    with phase("checking images"):
        manifest, bad, findings = run_on_main_first(
            accelerator, lambda: _images(config, model, output, decoded, progress=main)
        )
    answers = run_on_all(accelerator, lambda: read_answers(config.people))
    if config.people and not by_image(answers).keys() & {digest_of(own) for own in manifest}:
        text = f"None of these images is answered in --people {config.people}: nothing of people."
        findings.append(Finding("warning", text))
    names = perturbations_of(config)
    if names:
        robustness.check_labels(manifest)
    run_on_all(accelerator, lambda: check_measured(output, manifest))
    settings: dict[str, Any] = {
        "batch_size": detector.at_once(config.batch_size),
        "workers": default_workers() if config.workers is None else config.workers,
    }
    with phase("test"):
        scores = score_images(
            detector, manifest, accelerator=accelerator, images=decoded, **settings
        )
    before = run_on_all(accelerator, lambda: measured(output, scores))
    evaluation: Evaluation | None = None
    trained = _training(model.parent)
    if main:
        # At once: what follows may take hours, or find an image that the network cannot score.
        network = detector.config
        about = {
            "provenance": provenance(network.model, manifest, trained, network.initial_weights)
        }
        if answers and (scores.label >= 0).any():
            digests = [digest_of(manifest[row]) for row in scores.index]
            known = detector.config.training_generators
            about["people"] = beside(scores, digests, answers, known, threshold.value)
        name = model.parent.name if model.name == "model" else model.name
        findings += source_findings(manifest)
        evaluation = Evaluation.of(name, output, detector, manifest, scores, about, findings)
        if evaluation.results is not None:
            faithfulness.add(before.faithfulness, evaluation.results)
        evaluation.perturbed = before.perturbed
        written = [*evaluation.save(keep_measured=True), *_listed(bad, output)]
        lines = [*_kept_lines(before, config), *people_lines(evaluation.results or {})]
    if names:
        perturbed = robustness.measure(accelerator, detector, manifest, scores, names, **settings)
        if evaluation:
            evaluation.perturbed = robustness.replaced(before.perturbed, perturbed)
            written.append(robustness.write(evaluation.perturbed, output))
            written.append(write_robustness(evaluation.perturbed, output))
            lines += robustness.lines(perturbed)
    if config.faithfulness:
        falls = faithfulness.measure(accelerator, detector, manifest, **settings)
        if evaluation:
            written.append(faithfulness.write(falls, scores, output))
            generators = detector.config.training_generators
            summary = faithfulness.summarise(falls, scores, generators)
            lines += faithfulness.lines(summary)
            if evaluation.results is not None:
                faithfulness.add(summary, evaluation.results)
                write_results(output, scores, evaluation.results)
    if evaluation:
        lines += [f"threshold: {threshold}", *(f"written: {path}" for path in written)]
        if config.report:
            metric = None if trained is None else trained.eval_metric
            lines.append(evaluation.save_report(model.parent / SUMMARY, metric))
        evaluation.lines = lines
    return evaluation


def _kept_lines(before: Measured, config: EvaluateConfig) -> list[str]:
    """Say what an earlier evaluation of the same scores has measured, and this one does not."""
    now = perturbations_of(config)
    kept = list(dict.fromkeys(row.perturbation for row in before.perturbed))
    kept = [name for name in kept if name not in now]
    if before.faithfulness and not config.faithfulness:
        kept.append("faithfulness")
    return [f"kept, as measured before on the same scores: {', '.join(kept)}"] if kept else []


def perturbations_of(config: EvaluateConfig) -> list[str]:
    """Return the names of the perturbations that are to be measured."""
    names = list(ROBUSTNESS) if config.robustness else []
    if config.equalise:
        names.append("equalise")
    return names


def _listed(bad: list[BadFile], output: Path) -> list[Path]:
    """Write the table of bad files, or remove an earlier one; return its path if it is written."""
    (output / BAD_FILES).unlink(missing_ok=True)
    if bad:
        write_bad_files(bad, output / BAD_FILES)
    return [output / BAD_FILES] * bool(bad)


def _model_folder(config: EvaluateConfig) -> Path:
    if config.model_dir is not None:
        if not Path(config.model_dir).is_dir():
            raise InputError(f"--model-dir {config.model_dir} is no folder: give one with a model.")
        return absolute(config.model_dir)  # "." has no name
    run = Path(str(config.run))
    if (run / CONFIG_FILE).is_file():
        raise InputError(f"--run {run} is a model's folder, not a run's: give it by --model-dir.")
    if not (run / "model").is_dir():
        raise InputError(
            f"--run {run} has no folder 'model': give a run folder, which has one from its first "
            "epoch on."
        )
    return absolute(run / "model")


def _images(
    config: EvaluateConfig, model: Path, output: Path, decoded: ImageCache | None, *, progress: bool
) -> tuple[Manifest, list[BadFile], list[Finding]]:
    """Return what to score, the files that cannot be decoded, and what is left out.

    Without ``--data`` and the like, the images that the run was tested on; with fakes alone, its
    real ones beside them.
    """
    own, tests = read_given(config, allow_unlabelled=True, output=output)
    given = own + tests
    real_images: list[Finding] = []
    labels = {sample.label for sample in given}
    if config.run is not None and not given:
        given = _tested_on(Path(config.run), progress=progress)
    elif config.run is not None and SYNTHETIC in labels and REAL not in labels:
        reals = _real_images_of(_tested_on(Path(config.run), progress=progress))
        given += reals
        if reals:
            text = (
                f"No real image is given: the {len(reals)} that {config.run} was tested on are "
                "taken; --test-real NAME=PATH gives others."
            )
            real_images.append(Finding("note", text))
    if not given:
        raise InputError("There are no images to score: give --data or --test-data NAME=PATH.")
    # Of all, as in training: what passes there passes here.
    noticed: list[Finding] = []
    told: dict[str, Any] = {"progress": progress, "max_bad": config.max_bad, "noticed": noticed}
    readable, bad = check_images(given, images=decoded, **told)
    unseen, found = _unseen(model, readable)
    training = {p for s in given.split("train") for p in (s.path, s.human_map, s.mask_path)}
    bad = [file for file in bad if file.path not in training]  # which is not scored
    return unseen, bad, [*real_images, *noticed, *found]


def _tested_on(run: Path, *, progress: bool) -> Manifest:
    """Return the images that a run was tested on."""
    record = record_of(run)
    if load_config(TrainConfig, run / "config.yaml").data:
        return record.split("test")
    demo = demo_manifest(progress=progress)
    # Test images beside the demo set are recorded behind it.
    return demo.split("test") + Manifest(record[len(demo) :])


def _real_images_of(manifest: Manifest) -> Manifest:
    """Return the real images, each file once, as those of all generators and test sets."""
    by_path = {sample.path: sample for sample in manifest if sample.label == REAL}
    reals = (replace(sample, generator="", test_set="") for sample in by_path.values())
    return Manifest(reals, manifest.source)


def _unseen(model: Path, given: Manifest) -> tuple[Manifest, list[Finding]]:
    """Return the images that the model was neither trained nor chosen on, nor others of a group.

    And what is to be known of those that are left out.
    """
    found = []
    if not is_run(model.parent):
        text = (
            "The model lies in no run folder (with config.yaml and manifest.csv), so that images "
            "it was trained on cannot be left out: give --run, or be sure that these are new."
        )
        found.append(Finding("warning", text))
    known = KnownImages(known_to(model))
    shared = {id(sample): known.match(sample) for sample in given}
    others = given.where(lambda s: s.split != "train" and shared[id(s)] != "file")
    unseen = others.where(lambda s: not shared[id(s)])
    if not unseen:
        raise InputError(
            f"All {len(given)} images of {given.source} are for training, or what the model was "
            f"chosen on: give others{RENAME_GROUPS * bool(others)}."
        )
    if len(unseen) < len(given):
        by_group = len(others) - len(unseen)
        text = (
            f"{len(given) - len(unseen)} of {len(given)} images are left out: they, or copies of "
            "them, are for training, or what the model was chosen on"
            + (f", {by_group} of them by their group{RENAME_GROUPS}" if by_group else "")
        )
        found.append(Finding("warning", f"{text}."))
    return unseen, found


def _training(run: Path) -> TrainConfig | None:
    """Return the configuration of a run; None for a model's folder that lies in no run."""
    try:
        return load_config(TrainConfig, run / "config.yaml")
    except InputError:
        return None
