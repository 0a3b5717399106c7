"""Measure how much of a fall of the CAM's entropy is its scale: rescale the CAMs of trained runs.

    python -m bench.cam_scale WIDE NARROW [WIDE NARROW ...] [--output FOLDER]

The runs are folders of ``focus train``, two on the same images at a time. All CAMs of the first, on
its validation images and of the class that it predicts, are multiplied by one number, so that their
mean range, max z - min z, is that of the second; their shapes stay. ``by_scale`` is the share of
the fall of h, from the first run to the second, that this alone brings. Nothing is trained.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from bench.harness import make_parser, run_program, settings, shown, write
from focus import Detector
from focus.data.known_images import MANIFEST
from focus.data.manifest import Manifest
from focus.evaluation.results import Results
from focus.kernels.reference import normalised_entropy
from focus.runtime.json_files import read_json


def ranges(cams: Tensor) -> Tensor:
    """Return max z - min z [N] of CAMs [N, P]."""
    return cams.amax(1) - cams.amin(1)


def entropy_at_range(cams: Tensor, wanted: float) -> float:
    """Return the mean entropy h of CAMs [N, P], multiplied so that this is their mean range."""
    return float(normalised_entropy(cams * (wanted / ranges(cams).mean())).mean())


def validation_cams(run: Path) -> Tensor:
    """Return the CAMs [N, P], float64, of the class that a run predicts for its validation."""
    validation = Manifest.from_csv(run / MANIFEST).split("validation")
    detector = Detector.from_pretrained(run / "model")
    cams = detector.predict([sample.path for sample in validation]).cams[:, 0]
    return cams.flatten(1).double()


def compare(wide: Path, narrow: Path) -> dict[str, Any]:
    """Return the row of two runs: ranges, entropies, and the share of the fall that is scale."""
    cams, other_cams = validation_cams(wide), validation_cams(narrow)
    entropy, other_entropy = (
        float(normalised_entropy(of_run).mean()) for of_run in (cams, other_cams)
    )
    other_range = float(ranges(other_cams).mean())
    rescaled = entropy_at_range(cams, other_range)
    results = read_json(narrow / "results.json", Results, "train the run to its end")
    return {
        "wide": wide.name,
        "narrow": narrow.name,
        "commit": results["provenance"]["commit"],
        "images": len(cams),
        "range_wide": round(float(ranges(cams).mean()), 2),
        "range_narrow": round(other_range, 2),
        "h_wide": round(entropy, 4),
        "h_wide_rescaled": round(rescaled, 4),
        "h_narrow": round(other_entropy, 4),
        "by_scale": round((entropy - rescaled) / (entropy - other_entropy), 3),
    }


def main() -> None:
    """Measure, print a line each, and write them with ``--output``."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    arguments = parser.parse_args()
    if len(arguments.runs) % 2:
        parser.error("give the runs two by two: a wide and a narrow one")
    pairs = zip(arguments.runs[::2], arguments.runs[1::2], strict=True)
    rows = [shown(compare(wide, narrow)) for wide, narrow in pairs]
    write(arguments.output, "cam-scale", rows, settings("python -m bench.cam_scale"))


if __name__ == "__main__":
    run_program(main)
