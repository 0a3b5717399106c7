"""Augmentation of batches: as torchvision's of one image at a time, maps beside their images."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from focus.data.augment import (
    Augmentation,
    Draw,
    as_table,
    blurred,
    compressed,
    moved_to_grid,
)

from . import one_by_one

SIZE = 64
MOVES = ("crop", "shift", "flip")
FIVE = (*MOVES, "blur", "jpeg")


class Changed(NamedTuple):
    """A batch of images [B,3,S,S], as a device makes them, too, and maps of full size [B,S,S]."""

    images: Tensor
    on_device: Tensor | None
    maps: Tensor


def changed(
    names: Sequence[str], images: Tensor, maps: Tensor, keys: Sequence[tuple[int, int, int]]
) -> Changed:
    """Change a batch of images [B,3,S,S] and of maps [B,S,S] in all ways that there are."""
    side = images.shape[2]
    augmentation = Augmentation(names, side)
    draws = [augmentation.draw(key, side, side) for key in keys]
    on_device = None
    if augmentation.can_end_on_device:
        on_device = augmentation.change_on_device(images, as_table(draws))
    moved_maps = moved_to_grid(maps, [draw.move for draw in draws], (side, side))
    return Changed(augmentation.change(as_pixels(images), draws), on_device, moved_maps)


def as_pixels(images: Tensor) -> Tensor:
    """Return a copy whose colours lie together."""
    return (
        images.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
    )


def pictures(count: int, size: int) -> Tensor:
    """Noise in squares of 4 x 4 pixels [B,3,S,S], so that neighbours are alike or far apart."""
    generator = torch.Generator().manual_seed(0)
    side = size // 4
    noise = torch.randint(256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    return noise.repeat_interleave(4, 1).repeat_interleave(4, 2).permute(0, 3, 1, 2)


def heats(count: int, size: int) -> Tensor:
    return torch.rand(count, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [SIZE, 100])
@pytest.mark.parametrize("names", [*((name,) for name in FIVE), MOVES, FIVE], ids=",".join)
def test_a_batch_is_what_torchvision_makes_of_each_image(names: tuple[str, ...], size: int) -> None:
    """Crop, shift, flip and JPEG to the byte, blur within a level."""
    images, maps = pictures(24, size), heats(24, size)
    keys = [(3, 1, row) for row in range(len(images))]
    batch = changed(names, images, maps, keys)
    oracle = one_by_one.Augmentation(names, size)
    for number, key in enumerate(keys):
        image, heat = oracle(images[number], maps[number : number + 1], key)
        assert heat is not None
        torch.testing.assert_close(batch.maps[number], heat[0], atol=2e-6, rtol=0)
        off = (batch.images[number].int() - image.int()).abs()
        if "blur" not in names:
            assert off.max() == 0
        elif "jpeg" not in names:
            assert off.max() <= 1
            assert off.float().mean() < 0.01
    if batch.on_device is not None:
        off = (batch.on_device.int() - batch.images.int()).abs()
        assert off.max() <= 1
        assert off.float().mean() < 0.05


def test_a_jpeg_is_made_of_what_was_moved_and_blurred() -> None:
    images, keys = pictures(12, SIZE), [(0, 0, row) for row in range(12)]
    augmentation = Augmentation(FIVE, SIZE)
    without = changed(FIVE[:-1], images, heats(12, SIZE), keys).images
    batch = changed(FIVE, images, heats(12, SIZE), keys).images
    qualities = []
    for key, before, after in zip(keys, without, batch, strict=True):
        quality = augmentation.draw(key, SIZE, SIZE).quality
        assert after.equal(compressed(before, quality) if quality else before)
        qualities.append(quality)
    assert len(set(qualities)) > 4


def test_a_map_on_the_grid_is_the_mean_of_the_moved_one() -> None:
    """Cells of 64 pixels by 7 share their borders."""
    augmentation = Augmentation(MOVES, SIZE)
    moves = [augmentation.draw((0, 2, row), SIZE, SIZE).move for row in range(8)]
    whole = moved_to_grid(heats(8, SIZE), moves, (SIZE, SIZE))
    expected = adaptive_avg_pool2d(whole, (7, 5))
    torch.testing.assert_close(moved_to_grid(heats(8, SIZE), moves, (7, 5)), expected)


def test_draws_are_those_of_torchvision_and_leave_the_global_state() -> None:
    """Of a thousand keys, by a row of pixels that says where each comes from."""
    positions = torch.arange(SIZE, dtype=torch.uint8).expand(3, SIZE, SIZE)
    augmentation, oracle = Augmentation(MOVES, SIZE), one_by_one.Augmentation(MOVES, SIZE)
    before = torch.random.get_rng_state()
    keys = [(2**40, epoch, 2**130 + 1) for epoch in range(1000)]
    draws = [augmentation.draw(key, SIZE, SIZE) for key in keys]
    assert torch.random.get_rng_state().equal(before)
    images = augmentation.change(as_pixels(positions.expand(1000, 3, SIZE, SIZE)), draws)
    for key, image in zip(keys, images, strict=True):
        assert oracle(positions, None, key)[0].equal(image)


def blob(row: int, column: int) -> Tensor:
    """A bright disc on grey, [1, S, S] in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 40.0)[None]


def centre(grey: Tensor) -> Tensor:
    """Where the brightness lies, (row, column)."""
    share = grey.double() / grey.sum()
    positions = torch.arange(SIZE, dtype=torch.float64)
    return torch.stack([(share.sum(1) * positions).sum(), (share.sum(0) * positions).sum()])


@pytest.mark.parametrize("name", ["crop", "shift", "flip", "crop,shift,flip"])
def test_a_map_moves_with_its_image(name: str) -> None:
    heat = blob(26, 36).expand(40, SIZE, SIZE)
    images = (heat * 255).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    batch = changed(name.split(","), images, heat, [(0, epoch, 3) for epoch in range(40)])
    assert (batch.images[:, 0] / 255 - batch.maps).abs().max() < 0.02
    spread = torch.stack([centre(moved) for moved in batch.maps]).std(0)
    assert spread[1] > 0.5, "it does move"
    assert (spread[0] > 0.5) == (name != "flip")


def test_a_shift_is_of_two_pixels_of_64_and_repeats_the_border() -> None:
    """A black border would be something to learn."""
    positions = torch.arange(SIZE)
    images = positions.to(torch.uint8).expand(60, 3, SIZE, SIZE)
    keys = [(0, epoch, 0) for epoch in range(60)]
    batch = changed(("shift",), images, images[:, 0].mT.float(), keys)
    steps = set()
    for moved, turned in zip(batch.images, batch.maps, strict=True):
        by = [int(moved[0, 0, 32]) - 32, int(turned[32, 0]) - 32]
        across, down = ((positions + pixels).clamp(0, SIZE - 1) for pixels in by)
        assert moved.equal(across.to(torch.uint8).expand(3, SIZE, SIZE))
        assert turned.equal(down[:, None].float().expand(SIZE, SIZE))
        steps.update(by)
    assert steps == {-2, -1, 0, 1, 2}


def noise(size: int) -> Tensor:
    return torch.randint(256, (3, size, size), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize(("size", "sigma"), [(10, 0.1), (33, 1.7), (10, 3.0)])
def test_a_blur_is_a_gaussian_rounded_once(size: int, sigma: float) -> None:
    """White, whose sums are the largest, a chessboard, whose neighbours differ most, and noise."""
    row, column = np.indices((size, size))
    chessboard = torch.tensor((row + column) % 2 * 255).byte().expand(3, -1, -1)
    images = torch.stack([torch.full_like(chessboard, 255), chessboard, noise(size)])
    exact = gaussian_filter(images.double().numpy(), sigma, radius=9, mode="mirror", axes=(2, 3))
    blurry = blurred(images, torch.full((3,), sigma))
    assert np.abs(blurry.numpy() - exact).max() <= 0.501
    assert blurred(images, torch.zeros(3)).equal(images)


def test_bits_depend_on_neither_the_batch_nor_the_number_of_threads() -> None:
    images, maps = pictures(6, 224), heats(6, 224)
    keys = [(0, 5, row) for row in range(6)]
    batch = changed(FIVE, images, maps, keys)
    torch.set_num_threads(3)
    for number, key in enumerate(keys):
        one = slice(number, number + 1)
        alone = changed(FIVE, images[one], maps[one], [key])
        assert alone.images.equal(batch.images[one])
        assert alone.maps.equal(batch.maps[one])
    again = changed(FIVE, images, maps, keys)
    assert again.images.equal(batch.images)


@pytest.mark.parametrize("name", ["blur", "jpeg"])
def test_a_picture_is_painted_at_its_own_size_before_it_is_cut(name: str) -> None:
    """What lies outside the part is in it: a JPEG's blocks begin at the picture's corner."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 90, 100), dtype=torch.uint8, generator=generator)
    heat = torch.rand((90, 100), generator=generator)
    augmentation = Augmentation(("cut", name), SIZE)
    oracle = one_by_one.Augmentation(("cut", name), SIZE)
    painted = set()
    for epoch in range(30):
        key = (0, epoch, 0)
        draw = augmentation.draw(key, 90, 100)
        part = augmentation.cut(image, draw)
        expected, map_ = oracle(image, heat[None], key)
        assert map_ is not None
        assert augmentation.part(heat, draw).equal(map_[0])
        assert (part.int() - expected.int()).abs().max() <= (name == "blur")
        painted.add(not part.equal(augmentation.part(image, draw)))
        # Nothing is left to do but the moves.
        assert augmentation.change(part[None], [draw])[0].equal(part)
    assert painted == {True, False}


def test_threads_that_load_at_once_draw_what_one_draws() -> None:
    """As those of other frameworks' loaders do, beside the workers of torch's."""
    augmentation = Augmentation(("crop", "shift", "flip", "blur", "jpeg"), 64)

    def draws(seed: int) -> list[Draw]:
        return [augmentation.draw((seed, 0, row), 64, 64) for row in range(2000)]

    expected = [draws(seed) for seed in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(draws, range(4))) == expected
    finally:
        sys.setswitchinterval(interval)
