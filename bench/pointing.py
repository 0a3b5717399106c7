"""Measure how often a CAM that looks at no image would peak in the artefact, on the demo set.

    python -m bench.pointing [--output FOLDER] [--grid N]

The baselines for the shares of peaks in the artefact, and on the human maps. Of the test fakes with
an artefact mask, and of the validation images with a human map, the share that each detector of no
image hits, by the rules of ``pointing_hit`` and ``map_hit``:

    any cell      a uniformly random cell: the mean share of the cells that would be a hit
    middle cells  one of the four in the middle, at random
    fixed cell    the one cell that most training fakes, or training maps, would be hit in
    best cell     the one cell that these very images are hit in most: no fixed peak does better
    mean map      the mean training map as the CAM of all, for human maps
    other's map   the human map of another image, of the next one in the manifest, as the CAM

With ``map_cosine`` of the last two and of the fixed cell. Nothing is trained and nothing is drawn
at random, so that every machine gives the same figures.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness import make_parser, run_program, settings, shown, write
from focus.data.dataset import FaceDataset, artefact_coverage
from focus.data.demo import demo_manifest
from focus.data.images import Preprocessing
from focus.data.manifest import SYNTHETIC, Manifest
from focus.metrics.cams import REGION, hit_cells, map_agreement

Hits = NDArray[np.bool_]
"""[N, H, W]: the cells of each image where a peak would be a hit."""
GRID = 8


Row = dict[str, Any]
"""One detector of no image. n: The number of images. cosine: None where no map is a CAM."""


def _row(figure: str, images: str, peak: str, n: int, hit: float) -> Row:
    return {"figure": figure, "images": images, "peak": peak, "n": n, "hit": hit, "cosine": None}


def artefact_cells(manifest: Manifest, grid: int) -> Hits:
    """Return the cells that hit the artefact, of the fakes that have a mask."""
    paths = [s.mask_path for s in manifest if s.label == SYNTHETIC and s.mask_path is not None]
    coverage = [artefact_coverage(path, Preprocessing(8 * grid, (grid, grid))) for path in paths]
    return np.stack([hits for hits in map(hit_cells, coverage) if hits is not None])


def human_maps(manifest: Manifest, grid: int) -> NDArray[np.float64]:
    """Return the human maps ``[N, H, W]`` in [0, 1], of the images that have one."""
    given = Manifest(sample for sample in manifest if sample.human_map is not None)
    faces = FaceDataset(given, Preprocessing(8 * grid, (grid, grid)))
    return np.stack([faces[row].saliency.numpy() for row in range(len(faces))]).astype(np.float64)


def peak_rows(figure: str, images: str, hits: Hits, trained: Hits) -> Iterator[Row]:
    """Yield the rows of detectors that peak in a cell whatever the image. trained: of training."""
    rate, middle = hits.mean(axis=0), slice(hits.shape[1] // 2 - 1, hits.shape[1] // 2 + 1)
    fixed = np.unravel_index(trained.mean(axis=0).argmax(), rate.shape)
    for peak, share in (
        ("any cell", rate.mean()),
        ("middle cells", rate[middle, middle].mean()),
        ("fixed cell", rate[fixed]),
        ("best cell", rate.max()),
    ):
        yield _row(figure, images, peak, len(hits), round(float(share), 4))


def map_rows(maps: NDArray[np.float64], trained: NDArray[np.float64]) -> Iterator[Row]:
    """Yield the rows of human maps: peaks, with the fixed one's cosine, and whole maps as CAMs."""
    looked, before = maps >= REGION, trained >= REGION
    one_cell = np.zeros_like(maps)
    one_cell[:, *np.unravel_index(before.mean(axis=0).argmax(), maps.shape[1:])] = 1
    for row in peak_rows("map_hit", "validation", looked, before):
        if row["peak"] == "fixed cell":
            row["cosine"] = _mean(map_agreement(one_cell, maps)["map_cosine"])
        yield row
    mean = np.broadcast_to(trained.mean(axis=0), maps.shape)
    for peak, cams in (("mean map", mean), ("other's map", np.roll(maps, -1, axis=0))):
        figures = {name: _mean(values) for name, values in map_agreement(cams, maps).items()}
        row = _row("map_hit", "validation", peak, len(maps), figures["map_hit"])
        yield row | {"cosine": figures["map_cosine"]}


def _mean(values: NDArray[np.float64]) -> float:
    return round(float(np.nanmean(values)), 4)


def measure(manifest: Manifest, grid: int) -> list[Row]:
    """Return a row for each figure, group of images and detector of no image."""
    training, tests = manifest.split("train"), manifest.split("test")
    trained = artefact_cells(training, grid)
    rows: list[Row] = []
    for name in ("closed", "open"):
        own = Manifest(sample for sample in tests if sample.test_set == name)
        rows += peak_rows("pointing_hit", name, artefact_cells(own, grid), trained)
    validated = human_maps(manifest.split("validation"), grid)
    return [*rows, *map_rows(validated, human_maps(training, grid))]


def main() -> None:
    """Measure, print a line each, and write them with ``--output``."""
    parser = make_parser(__doc__)
    parser.add_argument("--grid", type=int, default=GRID, help="cells a side of the CAM")
    given = parser.parse_args()
    rows = [shown(row) for row in measure(demo_manifest(), given.grid)]
    write(given.output, "pointing", rows, settings("python -m bench.pointing"))


if __name__ == "__main__":
    run_program(main)
