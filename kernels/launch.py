"""Launch a kernel with less work on the host than Triton takes.

Triton binds and inspects the arguments of each launch to find the compiled kernel. Here a key finds
it that has all that Triton specialises on for NVIDIA's GPUs, and more: the types of tensors and how
they are aligned to 16 bytes; integers; which arguments are floats or None; the constants and the
device. The first launch of a key, those on other GPUs, and those that a profiler watches go through
Triton.
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


_compiled: dict[Hashable, tuple[Any, ...]] = {}


def launch(
    kernel: Any,
    programs: int,
    arguments: tuple[Any, ...],
    constants: Constants,
    device: torch.device,
) -> None:
    """Launch programs of a kernel on the current stream of a device.

    arguments: those before the constants, in the kernel's order: tensors, None, ints, floats.
    """
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, programs, arguments, constants, device)
        return
    parts: list[Hashable] = [kernel, constants, device]
    for x in arguments:
        if type(x) is float:
            parts.append("float")
        elif type(x) is int or x is None:
            parts.append(x)
        else:
            parts += (x.dtype, x.data_ptr() % 16)
    key, hooks = tuple(parts), knobs.runtime
    found = _compiled.get(key)
    if found is None or hooks.launch_enter_hook.calls or hooks.launch_exit_hook.calls:
        made = kernel[(programs,)](*arguments, **constants.by_name)
        if made is not None and made.metadata.target.backend == "cuda":
            names = kernel.arg_names[len(arguments) :]
            values = [constants.by_name[name] for name in names]
            _compiled[key] = made.run, made.function, made.packed_metadata, values
        return
    run, function, metadata, values = found
    stream = driver.active.get_current_stream(device.index)
    run(programs, 1, 1, stream, function, metadata, None, None, None, *arguments, *values)
