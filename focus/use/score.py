"""Score images with a trained detector: data, model, scores, results, report."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from focus.config.command_line import load_config
from focus.config.train import TrainConfig
from focus.config.use import EvaluateConfig
from focus.data.bad_files import check_images, write_bad_files
from focus.data.cache.images import ImageCache
from focus.data.check.images import few_images_findings, two_label_findings
from focus.data.copies import (
    COPIES,
    Copy,
    Pictures,
    copies_of,
    copy_findings,
    left_out,
    without,
    write_copies,
)
from focus.data.demo import demo_manifest
from focus.data.file_pass import BadFile
from focus.data.images import BAD_FILES
from focus.data.known_images import (
    CONTENT,
    KnownImages,
    digest_of,
    is_run,
    known_to_run,
    record_of,
)
from focus.data.manifest import REAL, SYNTHETIC, Manifest, absolute
from focus.data.maps import source_findings
from focus.data.perturbations import ROBUSTNESS
from focus.data.readers import read_given
from focus.data.signatures import SignatureStore
from focus.data.splits import RENAME_GROUPS
from focus.errors import InputError
from focus.evaluation import faithfulness, robustness
from focus.evaluation.error_rates import people_lines
from focus.evaluation.inference import score_images
from focus.evaluation.measured import Measured, measured
from focus.evaluation.people import beside, by_image, read_answers
from focus.evaluation.provenance import PRECISION, WEIGHTS, provenance
from focus.evaluation.results import write_results
from focus.findings import Finding, finding
from focus.model.config import CONFIG_FILE
from focus.model.detector import Detector
from focus.report.evaluation import Evaluation
from focus.report.page import write_robustness
from focus.runtime.cpu_time import phase
from focus.runtime.launch import (
    closing_process_group,
    processes_of,
    run_on_all,
    run_on_main_first,
    start,
)
from focus.runtime.machine import default_workers
from focus.runtime.rows import names_of
from focus.training.run_folder import SUMMARY


@closing_process_group()
def score(config: EvaluateConfig, output_of: Callable[[], Path]) -> Evaluation | None:
    """Do what :func:`focus.use.evaluate.evaluate` does for images.

    output_of: It returns the folder to write to, or raises InputError.
    """
    accelerator = start(config.mixed_precision, config.threads, device=config.device)
    model_folder, output = run_on_all(accelerator, lambda: (_model_folder(config), output_of()))
    run_folder = model_folder.parent
    detector = run_on_all(accelerator, lambda: Detector.from_pretrained(model_folder))
    threshold = run_on_all(accelerator, lambda: detector.set_threshold(config.threshold))
    detector.to(accelerator.device)

    decoded = ImageCache.of(detector.image_size, config.image_cache, detector.config.fit)
    with phase("checking images"):
        images = _images(config, run_folder, output, decoded, accelerator)
    manifest = images.manifest
    findings = list(images.findings)
    answers = run_on_all(accelerator, lambda: read_answers(config.people))
    if config.people and not by_image(answers).keys() & {digest_of(image) for image in manifest}:
        findings.append(finding("no_answers", people=config.people))
    perturbations = perturbations_of(config)
    if perturbations:
        robustness.check_labels(manifest)

    trained = _training_config(run_folder)
    network = detector.config
    origin = {
        **provenance(network.model, manifest, trained, network.initial_weights),
        WEIGHTS: network.weights_sha256,
        PRECISION: accelerator.mixed_precision,
    }
    before = run_on_all(accelerator, lambda: measured(output, manifest, origin, threshold.value))
    settings: dict[str, Any] = {
        "batch_size": detector.at_once(config.batch_size),
        "workers": default_workers() if config.workers is None else config.workers,
    }
    with phase("test"):
        scores = score_images(
            detector, manifest, accelerator=accelerator, images=decoded, **settings
        )

    evaluation: Evaluation | None = None
    lines: list[str] = []
    written: list[Path] = []
    if accelerator.is_main_process:
        # At once: what follows may take hours, or find an image that the network cannot score.
        facts: dict[str, Any] = {"provenance": origin}
        if answers and (scores.label >= 0).any():
            digests = [digest_of(manifest[row]) for row in scores.index]
            facts["people"] = beside(
                scores, digests, answers, network.training_generators, threshold.value
            )
        name = run_folder.name if model_folder.name == "model" else model_folder.name
        findings += source_findings(manifest)
        evaluation = Evaluation.of(name, output, detector, manifest, scores, facts, findings)
        if evaluation.results is not None:
            faithfulness.add(before.faithfulness, evaluation.results)
        evaluation.perturbed = before.perturbed
        written += [*evaluation.save(keep_measured=True), *images.save(output)]
        lines += _kept_lines(before, perturbations, config)
        lines += people_lines(evaluation.results or {})

    if perturbations:
        perturbed = robustness.measure(
            accelerator, detector, manifest, scores, perturbations, **settings
        )
        if evaluation:
            evaluation.perturbed = robustness.replaced(before.perturbed, perturbed)
            written.append(robustness.write(evaluation.perturbed, output))
            written.append(write_robustness(evaluation.perturbed, output))
            lines += robustness.lines(perturbed)

    if config.faithfulness:
        falls = faithfulness.measure(accelerator, detector, manifest, **settings)
        if evaluation:
            written.append(faithfulness.write(falls, scores, output))
            summary = faithfulness.summarise(falls, scores, network.training_generators)
            lines += faithfulness.lines(summary)
            if evaluation.results is not None:
                faithfulness.add(summary, evaluation.results)
                write_results(output, scores, evaluation.results)

    if evaluation:
        lines.append(f"threshold: {threshold}")
        lines += [f"written: {path}" for path in written]
        if config.report:
            metric = None if trained is None else trained.eval_metric
            lines.append(evaluation.save_report(run_folder / SUMMARY, metric))
        evaluation.lines = lines
    return evaluation


def _kept_lines(before: Measured, perturbations: list[str], config: EvaluateConfig) -> list[str]:
    """Say what an earlier evaluation of the same scores has measured, and this one does not."""
    measured_before = dict.fromkeys(row.perturbation for row in before.perturbed)
    kept = [name for name in measured_before if name not in perturbations]
    if before.faithfulness and not config.faithfulness:
        kept.append("faithfulness")
    if not kept:
        return []
    return [f"kept, as measured before on the same scores: {', '.join(kept)}"]


def perturbations_of(config: EvaluateConfig) -> list[str]:
    """Return the names of the perturbations that are to be measured."""
    names = list(ROBUSTNESS) if config.robustness else []
    if config.equalise:
        names.append("equalise")
    return names


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


@dataclass(frozen=True)
class ScoredImages:
    """What is scored, and what is not.

    Attributes:
        manifest: The images that the model was neither trained nor chosen on.
        bad: The files that cannot be decoded.
        copies: Images that show a picture that the model was trained or chosen on.
        left_out: Those of the copies that are not scored.
        findings: What is to be known of the images.
    """

    manifest: Manifest
    bad: list[BadFile]
    copies: list[Copy]
    left_out: list[Copy]
    findings: list[Finding]

    def save(self, folder: Path) -> list[Path]:
        """Write the tables of bad files and copies, or remove earlier ones; return their paths."""
        for name in (BAD_FILES, COPIES):
            (folder / name).unlink(missing_ok=True)
        written = []
        if self.bad:
            write_bad_files(self.bad, folder / BAD_FILES)
            written.append(folder / BAD_FILES)
        if self.copies:
            written.append(write_copies(self.copies, folder, self.left_out))
        return written


@dataclass(frozen=True)
class _ListedImages:
    """What is to be scored, before its files have been read.

    known_images: Those that the model was trained or chosen on.
    """

    manifest: Manifest
    known_images: Manifest
    findings: list[Finding]


def _images(
    config: EvaluateConfig,
    run_folder: Path,
    output: Path,
    decoded: ImageCache | None,
    accelerator: Accelerator,
) -> ScoredImages:
    """Return what to score; the processes share the pass over the files.

    run_folder: The folder that the model's lies in, which may be no run's.
    """
    processes = processes_of(accelerator)
    listed = run_on_main_first(
        accelerator,
        lambda: _listed_images(config, run_folder, output, progress=processes.is_main),
    )
    images = listed.manifest
    # Of all, as in training: what passes there passes here.
    signatures = SignatureStore()
    readable = check_images(
        images,
        images=decoded,
        signatures=signatures,
        max_bad=config.max_bad,
        processes=processes,
    )
    unseen, known_findings = processes.run(lambda: _unseen(listed.known_images, readable.manifest))
    copies, comparison_findings = processes.from_main(
        lambda: _copies_of_known(listed.known_images, unseen, signatures)
    )
    trained = _training_config(run_folder)
    drop = config.drop_copies or (trained is not None and trained.drop_copies)
    dropped = left_out(copies, drop=drop)
    scored = without(unseen, dropped)
    if not scored:
        raise InputError(
            f"All {len(unseen)} images of {images.source} are copies of images that the model was "
            "trained or chosen on: give others."
        )
    training_files: set[str | None] = set()  # which are not scored
    for sample in images.split("train"):
        training_files |= {sample.path, sample.human_map, sample.mask_path}
    bad = [file for file in readable.bad if file.path not in training_files]
    findings = [
        *listed.findings,
        *readable.findings,
        *known_findings,
        *two_label_findings(unseen),
        *copy_findings(unseen, copies, dropped),
        *comparison_findings,
        *few_images_findings(scored),
    ]
    return ScoredImages(scored, bad, copies, dropped, findings)


def _listed_images(
    config: EvaluateConfig, run_folder: Path, output: Path, *, progress: bool
) -> _ListedImages:
    """Return the images that were given.

    Without ``--data`` and the like, those that the run was tested on; with fakes alone, its real
    ones beside them.
    """
    listing = read_given(config, allow_unlabelled=True, output=output)
    images = listing.data + listing.tests
    findings = list(listing.findings)
    record = record_of(run_folder)
    labels = {sample.label for sample in images}
    if config.run is not None and not images:
        images = _tested_on(run_folder, record, progress=progress)
    elif config.run is not None and SYNTHETIC in labels and REAL not in labels:
        reals = _real_images_of(_tested_on(run_folder, record, progress=progress))
        images += reals
        if reals:
            findings.append(finding("reals_of_run", count=len(reals), run=config.run))
    if not images:
        raise InputError("There are no images to score: give --data or --test-data NAME=PATH.")
    if not is_run(run_folder):
        findings.append(finding("no_record"))
    return _ListedImages(images, known_to_run(run_folder, record), findings)


def _tested_on(run: Path, record: Manifest, *, progress: bool) -> Manifest:
    """Return the images that a run was tested on; record: its manifest."""
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


def _copies_of_known(
    known_images: Manifest, unseen: Manifest, signatures: SignatureStore
) -> tuple[list[Copy], list[Finding]]:
    """Return the images that show what the model was trained or chosen on, stored anew.

    And what is to be known of those that can no longer be compared with.
    """
    has_signature = signatures.has(names_of(known_images.cells(CONTENT)))
    originals = known_images.take(has_signature)
    to_decode = known_images.take(~has_signature).where(lambda s: Path(s.path).is_file())
    if to_decode:
        recorded_digests = dict(zip(to_decode.cells("path"), to_decode.cells(CONTENT), strict=True))
        images_alone = Manifest(
            replace(sample, human_map=None, mask_path=None) for sample in to_decode
        )
        with suppress(InputError):  # none can be decoded any more
            decoded = check_images(images_alone, signatures=signatures, max_bad=1.0)
            # One that has changed since is not what the model knows.
            originals += decoded.manifest.where(
                lambda sample: recorded_digests[sample.path] in ("", digest_of(sample))
            )

    findings = []
    lacking = len(known_images) - len(originals)
    if lacking:
        findings.append(finding("no_comparison", count=lacking, total=len(known_images)))
    copies = copies_of(originals, unseen, Pictures(originals + unseen, signatures))
    return copies, findings


def _unseen(known_images: Manifest, images: Manifest) -> tuple[Manifest, list[Finding]]:
    """Return the images that the model was neither trained nor chosen on, nor others of a group.

    And what is to be known of those that are left out.
    """
    findings = []
    index = KnownImages(known_images)
    shared = np.array([index.match(sample) for sample in images], "U5")
    is_other = ~images.equals("split", "train") & (shared != "file")
    others = images.take(is_other)
    unseen = images.take(is_other & (shared == ""))
    if not unseen:
        raise InputError(
            f"All {len(images)} images of {images.source} are for training, or what the model was "
            f"chosen on: give others{RENAME_GROUPS if others else ''}."
        )
    if len(unseen) < len(images):
        count = len(others) - len(unseen)
        by_group = f", {count} of them by their group{RENAME_GROUPS}" if count else ""
        findings.append(
            finding(
                "known_images",
                count=len(images) - len(unseen),
                total=len(images),
                by_group=by_group,
            )
        )
    return unseen, findings


def _training_config(run_folder: Path) -> TrainConfig | None:
    """Return the configuration of a run; None for a model's folder that lies in no run."""
    try:
        return load_config(TrainConfig, run_folder / "config.yaml")
    except InputError:
        return None
