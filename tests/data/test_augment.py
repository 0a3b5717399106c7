"""Augmentation: maps move with their images, blur and JPEG leave them."""

import pytest
import torch
from torch import Tensor

from focus.config.recipes import parse_augment
from focus.data.augment import Augmentation
from focus.errors import InputError

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


@pytest.mark.parametrize("name", ["crop", "shift", "flip"])
def test_a_map_moves_with_its_image(name: str) -> None:
    change = Augmentation((name,), SIZE)
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


@pytest.mark.parametrize("name", ["blur", "jpeg"])
def test_half_of_the_images_are_painted_and_no_map(name: str) -> None:
    change = Augmentation((name,), SIZE)
    heat = blob(20, 20)
    image = (heat * 200).to(torch.uint8).expand(3, -1, -1)
    changed = 0
    for epoch in range(200):
        painted, map_ = change(image, heat, (0, epoch, 0))
        assert map_ is not None
        assert map_.equal(heat)
        changed += not painted.equal(image)
    assert 70 <= changed <= 130


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


def test_names() -> None:
    assert parse_augment("none") == ()
    assert parse_augment("flip, crop") == ("crop", "flip")
    for text in ("", "none,flip", "mirror", "flip,,crop"):
        with pytest.raises(InputError, match="--augment got"):
            parse_augment(text)
    with pytest.raises(InputError, match="names flip twice"):
        parse_augment("flip,flip")
