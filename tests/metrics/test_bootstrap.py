"""Resampling of images and of cells: strata keep their size, and groups stay together."""

import numpy as np
import pytest

from focus.metrics.bootstrap import CellResampler, Resampler, merged, percentiles


def test_strata_keep_their_size_and_groups_stay_together(random: np.random.Generator) -> None:
    strata = [0, 0, 0, 1, 1, 1, 1, 2, 2]
    groups = ["", "", "", "a", "a", "b", "b", "c", "c"]
    resampler = Resampler(np.array(strata), np.array(groups, dtype=object))
    times = resampler.draw(random, 4000)
    assert times.shape == (4000, 9)
    assert (times[:, :3].sum(1) == 3).all()
    assert (times[:, 3] == times[:, 4]).all()
    assert (times[:, 5] == times[:, 6]).all()
    assert (times[:, 3] + times[:, 5] == 2).all()
    assert (times[:, 7:] == 1).all()  # alone in its stratum
    assert times[:, :7].mean(0) == pytest.approx(np.ones(7), abs=0.05)
    assert times[:, 0].var() == pytest.approx(3 * (1 / 3) * (2 / 3), abs=0.05)
    assert (resampler.units(np.arange(3)), resampler.units(np.arange(3, 9))) == (3, 3)
    assert resampler.independent(np.arange(3))
    assert not resampler.independent(np.array([0, 3, 4]))


def test_groups_in_several_strata_are_drawn_once(random: np.random.Generator) -> None:
    """Each person has a real image and fakes of another pair of generators."""
    pairs = [(a, b) for a in range(1, 7) for b in range(a + 1, 7)]
    strata = np.array([s for pair in pairs for s in (0, *pair)])
    groups = np.array([f"p{i}" for i in range(len(pairs)) for _ in range(3)], dtype=object)
    times = Resampler(strata, groups).draw(random, 3000)
    assert (times.reshape(3000, -1, 3) == times.reshape(3000, -1, 3)[:, :, :1]).all()
    assert (times[:, ::3].sum(1) == len(pairs)).all()
    assert times.mean(0) == pytest.approx(np.ones(times.shape[1]), abs=0.1)
    assert times.var(0) == pytest.approx(np.full(times.shape[1], 14 / 15), abs=0.15)


def test_names_that_group_nothing_are_no_groups() -> None:
    names = np.array(["a", "b", "", ""], dtype=object)
    assert Resampler(np.zeros(4), names).independent(np.arange(4))
    # Two rows of one image, as where two generators list it.
    twice = np.array(["a", "a", "b", ""], dtype=object)
    resampler = Resampler(np.zeros(4), twice, np.array([0, 0, 2, 3]))
    assert resampler.independent(np.array([0, 2, 3]))
    assert not resampler.independent(np.array([0, 1]))


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


def test_percentiles() -> None:
    draws = np.arange(1001.0)
    assert percentiles(draws, 10**9) == (pytest.approx(25), pytest.approx(975))
    draws[:501] = np.nan  # leaves a figure undefined
    assert percentiles(draws, 10**9) == (
        pytest.approx(501 + 499 * 0.025),
        pytest.approx(1000 - 499 * 0.025),
    )
    assert percentiles(draws, 4) is None
