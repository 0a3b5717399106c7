"""triton-viz's sanitizer, corrected where it would guess, give up or look away.

Made for triton 3.6.0 and triton-viz 3.0, with ``TRITON_INTERPRET=1`` from the start. It runs a
kernel with symbols in the place of numbers and asks a solver whether any lane of a load or store
can leave the tensors that were passed.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
import triton
import triton.language as tl
import triton_viz
import z3
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, ReduceOps
from triton_viz.clients.sanitizer import sanitizer as viz
from triton_viz.core.callbacks import ForLoopCallbacks, OpCallbacks
from triton_viz.core.data import AtomicCas, AtomicRMW, ReduceMax, ReduceMin, ReduceSum
from triton_viz.core.patch import _loop_patcher
from triton_viz.core.trace import TritonTrace
from z3 import z3util

# The folders of triton and triton_viz: the first frame outside is a line of a kernel.
FRAMEWORKS = tuple(f"{Path(m.__file__).parent}{os.sep}" for m in (triton, triton_viz))

# Operations that triton-viz leaves to the interpreter, which has no numbers; and how many results.
VALUES_ONLY = {
    "create_clampf": 1,
    "create_fma": 1,
    "create_gather": 1,
    "create_split": 2,
    "create_trans": 1,
}


class Sanitizer(viz.SymbolicSanitizer):
    """triton-viz's sanitizer, which goes on after an error, and where it guesses, knows.

    - A tensor of any strides is the set of its elements: the gaps of a sliced one are outside.
    - A pointer belongs to the tensor that it started from: its neighbours are outside.
    - Each program, and each step of a loop, is checked with its own numbers: bounds of a loop may
      differ from program to program.
    - The lanes of ``tl.arange`` along two axes are two variables, also where their ranges agree.
    - The condition of an ``if`` or ``while`` is a number, in place of always true.
    - The value of a reduction, and of what is left out there, is unknown but has the right shape.
    - What is loaded lane by lane and decides on an address or mask, is known lane by lane.
    - Atomic operations are refused, where they would not be looked at.
    """

    def __init__(self) -> None:
        super().__init__(abort_on_error=False)
        self.reset()

    def reset(self) -> None:
        """Forget everything, also of a launch that stopped halfway."""
        self.programs = self.accesses = 0
        for kept in (self.records, self.tensors, self.tensor_addrs, self.tensor_names):
            kept.clear()

    def arg_callback(self, name: str, arg: Any, arg_cvt: Any) -> None:
        if isinstance(arg, Tensor):
            self._record_tensor_name(arg, name)
            self.tensors.append(arg)
            self.tensor_addrs += [(start, end, arg) for start, end in runs(arg)]

    def grid_idx_callback(self, grid_idx: tuple[int, ...]) -> None:
        super().grid_idx_callback(grid_idx)
        self.programs += 1

    def pre_run_callback(self, fn: Callable[..., Any]) -> bool:
        return True

    def post_run_callback(self, fn: Callable[..., Any]) -> bool:
        self.need_full_grid = True
        return super().post_run_callback(fn)

    def register_op_callback(self, op_type: Any) -> OpCallbacks:
        if op_type in (ReduceSum, ReduceMax, ReduceMin):
            return OpCallbacks()  # their body calls ReduceOps, see reduce() below
        if op_type in (AtomicCas, AtomicRMW):
            return OpCallbacks(op_overrider=refuse_atomics)
        return super().register_op_callback(op_type)

    def register_for_loop_callback(self) -> ForLoopCallbacks:
        bounds = super().register_for_loop_callback().range_wrapper_factory
        return ForLoopCallbacks(range_wrapper_factory=bounds)

    def _handle_access_check(self, expr: Any) -> None:
        self.accesses += 1
        for part in (expr.ptr, expr.mask):
            if part is not None and isinstance(value := part.eval()[0], list) and len(value) > 1:
                raise NotImplementedError("an address or mask in several pieces")
        base = self._collect_tensor_base(expr.ptr)
        own = [pair for *pair, tensor in self.tensor_addrs if tensor.data_ptr() == base]
        size = max(1, expr.ptr.dtype.scalar.element_ty.primitive_bitwidth // 8)
        inside = [z3.And(start <= self.addr_sym, self.addr_sym <= end - size) for start, end in own]
        pids = (viz.SymbolicExpr.PID0, viz.SymbolicExpr.PID1, viz.SymbolicExpr.PID2)
        self.solver = z3.Solver()
        self.solver.add(z3.Not(z3.Or(inside)))
        self.solver.add(*(pid == i for pid, i in zip(pids, self.grid_idx, strict=True)))
        frame = sys._getframe(1)
        while frame.f_code.co_filename.startswith(FRAMEWORKS):
            frame = frame.f_back
        place = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
        self._check_range_satisfiable(*expr.eval(), expr, place)

    def faults(self) -> list[str]:
        """What was found since the reset, in words."""
        found = []
        for record in self.records:
            (place,) = record.user_code_tracebacks
            tensor = record.tensor
            found.append(
                f"{record.op_type.__name__.lower()} at byte "
                f"{record.violation_address - tensor.data_ptr()} of {record.tensor_name}, "
                f"{list(tensor.shape)} of {tensor.element_size()} bytes each, "
                f"{Path(place.filename).name}:{place.lineno}: {place.line_of_code.strip()}"
            )
        return list(dict.fromkeys(found))


class OutOfBoundsError(Exception):
    """Stops a run after the check of a launch that is faulty."""


class Kernel(TritonTrace):
    """A kernel that is checked, then interpreted: the next one reads what it wrote."""

    def __init__(self, kernel: InterpretedFunction, sanitizer: Sanitizer) -> None:
        super().__init__(kernel, sanitizer)
        self.sanitizer = sanitizer

    def run(self, *args: Any, **kwargs: Any) -> None:
        super().run(*args, **kwargs)
        if self.sanitizer.records:
            raise OutOfBoundsError
        self.interpreted_fn.run(*args, **kwargs)


class Lanes(viz.ArangeSymbolicExpr):
    """``tl.arange``: a variable that is named after its range and its axis, from the last one."""

    ranges: ClassVar[set[tuple[int, int]]] = set()

    def _to_z3_impl(self) -> Any:
        bounds = self.start.to_py(), self.end.to_py()
        self.ranges.add(bounds)
        lane = self.lane(bounds, 1)
        return lane, z3.And(lane >= bounds[0], lane < bounds[1])

    @staticmethod
    def lane(bounds: tuple[int, int], axis: int) -> Any:
        return z3.Int(f"lane_{bounds[0]}_{bounds[1]}_axis_{axis}")


class ExpandDims(viz.ExpandDimsSymbolicExpr):
    """Moves the lanes in front of the new axis one further from the last."""

    def _to_z3_impl(self) -> Any:
        value, constraints = self.arg._to_z3()
        rank, new = rank_of(self.arg), self.axis.to_py()
        moved = [
            (Lanes.lane(bounds, axis), Lanes.lane(bounds, axis + 1))
            for bounds in Lanes.ranges
            for axis in range(rank - new + 1, rank + 1)
        ]
        if isinstance(value, list):
            value = [z3.substitute(v, *moved) for v in value]
        else:
            value = z3.substitute(value, *moved)
        return value, None if constraints is None else z3.substitute(constraints, *moved)

    def concretize(self) -> Any:
        return self.concrete_fn(self.arg.concretize(), self.axis.to_py())


class Load(viz.LoadSymbolicExpr):
    """A load that an address or mask depends on is replaced by what it loads, lane by lane."""

    def replace_subtree(self, anchor_op: str | None = None) -> Any:
        node = super().replace_subtree(anchor_op)
        if node is self or node.value.data.size == 1:
            return node
        return Loaded(node.value, [str(name) for name in z3util.get_vars(self.ptr._to_z3()[0])])


class Loaded(viz.ConstSymbolicExpr):
    """Numbers by lane; ``names`` are those of the lanes in the address that they came from."""

    def __init__(self, value: Any, names: list[str]) -> None:
        super().__init__("const", value, value.dtype)
        self.rank = value.data.ndim
        self.names = names

    def concretize(self) -> Any:
        return self.value

    def _to_z3_impl(self) -> Any:
        lanes = {}
        for axis, size in enumerate(self.value.data.shape):
            along = [
                (bounds[0], lane)
                for bounds in Lanes.ranges
                if bounds[1] - bounds[0] == size
                and str(lane := Lanes.lane(bounds, self.rank - axis)) in self.names
            ]
            if size > 1 and len(along) != 1:
                raise NotImplementedError("a loaded address or mask of unknown lanes")
            if size > 1:
                lanes[axis] = along[0]
        value = z3.IntVal(0)
        for index, number in np.ndenumerate(self.value.data):
            here = [lane == index[axis] + first for axis, (first, lane) in lanes.items()]
            value = z3.If(z3.And(here), z3.IntVal(int(number)), value)
        bounds = [
            z3.And(lane >= first, lane < first + self.value.data.shape[axis])
            for axis, (first, lane) in lanes.items()
        ]
        return value, z3.And(bounds)


class Reshape(viz.ReshapeSymbolicExpr):
    """Mixes the axes: what is loaded may be reshaped, an address may not."""

    def _to_z3_impl(self) -> Any:
        raise NotImplementedError(f"an address that went through {self.op}")


def rank_of(node: Any) -> int:
    """The number of axes of a symbolic value."""
    if node.op == "expand_dims":
        return rank_of(node.arg) + 1
    if node.op == "splat":
        return len(node.dtype.shape)
    if node.op == "load":
        return rank_of(node.ptr)
    if node.op == "const":
        return node.rank if isinstance(node, Loaded) else 0
    if node.op == "arange":
        return 1
    return max((rank_of(child) for child in node.children.values() if child), default=0)


def refuse_atomics(*args: Any) -> None:
    raise NotImplementedError("an atomic operation")


def truth(data: Any) -> bool:
    """A scalar is the condition of a branch; of a tensor, Triton asks whether it was given."""
    node = data.symbolic_expr
    if rank_of(node):
        return True
    return bool(node.replace_subtree("load").concretize().data.item())


def unknown(symbol: Any) -> Any:
    """A value that depends on a symbol; ``cumsum`` is an operation that no address can contain."""
    return viz.SymbolicExpr.create("cumsum", symbol, 0, False, symbol.dtype)


def reduce(self: Any, values: Any, interpret: Any = ReduceOps.apply) -> Any:
    """``ReduceOps.apply`` that also takes symbols."""
    several = isinstance(values, tuple)
    inputs = values if several else (values,)
    if not any(isinstance(value.handle, viz.SymbolicExpr) for value in inputs):
        return interpret(self, values)
    shape = [int(size) for size in inputs[0].shape]
    if self.axis is None:
        shape = [1] * len(shape) if self.keep_dims else []
    elif self.keep_dims:
        shape[self.axis] = 1
    else:
        del shape[self.axis]
    kinds = [value.dtype.scalar for value in inputs]
    out = tuple(
        tl.tensor(unknown(value.handle), tl.block_type(kind, shape) if shape else kind)
        for value, kind in zip(inputs, kinds, strict=True)
    )
    return out if several else out[0]


def taking_symbols(interpret: Callable[..., Any], results: int) -> Callable[..., Any]:
    """A method of the interpreter that gives unknown values for symbols."""

    def method(self: Any, *args: Any) -> Any:
        symbol = next((arg for arg in args if isinstance(arg, viz.SymbolicExpr)), None)
        if symbol is None:
            return interpret(self, *args)
        return unknown(symbol) if results == 1 else tuple(unknown(symbol) for _ in range(results))

    return method


def runs(tensor: Tensor) -> list[tuple[int, int]]:
    """Where each run of elements without a gap starts, and where it ends (the byte after)."""
    if not tensor.numel():
        return []
    size = tensor.element_size()
    offsets = torch.zeros(1, dtype=torch.int64)
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = (offsets[:, None] + torch.arange(length) * stride).flatten()
    offsets = offsets.unique()
    gaps = (offsets.diff() > 1).nonzero().flatten() + 1
    base = tensor.data_ptr()
    return [
        (base + int(run[0]) * size, base + (int(run[-1]) + 1) * size)
        for run in offsets.tensor_split(gaps)
    ]


def install(sanitizer: Sanitizer, modules: list[ModuleType]) -> None:
    """From here on every launch of a kernel of these modules is checked."""
    viz.SymbolicExpr.register_op_class(Lanes, ("arange",))
    viz.SymbolicExpr.register_op_class(ExpandDims, ("expand_dims",))
    viz.SymbolicExpr.register_op_class(Load, ("load",))
    viz.SymbolicExpr.register_op_class(Reshape, ("reshape", "trans"))
    viz.SymbolicExprDataWrapper.__bool__ = truth
    ReduceOps.apply = reduce
    for name, results in VALUES_ONLY.items():
        method = taking_symbols(getattr(InterpreterBuilder, name), results)
        setattr(InterpreterBuilder, name, method)
    for module in modules:
        # triton-viz sets it in the module of a kernel, not in those of the functions it calls.
        vars(module)["_triton_viz_loop_patcher"] = _loop_patcher
        for name, value in list(vars(module).items()):
            if isinstance(value, InterpretedFunction):
                setattr(module, name, Kernel(value, sanitizer))
