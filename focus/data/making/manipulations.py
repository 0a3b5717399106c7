"""Turn a real face into a synthetic one, and say where: the methods of ``focus data manipulate``.

All work on aligned crops, by where the parts of a face are in one. Blending a face with a changed
version of itself is that of Shiohara and Yamasaki, *Detecting Deepfakes with Self-Blended Images*
(arXiv 2204.08376); the other methods are this project's own imitations of what programs do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage
from scipy.interpolate import RBFInterpolator

Array = NDArray[np.float32]
"""A face [S, S, 3] in [0, 1], or weights [S, S] in [0, 1]."""
Ellipse = tuple[float, float, float, float]
"""Row and column of the centre, and the half axes, as shares of the side."""

PARTS: dict[str, Ellipse] = {
    "eyes": (0.46, 0.50, 0.09, 0.27),
    "nose": (0.59, 0.50, 0.11, 0.12),
    "mouth": (0.73, 0.50, 0.10, 0.18),
}
FACE: Ellipse = (0.60, 0.50, 0.32, 0.26)
BASIS_SIDE = 64
"""Pixels a side of the faces that a :class:`Basis` is of."""
_FEATHER = 0.2  # of an ellipse's axes, on either side of its edge
_FARTHEST = 0.06  # of the side, that a donor is moved to lie on a face


class Basis(NamedTuple):
    """Principal components of faces: the mean [D] and the components [K, D], of flat faces."""

    mean: Array
    components: Array


class Inputs(NamedTuple):
    """What a method works on: the face, another person's, and the principal components."""

    face: Array
    donor: Array
    basis: Basis


Manipulation = Callable[[Inputs, np.random.Generator], tuple[Array, Array]]
"""Returns the picture, and the weights [S, S] of what in it is not of the face itself."""


def part_swap(inputs: Inputs, rng: np.random.Generator) -> tuple[Array, Array]:
    """Splice one or two parts of another person's face in, in the colours of the first."""
    chosen = rng.choice(list(PARTS), rng.integers(1, 3), replace=False)
    weight = np.maximum.reduce([_soft(inputs.face, PARTS[name], rng) for name in chosen])
    return _blended(inputs.face, _recoloured(_aligned(inputs), inputs.face, weight), weight), weight


def self_blend(inputs: Inputs, rng: np.random.Generator) -> tuple[Array, Array]:
    """Blend the inner face with the same face in other colours, sharpness and place."""
    side = len(inputs.face)
    source = inputs.face * (1 + rng.uniform(-0.12, 0.12, 3)) + rng.uniform(-0.04, 0.04, 3)
    blurred = ndimage.gaussian_filter(source, (side / 200, side / 200, 0))
    source = source + rng.choice([-0.9, 1.2]) * (source - blurred)
    scale = rng.uniform(0.96, 1.04, 2)
    shift = rng.uniform(-0.02, 0.02, 2) * side
    offset = (1 - scale) * side / 2 + shift
    source = ndimage.affine_transform(
        source, np.diag([*scale, 1]), (*offset, 0), order=1, mode="nearest"
    )
    weight = _soft(inputs.face, FACE, rng)
    return _blended(inputs.face, source, rng.uniform(0.6, 1) * weight), weight


def warp(inputs: Inputs, rng: np.random.Generator) -> tuple[Array, Array]:
    """Move points of a part by a thin-plate spline, which leaves all around the part in place."""
    side = len(inputs.face)
    row, column, height, width = PARTS[rng.choice(list(PARTS))]
    weight = _soft(inputs.face, (row, column, 1.5 * height, 1.4 * width), rng)
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    circle = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    centre, axes = np.array([row, column]), np.array([height, width])
    anchors = centre + 2.2 * axes * circle
    moved = centre + 0.6 * axes * circle[::2]
    moves = rng.uniform(0.02, 0.04) * rng.choice([-1, 1], (len(moved), 2))
    spline = RBFInterpolator(
        np.concatenate([anchors, moved]), np.concatenate([np.zeros_like(anchors), moves])
    )
    grid = np.moveaxis(np.mgrid[0:1:32j, 0:1:32j], 0, -1).reshape(-1, 2)
    field = spline(grid).reshape(32, 32, 2)
    field = ndimage.zoom(field, (side / 32, side / 32, 1), order=1) * side * weight[..., None]
    places = np.mgrid[0:side, 0:side] - np.moveaxis(field, -1, 0)
    channels = np.moveaxis(inputs.face, -1, 0)
    picture = [ndimage.map_coordinates(c, places, order=1, mode="nearest") for c in channels]
    return np.stack(picture, axis=-1), weight


def morph(inputs: Inputs, rng: np.random.Generator) -> tuple[Array, Array]:
    """Mix the inner face with another person's, as much of the one as of the other."""
    weight = _soft(inputs.face, FACE, rng)
    donor = _recoloured(_aligned(inputs), inputs.face, weight)
    return _blended(inputs.face, donor, rng.uniform(0.4, 0.6) * weight), weight


def upsample(inputs: Inputs, rng: np.random.Generator) -> tuple[Array, Array]:
    """Make the inner face anew from a small one, as the last layers of a generator do.

    Each doubling repeats pixels, convolves, and leaves the overlap of a transposed convolution.
    """
    side = len(inputs.face)
    picture = resized(inputs.face, -(-side // 4))
    overlap = rng.uniform(0.02, 0.05) * np.array([[1, -1], [-1, 1]])
    for _ in range(2):
        picture = picture.repeat(2, axis=0).repeat(2, axis=1)
        smooth = ndimage.gaussian_filter(picture, (0.8, 0.8, 0))
        detail = smooth - ndimage.uniform_filter(smooth, (3, 3, 1))
        picture = smooth + rng.uniform(0.5, 1.0) * detail
        picture = picture * (1 + np.tile(overlap, [n // 2 for n in picture.shape[:2]])[..., None])
    weight = _soft(inputs.face, FACE, rng)
    return _blended(inputs.face, picture[:side, :side], weight), weight


def pca(inputs: Inputs, rng: np.random.Generator) -> tuple[Array, Array]:
    """Put the inner face's projection on the principal components of other faces in its place."""
    mean, components = inputs.basis
    flat = resized(inputs.face, BASIS_SIDE).ravel() - mean
    projected = (mean + (flat @ components.T) @ components).astype(np.float32)
    projected = projected.reshape(BASIS_SIDE, BASIS_SIDE, 3)
    weight = _soft(inputs.face, FACE, rng)
    picture = _recoloured(resized(projected, len(inputs.face)), inputs.face, weight)
    return _blended(inputs.face, picture, weight), weight


METHODS: dict[str, tuple[str, Manipulation]] = {
    "part-swap": ("splicing", part_swap),
    "warp": ("warping", warp),
    "morph": ("morphing", morph),
    "self-blend": ("splicing", self_blend),
    "upsample": ("resynthesis", upsample),
    "pca": ("resynthesis", pca),
}
"""The family and the function of each method, by its name as a generator."""


def resized(face: Array, side: int) -> Array:
    """Return a face of another side, resampled as Pillow's bicubic filter does."""
    how = Image.Resampling.BICUBIC
    channels = [Image.fromarray(np.ascontiguousarray(c)) for c in np.moveaxis(face, -1, 0)]
    return np.stack([np.asarray(c.resize((side, side), how)) for c in channels], axis=-1)


def _soft(face: Array, ellipse: Ellipse, rng: np.random.Generator) -> Array:
    """Return the weights of an ellipse, a little moved and stretched, with a soft edge."""
    middle = np.array(ellipse[:2]) + rng.normal(0, 0.012, 2)
    axes = rng.uniform(0.88, 1.12, 2) * ellipse[2:]
    places = (np.moveaxis(np.mgrid[0 : len(face), 0 : len(face)], 0, -1) + 0.5) / len(face)
    distance = np.linalg.norm((places - middle) / axes, axis=-1)
    weight: Array = np.clip((1 + _FEATHER - distance) / (2 * _FEATHER), 0, 1).astype(np.float32)
    return weight


def _blended(face: Array, other: Any, weight: Array) -> Array:
    mixed: Array = (face + weight[..., None] * (other - face)).astype(np.float32)
    return mixed


def _recoloured(source: Array, face: Array, weight: Array) -> Array:
    """Give a source the mean and the spread of each colour that the face has, by the weights."""
    share = weight[..., None] / weight.sum()

    def mean_and_spread(pixels: Array) -> tuple[Array, Array]:
        mean = (share * pixels).sum((0, 1))
        return mean, np.sqrt((share * (pixels - mean) ** 2).sum((0, 1)))

    source_mean, source_spread = mean_and_spread(source)
    face_mean, face_spread = mean_and_spread(face)
    gain = np.minimum(face_spread / (source_spread + 1e-3), 2)
    recoloured: Array = (source - source_mean) * gain + face_mean
    return recoloured


def _aligned(inputs: Inputs) -> Array:
    """Move the donor a little, to where its edges lie on those of the face (phase correlation)."""
    side = len(inputs.face)
    window = _soft(inputs.face, FACE, np.random.default_rng(0))
    edges = [
        window * ndimage.gaussian_gradient_magnitude(x.mean(-1), side / 64)
        for x in (inputs.face, inputs.donor)
    ]
    first, second = (fft.rfft2(x) for x in edges)
    product = first * second.conj()
    likely = fft.fftshift(fft.irfft2(product / (np.abs(product) + 1e-9), s=window.shape))
    likely = ndimage.gaussian_filter(likely, side / 64)

    reach = max(1, round(_FARTHEST * side))
    middle = side // 2
    near = likely[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    down, right = np.unravel_index(near.argmax(), near.shape)
    moved: Array = ndimage.shift(
        inputs.donor, (down - reach, right - reach, 0), order=1, mode="nearest"
    )
    return moved
