"""``cam_entropy`` against the float64 reference, its gradients, and how it treats its inputs."""

import math

import pytest
import torch

from focus.kernels import cam_entropy

from .as_reference import assert_cam_entropy
from .cases import (
    CAM_ENTROPY,
    DTYPES,
    EAGER,
    EAGER_GPU,
    INTERPRETER,
    REFERENCE,
    SHAPES,
    TRITON_GPU,
    Case,
    Form,
    arrange,
    in_interpreter,
    in_pytorch,
    make_inputs,
    name_of,
    pairwise,
    run_cam_entropy,
)
from .tolerances import assert_close

SMALL: Case = {"batch": 4, "channels": 6, "grid": (3, 3), "classes": 3}
CORNERS = {
    "a sample of one number": {"batch": 1, "channels": 1, "grid": (1, 1), "classes": 1},
    "prime sizes": {"batch": 3, "channels": 1021, "grid": (7, 11), "classes": 5},
    "one row": {"batch": 2, "channels": 5, "grid": (1, 37), "classes": 2},
    "one column": {"batch": 2, "channels": 5, "grid": (37, 1), "classes": 2},
    "one sample, many classes": {"batch": 1, "channels": 4, "grid": (2, 2), "classes": 1000},
}


@pytest.mark.parametrize("case", pairwise(SHAPES, in_pytorch), ids=name_of)
@pytest.mark.parametrize("form", [EAGER, TRITON_GPU, EAGER_GPU])
def test_as_reference(form: Form, case: Case) -> None:
    assert_cam_entropy(form, case)


@pytest.mark.parametrize("case", pairwise(SHAPES, in_interpreter), ids=name_of)
@pytest.mark.parametrize("form", [INTERPRETER])
def test_as_reference_interpreted(form: Form, case: Case) -> None:
    assert_cam_entropy(form, case)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_as_reference_in_parts(layout: str, small_parts: None) -> None:
    assert_cam_entropy(Form("eager"), SMALL | {"batch": 7, "layout": layout})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_corners_as_reference(form: Form, corner: str, dtype: torch.dtype) -> None:
    assert_cam_entropy(form, CORNERS[corner] | {"dtype": dtype})


@pytest.mark.parametrize("temperature", [0.25, 1.0, 7.0, torch.tensor(2.5)], ids=float)
@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_temperature(form: Form, temperature) -> None:
    assert_cam_entropy(form, SMALL, temperature=temperature)


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_strided_weight_and_index(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    expected = run_cam_entropy(REFERENCE, inputs.double())
    inputs.weight = inputs.weight.T.contiguous().T
    inputs.index = torch.stack([inputs.index, inputs.index + 99], 1)[:, 0]
    for name, tensor in run_cam_entropy(form, inputs).items():
        assert_close(name, tensor, expected[name], torch.float32)


@pytest.mark.parametrize("used", [0, 1], ids=["cam", "entropy"])
@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_gradient_through_one_result_alone(form: Form, used: int) -> None:
    inputs = make_inputs(SMALL, form.device)
    gradients = {}
    for each, values in ((form, inputs), (REFERENCE, inputs.double())):
        leaves = values.features.requires_grad_(), values.weight.requires_grad_()
        with each.active():
            result = cam_entropy(*leaves, values.index)[used]
            upstream = torch.linspace(-1, 1, result.numel()).view_as(result).to(result)
            gradients[each] = torch.autograd.grad(result, leaves, upstream)
    for name, actual, expected in zip("FW", gradients[form], gradients[REFERENCE], strict=True):
        assert_close(f"d{name}", actual, expected, torch.float32)


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_the_entropy_may_be_changed_in_place(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    features = inputs.features.requires_grad_()
    grads = []
    for factor in (1.0, 2.0):
        with form.active():
            _, entropy = cam_entropy(features, inputs.weight, inputs.index)
            (grad,) = torch.autograd.grad(entropy.mul_(factor).sum(), features)
        grads.append(grad)
    torch.testing.assert_close(grads[1], 2 * grads[0])


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_second_backward_gives_the_same_gradients(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    leaves = inputs.features.requires_grad_(), inputs.weight.requires_grad_()
    with form.active():
        cam, entropy = cam_entropy(*leaves, inputs.index)
        loss = (cam.square().mean((1, 2)) * entropy).sum()
        first = torch.autograd.grad(loss, leaves, retain_graph=True)
        second = torch.autograd.grad(loss, leaves)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_same_bits_twice(form: Form, two_threads: None) -> None:
    inputs = make_inputs(SMALL | {"batch": 7, "channels": 300, "grid": (7, 7)}, form.device)
    first, second = run_cam_entropy(form, inputs), run_cam_entropy(form, inputs)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("layout", SHAPES["layout"])
@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_inputs_are_left_alone(form: Form, layout: str) -> None:
    inputs = make_inputs(SMALL | {"layout": layout}, form.device)
    before = {name: (t.clone(), t._version) for name, t in vars(inputs).items()}
    run_cam_entropy(form, inputs)
    for name, (values, version) in before.items():
        tensor = getattr(inputs, name)
        assert torch.equal(tensor, values), name
        assert tensor._version == version, name


@pytest.mark.parametrize("weight_dtype", ["float32", "own"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_types_of_results_and_gradients(form: Form, dtype: torch.dtype, weight_dtype: str) -> None:
    case = SMALL | {"dtype": dtype, "weight_dtype": weight_dtype}
    inputs = make_inputs(case, form.device)
    out = run_cam_entropy(form, inputs)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (out["cam"].dtype, out["entropy"].dtype) == (wide, wide)
    assert (out["dF"].dtype, out["dW"].dtype) == (dtype, inputs.weight.dtype)


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_a_narrow_weight_beside_wide_features(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float64}, form.device)
    inputs.weight = inputs.weight.bfloat16()
    expected = run_cam_entropy(REFERENCE, inputs.double())["dW"]
    actual = run_cam_entropy(form, inputs)["dW"]
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_gradient_of_features_has_their_layout(form: Form) -> None:
    features = make_inputs(SMALL, form.device).features
    for layout, memory_format in (
        ("nchw", torch.contiguous_format),
        ("offset", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        inputs = make_inputs(SMALL, form.device)
        inputs.features = arrange(features, layout)
        grad = run_cam_entropy(form, inputs)["dF"]
        assert grad.is_contiguous(memory_format=memory_format), layout


@pytest.mark.parametrize("wanted", ["features", "weight"])
@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_frozen_input_has_no_gradient_and_the_other_the_same(form: Form, wanted: str) -> None:
    inputs = make_inputs(SMALL, form.device)
    both = []
    for frozen in ([], [n for n in ("features", "weight") if n != wanted]):
        leaves = {
            n: getattr(inputs, n).detach().requires_grad_(n not in frozen)
            for n in ("features", "weight")
        }
        with form.active():
            cam, entropy = cam_entropy(leaves["features"], leaves["weight"], inputs.index)
            (cam.square().sum((1, 2)) * entropy).sum().backward()
        both.append(leaves[wanted].grad)
        assert all(leaves[n].grad is None for n in frozen)
    assert torch.equal(*both)


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_without_gradient_nothing_is_recorded(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    inputs.features.requires_grad_()
    with form.active(), torch.no_grad():
        cam, entropy = cam_entropy(inputs.features, inputs.weight, inputs.index)
    assert not cam.requires_grad
    assert not entropy.requires_grad


@pytest.mark.parametrize("form", CAM_ENTROPY)
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


@pytest.mark.parametrize("form", [*CAM_ENTROPY, pytest.param(REFERENCE, id="reference")])
def test_entropy_of_two_cells_is_a_share_of_log_2(form: Form) -> None:
    # z = (0, log 3), so p = (1, 3) / 4 and H = 2 log 2 - 3/4 log 3.
    cells = [[[[0.0, math.log(3)]]]]
    features = torch.tensor(cells, dtype=torch.float64, device=form.device).requires_grad_()
    index = torch.zeros(1, dtype=torch.int64, device=form.device)
    with form.active():
        weight = torch.ones(1, 1, dtype=torch.float64, device=form.device)
        _, entropy = cam_entropy(features, weight, index)
        (grad,) = torch.autograd.grad(entropy, features, torch.ones_like(entropy))
    assert entropy.item() == pytest.approx(2 - 0.75 * math.log2(3), abs=1e-12)
    # dh/dz = -p (z - 3/4 log 3) / log 2, of either cell 3/16 log2(3) but for the sign.
    slope = 3 / 16 * math.log2(3)
    assert grad.flatten().tolist() == pytest.approx([slope, -slope], abs=1e-12)
