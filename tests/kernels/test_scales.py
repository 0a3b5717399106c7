"""Scales of the gradients: they act before rounding, once, and cost no pass over the features."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from focus.kernels import eager, focus_head, operators

from .cases import (
    EAGER,
    FOCUS_HEAD,
    Case,
    Form,
    Inputs,
    head_options,
    make_inputs,
    random_like,
    run_focus_head,
)

CASE: Case = {"batch": 6, "channels": 40, "grid": (4, 4), "classes": 3}
CASE |= {"level": "match", "cam_class": "true", "maps": "masked maps"}
GRADIENTS = ("dF", "dW", "db")
LAYOUTS = ("nchw", "channels_last")


def tiny_options(inputs: Inputs, factor: float) -> dict[str, Any]:
    """Options whose loss, and so each gradient, is ``factor`` times as large."""
    options = head_options(CASE, inputs)
    return options | {n: v * factor for n, v in options.items() if n.endswith("_weight")}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_grad_scale_acts_before_all_three_gradients_are_rounded(form: Form, layout: str) -> None:
    case = CASE | {"dtype": torch.float16, "weight_dtype": "own", "layout": layout}
    inputs = make_inputs(case, form.device)
    plain = run_focus_head(form, inputs, **tiny_options(inputs, 1))
    small = tiny_options(inputs, 2.0**-30)
    lost = run_focus_head(form, inputs, **small)
    scale = torch.tensor(2.0**30, device=form.device)
    scaled = run_focus_head(form, inputs, grad_scale=scale, **small)
    for name in GRADIENTS:
        assert lost[name].dtype == torch.float16
        assert lost[name].count_nonzero() == 0, name
        # Powers of two round nothing, so nothing but the order of scaling can differ.
        assert torch.equal(scaled[name], plain[name]), name


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_backward_applies_grad_scale_once_and_so_does_a_second(form: Form, reduction: str) -> None:
    inputs = make_inputs(CASE, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    options = head_options(CASE, inputs) | {"reduction": reduction}
    with form.active():
        loss = focus_head(*leaves, inputs.index, **options).loss
        upstream = random_like(loss)
        expected = torch.autograd.grad(loss, leaves, 32 * upstream)
        scale = torch.tensor(8.0, device=form.device)
        loss = focus_head(*leaves, inputs.index, grad_scale=scale, **options).loss
        for _ in range(2):
            grads = torch.autograd.grad(loss, leaves, 4 * upstream, retain_graph=True)
            for grad, value in zip(grads, expected, strict=True):
                assert torch.equal(grad, value)
        assert scale == 8


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_scale_of_a_grad_scaler_loses_no_more_than_scaling_before_rounding(
    form: Form, layout: str
) -> None:
    inputs = make_inputs(CASE | {"dtype": torch.float16, "layout": layout}, form.device)
    # Of the gradients, at 2^-24 the smallest float16 number, some survive when they are scaled.
    options = tiny_options(inputs, 2.0**-32)
    scaler = torch.amp.GradScaler(form.device, init_scale=2.0**18)
    features = inputs.features.requires_grad_()
    with form.active():
        loss = focus_head(features, inputs.weight, inputs.bias, inputs.index, **options).loss
        scaler.scale(loss).backward()
        wide = inputs.features.detach().float().requires_grad_()
        loss = focus_head(wide, inputs.weight, inputs.bias, inputs.index, **options).loss
        loss.backward()
    before = (wide.grad * 2.0**18).half()
    after = wide.grad.half() * 2.0**18

    def flushed(grad: Tensor) -> float:
        return float((grad == 0).double().mean())

    assert 0.05 < flushed(before) < 0.5
    assert flushed(after) > 0.99
    assert flushed(features.grad) == flushed(before)
    # The smallest step of float16.
    torch.testing.assert_close(features.grad, before, rtol=2.0**-10, atol=2.0**-24)


def tensors_in(tree: Any) -> list[Tensor]:
    """Without those of bytes, which the interpreter of Triton moves."""
    return [t for t in tree_leaves(tree) if torch.is_tensor(t) and t.dtype != torch.uint8]


def reads_or_writes(operator: torch._ops.OpOverload) -> bool:
    """Numbers of a tensor: no view of it (as set_ is, too) and no memory without a value."""
    name = operator._schema.name
    views = all(r.alias_info and not r.alias_info.is_write for r in operator._schema.returns)
    return not views and "empty" not in name and name != "aten::set_"


class Passes(TorchDispatchMode):
    """The torch calls that read or write a tensor of at least some size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.names: list[str] = []
        self.operators: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result, name = operator(*args, **(kwargs or {})), operator._schema.name
        if operator.namespace == "focus":
            self.operators.append((name, args))
            return result
        large = any(t.numel() >= self.size for t in tensors_in((args, kwargs, result)))
        if large and reads_or_writes(operator):
            self.names.append(name)
        return result


def backward_passes(
    form: Form, inputs: Inputs, upstream: Tensor | None, **options: Any
) -> tuple[list[str], list[str]]:
    """Passes of a backward outside the operator, and inside it."""
    leaves = [t.detach().requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    outside, inside = Passes(inputs.features.numel()), Passes(inputs.features.numel())
    with form.active():
        loss = focus_head(*leaves, inputs.index, **head_options(CASE, inputs), **options).loss
        with outside:
            torch.autograd.grad(loss, leaves, upstream)
        ((name, arguments),) = outside.operators
        assert name == "focus::focus_head_backward"
        *arguments, features, weight, bias, _, _ = arguments
        _, backward = operators.focus_head_form(form.backend)
        with torch.no_grad(), inside:
            backward(*arguments, (features, weight, bias))
    return outside.names, inside.names


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_no_scale_costs_a_pass_over_the_features(
    form: Form, dtype: torch.dtype, layout: str
) -> None:
    inputs = make_inputs(CASE | {"dtype": dtype, "layout": layout}, form.device)
    scale = torch.tensor(3.0, device=form.device)
    none, plain = backward_passes(form, inputs, None)
    assert none == []
    # In torch calls there are some: the products for dF and dW. A kernel needs no other.
    assert bool(plain) == (form.backend == "eager"), plain
    assert backward_passes(form, inputs, scale) == ([], plain)
    assert backward_passes(form, inputs, None, grad_scale=scale) == ([], plain)
    each = torch.linspace(-1, 2, CASE["batch"], device=form.device)
    assert backward_passes(form, inputs, each, reduction="none", grad_scale=scale) == ([], plain)


class Touches(TorchDispatchMode):
    """The torch calls that read the features, and those that make a tensor of their size."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features, self.known = features, {features.untyped_storage().data_ptr()}
        self.reads: list[str] = []
        self.made: list[str] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name
        before, result = tensors_in((args, kwargs)), operator(*args, **(kwargs or {}))
        own = self.features.untyped_storage().data_ptr()
        if reads_or_writes(operator) and own in map(address, before):
            self.reads.append(name)
        self.known |= set(map(address, before))
        large = [t for t in tensors_in(result) if t.numel() >= self.features.numel()]
        if not self.known >= set(map(address, large)):
            self.made.append(name)
        return result


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("classes", [3, 5, 17])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_what_is_frozen_costs_nothing(form: Form, layout: str, classes: int) -> None:
    """No tensor of the features' size for a frozen backbone, no read of them for a frozen head."""
    inputs = make_inputs(CASE | {"layout": layout, "classes": classes}, form.device)
    weight = inputs.weight.requires_grad_()
    calls = Passes(inputs.features.numel())
    with form.active():
        with calls:
            leaves = inputs.features, weight, inputs.bias
            focus_head(*leaves, inputs.index, **head_options(CASE, inputs)).loss.backward()
        (_, first), (name, arguments) = calls.operators
        assert name == "focus::focus_head_backward"
        *arguments, features, weight, bias, _, _ = arguments
        assert (features, weight, bias) == (False, True, False)
        forward, backward = operators.focus_head_form(form.backend)

        def touches(function, *arguments) -> Touches:
            with torch.no_grad(), Touches(inputs.features) as found:
                function(*arguments)
            return found

        assert touches(forward, *first[:-1]).made == []
        assert touches(backward, *arguments, (False, True, True)).made == []
        frozen = touches(backward, *arguments, (True, False, False))
        assert (len(frozen.made), frozen.reads) == (1, [])
        # With both, torch calls read the features and are seen to; a kernel's reads are not.
        both = touches(backward, *arguments, (True, True, True))
        assert bool(both.reads) == (form.backend == "eager")


@pytest.mark.parametrize("form", [EAGER])
def test_a_pass_over_the_features_is_seen(form: Form) -> None:
    features = make_inputs(CASE, form.device).features
    with Passes(features.numel()) as passes:
        out = eager.empty_gradient(features)
        features.flatten(2).transpose(1, 2)
        features[:1] * 2
        assert passes.names == []
        torch.mul(features, 2, out=out)
        features.sum()
        out.copy_(features)
    assert passes.names == ["aten::mul", "aten::sum", "aten::copy_"]


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_features_gradient_is_rounded_to_nearest(form: Form) -> None:
    inputs = make_inputs(CASE | {"dtype": torch.bfloat16}, form.device)
    wide = replace(inputs, features=inputs.features.float())
    options = head_options(CASE, inputs)
    found, exact = (run_focus_head(form, i, **options)["dF"] for i in (inputs, wide))
    # The sums' own rounding moves few across the middle between neighbours; cut off, half differ.
    assert (found == exact.bfloat16()).float().mean() > 0.98
