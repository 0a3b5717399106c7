"""What an image costs on its way from the disk to a tensor, in CPU time.

    python -m bench.data [--rounds N] [--images N]

``FaceDataset`` is compared with a bare torchvision ``ImageFolder`` with the same transform: resize,
tensor, normalise; its tensors are first checked against torchvision's. Neither has human maps or
augmentation. One thread; steps interleaved in one process in an order that changes by round;
medians of the rounds' paired ratios with a 95 % bootstrap interval. The ratio of the
``ImageFolder`` to itself (A/A) says what the method cannot tell apart.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets, transforms
from tqdm.auto import tqdm

from bench.entry import end_in_a_line
from bench.timing import Step, at_least, judge, ratio, time_rounds
from focus.data.dataset import FaceDataset
from focus.data.manifest import Manifest, Sample

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BAR = ("<=", 1.10)
CASES = {
    "PNG 64 to 64": ("png", 64, 64),
    "JPEG 256 to 224": ("jpg", 256, 224),
    "JPEG 1024 to 224": ("jpg", 1024, 224),
}
RATIOS = {
    "ours / ImageFolder": ("ours", "ImageFolder"),
    "A/A": ("ImageFolder again", "ImageFolder"),
}


def write_images(folder: Path, extension: str, size: int, count: int) -> None:
    """Pictures with structure at every scale, as a photograph has, in one class folder."""
    draw = np.random.default_rng(0)
    place = folder / "faces"
    place.mkdir()
    for number in range(count):
        picture = np.zeros((size, size, 3), np.float32)
        for side in (4, 16, 64, size):
            octave = Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
            grown = octave.resize((size, size), Image.Resampling.BICUBIC)
            picture += np.asarray(grown, dtype=np.float32) * (0.6 * side**-0.5)
        picture *= 255 / picture.max()
        path = place / f"{number:03d}.{extension}"
        Image.fromarray(picture.astype(np.uint8)).save(path, quality=90)


def steps_of(folder: Path, size: int) -> dict[str, Step]:
    """Each step loads all images of the folder once."""
    bare = datasets.ImageFolder(
        str(folder),
        transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        ),
    )
    samples = [Sample(path, label) for path, label in bare.samples]
    ours = FaceDataset(Manifest(samples), image_size=size, grid=(7, 7), mean=MEAN, std=STD)

    def load_bare() -> tuple[Tensor, ...]:
        return tuple(bare[i][0] for i in range(len(bare)))

    def load_ours() -> tuple[Tensor, ...]:
        return tuple(ours[i].images for i in range(len(ours)))

    return {
        "ImageFolder": load_bare,
        "ImageFolder again": partial(load_bare),
        "ours": load_ours,
    }


def check(steps: dict[str, Step]) -> None:
    """Raise where a tensor is not torchvision's."""
    for got, expected in zip(steps["ours"](), steps["ImageFolder"](), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


def measure(case: str, rounds: int, images: int) -> list[str]:
    """A line for each ratio of a case."""
    extension, stored, size = CASES[case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, extension, stored, images)
        steps = steps_of(folder, size)
        check(steps)
        seconds = time_rounds(steps, rounds)
    lines = []
    for label, (first, second) in RATIOS.items():
        median, low, high = ratio(seconds[first], seconds[second])
        each = 1e3 * float(np.median(seconds[first])) / images
        line = f"{case:<18} {label:<20} {median:.3f} [{low:.3f}, {high:.3f}]  {each:.2f} ms"
        if label != "A/A":
            met = judge(BAR, low, high)
            line += f"  bar {BAR[0]} {BAR[1]:.2f} {'met' if met else 'not met'}"
        lines.append(line)
    return lines


def main() -> None:
    """Check, measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=at_least(1), default=61)
    parser.add_argument("--images", type=at_least(1), default=16, help="loaded in each step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.rounds} rounds of {arguments.images} images")
    print(f"{'images':<18} {'CPU time':<20} median [95 %]  of an image")
    for case in tqdm(CASES, "data", unit="case"):
        tqdm.write("\n".join(measure(case, arguments.rounds, arguments.images)))


if __name__ == "__main__":
    end_in_a_line(main)
