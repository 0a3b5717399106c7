"""From a path to a manifest: the layout is found by looking, one module reads each layout."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from focus.config.evaluate import EvaluateConfig
from focus.config.layouts import HUB_PREFIX, Layout, parse_columns
from focus.config.train import TrainConfig
from focus.data.generators import SEVERAL, family_of, served_by
from focus.data.manifest import (
    CSV_MARKER,
    REAL,
    SYNTHETIC,
    Manifest,
    Sample,
    absolute,
    csv_rows,
    numbered_samples,
    open_csv,
)
from focus.data.readers import cyborg, folders, hub, tables
from focus.data.readers.columns import NAMES, Columns, could_be_label
from focus.data.readers.files import (
    ARCHIVES,
    IMAGE_EXTENSIONS,
    Request,
    from_rows,
    join,
    maps_may_be_shared,
    with_maps,
)
from focus.data.readers.label_conflicts import refuse_both_classes, refuse_two_labels
from focus.errors import InputError, shown
from focus.runtime.files import is_utf8
from focus.runtime.machine import is_main_process

_log = logging.getLogger(__name__)

DEFAULT_GENERATOR = "synthetic"

_OF_FILES: tuple[Layout, ...] = ("manifest", "cyborg", "csv")
_OF_FOLDERS: tuple[Layout, ...] = tuple(folders.TREES)


@dataclass(frozen=True)
class Reading:
    """What a path was read as.

    columns: what those of a table were taken for, "" if there are none. unclaimed: those among
    which a table's label could be, if none was found. As text it is one line for the console.
    """

    path: str
    layout: Layout
    columns: str
    manifest: Manifest
    unclaimed: Sequence[str] = ()

    def __str__(self) -> str:
        counts = {
            "real": sum(sample.label == REAL for sample in self.manifest),
            "synthetic": sum(sample.label == SYNTHETIC for sample in self.manifest),
            "unlabelled": sum(sample.label is None for sample in self.manifest),
            "with a human map": sum(sample.map_path is not None for sample in self.manifest),
        }
        columns = f" ({self.columns})" if self.columns.isprintable() and self.columns else ""
        found = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        layout = f"layout {self.layout}{columns}"
        return f"{shown(self.path)}: {layout}, {len(self.manifest)} images, {found}"


def _logged(reading: Reading) -> None:
    _log.info("%s", reading)


def read_data(
    path: str | Path,
    *,
    layout: Layout | None = None,
    data_root: str | Path | None = None,
    heatmaps: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    allow_outside_root: bool = False,
    generator: str | None = None,
    allow_unlabelled: bool = False,
    say: Callable[[Reading], object] = _logged,
) -> Manifest:
    """Read images, labels and human maps from whichever layout ``path`` has.

    layout: None finds it by looking:

    - ``manifest``: a CSV that starts with the manifest's marker;
    - ``cyborg``: a CSV whose first cell is ``train`` or ``test``, see
      :mod:`focus.data.readers.cyborg`;
    - ``csv``: any other CSV, or any but a manifest if ``columns`` is given, see
      :mod:`focus.data.readers.tables`;
    - ``parquet``: a parquet file, or a folder with some, see :mod:`focus.data.readers.hub`;
    - ``hub``: ``hf://user/name``, a data set of the Hugging Face Hub;
    - ``0_real-1_fake``, ``nature-ai``, ``real-fake``: a folder with folders of these names, see
      :mod:`focus.data.readers.folders`;
    - ``images``: any other folder of images, or one image, unlabelled; if ``allow_unlabelled``.

    data_root: what the paths in a CSV are relative to, default the CSV's folder. heatmaps: folder
    of human maps, default ``heatmaps`` in ``path`` or beside it, or in ``data_root``; a map belongs
    to the image at the same relative path or, directly in the folder, of the same base name, the
    extension apart. columns: names of a table's columns by the manifest's (path, label, ...),
    default those found by name. allow_outside_root: whether a path in a table may lead out of the
    root. generator: that of fakes for which the layout names none, default "synthetic"; "" leaves
    them without one. In folders it is that of all, unless one of them has a known generator's name:
    they are classes. say: is told what was read, default: logged.

    The order is that of the table's rows, or the natural one of the files' names. A row that says
    the same of the same path as one before is left out with a warning. Raises InputError, with the
    line number for a CSV, for whatever is missing, empty, unknown, contradictory or outside its
    root.
    """
    given = name = str(path)
    is_hub = layout == "hub" or name.startswith(HUB_PREFIX)
    if is_hub:
        name = name.removeprefix(HUB_PREFIX).removeprefix("datasets/").strip("/")
    path = Path(name) if is_hub else absolute(path)
    inside = path if path.is_dir() else path.parent
    request = Request(
        path,
        root=absolute(inside if data_root is None else data_root),
        heatmaps=heatmaps,
        columns=columns or {},
        outside=allow_outside_root,
        hub=name if is_hub else "",
        generator=generator or "",
    )
    if layout is not None and not takes(layout, given):
        kind = "folders" if path.is_file() else "files"
        raise InputError(f"--layout {layout} reads {kind}, and {path} is none: give another one.")
    found, in_columns, manifest = _read(request, layout)
    manifest = Manifest(
        (_named(s, DEFAULT_GENERATOR if generator is None else generator) for s in manifest),
        manifest.source,
    )
    _refuse_other_encodings(manifest)
    reading = Reading(
        name if is_hub else str(path),
        found,
        str(in_columns or ""),
        manifest,
        _unclaimed(in_columns, manifest),
    )
    if not allow_unlabelled:
        _refuse_unlabelled(reading, all_or_none=False)
    say(reading)
    return manifest


def takes(layout: Layout, path: str) -> bool:
    """Whether a path is of the kind that a layout is for: a file, a folder, a name on the Hub."""
    if path.startswith(HUB_PREFIX) or layout == "hub":
        return layout == "hub"
    if layout in _OF_FILES:
        return not Path(path).is_dir()
    return layout not in _OF_FOLDERS or not Path(path).is_file()


@maps_may_be_shared()
def read_tests(
    test_data: Mapping[str, str],
    test_real: Mapping[str, str] = {},
    *,
    layout: Layout | None = None,
    data_root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    allow_outside_root: bool = False,
    say: Callable[[Reading], object] = _logged,
) -> Manifest:
    """The test samples of ``--test-data`` and ``--test-real``, each a NAME and a path.

    test_data: fakes of generator NAME, unless the layout names a generator, and their own reals if
    the path has any. A plain folder of images counts as fakes: one class per test set is the
    field's habit; so does a table, if no column of it can be the label or ``columns`` says that
    none is. Where the layout names the generators of all fakes, reals without one serve every
    generator. test_real: reals, a plain folder of images too. If NAME is a generator of the test
    data, they are that generator's own; else they serve all generators that have none of their own
    (generator ""). ``extra["source"]`` keeps NAME. All get the split "test".

    layout: for the paths that it :func:`takes`. The other arguments are those of :func:`read_data`.
    Raises InputError for test data without fakes and for test reals with fakes.
    """

    def read(path: str, generator: str | None = None) -> Reading:
        readings: list[Reading] = []
        read_data(
            path,
            layout=layout if layout and takes(layout, path) else None,
            data_root=data_root,
            columns=columns,
            allow_outside_root=allow_outside_root,
            generator=generator,
            allow_unlabelled=True,
            say=readings.append,
        )
        (reading,) = readings
        say(reading)
        return reading

    joined = Manifest([])
    for name, path in test_data.items():
        # A name of the table of families may have folders of classes, another one of generators.
        joined += _test_fakes(read(path, name if family_of(name) else None), name)
    generators = joined.generators()
    for name, path in test_real.items():
        reals = _test_reals(read(path), name, generator=name if name in generators else "")
        # One folder under two names that are no generators is there once.
        there = {(s.path, s.generator, s.test_set) for s in joined if s.label == REAL}
        fresh = (s for s in reals if (s.path, s.generator, s.test_set) not in there)
        joined += Manifest(fresh, reals.source)
    return joined


@maps_may_be_shared()
def read_given(
    config: TrainConfig | EvaluateConfig,
    *,
    allow_unlabelled: bool = False,
    name_fakes: bool = True,
    output: Path | None = None,
) -> tuple[Manifest, Manifest]:
    """The images of ``--data``, joined, and those of ``--test-data`` and ``--test-real``.

    Either is empty only if nothing was given. Real images of ``--test-real`` that are no
    generator's own are compared with the fakes of ``--test-data`` alone, unless ``--data`` has
    none to test on. The main process prints a line for each path: the layout it was read as.
    name_fakes: whether those of ``--data`` whose generator is named nowhere get the default one.
    output: a folder for pictures, which may not be taken for images the next time. A ``--columns
    label=``, for "there is none", is for the tables of the test sets where there are any. Raises
    InputError for a path of ``--data`` that is given twice, for an image that is given as real and
    as synthetic, for a ``--layout`` or ``--columns`` that no path has a use for, and what
    :func:`read_data` and :func:`read_tests` raise.
    """
    places = [p if p.startswith(HUB_PREFIX) else str(Path(p).resolve()) for p in config.data]
    if twice := [path for path in places if places.count(path) > 1]:
        raise InputError(f"{twice[0]} is given twice: give each path once.")
    given = [*config.data, *config.test_data.values(), *config.test_real.values()]
    layout = config.layout
    if layout and not any(takes(layout, path) for path in given):
        raise InputError(f"--layout {layout} suits none of the paths given: give another one.")
    columns = None if config.columns is None else parse_columns(config.columns)
    own_columns = columns
    if columns and columns.get("label") == "" and (config.test_data or config.test_real):
        own_columns = {role: name for role, name in columns.items() if role != "label"}
    readings: list[Reading] = []

    def say(reading: Reading) -> None:
        readings.append(reading)
        if output is not None and reading.layout == "images":
            refuse_inside(output, [reading.path])
        if is_main_process():
            print(reading, flush=True)

    parts = [
        read_data(
            path,
            layout=layout if layout and takes(layout, path) else None,
            data_root=config.data_root,
            heatmaps=config.heatmaps,
            columns=own_columns,
            allow_outside_root=config.allow_outside_root,
            generator=config.generator or (None if name_fakes else ""),
            allow_unlabelled=allow_unlabelled,
            say=say,
        )
        for path in config.data
    ]
    own = parts[0] if len(parts) == 1 else join(parts)
    named = own.generators()
    if config.generator and any(named) and config.generator not in named:
        _log.warning(
            "--generator %s names no fake: the data name the generators of all", config.generator
        )
    tests = read_tests(
        config.test_data,
        config.test_real,
        layout=layout,
        data_root=config.data_root,
        columns=columns,
        allow_outside_root=config.allow_outside_root,
        say=say,
    )
    refuse_two_labels(chain(own, tests))
    if columns and not any(reading.columns for reading in readings):
        raise InputError("--columns is for tables, and no path is one: drop it.")
    return own, _apart(own, tests) if config.test_real else tests


def refuse_inside(output: Path, paths: Iterable[str]) -> None:
    """Raise InputError if pictures in ``output`` would be images of one of the paths next time."""
    for path in filter(os.path.isdir, paths):
        if output.resolve().is_relative_to(Path(path).resolve()):
            raise InputError(
                f"--output {output} lies in {path}, where its pictures would be taken for images "
                "the next time: give a folder elsewhere."
            )


def _apart(own: Manifest, tests: Manifest) -> Manifest:
    """The test samples, their shared reals named after the generators that have no others.

    Else they would be mixed with the reals of the data, which are of another source: the closed and
    the open figures would be of both. Where the data have no reals to test on, or all generators
    have their own, shared reals serve all.
    """
    tested = own.where(lambda s: s.split in ("", "test"))
    reals = [s for s in (*tested, *tests) if s.label == REAL]
    served = frozenset[str]().union(*(served_by(s.generator) for s in reals))
    lacking = sorted(set(tests.generators()) - served)
    if not lacking or (own and not any(s.label == REAL and not s.generator for s in tested)):
        return tests
    serves = SEVERAL.join(lacking)
    return Manifest(
        (
            replace(s, generator=serves)
            if s.label == REAL and not s.generator and not s.test_set
            else s
            for s in tests
        ),
        tests.source,
    )


def _read(request: Request, layout: Layout | None) -> tuple[Layout, Columns | None, Manifest]:
    """The layout, the columns of a table that has names for them, and the manifest."""
    path = request.path
    if layout is None and not request.hub:
        if path.suffix.lower() == ".csv" and not path.is_dir():
            layout = _look_into(request)
        elif path.suffix.lower() in hub.PARQUET or (path.is_dir() and hub.is_parquet(path)):
            layout = "parquet"
    if not request.hub and not (path.exists() or layout in _OF_FILES):
        raise InputError(f"There is no file or folder {path}: give the path of a CSV or a folder.")
    if request.hub or layout == "parquet":
        return "hub" if request.hub else "parquet", *hub.read(request)
    if layout in _OF_FILES:
        if not request.root.is_dir():
            raise InputError(
                f"The image root {request.root} of {path} is no folder: give another --data-root."
            )
        if layout == "csv":
            return "csv", *tables.read(request)
        read = cyborg.read if layout == "cyborg" else _read_manifest
        return layout, None, read(request)
    if path.is_dir():
        found, manifest = folders.read(request, layout)
        return found, None, manifest
    if path.suffix.lower() in ARCHIVES:
        raise InputError(f"{path} is an archive: unpack it and give what was in it.")
    if path.suffix.lower() not in IMAGE_EXTENSIONS and layout is None:
        raise InputError(
            f"{path} is no CSV, no parquet file and, by its name, no image: give --layout."
        )
    return "images", None, Manifest([Sample(str(path))], str(path))


def _look_into(request: Request) -> Layout:
    """Which of its kinds a CSV is."""
    with open_csv(request.path) as file:
        if file.readline().startswith(CSV_MARKER):
            return "manifest"
        file.seek(0)
        _, row = next(csv_rows(file, request.path), (1, ["train"]))
    is_cyborg = row[0].strip() in cyborg.SPLITS and not request.columns
    return "cyborg" if is_cyborg else "csv"


def _read_manifest(request: Request) -> Manifest:
    samples = numbered_samples(request.path, request.root, confined=not request.outside)
    manifest = from_rows(samples, request.path)
    if not manifest:
        raise InputError(f"{request.path} has no rows: give a manifest with at least one image.")
    if request.heatmaps is not None:
        maps = absolute(request.heatmaps)
        manifest = with_maps(manifest, request.root, maps, required=True)
    return manifest


def _named(sample: Sample, generator: str) -> Sample:
    """Named, if it is not. DEFAULT_GENERATOR is no name, also of reals to compare."""
    if sample.generator == DEFAULT_GENERATOR or (
        sample.label == SYNTHETIC and not sample.generator
    ):
        return replace(sample, generator=generator)
    return sample


def _refuse_other_encodings(manifest: Manifest) -> None:
    """Raise InputError for a generator or family that no config or report could name.

    Paths may have any bytes, as file systems allow.
    """
    names = {name for sample in manifest for name in (sample.generator, sample.family)}
    if odd := sorted(name for name in names if not is_utf8(name)):
        raise InputError(
            f"{manifest.source} names a generator or family {odd[0]!r}, which is not UTF-8: save "
            "the table as UTF-8, or rename the folder."
        )


def _test_fakes(reading: Reading, name: str) -> Manifest:
    found = reading.manifest
    found = Manifest((_named(s, name) for s in found), found.source)
    _refuse_unlabelled(reading, all_or_none=True)
    if all(sample.label is None for sample in found):
        if reading.layout == "images":
            refuse_both_classes(found, reading.path, name, SYNTHETIC)
        fakes = (replace(s, label=SYNTHETIC, generator=name, split="test") for s in found)
        return Manifest(fakes, found.source)
    if not found.generators():
        raise InputError(
            f"The test data {name!r}, {found.source}, holds no fakes: give reals by --test-real."
        )
    own = name if name in found.generators() else ""
    return Manifest(
        (replace(s, generator=s.generator or own, split="test") for s in found), found.source
    )


def _test_reals(reading: Reading, name: str, generator: str) -> Manifest:
    found = reading.manifest
    _refuse_unlabelled(reading, all_or_none=True)
    n_fake = sum(sample.label == SYNTHETIC for sample in found)
    if n_fake:
        raise InputError(
            f"The test reals {name!r}, {found.source}, hold {n_fake} fakes: use --test-data."
        )
    if reading.layout == "images":
        refuse_both_classes(found, reading.path, name, REAL)
    return Manifest(
        (
            replace(
                s,
                label=REAL,
                generator=generator,
                split="test",
                extra={**s.extra, "source": name},
            )
            for s in found
        ),
        found.source,
    )


def _unclaimed(columns: Columns | None, found: Manifest) -> Sequence[str]:
    """The columns among which the label could be; those of a manifest have names of their own."""
    if any(sample.label is not None for sample in found):
        return ()
    if columns is not None:
        return [
            name
            for name in columns.unclaimed
            if could_be_label(s.extra[name] for s in found if name in s.extra)
        ]
    return sorted(
        {name for sample in found for name in sample.extra if name.casefold() in NAMES["label"]}
    )


def _refuse_unlabelled(reading: Reading, *, all_or_none: bool) -> None:
    """Raise InputError for images without label, or if some have one. all_or_none: they may all."""
    found, place = reading.manifest, reading.path
    without = [sample.path for sample in found if sample.label is None]
    if not without or (all_or_none and len(without) == len(found) and not reading.unclaimed):
        return
    if reading.unclaimed:
        advice = "give --columns label=NAME"
        if not reading.columns:
            advice = "call it label, and its classes real and synthetic"
        elif all_or_none:
            advice += ", or --columns label= if none is and all images are of one class"
        raise InputError(
            f"{place} has no column that is known as the label, which one of "
            f"{', '.join(reading.unclaimed)} may be: {advice}."
        )
    if reading.columns or reading.layout == "manifest":
        raise InputError(
            f"{len(without)} of {len(found)} images of {place} have no label, the first is "
            f"{without[0]!r}: say in a column label of each whether it is real or synthetic."
        )
    raise InputError(
        f"{place} has images without label (layout {reading.layout}): give them one by a CSV with "
        "a column label or by folders named 0_real and 1_fake."
    )
