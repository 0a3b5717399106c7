"""Write a report: one HTML file that needs no other, and its figures as files beside it.

It is written last and can be made again from what is there before it, so an error in it costs
nothing else. ``docs/formats.md`` says what it holds.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from focus import __version__
from focus.data.images import Preprocessing
from focus.data.manifest import Manifest
from focus.evaluation import robustness
from focus.evaluation.error_rates import ErrorRate, errors_in_words
from focus.evaluation.findings import recorded
from focus.evaluation.protocol import match
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.evaluation.selection import best_epoch
from focus.findings import Finding
from focus.model.operating_points import Threshold
from focus.plotting import COLOURS
from focus.report import gallery, opening, plots, tables
from focus.report.files import FIGURES, REPORT, ROBUSTNESS, remove_report
from focus.report.tables import headline
from focus.runtime.csv_files import read_numbers
from focus.runtime.files import atomic_write
from focus.runtime.progress import progress_bar
from focus.tables import Table

if TYPE_CHECKING:
    from focus.model.detector import Detector

_SECTIONS = {
    "Telling synthetic from real images": ("roc", "det"),
    "Scores and calibration": ("scores", "reliability"),
    "Focus": ("entropy", "range"),
    "Robustness": ("robustness",),
    "Training": ("training",),
}
"""Heading of each section, and the figures in it by the beginnings of their names."""
GLOSSARY = {
    "APCER, BPCER": "Error rates at the threshold: the share of a generator's synthetic faces that "
    "are called real (missed), and the share of real faces that are called synthetic (false "
    "alarms). The names are borrowed from ISO/IEC 30107-3.",
    "AUC": "The chance that a synthetic face has a higher score than a real one: 1 is perfect, 0.5 "
    "is guessing. It needs no threshold.",
    "CAM": "Class activation map: how much each cell of the image counts for the class that the "
    "detector decided for. Overlays show it stretched from its smallest to its largest value "
    "(min-max).",
    "Closed set, open set": "Closed: synthetic faces of generators that training saw. Open: "
    "synthetic faces of generators that it never saw.",
    "EER": "Equal error rate: the error rate at the threshold where missed faces and false alarms "
    "are equally frequent.",
    "Entropy h": "How far the CAM spreads: 0 if all of it is on one cell, 1 if it is even over "
    "all. It is the entropy of the CAM's softmax, so it is near 0 for a CAM with large values, "
    "whatever its shape.",
    "Entropy z, CAM range": "Entropy z is the entropy after the CAM is scaled to a standard "
    "deviation of 1; it tells shapes apart where entropy h is near 0 for all. CAM range is the "
    "largest minus the smallest value of the CAM.",
    "Human map": "Where people looked, or drew what looked wrong, when they judged the face.",
    "Interval": "A range that holds the true figure in 95 % of samples of images of the same "
    "generators and cameras. It says nothing about other generators or another training.",
    "Near, far": "Generators of the open set: near if training saw their family, far if it did "
    "not.",
    "Threshold": "A face whose score is above it is called synthetic. One threshold, fixed on "
    "validation images and stored with the model, decides everywhere.",
    "TPR at 1 % FPR": "The share of synthetic faces that are found at a threshold where 1 % of the "
    "real faces raise a false alarm.",
}
"""What the words of a report mean, a sentence each; ``docs/glossary.md`` holds the same."""


def attempt(make: Callable[[], Path]) -> str:
    """Make a report; return the line for the console that says where it is, or why there is none.

    No error in a report costs a run its other results.
    """
    try:
        return f"written: {make()}"
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return f"warning: {REPORT} could not be written ({reason}); the other results are there"


def write_robustness(results: Sequence[robustness.PerturbedAUC], folder: Path) -> Path:
    """Draw ``robustness.png`` into ``folder``; return its path."""
    with atomic_write(folder / ROBUSTNESS) as aside:
        plots.robustness_figure(results).savefig(aside, format="png")
    return folder / ROBUSTNESS


def write(
    folder: Path,
    title: str,
    detector: "Detector | None",
    manifest: Manifest | None,
    scores: Scores,
    results: Results | None,
    *,
    perturbed: Sequence[robustness.PerturbedAUC] = (),
    summary: Path | None = None,
    eval_metric: str | None = None,
    findings: Sequence[Finding] = (),
    progress: bool = True,
) -> Path:
    """Write the report of an evaluation into ``folder``; return the path of the page.

    Args:
        detector: The scores are its; None: they are somebody else's, and no CAM is shown.
        manifest: The images of the scores [N]; None: no image is shown.
        results: None if no image has a label.
        perturbed: What the evaluation of robustness measured.
        summary: The ``summary.csv`` of the training.
        eval_metric: The column of it that chose the model.
        findings: They are shown where there are no results that hold them.

    Raises ImageError where an image cannot be decoded any more.
    """
    epochs = read_numbers(summary) if summary is not None and summary.exists() else []
    # Where training was resumed without its best model, the kept one is the best since then.
    epoch = (results or {}).get("model", {}).get("epoch") or best_epoch(epochs, eval_metric)
    comparisons = [] if results is None else match(scores, results["training_generators"])
    drawn = [
        *plots.of_scores(scores, results, comparisons),
        *plots.of_robustness(perturbed),
        *plots.of_training(epochs, epoch),
    ]
    decision = (results or {}).get("decision", {})
    threshold = Threshold(*decision.values()) if detector is None else detector.threshold
    facts = opening.facts(results, scores, threshold)
    images = None
    if manifest is not None and len(scores):
        seen_by = [] if detector is None else [detector.preprocessing]
        test_sets = gallery.sets(scores, comparisons)
        images = _images(seen_by, manifest, scores, test_sets, threshold.value, progress)
    return render(
        folder,
        title=title,
        facts=facts,
        results={} if results is None else {title: results},
        errors=[] if results is None else errors_in_words(results),
        findings=findings if results is None else recorded(results),
        tables=[] if results is None else tables.of_test_sets(results),
        sections={
            heading: [plot for plot in drawn if plot.name.partition("-")[0] in kinds]
            for heading, kinds in _SECTIONS.items()
        },
        images=images,
        progress=progress,
    )


def _images(
    seen_by: Sequence[Preprocessing],
    manifest: Manifest,
    scores: Scores,
    test_sets: NDArray[np.object_],
    threshold: float,
    progress: bool,
) -> dict[str, Any]:
    """Return what the template needs of the images, with their pictures.

    test_sets: The test sets [N] that :func:`focus.report.gallery.sets` returns.
    """
    shown, per_kind = gallery.pick_rows(scores, test_sets)
    made = gallery.pictures(manifest, scores, shown.tolist(), seen_by)
    bar = progress_bar(
        made, total=len(shown), desc="report", unit="image", delay=3, disable=not progress
    )
    pictures = dict(bar)
    data = gallery.table(scores, test_sets, shown) | {
        "threshold": threshold,
        "pictures": [pictures[row] for row in shown.tolist()],
        "parts": [
            1 + scores.has_cams + (manifest[row].human_map is not None) for row in shown.tolist()
        ],
    }
    positions = {row: position for position, row in enumerate(shown.tolist())}
    return {
        "data": data,
        "examples": [
            {
                "picture": pictures[row],
                "parts": data["parts"][positions[row]],
                "kind": gallery.kind(scores.label[row], scores.generator[row]),
                "outcome": gallery.outcome_of(scores.label[row], scores.predicted[row]),
                "numbers": f"score {scores.score[row]:.2f}"
                + f" · h {scores.entropy_predicted[row]:.2f}" * scores.has_cams,
            }
            for row in opening.examples(scores, shown)
        ],
        "cams": scores.has_cams,
        "masks": any(sample.mask_path for sample in manifest),
        "maps": any(sample.human_map for sample in manifest),
        "total": len(scores),
        "per_kind": per_kind,
        "all_listed": len(scores) <= gallery.LISTED,
    }


def render(
    folder: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    results: Mapping[str, Results],
    errors: Sequence[ErrorRate] = (),
    findings: Sequence[Finding],
    tables: Sequence[Table] = (),
    standings: Sequence[Table] = (),
    differences: Sequence[str] = (),
    sections: Mapping[str, Sequence[plots.Plot]],
    images: Mapping[str, Any] | None = None,
    faces: Sequence[tuple[str, str]] = (),
    progress: bool = True,
) -> Path:
    """Draw the figures and write all files; return the path of the page.

    facts: The facts of the page's head by name. results: The results by the name of the run.
    faces: The pictures of a comparison, each with its words. standings: Tables that show unfolded.
    """
    remove_report(folder)
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    svgs: dict[str, str] = {}
    drawn = [plot for section in sections.values() for plot in section]
    for plot in progress_bar(drawn, desc="figures", delay=3, disable=not progress):
        svg, png = plots.rendered(plot)
        (folder / FIGURES / f"{plot.name}.svg").write_text(svg, encoding="utf-8")
        (folder / FIGURES / f"{plot.name}.png").write_bytes(png)
        svgs[plot.name] = plots.inline(svg, plot.name)
    scripts = [_resource("figures.js")]
    if images:
        scripts.append(_resource("page.js"))
    digests = [hashlib.sha256(script.encode("utf-8")).digest() for script in scripts]
    environment = Environment(
        loader=PackageLoader("focus.report", ""), autoescape=True, undefined=StrictUndefined
    )
    written = {"written": time.strftime("%d %B %Y"), "by": f"focus-faces {__version__}"}
    text = environment.get_template("page.html").render(
        title=title,
        facts={name: value for name, value in {**facts, **written}.items() if value},
        forest=opening.forest(list(results.values())),
        runs=list(results),
        colours=COLOURS,
        errors=errors,
        looks=opening.looks(results) if len(results) == 1 else "",
        findings=findings,
        differences=differences,
        tables=[headline(results), *tables] if results else tables,
        standings=standings,
        sections={heading: plots for heading, plots in sections.items() if plots},
        svgs=svgs,
        images=images,
        faces=faces,
        glossary=GLOSSARY,
        style=_resource("page.css"),
        scripts=scripts,
        allowed=" ".join(
            f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests
        ),
    )
    with atomic_write(folder / REPORT) as aside:
        # Bytes of a file's name that are not UTF-8 become question marks.
        aside.write_bytes(text.encode("utf-8", "replace"))
    return folder / REPORT


def _resource(name: str) -> str:
    return resources.files("focus.report").joinpath(name).read_text(encoding="utf-8")
