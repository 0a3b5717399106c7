"""A GPU of NVIDIA, emulated: Triton compiles each launch as for one, and its PTX is executed here.

    with emulated_gpu("sm_90") as gpu:
        ...  # the operations, with tensors of the CPU

Triton is given a driver, as it has one for each kind of GPU: it names the target, loads what was
compiled and launches it. What a launch runs are the instructions of ``ptx_instructions``, one
program after the other, in a random order.
"""

import ctypes
import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.cache import get_cache_manager
from triton.runtime.driver import driver

import focus.kernels.operations
from bench.ptx import UNSIGNED, WARP, Block, Fault, GlobalMemory, Program, Region
from bench.ptx_instructions import parse
from focus.kernels import Backend

# Of sm_86, sm_89 and sm_120, the least of the targets.
SHARED = 99 * 1024


class Launched(NamedTuple):
    """A kernel as it was launched.

    In the mean of the programs that ran: ``instructions`` that a warp executes, ``passes`` over the
    banks of shared memory, and ``least_passes``, which it would take without conflicts.
    """

    kernel: str
    programs: int
    warps: int
    instructions: float
    passes: float
    least_passes: float
    memory: GlobalMemory


class EmulatedGPU:
    """A driver of Triton's; ``launches`` in their order.

    ``edit`` changes PTX before it is run; of a launch, ``most`` programs alone are run.
    """

    def __init__(
        self, target: str, edit: Callable[[str], str] = str, most: int | None = None
    ) -> None:
        self.target, self.edit, self.most = target, edit, most
        self.launches: list[Launched] = []
        limits = {"max_shared_mem": SHARED}
        # Nothing is loaded: the launcher has the text of the PTX.
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: limits,
            load_binary=lambda name, kernel, shared, device: (name, name, 0, 0, 1024),
        )

    def get_current_device(self) -> str:
        # Triton keeps launchers by device.
        return f"emulated {self.target}, {id(self)}"

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(self.target.removeprefix("sm_")), WARP)

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """What launches a kernel, as Triton asks for it by this name."""
        path = get_cache_manager(metadata.hash).get_file(f"{metadata.name}.ptx")
        assert path, f"{metadata.name} left no PTX"
        program = parse(self.edit(Path(path).read_text()))
        types = list(leaves(source.signature.values()))

        def launch(x: int, y: int, z: int, *rest: Any) -> None:
            # Before the arguments: stream, function, twice metadata, twice hooks.
            passed = zip(types, leaves(rest[6:]), strict=True)
            values = [value for kind, value in passed if kind != "constexpr"]
            self.launches.append(self._run(program, values, metadata, (x, y, z)))

        return launch

    def _run(
        self, program: Program, values: list[Any], metadata: Any, grid: tuple[int, int, int]
    ) -> Launched:
        """Run a launch's programs, given its tensors and numbers."""
        # The last parameters are scratch memory, of which no kernel here has any.
        values = values + [0] * (len(program.parameters) - len(values))
        arguments = {}
        regions: dict[int, Region] = {}
        for (name, bits), value in zip(program.parameters, values, strict=True):
            if isinstance(value, Tensor):
                seen = region(value)
                regions[seen.start] = seen
                value = value.data_ptr()
            if not isinstance(value, int):
                raise Fault(f"an argument of {type(value).__name__} is not modelled")
            arguments[name] = np.array([value % 2**bits], UNSIGNED[bits])
        memory = GlobalMemory(list(regions.values()))
        places = list(np.ndindex(grid))
        random.Random(len(places)).shuffle(places)
        executed = []
        with np.errstate(all="ignore"):
            for place in places[: self.most]:
                block = Block(program, arguments, memory, metadata.shared, place, grid)
                block.run()
                shared = block.shared
                executed.append((block.executed, shared.passes, shared.least_passes))
        instructions, passes, least = np.mean(executed, 0).tolist()
        warps = program.threads // WARP
        return Launched(metadata.name, len(places), warps, instructions, passes, least, memory)


def region(tensor: Tensor) -> Region:
    """All of the memory that a tensor is a view of."""
    storage = tensor.untyped_storage()
    size = storage.nbytes()
    buffer: Any = (ctypes.c_uint8 * size).from_address(storage.data_ptr()) if size else b""
    name = f"{list(tensor.shape)} of {tensor.dtype}"
    return Region(name, storage.data_ptr(), np.frombuffer(buffer, np.uint8))


def leaves(values: Any) -> Iterator[Any]:
    """The values of tuples in tuples, in order."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from leaves(value)
        else:
            yield value


def without_cubin(backend: Any = None, stages: Any = None, *_: Any) -> Any:
    """Triton's hook to change how it compiles: it makes no machine code of the PTX.

    Asked with nothing, it says by what the cache tells such kernels from others.
    """
    if stages is None:
        return "no cubin", "no cubin"
    stages["cubin"] = lambda ptx, metadata: b""
    return None


@functools.cache
def _of_target(target: str) -> EmulatedGPU:
    # One of each, for which Triton has compiled what was launched before.
    return EmulatedGPU(target)


@contextmanager
def emulated_gpu(gpu: EmulatedGPU | str) -> Iterator[EmulatedGPU]:
    """The operations' kernels run on an emulated GPU, or target; torch's own calls on the CPU."""
    if isinstance(gpu, str):
        gpu = _of_target(gpu)
    gpu.launches.clear()
    operations: Any = focus.kernels.operations
    chosen, active = operations.backend_for, driver._active
    with knobs.runtime.scope():
        knobs.runtime.add_stages_inspection_hook = without_cubin
        operations.backend_for = lambda features: Backend("triton", "emulated")
        driver._active = gpu
        try:
            yield gpu
        finally:
            operations.backend_for, driver._active = chosen, active
