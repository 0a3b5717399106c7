"""The experiment: which runs there are, what they train on, what the search chooses; real runs."""

import json
import re
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus.config.command_line import parse
from focus.config.experiment import ExperimentConfig
from focus.config.options import flag
from focus.config.train import TrainConfig, resolve, write_config
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.data.maps import human_map
from focus.errors import InputError
from focus.experiment import frozen, search
from focus.experiment.__main__ import _has_closed, _setup, _with_maps
from focus.experiment.collect import read_json
from focus.experiment.data import (
    centered_maps,
    shuffled_maps,
    without_tests,
    write_data,
    write_once,
)
from focus.experiment.grid import Run, Setup, grid, maps_needed, read_weights, search_runs
from focus.experiment.run import is_finished, words

from ..commands import experiment as main

CHECKOUT = Path(__file__).parents[2]


def setup_in(folder: Path) -> Setup:
    return Setup(folder, "demo", ("focus_small",), frozen.RECIPE)


def whole_grid(folder: Path) -> list[Run]:
    arms = list(frozen.ARMS)
    return grid(setup_in(folder), arms, seeds=3, lengths=(1, 2), doses=frozen.DOSES)


def test_the_default_grid(tmp_path: Path) -> None:
    runs = whole_grid(tmp_path)
    # 11 arms of 3 seeds and 2 lengths; of 6 weights, two are cross-entropy and focus.
    assert len(runs) == len({run.folder for run in runs}) == 11 * 3 * 2 + 4 * 3
    assert Counter(run.dose for run in runs if run.dose is not None) == dict.fromkeys(
        frozen.DOSES, 3
    )
    assert {run.config.epochs for run in runs} == {20, 40}
    # Whole seeds first, so that an experiment that is cut short can be read.
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


def test_each_model_has_all_doses(tmp_path: Path) -> None:
    setup = replace(setup_in(tmp_path), models=("focus_small", "hub/other"))
    runs = grid(setup, ["ce", "focus"], seeds=1, lengths=(1,), doses=frozen.DOSES)
    for model in ("focus_small", "hub_other"):
        found = [run.dose for run in runs if run.model == model and run.dose is not None]
        assert sorted(found) == list(frozen.DOSES)


def test_arms_of_a_seed_differ_in_their_loss_or_their_maps_alone(tmp_path: Path) -> None:
    runs = {run.arm: run for run in whole_grid(tmp_path) if run.seed == 1 and run.length == 1}
    loss = {"loss", "cam_class", "classification_weight", "focus_weight", "saliency_weight"}
    loss |= {"focus_level", "entropy_target", "name"}
    ce = resolve(runs["ce"].config)
    for arm, run in runs.items():
        config = resolve(run.config)
        differ = {name for name in vars(ce) if getattr(ce, name) != getattr(config, name)}
        control = frozen.ARMS[arm].maps != "own" if arm != "dose" else False
        assert differ <= loss | ({"data"} if control else set()), arm
    # Whatever the search gives blend, its controls have it too.
    other = {**frozen.WEIGHTS, "blend": {"focus_weight": 0.7, "saliency_weight": 3.0}}
    setup = replace(setup_in(tmp_path), weights=other)
    runs = {run.arm: run for run in grid(setup, list(frozen.ARMS), seeds=1, lengths=(1,))}
    blend = resolve(runs["blend"].config)
    assert blend.focus_weight == 0.7
    for arm, name in (("blend-shuffled", "shuffled"), ("blend-center", "center")):
        control_config = resolve(runs[arm].config)
        assert control_config.data == (str(tmp_path / "data" / f"{name}.csv"),)
        assert replace(control_config, data=blend.data, name=blend.name) == blend


def test_flags_give_the_configuration_back(tmp_path: Path) -> None:
    configs = [run.config for run in whole_grid(tmp_path)]
    configs += [
        TrainConfig(data=("a", "b c"), test_data={"x": "y=z"}, pretrained=False, compile=True),
        TrainConfig(loss="focus", focus_weight=0.0, classification_weight=1e-05, workers=0),
    ]
    for config in configs:
        assert parse(TrainConfig, words(config)) == config


def test_the_search_is_of_equal_size_and_what_is_frozen_is_in_it(tmp_path: Path) -> None:
    assert len({len(candidates) for candidates in frozen.SEARCH.values()}) == 1
    assert frozen.RECIPE in frozen.SEARCH["ce"]
    for arm, weights in frozen.WEIGHTS.items():
        assert arm == "ce" or weights in frozen.SEARCH[arm], arm
    assert set(frozen.SEARCH) == {arm for arm, about in frozen.ARMS.items() if not about.like}
    assert not set(frozen.SEARCH_SEEDS) & set(range(frozen.SEEDS))
    found = search_runs(setup_in(tmp_path), ["ce", "blend"], tmp_path / "data.csv")
    folders = [run.folder for groups in found.values() for group in groups for run in group]
    assert len(set(folders)) == len(folders) == 2 * 4 * 2
    assert found["ce"][2][0].config.lr == 4e-3
    # Another recipe's optimiser: round its own learning rate, its weight decay as it is.
    paper = replace(setup_in(tmp_path), recipe="paper", recipe_settings={})
    own = search_runs(paper, ["ce"], tmp_path / "data.csv")
    assert [group[0].config.lr for group in own["ce"]] == pytest.approx([0.0025, 0.005, 0.01, 0.02])
    assert all(group[0].config.weight_decay is None for group in own["ce"])


def test_unknown_losses_and_weights_are_answered_with_the_one_meant(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'blend-centre' .did you mean blend-center"):
        grid(setup_in(tmp_path), ["blend-centre"], seeds=1, lengths=(1,))
    path = tmp_path / "weights.yaml"
    path.write_text("ce: {lr: 0.004}\nfocus: {focus_weight: 0.3}\n")
    recipe, weights = read_weights(path)
    assert recipe == {"lr": 0.004}
    assert weights["focus"] == {"focus_weight": 0.3}
    assert weights["blend"] == frozen.WEIGHTS["blend"]
    path.write_text("focus: {focus_weight: 0.3}\n")
    assert read_weights(path)[0] is None
    path.write_text("focus: {focus_wait: 0.3}\n")
    with pytest.raises(InputError, match=r"'focus_wait' .did you mean focus_weight"):
        read_weights(path)
    path.write_text("blend-center: {focus_weight: 0.3}\n")  # it has the weights of blend
    with pytest.raises(InputError, match="blend-center"):
        read_weights(path)
    for text, message in (
        ("focus: 3", "must hold a mapping of settings for each loss"),
        ("{", "cannot be read"),
        ("1: {lr: 0.1}", "--losses got '1': it is one of"),
        ("ce: {1: 0.1}", "ce has '1', which is none of lr, weight_decay"),
        ("ce: {lr: 4e-3}", "ce has lr '4e-3', which is no number"),  # text to YAML
        ("focus: {focus_weight: true}", "focus has focus_weight True, which is no number"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_weights(path)


def test_weights_of_some_losses_leave_the_recipe_as_it_is(tmp_path: Path) -> None:
    """A search of ``focus`` alone trains with the frozen recipe, and says nothing of it."""
    path = tmp_path / "weights.yaml"
    path.write_text("focus: {focus_weight: 0.3}\n")
    flags = ["--weights", str(path)]
    made = _setup(parse(ExperimentConfig, flags))
    assert (made.recipe_settings, made.weights["focus"]) == (frozen.RECIPE, {"focus_weight": 0.3})
    assert _setup(parse(ExperimentConfig, [*flags, "--recipe", "paper"])).recipe_settings == {}
    path.write_text("ce: {lr: 0.004}\n")
    assert _setup(parse(ExperimentConfig, flags)).recipe_settings == {"lr": 0.004}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--test-data", "fakes/"], "--test-data got 'fakes/': give NAME=PATH."),
        (["--test-real", "A=x", "--test-real", "A=y"], "--test-real has the name 'A' twice"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0."),
        (["--epochs", "0"], "--epochs must be at least 1, got 0."),
        (["--workers", "-1"], "--workers must be at least 0, got -1."),
    ],
)
def test_names_and_numbers_that_cannot_be_used_are_refused(
    words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        main(["--report", "--output", str(tmp_path), *words])
    assert not any(tmp_path.iterdir())


def faces(folder: Path) -> Manifest:
    """Four training images a class with maps, one without; validation and test."""
    samples = []
    for label in (REAL, SYNTHETIC):
        for number in range(4):
            path = folder / f"{label}{number}.png"
            Image.fromarray(np.full((4, 4), 40 * number + label, np.uint8)).save(path)
            samples.append(Sample(f"/i/{path.name}", label, split="train", map_path=str(path)))
        samples.append(Sample(f"/i/{label}bare.png", label, split="train"))
        samples.append(Sample(f"/i/{label}v.png", label, split="validation", map_path="/m/v.png"))
        samples.append(Sample(f"/i/{label}t.png", label, split="test"))
    return Manifest(samples, "faces")


def test_losses_that_need_human_maps_are_left_out_where_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``match`` takes its target from the maps; the others that are left out compare with them."""
    with_maps, arms = faces(tmp_path), list(frozen.ARMS)
    assert _with_maps(setup_in(tmp_path), with_maps, arms) == arms
    assert not capsys.readouterr().out
    # Maps of other images than those of training are of no use.
    bare = with_maps.where(lambda sample: sample.split != "train" or sample.map_path is None)
    assert _with_maps(setup_in(tmp_path), bare, arms) == ["ce", "focus", "hinge", "focus-contrast"]
    assert capsys.readouterr().out.endswith(
        "left out: saliency, cyborg, match, blend, blend-contrast, blend-shuffled, blend-center\n"
    )
    # Without a weight of the maps blend needs none, but its controls are nothing without them.
    weights = {**frozen.WEIGHTS, "blend": {"focus_weight": 0.1, "saliency_weight": 0.0}}
    setup = replace(setup_in(tmp_path), weights=weights)
    assert _with_maps(setup, bare, ["blend", "blend-center"]) == ["blend"]
    with pytest.raises(InputError, match=r"which all losses given need \(match, cyborg\): give "):
        _with_maps(setup, bare, ["match", "cyborg"])


def test_shuffled_maps_are_anothers_of_the_same_class(tmp_path: Path) -> None:
    before = faces(tmp_path)
    after = shuffled_maps(before)
    for old, new in zip(before, after, strict=True):
        moved = old.split == "train" and old.map_path is not None
        assert (new.map_path != old.map_path) == moved
        assert replace(new, map_path=old.map_path) == old
    for label in (REAL, SYNTHETIC):
        kept = [[s.map_path for s in m if s.label == label] for m in (before, after)]
        assert Counter(kept[0]) == Counter(kept[1])
    assert list(shuffled_maps(before)) == list(after)


def test_the_center_is_the_mean_of_all_maps(tmp_path: Path) -> None:
    before, path = faces(tmp_path), tmp_path / "center.png"
    after = centered_maps(before, path)
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 8
    assert {sample.map_path for sample in changed} == {str(path)}
    assert all(sample.split == "train" for sample in changed)

    left, right = np.zeros((4, 4), np.uint8), np.zeros((8, 8), np.uint8)
    left[0, 0], right[:2, :2] = 255, 255
    right[6:, 6:] = 85
    Image.fromarray(left).save(tmp_path / "left.png")
    Image.fromarray(right).save(tmp_path / "right.png")
    two = [
        Sample(f"/i/{n}", SYNTHETIC, split="train", map_path=str(tmp_path / f"{n}.png"))
        for n in ("left", "right")
    ]
    centered_maps(Manifest(two), path)
    wanted = np.zeros((4, 4))
    wanted[0, 0], wanted[3, 3] = 1.0, 1 / 6  # (255 + 255, 0 + 85) / 2, over the largest
    assert human_map(str(path)) == pytest.approx(wanted, abs=1e-4)
    with pytest.raises(InputError, match="no mean"):
        centered_maps(before.split("test"), path)


def test_each_kind_of_maps_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Written once, found as it is by an experiment that goes on."""
    manifest, folder = faces(tmp_path), tmp_path / "new" / "data"
    found = {}
    for maps in maps_needed(frozen.ARMS):
        path = write_data(manifest, maps, folder)
        assert write_data(manifest, maps, folder) == path == folder / f"{maps}.csv"
        found[maps] = [sample.map_path for sample in Manifest.from_csv(path)]
    mean = centered_maps(manifest, folder / "center.png")
    expected = {"own": manifest, "shuffled": shuffled_maps(manifest), "center": mean}
    assert found == {maps: [s.map_path for s in own] for maps, own in expected.items()}


def test_the_search_has_no_test_images_and_data_do_not_change(tmp_path: Path) -> None:
    manifest = faces(tmp_path)
    path = tmp_path / "data" / "own.csv"
    write_once(without_tests(manifest), path)
    assert {sample.split for sample in Manifest.from_csv(path)} == {"train", "validation"}
    write_once(without_tests(manifest), path)
    with pytest.raises(InputError, match="other images"):
        write_once(manifest, path)
    assert len(Manifest.from_csv(path)) == 12


def test_a_search_that_saw_test_images_is_refused(tmp_path: Path) -> None:
    run = search_runs(setup_in(tmp_path), ["ce"], tmp_path / "data.csv")["ce"][0][0]
    run.folder.mkdir(parents=True)
    results = {"n_real": 0, "n_fake": 0, "model": {"validation_auc": 0.97}}
    (run.folder / "results.json").write_text(json.dumps(results))
    assert search.validation_auc(run) == 0.97
    (run.folder / "results.json").write_text(json.dumps({**results, "n_fake": 3}))
    with pytest.raises(InputError, match="3 test images"):
        search.validation_auc(run)


def test_results_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for text in ("{", "[" * 99_999):
        path.write_text(text)
        with pytest.raises(InputError, match=r"results.json cannot be read .*: remove its folder"):
            read_json(path)


def test_the_search_takes_the_best_mean_and_says_whether_cross_entropy_is_trained(
    tmp_path: Path,
) -> None:
    found = [
        search.Candidate("ce", {"lr": 1e-3}, (0.95, 0.92)),
        search.Candidate("ce", {"lr": 2e-3}, (0.94, 0.94)),
        search.Candidate("focus", {"focus_weight": 0.1}, (0.9, 0.9)),
        search.Candidate("focus", {"focus_weight": 0.3}, (0.9, 0.9)),
    ]
    said = search.write_search(found, tmp_path)
    assert "reaches 0.93 on each seed (lowest 0.9400) with the recipe lr 0.002" in said
    assert read_weights(tmp_path / "weights.yaml")[0] == {"lr": 2e-3}
    assert read_weights(tmp_path / "weights.yaml")[1]["focus"] == {"focus_weight": 0.1}
    assert "DOES NOT REACH" in search.recipe_line({"ce": found[0]})


def test_a_finished_run_may_differ_in_what_does_not_change_it(tmp_path: Path) -> None:
    """As --resume has it: how often it logs and saves computes nothing else."""
    run = grid(setup_in(tmp_path), ["focus"], seeds=1, lengths=(1,))[0]
    run.folder.mkdir(parents=True)
    config = resolve(run.config)
    write_config(replace(config, log_steps=7, workers=3), run.folder / "config.yaml")
    assert not is_finished(run)
    (run.folder / "results.json").write_text("{}")
    assert is_finished(run)
    write_config(replace(config, lr=0.5), run.folder / "config.yaml")
    with pytest.raises(InputError, match=r"was made with lr 0\.5, not"):
        is_finished(run)


@pytest.mark.parametrize(
    ("test_set", "generator", "closed"),
    [
        ("", "StyleGAN2", True),
        ("", "SG2", True),  # by another name
        ("", "SDXL", False),
        ("open", "StyleGAN2", False),
        ("closed", "SDXL", True),
        ("closed_balanced", "StyleGAN2", False),
    ],
)
def test_whether_there_will_be_a_closed_auc(test_set: Any, generator: str, closed: bool) -> None:
    train = Sample("a.png", 1, "StyleGAN2", split="train")
    real = Sample("b.png", 0, split="test")
    fake = Sample("c.png", 1, generator, split="test", test_set=test_set)
    assert _has_closed(Manifest([train, real, fake])) == closed
    assert not _has_closed(Manifest([train, real]))


def test_the_document_names_flags_and_files_that_there_are() -> None:
    text = (CHECKOUT / "docs" / "experiment.md").read_text(encoding="utf-8")
    known = {flag(field.name) for field in fields(ExperimentConfig)}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text)) - known == {"--loss"}  # train.py's
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (CHECKOUT / "docs" / target).exists(), target
    for name in (*frozen.ARMS, f"{frozen.REPLICATES:,}", *(f"{dose:g}" for dose in frozen.DOSES)):
        assert name in text
