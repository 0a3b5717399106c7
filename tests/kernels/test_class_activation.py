"""``class_activation``: the CAMs, entropies and logits of several classes."""

import pytest
import torch

from focus.kernels import cam_entropy, class_activation, focus_head

from .as_reference import assert_class_activation
from .cases import (
    CLASS_ACTIVATION,
    REFERENCE,
    SHAPES,
    Case,
    Form,
    in_pytorch,
    make_inputs,
    name_of,
    pairwise,
)
from .tolerances import assert_close

SMALL: Case = {"batch": 4, "channels": 6, "grid": (3, 3), "classes": 5}


@pytest.mark.parametrize("case", pairwise(SHAPES, in_pytorch)[::3], ids=name_of)
@pytest.mark.parametrize("form", CLASS_ACTIVATION)
def test_as_reference(form: Form, case: Case) -> None:
    assert_class_activation(form, case)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_as_reference_in_parts(layout: str, small_parts: None) -> None:
    assert_class_activation(Form("eager"), SMALL | {"batch": 7, "layout": layout})


@pytest.mark.parametrize("rows", [1, 3, 17])
def test_as_reference_with_the_tiles_of_a_gpu(rows: int) -> None:
    """More than one block of cells: each leaves its part of the pooled features."""
    case = SMALL | {"batch": 2, "grid": (12, 13), "channels": 20, "layout": "channels_last"}
    inputs = make_inputs(case)
    classes = [i % 5 for i in range(rows)]
    with Form("triton", tile_scale=1).active():
        actual = class_activation(inputs.features, inputs.weight, inputs.bias, classes)
    wide = inputs.double()
    with REFERENCE.active():
        expected = class_activation(wide.features, wide.weight, wide.bias, classes)
    for name, *pair in zip(("logits", "cams", "entropy"), actual, expected, strict=True):
        assert_close(name, *pair, torch.float32)


@pytest.mark.parametrize("form", [*CLASS_ACTIVATION, pytest.param(REFERENCE, id="reference")])
def test_agrees_with_the_training_operations(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    features, weight = inputs.features, inputs.weight
    with form.active():
        logits, cams, entropy = class_activation(features, weight, inputs.bias, [4, 0])
        torch.testing.assert_close(
            logits, focus_head(features, weight, inputs.bias, inputs.index).logits
        )
        for column, k in enumerate((4, 0)):
            cam, h = cam_entropy(features, weight, torch.full_like(inputs.index, k))
            torch.testing.assert_close(cams[:, column], cam)
            torch.testing.assert_close(entropy[:, column], h)
            # Pooling, classifier and CAM are one product.
            torch.testing.assert_close(logits[:, k], cam.mean((1, 2)) + inputs.bias[k])


@pytest.mark.parametrize("form", CLASS_ACTIVATION)
def test_classes_of_each_sample_and_of_all_samples_agree(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    arguments = inputs.features, inputs.weight, None
    each = torch.tensor([2, 1], device=form.device).expand(4, 2)
    with form.active():
        for one, other in zip(
            class_activation(*arguments, each), class_activation(*arguments, [2, 1]), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("form", [*CLASS_ACTIVATION, pytest.param(REFERENCE, id="reference")])
def test_carries_no_gradient(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    with form.active():
        out = class_activation(inputs.features.requires_grad_(), inputs.weight, None, [0])
    assert not any(tensor.requires_grad for tensor in out)
