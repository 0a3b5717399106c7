"""What a CUDA graph, and a step that never waits for the device, allow: no data on the host.

Without a GPU the operations run on torch's meta device, whose tensors have no data: every torch
call is watched there, and the launchers of the kernels hand their launches to ``bench.codegen``.
"""

import gc
import importlib
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from focus.kernels import cam_entropy, class_activation, eager, focus_head, operators

from .cases import (
    CAM_CLASSES,
    CAM_ENTROPY,
    EAGER_GPU,
    FOCUS_HEAD,
    LEVELS,
    MAPS,
    TRITON_GPU,
    Case,
    Form,
    head_options,
    make_inputs,
    name_of,
    pairwise,
    random_like,
)

# Torch calls that wait for the device, to read a value or a size from it.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::allclose",
    "aten::nonzero",
    "aten::argwhere",
    "aten::masked_select",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::repeat_interleave",
}
# A tensor of numbers on the host, which is then copied.
COPIES = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}


class Calls(TorchDispatchMode):
    """Refuses what waits for the device or leaves it; counts the rest."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name
        assert name not in WAITS, name
        tensors = [t for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)]
        if "index" in name:
            assert not any(t.dtype == torch.bool for t in tensors[1:]), f"{name} by a mask"
        device = torch.device((kwargs or {}).get("device") or self.device)
        assert device.type == self.device, f"{name} to {device}"
        result = operator(*args, **(kwargs or {}))
        tensors += [t for t in tree_leaves(result) if torch.is_tensor(t)]
        devices = {t.device.type for t in tensors}
        assert devices <= {self.device}, f"{name} on {devices}"
        self.count += 1
        return result


class Copies(TorchFunctionMode):
    """Refuses tensors of numbers on the host: of these, the meta device shows no copy."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in COPIES, function
        if function in INDEXING:
            index = args[1] if isinstance(args[1], tuple) else args[1:2]
            assert not any(isinstance(part, list) for part in index), "an index of numbers"
        return function(*args, **(kwargs or {}))


@contextmanager
def watched(device: str = "meta") -> Iterator[Calls]:
    with Copies(), Calls(device) as calls:
        yield calls
    assert calls.count


PLANTED: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda t: t.sum().item(),
    "float": lambda t: float(t[0]),
    "if": lambda t: bool(t[0] > 0),
    "nonzero": lambda t: t.nonzero(),
    "mask": lambda t: t[t > 0],
    "masked write": lambda t: t.index_put_((t > 0,), t[0]),
    "equal": lambda t: torch.equal(t, t),
    "unique": lambda t: t.unique(),
    "repeat": lambda t: t.repeat_interleave(t.long()),
    "to the host": lambda t: t.cpu(),
    "from the host": lambda t: t + torch.ones(3).to(t.device),
    "list": lambda t: torch.tensor([1.0, 2.0], device=t.device),
    "number": lambda t: torch.tensor(1.0),
    "new": lambda t: t.new_tensor([1.0, 2.0]),
    "numbers as index": lambda t: t[[0, 2]],
    "numbers as index of a write": lambda t: t[None].__setitem__((0, [0, 2]), 1.0),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_what_waits_for_the_device_is_found(fault: str) -> None:
    tensor = torch.empty(3, device="meta")
    with pytest.raises(AssertionError), watched():
        PLANTED[fault](tensor.neg())  # a call that may be: to see none is refused as well


OPTIONS = {
    "level": LEVELS,
    "cam_class": CAM_CLASSES,
    "maps": MAPS,
    "layout": ("nchw", "channels_last", "sliced"),
    "dtype": (torch.float32, torch.bfloat16),
}
SIZES: Case = {"batch": 5, "channels": 64, "grid": (3, 3), "classes": 3}


def on_meta(tensor: Tensor) -> Tensor:
    """Of the same shape and strides, with no data."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def meta_case(case: Case) -> tuple[Any, dict[str, Any]]:
    inputs = make_inputs(SIZES | case)
    options = head_options(SIZES | case, inputs) if "maps" in case else {}
    for name, tensor in vars(inputs).items():
        setattr(inputs, name, on_meta(tensor))
    return inputs, {n: on_meta(v) if torch.is_tensor(v) else v for n, v in options.items()}


@pytest.mark.parametrize("case", pairwise(OPTIONS, bool)[::2], ids=name_of)
def test_nothing_around_the_operators_waits(case: Case) -> None:
    """The public functions and their derivatives, with the operators as black boxes."""
    inputs, options = meta_case(case)
    options |= {"label_smoothing": 0.1, "class_weight": torch.empty(3, device="meta")}
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    for reduction in ("mean", "sum", "none"):
        options |= {"reduction": reduction, "grad_scale": torch.empty((), device="meta")}
        with watched():
            loss = focus_head(*leaves, inputs.index, **options).loss
            torch.autograd.grad(loss, leaves, torch.empty_like(loss))
    with watched():
        results = cam_entropy(*leaves[:2], inputs.index, temperature=0.7)
        torch.autograd.grad(results, leaves[:2], [torch.empty_like(t) for t in results])


@pytest.mark.parametrize("classes", [[2, 0], range(3), "each"], ids=str)
def test_class_activation_does_not_wait(classes) -> None:
    inputs, _ = meta_case({})
    if classes == "each":
        classes = torch.empty(5, 2, dtype=torch.int64, device="meta")
    with watched():
        logits, cams, _ = class_activation(inputs.features, inputs.weight, inputs.bias, classes)
    assert (logits.shape, cams.shape[:2]) == ((5, 3), (5, 3 if classes == range(3) else 2))


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("case", pairwise(OPTIONS, bool), ids=name_of)
def test_nothing_inside_the_operators_waits(
    case: Case, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "eager":
        run_operators(case, backend)
        return
    pytest.importorskip("triton", reason="triton is not installed")
    from triton import knobs
    from triton.runtime.driver import driver

    from bench import codegen

    if knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: the kernels are not those of a GPU")
    monkeypatch.setattr(driver, "_active", None)  # and put back, after capture() has set it
    launches = codegen.capture("sm_90", lambda: run_operators(case, backend))
    assert len(launches) >= 6  # a forward and two backwards, a forward and a backward, CAMs


def run_operators(case: Case, backend: str) -> None:
    """Forward and backward of both operators, and the CAMs, on tensors without data."""
    inputs, options = meta_case(case)
    scalars = torch.empty(5, device="meta")
    factors = torch.empty(len(inputs.weight), device="meta")
    target = torch.empty(len(inputs.index), device="meta")
    forward, backward = operators.focus_head_form(backend)
    with watched():
        head = forward(
            inputs.features,
            inputs.weight,
            inputs.bias,
            inputs.index,
            options.get("saliency"),
            options.get("saliency_mask"),
            target if "entropy_target" in options else None,
            factors,
            scalars,
            case["level"],
            case["cam_class"],
            "mean",
        )
        small = head.classes, head.pooled, head.grad_cam, head.grad_logits
        for upstream in (target, scalars[0].expand(len(target))):
            needs = (True, True, True)
            backward(inputs.features, inputs.weight, *small, upstream, case["cam_class"], needs)
    forward, backward = operators.cam_entropy_form(backend)
    arguments = inputs.features, inputs.weight, inputs.index, scalars[3]
    with watched():
        cam, entropy = forward(*arguments)
        backward(*arguments, cam, torch.empty_like(cam), torch.empty_like(entropy), (True, True))
    name = "eager" if backend == "eager" else "triton_cam_entropy"
    form = importlib.import_module(f"focus.kernels.{name}")
    classes = inputs.index[:, None].expand(-1, 2)
    with watched():
        form.class_activation(inputs.features, inputs.weight, inputs.bias, classes, scalars[3])


@pytest.mark.parametrize("form", [TRITON_GPU, EAGER_GPU])
def test_a_step_waits_for_nothing_on_a_gpu(form: Form) -> None:
    inputs = make_inputs(SIZES, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    before = torch.cuda.get_sync_debug_mode()
    with form.active():
        focus_head(*leaves, inputs.index, focus_weight=0.5).loss.backward()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            focus_head(*leaves, inputs.index, focus_weight=0.5).loss.backward()
            cam_entropy(*leaves[:2], inputs.index)[1].sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("form", [TRITON_GPU, EAGER_GPU])
def test_class_activation_waits_for_nothing_on_a_gpu(form: Form) -> None:
    inputs = make_inputs(SIZES, form.device)
    before = torch.cuda.get_sync_debug_mode()
    with form.active():
        class_activation(inputs.features, inputs.weight, inputs.bias, [2, 0])  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            class_activation(inputs.features, inputs.weight, inputs.bias, [2, 0])
        finally:
            torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("form", [TRITON_GPU, EAGER_GPU])
def test_a_step_replayed_from_a_cuda_graph_gives_the_same(form: Form, layout: str) -> None:
    case = SIZES | {"level": "match", "cam_class": "true", "maps": "maps", "layout": layout}
    inputs = make_inputs(case, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    weight = torch.tensor(0.1, device=form.device)
    options = head_options(case, inputs) | {"focus_weight": weight}

    def step() -> tuple[Tensor, ...]:
        out = focus_head(*leaves, inputs.index, **options)
        return out.loss.detach(), out.cam, *torch.autograd.grad(out.loss, leaves)

    with form.active():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = step()
        losses = set()
        for seed in range(3):
            with torch.no_grad():
                weight.fill_(seed + 1)
                inputs.index.copy_((inputs.index + 1) % case["classes"])
                for leaf in (*leaves, inputs.saliency):
                    leaf.copy_(random_like(leaf, seed))
            graph.replay()
            for one, other in zip(kept, step(), strict=True):
                assert torch.equal(one, other)
            losses.add(float(kept[0]))
        assert len(losses) == 3


class Made(TorchDispatchMode):
    """Whether what the forward of an operator returned is still in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        if operator._schema.name == "focus::focus_head":
            self.results += map(weakref.ref, result)
        return result

    def alive(self) -> set[str]:
        gc.collect()
        fields = zip(eager.HeadForward._fields, self.results, strict=True)
        return {name for name, reference in fields if reference() is not None}


@pytest.mark.parametrize("frozen", [False, True], ids=["no_grad", "frozen"])
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_without_gradient_only_the_results_stay_in_memory(form: Form, frozen: bool) -> None:
    results = {"terms", "logits", "cam"}
    for recorded in (True, False):
        inputs = make_inputs(SIZES, form.device)
        wanted = recorded or not frozen
        features = inputs.features.requires_grad_(wanted)
        enabled = torch.set_grad_enabled(recorded or frozen)
        with form.active(), enabled, Made() as made:
            out = focus_head(features, inputs.weight, inputs.bias, inputs.index)
        held = weakref.ref(features)
        del inputs, features
        assert out.loss.requires_grad == recorded
        assert (out.loss.grad_fn is not None) == recorded
        kept = set(eager.HeadForward._fields) if recorded else results
        assert made.alive() == kept
        assert (held() is not None) == recorded
        del out
        assert made.alive() == set()
        assert held() is None


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_a_frozen_head_reads_the_features_in_forward_alone(form: Form, layout: str) -> None:
    inputs = make_inputs(SIZES | {"layout": layout}, form.device)
    features = inputs.features.requires_grad_()
    with form.active():
        loss = focus_head(features, inputs.weight, inputs.bias, inputs.index, focus_weight=0.5).loss
        expected = torch.autograd.grad(loss, features, retain_graph=True)[0]
        features.data.fill_(float("nan"))
        assert torch.equal(torch.autograd.grad(loss, features)[0], expected)


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_a_frozen_weight_reads_the_features_in_forward_alone(form: Form) -> None:
    inputs = make_inputs(SIZES, form.device)
    features = inputs.features.requires_grad_()
    with form.active():
        entropy = cam_entropy(features, inputs.weight, inputs.index)[1].sum()
        expected = torch.autograd.grad(entropy, features, retain_graph=True)[0]
        features.data.fill_(float("nan"))
        assert torch.equal(torch.autograd.grad(entropy, features)[0], expected)
