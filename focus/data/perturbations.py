"""Perturb images as they are on their way through the world: JPEG, blur, resizing, noise, sharing.

Pure functions on 8-bit RGB images, at whatever size they have. What is drawn depends on a seed and
the image's number alone.

Strengths follow what others report. JPEG: CNNDetection (Wang et al., *CNN-generated images are
surprisingly easy to spot... for now*, 2020) trains on quality 30 to 100; SIDBench tests 90, 50 and
30, AIGCDetectBenchmark 95. Blur: CNNDetection trains on sigma up to 3 pixels; SIDBench tests 1, 2
and 4, AIGCDetectBenchmark 1. Resizing: AIGCDetectBenchmark halves the side; here the image is
enlarged again, so that its size tells nothing. Noise: variance 5 to 20 of 8-bit levels (standard
deviation 2.2 to 4.5) in Frank et al., *Leveraging Frequency Analysis for Deep Fake Image
Recognition*, 2020; the stronger ones are this project's. Sharing: social networks resize and
compress, and who shares again does so twice (TrueFake, Dell'Anna et al., 2025, shares fakes on
them); here to three quarters of the side and back, each time with JPEG of one quality.

One more, "equalise", is no harm on the way: both classes are stored alike, so that what told them
apart by their files is gone (Grommelt et al., *Fake or JPEG?*, 2024, equalise sizes and JPEG).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageFilter

STRENGTHS: dict[str, tuple[float, ...]] = {
    "jpeg": (95, 90, 70, 50, 30),
    "blur": (0.5, 1, 2, 3, 4),
    "resize": (0.9, 0.75, 0.5, 0.35, 0.25),
    "noise": (2, 4, 8, 16, 32),
    "shared": (95, 90, 70, 50, 30),
    "equalise": (75,),
}
"""Strengths of each perturbation, from the weakest to the strongest."""

UNITS: dict[str, str] = {
    "jpeg": "quality",
    "blur": "sigma in pixels",
    "resize": "share of the side",
    "noise": "standard deviation in 8-bit levels",
    "shared": "quality",
    "equalise": "quality",
}

ROBUSTNESS = tuple(name for name in STRENGTHS if name != "equalise")
"""Those that say how much an image bears."""

_SHARED = 0.75  # of the side


@dataclass(frozen=True)
class Perturbation:
    """One of :data:`STRENGTHS`' perturbations at one strength, as ``FaceDataset`` takes it.

    seed: The seed of the noise, which differs from image to image; an image has the same noise at
    all strengths, times the standard deviation. side: The pixels a side that "equalise" returns.
    """

    name: str
    strength: float
    seed: int = 0
    side: int = 224

    def __call__(self, image: Image.Image, index: int) -> Image.Image:
        """Return the 8-bit RGB ``image`` perturbed; index: row of the manifest.

        It keeps its size, but for "equalise". Raises ValueError for a name that is not in
        :data:`STRENGTHS`.
        """
        match self.name:
            case "jpeg":
                return _jpeg(image, int(self.strength))
            case "blur":  # three box filters, the border repeated
                return image.filter(ImageFilter.GaussianBlur(self.strength))
            case "resize":
                return _resized(_resized(image, *_shrunk(image, self.strength)), *image.size)
            case "noise":
                return _noise(image, self.strength, (self.seed, index))
            case "shared":
                once = _jpeg(_resized(image, *_shrunk(image, _SHARED)), int(self.strength))
                return _jpeg(_resized(once, *image.size), int(self.strength))
            case "equalise":
                return _jpeg(_resized(_srgb(image), self.side, self.side), int(self.strength))
        raise ValueError(f"{self.name!r} is none of the perturbations {', '.join(STRENGTHS)}")


def perturbations(names: Sequence[str], *, side: int, seed: int = 0) -> list[Perturbation]:
    """Return these perturbations at all their strengths."""
    return [Perturbation(name, s, seed, side) for name in names for s in STRENGTHS[name]]


def _shrunk(image: Image.Image, share: float) -> list[int]:
    return [max(1, round(side * share)) for side in image.size]


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _srgb(image: Image.Image) -> Image.Image:
    """Turn the colours of another profile into sRGB's, which an image without a profile has."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        in_srgb = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"))
    except (KeyError, OSError, ImageCms.PyCMSError):  # none, broken, or not one of RGB
        return image
    assert in_srgb is not None  # only "in place" is
    return in_srgb


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
