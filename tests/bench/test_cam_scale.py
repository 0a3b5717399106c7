"""``python -m bench.cam_scale``: a CAM that only grows has a lower h, and not a lower h_sum."""

import pytest
import torch

from bench.cam_scale import entropy_at_range, ranges
from focus.kernels.reference import normalised_entropy, sum_entropy


def test_scale_alone_lowers_h() -> None:
    cams = torch.rand(50, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grown = 40 * cams
    as_it_was = float(ranges(cams).mean())
    assert entropy_at_range(grown, as_it_was) == pytest.approx(
        float(normalised_entropy(cams).mean())
    )
    assert float(normalised_entropy(cams).mean()) > 0.98
    # Nearly all of the softmax is on a few cells, and h_sum sees nothing of it.
    assert float(normalised_entropy(grown).mean()) < 0.4
    assert sum_entropy(grown).mean().item() == pytest.approx(sum_entropy(cams).mean().item())
    assert sum_entropy(grown).mean() > 0.94
