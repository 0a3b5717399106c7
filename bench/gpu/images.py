"""Time training steps: ours, and what timm's train.py does on the same network and batch.

Ours is a step of the real :class:`focus.training.trainer.Trainer` with the loss ``blend``, all of
it but reading images: bytes on the device are normalised, and each image has a human map. timm's
is forward under autocast, cross-entropy, backward and the optimiser's step, with its flags --amp,
--amp-dtype bfloat16 and --channels-last, and with --torchcompile where ours is compiled; its loader
normalises on the device, so that this is timed, too. Its meters, its log and its waits for the
device are left out. Both have SGD in torch's fused form. Weights are random, in bf16's autocast.

A rehearsal on a CPU takes small networks, and compiles the smallest alone: a C++ compiler needs
minutes for each of the others.
"""

import gc
import math
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from accelerate import Accelerator
from timm.models import register_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.gpu.heads import fallback
from bench.gpu.settings import Settings
from bench.gpu.timing import Call, Row, clocks_under, one_line, seconds_of, time_in_turn
from bench.harness import median, ratio
from focus.config.train import TrainConfig, resolve
from focus.data.dataset import Batch
from focus.data.manifest import Manifest, Sample
from focus.runtime.launch import choose_arithmetic, start
from focus.training.run import make_detector
from focus.training.trainer import Trainer

COLUMNS = (
    "network",
    "batch",
    "mode",
    "ours images/s",
    "timm images/s",
    "ours / timm",
    "A/A",
    "ours first step s",
    "timm first step s",
    "SM MHz",
)

SMALL = {
    "densenet121": "test_efficientnet",
    "resnet50": "test_resnet",
    "vit_base_patch16_224": "rehearsal_vit",
    "convnext_tiny": "test_convnext",
}
"""The networks that are measured; and what a rehearsal on a CPU takes in the place of each."""
SIZES = {"cuda": 224, "cpu": 160}
SMALL_BATCH = 4
BLOCK_SECONDS = {"cuda": 0.3, "cpu": 0.05}
"""How long one network trains before it is the other's turn: many steps, so that the device has
work while Python goes on."""
ROUNDS = {"cuda": 7, "cpu": 3}
"""How often it is each one's turn."""
RATE = 1e-4  # small, so that random images and labels make no weight infinite


@register_model
def rehearsal_vit(pretrained: bool = False, **options: Any) -> Any:
    """Make a transformer of one block, for timm's registry."""
    return timm.create_model("test_vit", pretrained=pretrained, depth=1, embed_dim=32, **options)


class Workload(NamedTuple):
    """A network, the images of a step, and whether both sides compile the network."""

    network: str
    size: int
    batch_size: int
    device: str
    compiled: bool = False

    def batch(self, grid: tuple[int, int]) -> Batch:
        """Return random images and human maps on the device, half of them fakes."""
        draw = torch.Generator().manual_seed(0)
        shape = self.batch_size, 3, self.size, self.size
        number = torch.arange(self.batch_size)
        return Batch(
            images=torch.randint(256, shape, dtype=torch.uint8, generator=draw),
            target=number % 2,
            saliency=torch.rand(self.batch_size, *grid, generator=draw),
            saliency_mask=torch.ones(self.batch_size, dtype=torch.bool),
            index=number,
            token=torch.empty(self.batch_size, 0),
        ).to(self.device)


def workload(network: str, settings: Settings, *, compiled: bool = False) -> Workload:
    """Return the work of a network as it is, or as a rehearsal has it."""
    size = SIZES[settings.device]
    if settings.device == "cuda":
        return Workload(network, size, settings.batch_size, settings.device, compiled)
    return Workload(SMALL[network], size, SMALL_BATCH, settings.device, compiled)


def measure_images(network: str, settings: Settings) -> Iterator[Row]:
    """Yield a row for the network as it is and one for it compiled.

    A row that could not be measured has ``error``.
    """
    accelerator = begin(settings.device)
    modes = [False]
    if not settings.short and (settings.device == "cuda" or SMALL[network] == "rehearsal_vit"):
        modes.append(True)
    for compiled in modes:
        work = workload(network, settings, compiled=compiled)
        labels = {"network": work.network, "batch": work.batch_size}
        labels["mode"] = "compiled" if compiled else "eager"
        try:
            yield labels | _measure(work, accelerator)
        except Exception as error:  # most often, the card's memory is too small for this batch
            yield labels | {"error": one_line(error)}
        free()


def begin(device: str) -> Accelerator:
    """Start Accelerate, with TF32 and cuDNN's trials, as our training and timm's have them."""
    accelerator = start("bf16", None, device)
    choose_arithmetic(accelerator.device, tf32=True, cudnn_benchmark=True)
    return accelerator


def free() -> None:
    """Free what the networks before have held."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _measure(work: Workload, accelerator: Accelerator) -> Row:
    device = work.device
    with TemporaryDirectory() as folder:
        trainer = make_trainer(work, accelerator, Path(folder))
    batch = work.batch(trainer.detector.grid)
    steps = {"ours": our_step(trainer, batch), "timm": timm_step(work, batch)}
    row: Row = {f"{name} first step s": seconds_of(step, device) for name, step in steps.items()}

    blocks: dict[str, Call] = {}
    numbers: dict[str, int] = {}
    for name, step in steps.items():
        step()  # with this batch's fastest convolutions, once they are chosen
        numbers[name] = math.ceil(BLOCK_SECONDS[device] / seconds_of(step, device))
        blocks[name] = partial(_repeat, step, numbers[name])
    numbers["timm again"], blocks["timm again"] = numbers["timm"], blocks["timm"]
    times = time_in_turn(blocks, ROUNDS[device], device)
    seconds = {name: values / numbers[name] for name, values in times.items()}

    for name in steps:
        row[f"{name} images/s"] = median(work.batch_size / seconds[name])
    row["ours / timm"] = ratio(seconds["timm"], seconds["ours"])
    row["A/A"] = ratio(seconds["timm again"], seconds["timm"])
    row |= clocks_under(blocks["ours"], device)

    with torch.no_grad():
        features = trainer.detector.features(trainer.prepared(batch))
    error = fallback(features) or untrained(trainer, steps["timm"]())
    return row | ({"error": error} if error else {})


def _repeat(step: Call, times: int) -> None:
    for _ in range(times):
        step()


def untrained(trainer: Trainer, loss: object) -> str | None:
    """Return an error if a loss was not finite, after which a step does less than training."""
    trainer.read_tally()
    sums = trainer.state.sums
    assert sums is not None
    assert isinstance(loss, Tensor)
    if sums["skipped"]:
        return f"ours skipped {sums['skipped']:.0f} steps, whose loss was not finite"
    return None if np.isfinite(float(loss)) else f"timm trained to the loss {float(loss)}"


def make_trainer(work: Workload, accelerator: Accelerator, folder: Path) -> Trainer:
    """Return a trainer by the recipe ``paper`` on as many images as a batch has; none is read."""
    config = resolve(
        TrainConfig.of(
            recipe="paper",
            model=work.network,
            image_size=work.size,
            pretrained=False,
            loss="blend",
            lr=RATE,
            epochs=10**6,
            batch_size=work.batch_size,
            workers=0,
            mixed_precision="bf16",
            compile=work.compiled,
            channels_last=True,
            report_to=("none",),
            name="bench",
            output=str(folder),
        )
    )
    faces = Manifest(
        Sample(
            path=str(folder / split / f"{number}.png"),
            label=number % 2,
            generator="generator" if number % 2 else "",
            split=split,
        )
        for split in ("train", "validation")
        for number in range(work.batch_size)
    )
    trainer = Trainer(config, make_detector(config), faces, accelerator)
    trainer.model.train()
    return trainer


def our_step(trainer: Trainer, batch: Batch) -> Call:
    """Return a training step of ours on the batch."""
    epochs = count()

    def step() -> None:
        (batches,) = trainer.plan.epoch(next(epochs))
        trainer.train_step(batches, iter([batch]))

    return step


def timm_step(work: Workload, batch: Batch) -> Call:
    """Return a step as timm's train.py makes it on the batch; it returns the loss."""
    network = timm.create_model(work.network, num_classes=2)
    config = timm.data.resolve_model_data_config(network)
    network.to(work.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-6, fused=True
    )
    mean, std = (
        torch.tensor([255 * value for value in config[name]], device=work.device).view(1, 3, 1, 1)
        for name in ("mean", "std")
    )
    forward = torch.compile(network) if work.compiled else network

    def step() -> Tensor:
        images = batch.images.float().sub_(mean).div_(std)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(work.device, torch.bfloat16):
            loss = cross_entropy(forward(images), batch.target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step
