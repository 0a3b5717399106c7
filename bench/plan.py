"""Compute what training on millions of images takes on nodes with GPUs.

    python -m bench.plan [--images N] [--nodes N] [--gpus N] [--cores N] [--pictures SIDE] ...

The cost of an image on a core comes from ``bench/results/scale.csv``, which ``python -m
bench.scale`` has written. The figures of GPUs and disks are assumptions: no GPU has run any of it.
Each of them is a flag, and all are printed before the result, so put in your own.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bench.harness import Row, read_rows, run_program
from focus.errors import InputError

RESULTS = Path(__file__).parent / "results" / "scale.csv"
GRID, WIDTH, DEPTH = 16, 1024, 24  # of a ViT-L/14 at 224 x 224 pixels
FORWARD = 2 * DEPTH * (12 * WIDTH**2 * (GRID**2 + 1) + 2 * WIDTH * (GRID**2 + 1) ** 2)
"""Floating-point operations of a ViT-L/14 for one image: 12 d² n + 2 d n² products a layer."""
PICTURE_BYTES = 3 * 224**2
FEATURE_BYTES = GRID**2 * (2 * WIDTH + 4) + 4  # bfloat16, and the human map in float32


def seconds_of(rows: Iterable[Row], phase: str) -> float:
    """Return the CPU seconds an image of a phase at the largest size that was measured."""
    sizes = [row for row in rows if row["phase"] == phase]
    if not sizes:
        raise InputError(f"The phase {phase!r} is not in the results of python -m bench.scale.")
    largest = max(sizes, key=lambda row: int(row["images"]))
    return float(largest["CPU seconds"]) / int(largest["images"])


@dataclass(frozen=True)
class Cluster:
    """What trains, and on how many images.

    gpus, cores: of a node. pictures: pixels a side of the JPEG files. epochs: of the head on cached
    features. peak: dense bfloat16 TFLOP/s of a GPU. share: of the peak that a ViT-L gets. read,
    write: GB/s of a node's disk. All after ``epochs`` are assumptions.
    """

    images: int = 3_000_000
    nodes: int = 1
    gpus: int = 8
    cores: int = 96
    pictures: int = 512
    epochs: int = 30
    peak: float = 989
    share: float = 0.35
    read: float = 10
    write: float = 4

    @property
    def rate(self) -> float:
        """Images a second of which one GPU computes the features."""
        return self.share * self.peak * 1e12 / FORWARD


@dataclass(frozen=True)
class Stage:
    """A part of the work: the seconds that each resource needs, all of which work side by side.

    flag: What moves the part, in the words of the command line.
    """

    name: str
    seconds: Mapping[str, float]
    flag: str

    @property
    def bottleneck(self) -> str:
        """The resource that needs longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def duration(self) -> float:
        """Seconds of the part."""
        return self.seconds[self.bottleneck]


def stages(cluster: Cluster, rows: Sequence[Row]) -> list[Stage]:
    """Return the parts of the work in their order.

    Each node has a folder of decoded images of its own, and all nodes one folder of features.
    """
    images, processes = cluster.images, cluster.gpus * cluster.nodes
    pictures = images * PICTURE_BYTES / 1e9
    features = images * FEATURE_BYTES / 1e9
    read_features = images * seconds_of(rows, "features")
    load, augment = (images * seconds_of(rows, phase) for phase in ("load", "augment"))
    return [
        Stage(
            "list a table, look for copies",
            {"one core": images * (seconds_of(rows, "table") + seconds_of(rows, "copies"))},
            "none: `--data` with the run's `manifest.csv` lists faster",
        ),
        Stage(
            "decode into the cache",
            {
                "cores": images * seconds_of(rows, f"decode {cluster.pictures}") / cluster.cores,
                "disk": pictures / cluster.write,
            },
            "`--image-cache DIR` on a disk that all nodes share: they divide the images",
        ),
        Stage(
            "features of ViT-L, once",
            {
                "one GPU": images / cluster.rate,
                "8 cores": load / 8,
                "disk": features / cluster.write,
            },
            "none: the main process alone computes them (`--eval-batch-size`, `--compile` help)",
        ),
        Stage(
            "verify the features in each process",
            {
                "one core": read_features,
                "disk": cluster.gpus * features / cluster.read,
            },
            "fewer processes: `--nproc_per_node 1`",
        ),
        Stage(
            f"{cluster.epochs} epochs of the head",
            {
                "one core": cluster.epochs * read_features / processes,
                "disk": cluster.epochs * features / cluster.nodes / cluster.read,
            },
            "`--epochs`; memory that holds the features saves the disk",
        ),
        Stage(
            "or: fine-tune all weights, 1 epoch",
            {
                "GPUs": 3 * images / cluster.rate / processes,
                "cores": augment / (cluster.nodes * cluster.cores),
                "disk": pictures / cluster.nodes / cluster.read,
            },
            "`--tune last-stage` or `--tune lora`, `--grad-checkpointing` for larger batches",
        ),
    ]


def inputs(cluster: Cluster) -> str:
    """Return all figures that a plan is computed from, apart from those of ``scale.csv``."""
    values = ", ".join(f"{field.name} {getattr(cluster, field.name)}" for field in fields(Cluster))
    pictures = cluster.images * PICTURE_BYTES / 1e9
    features = cluster.images * FEATURE_BYTES / 1e9
    return (
        f"{values}. Assumed, as no GPU has run it: a ViT-L/14 takes {FORWARD / 1e9:.0f} GFLOP an "
        f"image, so a GPU makes the features of {cluster.rate:.0f} images a second and fine-tunes "
        f"on {cluster.rate / 3:.0f}. Decoded images take {pictures:.0f} GB, features "
        f"{features:.0f} GB."
    )


def duration(seconds: float) -> str:
    """Return ``2.3 h`` or ``12 min``."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def main() -> None:
    """Print the figures that went in, and what each part takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    default = Cluster()
    parser.add_argument("--results", type=Path, default=RESULTS, help="another scale.csv")
    parser.add_argument("--images", type=int, default=default.images)
    parser.add_argument("--nodes", type=int, default=default.nodes)
    parser.add_argument("--gpus", type=int, default=default.gpus, help="of a node")
    parser.add_argument("--cores", type=int, default=default.cores, help="of a node")
    parser.add_argument(
        "--pictures", type=int, choices=(224, 512, 1024), default=512, help="pixels a side of JPEGs"
    )
    parser.add_argument("--epochs", type=int, default=default.epochs, help="of the head")
    parser.add_argument("--peak", type=float, default=default.peak, help="TFLOP/s of a GPU")
    parser.add_argument("--share", type=float, default=default.share, help="of it that a ViT gets")
    parser.add_argument("--read", type=float, default=default.read, help="GB/s of a node's disk")
    parser.add_argument("--write", type=float, default=default.write, help="GB/s of a node's disk")
    arguments = vars(parser.parse_args())
    rows = read_rows(arguments.pop("results"))
    cluster = Cluster(**arguments)
    print(inputs(cluster))
    for stage in stages(cluster, rows):
        needs = ", ".join(f"{name} {duration(value)}" for name, value in stage.seconds.items())
        print(f"{stage.name}: {duration(stage.duration)} ({needs}); {stage.flag}")


if __name__ == "__main__":
    run_program(main)
