"""Training recipes by name: the network, the optimiser and its schedule, without the loss."""

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["one-cycle", "step"]
Augment = Literal["none", "flip-shift"]

SMALL_MODEL = "focus_small"
"""The small default network; it is trained from scratch, no pretrained weights exist."""


@dataclass(frozen=True)
class Recipe:
    """How to train, all but the loss.

    model: a name of :mod:`focus.models`. image_size: pixels a side. momentum: SGD's. warmup: share
    of the steps in which one-cycle raises the learning rate, in (0, 1). step_epochs, step_gamma:
    the step schedule multiplies the learning rate by step_gamma every step_epochs epochs.
    """

    model: str
    image_size: int
    pretrained: bool
    epochs: int
    batch_size: int
    optimizer: Optimizer
    lr: float
    weight_decay: float
    schedule: Schedule
    augment: Augment
    channels_last: bool
    momentum: float = 0.9
    warmup: float = 0.2
    step_epochs: int = 12
    step_gamma: float = 0.1


RECIPES: dict[str, Recipe] = {
    # Boyd et al., "CYBORG: Blending Human Saliency Into the Loss Improves Deep Learning" (2023).
    "paper": Recipe(
        model="densenet121",
        image_size=224,
        pretrained=True,
        epochs=50,
        batch_size=20,
        optimizer="sgd",
        lr=0.005,
        weight_decay=1e-6,
        schedule="step",
        augment="none",
        channels_last=False,
    ),
    "demo": Recipe(
        model=SMALL_MODEL,
        image_size=64,
        pretrained=False,
        epochs=20,
        batch_size=16,
        optimizer="adamw",
        lr=2e-3,
        weight_decay=0.02,
        schedule="one-cycle",
        augment="flip-shift",
        channels_last=True,
    ),
}

PAPER_IMAGE_SIZES = {"inception_v3": 299, "legacy_xception": 299}
"""Networks that the paper recipe feeds another size than its own, as CYBORG does."""
