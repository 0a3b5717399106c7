"""``focus_head`` by hand-worked numbers, against the float64 reference, and its promises."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from focus.kernels import focus_head

from .as_reference import assert_focus_head
from .cases import (
    CAM_CLASSES,
    EAGER,
    EAGER_GPU,
    FOCUS_HEAD,
    HEAD,
    INTERPRETER,
    LEVELS,
    MAPS,
    REFERENCE,
    SHAPES,
    TRITON_GPU,
    Case,
    Form,
    Inputs,
    head_options,
    in_interpreter,
    in_pytorch,
    make_inputs,
    name_of,
    pairwise,
    random_like,
    run_focus_head,
)
from .tolerances import assert_close

SMALL: Case = {"batch": 5, "channels": 6, "grid": (3, 3), "classes": 3}
SMALL |= {"level": "match", "cam_class": "true", "maps": "masked maps"}
TERMS = ("classification", "focus", "saliency")


@pytest.mark.parametrize("case", pairwise(HEAD, in_pytorch), ids=name_of)
@pytest.mark.parametrize("form", [EAGER, EAGER_GPU])
def test_as_reference(form: Form, case: Case) -> None:
    inputs = make_inputs(case, form.device)
    assert_focus_head(form, inputs, head_options(case, inputs) | {"reduction": "none"})


@pytest.mark.parametrize("case", pairwise(HEAD, in_interpreter), ids=name_of)
@pytest.mark.parametrize("form", [INTERPRETER, TRITON_GPU])
def test_as_reference_in_triton(form: Form, case: Case) -> None:
    inputs = make_inputs(case, form.device)
    assert_focus_head(form, inputs, head_options(case, inputs) | {"reduction": "none"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("cam_class", CAM_CLASSES)
@pytest.mark.parametrize("batch", [0, 1, 7])
def test_as_reference_in_parts(
    batch: int, cam_class: str, layout: str, dtype: torch.dtype, small_parts: None
) -> None:
    case = SMALL | {"batch": batch, "cam_class": cam_class, "layout": layout, "dtype": dtype}
    inputs = make_inputs(case)
    assert_focus_head(Form("eager"), inputs, head_options(case, inputs) | {"reduction": "none"})


# Tiles as a GPU has them, more than one in each direction, and the edges of vectors.
CORNERS: tuple[Case, ...] = (
    {"batch": 5, "channels": 72, "grid": (7, 7), "classes": 2, "dtype": torch.bfloat16},
    {"batch": 4, "channels": 40, "grid": (7, 7), "classes": 3, "dtype": torch.float32},
    {"batch": 3, "channels": 24, "grid": (5, 13), "classes": 4, "dtype": torch.float16},
    {"batch": 2, "channels": 12, "grid": (10, 10), "classes": 2, "dtype": torch.bfloat16},
    {"batch": 5, "channels": 20, "grid": (3, 3), "classes": 1, "dtype": torch.float64},
    {"batch": 2, "channels": 40, "grid": (7, 7), "classes": 5, "dtype": torch.bfloat16},
    # More than one group of samples.
    {"batch": 17, "channels": 24, "grid": (5, 5), "classes": 16, "dtype": torch.float16},
    {"batch": 17, "channels": 20, "grid": (3, 3), "classes": 70, "dtype": torch.float32},
    # More than one block of cells, the last one cut.
    {"batch": 5, "channels": 20, "grid": (12, 13), "classes": 2, "dtype": torch.float32},
    {"batch": 2, "channels": 19, "grid": (9, 15), "classes": 3, "dtype": torch.bfloat16},
    {"batch": 2, "channels": 20, "grid": (9, 15), "classes": 6, "dtype": torch.float32},
    {"batch": 2, "channels": 20, "grid": (16, 17), "classes": 17, "dtype": torch.float32},
)


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "offset"])
@pytest.mark.parametrize("corner", CORNERS, ids=name_of)
def test_as_reference_with_the_tiles_of_a_gpu(corner: Case, layout: str) -> None:
    case = SMALL | corner | {"layout": layout}
    inputs = make_inputs(case)
    assert_focus_head(Form("triton", tile_scale=1), inputs, head_options(case, inputs))


@pytest.mark.parametrize("classes", [3, 17])
@pytest.mark.parametrize("cam_class", CAM_CLASSES)
@pytest.mark.parametrize("splits", [1, 2, 5, 100])
def test_any_number_of_splits_gives_the_same(splits: int, cam_class: str, classes: int) -> None:
    from focus.kernels import triton_maps

    case = SMALL | {"batch": 3, "channels": 100, "grid": (5, 5), "classes": classes}
    case |= {"dtype": torch.float64}
    case |= {"cam_class": cam_class}
    inputs = make_inputs(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_maps, "default_splits", lambda *_: splits)
        form = Form("triton", tile_scale=1)
        assert_focus_head(form, inputs, head_options(case, inputs))


@pytest.mark.parametrize("programs", [1, 3, 1000])
def test_any_number_of_programs_gives_the_same(programs: int) -> None:
    from focus.kernels import triton_gradient_few

    case = SMALL | {"batch": 7, "channels": 72, "grid": (5, 5), "dtype": torch.float64}
    inputs = make_inputs(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_gradient_few, "PROGRAMS", programs)
        form = Form("triton", tile_scale=1)
        assert_focus_head(form, inputs, head_options(case, inputs))


OPTIONS = {
    "level": LEVELS,
    "cam_class": CAM_CLASSES,
    "maps": MAPS,
    "reduction": ("mean", "sum", "none"),
    "class_weight": (None, (0.5, 2.0, 0.0)),
    "label_smoothing": (0.0, 0.2),
}


@pytest.mark.parametrize("choice", pairwise(OPTIONS, bool), ids=name_of)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_options_as_reference(form: Form, choice: Case) -> None:
    case = SMALL | choice
    inputs = make_inputs(case, form.device)
    options = head_options(case, inputs) | {
        "reduction": choice["reduction"],
        "label_smoothing": choice["label_smoothing"],
        "class_weight": choice["class_weight"]
        and torch.tensor(choice["class_weight"], device=form.device),
    }
    assert_focus_head(form, inputs, options)


def strided(tensor: Tensor) -> Tensor:
    """The same values in every other element of its storage, NaN or nonsense between them."""
    filler = tensor.new_full(tensor.shape, float("nan") if tensor.is_floating_point() else 1)
    return torch.stack([tensor, filler], -1)[..., 0]


def expanded(tensor: Tensor) -> Tensor:
    """The first entry for all, with stride 0."""
    return tensor[:1].expand_as(tensor)


@pytest.mark.parametrize("classes", [2, 3, 17])
@pytest.mark.parametrize("arranged", [strided, expanded])
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_small_tensors_of_any_strides_as_reference(
    form: Form, arranged: Callable[[Tensor], Tensor], classes: int
) -> None:
    """Kernels read all but features and weight one element after the other."""
    case = SMALL | {"classes": classes, "maps": "masked maps", "weight_dtype": "float32"}
    inputs = make_inputs(case, form.device)
    for name in ("bias", "index", "saliency", "mask"):
        setattr(inputs, name, arranged(getattr(inputs, name)))
    inputs.weight = inputs.weight.T.contiguous().T
    options = head_options(case, inputs) | {
        "class_weight": arranged(torch.linspace(0.5, 2, classes, device=form.device)),
        "entropy_target": arranged(torch.linspace(0.3, 0.9, case["batch"], device=form.device)),
    }
    assert not inputs.bias.is_contiguous()
    for reduction in ("mean", "none"):
        assert_focus_head(form, inputs, options | {"reduction": reduction})
    of_map = {name: value for name, value in options.items() if name != "entropy_target"}
    assert_focus_head(form, inputs, of_map)
    _upstream_of_any_strides(form, inputs, options, arranged)


def _upstream_of_any_strides(
    form: Form, inputs: Inputs, options: dict[str, Any], arranged: Callable[[Tensor], Tensor]
) -> None:
    leaves = [t.detach().requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    with form.active():
        loss = focus_head(*leaves, inputs.index, **options, reduction="none").loss
        upstream = arranged(random_like(loss))
        found = torch.autograd.grad(loss, leaves, upstream, retain_graph=True)
        expected = torch.autograd.grad(loss, leaves, upstream.contiguous())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_entropy_target_of_each_sample_as_reference(form: Form, maps: str) -> None:
    case = SMALL | {"maps": maps}
    inputs = make_inputs(case, form.device)
    target = torch.linspace(0.3, 0.9, case["batch"], device=form.device)
    assert_focus_head(form, inputs, head_options(case, inputs) | {"entropy_target": target})


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_tensors_for_numbers_give_the_same(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    numbers = head_options(SMALL, inputs) | {"entropy_target": 0.4, "label_smoothing": 0.1}
    tensors = {n: torch.tensor(v) if isinstance(v, float) else v for n, v in numbers.items()}
    first = run_focus_head(form, inputs, **numbers)
    second = run_focus_head(form, inputs, **tensors)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_hand_worked_numbers(form: Form) -> None:
    # The CAM of class 0 is z = (0, L, 0, 0) with L = log 3; class 1 has the logit 0.
    log3, log4 = math.log(3), math.log(4)
    features = torch.tensor([[[0, log3, 0, 0], [1, -1, 0.5, -0.5]]], dtype=torch.float64)
    leaves = [features.view(1, 2, 2, 2), torch.eye(2).double(), torch.zeros(2).double()]
    leaves = [leaf.to(form.device).requires_grad_() for leaf in leaves]
    human = torch.tensor([[[0.0, 1], [1, 0]]], device=form.device)
    target = torch.zeros(1, dtype=torch.int64, device=form.device)
    a, b, c = 0.5, 2.0, 3.0
    weights = {"classification_weight": a, "focus_weight": b, "saliency_weight": c}
    with form.active():
        out = focus_head(*leaves, target, saliency=human, level="match", **weights)
        grads = [g.cpu() for g in torch.autograd.grad(out.loss, leaves)]

    q = 1 / (1 + math.exp(log3 / 4))  # probability of class 1
    h = math.log(12) / 2 / log4  # p = (1, 3, 1, 1) / 6
    h_human = math.log(2) / log4
    terms = {"classification": -math.log(1 - q), "focus": h - h_human, "saliency": 1 / 4}
    for name, value in terms.items():
        assert getattr(out, name).item() == pytest.approx(value, rel=1e-12), name
    assert out.entropy.item() == pytest.approx(h, rel=1e-12)
    loss = a * terms["classification"] + b * terms["focus"] + c * terms["saliency"]
    assert out.loss.item() == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(out.logits.cpu(), torch.tensor([[log3 / 4, 0]]).double())
    torch.testing.assert_close(out.cam.cpu().flatten(), features[0, 0])

    # dh/dz = -p (z - L/2) / log 4. The min-max map (0, 1, 0, 0) errs by -1 in cell 2 alone, whose
    # slope there is -2/4 / L, and +2/4 / L by the minimum, shared by the three cells at it.
    of_entropy = torch.tensor([1 / 6, -1 / 2, 1 / 6, 1 / 6]).double() * log3 / 2 / log4
    of_saliency = torch.tensor([1 / 6, 0, -1 / 2 + 1 / 6, 1 / 6]).double() / log3
    g = b * of_entropy + c * of_saliency
    pooled = features[0].mean(1)
    dlogits = a * torch.tensor([-q, q]).double()
    torch.testing.assert_close(grads[0][0, 0].flatten(), g + dlogits[0] / 4)
    torch.testing.assert_close(grads[0][0, 1].flatten(), (dlogits[1] / 4).expand(4))
    torch.testing.assert_close(grads[1][0], features[0] @ g + dlogits[0] * pooled)
    torch.testing.assert_close(grads[1][1], dlogits[1] * pooled)
    torch.testing.assert_close(grads[2], dlogits)


@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_contrast_is_the_row_minus_the_mean_of_the_others(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    with form.active():
        out = focus_head(
            inputs.features, inputs.weight, None, inputs.index, cam_class="contrast", focus_weight=1
        )
    for b, k in enumerate(inputs.index.tolist()):
        others = [inputs.weight[i] for i in range(3) if i != k]
        cam = torch.einsum("c,chw->hw", inputs.weight[k] - sum(others) / 2, inputs.features[b])
        torch.testing.assert_close(out.cam[b], cam, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_predicted_class_counts_the_bias_and_takes_the_lowest_of_a_tie(form: Form) -> None:
    features = torch.ones(1, 1, 2, 2, device=form.device)
    weight = torch.tensor([[0.0], [2.0], [1.0], [2.0]], device=form.device)
    target = torch.zeros(1, dtype=torch.int64, device=form.device)
    with form.active():
        for bias, predicted in (([0, 0, 0, 0], 1), ([0, 0, 5, 0], 2), ([2, 0, 1, 0], 0)):
            bias = torch.tensor(bias, dtype=torch.float32, device=form.device)
            out = focus_head(features, weight, bias, target, cam_class="predicted")
            assert (out.cam == weight[predicted]).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_classification_is_torchs_cross_entropy(form: Form, smoothing: float) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float64}, form.device)
    logits = inputs.features.mean((2, 3)) @ inputs.weight.double().T + inputs.bias
    factors = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64, device=form.device)
    for class_weight in (None, factors):
        options = {"weight": class_weight, "label_smoothing": smoothing}
        expected = functional.cross_entropy(logits, inputs.index, reduction="none", **options)
        for reduction in ("none", "sum"):
            out = run_focus_head(
                form,
                inputs,
                class_weight=class_weight,
                label_smoothing=smoothing,
                reduction=reduction,
            )
            torch.testing.assert_close(out["classification"], expected)
            loss = functional.cross_entropy(logits, inputs.index, reduction=reduction, **options)
            torch.testing.assert_close(out["loss"], loss)


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_mean_divides_by_the_batch_where_torch_divides_by_the_weights(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float64}, form.device)
    factors = torch.tensor([0.25, 4.0, 1.0], dtype=torch.float64, device=form.device)
    out = run_focus_head(form, inputs, class_weight=factors)
    plain = run_focus_head(form, inputs)
    torchs = functional.cross_entropy(out["logits"], inputs.index, weight=factors)
    batch = len(inputs.index)
    ratio = factors[inputs.index].sum() / batch
    assert abs(ratio - 1) > 0.1
    torch.testing.assert_close(out["loss"], torchs * ratio)
    torch.testing.assert_close(
        plain["loss"], functional.cross_entropy(plain["logits"], inputs.index)
    )


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_loss_is_linear_in_the_batch(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float64}, form.device)
    options = head_options(SMALL, inputs)
    whole = run_focus_head(form, inputs, **options)
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        per_sample = ("features", "index", "saliency", "mask")
        part = {n: t[rows] if n in per_sample else t for n, t in vars(inputs).items()}
        part = Inputs(**part)
        parts.append(run_focus_head(form, part, **head_options(SMALL, part)))
    assert 0 < int(inputs.mask.sum()) < 5
    for name in ("loss", "dW", "db"):
        # The gradients of both runs carry the upstream gradient of a scalar, which is the same.
        mean = (2 * parts[0][name] + 3 * parts[1][name]) / 5
        torch.testing.assert_close(whole[name], mean, check_dtype=False)


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_second_backward_gives_the_same_gradients(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    options = head_options(SMALL, inputs) | {"reduction": "none"}
    with form.active():
        loss = focus_head(*leaves, inputs.index, **options).loss
        first = torch.autograd.grad(loss, leaves, random_like(loss), retain_graph=True)
        kept = [grad.clone() for grad in first]
        second = torch.autograd.grad(loss, leaves, random_like(loss))
    for grad, before, after in zip(first, kept, second, strict=True):
        assert torch.equal(grad, before)
        assert torch.equal(before, after)


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_grad_scale_multiplies_gradients_and_not_the_loss(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    options = head_options(SMALL, inputs)
    plain = run_focus_head(form, inputs, **options)
    scale = torch.tensor(1024.0, device=form.device)
    scaled = run_focus_head(form, inputs, grad_scale=scale, **options)
    for name, tensor in plain.items():
        expected = tensor * 1024 if name in ("dF", "dW", "db") else tensor
        torch.testing.assert_close(scaled[name], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_grad_scale_acts_before_rounding(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float16}, form.device)
    # Gradients that float16 flushes to zero unless they are scaled first.
    options = head_options(SMALL, inputs)
    options |= {n: options[n] * 2.0**-26 for n in options if n.endswith("_weight")}
    scale = torch.tensor(2.0**26, device=form.device)
    assert run_focus_head(form, inputs, **options)["dF"].count_nonzero() == 0
    assert_focus_head(form, inputs, options | {"grad_scale": scale})
    assert run_focus_head(form, inputs, grad_scale=scale, **options)["dF"].all()


@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_only_the_loss_carries_gradient(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    with form.active():
        out = focus_head(*leaves, inputs.index, **head_options(SMALL, inputs))
    assert [name for name, t in out._asdict().items() if t.requires_grad] == ["loss"]


@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_masks_are_maps_of_0_and_1(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    masks = inputs.saliency > 0.5
    options = {"level": "match", "focus_weight": 0.5, "saliency_weight": 2.0}
    expected = run_focus_head(form, inputs, saliency=masks.to(inputs.features.dtype), **options)
    found = run_focus_head(form, inputs, saliency=masks, **options)
    assert all(map(torch.equal, found.values(), expected.values()))
    assert expected["saliency"].all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_empty_batch(form: Form, reduction: str) -> None:
    case = SMALL | {"batch": 0}
    inputs = make_inputs(case, form.device)
    out = run_focus_head(form, inputs, reduction=reduction, **head_options(case, inputs))
    assert out["loss"].tolist() == ([] if reduction == "none" else 0)
    assert out["dF"].shape == (0, 6, 3, 3)
    assert out["dW"].count_nonzero() == 0
    assert out["db"].count_nonzero() == 0


@pytest.mark.parametrize(
    "wanted", [("features",), ("weight", "bias"), ("bias",), ("features", "bias")]
)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_frozen_inputs_have_no_gradient_and_the_others_the_same(form: Form, wanted: tuple) -> None:
    inputs = make_inputs(SMALL, form.device)
    options = head_options(SMALL, inputs)
    names = ("features", "weight", "bias")
    every = run_focus_head(form, inputs, **options)
    all_grads = dict(zip(names, (every["dF"], every["dW"], every["db"]), strict=True))
    leaves = {n: getattr(inputs, n).detach().requires_grad_(n in wanted) for n in names}
    with form.active():
        out = focus_head(*leaves.values(), inputs.index, **options)
        out.loss.backward(random_like(out.loss))
    for name, leaf in leaves.items():
        if name in wanted:
            exact = all_grads[name].cpu().double()
            assert_close(name, leaf.grad, exact, torch.float32)
            # On a GPU each variant of a kernel is compiled, and its sums rounded, for itself.
            assert form.device == "cuda" or torch.equal(leaf.grad, all_grads[name]), name
        else:
            assert leaf.grad is None, name


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_frozen_features_cost_no_tensor_of_their_size(form: Form) -> None:
    inputs = make_inputs(SMALL | {"channels": 64, "grid": (8, 8)}, form.device)
    size = inputs.features.numel()
    made = []

    class LargeResults(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            result = operator(*args, **(kwargs or {}))
            held = {t.untyped_storage().data_ptr() for t in args if torch.is_tensor(t)}
            tensors = result if isinstance(result, tuple | list) else [result]
            for t in tensors:
                large = torch.is_tensor(t) and t.untyped_storage().nbytes() >= 4 * size
                if large and t.untyped_storage().data_ptr() not in held:
                    made.append(str(operator))
            return result

    for needed in (False, True):
        made.clear()
        leaves = inputs.features.detach().requires_grad_(needed), inputs.weight, inputs.bias
        leaves[1].requires_grad_()
        with form.active():
            loss = focus_head(*leaves, inputs.index, focus_weight=1).loss
            with LargeResults():
                loss.backward()
        assert bool(made) == needed, made


@pytest.mark.parametrize("layout", SHAPES["layout"])
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_inputs_are_left_alone(form: Form, layout: str) -> None:
    inputs = make_inputs(SMALL | {"layout": layout}, form.device)
    before = {name: (t.clone(), t._version) for name, t in vars(inputs).items()}
    run_focus_head(form, inputs, **head_options(SMALL, inputs))
    for name, (values, version) in before.items():
        tensor = getattr(inputs, name)
        assert torch.equal(tensor, values), name
        assert tensor._version == version, name


@pytest.mark.parametrize("weight_dtype", ["float32", "own"])
@pytest.mark.parametrize("dtype", SHAPES["dtype"], ids=str)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_types_of_results_and_gradients(form: Form, dtype: torch.dtype, weight_dtype: str) -> None:
    case = SMALL | {"dtype": dtype, "weight_dtype": weight_dtype}
    inputs = make_inputs(case, form.device)
    out = run_focus_head(form, inputs, **head_options(case, inputs))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    leaves = {"dF": inputs.features, "dW": inputs.weight, "db": inputs.bias}
    for name, tensor in out.items():
        assert tensor.dtype == (leaves[name].dtype if name in leaves else wide), name


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_gradient_of_features_has_their_layout(form: Form) -> None:
    for layout, memory_format in (
        ("nchw", torch.contiguous_format),
        ("offset", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        inputs = make_inputs(SMALL | {"layout": layout}, form.device)
        grad = run_focus_head(form, inputs, **head_options(SMALL, inputs))["dF"]
        assert grad.is_contiguous(memory_format=memory_format), layout


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_same_bits_twice(form: Form, two_threads: None) -> None:
    inputs = make_inputs(SMALL | {"batch": 7, "channels": 300, "grid": (7, 7)}, form.device)
    options = head_options(SMALL, inputs)
    first, second = (run_focus_head(form, inputs, **options) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_samples_without_a_map_have_no_map_terms(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    saliency, mask = inputs.saliency.clone(), torch.ones_like(inputs.mask)
    saliency[0], mask[1], saliency[1] = 0, False, float("nan")
    options = {"saliency": saliency, "saliency_mask": mask, "saliency_weight": 1.0}
    options |= {"level": "match", "focus_weight": 1.0, "classification_weight": 0.0}
    out = run_focus_head(form, inputs, **options)
    # An all-zero map is a map for the saliency term, but has no entropy to match.
    assert (out["focus"] == 0).tolist() == [True, True, False, False, False]
    assert (out["saliency"] == 0).tolist() == [False, True, False, False, False]
    assert (out["dF"].flatten(1) == 0).all(1).tolist() == [False, True, False, False, False]
    assert out["dW"].isfinite().all()


@pytest.mark.parametrize("level", ["match", "hinge"])
@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_a_cell_of_a_map_below_0_has_no_part_in_its_entropy(form: Form, level: str) -> None:
    """As bicubic resizing leaves them."""
    inputs = make_inputs(SMALL, form.device)
    options = {"level": level, "focus_weight": 1.0, "reduction": "none"}
    saliency = inputs.saliency.square()
    saliency[:, 0, :2], saliency[1, 2, 2] = 0, 0
    expected = run_focus_head(form, inputs, saliency=saliency, **options)
    saliency[:, 0, :2], saliency[1, 2, 2] = -1e-7, -1e-7
    found = run_focus_head(form, inputs, saliency=saliency, **options)
    assert expected["focus"].count_nonzero()
    for name in ("focus", "loss", "dF", "dW", "db"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", ["match", "hinge"])
@pytest.mark.parametrize("form", [*FOCUS_HEAD, pytest.param(REFERENCE, id="reference")])
def test_no_gradient_at_the_target_entropy(form: Form, level: str) -> None:
    inputs = make_inputs(SMALL, form.device)
    options = {"level": level, "focus_weight": 1.0, "classification_weight": 0.0}
    entropy = run_focus_head(form, inputs, entropy_target=0.5, **options)["entropy"]
    out = run_focus_head(form, inputs, entropy_target=entropy, **options)
    assert out["focus"].count_nonzero() == 0
    assert out["dF"].count_nonzero() == 0
    below = run_focus_head(form, inputs, entropy_target=entropy + 0.01, **options)
    assert bool(below["dF"].count_nonzero()) == (level == "match")
