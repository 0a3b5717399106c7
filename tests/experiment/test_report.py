"""What the experiment draws, compares and writes of its runs: on invented outcomes."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from focus.config.experiment import ExperimentConfig
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.evaluation.protocol import match
from focus.evaluation.results import write_results
from focus.evaluation.scores import Scores
from focus.experiment import collect, frozen
from focus.experiment.__main__ import make_setup
from focus.experiment.collect import Outcome, drawn_aucs, outcome
from focus.experiment.compare import analyse
from focus.experiment.grid import grid
from focus.experiment.report import write_report
from focus.metrics.ranking import auc

from ..evaluation.few_scores import summarise, table

KINDS = [(0, "", "closed"), (1, "k", "closed"), (0, "", "open"), (1, "u", "open"), (1, "v", "open")]


def invented(tmp_path: Path, gain: float) -> list[Outcome]:
    """Outcomes of the whole grid; ``focus`` scores unknown fakes higher by a gain."""
    draw = np.random.default_rng(0)
    label, rows = np.repeat([kind[0] for kind in KINDS], 60), np.split(np.arange(300), 5)
    image = draw.normal(size=300)
    setup = make_setup(ExperimentConfig(output=str(tmp_path)))
    runs = grid(setup, list(frozen.ARMS), seeds=3, lengths=(1, 2), doses=frozen.DOSES)
    outcomes = []
    for run in runs:
        shift = (2.2 + 0.2 * draw.normal()) * label * np.repeat([1, 1, 1, 0.4, 0.4], 60)
        shift[180:] += gain * (run.arm == "focus")
        score = image + 0.4 * draw.normal(size=300) + shift
        scores = table([(*kind, 0.0) for kind in KINDS for _ in range(60)], score=score)
        found = {n: auc(score[rows[2]], score[rows[g]]) or 0 for n, g in (("u", 3), ("v", 4))}
        closed, opened = auc(score[rows[0]], score[rows[1]]) or 0, sum(found.values()) / 2
        figures = {
            "closed": closed,
            "open": opened,
            "gap": opened - closed,
            **dict.fromkeys(("pointing_closed", "pointing_open"), 0.2 + 0.1 * draw.random()),
            **dict.fromkeys(("entropy_closed", "entropy_open"), 0.9 / (1 + 200 * (run.dose or 0))),
            **{f"open.{name}": value for name, value in found.items()},
        }
        outcomes.append(Outcome(run, figures, scores, match(scores, ["k"])))
    return outcomes


def rescored(found: Outcome, scores: Scores) -> Outcome:
    return replace(found, scores=scores, comparisons=match(scores, ["k"]))


def test_drawn_images_are_the_same_for_all_runs(tmp_path: Path) -> None:
    first, *_ = invented(tmp_path, 0)
    drawn = drawn_aucs([first, first], 400, np.random.default_rng(1))
    for name, values in drawn.items():
        assert np.array_equal(*values)
        assert values[0].mean() == pytest.approx(first.figures[name], abs=0.005)
        assert values[0].std() > 0.005
    changed = rescored(first, Scores(**(first.scores.columns() | {"path": ["a.png"] * 300})))
    with pytest.raises(InputError, match="scored other images"):
        drawn_aucs([first, changed], 5, np.random.default_rng(1))


def test_images_of_one_group_are_drawn_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four copies of an image are no more than one: the spread is that of a quarter of them."""
    found, *_ = invented(tmp_path, 0)
    few = found.scores.select(np.flatnonzero(np.arange(300) % 60 < 15))
    copies = few.select(np.repeat(np.arange(75), 4))
    paths = [f"{n}.png" for n in range(300)]

    def spread(scores: Scores, **columns: object) -> float:
        scores = Scores(**(scores.columns() | columns))
        drawn = drawn_aucs([rescored(found, scores)], 2000, np.random.default_rng(2))
        return float(drawn["open"].std())

    monkeypatch.setattr(collect, "_AT_ONCE", 300 * 7)  # seven replicates at a time
    alone = spread(few)
    assert spread(copies, path=paths, group=copies.path) == pytest.approx(alone, rel=0.08)
    assert spread(copies, path=paths) < 0.6 * alone


@pytest.mark.parametrize(("gain", "verdict"), [(0.6, "is above"), (-0.6, "is BELOW"), (0, "no di")])
def test_the_report_says_it_whichever_way_it_came_out(
    tmp_path: Path, gain: float, verdict: str
) -> None:
    outcomes = invented(tmp_path, gain)
    analysis = analyse(outcomes, "focus_small", replicates=300)
    primary, *others = analysis.comparisons
    assert (primary.arm, primary.other, primary.length, primary.primary) == ("focus", "ce", 1, True)
    assert np.isnan(primary.p_holm)
    # 10 with cross-entropy and 3 controls, at both lengths; the primary is one of the first.
    assert len(others) == 2 * 13 - 1
    assert all(c.p_holm >= c.matched.p for c in others)
    text = write_report(outcomes, [analysis], tmp_path, missing=["one run failed"], plots=["x.png"])
    assert verdict in text.partition("Primary endpoint")[2].partition("\n")[0]
    for part in ("- one run failed\n", "does not speak for all", "| `focus` - `ce` (primary) | 1x"):
        assert part in text
    # A column that no run has is left out.
    assert "| loss | epochs | seeds | closed AUC | open AUC | open - closed |" in text
    by_dose = text.partition("Dose-response: ")[2].splitlines()[4:]
    assert [row.split("|")[1] for row in by_dose[:6]] == [f" `{w:g}` " for w in frozen.DOSES]
    with (tmp_path / "table.csv").open(newline="") as file:
        found = {(r["loss"], r["epochs"], r["figure"]): r for r in csv.DictReader(file)}
    mine = [o.figures["open"] for o in outcomes if (o.run.arm, o.run.length) == ("blend", 2)]
    row = found["blend", "40", "open"]
    assert float(row["mean"]) == pytest.approx(np.mean(mine), abs=1e-5)
    assert float(row["sd"]) == pytest.approx(np.std(mine, ddof=1), abs=1e-5)
    with (tmp_path / "runs.csv").open(newline="") as file:
        folders = [tmp_path / row["folder"] for row in csv.DictReader(file)]
    assert folders == [o.run.folder for o in outcomes]


def test_a_verdict_needs_three_seeds_and_the_interval_over_them(tmp_path: Path) -> None:
    """The bootstrap's interval leaves 0 out once three seeds agree in sign."""
    outcomes = invented(tmp_path, 0.6)
    analysis = analyse(outcomes, "focus_small", replicates=100)
    primary = analysis.comparisons[0]
    assert primary.matched.low > 0
    seeds = replace(primary.matched.over_seeds, low=-0.01, high=0.01)
    unsure = replace(primary, matched=replace(primary.matched, over_seeds=seeds))
    text = write_report(outcomes, [replace(analysis, comparisons=(unsure,))], tmp_path, missing=[])
    assert "At matched closed AUC no difference between `focus` and `ce` is shown: " in text
    two = [o for o in outcomes if o.run.seed < 2 and o.run.length == 1]
    analysis = analyse(two, "focus_small", replicates=100)
    text = write_report(two, [analysis], tmp_path, missing=[])
    assert "closed AUC there are too few seeds to tell `focus` from `ce`: +" in text
    # Without test images of known generators.
    bare = [
        replace(
            o, figures={**o.figures, "closed": np.nan, "gap": np.nan}, comparisons=o.comparisons[1:]
        )
        for o in outcomes
    ]
    text = write_report(bare, [analyse(bare, "focus_small", replicates=100)], tmp_path, missing=[])
    assert "no closed AUC to match; unmatched +." in text


def test_the_figures_of_a_run_by_hand(tmp_path: Path) -> None:
    """Its files: three unknown generators, of which global has a fingerprint all over."""
    rows = [(0, "", "closed", 0.4), (0, "", "closed", 0.6), (1, "k", "closed", 0.5)]
    rows += [(0, "", "closed_balanced", 0.5), (1, "k", "closed_balanced", 0.9)]
    rows += [(0, "", "open", 0.2), (0, "", "open", 0.6)]
    rows += [(1, "uA", "open", 0.4), (1, "uA", "open", 0.9), (1, "uB", "open", 0.7)]
    rows += [(1, "global", "open", 0.1)]
    scores = table(
        rows,
        path=[f"/i/{row}.png" for row in range(11)],
        entropy_predicted=[0.5, 0.25, 0, *[1] * 8],
        entropy_sum=[*[1] * 5, 0.5, 1, 0, 0, 0, 0],
        pointing_hit=[-1, -1, 1, -1, 0, -1, -1, 1, 0, 0, 0],
        peak_row=[*[0] * 5, 0, 0, 0, 1, 1, 2],
    )
    run = grid(make_setup(ExperimentConfig(output=str(tmp_path))), ["ce"], seeds=1, lengths=(1,))[0]
    results = summarise(scores, ["k"]) | {"model": {"validation_auc": 0.97, "epoch": 12}}
    write_results(run.folder, scores, results)
    marks = {7: "1", 8: "0", 10: "0"}
    samples = [
        Sample(path, label, generator, extra={"known_artefact": marks[row]} if row in marks else {})
        for row, (path, (label, generator, *_)) in enumerate(zip(scores.path, rows, strict=True))
    ]
    Manifest(samples).to_csv(run.folder / "manifest.csv")
    figures = dict(outcome(run).figures)
    assert set(collect.FIGURES) <= set(figures)
    assert figures == pytest.approx(
        {
            "closed": 0.5,
            "closed_balanced": 1,
            # uA is above 1 and 2 of the two real images, uB above both, global above none.
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
            "open.global": 0,
        }
    )
