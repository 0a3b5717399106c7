"""Which runs there are, in which order, what is frozen, and the weights that a search chose."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from focus.config.experiment import ExperimentConfig
from focus.config.losses import LOSSES
from focus.config.train import resolve
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.__main__ import make_setup
from focus.experiment.grid import Run, Setup, arm_of, check_arms, grid, read_weights, search_runs


def setup_in(folder: Path, **settings: Any) -> Setup:
    return make_setup(ExperimentConfig(output=str(folder), **settings))


def whole_grid(setup: Setup) -> list[Run]:
    return grid(setup, list(frozen.ARMS), units=20, doses=frozen.DOSES, dose_units=5)


def test_the_default_grid(tmp_path: Path) -> None:
    runs = whole_grid(setup_in(tmp_path))
    assert len(runs) == len({run.folder for run in runs}) == 20 * 2 * 6 + 5 * 4
    counts = Counter(run.arm for run in runs)
    assert {counts[arm] for arm in frozen.ARMS} == {40}
    assert {(run.arm, run.world) for run in runs if run.arm in frozen.DOSES} == {
        (arm, "90") for arm in frozen.DOSES
    }
    # Whole draws first, so that an experiment that is cut short can be read; both worlds together.
    assert [run.unit for run in runs] == sorted(run.unit for run in runs)
    assert [(run.arm, run.world) for run in runs[:3]] == [
        ("ce", "90"),
        ("ce", "50"),
        ("focus", "90"),
    ]
    assert runs[-1].folder == tmp_path / "runs" / "perfect-focus-50-19"
    assert {run.config.seed for run in runs if run.unit == 7} == {7}
    # One's own data have no worlds.
    own = grid(setup_in(tmp_path, data=("x.csv",)), ["ce", "hinge"], units=2)
    assert [run.name for run in own] == ["ce-00", "hinge-00", "ce-01", "hinge-01"]


def test_arms_of_a_draw_differ_in_their_loss_its_epochs_or_their_maps_alone(tmp_path: Path) -> None:
    # Whatever the search gives blend, its control has it too.
    chosen = {**frozen.CHOSEN, "blend": {"epochs": 3, "focus_weight": 0.7, "saliency_weight": 3.0}}
    found = whole_grid(replace(setup_in(tmp_path), chosen=chosen))
    runs = {run.arm: resolve(run.config) for run in found if (run.world, run.unit) == ("90", 1)}
    assert runs.keys() == frozen.ARMS.keys() | frozen.DOSES.keys()
    loss = {"loss", "focus_weight", "saliency_weight", "focus_level", "epochs", "name"}
    for arm, config in runs.items():
        differ = {n for n in vars(config) if getattr(runs["ce"], n) != getattr(config, n)}
        assert differ <= loss | ({"data"} if arm_of(arm).maps != "own" else set()), arm
    assert runs["blend"].focus_weight == 0.7
    for arm, of, maps in (
        ("blend-shuffled", "blend", "shuffled"),
        ("blend-5", "blend", "5"),
        ("perfect-focus", "saliency", "masks"),
    ):
        assert runs[arm].data == (str(tmp_path / "data" / f"90-01-{maps}.csv"),)
        same = replace(runs[arm], data=runs[of].data, name=runs[of].name)
        assert (
            replace(same, **{n: getattr(runs[of], n) for n in frozen.FIXED.get(arm, {})})
            == runs[of]
        )


def test_the_search_is_of_spare_draws_and_what_is_frozen_is_in_it(tmp_path: Path) -> None:
    for loss, settings in frozen.CHOSEN.items():
        assert settings in frozen.SEARCH[loss], loss
    assert frozen.CHOSEN.keys() == frozen.SEARCH.keys()
    assert {arm.loss for arm in (*frozen.ARMS.values(), *frozen.DOSES.values())} <= set(
        frozen.CHOSEN
    )
    assert frozen.FOLDS == ((100, 0), (101, 1), (102, 2))  # draws that the grid has not
    assert frozen.DRAWS <= 100
    found = search_runs(setup_in(tmp_path), ["ce", "blend"])
    runs = [run for *_, own in found for run in own]
    assert (
        len({run.folder for run in runs})
        == len(runs)
        == 3 * sum(len(frozen.SEARCH[loss]) for loss in ("ce", "blend"))
    )
    assert runs[0].data == tmp_path / "search" / "data" / "90-100-left0.csv"


def test_settings_of_another_recipe_and_of_another_loss(tmp_path: Path) -> None:
    paper = grid(setup_in(tmp_path, data=("x.csv",)), ["ce", "hinge"], units=1)
    assert [run.config.epochs for run in paper] == [50, 50]
    assert resolve(paper[1].config).focus_weight == LOSSES["hinge"].focus_weight
    (short,) = grid(setup_in(tmp_path, epochs=2), ["ce"], units=1)[:1]
    assert short.config.epochs == 2
    check_arms(["blend-shuffled", "match"])
    with pytest.raises(InputError, match=r"'blend-shufled' .did you mean blend-shuffled"):
        check_arms(["blend-shufled"])


def test_weights_of_a_search_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text("focus: {epochs: 7, focus_weight: 3e-1}\n")
    weights = read_weights(path)
    assert weights["focus"] == {"epochs": 7, "focus_weight": 0.3}
    assert weights["blend"] == frozen.CHOSEN["blend"]
    (run,) = grid(setup_in(tmp_path, weights=str(path)), ["focus"], units=1)[:1]
    assert (run.config.epochs, run.config.focus_weight) == (7, 0.3)
    for text, message in (
        ("focus: {focus_wait: 0.3}", r"'focus_wait' .did you mean focus_weight"),
        ("blendd: {focus_weight: 0.3}", r"--losses got 'blendd' .did you mean blend"),
        ("focus: 3", "cannot be read"),
        ("{", "cannot be read"),
        ("focus: {focus_weight: much}", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_weights(path)
