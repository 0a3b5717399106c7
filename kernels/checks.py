"""Checks of arguments, made once at an operation's entry.

A value or shape that does not fit, or a device, raises ValueError; a type TypeError; a class that
does not exist IndexError. Each names the argument. What depends on types, shapes and devices alone
is checked once for each combination of them.
"""

import operator
from collections.abc import Callable, Hashable, Sequence
from numbers import Real
from typing import Any, get_args

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from focus.kernels.terms import WEIGHTS, CamClass, Entropy, FocusLevel, Reduction
from focus.kernels.types import HeadArguments, Number

SMALLEST = torch.finfo(torch.float32).tiny
"""The smallest temperature: what is below is 0 in float32, or may be taken as 0 by a GPU."""

_FLOATS = "floating point"
_DTYPES = {
    _FLOATS: (torch.float64, torch.float32, torch.bfloat16, torch.float16),
    "int64": (torch.int64,),
    "bool": (torch.bool,),
}
_DTYPES["floating point in [0, 1], or bool"] = (*_DTYPES[_FLOATS], torch.bool)
_passed: set[Hashable] = set()


def number(name: str, value: Number) -> Number:
    """Return a setting as a float, unless it is a tensor.

    Triton takes no number of numpy, and compiles a kernel for an int that it has for the float.
    """
    if type(value) is float or isinstance(value, Tensor):
        return value
    if not isinstance(value, Real):  # type: ignore[unreachable]
        raise TypeError(f"{name} must be a number or a tensor, got {value!r}")
    return float(value)  # type: ignore[unreachable]


def temperature_of(value: Number) -> Number:
    """Return a temperature as :func:`number` does; check it, unless looking waits for a device."""
    value = number("temperature", value)
    if not isinstance(value, Tensor) and not value >= SMALLEST:
        small = ", too small for float32" if value > 0 else ""
        raise ValueError(f"temperature must be above 0, got {value}{small}")
    return value


def check_cam_entropy(features: Tensor, weight: Tensor, index: Tensor, temperature: Number) -> None:
    """Check the arguments of :func:`focus.kernels.cam_entropy`, but for the range of classes."""
    _once(_cam_entropy, features, weight, index, temperature)


def check_class_activation(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor | Sequence[int],
    temperature: Number,
) -> Tensor:  # fmt: skip
    """Check the arguments of :func:`focus.kernels.class_activation`; return classes ``[B,k]``."""
    _once(_features_and_bias, features, weight, bias, temperature)
    batch, device = features.shape[0], weight.device  # len() would tie an exported graph to it
    if isinstance(classes, Tensor):
        if classes.dim() != 2 or classes.shape[0] != batch:
            raise ValueError(f"classes must be [B,k] with B = {batch}, got {list(classes.shape)}")
        _check_tensor("classes", classes, tuple(classes.shape), features, "int64")
        return classes
    try:
        row = [operator.index(number) for number in classes]
    except TypeError:
        wanted = "an int64 tensor [B,k] or class numbers"
        raise TypeError(f"classes must be {wanted}, got {classes!r}") from None
    if row:
        _check_bounds("classes", min(row), max(row), len(weight))
    if isinstance(classes, range):  # no copy, for which a GPU would wait
        made = torch.arange(classes.start, classes.stop, classes.step, device=device)
    else:
        made = torch.tensor(row, dtype=torch.int64, device=device)
    return made.expand(batch, -1)


def check_focus_head(arguments: HeadArguments) -> None:
    """Check the arguments of :func:`focus.kernels.focus_head`, but for the range of classes."""
    _once(_focus_head, *arguments)
    smoothing, aim = arguments.label_smoothing, arguments.entropy_target
    if not isinstance(smoothing, Tensor) and not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {smoothing}")
    if aim is not None and not isinstance(aim, Tensor) and not 0 <= aim <= 1:
        raise ValueError(f"entropy_target must be in [0, 1], got {aim}")


def check_range(name: str, index: Tensor, classes: int) -> None:
    """Check class numbers ``[...]`` on the CPU; on a GPU, looking would wait for it.

    Nor where torch.compile or torch.export trace: there is nothing to look at yet.
    """
    traced = torch.compiler.is_compiling() or isinstance(index, FakeTensor)
    if index.device.type == "cpu" and not traced and index.numel():
        low, high = (int(v) for v in index.aminmax())
        _check_bounds(name, low, high, classes)


def _once(check: Callable[..., None], *arguments: Any) -> None:
    """Call ``check`` unless arguments of these types, shapes and devices have passed it."""
    if torch.compiler.is_compiling():
        check(*arguments)
        return
    if (passed := (check, *map(_kind, arguments))) not in _passed:
        check(*arguments)
        if len(_passed) >= 1024:
            _passed.clear()
        _passed.add(passed)


def _kind(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.shape, x.dtype, x.device
    if isinstance(x, tuple):
        return tuple(map(_kind, x))
    return x if isinstance(x, str) else type(x)


def _cam_entropy(features: Tensor, weight: Tensor, index: Tensor, temperature: Number) -> None:
    _features_and_bias(features, weight, None, temperature)
    _check_tensor("index", index, (features.shape[0],), features, "int64")


def _features_and_bias(
    features: Tensor, weight: Tensor, bias: Tensor | None, temperature: Number
) -> None:
    for name, tensor in (("features", features), ("weight", weight)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in _DTYPES[_FLOATS]:
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
    if features.dim() != 4:
        raise ValueError(f"features must be [B,C,H,W], got {list(features.shape)}")
    if features.shape[1] < 1 or features.shape[2] * features.shape[3] < 1:
        raise ValueError(f"features need channels and cells, got {list(features.shape)}")
    if weight.dim() != 2 or weight.shape[1] != features.shape[1] or not len(weight):
        of = f"C = {features.shape[1]} as in features {list(features.shape)}"
        raise ValueError(f"weight must be [K,C] with {of}, got {list(weight.shape)}")
    if features.device != weight.device:
        raise ValueError(f"features are on {features.device} but weight on {weight.device}")
    if bias is not None:
        of_sample = isinstance(bias, Tensor) and bias.dim() == 2
        shape = (features.shape[0], len(weight)) if of_sample else (len(weight),)
        _check_tensor("bias", bias, shape, features, _FLOATS)
    _check_element("temperature", temperature, features)


def _focus_head(*values: Any) -> None:
    arguments = HeadArguments(*values)
    features, target, aim = arguments.features, arguments.target, arguments.entropy_target
    _features_and_bias(features, arguments.weight, arguments.bias, arguments.temperature)
    (batch, _, *grid), classes = features.shape, len(arguments.weight)
    if isinstance(target, Tensor) and target.dim() == 2:
        _check_tensor("target", target, (batch, classes), features, _FLOATS)
    else:
        _check_tensor("target", target, (batch,), features, "int64")
    kinds = {"focus_level": FocusLevel, "cam_class": CamClass, "entropy": Entropy}
    for name, choice in (kinds | {"reduction": Reduction}).items():
        if (value := getattr(arguments, name)) not in get_args(choice):
            raise ValueError(f"{name} {value!r} is not one of {', '.join(get_args(choice))}")
    if arguments.cam_class == "contrast" and classes < 2:
        raise ValueError(f"cam_class 'contrast' needs at least 2 classes, weight has {classes}")
    if arguments.saliency is not None:
        maps = "floating point in [0, 1], or bool"
        _check_tensor("saliency", arguments.saliency, (batch, *grid), features, maps)
    if arguments.saliency_mask is not None:
        _check_tensor("saliency_mask", arguments.saliency_mask, (batch,), features, "bool")
        if arguments.saliency is None:
            raise ValueError("saliency_mask says which samples have a map, but saliency is None")
    if arguments.class_weight is not None:
        _check_tensor("class_weight", arguments.class_weight, (classes,), features)
    for name, value in zip(WEIGHTS, arguments.weights, strict=True):
        _check_element(name, value, features)
    _check_element("label_smoothing", arguments.label_smoothing, features)
    if isinstance(aim, Tensor) and aim.dim():
        _check_tensor("entropy_target", aim, (batch,), features)
    else:
        _check_element("entropy_target", aim, features)


def _check_tensor(
    name: str, tensor: Tensor, shape: tuple[int, ...], features: Tensor, kind: str = ""
) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    if tensor.device != features.device:
        raise ValueError(f"{name} is on {tensor.device} but features on {features.device}")
    if kind and tensor.dtype not in _DTYPES[kind]:
        raise TypeError(f"{name} must be {kind}, got {tensor.dtype}")


def _check_element(name: str, value: Number | None, features: Tensor) -> None:
    """Check a setting that is a tensor."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name} must be a number or a tensor of one, got {list(value.shape)}")
        _check_tensor(name, value, tuple(value.shape), features)


def _check_bounds(name: str, low: int, high: int, classes: int) -> None:
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        of = f"the {classes} classes of weight (0 to {classes - 1})"
        raise IndexError(f"{name} has class {wrong}, outside {of}")
