"""What of a detector is trained: all of it, or the head with none or little of the backbone."""

from copy import deepcopy
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from focus.config.recipes import Tune
from focus.errors import InputError, first_line
from focus.model.detector import Detector

RANK = 8
"""The rank of the adapters; what they compute is doubled and added."""


def freeze(detector: Detector, tune: Tune) -> None:
    """Freeze all of the backbone but what ``--tune`` names; a frozen weight gets no gradient.

    Raises:
        InputError: the network has no layers of the kind that is named, or peft is missing.
    """
    if tune == "full":
        return
    trained: list[nn.Parameter] = []
    if tune == "last-stage":
        trained = _last_stage(detector)
    elif tune == "norm":
        trained = _norms(detector.backbone)
        _check(trained, detector, tune, "normalisation layers")

    detector.backbone.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad = True
    if tune == "lora":
        _add_adapters(detector)


def describe_tuning(detector: Detector, tune: Tune) -> str:
    """Return a line that says what is trained and what is frozen; "" if nothing is."""
    if tune == "full":
        return ""
    frozen = "the backbone"
    if tune == "last-stage":
        frozen += " but its last stage"
    elif tune == "norm":
        frozen += " but its normalisation layers"
    elif tune == "lora":
        frozen += f" but adapters of rank {RANK} on {len(_adapted(detector))} layers"
    weights = [*detector.parameters()]
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    count = sum(weight.numel() for weight in weights)
    return f"trained: {trained:,} of {count:,} weights (--tune {tune}); frozen: {frozen}"


def merged(detector: Detector) -> Detector:
    """Return the detector, or if it has adapters a copy, with them added to the weights."""
    if not _adapted(detector):
        return detector
    detector = deepcopy(detector)
    for name, layer in _adapted(detector).items():
        layer.merge()
        detector.set_submodule(name, layer.get_base_layer())
    return detector


def checkpoint_gradients(detector: Detector) -> None:
    """Let the backbone compute its features again in the backward, as timm does it.

    Raises:
        InputError: the network cannot.
    """
    try:
        detector.backbone.set_grad_checkpointing()
    except Exception as error:  # an assertion, or there is no such method
        raise InputError(
            f"--grad-checkpointing: {detector.config.model} has none ({first_line(error)}): leave "
            "it out, or give a smaller --batch-size."
        ) from error


def _last_stage(detector: Detector) -> list[nn.Parameter]:
    """Return the weights of the last stage, by timm's coarse groups of layers, and of what follows.

    What follows, such as a last convolution or norm, timm counts as part of the group before.

    Raises:
        InputError: timm knows no groups of the network's layers.
    """
    network = detector.backbone
    try:
        names = group_parameters(network, network.group_matcher(coarse=True))
    except Exception as error:  # an assertion, or there is no such method
        raise InputError(
            f"--tune last-stage: timm does not say which the stages of {detector.config.model} are "
            f"({first_line(error)}): give --tune head or full, or another --model."
        ) from error
    weights = dict(network.named_parameters())
    return [weights[name] for name in names[max(names)]]


def _norms(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of normalisation layers; timm has many kinds, which are named so."""
    return [
        parameter
        for module in network.modules()
        if "norm" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    ]


def _add_adapters(detector: Detector) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError("--tune lora needs peft: pip install 'focus-faces[lora]'.") from error
    layers = _called_linear_layers(detector)
    _check(layers, detector, "lora", "linear layers")
    # Exact names: peft takes those of a list for the ends of names.
    names = "|".join(name.replace(".", r"\.") for name in layers)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=names)
    inject_adapter_in_model(config, detector.backbone)


def _called_linear_layers(detector: Detector) -> list[str]:
    """Return their names in the backbone, without those of which it uses the weights alone."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in detector.backbone.named_modules()
        if isinstance(module, nn.Linear)
    ]
    size = detector.image_size
    with torch.no_grad():
        detector.eval().features(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    detector.train()
    return called


def _adapted(detector: Detector) -> dict[str, Any]:
    """Return the layers of peft's, by name."""
    modules = detector.named_modules()
    return {name: module for name, module in modules if hasattr(module, "get_base_layer")}


def _check(trained: list[Any], detector: Detector, tune: Tune, layers: str) -> None:
    """Raise InputError if nothing is trained; layers: What it would be, in words."""
    if not trained:
        raise InputError(
            f"--tune {tune}: {detector.config.model} has no {layers} to train: give --tune head or "
            "full, or another --model."
        )
