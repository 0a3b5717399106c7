"""Checks of arguments, made once at an operation's entry, and their normal form.

A value or shape that does not fit, or a device, raises ValueError; a type TypeError; a class that
does not exist IndexError. Each names the argument.
"""

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TypeGuard

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from focus.kernels.types import accumulation_dtype

SMALLEST = torch.finfo(torch.float32).tiny
"""Of a number above 0: what is below is 0 in float32, or a number that a GPU may take as 0."""

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_features(features: Tensor, weight: Tensor) -> None:
    """Features ``[B,C,H,W]`` and weight ``[K,C]``, floating point, on one device."""
    check_is_tensor("features", features)
    check_is_tensor("weight", weight)
    for name, tensor in (("features", features), ("weight", weight)):
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} must be dense, got {tensor.layout}: call to_dense()")
    if features.dim() != 4:
        raise ValueError(f"features must be [B,C,H,W], got {list(features.shape)}")
    if features.shape[1] < 1 or features.shape[2] * features.shape[3] < 1:
        raise ValueError(f"features need channels and cells, got {list(features.shape)}")
    if weight.dim() != 2 or weight.shape[1] != features.shape[1] or weight.shape[0] < 1:
        raise ValueError(
            f"weight must be [K,C] with C = {features.shape[1]} as in features "
            f"{list(features.shape)}, got {list(weight.shape)}"
        )
    check_float("features", features)
    check_float("weight", weight)
    if features.device != weight.device:
        raise ValueError(f"features are on {features.device} but weight on {weight.device}")


def check_is_tensor(name: str, value: object) -> None:
    """A tensor, and no number, list or array."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def check_float(name: str, tensor: Tensor) -> None:
    """A tensor of a floating-point type that the operations take."""
    if tensor.dtype not in _FLOATS:
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")


def check_real(name: str, tensor: Tensor) -> None:
    """A tensor of any type but complex, of which only the real part would be taken."""
    if tensor.is_complex():
        raise TypeError(f"{name} must be real, got {tensor.dtype}")


def check_bias(bias: Tensor | None, weight: Tensor) -> None:
    """None, or ``[K]``, floating point."""
    if bias is not None:
        check_tensor("bias", bias, (len(weight),), weight)
        check_float("bias", bias)


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], features: Tensor) -> None:
    """A tensor of a shape on the features' device."""
    check_is_tensor(name, tensor)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    check_device(name, tensor, features)


def check_device(name: str, tensor: Tensor, features: Tensor) -> None:
    """A tensor on the features' device."""
    if tensor.device != features.device:
        raise ValueError(f"{name} is on {tensor.device} but features on {features.device}")


def check_index(name: str, index: Tensor, features: Tensor) -> None:
    """Class numbers ``[B]``; their range is for :func:`check_range`."""
    check_tensor(name, index, (features.shape[0],), features)
    check_integer(name, index)


def check_integer(name: str, index: Tensor) -> None:
    """A tensor of int64."""
    if index.dtype != torch.int64:
        raise TypeError(f"{name} must be int64, got {index.dtype}")


def check_map(name: str, human: Tensor) -> None:
    """Human maps in [0, 1]: floating point, or masks of bool. Not 0 to 255, as images are."""
    if human.dtype not in (*_FLOATS, torch.bool):
        # Of the floating types those of 8 bits are left.
        advice = "convert them" if human.is_floating_point() else "divide by the largest value"
        raise TypeError(
            f"{name} must be floating point in [0, 1], or bool, got {human.dtype}: {advice}."
        )


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """One of the words."""
    if value not in choices:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(choices)}")


def check_positive(name: str, value: float | Tensor) -> None:
    """A number above 0; of a tensor nothing, since looking would wait for its device."""
    if _is_number(value, name) and not value >= SMALLEST:
        small = ", too small for float32" if value > 0 else ""
        raise ValueError(f"{name} must be above 0, got {value}{small}")


def check_share(name: str, value: float | Tensor, *, below: bool = False) -> None:
    """A number in [0, 1], or ``below`` 1; of a tensor nothing."""
    if _is_number(value, name) and not (0 <= value < 1 or (value == 1 and not below)):
        raise ValueError(f"{name} must be in [0, 1{')' if below else ']'}, got {value}")


def _is_number(value: object, name: str) -> TypeGuard[float]:
    """Whether it is a number, and not a tensor; anything else is refused."""
    if isinstance(value, Tensor):
        return False
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a tensor, got {value!r}")
    return True


def check_range(name: str, index: Tensor, classes: int) -> None:
    """Class numbers in [0, K), on the CPU; on a GPU, looking would wait for it.

    Nor while torch.compile or torch.export trace, where there is nothing to look at yet, nor of
    fake tensors, which have no values.
    """
    traced = torch.compiler.is_compiling() or isinstance(index, FakeTensor)
    if index.device.type == "cpu" and not traced and index.numel():
        low, high = (int(v) for v in index.aminmax())
        _check_bounds(name, low, high, classes)


def _check_bounds(name: str, low: int, high: int, classes: int) -> None:
    if low < 0 or high >= classes:
        raise IndexError(
            f"{name} has class {low if low < 0 else high}, outside the {classes} classes "
            f"of weight (0 to {classes - 1})"
        )


def scalar_tensor(values: Mapping[str, float | Tensor], features: Tensor) -> Tensor:
    """The named values as one ``[n]`` tensor of the accumulation type on the features' device."""
    dtype, device = accumulation_dtype(features), features.device
    for name, value in values.items():
        if isinstance(value, Tensor):
            if value.numel() != 1:
                shape = list(value.shape)
                raise ValueError(f"{name} must be a number or a tensor of one, got {shape}")
            check_real(name, value)
    numbers = [value for name, value in values.items() if _is_number(value, name)]
    filled = _filled(numbers, dtype, device)
    if len(numbers) == len(values):
        return filled
    left = iter(filled.unbind())
    return torch.stack(
        [
            value.detach().to(device, dtype).reshape(())
            if isinstance(value, Tensor)
            else next(left)
            for value in values.values()
        ]
    )


def class_row(name: str, classes: Sequence[int], weight: Tensor) -> Tensor:
    """Class numbers as ``[k]`` int64, checked, on the weight's device."""
    if isinstance(classes, range) and len(classes):
        _check_bounds(name, min(classes), max(classes), len(weight))
        return torch.arange(classes.start, classes.stop, classes.step, device=weight.device)
    try:
        numbers = [operator.index(number) for number in classes]
    except TypeError:
        raise TypeError(
            f"{name} must be an int64 tensor [B,k] or class numbers, got {classes!r}"
        ) from None
    if numbers:
        _check_bounds(name, min(numbers), max(numbers), len(weight))
    return _filled(numbers, torch.int64, weight.device)


def _filled(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    if dtype.is_floating_point and len(numbers) and torch.compiler.is_compiling():
        # A number that changes becomes an input of the graph; filled in, each compiles anew.
        zero = torch.zeros((), dtype=dtype, device=device)
        return torch.stack([zero + number for number in numbers])
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=dtype, device=device)
    return fill(numbers, dtype, device)


def fill(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """``[n]`` of numbers, up to 96 by two launches. ``torch.tensor`` would copy them, and wait."""
    if len(numbers) == 1:
        return torch.full((1,), numbers[0], dtype=dtype, device=device)
    out = torch.zeros(len(numbers), dtype=dtype, device=device)
    if len(numbers):
        torch._foreach_add_(out.unbind(), numbers)
    return out
