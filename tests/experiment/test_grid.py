"""Which runs there are, what is frozen, and the weights that a search chose."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from focus.config.experiment import ExperimentConfig
from focus.config.train import resolve
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.__main__ import make_setup
from focus.experiment.grid import Run, Setup, grid, read_weights, search_runs


def setup_in(folder: Path) -> Setup:
    return make_setup(ExperimentConfig(output=str(folder)))


def whole_grid(setup: Setup) -> list[Run]:
    return grid(setup, list(frozen.ARMS), seeds=3, lengths=(1, 2), doses=frozen.DOSES)


def test_the_default_grid(tmp_path: Path) -> None:
    runs = whole_grid(setup_in(tmp_path))
    # 11 arms of 3 seeds and 2 lengths; of 6 weights, two are cross-entropy and focus.
    assert len(runs) == len({run.folder for run in runs}) == 11 * 3 * 2 + 4 * 3
    counts = Counter(run.dose for run in runs if run.dose is not None)
    assert counts == dict.fromkeys(frozen.DOSES, 3)
    assert {run.config.epochs for run in runs} == {20, 40}
    # Whole seeds first, so that an experiment that is cut short can be read.
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    two = replace(setup_in(tmp_path), models=("focus_small", "hub/other"))
    found = grid(two, ["ce", "focus"], seeds=1, lengths=(1,), doses=frozen.DOSES)
    for model in ("focus_small", "hub_other"):
        doses = [run.dose for run in found if run.model == model and run.dose is not None]
        assert sorted(doses) == list(frozen.DOSES)


def test_arms_of_a_seed_differ_in_their_loss_or_their_maps_alone(tmp_path: Path) -> None:
    # Whatever the search gives blend, its controls have it too.
    weights = {**frozen.WEIGHTS, "blend": {"focus_weight": 0.7, "saliency_weight": 3.0}}
    found = whole_grid(replace(setup_in(tmp_path), weights=weights))
    runs = {run.arm: resolve(run.config) for run in found if (run.seed, run.length) == (1, 1)}
    loss = {"loss", "cam_class", "classification_weight", "focus_weight", "saliency_weight"}
    loss |= {"focus_level", "entropy_target", "name"}
    for arm, config in runs.items():
        differ = {n for n in vars(config) if getattr(runs["ce"], n) != getattr(config, n)}
        control = arm in ("blend-shuffled", "blend-center")
        assert differ <= loss | ({"data"} if control else set()), arm
    blend = runs["blend"]
    assert blend.focus_weight == 0.7
    for arm, name in (("blend-shuffled", "shuffled"), ("blend-center", "center")):
        assert runs[arm].data == (str(tmp_path / "data" / f"{name}.csv"),)
        assert replace(runs[arm], data=blend.data, name=blend.name) == blend


def test_the_search_is_of_equal_size_and_what_is_frozen_is_in_it(tmp_path: Path) -> None:
    assert len({len(candidates) for candidates in frozen.SEARCH.values()}) == 1
    assert frozen.RECIPE in frozen.SEARCH["ce"]
    for arm, weights in frozen.WEIGHTS.items():
        assert arm == "ce" or weights in frozen.SEARCH[arm], arm
    assert set(frozen.SEARCH) == {arm for arm, about in frozen.ARMS.items() if about.maps == "own"}
    assert not set(frozen.SEARCH_SEEDS) & set(range(frozen.SEEDS))
    found = search_runs(setup_in(tmp_path), ["ce", "blend"], tmp_path / "data.csv")
    folders = [run.folder for *_, runs in found for run in runs]
    assert len(set(folders)) == len(folders) == 2 * 4 * 2
    assert found[2][2][0].config.lr == 4e-3
    # Another recipe's optimiser: round its own learning rate, its weight decay as it is.
    paper = make_setup(ExperimentConfig(output=str(tmp_path), recipe="paper"))
    own = search_runs(paper, ["ce"], tmp_path / "data.csv")
    assert [runs[0].config.lr for *_, runs in own] == pytest.approx([0.0025, 0.005, 0.01, 0.02])


def test_weights_of_a_search_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text("ce: {lr: 4e-3}\nfocus: {focus_weight: 0.3}\n")
    recipe, weights = read_weights(path)
    assert (recipe, weights["focus"]) == ({"lr": 0.004}, {"focus_weight": 0.3})
    assert weights["blend"] == frozen.WEIGHTS["blend"]
    # A search of some losses leaves the recipe as it is.
    path.write_text("focus: {focus_weight: 0.3}\n")
    assert read_weights(path)[0] is None
    for text, message in (
        ("focus: {focus_wait: 0.3}", r"'focus_wait' .did you mean focus_weight"),
        ("blend-centre: {focus_weight: 0.3}", r"--losses got 'blend-centre' .did you mean blend"),
        ("focus: 3", "cannot be read"),
        ("{", "cannot be read"),
        ("focus: {focus_weight: much}", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_weights(path)
