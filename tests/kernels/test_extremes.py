"""Flat, huge and non-finite CAMs, and classes that do not exist."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from focus.kernels import cam_entropy, class_activation, focus_head

from . import cases
from .cases import (
    EAGER,
    FORMS,
    KERNELS,
    WITH_REFERENCE,
    Form,
    make_inputs,
    run_cam_entropy,
    run_focus_head,
)
from .tolerances import assert_close

CASE: cases.Case = {"batch": 4, "channels": 5, "grid": (3, 4), "classes": 3}
EPS = torch.finfo(torch.float32).eps


def one_hot(features: Tensor) -> Tensor:
    features = torch.zeros_like(features)
    features[:, :, 1, 2] = 50
    return features


# What becomes of the features, and the entropy where it is at a limit.
FINITE: dict[str, tuple[Callable[[Tensor], Tensor], float | None]] = {
    "constant": (lambda f: f[:, :, :1, :1].expand_as(f).contiguous(), 1),
    "zero": (torch.zeros_like, 1),
    "one-hot": (one_hot, 0),
    "largest of float16": (lambda f: f.sign().half() * 65504, None),
    "huge": (lambda f: f * 1e30, 0),
    "tiny": (lambda f: f * 1e-30, 1),
}


def extreme_inputs(make, device: str) -> cases.Inputs:
    inputs = make_inputs(CASE, device)
    inputs.features = make(inputs.features)
    return inputs


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, tensor in actual.items():
        assert tensor.isfinite().all(), name
        assert_close(name, tensor, expected[name], dtype)


@pytest.mark.parametrize("form", FORMS)
def test_results_and_gradients_are_finite_and_those_of_the_reference(form: Form) -> None:
    for make, _ in FINITE.values():
        inputs = extreme_inputs(make, form.device)
        wide, dtype = inputs.double(), inputs.features.dtype
        compare(run_cam_entropy(form, inputs), run_cam_entropy(cases.REFERENCE, wide), dtype)
        for entropy in cases.ENTROPIES:
            options = {"focus_weight": 0.5, "saliency_weight": 2.0, "entropy": entropy}
            actual = run_focus_head(form, inputs, saliency=inputs.saliency, **options)
            expected = run_focus_head(cases.REFERENCE, wide, saliency=wide.saliency, **options)
            compare(actual, expected, dtype)


@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_entropy_at_its_limits(form: Form) -> None:
    for make, entropy in FINITE.values():
        if entropy is None:
            continue
        inputs = extreme_inputs(make, form.device)
        inputs.weight = inputs.weight.abs() + 0.5
        out = run_cam_entropy(form, inputs)["entropy"]
        torch.testing.assert_close(out, torch.full_like(out, entropy), rtol=0, atol=1e-6)
        assert not out.signbit().any()  # programs would print -0.00


@pytest.mark.parametrize(
    ("scale", "weight", "entropy"),
    [(1e-32, 1e4, "sum"), (1e-40, 0.0, "softmax"), (1e-45, 1e4, "sum"), (1e-45, 1e4, "softmax")],
)
@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_cam_of_hardly_any_range_is_flat(
    form: Form, scale: float, weight: float, entropy: str
) -> None:
    # Divided by such a range the gradient overflows, and is NaN where the weight of the term is 0.
    inputs = extreme_inputs(lambda features: features * scale, form.device)
    options = {"focus_weight": 0.5, "saliency_weight": weight, "entropy": entropy}
    actual = run_focus_head(form, inputs, saliency=inputs.saliency, **options)
    inputs.features = torch.zeros_like(inputs.features)
    expected = run_focus_head(cases.REFERENCE, inputs, saliency=inputs.saliency, **options)
    for name, tensor in actual.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("scale", "sign"), [(1.0, 1), (1.0, -1), (1e-20, 1), (1e37, -1)])
@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_cam_flat_up_to_rounding_has_no_saliency_gradient(
    form: Form, scale: float, sign: int
) -> None:
    # 64 eps of the largest magnitude is the threshold: half and twice of it.
    ramp = torch.tensor([0.0, 0.0, 0.0, 1.0])
    target = torch.zeros(2, dtype=torch.int64, device=form.device)
    human = torch.tensor([0.0, 1.0, 0.0, 0.5], device=form.device).view(1, 2, 2).expand(2, 2, 2)
    cells = torch.stack([1 + 32 * EPS * ramp, 1 + 128 * EPS * ramp]) * sign * scale
    features = cells.view(2, 1, 2, 2).to(form.device).requires_grad_()
    weight = torch.ones(1, 1, device=form.device)
    with form.active():
        out = focus_head(
            features, weight, None, target, saliency=human, saliency_weight=1.0, reduction="none"
        )
        (grad,) = torch.autograd.grad(out.loss, features, torch.ones_like(out.loss))
    scaled = ramp if sign == 1 else 1 - ramp
    expected = torch.stack([human[0].cpu().square(), (scaled.view(2, 2) - human[0].cpu()) ** 2])
    torch.testing.assert_close(out.saliency.cpu(), expected.mean((1, 2)), rtol=1e-6, atol=0)
    assert grad[0].count_nonzero() == 0
    assert grad.isfinite().all()
    if scale == 1:
        assert grad[1].abs().max() > 1e3


@pytest.mark.parametrize("form", FORMS)
def test_ties_share_the_gradient_as_amin_and_amax_do(form: Form) -> None:
    cells = torch.tensor([[3.0, 0, 3, 1, 0, 0], [2, 2, 2, 2, 2, 1]], dtype=torch.float64)
    human = torch.linspace(0, 1, 6, dtype=torch.float64).expand(2, 6)
    leaf = cells.clone().requires_grad_()
    low, high = leaf.amin(1, keepdim=True), leaf.amax(1, keepdim=True)
    ((leaf - low) / (high - low) - human).square().mean(1).sum().backward()
    features = cells.view(2, 1, 2, 3).to(form.device).requires_grad_()
    with form.active():
        loss = focus_head(
            features,
            torch.ones(1, 1, device=form.device).double(),
            None,
            torch.zeros(2, dtype=torch.int64, device=form.device),
            saliency=human.view(2, 2, 3).to(form.device),
            saliency_weight=1.0,
            reduction="sum",
        ).loss
        loss.backward()
    torch.testing.assert_close(features.grad.cpu().view(2, 6), leaf.grad)


BAD = (float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize(("value", "classes"), [*zip(BAD, (3, 5, 17), strict=True)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_cam_entropy_keeps_what_is_not_finite_in_its_sample_and_class(
    form: Form, value: float, classes: int
) -> None:
    inputs = make_inputs(CASE | {"classes": classes}, form.device)
    inputs.index[:] = torch.tensor([0, 1, 2, 0])
    clean = run_cam_entropy(form, inputs)
    inputs.features[1, 2, 1, 1] = value
    out = run_cam_entropy(form, inputs)
    assert not out["cam"][1].isfinite().all()
    # A cell at -inf is a cell without a share, as in torch's softmax.
    if not value * inputs.weight[1, 2] < 0:
        assert out["entropy"][1].isnan()
    others = [0, 2, 3]
    for name in ("cam", "entropy", "dF"):
        assert torch.equal(out[name][others], clean[name][others]), name
    assert not out["dW"][1].isfinite().all()
    assert torch.equal(out["dW"][[0, 2]], clean["dW"][[0, 2]])


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_a_class_without_a_cam_change_no_result(form: Form) -> None:
    for classes in (3, 5, 17):
        inputs = make_inputs(CASE | {"classes": classes}, form.device)
        inputs.index[:] = torch.tensor([0, 1, 1, 0])
        clean = run_cam_entropy(form, inputs)
        inputs.weight[-1] = float("nan")
        for name, tensor in run_cam_entropy(form, inputs).items():
            assert torch.equal(tensor, clean[name]), name


@pytest.mark.parametrize(
    ("value", "dtype"), [*zip(BAD, (torch.float32, torch.bfloat16, torch.float32), strict=True)]
)
@pytest.mark.parametrize("form", [*WITH_REFERENCE, pytest.param(cases.GPU_TILES, id="gpu-tiles")])
def test_focus_head_keeps_what_is_not_finite_in_its_sample(
    form: Form, value: float, dtype: torch.dtype
) -> None:
    # At 7 x 7 cells the vectors of a GPU's tiles reach into the next channel, and into padding.
    grid = {"channels": 24, "grid": (7, 7)} if form == cases.GPU_TILES else {}
    inputs = make_inputs(CASE | grid | {"dtype": dtype}, form.device)
    options = {"saliency": inputs.saliency, "saliency_weight": 1.0, "focus_weight": 1.0}
    clean_features, others = inputs.features.clone(), [0, 2, 3]
    for entropy in cases.ENTROPIES:
        options |= {"reduction": "none", "entropy": entropy}
        inputs.features = clean_features.clone()
        clean = run_focus_head(form, inputs, **options)
        inputs.features[1, 2, -1, -1] = value
        out = run_focus_head(form, inputs, **options)
        assert out["loss"][1].isnan()
        for name, tensor in out.items():
            if name not in ("dW", "db"):
                torch.testing.assert_close(tensor[others], clean[name][others], msg=name)


@pytest.mark.parametrize("form", FORMS)
def test_no_nan_where_the_cam_is_finite_though_its_range_is_not(form: Form) -> None:
    top = torch.finfo(torch.float32).max
    features = torch.tensor([top, -top, 0.0, 1.0]).view(1, 1, 2, 2).to(form.device)
    inputs = make_inputs(CASE | {"batch": 1, "channels": 1, "classes": 1}, form.device)
    inputs.features, inputs.weight = features, torch.ones_like(inputs.weight)
    human = torch.tensor([1.0, 0, 0, 0]).view(1, 2, 2).to(form.device)
    options = {"saliency": human, "saliency_weight": 1.0, "focus_weight": 1.0}
    for entropy in cases.ENTROPIES:
        for name, tensor in run_focus_head(form, inputs, entropy=entropy, **options).items():
            assert tensor.isfinite().all(), name
    out = run_cam_entropy(form, inputs, temperature=0.01)
    assert out["entropy"].tolist() == [0]
    assert out["dF"].isfinite().all()


@pytest.mark.parametrize("wrong", [-1, 3])
@pytest.mark.parametrize("form", [EAGER, pytest.param(cases.REFERENCE, id="reference")])
def test_class_that_does_not_exist_is_refused_on_the_cpu(form: Form, wrong: int) -> None:
    inputs = make_inputs(CASE)
    index = torch.tensor([0, 1, wrong, 2])
    classes = index[:, None].expand(4, 2)
    message = rf"has class {wrong}, outside the 3 classes of weight \(0 to 2\)"
    with form.active():
        with pytest.raises(IndexError, match=f"index {message}"):
            cam_entropy(inputs.features, inputs.weight, index)
        with pytest.raises(IndexError, match=f"target {message}"):
            focus_head(inputs.features, inputs.weight, inputs.bias, index)
        for numbers in (classes, [0, wrong], range(3, 4) if wrong == 3 else range(-1, 1)):
            with pytest.raises(IndexError, match=f"classes {message}"):
                class_activation(inputs.features, inputs.weight, inputs.bias, numbers)


@pytest.mark.parametrize("classes", [4, 17])
@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_predicted_class_is_the_first_nan_or_else_the_first_largest(
    form: Form, classes: int
) -> None:
    """As torch.argmax: a NaN counts as the largest."""
    nan, inf = float("nan"), float("inf")
    logits = torch.zeros(9, classes)
    logits[0, 2] = nan
    logits[1, 1:4:2] = nan
    logits[2, [0, 2, 3]] = torch.tensor([inf, nan, inf])
    logits[3] = nan
    logits[4] = -inf
    logits[5, 0] = -inf
    logits[6, 2:] = inf
    logits[7, [1, 3]] = 5
    logits[8] = -3  # a kernel holds classes of padding, that are 0
    logits[8, 2] = -1
    expected = logits.argmax(1)
    assert expected.tolist() == [2, 1, 2, 0, 0, 1, 2, 1, 2]
    # Of features that are 1, the CAM is the class's weight, and the bias makes any logits of it.
    target = torch.zeros(1, dtype=torch.int64, device=form.device)
    weight = torch.arange(1.0, classes + 1).view(classes, 1).to(form.device)
    for row, index in zip(logits, expected.tolist(), strict=True):
        features = torch.ones(1, 1, 2, 2, device=form.device)
        bias = (row - torch.arange(1.0, classes + 1)).to(form.device)
        with form.active():
            out = focus_head(features, weight, bias, target, cam_class="predicted")
        assert torch.equal(out.logits[0].cpu().isnan(), row.isnan())
        assert (out.cam == index + 1).all(), row


# One below, one above, and so far off that a read there would end the process.
MISSING = (-1, 16, 2**40, -(2**40))


@pytest.mark.parametrize(
    ("missing", "classes", "cam_class"),
    [*zip(MISSING, (3, 16, 16, 3), (*cases.CAM_CLASSES, "true"), strict=True)],
)
@pytest.mark.parametrize("form", KERNELS)
def test_a_class_that_does_not_exist_makes_its_sample_nan_and_no_other(
    form: Form, missing: int, classes: int, cam_class: str
) -> None:
    inputs = make_inputs(CASE | {"classes": classes}, form.device)
    inputs.index[:] = torch.tensor([0, 1, 2, 0])
    options = {"saliency": inputs.saliency, "saliency_weight": 1.3, "focus_weight": 0.9}
    options |= {"cam_class": cam_class, "reduction": "none", "label_smoothing": 0.1}
    others, results = [0, 2, 3], []
    for number in (1, missing):
        inputs.index[1] = number
        head = run_focus_head(form, inputs, **options)
        with form.active():
            arguments = inputs.features, inputs.weight, inputs.bias
            rows = class_activation(*arguments, inputs.index[:, None])
        rows = dict(zip(("logits", "cams", "entropies"), rows, strict=True))
        results.append((head, run_cam_entropy(form, inputs), rows))
    (clean_head, clean_cam, clean_rows), (head, cam, rows) = results
    assert torch.equal(rows.pop("logits"), clean_rows["logits"])
    for clean, spoilt, names in (
        (clean_head, head, ("loss", "classification", "dF")),
        (clean_cam, cam, ("cam", "entropy", "dF")),
        (clean_rows, rows, tuple(rows)),
    ):
        for name in names:
            assert spoilt[name][1].isnan().all(), name
            assert torch.equal(spoilt[name][others], clean[name][others]), name
    # The sample belongs to no row of the CAM's weight; a sum over the batch holds it, as the loss.
    assert torch.equal(cam["dW"][[0, 2]], clean_cam["dW"][[0, 2]])
    assert cam["dW"][1].count_nonzero() == 0
    assert head["dW"].isnan().any()
    assert head["db"].isnan().any()
