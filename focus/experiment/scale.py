"""The protocol of ``--scale``: is a narrow CAM worse than a wide one, or a large than a small one?

Beside maps, to minimise the entropy h makes the CAM narrower and larger at once. Here two more arms
minimise it with the same weight: *range-held* can only make the CAM narrower, as its range
(max z - min z) is held at that of *wide*; *shape-held* can only make it larger, as h_z, the entropy
of the softmax of the standardised CAM, is held at that of *wide* (:mod:`focus.experiment.held`).
The aims are what *wide* has on validation of spare draws (``--scale --search``); no open-set
number was seen before.

- Tested, one family with Holm's p-values, in mean open AUC: *range-held* - *wide* (narrowness),
  *shape-held* - *wide* (scale), and `saliency-aggressive` - *wide* (both).
- Described: *range-held* - *shape-held*; range, h, h_z and h_sum of each arm.

The unit is a draw: Student's interval over the paired differences, equivalence within ± .02. The 12
draws are no other experiment's, and are looked at when none of the 48 runs is missing.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from focus.experiment.collect import Outcome
from focus.experiment.doses import RANGE
from focus.experiment.frozen import SPARE, WORLDS, Arm, Hold, Protocol, Test, minus
from focus.runtime.files import write_csv
from focus.training.run_folder import SUMMARY

RANGE_OF_WIDE, ENTROPY_Z_OF_WIDE = 12.7, 0.74
"""Means of *wide* on validation, as ``--scale --search`` gave them."""

_SETTINGS = {"epochs": 6, "mixed_precision": "bf16"}
_WORLDS = WORLDS[:1]
_WIDE, _AGGRESSIVE = RANGE.arms["wide"], RANGE.arms["saliency-aggressive"]


def _aggressive(hold: Hold, images: str = "own") -> Arm:
    return Arm(_AGGRESSIVE.loss, images, _AGGRESSIVE.settings, _WORLDS, hold)


RANGE_HELD = Hold("range", RANGE_OF_WIDE)
SHAPE_HELD = Hold("entropy_z", ENTROPY_Z_OF_WIDE)

AIMS = Protocol(
    arms={
        "wide": Arm(_WIDE.loss, "untested", _WIDE.settings, _WORLDS),
        "range-held": _aggressive(RANGE_HELD, "untested"),
        "shape-held": _aggressive(SHAPE_HELD, "untested"),
    },
    units=SPARE,
    tests=(),
    worlds=_WORLDS,
    folder="aims",
    settings=_SETTINGS,
)
"""By which the aims were chosen, and by which it was seen that they are held."""

SCALE = Protocol(
    arms={
        "wide": Arm(_WIDE.loss, settings=_WIDE.settings, worlds=_WORLDS),
        "saliency-aggressive": Arm(_AGGRESSIVE.loss, settings=_AGGRESSIVE.settings, worlds=_WORLDS),
        "range-held": _aggressive(RANGE_HELD),
        "shape-held": _aggressive(SHAPE_HELD),
    },
    units=range(70, 82),
    tests=(
        Test(minus("range-held", "wide"), WORLDS[0], "tested"),
        Test(minus("shape-held", "wide"), WORLDS[0], "tested"),
        Test(minus("saliency-aggressive", "wide"), WORLDS[0], "tested"),
    ),
    described=(minus("range-held", "shape-held"),),
    worlds=_WORLDS,
    folder="scale",
    settings=_SETTINGS,
    blind=True,
)

_OF_VALIDATION = {
    "range": "eval_cam_range",
    "h_z": "eval_entropy_z",
    "h": "eval_entropy",
    "AUC": "eval_auc",
}
"""Columns of ``summary.csv`` by what they are called in the table of aims."""


def table_of_aims(outcomes: Sequence[Outcome], folder: Path) -> str:
    """Write ``aims.csv``, what each run has on validation at its kept epoch; return the means."""
    rows = []
    for outcome in outcomes:
        with (outcome.run.folder / SUMMARY).open(newline="", encoding="utf-8") as file:
            epochs = {float(row["epoch"]): row for row in csv.DictReader(file)}
        kept = epochs[outcome.figures["epoch"]]
        figures = [float(kept[column]) for column in _OF_VALIDATION.values()]
        rows.append(
            (outcome.run.arm, outcome.run.unit, outcome.run.settings, outcome.commit, figures)
        )
    header = ("arm", "draw", "settings", "commit", *_OF_VALIDATION)
    table = [(*about, *(f"{figure:.6g}" for figure in figures)) for *about, figures in rows]
    write_csv(folder / "aims.csv", header, table)

    lines = [f"| arm | {' | '.join(_OF_VALIDATION)} |", "|---" * (1 + len(_OF_VALIDATION)) + "|"]
    for name in dict.fromkeys(arm for arm, *_ in rows):
        means = np.mean([figures for arm, *_, figures in rows if arm == name], axis=0)
        lines.append(f"| `{name}` | {' | '.join(f'{mean:.3g}' for mean in means)} |")
    return "\n".join(lines)
