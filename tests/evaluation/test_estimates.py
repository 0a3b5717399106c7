"""Figures and intervals of test sets: from the whole table, against figures of repeated images."""

import time
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy import stats

from focus import metrics
from focus.evaluation.estimates import mean_of_rates
from focus.evaluation.protocol import match
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.metrics import Calibration
from focus.model.operating_points import POINTS, OperatingPoints, choose

POINT = OperatingPoints(dict.fromkeys(POINTS, 0.5), Calibration(1.0, 0.0, 1.0), 9, 9)


def table(real: int, generators: int, fakes: int, seed: int = 0, **columns: Any) -> Scores:
    """Open-set scores: real images that all generators share, and fakes of each."""
    random, n = np.random.default_rng(seed), real + generators * fakes
    label = np.repeat([0, 1], [real, n - real])
    score = 1 / (1 + np.exp(-random.normal(2.0 * label - 0.5, 1.5)))
    given: dict[str, Any] = {
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
    rest = {f.name: np.zeros(n) for f in fields(Scores) if f.name not in given}
    return Scores(**(given | rest | columns))


def test_operating_points_by_hand() -> None:
    scores = table(4, 2, 2, score=[0.1, 0.2, 0.6, 0.3, 0.9, 0.4, 0.3, 0.5])
    results = summarise(scores, [], None, POINT, resamples=0)["open"]
    generators = {n: g["operating_points"]["eer"] for n, g in results["generators"].items()}
    assert generators == {"g0": {"bpcer": 0.25, "apcer": 0.5}, "g1": {"bpcer": 0.25, "apcer": 1.0}}
    assert results["operating_points"]["bpcer5"] == {
        "bpcer": 0.25,
        "apcer_pooled": 0.75,
        "apcer_mean": 0.75,
        "apcer_max": 1.0,
        "apcer_max_generator": "g1",
        "acer_mean": 0.5,
        "acer_max": 0.625,
    }


def test_no_generator_is_missed_most_where_none_is_missed() -> None:
    scores = table(4, 2, 2, score=[0.1, 0.2, 0.3, 0.3, 0.9, 0.8, 0.7, 0.6])
    found = summarise(scores, [], None, POINT, resamples=0)["open"]["operating_points"]["eer"]
    assert (found["apcer_max"], found["apcer_max_generator"]) == (0.0, None)


def test_a_mean_error_weighs_generators_alike_and_a_pooled_one_images() -> None:
    """The one fake of g0 is found, the three of g1 are missed."""
    scores = table(
        4,
        1,
        4,
        generator=[""] * 4 + ["g0"] + ["g1"] * 3,
        score=[0.1, 0.2, 0.6, 0.3, 0.9, 0.4, 0.3, 0.2],
    )
    found = summarise(scores, [], None, POINT, resamples=0)["open"]["operating_points"]["eer"]
    assert (found["apcer_mean"], found["apcer_pooled"], found["bpcer"]) == (0.5, 0.75, 0.25)
    assert found["acer_mean"] == 0.375


def test_the_cost_of_ratios_weighs_the_classes_alike() -> None:
    """Of the four real images one is told wrong, of g0's two fakes none, of g1's both."""
    ratios = np.log([1 / 3, 1 / 3, 1 / 3, 3, 3, 3, 1 / 3, 1 / 3])
    results = summarise(table(4, 2, 2, llr=ratios), [], None, POINT, resamples=0)["open"]
    right, wrong = np.log2(4 / 3), 2.0
    real = (3 * right + wrong) / 4
    costs = {name: figures["cllr"] for name, figures in results["generators"].items()}
    assert costs == pytest.approx({"g0": (real + right) / 2, "g1": (real + wrong) / 2})
    assert results["pooled"]["cllr"] == pytest.approx((real + (right + wrong) / 2) / 2)


def test_a_mean_is_over_the_generators_that_define_it() -> None:
    scores = table(5, 3, 4, generator=["g0"] * 5 + ["g0"] * 4 + ["g1"] * 4 + ["g2"] * 4)
    results = summarise(scores, [], None, POINT, resamples=50)["open"]
    assert results["n_generators"] == 1
    assert results["mean"]["auc"] == results["generators"]["g0"]["auc"]
    assert results["generators"]["g1"]["auc"] is None
    errors = [g["operating_points"]["eer"]["apcer"] for g in results["generators"].values()]
    assert results["operating_points"]["eer"]["apcer_mean"] == pytest.approx(np.mean(errors))


def test_exact_intervals_of_independent_images() -> None:
    scores = table(60, 2, 30)
    results = summarise(scores, [], None, POINT, resamples=100)["open"]
    fakes = scores.select(np.flatnonzero(scores.generator == "g1"))
    reals = scores.select(np.flatnonzero(scores.label == 0))
    ranges = results["generators"]["g1"]["intervals"]
    assert ranges["auc"] == metrics.auc_interval(reals.score, fakes.score)
    missed = int((fakes.score <= 0.5).sum())
    assert ranges["operating_points"]["eer"]["apcer"] == metrics.rate_interval(missed, 30)
    assert ranges["pointing_hit"] == metrics.rate_interval(int(fakes.pointing_hit.sum()), 30)
    assert ranges["map_hit"] == metrics.rate_interval(int(reals.map_hit.sum()), 60)


def test_images_are_ranked_once_for_figures_and_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many generators, each sorting of the real images that they share is what takes long."""
    ranked, init = [], metrics.Ranking.__init__

    def counted(self: metrics.Ranking, real: metrics.Side, fake: metrics.Side) -> None:
        ranked.append(len(fake))
        init(self, real, fake)

    monkeypatch.setattr(metrics.Ranking, "__init__", counted)
    summarise(table(60, 3, 20), [], None, POINT, resamples=5)
    # The closed set, which has none; each generator; all together.
    assert sorted(ranked) == [0, 20, 20, 20, 60]


def test_resampled_intervals_are_those_of_repeated_images() -> None:
    """The same draws, made by hand: the shared real images once for both generators."""
    scores, resamples = table(40, 2, 25), 60
    results = summarise(scores, [], resamples=resamples)["open"]
    first, second = match(scores, [])
    strata = np.repeat([0, 1, 2], [40, 25, 25])
    resampler = metrics.Resampler(strata, scores.group)
    times = resampler.draw(np.random.default_rng(0), resamples).astype(int)
    means, eers, peaks = [], [], []
    for row in times:
        drawn = [scores.select(np.repeat(c.real, row[c.real])) for c in (first, second)]
        fakes = [scores.select(np.repeat(c.fake, row[c.fake])) for c in (first, second)]
        both = [metrics.eer(r.score, f.score) for r, f in zip(drawn, fakes, strict=True)]
        means.append(np.mean(np.array(both, dtype=float)))
        eers.append(both[0])
        cells = np.concatenate([drawn[0].peak_row, fakes[0].peak_row])
        peaks.append(metrics.commonest_peak_share(cells))
    ranges = results["generators"]["g0"]["intervals"]

    def percentiles(values: list[Any], value: float) -> tuple[float, float]:
        """As wide as 25 images of a class ask for: Student's quantile, and a variance of n - 1."""
        by = stats.t.ppf(0.975, 24) / stats.norm.ppf(0.975) * np.sqrt(25 / 24)
        low, high = np.quantile(np.array(values, dtype=float), [0.025, 0.975])
        return value + by * (low - value), value + by * (high - value)

    of_mean, of_first = results["mean"], results["generators"]["g0"]
    assert of_mean["intervals"]["eer"] == pytest.approx(percentiles(means, of_mean["eer"]))
    assert ranges["eer"] == pytest.approx(percentiles(eers, of_first["eer"]))
    # The largest of several shares: the percentiles and their reflection in it, and all between.
    share = of_first["peak_share"]
    low, high = percentiles(peaks, share)
    expected = min(low, 2 * share - high), max(high, 2 * share - low)
    assert ranges["peak_share"] == pytest.approx(expected)


def test_grouped_images_widen_every_interval() -> None:
    """Four copies of each image are no more images."""
    one = table(30, 1, 20)
    copies = one.select(np.repeat(np.arange(50), 4))
    grouped = Scores(**(copies.columns() | {"group": copies.path}))
    results = [
        summarise(scores, [], None, POINT, resamples=1000)["open"]["generators"]["g0"]
        for scores in (one, copies, grouped)
    ]
    alone, apart, together = (r["intervals"] for r in results)
    for name in ("auc", "entropy", "eer", "average_precision", "brier", "cllr", "accuracy"):
        width, narrow, wide = (float(np.ptp(ranges[name])) for ranges in (alone, apart, together))
        assert narrow < 0.7 * width, name
        assert wide == pytest.approx(width, rel=0.25), name
    missed = [r["operating_points"]["eer"]["apcer"] for r in (alone, together)]
    assert np.ptp(missed[1]) == pytest.approx(np.ptp(missed[0]), rel=0.3)


def test_no_interval_leaves_the_range_of_its_figure() -> None:
    ranges = summarise(table(2, 1, 3), [], None, POINT, resamples=50)["open"]["pooled"]["intervals"]
    ends = {name: value for name, value in ranges.items() if name != "operating_points"}
    assert all(0 <= low < high for low, high in ends.values())
    assert all(high <= 1 for name, (_, high) in ends.items() if name != "cllr")
    assert ends["brier_balanced"][0] == 0


def test_figures_that_no_resample_moves_are_not_certain() -> None:
    scores = table(40, 2, 30, score=np.repeat([0.1, 0.9], [40, 60]))
    results = summarise(scores, [], None, POINT, resamples=50)["open"]
    bound = 0.025 ** (1 / 30)
    ranges = results["generators"]["g0"]["intervals"]
    for name in ("auc", "average_precision"):
        assert ranges[name] == (pytest.approx(bound), 1.0), name
    assert ranges["balanced_accuracy"] == mean_of_rates([(40, 40), (30, 30)])
    assert ranges["eer"] == (0.0, pytest.approx(1 - bound))
    # All 40 real images and 60 fakes.
    assert results["mean"]["intervals"]["auc"] == (pytest.approx(0.025 ** (1 / 40)), 1.0)
    # The largest of two rates: each interval at 97.5 %.
    assert results["operating_points"]["intervals"]["eer"]["apcer_max"] == (
        0.0,
        pytest.approx(1 - 0.0125 ** (1 / 30)),
    )
    assert "brier" not in ranges  # it does not move, and is neither 0 nor 1


@pytest.mark.parametrize("grouped", [False, True])
def test_a_hit_rate_of_0_is_as_sure_as_the_images_with_a_mask(grouped: bool) -> None:
    """Of 40 fakes each, 16 of g0 and 20 of g1 have a mask, none of g2; of 40 reals 14 a map."""
    known = np.zeros(160, dtype=bool)
    known[[*range(14), *range(40, 56), *range(80, 100)]] = True
    label = np.repeat([0, 1], [40, 120])
    scores = table(
        *(40, 3, 40),
        pointing_hit=np.where(known & (label == 1), 0, -1),
        map_hit=np.where(known, 1, -1),
        group=[f"p{n // 2}" for n in range(160)] if grouped else [""] * 160,
    )
    results = summarise(scores, [], resamples=50)["open"]
    first, mean, pooled = results["generators"]["g0"], results["mean"], results["pooled"]
    real, fake, both, every = (7, 8, 15, 18) if grouped else (14, 16, 30, 36)
    for figures, name, n in (
        (first, "pointing_hit", fake),
        (first, "map_hit_real", real),
        (first, "map_hit", both),
        (pooled, "pointing_hit", every),
        (mean, "map_hit_real", real),
    ):
        ends = metrics.rate_interval(round(figures[name] * n), n)
        assert figures["intervals"][name] == ends, name
    of_mean = mean["intervals"]["pointing_hit"]
    if grouped:
        assert of_mean == metrics.rate_interval(0, 8)
    else:
        assert of_mean == mean_of_rates([(0, 16), (0, 20)])
    assert "pointing_hit" not in results["generators"]["g2"]["intervals"]


def test_one_number_has_one_interval() -> None:
    """Of many real images and few fakes: each error rate by the images that it is of."""
    scores = table(1000, 1, 10, score=np.concatenate([[0.9] * 3, [0.1] * 997, [0.9] * 10]))
    results = summarise(scores, [], None, POINT, resamples=40)["open"]
    whole = results["operating_points"]["intervals"]["eer"]
    alone = results["generators"]["g0"]["intervals"]["operating_points"]["eer"]
    assert whole["bpcer"] == alone["bpcer"] == metrics.rate_interval(3, 1000)
    assert whole["apcer_mean"] == pytest.approx(alone["apcer"])
    assert alone["apcer"] == metrics.rate_interval(0, 10)
    for name in ("acer_mean", "acer_max"):  # all fakes are found, and they are ten
        assert whole[name][1] > 0.14


def test_a_class_of_one_image_has_no_resampled_interval() -> None:
    ranges = summarise(table(1, 1, 50), [], None, POINT, resamples=40)["open"]["generators"]["g0"]
    found = set(ranges["intervals"])
    assert not found & {"auc", "eer", "average_precision", "brier", "ece", "entropy_real", "cllr"}
    assert {"entropy_fake", "accuracy", "operating_points"} <= found


def test_figures_of_one_class_alone_are_in_no_mean_of_both() -> None:
    scores = table(20, 2, 10, generator=["g0"] * 20 + ["g0"] * 10 + ["g1"] * 10)
    results = summarise(scores, [], None, POINT, resamples=0)["open"]
    lone = results["generators"]["g1"]
    assert {lone[n] for n in ("auc", "accuracy", "brier", "ece", "prevalence")} == {None}
    assert lone["entropy_fake"] is not None
    assert results["mean"]["accuracy"] == results["generators"]["g0"]["accuracy"]
    assert results["mean"]["n_defined"]["accuracy"] == 1
    assert "entropy_fake" not in results["mean"]["n_defined"]


@pytest.mark.slow
def test_intervals_of_figures_that_samples_overstate() -> None:
    """The calibration error, of calibrated scores too, and the largest of eight error rates."""
    random, sharp = np.random.default_rng(3), 1.4
    many = 1 / (1 + np.exp(-random.normal(0, 1.2, 400_000)))
    for slope in (1.0, sharp):
        odds = slope * np.log(many / (1 - many))
        labels = random.random(len(many)) < 1 / (1 + np.exp(-odds))
        true = metrics.ece(many[~labels], many[labels])
        assert true is not None
        covered = 0
        for _ in range(60):
            some = random.integers(0, len(many), 300)
            label = labels[some]
            scores = table(
                int((~label).sum()),
                1,
                int(label.sum()),
                score=many[some][label.argsort(kind="stable")],
            )
            low, high = summarise(scores, [], resamples=200)["open"]["pooled"]["intervals"]["ece"]
            covered += low <= true <= high
        assert covered >= 53
    covered = 0
    for seed in range(60):
        score = np.random.default_rng(seed).random(100 + 8 * 40)
        scores = table(100, 8, 40, score=np.where(np.arange(len(score)) < 100, score, score**0.3))
        results = summarise(scores, [], None, POINT, resamples=50)["open"]["operating_points"]
        low, high = results["intervals"]["eer"]["apcer_max"]
        covered += low <= 0.5 ** (1 / 0.3) <= high
    assert covered >= 56


def test_a_fake_named_as_the_results_name_those_without() -> None:
    names = ["", "", "(unnamed)", "(unnamed)", "", ""]
    results = summarise(table(2, 2, 2, generator=names), [], resamples=0)["open"]
    assert list(results["generators"]) == ["(unnamed)"]
    assert results["generators"]["(unnamed)"]["n_fake"] == 4
    only = summarise(table(2, 1, 2, generator=["", "", *["(unnamed)"] * 2]), [], resamples=0)
    assert only["open"]["generators"]["(unnamed)"]["n_fake"] == 2


def test_rates_that_the_sample_cannot_support_say_what_they_need() -> None:
    scores = table(120, 1, 30)
    figures = summarise(scores, [], resamples=0)["open"]["generators"]["g0"]
    assert figures["tpr_at_fpr_0.05"] is not None
    assert figures["tpr_at_fpr_0.01"] is None
    assert figures["undefined"] == {
        "tpr_at_fpr_0.001": "needs >= 5000 real images",
        "tpr_at_fpr_0.002": "needs >= 2500 real images",
        "tpr_at_fpr_0.01": "needs >= 500 real images",
    }


@pytest.mark.slow
def test_intervals_of_the_mean_over_generators_cover_it() -> None:
    """Given these generators: the share of samples whose interval holds the true mean."""
    true, covered = stats.norm.cdf(2.0 / np.sqrt(2) / 1.5), 0
    for seed in range(120):
        results = summarise(table(80, 3, 40, seed), [], resamples=1)["open"]["mean"]
        low, high = results["intervals"]["auc"]
        covered += low <= true <= high
    assert 0.92 * 120 <= covered < 120


@pytest.mark.slow
def test_a_mean_is_over_the_same_generators_in_each_resample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two fakes of g0 have a mask: neither is drawn in one of eight resamples."""
    masks = np.full(80, -1)
    masks[[40, 41, *range(60, 80)]] = np.arange(22) % 2
    # Two real images of one person: no rate's interval is exact.
    scores = table(40, 2, 20, pointing_hit=masks, group=["p", "p", *[""] * 78])
    for at_once in (200, 1):  # so many resamples, as of few images and of many
        monkeypatch.setattr("focus.evaluation.results._AT_ONCE", 80 * at_once)
        mean = summarise(scores, [], resamples=200)["open"]["mean"]
        assert mean["pointing_hit"] == 0.5
        # No interval, rather than that of g1 alone in some of them.
        assert "pointing_hit" not in mean["intervals"]


def test_always_the_same_intervals() -> None:
    scores = table(30, 2, 20)
    first = summarise(scores, [], resamples=40)
    assert summarise(scores, [], resamples=40) == first


@pytest.mark.slow
def test_2000_resamples_of_100_000_scores_take_40_seconds() -> None:
    """Of CPU; a tenth of them here, what is done once apart, the least of four of each.

    Other programs on the machine add to CPU time, too, for some of the runs.
    """
    scores = table(50_000, 5, 10_000)
    points = choose(scores.score[:50_000], scores.score[50_000:])

    def cost(resamples: int) -> float:
        began = time.process_time()
        summarise(scores, [], None, points, resamples=resamples)
        return time.process_time() - began

    costs = [(cost(10), cost(210)) for _ in range(4)]
    once, some = (min(each) for each in zip(*costs, strict=True))
    seconds = once + (some - once) * 10
    assert seconds < 40
