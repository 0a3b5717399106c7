"""From a path to a manifest: the layout is found by looking, one module reads each layout."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from focus.config import EvaluateConfig, TrainConfig
from focus.data.manifest import CSV_MARKER, REAL, SYNTHETIC, Manifest, Sample, Split, open_csv
from focus.data.readers import cyborg, folders
from focus.data.readers.files import require_files, with_maps
from focus.errors import InputError

_log = logging.getLogger(__name__)

DEFAULT_GENERATOR = "synthetic"


def read_data(
    path: str | Path,
    *,
    data_root: str | Path | None = None,
    heatmaps: str | Path | None = None,
    generator: str | None = None,
    split: Split = "",
    allow_unlabelled: bool = False,
) -> Manifest:
    """Read images, labels and human maps from whichever layout ``path`` has.

    - a CSV that starts with the manifest's marker: the manifest's file form;
    - any other CSV: CYBORG's, see :mod:`focus.data.readers.cyborg`;
    - a folder with ``0_real`` and ``1_fake`` folders: see :mod:`focus.data.readers.folders`;
    - any other folder of images, or one image: unlabelled samples, if ``allow_unlabelled``.

    data_root: what the paths in a CSV are relative to, default the CSV's folder. heatmaps: folder
    of human maps, default ``heatmaps`` in ``path`` or beside it, or in ``data_root``; a map belongs
    to the image at the same relative path or, directly in the folder, of the same base name, the
    extension apart. generator: that of fakes for which the layout names none, default
    "synthetic". split: that of samples to which the layout gives none.

    The order is that of the CSV's rows, or the natural one of the files' names. Raises InputError,
    with the line number for a CSV, for whatever is missing, empty, unknown or outside its root.
    """
    path = Path(path).absolute()
    if path.is_dir():
        layout, manifest = folders.read(path, heatmaps)
    elif path.suffix.lower() == ".csv":
        layout, manifest = _read_csv(path, data_root, heatmaps)
    elif path.is_file():
        layout, manifest = "one image", Manifest([Sample(str(path))], str(path))
    else:
        raise InputError(f"There is no file or folder {path}: give the path of a CSV or a folder.")
    if not allow_unlabelled and any(sample.label is None for sample in manifest):
        raise InputError(
            f"{path} has images without label ({layout}): give them one by a CSV or by folders "
            "named 0_real and 1_fake."
        )
    named = [_with_defaults(s, generator or DEFAULT_GENERATOR, split) for s in manifest]
    n_maps = sum(sample.map_path is not None for sample in named)
    _log.info("%s: %s, %d images, %d with a human map", path, layout, len(named), n_maps)
    return Manifest(named, manifest.source)


def read_tests(
    test_data: Mapping[str, str],
    test_real: Mapping[str, str] = {},
    *,
    data_root: str | Path | None = None,
) -> Manifest:
    """The test samples of ``--test-data`` and ``--test-real``, each a NAME and a path.

    test_data: fakes of generator NAME, unless the layout names a generator, and their own reals if
    the path has any. A plain folder of images counts as fakes: one class per test set is the
    field's habit. Where the layout names the generators of all fakes, reals without one serve every
    generator. test_real: reals, a plain folder of images too. If NAME is a generator of the test
    data, they are that generator's own; else they serve all generators that have none of their own
    (generator ""). ``extra["source"]`` keeps NAME. All get the split "test".

    Raises InputError for test data without fakes and for test reals with fakes.
    """
    joined = Manifest([])
    for name, path in test_data.items():
        found = read_data(path, data_root=data_root, generator=name, allow_unlabelled=True)
        joined += _test_fakes(found, name)
    generators = joined.generators()
    for name, path in test_real.items():
        found = read_data(path, data_root=data_root, allow_unlabelled=True)
        joined += _test_reals(found, name, generator=name if name in generators else "")
    return joined


def read_given(
    config: TrainConfig | EvaluateConfig, *, allow_unlabelled: bool = False
) -> tuple[Manifest, Manifest]:
    """The images of ``--data``, joined, and those of ``--test-data`` and ``--test-real``.

    Either is empty only if nothing was given. Raises InputError for a path that ``--data`` names
    twice, and what :func:`read_data` and :func:`read_tests` raise.
    """
    places = [Path(path).resolve() for path in config.data]
    if twice := [path for path in places if places.count(path) > 1]:
        raise InputError(f"--data names {twice[0]} twice: give each path once.")
    own = Manifest([])
    for path in config.data:
        own += read_data(
            path,
            data_root=config.data_root,
            heatmaps=config.heatmaps,
            allow_unlabelled=allow_unlabelled,
        )
    return own, read_tests(config.test_data, config.test_real, data_root=config.data_root)


def _read_csv(
    path: Path, data_root: str | Path | None, heatmaps: str | Path | None
) -> tuple[str, Manifest]:
    root = path.parent if data_root is None else Path(data_root).absolute()
    if not root.is_dir():
        raise InputError(f"The image root {root} of {path} is no folder: give another --data-root.")
    with open_csv(path) as file:
        is_manifest = file.readline().startswith(CSV_MARKER)
    if not is_manifest:
        return "CYBORG CSV", cyborg.read(path, root, heatmaps)
    manifest = Manifest.from_csv(path, root)
    if not manifest:
        raise InputError(f"{path} has no rows: give a manifest with at least one image.")
    require_files([sample.path for sample in manifest], path)
    if heatmaps is not None:
        manifest = with_maps(manifest, root, Path(heatmaps), required=True)
    return "manifest", manifest


def _with_defaults(sample: Sample, generator: str, split: Split) -> Sample:
    unnamed_fake = sample.label == SYNTHETIC and not sample.generator
    return replace(
        sample,
        generator=generator if unnamed_fake else sample.generator,
        split=sample.split or split,
    )


def _test_fakes(found: Manifest, name: str) -> Manifest:
    if all(sample.label is None for sample in found):
        fakes = (replace(s, label=SYNTHETIC, generator=name, split="test") for s in found)
        return Manifest(fakes, found.source)
    _refuse_unlabelled(found)
    if not found.generators():
        raise InputError(
            f"The test data {name!r}, {found.source}, holds no fakes: give reals by --test-real."
        )
    own = name if name in found.generators() else ""
    return Manifest(
        (replace(s, generator=s.generator or own, split="test") for s in found), found.source
    )


def _test_reals(found: Manifest, name: str, generator: str) -> Manifest:
    if any(sample.label is not None for sample in found):
        _refuse_unlabelled(found)
    n_fake = sum(sample.label == SYNTHETIC for sample in found)
    if n_fake:
        raise InputError(
            f"The test reals {name!r}, {found.source}, hold {n_fake} fakes: use --test-data."
        )
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


def _refuse_unlabelled(found: Manifest) -> None:
    n_unlabelled = sum(sample.label is None for sample in found)
    if n_unlabelled:
        raise InputError(
            f"{n_unlabelled} of {len(found)} images of {found.source} have no label and the others "
            "do: label all or none."
        )
