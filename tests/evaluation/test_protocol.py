"""Real images that a fake is compared with, and rows that are one image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus.config.train import TrainConfig
from focus.data.readers import read_given
from focus.evaluation.protocol import match
from focus.evaluation.results import summarise as summarise_with_intervals
from focus.evaluation.scores import Scores

from .few_scores import summarise, table


def matched(scores: Scores) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
    comparisons = match(scores, ["known"])
    return {(c.test_set, c.generator): (c.real.tolist(), c.fake.tolist()) for c in comparisons}


def test_a_generator_is_told_from_its_own_reals_if_it_has_any() -> None:
    scores = table(
        [
            (0, "", "", 0.1),
            (0, "known", "", 0.2),
            (0, "A", "", 0.3),
            (1, "known", "", 0.4),
            (1, "A", "", 0.5),
            (1, "B", "", 0.6),
            (1, "A", "", 0.7),
            (-1, "A", "", 0.8),
        ]
    )
    assert matched(scores) == {
        ("closed", "known"): ([1], [3]),
        ("open", "A"): ([2], [4, 6]),
        ("open", "B"): ([0], [5]),
    }


@pytest.mark.parametrize("test_set", ["", "open"])
def test_the_open_figure_is_that_of_the_new_sets_alone(tmp_path: Path, test_set: str) -> None:
    """Whatever real images the training data have, and whether a manifest names their test set."""
    for folder in ("own", "new", "newer", "ffhq"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            (tmp_path / folder / f"{number}.png").touch()
    rows = [
        f"own/{n}.png,{label},{g},test,{test_set * (label == 'real')}"
        for n, label, g in ((0, "real", ""), (1, "real", ""), (2, "synthetic", "known"))
    ]
    data = tmp_path / "data.csv"
    head = "path,label,generator,split,test_set\n"
    data.write_text(head + "\n".join(rows))
    arguments: dict[str, Any] = {
        "test_data": {name: f"{tmp_path}/{name}" for name in ("new", "newer")},
        "test_real": {"ffhq": f"{tmp_path}/ffhq"},
    }

    def results(*data: str) -> dict[str, Any]:
        given_images = read_given(TrainConfig(data=data, **arguments))
        training, tests = given_images.data, given_images.tests
        scored = [
            (s.label or 0, s.generator, s.test_set, len(s.generator) / 50 + 0.3 * ("own" in s.path))
            for s in training + tests
        ]
        return summarise(table(scored, path=[s.path for s in training + tests]), ["known"])

    both, alone = results(str(data)), results()
    assert both["open"] == alone["open"]
    assert both["open"]["pooled"]["n_real"] == 3
    if not test_set:
        assert both["closed"]["pooled"]["n_real"] == 2


def test_reals_of_the_same_test_set_come_before_those_given_apart() -> None:
    scores = table(
        [
            (0, "", "", 0.1),
            (0, "", "closed", 0.1),
            (0, "", "open", 0.1),
            (0, "A", "open", 0.1),
            (1, "known", "closed", 0.9),
            (1, "known", "open", 0.9),
            (1, "A", "open", 0.9),
            (1, "A", "", 0.9),
            (1, "A", "closed_balanced", 0.9),
        ]
    )
    assert matched(scores) == {
        ("closed", "known"): ([1], [4]),
        ("closed_balanced", "A"): ([0], [8]),
        ("open", "A"): ([3], [6, 7]),
        ("open", "known"): ([2], [5]),
    }


def test_reals_of_the_same_test_set_come_before_own_ones_given_apart() -> None:
    for name in ("", "known"):
        scores = table([(0, "known", "", 0.1), (0, name, "open", 0.1), (1, "known", "open", 0.9)])
        assert matched(scores) == {("open", "known"): ([1], [2])}


def test_a_real_image_may_serve_several_generators() -> None:
    scores = table(
        [
            (0, "", "", 0.1),
            (0, "A | B", "", 0.1),
            (0, "", "open", 0.1),
            (0, "C", "", 0.1),
            (1, "A", "", 0.9),
            (1, "B", "open", 0.9),
            (1, "B", "closed_balanced", 0.9),  # in which no real image is
            (1, "known", "", 0.9),
            (1, "A | B", "", 0.9),  # may be a name, too
            (1, "C", "closed", 0.9),
        ]
    )
    assert matched(scores) == {
        ("closed", "C"): ([3], [9]),
        ("closed", "known"): ([0], [7]),
        ("closed_balanced", "B"): ([1], [6]),
        ("open", "A"): ([1], [4]),
        ("open", "A | B"): ([1], [8]),
        ("open", "B"): ([1], [5]),
    }


def test_a_generator_without_reals_has_none() -> None:
    scores = table([(0, "A", "", 0.1), (1, "A", "", 0.9), (1, "B", "", 0.9)])
    assert matched(scores) == {("open", "A"): ([0], [1]), ("open", "B"): ([], [2])}
    results = summarise(scores, ["known"])
    assert results["open"]["generators"]["B"]["auc"] is None
    assert results["open"]["mean"]["auc"] == 1.0
    assert results["open"]["n_generators"] == 1
    assert results["closed"]["pooled"]["auc"] is None
    assert "closed_balanced" not in results


def listed_for_each(seed: int = 0, **columns: Any) -> tuple[Scores, Scores]:
    """The same real images, given once for two generators, and given once for each of them."""
    random = np.random.default_rng(seed)
    reals = [(0, "", "open", score) for score in random.random(30)]
    fakes = [(1, name, "open", 0.3 + 0.7 * random.random()) for name in "AB" for _ in range(20)]
    shared = table(reals + fakes, **columns)
    reals_of_each = [(0, name, *row[2:]) for name in "AB" for row in reals]
    paths = [f"{i}.png" for i in (*range(30), *range(30), *range(30, 70))]
    return shared, table(reals_of_each + fakes, path=paths, **columns)


def test_a_real_image_that_is_listed_for_several_generators_is_one() -> None:
    shared, repeated = listed_for_each()
    assert repeated.images.tolist() == [*range(30), *range(30), *range(60, 100)]
    once, twice = (
        summarise_with_intervals(s, [], resamples=200)["open"] for s in (shared, repeated)
    )
    assert twice["pooled"] == once["pooled"]
    assert twice["mean"] == once["mean"]
    assert twice["generators"] == once["generators"]


def test_faces_of_one_file_are_images_of_their_own() -> None:
    """A file may hold several, each with its box; the second of A is the second of B."""
    rows = [(0, name, "open", 0.1) for name in "AABB"] + [(1, name, "open", 0.9) for name in "AB"]
    scores = table(rows, path=[*["x.png"] * 4, "", ""])
    assert scores.images.tolist() == [0, 1, 0, 1, 4, 5]
    assert summarise(scores, [])["open"]["pooled"]["n_real"] == 2
    # Of another class or test set they are no other listing of the same.
    rows = [(0, "", "closed", 0.1), (1, "", "open", 0.1), (0, "", "open", 0.1)]
    assert table(rows, path=["x.png"] * 3).images.tolist() == [0, 1, 0]
