"""The operations inside torch: registered operators, torch.compile, autocast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from focus.kernels import cam_entropy, class_activation, focus_head

from .cases import (
    CAM_ENTROPY,
    CLASS_ACTIVATION,
    EAGER,
    FOCUS_HEAD,
    REFERENCE,
    SHAPES,
    Case,
    Form,
    head_options,
    make_inputs,
    name_of,
    run_cam_entropy,
    run_focus_head,
)
from .tolerances import assert_close

SMALL: Case = {"batch": 3, "channels": 8, "grid": (3, 3), "classes": 2}
SMALL |= {"level": "match", "cam_class": "true", "maps": "masked maps"}


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """The calls of this package's operators with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace == "focus":
            self.calls.setdefault(operator._schema.name, []).append((operator, args))
        return operator(*args, **(kwargs or {}))


CHANGES: list[Case] = [
    *({"layout": layout} for layout in SHAPES["layout"]),
    {"batch": 0},
    {"grid": (1, 1)},
    {"grid": (1, 1), "layout": "channels_last"},
    {"dtype": torch.bfloat16, "layout": "channels_last"},
]
OPTIONS: list[Case] = [
    {"maps": "no maps", "level": "hinge", "cam_class": "contrast"},
    {"level": "none", "cam_class": "predicted"},
]


@pytest.mark.parametrize("change", CHANGES, ids=name_of)
@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_operators_of_cam_entropy_pass_opcheck(form: Form, change: Case) -> None:
    inputs = make_inputs(SMALL | change, form.device)
    with Recorder() as recorder:
        run_cam_entropy(form, inputs)
    assert set(recorder.calls) == {"focus::cam_entropy", "focus::cam_entropy_backward"}
    with form.active():
        opcheck(recorder)


@pytest.mark.parametrize("change", CHANGES + OPTIONS, ids=name_of)
@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_operators_of_focus_head_pass_opcheck(form: Form, change: Case) -> None:
    case = SMALL | change
    inputs = make_inputs(case, form.device)
    with Recorder() as recorder:
        run_focus_head(form, inputs, **head_options(case, inputs))
    assert set(recorder.calls) == {"focus::focus_head", "focus::focus_head_backward"}
    with form.active():
        opcheck(recorder)


def opcheck(recorder: Recorder) -> None:
    for calls in recorder.calls.values():
        for operator, arguments in calls:
            plain = [a.detach() if torch.is_tensor(a) else a for a in arguments]
            torch.library.opcheck(operator, tuple(plain))


class Model(nn.Module):
    """A convolution and one of the operations."""

    def __init__(self, head: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
        self.head = head

    def forward(self, images: Tensor, target: Tensor, saliency: Tensor) -> Tensor:
        features = self.convolution(images).relu()
        return self.head(features, self.linear.weight, self.linear.bias, target, saliency)


def by_cam_entropy(features, weight, bias, target, saliency) -> Tensor:
    cam, entropy = cam_entropy(features, weight, target, temperature=0.7)
    return (cam * saliency).mean() + entropy.square().sum() + bias.sum()


def by_focus_head(features, weight, bias, target, saliency) -> Tensor:
    weights = {"focus_weight": 0.3, "saliency_weight": 2.0}
    return focus_head(
        features, weight, bias, target, saliency=saliency, level="match", **weights
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


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    ("form", "head"),
    [
        *(
            pytest.param(*p.values, by_cam_entropy, id=f"cam_entropy-{p.id}", marks=p.marks)
            for p in CAM_ENTROPY
        ),
        *(
            pytest.param(*p.values, by_focus_head, id=f"focus_head-{p.id}", marks=p.marks)
            for p in FOCUS_HEAD
        ),
    ],
)
def test_compiled_model_gives_the_same_in_one_graph(form: Form, head, dynamic: bool) -> None:
    assert_compiles(form, head, "aot_eager", dynamic)


def test_model_compiled_by_inductor_gives_the_same() -> None:
    assert_compiles(EAGER.values[0], by_focus_head, "inductor", dynamic=False)


def assert_compiles(form: Form, head, compiler: str, dynamic: bool) -> None:
    torch.compiler.reset()
    model = Model(head).to(form.device)
    compiled = torch.compile(model, fullgraph=True, backend=compiler, dynamic=dynamic)
    torch._dynamo.utils.counters.clear()
    # Sizes of a batch that are the size of nothing else, which torch would tie together.
    with form.active():
        for size in (5, 7, 9) if dynamic else (5,):
            batch = batch_of(size, form.device)
            expected = loss_and_gradients(model, batch)
            for one, other in zip(loss_and_gradients(compiled, batch), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_weights_given_as_tensors_do_not_compile_again(form: Form) -> None:
    torch.compiler.reset()
    inputs = make_inputs(SMALL, form.device)
    frames = torch._dynamo.testing.CompileCounter()

    @torch.compile(fullgraph=True, backend=frames)
    def loss(weight: Tensor, target: Tensor, temperature: Tensor) -> Tensor:
        options = {"focus_weight": weight, "entropy_target": target, "temperature": temperature}
        arguments = inputs.features, inputs.weight, inputs.bias, inputs.index
        return focus_head(*arguments, level="match", **options).loss

    with form.active():
        values = {float(loss(*torch.linspace(0.1, 1, 20)[i].expand(3))) for i in range(20)}
    assert frames.frame_count == 1
    assert len(values) == 20


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_autocast_does_not_reach_into_focus_head(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.bfloat16}, form.device)
    options = head_options(SMALL, inputs)
    plain = run_focus_head(form, inputs, **options)
    with torch.autocast(form.device, torch.bfloat16):
        mixed = run_focus_head(form, inputs, **options)
    for name, tensor in plain.items():
        assert torch.equal(mixed[name], tensor), name


@pytest.mark.parametrize("form", [*CLASS_ACTIVATION, pytest.param(REFERENCE, id="reference")])
def test_autocast_does_not_reach_into_class_activation(form: Form) -> None:
    inputs = make_inputs(SMALL, form.device)
    with form.active():
        plain = class_activation(inputs.features, inputs.weight, inputs.bias, [0, 1])
        with torch.autocast(form.device, torch.bfloat16):
            mixed = class_activation(inputs.features, inputs.weight, inputs.bias, [0, 1])
    assert all(map(torch.equal, plain, mixed))


@pytest.mark.parametrize("form", CAM_ENTROPY)
def test_autocast_does_not_reach_into_cam_entropy(form: Form) -> None:
    inputs = make_inputs(SMALL | {"dtype": torch.bfloat16}, form.device)
    plain = run_cam_entropy(form, inputs)
    with torch.autocast(form.device, torch.bfloat16):
        mixed = run_cam_entropy(form, inputs)
    for name, tensor in plain.items():
        assert torch.equal(mixed[name], tensor), name


@pytest.mark.parametrize("form", FOCUS_HEAD)
def test_features_of_autocast_meet_a_float32_classifier(form: Form) -> None:
    model = Model(by_focus_head).to(form.device)
    images, target, saliency = batch_of(4, form.device)
    with torch.autocast(form.device, torch.bfloat16):
        features = model.convolution(images).relu()
        loss = model.head(features, model.linear.weight, model.linear.bias, target, saliency)
    loss.backward()
    assert (features.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    wide = [t.detach().cpu().double() for t in (features, model.linear.weight, model.linear.bias)]
    wide[1].requires_grad_()
    with REFERENCE.active():
        expected = by_focus_head(*wide, target.cpu(), saliency.cpu().double())
        expected.backward()
    assert_close("loss", loss, expected.detach(), torch.bfloat16)
    assert_close("dW", model.linear.weight.grad, wide[1].grad, torch.bfloat16)
    assert all(p.grad.isfinite().all() for p in model.parameters())
