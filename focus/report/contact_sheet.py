"""Draw a sheet of faces and CAMs: a row of real images, then a row a generator."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Sample
from focus.data.near_far import home_of
from focus.data.overlay import strip
from focus.evaluation.inference import images_only, predictions
from focus.evaluation.protocol import UNNAMED
from focus.plotting import shortened
from focus.report.gallery import outcome_of
from focus.runtime.files import atomic_write

if TYPE_CHECKING:
    from focus.model.detector import Detector

_SOFT, _WRONG = "#565656", "#b3261e"  # as in the page
_BOLD: dict[str, Any] = {"size": 9, "weight": "bold", "parse_math": False}
# Inches.
_SIDE, _GAP, _CAPTION, _MARGIN, _INDENT, _HEAD, _FOOT = 1.1, 0.16, 0.26, 0.12, 1.4, 0.55, 0.2
_HEAD_WIDTH = 5.2
_NAME_GAP = 0.14  # between the name of a row and its pictures
_PIXELS = 192  # of a picture's side
_MOST_ROWS = 12  # as much as a screen shows, and a log takes at each validation
_DPI = 170

_Kind = tuple[str, str]
"""Name of a row, and whether the results have it among known generators, "" for reals."""


def contact_sheet(
    detector: "Detector", manifest: Manifest, path: str | Path, *, columns: int = 3
) -> None:
    """Write a PNG of faces and CAMs: a row of real images, then a row a generator.

    Of many generators it shows some, at even steps through the known and then the unknown ones.
    Each row shows the first ``columns`` images of its kind in the manifest's order, none chosen: a
    face, the CAM of the decision over it with the artefact outlined, and the human map; below, the
    outcome, red if it is wrong, the score and the entropy of the CAM.
    Raises ImageError for a file that cannot be decoded or an output that is not finite.
    """
    rows, left_out = _rows(manifest, detector.config.training_generators, columns)
    chosen = [index for row in rows.values() for index in row]
    with_map = any(manifest[index].human_map for index in chosen)
    short = shortened(name for name, _ in rows)
    indent = _indent(short.values())
    width = _SIDE * (3 if with_map else 2)
    size = (
        indent + max(columns * (width + _GAP) + _MARGIN, _HEAD_WIDTH),
        _HEAD + len(rows) * (_SIDE + _CAPTION) + _MARGIN + (_FOOT if left_out else 0),
    )
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")

    def text(x: float, y: float, words: str, **style: Any) -> None:
        figure.text(x / size[0], y / size[1], words, **style)

    outlined = any(manifest[index].mask_path for index in chosen)
    top = size[1] - _MARGIN
    parts = ["face", "class activation map (CAM) of the decision"]
    head = " | ".join(parts + ["human map"] * with_map) + "; artefact outlined" * outlined
    text(indent, top, head, va="top", **_BOLD)
    text(
        indent,
        top - 0.17,
        f"score: above {detector.threshold.value:.3g} it says synthetic; h: entropy of the CAM, 0 "
        "one cell, 1 even; each CAM is stretched from its smallest to its largest value",
        va="top",
        size=7,
        color=_SOFT,
    )
    places = {}
    for number, ((name, kind), row) in enumerate(rows.items()):
        bottom = size[1] - _HEAD - number * (_SIDE + _CAPTION) - _SIDE
        middle, right = bottom + _SIDE / 2, indent - _NAME_GAP
        text(right, middle, short[name], ha="right", va="bottom", **_BOLD)
        text(right, middle, f"\n{kind}", ha="right", va="center", size=8, color=_SOFT)
        for column, index in enumerate(row):
            places[index] = indent + column * (width + _GAP), bottom
    if left_out:
        words = f"{left_out} more generator{'s' if left_out > 1 else ''} not shown"
        text(indent, _MARGIN, words, va="bottom", **_BOLD)
    bare = images_only(manifest)
    for batch, prediction in predictions(detector, bare, batch_size=32, indices=chosen):
        score, predicted, cams, entropy = (field.cpu().numpy() for field in prediction[:4])
        for at, index in enumerate(batch.index.tolist()):
            sample, (left, bottom) = manifest[index], places[index]
            picture = strip(sample, cams[at, 0], _PIXELS, [detector.fitting])
            own_width = _SIDE * picture.width / _PIXELS
            box = (left / size[0], bottom / size[1], own_width / size[0], _SIDE / size[1])
            axes = figure.add_axes(box, frameon=False, xticks=(), yticks=())
            axes.imshow(picture, interpolation="lanczos", aspect="auto")
            for edge in range(_PIXELS, picture.width, _PIXELS):
                axes.axvline(edge - 0.5, color="white", linewidth=1.5)
            outcome = outcome_of(sample.label, int(predicted[at]))
            words = f"{outcome} · score {score[at]:.2f} · h {entropy[at, 0]:.2f}"
            is_wrong = outcome in ("missed", "false alarm")
            style = {"va": "top", "size": 8, "color": _WRONG if is_wrong else _SOFT}
            text(left, bottom - 0.04 * _SIDE, words, **style)
    with atomic_write(Path(path)) as aside:
        figure.savefig(aside, format="png")


def _rows(
    manifest: Manifest, training_generators: Collection[str], columns: int
) -> tuple[dict[_Kind, list[int]], int]:
    """Return the images of each row of the sheet, and how many generators are left out."""
    order = {REAL: 0, SYNTHETIC: 1, None: 2}
    found: dict[tuple[int, _Kind], list[int]] = {}
    for index, sample in enumerate(manifest):
        row = found.setdefault((order[sample.label], _kind(sample, training_generators)), [])
        if len(row) < columns:
            row.append(index)
    rows = {kind: found[place, kind] for place, kind in sorted(found)}
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


def _indent(names: Iterable[str]) -> float:
    """Return the inches left of the pictures that the widest name needs."""
    figure = Figure(dpi=_DPI)
    widths = [figure.text(0, 0, name, **_BOLD).get_window_extent().width for name in names]
    return max(_INDENT, _MARGIN + max(widths, default=0) / _DPI + _NAME_GAP)
