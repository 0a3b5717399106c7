"""Fix the protocol before any open-set number is computed; a change makes another experiment.

The order of work is in ``docs/experiment.md``: gate, search, this file's commit, grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]
"""Fields of :class:`focus.config.train.TrainConfig`."""


@dataclass(frozen=True)
class Arm:
    """A loss, and the human maps of the training images.

    loss: as ``--loss``. maps: "own"; "shuffled", another image's of the same class; "masks", just
    where the artefacts are; "exact", the same for the oracle; or "5" for 5 % of the images.
    """

    loss: str
    maps: str = "own"


ARMS: Mapping[str, Arm] = {
    "ce": Arm("ce"),
    "focus": Arm("focus"),
    "saliency": Arm("saliency"),
    "blend": Arm("blend"),
    "blend-shuffled": Arm("blend", "shuffled"),
    "perfect-focus": Arm("saliency", "masks"),
}
DOSES: Mapping[str, Arm] = {
    f"{loss}-{share}": Arm(loss, share) for share in ("5", "25") for loss in ("saliency", "blend")
}
NO_MAPS = {"saliency": "ce", "blend": "focus"}
"""What is left of a loss without any map."""

WORLDS = ("90", "50")
"""Agreement of the shortcut with the label in training, in per cent."""
DRAWS, DOSE_DRAWS, QUICK_DRAWS, SEEDS = 20, 5, 2, 5
"""Draws 0 to 19 of the embedded benchmark, of which the first five have the doses; seeds of one's
own data."""
DRAWS_AT_LEAST = 5
"""Of fewer, the report gives no verdict."""

BASELINE, PERFECT, ORACLE_ARM = "ce", "perfect-focus", "oracle"
HEADROOM: Mapping[str, Arm] = {
    BASELINE: ARMS[BASELINE],
    PERFECT: ARMS[PERFECT],
    ORACLE_ARM: Arm("saliency", "exact"),
}
"""Arms of the gate. The oracle is trained on fakes of the unknown generators too."""
SPARE = (100, 101, 102)
"""Draws on which the benchmark was made and losses were chosen: none of the grid's."""
PRIMARY = ("blend", "ce")
"""Compared in the first world: mean AUC over the unknown generators, paired over draws."""
SECONDARY = (("focus", "ce"), ("blend", "blend-shuffled"))
"""Holm's family, with the interaction: the primary difference in the first world minus that in the
second."""
MARGIN = 0.02
"""Differences of less are of no use to anybody: the margin of equivalence."""
LOCKED = 0.75
"""AUC of the shortcut among real test images from which on a run counts as stuck to it."""

EPOCHS, MORE = 16, 24
CHOSEN: Mapping[str, Settings] = {
    "ce": {"epochs": MORE},
    "focus": {"epochs": EPOCHS, "focus_weight": 0.1},
    "saliency": {"epochs": EPOCHS, "saliency_weight": 5.0},
    "blend": {"epochs": EPOCHS, "focus_weight": 0.1, "saliency_weight": 5.0},
}
"""Weights and epochs of each loss, from the search. Another loss has train.py's weights, and the
epochs of ``ce``."""

FIXED: Mapping[str, Settings] = {
    PERFECT: {"saliency_weight": 25.0},
    ORACLE_ARM: {"saliency_weight": 10.0, "epochs": EPOCHS // 2},
}
"""Of arms with exact maps, instead of their loss's: the weight that rids ``perfect-focus`` of the
shortcut, and fewer epochs for the oracle, which has three times as many images."""

SEARCH: Mapping[str, tuple[Settings, ...]] = {
    "ce": ({"epochs": EPOCHS}, {"epochs": MORE}),
    "focus": (
        {"epochs": EPOCHS, "focus_weight": 0.1},
        {"epochs": EPOCHS, "focus_weight": 0.3},
        {"epochs": MORE, "focus_weight": 0.1},
    ),
    "saliency": (
        {"epochs": EPOCHS, "saliency_weight": 5.0},
        {"epochs": EPOCHS, "saliency_weight": 20.0},
        {"epochs": MORE, "saliency_weight": 5.0},
    ),
    "blend": (
        {"epochs": EPOCHS, "focus_weight": 0.1, "saliency_weight": 5.0},
        {"epochs": EPOCHS, "focus_weight": 0.1, "saliency_weight": 20.0},
        {"epochs": MORE, "focus_weight": 0.1, "saliency_weight": 5.0},
    ),
}
"""Candidates of each loss: of several that are best, the first wins."""
FOLDS = ((100, 0), (101, 1), (102, 2))
"""Spare draw, and which of its known generators is left out; of one's own data the seed."""
