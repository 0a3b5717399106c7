"""Measure how the AUC changes when images are compressed, blurred, resized, noisy or stored alike.

Every image of a comparison is scored under each perturbation of :mod:`focus.data.perturbations`,
the real ones as well as the fakes. ``docs/formats.md`` describes ``robustness.csv``.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.perturbations import STRENGTHS, UNITS, perturbations
from focus.errors import InputError
from focus.evaluation.protocol import UNNAMED, Comparison, match, union
from focus.evaluation.scores import Scores
from focus.metrics.bootstrap import units
from focus.metrics.intervals import mean_auc_difference, mean_auc_interval
from focus.metrics.ranking import Ranking
from focus.runtime.files import write_csv

if TYPE_CHECKING:
    from accelerate import Accelerator

    from focus.model.detector import Detector

FILE = "robustness.csv"
MEAN = "(mean)"
"""Stands for the generator in the row of the mean over those of a test set."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PerturbedAUC:
    """AUC of one generator of a test set under one perturbation: a row of ``robustness.csv``.

    ``generator`` is :data:`MEAN` in the row of the mean, whose counts are of the images of all
    generators that have AUCs. ``auc`` is that under the perturbation and ``auc_clean`` that
    without, in [0, 1], None where there are no real images; the columns ``_low`` and ``_high`` are
    95 % intervals of ``auc`` and ``auc_change``. ``auc_kept`` is ``(auc - 1/2) / (auc_clean -
    1/2)``, the share above chance that is left, this project's own definition; None where the
    clean AUC is not above 1/2.
    """

    perturbation: str
    strength: float
    unit: str = ""
    test_set: str = ""
    generator: str = ""
    n_real: int = 0
    n_synthetic: int = 0
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    auc_clean: float | None = None
    auc_change: float | None = None
    change_low: float | None = None
    change_high: float | None = None
    auc_kept: float | None = None


_COLUMNS = [field.name for field in fields(PerturbedAUC)]


def check_labels(manifest: Manifest) -> None:
    """Raise InputError if there cannot be an AUC, before an hour is spent on scoring."""
    labels = {sample.label for sample in manifest}
    for label, kind in ((REAL, "real"), (SYNTHETIC, "synthetic")):
        if label not in labels:
            raise InputError(
                f"--robustness and --equalise compare AUCs, and none of the {len(manifest)} images "
                f"is labelled as {kind}: give some, or drop the flag."
            )


def measure(
    accelerator: "Accelerator",
    detector: "Detector",
    manifest: Manifest,
    clean: Scores,
    names: Sequence[str],
    **options: Any,
) -> list[PerturbedAUC]:
    """Score the images of all comparisons under the perturbations of these names.

    ``clean`` holds the scores of the unperturbed images of ``manifest``. Every process of a launch
    calls it and gets the whole result, ordered by perturbation, strength, test set and generator,
    the mean last. The ``options`` go to :func:`~focus.evaluation.inference.score_images`, whose
    errors it raises.
    """
    # With torch, which a report of what was measured does without.
    from focus.evaluation.inference import images_only, score_images

    comparisons = match(clean, detector.config.training_generators)
    rows = union(side for c in comparisons if len(c.real) for side in (c.real, c.fake))
    images = images_only(Manifest((manifest[row] for row in rows.tolist()), manifest.source))
    unit = units(clean.group, clean.images)
    results: list[PerturbedAUC] = []
    for perturbation in perturbations(names, side=detector.image_size):
        perturbed = clean.score.copy()
        perturbed[rows] = score_images(
            detector,
            images,
            accelerator=accelerator,
            perturb=perturbation,
            description=f"{perturbation.name} {perturbation.strength:g}",
            **options,
        ).score
        about = perturbation.name, perturbation.strength, UNITS[perturbation.name]
        for test_set in dict.fromkeys(c.test_set for c in comparisons):
            own = [c for c in comparisons if c.test_set == test_set]
            known = [c for c in own if len(c.real)]
            for name, of in [*((c.generator, [c]) for c in own), (MEAN, known)]:
                sides = ((c.real for c in of), (c.fake for c in of))
                counts = (len(union(side, clean.images)) for side in sides)
                aucs = _aucs(of, perturbed, clean.score, unit)
                results.append(PerturbedAUC(*about, test_set, name, *counts, **aucs))
    return results


def _aucs(
    comparisons: Sequence[Comparison], perturbed: Floats, clean: Floats, unit: Integers
) -> dict[str, Any]:
    """Return the mean over comparisons; nothing where one lacks real images."""
    if not comparisons or not all(len(c.real) for c in comparisons):
        return {}
    after, before = (
        [(scores[c.real], scores[c.fake], unit[c.real], unit[c.fake]) for c in comparisons]
        for scores in (perturbed, clean)
    )
    auc, auc_clean = (
        float(np.mean([Ranking.of(real, fake).auc()[0] for real, fake, *_ in each]))
        for each in (after, before)
    )
    low, high = mean_auc_interval(after) or (None, None)
    change = mean_auc_difference(after, before)
    return {
        "auc": auc,
        "auc_low": low,
        "auc_high": high,
        "auc_clean": auc_clean,
        "auc_change": auc - auc_clean,
        "change_low": change and change.low,
        "change_high": change and change.high,
        "auc_kept": (auc - 0.5) / (auc_clean - 0.5) if auc_clean > 0.5 else None,
    }


def replaced(before: Sequence[PerturbedAUC], now: Sequence[PerturbedAUC]) -> list[PerturbedAUC]:
    """Return all rows, in the order of the perturbations; those measured now replace earlier ones.

    Both are of the same scores.
    """
    names = {result.perturbation for result in now}
    kept = [result for result in before if result.perturbation not in names]
    order = list(STRENGTHS)
    return sorted([*kept, *now], key=lambda result: order.index(result.perturbation))


def write(results: Sequence[PerturbedAUC], folder: Path) -> Path:
    """Write ``robustness.csv`` into ``folder``; return its path."""
    rows = ((getattr(result, name) for name in _COLUMNS) for result in results)
    texts = ((f"{c:.6g}" if isinstance(c, float) else c for c in row) for row in rows)
    return write_csv(folder / FILE, _COLUMNS, texts)


def read(path: Path) -> list[PerturbedAUC]:
    """Read what :func:`write` wrote; InputError if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        if header != _COLUMNS:
            raise ValueError(f"its columns are {header}")
        cells = [dict(filter(itemgetter(1), zip(header, row, strict=True))) for row in rows]
        return msgspec.convert(cells, list[PerturbedAUC], strict=False)
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read ({error}): evaluate with --robustness again."
        ) from error


def lines(results: Sequence[PerturbedAUC]) -> list[str]:
    """Return a line for each perturbation and test set: the mean AUC over its generators.

    Where all images were stored alike, the change of each generator's AUC comes before it.
    """
    found = dict[tuple[str, str, str], str]()
    for r in results:
        equalised = r.perturbation == "equalise"
        if r.auc is None or not (r.generator == MEAN or equalised):
            continue
        key = r.perturbation, r.test_set, r.generator
        whose = "" if r.generator == MEAN else f", {r.generator or UNNAMED}"
        begin = f"AUC, {r.test_set}, {r.perturbation} ({r.unit}){whose}: clean {r.auc_clean:.3f}; "
        found[key] = found[key] + ", " if key in found else begin
        found[key] += f"{r.auc:.3f} at {r.strength:g}"
        if equalised:
            found[key] += f", change {r.auc_change:+.3f}"
            if r.change_low is not None:
                found[key] += f" (95 % interval {r.change_low:+.3f} to {r.change_high:+.3f})"
    return list(found.values())


def curves(
    results: Sequence[PerturbedAUC], perturbation: str
) -> dict[tuple[str, str], list[float]]:
    """Return the clean AUC and that at each strength, by test set and generator that have AUCs.

    Without the means.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for r in results:
        if (
            r.perturbation == perturbation
            and r.generator != MEAN
            and r.auc is not None
            and r.auc_clean is not None
        ):
            found.setdefault((r.test_set, r.generator or UNNAMED), [r.auc_clean]).append(r.auc)
    return found
