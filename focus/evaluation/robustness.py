"""How much of its AUC a detector keeps when images are compressed, blurred, resized or noisy.

Every image that a fake is told from, or that is told, is scored under each perturbation of
:mod:`focus.data.perturbations` at each strength. ``docs/formats.md`` describes ``robustness.csv``.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm.auto import tqdm

from focus import metrics
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.perturbations import STRENGTHS, UNITS, perturbations
from focus.errors import InputError
from focus.evaluation.inference import images_only, score_shared
from focus.evaluation.protocol import UNNAMED, Comparison, match, union
from focus.evaluation.scores import Scores
from focus.plotting import COLOURS, DASHES, INK, MARKERS, legend_below, short_labels
from focus.runtime.files import atomic_csv_writer, atomic_write
from focus.runtime.progress import progress_bar

if TYPE_CHECKING:
    from focus.model.detector import Detector

VERSION = 1
FILES = "robustness.csv", "robustness.png"

_MARK = "# focus-robustness "
_COLUMNS = (
    *("perturbation", "strength", "unit", "test_set", "generator", "n_real", "n_fake"),
    *("auc", "auc_low", "auc_high", "auc_clean", "auc_change", "change_low", "change_high"),
    "auc_kept",
)
_CHANCE = 0.5
_LEGEND_COLUMNS = 5


@dataclass(frozen=True)
class Kept:
    """What one perturbation at one strength leaves of the AUC for one generator of a test set.

    auc, clean: with and without it, in [0, 1]; None where there are no real images. interval,
    change_interval: 95 %, of ``auc`` and of ``change``.
    """

    perturbation: str
    strength: float
    test_set: str
    generator: str
    n_real: int
    n_fake: int
    auc: float | None
    clean: float | None
    interval: metrics.Interval | None = None
    change_interval: metrics.Interval | None = None

    @property
    def change(self) -> float | None:
        """``auc - clean``."""
        return None if self.auc is None or self.clean is None else self.auc - self.clean

    @property
    def kept(self) -> float | None:
        """The share of what the clean AUC has above chance: ``(auc - 1/2) / (clean - 1/2)``.

        This project's own. None where the clean AUC is not above 1/2; where it is little above, a
        chance difference makes it anything.
        """
        if self.auc is None or self.clean is None or self.clean <= _CHANCE:
            return None
        return (self.auc - _CHANCE) / (self.clean - _CHANCE)


def check_labels(manifest: Manifest) -> None:
    """Raise InputError if there cannot be an AUC: before an hour is spent on scoring."""
    labels = {sample.label for sample in manifest}
    for label, kind in ((REAL, "real"), (SYNTHETIC, "synthetic")):
        if label not in labels:
            raise InputError(
                f"--robustness compares AUCs, and none of the {len(manifest)} images is labelled "
                f"as {kind}: give some, or drop it."
            )


def measure(
    accelerator: Accelerator,
    detector: "Detector",
    manifest: Manifest,
    clean: Scores,
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> list[Kept]:
    """Scores the images of all comparisons under every perturbation.

    manifest, clean: the images and their scores as they are, row by row. seed: of the noise. Every
    process of a launch calls it, scores its share and gets all of the result; the main one shows
    the progress over its share. Ordered by perturbation, strength, test set and generator.

    Raises ImageError when the output for an image is not finite, naming the image.
    """
    comparisons = match(clean, detector.config.training_generators)
    compared = [c for c in comparisons if len(c.real) and len(c.fake)]
    rows = union(side for c in compared for side in (c.real, c.fake))
    images = images_only(Manifest((manifest[row] for row in rows.tolist()), manifest.source))
    share = len(range(accelerator.process_index, len(images), accelerator.num_processes))
    todo = list(perturbations(seed))
    results: list[Kept] = []
    with progress_bar(
        total=share * len(todo),
        desc="robustness",
        unit="image",
        disable=not (progress and accelerator.is_main_process),
    ) as bar:
        for number, perturbation in enumerate(todo):
            end = share * (number + 1)
            scored = score_shared(
                accelerator,
                detector,
                images,
                batch_size=batch_size,
                workers=workers,
                progress=False,
                description="",
                each=partial(_advance, bar, batch_size, end),
                perturb=perturbation,
            )
            score = np.full(len(clean), np.nan)
            score[rows] = scored.score
            results += [
                Kept(
                    perturbation.name,
                    perturbation.strength,
                    c.test_set,
                    c.generator,
                    len(c.real),
                    len(c.fake),
                    _auc(score, c),
                    _auc(clean.score, c),
                    *_intervals(score, clean, c),
                )
                for c in comparisons
            ]
    return results


def write(results: Sequence[Kept], folder: Path) -> list[Path]:
    """Writes ``robustness.csv`` and ``robustness.png`` into ``folder``; returns their paths."""
    written = [folder / name for name in FILES]
    with atomic_csv_writer(written[0], f"{_MARK}{VERSION}", end="\n") as writer:
        writer.writerow(_COLUMNS)
        for r in results:
            head = (r.perturbation, f"{r.strength:g}", UNITS[r.perturbation], r.test_set)
            ends, moved = r.interval or (None, None), r.change_interval or (None, None)
            numbers = (r.auc, *ends, r.clean, r.change, *moved, r.kept)
            cells = ("" if value is None else f"{value:.6g}" for value in numbers)
            writer.writerow((*head, r.generator, r.n_real, r.n_fake, *cells))
    with atomic_write(written[1]) as aside:
        draw(results).savefig(aside, format="png")
    return written


def read(path: Path) -> list[Kept]:
    """What :func:`write` wrote, with the digits that are in the file.

    Raises:
        InputError: the file is of another version, or a row is missing or cannot be read.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        first = file.readline().rstrip("\r\n")
        if first != f"{_MARK}{VERSION}":
            raise InputError(
                f"{path} begins with {first[:40]!r}, not with {_MARK + str(VERSION)!r}: evaluate "
                "with --robustness again."
            )
        lines = file.readlines()
    try:
        found = [_from_text(row) for row in csv.DictReader(lines)]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}): evaluate with --robustness "
            "again."
        ) from error
    strengths = [(name, strength) for name, all_ in STRENGTHS.items() for strength in all_]
    curves: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for r in found:
        curves.setdefault((r.test_set, r.generator), []).append((r.perturbation, r.strength))
    for (test_set, generator), own in curves.items():
        if own != strengths:
            raise InputError(
                f"{path} has other strengths for {generator or UNNAMED} ({test_set}) than are "
                "measured: evaluate with --robustness again."
            )
    return found


def lines(results: Sequence[Kept]) -> list[str]:
    """What the console says: a line a perturbation and test set, the mean AUC over generators."""
    said = []
    for name, strengths in STRENGTHS.items():
        for test_set in dict.fromkeys(r.test_set for r in results):
            own = [r for r in results if (r.perturbation, r.test_set) == (name, test_set)]
            clean = _mean([r.clean for r in own])  # the same at each strength
            if clean is None:
                continue
            means = [_mean([r.auc for r in own if r.strength == s]) for s in strengths]
            cells = ", ".join(
                f"{mean:.3f} at {s:g}" for s, mean in zip(strengths, means, strict=True)
            )
            said.append(f"AUC, {test_set}, {name} ({UNITS[name]}): clean {clean:.3f}; {cells}")
    return said


def draw(results: Sequence[Kept], names: Sequence[str] = tuple(STRENGTHS)) -> Figure:
    """A panel a perturbation: AUC by strength, the clean one at the left, a line a generator.

    A generator has one colour; solid lines are the open set, the thick black one its mean. names:
    of the perturbations, one at least.
    """
    curves: dict[tuple[str, str], list[Kept]] = {}
    for r in results:
        if r.auc is not None and r.clean is not None:
            curves.setdefault((r.test_set, r.generator), []).append(r)
    found = [v for own in curves.values() for r in own for v in (r.auc, r.clean) if v is not None]
    lowest = min([_CHANCE, *found])
    size = (max(4.2, 2.75 * len(names)), 3.2)
    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _draw_panel(axes, name, curves)
    panels[0].set_ylabel("AUC")
    panels[0].set_ylim(np.floor(20 * lowest - 0.2) / 20, 1.005)
    columns = _LEGEND_COLUMNS if len(names) > 2 else 2
    handles, labels = panels[0].get_legend_handles_labels()
    legend_below(figure, handles, labels, columns)
    return figure


def _draw_panel(axes: Axes, name: str, curves: dict[tuple[str, str], list[Kept]]) -> None:
    strengths = STRENGTHS[name]
    places = np.arange(1 + len(strengths))
    unknown = []
    names = list(dict.fromkeys(generator for _, generator in curves))
    short = short_labels(name or UNNAMED for name in names)
    for (test_set, generator), own in curves.items():
        number = names.index(generator)
        values = [v for r in own if r.perturbation == name and (v := r.auc) is not None]
        heights = [float(own[0].clean or 0), *values]
        if test_set == "open":
            unknown.append(heights)
        axes.plot(
            places,
            heights,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=3.5,
            linewidth=1.2,
            linestyle=DASHES[test_set],
            label=f"{short[generator or UNNAMED]} ({test_set.replace('_', ' ')})",
        )
    if len(unknown) > 1:
        mean = np.mean(unknown, axis=0)
        axes.plot(places, mean, color=INK, linewidth=2.4, label="mean (open)", zorder=3)
    axes.axhline(_CHANCE, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xticks(places, ["clean", *(f"{s:g}" for s in strengths)], size=8)
    axes.set_title(name, size=11)
    axes.set_xlabel(UNITS[name], size=9)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _from_text(row: dict[str, str]) -> Kept:
    def number(name: str) -> float | None:
        return None if row[name] == "" else float(row[name])

    def interval(name: str) -> metrics.Interval | None:
        low, high = number(f"{name}_low"), number(f"{name}_high")
        return None if low is None or high is None else (low, high)

    return Kept(
        row["perturbation"],
        float(row["strength"]),
        row["test_set"],
        row["generator"],
        int(row["n_real"]),
        int(row["n_fake"]),
        number("auc"),
        number("auc_clean"),
        interval("auc"),
        interval("change"),
    )


def _intervals(
    score: NDArray[np.float64], clean: Scores, comparison: Comparison
) -> tuple[metrics.Interval | None, metrics.Interval | None]:
    """Of the AUC and of its change on the same images, by DeLong: None where a class has fewer than
    two images or groups."""
    real, fake = comparison.real, comparison.fake
    after, before = (score[real], score[fake]), (clean.score[real], clean.score[fake])
    unit = metrics.units(clean.group)
    change = metrics.auc_difference(*after, *before, unit[real], unit[fake])
    interval = metrics.auc_interval(*after, unit[real], unit[fake])
    return interval, change and (change.low, change.high)


def _auc(score: NDArray[Any], comparison: Comparison) -> float | None:
    if not (len(comparison.real) and len(comparison.fake)):
        return None
    return metrics.auc(score[comparison.real], score[comparison.fake])


def _mean(values: Sequence[float | None]) -> float | None:
    return metrics.mean(np.array([value for value in values if value is not None]))


def _advance(bar: "tqdm[None]", batch_size: int, end: int) -> None:
    """The progress after a batch, the last of which is smaller."""
    bar.update(min(batch_size, end - bar.n))
