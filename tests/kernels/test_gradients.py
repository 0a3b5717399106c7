"""Gradients against finite differences, and second derivatives, which the operations refuse."""

import pytest
import torch
from torch.autograd import gradcheck

from focus.kernels import cam_entropy, focus_head
from focus.kernels.terms import WEIGHTS

from . import cases
from .cases import FORMS, REFERENCE, WITH_REFERENCE, Form, head_options, make_inputs, random_like

IN_TORCH = [form for form in FORMS if "eager" in str(form.id)]
"""Finite differences need float64, which the kernels leave to torch."""

TINY: cases.Case = {"batch": 2, "channels": 2, "grid": (2, 2), "classes": 3, "dtype": torch.float64}
TINY |= {"weight_dtype": "own", "focus_level": "minimize", "cam_class": "true", "maps": "maps"}
REFUSED = "no second derivative"


@pytest.mark.parametrize("form", IN_TORCH)
def test_cam_entropy(form: Form) -> None:
    inputs = make_inputs(TINY, form.device)
    leaves = inputs.features.requires_grad_(), inputs.weight.requires_grad_()
    with form.active():
        assert gradcheck(
            lambda f, w: cam_entropy(f, w, inputs.index, temperature=0.8), leaves, fast_mode=True
        )


OPTIONS = {
    "layout": cases.LAYOUTS,
    "focus_level": cases.LEVELS,
    "cam_class": cases.CAM_CLASSES,
    "maps": cases.MAPS,
    "entropy": cases.ENTROPIES,
    # Each number has a backward of its own.
    "classes": (3, 5, 17),
}


@pytest.mark.parametrize("form", IN_TORCH)
def test_focus_head(form: Form) -> None:
    for options in cases.pairwise(OPTIONS, bool)[::2]:
        case = TINY | options
        inputs = make_inputs(case, form.device)
        keywords = head_options(case, inputs) | {"reduction": "none", "label_smoothing": 0.1}
        leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]

        def loss(*leaves: torch.Tensor, inputs=inputs, keywords=keywords) -> torch.Tensor:
            return focus_head(*leaves, inputs.index, **keywords).loss

        with form.active():
            assert_smooth_here(focus_head(*leaves, inputs.index, **keywords), case["focus_level"])
            assert gradcheck(loss, leaves)


@pytest.mark.parametrize("form", FORMS)
def test_second_backward_gives_the_same_gradients(form: Form) -> None:
    inputs = make_inputs(TINY, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    options = head_options(TINY, inputs) | {"reduction": "none"}
    with form.active():
        loss = focus_head(*leaves, inputs.index, **options).loss
        cam, entropy = cam_entropy(*leaves[:2], inputs.index)
        for result, of in ((loss, leaves), (cam.square().mean((1, 2)) * entropy, leaves[:2])):
            first = torch.autograd.grad(result, of, random_like(result), retain_graph=True)
            kept = [gradient.clone() for gradient in first]
            second = torch.autograd.grad(result, of, random_like(result))
            assert all(map(torch.equal, first, kept))
            assert all(map(torch.equal, second, kept))


@pytest.mark.parametrize("classes", [3, 17])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_some_leaves_are_those_of_all(form: Form, classes: int) -> None:
    case = TINY | {"cam_class": "contrast", "classes": classes}
    inputs = make_inputs(case, form.device)
    options = head_options(case, inputs)

    def gradients(of: tuple[int, ...]) -> list[torch.Tensor | None]:
        leaves = [t.detach().clone() for t in (inputs.features, inputs.weight, inputs.bias)]
        for n in of:
            leaves[n].requires_grad_()
        with form.active():
            focus_head(*leaves, inputs.index, **options).loss.backward()
        return [leaf.grad for leaf in leaves]

    every = gradients((0, 1, 2))
    for wanted in ((0,), (1,), (2,), (0, 2), (1, 2), (0, 1)):
        for n, (one, other) in enumerate(zip(gradients(wanted), every, strict=True)):
            if n in wanted:
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
            else:
                assert one is None


def assert_smooth_here(out, focus_level: str) -> None:
    """No min or max of a CAM, argmax or target entropy is near enough to change in the check."""
    ordered = out.cam.flatten(1).sort(1).values.diff(dim=1)
    assert ordered[:, 0].min() > 1e-3
    assert ordered[:, -1].min() > 1e-3
    assert out.logits.topk(2).values.diff(dim=1).abs().min() > 1e-3
    if focus_level == "match":
        assert out.focus[out.focus > 0].min() > 1e-3


@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_a_second_derivative_is_an_error_but_of_the_reference(form: Form) -> None:
    inputs = make_inputs(TINY, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    with form.active():
        assert_second_derivative(form, cam_entropy(*leaves[:2], inputs.index)[1].sum(), leaves[:2])
        loss = focus_head(*leaves, inputs.index, focus_weight=1).loss
        assert_second_derivative(form, loss, leaves)


def assert_second_derivative(form: Form, loss: torch.Tensor, leaves: tuple) -> None:
    """A gradient penalty is right by the reference, and an error elsewhere: never wrong."""
    if form != REFERENCE:
        with pytest.raises(RuntimeError, match=REFUSED):
            torch.autograd.grad(loss, leaves, create_graph=True)
        return
    for grad in torch.autograd.grad(loss, leaves, create_graph=True):
        grad.square().sum().backward(retain_graph=True)


@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_maps_targets_and_weights_get_no_gradient(form: Form) -> None:
    inputs = make_inputs(TINY, form.device)
    features = inputs.features.requires_grad_()
    batch, classes, grid = len(features), len(inputs.weight), features.shape[2:]
    shapes = {"saliency": (batch, *grid), "entropy_target": (batch,), "class_weight": (classes,)}
    shapes |= dict.fromkeys((*WEIGHTS, "temperature"), ())
    others = {
        name: torch.full(shape, 0.5, device=form.device, requires_grad=True)
        for name, shape in shapes.items()
    }
    with form.active():
        focus_head(
            features, inputs.weight, inputs.bias, inputs.index, focus_level="match", **others
        ).loss.backward()
    assert features.grad is not None
    assert [name for name, tensor in others.items() if tensor.grad is not None] == []
