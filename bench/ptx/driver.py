"""Stand in for an NVIDIA GPU in Triton: launches are interpreted, tensors are the CPU's.

    gpu = Gpu("sm_90")
    with gpu.active():      # in here the operations take the kernels, compiled for the target
        focus_head(...)
    gpu.launches            # what each launch did

Triton compiles to PTX, and ptxas is not run.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime.driver import driver

from bench.host import StubDriver
from bench.ptx.arithmetic import Array
from bench.ptx.machine import ORDERS, Machine
from bench.ptx.memory import BUFFER_BITS, Buffer
from bench.ptx.program import Program
from focus.kernels import backend, launch, triton_cam
from focus.kernels.types import next_power_of_2

WHOLE, PART, COUNTERS = "whole", "part", "counters"
"""What a launch writes of a tensor: all of it; some of it, before it reads that; or counters, which
are 0 before and afterwards."""
OUTPUTS = {
    "_head": {
        "logits_ptr": WHOLE, "cam_ptr": WHOLE, "terms_ptr": WHOLE, "saved_ptr": WHOLE,
        "loss_ptr": WHOLE, "partial_ptr": PART, "ticket_ptr": COUNTERS,
    },
    "_head_backward": {"dx_ptr": WHOLE, "dw_ptr": WHOLE, "db_ptr": WHOLE},
    "_cams": {
        "cam_ptr": WHOLE, "entropy_ptr": WHOLE, "logits_ptr": WHOLE, "partial_ptr": PART,
        "ticket_ptr": COUNTERS,
    },
    "_cams_backward": {
        "dx_ptr": WHOLE, "dw_ptr": WHOLE, "partial_ptr": PART, "ticket_ptr": COUNTERS,
    },
}  # fmt: skip
"""What each kernel writes; to its other tensors none may store."""

_FORMATS = {"i1": "?", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "fp32": "f", "fp64": "d"}
_SHARED_KB = {"sm_80": 163, "sm_90": 227, "sm_100": 227}
TARGETS = tuple(_SHARED_KB)


class Gpu(StubDriver):
    """A GPU of a target; ``launches`` has the machine of each launch.

    order, seed, ulps: As :class:`bench.ptx.machine.Machine` takes them; they may be changed between
        launches.
    outputs: What kernels write, for kernels that are not this project's.
    ctas: Chooses, from the size of a grid, the CTAs that run.
    rewrite: Is applied to the PTX of each kernel.
    """

    def __init__(
        self, target: str, order: str = "lockstep", *, seed: int = 0, ulps: int = 0,
        outputs: dict[str, dict[str, str]] = OUTPUTS,
    ) -> None:  # fmt: skip
        # Triton keeps what it compiles by the device: another Gpu launches its own.
        super().__init__(GPUTarget("cuda", int(target.removeprefix("sm_")), 32), self)
        self.order, self.seed, self.ulps, self.outputs = order, seed, ulps, outputs
        self.ctas: Callable[[int], Sequence[int]] = range
        self.rewrite: Callable[[str], str] = str
        self.launches: list[Machine] = []
        self._counters: dict[int, Tensor] = {}
        self.launcher_cls = self.launcher  # type: ignore[method-assign]
        properties = {"max_shared_mem": _SHARED_KB[target] * 1024}
        self.utils = SimpleNamespace(  # type: ignore[assignment]
            load_binary=lambda name, ptx, shared, device: (None, (ptx, shared), 0, 0, 1024),
            get_device_properties=lambda _: properties,
            unload_module=lambda _: None,
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let Triton launch here, and the operations take the kernels for tensors of the CPU."""

        def as_it_is(self: Any, source: str, *_: Any) -> bytes:
            return source.encode()

        with ExitStack() as stack:
            patches: list[AbstractContextManager[Any]] = [
                mock.patch.object(driver, "_active", self),
                mock.patch.object(CUDABackend, "make_cubin", as_it_is),
                mock.patch.object(backend, "INTERPRETED", True),
                mock.patch.object(backend, "_remembered", backend._resolve),
                mock.patch.object(triton_cam, "tickets", self._tickets),
                mock.patch.object(launch, "_compiled", {}),
                knobs.runtime.scope(),
            ]
            for patch in patches:
                stack.enter_context(patch)
            yield

    def _tickets(self, features: Tensor, count: int, in_graph: bool) -> Tensor:
        """Return counters as on a GPU: kept for the next launch on the stream."""
        capacity = next_power_of_2(count)
        if capacity not in self._counters:
            self._counters[capacity] = torch.zeros(capacity, dtype=torch.int32)
        return self._counters[capacity]

    def has_counts(self) -> bool:
        """Return whether a counter is not 0, as each is between launches."""
        return any(bool(counters.any()) for counters in self._counters.values())

    def launcher(self, source: Any, metadata: Any) -> Callable[..., None]:
        """Return what launches a kernel with arguments of these types."""
        if metadata.global_scratch_size or metadata.num_ctas != 1:
            raise NotImplementedError("kernels with scratch memory or clusters of CTAs")

        def launch(
            x: int, y: int, z: int, stream: int, function: tuple[bytes, int], packed: Any,
            launch_metadata: Any, enter_hook: Any, exit_hook: Any, *values: Any,
        ) -> None:  # fmt: skip
            assert (y, z) == (1, 1), "grids have one axis"
            ptx, shared = function
            by_name = dict(zip(source.signature, values, strict=True))
            types = {name: kind for name, kind in source.signature.items() if kind != "constexpr"}
            self._run(ptx.decode(), shared, metadata.num_warps * 32, x, types, by_name)

        return launch

    def _run(
        self, ptx: str, shared: int, threads: int, grid: int, types: dict[str, str],
        values: dict[str, Any],
    ) -> None:  # fmt: skip
        order = ORDERS[self.order]
        program = _translated(self.rewrite(ptx), order.step != "launch")
        outputs = self.outputs[program.name]
        buffers: list[Buffer] = []
        number_of: dict[int, int] = {}
        arguments = []
        for name, kind in types.items():
            value = values[name]
            if not kind.startswith("*"):
                arguments.append(struct.pack(f"<{_FORMATS[kind]}", value))
                continue
            key = id(value) if value.is_meta else value.data_ptr()
            if key not in number_of:
                buffers.append(_buffer(name, value, outputs.get(name)))
                number_of[key] = len(buffers)
            pointer = (number_of[key] << BUFFER_BITS) + buffers[number_of[key] - 1].start
            arguments.append(struct.pack("<Q", pointer))
        # Pointers to scratch memory, which the kernels do not use, end the parameters.
        arguments += [struct.pack("<Q", 0)] * (len(program.parameters) - len(arguments))
        machine = Machine(
            program, arguments, buffers, grid=grid, threads=threads, shared=shared, order=order,
            seed=self.seed + len(self.launches), ulps=self.ulps, ctas=self.ctas(grid),
        )  # fmt: skip
        machine.outputs = outputs
        self.launches.append(machine)
        machine.run()
        for buffer in buffers:
            whole = outputs.get(buffer.name) == WHOLE and len(machine.ctas) == grid
            if whole and not buffer.is_written():
                machine.faults[f"{program.name}: not all of {buffer.name} is written"] += 1
            buffer.give_back()


# Most orders of a case execute the same program, each on a Gpu of its own.
_translated = lru_cache(maxsize=8)(Program)


def _buffer(name: str, tensor: Tensor, output: str | None) -> Buffer:
    """Return the memory from a tensor's first element to its last; of a meta tensor, 0."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    elements = 1 + sum((size - 1) * stride for size, stride in sizes) if tensor.numel() else 0
    data: Array | None = None
    if not tensor.is_meta:
        flat = torch.as_strided(tensor.detach(), (elements,), (1,)).view(torch.uint8)
        data = flat.numpy()
    return Buffer(
        name, data, size=elements * tensor.element_size(), address=tensor.data_ptr(),
        fresh=output in (WHOLE, PART), constant=output is None,
    )  # fmt: skip
