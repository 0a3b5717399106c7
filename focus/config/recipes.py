"""Training recipes by name: the network, the optimiser and its schedule, without the loss."""

from typing import Any, Literal

from focus.errors import InputError

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["constant", "cosine", "one-cycle", "step"]
Sampling = Literal["shuffled", "balanced"]
CachedFeatures = Literal["bfloat16", "float32", "no"]
Tune = Literal["full", "last-stage", "norm", "head", "lora"]
Input = Literal["rgb", "npr"]
Fit = Literal["squash", "crop"]

AUGMENTATIONS = ("crop", "shift", "flip", "blur", "jpeg")
"""Changes made to training images, in the order in which :mod:`focus.data.augment` makes them."""

POOLINGS = ("mean", "both")
"""What is classified: the mean of the cells, or patch tokens, alone; or the class token, too."""

SMALL_MODEL = "focus_small"
"""The small default network."""

NPR_MODEL = "resnet50_npr"
"""A ResNet-50 that ends after its second stage."""

FROM_SCRATCH = (SMALL_MODEL, NPR_MODEL)
"""Networks without pretrained weights."""

CUT = "cut"
"""The change that ``--fit crop`` puts before those of :data:`AUGMENTATIONS`: training takes a
random part of the picture."""

_USUAL: dict[str, Any] = {
    "image_size": None,  # the network's own
    "pretrained": True,
    "tune": "full",
    "pool": "mean",
    "input": "rgb",
    "fit": "squash",
    "opt": "adamw",
    "weight_decay": 0.0,
    "momentum": 0.9,
    "sched": "step",
    "step_epochs": 12,
    "step_gamma": 0.1,
    "warmup": 0.0,
    "augment": "none",
    "views": None,
    "channels_last": None,  # on a GPU
}

RECIPES: dict[str, dict[str, Any]] = {
    # Boyd et al., "CYBORG: Blending Human Saliency Into the Loss Improves Deep Learning" (2023).
    "paper": _USUAL
    | {
        "model": "densenet121.tv_in1k",
        "image_size": 224,
        "epochs": 50,
        "batch_size": 20,
        "opt": "sgd",
        "lr": 0.005,
        "weight_decay": 1e-6,
    },
    "demo": _USUAL
    | {
        "model": SMALL_MODEL,
        "image_size": 64,
        "pretrained": False,
        "epochs": 16,
        "batch_size": 32,
        "lr": 3e-3,
        "weight_decay": 0.1,
        "sched": "one-cycle",
        "warmup": 0.2,
        "augment": "shift,flip",
        "channels_last": True,
    },
    # A frozen network with registers, without which tokens of high norm would draw a low entropy
    # (arXiv 2506.08010), and a linear head, as in arXiv 2602.01738.
    "foundation": _USUAL
    | {
        "model": "vit_small_patch14_reg4_dinov2.lvd142m",
        "tune": "head",
        "epochs": 300,
        "batch_size": 64,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "sched": "cosine",
        "warmup": 0.05,
    },
    # Others' detectors: docs/baselines.md says where each setting comes from and what differs.
    "cnndetection": _USUAL
    | {
        "model": "resnet50.tv_in1k",
        "image_size": 224,
        "fit": "crop",
        "epochs": 30,
        "batch_size": 64,
        "lr": 1e-4,
        "step_epochs": 10,
        "augment": "flip,blur,jpeg",
    },
    "univfd": _USUAL
    | {
        "model": "vit_large_patch14_clip_quickgelu_224.openai",
        "tune": "head",
        "pool": "both",
        "fit": "crop",
        "epochs": 30,
        "batch_size": 256,
        "lr": 1e-4,
        "step_epochs": 10,
        "augment": "flip,blur,jpeg",
        "views": 4,
    },
    "gend": _USUAL
    | {
        "model": "vit_large_patch14_clip_quickgelu_224.openai",
        "tune": "norm",
        "pool": "both",
        "epochs": 30,
        "batch_size": 512,
        "lr": 3e-4,
        "sched": "cosine",
        "augment": "shift,flip,blur,jpeg",
    },
    "npr": _USUAL
    | {
        "model": NPR_MODEL,
        "image_size": 224,
        "pretrained": False,
        "input": "npr",
        "fit": "crop",
        "epochs": 50,
        "batch_size": 32,
        "lr": 2e-4,
        "step_epochs": 10,
        "step_gamma": 0.8,
        "augment": "flip",
    },
    "xception": _USUAL
    | {
        "model": "legacy_xception.tf_in1k",
        "image_size": 256,
        "epochs": 10,
        "batch_size": 32,
        "lr": 2e-4,
        "weight_decay": 5e-4,
        "sched": "constant",
        "augment": "flip,blur,jpeg",
    },
}
"""What each ``--recipe`` sets: fields of TrainConfig, in its units."""

RECIPES["quick"] = RECIPES["demo"]  # the same recipe, under a name for other images

SOURCES: dict[str, str] = {
    "paper": "CYBORG, https://arxiv.org/abs/2112.00686",
    "cnndetection": "CNNDetection, https://github.com/PeterWang512/CNNDetection",
    "univfd": "UniversalFakeDetect, https://github.com/WisconsinAIVision/UniversalFakeDetect",
    "gend": "GenD without its own loss, https://github.com/yermandy/GenD",
    "npr": "NPR, https://github.com/chuangchuangtan/NPR-DeepfakeDetection",
    "xception": "the Xception of DeepfakeBench, https://github.com/SCLBD/DeepfakeBench",
}
"""Whose training a recipe follows; the others are this project's own."""

PAPER_IMAGE_SIZES = {"inception_v3": 299, "legacy_xception": 299}
"""Networks that the paper recipe feeds another size than its own, as CYBORG does.

By timm's name without the tag of its weights.
"""


def check_pool(pool: str) -> None:
    """Raise InputError for an unknown pooling, and for the one that leaves no CAM."""
    if pool == "token":
        raise InputError(
            "--pool token leaves no CAM, as the class token belongs to no place: give --pool both."
        )
    if pool not in POOLINGS:
        raise InputError(f"--pool got {pool!r}: give one of {', '.join(POOLINGS)}.")


def parse_augment(text: str) -> tuple[str, ...]:
    """Parse ``"flip,shift"`` to names in the order of ``AUGMENTATIONS``; ``"none"`` to none.

    Raises InputError for an unknown name.
    """
    if text.strip() == "none":
        return ()
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(
                f"--augment got {name!r}: give none, or some of {', '.join(AUGMENTATIONS)}, "
                "separated by commas."
            )
    return tuple(name for name in AUGMENTATIONS if name in names)
