"""Each operation, in any form, against the float64 reference of the same inputs."""

from typing import Any

import torch

from focus.kernels import class_activation

from .cases import REFERENCE, Case, Form, Inputs, make_inputs, run_cam_entropy, run_focus_head
from .tolerances import assert_close


def assert_cam_entropy(form: Form, case: Case, **options: Any) -> None:
    """Results, and gradients for random upstream gradients."""
    inputs = make_inputs(case, form.device)
    actual = run_cam_entropy(form, inputs, **options)
    expected = run_cam_entropy(REFERENCE, inputs.double(), **options)
    for name, tensor in actual.items():
        addends = () if name == "dF" else None
        assert_close(name, tensor, expected[name], inputs.features.dtype, addends)


def assert_focus_head(form: Form, inputs: Inputs, options: dict[str, Any]) -> None:
    """Results, and gradients for a random upstream gradient of the loss."""
    wide = {name: widened(value) for name, value in options.items()}
    actual = run_focus_head(form, inputs, **options)
    expected = run_focus_head(REFERENCE, inputs.double(), **wide)
    without_cam = wide | {"focus_weight": 0.0, "saliency_weight": 0.0}
    pooling = run_focus_head(REFERENCE, inputs.double(), **without_cam)["dF"]
    for name, tensor in actual.items():
        addends = (pooling, expected["dF"] - pooling) if name == "dF" else None
        assert_close(name, tensor, expected[name], inputs.features.dtype, addends)


def widened(value: Any) -> Any:
    """A tensor on the CPU, of floats in float64; anything else as it is."""
    if not torch.is_tensor(value):
        return value
    return value.cpu().double() if value.is_floating_point() else value.cpu()


def assert_class_activation(form: Form, case: Case) -> None:
    """Logits, CAMs and entropies of three classes of each sample."""
    inputs = make_inputs(case, form.device)
    classes = torch.stack([inputs.index, inputs.index.flip(0), inputs.index], 1)
    with form.active():
        actual = class_activation(
            inputs.features, inputs.weight, inputs.bias, classes, temperature=0.7
        )
    wide = inputs.double()
    with REFERENCE.active():
        expected = class_activation(
            wide.features, wide.weight, wide.bias, classes.cpu(), temperature=0.7
        )
    for name, *pair in zip(("logits", "cams", "entropy"), actual, expected, strict=True):
        assert_close(name, *pair, inputs.features.dtype)
