"""An evaluation: the scores of a detector, what follows from them, and the files that hold it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from focus.data.manifest import Manifest
from focus.evaluation.findings import add_findings
from focus.evaluation.result_table import SHOWN_ROWS, format_table
from focus.evaluation.results import Results, summarise, write_results
from focus.evaluation.robustness import PerturbedAUC
from focus.evaluation.scores import Scores
from focus.findings import Finding
from focus.report.files import remove_measured, remove_report
from focus.report.gallery import write_sheet
from focus.runtime.cpu_time import phase

if TYPE_CHECKING:
    from focus.model.detector import Detector

OVERLAYS = "overlays.png"


@dataclass
class Evaluation:
    """The scores of a detector and what follows from them; as text, what a program prints.

    Attributes:
        name: The name of the run, of the model's folder or of the table.
        folder: Where its files are.
        results: What ``results.json`` holds; None if no image has a label.
        findings: What a reader must know, worst first.
        detector: The detector whose scores these are; None: they come from a table.
        manifest: The images of the scores; None if they are not looked for.
        perturbed: What the evaluation of robustness measured.
        lines: What is printed between the table and the findings.

    Examples:
        Evaluate the scores of any detector, from a table.

        >>> from focus import EvaluateConfig, evaluate
        >>> evaluation = evaluate(EvaluateConfig(scores="theirs.csv", report=False))
        >>> 0 <= evaluation.results["open"]["mean"]["auc"] <= 1
        True
        >>> len(evaluation.scores)
        24
        >>> evaluation.save("elsewhere")
    """

    name: str
    folder: Path
    scores: Scores
    results: Results | None
    findings: list[Finding]
    detector: "Detector | None" = None
    manifest: Manifest | None = None
    perturbed: Sequence[PerturbedAUC] = ()
    lines: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        name: str,
        folder: Path,
        detector: "Detector",
        manifest: Manifest,
        scores: Scores,
        facts: dict[str, Any],
        findings_on_images: Iterable[Finding],
    ) -> Self:
        """Compute the results of the scores that a detector gave the images of a manifest.

        facts: They are added to the results.
        """
        results = None
        if not len(scores) or (scores.label >= 0).any():
            results = summarise(
                scores,
                detector.config.training_generators,
                detector.config.training_families,
                detector.points,
                threshold=detector.threshold,
                progress=True,
            )
            results |= facts
        findings = add_findings(results, scores, detector.points, findings_on_images)
        return cls(name, folder, scores, results, findings, detector, manifest)

    def table(self, most: int | None = SHOWN_ROWS) -> str:
        """Return the figures as text; most: of the generators' rows, None for all."""
        return "" if self.results is None else format_table({self.name: self.results}, most=most)

    def save(self, folder: str | Path | None = None, *, keep_measured: bool = False) -> list[Path]:
        """Write ``results.json``, ``scores.csv`` and a sheet of CAMs; return their paths.

        The report of earlier scores is removed, and what was measured beside them, unless the
        folder holds this evaluation already.

        folder: By default that of the evaluation. keep_measured: Leave robustness and
        faithfulness, which are of these scores.
        """
        folder = Path(folder or self.folder)
        before = _results_in(folder)
        written = write_results(folder, self.scores, self.results)
        remove_report(folder)
        if not keep_measured and _results_in(folder) != before:
            remove_measured(folder)
        (folder / OVERLAYS).unlink(missing_ok=True)
        if self.detector is not None and self.manifest:
            written.append(folder / OVERLAYS)
            write_sheet(self.detector, self.manifest, self.scores, written[-1])
        return written

    def save_report(self, summary: Path | None = None, eval_metric: str | None = None) -> str:
        """Write ``report.html``; return the line that says where it is, or why there is none.

        summary, eval_metric: These go to :func:`focus.report.page.write`.
        """
        from focus.report.page import attempt, write  # with plots, for who wants a page

        page = partial(
            write,
            self.folder,
            self.name,
            self.detector,
            self.manifest,
            self.scores,
            self.results,
            perturbed=self.perturbed,
            summary=summary,
            eval_metric=eval_metric,
            findings=self.findings,
        )
        with phase("report"):
            return attempt(page)

    def __str__(self) -> str:
        lines = [*self.lines, *map(str, self.findings)]
        if self.results is not None:
            lines = [self.table(), "", *lines]
        return "\n".join(lines)


def _results_in(folder: Path) -> list[bytes]:
    """Return the contents of the files of :func:`write_results` that a folder holds."""
    files = [folder / "scores.csv", folder / "results.json"]
    return [file.read_bytes() for file in files if file.is_file()]
