"""Folder trees of CNNDetection, UniversalFakeDetect, NPR and SIDBench, and plain folders.

``[<split>/][<generator>/[<class>/]]{0_real,1_fake}/*``: the split folder is one of ``train``,
``val``, ``validation``, ``test``; reals carry the generator of their folder, so that its fakes are
scored against its own reals; the class is kept in ``extra``.
"""

import logging
from pathlib import Path

from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split
from focus.data.readers.files import find_maps, images_below, with_maps
from focus.errors import InputError

_log = logging.getLogger(__name__)

_LABELS = {"0_real": REAL, "1_fake": SYNTHETIC}
_SPLITS: dict[str, Split] = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


def read(root: Path, heatmaps: str | Path | None) -> tuple[str, Manifest]:
    """The layout's name and the manifest; without ``0_real`` or ``1_fake`` all are unlabelled."""
    maps, required = find_maps(heatmaps, root)
    paths = list(images_below(root, skip=maps))
    if not paths:
        raise InputError(f"There are no images in the folder {root}: give one that holds some.")
    labelled = [sample for path in paths if (sample := _sample(path, root))]
    if labelled:
        layout, samples = "0_real/1_fake folders", labelled
        if len(labelled) < len(paths):
            _log.warning(
                "%s: left out %d images that are in no folder 0_real or 1_fake",
                root,
                len(paths) - len(labelled),
            )
    else:
        layout = "images without folders 0_real and 1_fake"
        samples = [Sample(str(path)) for path in paths]
    manifest = Manifest(samples, str(root))
    return layout, with_maps(manifest, root, maps, required=required) if maps else manifest


def _sample(path: Path, root: Path) -> Sample | None:
    folders = path.relative_to(root).parts[:-1]
    at = next((i for i, name in enumerate(folders) if name in _LABELS), None)
    if at is None:
        return None
    above = folders[:at]
    split = _SPLITS.get(above[0], "") if above else ""
    generator, *classes = (above[1:] if split else above) or ("",)
    extra = {"class": "/".join(classes)} if classes else {}
    return Sample(str(path), _LABELS[folders[at]], generator, split=split, extra=extra)
