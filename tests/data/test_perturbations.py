"""Perturbations by hand, their determinism, and that they come before an image is resized."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from scipy.ndimage import gaussian_filter

from focus.data.images import load_image
from focus.data.perturbations import ROBUSTNESS, STRENGTHS, UNITS, Perturbation, perturbations


def textured(width: int = 40, height: int = 30) -> Image.Image:
    """Smooth colours with some noise."""
    down, across = np.mgrid[:height, :width]
    smooth = np.stack([4 * down, 5 * across, 2 * down + 2 * across], -1)
    grain = np.random.default_rng(0).integers(0, 40, smooth.shape)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def grey(value: int = 128, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, (value,) * 3)


def array(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def test_each_has_five_strengths_each_stronger_than_the_one_before() -> None:
    assert list(STRENGTHS) == list(UNITS) == [*ROBUSTNESS, "equalise"]
    assert ROBUSTNESS == ("jpeg", "blur", "resize", "noise", "shared")
    image = textured()
    before = array(image)
    changes: dict[str, list[float]] = {name: [0.0] for name in ROBUSTNESS}
    for perturbation in perturbations(ROBUSTNESS, side=16):
        changed = perturbation(image, 0)
        assert (changed.mode, changed.size) == (image.mode, image.size)
        changes[perturbation.name].append(float(np.abs(array(changed) - before).mean()))
    for name, differences in changes.items():
        assert len(differences) == 6, name
        assert differences == sorted(set(differences)), name
    np.testing.assert_array_equal(array(image), before, err_msg="the image given was changed")


def test_jpeg_is_that_of_a_file(tmp_path: Path) -> None:
    image = textured()
    image.save(tmp_path / "a.jpg", quality=50)
    # A comment longer than JPEG allows, which a PNG or a GIF may hold, plays no part.
    image.info["comment"] = image.info["xmp"] = b"x" * 70_000
    compressed, expected = Perturbation("jpeg", 50)(image, 0), load_image(tmp_path / "a.jpg")
    np.testing.assert_array_equal(array(compressed), array(expected))


def test_blur_is_a_gaussian() -> None:
    image = textured(80, 60)
    for sigma in STRENGTHS["blur"]:
        expected = gaussian_filter(array(image), (sigma, sigma, 0), mode="nearest")
        deviation = np.abs(array(Perturbation("blur", sigma)(image, 0)) - expected)
        # Three boxes are no Gaussian, and Pillow rounds between them.
        assert deviation.mean() < 1
        assert deviation.max() < 6


def test_noise_is_gaussian_rounded_and_cut() -> None:
    drawn = np.stack([array(Perturbation("noise", 8)(grey(), i)) - 128 for i in range(20)])
    assert drawn.mean() == pytest.approx(0, abs=0.1)
    assert drawn.std() == pytest.approx(np.sqrt(64 + 1 / 12), rel=0.01)
    assert (np.abs(drawn) <= 8).mean() == pytest.approx(0.71, abs=0.01)  # 8.5 / 8 sigmas
    dark = array(Perturbation("noise", 8)(grey(0), 1))
    assert (dark.min(), (dark == 0).mean()) == (0, pytest.approx(0.525, abs=0.02))


def test_noise_depends_on_seed_and_number_alone() -> None:
    image = grey()
    weak, strong = (array(Perturbation("noise", s, 7)(image, 3)) - 128 for s in (8, 32))
    assert np.corrcoef(weak.ravel(), strong.ravel())[0, 1] > 0.99, "the same noise, stronger"
    again = array(pickle.loads(pickle.dumps(Perturbation("noise", 8, 7)))(image, 3)) - 128
    np.testing.assert_array_equal(again, weak)
    for seed, index in ((7, 4), (8, 3), (3, 7)):
        other = array(Perturbation("noise", 8, seed)(image, index)) - 128
        assert abs(np.corrcoef(weak.ravel(), other.ravel())[0, 1]) < 0.05


def test_sharing_is_to_be_shrunk_compressed_enlarged_and_compressed() -> None:
    def compressed(image: Image.Image, quality: int) -> Image.Image:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        return Image.open(file)

    image = textured()
    once = compressed(image.resize((30, 22), Image.Resampling.BICUBIC), 60)
    twice = compressed(once.resize((40, 30), Image.Resampling.BICUBIC), 60)
    shared = Perturbation("shared", 60)(image, 0)
    np.testing.assert_array_equal(array(shared), array(twice))


@pytest.mark.parametrize("stored", ["as a PNG", "in a wide colour space", "compressed"])
def test_images_are_equalised_however_they_are_stored(tmp_path: Path, stored: str) -> None:
    """A photograph of the camera's colours becomes sRGB; all become JPEGs of one side."""
    saved, profile = Image.new("RGB", (40, 30), (200, 60, 30)), None
    if stored == "in a wide colour space":
        # A profile with red and green exchanged: the only ones that Pillow makes are sRGB and Lab.
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        profile = profile.replace(b"rXYZ", b"tXYZ").replace(b"gXYZ", b"rXYZ")
        profile = profile.replace(b"tXYZ", b"gXYZ")
        saved = Image.new("RGB", (40, 30), (60, 200, 30))
    path = tmp_path / ("a.jpg" if stored == "compressed" else "a.png")
    saved.save(path, quality=98, icc_profile=profile)
    (same,) = perturbations(["equalise"], side=48)
    equalised = same(load_image(path), 0)
    assert equalised.size == (48, 48)
    assert np.abs(array(equalised) - (200, 60, 30)).max() <= 4


def test_a_profile_that_is_none_of_rgb_is_passed_over() -> None:
    image = grey()
    for profile in (b"none", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        image.info["icc_profile"] = profile
        assert np.ptp(array(Perturbation("equalise", 75, side=8)(image, 0))) == 0
