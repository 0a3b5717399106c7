"""Measure how the AUC changes when images are compressed, blurred, resized, noisy or stored alike.

Every image of a comparison is scored under each perturbation of :mod:`focus.data.perturbations`,
the real ones as well as the fakes. ``docs/formats.md`` describes ``robustness.csv``.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.perturbations import STRENGTHS, UNITS, perturbations
from focus.errors import InputError
from focus.evaluation.protocol import UNNAMED, Comparison, compared, match, union
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Floats, Integers
from focus.metrics.bootstrap import units
from focus.metrics.intervals import Compared, mean_auc_difference, mean_auc_interval
from focus.metrics.ranking import Ranking
from focus.runtime.files import write_csv

if TYPE_CHECKING:
    from accelerate import Accelerator

    from focus.model.detector import Detector

FILE = "robustness.csv"
MEAN = "(mean)"
"""Stands for the generator in the row of the mean over those of a test set."""


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
        for test_set in dict.fromkeys(c.test_set for c in comparisons):
            of_set = [c for c in comparisons if c.test_set == test_set]
            members = [(c.generator, [c]) for c in of_set]
            members.append((MEAN, [c for c in of_set if len(c.real)]))
            for name, in_mean in members:
                results.append(
                    PerturbedAUC(
                        perturbation.name,
                        perturbation.strength,
                        UNITS[perturbation.name],
                        test_set,
                        name,
                        n_real=len(union((c.real for c in in_mean), clean.images)),
                        n_synthetic=len(union((c.fake for c in in_mean), clean.images)),
                        **_aucs(in_mean, perturbed, clean.score, unit),
                    )
                )
    return results


def _aucs(
    comparisons: Sequence[Comparison], perturbed: Floats, clean: Floats, unit: Integers
) -> dict[str, Any]:
    """Return the mean over comparisons; nothing where one lacks real images."""
    if not comparisons or not all(len(c.real) for c in comparisons):
        return {}
    after = compared(comparisons, perturbed, unit)
    before = compared(comparisons, clean, unit)
    auc, auc_clean = _mean_auc(after), _mean_auc(before)
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


def _mean_auc(comparisons: Sequence[Compared]) -> float:
    aucs = [Ranking.of(real, fake).auc()[0] for real, fake, *_ in comparisons]
    return float(np.mean(aucs))


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
    rows = [[_text(getattr(result, name)) for name in _COLUMNS] for result in results]
    return write_csv(folder / FILE, _COLUMNS, rows)


def _text(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def read(path: Path) -> list[PerturbedAUC]:
    """Read what :func:`write` wrote; InputError if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = csv.reader(file)
        if header != _COLUMNS:
            raise ValueError(f"its columns are {header}")
        cells = [
            {name: cell for name, cell in zip(header, row, strict=True) if cell} for row in rows
        ]
        return msgspec.convert(cells, list[PerturbedAUC], strict=False)
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read ({error}): evaluate with --robustness again."
        ) from error


def lines(results: Sequence[PerturbedAUC]) -> list[str]:
    """Return a line for each perturbation and test set: the mean AUC over its generators.

    Where all images were stored alike, the change of each generator's AUC comes before it.
    """
    line_of: dict[tuple[str, str, str], str] = {}
    for result in results:
        is_equalised = result.perturbation == "equalise"
        if result.auc is None or not (result.generator == MEAN or is_equalised):
            continue
        key = result.perturbation, result.test_set, result.generator
        if key in line_of:
            line_of[key] += ", "
        else:
            whose = "" if result.generator == MEAN else f", {result.generator or UNNAMED}"
            line_of[key] = (
                f"AUC, {result.test_set}, {result.perturbation} ({result.unit}){whose}: clean "
                f"{result.auc_clean:.3f}; "
            )
        line_of[key] += f"{result.auc:.3f} at {result.strength:g}"
        if is_equalised:
            line_of[key] += _change(result)
    return list(line_of.values())


def _change(result: PerturbedAUC) -> str:
    if result.change_low is None:
        return f", change {result.auc_change:+.3f}"
    ends = f"{result.change_low:+.3f} to {result.change_high:+.3f}"
    return f", change {result.auc_change:+.3f} (95 % interval {ends})"


def curves(
    results: Sequence[PerturbedAUC], perturbation: str
) -> dict[tuple[str, str], list[float]]:
    """Return the clean AUC and that at each strength, by test set and generator that have AUCs.

    Without the means.
    """
    aucs: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.perturbation != perturbation or result.generator == MEAN:
            continue
        if result.auc is None or result.auc_clean is None:
            continue
        key = result.test_set, result.generator or UNNAMED
        aucs.setdefault(key, [result.auc_clean]).append(result.auc)
    return aucs
