"""Choose what a sheet of faces and CAMs shows: a row of real images, then a row a generator."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Sample
from focus.data.near_far import home_of
from focus.data.overlay import SheetRow, contact_sheet, strip
from focus.evaluation.protocol import UNNAMED
from focus.evaluation.scores import Scores
from focus.model.operating_points import score_text
from focus.report.gallery import outcome_of

if TYPE_CHECKING:
    from focus.model.detector import Detector

_SOFT, _WRONG = "#565656", "#b3261e"  # as in the page
_SIDE = 192  # pixels of a picture
_MOST_ROWS = 12  # as much as a screen shows, and a log takes at each validation

_Kind = tuple[str, str]
"""Name of a row, and whether the results have it among known generators, "" for reals."""


def write_sheet(
    detector: "Detector", manifest: Manifest, scores: Scores, path: Path, *, columns: int = 3
) -> None:
    """Write a PNG of faces and CAMs: a row of real images, then a row a generator.

    Of many generators it shows some, at even steps through the known and then the unknown ones.
    Each row shows the first ``columns`` images of its kind in the manifest's order, none chosen: a
    face, the CAM of the decision over it with the artefact outlined, and the human map; below, the
    outcome, red if it is wrong, the score and the entropy of the CAM.

    scores: The scores of the images of ``manifest``, with their CAMs.
    Raises ImageError for a file that cannot be decoded any more.
    """
    chosen, left_out = _rows(manifest, detector.config.training_generators, columns)
    assert scores.cams is not None, "the detector has scored them"
    rows: list[SheetRow] = []
    shown: list[Sample] = []
    for (name, kind), numbers in chosen.items():
        cells = []
        for number in numbers:
            sample = manifest[number]
            shown.append(sample)
            outcome = outcome_of(sample.label, scores.predicted[number])
            entropy = scores.entropy_predicted[number]
            caption = f"{outcome} · score {scores.score[number]:.2f} · h {entropy:.2f}"
            colour = _WRONG if outcome in ("missed", "false alarm") else _SOFT
            picture = strip(sample, scores.cams[number], _SIDE, [detector.preprocessing])
            cells.append((picture, caption, colour))
        rows.append(SheetRow(name, kind, cells))

    head = "face | class activation map (CAM) of the decision"
    if any(sample.human_map for sample in shown):
        head += " | human map"
    if any(sample.mask_path for sample in shown):
        head += "; artefact outlined"
    lines = [
        head,
        f"score: above {score_text(detector.threshold.value)} it says synthetic; "
        "h: entropy of the CAM, 0 one cell, 1 even",
        "each CAM is stretched from its smallest to its largest value",
    ]
    if left_out:
        lines.append(f"{left_out} more generator{'s' if left_out > 1 else ''} not shown")
    contact_sheet(path, lines, rows, _SIDE)


def _rows(
    manifest: Manifest, training_generators: Collection[str], columns: int
) -> tuple[dict[_Kind, list[int]], int]:
    """Return the images of each row of the sheet, and how many generators are left out."""
    order = {REAL: 0, SYNTHETIC: 1, None: 2}
    by_label: dict[tuple[int, _Kind], list[int]] = {}
    for number, sample in enumerate(manifest):
        key = order[sample.label], _kind(sample, training_generators)
        numbers = by_label.setdefault(key, [])
        if len(numbers) < columns:
            numbers.append(number)
    rows = {kind: by_label[label, kind] for label, kind in sorted(by_label)}

    left_out = max(0, len(rows) - _MOST_ROWS)
    if left_out:
        generators = sorted((kind for kind in rows if kind[1]), key=lambda kind: kind[1])
        steps = np.linspace(0, len(generators) - 1, len(generators) - left_out).round().astype(int)
        shown = {generators[step] for step in steps}
        rows = {kind: row for kind, row in rows.items() if not kind[1] or kind in shown}
    return rows, left_out


def _kind(sample: Sample, training_generators: Collection[str]) -> _Kind:
    if sample.label is None:
        return "unlabelled", ""
    if sample.label == REAL:
        return LABEL_NAMES[REAL], ""
    home = home_of(sample.test_set, sample.generator, training_generators)
    kind = "unknown generator" if home == "open" else "known generator"
    return sample.generator or UNNAMED, kind
