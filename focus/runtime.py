"""The start of a program: Accelerate, threads, and what a machine cannot do."""

import os

import torch
from accelerate import Accelerator

from focus.config import EvaluateConfig, TrainConfig
from focus.data.machine import usable_cores
from focus.errors import InputError


def start(config: TrainConfig | EvaluateConfig, **options: object) -> Accelerator:
    """The accelerator of this process, with its share of the CPU's threads.

    ``accelerate launch`` pins a CPU run to one thread a process; here each process takes its share
    of the cores unless ``--threads`` says otherwise.

    Args:
        config: precision, threads, accumulation.
        options: for the Accelerator.

    Raises:
        InputError: fp16 without a GPU, where Accelerate would train in float32 without a word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        # Else, started by torchrun without a GPU, each process would believe that it is alone.
        options["cpu"] = True
    accelerator = Accelerator(mixed_precision=config.mixed_precision, **options)
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("--mixed-precision fp16 needs a GPU: give bf16 or no on a CPU.")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    torch.set_num_threads(config.threads or max(1, usable_cores() // local))
    return accelerator
