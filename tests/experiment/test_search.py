"""Weights, doses and aims that are chosen without an image of an unknown generator."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from focus.config.experiment import ExperimentConfig
from focus.config.train import resolve
from focus.experiment import frozen
from focus.experiment.__main__ import make_setup
from focus.experiment.protocol import grid
from focus.experiment.records import Outcome
from focus.experiment.search import (
    candidates,
    choose_doses,
    reached,
    search_runs,
    write_aims,
    write_search,
)

from .test_run import as_if_done


def test_the_search_chooses_by_the_mean_over_folds(tmp_path: Path) -> None:
    setup = make_setup(ExperimentConfig(output=str(tmp_path)))
    groups = search_runs(setup, ["ce", "focus"])
    for number, group in enumerate(groups):
        for fold, run in enumerate(group.runs):
            as_if_done(run, 0.7 + 0.1 * (number == 1) + 0.01 * fold)
    (tmp_path / "search").mkdir(exist_ok=True)
    text = write_search(candidates(groups, ()), tmp_path / "search")
    assert text.count("chosen") == 2
    weights = yaml.safe_load((tmp_path / "search" / "weights.yaml").read_text())
    assert weights == {"ce": frozen.SEARCH["ce"][1], "focus": frozen.SEARCH["focus"][0]}
    # What is left of a candidate of which a run failed is no mean over the folds.
    whole = candidates(groups, {groups[1].runs[1].name})
    assert [c.settings for c in whole if c.loss == "ce"] == [frozen.SEARCH["ce"][0]]


def test_what_all_runs_share_is_not_searched(tmp_path: Path) -> None:
    setup = make_setup(ExperimentConfig(output=str(tmp_path), train={"epochs": "3"}))
    groups = search_runs(setup, ["focus"])
    assert [group.settings for group in groups] == [{"focus_weight": 0.1}, {"focus_weight": 0.3}]
    assert {run.config.epochs for group in groups for run in group.runs} == {3}


def test_a_dose_is_the_weight_at_which_the_entropy_falls_to_its_share(tmp_path: Path) -> None:
    # By hand: half of .8 lies between .6 at .01 and .2 at .1, halfway in the logarithm.
    weights, entropies = np.array([0, 0.01, 0.1, 1]), np.array([0.8, 0.6, 0.2, 0.1])
    assert reached(weights, entropies, 0.5) == pytest.approx(0.01 * 10**0.5)
    assert reached(weights, entropies, 0.875) == pytest.approx(0.005)
    assert math.isnan(reached(weights, entropies, 0.1))
    setup = make_setup(ExperimentConfig(output=str(tmp_path), range=True, search=True))
    outcomes = []
    for run in grid(setup, setup.protocol.arms, [100, 101]):
        weight = resolve(run.config).loss.focus_weight
        # The shortcut, which speaks on validation, hides what a weight of 1 costs.
        figures = {"validation": 0.99}
        figures["closed_balanced"] = 0.98 if weight < 1 else 0.97 - 0.02 * weight
        figures["validation_entropy"] = 0.6 - 0.1 * weight + 0.02 * (run.unit - 100.5)
        outcomes.append(Outcome(run, figures))
    text = choose_doses(outcomes, tmp_path, setup.protocol, frozen.RANGE)
    assert "| focus-0.3 | 0.3 | 0.570 | 0.980 |" in text
    assert "| arm | weight | validation entropy | closed-balanced AUC |" in text
    # At 1 the AUC is .95, .03 below that of ce; at .3 it is not below.
    assert text.endswith("aggressive: 0.3\nwide: 0.6")
    own_data = [replace(o, figures={**o.figures, "closed_balanced": math.nan}) for o in outcomes]
    text = choose_doses(own_data, tmp_path, setup.protocol, frozen.RANGE)
    assert text.endswith("aggressive: 3\nwide: 0.6")
    chosen = yaml.safe_load((tmp_path / "doses.yaml").read_text())
    assert chosen["saliency-aggressive"] == {"focus_weight": 3.0}
    assert chosen["wide"]["entropy_target"] == 0.6


def test_an_aim_is_the_mean_on_validation_at_the_kept_epochs(tmp_path: Path) -> None:
    setup = make_setup(ExperimentConfig(output=str(tmp_path), scale=True, search=True))
    outcomes = []
    for run in grid(setup, {"wide": setup.protocol.arms["wide"]}, [100, 101]):
        run.folder.mkdir(parents=True)
        columns = "epoch,eval_cam_range,eval_entropy_z,eval_entropy,eval_auc\n"
        kept = f"2,{12 + run.unit % 2},.7,.3,.98\n"
        (run.folder / "summary.csv").write_text(f"{columns}1,9,9,9,9\n{kept}3,9,9,9,9\n")
        outcomes.append(Outcome(run, {"epoch": 2.0}, "c0ffee"))
    text = write_aims(outcomes, tmp_path)
    assert text.splitlines()[0] == "| arm | range | h_z | h | AUC |"
    assert text.splitlines()[2:] == ["| `wide` | 12.5 | 0.7 | 0.3 | 0.98 |"]
    with (tmp_path / "aims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["draw"], row["range"]) for row in rows] == [
        ("wide", "100", "12"),
        ("wide", "101", "13"),
    ]
