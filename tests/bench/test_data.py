"""``python -m bench.data``: that it times what it says, and refuses wrong tensors."""

from pathlib import Path

import pytest
import torch

from bench import data

from ..launching import python

ROOT = Path(__file__).parents[2]


def test_both_load_the_same_tensors(tmp_path: Path) -> None:
    data.write_images(tmp_path, "jpg", 40, 3)
    steps = data.steps_of(tmp_path, 32)
    assert [tuple(image.shape) for image in steps["ours"]()] == [(3, 32, 32)] * 3
    data.check(steps)
    off = tuple(image + 1e-4 for image in steps["ours"]())
    with pytest.raises(AssertionError, match="not close"):
        data.check(steps | {"ours": lambda: off})
    assert not torch.equal(off[0], off[1])


@pytest.mark.slow
def test_the_program_prints_each_ratio_and_the_bar() -> None:
    lines = python("-m", "bench.data", "--rounds", 3, "--images", 2, cwd=ROOT).splitlines()
    assert sum("ours / ImageFolder" in line and "bar <= 1.10" in line for line in lines) == 3
    assert sum("A/A" in line for line in lines) == 3
