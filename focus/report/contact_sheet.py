"""Pictures of where the detector looks: a CAM laid over its face, and a sheet of many."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from focus.data.generators import home_of
from focus.data.images import load_image, load_map
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Sample
from focus.data.maps import human_map
from focus.data.overlay import _enlarged, overlay
from focus.evaluation.inference import predictions
from focus.evaluation.protocol import UNNAMED
from focus.plotting import short_labels
from focus.runtime.files import atomic_write

if TYPE_CHECKING:
    from focus.model.detector import Detector


_OUTLINE = "#19e3ff"  # neither faces nor the colour map have it
_RIGHT, _WRONG = "#444444", "#c62828"
_BOLD: dict[str, Any] = {"size": 9, "weight": "bold"}

# A sheet's measures, in inches.
_SIDE, _GAP, _CAPTION, _MARGIN, _INDENT, _HEAD, _FOOT = 1.1, 0.16, 0.26, 0.12, 1.4, 0.55, 0.2
_HEAD_WIDTH = 5.2
_NAME_GAP = 0.14  # between the name of a row and its pictures
_PIXELS = 192  # of a picture's side
_MOST_ROWS = 12  # as much as a screen shows, and a log takes at each validation
_DPI = 170


@dataclass(frozen=True)
class _Looked:
    """A sample and what the detector made of it: the CAM [h, w] of the predicted class."""

    sample: Sample
    score: float
    predicted: int
    cam: NDArray[np.float32]
    entropy: float


def contact_sheet(
    detector: "Detector", manifest: Manifest, path: str | Path, *, columns: int = 3
) -> None:
    """Writes a PNG of faces and CAMs: a row of real images, then a row a generator.

    Of many generators it shows some, at even steps through the known and then the unknown ones.
    Each row shows the first ``columns`` images of its kind in the manifest's order, none chosen.
    A face is followed by the CAM of the predicted class over it, with the artefact mask outlined,
    and by the human map, each where the manifest has it. Below stand the score (the probability
    of synthetic, in red where the predicted class is wrong) and the entropy of the CAM.

    Raises:
        ImageError: a file that cannot be decoded, or an output that is not finite.
    """
    known = detector.config.training_generators
    rows: dict[tuple[str, str], list[int]] = {}
    for index in _by_kind(manifest):
        row = rows.setdefault(_row_label(manifest[index], known), [])
        if len(row) < columns:
            row.append(index)
    rows, more = _fewer(rows)
    chosen = [index for row in rows.values() for index in row]
    looked = _look(detector, manifest, chosen)
    short = short_labels(name for name, _ in rows)
    indent = _indent(short.values())
    with_map = any(manifest[index].map_path for index in chosen)

    width = _SIDE * (3 if with_map else 2)
    size = (
        indent + max(columns * (width + _GAP) + _MARGIN, _HEAD_WIDTH),
        _HEAD + len(rows) * (_SIDE + _CAPTION) + _MARGIN + (_FOOT if more else 0),
    )
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    masked = any(manifest[index].mask_path for index in chosen)
    _write_head(figure, size, indent, with_map, masked)
    for number, (label, row) in enumerate(rows.items()):
        bottom = size[1] - _HEAD - number * (_SIDE + _CAPTION) - _SIDE
        middle = (bottom + _SIDE / 2) / size[1]
        name, kind = label
        right = (indent - _NAME_GAP) / size[0]
        figure.text(right, middle, short[name], ha="right", va="bottom", **_BOLD)
        figure.text(right, middle, f"\n{kind}", ha="right", va="center", size=8, color=_RIGHT)
        for column, index in enumerate(row):
            left = indent + column * (width + _GAP)
            place = (left / size[0], bottom / size[1], width / size[0], _SIDE / size[1])
            _draw(figure.add_axes(place), looked[index])
    if more:
        said = f"{more} more generator{'s' if more > 1 else ''} not shown"
        left = indent / size[0]
        figure.text(left, _MARGIN / size[1], said, va="bottom", **_BOLD)
    with atomic_write(Path(path)) as aside:
        figure.savefig(aside, format="png")


def _by_kind(manifest: Manifest) -> list[int]:
    """Rows of the manifest: real images, then fakes by generator, then unlabelled ones."""
    order = {REAL: 0, SYNTHETIC: 1, None: 2}
    return sorted(
        range(len(manifest)),
        key=lambda i: (
            order[manifest[i].label],
            manifest[i].generator if manifest[i].label == SYNTHETIC else "",
        ),
    )


def _row_label(sample: Sample, known: Collection[str]) -> tuple[str, str]:
    """What a row is of, and below it whether the results have it among known generators."""
    if sample.label is None:
        return "unlabelled", ""
    if sample.label == REAL:
        return LABEL_NAMES[REAL], ""
    home = home_of(sample.test_set, sample.generator, known)
    kind = "unknown generator" if home == "open" else "known generator"
    return sample.generator or UNNAMED, kind


def _fewer(
    rows: dict[tuple[str, str], list[int]],
) -> tuple[dict[tuple[str, str], list[int]], int]:
    """The rows of a sheet in their order, and how many generators are left out."""
    more = len(rows) - _MOST_ROWS
    if more <= 0:
        return rows, 0
    generators = sorted((label for label in rows if label[1]), key=lambda label: label[1])
    steps = np.linspace(0, len(generators) - 1, len(generators) - more).round().astype(int)
    shown = {generators[step] for step in steps}
    return {label: row for label, row in rows.items() if not label[1] or label in shown}, more


def _look(detector: "Detector", manifest: Manifest, chosen: list[int]) -> dict[int, _Looked]:
    looked = {}
    for rows, prediction in predictions(detector, manifest, batch_size=32, indices=chosen):
        score, predicted, cams, entropy = (field.cpu().numpy() for field in prediction)
        for at, row in enumerate(rows):
            looked[row] = _Looked(
                manifest[row],
                float(score[at]),
                int(predicted[at]),
                cams[at, 0],
                float(entropy[at, 0]),
            )
    return looked


def _indent(names: Iterable[str]) -> float:
    """Inches left of the pictures: as many as the widest name needs, as capitals are."""
    figure = Figure(dpi=_DPI)
    widths = [figure.text(0, 0, name, **_BOLD).get_window_extent().width for name in names]
    return max(_INDENT, _MARGIN + max(widths, default=0) / _DPI + _NAME_GAP)


def _write_head(
    figure: Figure, size: tuple[float, float], indent: float, maps: bool, masks: bool
) -> None:
    parts = ["face", "class activation map (CAM) of the predicted class"]
    if maps:
        parts.append("human map")
    outlined = "; artefact outlined" if masks else ""
    left, top = indent / size[0], 1 - _MARGIN / size[1]
    figure.text(left, top, f"{' | '.join(parts)}{outlined}", va="top", **_BOLD)
    figure.text(
        left,
        top - 0.17 / size[1],
        "score: probability of synthetic, red if the decision is wrong; "
        "h: entropy of the CAM, 0 one cell to 1 even",
        va="top",
        size=7,
        color=_RIGHT,
    )


def _draw(axes: Axes, looked: _Looked) -> None:
    """One face with what belongs to it, side by side, and its caption."""
    sample = looked.sample
    side = (_PIXELS, _PIXELS)
    face = load_image(sample.path).resize(side, Image.Resampling.LANCZOS)
    pictures = [face, overlay(face, looked.cam)]
    if sample.map_path is not None:
        pictures.append(overlay(face, human_map(sample.map_path)))
    axes.imshow(np.hstack([np.asarray(picture) for picture in pictures]), interpolation="lanczos")
    if sample.mask_path is not None:
        mask = Image.fromarray((255 * _enlarged(load_map(sample.mask_path), side)).astype(np.uint8))
        # The outline of a small mask would be stairs.
        smooth = np.asarray(mask.filter(ImageFilter.GaussianBlur(_PIXELS / 40)))
        across = np.arange(_PIXELS)
        axes.contour(across + _PIXELS, across, smooth, [127.5], colors=_OUTLINE, linewidths=1.3)
    for edge in range(1, len(pictures)):
        axes.axvline(edge * _PIXELS - 0.5, color="white", linewidth=1.5)
    axes.set_xlim(-0.5, _PIXELS * len(pictures) - 0.5)
    axes.set_ylim(_PIXELS - 0.5, -0.5)
    axes.set_anchor("W")
    axes.set_axis_off()
    wrong = sample.label is not None and (looked.predicted != REAL) != (sample.label != REAL)
    axes.text(
        0,
        -0.04,
        f"score {looked.score:.2f}   h {looked.entropy:.2f}",
        transform=axes.transAxes,
        va="top",
        size=8,
        color=_WRONG if wrong else _RIGHT,
    )
