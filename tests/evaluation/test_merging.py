"""Scores of many images are merged for resampling: what a user reads stays what it was."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus.evaluation import results
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.metrics.bootstrap import CellResampler, Resampler, merged


def scored(grouped: bool) -> Scores:
    """Three generators that share real images; with groups of four where ``grouped``."""
    random = np.random.default_rng(3)
    label = np.repeat([0, 1, 1, 1], 700)
    moved = np.repeat([-1.0, 0.3, 1.0, 2.0], 700)
    score = 1 / (1 + np.exp(-random.normal(moved, 1.3)))
    rows = np.arange(len(label))
    return Scores.without_cams(
        path=[f"{row}.png" for row in rows],
        label=label,
        generator=np.repeat(["", "g0", "g1", "g2"], 700).astype(object),
        group=[f"v{row // 4}" if grouped else "" for row in rows],
        test_set=["open"] * len(label),
        score=score.round(3),
        llr=np.log(score / (1 - score)),
    )


def _figures(part: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(part, dict):
        return {path: part}
    return {k: v for name in part for k, v in _figures(part[name], (*path, name)).items()}


@pytest.mark.parametrize("grouped", [False, True])
def test_merged_scores_leave_figures_and_move_no_interval_by_more_than_chance(
    monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    scores = scored(grouped)
    exact = _figures(summarise(scores, [], resamples=300)["open"])
    monkeypatch.setattr(results, "MOST_RESAMPLED", 100)
    merged_results = _figures(summarise(scores, [], resamples=300)["open"])
    assert merged_results.keys() == exact.keys()
    moved = []
    for place, value in exact.items():
        if "intervals" in place:
            width = value[1] - value[0]
            moved += [abs(np.subtract(merged_results[place], value)).max() / width]
        else:
            assert merged_results[place] == value, place
    # An end of 300 resamples is itself off by .04 of the width, and the rarest rates by more.
    assert np.median(moved) < 0.05
    assert max(moved) < 0.3


def test_cells_are_drawn_as_their_images_are() -> None:
    random = np.random.default_rng(0)
    strata = np.repeat([0, 1], [300, 40])
    groups = np.array([f"v{row // 3}" if row < 60 else "" for row in range(340)], dtype=object)
    resampler = Resampler(strata, groups)
    cells = np.append(np.arange(300) // 30, 10 + np.arange(40) // 20)
    images = resampler.draw(random, 4000)
    by_cell = np.stack([images[:, cells == cell].sum(axis=1) for cell in range(12)], axis=1)
    drawn = CellResampler(resampler, cells).draw(random, 4000)
    assert drawn.mean(axis=0) == pytest.approx(by_cell.mean(axis=0), rel=0.02)
    assert np.cov(drawn.T) == pytest.approx(np.cov(by_cell.T), abs=12)
    assert (drawn[:, 10:].sum(axis=1) == 40).all()  # single images keep their stratum's size


def test_equal_scores_and_few_scores_stay_as_they_are() -> None:
    few = np.linspace(0, 1, 18)
    assert len(np.unique(merged(few, np.zeros(18, dtype=np.int64)))) == 18
    levels = np.tile(np.arange(50) / 50, 200)
    cells = merged(levels, np.zeros(len(levels), dtype=np.int64))
    assert len(np.unique(cells)) == 50
    assert all(len(np.unique(levels[cells == cell])) == 1 for cell in range(50))


def test_a_cell_is_of_one_stratum_and_finer_near_the_ends() -> None:
    random = np.random.default_rng(1)
    score, strata = random.random(40_000), np.tile([0, 1], 20_000)
    cells = merged(score, strata)
    sizes = np.bincount(cells)
    assert all(len(np.unique(strata[cells == cell])) == 1 for cell in (0, 500, len(sizes) - 1))
    assert sizes.max() <= np.sqrt(10_000) / 3 + 1
    lowest = np.argsort(score[strata == 0])[:8]
    assert (sizes[cells[strata == 0][lowest]] == 1).all()


ROWS = 200_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "seconds", "bytes_a_row"),
    [("scores='0.csv', report=False", 40, 1700), ("compare=('0.csv', '1.csv')", 80, 2200)],
)
def test_many_rows_take_seconds_and_little_memory(
    tmp_path: Path, settings: str, seconds: float, bytes_a_row: int
) -> None:
    random = np.random.default_rng(2)
    label = np.tile([0, 1], ROWS // 2)
    names = np.where(label == 1, [f"g{row // 2 % 50}" for row in range(ROWS)], "")
    for table, strength in enumerate((2.0, 2.5)):
        score = 1 / (1 + np.exp(-random.normal(strength * label - 1, 1.5)))
        lines = [
            f"{row}.png,{of_row},{name},{value:.8f}\n"
            for row, (of_row, name, value) in enumerate(zip(label, names, score, strict=True))
        ]
        text = "path,label,generator,score\n" + "".join(lines)
        (tmp_path / f"{table}.csv").write_text(text)
    program = (
        "import re, time\n"
        "from pathlib import Path\n"
        "import sklearn.isotonic, focus.report.comparison\n"
        "from focus import EvaluateConfig, evaluate\n"
        "def kilobytes(name):\n"
        "    # What wait4 tells of memory begins with what the tests hold.\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(name + ': *(.*) kB', status).group(1))\n"
        "before = kilobytes('VmRSS')\n"
        f"evaluate(EvaluateConfig({settings}, output='out'))\n"
        "print(time.process_time(), kilobytes('VmHWM') - before)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    seconds_taken, kilobytes = map(float, done.stdout.splitlines()[-1].split())
    assert seconds_taken < seconds
    assert 1024 * kilobytes < bytes_a_row * ROWS
    # Nothing of the page is a row's.
    pages = [path.stat().st_size for path in (tmp_path / "out").glob("*.html")]
    assert all(size < 5_000_000 for size in pages)
