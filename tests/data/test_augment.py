"""Augmentation: maps move with their images, blur and JPEG leave them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from focus.data.augment import Augmentation, blurred

SIZE = 64


def blob(row: int, column: int) -> Tensor:
    """A bright disc on grey, [1, S, S] in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 40.0)[None]


def centre(grey: Tensor) -> Tensor:
    """Where the brightness lies, (row, column)."""
    share = grey[0].double() / grey.sum()
    place = torch.arange(SIZE, dtype=torch.float64)
    return torch.stack([(share.sum(1) * place).sum(), (share.sum(0) * place).sum()])


@pytest.mark.parametrize("name", ["crop", "shift", "flip", "crop,shift,flip"])
def test_a_map_moves_with_its_image(name: str) -> None:
    change = Augmentation(tuple(name.split(",")), SIZE)
    heat = blob(26, 36)
    image = (heat * 255).round().to(torch.uint8).expand(3, -1, -1)
    places = []
    for epoch in range(40):
        moved, map_ = change(image, heat, (0, epoch, 3))
        assert map_ is not None
        assert (moved[0] / 255 - map_[0]).abs().max() < 0.02
        places.append(centre(map_))
    spread = torch.stack(places).std(0)
    assert spread[1] > 0.5, "it does move"
    assert (spread[0] > 0.5) == (name != "flip")


def test_a_shift_is_of_two_pixels_of_64_and_repeats_the_border() -> None:
    """A black border would be something to learn."""
    place = torch.arange(SIZE)
    image = place.to(torch.uint8).expand(3, SIZE, SIZE)
    change, found = Augmentation(("shift",), SIZE), set()
    for epoch in range(60):
        moved, turned = change(image, image[:1].mT.float(), (0, epoch, 0))
        assert turned is not None
        by = [int(moved[0, 0, 32]) - 32, int(turned[0, 32, 0]) - 32]
        across, down = ((place + pixels).clamp(0, SIZE - 1) for pixels in by)
        assert moved.equal(across.to(torch.uint8).expand(3, SIZE, SIZE))
        assert turned[0].equal(down[:, None].float().expand(SIZE, SIZE))
        found.update(by)
    assert found == {-2, -1, 0, 1, 2}


def noise(size: int) -> Tensor:
    return torch.randint(256, (3, size, size), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize(("size", "sigma"), [(10, 0.1), (33, 1.7), (10, 3.0)])
def test_a_blur_is_a_gaussian_rounded_once(size: int, sigma: float) -> None:
    """White, whose sums are the largest, a chessboard, whose neighbours differ most, and noise."""
    row, column = np.indices((size, size))
    chessboard = torch.tensor((row + column) % 2 * 255).byte().expand(3, -1, -1)
    for image in (torch.full_like(chessboard, 255), chessboard, noise(size)):
        exact = gaussian_filter(image.double().numpy(), sigma, radius=9, mode="mirror", axes=(1, 2))
        off = np.abs(blurred(image, sigma, 9).numpy() - exact).max()
        assert off <= 0.52


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    change = Augmentation(("crop", "shift", "flip", "blur", "jpeg"), 224)
    image, heat = noise(224), torch.rand(1, 224, 224)
    alone = [change(image, heat, (0, epoch, 0)) for epoch in range(4)]
    torch.set_num_threads(3)
    for epoch, (expected, map_) in enumerate(alone):
        found, moved = change(image, heat, (0, epoch, 0))
        assert moved is not None
        assert map_ is not None
        assert found.equal(expected)
        assert moved.equal(map_)


@pytest.mark.parametrize("name", ["blur", "jpeg"])
def test_a_picture_is_painted_at_its_own_size_before_it_is_cut(name: str) -> None:
    """What lies outside the part is in it: a JPEG's blocks begin at the picture's corner."""
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 90, 100), dtype=torch.uint8, generator=draw)
    heat = torch.rand((1, 90, 100), generator=draw)
    found = set()
    for epoch in range(30):
        cut, painted = ("cut",), ("cut", name)
        key = (0, epoch, 0)
        got, map_ = Augmentation(painted, SIZE)(image, heat, key)
        assert got.shape == (3, SIZE, SIZE)
        assert map_ is not None
        # By the map, which no paint changes, one sees which part it is.
        (row,), (column,) = (
            (heat[0].unfold(0, SIZE, 1).unfold(1, SIZE, 1) == map_[0])
            .all((2, 3))
            .nonzero(as_tuple=True)
        )
        part = image[:, row : row + SIZE, column : column + SIZE]
        found.add(bool(got.equal(part)))
        plain, _ = Augmentation(cut, SIZE)(image, heat, key)
        assert plain.shape == got.shape
        with torch.random.fork_rng():
            changed = Augmentation((name,), SIZE)
            (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(state))
            whole = changed._paints[name](image)
        assert got.equal(whole[:, row : row + SIZE, column : column + SIZE])
    assert found == {True, False}
