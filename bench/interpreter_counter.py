"""Count the bytes that kernels and torch calls move, in Triton's interpreter on the CPU.

Every access of an interpreted kernel passes a few methods of Triton's ``InterpreterBuilder`` with
the addresses and the mask of all its lanes. They are private: tests/kernels/test_traffic.py guards
this use with a copy whose bytes are known. Torch calls are seen by a ``TorchDispatchMode``, also
those within registered operators, so that traffic cannot hide in a ``sum`` or a ``contiguous``.

Counted are requests: active lanes times the size of an element; and distinct 32-byte sectors of
each load or store of a program, without those that the program read last, which are in L1. A GPU
splits these by warps, which the interpreter does not have: sectors shared by two warps count once
here.
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

SECTOR = 32
# What is taken to be in L1: the sectors of a program's last reads, 4 KB of them.
IN_L1 = 4096 // SECTOR
# A tensor of no more elements holds numbers, such as the weights of the terms.
NUMBERS = 8

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
# at which place of their arguments pointers and mask stand.
ACCESSES: tuple[tuple[str, tuple[Kind, ...], int, int | None], ...] = (
    ("create_masked_load", ("read",), 0, 1),
    ("create_masked_store", ("write",), 0, 2),
    ("create_atomic_rmw", ("read", "write"), 1, 3),
    ("create_atomic_cas", ("read", "write"), 0, None),
)


class BadAccess(Exception):
    """A kernel touched memory that is no element of a tensor it was given, or across elements."""


@dataclass(frozen=True)
class Launch:
    """What one kernel, or one torch operation, moved: bytes by role and kind."""

    name: str
    is_kernel: bool
    moved: Counter[tuple[Role, Kind]]
    by_argument: Counter[tuple[str, Kind]]
    """The same by the names of the kernel's, or the operation's, arguments."""
    sectors: int
    """Bytes of the sectors touched; of a torch operation the bytes themselves."""
    touches_features: bool
    """Accesses F, dF or another tensor with as many elements."""
    only_numbers: bool
    """Accesses no tensor of more than 8 elements."""


@dataclass(frozen=True)
class Traffic:
    """All launches of a step, in order."""

    launches: tuple[Launch, ...]

    def moved(self, role: Role, kind: Kind) -> int:
        """Bytes."""
        return sum(launch.moved[role, kind] for launch in self.launches)

    @property
    def other(self) -> int:
        """Bytes read and written of all that is neither the features nor their gradient."""
        return self.moved("other", "read") + self.moved("other", "write")

    @property
    def sectors(self) -> int:
        """Bytes of all sectors touched."""
        return sum(launch.sectors for launch in self.launches)

    @property
    def wide_launches(self) -> int:
        """Launches that touch F, dF or another tensor of their size."""
        return sum(launch.touches_features for launch in self.launches)

    @property
    def number_launches(self) -> int:
        """Launches that touch a few numbers and nothing else."""
        return sum(launch.only_numbers for launch in self.launches)

    @property
    def small_launches(self) -> int:
        """The other launches."""
        return len(self.launches) - self.wide_launches - self.number_launches


def measure(step: Callable[[], Tensor | None], features: Tensor) -> Traffic:
    """Run ``step``, which returns the gradient of ``features`` or None, and count.

    On tensors of the meta device kernels are listed without running: these are the launches that a
    GPU sees, where the CPU's own checks of values do not happen.

    Raises:
        BadAccess: a kernel reads or writes outside its tensors, or misaligned.
    """
    counter = _Counter(features.numel())
    with _counted_kernels(counter), counter:
        gradient = step()
    return counter.traffic(features, gradient)


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
        """Which addresses are a byte of an element."""
        rest = addresses - self.start
        inside = (rest >= 0) & (rest < self.length)
        for stride, length in reversed(self.axes[1:]):
            rest = rest - np.minimum(rest // stride, length - 1) * stride
        return inside & (rest < self.axes[0][1])


def _storage(tensor: Tensor) -> int:
    """What tensors that share memory have in common, also on the meta device."""
    number: int = tensor.untyped_storage()._cdata
    return number


def _tensors(value: Any) -> list[Tensor]:
    """Those in an argument, also in lists and in Triton's tensor descriptors."""
    leaves = [getattr(leaf, "base", leaf) for leaf in tree_leaves(value)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@dataclass
class _Open:
    """A launch while it is counted: bytes by the tensor's storage and kind."""

    name: str
    is_kernel: bool
    extents: list[Extent] = field(default_factory=list)
    moved: Counter[tuple[int, Kind]] = field(default_factory=Counter)
    by_argument: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    sectors: int = 0
    elements: set[int] = field(default_factory=set)
    """How many the tensors touched have."""

    def add(self, extent: Extent, kind: Kind, size: int, sectors: int | None = None) -> None:
        self.moved[extent.storage, kind] += size
        self.by_argument[extent.name, kind] += size
        self.sectors += size if sectors is None else sectors
        self.elements.add(extent.elements)


class _Counter(TorchDispatchMode):
    """Sees torch operations as a dispatch mode, and is told of the accesses of kernels."""

    def __init__(self, elements: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = elements
        self.launches: list[_Open] = []
        self.kernel: _Open | None = None
        self.in_l1: list[Addresses] = []
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
        launch = _Open(name, is_kernel=False)
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
        if launch.moved and not is_view:
            self.launches.append(launch)

    def _extents(self, name: str, value: Any) -> list[Extent]:
        tensors = _tensors(value)
        self.alive += [tensor.untyped_storage() for tensor in tensors]
        return [Extent(name, tensor) for tensor in tensors if tensor.numel()]

    @contextmanager
    def launch(self, name: str, arguments: dict[str, Any]) -> Iterator[None]:
        """The accesses reported inside are this kernel's."""
        launch = _Open(name, is_kernel=True)
        for argument, value in arguments.items():
            launch.extents += self._extents(argument, value)
        self.launches.append(launch)
        self.kernel = launch
        try:
            yield
        finally:
            self.kernel = None

    def access(self, kinds: tuple[Kind, ...], pointers: Any, mask: npt.NDArray[np.bool_]) -> None:
        """The active lanes of one load, store or atomic of a program."""
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
            found = left[here]
            if found.size:
                touched = found // SECTOR
                touched = touched[np.append(True, touched[1:] != touched[:-1])]
                sectors = self._not_in_l1(kinds, np.unique(touched)) * SECTOR
                for kind in kinds:
                    self.kernel.add(extent, kind, found.size * size, sectors)
            left = left[~here]
        if left.size:
            self._refuse(kinds, left, "out of bounds")

    def start_program(self) -> None:
        """Another program: its L1 holds nothing of what the last one read."""
        self.in_l1 = []

    def _not_in_l1(self, kinds: tuple[Kind, ...], sectors: Addresses) -> int:
        """How many of the sectors have to be fetched, or are written."""
        if kinds != ("read",):
            return sectors.size
        fresh = sectors
        for known in self.in_l1:
            fresh = np.setdiff1d(fresh, known, assume_unique=True)
        self.in_l1.append(fresh)
        while sum(known.size for known in self.in_l1) > IN_L1 and len(self.in_l1) > 1:
            self.in_l1.pop(0)
        return fresh.size

    def _refuse(self, kinds: tuple[Kind, ...], addresses: Addresses, fault: str) -> None:
        assert self.kernel is not None
        address = int(addresses[0])

        def distance(extent: Extent) -> int:
            return max(extent.start - address, address - extent.start - extent.length + 1, 0)

        if not self.kernel.extents:
            raise BadAccess(f"{self.kernel.name}: {kinds[-1]} without any tensor")
        nearest = min(self.kernel.extents, key=distance)
        raise BadAccess(
            f"{self.kernel.name}: {len(addresses)} lanes {kinds[-1]} {fault}, the first at byte "
            f"{address - nearest.start} of {nearest.name}, which spans {nearest.length}"
        )

    def traffic(self, features: Tensor, gradient: Tensor | None) -> Traffic:
        """The launches with the roles of what they touched, known now that the step is over."""
        roles: dict[int, Role] = {_storage(features): "F"}
        if gradient is not None:
            roles[_storage(gradient)] = "dF"
        return Traffic(tuple(self._closed(launch, roles) for launch in self.launches))

    def _closed(self, launch: _Open, roles: dict[int, Role]) -> Launch:
        moved: Counter[tuple[Role, Kind]] = Counter()
        for (storage, kind), size in launch.moved.items():
            moved[roles.get(storage, "other"), kind] += size
        touches = any(role != "other" for role, _ in moved) or self.elements in launch.elements
        return Launch(
            launch.name,
            launch.is_kernel,
            moved,
            launch.by_argument,
            launch.sectors,
            touches,
            only_numbers=not touches and not launch.is_kernel and max(launch.elements) <= NUMBERS,
        )


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
        """The builder's method, counted; pointers and mask are at these places of its arguments."""
        method = getattr(InterpreterBuilder, name)

        def access(builder: Any, *args: Any, **kwargs: Any) -> Any:
            active = np.array(True) if mask is None else np.asarray(args[mask].data, dtype=bool)
            counter.access(kinds, args[pointers], active)
            return method(builder, *args, **kwargs)

        return access

    set_program = InterpreterBuilder.set_grid_idx

    def start(builder: Any, *program: int) -> None:
        counter.start_program()
        set_program(builder, *program)

    exchanged: list[tuple[Any, str, Any]] = [
        (GridExecutor, "__call__", launch),
        (InterpreterBuilder, "set_grid_idx", start),
    ]
    for name, kinds, pointers, mask in ACCESSES:
        exchanged.append((InterpreterBuilder, name, counted(name, kinds, pointers, mask)))
    with ExitStack() as stack:
        for owner, name, new in exchanged:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, new)
        yield
