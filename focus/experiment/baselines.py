"""The protocol of ``--recipes``: others' detectors beside the small network, with and without maps.

On the embedded benchmark there are no pretrained weights, for which the recipes' rates are made. So
a recipe gives network, input, cutting and augmentation, and all arms are trained alike, from
scratch. It was fixed before any of these arms was trained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from focus.config.recipes import RECIPES
from focus.config.train import TrainConfig
from focus.errors import InputError
from focus.experiment.frozen import BASELINE, EPOCHS, WORLDS, Arm, Contrast, Protocol, Test, minus

_ALIKE: Mapping[str, Any] = {
    **{name: RECIPES["demo"][name] for name in ("opt", "weight_decay", "sched", "warmup")},
    "batch_size": RECIPES["demo"]["batch_size"],
    "epochs": EPOCHS,
    "pretrained": False,
    # A third of the small network's, as is usual for networks of a hundred times its weights.
    "lr": 1e-3,
}


def protocol_of(names: Sequence[str], own: str | None) -> Protocol:
    """Return the comparison of recipes with each other, and with maps and without.

    own: The recipe of the baseline on one's own data, on which each is trained as it is.

    Raises:
        InputError: an unknown recipe, or one that nothing but pretrained weights is for.
    """
    usual = {"epochs": RECIPES[own]["epochs"]} if own else {}
    arms = {loss: Arm(loss, settings=usual, worlds=WORLDS[:1]) for loss in (BASELINE, "blend")}
    for name in names:
        TrainConfig(recipe=name)
        recipe = RECIPES[name]
        if recipe["tune"] != "full" and not own:
            raise InputError(
                f"--recipes {name} tunes pretrained weights, which the embedded benchmark does "
                "without: give --data, or npr, cnndetection and xception."
            )
        settings = {"epochs": recipe["epochs"]} if own else _ALIKE
        for arm, loss in ((name, "ce"), (f"{name}-blend", "blend")):
            arms[arm] = Arm(loss, settings={"recipe": name, **settings}, worlds=WORLDS[:1])
    share = 1 / len(names)
    mean = {arm: share if arms[arm].loss == "blend" else -share for arm in [*arms][2:]}
    tests = [Test(Contrast("`blend` - `ce`, mean of the recipes", mean), WORLDS[0], "primary")]
    tests += [Test(minus(f"{name}-blend", name), WORLDS[0], "secondary") for name in names]
    return Protocol(
        arms=arms,
        units=range(40, 46),
        tests=tuple(tests),
        worlds=WORLDS[:1],
        folder="recipes",
        settings={"image_size": 96, "mixed_precision": "bf16"},
    )
