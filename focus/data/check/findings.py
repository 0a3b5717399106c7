"""Everything that the check finds, in the order in which it finds it."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TypeVar

import numpy as np

from focus.config.data import CheckConfig
from focus.config.train import resolve
from focus.data.bad_files import BadFile, Verdict, decode, with_rows
from focus.data.check.leaks import Leak, find_leaks, find_pairs
from focus.data.check.pixels import pixel_statistics
from focus.data.check.shortcuts import Audit, audit
from focus.data.check.survey import Look, look
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest
from focus.data.readers import read_given
from focus.data.readers.human_maps import MapOwners, unmatched_maps
from focus.data.splits import assign_splits
from focus.data.training_set import training_manifest
from focus.errors import InputError
from focus.runtime.parallel import parallel_map

R = TypeVar("R")
Maps = Mapping[str, tuple[Verdict, tuple[int, int]]]
"""By path of a human map or artefact mask: what is wrong with it, and its size."""

# Images of the shortcut audit: the interval is then narrower than 0.04.
_AUDITED = 5000
_SPLITS = ("train", "validation", "test", "")


@dataclass(frozen=True)
class Training:
    """Whether training would start. obstacle: Why not, "" if it would. path: The table written."""

    obstacle: str
    path: str = ""
    n_images: int = 0


@dataclass(frozen=True)
class Findings:
    """All findings.

    manifest: All images, those to test on included; none if they cannot be read. looks: The look at
    each row. maps, masks: The verdicts by path. n_unmatched: The number of maps that belong to no
    image. bad: The files that cannot be decoded. metadata, pixels: The audits of the images for
    training, None if there are too few. pairs: The fakes in the split of their source.
    without_leaks: The verdict on the manifest without leaks, if it was written.
    """

    manifest: Manifest
    training: Training
    looks: Sequence[Look] = ()
    maps: Maps = field(default_factory=dict)
    masks: Maps = field(default_factory=dict)
    n_unmatched: int = 0
    bad: Sequence[BadFile] = ()
    leaks: Sequence[Leak] = ()
    pairs: Sequence[Leak] = ()
    metadata: Audit | None = None
    pixels: Audit | None = None
    without_leaks: Training | None = None

    def odd(self, verdict: Verdict) -> list[str]:
        """Return the human maps and artefact masks with this verdict."""
        both = (*self.maps.items(), *self.masks.items())
        return [path for path, (said, _) in both if said == verdict]


def gather(config: CheckConfig) -> Findings:
    """Read the images, give them the splits that training would, and look at every file.

    With ``drop_leaks`` a manifest without leaks and bad images is written too.
    """
    owners: MapOwners = {}
    try:
        own, tests = read_given(config, owners=owners)
    except InputError as error:
        return Findings(Manifest([]), Training(str(error)))
    manifest = assign_splits(own, seed=config.seed) + tests
    images = _each(look, (sample.path for sample in manifest), "looking at images")
    maps = _each(partial(decode, role="map"), (s.human_map for s in manifest), "looking at maps")
    masks = _each(partial(decode, role="mask"), (s.mask_path for s in manifest), "looking at masks")
    looks = [images[sample.path] for sample in manifest]
    bad = [BadFile(path, "image", seen.error) for path, seen in images.items() if seen.error]
    decoded = (*maps.values(), *masks.values())
    bad += [verdict for verdict, _ in decoded if isinstance(verdict, BadFile)]
    leaks = find_leaks(manifest, looks)

    audited = _audited(manifest, looks, config.seed)
    labels = [manifest[row].label or REAL for row in audited]
    groups = [manifest[row].group for row in audited]
    pixels = parallel_map(
        pixel_statistics, [manifest[row].path for row in audited], "measuring pixels"
    )
    return Findings(
        manifest,
        _training(config, progress=True),
        looks,
        maps,
        masks,
        sum(len(unmatched_maps(folder, owned)) for folder, owned in owners.items()),
        with_rows(bad, manifest),
        leaks,
        find_pairs(manifest, looks),
        audit([looks[row].metadata for row in audited], labels, groups, seed=config.seed),
        audit(list(pixels), labels, groups, seed=config.seed),
        _without_leaks(config, manifest, leaks, bad) if config.drop_leaks else None,
    )


def kinds(manifest: Manifest) -> dict[tuple[str, str, str], list[int]]:
    """Return the rows of each split, class and generator (of fakes), in the order of a table."""
    rows = defaultdict[tuple[int, str, str], list[int]](list)
    for row, sample in enumerate(manifest):
        label = "unlabelled" if sample.label is None else LABEL_NAMES[sample.label]
        generator = sample.generator if sample.label == SYNTHETIC else ""
        rows[_SPLITS.index(sample.split), label, generator].append(row)
    return {(_SPLITS[kind[0]], *kind[1:]): rows[kind] for kind in sorted(rows)}


def _each(function: Callable[[str], R], paths: Iterable[str | None], title: str) -> dict[str, R]:
    """Return ``function`` of each distinct path, by path."""
    distinct = list(dict.fromkeys(path for path in paths if path is not None))
    return dict(zip(distinct, parallel_map(function, distinct, title), strict=True))


def _training(config: CheckConfig, progress: bool) -> Training:
    """Return whether training would start."""
    logger = logging.getLogger("focus")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it warns of is in the report
    try:
        with redirect_stdout(StringIO()):  # the layouts have been printed
            training_manifest(resolve(config.for_training()), progress=progress)
    except InputError as error:
        return Training(str(error))
    finally:
        logger.setLevel(level)
    return Training("")


def _without_leaks(
    config: CheckConfig, manifest: Manifest, leaks: Sequence[Leak], bad: Sequence[BadFile]
) -> Training:
    """Write each picture in the last split that it occurs in, but for images that are bad."""
    path = str(Path(str(config.output)) / "without_leaks.csv")
    rows = {leak.row for leak in leaks}
    paths = {file.path for file in bad if file.role == "image"}
    kept = Manifest(s for row, s in enumerate(manifest) if row not in rows and s.path not in paths)
    kept.to_csv(path)
    given = replace(
        config,
        data=(path,),
        test_data={},
        test_real={},
        layout=None,
        columns=(),
        labels=(),
        data_root=None,
        human_maps=None,
    )
    return replace(_training(given, progress=False), path=path, n_images=len(kept))


def _audited(manifest: Manifest, looks: Sequence[Look], seed: int) -> list[int]:
    """Return readable rows to train or validate with, of each class as many as fit."""
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    for label in (REAL, SYNTHETIC):
        every = [
            row
            for row, sample in enumerate(manifest)
            if sample.label == label
            and sample.split in ("train", "validation")
            and not looks[row].error
        ]
        rows += generator.permutation(every)[: _AUDITED // 2].tolist()
    return sorted(rows)
