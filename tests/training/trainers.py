"""Share among the tests of training: a few faces, a trainer, and ``train.py`` in processes.

The processes are forked from one that has imported everything: they are as real as any, but start
in a fraction of the seconds that the imports take.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from focus.config.train import TrainConfig, resolve
from focus.data.manifest import Manifest, Sample
from focus.training.run import make_detector
from focus.training.run_folder import check_folder
from focus.training.trainer import Trainer

from ..launching import CHECKOUT


def few_faces(folder: Path) -> Manifest:
    """70 images to train on, every third with a map, and 12 to validate on."""
    draw = np.random.default_rng(0)
    samples = []
    for number in range(82):
        path, label = folder / f"{number}.png", int(number % 5 > 1)
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pixels[8:20, 8:20, 0] = 40 * label  # something to learn
        Image.fromarray(pixels).save(path)
        heat = None
        if number % 3 == 0:
            heat = folder / f"map{number}.png"
            Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(heat)
        samples.append(
            Sample(
                str(path),
                label,
                generator="g" if label else "",
                split="train" if number < 70 else "validation",
                human_map=None if heat is None else str(heat),
            )
        )
    return Manifest(samples)


def trainer(
    faces: Manifest, folder: Path, accelerator: Accelerator | None = None, **changed_settings: Any
) -> Trainer:
    settings: dict[str, Any] = {
        "recipe": "demo",
        "model": "test_convnext",
        "image_size": 64,
        "name": "run",
        "opt": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "lr": 1.0,
        "sched": "constant",
        "warmup": 0.0,
        "epochs": 3,
        "batch_size": 8,
        "workers": 0,
        "output": str(folder),
        "report_to": ("none",),
        "sheet_epochs": 0,
    }
    settings |= changed_settings
    if settings["opt"] == "adamw":
        del settings["momentum"]
    config = resolve(TrainConfig.of(**settings))
    saved = check_folder(config)
    accelerator = accelerator or Accelerator(cpu=True)
    return Trainer(config, make_detector(config), faces, accelerator, saved)


def launch(
    words: Sequence[object],
    log: Path,
    errors: Path | None = None,
    cwd: Path | None = None,
    **environment: str,
) -> BaseProcess:
    """Start ``train.py`` with these words; what it says goes to ``log``, stderr to ``errors``."""
    if str(CHECKOUT) not in sys.path:
        sys.path.append(str(CHECKOUT))  # where the new process finds this module
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["focus.training.run"])
    arguments = [str(word) for word in words], log, errors or log, cwd or Path.cwd(), environment
    process = context.Process(target=_train, args=arguments)
    process.start()
    return process


def trained(
    *words: object, cwd: Path, timeout: float = 300, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Call :func:`launch` and wait; return what it printed."""
    with TemporaryDirectory() as folder:
        log, errors = Path(folder) / "log", Path(folder) / "errors"
        process = launch(words, log, errors, cwd, **environment)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(log.read_text() + errors.read_text())
        return subprocess.CompletedProcess(
            ["train.py", *map(str, words)], process.exitcode, log.read_text(), errors.read_text()
        )


def _train(
    words: list[str], log: Path, errors: Path, cwd: Path, environment: dict[str, str]
) -> None:
    for number, path in ((1, log), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.chdir(cwd)
    os.environ.update(environment)
    from focus.config.command_line import run
    from focus.config.train import TrainConfig
    from focus.training.run import train

    run(train, TrainConfig, argv=words, prog="train.py")
