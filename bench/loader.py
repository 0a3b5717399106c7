"""Measure how many images a second a core loads: ours, timm's loader, torchvision, a memory map.

    python -m bench.loader [--short] [--output FOLDER] [--rounds N]

An epoch of photographs that scikit-image ships, as bytes of 224 x 224 pixels in batches of 32, in
one process, without and with the five augmentations (timm has three of them: crop, flip, blur):

    ours, cold    the pass for bad files, which fills the cache of decoded images, and an epoch
    ours, warm    an epoch after that
    ours, before  each image decoded again, and a blur by torchvision's kernel of 19 x 19
    timm          its data set, its transform for its prefetcher, its collation
    torchvision   decoded to tensors, transforms v2
    memory map    uint8 [N,3,S,S]: a row copied an image, then stacked

Then what some of the augmentations take, warm: crop, shift and flip beside loading without; blur
and JPEG, less what is loaded without, beside the calls that blur, encode and decode the same images
and nothing else.

The method is that of :mod:`bench.harness`. After the table come the bars that the loader has to
meet, each with what was measured.
"""

import itertools
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import ImageDataset, create_transform
from timm.data.loader import fast_collate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import gaussian_blur

from bench.harness import begin, make_parser, median, note, ratio, run_program, time_rounds, write
from focus.config.recipes import parse_augment
from focus.data import augment
from focus.data.augment import Augmentation, blurred, compressed
from focus.data.bad_files import check_images
from focus.data.cache.images import ImageCache
from focus.data.dataset import FaceDataset, loader
from focus.data.images import Preprocessing
from focus.data.manifest import Manifest, Sample

SIZE, BATCH = 224, 32
FILES = {
    "256² JPEG": (256, "jpg", 256),
    "1024² JPEG": (1024, "jpg", 64),
    "1024² PNG": (1024, "png", 64),
}
"""By name: pixels a side, suffix, how many."""
SMALL = "256² JPEG"
FIVE = "crop,shift,flip,blur,jpeg"
MOVES = "crop,shift,flip"
PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)
LANCZOS = Image.Resampling.LANCZOS

WITH = ("without", "with")
SPEED = "images a second: "

Loader = Callable[[], Iterable[Any]]
"""Begins an epoch of batches, whose first fields are the images."""
Seconds = Mapping[str, np.ndarray]
"""CPU seconds of an epoch [rounds] by loader."""


def write_pictures(paths: Iterable[Path], side: int) -> None:
    """Write a picture to each path: four parts of photographs side by side, none much enlarged."""
    import skimage.data  # of the extra test

    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    draw, tile = np.random.default_rng(0), side // 2
    for path in paths:
        whole = Image.new("RGB", (side, side))
        for corner in ((0, 0), (0, tile), (tile, 0), (tile, tile)):
            photograph = photographs[draw.integers(len(photographs))]
            centre = draw.random(), draw.random()
            part = ImageOps.fit(photograph, (tile, tile), LANCZOS, centering=centre)
            whole.paste(part.rotate(90 * int(draw.integers(4))), corner)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.save(path, quality=95)


class Decoded(Dataset[tuple[Tensor, int]]):
    """Images as torchvision decodes them, to tensors, and as its transforms v2 change them."""

    def __init__(self, manifest: Manifest, augmented: bool) -> None:
        self._samples = list(manifest)
        five = [
            v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0)),
            v2.RandomCrop(SIZE, padding=SIZE // 32, padding_mode="edge"),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.GaussianBlur(19, (0.1, 3.0))]),
            v2.RandomApply([v2.JPEG((30, 100))]),
        ]
        self._change = v2.Compose([v2.Resize((SIZE, SIZE)), *five * augmented])

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        sample = self._samples[row]
        return self._change(decode_image(sample.path, ImageReadMode.RGB)), int(sample.label or 0)


def others(manifest: Manifest, augmented: bool) -> dict[str, Iterable[Any]]:
    """Return the loaders of others by name; each see :func:`loaders`."""
    plain: dict[str, Any] = {"is_training": False, "crop_pct": 1.0, "crop_mode": "squash"}
    three: dict[str, Any] = {"is_training": True, "scale": (0.5, 1.0), "color_jitter": 0.0}
    three["gaussian_blur_prob"] = 0.5
    change = create_transform(SIZE, use_prefetcher=True, **three if augmented else plain)
    images = ImageDataset(manifest.source, transform=change)
    return {
        "timm": DataLoader(images, BATCH, collate_fn=fast_collate),
        "torchvision": DataLoader(Decoded(manifest, augmented), BATCH),
    }


class Mapped:
    """Batches of a memory map of bytes [N,3,S,S]."""

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        written = np.memmap(path, np.uint8, "w+", shape=rows.shape)
        written[:] = rows
        written.flush()
        self._rows = np.memmap(path, np.uint8, "r", shape=rows.shape)

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        for batch in torch.arange(len(self._rows)).split(BATCH):
            yield (torch.stack([torch.tensor(self._rows[row]) for row in batch]),)


def ours(manifest: Manifest, images: ImageCache | None, names: str) -> DataLoader[Any]:
    """Return our loader, with the augmentations of these names."""
    augmentations = parse_augment(names)
    data = FaceDataset(manifest, Preprocessing(SIZE, (7, 7)), augment=augmentations, images=images)
    batches: Any = np.arange(len(data)).reshape(-1, BATCH).tolist()
    return loader(data, batches, workers=0, pinned=False)


def blurred_by_torchvision(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur images [B,3,H,W] by sums over the whole square of the kernel."""
    kernel = [19, 19]
    pairs = zip(images, sigmas.tolist(), strict=True)
    return torch.stack([gaussian_blur(image, kernel, [sigma, sigma]) for image, sigma in pairs])


def filled(manifest: Manifest, folder: Path) -> tuple[Manifest, ImageCache]:
    """Look for bad files with nothing known of any, and cache what is decoded in a new folder."""
    images = ImageCache(SIZE, str(folder))
    return check_images(manifest, images=images, cache=folder, progress=False).manifest, images


def loaders(manifest: Manifest, augmented: bool, folder: Path) -> dict[str, Loader]:
    """Return what is compared, by name: a function that begins an epoch."""
    numbers = itertools.count()
    names = FIVE if augmented else "none"

    def cold() -> DataLoader[Any]:
        return ours(*filled(manifest, folder / f"cache-{augmented}-{next(numbers)}"), names)

    warm = cold()
    found: dict[str, Loader] = {"ours, cold": cold, "ours, warm": lambda: warm}
    if augmented:
        undecoded = ours(manifest, None, names)

        def before() -> Iterator[Any]:
            with mock.patch.object(augment, "blurred", blurred_by_torchvision):
                yield from undecoded

        found["ours, before"] = before
    found |= {name: partial(iter, loader) for name, loader in others(manifest, augmented).items()}
    if not augmented:
        rows = np.concatenate([batch[0].numpy() for batch in warm])
        mapped = Mapped(folder / "rows.bin", rows)
        found["memory map"] = lambda: mapped
    return found


def changes(manifest: Manifest, images: ImageCache) -> dict[str, Loader]:
    """Return warm loaders with some augmentations, and the calls that two of these consist of."""
    compared: dict[str, Loader] = {
        names: partial(iter, ours(manifest, images, names))
        for names in ("none", MOVES, "blur", "jpeg")
    }
    plain = torch.cat([batch[0] for batch in ours(manifest, images, "none")])
    # As they are drawn in the first epoch.
    keys = [(0, 0, row) for row in range(len(manifest))]
    blur, jpeg = (Augmentation((name,), SIZE) for name in ("blur", "jpeg"))
    sigmas = torch.tensor([blur.draw(key, SIZE, SIZE).sigma for key in keys])
    qualities = [jpeg.draw(key, SIZE, SIZE).quality for key in keys]

    blurry = [(p, s) for p, s in zip(plain.split(1), sigmas.split(1), strict=True) if s > 0]
    compared["blur alone"] = lambda: ((blurred(*image),) for image in blurry)
    stored = [(image, q) for image, q in zip(plain, qualities, strict=True) if q]
    compared["jpeg alone"] = lambda: ((compressed(*image)[None],) for image in stored)
    return compared


def check(compared: Mapping[str, Loader], manifest: Manifest) -> None:
    """Check that all load the same pictures: Pillow's, torchvision's within a few levels."""
    side = (SIZE, SIZE)
    exact = torch.stack(
        [
            torch.tensor(np.array(Image.open(sample.path).resize(side, Image.Resampling.BILINEAR)))
            for sample in manifest
        ]
    ).permute(0, 3, 1, 2)
    for name, begin_epoch in compared.items():
        off = (torch.cat([batch[0] for batch in begin_epoch()]).int() - exact.int()).abs()
        assert off.max() == 0 or (name == "torchvision" and off.double().mean() < 1), name


def epochs(compared: Mapping[str, Loader], rounds: int) -> Seconds:
    """Return the CPU seconds of an epoch [rounds] of each loader."""

    def epoch(begin_epoch: Loader) -> tuple[Tensor, ...]:
        return tuple(batch[0][0, 0, 0] for batch in begin_epoch())

    steps = {name: partial(epoch, begin_epoch) for name, begin_epoch in compared.items()}
    return time_rounds(steps, rounds)


@contextmanager
def photographs(kind: str, count: int) -> Iterator[tuple[Manifest, Path]]:
    """Write pictures of a kind of :data:`FILES`; yield their manifest, and a folder."""
    side, suffix, _ = FILES[kind]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "pictures")
        paths = [root / f"{number % 2}" / f"{number:04}.{suffix}" for number in range(count)]
        write_pictures(paths, side)
        samples = [Sample(str(path), int(path.parent.name)) for path in sorted(paths)]
        yield Manifest(samples, str(root)), Path(name)


def measure(kind: str, count: int, rounds: int) -> Iterator[tuple[bool, Seconds]]:
    """Yield the CPU seconds of the epochs of loaders, without and with augmentation."""
    with photographs(kind, count) as (manifest, folder):
        for augmented in (False, True):
            compared = loaders(manifest, augmented, folder)
            if not augmented:
                check(compared, manifest)
            yield augmented, epochs(compared, rounds)


def measure_changes(count: int, rounds: int) -> Seconds:
    """Return the CPU seconds of the epochs of :func:`changes`, on the smallest files."""
    with photographs(SMALL, count) as (manifest, folder):
        return epochs(changes(*filled(manifest, folder / "cache")), rounds)


class Bar(NamedTuple):
    """What the loader has to meet: CPU time of ``of`` over that of ``over``."""

    of: str
    over: str
    augmented: bool
    bound: float
    at_least: bool = False
    files: Collection[str] = FILES


BARS = (
    Bar("memory map", "ours, warm", False, 0.4, at_least=True),
    Bar("timm", "ours, warm", False, 8, at_least=True, files=[SMALL]),
    Bar("timm", "ours, warm", False, 40, at_least=True, files=["1024² JPEG"]),
    Bar("ours, warm", "ours, before", True, 0.3),
    Bar("ours, cold", "timm", False, 1.15),
)


def judged_changes(seconds: Seconds) -> Iterator[dict[str, Any]]:
    """Yield a row for each bar of some augmentations, and print whether it is held."""
    warm = seconds["none"]
    figures = {
        f"{MOVES} / without": (seconds[MOVES] / warm, 3.0),
        "blur / its calls alone": ((seconds["blur"] - warm) / seconds["blur alone"], 1.1),
        "JPEG / its calls alone": ((seconds["jpeg"] - warm) / seconds["jpeg alone"], 1.1),
    }
    for figure, (ratios, bound) in figures.items():
        value = median(ratios)
        yield note(value, figure, files=SMALL, augmentation="some")
        print(f"    {'held' if value[0] <= bound else 'NOT HELD'}: at most {bound:g}")


def judged(measured: Mapping[tuple[str, bool], Seconds]) -> Iterator[dict[str, Any]]:
    """Yield a row for each bar and kind of files, and print whether it is held."""
    for bar in BARS:
        for kind in bar.files:
            seconds = measured[kind, bar.augmented]
            found = ratio(seconds[bar.of], seconds[bar.over])
            figure = f"time of {bar.of} / {bar.over}"
            yield note(found, figure, files=kind, augmentation=WITH[bar.augmented])
            held = found[0] >= bar.bound if bar.at_least else found[0] <= bar.bound
            bound = f"at {'least' if bar.at_least else 'most'} {bar.bound:g}"
            print(f"    {'held' if held else 'NOT HELD'}: {bound}")


def main() -> None:
    """Measure, print and write."""
    given = make_parser(__doc__, 9, 3).parse_args()
    measured_with = begin("bench.loader", given)
    measured_with |= {name: version(name) for name in ("timm", "torchvision", "pillow")}
    measured, rows = {}, []
    part = 2 if given.short else 1
    for kind, (_, _, all_pictures) in FILES.items():
        count = all_pictures // part
        for augmented, seconds in measure(kind, count, given.rounds):
            measured[kind, augmented] = seconds
            for name, of_loader in seconds.items():
                case = {"files": kind, "augmentation": WITH[augmented]}
                rows.append(note(median(count / of_loader), SPEED + name, **case))
    rows += judged(measured)
    rows += judged_changes(measure_changes(FILES[SMALL][2] // part, given.rounds))
    write(given.output, "loader", rows, measured_with)


if __name__ == "__main__":
    run_program(main)
