"""Forms, shapes, memory layouts, inputs and runs of the operations, compared with the reference."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from focus.kernels import backend as backends
from focus.kernels import cam_entropy, class_activation, focus_head, use_backend
from focus.kernels.terms import WEIGHTS

from .interpreter import interpreter
from .tolerances import assert_close


@dataclass(frozen=True)
class Form:
    """One implementation of the operations, on one device; in the interpreter with larger tiles."""

    backend: str
    device: str = "cpu"
    tile_scale: int = 16

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let operations called inside take this form; float64 is eager's where it is Triton's."""
        interpreted = self.backend == "triton" and self.device == "cpu"
        tiles = interpreter(tile_scale=self.tile_scale) if interpreted else nullcontext()
        with tiles, use_backend("auto" if self.backend == "triton" else self.backend):
            yield


REFERENCE = Form("reference")
GPU_TILES = Form("triton", tile_scale=1)
EAGER = pytest.param(Form("eager"), id="eager")
INTERPRETER = pytest.param(Form("triton"), id="interpreter")
FORMS = (
    EAGER,
    INTERPRETER,
    pytest.param(Form("triton", "cuda"), id="gpu", marks=pytest.mark.gpu),
    pytest.param(Form("eager", "cuda"), id="eager-gpu", marks=pytest.mark.gpu),
)
KERNELS = FORMS[1:3]
# Where the interpreter takes seconds of what torch calls show as well.
SLOW_INTERPRETED = (EAGER, pytest.param(Form("triton"), id="interpreter", marks=pytest.mark.slow))
SLOW_INTERPRETED += FORMS[2:]
WITH_REFERENCE = (*FORMS, pytest.param(REFERENCE, id="reference"))

LAYOUTS = ("nchw", "channels_last")
LEVELS = ("none", "match", "hinge", "minimize")
CAM_CLASSES = ("true", "predicted", "contrast")
MAPS = ("no maps", "maps", "masked maps")
ENTROPIES = ("softmax", "sum")
# In the order in which :func:`pairwise` takes them, where several make as many new pairs.
DTYPES = (torch.bfloat16, torch.float32, torch.float16, torch.float64)

SHAPES: dict[str, tuple[Any, ...]] = {
    "batch": (0, 1, 3, 20, 128),
    "channels": (1, 3, 17, 1000, 1024, 2048),
    "grid": ((1, 1), (7, 7), (8, 8), (10, 10), (14, 14), (32, 32), (5, 13)),
    "classes": (1, 2, 3, 16, 17, 1000),
    "layout": ("nchw", "channels_last", "sliced", "expanded", "offset"),
    "dtype": DTYPES,
    # The classifier's weight stays in float32 under mixed precision.
    "weight_dtype": ("float32", "own"),
}
HEAD = SHAPES | {"focus_level": LEVELS, "cam_class": CAM_CLASSES, "maps": MAPS}
HEAD |= {"entropy": ENTROPIES}

TERM_WEIGHTS = {name: 0.7 + 0.2 * n for n, name in enumerate(WEIGHTS)}
"""A weight for each term of the loss, a new one included, by which all its gradients are seen."""

Case = dict[str, Any]


def elements(case: Case) -> int:
    """Return the number of elements of the features; of a part of a case, the least."""
    height, width = case.get("grid", (1, 1))
    return case.get("batch", 0) * case.get("channels", 1) * height * width


def in_pytorch(case: Case) -> bool:
    """Return whether a case is cheap enough for a form in torch calls, and meaningful."""
    contrast_of_one = case.get("cam_class") == "contrast" and case.get("classes") == 1
    # The saliency term does not change with the scale of the CAM, all that one weight decides.
    alone = {"channels": 1, "classes": 1, "focus_level": "none", "maps": "masked maps"}
    scale_alone = all(case.get(name) == value for name, value in alone.items())
    cap = 2**21 if case.get("batch", 0) <= 1 else 2**19
    return elements(case) <= cap and not contrast_of_one and not scale_alone


def in_interpreter(case: Case) -> bool:
    """Return whether it is cheap in the interpreter: a millisecond a block or step of a loop."""
    rows = case.get("batch", 0) * case.get("classes", 1)
    steps = rows * -(-case.get("channels", 1) // 1024)
    cheap = elements(case) <= 2**18 and steps <= 2200
    return cheap and in_pytorch(case) and case.get("dtype") != torch.float64


def pairwise(factors: dict[str, tuple[Any, ...]], allowed: Callable[[Case], bool]) -> list[Case]:
    """Return cases in which any two values of two factors meet that ``allowed`` lets meet.

    Greedy: each case starts from the first pair not met yet and takes, factor by factor, the value
    that makes most new pairs. ``allowed`` judges parts of cases, too.
    """
    missing = dict.fromkeys(
        frozenset(pair)
        for one, other in itertools.combinations(factors, 2)
        for pair in (((one, v), (other, w)) for v in factors[one] for w in factors[other])
        if allowed(dict(pair))
    )
    cases = []
    while missing:
        case = dict(next(iter(missing)))
        for name in factors:
            if name not in case:
                values = [v for v in factors[name] if allowed(case | {name: v})]
                case[name] = max(
                    values,
                    key=lambda v: sum(frozenset([(name, v), i]) in missing for i in case.items()),
                )
        before = len(missing)
        for pair in itertools.combinations(case.items(), 2):
            missing.pop(frozenset(pair), None)
        assert len(missing) < before
        cases.append({name: case[name] for name in factors})
    return cases


def name_of(case: Case) -> str:
    """Return a name such as ``3-17-7x7-2-sliced-float32``."""
    words = (
        "x".join(map(str, value)) if isinstance(value, tuple) else str(value).split(".")[-1]
        for value in case.values()
    )
    return "-".join(words)


def arrange(tensor: Tensor, layout: str) -> Tensor:
    """Return the same values (``expanded``: the first sample's) in another memory layout."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        padded = torch.nn.functional.pad(tensor, (2, 1, 0, 1, 1, 1), value=float("nan"))
        return padded[:, 1:-1, :-1, 2:-1]
    if layout == "expanded":
        one = tensor[:1] if len(tensor) else tensor.new_ones(1, *tensor.shape[1:])
        return one.expand_as(tensor)
    if layout == "offset":
        return torch.cat([tensor.new_full((1,), float("nan")), tensor.flatten()])[1:].view_as(
            tensor
        )
    return tensor.contiguous()


@dataclass
class Inputs:
    """Tensors of a case on the device of a form."""

    features: Tensor
    weight: Tensor
    bias: Tensor
    index: Tensor
    saliency: Tensor
    mask: Tensor

    def double(self) -> "Inputs":
        """Return the same numbers in float64 on the CPU."""
        wide = (t.cpu().double() if t.is_floating_point() else t.cpu() for t in vars(self).values())
        return Inputs(*wide)


def make_inputs(case: Case, device: str = "cpu") -> Inputs:
    """Return random inputs, of a raw CAM with a standard deviation of about 1.5.

    Features and upstream gradients have a mean above 0: else the only element of a sum, as of a
    gradient [1,1], may cancel to a maximum that its rounding is no small share of.
    """
    batch, channels, classes = case["batch"], case["channels"], case["classes"]
    dtype = case.get("dtype", torch.float32)
    weight_dtype = torch.float32 if case.get("weight_dtype", "float32") == "float32" else dtype
    draw = torch.Generator().manual_seed(elements(case))
    features = torch.randn(batch, channels, *case["grid"], generator=draw) + 0.5
    weight = torch.randn(classes, channels, generator=draw) * (1.5 / channels**0.5)
    return Inputs(
        features=arrange(features.to(device, dtype), case.get("layout", "nchw")),
        weight=weight.to(device, weight_dtype),
        bias=torch.randn(classes, generator=draw).to(device, weight_dtype),
        index=torch.randint(classes, (batch,), generator=draw).to(device),
        saliency=torch.rand(batch, *case["grid"], generator=draw).to(device),
        mask=(torch.rand(batch, generator=draw) < 0.7).to(device),
    )


def random_like(tensor: Tensor, seed: int = 0) -> Tensor:
    """Return a non-uniform upstream gradient."""
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(tensor.shape, generator=draw) + 1).to(tensor)


def run_cam_entropy(form: Form, inputs: Inputs, **options: Any) -> dict[str, Tensor]:
    """Return results and gradients for random upstream gradients of both results."""
    features = inputs.features.detach().requires_grad_()
    weight = inputs.weight.detach().requires_grad_()
    with form.active():
        cam, entropy = cam_entropy(features, weight, inputs.index, **options)
        upstream = (random_like(cam, 1), random_like(entropy, 2))
        grads = torch.autograd.grad((cam, entropy), (features, weight), upstream)
    return {"cam": cam, "entropy": entropy, "dF": grads[0], "dW": grads[1]}


def run_focus_head(
    form: Form, inputs: Inputs, *, through_logits: bool = False, **options: Any
) -> dict[str, Tensor]:
    """Return results and gradients for a random upstream gradient of the loss.

    through_logits: and of the logits.
    """
    leaves = [t.detach().requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    target = options.pop("target", inputs.index)
    with form.active():
        out = focus_head(*leaves, target, **options)
        results = (out.loss, out.logits) if through_logits else (out.loss,)
        upstream = [random_like(result, 3 * n) for n, result in enumerate(results)]
        grads = torch.autograd.grad(results, leaves, upstream)
    gradients = dict(zip(("dF", "dW", "db"), grads, strict=True))
    return (
        {n: t for n, t in out._asdict().items() if n != "terms"} | out.terms._asdict() | gradients
    )


def head_options(case: Case, inputs: Inputs) -> dict[str, Any]:
    """Return the options of the head for a case, tensors from ``inputs``."""
    options: dict[str, Any] = {
        **TERM_WEIGHTS,
        "focus_level": case["focus_level"],
        "cam_class": case["cam_class"],
        "entropy": case.get("entropy", "softmax"),
        "temperature": 0.8,
    }
    if case["maps"] == "no maps":
        options["entropy_target"] = 0.6
    else:
        options["saliency"] = inputs.saliency
    if case["maps"] == "masked maps":
        options["saliency_mask"] = inputs.mask
    return options


def assert_cam_entropy(form: Form, case: Case, **options: Any) -> None:
    """Compare results, and gradients for random upstream gradients, with the reference."""
    inputs = make_inputs(case, form.device)
    actual = run_cam_entropy(form, inputs, **options)
    expected = run_cam_entropy(REFERENCE, inputs.double(), **options)
    for name, tensor in actual.items():
        addends = () if name == "dF" else None
        where = f"{name} of {name_of(case)}"
        assert_close(where, tensor, expected[name], inputs.features.dtype, addends)


def assert_focus_head(form: Form, case: Case, inputs: Inputs | None = None, **more: Any) -> None:
    """Compare results, and gradients for a random upstream gradient, with the reference.

    more: options beside those of the case.
    """
    inputs = inputs or make_inputs(case, form.device)
    options = head_options(case, inputs) | more
    wide = {name: _widened(value) for name, value in options.items()}
    actual = run_focus_head(form, inputs, through_logits=True, **options)
    expected = run_focus_head(REFERENCE, inputs.double(), through_logits=True, **wide)
    without_cam = wide | {name: 0.0 for name in WEIGHTS if name != "classification_weight"}
    pooling = run_focus_head(REFERENCE, inputs.double(), through_logits=True, **without_cam)["dF"]
    for name, tensor in actual.items():
        addends = (pooling, expected["dF"] - pooling) if name == "dF" else None
        where = f"{name} of {name_of(case)}"
        assert_close(where, tensor, expected[name], inputs.features.dtype, addends)


def _widened(value: Any) -> Any:
    """Return a tensor on the CPU, of floats in float64; anything else as it is."""
    if not torch.is_tensor(value):
        return value
    return value.cpu().double() if value.is_floating_point() else value.cpu()


def assert_class_activation(form: Form, case: Case) -> None:
    """Compare logits, CAMs and entropies of three classes of each sample with the reference."""
    inputs = make_inputs(case, form.device)
    wide = inputs.double()
    classes = torch.stack([inputs.index, inputs.index.flip(0), inputs.index], 1)
    outputs = {}
    for implementation, values in ((form, inputs), (REFERENCE, wide)):
        with implementation.active():
            arguments = values.features, values.weight, values.bias
            numbers = classes.to(values.features.device)
            outputs[implementation] = class_activation(*arguments, numbers, temperature=0.7)
    names = (f"{name} of {name_of(case)}" for name in ("logits", "cams", "entropy"))
    for name, *pair in zip(names, outputs[form], outputs[REFERENCE], strict=True):
        assert_close(name, *pair, inputs.features.dtype)


SIZES: Case = {"batch": 5, "channels": 64, "grid": (3, 3), "classes": 3}


def on_meta(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape and strides, with no data."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def meta_case(case: Case) -> tuple[Inputs, dict[str, Any]]:
    inputs = make_inputs(SIZES | case)
    options = head_options(SIZES | case, inputs) if "maps" in case else {}
    for name, tensor in vars(inputs).items():
        setattr(inputs, name, on_meta(tensor))
    return inputs, {n: on_meta(v) if torch.is_tensor(v) else v for n, v in options.items()}


def run_on_meta(
    case: Case, backend: str, watched: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> None:
    """Run forward and backward of both operations, and the CAMs, on tensors without data."""
    inputs, options = meta_case(case)
    for name in (*WEIGHTS, "temperature"):  # of the device, as a schedule's are
        if name in options:
            options[name] = torch.empty((), device="meta")
    one = torch.empty((), device="meta")
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.weight, inputs.bias)]
    classes = inputs.index[:, None].expand(-1, 2)
    launched = mock.patch.multiple(backends, _obstacle=lambda *_: "", _remembered=backends._resolve)
    with launched, use_backend(backend), watched():
        for reduction in ("mean", "none"):
            out = focus_head(
                *leaves,
                inputs.index,
                reduction=reduction,
                class_weight=torch.empty(len(inputs.weight), device="meta"),
                **options,
            )
            upstream = torch.empty_like(out.loss), torch.empty_like(out.logits)
            torch.autograd.grad((out.loss, out.logits), leaves, upstream)
        results = cam_entropy(*leaves[:2], inputs.index, temperature=one)
        torch.autograd.grad(results, leaves[:2], [torch.empty_like(t) for t in results])
        class_activation(*leaves, classes, temperature=one)
