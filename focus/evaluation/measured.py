"""Keep what an earlier evaluation has measured, as long as it is of the same images and scores.

Perturbed images take 25 times the time of the scores, which are cheap to compute again.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.evaluation import faithfulness, robustness
from focus.evaluation.results import FAITHFULNESS
from focus.evaluation.robustness import PerturbedAUC
from focus.evaluation.scores import Scores

_SAME = 1e-3
"""Scores that differ by less are the same: other batches, or another processor, round otherwise."""


@dataclass(frozen=True)
class Measured:
    """What a folder holds of the same scores.

    perturbed: The rows of ``robustness.csv``. faithfulness: The means of ``faithfulness.csv``, as
    :func:`focus.evaluation.faithfulness.summarise` returns them.
    """

    perturbed: list[PerturbedAUC]
    faithfulness: faithfulness.Summary


def check_measured(folder: Path, manifest: Manifest) -> None:
    """Check, before an image is scored, that what a folder holds was measured on these images.

    Raises:
        InputError: it was measured on others, and would be lost.
    """
    if files := _files(folder):
        scores = _scores(folder)
        if scores is None or {*scores.path} != {sample.path for sample in manifest}:
            raise InputError(_refusal(folder, files, "other images"))


def measured(folder: Path, scores: Scores) -> Measured:
    """Return what was measured in a folder, if it is of these scores.

    Raises:
        InputError: it is of others, and would be lost.
    """
    files = _files(folder)
    if not files:
        return Measured([], {})
    before = _scores(folder)
    if (
        before is None
        or before.keys() != scores.keys()
        or list(before.group) != list(scores.group)
        or not np.allclose(before.score, scores.score, rtol=0, atol=_SAME)
    ):
        raise InputError(_refusal(folder, files, "other scores"))
    perturbed, falls = folder / robustness.FILE, folder / "results.json"
    return Measured(
        robustness.read(perturbed) if perturbed in files else [],
        faithfulness.means_in(json.loads(falls.read_bytes())) if falls.is_file() else {},
    )


def _files(folder: Path) -> list[Path]:
    """Return the files there that took long to make."""
    files = [folder / robustness.FILE, folder / FAITHFULNESS]
    return [file for file in files if file.is_file()]


def _scores(folder: Path) -> Scores | None:
    """Return the scores that a folder holds, None if they cannot be read."""
    try:
        return Scores.from_csv(folder / "scores.csv")
    except (InputError, OSError):
        return None


def _refusal(folder: Path, files: list[Path], what: str) -> str:
    names = " and ".join(file.name for file in files)
    return f"{folder} holds {names} of {what}: give another --output, or remove the folder."
