"""Thresholds and the calibration: chosen on validation, stored with the model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special, stats

from focus.errors import InputError
from focus.metrics import Calibration, Ranking, ece, fit_calibration, llr_costs, units
from focus.model.operating_points import POINTS, THRESHOLDS, OperatingPoints, choose

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def random() -> np.random.Generator:
    """Its own for each test: no order of tests changes what is drawn."""
    return np.random.default_rng(0)


def test_points_by_hand() -> None:
    real, fake = np.linspace(0, 0.5, 500), np.array([0.2501, 0.8, 0.9, 0.95])
    found = choose(real, fake).thresholds
    assert tuple(found) == POINTS
    # Five and 25 real images of 500 lie above.
    for point, above in (("bpcer1", 5), ("bpcer5", 25)):
        threshold = found[point]
        assert threshold is not None
        assert (real > threshold).sum() == above
        assert real[-above - 1] < threshold < real[-above]
    # Half way between the best real image and the next fake.
    assert found["balanced"] == pytest.approx(0.65)
    eer = found["eer"]
    assert eer is not None
    assert abs((real > eer).mean() - (fake <= eer).mean()) == pytest.approx(0, abs=0.01)


def test_how_far_a_threshold_of_500_real_images_scatters(random: np.random.Generator) -> None:
    """The numbers in evaluation.md; fakes among the real images move a threshold little."""
    shares = []
    for _ in range(1500):
        real, fake = random.normal(size=500), random.normal(2, size=200)
        threshold = Ranking.of(real, fake).at().threshold_at_fpr(0.01)[0]
        shares.append(stats.norm.sf(threshold))
    low, high = np.quantile(shares, [0.025, 0.975])
    more = np.mean(np.array(shares) > 0.01)
    assert (low, high) == (pytest.approx(0.004, abs=0.001), pytest.approx(0.023, abs=0.001))
    assert more > 0.55
    sentence = "between 0.4 and 2.3 % in 95 of 100 draws, and\nabove 1 % in more than half of them"
    assert sentence in (DOCS / "evaluation.md").read_text(encoding="utf-8")


def test_too_few_reals_leave_a_point_undefined(tmp_path: Path) -> None:
    points = choose(np.linspace(0, 0.5, 150), np.ones(20))
    assert points.thresholds["bpcer1"] is None
    assert points.thresholds["bpcer5"] is not None
    points.write(tmp_path)
    written = json.loads((tmp_path / THRESHOLDS).read_text())
    assert written["undefined"] == {"bpcer1": "needs >= 500 real validation images"}
    assert OperatingPoints.read(tmp_path) == points
    empty = choose(np.zeros(0), np.ones(3))
    assert set(empty.thresholds.values()) == {None}
    assert empty.calibration is None
    assert empty.undefined()["eer"] == "needs real and synthetic validation images"
    assert empty.undefined()["bpcer5"] == "needs >= 100 real validation images"
    one = choose(np.zeros(600), np.zeros(0))
    assert one.undefined()["bpcer1"] == "needs real and synthetic validation images"


@pytest.mark.parametrize("real", [[0.5] * 30, [0.45, 0.5, 0.9], [0.8, 0.9]])
def test_no_balance_is_best_where_none_is_better_than_chance(
    real: list[float], tmp_path: Path
) -> None:
    """Scores that are alike, and fakes below the real images: all would be called synthetic."""
    points = choose(np.array(real), np.full(20, 0.45))
    assert points.thresholds["balanced"] is None
    assert points.thresholds["eer"] is not None
    points.write(tmp_path)
    assert points.undefined()["balanced"] == (
        "needs validation images told apart better than by chance"
    )
    assert OperatingPoints.read(tmp_path) == points
    # One image more on its side is better than chance.
    assert choose(np.array([0.1, *real]), np.full(20, 0.45)).thresholds["balanced"] is not None


def test_a_calibration_against_the_scores_is_said(random: np.random.Generator) -> None:
    low, high = random.uniform(0.1, 0.5, 40), random.uniform(0.4, 0.9, 40)
    assert choose(low, high).warning() == ""
    assert choose(low, np.zeros(0)).warning() == ""
    points = choose(high, low)
    assert points.calibration is not None
    assert points.warning() == (
        f"The calibration has a slope of {points.calibration.slope:.2g}, as on validation images a "
        "higher score does not speak for synthetic: take another model, or no llr of this one."
    )
    flat = replace(points, calibration=Calibration(0.0, 0.0, 1.0))
    assert "a slope of 0," in flat.warning()


def test_a_missing_file_and_what_cannot_be_read(tmp_path: Path) -> None:
    assert OperatingPoints.read(tmp_path) is None
    choose(np.array([0.1]), np.array([0.9])).write(tmp_path)
    path = tmp_path / THRESHOLDS
    values = json.loads(path.read_text())
    for text, words in (
        ("[1]", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 99_999, "cannot be read .RecursionError"),
        (json.dumps(values | {"version": 2}), "has version 2, this program reads 1"),
        (json.dumps(values | {"thresholds": {}}), "cannot be read .KeyError"),
        (
            json.dumps(values | {"calibration": values["calibration"] | {"slope": "1"}}),
            "cannot be read .ValueError",
        ),
        (json.dumps(values).replace("0.5", "NaN"), "cannot be read .ValueError"),
        (json.dumps(values | {"n_real": float("inf")}), "cannot be read .OverflowError"),
        (
            json.dumps(values | {"calibration": values["calibration"] | {"temperature": 0}}),
            "the temperature is not above 0",
        ),
        (
            json.dumps(values | {"calibration": values["calibration"] | {"largest_llr": -1}}),
            "the largest_llr is not above 0",
        ),
        *(
            (
                json.dumps(values | {"calibration": values["calibration"] | {"largest_llr": bad}}),
                f"cannot be read .ValueError: {bad} is no number",
            )
            for bad in (True, float("inf"))
        ),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            OperatingPoints.read(tmp_path)


def test_a_calibration_finds_the_likelihood_ratio(random: np.random.Generator) -> None:
    """Of normal densities a distance d apart, ln of the ratio is d (x - d / 2)."""
    distance = 2.0
    real, fake = random.normal(0, 1, 20_000), random.normal(distance, 1, 4_000)
    scores = [special.expit(3 * x - 4) for x in (real, fake)]  # badly calibrated
    line = fit_calibration(*scores)
    assert line is not None
    x = np.linspace(-0.5, 2.5, 7)
    expected = stats.norm.logpdf(x, distance) - stats.norm.logpdf(x)
    assert line.llr(special.expit(3 * x - 4)) == pytest.approx(expected, abs=0.15)
    exact = (distance * (x - distance / 2) for x in (real, fake))
    told, best = (
        np.mean([llr_costs(llr, label).mean() for label, llr in enumerate(ratios)])
        for ratios in (map(line.llr, scores), exact)
    )
    assert told == pytest.approx(best, abs=0.01)


def test_a_temperature_undoes_another(random: np.random.Generator) -> None:
    logit = random.normal(0, 2, 20_000)
    label = random.random(20_000) < special.expit(logit)
    score = special.expit(3 * logit)
    line = fit_calibration(score[~label], score[label])
    assert line is not None
    assert line.temperature == pytest.approx(3, rel=0.06)
    inside = np.abs(3 * logit) < 15  # beyond, a score in float32 is 0 or 1
    assert line.tempered(score)[inside] == pytest.approx(
        special.expit(3 * logit / line.temperature)[inside], abs=1e-6
    )


def test_a_temperature_weighs_the_classes_alike(random: np.random.Generator) -> None:
    """Ten times as many real images; Platt's targets. By the slope of the loss at its lowest."""
    real, fake = random.normal(-2, 3, 2000), random.normal(4, 1, 200)

    def slope(temperature: float) -> float:
        parts = ((real, 1 / 2002), (fake, 201 / 202))
        return sum(
            ((special.expit(own / temperature) - target) * own).mean() for own, target in parts
        )

    expected = optimize.brentq(slope, 0.1, 10)
    line = fit_calibration(special.expit(real), special.expit(fake))
    assert line is not None
    assert line.temperature == pytest.approx(expected, rel=1e-4)


def test_a_temperature_of_classes_that_are_apart_is_not_0(random: np.random.Generator) -> None:
    """What validation tells without an error is not told of images that lie nearer."""
    real, fake = random.normal(-4, 1, 50).clip(max=-1), random.normal(4, 1, 50).clip(min=1)
    line = fit_calibration(special.expit(real), special.expit(fake))
    assert line is not None
    assert line.temperature == pytest.approx(1, abs=0.2)
    # Nearer to each other: the half of fakes that look real are not tempered into certainty.
    near = special.expit(random.normal(-1, 1, 500)), special.expit(random.normal(1, 1, 500))
    raw, tempered = ece(*near), ece(*map(line.tempered, near))
    assert tempered == pytest.approx(raw, abs=0.05)


def test_ratios_are_no_larger_than_the_images_can_tell(random: np.random.Generator) -> None:
    real, fake = random.normal(-3, 0.5, 500).clip(max=-1), random.normal(3, 0.5, 50).clip(min=1)
    line = fit_calibration(special.expit(real), special.expit(fake))
    assert line is not None
    assert line.largest_llr == pytest.approx(np.log(51))
    llr = line.llr(np.array([0.0, 0.5, 1.0]))
    assert llr[[0, 2]] == pytest.approx([-np.log(51), np.log(51)])
    assert abs(llr[1]) < 2
    assert Calibration(2.0, 0.5, 1.0).llr(np.array([1.0])) == pytest.approx([32.5])


def test_a_file_without_a_largest_ratio_has_that_of_its_images(tmp_path: Path) -> None:
    """Of models that were saved before there was one."""
    points = choose(np.linspace(0, 0.4, 60), np.linspace(0.6, 1, 9))
    points.write(tmp_path)
    values = json.loads((tmp_path / THRESHOLDS).read_text())
    assert values["calibration"].pop("largest_llr") == pytest.approx(np.log(10))
    (tmp_path / THRESHOLDS).write_text(json.dumps(values))
    assert OperatingPoints.read(tmp_path) == points


def test_classes_that_are_apart_and_scores_of_0_and_1() -> None:
    line = fit_calibration(np.zeros(10), np.ones(10))
    assert line is not None
    llr = line.llr(np.array([0.0, 1.0]))
    assert np.isfinite(llr).all()
    # Platt's targets: no ratio beyond that of eleven in twelve.
    assert llr == pytest.approx([-np.log(11), np.log(11)], rel=1e-3)


def test_images_of_one_group_count_as_one(random: np.random.Generator) -> None:
    """Real images of two videos and fakes of three, all apart: the targets are 3/4 and 4/5."""
    groups = np.array([*"aaaaab", *"cdddde", *"dd"])
    unit = units(groups)
    line = fit_calibration(np.zeros(6), np.ones(8), unit[:6], unit[6:])
    assert line is not None
    assert line.largest_llr == np.log(3)
    # So the ratio is 1 to 3 where the real images are, and 4 to 1 where the fakes are.
    told = replace(line, largest_llr=None).llr(np.array([0.0, 1.0]))
    assert told == pytest.approx([-np.log(3), np.log(4)], rel=1e-3)
    real, fake = random.normal(-1, 2, 40), random.normal(1, 2, 40)
    scores = special.expit(real), special.expit(fake)
    alone, each, four = (
        fit_calibration(*scores, *own)
        for own in ((), (np.arange(40), np.arange(40)), (np.arange(40) // 10, np.arange(40) // 10))
    )
    assert alone == each
    assert four is not None
    assert four.largest_llr == np.log(5)
    points = choose(*scores, np.zeros(40), np.arange(40))
    assert points.calibration is not None
    assert points.calibration.largest_llr == np.log(2)
    assert (points.n_real, points.n_fake) == (40, 40)


def test_cost_of_ratios_by_hand() -> None:
    """Of a ratio of 3 to 1 for the image's class, and against it; of one that tells nothing."""
    ratios = np.log([1 / 3, 3, 1])
    assert llr_costs(ratios, 0) == pytest.approx([np.log2(4 / 3), 2, 1])
    assert llr_costs(ratios, 1) == pytest.approx([2, np.log2(4 / 3), 1])
    assert Calibration(2.0, 0.5, 1.0).llr(np.array([0.5])) == pytest.approx([0.5])
