"""The demo set as files, laid out as one's own data may be: ``python -m focus.data demo DIR``.

``train.csv`` is CYBORG's CSV, with the human maps in ``heatmaps``; its ``test`` split is the
validation set. ``closed.csv``, ``closed_balanced.csv`` and ``open.csv`` are manifests, since a test
set's name and the artefact masks have no place in CYBORG's form. The open set is there once more as
CYBORG has its test data, in a CSV for each source: ``reals.csv``, ``uNear.csv`` and so on.
"""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from focus.config.data import DemoConfig
from focus.data.demo.cache import demo_manifest
from focus.data.manifest import REAL, TEST_SETS, Manifest, Sample
from focus.errors import InputError
from focus.runtime.files import atomic_csv_writer, check_empty
from focus.runtime.progress import progress_bar

TRAIN = "train.csv"
REALS = "reals"
_LABELS = ("Real", "Synthetic")


def write_demo(config: DemoConfig) -> None:
    """Write the demo set, and print how the files are used."""
    folder = Path(str(config.folder))
    write_files(demo_manifest(), folder)
    tests = " ".join(f"--test-data {name}={folder / name}.csv" for name in TEST_SETS)
    print(f"written: {folder}\n\nTrained on it, the results are those of the embedded set:\n")
    print(f"  accelerate launch train.py --recipe demo --data {folder / TRAIN} {tests}")


def write_files(demo: Manifest, folder: str | Path, *, progress: bool = True) -> None:
    """Write the demo set, copying its files; raises InputError if the folder is in use."""
    folder = Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_empty(folder)
        moved = [
            _copied(sample, folder)
            for sample in progress_bar(
                demo, "writing demo files", unit="image", disable=not progress
            )
        ]
        seen = [sample for sample in moved if sample.split != "test"]
        _write_cyborg(seen, folder / TRAIN, folder)
        for name in TEST_SETS:
            Manifest(s for s in moved if s.test_set == name).to_csv(folder / f"{name}.csv")
        sources: dict[str, list[Sample]] = {}
        for sample in moved:
            if sample.test_set == "open":
                sources.setdefault(sample.generator or REALS, []).append(sample)
        for source, samples in sources.items():
            _write_cyborg(samples, folder / f"{source}.csv", folder)
    except OSError as error:
        raise InputError(
            f"The demo set cannot be written to {folder} ({error.strerror}): give another folder."
        ) from error


def _copied(sample: Sample, folder: Path) -> Sample:
    """Copy a sample's files into ``folder``: images by split and family, maps by base name."""
    source = Path(sample.path)
    split, family = source.parts[-3:-1]
    name = f"{split}_{family}_{source.name}"

    def copy(path: str | None, kind: str) -> str | None:
        if path is None:
            return None
        target = folder / kind / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return str(target)

    image = copy(sample.path, f"images/{split}/{family}")
    assert image is not None
    return replace(
        sample,
        path=image,
        map_path=copy(sample.map_path, "heatmaps"),
        mask_path=copy(sample.mask_path, "masks"),
    )


def _write_cyborg(samples: Iterable[Sample], path: Path, root: Path) -> None:
    """Write ``split,label,/path,generator`` without header; reals have no generator."""
    with atomic_csv_writer(path, end="\n") as rows:
        for sample in samples:
            row = [
                "train" if sample.split == "train" else "test",
                _LABELS[REAL if sample.label == REAL else 1],
                f"/{Path(sample.path).relative_to(root).as_posix()}",
            ]
            rows.writerow([*row, sample.generator] if sample.generator else row)
