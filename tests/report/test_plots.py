"""The figures of a report as they are drawn: no legend is cut off, every measurement shows."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from focus import report
from focus.data.perturbations import STRENGTHS
from focus.evaluation.results import summarise
from focus.evaluation.robustness import Kept, draw
from focus.model.detector import Detector
from focus.report import plots

from ..reports import made

ORDINARY = (
    *("StyleGAN2-FFHQ", "ProGAN", "LatentDiffusion", "StableDiffusion3", "StyleGAN3-FFHQ-U"),
    "MIDJOURNEY-V6.10",
)
WIDE = tuple(f"{c}{'W' * 15}" for c in "ABCDEFG")


def check_legend(figure: Figure, panel: float) -> None:
    """It lies inside the picture, and the panels above it are at least ``panel`` inches high."""
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    assert extent.y0 >= 0
    for axes in figure.axes:
        assert axes.get_tightbbox().y0 >= extent.y1 - 1
        assert axes.get_window_extent().height / figure.dpi >= panel


@pytest.mark.slow
@pytest.mark.parametrize("names", [ORDINARY, WIDE])
@pytest.mark.parametrize(
    "test_sets", [("closed", "closed_balanced"), ("closed", "closed_balanced", "open"), ("open",)]
)
@pytest.mark.parametrize("shown", [("jpeg",), tuple(STRENGTHS)])
def test_the_legend_of_robustness_is_whole(
    names: Sequence[str], test_sets: Sequence[str], shown: Sequence[str]
) -> None:
    kept = [
        Kept(kind, strength, test_set, name, 40, 8, 0.8, 0.9)
        for test_set in test_sets
        for name in names
        for kind, strengths in STRENGTHS.items()
        for strength in strengths
    ]
    check_legend(draw(kept, shown), panel=2)


def test_a_legend_of_short_names_keeps_its_columns() -> None:
    kept = [
        Kept("jpeg", s, "open", name, 9, 9, 0.8, 0.9) for s in STRENGTHS["jpeg"] for name in "abc"
    ]
    figure = draw(kept, ("jpeg",))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len({round(text.get_window_extent().x0) for text in legend.get_texts()}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("names", [ORDINARY, WIDE])
def test_legends_of_the_report_are_whole(tmp_path: Path, names: Sequence[str]) -> None:
    _, scores, _ = made(tmp_path, 14, resamples=0)
    fakes = np.flatnonzero(scores.label == 1)
    generator = scores.generator.copy()
    generator[fakes] = [names[at % len(names)] for at in range(len(fakes))]
    found = replace(scores, generator=generator)
    drawn = plots.of_scores(found, summarise(found, list(names[:3]), resamples=0))
    run = [plots.Curve(name, np.array([0.1, 0.2]), np.array([0.3]), 0.875) for name in names]
    aucs = {(name, kind): [0.75] * 6 for name in names for kind in STRENGTHS}
    drawn += plots.of_runs({("open", "g"): run}, names)
    drawn += plots.of_runs_robustness({"open": plots.MeanKept(["g"], aucs)}, names)
    assert len(drawn) >= 2 * 4 + 1 + 2 + 4
    for plot in drawn:
        check_legend(plot.draw(), panel=2)


def row(epoch: int, loss: float) -> dict[str, float]:
    names = ("train_classification", "eval_log_loss", "eval_auc", "eval_entropy")
    return {"epoch": epoch, "train_loss": loss} | dict.fromkeys(names, 0.5)


def drawn_points(line: Line2D) -> set[int]:
    """The rows of a line that show in the picture: on a stroke to the next one, or as a marker."""
    finite = np.isfinite(np.asarray(line.get_ydata(), float))
    strokes = np.flatnonzero(finite[:-1] & finite[1:])
    marked: list[int] = []
    if line.get_marker() != "None":
        every = line.get_markevery()
        marked = list(range(len(finite)) if every is None else every)
    return {*strokes.tolist(), *(strokes + 1).tolist(), *marked}


@pytest.mark.parametrize(
    "losses", [[1.0], [1.0, math.nan], [math.nan, 1.0, math.nan, 0.5, 0.4], [1.0, 0.5, 0.25]]
)
def test_every_epoch_that_was_measured_shows(losses: Sequence[float]) -> None:
    rows = [row(epoch, loss) for epoch, loss in enumerate(losses, start=1)]
    drawn = plots.of_training(rows, 1)
    assert len(drawn) == 3
    for plot in drawn:
        (axes,) = plot.draw().axes
        for line in axes.get_lines():
            if line.get_label() == "kept model":
                continue
            known = np.flatnonzero(np.isfinite(np.asarray(line.get_ydata(), float)))
            assert drawn_points(line) >= set(known.tolist()), (plot.name, line.get_label())


@pytest.mark.parametrize("epochs", [[1], [7], [1, 2], [1, 2, 3], list(range(1, 81))])
def test_epochs_are_whole_numbers(epochs: Sequence[int]) -> None:
    for plot in plots.of_training([row(epoch, 1.0) for epoch in epochs], epochs[0]):
        figure = plot.draw()
        figure.draw_without_rendering()
        (axes,) = figure.axes
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert set(ticks) & set(epochs)
        assert all(tick == int(tick) for tick in ticks)
        if len(epochs) == 1:
            assert ticks == epochs


def test_lines_of_many_epochs_have_no_markers() -> None:
    (axes,) = plots.of_training([row(epoch, 1.0) for epoch in range(1, 9)], 1)[0].draw().axes
    assert {line.get_marker() for line in axes.get_lines()} == {"None"}


@pytest.mark.filterwarnings("error")
def test_characters_that_no_font_has_are_told_apart_in_silence(tmp_path: Path) -> None:
    """Question marks for them, before names that are alike are numbered."""
    names = ["人脸甲", "人脸乙", "Ж"]
    run = [plots.Curve(name, np.array([0.1, 0.2]), np.array([0.3]), 0.875) for name in names]
    (plot, *_) = plots.of_runs({("open", "g"): run}, names)
    plots.rendered(plot)
    said = [text.get_text().split("  ")[0] for text in plot.draw().legends[0].get_texts()]
    assert said == ["1: ???", "2: ???", "3: Ж"]
    kept = [
        Kept("jpeg", s, "open", name, 9, 9, 0.8, 0.9) for s in STRENGTHS["jpeg"] for name in names
    ]
    draw(kept, ("jpeg",)).savefig(tmp_path / "robustness.png")


def test_a_generator_of_any_name_has_a_file() -> None:
    """Systems take names of 255 bytes, and one that is being written is longer."""
    run = [plots.Curve("run", np.array([0.1, 0.2]), np.array([0.3]), 0.875)]
    drawn = plots.of_runs({("open", end + "g" * 300 + end): run for end in "ab"}, ["run"])
    assert len({plot.name for plot in drawn}) == 4
    assert max(len(plot.name) for plot in drawn) < 150


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "marked"), [({"epoch": 3, "validation_auc": 0.6}, 3), ({}, 1), (None, 1)]
)
def test_the_kept_epoch_is_that_of_the_results(
    tmp_path: Path, model: dict[str, float] | None, marked: int
) -> None:
    """Not the best of all: training went on without the model of the first epoch."""
    manifest, scores, results = made(tmp_path / "images", 2, resamples=0)
    del results["model"]
    if model is not None:
        results["model"] = model
    summary = tmp_path / "summary.csv"
    summary.write_text("epoch,train_loss,eval_auc\n1,0.7,0.9\n2,0.6,0.5\n3,0.5,0.6\n")
    path = report.write(
        tmp_path,
        "a run",
        Detector(training_generators=("kA",)),
        manifest,
        scores,
        results,
        summary=summary,
        eval_metric="auc",
        progress=False,
    )
    html = path.read_text(encoding="utf-8")
    assert set(re.findall(r"The kept model is that of epoch (\d)", html)) == {str(marked)}
