"""The table at the end of a program, and differences of models."""

import math
import re

import numpy as np

from focus.config.options import POINTS
from focus.evaluation.result_table import difference_lines, format_table
from focus.evaluation.results import summarise as summarise_with_intervals
from focus.evaluation.scores import Scores
from focus.model.operating_points import OperatingPoints

from .few_scores import summarise, table


def test_table() -> None:
    reals = [(0, "", "", 0.2), (0, "", "", 0.6)]
    fakes = [(1, "known", "", 0.4), (1, "far-1", "", 0.7), (1, "far-2", "", 0.4)]
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
        table([*reals, (1, "far-1", "", 0.1)], pointing_chance=[math.nan] * 3), ["known"]
    )
    assert format_table({"blend": blend, "ce": ce}).splitlines() == [
        "                                       images    blend       ce",
        "---------------------------------------------------------------",
        "closed-set AUC, mean                  0-2+0-1    0.500        -",
        "open-set AUC, far-1 (?)                   2+1    1.000    0.000",
        "open-set AUC, far-2 (?)                   2+1    0.500        -",
        "open-set AUC, mean                      2+1-2    0.750    0.000",
        "open-set EER, mean                      2+1-2    0.250    1.000",
        "BPCER, closed, at *                     0-2+0    0.500        -",
        "APCER, mean, closed, at *               0+0-1    1.000        -",
        "BPCER, open, at *                         2+0    0.500    0.500",
        "APCER, mean, open, at *                 0+1-2    0.500    1.000",
        "CAM entropy, all images, closed       0-2+0-1    0.250        -",
        "CAM entropy, all images, open           2+1-2    0.250    0.000",
        "peaks in artefact, synthetic, closed    0+0-1    0.000        -",
        "peaks in artefact, synthetic, open      0+0-2    1.000        -",
        "chance level of that peak, closed       0+0-1    0.062        -",
        "chance level of that peak, open         0+0-2    0.188        -",
        "blend, closed set, at *: wrong about 1 of 2 real, 1 of 1 synthetic",
        "blend, open set, at *: wrong about 1 of 2 real, 1 of 2 synthetic",
        "ce, open set, at *: wrong about 1 of 2 real, 1 of 1 synthetic",
        "* the threshold that decides",
        "images: how many real + how many synthetic ones the figure is of",
        "- not defined: needs synthetic images, for the AUC real ones, for peaks masks",
        "? near or far cannot be told: no family is known of it, or of one in training",
    ]
    assert "open-set AUC, mean of 2                  2+2    0.750" in format_table({"blend": blend})
    assert "not defined" not in format_table({"blend": blend})
    # A set that none of them has is in no row.
    assert "closed" not in format_table({"ce": ce})


def test_a_set_is_summed_up_by_the_mean_over_its_generators() -> None:
    """Nine fakes of one are found, the one of the other is not: pooled, 0.9."""
    fakes = [(1, "many", test_set, 0.9) for test_set in ("closed", "closed_balanced")] * 9
    fakes += [(1, "few", test_set, 0.1) for test_set in ("closed", "closed_balanced")]
    reals = [(0, "", test_set, 0.5) for test_set in ("closed", "closed_balanced", "open")]
    results = summarise(table([*reals, *fakes]), ["many", "few"])
    assert results["closed"]["pooled"]["auc"] == 0.9
    lines = [re.split("  +", line) for line in format_table({"ce": results}).splitlines()[2:4]]
    assert lines == [
        ["closed-set AUC, mean of 2", "1+10", "0.500"],
        ["closed-balanced AUC, mean of 2", "1+10", "0.500"],
    ]


def test_table_fits_a_terminal_with_long_names() -> None:
    long = [f"stable_diffusion_of_the_first_version_1_{version}" for version in (4, 5)]
    rows = [(0, "", "", 0.2), *((1, name, "", 0.4) for name in long)]
    results = summarise(table(rows), ["known"])
    models = [f"a model of an even longer name {i}" for i in range(2)]
    lines = format_table(dict.fromkeys(models, results)).splitlines()
    assert max(map(len, lines)) == 80
    assert [line.split("  ")[0] for line in lines[2:4]] == [
        "open-set AUC, stable_di...on_1_4 (?)",
        "open-set AUC, stable_di...on_1_5 (?)",
    ]
    # Where there is room the name is whole.
    assert any(long[0] in line for line in format_table({"one": results}).splitlines())


def test_a_console_shows_the_hardest_of_many_generators() -> None:
    rows = [(0, "", "", n / 20) for n in range(20)]
    rows += [(1, f"g{n:02}", "", n / 20 + 0.01) for n in range(13)]
    results = summarise(table([*rows, (1, "known", "closed", 0.9)]), ["known"])
    shown = format_table({"one": results}, most=13).splitlines()
    names = [line.split("  ")[0] for line in shown[2:15]]
    assert names[:9] == [
        "closed-set AUC, mean of 1",
        *(f"open-set AUC, g{n:02} (?)" for n in range(6)),
        "open-set AUC, mean of 13",
        "open-set EER, mean",
    ]
    assert [name.split(",")[0] for name in names[9:]] == [
        "BPCER",
        "APCER",
        "CAM entropy",
        "peaks in artefact",
    ]
    assert shown[15] == "the 6 hardest of 13 unknown generators; results.json has all"
    assert len(format_table({"one": results}).splitlines()) > len(shown)


def test_the_hardest_generators_are_first_whatever_their_names() -> None:
    """By the lowest AUC of a model; one without real images of its own, and so no AUC, is last."""
    rows = [(0, "", "", 0.2), (0, "", "", 0.4), (0, "", "", 0.6)]
    rows += [(1, "a", "", 0.7), (1, "b", "", 0.5), (1, "c", "", 0.1), (1, "d", "", 0.3)]
    one = summarise(table(rows), [])
    rows[3] = (1, "a", "", 0.0)
    other = summarise(table(rows), [])
    lines = format_table({"one": one}).splitlines()[2:6]
    assert [line.split()[2] for line in lines] == ["c", "d", "b", "a"]
    lines = format_table({"one": one, "other": other}).splitlines()[2:6]
    assert [line.split()[2] for line in lines] == ["a", "c", "d", "b"]
    assert {line.split()[4] for line in lines} == {"3+1"}


def test_the_counts_of_a_mean_are_of_the_generators_that_define_it() -> None:
    """B has too few real images for a TPR at 1 % FPR, C has none and so no AUC."""
    rows = [(0, "A", "", n / 1000) for n in range(1000)] + [(1, "A", "", 0.9)] * 50
    rows += [(0, "B", "", n / 40) for n in range(40)] + [(1, "B", "", 0.5)] * 600
    rows += [(1, "C", "", 0.5)] * 7
    results = summarise(table(rows), [])
    lines = [re.split("  +", line)[:2] for line in format_table({"one": results}).splitlines()]
    assert ["open-set AUC, mean of 2", "1040+650"] in lines
    assert ["open-set TPR at 1 % FPR, mean", "1000+50"] in lines
    assert ["APCER, mean, open, at *", "0+657"] in lines
    assert results["open"]["mean"]["n_defined"]["tpr_at_fpr_0.01"] == 1
    del results["open"]["mean"]["n_defined_images"]  # as an earlier version wrote it
    lines = [re.split("  +", line)[:2] for line in format_table({"one": results}).splitlines()]
    assert not any("+" in line[1] for line in lines if line[0].startswith("open-set TPR"))


def test_groups_are_counted_as_groups() -> None:
    rows = [(0, "", "", n / 12) for n in range(12)] + [(1, "new", "", 0.9)] * 6
    groups = [f"{n // 2}" for n in range(18)]
    text = format_table({"one": summarise(table(rows, group=groups), [])})
    assert re.search(r"open-set AUC, mean of 1 +12\+6 ", text)
    assert re.search(r"open-set AUC by group +6\+3 groups ", text)


def test_few_images_are_named_as_the_reason_of_wide_intervals() -> None:
    """Three real images and nine fakes: an AUC of 1 has [.292, 1]; many images say nothing."""
    rows = [(0, "", "", 0.1)] * 3 + [(1, "new", "", 0.9)] * 9
    text = format_table({"one": summarise_with_intervals(table(rows), [], resamples=9)})
    assert "1.000 [.292, 1.000]" in text
    (sentence,) = (line for line in text.splitlines() if "the reason why" in line)
    assert sentence.startswith("Few images, or few groups of images, are the reason why ")
    wide, total = map(int, re.findall(r"\d+", sentence)[:2])
    ends = [[*map(float, pair)] for pair in re.findall(r"\[(\.\d+), (1?\.\d+)\]", text)]
    assert wide == sum(high - low > 0.2 for low, high in ends) > 0
    assert total == len(ends)
    many = table(rows * 100)
    text = format_table({"one": summarise_with_intervals(many, [], resamples=9)})
    assert "the reason why" not in text
    assert "open set, at *: wrong about 0 of 300 real, 0 of 900 synthetic" in text


def test_the_difference_of_two_models_by_hand() -> None:
    rows = [(0, "", "", 0.1), (0, "", "", 0.4), (0, "", "", 0.5), (1, "new", "", 0.3)]
    rows += [(1, "new", "", 0.6), (1, "known", "", 0.9)]
    one, other = table(rows), table([(*row[:3], 1 - row[3]) for row in rows])
    models = [(n, s, summarise(s, ["known"])) for n, s in (("one", one), ("other", other))]
    (line,) = difference_lines(*models)  # one fake is too few for a variance
    # Of six pairs four are in order, and two in the other model.
    assert line.startswith("open-set AUC, mean of 1: one - other = +0.333 [")
    grouped = Scores(**(one.columns() | {"group": ["a"] * 6}))
    elsewhere = Scores(**(one.columns() | {"path": [f"other/{path}" for path in one.path]}))
    for scores in (grouped, elsewhere):
        (line,) = difference_lines(("one", scores, models[0][2]), models[1])
        assert line == (
            "one - other: the difference is not tested, they scored other images, or the same in "
            "other groups."
        )
    # Without one of the real images: of four pairs three are in order, and one in the other model.
    line, _ = difference_lines(("one", one.select([0, 1, 3, 4, 5]), models[0][2]), models[1])
    assert line.startswith("open-set AUC, mean of 1, 4 images in common: one - other = +0.500 [")
    # The same files, of which one is of another test set for one of the models.
    moved = Scores(**(one.columns() | {"test_set": ["", "", "closed", "", "", ""]}))
    assert difference_lines(("one", moved, models[0][2]), models[1])[0] == line
    # What is open to one is closed to the other: tested as one set, it would say nothing.
    (line,) = difference_lines(models[0], ("other", other, summarise(other, ["new"])))
    assert line.startswith("one - other: the difference is not tested, they know other generators")


def test_table_with_intervals_and_an_operating_point() -> None:
    random = np.random.default_rng(0)
    rows = [(0, "", "", score) for score in random.random(40) * 0.7]
    rows += [(1, "new", "", score) for score in 0.3 + random.random(30) * 0.7]
    points = OperatingPoints(dict.fromkeys(POINTS, 0.5), None, 9, 9)
    results = summarise_with_intervals(table(rows), [], None, points, resamples=50)
    lines = format_table({"one": results}).splitlines()
    (alone,) = results["open"]["generators"].values()
    errors = results["open"]["operating_points"]
    for label, value, interval in (
        ("open-set AUC, new (?)", alone["auc"], alone["intervals"]["auc"]),
        ("BPCER, open, at *", errors["eer"]["bpcer"], errors["intervals"]["eer"]["bpcer"]),
    ):
        low, high = (f"{end:.3f}".removeprefix("0") for end in interval)
        (line,) = (line for line in lines if line.startswith(label))
        assert line.endswith(f"  {value:.3f} [{low}, {high}]")
