"""Run Triton kernels in Triton's interpreter within a context, and leave no trace outside it.

Triton decides when a function is decorated whether it is compiled or interpreted, and whatever
imported triton first (torch.compile does) has decided so for its standard library. So the decorated
functions themselves are exchanged here and put back on leaving: the other tests see the machine as
it is, and tests of the compiler and of a GPU can run in the same process.
"""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import focus.kernels


@contextmanager
def interpreter(
    *modules: ModuleType, tile_scale: int = 16, check_overflow: bool = False
) -> Iterator[None]:
    """Interpret the kernels of this package, as under ``TRITON_INTERPRET=1`` from the start.

    And those of ``modules``, such as a test's own. Tiles are ``tile_scale`` sixteenths of a GPU's.
    With ``check_overflow`` integers that overflow are refused, which takes a third more time.
    """
    import triton.language as tl
    from triton.runtime.jit import JITFunction

    from focus.kernels import backend, triton_cam

    if not _counts_with_this_numpy():
        pytest.skip("this triton's interpreter needs numpy < 2.4")

    # Imported for the first float argument, and not where the language is that of the interpreter.
    importlib.import_module("triton.experimental.gluon")
    # What the interpreter patches, and after the call of a device function leaves patched.
    patched = [tl, tl.core, tl.math, tl.tensor, tl.dtype, tl.condition]
    patched.append(tl.core.tensor_descriptor_base)
    before = [dict(vars(owner)) for owner in patched]
    with pytest.MonkeyPatch.context() as patch:
        for module in (*_modules_with_kernels(), *modules):
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    patch.setattr(module, name, _interpreted(value.fn))
        patch.setattr(triton_cam, "TILE", tile_scale * triton_cam.TILE // 16)
        triton_cam.constants.cache_clear()
        patch.setattr(backend, "INTERPRETED", True)
        patch.setattr(backend, "_remembered", backend._resolve)
        try:
            _round_to_nearest(patch)
            _poison_what_is_masked(patch)
            _quicken(patch, check_overflow)
            with np.errstate(all="ignore"):  # as a GPU, which does not warn
                yield
        finally:
            for owner, attributes in zip(patched, before, strict=True):
                _restore(owner, attributes)
            triton_cam.constants.cache_clear()


@contextmanager
def shuffled_programs(seed: int) -> Iterator[None]:
    """Run the programs of each launch in a random order, where the interpreter goes by the grid's.

    A GPU promises no order: a result that depends on it is not the same each time.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    draw = np.random.default_rng(seed)
    set_grid, set_program = InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx
    order: dict[tuple[int, ...], tuple[int, ...]] = {}

    def shuffle(builder: Any, *grid: int) -> None:
        programs = list(np.ndindex(grid))
        order.clear()
        order.update(zip(programs, map(tuple, draw.permutation(programs).tolist()), strict=True))
        set_grid(builder, *grid)

    def exchange(builder: Any, *program: int) -> None:
        set_program(builder, *order[program])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "set_grid_dim", shuffle)
        patch.setattr(InterpreterBuilder, "set_grid_idx", exchange)
        yield


def _round_to_nearest(patch: pytest.MonkeyPatch) -> None:
    """From float32 to bfloat16, as GPUs do; the interpreter cuts off what does not fit."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast = InterpreterBuilder.cast_impl

    def rounded(self: Any, source: Any, type: Any) -> Any:
        if (source.dtype.scalar, type.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, type)
        values = torch.tensor(source.data, dtype=torch.float32).bfloat16().view(torch.int16)
        return TensorHandle(values.numpy().view(np.uint16), tl.bfloat16)

    patch.setattr(InterpreterBuilder, "cast_impl", rounded)


def _poison_what_is_masked(patch: pytest.MonkeyPatch) -> None:
    """NaN, or -1, where a load has a mask and no ``other``: on a GPU it may be anything, here 0."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype

    load = InterpreterBuilder.create_masked_load

    def poisoned(self: Any, pointers: Any, mask: Any, other: Any, *options: Any) -> Any:
        if other is None:
            kind = pointers.get_element_ty()
            values = np.zeros(pointers.data.shape, _get_np_dtype(kind))
            values.view(np.uint8)[...] = 255
            other = TensorHandle(values, kind)
        return load(self, pointers, mask, other, *options)

    patch.setattr(InterpreterBuilder, "create_masked_load", poisoned)


def _quicken(patch: pytest.MonkeyPatch, check_overflow: bool) -> None:
    """Save what takes most of the interpreter's time and changes no result."""
    import triton.language as tl
    from triton.runtime import interpreter as module

    # Its changes to the language are made once, not again at each call of a device function.
    def all_of_it() -> None: ...

    module._patch_lang(FunctionType(all_of_it.__code__, {"tl": tl, "core": tl.core}))
    patch.setattr(module, "_patch_lang", lambda function: module._LangPatchScope())
    options = dataclasses.replace(
        module.interpreter_builder.options, sanitize_overflow=check_overflow
    )
    patch.setattr(module.interpreter_builder, "options", options)
    # What follows from a type is found once, not again for each result of each operation.
    scalar, any_type = functools.cache(module._get_np_dtype), module._get_np_dtype
    patch.setattr(
        module, "_get_np_dtype", lambda t: scalar(t) if type(t) is tl.dtype else any_type(t)
    )
    patch.setattr(tl.block_type, "__init__", _block_type_once())
    patch.setattr(tl.tensor, "__init__", _tensor_once())


def _block_type_once() -> Callable[..., None]:
    """``block_type.__init__``, which checks the sizes, where they are new."""
    import triton.language as tl

    make, made = tl.block_type.__init__, dict[tuple[str, str], dict[str, Any]]()

    def once(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = [size.value if isinstance(size, tl.constexpr) else size for size in shape]
        # As a text, in which 1.0 and True, which are no sizes, are not 1.
        key = element_ty.name, str(sizes)
        if key in made:
            vars(self).update(made[key])
        else:
            make(self, element_ty, shape)
            made[key] = dict(vars(self))

    return once


def _tensor_once() -> Callable[..., None]:
    """``tensor.__init__``: all but the handle is the same for all tensors of a type."""
    import triton.language as tl

    make, made = tl.tensor.__init__, dict[str, dict[str, Any]]()

    def once(self: Any, handle: Any, type: Any) -> None:
        if type.name not in made:
            make(self, None, type)
            made[type.name] = dict(vars(self))
        vars(self).update(made[type.name], handle=handle)

    return once


@functools.cache
def _counts_with_this_numpy() -> bool:
    """Triton 3.6 makes numbers of arrays with one element, which numpy 2.4 refuses."""
    from triton.runtime import interpreter as module

    return "int(self.handle.data))" not in inspect.getsource(module) or np.__version__ < "2.4"


@functools.cache
def _modules_with_kernels() -> list[Any]:
    names = ["triton.language", "triton.language.standard"]
    names += [m.name for m in pkgutil.iter_modules(focus.kernels.__path__, "focus.kernels.")]
    return [importlib.import_module(name) for name in names]


@functools.cache
def _interpreted(function: Callable[..., Any]) -> Any:
    from triton.runtime.interpreter import InterpretedFunction

    return InterpretedFunction(function)


def _restore(owner: Any, attributes: dict[str, Any]) -> None:
    for name, value in list(vars(owner).items()):
        if name not in attributes:
            delattr(owner, name)
        elif value is not attributes[name]:
            setattr(owner, name, attributes[name])
