# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The bytes that kernels and torch calls move, counted in the interpreter; order and range of
their addresses."""

import mmap
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from bench import traffic
from bench.interpreter_counter import BadAccess, measure
from focus.kernels import class_activation, focus_head, triton_cam
from focus.kernels.terms import WEIGHTS

from . import cases
from .cases import REFERENCE, Case, Form, head_options, make_inputs, run_cam_entropy, run_focus_head
from .interpreter import interpreter, shuffled_programs
from .tolerances import assert_close

# As chosen without being told: Triton's kernels, where there are some.
IN_INTERPRETER = Form("auto")


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with interpreter(sys.modules[__name__]):
        yield


@triton.jit
def copy_kernel(source_ptr, out_ptr, count, shift, BLOCK: tl.constexpr):
    where = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(source_ptr + where + shift, mask=where < count)
    tl.store(out_ptr + where, value, mask=where < count)


def copied(source: Tensor, count: int, shift: int = 0, block: int = 256) -> Callable[[], None]:
    def step() -> None:
        out = torch.empty(count, dtype=source.dtype)
        copy_kernel[(triton.cdiv(count, block),)](source, out, count, shift, BLOCK=block)

    return step


def test_a_load_out_of_bounds_is_refused() -> None:
    source, view = torch.randn(1000), torch.randn(20, 10)[:, :8]
    (launch,) = measure(copied(source, 1000), source).launches
    assert dict(launch.moved) == {("F", "read"): 4000, ("other", "write"): 4000}
    for step, features, message in (
        (copied(source, 1000, shift=1), source, "1 lanes .* byte 4000 of source_ptr"),
        (copied(source, 1000, shift=-1), source, "1 lanes .* byte -4 of source_ptr"),
        (copied(view, 10), view, "2 lanes .* byte 32 of source_ptr"),  # a gap of the view
    ):
        refusal = message.replace(".*", "read out .*")
        with pytest.raises(BadAccess, match=f"^copy_kernel: {refusal}"):
            measure(step, features)


STEP = traffic.Case(20, 1024, 2, "bf16", "channels_last")
SMALL = STEP._replace(batch=3, channels=64)


def test_every_usage_reads_the_features_and_writes_their_gradient_as_often_as_it_may() -> None:
    for name in traffic.USAGES:
        assert traffic.count(name, SMALL)["faults"] == ""


def test_more_classes_read_the_features_no_more_often() -> None:
    for classes in (5, 16):
        case = SMALL._replace(classes=classes, layout="nchw", dtype="fp32")
        assert traffic.count("focus_head step", case)["faults"] == ""


@pytest.mark.slow
def test_a_training_step_of_a_usual_size_meets_its_limits() -> None:
    for name, layout in (("focus_head step", "nchw"), *((n, STEP.layout) for n in traffic.USAGES)):
        assert traffic.count(name, STEP._replace(layout=layout))["faults"] == ""


def test_an_operator_of_a_graph_makes_its_counters_of_arrivals_anew() -> None:
    """A pool of CUDA graphs keeps no tensor, and a graph overwrites what lies in its pool."""
    shapes = traffic.make_inputs(SMALL, "meta")
    one = torch.empty((), device="meta")
    words = "minimize", "true", "softmax", "mean"
    settings = (*(None,) * 4, [one for _ in WEIGHTS], one, one, *words, True)
    ops, arguments = torch.ops.focus, (*shapes.leaves, shapes.target)
    cam, entropy = shapes.saliency, torch.empty(SMALL.batch, device="meta")
    backward = (*arguments[:2], shapes.target, cam, one, cam, entropy, True, True)
    for _ in range(2):
        for call in (
            lambda: ops.focus_head_forward(*arguments, *settings)[0],
            lambda: ops.cam_entropy_forward(*arguments[:2], shapes.target, one)[0],
            lambda: ops.cam_entropy_backward(*backward)[0],
        ):
            zeros, kernel = measure(call, shapes.features).launches
            assert (zeros.is_kernel, kernel.is_kernel) == (False, True)
            assert "zero" in zeros.name


def test_launches() -> None:
    """As a GPU sees them, torch's included; autograd fills in its gradient of 1."""
    shapes = traffic.make_inputs(SMALL, "meta")

    def names(call: Callable[[], object]) -> list[str]:
        triton_cam.tickets(shapes.features, 1 + SMALL.batch, False)  # made once for a stream
        return [launch.name for launch in measure(call, shapes.features).launches]

    expected = {
        "focus_head step": ["_head", "ones_like", "_head_backward"],
        "focus_head frozen backbone": ["_head", "ones_like", "_head_backward"],
        "focus_head frozen head": ["_head", "ones_like", "_head_backward"],
        "focus_head no gradient": ["_head"],
        "cam_entropy forward": ["_cams"],
        "class_activation": ["_cams"],
    }
    for name, launches in expected.items():
        inputs = traffic.make_inputs(SMALL, "meta")
        assert names(traffic.USAGES[name].step(inputs)) == launches, name
    first, second = (traffic.entropy_backward(traffic.make_inputs(SMALL, "meta")) for _ in range(2))
    measure(first, shapes.features)  # makes its counters of arrivals
    assert names(second) == ["_cams_backward"]
    # Whatever the loss, and with settings that are tensors on the device.
    one = torch.empty((), device="meta")
    numbers = (*WEIGHTS, "temperature", "entropy_target")
    for settings in (
        {"cam_class": "predicted"},
        {"cam_class": "contrast"},
        dict.fromkeys(numbers, one),
    ):
        options = {
            "focus_level": "hinge",
            "reduction": "none",
            "saliency": shapes.saliency,
        } | settings
        call = partial(focus_head, *shapes.leaves, shapes.target, **options)
        assert names(lambda call=call: call().loss) == ["_head"]


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_no_scale_costs_a_pass_over_the_features(layout: str) -> None:
    """An upstream gradient of each sample comes into what the kernels write anyway."""
    case = SMALL._replace(layout=layout)
    inputs = traffic.make_inputs(case)
    upstream = torch.linspace(-1, 2, case.batch)

    def step() -> Tensor:
        options = {"reduction": "none", "focus_weight": 0.5}
        loss = focus_head(*inputs.leaves, inputs.target, **options).loss
        return torch.autograd.grad(loss, inputs.leaves, upstream)[0]

    counted = measure(step, inputs.features)
    usage = traffic.USAGES["focus_head step"]
    assert traffic.faults(counted, usage, case, inputs.features) == ()


def test_a_second_read_of_the_features_is_found() -> None:
    inputs, usage = traffic.make_inputs(SMALL), traffic.USAGES["cam_entropy forward"]
    step = usage.step(inputs)

    def more() -> None:
        step()
        inputs.features.sum()

    faults = traffic.faults(measure(more, inputs.features), usage, SMALL, inputs.features)
    assert faults == ("F read x 2, not 1", "2 launches touch F, not 1")


HEAD: Case = {"grid": (3, 3), "focus_level": "match", "cam_class": "true", "maps": "masked maps"}


def results(case: Case) -> dict[str, Tensor]:
    inputs = make_inputs(case)
    head = run_focus_head(IN_INTERPRETER, inputs, **head_options(case, inputs))
    entropy = run_cam_entropy(IN_INTERPRETER, inputs)
    return head | {f"cam_entropy {name}": tensor for name, tensor in entropy.items()}


def bits(tensor: Tensor) -> Tensor:
    """Return the bytes, so that NaN is equal to itself and -0 is not 0."""
    return tensor.detach().reshape(-1).view(torch.uint8)


ORDERED = [(1, 192, 2), (3, 40, 17)]


@pytest.mark.parametrize(("batch", "channels", "classes"), ORDERED)
def test_any_order_of_programs_gives_the_same_bits(batch: int, channels: int, classes: int) -> None:
    case = HEAD | {"batch": batch, "channels": channels, "classes": classes}
    expected = results(case)
    with shuffled_programs(seed=1):
        actual = results(case)
    for name, tensor in actual.items():
        assert torch.equal(bits(tensor), bits(expected[name])), name


@pytest.mark.parametrize("splits", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_any_number_of_splits_is_right_in_any_order(
    splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU takes up to eight; some have a block of channels more than others, or none at all."""
    monkeypatch.setattr(triton_cam, "TILE", 16 * 64)
    triton_cam.constants.cache_clear()
    monkeypatch.setattr(triton_cam, "splits_of", lambda features, blocks: splits)
    case = HEAD | {"batch": 3, "channels": 16 * 7 - 5, "grid": (7, 7), "classes": 2}
    for kind in (
        {"dtype": torch.bfloat16, "layout": "channels_last"},
        {"dtype": torch.float32, "layout": "nchw"},
    ):
        outputs = []
        for seed in (1, 2):
            with shuffled_programs(seed):
                cases.assert_focus_head(IN_INTERPRETER, case | kind)
                cases.assert_class_activation(IN_INTERPRETER, case | kind)
                outputs.append(results(case | kind))
        for name, tensor in outputs[0].items():
            assert torch.equal(bits(tensor), bits(outputs[1][name])), name


INT32_LIMIT = 2**31
NO_RESERVE = 0x4000
"""Linux's MAP_NORESERVE, which not every Python names."""


def spread(tensor: Tensor, axis: int) -> Tensor:
    """Return the same numbers, the last along an axis more than 2^31 elements from the first.

    It takes address space only: a page of memory is there once it is written.
    """
    strides = list(tensor.contiguous().stride())
    steps = tensor.shape[axis] - 1
    strides[axis] = INT32_LIMIT // steps // 16 * 16 + 16
    elements = steps * strides[axis] + tensor.numel()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    memory = mmap.mmap(-1, elements * tensor.element_size(), flags=flags)
    far = torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, strides)
    return far.copy_(tensor)


def head_entropy_and_activation(inputs: cases.Inputs, form: Form) -> dict[str, Tensor]:
    case = HEAD | {"batch": 3, "channels": 3, "classes": len(inputs.weight)}
    out = run_focus_head(form, inputs, **head_options(case, inputs))
    entropy = run_cam_entropy(form, inputs)
    out |= {f"cam_entropy {name}": tensor for name, tensor in entropy.items()}
    classes = torch.tensor([[0, 2], [1, 0], [2, 2]])
    with form.active():
        names = ("activation logits", "activation cams", "activation entropy")
        activation = class_activation(inputs.features, inputs.weight, inputs.bias, classes)
    return out | dict(zip(names, activation, strict=True))


FAR = [*(("features", axis) for axis in range(4)), ("weight", 0), ("weight", 1)]
KINDS = [(torch.bfloat16, 3), (torch.float32, 5), (torch.bfloat16, 17)]
FAR_CASES = [
    pytest.param(*tensor_and_axis, *kind, marks=pytest.mark.slow if n else ())
    for n, (tensor_and_axis, kind) in enumerate(zip(FAR, KINDS * 2, strict=True))
]


@pytest.mark.parametrize(("where", "axis", "dtype", "classes"), FAR_CASES)
def test_addresses_beyond_int32(where: str, axis: int, dtype: torch.dtype, classes: int) -> None:
    case = {"batch": 3, "channels": 3, "grid": (3, 3), "classes": classes, "dtype": dtype}
    inputs = make_inputs(case)
    expected = head_entropy_and_activation(inputs.double(), REFERENCE)
    actual: dict[str, Tensor] = {}
    setattr(inputs, where, spread(getattr(inputs, where), axis))
    # Counted: an address that wrapped around is refused before it is used.
    with interpreter(tile_scale=1, check_overflow=True):
        counted = measure(
            lambda: actual.update(head_entropy_and_activation(inputs, IN_INTERPRETER)),
            inputs.features,
        )
    assert any(launch.is_kernel for launch in counted.launches)
    for name, tensor in actual.items():
        assert_close(name, tensor, expected[name], dtype)


BOUNDS: tuple[Case, ...] = (
    {"batch": 3, "channels": 40, "grid": (7, 7), "classes": 2, "layout": "sliced"},
    {"batch": 2, "channels": 37, "grid": (3, 5), "classes": 5, "layout": "offset"},
    {"batch": 2, "channels": 24, "grid": (5, 5), "classes": 7, "layout": "channels_last"},
    {"batch": 2, "channels": 24, "grid": (3, 3), "classes": 3, "layout": "expanded"},
    {"batch": 2, "channels": 33, "grid": (1, 1), "classes": 2, "layout": "channels_last"},
    {"batch": 17, "channels": 12, "grid": (3, 5), "classes": 16, "layout": "nchw"},
    # So many channels that the default splits them.
    {"batch": 1, "channels": 1030, "grid": (7, 7), "classes": 2, "layout": "nchw"},
    {"batch": 1, "channels": 1040, "grid": (7, 7), "classes": 2, "layout": "channels_last"},
)
BOUNDS_CASES = [
    pytest.param(case, dtype, marks=() if case in BOUNDS[2:4] else pytest.mark.slow)
    for case, dtype in zip(BOUNDS, (torch.bfloat16, torch.float32) * 4, strict=True)
]


@pytest.mark.parametrize(("case", "dtype"), BOUNDS_CASES)
def test_every_access_is_of_an_element(case: Case, dtype: torch.dtype) -> None:
    case = HEAD | case | {"dtype": dtype}
    inputs = make_inputs(case)

    def step() -> None:
        options = head_options(case, inputs)
        run_focus_head(IN_INTERPRETER, inputs, **options)
        run_cam_entropy(IN_INTERPRETER, inputs)
        leaves = inputs.features, inputs.weight, inputs.bias
        class_activation(*leaves, torch.stack([inputs.index, inputs.index.flip(0)], 1))
        for wanted in range(3):  # a frozen backbone, and a frozen head
            detached = [t.detach().requires_grad_(n == wanted) for n, t in enumerate(leaves)]
            focus_head(*detached, inputs.index, **options).loss.backward()

    counted = measure(step, inputs.features)
    assert sum(launch.is_kernel for launch in counted.launches) >= 6
