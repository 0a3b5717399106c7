"""Perturb images as they are on their way through the world: JPEG, blur, resizing and noise.

Pure functions on 8-bit RGB images, at whatever size they have. What is drawn depends on a seed and
the image's number alone.

Strengths follow what others report. JPEG: CNNDetection (Wang et al., *CNN-generated images are
surprisingly easy to spot... for now*, 2020) trains on quality 30 to 100; SIDBench tests 90, 50 and
30, AIGCDetectBenchmark 95. Blur: CNNDetection trains on sigma up to 3 pixels; SIDBench tests 1, 2
and 4, AIGCDetectBenchmark 1. Resizing: AIGCDetectBenchmark halves the side; here the image is
enlarged again, so that its size tells nothing. Noise: variance 5 to 20 of 8-bit levels (standard
deviation 2.2 to 4.5) in Frank et al., *Leveraging Frequency Analysis for Deep Fake Image
Recognition*, 2020; the stronger ones are this project's.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

STRENGTHS: dict[str, tuple[float, ...]] = {
    "jpeg": (95, 90, 70, 50, 30),
    "blur": (0.5, 1, 2, 3, 4),
    "resize": (0.9, 0.75, 0.5, 0.35, 0.25),
    "noise": (2, 4, 8, 16, 32),
}
"""Strengths of each perturbation, from the weakest to the strongest."""

UNITS: dict[str, str] = {
    "jpeg": "quality",
    "blur": "sigma in pixels",
    "resize": "share of the side",
    "noise": "standard deviation in 8-bit levels",
}


@dataclass(frozen=True)
class Perturbation:
    """One of :data:`STRENGTHS`' perturbations at one strength, as ``FaceDataset`` takes it.

    seed: of the noise, which differs from image to image; an image has the same noise at all
    strengths, times the standard deviation.
    """

    name: str
    strength: float
    seed: int = 0

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        """Return the 8-bit RGB ``image`` perturbed, of the same size; index: row of the manifest.

        Raises ValueError for a name that is not in :data:`STRENGTHS`.
        """
        match self.name:
            case "jpeg":
                return _jpeg(image, int(self.strength))
            case "blur":  # three box filters, the border repeated
                return image.filter(ImageFilter.GaussianBlur(self.strength))
            case "resize":
                small = [max(1, round(side * self.strength)) for side in image.size]
                bicubic = Image.Resampling.BICUBIC
                return image.resize(small, bicubic).resize(image.size, bicubic)
            case "noise":
                return _noise(image, self.strength, (self.seed, index))
        raise ValueError(f"{self.name!r} is none of the perturbations {', '.join(STRENGTHS)}")


def perturbations(seed: int = 0) -> list[Perturbation]:
    """Return all perturbations at all strengths, in the order of :data:`STRENGTHS`."""
    return [Perturbation(name, s, seed) for name, strengths in STRENGTHS.items() for s in strengths]


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    # Of the pixels alone: Pillow would write comments and XMP along, or fail at long ones.
    Image.fromarray(np.asarray(image)).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file).convert("RGB")


def _noise(image: Image.Image, deviation: float, key: tuple[int, ...]) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    drawn = np.random.default_rng(key).standard_normal(pixels.shape, dtype=np.float32)
    noisy = np.rint(pixels + np.float32(deviation) * drawn).clip(0, 255)
    return Image.fromarray(noisy.astype(np.uint8))
