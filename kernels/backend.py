"""Which implementation an operation takes, and why.

- ``triton``: the fused kernels, for CUDA and ROCm tensors, and for CPU tensors in Triton's
  interpreter (``TRITON_INTERPRET=1`` in the environment before triton is imported, which timm and
  torch.compile do too; one thread at a time, as the interpreter keeps the grid's place for all).
- ``eager``: torch calls with analytic gradients; the CPU's form.
- ``reference``: the definition, differentiated by autograd; slow, and alone in having second
  derivatives and taking ``torch.func.grad``.
"""

import functools
import importlib.util
import os
import warnings
from types import TracebackType
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor

BackendName = Literal["triton", "eager", "reference"]

# Found without importing it, and once: torch.compile cannot trace the search.
HAS_TRITON = importlib.util.find_spec("triton") is not None

# What the small kernels hold of one sample; tests compile up to here.
MAX_CELLS = 128 * 128

Choice = BackendName | Literal["auto"]

_choice: Choice | None = None  # until one is made, that of the environment

_driver_asked = False
_driver_obstacle: str | None = None


class Backend(NamedTuple):
    """A backend's name and the reason it was chosen."""

    name: BackendName
    reason: str


class use_backend:
    """Choose the backend of the operations: "auto", "triton", "eager" or "reference".

    Until then it is that of the environment variable FOCUS_BACKEND, "auto" without one. Acts at
    once, on all threads, and as a context manager restores the earlier choice on leaving, so that
    only one thread at a time should enter it::

        use_backend("reference")            # from here on
        with use_backend("eager"): ...      # here only

    Raises:
        ValueError: for another name.
    """

    _left = False

    def __init__(self, name: str) -> None:
        global _choice
        self._chosen = _known(name, "backend ")
        self._before = _choice
        _choice = self._chosen

    def __enter__(self) -> None:
        global _choice
        if self._left:  # entered once more
            self._before, _choice = _choice, self._chosen

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _choice
        _choice = self._before
        self._left = True


def _known(name: str, where: str) -> Choice:
    if name not in ("auto", *get_args(BackendName)):
        raise ValueError(f"{where}{name!r} is not one of auto, triton, eager, reference")
    return cast(Choice, name)


def driver_obstacle() -> str | None:
    """Why Triton does not reach the GPU, as a clause; it takes a C compiler and Python's headers.

    Asked once, and not where torch.compile traces, which takes what is known by then.
    """
    global _driver_asked, _driver_obstacle
    # In this order: whether it was asked is nothing to compile anew for.
    if not torch.compiler.is_compiling() and not _driver_asked:
        try:
            from triton.runtime import driver

            driver.active.get_current_target()
        except Exception as error:  # the compiler's, the linker's, the driver's
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            _driver_obstacle = said.partition(". ")[0].removesuffix(".")
        _driver_asked = True
    return _driver_obstacle


def _imported_interpreted() -> bool:
    """Whether triton's own functions, made as it is imported, are those of the interpreter."""
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(standard.sum, InterpretedFunction)


def backend_for(features: Tensor) -> Backend:
    """The backend that the operations take for ``features [B,C,H,W]``, and why.

    The kernels take grids of up to ``MAX_CELLS`` cells; of more, eager torch is taken, on a GPU
    with a warning.

    Raises:
        RuntimeError: if "triton" was asked for and cannot run here.
        ValueError: FOCUS_BACKEND names no backend.
    """
    choice = _choice or _known(os.environ.get("FOCUS_BACKEND", "auto"), "FOCUS_BACKEND=")
    on_gpu = features.device.type == "cuda"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    obstacle = None
    if not HAS_TRITON:
        obstacle = "triton is not installed"
    elif not on_gpu and not interpreted:
        obstacle = f"features on {features.device.type} and TRITON_INTERPRET is not 1"
    elif interpreted and not torch.compiler.is_compiling() and not _imported_interpreted():
        obstacle = "TRITON_INTERPRET was set after triton was imported: set it before"
    elif features.dim() == 4 and features.shape[2] * features.shape[3] > MAX_CELLS:
        height, width = features.shape[2:]
        obstacle = (
            f"features have {height} x {width} cells and a kernel takes at most {MAX_CELLS}: "
            "pool them first"
        )
    elif not interpreted and choice in ("auto", "triton"):
        obstacle = driver_obstacle()

    if choice == "triton":
        if obstacle:
            raise RuntimeError(f"backend triton cannot run: {obstacle}")
        return Backend("triton", "asked for")
    if choice != "auto":
        return Backend(choice, "asked for")
    if obstacle is None:
        return Backend("triton", "interpreter" if not on_gpu else "GPU features")
    if on_gpu and not torch.compiler.is_compiling():
        _warn_slow(obstacle)
    return Backend("eager", obstacle)


@functools.cache
def _warn_slow(obstacle: str) -> None:
    warnings.warn(
        f"focus.kernels runs in eager torch on the GPU: {obstacle}", RuntimeWarning, stacklevel=4
    )
