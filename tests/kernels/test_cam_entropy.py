"""``cam_entropy`` and ``class_activation`` by hand-worked numbers, and their promises."""

import pytest
import torch

from focus.kernels import cam_entropy, class_activation, focus_head

from .cases import FORMS, REFERENCE, WITH_REFERENCE, Case, Form, make_inputs
from .tolerances import assert_close

SMALL: Case = {"batch": 4, "channels": 6, "grid": (3, 3), "classes": 5}


@pytest.mark.parametrize("used", [0, 1], ids=["cam", "entropy"])
@pytest.mark.parametrize("form", FORMS)
def test_gradient_through_one_result_alone(form: Form, used: int) -> None:
    inputs = make_inputs(SMALL, form.device)
    gradients = {}
    for implementation, values in ((form, inputs), (REFERENCE, inputs.double())):
        leaves = values.features.requires_grad_(), values.weight.requires_grad_()
        with implementation.active():
            result = cam_entropy(*leaves, values.index)[used]
            upstream = torch.linspace(-1, 1, result.numel()).view_as(result).to(result)
            gradients[implementation] = torch.autograd.grad(result, leaves, upstream)
    for name, actual, expected in zip("FW", gradients[form], gradients[REFERENCE], strict=True):
        assert_close(f"d{name}", actual, expected, torch.float32)


@pytest.mark.parametrize("form", FORMS)
def test_hand_worked_numbers(form: Form) -> None:
    # z = (0, log 3, 0, 0), so p = (1, 3, 1, 1) / 6 and H = log(12) / 2.
    log = torch.log
    two, three, four = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 3.0, 4.0))
    features = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    features[0, 0, 0, 1] = log(three)
    weight = torch.eye(2, dtype=torch.float64)
    leaf = features.to(form.device).requires_grad_()
    with form.active():
        index = torch.zeros(1, dtype=torch.int64, device=form.device)
        cam, entropy = cam_entropy(leaf, weight.to(form.device), index)
        (grad,) = torch.autograd.grad(entropy, leaf, torch.full_like(entropy, 2.0))
    torch.testing.assert_close(cam.cpu(), features[:, 0])
    torch.testing.assert_close(entropy.cpu()[0], log(three * four) / 2 / log(four))
    # dh/dz = -p (z - log(3) / 2) / log 4, times the upstream 2.
    low, high = log(three) / 6 / log(four), -log(three) / two / log(four)
    by_cell = torch.stack([low, high, low, low]).view(2, 2)
    torch.testing.assert_close(grad.cpu()[0, 0], by_cell)
    assert grad[0, 1].abs().max() == 0


@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_class_activation_agrees_with_the_training_operations(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    features, weight = inputs.features.requires_grad_(), inputs.weight
    with form.active():
        logits, cams, entropy = class_activation(features, weight, inputs.bias, [4, 0])
        assert not any(tensor.requires_grad for tensor in (logits, cams, entropy))
        torch.testing.assert_close(
            logits, focus_head(features, weight, inputs.bias, inputs.index).logits
        )
        for column, k in enumerate((4, 0)):
            cam, h = cam_entropy(features, weight, torch.full_like(inputs.index, k))
            torch.testing.assert_close(cams[:, column], cam)
            torch.testing.assert_close(entropy[:, column], h)
            # Pooling, classifier and CAM are one product.
            torch.testing.assert_close(logits[:, k], cam.mean((1, 2)) + inputs.bias[k])
