"""Count the bytes that kernels and torch calls move, in Triton's interpreter on the CPU.

Every access of an interpreted kernel passes a few methods of Triton's ``InterpreterBuilder`` with
the addresses and the mask of all its lanes. They are private: tests/kernels/test_traffic.py guards
this use with a copy whose bytes are known. Torch calls are seen by a ``TorchDispatchMode``, also
those within registered operators, so that traffic cannot hide in a ``sum`` or a ``contiguous``.

Counted are requests, active lanes times the size of an element. An access outside the elements of
the tensors that a kernel was given is an error, also in the gaps of a sliced one.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BACKEND = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

Role = Literal["F", "dF", "other"]
Kind = Literal["read", "write"]
Addresses = npt.NDArray[np.int64]

# Operations that move nothing: what allocates, and (of a tensor made of numbers) bookkeeping.
IDLE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach_"}
# Operations that take a tensor for its shape and type alone.
LIKE = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
# In-place operations that do not read what they write over.
OVERWRITE = {"copy_", "fill_", "zero_"}

# The builder's methods that touch memory (its other loads and stores call these), what they do, and
# the places of pointers and mask among their arguments.
ACCESSES: tuple[tuple[str, tuple[Kind, ...], int, int | None], ...] = (
    ("create_masked_load", ("read",), 0, 1),
    ("create_masked_store", ("write",), 0, 2),
    ("create_atomic_rmw", ("read", "write"), 1, 3),
    ("create_atomic_cas", ("read", "write"), 0, None),
)


class BadAccess(Exception):
    """A kernel touched memory that is no element of a tensor it was given, or across elements."""


@dataclass
class Launch:
    """One kernel, or one torch operation, and the bytes that it moved by role and kind."""

    name: str
    is_kernel: bool
    extents: "list[Extent]" = field(default_factory=list)
    by_storage: Counter[tuple[int, Kind]] = field(default_factory=Counter)
    moved: Counter[tuple[Role, Kind]] = field(default_factory=Counter)
    elements: set[int] = field(default_factory=set)
    """The numbers of elements of the tensors touched."""

    def add(self, extent: "Extent", kind: Kind, size: int) -> None:
        """Count bytes of a tensor."""
        self.by_storage[extent.storage, kind] += size
        self.elements.add(extent.elements)


@dataclass(frozen=True)
class Traffic:
    """All launches of a step, in order."""

    launches: tuple[Launch, ...]
    elements: int
    """The number of elements of the features."""

    def moved(self, role: Role, kind: Kind) -> int:
        """Return the bytes moved."""
        return sum(launch.moved[role, kind] for launch in self.launches)

    @property
    def other(self) -> int:
        """Bytes read and written of all that is neither the features nor their gradient."""
        return self.moved("other", "read") + self.moved("other", "write")

    @property
    def wide_launches(self) -> int:
        """Launches that touch F, dF or another tensor of their size."""
        return sum(
            self.elements in launch.elements or any(role != "other" for role, _ in launch.moved)
            for launch in self.launches
        )


def measure(step: Callable[[], Tensor | None], features: Tensor) -> Traffic:
    """Run ``step``, which returns the gradient of ``features`` or None, and count.

    On tensors of the meta device kernels are listed without running: these are the launches that a
    GPU sees, without the CPU's own checks of values.

    Raises:
        BadAccess: a kernel reads or writes outside its tensors, or misaligned.
    """
    counter = _Counter()
    with _counted_kernels(counter), counter:
        gradient = step()
    roles: dict[int, Role] = {_storage(features): "F"}
    if gradient is not None:
        roles[_storage(gradient)] = "dF"
    for launch in counter.launches:
        for (storage, kind), size in launch.by_storage.items():
            launch.moved[roles.get(storage, "other"), kind] += size
    return Traffic(tuple(counter.launches), features.numel())


class Extent:
    """The addresses of a tensor's elements: those in the gaps of a view are outside.

    Views whose elements overlap, other than by expanding, are not provided for.
    """

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.name, self.elements = name, tensor.numel()
        self.start, self.storage = tensor.data_ptr(), _storage(tensor)
        size = tensor.element_size()
        axes = [
            (stride * size, length)
            for length, stride in zip(tensor.shape, tensor.stride(), strict=True)
            if length > 1 and stride
        ]
        # Axes (stride, length) in bytes, the innermost first; what follows without gap is one.
        self.axes = [(1, size)]
        for stride, length in sorted(axes):
            inner_stride, inner = self.axes[-1]
            if stride == inner_stride * inner:
                self.axes[-1] = (inner_stride, inner * length)
            else:
                self.axes.append((stride, length))
        self.bytes = math.prod(length for _, length in self.axes)
        self.length = 1 + sum(stride * (length - 1) for stride, length in self.axes)

    def holds(self, addresses: Addresses) -> npt.NDArray[np.bool_]:
        """Return which addresses are a byte of an element."""
        rest = addresses - self.start
        inside = (rest >= 0) & (rest < self.length)
        for stride, length in reversed(self.axes[1:]):
            rest = rest - np.minimum(rest // stride, length - 1) * stride
        return inside & (rest < self.axes[0][1])


def _storage(tensor: Tensor) -> int:
    """Return a number that tensors that share memory have in common, also on the meta device."""
    number: int = tensor.untyped_storage()._cdata
    return number


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors in an argument, also in lists and in Triton's tensor descriptors."""
    leaves = [getattr(leaf, "base", leaf) for leaf in tree_leaves(value)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class _Counter(TorchDispatchMode):
    """Sees torch operations as a dispatch mode, and is told of the accesses of kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launches: list[Launch] = []
        self.kernel: Launch | None = None
        # Kept, so that no address serves two tensors in turn.
        self.alive: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.kernel is not None:
            return func(*args, **kwargs)  # the interpreter's own
        if func.namespace not in ("aten", "prim", "prims"):
            # A registered operator is what it calls: past this mode once, then under it again.
            with self:
                return func.redispatch(BACKEND, *args, **kwargs)
        out = func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        if name in IDLE:
            return
        launch = Launch(name, is_kernel=False)
        inputs, written = set(), set()
        for place, argument in enumerate(func._schema.arguments):
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            writes = argument.alias_info is not None and argument.alias_info.is_write
            for extent in self._extents(argument.name, value):
                inputs.add(extent.storage)
                if writes:
                    written.add(extent.storage)
                    launch.add(extent, "write", extent.bytes)
                if name not in LIKE and not (writes and (argument.is_out or name in OVERWRITE)):
                    launch.add(extent, "read", extent.bytes)
        outputs = self._extents("result", out)
        for extent in outputs:
            if extent.storage not in inputs:
                launch.add(extent, "write", extent.bytes)
        # A view's memory is an input's, and nothing writes it.
        is_view = bool(outputs) and {extent.storage for extent in outputs} <= inputs - written
        if launch.by_storage and not is_view:
            self.launches.append(launch)

    def _extents(self, name: str, value: Any) -> list[Extent]:
        tensors = _tensors(value)
        self.alive += [tensor.untyped_storage() for tensor in tensors]
        return [Extent(name, tensor) for tensor in tensors if tensor.numel()]

    @contextmanager
    def launch(self, name: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Take the accesses reported inside as this kernel's."""
        self.kernel = Launch(name, is_kernel=True)
        self.launches.append(self.kernel)
        for argument, value in arguments.items():
            self.kernel.extents += self._extents(argument, value)
        try:
            yield
        finally:
            self.kernel = None

    def access(self, kinds: tuple[Kind, ...], pointers: Any, mask: npt.NDArray[np.bool_]) -> None:
        """Count the active lanes of one load, store or atomic of a program."""
        assert self.kernel is not None
        size = pointers.get_element_ty().primitive_bitwidth // 8
        left = pointers.data[np.broadcast_to(mask, pointers.data.shape)].astype(np.int64)
        if (left % size).any():
            self._refuse(kinds, left[left % size != 0], "misaligned")
        for extent in self.kernel.extents:
            if not left.size:
                return
            if left.max() < extent.start or left.min() >= extent.start + extent.length:
                continue
            here = extent.holds(left) & extent.holds(left + (size - 1))
            for kind in kinds if here.any() else ():
                self.kernel.add(extent, kind, int(here.sum()) * size)
            left = left[~here]
        if left.size:
            self._refuse(kinds, left, "out of bounds")

    def _refuse(self, kinds: tuple[Kind, ...], addresses: Addresses, fault: str) -> None:
        assert self.kernel is not None
        address = int(addresses[0])

        def distance(extent: Extent) -> int:
            return max(extent.start - address, address - extent.start - extent.length + 1, 0)

        nearest = min(self.kernel.extents, key=distance, default=None)
        place = "without any tensor"
        if nearest:
            place = f"byte {address - nearest.start} of {nearest.name}, spanning {nearest.length}"
        lanes = f"{len(addresses)} lanes {kinds[-1]} {fault}"
        raise BadAccess(f"{self.kernel.name}: {lanes}, the first at {place}")


@contextmanager
def _counted_kernels(counter: _Counter) -> Iterator[None]:
    """Report launches of the interpreter, and the accesses of their programs, to the counter."""
    # Here, since triton decides on its import whether it interprets.
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    run = GridExecutor.__call__

    def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
        arguments = dict(zip(executor.arg_names, args, strict=False)) | kwargs
        with counter.launch(executor.fn.__name__, arguments):
            if any(tensor.is_meta for tensor in _tensors(list(arguments.values()))):
                return
            try:
                run(executor, *args, **kwargs)
            except Exception as error:
                # The interpreter wraps what a program raises, once for each function within.
                cause: BaseException | None = error
                while cause is not None and not isinstance(cause, BadAccess):
                    cause = cause.__cause__
                if cause is None:
                    raise
                raise cause from None

    def counted(name: str, kinds: tuple[Kind, ...], pointers: int, mask: int | None) -> Any:
        method = getattr(InterpreterBuilder, name)

        def access(builder: Any, *args: Any, **kwargs: Any) -> Any:
            active = np.array(True) if mask is None else np.asarray(args[mask].data, dtype=bool)
            counter.access(kinds, args[pointers], active)
            return method(builder, *args, **kwargs)

        return access

    exchanged: list[tuple[Any, str, Any]] = [(GridExecutor, "__call__", launch)]
    for name, kinds, pointers, mask in ACCESSES:
        exchanged.append((InterpreterBuilder, name, counted(name, kinds, pointers, mask)))
    with ExitStack() as stack:
        for owner, name, new in exchanged:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        yield
