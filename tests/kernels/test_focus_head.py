"""``focus_head`` by hand-worked numbers, and its promises."""

import math

import pytest
import torch
from torch.nn import functional

from focus.kernels import cam_entropy, focus_head
from focus.kernels.terms import WEIGHTS, Terms
from focus.metrics.cams import sum_entropy

from . import cases
from .cases import (
    FORMS,
    REFERENCE,
    SHAPES,
    WITH_REFERENCE,
    Form,
    head_options,
    make_inputs,
    run_focus_head,
)

SMALL: cases.Case = {"batch": 5, "channels": 6, "grid": (3, 3), "classes": 3}
SMALL |= {"focus_level": "match", "cam_class": "true", "maps": "masked maps"}


@pytest.mark.parametrize("form", WITH_REFERENCE)
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
        out = focus_head(*leaves, target, saliency=human, focus_level="match", **weights)
        grads = [g.cpu() for g in torch.autograd.grad(out.loss, leaves)]

    q = 1 / (1 + math.exp(log3 / 4))  # probability of class 1
    h = math.log(12) / 2 / log4  # p = (1, 3, 1, 1) / 6
    h_human = math.log(2) / log4
    terms = {"classification": -math.log(1 - q), "focus": h - h_human, "saliency": 1 / 4}
    assert terms.keys() == {*Terms._fields}, "a number worked out by hand for each term"
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


@pytest.mark.parametrize("term", Terms._fields)
@pytest.mark.parametrize("form", FORMS)
def test_each_term_alone_is_as_its_definition(form: Form, term: str) -> None:
    alone = dict.fromkeys(WEIGHTS, 0.0) | {f"{term}_weight": 1.7}
    cases.assert_focus_head(form, SMALL, **alone)
    inputs = make_inputs(SMALL).double()
    options = head_options(SMALL, inputs) | alone
    slope = run_focus_head(REFERENCE, inputs, **options)["dF"]
    assert slope.count_nonzero(), f"{term} has no case: head_options gives it no gradient"


@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_hand_worked_sum_entropy(form: Form) -> None:
    log3, log4 = math.log(3), math.log(4)
    # Less the minimum and divided by the sum: (0, 1, 3, 0) / 4; one cell alone; none, for a CAM
    # that is flat up to rounding.
    cams = torch.tensor([[-1.0, 0, 2, -1], [5, 5, 5, 9], [1, 1, 1, 1 + 2**-20]])
    features = cams.view(3, 1, 2, 2).to(form.device).requires_grad_()
    weight = torch.ones(1, 1, device=form.device)
    target = torch.zeros(3, dtype=torch.int64, device=form.device)
    human = torch.tensor([0.0, 1, 1, 0], device=form.device).view(1, 2, 2).expand(3, 2, 2)
    options = {"entropy": "sum", "focus_weight": 2.0, "reduction": "none", "temperature": 0.1}
    with form.active():
        out = focus_head(features, weight, None, target, **options)
        (grad,) = torch.autograd.grad(out.loss, features, torch.ones_like(out.loss))
        matched = focus_head(
            features, weight, None, target, saliency=human, focus_level="match", **options
        )
        _, softmax = cam_entropy(features, weight, target, temperature=0.1)
    h = torch.tensor([1 - 0.75 * log3 / log4, 0, 1])
    torch.testing.assert_close(out.focus.cpu(), h, rtol=1e-6, atol=1e-6)
    assert sum_entropy(cams.view(3, 2, 2).numpy()) == pytest.approx(h.numpy(), abs=1e-6)
    torch.testing.assert_close(matched.focus.cpu(), (h - 0.5).abs(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.entropy, softmax.detach())  # what is reported as the entropy
    # dh/dz_p = -(log p + h log 4) / (4 log 4) where p > 0; the two cells at the minimum, which is
    # taken from all, share minus the sum of these.
    expected = torch.tensor([[-1.0, 3, -1, -1], [0] * 4, [0] * 4]) * log3 / 16 / log4
    torch.testing.assert_close(grad.cpu().view(3, 4), 2 * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_classification_is_torchs_cross_entropy(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float64}, form.device)
    logits = inputs.features.mean((2, 3)) @ inputs.weight.double().T + inputs.bias
    factors = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64, device=form.device)
    for class_weight, smoothing in ((None, 0.0), (factors, 0.1)):
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


@pytest.mark.parametrize("form", FORMS)
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


@pytest.mark.parametrize("form", FORMS)
def test_loss_is_linear_in_the_batch(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float64}, form.device)
    options = head_options(SMALL, inputs)
    whole = run_focus_head(form, inputs, **options)
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        per_sample = ("features", "index", "saliency", "mask")
        part = {n: t[rows] if n in per_sample else t for n, t in vars(inputs).items()}
        part = cases.Inputs(**part)
        parts.append(run_focus_head(form, part, **head_options(SMALL, part)))
    assert 0 < int(inputs.mask.sum()) < 5
    for name in ("loss", "dW", "db"):
        # The gradients of both runs carry the upstream gradient of a scalar, which is the same.
        mean = (2 * parts[0][name] + 3 * parts[1][name]) / 5
        torch.testing.assert_close(whole[name], mean, check_dtype=False)


def tiny_options(inputs: cases.Inputs, factor: float) -> dict:
    """Return options whose loss, and so each gradient, is ``factor`` times as large."""
    options = head_options(SMALL, inputs)
    return options | {n: v * factor for n, v in options.items() if n.endswith("_weight")}


@pytest.mark.parametrize("form", FORMS)
def test_the_scale_of_a_grad_scaler_acts_before_rounding(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.float16, "channels": 40}, form.device)
    # Of the gradients, at 2^-24 the smallest float16 number, some survive when they are scaled.
    options = tiny_options(inputs, 2.0**-32)
    scaler = torch.amp.GradScaler(form.device, init_scale=2.0**18)
    features = inputs.features.requires_grad_()
    with form.active():
        loss = focus_head(features, inputs.weight, inputs.bias, inputs.index, **options).loss
        scaler.scale(loss).backward()
        wide = inputs.features.detach().float().requires_grad_()
        focus_head(wide, inputs.weight, inputs.bias, inputs.index, **options).loss.backward()
    before = (wide.grad * 2.0**18).half()
    assert 0.05 < float((before == 0).double().mean()) < 0.5
    assert torch.equal(features.grad == 0, before == 0)
    # The smallest step of float16.
    torch.testing.assert_close(features.grad, before, rtol=2.0**-10, atol=2.0**-24)


@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_empty_batch(form: Form) -> None:
    case = SMALL | {"batch": 0}
    inputs = make_inputs(case, form.device)
    for reduction, loss in (("mean", 0), ("sum", 0), ("none", [])):
        out = run_focus_head(form, inputs, reduction=reduction, **head_options(case, inputs))
        assert out["loss"].tolist() == loss
        assert out["dF"].shape == (0, 6, 3, 3)
        assert out["dW"].count_nonzero() == out["db"].count_nonzero() == 0


@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_left_alone_and_gradients_lie_and_are_typed_as_they_are(form: Form) -> None:
    for layout, dtype in zip(SHAPES["layout"], (*SHAPES["dtype"], torch.bfloat16), strict=True):
        case = SMALL | {"layout": layout, "dtype": dtype, "weight_dtype": "own"}
        inputs = make_inputs(case, form.device)
        before = {name: (t.clone(), t._version) for name, t in vars(inputs).items()}
        last = layout == "channels_last"
        memory_format = torch.channels_last if last else torch.contiguous_format
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        head = run_focus_head(form, inputs, **head_options(SMALL, inputs))
        for out in (head, cases.run_cam_entropy(form, inputs)):
            for name, (values, version) in before.items():
                tensor = getattr(inputs, name)
                assert torch.equal(tensor, values), name
                assert tensor._version == version, name
            assert out["dF"].is_contiguous(memory_format=memory_format), layout
            for name, tensor in out.items():
                assert tensor.dtype == (dtype if name in ("dF", "dW", "db") else wide), name


@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_samples_without_a_map_have_no_map_terms(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    saliency, mask = inputs.saliency.clone(), torch.ones_like(inputs.mask)
    saliency[0], mask[1], saliency[1] = 0, False, float("nan")
    options = {"saliency": saliency, "saliency_mask": mask, "saliency_weight": 1.0}
    options |= {"focus_level": "match", "focus_weight": 1.0, "classification_weight": 0.0}
    out = run_focus_head(form, inputs, **options)
    # An all-zero map is a map for the saliency term, but has no entropy to match.
    assert (out["focus"] == 0).tolist() == [True, True, False, False, False]
    assert (out["saliency"] == 0).tolist() == [False, True, False, False, False]
    assert (out["dF"].flatten(1) == 0).all(1).tolist() == [False, True, False, False, False]
    assert out["dW"].isfinite().all()


@pytest.mark.parametrize("focus_level", ["match", "hinge"])
@pytest.mark.parametrize("form", WITH_REFERENCE)
def test_no_gradient_at_the_target_entropy(form: Form, focus_level: str) -> None:
    inputs = make_inputs(SMALL, form.device)
    options = {"focus_level": focus_level, "focus_weight": 1.0, "classification_weight": 0.0}
    entropy = run_focus_head(form, inputs, entropy_target=0.5, **options)["entropy"]
    out = run_focus_head(form, inputs, entropy_target=entropy, **options)
    assert out["focus"].count_nonzero() == 0
    assert out["dF"].count_nonzero() == 0
    below = run_focus_head(form, inputs, entropy_target=entropy + 0.01, **options)
    assert bool(below["dF"].count_nonzero()) == (focus_level == "match")


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_the_features_is_rounded_to_nearest(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.bfloat16, "channels": 40}, form.device)
    options = head_options(SMALL, inputs)
    rounded = run_focus_head(form, inputs, **options)["dF"]
    inputs.features = inputs.features.float()
    exact = run_focus_head(form, inputs, **options)["dF"]
    # The sums' own rounding moves few across the middle between neighbours; cut off, half differ.
    assert (rounded == exact.bfloat16()).float().mean() > 0.98
