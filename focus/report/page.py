"""Writing a report: one HTML file that needs no other, and its figures as files beside it.

It is written last and can be made again from what is there before it, so an error in it costs
nothing else. ``docs/formats.md`` says what it holds.
"""

import base64
import csv
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from focus import __version__
from focus.data.manifest import Manifest
from focus.errors import ImageError
from focus.evaluation import faithfulness, robustness
from focus.evaluation.result_table import remarks
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.evaluation.selection import best_epoch
from focus.plotting import printable
from focus.report import gallery, plots, tables
from focus.runtime.files import atomic_write
from focus.runtime.progress import progress_bar

if TYPE_CHECKING:
    from focus.model.detector import Detector

REPORT, FIGURES = "report.html", "figures"

_FILE_OF_FIGURE = re.compile(rf"({'|'.join(plots.PREFIXES)})(-[A-Za-z0-9-]+)?\.(svg|png)")


@dataclass(frozen=True)
class Section:
    """Figures below one heading."""

    title: str
    plots: Sequence[plots.Plot]

    @property
    def anchor(self) -> str:
        """What a link to it names."""
        return re.sub("[^a-z]+", "-", self.title.lower()).strip("-")


def attempt(make: Callable[[], Path]) -> str:
    """What the console says of a report: where it is, or, after any error, why there is none."""
    try:
        return f"written: {make()}"
    except Exception as error:
        # Nobody should lose a run for its report, whatever is wrong with it.
        kind = ImageError if isinstance(error, ImageError) else type(error)
        reason = f"{kind.__name__}: {' '.join(str(error).split())}"
        return f"warning: {REPORT} could not be written ({reason}); the other results are there"


def remove(folder: Path) -> None:
    """Take away what was made of other scores: a report, its figures, robustness, faithfulness."""
    for name in (*robustness.FILES, faithfulness.FILE):
        (folder / name).unlink(missing_ok=True)
    _remove_report(folder)


def _remove_report(folder: Path) -> None:
    (folder / REPORT).unlink(missing_ok=True)
    figures = folder / FIGURES
    if not figures.is_dir():
        return
    for path in figures.iterdir():
        if _FILE_OF_FIGURE.fullmatch(path.name):
            path.unlink()
    if not any(figures.iterdir()):
        figures.rmdir()


def write(
    folder: Path,
    title: str,
    detector: "Detector",
    manifest: Manifest,
    scores: Scores,
    results: Results | None,
    *,
    kept: Sequence[robustness.Kept] = (),
    summary: Path | None = None,
    eval_metric: str | None = None,
    progress: bool = True,
) -> Path:
    """Write the report of an evaluation into ``folder``; returns the path of the page.

    detector: where it computes; it looks again at the images that are shown, no others. manifest:
    the images [N] that are scored. kept: what robustness measured. summary: the ``summary.csv`` of
    the training; eval_metric: which of its figures chose the model, None if that is not known.

    Raises:
        InputError: an image cannot be decoded any more.
    """
    known = ("roc", "det"), ("scores", "reliability"), ("entropy",)
    heads = "Telling fakes from real images", "Scores and calibration", "Focus"
    drawn = plots.of_scores(scores, results)
    sections = [
        Section(head, [plot for plot in drawn if plot.name.partition("-")[0] in names])
        for head, names in zip(heads, known, strict=True)
    ]
    rows = _read_summary(summary)
    # Where training was resumed without its best model, the kept one is the best since then.
    epoch = (results or {}).get("model", {}).get("epoch") or best_epoch(rows, eval_metric)
    sections += [
        Section("Robustness", plots.of_robustness(kept)),
        Section("Training", plots.of_training(rows, epoch)),
    ]
    shown, each = gallery.choose(scores, results)
    pictures = dict(
        progress_bar(
            gallery.pictures(detector, manifest, shown.tolist()),
            total=len(shown),
            desc="report",
            unit="image",
            delay=3,
            disable=not progress,
        )
    )
    images = {
        "data": gallery.table(scores, results, shown)
        | {
            "pictures": [pictures[row] for row in shown.tolist()],
            "parts": [2 + (manifest[row].map_path is not None) for row in shown.tolist()],
        },
        "masks": ", the artefact outlined" if any(s.mask_path for s in manifest) else "",
        **_words(len(scores), len(shown), each),
    }
    return render(
        folder,
        title=title,
        facts=_facts(scores, results),
        headline=None if results is None else tables.headline({title: results}),
        remarks=remarks(scores, results),
        tables=[]
        if results is None
        else [*tables.by_generator(results), *tables.operating_points(results)],
        sections=sections,
        images=images if len(scores) else None,
        progress=progress,
    )


def render(
    folder: Path,
    *,
    title: str,
    facts: Sequence[str],
    headline: tables.Table | None,
    remarks: Sequence[str],
    tables: Sequence[tables.Table],
    sections: Sequence[Section],
    images: Mapping[str, Any] | None,
    progress: bool = True,
) -> Path:
    """Draw the figures and write all files, or none of them; returns the path of the page."""
    files: dict[str, bytes] = {}
    shown = []
    todo = sum(len(section.plots) for section in sections)
    with progress_bar(total=todo, desc="figures", delay=3, disable=not progress) as bar:
        for section in sections:
            inlined = []
            for plot in section.plots:
                svg, png = plots.rendered(plot)
                files |= {f"{plot.name}.svg": svg.encode("utf-8"), f"{plot.name}.png": png}
                inlined.append(
                    {
                        "title": printable(plot.title),
                        "alt": printable(plot.alt),
                        "file": f"{FIGURES}/{plot.name}",
                        "svg": plots.inline(svg, plot.name),
                    }
                )
                bar.update()
            if inlined:
                shown.append({"title": section.title, "anchor": section.anchor, "plots": inlined})
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment = Environment(
        loader=PackageLoader("focus.report", ""), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("page.html").render(
        title=printable(title),
        facts=[printable(fact) for fact in facts],
        headline=headline,
        remarks=[printable(line) for line in remarks],
        tables=tables,
        sections=shown,
        images=images,
        style=_resource("page.css"),
        script=script,
        script_hash=digest,
        footer=f"Written by focus-faces {__version__}.",
    )
    _write(folder, text, files)
    return folder / REPORT


def _write(folder: Path, text: str, files: Mapping[str, bytes]) -> None:
    _remove_report(folder)
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    try:
        for name, content in files.items():
            with atomic_write(folder / FIGURES / name) as aside:
                aside.write_bytes(content)
        with atomic_write(folder / REPORT) as aside:
            aside.write_text(text, encoding="utf-8")
    except BaseException:
        _remove_report(folder)
        raise


def _resource(name: str) -> str:
    return resources.files("focus.report").joinpath(name).read_text(encoding="utf-8")


def _read_summary(path: Path | None) -> list[dict[str, float]]:
    """The rows of a ``summary.csv``, NaN for an empty cell; none without the file."""
    if path is None or not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: float(cell) if cell else math.nan for name, cell in row.items()}
            for row in csv.DictReader(file)
        ]


def _facts(scores: Scores, results: Results | None) -> list[str]:
    if results is None:
        return [f"{len(scores):,} images without labels"]
    counts = f"{results['n_real']:,} real and {results['n_fake']:,} synthetic images"
    if results["n_unlabelled"]:
        counts += f", {results['n_unlabelled']:,} without label"
    facts = [counts]
    if results["training_generators"]:
        facts.append(f"Trained on fakes of {', '.join(results['training_generators'])}")
    model = results.get("model", {})
    facts += [
        f"Model of epoch {model['epoch']}, chosen on validation images ({name} = {value:.3f})"
        for name, value in model.items()
        if name != "epoch" and value is not None
    ]
    return facts


def _words(total: int, shown: int, each: int) -> dict[str, str]:
    """How the images with a picture were chosen, and which rows the table has."""
    selection = f"All {total:,} images have a picture."
    if shown < total:
        selection = (
            f"{shown:,} of {total:,} images have a picture: of each test set, class, generator and "
            f"outcome up to {each}, at even steps of their order by score; none is picked by hand."
        )
    listed = "The table has all images; more digits are in scores.csv."
    if total > gallery.LISTED:
        listed = f"The table has the images with a picture; all {total:,} are in scores.csv."
    return {"selection": selection, "listed": listed}
