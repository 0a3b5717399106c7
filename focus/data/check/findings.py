"""Everything that the check finds, in the order in which it finds it, and the verdict on it."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from focus.config.data import CheckConfig
from focus.config.train import resolve
from focus.data.bad_files import DecodedFiles, check_images, without_digests
from focus.data.check.images import image_findings, storage_to_train_with
from focus.data.check.properties import Look, look, pixel_statistics
from focus.data.check.shortcuts import CAUSES, WARN_FROM, Audit, audit
from focus.data.copies import (
    Copy,
    Pictures,
    fakes_beside_source,
    find_copies,
    left_out,
    without,
)
from focus.data.file_pass import BadFile, Quality
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Sample
from focus.data.maps import files_of, human_map, is_drawing, source_findings
from focus.data.readers import read_given
from focus.data.readers.given import GivenImages
from focus.data.readers.human_maps import unmatched_maps
from focus.data.signatures import SignatureStore
from focus.data.splits import assign_splits
from focus.data.training_set import training_manifest
from focus.errors import InputError
from focus.findings import Finding, finding, worst_first
from focus.runtime.parallel import parallel_map

R = TypeVar("R")

# Images of the audit of pixels: the interval is then narrower than 0.04.
_AUDITED = 5000
_SPLITS = ("train", "validation", "test", "")

FIT = "fit for training"


@dataclass(frozen=True)
class Training:
    """Whether training would start. obstacle: Why not, "" if it would. path: The table written."""

    obstacle: str
    path: str = ""
    n_images: int = 0


@dataclass(frozen=True)
class CheckedData:
    """The images that were checked, and what the check found.

    Attributes:
        manifest: All images, those to test on included; none if they cannot be read.
        training: Whether training would start.
        findings: What has to be mended, what to know, worst first.
        looks: The header of each image's file, by its path.
        decoded: What the pass over all files found.
        map_sizes: Width and height of each human map, by its path.
        n_unmatched: The number of maps that belong to no image.
        copies: Images of validation and test that show a picture of an earlier split.
        dropped: Those of the copies that training leaves out.
        pairs: The fakes in the split of their source.
        storage: The audit of how files are stored, of images to train with.
        pixels: The audit of their pixels, None if there are too few.
        without_copies: The verdict on the manifest without copies, if it was written.
    """

    manifest: Manifest
    training: Training
    findings: Sequence[Finding]
    looks: Mapping[str, Look] = field(default_factory=dict)
    decoded: DecodedFiles | None = None
    map_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    n_unmatched: int = 0
    copies: Sequence[Copy] = ()
    dropped: Sequence[Copy] = ()
    pairs: Sequence[Copy] = ()
    storage: Audit | None = None
    pixels: Audit | None = None
    without_copies: Training | None = None

    @property
    def obstacle(self) -> str:
        """Why training would not start, on the manifest without copies if it was written."""
        return (self.without_copies or self.training).obstacle

    @property
    def bad(self) -> Sequence[BadFile]:
        """The files that cannot be decoded."""
        return self.decoded.bad if self.decoded else ()

    def odd(self, quality: Quality) -> list[str]:
        """Return the human maps and artefact masks that are like that."""
        return self.decoded.odd(quality) if self.decoded else []


def gather(config: CheckConfig) -> CheckedData:
    """Read the images, give them the splits that training would, and look at every file.

    With ``drop_copies`` and an output a manifest without copies and bad images is written too.
    """
    store = SignatureStore()
    try:
        listing = read_given(config)
        manifest = assign_splits(listing.data, seed=config.seed) + listing.tests
        with _without_warnings():
            decoded = check_images(manifest, signatures=store, max_bad=1.0)
    except InputError as error:
        return _refused(str(error))
    looks = _by_path(look, (sample.path for sample in manifest), "reading headers")
    map_sizes = _by_path(_map_size, (s.human_map for s in decoded.manifest), "measuring maps")
    images = decoded.manifest
    pictures = Pictures(images, store)
    copies = find_copies(images, pictures)
    dropped = left_out(copies, drop=config.drop_copies)
    used = without(images, dropped)
    storage = storage_to_train_with(used, looks)
    pairs = fakes_beside_source(used, pictures)

    audited = _audited(images, config.seed)
    labels = [sample.label or REAL for sample in audited]
    groups = [sample.group for sample in audited]
    measured = parallel_map(
        pixel_statistics, [sample.path for sample in audited], "measuring pixels"
    )
    pixels = audit(list(measured), labels, groups, seed=config.seed)

    training = _training(config, listing, copies, progress=True)
    without_copies = None
    if config.drop_copies and config.output is not None:
        without_copies = _without_copies(config, used)
    obstacle = (without_copies or training).obstacle
    findings = [
        *([finding("training_refused", obstacle=obstacle)] if obstacle else []),
        *listing.findings,
        *decoded.findings,
        *image_findings(images, copies, dropped, pairs, storage),
        *source_findings(images),
        *_pixel_findings(pixels),
    ]
    return CheckedData(
        manifest,
        training,
        worst_first(findings),
        looks=looks,
        decoded=decoded,
        map_sizes=map_sizes,
        n_unmatched=sum(
            len(unmatched_maps(folder, owned)) for folder, owned in listing.map_owners.items()
        ),
        copies=copies,
        dropped=dropped,
        pairs=pairs,
        storage=storage.storage,
        pixels=pixels,
        without_copies=without_copies,
    )


def is_fit(checked: CheckedData) -> bool:
    """Return whether nothing has to be mended before training."""
    return "error" not in {one.severity for one in checked.findings}


def verdict(checked: CheckedData) -> str:
    """Return the verdict in one line, and each finding in one below, worst first."""
    head = FIT if is_fit(checked) else "mend this before training"
    if not checked.findings:
        return head
    return "\n".join([f"{head}:", *map(str, checked.findings)])


def _refused(obstacle: str) -> CheckedData:
    """Return what is to be said where no image can be read."""
    refusal = finding("training_refused", obstacle=obstacle)
    return CheckedData(Manifest([]), Training(obstacle), [refusal])


def _pixel_findings(audit: Audit | None) -> list[Finding]:
    """Return a finding if statistics of pixels tell the class.

    It is never an error, as they may be the generator's own.
    """
    if audit is None or audit.interval[0] <= WARN_FROM:
        return []
    causes = ", ".join(map(str, audit.causes[:CAUSES]))
    return [finding("pixels_tell_class", auc=audit.auc, causes=causes)]


def kinds(manifest: Manifest) -> dict[tuple[str, str, str], list[int]]:
    """Return the rows of each split, class and generator (of fakes), in the order of a table."""
    rows = defaultdict[tuple[int, str, str], list[int]](list)
    for row, sample in enumerate(manifest):
        label = "unlabelled" if sample.label is None else LABEL_NAMES[sample.label]
        generator = sample.generator if sample.label == SYNTHETIC else ""
        rows[_SPLITS.index(sample.split), label, generator].append(row)
    return {(_SPLITS[kind[0]], *kind[1:]): rows[kind] for kind in sorted(rows)}


def _by_path(function: Callable[[str], R], paths: Iterable[str | None], title: str) -> dict[str, R]:
    """Return ``function`` of each distinct path, by path."""
    distinct = list(dict.fromkeys(path for path in paths if path is not None))
    return dict(zip(distinct, parallel_map(function, distinct, title), strict=True))


def _map_size(path: str) -> tuple[int, int]:
    """Return width and height of a human map that can be decoded."""
    if is_drawing(path):
        height, width = human_map(path).shape
        return width, height
    with Image.open(files_of(path)[0]) as image:
        return image.size


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Let nothing be logged that is a finding."""
    logger = logging.getLogger("focus")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _training(
    config: CheckConfig,
    listing: GivenImages | None = None,
    copies: list[Copy] | None = None,
    *,
    progress: bool,
) -> Training:
    """Return whether training would start.

    listing, copies: What was read and compared of these images, if it was.
    """
    try:
        # The layouts have been printed.
        with _without_warnings(), redirect_stdout(StringIO()):
            training_manifest(resolve(config.for_training()), listing, copies, progress=progress)
    except InputError as error:
        return Training(str(error))
    return Training("")


def _without_copies(config: CheckConfig, used: Manifest) -> Training:
    """Write the images that can be decoded and are no copies."""
    path = str(Path(str(config.output)) / "without_copies.csv")
    Manifest(map(without_digests, used)).to_csv(path)
    of_table = replace(
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
    return replace(_training(of_table, progress=False), path=path, n_images=len(used))


def _audited(images: Manifest, seed: int) -> list[Sample]:
    """Return images to train or validate with, of each class as many as fit."""
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    for label in (REAL, SYNTHETIC):
        of_class = [
            row
            for row, sample in enumerate(images)
            if sample.label == label and sample.split in ("train", "validation")
        ]
        rows += generator.permutation(of_class)[: _AUDITED // 2].tolist()
    return [images[row] for row in sorted(rows)]
