"""Keep what an earlier evaluation has measured, as long as it is of the same images and model.

Perturbed images take 25 times the time of the scores, which are cheap to compute again.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.evaluation import faithfulness, robustness
from focus.evaluation.provenance import DATA, PRECISION, WEIGHTS
from focus.evaluation.results import FAITHFULNESS
from focus.evaluation.robustness import PerturbedAUC
from focus.evaluation.scores import Scores

_DIFFERENCES = {
    DATA: "other contents of the images",
    WEIGHTS: "other weights",
    PRECISION: "another --mixed-precision",
}
"""What must be as recorded, by its name in the provenance, and the words for another one."""


@dataclass(frozen=True)
class Measured:
    """What a folder holds of the same model and images.

    perturbed: The rows of ``robustness.csv``. faithfulness: The means of ``faithfulness.csv``, as
    :func:`focus.evaluation.faithfulness.summarise` returns them.
    """

    perturbed: list[PerturbedAUC]
    faithfulness: faithfulness.Summary


def measured(
    folder: Path, manifest: Manifest, origin: Mapping[str, Any], threshold: float
) -> Measured:
    """Return what was measured in a folder, if it is of these images and of this model.

    It is asked before an image is scored: hours of scoring must not end in a refusal. The images
    may be in another order.

    origin: The provenance of the scores that are to be computed. threshold: The one that decides:
    faithfulness is that of decisions, robustness does not depend on it.

    Raises:
        InputError: it is of others, and would be lost.
    """
    files = _files(folder)
    if not files:
        return Measured([], {})
    results = _results(folder)
    scores = _scores(folder)
    if scores is None or _rows_of_scores(scores) != _rows_of_manifest(manifest):
        raise InputError(_refusal(folder, files, "other images, or the same in other groups"))

    recorded_origin = results.get("provenance") or {}
    differing = []
    for key, words in _DIFFERENCES.items():
        if key in recorded_origin and recorded_origin[key] != origin[key]:
            differing.append(words)
    if differing:
        raise InputError(_refusal(folder, files, " and ".join(differing)))
    if not recorded_origin.keys() >= _DIFFERENCES.keys():
        raise InputError(_refusal(folder, files, "a model that is not recorded there"))

    faithfulness_file = folder / FAITHFULNESS
    recorded_threshold = (results.get("decision") or {}).get("threshold")
    if faithfulness_file in files and recorded_threshold != threshold:
        raise InputError(_refusal(folder, [faithfulness_file], "another --threshold"))

    robustness_file = folder / robustness.FILE
    return Measured(
        perturbed=robustness.read(robustness_file) if robustness_file in files else [],
        faithfulness=faithfulness.means_in(results),
    )


def _rows_of_scores(scores: Scores) -> Counter[tuple[Any, ...]]:
    columns = (scores.path, scores.test_set, scores.generator, scores.label, scores.group)
    return Counter(zip(*(column.tolist() for column in columns), strict=True))


def _rows_of_manifest(manifest: Manifest) -> Counter[tuple[Any, ...]]:
    """Return the images as :func:`_rows_of_scores` returns them; -1 is the label of unlabelled."""
    return Counter(
        (
            sample.path,
            sample.test_set,
            sample.generator,
            -1 if sample.label is None else sample.label,
            sample.group,
        )
        for sample in manifest
    )


def _results(folder: Path) -> dict[str, Any]:
    """Return ``results.json`` of a folder, empty without it: no image there has a label."""
    path = folder / "results.json"
    if not path.is_file():
        return {}
    results: dict[str, Any] = json.loads(path.read_bytes())
    return results


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
