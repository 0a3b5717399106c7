"""Make human maps without annotators, or coarser ones of theirs: ``focus data maps PATH ...``.

Where an aligned face is unlike real ones, after the idea of arXiv 2606.13528; the definitions are
this project's own. Of grey faces x [64 * 64] in 0..1:

- pca: ``|x - p(x)|``, p(x) the sum of principal components of real training faces;
- lda: ``|w (x - m)|``, each pixel's part in Fisher's discriminant w of real and synthetic training
  faces with the mean m, which is found among their principal components.

Both are blurred. Coarser maps are those of Crum et al., *Grains of Saliency*, arXiv 2405.00650.
"""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from focus.config.data import Granularity, MapsConfig
from focus.data.bad_files import write_bad_files
from focus.data.file_pass import BadFile
from focus.data.images import (
    BAD_FILES,
    is_written,
    load_image,
    read_content,
    read_unchanged,
    save_image,
)
from focus.data.making.sources import Sources, file_digests, source_digest
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, absolute
from focus.data.maps import MAP_SOURCE, SOURCE_FILE, Map, human_map
from focus.data.named_files import Role
from focus.data.readers import read_given, refuse_inside
from focus.data.splits import common_folder
from focus.errors import ImageError, InputError
from focus.findings import print_findings
from focus.metrics.arrays import evenly
from focus.runtime.digests import key_of
from focus.runtime.files import begin, check_empty, digest, sole_writer
from focus.runtime.parallel import parallel_map

MANIFEST = "manifest.csv"
SIDE = 64
COMPONENTS = {"pca": 200, "lda": 100}
"""The largest number; for few faces a third of their number."""
_FEWEST = 10  # training faces of a class that are needed
_FITTED = 2000  # training faces, at most, that are fitted on
_BLUR = 1 / 32  # the blur of a machine's maps, as a share of the side
_COARSE = 1 / 16  # the blur of coarser maps, as a share of the longer side

Floats = NDArray[np.float32]


def make_maps(config: MapsConfig) -> None:
    """Read the images, write a map of each and the manifest, and say what is next.

    Raises InputError for data without the maps or the faces that it takes.
    """
    listing = read_given(config, allow_unlabelled=True, name_fakes=False)
    print_findings(listing.findings)
    images = listing.data
    root, output = _folders(config, images)
    if not config.resume:
        check_empty(output)
    source = _source_of_maps(config, images)
    maker = _human(images) if config.from_ == "human" else _machine(images, config)

    with sole_writer(output):
        data = digest([*maker.files.items(), *maker.fitted_on])
        record = {"version": 1, "source": source, "data": data}
        begin(output, SOURCE_FILE, record, resume=config.resume)
        paths, bad = _write_all(maker, root, output, config)
        if bad:
            write_bad_files(bad, output / BAD_FILES)
            print(f"left out {len(bad)}: {output / BAD_FILES}")
        _with_maps(images, paths, source).to_csv(output / MANIFEST)

    print(f"{len(paths)} maps ({source}): {output}\n\nTrain with them:\n")
    print(f"  focus train --loss focus --data {shlex.quote(str(output / MANIFEST))}")


def _folders(config: MapsConfig, images: Manifest) -> tuple[Path, Path]:
    """Return the folder that the images lie below, and the one that maps are written to.

    Raises InputError if that lies among the images, or if it is not said and they have no folder
    of their own.
    """
    folder = absolute(config.data[0])
    are_below_folder = all(folder in Path(image.path).parents for image in images)
    if len(config.data) == 1 and are_below_folder:
        root = folder
    elif config.output is None:
        raise InputError("These are not the images of one folder: give --output DIR.")
    else:
        root = Path(common_folder(image.path for image in images))

    # There focus train finds the maps, and takes them for no images.
    usual_output = folder / "human_maps"
    output = absolute(config.output or usual_output)
    if output != usual_output:
        refuse_inside(output, config.data)
    return root, output


def _source_of_maps(config: MapsConfig, images: Manifest) -> str:
    """Return who or what says where to look, as the manifest names it: ``human, blur``."""
    if config.from_ == "human":
        # Coarser maps of a machine's are still a machine's.
        made_by = (image.extra.get(MAP_SOURCE) for image in images)
        maker = next(filter(None, made_by), "human")
    else:
        maker = config.from_
    return f"{maker}, {config.granularity}" if config.granularity else maker


def _write_all(
    maker: "_Maker", root: Path, output: Path, config: MapsConfig
) -> tuple[dict[str, str], list[BadFile]]:
    """Write the maps; return the path of each image's, and the files that cannot be decoded.

    root: The folder that the images lie below.
    """
    sources = Sources(output)
    names = _names(root, maker.files)
    maps = [
        _Map(image, maker.files[image], str(output / name), sources.digest_of(name))
        for image, name in names.items()
    ]
    write = partial(_write, maker=maker, granularity=config.granularity)
    results = parallel_map(write, maps, "writing maps", processes=config.threads)
    paths: dict[str, str] = {}
    bad = []
    for one, result in zip(maps, results, strict=True):
        if isinstance(result, BadFile):
            bad.append(result)
            continue
        paths[one.image] = one.path
        if result != one.content:
            sources.record(names[one.image], result)
    return paths, bad


def _with_maps(images: Manifest, paths: Mapping[str, str], source: str) -> Manifest:
    """Return the images with the maps of these paths, and without others."""
    samples = []
    for image in images:
        if image.path in paths:
            extra = {**image.extra, MAP_SOURCE: source}
            samples.append(replace(image, human_map=paths[image.path], extra=extra))
        else:
            samples.append(replace(image, human_map=None))
    return Manifest(samples, images.source)


def saliency(way: str, faces: Floats, labels: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Return what makes maps [N, 64, 64] of faces [N, 64 * 64], fitted on labelled ones.

    way: "pca" or "lda". Raises InputError with fewer than ten faces of a class that it takes.
    """
    # scikit-learn takes a second to import.
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    for label in (REAL, SYNTHETIC) if way == "lda" else (REAL,):
        n_faces = int((labels == label).sum())
        if n_faces < _FEWEST:
            raise InputError(
                f"--from {way} has {n_faces} {LABEL_NAMES[label]} faces to train on: give "
                f"{_FEWEST} at least, better 1000."
            )
    fitted = faces if way == "lda" else faces[labels == REAL]
    count = min(COMPONENTS[way], len(fitted) // 3)
    components = PCA(count, svd_solver="randomized", random_state=0).fit(fitted)
    mean, basis = components.mean_, components.components_
    weights = None
    if way == "lda":
        discriminant = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        discriminant.fit(components.transform(fitted), labels)
        weights = discriminant.coef_[0] @ basis

    def maps(faces: Floats) -> Floats:
        centred = faces - mean
        unlike = centred - centred @ basis.T @ basis if weights is None else centred * weights
        pictures = np.abs(unlike).reshape(-1, SIDE, SIDE)
        blurred = gaussian_filter(pictures, (0, _BLUR * SIDE, _BLUR * SIDE))
        return np.asarray(blurred, dtype=np.float32)

    return maps


def coarse(values: Map, granularity: Granularity | None) -> Map:
    """Return a map [H, W] as it is, blurred, or as the box of what is above half its maximum."""
    if granularity == "blur":
        return np.asarray(gaussian_filter(values, _COARSE * max(values.shape)))
    if granularity == "box":
        is_bright = values >= values.max() / 2
        rows, columns = np.flatnonzero(is_bright.any(1)), np.flatnonzero(is_bright.any(0))
        box = np.zeros_like(values)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = values.max()
        return box
    return values


@dataclass(frozen=True)
class _Maker:
    """What makes maps.

    look: Makes the map of a file and its digest; raises ImageError if that is of another content.
    files: The file of each image. role: What these files are. fitted_on: Digests of the training
    faces that ``look`` was fitted on.
    """

    look: Callable[[str, str], Map]
    files: dict[str, str]
    role: Role
    fitted_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Map:
    """A map to write.

    image: The path of its image. file: What it is made of. path: Where it is written. content: The
    digest of the file that the map there was made of, "" if there is none.
    """

    image: str
    file: str
    path: str
    content: str


def _human(images: Manifest) -> _Maker:
    """Return what reads the images' human maps; raises InputError if there are none."""
    files = {s.path: s.human_map for s in images if s.human_map is not None}
    if not files:
        raise InputError(
            f"{images.source} has no human maps: give some by --human-maps, or --from pca."
        )
    return _Maker(human_map, files, "map")


def _machine(images: Manifest, config: MapsConfig) -> _Maker:
    """Return what makes maps of faces, fitted on those that training may look at."""
    labels = {
        image.path: image.label
        for image in images
        if image.split in ("train", "") and image.label is not None
    }
    paths = sorted(labels)
    chosen = [paths[row] for row in evenly(len(paths), _FITTED)]
    loaded = parallel_map(_usable, chosen, "reading faces", processes=config.threads)
    decoded = {path: face for path, face in zip(chosen, loaded, strict=True) if face is not None}
    pixels = np.array([face.pixels for face in decoded.values()])
    pixels = pixels.reshape(len(decoded), SIDE * SIDE)  # also where there is no face
    maps = saliency(config.from_, pixels, np.array([labels[path] for path in decoded]))
    return _Maker(
        look=partial(_scaled, maps),
        files={s.path: s.path for s in images},
        role="image",
        fitted_on=tuple(face.content for face in decoded.values()),
    )


class _TrainingFace(NamedTuple):
    """A grey face [64 * 64] in 0..1, and the digest of the bytes that it was decoded from."""

    pixels: Floats
    content: str


def _scaled(maps: Callable[[Floats], Floats], path: str, digest: str) -> Map:
    """Return the map of a face, its maximum 1; raises ImageError if its file was replaced."""
    (content,) = read_unchanged([path], digest)
    values = maps(_face(path, content)[None])[0]
    return np.asarray(values / max(values.max(), np.finfo(np.float32).tiny))


def _usable(path: str) -> _TrainingFace | None:
    """Return the face of a file, None if it cannot be decoded: it is listed with the maps."""
    try:
        content = read_content(path)
        return _TrainingFace(_face(path, content), key_of(content))
    except ImageError:
        return None


def _face(path: str, content: bytes) -> Floats:
    """Return the grey face [64 * 64] in 0..1 of a file with this content."""
    image = load_image(path, content).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32).ravel() / np.float32(255)


def _write(one: _Map, maker: _Maker, granularity: Granularity | None) -> BadFile | str:
    """Write a map, unless one of the same content is there.

    Returns the digest of what it is made of, or the file that cannot be decoded.
    """
    path = Path(one.path)
    digests = file_digests({maker.role: one.file})
    content = source_digest(digests)
    if is_written(path) and content == one.content:
        return content
    path.unlink(missing_ok=True)
    try:
        values = maker.look(one.file, digests[maker.role])
        pixels = (coarse(values, granularity) * 255).round().clip(0, 255)
        save_image(Image.fromarray(pixels.astype(np.uint8)), path, format="PNG")
    except ImageError as error:
        return BadFile.of(one.file, maker.role, error)
    return content


def _names(root: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return the name of each image's map below the output.

    It is that of the image with another extension, or with a further one where images differ in
    the extension alone.
    """
    below_root = {path: Path(path).relative_to(root) for path in paths}
    count = Counter(name.with_suffix("") for name in below_root.values())
    names = {}
    for path, name in below_root.items():
        is_alone = count[name.with_suffix("")] == 1
        names[path] = str(name.with_suffix(".png")) if is_alone else f"{name}.png"
    return names
