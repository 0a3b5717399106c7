"""Launch a kernel with less work on the host than Triton takes.

Triton binds and inspects the arguments of each launch to find the compiled kernel. Here a key finds
it that has all that Triton specialises on for NVIDIA's GPUs, and more: the names of the arguments;
the types of tensors and how they are aligned to 16 bytes; integers; which arguments are floats or
None; the constants and the device. The first launch of a key, those on other GPUs, and those that a
profiler watches go through Triton.
"""

from collections.abc import Hashable
from typing import Any

import torch
from triton import knobs
from triton.runtime.driver import driver


class Constants:
    """Constants of a kernel and options of its compiler, by name; equal to nothing but itself."""

    def __init__(self, **by_name: Any) -> None:
        self.by_name = by_name


_compiled: dict[Hashable, Any] = {}


def launch(
    kernel: Any,
    programs: int,
    constants: Constants,
    device: torch.device,
    /,
    **arguments: Any,
) -> None:
    """Launch programs of a kernel on the current stream of a device.

    arguments: Tensors, None, ints and floats by their names in the kernel: all but the constants.
    """
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, programs, constants, device, **arguments)
        return
    parts: list[Hashable] = [kernel, constants, device, *arguments]
    for x in arguments.values():
        if type(x) is float:
            parts.append("float")
        elif type(x) is int or x is None:
            parts.append(x)
        else:
            parts += (x.dtype, x.data_ptr() % 16)
    key, hooks = tuple(parts), knobs.runtime
    compiled = _compiled.get(key)
    by_name = arguments | constants.by_name
    if compiled is None or hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls:
        compiled = kernel[(programs,)](**by_name)
        if compiled is not None and compiled.metadata.target.backend == "cuda":
            _compiled[key] = compiled
        return
    stream = driver.active.get_current_stream(device.index)
    compiled.run(
        programs, 1, 1, stream, compiled.function, compiled.packed_metadata, None, None, None,
        *[by_name[name] for name in kernel.arg_names],
    )  # fmt: skip
