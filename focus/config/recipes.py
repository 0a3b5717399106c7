"""Training recipes by name: the network, the optimiser and its schedule, without the loss."""

from typing import Any, Literal

from focus.errors import InputError

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["constant", "cosine", "one-cycle", "step"]
Sampling = Literal["shuffled", "balanced"]
CachedFeatures = Literal["bfloat16", "float32", "no"]
Tune = Literal["full", "norm", "head", "lora"]

AUGMENTATIONS = ("crop", "shift", "flip", "blur", "jpeg")
"""In the order in which :mod:`focus.data.augment` makes them."""

POOLINGS = ("mean", "both")
"""Of the cells, or patch tokens, alone; or the class token beside them."""

SMALL_MODEL = "focus_small"
"""The small default network; it is trained from scratch, no pretrained weights exist."""


RECIPES: dict[str, dict[str, Any]] = {
    # Boyd et al., "CYBORG: Blending Human Saliency Into the Loss Improves Deep Learning" (2023).
    "paper": {
        "model": "densenet121.tv_in1k",
        "image_size": 224,
        "pretrained": True,
        "tune": "full",
        "epochs": 50,
        "batch_size": 20,
        "opt": "sgd",
        "lr": 0.005,
        "weight_decay": 1e-6,
        "momentum": 0.9,
        "sched": "step",
        "step_epochs": 12,
        "step_gamma": 0.1,
        "warmup": 0.0,
        "augment": "none",
        "channels_last": None,  # on a GPU
    },
    "demo": {
        "model": SMALL_MODEL,
        "image_size": 64,
        "pretrained": False,
        "tune": "full",
        "epochs": 16,
        "batch_size": 32,
        "opt": "adamw",
        "lr": 3e-3,
        "weight_decay": 0.1,
        "momentum": 0.9,
        "sched": "one-cycle",
        "step_epochs": 12,
        "step_gamma": 0.1,
        "warmup": 0.2,
        "augment": "shift,flip",
        "channels_last": True,
    },
    # A frozen network with registers, without which tokens of high norm would draw a low entropy
    # (arXiv 2506.08010), and a linear head, as in arXiv 2602.01738.
    "foundation": {
        "model": "vit_small_patch14_reg4_dinov2.lvd142m",
        "image_size": None,  # the network's own
        "pretrained": True,
        "tune": "head",
        "epochs": 300,
        "batch_size": 64,
        "opt": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "momentum": 0.9,
        "sched": "cosine",
        "step_epochs": 12,
        "step_gamma": 0.1,
        "warmup": 0.05,
        "augment": "none",
        "channels_last": None,  # on a GPU
    },
}
RECIPES["quick"] = RECIPES["demo"]  # by the name for one's own images
"""The settings of each ``--recipe`` that are not given: fields of TrainConfig, in its units."""

PAPER_IMAGE_SIZES = {"inception_v3": 299, "legacy_xception": 299}
"""Networks that the paper recipe feeds another size than its own, as CYBORG does.

By timm's name without the tag of its weights.
"""


def check_pool(pool: str) -> None:
    """Raise InputError for a pooling that there is not, and for the one that leaves no CAM."""
    if pool == "token":
        raise InputError(
            "--pool token leaves no CAM, as the class token belongs to no place: give --pool both."
        )
    if pool not in POOLINGS:
        raise InputError(f"--pool got {pool!r}: give one of {', '.join(POOLINGS)}.")


def parse_augment(text: str) -> tuple[str, ...]:
    """Parse ``"flip,shift"`` to names in the order of ``AUGMENTATIONS``; ``"none"`` to none.

    Raises InputError for an unknown name, or one that stands there twice.
    """
    names = [name.strip() for name in text.split(",")] if text.strip() != "none" else []
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(
                f"--augment got {name!r}: give none, or some of {', '.join(AUGMENTATIONS)}, "
                "separated by commas."
            )
        if names.count(name) > 1:
            raise InputError(f"--augment names {name} twice: name each once.")
    return tuple(name for name in AUGMENTATIONS if name in names)
