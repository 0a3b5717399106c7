"""Draw where a network or a person looked over an image."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from focus.data.images import Preprocessing, load_image, load_map
from focus.data.manifest import Box, Sample
from focus.data.maps import human_map
from focus.metrics.cams import stretched
from focus.plotting import INK, shortened
from focus.runtime.files import atomic_write

COLOUR_MAP = "inferno"
"""Perceptually uniform: equal steps of the CAM look equal."""
OUTLINE = (25, 227, 255)
"""RGB of the outline of an artefact: neither faces nor the colour map have it."""
_SOFT = "#565656"  # as in the page
NO_CAM = np.zeros((0, 1, 1))
"""What :func:`strip` takes for no CAM."""


def overlay(
    image: Image.Image | NDArray[np.uint8], cam: NDArray[np.floating[Any]], alpha: float = 0.75
) -> Image.Image:
    """Return the CAM in colour over its image: RGB, of the image's size.

    image: A Pillow image, or [H, W, 3] in 0..255. cam: The CAM [h, w], which is stretched to [0, 1]
    (a constant one to 0) and enlarged bicubically. alpha: The opacity at its maximum, in [0, 1].
    """
    face = image if isinstance(image, Image.Image) else Image.fromarray(image)
    pixels = np.asarray(face.convert("RGB"), dtype=np.float32)
    heat = _enlarged(stretched(cam[None])[0], face.size)
    colours = 255 * matplotlib.colormaps[COLOUR_MAP](heat)[..., :3]
    opacity = alpha * (0.4 + 0.6 * heat[..., None])
    mixed = pixels + opacity * (colours - pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def marked(
    image: Image.Image,
    faces: Iterable[tuple[Box, NDArray[np.floating[Any]], str, str]],
    scale: tuple[float, float] = (1, 1),
) -> Image.Image:
    """Return the image with the CAM over each face, a box around it and a label.

    faces: For each face the square of its CAM in the unscaled picture, the CAM [h, w], the label
    and the colour. scale: How many times as wide and as high the image is as the picture.
    """
    image, side = image.copy(), max(image.size)
    font, line = ImageFont.load_default(max(10, side / 40)), max(1, round(side / 256))
    labels = []
    for square, cam, label, colour in faces:
        box = lay(image, square, cam, scale)
        labels.append((box, label, colour))
    draw = ImageDraw.Draw(image)
    for box, label, colour in labels:
        draw.rectangle(box, outline=colour, width=line)
        # Above the box, or below it, or in it: where there is room, and all of it to be read.
        _, _, wide, high = (round(edge) for edge in draw.textbbox((0, 0), f" {label} ", font))
        high += 2 * line
        left = max(0, min(box[0], image.width - wide))
        places = (box[1] - high, box[3], box[1])
        top = next((y for y in places if 0 <= y <= image.height - high), box[1])
        draw.rectangle((left, top, left + wide, top + high), fill=colour)
        draw.text((left, top + line), f" {label}", fill="white", font=font)
    return image


def lay(
    image: Image.Image, part: Box, cam: NDArray[np.floating[Any]], scale: tuple[float, float]
) -> Box:
    """Draw the CAM of a part of a picture over it in ``image``; return the part's box there.

    scale: How many times as wide and as high the image is as the picture. A part may lie outside.
    """
    wide, high = scale
    left, right = (round(edge * wide) for edge in (part[0], part[2]))
    top, bottom = (round(edge * high) for edge in (part[1], part[3]))
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    image.paste(overlay(image.crop(box), cam), box[:2])
    return box


def strip(
    sample: Sample, cam: NDArray[np.floating[Any]], side: int, seen_by: Sequence[Preprocessing] = ()
) -> Image.Image:
    """Return squares of ``side`` pixels in a row: face, CAM, and human map if there is one.

    cam [h, w], or several [n, h, w]: drawn over the face, with the artefact mask outlined if the
    sample has one. seen_by: Preprocessing of each detector, which may see a part of the face only.
    """
    image = load_image(sample.path)
    face = image.resize((side, side), Image.Resampling.LANCZOS)
    cams = cam.reshape(-1, *cam.shape[-2:])
    scale = side / image.width, side / image.height
    whole = (0, 0, *image.size)

    squares = [face]
    for number, cam_of_detector in enumerate(cams):
        part = seen_by[number].part_seen(whole) if seen_by else whole
        with_cam = face.copy()
        lay(with_cam, part, cam_of_detector, scale)
        if sample.mask_path is not None:
            with_cam = outlined(with_cam, load_map(sample.mask_path))
        squares.append(with_cam)
    if sample.human_map is not None:
        squares.append(overlay(face, human_map(sample.human_map)))
    return Image.fromarray(np.hstack([np.asarray(square) for square in squares]))


class SheetRow(NamedTuple):
    """A row of a contact sheet.

    note: What stands below the name. cells: Pictures of one height, each with its caption and the
    caption's colour.
    """

    name: str
    note: str
    cells: Sequence[tuple[Image.Image, str, str]]


def contact_sheet(path: Path, head: Sequence[str], rows: Sequence[SheetRow], side: int) -> None:
    """Write a PNG of pictures ``side`` pixels high: rows below each other, names at their left.

    A cell is as wide as its picture, or as the longest of all captions if that is wider.

    head: The title and what is said below it, a line each.
    """
    gap = side // 12
    bold, plain = _font("DejaVuSans-Bold", side // 8), _font("DejaVuSans", side // 11)
    names = shortened(row.name for row in rows)
    texts = [*((names[row.name], bold) for row in rows), *((row.note, plain) for row in rows)]
    indent = gap + max(round(font.getlength(text) + gap) * bool(text) for text, font in texts)
    captions = [caption for row in rows for _, caption, _ in row.cells]
    longest = max((math.ceil(plain.getlength(caption)) for caption in captions), default=0)
    widths = [sum(max(cell.width, longest) + gap for cell, *_ in row.cells) for row in rows]
    lines = [(line, plain if number else bold) for number, line in enumerate(head)]
    widths += [round(font.getlength(line)) + gap for line, font in lines]
    below = gap + (side // 8) * any(captions)
    top = gap + (side // 6) * len(lines)
    sheet = Image.new("RGB", (indent + max(widths), top + len(rows) * (side + below)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (line, font) in enumerate(lines):
        pen.text((indent, gap // 2 + number * (side // 6)), line, INK, font)
    for number, row in enumerate(rows):
        left, upper = indent, top + number * (side + below)
        pen.text((indent - gap, upper + side // 2), names[row.name], INK, bold, anchor="rb")
        pen.text((indent - gap, upper + side // 2 + 4), row.note, _SOFT, plain, anchor="rt")
        for picture, caption, colour in row.cells:
            sheet.paste(picture, (left, upper))
            pen.text((left, upper + side + 3), caption, colour, plain)
            left += max(picture.width, longest) + gap
    with atomic_write(path) as aside:
        sheet.save(aside, format="PNG")


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font that matplotlib ships and that has most alphabets."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size)


def outlined(image: Image.Image, mask: NDArray[np.floating[Any]]) -> Image.Image:
    """Draw the edge of a mask, [h, w] in [0, 1], on an RGB image as a line of 1.5 % of its side."""
    sigma = image.width / 40  # the outline of a small mask would be stairs
    area = Image.fromarray((255 * _enlarged(mask, image.size)).astype(np.uint8))
    smooth = np.asarray(area.filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32)
    # A straight edge rises by 1 / (sigma * sqrt(2 pi)) of the range a pixel.
    distance = np.abs(smooth / 255 - 0.5) * sigma * np.sqrt(2 * np.pi)
    opacity = np.clip(0.0075 * image.width + 0.5 - distance, 0, 1)
    line = Image.new("RGB", image.size, OUTLINE)
    return Image.composite(line, image, Image.fromarray((255 * opacity).astype(np.uint8)))


def _enlarged(values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize [h, w] in [0, 1] to (width, height), bicubically; overshoot is cut."""
    image = Image.fromarray(values.astype(np.float32))
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return resized.clip(0.0, 1.0)
