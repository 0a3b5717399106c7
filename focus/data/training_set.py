"""The images of a training run: read, split, checked."""

import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from focus.config.train import ResolvedTrainConfig, TrainConfig
from focus.data.bad_files import DIGESTS, DecodedFiles, check_images
from focus.data.cache.images import ImageCache
from focus.data.check.images import image_findings, storage_to_train_with
from focus.data.copies import (
    Copy,
    Pictures,
    check_left,
    fakes_beside_source,
    find_copies,
    left_out,
    without,
)
from focus.data.known_images import check_unseen, known_before
from focus.data.manifest import STORED_IN, Manifest, Sample
from focus.data.signatures import SignatureStore
from focus.data.splits import SHARE, assign_splits, check_trainable, common_folder
from focus.errors import InputError
from focus.findings import Finding
from focus.runtime.cpu_time import phase
from focus.runtime.processes import ALONE, Processes

if TYPE_CHECKING:
    from focus.data.readers.given import GivenImages

_FILES = ("path", "human_map", "mask_path")


@dataclass(frozen=True)
class ListedImages:
    """The images of a run before their files have been read.

    Attributes:
        manifest: All of them, with their splits.
        findings: What is to be known of how they were given.
    """

    manifest: Manifest
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class RunImages:
    """The images of a run that can be decoded, and the copies among them.

    Attributes:
        manifest: All of them, with splits and digests; a run records it.
        listed: What they were before their files were read.
        decoded: What the pass over their files found.
        copies: Images of validation and test that show a picture of an earlier split.
        left_out: Those of the copies that validation and test go without.
        pairs: Fakes in the split of their source; none but in the process that compared the
            pictures.
    """

    manifest: Manifest
    listed: ListedImages
    decoded: DecodedFiles
    copies: list[Copy]
    left_out: list[Copy]
    pairs: list[Copy]

    @property
    def used(self) -> Manifest:
        """The images that are trained, validated and tested on."""
        return without(self.manifest, self.left_out)

    @property
    def findings(self) -> list[Finding]:
        """What is to be known of how the images were given, of their files and pictures."""
        used = self.used
        storage = storage_to_train_with(used)
        of_images = image_findings(self.manifest, self.copies, self.left_out, self.pairs, storage)
        return [*self.listed.findings, *self.decoded.findings, *of_images]


def training_manifest(
    config: ResolvedTrainConfig,
    listing: "GivenImages | None" = None,
    copies: list[Copy] | None = None,
    *,
    progress: bool = True,
) -> Manifest:
    """Return the images that a run would take, with their splits and the digests of their files.

    Args:
        listing: What :func:`focus.data.readers.read_given` returned, if the paths have been read.
        copies: What :func:`find_copies` returned for the same images, if they have been compared.

    Raises:
        InputError: as :func:`listed_images` and :func:`readable_images`.
    """
    listed = listed_images(config, listing, progress=progress)
    return readable_images(listed, config, copies=copies, progress=progress).used


def listed_images(
    config: ResolvedTrainConfig,
    listing: "GivenImages | None" = None,
    *,
    resumed: bool = False,
    progress: bool = True,
    output: Path | None = None,
) -> ListedImages:
    """List all images of a run with their splits: the demo set, or ``--data`` and the test sets.

    Args:
        listing: What :func:`focus.data.readers.read_given` returned, if the paths have been read.
        resumed: Whether to draw no splits, since those of the run's manifest are taken.
        output: The folder of a new run, which may not lie in a folder of images.

    Raises:
        InputError: no usable images, or a split without one of the classes.
    """
    from focus.data.readers import read_given  # a dozen modules, once the run may begin

    with phase("listing images"), _advising_to_restore(config.run_folder if resumed else None):
        listing = listing or read_given(config, output=output)
    training, tests = listing.data, listing.tests
    if not training:
        from focus.data.demo import demo_manifest  # the modules that draw, for a run without data

        with phase("demo faces"):
            training = demo_manifest(progress=progress)
    elif not resumed:
        if progress and (line := _drawn_line(training, config)):
            print(line)
        training = assign_splits(training, seed=config.seed)
    manifest = training + tests
    if not resumed:
        check_trainable(manifest)
    return ListedImages(manifest, listing.findings)


def readable_images(
    listed: ListedImages,
    config: ResolvedTrainConfig,
    images: ImageCache | None = None,
    *,
    recorded: Manifest | None = None,
    copies: list[Copy] | None = None,
    processes: Processes = ALONE,
    progress: bool = True,
) -> RunImages:
    """Return those of the images that can be decoded, with digests, and the copies among them.

    Processes that share the work all call this with the same images.

    images: Stores the decoded images. recorded: The manifest of a run that is resumed, whose splits
    are taken. copies: What :func:`find_copies` returned for the same images, if they have been
    compared.

    Raises:
        InputError: too many bad files, a split that cannot be trained or of which copies are all
            there is, images to validate or test on that the initial weights know, or other images
            than those recorded; in all of the processes.
    """
    resumed_run = config.run_folder if recorded is not None else None
    with phase("checking images"), _advising_to_restore(resumed_run):
        signatures = SignatureStore()
        decoded = check_images(
            listed.manifest,
            images=images,
            signatures=signatures,
            progress=progress,
            max_bad=config.max_bad,
            processes=processes,
        )

    def with_splits_checked() -> Manifest:
        manifest = decoded.manifest
        if recorded is not None:
            manifest = with_recorded_splits(manifest, recorded, config.run_folder)
        else:
            check_unseen(manifest, known_before(config), str(config.initial_checkpoint))
        check_trainable(manifest)
        return manifest

    manifest = processes.run(with_splits_checked)

    # The main process alone compares the pictures.
    pictures = None
    if copies is None:
        with phase("looking for copies"):
            pictures = Pictures(manifest, signatures) if processes.is_main else None
            copies = processes.from_main(
                lambda: [] if pictures is None else find_copies(manifest, pictures)
            )
    dropped = left_out(copies, drop=config.drop_copies)
    check_left(manifest, dropped)

    # A finding tells of these pairs, which the main process alone writes.
    pairs: list[Copy] = []
    if pictures is not None:
        with phase("looking for copies"):
            pairs = fakes_beside_source(without(manifest, dropped), pictures)
    return RunImages(manifest, listed, decoded, copies, dropped, pairs)


def with_recorded_splits(manifest: Manifest, recorded: Manifest, run: Path) -> Manifest:
    """Return the images of a resumed run with the splits that it began with.

    The folder of all images may have moved; apart from that they must be those of its manifest.

    Raises:
        InputError: one is missing, is new or has changed; the message names it.
    """
    if _are_same(manifest, recorded):
        return manifest.with_numbered("split", *recorded.numbered("split"))

    # What differs is looked for image by image.
    now, then = _comparable(manifest), _comparable(recorded)
    paths_now = Counter(sample.path for sample in now)
    paths_then = Counter(sample.path for sample in then)
    whole_path = {
        comparable.path: sample.path
        for comparable, sample in zip([*now, *then], [*manifest, *recorded], strict=True)
    }
    differences = [f"{whole_path[path]!r} is missing" for path in paths_then - paths_now]
    differences += [f"{whole_path[path]!r} is new" for path in paths_now - paths_then]

    with_splits: list[Sample] = []
    # Of unlike length only where a path is missing or new, as noted above.
    for sample, recorded_sample, sample_now, sample_then in zip(
        manifest, recorded, now, then, strict=False
    ):
        difference = _difference(sample_now, sample_then)
        changed_file = _changed_file(sample, recorded_sample)
        differences += [text for text in (difference, changed_file) if text]
        with_splits.append(replace(sample, split=recorded_sample.split))
    if differences:
        raise InputError(
            f"The images are not those of the run {run} ({len(recorded)} then, "
            f"{len(manifest)} now; {differences[0]}): bring them back, or give another --name."
        )
    return Manifest(with_splits, manifest.source)


@contextmanager
def _advising_to_restore(run: Path | None) -> Iterator[None]:
    """Replace an error's advice by "bring back", as a resumed run takes no other images.

    run: The folder of the run; None for a new one, whose errors stay as they are.
    """
    try:
        yield
    except InputError as error:
        if run is None:
            raise
        what = re.sub("[:;] [^:;]*$", "", str(error))  # without the advice
        raise InputError(
            f"{what}: bring back what the run {run} began with, or give another --name."
        ) from error


def _are_same(manifest: Manifest, recorded: Manifest) -> bool:
    """Tell whether images and what is known of them are those recorded, but for their splits."""
    if len(manifest) != len(recorded) or (manifest.labels != recorded.labels).any():
        return False
    if not np.array_equal(manifest.boxes, recorded.boxes, equal_nan=True):
        return False
    apart = {STORED_IN, *DIGESTS.values()}
    extra = {*manifest.extra_columns(), *recorded.extra_columns()} - apart
    for column in ("generator", "family", "test_set", "group", *extra):
        if not all(map(operator.eq, manifest.cells(column), recorded.cells(column))):
            return False
    now_in, then_in = _folder_of_all(manifest), _folder_of_all(recorded)
    for column in _FILES:
        for now, then in zip(manifest.cells(column), recorded.cells(column), strict=True):
            if now.removeprefix(now_in) != then.removeprefix(then_in):
                return False
    for column in DIGESTS.values():
        # A run may have been begun by a version that wrote fewer digests.
        for now, then in zip(manifest.cells(column), recorded.cells(column), strict=True):
            if then not in ("", now):
                return False
    return True


def _folder_of_all(manifest: Manifest) -> str:
    """Return what the paths of all images, maps and masks begin with."""
    folders: list[str] = []
    for column in _FILES:
        numbers, texts = manifest.folders(column)
        folders += [texts[number] for number in np.unique(numbers).tolist() if number >= 0]
    return common_folder(folders)


def _difference(now: Sample, then: Sample) -> str:
    if now == then:
        return ""
    name = next(n for n in Sample.__slots__ if getattr(now, n) != getattr(then, n))
    return f"the {name} of {then.path!r} was {getattr(then, name)!r} and is {getattr(now, name)!r}"


def _changed_file(now: Sample, then: Sample) -> str:
    files = zip((now.path, now.human_map, now.mask_path), DIGESTS.values(), strict=True)
    # A run may have been begun by a version that wrote fewer digests.
    changed = (f for f, name in files if then.extra.get(name) not in (None, now.extra.get(name)))
    return next((f"the content of {file!r} has changed" for file in changed), "")


def _comparable(manifest: Manifest) -> Sequence[Sample]:
    """Return the samples without splits, their paths below the common folder of all files."""
    folder = _folder_of_all(manifest)
    # Digests are compared apart; runs of earlier versions do not say what an image was stored in.
    apart = {STORED_IN, *DIGESTS.values()}
    samples = []
    for sample in manifest:
        paths: dict[str, Any] = {}
        for name in _FILES:
            path = getattr(sample, name)
            if path:
                paths[name] = path.removeprefix(folder)
        extra = {name: cell for name, cell in sample.extra.items() if name not in apart}
        samples.append(replace(sample, split="", extra=extra, **paths))
    return samples


def _drawn_line(manifest: Manifest, config: TrainConfig) -> str:
    """Say that splits are drawn, since a table may have a column for them by another name."""
    without = manifest.take(manifest.equals("split", ""))
    if not without:
        return ""
    if len(without) < len(manifest):
        return (
            f"warning: {len(without)} of {len(manifest)} images have no split, the first is "
            f"{without[0].path!r}: they count as train unless others of their group are elsewhere"
        )
    in_tables = not all(Path(path).is_dir() for path in config.data)
    return (
        f"no column or folder names a split: {SHARE:.0%} validation and {SHARE:.0%} test are drawn"
        + (" (--columns split=NAME names a column)" if in_tables else "")
    ).replace("%", " %")
