"""Figures and intervals of test sets, against figures of repeated images and hand-worked ones."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import special, stats

from focus.config.options import POINTS
from focus.evaluation.protocol import match
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.metrics.bootstrap import Resampler
from focus.metrics.calibration import Calibration
from focus.metrics.cams import commonest_peak_share
from focus.metrics.intervals import mean_auc_interval, mean_of_rates, rate_interval
from focus.metrics.ranking import Ranking
from focus.model.operating_points import OperatingPoints

POINT = OperatingPoints(dict.fromkeys(POINTS, 0.5), Calibration(1.0, 0.0, 1.0), 9, 9)


def table(real: int, generators: int, fakes: int, seed: int = 0, **columns: Any) -> Scores:
    """Open-set scores: real images that all generators share, and fakes of each."""
    random, n = np.random.default_rng(seed), real + generators * fakes
    label = np.repeat([0, 1], [real, n - real])
    score = 1 / (1 + np.exp(-random.normal(2.0 * label - 0.5, 1.5)))
    filled_columns: dict[str, Any] = {
        "index": np.arange(n),
        "path": [f"{row}.png" for row in range(n)],
        "label": label,
        "generator": [""] * real + [f"g{i}" for i in range(generators) for _ in range(fakes)],
        "score": score,
        "predicted": score > 0.5,
        "llr": np.log(score / (1 - score)),
        "entropy_predicted": random.random(n),
        "pointing_hit": np.where(label == 1, random.integers(0, 2, n), -1),
        "map_hit": np.where(label == 1, -1, random.integers(0, 2, n)),
        "peak_row": random.integers(0, 3, n),
        **dict.fromkeys(("family", "split", "group"), [""] * n),
        "test_set": ["open"] * n,
    }
    rest = {f.name: np.zeros(n) for f in fields(Scores) if f.name not in filled_columns}
    return Scores(**(filled_columns | rest | columns))


def in_the_open_set(scores: Scores, resamples: int = 0) -> dict[str, Any]:
    results: dict[str, Any] = summarise(scores, [], None, POINT, resamples=resamples)["open"]
    return results


def test_operating_points_by_hand() -> None:
    scores = table(4, 2, 2, score=[0.1, 0.2, 0.6, 0.3, 0.9, 0.4, 0.3, 0.5])
    results = in_the_open_set(scores)
    generators = {n: g["operating_points"]["eer"] for n, g in results["generators"].items()}
    of_the_reals = {"real_as_real": 3, "real_as_synthetic": 1}
    assert generators == {
        "g0": {
            "bpcer": 0.25,
            "apcer": 0.5,
            "confusion": {**of_the_reals, "synthetic_as_real": 1, "synthetic_as_synthetic": 1},
        },
        "g1": {
            "bpcer": 0.25,
            "apcer": 1.0,
            "confusion": {**of_the_reals, "synthetic_as_real": 2, "synthetic_as_synthetic": 0},
        },
    }
    assert results["operating_points"]["bpcer5"] == {
        "bpcer": 0.25,
        "apcer_pooled": 0.75,
        "apcer_mean": 0.75,
        "apcer_max": 1.0,
        "apcer_max_generator": "g1",
        "acer_mean": 0.5,
        "acer_max": 0.625,
        "confusion": {**of_the_reals, "synthetic_as_real": 3, "synthetic_as_synthetic": 1},
    }
    results = in_the_open_set(table(4, 2, 2, score=[0.1, 0.2, 0.3, 0.3, 0.9, 0.8, 0.7, 0.6]))
    assert results["operating_points"]["eer"]["apcer_max_generator"] is None
    # A mean weighs generators alike, a pooled rate images: one fake of g0, found; three of g1.
    names = [""] * 4 + ["g0"] + ["g1"] * 3
    scores = table(4, 1, 4, generator=names, score=[0.1, 0.2, 0.6, 0.3, 0.9, 0.4, 0.3, 0.2])
    rates = in_the_open_set(scores)["operating_points"]["eer"]
    assert (rates["apcer_mean"], rates["apcer_pooled"], rates["acer_mean"]) == (0.5, 0.75, 0.375)


def test_the_cost_of_ratios_weighs_the_classes_alike() -> None:
    """One of the four real images has the wrong sign, of g0's two fakes none, of g1's both."""
    ratios = np.log([1 / 3, 1 / 3, 1 / 3, 3, 3, 3, 1 / 3, 1 / 3])
    results = in_the_open_set(table(4, 2, 2, llr=ratios))
    right, wrong = np.log2(4 / 3), 2.0
    real = (3 * right + wrong) / 4
    costs = {name: figures["cllr"] for name, figures in results["generators"].items()}
    assert costs == pytest.approx({"g0": (real + right) / 2, "g1": (real + wrong) / 2})
    assert results["pooled"]["cllr"] == pytest.approx((real + (right + wrong) / 2) / 2)
    for entry in (*results["generators"].values(), results["pooled"], results["mean"]):
        assert entry["min_cllr"] + entry["calibration_loss"] == pytest.approx(entry["cllr"])


def test_a_mean_is_over_the_generators_that_define_it() -> None:
    """g0 has real images of its own, the others none; its intervals are those of the mean."""
    scores = table(20, 3, 10, generator=["g0"] * 30 + ["g1"] * 10 + ["g2"] * 10)
    results = in_the_open_set(scores, 50)
    lone = results["generators"]["g1"]
    assert {lone[n] for n in ("auc", "accuracy", "brier", "ece", "prevalence")} == {None}
    assert lone["entropy_on_synthetic"] is not None
    mean, first = results["mean"], results["generators"]["g0"]
    assert results["n_generators"] == mean["n_defined"]["accuracy"] == 1
    for name in ("auc", "accuracy", "balanced_accuracy", "eer"):
        assert mean[name] == first[name]
        assert mean["intervals"][name] == first["intervals"][name]
    assert "entropy_on_synthetic" not in mean["n_defined"]
    errors = [g["operating_points"]["eer"]["apcer"] for g in results["generators"].values()]
    assert results["operating_points"]["eer"]["apcer_mean"] == pytest.approx(np.mean(errors))


def test_exact_intervals_of_independent_images() -> None:
    scores = table(60, 2, 30)
    results = in_the_open_set(scores, 100)
    reals = scores.select(np.flatnonzero(scores.label == 0))
    fakes_of = [scores.select(np.flatnonzero(scores.generator == name)) for name in ("g0", "g1")]
    missed = [(int((fakes.score <= 0.5).sum()), 30) for fakes in fakes_of]
    flagged = int((reals.score > 0.5).sum()), 60
    ranges = results["generators"]["g1"]["intervals"]
    assert ranges["auc"] == mean_auc_interval(
        [(reals.score, fakes_of[1].score, np.arange(60), 60 + np.arange(30))]
    )
    assert ranges["operating_points"]["eer"]["apcer"] == rate_interval(*missed[1])
    assert ranges["operating_points"]["eer"]["bpcer"] == rate_interval(*flagged)
    assert ranges["map_hit"] == rate_interval(int(reals.map_hit.sum()), 60)
    right = [(total - wrong, total) for wrong, total in (flagged, missed[1])]
    assert ranges["balanced_accuracy"] == mean_of_rates(right)
    of_set = results["operating_points"]["intervals"]["eer"]
    assert of_set["apcer_mean"] == mean_of_rates(missed)
    # The largest of two rates: each interval at 97.5 %.
    ends = [rate_interval(*rate, 0.975) or (0, 0) for rate in missed]
    assert of_set["apcer_max"] == tuple(max(end) for end in zip(*ends, strict=True))
    # The fakes of two generators are independent.
    hits = [(int(fakes.pointing_hit.sum()), 30) for fakes in fakes_of]
    assert results["mean"]["intervals"]["pointing_hit"] == mean_of_rates(hits)


def widened(count: int) -> list[float]:
    """The shares of resamples below the ends of the interval: Student's for so many images."""
    ratio = stats.t.ppf(0.975, count - 1) * np.sqrt(count / (count - 1))
    return [stats.norm.cdf(-ratio), stats.norm.cdf(ratio)]


def test_resampled_intervals_are_those_of_repeated_images() -> None:
    """The same draws, made by hand: the shared real images once for both generators."""
    scores, resamples = table(40, 2, 25), 60
    results = in_the_open_set(scores, resamples)
    first, second = match(scores, [])
    resampler = Resampler(np.repeat([0, 1, 2], [40, 25, 25]), scores.group)
    times = resampler.draw(np.random.default_rng(0), resamples).astype(int)
    eers, peaks = [], []
    for row in times:
        drawn = [
            [scores.select(np.repeat(rows, row[rows])) for rows in (c.real, c.fake)]
            for c in (first, second)
        ]
        eers.append([Ranking.of(real.score, fake.score).eer()[0] for real, fake in drawn])
        cells = np.concatenate([side.peak_row for side in drawn[0]])
        peaks.append(commonest_peak_share(cells))
    of_first = results["generators"]["g0"]
    middle, wide = widened(25), widened(65)
    expected = tuple(np.quantile(np.array(eers)[:, 0], middle))
    assert of_first["intervals"]["eer"] == pytest.approx(expected)
    expected = tuple(np.quantile(np.mean(eers, axis=1), middle))
    assert results["mean"]["intervals"]["eer"] == pytest.approx(expected)
    # The largest of several shares: the percentiles and their reflection in it, and all between.
    share, (low, high) = of_first["peak_share"], np.quantile(np.array(peaks, float), wide)
    expected = min(low, 2 * share - high), max(high, 2 * share - low)
    assert of_first["intervals"]["peak_share"] == pytest.approx(expected)
    assert in_the_open_set(scores, resamples) == results


def test_grouped_images_widen_every_interval() -> None:
    """Four copies of each image are no more images."""
    one = table(30, 1, 20)
    copies = one.select(np.repeat(np.arange(50), 4))
    grouped = Scores(**(copies.columns() | {"group": copies.path}))
    results = [
        in_the_open_set(scores, 500)["generators"]["g0"] for scores in (one, copies, grouped)
    ]
    alone, apart, together = (r["intervals"] for r in results)
    for name in ("auc", "entropy", "eer", "average_precision", "brier", "cllr", "accuracy"):
        width, narrow, wide = (float(np.ptp(ranges[name])) for ranges in (alone, apart, together))
        assert narrow < 0.7 * width, name
        assert wide == pytest.approx(width, rel=0.25), name
    missed = [r["operating_points"]["eer"]["apcer"] for r in (alone, together)]
    assert np.ptp(missed[1]) == pytest.approx(np.ptp(missed[0]), rel=0.3)


@pytest.mark.parametrize("grouped", [False, True])
def test_figures_that_no_resample_moves_are_not_certain(grouped: bool) -> None:
    """40 real images and 30 fakes each, all told apart; as many people if they are grouped."""
    names = [f"p{n // 2}" for n in range(200)] if grouped else [""] * 200
    score = np.repeat([0.1, 0.9], [80, 120])
    hits = np.where(np.arange(200) % 4 < 2, 0, -1) * (np.arange(200) >= 80) - (np.arange(200) < 80)
    results = in_the_open_set(table(80, 2, 60, score=score, group=names, pointing_hit=hits), 50)
    ranges = results["generators"]["g0"]["intervals"]
    fakes = 30 if grouped else 60
    bound = 0.025 ** (1 / fakes)
    for name in ("auc", "average_precision"):
        assert ranges[name] == (pytest.approx(bound), 1.0), name
    assert ranges["eer"] == (0.0, pytest.approx(1 - bound))
    assert ranges["operating_points"]["eer"]["apcer"] == rate_interval(0, fakes)
    # Half of the fakes have a mask.
    assert ranges["pointing_hit"] == rate_interval(0, fakes // 2)
    # No resample moves it, and the next image may cost 1: of twice the smaller class.
    value, (low, high) = 0.01, ranges["brier"]
    assert (low, high) == pytest.approx(
        (value, (rate_interval(value * 2 * fakes, 2 * fakes) or (0, 0))[1])
    )
    shared = 0.025 ** (1 / (40 if grouped else 80))
    assert results["mean"]["intervals"]["auc"] == (pytest.approx(shared), 1.0)
    assert results["mean"]["intervals"]["eer"] == ranges["eer"]


def test_a_class_of_one_image_has_no_resampled_interval() -> None:
    intervals = in_the_open_set(table(1, 1, 50), 40)["generators"]["g0"]["intervals"]
    assert not set(intervals) & {
        "auc",
        "eer",
        "average_precision",
        "brier",
        "ece",
        "entropy_on_real",
    }
    assert {"entropy_on_synthetic", "accuracy", "operating_points"} <= set(intervals)


def test_a_mean_is_over_the_same_generators_in_each_resample() -> None:
    """Two fakes of g0 have a mask, too few for an interval."""
    masks = np.full(80, -1)
    masks[[40, 41, *range(60, 80)]] = np.arange(22) % 2
    # Two fakes of one person: the interval of no rate of fakes is exact.
    scores = table(40, 2, 20, pointing_hit=masks, group=[*[""] * 78, "p", "p"])
    mean = in_the_open_set(scores, 200)["mean"]
    assert mean["pointing_hit"] == 0.5
    # No interval, rather than that of g1 alone in some of them.
    assert "pointing_hit" not in mean["intervals"]


def calibrated(random: np.random.Generator, n: int, sharper: float = 1.0) -> Scores:
    """Scores of ``n`` images that are calibrated, but for their logits being ``sharper``."""
    score = np.sort(special.expit(random.normal(0, 1.5, n)))
    fake = random.random(n) < score
    score = special.expit(special.logit(score) * sharper)
    both = np.concatenate([score[~fake], score[fake]])
    return table(int((~fake).sum()), 1, int(fake.sum()), score=both)


@pytest.mark.slow
def test_calibrated_scores_may_have_no_calibration_error() -> None:
    """A few images always have one; what that is allowed hides no error of scores too sure."""
    random, above = np.random.default_rng(0), []
    for _ in range(60):
        intervals = in_the_open_set(calibrated(random, 300), 100)["pooled"]["intervals"]
        above.append([intervals[name][0] > 0 for name in ("ece", "ece_balanced", "ece_tempered")])
    assert (np.mean(above, axis=0) <= 0.06).all()
    sure = in_the_open_set(calibrated(random, 300, sharper=6), 100)["pooled"]["intervals"]
    assert sure["ece"][0] > 0.05


class Simulation(NamedTuple):
    """Samples of one kind, in a share of which the interval of each figure holds the true one.

    draw: Returns columns of one sample, a generator with real images of its own. truth: The true
    figures. least: The share. group: That of two more fakes, of another generator.
    """

    draw: Callable[[np.random.Generator], dict[str, Any]]
    truth: dict[str, float]
    least: float
    group: str = ""
    samples: int = 200


def beside_images_of_one_person() -> Simulation:
    """The rates of images that are independent are exact, whatever groups there are elsewhere."""

    def draw(random: np.random.Generator) -> dict[str, Any]:
        label = np.repeat([0, 1], 20)
        return {"label": label, "score": np.where(random.random(40) < 0.17, 0.8 - label, label)}

    truth = {"apcer": 0.17, "bpcer": 0.17, "accuracy": 0.83}
    return Simulation(draw, truth, 0.95 - 0.03, group="a person")  # two standard errors


def of_few_reals(reals: int) -> Simulation:
    def draw(random: np.random.Generator) -> dict[str, Any]:
        size, label = reals + 25, np.repeat([0, 1], [reals, 25])
        peaks = random.choice(3, size, p=[0.6, 0.3, 0.1])
        values = {"entropy_predicted": random.beta(2, 2, size), "map_mse": random.beta(2, 4, size)}
        return {"label": label, "peak_row": peaks, "score": label, **values}

    truth = {"entropy": 0.5, "map_mse": 1 / 3, "peak_share": 0.6}
    return Simulation(draw, truth, 0.92, samples=600)


def without_reals() -> Simulation:
    return of_few_reals(0)


def with_one_real() -> Simulation:
    return of_few_reals(1)


def peaks_in_one_place() -> Simulation:
    """Ten real images and 190 fakes; in half of the samples all peaks are in one cell."""

    def draw(random: np.random.Generator) -> dict[str, Any]:
        label = np.repeat([0, 1], [10, 190])
        return {"label": label, "score": label, "peak_row": random.random(200) < 0.0035}

    return Simulation(draw, {"peak_share": 0.9965}, 0.95 - 0.03)


def costs_where_few_images_are_wrong() -> Simulation:
    """One in fifty is taken for the other class, and surely so; often the sample has none."""

    def ratios(random: np.random.Generator, label: Any) -> Any:
        right = np.where(random.random(len(label)) < 0.02, -1, 1)
        return random.normal(6 * right * (2 * label - 1), 0.5)

    def draw(random: np.random.Generator) -> dict[str, Any]:
        label = np.repeat([0, 1], 40)
        llr = ratios(random, label)
        return {"label": label, "llr": llr, "score": special.expit(llr)}

    label = np.repeat([0, 1], 200_000)
    llr = ratios(np.random.default_rng(1), label)
    ranking = Ranking.of(*np.split(special.expit(llr), 2))
    truth = {"cllr": float(np.logaddexp(0, llr * (1 - 2 * label)).mean() / np.log(2))}
    truth |= dict.fromkeys(("brier", "brier_balanced"), float(ranking.brier()[0]))
    truth |= dict.fromkeys(("ece", "ece_balanced", "ece_tempered"), float(ranking.ece()[0]))
    return Simulation(draw, truth, 0.93)


@pytest.mark.slow
@pytest.mark.parametrize(
    "simulated",
    [
        beside_images_of_one_person,
        without_reals,
        with_one_real,
        peaks_in_one_place,
        costs_where_few_images_are_wrong,
    ],
)
def test_coverage(simulated: Callable[[], Simulation]) -> None:
    simulation = simulated()
    random = np.random.default_rng(0)
    drawn = [simulation.draw(random) for _ in range(simulation.samples)]
    columns = {name: np.concatenate([sample[name] for sample in drawn]) for name in drawn[0]}
    names = [f"g{number}" for number, sample in enumerate(drawn) for _ in sample["label"]]
    names += ["other"] * 2
    filled = {name: np.append(column, column[-2:]) for name, column in columns.items()}
    groups = [""] * (len(names) - 2) + [simulation.group] * 2
    scores = table(len(names) - 2, 1, 2, **filled, generator=names, group=groups)
    generators = in_the_open_set(scores, 100)["generators"]

    held = dict.fromkeys(simulation.truth, 0.0)
    for number in range(simulation.samples):
        intervals = generators[f"g{number}"]["intervals"]
        intervals |= intervals.get("operating_points", {}).get("eer", {})
        for name, value in simulation.truth.items():
            low, high = intervals.get(name, (1, 0))
            held[name] += (low <= value <= high) / simulation.samples
    assert min(held.values()) >= simulation.least, held


def test_peaks_in_one_place_are_as_sure_as_all_images_are() -> None:
    """Ten real images and 190 fakes are 200, not ten."""
    scores = table(10, 1, 190, peak_row=np.zeros(200))
    (generator,) = in_the_open_set(scores, 20)["generators"].values()
    assert generator["intervals"]["peak_share"] == rate_interval(200, 200)
