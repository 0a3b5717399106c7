"""Choose what the contact sheet shows: images of each split and kind, and their maps."""

from dataclasses import replace
from pathlib import Path

from focus.data.check.findings import CheckedData, kinds
from focus.data.overlay import NO_CAM, SheetRow, contact_sheet, strip
from focus.metrics.arrays import evenly

CELLS = 8
"""Pictures in a row of the sheet: images, or half as many beside themselves with their map."""
SIDE = 144
"""Pixels of a picture's side."""
MAX_ROWS = 40


def draw(checked: CheckedData, path: Path) -> None:
    """Write the PNG; nothing if there are no images. At most MAX_ROWS kinds are shown.

    Of a kind that has human maps, images with one are shown.
    """
    bad = {file.path for file in checked.bad}
    rows, every = [], kinds(checked.manifest)
    for (split, label, generator), numbers in list(every.items())[:MAX_ROWS]:
        whole = [sample for n in numbers if (sample := checked.manifest[n]).path not in bad]
        samples = [replace(s, human_map=None) if s.human_map in bad else s for s in whole]
        mapped = [sample for sample in samples if sample.human_map]
        able, limit = (mapped, CELLS // 2) if mapped else (samples, CELLS)
        # At even steps, as neighbours are often alike.
        cells = [(strip(able[n], NO_CAM, SIDE), "", "black") for n in evenly(len(able), limit)]
        if cells:
            note = f"{split or 'no split'}, {len(samples)}"
            rows.append(SheetRow(generator or label, note, cells))
    if rows:
        title = "Images by split and class"
        title += "; beside it the human map over it, where there are any" * bool(checked.map_sizes)
        if len(every) > MAX_ROWS:
            title += f"; {len(every) - MAX_ROWS} more generators are not shown"
        contact_sheet(path, [title], rows, SIDE)
