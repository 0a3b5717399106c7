"""Start Accelerate in each process, run work in all of them, and end their group."""

import argparse
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from traceback import clear_frames
from typing import Any, TypeVar, cast, get_args

import torch
from accelerate import Accelerator
from accelerate.commands.config.config_args import default_config_file, load_config_from_file
from accelerate.tracking import filter_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    get_grad_scaler,
    parse_flag_from_env,
)

from focus.errors import InputError, OneProcessError
from focus.kernels import backend_for
from focus.runtime.machine import MixedPrecision, local_processes, usable_cores
from focus.runtime.peers import (
    LostProcessError,
    ignore_launcher_sigterm,
    introduce,
    is_of_connection,
    launcher_words,
    lost_processes_clause,
    silence_peers,
)
from focus.runtime.processes import Processes
from focus.runtime.signals import Stopped

T = TypeVar("T")

# For what the main process does first: a million images take an hour to decode, and NCCL would wait
# ten minutes. A launcher ends the processes of one that has died, however long they would wait.
_LONGEST_WAIT = timedelta(hours=3)


def start(
    precision: MixedPrecision | None, threads: int | None, device: str | None = None
) -> Accelerator:
    """Return the accelerator of this process, with its share of the CPU's threads: once a program.

    precision: None for what the launcher was told, else for :func:`usual_precision`.
    threads: None for this process's share of the cores; ``accelerate launch`` would give it one.
    device: None for Accelerate's choice.

    Raises:
        InputError: the launcher was told another precision than the program; the device is not
            there, or lacks the precision; FOCUS_BACKEND cannot run on it.
    """
    told = launcher_precision()
    if told not in (None, *get_args(MixedPrecision)):
        raise InputError(
            f"The launcher was told {told} for --mixed-precision, which is not supported: give it "
            "no, bf16 or fp16."
        )
    if told not in (None, "no", precision or told):
        raise InputError(
            f"The launcher was told {told} for --mixed-precision, the program {precision}: give "
            f"the launcher --mixed-precision {precision}, too."
        )
    options: dict[str, Any] = {}
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not alone and not torch.accelerator.device_count():
        options["cpu"] = True  # else each process of torchrun would believe that it is alone
    if device is not None:
        chosen = device_named(device)
        if chosen.type == "cpu":
            options["cpu"] = True
        elif alone:
            os.environ["ACCELERATE_TORCH_DEVICE"] = device
        elif ":" in device:
            raise InputError(
                f"--device {device} is for one process: give {chosen.type} to several."
            )
    options["kwargs_handlers"] = [
        InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
        # A gradient is a part of what the processes exchange, not a copy of it: less memory.
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
    ]
    if precision is None:
        usual = usual_precision(_device_to_be(device, options))
        precision = cast(MixedPrecision, told) if told else usual
    accelerator = Accelerator(mixed_precision=precision, **options)
    check_precision(precision, accelerator.device)
    empty = torch.empty(0, device=accelerator.device)
    try:
        backend_for(empty)  # compiles Triton's driver before data are read
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{error}: set FOCUS_BACKEND=auto, or leave it unset.") from error
    torch.set_num_threads(threads or max(1, usable_cores() // local_processes()))
    introduce(accelerator)
    return accelerator


def launcher_precision() -> str | None:
    """Return the precision that ``accelerate launch`` or ``accelerate config`` was told, or None.

    ``accelerate launch`` hands on "no" also where nobody has chosen it. So its command is read, and
    its configuration file.
    """
    told = os.environ.get("ACCELERATE_MIXED_PRECISION")
    words = launcher_words()
    if told != "no" or "launch" not in words:
        return told
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--mixed_precision", "--mixed-precision")
    parser.add_argument("--config_file", "--config-file", default=default_config_file)
    options, _ = parser.parse_known_args(words)
    if options.mixed_precision is not None:
        return told
    if not Path(options.config_file).is_file():
        return None
    return told if load_config_from_file(options.config_file).mixed_precision else None


def usual_precision(device: torch.device) -> MixedPrecision:
    """Return bf16 for a GPU of CUDA or ROCm, fp16 where it would emulate that; "no" elsewhere."""
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def _device_to_be(name: str | None, options: Mapping[str, Any]) -> torch.device:
    """Return the device that Accelerate will take, but for its number."""
    if options.get("cpu") or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cpu")
    return device_named(name)


def choose_arithmetic(device: torch.device, *, tf32: bool, cudnn_benchmark: bool) -> None:
    """Choose TF32 for products of float32, and cuDNN's trials; both are of NVIDIA's GPUs."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = cudnn_benchmark


def arithmetic(accelerator: Accelerator) -> str:
    """Return the precision in words; on a GPU also what :func:`choose_arithmetic` has chosen."""
    words = f"mixed precision {accelerator.mixed_precision}"
    if accelerator.device.type != "cuda":
        return words
    tf32 = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    trials = "on" if torch.backends.cudnn.benchmark else "off"
    return f"{words}, TF32 {tf32}, cudnn.benchmark {trials}"


def begin_run(accelerator: Accelerator, folder: Path, trackers: Sequence[str]) -> None:
    """Prepare the accelerator for a run: its folder, its trackers and fp16's scale anew."""
    accelerator.project_configuration = ProjectConfiguration(project_dir=str(folder))
    accelerator.log_with = filter_trackers([n for n in trackers if n != "none"], str(folder))
    if accelerator.scaler is not None:
        accelerator.scaler = get_grad_scaler(accelerator.distributed_type)


def device_named(name: str | None) -> torch.device:
    """Return the device of that name; None stands for the accelerator, if there is one.

    Raises InputError for one that this machine does not have.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # of torch without CUDA
        count = torch.accelerator.device_count()
        has = (
            f"it has {count} of {torch.accelerator.current_accelerator()}" if count else "give cpu"
        )
        raise InputError(f"--device {name}: there is none on this machine; {has}.") from error


def check_precision(name: MixedPrecision, device: torch.device) -> None:
    """Raise InputError for a precision that the device only pretends to have, or lacks."""
    if name == "fp16" and device.type == "cpu":
        raise InputError("--mixed-precision fp16 needs a GPU: give bf16 or no on a CPU.")
    cuda = device.type == "cuda"
    # Emulated, it saves no time, and without this nothing says so.
    if name == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        gpu = torch.cuda.get_device_name(device)
        raise InputError(f"{gpu} has no bf16: give --mixed-precision fp16, or no.")


def same_threads(device: torch.device, before: int | None, chosen: int | None) -> str:
    """Take ``before`` CPU threads, those of a run that goes on, unless others are ``chosen``.

    Sums are divided among the threads, so another number changes their last bits; on a GPU no bits
    are promised. Return a warning if they differ, else "".
    """
    if device.type != "cpu" or before is None or chosen == before:
        return ""
    if chosen is None:
        torch.set_num_threads(before)
        return ""
    return (
        f"the run had {before} thread{'s' * (before > 1)} each process, not {chosen}: on a CPU its "
        "results are no longer those of an undisturbed run to the last bit"
    )


def describe(accelerator: Accelerator) -> str:
    """Return one line: device, processes, threads, precision, and the head's backend and why."""
    threads = torch.get_num_threads()
    name, reason = backend_for(torch.empty(0, device=accelerator.device))
    several = accelerator.num_processes > 1
    processes = f"{accelerator.num_processes} process{'es' * several}"
    processes += f" with {threads} thread{'s' * (threads > 1)}{' each' * several}"
    return (
        f"device {accelerator.device}, {processes}, {arithmetic(accelerator)}, "
        f"head: {name} ({reason})"
    )


def processes_of(accelerator: Accelerator) -> Processes:
    """Return the processes of the launch, for work that they share."""
    return Processes(accelerator.process_index, accelerator.num_processes)


def run_on_main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Return ``work()``; the main process does it first and leaves the others its caches.

    Raises the main process's InputError in every process, else as :meth:`Processes.run`. With
    Accelerate's ``main_process_first`` the others would end with a traceback.
    """
    error: InputError | None = None
    if accelerator.is_main_process:
        try:
            made = work()
        except InputError as caught:
            error = caught
    processes = processes_of(accelerator)
    error = processes.from_main(lambda: error)
    if error is not None:
        raise error
    return processes.run(lambda: made if accelerator.is_main_process else work())


def run_on_all(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Return ``work()`` once every process has done it; see :meth:`Processes.run`."""
    return processes_of(accelerator).run(work)


def finish_trackers(accelerator: Accelerator) -> None:
    """Do what ``end_training`` does, but leave the process group, which a next run needs."""
    for tracker in accelerator.trackers:
        tracker.finish()


@contextmanager
def closing_process_group() -> Iterator[None]:
    """Decorate a program: destroy the process group when the program ends in all processes.

    Threads of a group that is still there at the end of Python may outlive the interpreter, which
    then aborts. An error that only this process has leaves the group alone, since the others are
    still at work in it.

    Raises:
        LostProcessError: another process was lost, and this process has to say so.
        SystemExit: another process was lost, and a third one says so.
    """
    try:
        yield

    except OneProcessError:
        silence_peers()
        raise

    except (InputError, Stopped) as error:  # raised in all processes
        _destroy_process_group(error)
        raise

    except RuntimeError as error:
        if not is_of_connection(error):
            raise
        ignore_launcher_sigterm()
        clause = lost_processes_clause()
        if clause is None:
            raise SystemExit(2) from error
        raise LostProcessError(f"{clause}: give the command again.") from error

    _destroy_process_group()


def _destroy_process_group(error: BaseException | None = None) -> None:
    """Destroy the process group, if there is one, after all that the frames of ``error`` hold.

    A DistributedDataParallel that outlives the group destroys it itself, holding the GIL, which a
    thread of gloo's may wait for: then both wait for ever.
    """
    if torch.distributed.is_initialized():
        while error is not None:
            clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__
        gc.collect()
        torch.distributed.destroy_process_group()
