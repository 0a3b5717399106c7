"""What the tests of the trainer share: a few faces, and a trainer on them in this process."""

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from focus.config.train import TrainConfig, resolve
from focus.data.manifest import Manifest, Sample
from focus.training.run import make_detector
from focus.training.run_folder import check_folder
from focus.training.trainer import Trainer


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
                map_path=None if heat is None else str(heat),
            )
        )
    return Manifest(samples)


def trainer(
    faces: Manifest, folder: Path, accelerator: Accelerator | None = None, **given: Any
) -> Trainer:
    settings: dict[str, Any] = {
        "recipe": "demo",
        "model": "test_convnext",
        "image_size": 64,
        "name": "run",
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "lr": 1.0,
        "schedule": "constant",
        "warmup": 0.0,
        "epochs": 3,
        "batch_size": 8,
        "workers": 0,
        "output": str(folder),
        "report_to": ("none",),
        "sheet_epochs": 0,
    }
    settings |= given
    if settings["optimizer"] == "adamw":
        del settings["momentum"]
    config = resolve(TrainConfig(**settings))
    saved = check_folder(config)
    accelerator = accelerator or Accelerator(cpu=True)
    return Trainer(config, make_detector(config), faces, accelerator, saved)
