"""What of a detector is trained: all of it, or the head with none or little of the backbone."""

from torch import nn

from focus.config.recipes import Tune
from focus.errors import InputError
from focus.model.detector import Detector


def freeze(detector: Detector, tune: Tune) -> None:
    """Freeze all of the backbone but what ``--tune`` names; a frozen weight gets no gradient.

    Raises:
        InputError: there are no normalisation layers to train.
    """
    if tune == "full":
        return
    norms = _norms(detector.backbone) if tune == "norm" else []
    detector.backbone.requires_grad_(False)
    for parameter in norms:
        parameter.requires_grad = True
    if tune == "norm" and not norms:
        raise InputError(
            f"--tune norm: {detector.config.model} has no normalisation layers with weights: give "
            "--tune head or full, or another --model."
        )


def describe_tuning(detector: Detector, tune: Tune) -> str:
    """Return a line that says what is trained and what is frozen; "" if nothing is."""
    weights = [*detector.parameters()]
    if tune == "full":
        return ""
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    frozen = {"norm": "the backbone but its normalisation layers", "head": "the backbone"}[tune]
    count = sum(weight.numel() for weight in weights)
    return f"trained: {trained:,} of {count:,} weights (--tune {tune}); frozen: {frozen}"


def _norms(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of normalisation layers; timm has many kinds, which are named so."""
    return [
        parameter
        for module in network.modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    ]
