"""The protocol of ``--range``: how hard should focus be driven?

The doses are weights of the focus term. They are chosen on spare draws, by the entropy on
validation and by an AUC in which the shortcut says nothing, and frozen here before the first
open-set number. The frozen ones were chosen by an earlier rule (commit 59d734e), which read the AUC
of validation: it has the shortcut, so that it was .99 for most weights.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from focus.experiment.collect import Outcome
from focus.experiment.frozen import (
    BASELINE,
    MORE,
    SPARE,
    WORLDS,
    Arm,
    Contrast,
    Protocol,
    Test,
    minus,
)
from focus.experiment.search import write_weights
from focus.metrics.arrays import Floats
from focus.runtime.files import write_csv

SETTINGS = {"epochs": MORE, "mixed_precision": "bf16"}
WEIGHTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Weights of the focus term that are tried on the spare draws."""
SHARES = {"faint": 0.9, "mild": 0.5, "strong": 0.125}
"""The validation entropy of a dose, divided by that of ``ce``."""
LOST = 0.02
"""What *aggressive*, the largest weight of those tried, may lose of AUC."""

DOSES = {"faint": 0.00052, "mild": 0.0057, "strong": 0.068, "aggressive": 1.0}
WIDE = 0.33
"""Weights, and the validation entropy of ``ce``, as ``--range --search`` found them."""
_MATCH = {"focus_weight": 1.0, "focus_level": "match", "entropy_target": WIDE}

SPARE_DOSES = Protocol(
    arms={
        BASELINE: Arm("ce", "known"),
        **{f"focus-{w:g}": Arm("focus", "known", {"focus_weight": w}) for w in WEIGHTS},
        "wide": Arm("blend", "known", _MATCH),
    },
    units=SPARE,
    tests=(),
    worlds=WORLDS[:1],
    folder="doses",
    settings=SETTINGS,
)


def _with_maps(dose: str, images: str = "own", worlds: tuple[str, ...] = WORLDS) -> Arm:
    return Arm("blend", images, {"focus_weight": DOSES[dose]}, worlds)


_FIVE = (BASELINE, *DOSES)


def _trend(name: str, scale: float, coefficients: Sequence[int]) -> Contrast:
    """Return a contrast of as many of the doses as there are coefficients, from none on."""
    arms = _FIVE[: len(coefficients)]
    return Contrast(name, {arm: scale * c for arm, c in zip(arms, coefficients, strict=True)})


# In units of the difference between the ends of the line that is fitted to the five.
LINEAR = _trend("linear, none ... aggressive", 4 / 10, (-2, -1, 0, 1, 2))
# In units of the ends minus the middle of the parabola.
QUADRATIC = _trend("quadratic, none ... aggressive", 4 / 14, (2, -1, -2, -1, 2))
# Not planned: whether the first is more than its last dose; in units of the ends of the line.
_LINEAR_TO_STRONG = _trend("linear, none ... strong", 3 / 10, (-3, -1, 1, 3))

RANGE = Protocol(
    arms={
        BASELINE: Arm("ce"),
        **{name: Arm("focus", settings={"focus_weight": w}) for name, w in DOSES.items()},
        "saliency": Arm("saliency"),
        "saliency-strong": _with_maps("strong", worlds=WORLDS[:1]),
        "saliency-aggressive": _with_maps("aggressive"),
        "wide": Arm("blend", settings=_MATCH, worlds=WORLDS[:1]),
        "shuffled-strong": _with_maps("strong", "shuffled", WORLDS[:1]),
        "exact-1": Arm("saliency", "masks", {"saliency_weight": 1.0}, WORLDS[1:]),
        "exact-5": Arm("saliency", "masks", worlds=WORLDS[1:]),
    },
    units=range(20, 36),
    tests=(
        Test(LINEAR, WORLDS[0], "tested"),
        Test(LINEAR, WORLDS[1], "tested"),
        Test(minus("saliency-aggressive", "wide"), WORLDS[0], "tested"),
    ),
    described=(
        QUADRATIC,
        _LINEAR_TO_STRONG,
        minus("saliency-strong", "shuffled-strong"),
        minus("saliency", "wide"),  # not planned
    ),
    series={
        "without maps": _FIVE,
        "with maps": ("wide", "saliency", "saliency-strong", "saliency-aggressive"),
    },
    folder="range",
    settings=SETTINGS,
    blind=True,
)


def choose_doses(
    outcomes: Sequence[Outcome], folder: Path, spare: Protocol = SPARE_DOSES, grid: Protocol = RANGE
) -> str:
    """Write ``doses.csv`` and ``doses.yaml``; return what was tried, and the weights that follow.

    spare: The protocol of the outcomes. grid: That of the arms whose doses are chosen.

    The AUC is that of closed-balanced images, in which the shortcut says nothing; on one's own
    data, which have none, that of validation. An entropy between those of two weights is
    interpolated, linearly in the logarithm of the weight; below the smallest weight, in the weight.
    One that none reaches takes the largest.
    """
    has_balanced = not any(math.isnan(o.figures["closed_balanced"]) for o in outcomes)
    auc = "closed_balanced" if has_balanced else "validation"
    tried = {}
    for name, arm in spare.arms.items():
        figures_of_runs = [o.figures for o in outcomes if o.run.arm == name]
        tried[name] = (
            arm.settings.get("focus_weight", 0.0),
            float(np.mean([figures["validation_entropy"] for figures in figures_of_runs])),
            float(np.mean([figures[auc] for figures in figures_of_runs])),
        )
    rows = [(name, *(f"{value:.4g}" for value in row)) for name, row in tried.items()]
    write_csv(
        folder / "doses.csv", ("arm", "focus_weight", "validation_entropy", f"{auc}_auc"), rows
    )
    lines = [
        f"| arm | weight | validation entropy | {auc.replace('_', '-')} AUC |",
        "|---|---|---|---|",
        *(f"| {name} | {w:g} | {h:.3f} | {a:.3f} |" for name, (w, h, a) in tried.items()),
    ]
    tried.pop("wide", None)
    weights, entropies, aucs = map(np.array, zip(*tried.values(), strict=True))
    values = {
        name: np.fmin(reached(weights, entropies, share), weights.max())
        for name, share in SHARES.items()
    }
    values["aggressive"] = weights[aucs >= aucs[0] - LOST].max()
    values["wide"] = entropies[0]
    doses = {name: float(f"{value:.2g}") for name, value in values.items()}
    chosen = {
        name: {**arm.settings, "entropy_target" if dose == "wide" else "focus_weight": doses[dose]}
        for name, arm in grid.arms.items()
        if (dose := name.rpartition("-")[2]) in doses
    }
    write_weights(chosen, folder / "doses.yaml")
    return "\n".join([*lines, "", *(f"{name}: {value:g}" for name, value in doses.items())])


def reached(weights: Floats, entropies: Floats, share: float) -> float:
    """Return the weight at which the entropy first falls to a share of the first; NaN if never."""
    target = share * entropies[0]
    after = int(np.argmax(entropies <= target))
    if not after:
        return math.nan
    two = slice(after - 1, after + 1)
    if after == 1:
        return float(np.interp(-target, -entropies[two], weights[two]))
    return float(np.exp(np.interp(-target, -entropies[two], np.log(weights[two]))))
