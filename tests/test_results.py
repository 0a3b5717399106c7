"""The rule which reals a fake is told from, the results, their files and the table."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from focus.config import TrainConfig
from focus.data.readers import read_given, read_tests
from focus.operating_points import POINTS, OperatingPoints
from focus.report.tables import by_generator
from focus.result_table import difference_lines, format_table, remarks
from focus.results import match, write_results
from focus.results import summarise as summarise_with_intervals
from focus.scores import Scores


def summarise(scores: Scores, *given: Any) -> dict[str, Any]:
    """Without intervals, which have tests of their own."""
    return summarise_with_intervals(scores, *given, resamples=0)


def table(rows: list[tuple[int, str, str, float]], **columns: Any) -> Scores:
    """Scores from (label, generator, test set, score)."""
    n = len(rows)
    label, generator, test_set, numbers = zip(*rows, strict=True)
    given: dict[str, Any] = {
        "index": range(n),
        "path": [f"{i}.png" for i in range(n)],
        "label": label,
        "generator": generator,
        "test_set": test_set,
        "score": numbers,
        "predicted": [int(number > 0.5) for number in numbers],
    }
    given |= dict.fromkeys(("family", "split", "group"), [""] * n)
    given |= dict.fromkeys(("pointing_hit", "pointing_hit_synthetic"), [-1] * n)
    return Scores(**(dict.fromkeys(Scores.__annotations__, [0] * n) | given | columns))


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


def test_reals_given_by_a_generators_name_are_its_own(tmp_path: Path) -> None:
    sizes = {"A": 1, "B": 2, "tree/C/1_fake": 3, "reals of A": 4, "reals of C": 5, "ffhq": 6}
    for folder, count in sizes.items():
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            (tmp_path / folder / f"{number}.png").touch()
    at = {name: str(tmp_path / name) for name in (*sizes, "tree")}
    manifest = read_tests(
        {"A": at["A"], "B": at["B"], "tree": at["tree"]},
        # A names test data, C a generator in its layout; the last name belongs to no generator.
        {"A": at["reals of A"], "C": at["reals of C"], "ffhq": at["ffhq"]},
    )
    rows = [(-1 if s.label is None else s.label, s.generator, s.test_set, 0.5) for s in manifest]
    results = summarise(table(rows), [])
    counts = {n: (g["n_real"], g["n_fake"]) for n, g in results["open"]["generators"].items()}
    assert counts == {"A": (4, 1), "B": (6, 2), "C": (5, 3)}
    assert (results["open"]["pooled"]["n_real"], results["n_real_unused"]) == (15, 0)


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
    head = "# focus-manifest 1\npath,label,generator,split,test_set\n"
    data.write_text(head + "\n".join(rows))
    given: dict[str, Any] = {
        "test_data": {name: f"{tmp_path}/{name}" for name in ("new", "newer")},
        "test_real": {"ffhq": f"{tmp_path}/ffhq"},
    }

    def results(*data: str) -> dict[str, Any]:
        own, tests = read_given(TrainConfig(data=data, **given))
        scored = [
            (s.label or 0, s.generator, s.test_set, len(s.generator) / 50 + 0.3 * ("own" in s.path))
            for s in own + tests
        ]
        return summarise(table(scored, path=[s.path for s in own + tests]), ["known"])

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


def test_mean_and_pooled_auc_by_hand() -> None:
    scores = table(
        [
            (0, "", "open", 0.2),
            (0, "", "open", 0.6),
            (1, "A", "open", 0.9),  # above both: AUC 1
            (1, "B", "open", 0.4),  # above one of two: AUC 1/2
            (1, "B", "open", 0.4),
            (0, "", "closed", 0.5),
            (1, "known", "closed", 0.5),  # a tie: AUC 1/2
        ]
    )
    results = summarise(scores, ["known"])
    assert {name: g["auc"] for name, g in results["open"]["generators"].items()} == {
        "A": 1.0,
        "B": 0.5,
    }
    assert results["open"]["mean"]["auc"] == 0.75
    assert results["open"]["pooled"]["auc"] == pytest.approx(4 / 6)  # the shared reals count once
    pooled = results["open"]["pooled"]
    assert (pooled["n_real"], pooled["n_fake"]) == (2, 3)
    assert results["closed"]["pooled"]["auc"] == 0.5
    assert results["n_real_unused"] == 0


def test_auc_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    labels: list[int] = generator.integers(0, 2, 300).tolist()
    numbers: list[float] = generator.normal(labels, 1.0).astype(np.float32).tolist()
    rows = [(b, "" if b == 0 else "known", "", s) for b, s in zip(labels, numbers, strict=True)]
    results = summarise(table(rows), ["known"])
    assert results["closed"]["pooled"]["auc"] == pytest.approx(
        roc_auc_score(labels, numbers), abs=1e-15
    )


def test_focus_figures_by_hand() -> None:
    rows = [(0, "", "", 0.1), (0, "", "", 0.1), (1, "A", "", 0.9), (1, "A", "", 0.9)]
    rows += [(1, "B", "", 0.9), (0, "B", "", 0.9), (0, "C", "", 0.9)]
    scores = table(
        rows,
        entropy_predicted=[0.5, 0.25, 0.25, 0.125, 0.75, 0.25, 1.0],
        entropy_sum=[1, 0, 0, 0, 1, 1, 1],
        pointing_hit=[-1, -1, 1, 0, 1, -1, -1],
        pointing_hit_synthetic=[-1, -1, 1, 1, 1, -1, -1],
        pointing_chance=[math.nan, math.nan, 0.25, 0.125, 0.5, math.nan, math.nan],
        map_hit=[1, -1, 0, -1, 1, -1, -1],
        map_chance=[0.25, math.nan, 0.75, math.nan, 0.125, math.nan, math.nan],
        peak_row=[1, 1, 0, 1, 0, 0, 0],
        peak_col=[0, 0, 1, 0, 2, 0, 0],
    )
    results = summarise(scores, [])
    a, b = results["open"]["generators"]["A"], results["open"]["generators"]["B"]
    assert (a["entropy"], a["entropy_real"], a["entropy_fake"]) == (0.28125, 0.375, 0.1875)
    assert (a["entropy_sum"], b["entropy_sum"]) == (0.25, 1.0)
    assert (a["pointing_hit"], a["pointing_hit_synthetic"], a["n_pointing"]) == (0.5, 1.0, 2)
    assert (a["pointing_chance"], b["pointing_chance"]) == (0.1875, 0.5)
    # Of the images with a map, each chance level over those that its hit rate is over.
    assert (a["map_hit"], a["map_chance"], a["map_chance_real"]) == (0.5, 0.5, 0.25)
    assert (b["map_hit"], b["map_chance"], b["map_chance_real"]) == (1.0, 0.125, None)
    assert (a["peak_share"], b["peak_share"]) == (0.75, 0.5)
    assert results["open"]["pooled"]["pointing_hit"] == pytest.approx(2 / 3)
    assert results["open"]["pooled"]["peak_share"] == 0.5
    assert results["n_real_unused"] == 1  # C has reals and no fakes
    assert results["closed"]["pooled"]["pointing_hit"] is None


def test_one_class_and_no_labels_are_not_defined() -> None:
    only_reals = summarise(table([(0, "", "", 0.1)]), ["known"])
    assert only_reals["open"]["mean"]["auc"] is None
    assert only_reals["open"]["pooled"]["auc"] is None
    assert only_reals["n_real_unused"] == 1
    unlabelled = summarise(table([(-1, "", "", 0.1)]), ["known"])
    assert unlabelled["n_unlabelled"] == 1
    assert unlabelled["closed"]["pooled"]["n_real"] == 0
    assert "NaN" not in json.dumps([only_reals, unlabelled])


def test_a_fake_without_a_generator_has_a_name_in_the_results() -> None:
    scores = table([(0, "", "", 0.1), (1, "", "", 0.9)])
    assert summarise(scores, ["known"])["open"]["generators"]["(unnamed)"]["auc"] == 1
    assert summarise(scores, [""])["closed"]["pooled"]["auc"] == 1


def test_results_are_written_whole(tmp_path: Path) -> None:
    scores = table([(0, "", "", 0.1), (1, "A", "", 0.9)])
    results = summarise(scores, ["known"])
    folder = tmp_path / "new" / "folder"
    paths = write_results(folder, scores, results)
    assert paths == [folder / "results.json", folder / "scores.csv"]
    assert sorted(folder.iterdir()) == paths
    assert json.loads(paths[0].read_text()) == results
    assert Scores.from_csv(paths[1]).path.tolist() == ["0.png", "1.png"]

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(folder, scores, {"closed": {"auc": math.nan}})
    assert json.loads(paths[0].read_text()) == results

    # Scores alone: the results of other scores do not stay beside them.
    assert write_results(folder, scores, None) == [folder / "scores.csv"]
    assert [path.name for path in folder.iterdir()] == ["scores.csv"]


def test_each_generator_is_marked_by_how_far_it_is_from_training() -> None:
    scores = table(
        [
            (0, "", "", 0.1),
            (1, "StyleGAN2", "", 0.9),  # what training called SG2
            (1, "StyleGAN2-ADA", "", 0.9),
            (1, "mine", "", 0.9),
            (1, "mine", "", 0.9),
            (1, "ProGAN", "", 0.9),
            (1, "new", "", 0.9),
            (1, "SG2", "open", 0.9),
            (1, "", "open", 0.9),
            (0, "", "open", 0.1),
        ],
        family=["", "", "", "ours", "", "", "", "", "", ""],
    )
    results = summarise(scores, ["SG2", "own"], {"own": "Ours"})
    assert results["training_families"] == {"SG2": "stylegan", "own": "Ours"}
    marks = {
        test_set: {
            n: (g["family"], g["relation"]) for n, g in results[test_set]["generators"].items()
        }
        for test_set in ("closed", "open")
    }
    assert marks == {
        "closed": {"StyleGAN2": ("stylegan", "closed")},
        "open": {
            "(unnamed)": (None, None),
            "SG2": ("stylegan", "closed"),
            "StyleGAN2-ADA": ("stylegan", "near"),
            "mine": ("ours", "near"),
            "ProGAN": ("progan", "far"),
            "new": (None, None),
        },
    }
    assert results["closed"]["generators"]["StyleGAN2"]["auc"] == 1
    near = "StyleGAN2-ADA (stylegan); mine (ours)"
    assert remarks(scores, results) == [
        "Tested as unknown, though training knew it: SG2.",
        "Tested as known, since training knew it by another name: StyleGAN2 (as SG2).",
        f"Tested as unknown, though training knew its family: {near}.",
        "Not known to be near or far: new; no family is known of new: name generators and families "
        "in the data.",
    ]
    other = summarise(scores, ["ProGAN"])  # what is near one model may be far from another
    lines = format_table({"a": results, "b": other}).splitlines()
    assert [line.split("  ")[0] for line in lines if "open-set AUC," in line] == [
        "open-set AUC, (unnamed) (?)",
        "open-set AUC, ProGAN (far)",
        "open-set AUC, SG2 (closed/far)",
        "open-set AUC, StyleGAN2 (far)",
        "open-set AUC, StyleGAN2-ADA (far/near)",
        "open-set AUC, mine (far/near)",
        "open-set AUC, new (?)",
        "open-set AUC, mean of 6",
    ]
    assert lines[-1] == (
        "? near or far cannot be told: no family is known of it, or of one in training"
    )
    untold = format_table({"a": results, "b": summarise(scores, ["whose"])}).splitlines()
    assert any(line.startswith("open-set AUC, ProGAN (?/far) ") for line in untold)


def test_table() -> None:
    reals = [(0, "", "", 0.2), (0, "", "", 0.6)]
    fakes = [(1, "known", "", 0.4), (1, "uEars", "", 0.7), (1, "uSwap", "", 0.4)]
    blend = summarise(
        table(
            reals + fakes,
            pointing_hit=[-1, -1, 0, 1, 1],
            pointing_chance=[math.nan, math.nan, 0.0625, 0.125, 0.25],
            entropy_predicted=[0.25] * 5,
        ),
        ["known"],
    )
    ce = summarise(
        table([*reals, (1, "uEars", "", 0.1)], pointing_chance=[math.nan] * 3), ["known"]
    )
    assert format_table({"blend": blend, "ce": ce}).splitlines() == [
        "                                     blend       ce",
        "---------------------------------------------------",
        "closed-set AUC                       0.500        -",
        "open-set AUC, uEars (?)              1.000    0.000",
        "open-set AUC, uSwap (?)              0.500        -",
        "open-set AUC, mean                   0.750    0.000",
        "CAM entropy, closed                  0.250        -",
        "CAM entropy, open                    0.250    0.000",
        "CAM peaks in the artefact, closed    0.000        -",
        "CAM peaks in the artefact, open      1.000        -",
        "in it by chance, closed              0.062        -",
        "in it by chance, open                0.188        -",
        "- not defined: needs real and synthetic images (AUC), artefact masks (peaks)",
        "? near or far cannot be told: no family is known of it, or of one in training",
    ]
    assert "open-set AUC, mean of 2              0.750" in format_table({"blend": blend})


def test_results_of_before_there_were_chance_levels() -> None:
    rows = [(0, "", "", 0.2), (1, "uEars", "", 0.7)]
    given = {"pointing_hit": [-1, 1], "map_hit": [0, 1], "pointing_chance": [math.nan, 0.5]}
    new, old = (summarise(table(rows, **given), []) for _ in range(2))
    for figures in (old["closed"]["pooled"], old["open"]["pooled"], old["open"]["mean"]):
        for name in [name for name in figures if "_chance" in name]:
            del figures[name]
    old["open"]["generators"] = {"uEars": old["open"]["pooled"]}
    old["open"]["pooled"] |= {"family": None, "relation": None}
    words = "in it by chance"
    lines = format_table({"old": old, "new": new}).splitlines()
    (row,) = [line.split() for line in lines if line.startswith(f"{words}, open")]
    assert row[-2:] == ["-", "0.500"]
    assert words not in format_table({"old": old})
    (made,), (earlier,) = by_generator(new), by_generator(old)
    assert made.columns[-5:-3] == ["peaks in artefact", words]
    assert earlier.columns == [c for c in made.columns if c not in (words, "there by chance")]


def test_table_fits_a_terminal_with_long_names() -> None:
    rows = [(0, "", "", 0.2), (1, "a-generator-of-a-very-long-name-indeed", "", 0.4)]
    results = summarise(table(rows), ["known"])
    names = [f"a model of an even longer name {i}" for i in range(2)]
    lines = format_table(dict.fromkeys(names, results)).splitlines()
    assert max(map(len, lines)) == 80
    assert "a-generator-of-... (?)" in lines[3]
    # Where there is room the name is whole.
    (line,) = (x for x in format_table({"one": results}).splitlines() if rows[1][1] in x)
    assert line.endswith(" (?)    1.000")


def test_remarks() -> None:
    scores = table([(0, "A", "", 0.1), (1, "B", "", 0.9), (-1, "", "", 0.5)])
    assert remarks(scores, summarise(scores, [])) == [
        "Images without label: 1; they are scored and in no result.",
        "B has no real images to be told from: its AUC is not defined.",
        "Real images that no fake is told from: 1; they are in no result.",
    ]
    complete = table([(0, "", "", 0.1), (1, "B", "", 0.9)])
    assert remarks(complete, summarise(complete, [])) == []


def test_the_difference_of_two_models_by_hand() -> None:
    rows = [(0, "", "", 0.1), (0, "", "", 0.4), (0, "", "", 0.5), (1, "new", "", 0.3)]
    rows += [(1, "new", "", 0.6), (1, "known", "", 0.9)]
    one = table(rows)
    other = table([(*row[:3], 1 - row[3]) for row in rows])
    given = [(n, s, summarise(s, ["known"])) for n, s in (("one", one), ("other", other))]
    (line,) = difference_lines(*given)  # one fake is too few for a variance
    # Of six pairs four are in order, and two in the other model.
    assert line.startswith("open-set AUC, mean of 1: one - other = +0.333 [")
    grouped = Scores(**(one.columns() | {"group": ["a"] * 6}))
    assert difference_lines(("one", grouped, given[0][2]), given[1]) == []
    assert difference_lines(given[1], ("one", grouped, given[0][2])) == []
    assert difference_lines(("one", one.select(range(5)), given[0][2]), given[1]) == []


def test_the_difference_is_that_of_the_mean_over_generators() -> None:
    """One is better on the generator with most fakes, and worse on the other three."""
    random = np.random.default_rng(0)
    rows: list[tuple[int, str, str, float]] = [(0, "", "open", s) for s in random.normal(size=200)]
    for name, n in (("A", 400), ("B", 20), ("C", 20), ("D", 20), ("none", 1)):
        rows += [(1, name, "open" if name != "none" else "closed", 0.0)] * n
    one, other = rows[:], rows[:]
    for place in range(200, len(rows)):
        label, name, test_set, _ = rows[place]
        score = random.normal()
        for shift, table_of in ((1.6 if name == "A" else 0.4, one), (1.2, other)):
            table_of[place] = (label, name, test_set, score + shift + 0.3 * random.normal())
    given = [(n, table(r), summarise(table(r), [])) for n, r in (("one", one), ("other", other))]
    (line,) = difference_lines(*given)
    means = [results["open"]["mean"]["auc"] for *_, results in given]
    assert line.startswith(f"open-set AUC, mean of 4: one - other = {means[0] - means[1]:+.3f} [")
    assert means[0] < means[1]
    assert float(line.rpartition("p = ")[2]) < 1e-4
    pooled = [results["open"]["pooled"]["auc"] for *_, results in given]
    assert pooled[0] > pooled[1]


def test_no_difference_where_the_real_images_are_not_the_same() -> None:
    """The models know other names of a generator, so that its fakes have other real images."""
    rows = [(0, "", "", 0.1), (0, "", "", 0.4), (1, "new", "", 0.8), (1, "new", "", 0.9)]
    more = [*rows[:1], (0, "new", "", 0.4), *rows[2:]]
    given = [(n, table(r), summarise(table(r), [])) for n, r in (("one", rows), ("two", more))]
    assert difference_lines(*given) == difference_lines(*given[::-1]) == []


def test_table_with_intervals_and_an_operating_point() -> None:
    random = np.random.default_rng(0)
    rows = [(0, "", "", score) for score in random.random(40) * 0.7]
    rows += [(1, "new", "", score) for score in 0.3 + random.random(30) * 0.7]
    points = OperatingPoints(dict.fromkeys(POINTS, 0.5), None, 9, 9)
    results = summarise_with_intervals(table(rows), [], None, points, resamples=50)
    lines = format_table({"one": results}).splitlines()
    shown = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in lines}
    opened = results["open"]
    (alone,) = opened["generators"].values()
    for label, value, interval in (
        ("open-set AUC, new (?)", alone["auc"], alone["intervals"]["auc"]),
        (
            "BPCER, open, at *",
            opened["operating_points"]["eer"]["bpcer"],
            opened["operating_points"]["intervals"]["eer"]["bpcer"],
        ),
    ):
        low, high = (f"{end:.3f}".removeprefix("0") for end in interval)
        assert shown[label] == f"{value:.3f} [{low}, {high}]"


def listed_for_each(seed: int = 0, **columns: Any) -> tuple[Scores, Scores]:
    """The same real images, given once for two generators, and given once for each of them."""
    random = np.random.default_rng(seed)
    reals = [(0, "", "open", score) for score in random.random(30)]
    fakes = [(1, name, "open", 0.3 + 0.7 * random.random()) for name in "AB" for _ in range(20)]
    shared = table(reals + fakes, **columns)
    own = [(0, name, *row[2:]) for name in "AB" for row in reals]
    paths = [f"{i}.png" for i in (*range(30), *range(30), *range(30, 70))]
    return shared, table(own + fakes, path=paths, **columns)


def test_a_real_image_that_is_listed_for_several_generators_is_one() -> None:
    shared, each = listed_for_each()
    assert each.images.tolist() == [*range(30), *range(30), *range(60, 100)]
    once, twice = (summarise_with_intervals(s, [], resamples=200)["open"] for s in (shared, each))
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


def test_the_difference_counts_a_listed_image_once() -> None:
    lines = []
    for scores in listed_for_each():
        other = Scores(**(scores.columns() | {"score": scores.score**2 * scores.label}))
        given = [(n, s, summarise(s, [])) for n, s in (("one", scores), ("other", other))]
        lines.append(difference_lines(*given))
    assert len(lines[0]) == 1
    assert lines[0] == lines[1]
