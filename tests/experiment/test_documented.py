"""The figures of README and of the experiment's pages follow from what they are said to follow."""

from pathlib import Path

import numpy as np
import pytest

from focus.data.demo.render import REAL_FACES, SPLITS, World, render_face

CHECKOUT = Path(__file__).parents[2]


def document(name: str) -> str:
    """Return the text of a page in one line."""
    return " ".join((CHECKOUT / name).read_text(encoding="utf-8").split())


def test_the_border_holds_the_shortcut_and_no_map() -> None:
    """The outer seven pixels: what they are of the image, and of the mass of simulated maps."""
    maps, fake = [], []
    for generator in SPLITS["train"]:
        for number in range(60 if generator == REAL_FACES else 15):
            rendering = render_face("train", generator, number, World(100, 0.9))
            assert rendering.human_map is not None
            maps.append(rendering.human_map / rendering.human_map.sum())
            fake.append(generator != REAL_FACES)
    border = np.ones((64, 64), dtype=bool)
    border[7:-7, 7:-7] = False
    mass_in_border = np.array([human_map[border].sum() for human_map in maps])

    assert border.mean() == pytest.approx(0.39, abs=0.005)
    assert mass_in_border[fake].mean() == pytest.approx(0.02, abs=0.005)
    assert mass_in_border.mean() == pytest.approx(0.01, abs=0.005)
    text = document("docs/experiment.md")
    assert "The outer seven pixels are 39 % of the image and hold 2 % of the mass" in text
    assert "(1 % of all maps;" in text
