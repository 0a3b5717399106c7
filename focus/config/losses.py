"""Training losses by name, and the schedules of their weights.

The loss is ``(1/B) sum_b sum_t weight_t term_t,b``; see :mod:`focus.kernels` for the terms t. The
weights beyond CYBORG's are this project's own, chosen on validation images of the demo set.
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

from focus.config.options import BELOW_1, NON_NEGATIVE, SHARE, TEMPERATURE, flag, in_loss
from focus.errors import InputError, did_you_mean
from focus.kernels.terms import WEIGHTS, CamClass, Entropy, FocusLevel, Terms

DEFAULT_LOSS, WITHOUT_MAPS = "blend", "ce"
"""The loss if none is named: with human maps, and where no training image has one."""

FOCUS_LEVELS_WITH_AIM = ("match", "hinge")
"""The levels whose focus term draws the entropy to a value, or keeps it below one."""


@dataclass(frozen=True)
class LossConfig:
    """Weights and settings of the loss, in the words of :func:`focus.kernels.focus_head`.

    ``docs/losses.md`` says when to use which. The configuration of a program checks the ranges,
    this class does not.

    entropy_target: ``h*`` in [0, 1] of the levels match and hinge, None for that of each sample's
    human map. name: That of the loss in :data:`LOSSES` from which it was made; None before one is
    chosen, when only temperature and label smoothing count.

    Examples:
        >>> from focus import LossConfig
        >>> LossConfig(focus_weight=0.1).weights
        Terms(classification=1.0, focus=0.1, saliency=0.0)
    """

    cam_class: CamClass = field(
        default="true",
        metadata=in_loss("class whose activation map the loss looks at").metadata,
        kw_only=True,  # the first of the flags, and not of the arguments
    )
    classification_weight: float = in_loss("weight of cross-entropy", 1.0, within=NON_NEGATIVE)
    focus_weight: float = in_loss("weight of the focus term", 0.0, within=NON_NEGATIVE)
    saliency_weight: float = in_loss(
        "weight of the distance to human maps", 0.0, within=NON_NEGATIVE
    )
    _: KW_ONLY
    focus_level: FocusLevel = in_loss(
        "how the entropy of the activation map is controlled (default: loss; minimize when "
        "only --focus-weight is given)",
        "minimize",
    )
    entropy_target: float | None = in_loss(
        "of match and hinge, in [0, 1] (default: loss, else the human map's)", within=SHARE
    )
    entropy: Entropy = in_loss(
        "of the focus term: of the softmax, or of the map less its minimum divided by its sum",
        "softmax",
    )
    temperature: float = in_loss("of the softmax over the activation map", 1.0, within=TEMPERATURE)
    label_smoothing: float = in_loss("of the cross-entropy, in [0, 1)", 0.0, within=BELOW_1)
    name: str | None = "ce"

    @property
    def settings(self) -> dict[str, Any]:
        """Return all but the name: arguments of :func:`focus.kernels.focus_head`."""
        # Not asdict, whose copies torch 2.11 does not compile.
        return {name: getattr(self, name) for name in LOSS_SETTINGS}

    @property
    def weights(self) -> Terms[float]:
        """Return the weight of each term."""
        return Terms(*(getattr(self, name) for name in WEIGHTS))

    @property
    def aims_at_maps(self) -> bool:
        """Return whether the focus term aims at the entropy of each sample's human map."""
        return self.focus_level in FOCUS_LEVELS_WITH_AIM and self.entropy_target is None

    def check_aim(self) -> None:
        """Raise InputError if the focus term aims at no entropy."""
        if self.focus_level not in FOCUS_LEVELS_WITH_AIM:
            raise InputError(
                f"The loss {self.name!r} aims at no entropy: give --focus-level match or hinge, "
                "too."
            )

    def changed(self, settings: Mapping[str, Any]) -> "LossConfig":
        """Return this loss, or the one that ``settings`` name as ``loss``, with these on top.

        Another loss keeps temperature and label smoothing, by which losses are compared. A focus
        weight on a loss without a focus term minimises the entropy; without weight the level is
        "none".

        settings: Values by the names of their flags. None counts as not given.

        Raises:
            InputError: There is no such loss, or settings contradict each other.
        """
        settings = {
            name: value
            for name, value in settings.items()
            if value is not None and value is not False
        }

        loss = self
        name = settings.get("loss")
        if self.name is None and not name and settings.keys() & SET_BY_LOSS:
            name = DEFAULT_LOSS
        if name:
            loss = replace(
                loss_of(name),
                temperature=self.temperature,
                label_smoothing=self.label_smoothing,
            )
        loss = replace(loss, **{key: settings[key] for key in LOSS_SETTINGS if key in settings})

        if loss.focus_level == "none" and loss.focus_weight > 0:
            if "focus_level" not in settings:
                loss = replace(loss, focus_level="minimize")
            elif "focus_weight" not in settings:
                loss = replace(loss, focus_weight=0.0)
            else:
                raise InputError("--focus-level none leaves nothing to --focus-weight: drop one.")
        elif loss.focus_weight == 0:
            loss = replace(loss, focus_level="none", entropy="softmax")

        # What only a focus term has was dropped where there is none: refuse it if it was asked for.
        for key in ("focus_level", "entropy"):
            if settings.get(key) not in (None, getattr(loss, key)):
                raise InputError(
                    f"{flag(key)}: the loss {loss.name!r} has no focus term: give --focus-weight, "
                    "too."
                )
        if "entropy_target" in settings:
            loss.check_aim()
            if "target_from_maps" in settings:
                raise InputError("--target-from-maps and --entropy-target are two aims: give one.")

        if loss.focus_level in FOCUS_LEVELS_WITH_AIM and "target_from_maps" not in settings:
            return loss
        return replace(loss, entropy_target=None)


LOSS_SETTINGS = tuple(field.name for field in fields(LossConfig) if field.metadata)
"""The settings of a loss, in the order of their flags."""

SET_BY_LOSS = {*LOSS_SETTINGS, "focus_schedule", "saliency_schedule", "target_from_maps"}
SET_BY_LOSS -= {"temperature", "label_smoothing"}
"""The settings that a named loss decides. Temperature and label smoothing are kept, by which losses
are compared."""

LOSSES: dict[str, LossConfig] = {
    name: replace(loss, name=name)
    for name, loss in {
        "ce": LossConfig(focus_level="none"),
        "saliency": LossConfig(saliency_weight=5.0, focus_level="none"),
        # CYBORG's code takes the CAM of the predicted class (Boyd et al., 2023).
        "cyborg": LossConfig(0.5, 0.0, 0.5, focus_level="none", cam_class="predicted"),
        "focus": LossConfig(focus_weight=0.1),
        "hinge": LossConfig(focus_weight=1.0, focus_level="hinge", entropy_target=0.6),
        "match": LossConfig(focus_weight=1.0, focus_level="match"),
        "blend": LossConfig(focus_weight=0.1, saliency_weight=5.0),
    }.items()
}
"""The settings of each ``--loss`` by its name.

Examples:
    >>> from focus import LOSSES
    >>> sorted(LOSSES)
    ['blend', 'ce', 'cyborg', 'focus', 'hinge', 'match', 'saliency']
    >>> LOSSES["focus"].focus_weight
    0.1
"""
UNDECIDED = LossConfig(focus_level="none", name=None)
"""No loss yet: the images' human maps decide."""


def loss_of(loss: LossConfig | str) -> LossConfig:
    """Return the loss itself, or that of a name in :data:`LOSSES`.

    Raises:
        InputError: There is no loss of that name.
    """
    if isinstance(loss, LossConfig):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise InputError(
            f"There is no loss {loss!r}{did_you_mean(str(loss), LOSSES)}: give "
            f"one of {', '.join(LOSSES)}."
        )
    return LOSSES[loss]


Points = tuple[tuple[float, float], ...]
"""The factors of a weight in the course of a run: (epoch, factor), the epochs rising."""


def parse_points(name: str, text: str) -> Points:
    """Parse ``"0:0,5:1"`` to ``((0, 0), (5, 1))``; ``name`` is the flag, for the message.

    Raises InputError for what is no pair of numbers, epochs that do not rise, numbers below 0.
    """
    try:
        pairs = [point.split(":") for point in text.split(",")]
        points = tuple((float(epoch), float(factor)) for epoch, factor in pairs)
    except ValueError:
        points = ()
    rising = all(epoch < later for (epoch, _), (later, _) in pairwise(points))
    in_range = all(0 <= number < math.inf for point in points for number in point)
    if not points or not rising or not in_range:
        raise InputError(
            f"{name} got {text!r}: give EPOCH:FACTOR pairs separated by commas, the epochs rising, "
            "no number below 0."
        )
    return points


def factor_at(points: Points, epoch: float) -> float:
    """Return the factor after ``epoch`` epochs: linear between the points, constant outside."""
    if epoch <= points[0][0]:
        return points[0][1]
    for (start, low), (stop, high) in pairwise(points):
        if epoch < stop:
            return low + (high - low) * (epoch - start) / (stop - start)
    return points[-1][1]
