"""The operations inside torch: registered operators, torch.compile, torch.export, autocast."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from focus import Detector, LossConfig
from focus.kernels import class_activation, eager, focus_head
from focus.kernels.terms import WEIGHTS
from focus.kernels.types import HeadForward

from . import cases
from .cases import (
    EAGER,
    FORMS,
    KERNELS,
    REFERENCE,
    Case,
    Form,
    head_options,
    make_inputs,
    run_cam_entropy,
)
from .tolerances import assert_close

SMALL: Case = {"batch": 3, "channels": 8, "grid": (3, 3), "classes": 2}
SMALL |= {"focus_level": "match", "cam_class": "true", "maps": "masked maps"}


CHANGES: list[Case] = [
    {"layout": "channels_last", "dtype": torch.bfloat16},
    {"layout": "sliced"},
    {"layout": "expanded"},
    {"batch": 0},
    {"grid": (1, 1)},
    {"maps": "no maps", "focus_level": "hinge", "cam_class": "contrast"},
    {"focus_level": "none", "cam_class": "predicted"},
    {"focus_level": "hinge", "entropy": "sum"},
    {"classes": 3, "focus_level": "minimize", "dtype": torch.float16, "weight_dtype": "own"},
]
OPERATORS = {"cam_entropy_forward", "cam_entropy_backward"}
OPERATORS |= {"focus_head_forward", "focus_head_backward"}
# The default, and that shapes which are known beforehand trace as well.
CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
    "test_aot_dispatch_dynamic",
)


def opcheck(form: Form, change: Case) -> None:
    """Check all operators; those of frozen leaves beside those of all."""
    case = SMALL | change
    inputs = make_inputs(case, form.device)
    options = head_options(case, inputs)
    scale, smoothing = (torch.tensor(number, device=form.device) for number in (0.8, 0.1))
    weights = [torch.tensor(value, device=form.device) for value in cases.TERM_WEIGHTS.values()]
    features, weight, bias, index = list(vars(inputs).values())[:4]
    aim = None if case["maps"] != "no maps" else scale
    maps = (options.get("saliency"), options.get("saliency_mask"), aim)
    choices = (case["focus_level"], case["cam_class"], case.get("entropy", "softmax"), "mean")
    head = (features, weight, bias, index, *maps, None, weights, scale, smoothing, *choices)
    ops: Any = torch.ops.focus
    like = (list(features.shape), features.dtype, case.get("layout") == "channels_last")
    with form.active():
        cam, entropy = ops.cam_entropy_forward(features, weight, index, scale)
        out = HeadForward(*ops.focus_head_forward(*head, True))
        small = (out.saved, weight, scale, out.logits, False, False, *like)
        calls: list[tuple[Any, tuple[Any, ...]]] = [
            (ops.cam_entropy_forward.default, (features, weight, index, scale)),
            (ops.focus_head_forward.default, (*head, True)),
            (ops.focus_head_forward.default, (*head, False)),
        ]
        for needs in ((True, True), (False, True)):
            arguments = (features, weight, index, cam, scale, cam, entropy, *needs)
            calls.append((ops.cam_entropy_backward.default, arguments))
            calls.append((ops.focus_head_backward.default, (*small, *needs, True)))
        for operator, arguments in calls:
            torch.library.opcheck(operator, arguments, test_utils=CHECKS)
    assert {operator.name() for operator, _ in calls} == {f"focus::{name}" for name in OPERATORS}


@pytest.mark.parametrize("form", KERNELS)
def test_operators_pass_opcheck(form: Form) -> None:
    opcheck(form, CHANGES[0])


@pytest.mark.slow
def test_operators_pass_opcheck_in_other_cases() -> None:
    for change in CHANGES[1:]:
        opcheck(Form("triton"), change)


def test_every_registered_operator_is_checked() -> None:
    names = torch._C._dispatch_get_all_op_names()
    registered = {name for name in names if name.startswith("focus::")}
    assert registered == {f"focus::{name}" for name in OPERATORS}


class Model(nn.Module):
    """A convolution and one of the operations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, images: Tensor, target: Tensor, saliency: Tensor) -> Tensor:
        features = self.convolution(images).relu()
        return by_focus_head(features, self.linear.weight, self.linear.bias, target, saliency)


def by_focus_head(features, weight, bias, target, saliency) -> Tensor:
    weights = {"focus_weight": 0.3, "saliency_weight": 2.0}
    return focus_head(
        features, weight, bias, target, saliency=saliency, focus_level="match", **weights
    ).loss


def batch_of(size: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(size))
    saliency = torch.rand(size, 4, 4, generator=torch.Generator().manual_seed(size))
    return images.to(device), (torch.arange(size) % 2).to(device), saliency.to(device)


def loss_and_gradients(model: nn.Module, batch: tuple[Tensor, ...]) -> list[Tensor]:
    model.zero_grad()
    loss = model(*batch)
    loss.backward()
    return [loss, *(p.grad.clone() for p in model.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_compiled_model_gives_the_same_in_one_graph(form: Form) -> None:
    torch.compiler.reset()
    model = Model().to(form.device)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    counters.clear()
    # Sizes of a batch that are the size of nothing else, which torch would tie together.
    with form.active():
        for size in (5, 7):
            batch = batch_of(size, form.device)
            expected = loss_and_gradients(model, batch)
            for one, other in zip(loss_and_gradients(compiled, batch), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("form", [param for param in FORMS if param.id == "gpu"])
def test_a_model_compiled_into_cuda_graphs_gives_the_same(form: Form) -> None:
    """A pool of graphs refuses, or overwrites, a tensor that an operator keeps."""
    torch.compiler.reset()
    model = Model().to(form.device)
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    with form.active():
        for seed in range(6):
            images, *others = batch_of(5, form.device)
            batch = (images + seed, *others)
            expected = loss_and_gradients(model, batch)
            torch.compiler.cudagraph_mark_step_begin()
            for one, other in zip(loss_and_gradients(compiled, batch), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def images_of(size: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(size)
    index = torch.arange(size)
    images = torch.randn(size, 3, 32, 32, generator=draw)
    return images, index % 2, torch.rand(size, 4, 4, generator=draw), index % 3 > 0


@pytest.mark.slow
def test_compiled_detector_gives_the_same_at_any_batch_size() -> None:
    """By Inductor, the tests of the trainer compile one."""
    torch.compiler.reset()
    torch.manual_seed(0)
    loss = LossConfig(focus_weight=0.1, saliency_weight=5.0, focus_level="match")
    plain = Detector(image_size=32, loss=loss)
    trained = deepcopy(plain)
    compiled = torch.compile(trained, fullgraph=True, backend="aot_eager")
    counters.clear()
    graphs = []
    for size in (5, 7, 11):
        outs = []
        for model in (plain, compiled):
            model.zero_grad()
            outs.append(model(*images_of(size)))
            outs[-1].loss.backward()
        graphs.append(counters["stats"]["unique_graphs"])
        one, other = outs
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
        for (name, one), other in zip(plain.named_parameters(), trained.parameters(), strict=True):
            top = float(one.grad.abs().max())
            torch.testing.assert_close(other.grad, one.grad, rtol=0, atol=1e-4 * top, msg=name)
    # Torch takes the first size as fixed, and the second as the sign that sizes change.
    assert graphs == [1, 2, 2]


@pytest.mark.parametrize("form", cases.SLOW_INTERPRETED)
def test_compiled_class_activation_is_one_graph_for_all_batches(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a compiled detector validates: one for the first batch size, one more for all others."""
    monkeypatch.setattr(eager, "PART_ELEMENTS", 300)  # of 72 a sample: one, two and five parts
    torch.compiler.reset()
    counters.clear()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(inputs: cases.Inputs, classes: Tensor) -> tuple[Tensor, ...]:
        return class_activation(inputs.features, inputs.weight, inputs.bias, classes)

    for batch, graphs in ((5, 1), (7, 2), (20, 2)):
        inputs = make_inputs(SMALL | {"batch": batch}, form.device)
        classes = inputs.index[:, None].repeat(1, 2)
        with form.active():
            plain = class_activation(inputs.features, inputs.weight, inputs.bias, classes)
            torch.testing.assert_close(compiled(inputs, classes), tuple(plain))
        assert counters["stats"]["unique_graphs"] == graphs


def test_exported_detector_takes_any_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    detector = Detector(image_size=32).eval()
    with_cam = nn.Sequential(detector.backbone, detector.head)
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(
        with_cam, (images_of(5)[0],), dynamic_shapes={"input": {0: batch}}
    )
    assert "focus" not in str(exported.graph)  # what reads it needs no operator of this project
    elements = detector.features(images_of(1)[0]).numel()
    monkeypatch.setattr(eager, "PART_ELEMENTS", 3 * elements)
    for size in (2, 5, 11):
        (images, *_) = images_of(size)
        torch.testing.assert_close(exported.module()(images), with_cam(images))


RAMPED = (*WEIGHTS, "temperature", "entropy_target", "label_smoothing")


@pytest.mark.parametrize("form", cases.SLOW_INTERPRETED)
def test_weights_that_change_with_each_step_compile_once(form: Form) -> None:
    torch.compiler.reset()
    inputs = make_inputs(SMALL, form.device)
    counter = CompileCounterWithBackend("aot_eager")  # it knows more numbers to be constant

    @torch.compile(fullgraph=True, backend=counter)
    def loss(*weights: Tensor) -> Tensor:
        options = dict(zip(RAMPED, weights, strict=True)) | {"saliency": inputs.saliency}
        arguments = inputs.features, inputs.weight, inputs.bias, inputs.index
        return focus_head(*arguments, focus_level="match", **options).loss

    steps = [
        (*(i / (5 + n) for n, _ in enumerate(WEIGHTS)), 0.5 + i / 20, 0.9 - i / 40, i / 40)
        for i in range(8)
    ]
    with form.active():
        values = {float(loss(*map(torch.tensor, weights))) for weights in steps}
    assert counter.frame_count == 1
    assert len(values) == 8


@pytest.mark.parametrize("form", [*KERNELS, EAGER, cases.WITH_REFERENCE[-1]])
def test_autocast_does_not_reach_into_the_operations(form: Form) -> None:
    def results() -> list[Tensor]:
        with form.active():
            arguments = inputs.features, inputs.weight, inputs.bias, [0, 1]
            activation = class_activation(*arguments)
        if form.backend != "triton":  # its backward is autograd's, which autocast reaches
            return [*activation]
        head = cases.run_focus_head(form, inputs, **options)
        return [*activation, *head.values(), *run_cam_entropy(form, inputs).values()]

    inputs = make_inputs(SMALL, form.device)
    options = head_options(SMALL, inputs)
    plain = results()
    with torch.autocast(form.device, torch.bfloat16):
        assert all(map(torch.equal, results(), plain))


@pytest.mark.parametrize("form", KERNELS)
def test_backward_under_autocast_gives_the_same_as_outside(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    with form.active():
        loss = focus_head(*leaves, inputs.index, **head_options(SMALL, inputs)).loss
        outside = torch.autograd.grad(loss, leaves, retain_graph=True)
        with torch.autocast(form.device, torch.bfloat16):
            under = torch.autograd.grad(loss, leaves)
    assert all(map(torch.equal, under, outside))


@pytest.mark.parametrize("form", FORMS)
def test_features_of_autocast_meet_a_float32_classifier(form: Form) -> None:
    model = Model().to(form.device)
    images, target, saliency = batch_of(4, form.device)
    with form.active():
        with torch.autocast(form.device, torch.bfloat16):
            features = model.convolution(images).relu()
            loss = by_focus_head(features, model.linear.weight, model.linear.bias, target, saliency)
        loss.backward()
    assert (features.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    wide = [t.detach().cpu().double() for t in (features, model.linear.weight, model.linear.bias)]
    wide[1].requires_grad_()
    with REFERENCE.active():
        expected = by_focus_head(*wide, target.cpu(), saliency.cpu().double())
        expected.backward()
    assert_close("loss", loss, expected.detach(), torch.bfloat16)
    assert_close("dW", model.linear.weight.grad, wide[1].grad, torch.bfloat16)
