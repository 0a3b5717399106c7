"""CUDA graphs, steps that never wait for the device, and no more reads or memory than needed.

Without a GPU the operations run on torch's meta device, whose tensors have no data: every torch
call is watched there, and the launchers of the kernels hand their launches to ``bench.codegen``.
"""

import gc
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

from focus.kernels import cam_entropy, class_activation, focus_head

from . import cases
from .cases import (
    CAM_CLASSES,
    FORMS,
    KERNELS,
    LAYOUTS,
    SIZES,
    Form,
    make_inputs,
    pairwise,
    run_on_meta,
)

GPU_FORMS = [param for param in FORMS if param.values[0].device == "cuda"]

# Torch calls that wait for the device, to read a value or a size from it.
WAITS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "argwhere"}
WAITS |= {"masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
WAITS |= {"repeat_interleave"}
# A tensor of numbers on the host, which is then copied.
COPIES = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}


class Calls(TorchDispatchMode):
    """Refuses what waits for the device or leaves it; counts the rest."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator._schema.name.removeprefix("aten::")
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


@pytest.mark.parametrize(
    "fault", [Tensor.item, lambda t: t[t > 0], lambda t: torch.tensor([1.0], device=t.device)]
)
def test_what_waits_for_the_device_is_found(fault: Callable[[Tensor], Any]) -> None:
    tensor = torch.empty(1, device="meta")
    with pytest.raises(AssertionError), watched():
        fault(tensor.neg())  # a call that may be: to see none is refused as well


OPTIONS = {
    "focus_level": cases.LEVELS,
    "cam_class": CAM_CLASSES,
    "maps": cases.MAPS,
    "layout": ("nchw", "channels_last", "sliced"),
    "dtype": (torch.float32, torch.bfloat16),
}


def test_nothing_around_the_operators_waits() -> None:
    """The public functions and their derivatives, with the operators as black boxes."""
    for case in pairwise(OPTIONS, bool):
        inputs, options = cases.meta_case(case)
        options |= {"label_smoothing": 0.1, "class_weight": torch.empty(3, device="meta")}
        options |= {"reduction": "none"}
        leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
        with watched():
            loss = focus_head(*leaves, inputs.index, **options).loss
            torch.autograd.grad(loss, leaves, torch.empty_like(loss))
            results = cam_entropy(*leaves[:2], inputs.index, temperature=0.7)
            torch.autograd.grad(results, leaves[:2], [torch.empty_like(t) for t in results])
    for classes in (range(3), torch.empty(5, 2, dtype=torch.int64, device="meta")):
        with watched():
            class_activation(*leaves, classes)


@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_nothing_inside_the_operators_waits(backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
        from bench import codegen
    for case in pairwise(OPTIONS, bool):
        if backend == "eager":
            run_on_meta(case, backend, watched)
            continue
        launches = codegen.capture("sm_90", lambda case=case: run_on_meta(case, backend, watched))
        assert len(launches) == 7  # two forwards and backwards, a forward and a backward, CAMs


@pytest.mark.parametrize("form", GPU_FORMS)
def test_a_step_waits_for_nothing_on_a_gpu(form: Form) -> None:
    inputs = make_inputs(SIZES, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    before = torch.cuda.get_sync_debug_mode()

    def step() -> None:
        focus_head(*leaves, inputs.index, focus_weight=0.5).loss.backward()
        cam_entropy(*leaves[:2], inputs.index)[1].sum().backward()
        class_activation(*leaves, range(3))

    with form.active():
        step()  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", GPU_FORMS)
def test_a_step_replayed_from_a_cuda_graph_gives_the_same(form: Form, layout: str) -> None:
    case = SIZES | {"focus_level": "match", "cam_class": "true", "maps": "maps", "layout": layout}
    inputs = make_inputs(case, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    weight = torch.tensor(0.1, device=form.device)
    options = cases.head_options(case, inputs) | {"focus_weight": weight}

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
                    leaf.copy_(cases.random_like(leaf, seed))
            graph.replay()
            for one, other in zip(kept, step(), strict=True):
                assert torch.equal(one, other)
            losses.add(float(kept[0]))
        assert len(losses) == 3


@pytest.mark.parametrize("form", KERNELS)
def test_the_features_are_freed_after_forward(form: Form) -> None:
    """What backward needs is small; a network's own layers decide whether they stay."""
    inputs = make_inputs(SIZES, form.device)
    leaf = inputs.features.requires_grad_()
    with form.active():
        features = leaf * 1
        held = weakref.ref(features)
        out = focus_head(features, inputs.weight, inputs.bias, inputs.index)
        constants = out.cam, out.entropy, *out.terms
        assert not any(tensor.requires_grad for tensor in constants)
        del features
        gc.collect()
        assert held() is None
        out.loss.backward()
        assert leaf.grad.count_nonzero()
        with torch.no_grad():
            out = focus_head(leaf, inputs.weight, inputs.bias, inputs.index)
        assert not any(tensor.requires_grad for tensor in (out.loss, out.logits))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_head_reads_the_features_in_forward_alone(form: Form, layout: str) -> None:
    inputs = make_inputs(SIZES | {"layout": layout}, form.device)
    features = inputs.features.requires_grad_()
    with form.active():
        loss = focus_head(features, inputs.weight, inputs.bias, inputs.index, focus_weight=0.5).loss
        entropy = cam_entropy(features, inputs.weight, inputs.index)[1].sum()
        for result in (loss, entropy):
            expected = torch.autograd.grad(result, features, retain_graph=True)[0]
            kept = features.detach().clone()
            features.data.fill_(float("nan"))
            assert torch.equal(torch.autograd.grad(result, features)[0], expected)
            features.data.copy_(kept)
