"""Names cut short: no two alike, whole where they fit, beginning and end kept."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from focus.plotting import legend_below, shortened


def test_names_are_cut_in_the_middle_and_told_apart() -> None:
    for names, expected in (
        (["ADM", "stable_diffusion_v_1_4"], ["ADM", "stable_d...v_1_4"]),
        ([f"{'x' * 20}{c}{'y' * 20}" for c in "ab"], ["1: xxxxx...yyyyy", "2: xxxxx...yyyyy"]),
        (["a\udcff", "a\nb"], ["a?", "a?b"]),
        ([], []),
    ):
        assert list(shortened(names).items()) == list(zip(names, expected, strict=True))


def test_no_two_of_many_names_are_alike() -> None:
    parts = [("stable", "latent"), ("_diffusion_", "-diffusion-"), ("v_1_4", "v_1_5", "xl")]
    names = [
        "".join(name_parts)
        for name_parts in itertools.product(*parts, ("", "_of_a_data_set", "/ffhq"))
    ]
    for longest in (12, 16, 20):
        short = shortened(names, longest).values()
        assert len(set(short)) == len(names)
        assert max(map(len, short)) <= longest


@pytest.mark.parametrize("letter", ["i", "W"])
def test_a_legend_lies_inside_the_figure_below_the_panel(letter: str) -> None:
    """Of narrow names in two columns; of wide ones, or of dollar signs, whole too."""
    figure = Figure(figsize=(4.2, 3.1), layout="constrained")
    axes = figure.subplots()
    for number in range(7):
        axes.plot(np.arange(3), label=f"{number}{letter * 15}" if number else r"$\x$")
    legend_below(figure, axes, columns=2)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
    assert extent.y0 >= 0
    assert axes.get_tightbbox().y0 >= extent.y1 - 1
    assert axes.get_window_extent().height / figure.dpi >= 2
    columns = {round(text.get_window_extent().x0) for text in legend.get_texts()}
    assert len(columns) == (2 if letter == "i" else 1)
