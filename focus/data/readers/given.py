"""Read all paths that a configuration names: ``--data``, ``--test-data`` and ``--test-real``."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np

from focus.config.shared import DataConfig, ImagesConfig, label_table
from focus.data.columns import repeated
from focus.data.images import limit_pixels
from focus.data.manifest import (
    REAL,
    SYNTHETIC,
    Manifest,
    Sample,
    file_key,
    place_of,
)
from focus.data.near_far import SEVERAL, family_of, served_by
from focus.data.readers.detect import (
    DEFAULT_GENERATOR,
    Reading,
    read_labels,
    read_path,
    takes,
)
from focus.data.readers.human_maps import MapOwners, unmatched_findings
from focus.data.readers.label_conflicts import label_conflicts
from focus.data.readers.label_tables import LabelTable
from focus.data.readers.rows import join
from focus.errors import InputError, listed
from focus.findings import Finding
from focus.runtime.machine import is_main_process


@dataclass(frozen=True)
class GivenImages:
    """All images that a configuration names.

    Attributes:
        data: Those of ``--data``.
        tests: Those of ``--test-data`` and ``--test-real``.
        findings: What is to be known of them.
        map_owners: The image that each human map belongs to.
    """

    data: Manifest
    tests: Manifest
    findings: tuple[Finding, ...] = ()
    map_owners: MapOwners = field(default_factory=dict)


def read_given(
    config: DataConfig,
    *,
    allow_unlabelled: bool = False,
    name_fakes: bool = True,
    output: Path | None = None,
) -> GivenImages:
    """Read the images of ``--data``, joined, and those of ``--test-data`` and ``--test-real``.

    Either is empty only if nothing was given. Real images of ``--test-real`` that are no
    generator's own are compared with the fakes of ``--test-data`` alone, unless ``--data`` has
    none to test on. The main process prints a line for each path: the layout it was read as. From
    then on images are decoded up to ``--max-pixels``.

    Args:
        config: The paths and how to read them. Where there are test sets, ``label=`` in its
            columns, for "there is none", is for their tables.
        allow_unlabelled: Whether images of ``--data`` may have no label.
        name_fakes: Whether fakes whose generator is named nowhere get the default one.
        output: A folder for pictures, which must not be read as images the next time.

    Raises InputError for an image given as real and as synthetic, a ``--layout`` that suits no
    path, a test set without images of its class, and as :func:`detect.read_path`.
    """
    limit_pixels(config.max_pixels)
    test_data: Mapping[str, str] = {}
    test_real: Mapping[str, str] = {}
    if isinstance(config, ImagesConfig):
        test_data, test_real = config.test_data, config.test_real
    _refuse_unused_settings(config, [*config.data, *test_data.values(), *test_real.values()])
    for_tests = replace(config, human_maps=None, generator=None)
    if test_data or test_real:
        config = replace(config, columns=_without_absent_label(config.columns))
    labels = read_labels(config)
    reader = _PathReader(output)

    unnamed = DEFAULT_GENERATOR if name_fakes else ""
    readings = [reader.read(path, config, unnamed, labels) for path in config.data]
    if not allow_unlabelled:
        for reading in readings:
            reading.require_labels()
    data = join([reading.manifest for reading in readings])

    test_sets = []
    for name, path in test_data.items():
        # A name of the table of families may have folders of classes, another one of generators.
        options = replace(for_tests, generator=name if family_of(name) else None)
        reading = reader.read(path, options, name)
        labelled = _labelled(reading, SYNTHETIC)
        readings.append(labelled)
        test_sets.append(_test_fakes(reading, labelled.manifest, name))

    generators = {name for test_set in test_sets for name in test_set.generators()}
    for name, path in test_real.items():
        labelled = _labelled(reader.read(path, for_tests), REAL)
        readings.append(labelled)
        test_sets.append(_test_reals(labelled, name, name if name in generators else ""))
    tests = join(test_sets)

    unmatched = unmatched_findings(reader.map_owners, config.human_maps)
    _refuse_two_labels(data, tests)
    if test_real:
        tests = _named_after_fakes(data, tests)
    findings = [finding for reading in readings for finding in reading.findings]
    return GivenImages(data, tests, (*findings, *unmatched), reader.map_owners)


def _refuse_unused_settings(config: DataConfig, paths: Sequence[str]) -> None:
    """Raise InputError for a ``--layout`` or a table of labels that none of the paths can have."""
    if config.layout and not any(takes(config.layout, path) for path in paths):
        raise InputError(f"--layout {config.layout} suits none of the paths given: give another.")
    table = label_table(config.labels)
    if table is not None and not any(Path(path).is_dir() for path in config.data):
        raise InputError(
            f"--labels {table} is a table for a folder of images, and no folder is given as "
            "--data: give the table itself, as --data or --test-data NAME=TABLE."
        )


class _PathReader:
    """Reads one path after another, and prints a line for each.

    map_owners: The image that each human map belongs to, after the paths that have been read.
    """

    def __init__(self, output: Path | None) -> None:
        """Keep the folder for pictures, which must not be read as images the next time."""
        self._output = output
        self.map_owners: dict[Path, Mapping[str, str]] = {}

    def read(
        self,
        path: str,
        config: DataConfig,
        unnamed: str = DEFAULT_GENERATOR,
        labels: LabelTable | None = None,
    ) -> Reading:
        """Read a path as :func:`read_path`, by ``--layout`` only if that suits it."""
        if config.layout and not takes(config.layout, path):
            config = replace(config, layout=None)
        reading = read_path(path, config, self.map_owners, unnamed, labels)
        self.map_owners |= reading.map_owners
        if self._output is not None and reading.layout == "images":
            refuse_inside(self._output, [path])
        if is_main_process():
            print(reading, flush=True)
        return reading


def _without_absent_label(settings: Sequence[str]) -> tuple[str, ...]:
    """Return ``--columns`` without ``label=``, "there is none", where it is said of all tables."""
    remaining = []
    for setting in settings:
        parts = [part for part in setting.split(",") if part.replace(" ", "") != "label="]
        if parts:
            remaining.append(",".join(parts))
    return tuple(remaining)


def refuse_inside(output: Path, paths: Iterable[str]) -> None:
    """Raise InputError if pictures in ``output`` would be images of one of the paths next time."""
    for path in filter(os.path.isdir, paths):
        if output.resolve().is_relative_to(Path(path).resolve()):
            raise InputError(
                f"--output {output} lies in {path}, where its pictures would be taken for images "
                "the next time: give a folder elsewhere."
            )


def _labelled(reading: Reading, label: int) -> Reading:
    """Return a test set with labels: where none says its class, all its images are of this one.

    Raises InputError if only some have a label, or if a column of a table may be the label.
    """
    if any(sample.label is not None for sample in reading.manifest):
        reading.require_labels()
        return reading
    columns = reading.columns
    if columns and columns.rest and not columns.no_label:
        raise InputError(
            f"{reading.path} has no column known as the label, which one of "
            f"{listed(list(columns.rest))} may be: give --columns label=NAME, or label= if there "
            "is only one class."
        )
    manifest = Manifest((replace(s, label=label) for s in reading.manifest), reading.path)
    conflicts = label_conflicts(manifest, reading.path)
    return replace(reading, manifest=manifest, findings=(*reading.findings, *conflicts))


def _test_fakes(reading: Reading, labelled: Manifest, name: str) -> Manifest:
    """Return a test set of the generator of that name, unless the layout names generators.

    Its images are fakes where nothing says their class: one class per test set is the field's
    habit. Where the layout names the generators of all fakes, reals without one serve them all.

    reading: As it was read. labelled: Its images with labels.
    """
    if all(sample.label is None for sample in reading.manifest):
        labelled = Manifest((replace(s, generator=name) for s in labelled), labelled.source)
    generators = labelled.generators()
    if not generators:
        raise InputError(
            f"The test data {name!r}, {reading.path}, holds no fakes: give reals by --test-real."
        )
    of_reals = name if name in generators else ""
    samples = (
        replace(sample, generator=sample.generator or of_reals, split="test") for sample in labelled
    )
    return Manifest(samples, labelled.source)


def _test_reals(reading: Reading, name: str, generator: str) -> Manifest:
    """Return the reals of one generator, or with "" of all that have none of their own."""
    manifest = reading.manifest
    count = int((manifest.labels == SYNTHETIC).sum())
    if count:
        raise InputError(
            f"The test reals {name!r}, {reading.path}, hold {count} synthetic images: use "
            "--test-data."
        )
    samples = (
        replace(
            sample,
            label=REAL,
            generator=generator,
            split="test",
            extra={**sample.extra, "source": name},
        )
        for sample in manifest
    )
    return Manifest(samples, manifest.source)


def _refuse_two_labels(data: Manifest, tests: Manifest) -> None:
    """Raise InputError for an image, or a face in it, given as real and as synthetic.

    Also where a link gives it another path.
    """
    parts = [part for part in (data, tests) if part]
    if not parts:
        return
    is_repeated = np.zeros(len(data) + len(tests), bool)
    is_repeated[repeated(np.concatenate([part.file_hashes() for part in parts]))] = True
    repeated_data = data.take(is_repeated[: len(data)])
    repeated_tests = tests.take(is_repeated[len(data) :])
    first_of_face: dict[object, Sample] = {}
    for sample in chain(repeated_data, repeated_tests):
        first = first_of_face.setdefault((file_key(sample.path), sample.box), sample)
        if {first.label, sample.label} == {REAL, SYNTHETIC}:
            raise InputError(
                f"{place_of(sample)!r} is given as real and as synthetic, there as "
                f"{place_of(first)!r}: keep one of them."
            )


def _named_after_fakes(data: Manifest, tests: Manifest) -> Manifest:
    """Return the test samples, their shared reals named after the generators that have no others.

    Else they would be mixed with the reals of the data, which are of another source. Where the data
    have no reals to test on but those of some generators, or all generators have their own, shared
    reals serve all.
    """
    tested = data.take(data.equals("split", "") | data.equals("split", "test"))
    reals_of_data = tested.take(tested.labels == REAL)
    reals_of_tests = tests.take(tests.labels == REAL)
    names_of_reals = {*reals_of_data.cells("generator"), *reals_of_tests.cells("generator")}
    served = {generator for names in names_of_reals for generator in served_by(names)}
    lacking = sorted(set(tests.generators()) - served)
    has_none_to_mix_with = bool(data) and bool(reals_of_data.has("generator").all())
    if not lacking or has_none_to_mix_with:
        return tests
    is_assigned = tests.has("generator") | tests.has("test_set")
    shared = np.flatnonzero((tests.labels == REAL) & ~is_assigned)
    return tests.with_cells("generator", repeat(SEVERAL.join(lacking), len(shared)), shared)
