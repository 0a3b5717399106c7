"""Compare several runs side by side, from the results and scores that they left."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from focus.config.train import TrainConfig
from focus.data.known_images import is_run
from focus.data.manifest import Manifest, Sample
from focus.data.overlay import strip
from focus.data.perturbations import STRENGTHS
from focus.errors import ImageError, InputError, shown
from focus.evaluation import robustness
from focus.evaluation.findings import recorded
from focus.evaluation.other_detectors import without_calibration
from focus.evaluation.protocol import UNNAMED, Comparison, match
from focus.evaluation.result_table import SET_TITLES, difference_lines, format_table
from focus.evaluation.results import VERSION, Results, summarise
from focus.evaluation.scores import Scores, in_common
from focus.findings import finding, print_findings, worst_first
from focus.model.operating_points import OperatingPoints, Threshold, score_text
from focus.plotting import shortened
from focus.report import gallery, page, plots
from focus.runtime.files import check_writable

if TYPE_CHECKING:
    from focus.model.detector import Detector

_MOST_DRAWN = 8  # generators of a test set with curves


@dataclass(frozen=True)
class RunData:
    """Scores and results in a run folder, or in a folder of ``focus evaluate``.

    ``perturbed`` are the rows of ``robustness.csv``, none without the file.
    """

    name: str
    folder: Path
    scores: Scores
    results: Results
    perturbed: list[robustness.PerturbedAUC]


def compare(
    folders: Sequence[str],
    output: Path,
    of_table: Callable[[str], tuple[Scores, Results]] | None = None,
    *,
    common: bool = False,
) -> None:
    """Write the report of several runs into ``output`` and print their table.

    Args:
        folders: At least two run folders, folders that ``focus evaluate`` wrote, or tables.
        output: The folder of the report.
        of_table: Returns scores and results of a table.
        common: Whether the figures are only of the images that all of them scored.

    Raises InputError, before anything is written, for a folder without results or that cannot be
    read, and if no image is in common.
    """
    check_writable(output)
    places = [Path(folder).resolve() for folder in folders]
    if output.resolve() in places:
        raise InputError(
            f"--output {output} is one of the runs, whose report it would replace: give another "
            "folder."
        )
    runs = []
    for name, path_as_given in zip(_names(folders), folders, strict=True):
        folder = Path(path_as_given)
        if of_table is not None and folder.is_file():
            runs.append(RunData(name, folder, *of_table(path_as_given), perturbed=[]))
        else:
            runs.append(_read(name, folder))
    parts: list[str] = []
    if common:
        runs, parts = _in_common(runs)
    if not all(runs[0].scores.has_images_of(run.scores) for run in runs[1:]):
        # A table may have been sorted again.
        runs = [replace(run, scores=run.scores.in_order()) for run in runs]
    results = {run.name: run.results for run in runs}
    curves, not_drawn = _roc_and_det(runs)
    robust, missing = _robustness(runs)
    first, *others = ((run.name, run.scores, run.results) for run in runs)
    differences = [line for other in others for line in difference_lines(other, first)]
    if len(others) > 1:
        differences.append(
            f"The p-values are not adjusted for {len(others)} runs compared with one."
        )
    facts = {run.name: _facts(run) for run in runs}
    faces, why = _faces(runs)
    findings = [
        replace(of_run, text=f"{run.name}: {of_run.text}")
        for run in runs
        for of_run in recorded(run.results)
        if of_run.severity != "note"
    ]
    findings += [finding("comparison", text=text) for text in (*parts, *not_drawn, *missing, *why)]
    print(format_table(results), end="\n\n")
    for line in (*differences, *(f"{name}: {text}" for name, text in facts.items())):
        print(line)
    sections = {
        f"{kind} by generator": [plot for plot in curves if plot.title.startswith(kind)]
        for kind in ("ROC", "DET")
    }
    path = page.render(
        output,
        title=f"Comparison of {len(runs)} runs",
        facts=facts,
        results=results,
        differences=differences,
        findings=worst_first(findings),
        faces=faces,
        sections=sections | {"Robustness": robust},
    )
    print(f"written: {path}")
    print_findings(findings)


def _names(folders: Sequence[str]) -> list[str]:
    """Return the name of each folder, or of its run; the whole path where two are alike."""
    paths = [Path(folder).absolute() for folder in folders]
    names = [path.parent.name if path.name == "evaluation" else path.name for path in paths]
    return [
        shown(name if names.count(name) == 1 else folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def _read(name: str, folder: Path) -> RunData:
    path = folder / "results.json"
    if not path.is_file():
        if is_run(folder):
            words = ["focus", "train", "--resume", "--name", folder.name]
            if folder.parent != Path(TrainConfig.output):
                words += ["--output", str(folder.parent)]
            raise InputError(
                f"--compare {folder} is a run that has not ended: wait for it, go on with it by "
                f"{shlex.join(words)}, or evaluate the best model so far and give "
                f"{folder / 'evaluation'}."
            )
        raise InputError(
            f"--compare {folder} has no results.json: give folders of focus train or evaluate."
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["version"] not in (3, VERSION):  # which had no findings
            raise ValueError(f"version {results['version']}, this program reads {VERSION}")
        scores = Scores.from_csv(folder / "scores.csv")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"--compare {folder} cannot be read ({type(error).__name__}: {error}): evaluate the "
            "run again."
        ) from error
    measured = folder / robustness.FILE
    return RunData(
        name, folder, scores, results, robustness.read(measured) if measured.is_file() else []
    )


def _in_common(runs: Sequence[RunData]) -> tuple[list[RunData], list[str]]:
    """Return the runs with the rows that all have and their figures of these, and a remark.

    Robustness, which is measured over all rows together, is left out.
    """
    shared = in_common([run.scores for run in runs])
    if not len(shared[0]):
        raise InputError(
            "--common: no image is in all of them by path, label and generator: give --data-root "
            "where paths are relative."
        )
    runs_in_common = []
    for run, scores in zip(runs, shared, strict=True):
        was = run.results
        thresholds = was["thresholds"]
        new = summarise(
            scores,
            was["training_generators"],
            {name: family or "" for name, family in was["training_families"].items()},
            OperatingPoints(thresholds, None, 0, 0) if thresholds else None,
            threshold=Threshold(*was["decision"].values()),
        )
        if all(was[name]["pooled"]["brier"] is None for name in SET_TITLES if name in was):
            new = without_calibration(new)  # the scores are no probabilities
        kept = ("findings", "provenance", "model", "undefined_thresholds")
        new |= {name: was[name] for name in kept if name in was}
        runs_in_common.append(RunData(run.name, run.folder, scores, new, []))
    sizes = ", ".join(f"{len(run.scores):,} of {run.name}" for run in runs)
    text = (
        f"All figures are of the {len(shared[0]):,} images in common ({sizes}), without "
        "robustness; what is said of a run is about all its images."
    )
    return runs_in_common, [text]


def _roc_and_det(runs: Sequence[RunData]) -> tuple[list[plots.Plot], list[str]]:
    """Return the plots of the generators of each test set, a line a run, and which are left out."""
    of_runs: dict[tuple[str, str], list[_RunComparison]] = {}
    for number, run in enumerate(runs):
        for c in match(run.scores, run.results["training_generators"]):
            if len(c.real):
                generator = c.generator or UNNAMED
                auc = run.results[c.test_set]["generators"][generator]["auc"]
                of_run = _RunComparison(number, c, auc)
                of_runs.setdefault((c.test_set, generator), []).append(of_run)
    drawn, remarks = [], []
    for test_set, title in SET_TITLES.items():
        of_set = [key for key in of_runs if key[0] == test_set]
        most_apart = sorted(of_set, key=lambda key: -np.ptp([c.auc for c in of_runs[key]]))
        drawn += most_apart[:_MOST_DRAWN]
        if len(of_set) > _MOST_DRAWN:
            remarks.append(
                f"ROC and DET are of {_MOST_DRAWN} of {len(of_set)} generators of the {title}, "
                "those whose AUCs differ most between the runs; the tables have all AUCs."
            )
    short = shortened(run.name for run in runs)
    figures: list[plots.Plot] = []
    for number, (test_set, generator) in enumerate(sorted(drawn)):
        curves = []
        for run_number, comparison, auc in of_runs[test_set, generator]:
            run = runs[run_number]
            real, fake = run.scores.score[comparison.real], run.scores.score[comparison.fake]
            curves.append(plots.Curve(run.name, real, fake, auc, run_number))
        # Cut, as systems limit the names of files; its number tells it from others.
        name = re.sub("[^A-Za-z0-9]+", "-", f"{number:02d} {test_set} {generator}")[:80].strip("-")
        figures += plots.roc_and_det(name, f"{generator}, {SET_TITLES[test_set]}", curves, short)
    return figures, remarks


class _RunComparison(NamedTuple):
    """A generator in one run: the number of the run, the rows of its scores, their AUC."""

    run: int
    comparison: Comparison
    auc: float


def _model_folder(run: RunData) -> Path:
    """Return the folder of the run's model, which is not there beside a table of scores."""
    folder = run.folder.absolute()  # never a name on the Hub
    of_run = folder.parent / "model"  # of a folder of focus evaluate within it
    if folder.is_dir() and not (folder / "model").is_dir() and of_run.is_dir():
        return of_run
    return folder / "model"


def _detector(run: RunData) -> "Detector":
    """Load the run's detector; InputError if there is none."""
    from focus.model.detector import Detector  # with torch, which tables of scores do without

    return Detector.from_pretrained(_model_folder(run))


def _facts(run: RunData) -> str:
    """Return what the head of the page says of a run."""
    origin = run.results.get("provenance") or {}
    decision = run.results["decision"]
    parts = [
        (origin.get("loss") or {}).get("name"),
        f"recipe {origin['recipe']}" if origin.get("recipe") else None,
        origin.get("network"),
        None if origin.get("seed") is None else f"seed {origin['seed']}",
        f"{len(run.scores):,} images",
        f"threshold {score_text(decision['threshold'])}",
    ]
    if _model_folder(run).is_dir():
        from focus.evaluation.inference import cost  # with torch

        try:
            detector = _detector(run)
            config = detector.config
            input_size = f"input {config.input}, {config.fit} to {config.image_size} pixels"
            parts += [input_size, cost(detector)]
        except InputError:
            pass  # of a model that cannot be read the rest is shown
    return ", ".join(part for part in parts if part)


def _faces(runs: Sequence[RunData]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return pictures of the faces that the runs disagree about most, each with its words.

    Without pictures the second list says why: the runs scored other images, or a model or an image
    is missing.
    """
    paths = runs[0].scores.path
    if not len(paths) or not all(np.array_equal(run.scores.path, paths) for run in runs):
        return [], ["No faces are shown: the runs scored other images."]
    if not all(run.scores.has_cams for run in runs):
        return [], ["No faces are shown: a table of scores has no CAMs."]
    from focus.evaluation.inference import predictions  # with torch

    ordered = [run.scores.in_order() for run in runs]
    rows = _disputed(ordered)
    faces = Manifest(Sample(path) for path in ordered[0].path[rows])
    cams, seen_by = [], []
    try:
        for run in runs:
            detector = _detector(run)
            detector.set_threshold(run.results["decision"]["threshold"])
            seen_by.append(detector.preprocessing)
            made = predictions(detector, faces, batch_size=len(faces))
            cams.append(np.concatenate([p.cams[:, 0].float().numpy() for _, p in made]))
        pictures = [
            gallery.as_data_uri(strip(face, np.stack(cams_of_face), gallery.SIDE, seen_by))
            for face, cams_of_face in zip(faces, zip(*cams, strict=True), strict=True)
        ]
    except (InputError, ImageError) as error:
        return [], [f"No faces are shown: {error}"]
    words = []
    for row in rows:
        verdicts = []
        for run, scores in zip(runs, ordered, strict=True):
            outcome = gallery.outcome_of(scores.label[row], scores.predicted[row])
            score, entropy = scores.score[row], scores.entropy_predicted[row]
            verdicts.append(f"{run.name} {outcome}, score {score:.2f}, h {entropy:.2f}")
        kind = gallery.kind(ordered[0].label[row], ordered[0].generator[row])
        words.append(f"{kind}: {'; '.join(verdicts)}")
    return list(zip(pictures, words, strict=True)), []


def _disputed(scores: Sequence[Scores], count: int = 12) -> list[int]:
    """Return the rows whose scores differ most between the runs, of each kind in turn."""
    spread = np.ptp([scores_of_run.score for scores_of_run in scores], axis=0)
    order: dict[tuple[int, str], list[int]] = {}
    for row in np.argsort(-spread, kind="stable").tolist():
        order.setdefault((scores[0].label[row], scores[0].generator[row]), []).append(row)
    turns = [(turn, row) for rows in order.values() for turn, row in enumerate(rows)]
    return [row for _, row in sorted(turns)[:count]]


def _robustness(runs: Sequence[RunData]) -> tuple[list[plots.Plot], list[str]]:
    """Return plots of the means over the generators that all measured runs have, and remarks."""
    drawn, remarks = list[plots.Plot](), []
    for run in runs:
        within = run.folder / "evaluation"
        if not run.perturbed and (within / robustness.FILE).is_file():
            remarks.append(
                f"{run.name}: its robustness is in {within}; give that folder to see it."
            )
        elif not run.perturbed and any(other.perturbed for other in runs):
            remarks.append(f"{run.name}: not measured by focus evaluate --robustness.")
    for test_set, title in SET_TITLES.items():
        aucs: dict[str, dict[str, list[float]]] = {}
        for name in STRENGTHS:
            by_run = {run.name: _of_test_set(run, name, test_set) for run in runs}
            measured = [of_generators for of_generators in by_run.values() if of_generators]
            if not measured:
                continue
            common = [
                generator
                for generator in measured[0]
                if all(generator in of_generators for of_generators in measured)
            ]
            if not common:
                remarks.append(f"Robustness, {title}: the runs have no generator in common.")
                break
            aucs[name] = {
                run: np.mean([aucs_of[g] for g in common], axis=0).tolist() if aucs_of else []
                for run, aucs_of in by_run.items()
            }
        if aucs:
            drawn += plots.of_runs_robustness(test_set, common, aucs)
    return drawn, remarks


def _of_test_set(run: RunData, perturbation: str, test_set: str) -> Mapping[str, Sequence[float]]:
    """Return the AUCs of each generator, clean and at each strength."""
    curves = robustness.curves(run.perturbed, perturbation)
    return {generator: aucs for (of_set, generator), aucs in curves.items() if of_set == test_set}
