"""The demo set as files, laid out as one's own data may be: ``focus data demo DIR``.

``train.csv`` is CYBORG's CSV, with the human maps in ``heatmaps``; its ``test`` split is the
validation set. ``closed.csv``, ``closed_balanced.csv`` and ``open.csv`` are manifests, since a test
set's name and the artefact masks have no place in CYBORG's form. The open set is there once more as
CYBORG has its test data, in a CSV for each source: ``reals.csv``, ``near-1.csv`` and so on.
"""

import shlex
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from focus.config.data import DemoConfig
from focus.data.demo.cache import demo_manifest
from focus.data.manifest import REAL, TEST_SETS, Manifest, Sample, absolute
from focus.runtime.files import check_empty, write_csv
from focus.runtime.progress import progress_bar

TRAIN = "train.csv"
REALS = "reals"


def write_demo(config: DemoConfig) -> None:
    """Write the demo set, and print how the files are used."""
    folder = Path(str(config.folder))
    write_files(demo_manifest(), folder)
    words = ["--data", str(folder / TRAIN)]
    for name in TEST_SETS:
        words += ["--test-data", f"{name}={folder / name}.csv"]
    print(f"written: {folder}\n\nTrained on it, the results are those of the embedded set:\n")
    print(f"  focus train --recipe demo {shlex.join(words)}")


def write_files(demo: Manifest, folder: str | Path, *, progress: bool = True) -> None:
    """Write the demo set, copying its files; raises InputError if the folder is in use."""
    folder = absolute(folder)
    check_empty(folder)
    bar = progress_bar(demo, "writing demo files", unit="image", disable=not progress)
    moved = [_copied(sample, folder) for sample in bar]
    _write_cyborg([s for s in moved if s.split != "test"], folder / TRAIN)
    for name in TEST_SETS:
        Manifest(s for s in moved if s.test_set == name).to_csv(folder / f"{name}.csv")
    sources: dict[str, list[Sample]] = {}
    for sample in moved:
        if sample.test_set == "open":
            sources.setdefault(sample.generator or REALS, []).append(sample)
    for source, samples in sources.items():
        _write_cyborg(samples, folder / f"{source}.csv")


def _copied(sample: Sample, folder: Path) -> Sample:
    """Copy a sample's files into ``folder``: images by split and family, maps by base name."""
    source = Path(sample.path)
    split, family = source.parts[-3:-1]
    places = {"path": f"images/{split}/{family}", "human_map": "heatmaps", "mask_path": "masks"}
    copies: dict[str, Any] = {}
    for field, place in places.items():
        if path := getattr(sample, field):
            target = folder / place / f"{split}_{family}_{source.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            copies[field] = str(shutil.copyfile(path, target))
    return replace(sample, **copies)


def _write_cyborg(samples: Iterable[Sample], path: Path) -> None:
    """Write ``split,label,/path,generator`` without header; reals have no generator."""
    rows = []
    for sample in samples:
        split = "train" if sample.split == "train" else "test"
        place = f"/{Path(sample.path).relative_to(path.parent).as_posix()}"
        row = [split, "Real" if sample.label == REAL else "Synthetic", place]
        rows.append([*row, sample.generator] if sample.generator else row)
    write_csv(path, rows[0], rows[1:])
