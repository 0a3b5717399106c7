"""The start of a program: Accelerate, threads, its folder, and what a machine cannot do."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TypeVar, get_args

import torch
from accelerate import Accelerator
from accelerate.utils import (
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    get_int_from_env,
    parse_flag_from_env,
)

from focus.errors import ImageError, InputError, OneProcessError
from focus.kernels import backend_for
from focus.runtime.machine import (
    RANKS,
    MixedPrecision,
    processes_here,
    said_by_launcher,
    usable_cores,
)
from focus.runtime.process_group import destroy_process_group
from focus.runtime.signals import Stopped

T = TypeVar("T")


class MachineSettings(Protocol):
    """How a program uses the machine: the fields of a configuration that :func:`start` reads."""

    @property
    def mixed_precision(self) -> MixedPrecision: ...
    @property
    def threads(self) -> int | None: ...


# What shows a process some of a machine's GPUs.
_SHOWN = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

# What Accelerate may be told that the programs do not take: checkpoints hold whole networks.
_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")

# In which MPI says how many processes there are, as Accelerate reads it.
_MPI_SIZES = ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
_MPI_LOCAL_SIZES = ["MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"]

# For what the main process does first: a million images take an hour to decode, and NCCL would wait
# ten minutes. A launcher ends the processes of one that has died, however long they would wait.
_LONGEST_WAIT = timedelta(hours=3)


@contextmanager
def closing_process_group() -> Iterator[None]:
    """Decorates a program: when all processes of a launch leave it, their group is ended.

    Left to the end of Python, its threads may outlive the interpreter, which aborts the process in
    place of its exit code. An error of one process alone, such as an ImageError, leaves the group:
    the others are still at work in it, and its end may wait for them.
    """
    try:
        yield
    except (InputError, Stopped) as error:
        if not isinstance(error, ImageError):
            destroy_process_group(error)
        raise
    destroy_process_group()


def finish_trackers(accelerator: Accelerator) -> None:
    """What ``end_training`` does, but for the group of the processes, which a next run needs."""
    for tracker in accelerator.trackers:
        tracker.finish()


def start(config: MachineSettings, **options: object) -> Accelerator:
    """The accelerator of this process, with its share of the CPU's threads.

    ``accelerate launch`` pins a CPU run to one thread a process; here each process takes its share
    of the cores unless ``--threads`` says otherwise.

    Args:
        config: precision and threads.
        options: for the Accelerator.

    Raises:
        InputError: bf16 on a GPU that emulates it; fp16 without a GPU, where Accelerate would train
            in float32 without a word; a launcher that was told another precision, or accumulation,
            than the program, or to share a network out, or compile it, or that counts its processes
            by what is no number; more processes than GPUs, or than Accelerate knows of; a
            FOCUS_BACKEND that is none, or that cannot run here.
    """
    # The launcher says "no" where nobody asked it for anything.
    told = os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    own = getattr(config, "gradient_accumulation_steps", 1)
    if told not in ("1", str(own)):
        raise InputError(
            f"The launcher was told {told} gradient accumulation steps, the program {own}: give "
            f"the program --gradient-accumulation-steps {told}."
        )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION") or "no"
    if launched not in ("no", config.mixed_precision):
        advice = f"launch with --mixed_precision {config.mixed_precision}"
        none = ""
        if launched in get_args(MixedPrecision):
            advice = f"give the program --mixed-precision {launched}, or {advice}"
        else:
            none = f" (which is none of {', '.join(get_args(MixedPrecision))})"
        raise InputError(
            f"The launcher was told mixed precision {launched}{none}, the program "
            f"{config.mixed_precision}: {advice}."
        )
    # Accelerate would compile the network that is trained, and not the one that is validated.
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no" and hasattr(config, "compile"):
        raise InputError(
            f"The launcher was told to compile the network with {compiler.lower()}, about which "
            "the run would say nothing: launch with --dynamo_backend no, and give the program "
            "--compile."
        )
    for kind in _SHARDED:
        if _told_to_use(kind):
            raise InputError(
                f"The launcher was told {kind}, which shares a network out among processes, where "
                "here each has all of it: launch with --multi_gpu in place of "
                f"--use_{kind.lower()}."
            )
    devices = 0 if _told_to_use("CPU") else torch.accelerator.device_count()
    for name in ("WORLD_SIZE", *_MPI_SIZES, *RANKS):
        said_by_launcher(name, 0)  # Accelerate's error would not name it
    check_shown(devices, processes_here())
    if get_int_from_env(["WORLD_SIZE", *_MPI_SIZES], 1) > 1 and not devices:
        # Else, started by torchrun or mpirun without a GPU, each process would believe that it is
        # alone.
        options["cpu"] = True
        check_address()
    options["kwargs_handlers"] = [InitProcessGroupKwargs(timeout=_LONGEST_WAIT)]
    accelerator = Accelerator(mixed_precision=config.mixed_precision, **options)
    check_alone(accelerator.num_processes)
    run_on_all(accelerator, lambda: _check_device(config.mixed_precision, accelerator.device))
    here = processes_here(accelerator.num_processes)
    torch.set_num_threads(config.threads or max(1, usable_cores() // here))
    return accelerator


def _told_to_use(what: str) -> bool:
    """Whether Accelerate's variable says so. Raises InputError if it says neither yes nor no."""
    name = f"ACCELERATE_USE_{what}"
    try:
        return bool(parse_flag_from_env(name))
    except ValueError as error:
        raise InputError(
            f"{name} is {os.environ[name]!r}, neither true nor false: set it to one of them, or "
            "leave it unset."
        ) from error


def same_threads(device: torch.device, before: int | None, given: int | None) -> str:
    """Take as many CPU threads as a run had that goes on, unless ``--threads`` says otherwise.

    A sum is of as many parts as there are threads, so others change its last bits. On a GPU no
    bits are promised, and the threads stay as they are.

    Args:
        device: that of the run.
        before: the run's, None if not known.
        given: ``--threads``, which :func:`start` has set.

    Returns what to say if they differ, else "".
    """
    if device.type != "cpu" or before is None or given == before:
        return ""
    if given is None:
        torch.set_num_threads(before)
        return ""
    return (
        f"the run had {before} thread{'s' * (before > 1)} each process, not {given}: on a CPU its "
        "results are no longer those of an undisturbed run to the last bit"
    )


def _check_device(precision: str, device: torch.device) -> None:
    check_precision(precision, device)
    check_backend(device)


def check_backend(device: torch.device | str) -> None:
    """Raise InputError for a FOCUS_BACKEND that is none, or that cannot run on the device.

    Here Triton's driver is compiled: before data are read, and not where a step is traced.
    """
    empty = torch.empty(0, device=device)  # an error of the device's own is no backend's
    try:
        backend_for(empty)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{error}: set FOCUS_BACKEND=auto, or leave it unset.") from error


def check_precision(name: str, device: torch.device) -> None:
    """Raise InputError for a precision that the device only pretends to have, or lacks."""
    if name == "fp16" and device.type == "cpu":
        raise InputError("--mixed-precision fp16 needs a GPU: give bf16 or no on a CPU.")
    cuda = device.type == "cuda"
    # Emulated, it saves no time, and without this nothing says so.
    if name == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        gpu = torch.cuda.get_device_name(device)
        raise InputError(f"{gpu} has no bf16: give --mixed-precision fp16, or no.")


def check_shown(devices: int, local: int) -> None:
    """Raise InputError if so many processes of a machine share GPUs, of which fewer are seen.

    A launcher may show each process one of its own, which is then the first that it sees. Of a
    single one that is shown to all, only the processes beyond the first can tell.
    """
    if devices == 0 or devices >= local:
        return
    place, one = os.environ.get("LOCAL_RANK"), devices == 1 and any(map(os.environ.get, _SHOWN))
    if one and place == "0":
        return
    own = ", or set LOCAL_RANK=0 where each is shown a GPU of its own" if one else ""
    kind = OneProcessError if one and place == "1" else InputError
    raise kind(
        f"{local} processes would share {devices} GPU{'s' * (devices > 1)}: start {devices}, "
        f"or set ACCELERATE_USE_CPU=true to use the CPU{own}."
    )


def check_address() -> None:
    """Raise InputError where mpirun has started processes and nothing says where they meet.

    Those of one machine meet there. A torch that was built with MPI needs no address.
    """
    if any(map(os.environ.get, ("MASTER_ADDR", "WORLD_SIZE"))):
        return
    if torch.distributed.is_mpi_available():
        return
    if get_int_from_env(_MPI_LOCAL_SIZES, 1) != get_int_from_env(_MPI_SIZES, 1):
        raise InputError(
            "MASTER_ADDR is not set, without which processes of several machines do not find each "
            "other: set it to the name of the first one's machine."
        )
    os.environ["MASTER_ADDR"] = "127.0.0.1"


def check_alone(processes: int) -> None:
    """Raise InputError where Accelerate counts one process, and a launcher has started several.

    Of Slurm only a step says so: a batch script has the number of a job's tasks, too, and is one
    process. Of several it may mean them all to train alone, and then says WORLD_SIZE=1.

    processes: how many Accelerate counts.
    """
    if processes > 1 or "WORLD_SIZE" in os.environ:
        return
    started = get_int_from_env(_MPI_SIZES, 1)
    if "SLURM_PROCID" in os.environ:
        started = max(started, get_int_from_env(["SLURM_STEP_NUM_TASKS"], 1))
    if started > 1:
        raise InputError(
            f"This is one of {started} processes that srun or mpirun has started, each of which "
            "would do all of it by itself: start them by torchrun, or set RANK=0 and WORLD_SIZE=1 "
            "if each is to."
        )


def describe(accelerator: Accelerator, config: MachineSettings) -> str:
    """One line: device, processes, threads, precision, and which form the head takes and why."""
    threads = torch.get_num_threads()
    name, reason = backend_for(torch.empty(0, device=accelerator.device))
    processes = f"{accelerator.num_processes} process{'es' * (accelerator.num_processes > 1)}"
    return (
        f"device {accelerator.device}, {processes} with {threads} "
        f"thread{'s' * (threads > 1)} each, mixed precision {config.mixed_precision}, "
        f"head: {name} ({reason})"
    )


def run_on_main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What ``work`` gives; the main process does it first and leaves the others its caches.

    Raises:
        InputError: that of the main process, in every process, else as :func:`run_on_all`. With
            Accelerate's own ``main_process_first`` the others would wait for it and end with a
            traceback.
    """
    error: InputError | None = None
    if accelerator.is_main_process:
        try:
            made = work()
        except InputError as caught:
            error = caught
    (error,) = broadcast_object_list([error])
    if error is not None:
        raise error
    return run_on_all(accelerator, lambda: made if accelerator.is_main_process else work())


def run_on_all(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """What ``work`` gives, once it has given it in every process.

    Raises:
        InputError: of the first process that has one, in all of them, so that none waits for it and
            the main process says which it is of: another machine may lack a file.
    """
    error: InputError | None = None
    try:
        made = work()
    except InputError as caught:
        error = caught
    errors = gather_object([error])
    rank = next((rank for rank, each in enumerate(errors) if each is not None), None)
    if rank is None:
        return made
    if rank == 0:
        raise error or errors[0]  # its own has a traceback, for --debug
    raise InputError(f"Process {rank}: {str(errors[rank]).removesuffix('.')}.") from error
