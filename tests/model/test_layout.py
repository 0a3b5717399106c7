"""Cells of the features lie where their patches do, whatever a backbone's layout is."""

from typing import Any

import pytest
import torch

from focus.model.detector import Detector

from .detectors import images


def slow(name: str, *rest: Any) -> Any:
    return pytest.param(name, *rest, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "size", "kind", "prefix"),
    [
        ("test_resnet", 160, "NCHW", 0),
        ("test_convnext", 160, "NCHW", 0),
        ("test_vit", 96, "tokens", 1),
        ("test_vit2", 96, "tokens", 1),  # a register
        ("test_vit_relpos", 96, "tokens", 0),
        ("vit_small_patch14_reg4_dinov2", 84, "tokens", 5),
        slow("vit_base_patch16_clip_224", 96, "tokens", 1),
        ("eva02_tiny_patch14_224", 84, "tokens", 1),
        ("cait_xxs24_224", 96, "tokens", 1),
        slow("twins_svt_small", 224, "tokens", 0),
        # These two compute in windows, Hiera with its tokens in another order.
        ("hiera_tiny_224", 128, "tokens", 0),
        slow("swin_tiny_patch4_window7_224", 128, "NHWC", 0),
    ],
)
def test_a_marked_patch_is_seen_in_its_cell(name: str, size: int, kind: str, prefix: int) -> None:
    torch.manual_seed(0)
    detector = Detector(name, image_size=size).eval()
    assert (detector.layout.kind, detector.layout.prefix) == (kind, prefix)
    side = detector.grid[0]
    patch = size // side
    cells = [(0, side - 1), (side - 1, 0), (side // 2, side // 2 + 1), (1, side - 2)]
    plain = 0.3 * images(1, size)[0]
    marked = plain.repeat(len(cells), 1, 1, 1)
    for image, (row, col) in zip(marked, cells, strict=True):
        patch_pixels = image[:, row * patch : (row + 1) * patch, col * patch : (col + 1) * patch]
        patch_pixels += 2 * images(1, patch, seed=1)[0]
    with torch.no_grad():
        features = detector.features(torch.cat((plain[None], marked)))
    change = (features[1:] - features[0]).square().sum(1)
    assert [divmod(int(change_map.argmax()), side) for change_map in change] == cells
