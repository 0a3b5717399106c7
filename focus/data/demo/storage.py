"""The demo set's files: their names, and rendering into them."""

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.demo.render import WITH_MAPS, WITHOUT_MASK, Item, Splits, items, render_face

# Position in the set, names of the artefacts.
Record = tuple[int, tuple[str, ...]]


def files(item: Item) -> dict[str, str]:
    """The files of one image by kind (images, maps, masks), relative to the set's folder."""
    kinds = ["images"]
    if item.split in WITH_MAPS:
        kinds.append("maps")
    if item.family not in WITHOUT_MASK:
        kinds.append("masks")
    return {kind: f"{kind}/{item.split}/{item.family}/{item.number:04d}.png" for kind in kinds}


def render_share(folder: Path, splits: Splits, start: int, step: int) -> Iterator[Record]:
    """Render every ``step``-th image from ``start`` on; yields its position and its artefacts."""
    for position, item in islice(enumerate(items(splits)), start, None, step):
        picture = render_face(*item)
        arrays = {"images": picture.image, "maps": picture.human_map, "masks": picture.mask}
        for kind, name in files(item).items():
            array = arrays[kind]
            assert array is not None
            (folder / name).write_bytes(_png(array))
        yield position, picture.artefacts


def make_folders(folder: Path, splits: Splits) -> None:
    """The folders that the images go to."""
    for name in {Path(name).parent for item in items(splits) for name in files(item).values()}:
        (folder / name).mkdir(parents=True, exist_ok=True)


def _png(array: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    pixels = array * np.uint8(255) if array.dtype == np.bool_ else array
    stored = BytesIO()
    Image.fromarray(pixels).save(stored, "PNG", compress_level=1)
    return stored.getvalue()
