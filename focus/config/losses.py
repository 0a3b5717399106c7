"""Training losses by name.

The loss is ``(1/B) sum_b (a CE_b + b focus_b + c saliency_b)``; see :mod:`focus.kernels` for the
terms. The weights beyond CYBORG's are this project's own, chosen on validation images of
the demo set.
"""

from dataclasses import dataclass
from typing import Literal

from focus.errors import InputError, did_you_mean

# As in focus.kernels.types, which imports torch: --help does without.
FocusLevel = Literal["none", "match", "hinge", "minimize"]
CamClass = Literal["true", "predicted", "contrast"]
Entropy = Literal["softmax", "sum"]


@dataclass(frozen=True)
class LossConfig:
    """Weights and settings of the loss, in the words of :func:`focus.kernels.focus_head`.

    ``docs/losses.md`` says when to use which.

    classification_weight, focus_weight, saliency_weight: a, b, c, from 0 on. focus_level: how the
    focus term takes the entropy. cam_class: whose CAM focus and saliency term look at.
    entropy_target: ``h*`` in [0, 1] of the levels match and hinge, None for that of each sample's
    human map. temperature: of the CAM's softmax, above 0. label_smoothing: in [0, 1). The
    configuration of a program checks these ranges, this class does not. entropy: of the CAM's
    softmax, or of the CAM less its minimum and divided by its sum.
    """

    classification_weight: float = 1.0
    focus_weight: float = 0.0
    saliency_weight: float = 0.0
    focus_level: FocusLevel = "minimize"
    cam_class: CamClass = "true"
    entropy_target: float | None = None
    temperature: float = 1.0
    label_smoothing: float = 0.0
    entropy: Entropy = "softmax"


LOSSES: dict[str, LossConfig] = {
    "ce": LossConfig(focus_level="none"),
    "saliency": LossConfig(saliency_weight=5.0, focus_level="none"),
    # CYBORG's code takes the CAM of the predicted class (Boyd et al., 2023).
    "cyborg": LossConfig(0.5, 0.0, 0.5, focus_level="none", cam_class="predicted"),
    "focus": LossConfig(focus_weight=0.1),
    "hinge": LossConfig(focus_weight=1.0, focus_level="hinge", entropy_target=0.6),
    "match": LossConfig(focus_weight=1.0, focus_level="match"),
    "blend": LossConfig(focus_weight=0.1, saliency_weight=5.0),
}
"""The settings of each ``--loss`` by its name."""


def loss_of(loss: LossConfig | str) -> LossConfig:
    """Return the loss itself, or that of a name in :data:`LOSSES`.

    Raises:
        InputError: there is no loss of that name.
    """
    if isinstance(loss, LossConfig):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise InputError(
            f"There is no loss {loss!r}{did_you_mean(str(loss), LOSSES)}: give "
            f"one of {', '.join(LOSSES)}."
        )
    return LOSSES[loss]
