"""The contact sheet: some images of each split, class and generator, human maps beside them."""

from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from focus.data.check.findings import Findings, kinds
from focus.data.images import load_image
from focus.data.manifest import Sample
from focus.data.maps import human_map
from focus.data.overlay import overlay
from focus.metrics.arrays import evenly
from focus.plotting import shortened

CELLS = 8
"""In a row of the sheet; an image with its map takes two."""
SIDE, GAP, LABELS, HEAD = 144, 10, 220, 48
"""Pixels: of a cell's side, between cells, of the column and the row of text."""
MAX_ROWS = 40
_LONGEST = 18  # characters of a name


def draw(found: Findings, path: Path) -> None:
    """Write the PNG; nothing if there are no images. At most MAX_ROWS kinds are shown.

    Of a kind that has human maps, images with one are shown.
    """
    bad = {file.path for file in found.bad}
    rows: list[tuple[str, str, list[Sample]]] = []
    for (split, label, generator), numbers in kinds(found.manifest).items():
        every = (found.manifest[number] for number in numbers)
        if samples := [sample for sample in every if sample.path not in bad]:
            rows.append((generator or label, split or "no split", samples))
    if not rows:
        return
    height = HEAD + min(len(rows), MAX_ROWS) * (SIDE + GAP)
    sheet = Image.new("RGB", (LABELS + CELLS * (SIDE + GAP), height), "white")
    pen = ImageDraw.Draw(sheet)
    title = "Images by split and class"
    if found.maps:
        title += "; beside it the human map over it, where there are any"
    if len(rows) > MAX_ROWS:
        title += f"; {len(rows) - MAX_ROWS} more generators are not shown"
    bold = _font(17, "DejaVuSans-Bold")
    pen.text((GAP, HEAD // 2), title, "black", bold, anchor="lm")
    names = shortened((name for name, _, _ in rows), _LONGEST)
    for line, (name, split, samples) in enumerate(rows[:MAX_ROWS]):
        top = HEAD + line * (SIDE + GAP)
        right, middle = LABELS - 2 * GAP, top + SIDE // 2
        about = f"{split}, {len(samples)}"
        pen.text((right, middle), names[name], "black", bold, anchor="rb")
        pen.text((right, middle + 4), about, "#444444", _font(15, "DejaVuSans"), anchor="rt")
        mapped = [sample for sample in samples if sample.human_map and sample.human_map not in bad]
        left = LABELS
        able, limit = (mapped, CELLS // 2) if mapped else (samples, CELLS)
        for sample in (able[n] for n in evenly(len(able), limit)):  # neighbours are often alike
            face = _squashed(sample)
            sheet.paste(face, (left, top))
            if mapped and sample.human_map:
                left += SIDE + 2
                sheet.paste(overlay(face, human_map(sample.human_map)), (left, top))
                left += GAP - 2
            left += SIDE + GAP
    sheet.save(path)


def _font(size: int, name: str) -> ImageFont.FreeTypeFont:
    """Return a font that matplotlib ships and that has most alphabets."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size)


def _squashed(sample: Sample) -> Image.Image:
    """Load an image at the size of a cell, squashed as training does; small ones without blur."""
    image = load_image(sample.path)
    small = max(image.size) <= SIDE // 2
    resample = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return image.resize((SIDE, SIDE), resample)
