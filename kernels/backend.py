"""Choose the form that an operation takes, and say why.

- ``triton``: the fused kernels, for CUDA and ROCm tensors, and for CPU tensors in Triton's
  interpreter (``TRITON_INTERPRET=1`` in the environment before triton is imported).
- ``eager``: the reference, but for its reading of the features; the CPU's form, and float64's.
- ``reference``: the definition, differentiated by autograd; slow, and alone in having second
  derivatives and taking ``torch.func.grad``.
"""

import functools
import importlib.util
import os
import warnings
from typing import Literal, NamedTuple, Self, cast, get_args

import torch
from torch import Tensor

from focus.kernels.types import next_power_of_2

BackendName = Literal["triton", "eager", "reference"]
Choice = BackendName | Literal["auto"]

# Found without importing it, and once: torch.compile cannot trace the search.
HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
MAX_CELLS = 64 * 64
"""Cells of a grid that a kernel's program holds."""
MAX_CLASSES, MAX_MAPS = 16, 2**14
"""Classes whose maps a program holds, and the elements of these maps."""

_choice: Choice | None = None  # that of FOCUS_BACKEND until one is made


class Backend(NamedTuple):
    """A backend's name and the reason it was chosen."""

    name: BackendName
    reason: str


class use_backend:
    """Choose the backend of the operations: "auto", "triton", "eager" or "reference".

    Until then it is that of the environment variable FOCUS_BACKEND, "auto" without one. Acts at
    once, on all threads, and as a context manager restores the earlier choice on leaving::

        use_backend("reference")            # from here on
        with use_backend("eager"): ...      # here only

    Raises:
        ValueError: for another name.
    """

    def __init__(self, name: str) -> None:
        self._chosen, self._before = _known(name), _choice
        self.__enter__()

    def __enter__(self) -> Self:
        global _choice
        _choice = self._chosen
        return self

    def __exit__(self, *_: object) -> None:
        global _choice
        _choice = self._before


def _known(name: str, of: str = "backend ") -> Choice:
    if name not in ("auto", *get_args(BackendName)):
        raise ValueError(f"{of}{name!r} is not one of auto, triton, eager, reference")
    return cast(Choice, name)


def backend_for(features: Tensor) -> Backend:
    """Return the backend that the operations take for ``features [B,C,H,W]``, and why.

    Raises:
        RuntimeError: if "triton" was asked for and cannot run here.
        ValueError: FOCUS_BACKEND names no backend.
    """
    choice = _choice or os.environ.get("FOCUS_BACKEND", "auto")
    cells = features.shape[2] * features.shape[3] if features.dim() == 4 else 0
    arguments = choice, features.device.type, features.dtype, cells > MAX_CELLS
    # A graph holds the choice of when it was traced; Dynamo does not trace into caches.
    return (_resolve if torch.compiler.is_compiling() else _remembered)(*arguments)


def _resolve(choice: str, device: str, dtype: torch.dtype, large: bool) -> Backend:
    choice = _known(choice, "FOCUS_BACKEND=")
    if choice in ("eager", "reference"):
        return Backend(choice, "asked for")
    obstacle = _obstacle(device, dtype, large)
    if choice == "triton" and obstacle:
        raise RuntimeError(f"backend triton cannot run: {obstacle}")
    if not obstacle:
        reason = "GPU features" if device == "cuda" else "interpreter"
        return Backend("triton", "asked for" if choice == "triton" else reason)
    if device == "cuda" and dtype != torch.float64 and not torch.compiler.is_compiling():
        message = f"focus.kernels runs in eager torch on the GPU: {obstacle}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    return Backend("eager", obstacle)


_remembered = functools.cache(_resolve)


def _obstacle(device: str, dtype: torch.dtype, large: bool) -> str:
    """Return why the kernels cannot run, as a clause; "" if they can."""
    if not HAS_TRITON:
        return "triton is not installed"
    if device != "cuda" and not INTERPRETED:
        return f"features on {device} where Triton needs a GPU, or TRITON_INTERPRET=1"
    if dtype == torch.float64:
        return "the kernels add in float32, and features are float64"
    if large:
        return f"the kernels take at most {MAX_CELLS} cells: pool the features first"
    return "" if INTERPRETED else _driver_obstacle()


def _driver_obstacle() -> str:
    """Return why Triton does not reach the GPU; it takes a C compiler and Python's headers."""
    if torch.compiler.is_compiling():
        return ""
    try:
        from triton.runtime import driver

        driver.active.get_current_target()
    except Exception as error:  # the compiler's, the linker's, the driver's
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return said.partition(". ")[0].removesuffix(".")
    return ""


def rows_held(cells: int) -> int:
    """Return the number of class maps ``[cells]`` that a program holds."""
    return min(MAX_CLASSES, MAX_MAPS // max(next_power_of_2(cells), 16))
