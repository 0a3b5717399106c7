"""The figures of a report as they are drawn: rates, bins, colours, strengths."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.metrics import roc_curve

from focus.data.perturbations import ROBUSTNESS, STRENGTHS
from focus.evaluation.protocol import match
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.report import plots

from .reports import made, perturbed


def axes_of(plot: plots.Plot) -> Axes:
    (axes,) = plots.figure_of(plot).axes
    return axes


def legend_of(plot: plots.Plot) -> list[str]:
    (legend,) = plots.figure_of(plot).legends
    return [text.get_text() for text in legend.get_texts()]


def test_the_figures_of_scores(tmp_path: Path) -> None:
    """Generators of alike names are told apart, and each has its colour in all figures."""
    _, scores, _ = made(tmp_path, 14, resamples=0)
    generator = scores.generator.copy()
    names = [f"stable_diffusion_v_1_{version}" for version in (4, 5, 6)]
    for old, new in zip(("kA", "uB", "<b>u&C</b>"), names, strict=True):
        generator[generator == old] = new
    renamed = replace(scores, generator=generator)
    results = summarise(renamed, [], resamples=0)
    drawn = {plot.name: plot for plot in plots.of_scores(renamed, results, match(renamed, []))}
    short = [f"stable_d...v_1_{version}" for version in (4, 5, 6)]
    assert legend_of(drawn["scores-closed"]) == ["real", short[0]]
    for kind in ("roc", "det"):
        assert [label.split("  ")[0] for label in legend_of(drawn[f"{kind}-open"])] == short[1:]
        lines = axes_of(drawn[f"{kind}-open"]).get_lines()[:2]
        assert [line.get_color() for line in lines] == list(plots.COLOURS[1:3])
    shares = [s.get_data().values for s in axes_of(drawn["scores-open"]).patches]
    assert [share.sum() for share in shares] == [pytest.approx(1)] * 3
    assert "kept" not in drawn["entropy-open"].alt


def test_shape_and_size_of_the_cam_are_drawn_where_h_says_nothing(tmp_path: Path) -> None:
    _, scores, _ = made(tmp_path, 14, resamples=0)
    assert {p.name for p in plots.of_scores(scores, None, [])} == {"scores", "entropy"}
    columns = scores.columns()
    columns["entropy_predicted"] = np.where(np.arange(len(scores)) % 3, 0.01, 0.7)
    columns["cam_range"] = 40 * scores.cam_range
    drawn = {p.name: p for p in plots.of_scores(Scores(**columns), None, [])}
    assert set(drawn) == {"scores", "entropy", "entropy-z", "range"}
    assert axes_of(drawn["range"]).get_xlim()[1] == columns["cam_range"].max()


def test_robustness_draws_each_generator_from_its_clean_auc() -> None:
    results = (
        perturbed("kA", "closed", 0.95, [0.9, 0.85, 0.8, 0.7, 0.6])
        + perturbed("uB", "open", 0.8, [0.75, 0.7, 0.65, 0.6, 0.55])
        + perturbed("uC", "open", 0.6, [0.55, 0.5, 0.45, 0.4, 0.31])
    )
    alone = [axes_of(plot) for plot in plots.of_robustness(results)]
    panels = plots.robustness_figure(results).axes
    assert [axes.get_title() for axes in panels] == list(ROBUSTNESS)
    for axes, name in zip((*alone, *panels), ROBUSTNESS * 2, strict=True):
        drawn = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        assert drawn["kA (closed)"] == [0.95, 0.9, 0.85, 0.8, 0.7, 0.6]
        assert drawn["uC (open)"] == [0.6, 0.55, 0.5, 0.45, 0.4, 0.31]
        assert drawn["mean (open)"] == pytest.approx([0.7, 0.65, 0.6, 0.55, 0.5, 0.43])
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        assert ticks == ["clean", *(f"{s:g}" for s in STRENGTHS[name])]
        assert axes.get_ylim()[0] < 0.31
    assert plots.of_robustness([]) == []


def test_a_roc_labels_the_rates_that_are_read_off() -> None:
    """Those at which tables have the TPR, as far down as the number of real images goes."""
    random = np.random.default_rng(0)
    for count, expected in (
        (40, ["5 %", "10 %", "20 %", "50 %", "100 %"]),
        (300, ["1 %", "5 %", "20 %", "100 %"]),
        (10_000, ["0.01 %", "0.1 %", "1 %", "5 %", "20 %", "100 %"]),
        (1_000_000, ["0.001 %", "0.1 %", "1 %", "10 %", "100 %"]),
    ):
        curve = plots.Curve("one", random.normal(size=count), random.normal(1, 1, count), 0.8, 0)
        roc, _ = plots.roc_and_det("name", "title", [curve], {"one": "one"})
        figure = plots.figure_of(roc)
        FigureCanvasAgg(figure).draw()
        labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
        assert [label.get_text() for label in labels] == expected
        for label, next_label in pairwise(labels):
            assert label.get_window_extent().x1 < next_label.get_window_extent().x0


def test_the_corners_of_a_roc_are_those_of_scikit_learn() -> None:
    """Of a few scores all, of many the picture stays, to half a pixel of the PNG."""
    random = np.random.default_rng(0)
    for reals, fakes, digits in ((1, 1, 3), (5, 7, 1), (300, 40, 2), (50_000, 20_000, 3)):
        real = random.normal(0, 1.5, reals).round(digits)
        fake = random.normal(1, 1.5, fakes).round(digits)
        label = np.repeat([0, 1], [reals, fakes])
        expected, heights, _ = roc_curve(label, np.concatenate([real, fake]))
        alarms, told = plots.roc_points(np.sort(real), np.sort(fake))
        assert len(alarms) <= 2000

        narrow = reals ** (1 / 1000) if reals > 300 else 1.0
        rates = np.concatenate([expected, alarms, np.geomspace(1 / reals, 1, 500)])
        height = heights[np.searchsorted(expected, rates, side="right") - 1]
        for shift, compared in ((1 / narrow, np.less_equal), (narrow, np.greater_equal)):
            shifted = rates * shift * (1 + 1e-9 * np.sign(shift - 1))
            drawn = told[np.searchsorted(alarms, shifted, side="right") - 1]
            assert compared(drawn, height).all()
