"""The contact sheet: some images of each split, class and generator, human maps beside them."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from focus.data.check.findings import Findings
from focus.data.images import load_image
from focus.data.manifest import LABEL_NAMES, REAL, Sample
from focus.data.maps import human_map
from focus.data.overlay import overlay
from focus.plotting import shortened

CELLS = 8
"""In a row of the sheet; an image with its map takes two."""
SIDE, GAP, LABELS, HEAD = 144, 10, 220, 48
"""Pixels: of a cell's side, between cells, of the column and the row of text."""
MAX_ROWS = 40
_LONGEST = 18  # characters of a name

_BLACK, _GREY = "#000000", "#444444"

_Kind = tuple[int, int, str]


def draw(found: Findings, path: Path) -> None:
    """Write the PNG; nothing if there are no images. At most MAX_ROWS kinds are shown.

    Of a kind that has human maps, images with one are shown.
    """
    rows: dict[_Kind, list[int]] = {}
    for row, sample in enumerate(found.manifest):
        if not found.looks[row].error:
            rows.setdefault(_kind(sample), []).append(row)
    kinds = sorted(rows)
    if not kinds:
        return
    shown = kinds[:MAX_ROWS]
    size = (LABELS + CELLS * (SIDE + GAP), HEAD + len(shown) * (SIDE + GAP))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    title = "Images by split and class"
    if any(look.readable for look in found.maps.values()):
        title += "; beside it the human map over it, where there are any"
    if len(kinds) > MAX_ROWS:
        title += f"; {len(kinds) - MAX_ROWS} more generators are not shown"
    pen.text((GAP, HEAD // 2), title, _BLACK, _font(17, bold=True), anchor="lm")
    names = shortened((_name(found.manifest[rows[kind][0]]) for kind in shown), _LONGEST)
    for line, kind in enumerate(shown):
        top = HEAD + line * (SIDE + GAP)
        first = found.manifest[rows[kind][0]]
        name, about = names[_name(first)], f"{first.split or 'no split'}, {len(rows[kind])}"
        right, middle = LABELS - 2 * GAP, top + SIDE // 2
        pen.text((right, middle), name, _BLACK, _font(17, bold=True), anchor="rb")
        pen.text((right, middle + 4), about, _GREY, _font(15), anchor="rt")
        mapped = [row for row in rows[kind] if _has_map(found, row)]
        left = LABELS
        for row in _spread(mapped, CELLS // 2) if mapped else _spread(rows[kind], CELLS):
            pictures = _pictures(found.manifest[row], with_map=bool(mapped))
            for at, picture in enumerate(pictures):
                sheet.paste(picture, (left + at * (SIDE + 2), top))
            left += len(pictures) * (SIDE + GAP)
    sheet.save(path)


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, which matplotlib ships and which has most alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _kind(sample: Sample) -> _Kind:
    """Split, class and generator; reals of all generators are one kind."""
    split = ("train", "validation", "test", "").index(sample.split)
    label = 2 if sample.label is None else sample.label
    return split, label, "" if sample.label == REAL else sample.generator


def _has_map(found: Findings, row: int) -> bool:
    reference = found.manifest[row].map_path
    return reference is not None and found.maps[reference].readable


def _spread(rows: Sequence[int], limit: int) -> list[int]:
    """Some rows at even distances: neighbours are often frames of one video."""
    n = min(limit, len(rows))
    return [rows[at * len(rows) // n] for at in range(n)]


def _name(sample: Sample) -> str:
    if sample.label != REAL and sample.generator:
        return sample.generator
    return "unlabelled" if sample.label is None else LABEL_NAMES[sample.label]


def _pictures(sample: Sample, *, with_map: bool) -> list[Image.Image]:
    """Squashed to a square, as training does; small ones without blur."""
    image = load_image(sample.path)
    small = max(image.size) <= SIDE // 2
    face = image.resize(
        (SIDE, SIDE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    )
    if not with_map or sample.map_path is None:
        return [face]
    return [face, overlay(face, human_map(sample.map_path))]
