"""What the experiment draws, tells and plots of its runs: on invented outcomes."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.evaluation.protocol import Comparison
from focus.evaluation.results import write_results
from focus.experiment import collect, frozen
from focus.experiment.collect import Outcome, drawn_aucs, outcome
from focus.experiment.compare import Analysis, analyse
from focus.experiment.grid import Setup, grid
from focus.experiment.plots import dose_response, scatter
from focus.experiment.report import doses, write_report
from focus.metrics import auc

from ..few_scores import summarise, table


def invented(tmp_path: Path, gain: float) -> list[Outcome]:
    """Outcomes of the whole grid; ``focus`` and its like score unknown fakes higher by a gain."""
    draw = np.random.default_rng(0)
    label = np.repeat([0, 1, 0, 1, 1], 60)  # closed real, closed fake, open real, two open fakes
    rows = np.split(np.arange(300), 5)
    image = draw.normal(size=300)
    comparisons = {
        "closed": [Comparison("closed", "k", rows[0], rows[1])],
        "open": [Comparison("open", n, rows[2], rows[g]) for n, g in (("u", 3), ("v", 4))],
    }
    setup = Setup(tmp_path, "demo", ("focus_small",), frozen.RECIPE)
    runs = grid(setup, list(frozen.ARMS), seeds=3, lengths=(1, 2), doses=frozen.DOSES)
    outcomes = []
    for run in runs:
        skill = 2.2 + 0.2 * draw.normal()
        shift = skill * label * np.repeat([1, 1, 1, 0.4, 0.4], 60)
        shift[180:] += gain * (run.arm == "focus")
        scores = (image + 0.4 * draw.normal(size=300) + shift).astype(np.float32)
        found = {n: auc(scores[rows[2]], scores[rows[g]]) or 0 for n, g in (("u", 3), ("v", 4))}
        closed, opened = auc(scores[rows[0]], scores[rows[1]]) or 0, sum(found.values()) / 2
        weight = run.dose or 0.0
        figures = {
            "closed": closed,
            "open": opened,
            "gap": opened - closed,
            "entropy_open": 0.9 / (1 + 200 * weight) * (1 + 0.2 * draw.random()),
            "entropy_closed": 0.7 / (1 + 200 * weight) * (1 + 0.2 * draw.random()),
            "pointing_closed": 0.2 + 0.2 * weight + 0.1 * draw.random(),
            "pointing_open": 0.1 + 0.1 * draw.random(),
            "best_epoch": 20.0,
            **{f"open.{name}": value for name, value in found.items()},
        }
        strata, groups = np.repeat(np.arange(5), 60), np.full(300, "", dtype=object)
        each = np.arange(300)
        outcomes.append(Outcome(run, figures, scores, comparisons, strata, groups, each))
    return outcomes


def test_drawn_images_are_the_same_for_all_runs(tmp_path: Path) -> None:
    first, *_ = invented(tmp_path, 0)
    copy = replace(first, run=replace(first.run, seed=1))
    places = {(0, 0, 0): first, (0, 0, 1): copy}
    drawn = drawn_aucs(places, (1, 1, 3), 400, np.random.default_rng(1))
    for name, values in (("closed", drawn.closed), ("open", drawn.opened)):
        assert np.array_equal(values[0, 0, 0], values[0, 0, 1])
        assert np.isnan(values[0, 0, 2]).all()
        assert values[0, 0, 0].mean() == pytest.approx(first.figures[name], abs=0.005)
        assert values[0, 0, 0].std() > 0.005
    other = replace(copy, comparisons={**copy.comparisons, "open": copy.comparisons["open"][:1]})
    with pytest.raises(InputError, match="other images"):
        drawn_aucs({**places, (0, 0, 1): other}, (1, 1, 3), 5, np.random.default_rng(1))
    # Nor may they be drawn in other groups, or one of them be another listing of the same.
    grouped, listed = copy.groups.copy(), copy.images.copy()
    grouped[:2], listed[1] = "a", 0
    for other in (replace(copy, groups=grouped), replace(copy, images=listed)):
        with pytest.raises(InputError, match="other images"):
            drawn_aucs({**places, (0, 0, 1): other}, (1, 1, 3), 5, np.random.default_rng(1))


def test_images_of_one_group_are_drawn_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four copies of an image are no more than one: the spread is that of a quarter of them."""
    single, *_ = invented(tmp_path, 0)
    first = {name: single.comparisons[name][0] for name in ("closed", "open")}
    kept = np.concatenate([rows[:15] for c in first.values() for rows in (c.real, c.fake)])

    def spread(scores: np.ndarray, strata: np.ndarray, groups: np.ndarray) -> float:
        rows = [np.flatnonzero(strata == stratum) for stratum in range(4)]
        pairs = {"closed": rows[:2], "open": rows[2:]}
        comparisons = {name: [Comparison(name, "g", *two)] for name, two in pairs.items()}
        each = np.arange(len(scores))
        outcome = Outcome(single.run, single.figures, scores, comparisons, strata, groups, each)
        drawn = drawn_aucs({(0, 0, 0): outcome}, (1, 1, 1), 3000, np.random.default_rng(2))
        return float(drawn.opened.std())

    strata = np.repeat(np.arange(4), 15)
    alone = spread(single.scores[kept], strata, np.full(60, "", dtype=object))
    copied = [np.repeat(values, 4) for values in (single.scores[kept], strata)]
    monkeypatch.setattr(collect, "_AT_ONCE", 240 * 7)  # seven replicates at a time, the last fewer
    names = np.repeat([f"person{n}" for n in range(60)], 4).astype(object)
    assert spread(*copied, names) == pytest.approx(alone, rel=0.06)
    assert spread(*copied, np.full(240, "", dtype=object)) < 0.6 * alone


def test_real_images_listed_for_each_generator_are_drawn_once(tmp_path: Path) -> None:
    first, *_ = invented(tmp_path, 0)
    real, fake = np.arange(20), (np.arange(40, 60), np.arange(60, 80))

    def drawn(*own: np.ndarray) -> collect.Drawn:
        outcome = replace(
            first,
            scores=np.concatenate([first.scores[:20], first.scores[:20], first.scores[40:80]]),
            comparisons={
                name: [Comparison(name, g, r, f) for g, r, f in zip("uv", own, fake, strict=True)]
                for name in ("closed", "open")
            },
            strata=np.repeat([0, 1, 2], [40, 20, 20]),
            groups=np.full(80, "", dtype=object),
            images=np.r_[0:20, 0:20, 40:80],
        )
        return drawn_aucs({(0, 0, 0): outcome}, (1, 1, 1), 50, np.random.default_rng(3))

    once, twice = drawn(real, real), drawn(real, real + 20)
    assert np.array_equal(once.closed, twice.closed)
    assert np.array_equal(once.opened, twice.opened)


def test_generators_have_the_same_weight_in_what_is_drawn(tmp_path: Path) -> None:
    """However many fakes they have: of one all are above the real images, of the other none."""
    first, *_ = invented(tmp_path, 0)
    rows = np.split(np.arange(60), [20, 50, 56])
    real, above, below, other = rows
    scores = np.repeat([0.0, 1.0, -1.0, 1.0], [len(r) for r in rows])
    fakes = {"above": (real, above), "below": (real, below), "without real": (real[:0], other)}
    comparisons = {
        name: [Comparison(name, g, *pair) for g, pair in fakes.items()]
        for name in ("closed", "open")
    }
    found = replace(
        first,
        scores=scores,
        comparisons=comparisons,
        strata=np.repeat(np.arange(4), [len(r) for r in rows]),
        groups=np.full(60, "", dtype=object),
        images=np.arange(60),
    )
    drawn = drawn_aucs({(0, 0, 0): found}, (1, 1, 1), 20, np.random.default_rng(4))
    assert np.array_equal(drawn.closed, np.full((1, 1, 1, 20), 0.5))
    assert np.array_equal(drawn.opened, drawn.closed)


@pytest.mark.parametrize(("gain", "verdict"), [(0.6, "is above"), (-0.6, "is BELOW"), (0, "no di")])
def test_the_report_says_it_whichever_way_it_came_out(
    tmp_path: Path, gain: float, verdict: str
) -> None:
    outcomes = invented(tmp_path, gain)
    analysis = analyse(outcomes, "focus_small", replicates=300)
    primary, *others = analysis.comparisons
    assert primary.primary
    assert (primary.arm, primary.other, primary.length) == ("focus", "ce", 1)
    assert np.isnan(primary.p_holm)
    # 10 with cross-entropy and 3 controls, at both lengths; the primary is one of the first.
    assert len(others) == 2 * 13 - 1
    assert all(c.p_holm >= c.matched.p for c in others)
    text = write_report(outcomes, [analysis], tmp_path, missing=["one run failed"])
    assert verdict in text.partition("Primary endpoint")[2].partition("\n")[0]
    assert "- one run failed" in text
    marked = [line.split(" | ")[:2] for line in text.splitlines() if "(primary)" in line]
    assert marked == [["| `focus` - `ce` (primary)", "1x"]]
    assert "does not speak for all" in text
    with (tmp_path / "table.csv").open(newline="") as file:
        table = {(r["loss"], r["epochs"], r["figure"]): r for r in csv.DictReader(file)}
    mine = [o.figures["open"] for o in outcomes if (o.run.arm, o.run.length) == ("blend", 2)]
    row = table["blend", "40", "open"]
    assert float(row["mean"]) == pytest.approx(np.mean(mine), abs=1e-5)
    assert float(row["sd"]) == pytest.approx(np.std(mine, ddof=1), abs=1e-5)
    assert row["n_seeds"] == "3"
    assert "entropy_sum_open" not in text  # no run has it
    with (tmp_path / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 78
    assert all(
        (tmp_path / run["folder"]) == o.run.folder for run, o in zip(runs, outcomes, strict=True)
    )


def test_without_test_images_of_known_generators_the_report_says_so(tmp_path: Path) -> None:
    outcomes = [
        replace(
            found,
            figures={**found.figures, "closed": np.nan, "gap": np.nan},
            comparisons={**found.comparisons, "closed": []},
        )
        for found in invented(tmp_path, 0.6)
    ]
    analysis = analyse(outcomes, "focus_small", replicates=100)
    text = write_report(outcomes, [analysis], tmp_path, missing=[], plots=[])
    assert (
        "`focus` against `ce`: not defined, as no test image is of a known generator and so there "
        "is no closed AUC to match; unmatched +." in text
    )


def test_two_seeds_are_too_few_for_a_verdict(tmp_path: Path) -> None:
    """Those of --quick, however far apart the losses are."""
    outcomes = [o for o in invented(tmp_path, 2) if o.run.seed < 2 and o.run.length == 1]
    analysis = analyse(outcomes, "focus_small", replicates=100)
    assert analysis.comparisons[0].matched.low > 0
    text = write_report(outcomes, [analysis], tmp_path, missing=[])
    assert "closed AUC there are too few seeds to tell `focus` from `ce`: +" in text
    assert "is above" not in text


@pytest.mark.parametrize("gain", [0.6, -0.6])
def test_a_verdict_needs_the_interval_over_seeds_as_well(tmp_path: Path, gain: float) -> None:
    """That of the bootstrap leaves 0 out once three seeds agree in sign."""
    outcomes = invented(tmp_path, gain)
    analysis = analyse(outcomes, "focus_small", replicates=100)
    primary, *others = analysis.comparisons
    found = primary.matched
    seeds = replace(found.over_seeds, low=-0.01, high=0.01)
    unsure = replace(primary, matched=replace(found, over_seeds=seeds))
    analysis = replace(analysis, comparisons=(unsure, *others))
    text = write_report(outcomes, [analysis], tmp_path, missing=[])
    assert found.low > 0 or found.high < 0
    assert "At matched closed AUC no difference between `focus` and `ce` is shown: " in text
    assert "(3 seeds), Student's interval over seeds [-.010, +.010]; unmatched " in text
    with (tmp_path / "comparisons.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["matched_t_low"], row["matched_t_high"]) == ("-0.01", "0.01")
    assert float(row["matched_high"]) == pytest.approx(found.high, abs=1e-5)


def test_the_report_has_the_doses_and_no_column_without_a_figure(tmp_path: Path) -> None:
    outcomes = invented(tmp_path, 0)
    analysis = Analysis("focus_small", 0.5, len(outcomes), ())
    text = write_report(outcomes, [analysis], tmp_path, missing=[])
    assert "| loss | epochs | seeds | closed AUC | open AUC | open - closed |" in text
    assert "Differences in open AUC" not in text  # there are none
    by_dose = text.partition("Dose-response: ")[2].splitlines()[2:]
    assert by_dose[0].startswith("| weight | epochs | seeds | closed AUC | open AUC | open - cl")
    assert [row.split("|")[1] for row in by_dose[2:]] == [f" `{w:g}` " for w in frozen.DOSES]
    opened = [o.figures["open"] for o in outcomes if o.run.dose == 0.3]
    mean, sd = np.mean(opened), np.std(opened, ddof=1)
    assert by_dose[6].split(" | ")[1:5:3] == ["20", f"{mean:.3f} ± {sd:.3f}".replace("0.", ".")]


@pytest.mark.slow
def test_plots_are_drawn(tmp_path: Path) -> None:
    outcomes = invented(tmp_path, 0)
    by_dose = doses(outcomes, "focus_small")
    assert list(by_dose) == list(frozen.DOSES)
    assert all(len(members) == 3 for members in by_dose.values())
    scatter(outcomes, tmp_path / "scatter.png")
    dose_response(by_dose, tmp_path / "dose.png")
    for name in ("scatter.png", "dose.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_the_figures_of_a_run_by_hand(tmp_path: Path) -> None:
    """Its files: three unknown generators, of which uSpectrum has a fingerprint all over."""
    rows = [(0, "", "closed", 0.4), (0, "", "closed", 0.6), (1, "k", "closed", 0.5)]
    rows += [(0, "", "closed_balanced", 0.5), (1, "k", "closed_balanced", 0.9)]
    rows += [(0, "", "open", 0.2), (0, "", "open", 0.6)]
    rows += [(1, "uA", "open", 0.4), (1, "uA", "open", 0.9), (1, "uB", "open", 0.7)]
    rows += [(1, "uSpectrum", "open", 0.1)]
    scores = table(
        rows,
        path=[f"/i/{row}.png" for row in range(11)],
        entropy_predicted=[0.5, 0.25, 0, *[1] * 8],
        entropy_sum=[*[1] * 5, 0.5, 1, 0, 0, 0, 0],
        pointing_hit=[-1, -1, 1, -1, 0, -1, -1, 1, 0, 0, 0],
        peak_row=[*[0] * 5, 0, 0, 0, 1, 1, 2],
    )
    run = grid(Setup(tmp_path, "demo", ("focus_small",)), ["ce"], seeds=1, lengths=(1,))[0]
    results = summarise(scores, ["k"]) | {"model": {"validation_auc": 0.97, "epoch": 12}}
    write_results(run.folder, scores, results)
    marks = {7: "1", 8: "0", 10: "0"}
    samples = [
        Sample(path, label, generator, extra={"known_artefact": marks[row]} if row in marks else {})
        for row, (path, (label, generator, *_)) in enumerate(zip(scores.path, rows, strict=True))
    ]
    Manifest(samples).to_csv(run.folder / "manifest.csv")
    found = outcome(run)
    figures = dict(found.figures)
    assert set(collect.FIGURES) <= set(figures)
    assert figures == pytest.approx(
        {
            "closed": 0.5,
            "closed_balanced": 1,
            # uA is above 1 and 2 of the two real images, uB above both, uSpectrum above none.
            "open": 1.75 / 3,
            "gap": 1.75 / 3 - 0.5,
            "open_local": 0.875,
            "open_global": 0,
            "open_known_artefact": 0.5,
            "open_new_artefact": 1,
            "entropy_closed": 0.25,
            "entropy_open": 1,
            "entropy_sum_open": 0.25,
            "pointing_closed": 1,
            "pointing_open": 0.25,
            "peak_share_open": 0.5,
            "validation": 0.97,
            "best_epoch": 12,
            "open.uA": 0.75,
            "open.uB": 1,
            "open.uSpectrum": 0,
        }
    )
