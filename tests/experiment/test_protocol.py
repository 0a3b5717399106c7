"""Which runs there are, in which order, what is frozen, and the weights that are given."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from focus.config.experiment import ExperimentConfig
from focus.config.losses import LOSSES
from focus.config.options import flat
from focus.config.train import resolve
from focus.errors import InputError
from focus.experiment import frozen
from focus.experiment.__main__ import check_arms, make_setup, read_weights
from focus.experiment.frozen import RANGE
from focus.experiment.protocol import Arm, Setup, arms_of, grid


def setup_in(folder: Path, **settings: Any) -> Setup:
    return make_setup(ExperimentConfig(output=str(folder), **settings))


def test_the_default_grid(tmp_path: Path) -> None:
    runs = grid(setup_in(tmp_path), frozen.GRID.arms, frozen.GRID.units)
    assert len(runs) == len({run.folder for run in runs}) == 20 * 2 * 6
    # Whole draws first, so that an experiment that is cut short can be read; both worlds together.
    assert [run.unit for run in runs] == sorted(run.unit for run in runs)
    assert [(run.arm, run.world) for run in runs[:3]] == [
        ("ce", "90"),
        ("ce", "50"),
        ("focus", "90"),
    ]
    assert runs[-1].folder == tmp_path / "runs" / "perfect-focus-50-19"
    assert {run.config.seed for run in runs if run.unit == 7} == {7}
    # Losses are compared at equal epochs.
    assert {run.config.epochs for run in runs} == {16}
    # One's own data have no worlds.
    of_user = setup_in(tmp_path, data=("x.csv",))
    arms = arms_of(of_user.protocol, ["ce", "hinge"])
    names = [run.name for run in grid(of_user, arms, range(2))]
    assert names == ["ce-00", "hinge-00", "ce-01", "hinge-01"]


def test_arms_of_a_draw_differ_in_their_loss_or_their_maps_alone(tmp_path: Path) -> None:
    # Whatever the search gives blend, its control has it too.
    chosen = {**frozen.CHOSEN, "blend": {"epochs": 16, "focus_weight": 0.7, "saliency_weight": 3.0}}
    runs = {
        run.arm: resolve(run.config)
        for run in grid(replace(setup_in(tmp_path), chosen=chosen), frozen.GRID.arms, [1])
        if run.world == "90"
    }
    assert runs.keys() == frozen.GRID.arms.keys()
    loss = {"loss", "name"}
    for arm, config in runs.items():
        differ = {n for n in vars(config) if getattr(runs["ce"], n) != getattr(config, n)}
        images = frozen.GRID.arms[arm].images
        assert differ <= loss | ({"data"} if images != "own" else set()), arm
    assert runs["blend"].loss.focus_weight == 0.7
    for arm, of, images in (
        ("blend-shuffled", "blend", "shuffled"),
        ("perfect-focus", "saliency", "masks"),
    ):
        assert runs[arm].data == (str(tmp_path / "data" / f"90-01-{images}.csv"),)
        same = replace(runs[arm], data=runs[of].data, name=runs[of].name)
        settings = {n: flat(runs[of])[n] for n in frozen.GRID.arms[arm].settings}
        assert same.changed(**settings) == runs[of]


def test_the_range_is_frozen(tmp_path: Path) -> None:
    setup = setup_in(tmp_path, range=True)
    runs = grid(setup, RANGE.arms, RANGE.units)
    assert Counter(run.world for run in runs) == {"90": 10 * 16, "50": 9 * 16}
    # One world after the other; each is reported when it is whole.
    assert [run.world for run in runs] == ["90"] * 160 + ["50"] * 144
    assert {run.unit for run in runs} == set(range(20, 36))
    assert {(r.config.epochs, r.config.mixed_precision) for r in runs} == {(24, "bf16")}
    weights = {r.arm: resolve(r.config).loss.focus_weight for r in runs}
    assert 0 == weights["ce"] < weights["faint"] < weights["mild"] < weights["strong"]
    assert weights["strong"] == weights["saliency-strong"] < weights["aggressive"]
    (wide,) = (r for r in runs if (r.arm, r.unit) == ("wide", 20))
    assert resolve(wide.config).loss.focus_level == "match"
    assert "entropy_target" in wide.settings
    for test in RANGE.tests:
        assert sum(test.contrast.weights.values()) == pytest.approx(0)
        assert {r.arm for r in runs if r.world == test.world} >= test.contrast.weights.keys()
    # The gate and the search for the weights are of spare draws.
    for more in ({"headroom": True}, {"range": True, "search": True}):
        spare = setup_in(tmp_path, **more)
        assert spare.output.parent == tmp_path
        assert min(spare.protocol.units) >= 100
    with pytest.raises(InputError, match="leave --data out"):
        setup_in(tmp_path, headroom=True, data=("x.csv",))
    search = {"photographs": True, "search": True}  # else on splits that are tested
    for question in ({"range": True}, {"headroom": True}, {"recipes": "npr"}, search):
        for more in ({"seeds": 2}, {"quick": True}):
            with pytest.raises(InputError, match="draws of its own: leave --seeds and --quick out"):
                setup_in(tmp_path, **question, **more)


def test_place_has_three_arms_in_two_worlds_on_draws_of_its_own(tmp_path: Path) -> None:
    setup = setup_in(tmp_path, place=True)
    runs = grid(setup, setup.protocol.arms, setup.protocol.units)
    # The world of the primary first: each is reported when it is whole.
    assert [run.world for run in runs] == ["90-cast"] * 36 + ["90"] * 36
    used = {*frozen.GRID.units, *RANGE.units, *range(40, 46), *frozen.SPARE}
    assert not used & {run.unit for run in runs}
    assert {(r.config.epochs, r.config.mixed_precision) for r in runs} == {(6, "bf16")}
    names = {run.folder.name for run in runs if run.unit == 50}
    assert names >= {"ce-90-50", "ce-90-cast-50", "shuffled-90-cast-50"}
    primary, *others = setup.protocol.tests
    assert (primary.contrast.name, primary.world) == ("`saliency` - `ce`", "90-cast")
    assert {test.world for test in others} == {"90-cast", "90 - 90-cast"}
    # How strong the shortcut is was seen by cross-entropy alone, on spare draws.
    spare = setup_in(tmp_path, place=True, search=True)
    runs = grid(spare, spare.protocol.arms, spare.protocol.units)
    assert {(run.arm, run.unit in frozen.SPARE) for run in runs} == {("ce", True)}
    with pytest.raises(InputError, match="--place is of the embedded benchmark"):
        setup_in(tmp_path, place=True, data=("x.csv",))


def test_scale_holds_the_range_or_the_shape_at_that_of_wide(tmp_path: Path) -> None:
    setup = setup_in(tmp_path, scale=True)
    runs = grid(setup, setup.protocol.arms, setup.protocol.units)
    assert [run.unit for run in runs] == sorted(4 * [*range(70, 82)])
    assert {run.world for run in runs} == {"90"}
    arms = {run.arm: run for run in runs if run.unit == 70}
    losses = {arm: resolve(run.config).loss for arm, run in arms.items()}
    # The held arms minimise the entropy as aggressive does, and differ from it by what they hold.
    assert losses["range-held"] == losses["shape-held"] == losses["saliency-aggressive"]
    assert (losses["wide"].focus_level, losses["wide"].saliency_weight) == ("match", 5)
    assert {arm: run.hold for arm, run in arms.items() if run.hold} == {
        "range-held": ("range", 12.7),
        "shape-held": ("entropy_z", 0.74),
    }
    assert arms["range-held"].settings.endswith(", range held at 12.7")
    assert arms["shape-held"].settings.endswith(", entropy_z held at 0.74")
    assert {test.contrast.weights["wide"] for test in setup.protocol.tests} == {-1}
    # The aims were seen on spare draws, without an image of an unknown generator.
    spare = setup_in(tmp_path, scale=True, search=True)
    runs = grid(spare, spare.protocol.arms, spare.protocol.units)
    assert {(run.images, run.unit in frozen.SPARE) for run in runs} == {("untested", True)}


def test_recipes_are_trained_alike_from_scratch_with_and_without_maps(tmp_path: Path) -> None:
    setup = setup_in(tmp_path, recipes="npr,cnndetection,xception")
    runs = grid(setup, setup.protocol.arms, setup.protocol.units)
    assert Counter(run.unit for run in runs) == dict.fromkeys(range(40, 46), 8)
    assert {run.world for run in runs} == {"90"}
    configs = {run.arm: resolve(run.config) for run in runs if run.unit == 40}
    alike = {(c.epochs, c.batch_size, c.opt, c.sched, c.image_size) for c in configs.values()}
    assert alike == {(16, 32, "adamw", "one-cycle", 96)}
    assert {(c.pretrained, c.mixed_precision) for c in configs.values()} == {(False, "bf16")}
    assert {name: c.lr for name, c in configs.items() if name in ("ce", "npr")} == {
        "ce": 3e-3,
        "npr": 1e-3,
    }
    npr = configs["npr-blend"]
    assert (npr.recipe, npr.model, npr.input, npr.fit) == ("npr", "resnet50_npr", "npr", "crop")
    assert (npr.loss.name, npr.loss.saliency_weight, configs["npr"].loss.name) == (
        "blend",
        5.0,
        "ce",
    )
    assert configs["xception"].augment == "flip,blur,jpeg"
    for test in setup.protocol.tests:
        assert sum(test.contrast.weights.values()) == pytest.approx(0)
        assert configs.keys() >= test.contrast.weights.keys()
    # One's own data have each as its authors train it.
    of_user = setup_in(tmp_path, recipes="univfd", data=("x.csv",))
    trained = {r.arm: resolve(r.config) for r in grid(of_user, of_user.protocol.arms, [0])}
    assert (trained["ce"].recipe, trained["ce"].epochs) == ("paper", 50)
    wanted = trained["univfd"]
    assert (wanted.epochs, wanted.lr, wanted.pretrained, wanted.tune) == (30, 1e-4, True, "head")
    with pytest.raises(InputError, match="give --data, or npr"):
        setup_in(tmp_path, recipes="univfd")
    with pytest.raises(InputError, match="--recipe got 'nrp'"):
        setup_in(tmp_path, recipes="nrp")


def test_settings_of_another_recipe_and_of_another_loss(tmp_path: Path) -> None:
    of_user = setup_in(tmp_path, data=("x.csv",))
    paper = grid(of_user, arms_of(of_user.protocol, ["ce", "hinge"]), [0])
    assert [run.config.epochs for run in paper] == [50, 50]
    assert resolve(paper[1].config).loss.focus_weight == LOSSES["hinge"].focus_weight
    (short,) = grid(setup_in(tmp_path, train={"epochs": "2"}), {"ce": Arm("ce")}, [0])[:1]
    assert short.config.epochs == 2
    with pytest.raises(InputError, match="--train has focus_weight, which"):
        setup_in(tmp_path, train={"recipe": "demo", "focus_weight": "0.3"})
    names = [*frozen.GRID.arms, *LOSSES]
    check_arms(["blend-shuffled", "match"], names)
    with pytest.raises(InputError, match=r"'blend-shufled' .did you mean blend-shuffled"):
        check_arms(["blend-shufled"], names)


def test_the_range_on_own_data(tmp_path: Path) -> None:
    (tmp_path / "doses.yaml").write_text(
        "{strong: {focus_weight: .2}, saliency-strong: {focus_weight: .2}, "
        "wide: {focus_weight: 1, focus_level: match, entropy_target: .7}}"
    )
    (tmp_path / "train.yaml").write_text("{image_size: 96, recipe: foundation, pretrained: no}")
    setup = setup_in(
        tmp_path,
        range=True,
        data=("x.csv",),
        weights=str(tmp_path / "doses.yaml"),
        train={"config": str(tmp_path / "train.yaml"), "workers": "3"},
    )
    runs = grid(setup, setup.protocol.arms, setup.protocol.units)
    assert {run.unit for run in runs} == set(range(10))
    configs = {run.arm: resolve(run.config) for run in runs if run.unit == 4}
    assert (
        configs["strong"].loss.focus_weight == configs["saliency-strong"].loss.focus_weight == 0.2
    )
    assert configs["saliency-strong"].loss.saliency_weight == 5
    assert configs["mild"].loss.focus_weight == RANGE.arms["mild"].settings["focus_weight"]
    assert (configs["wide"].loss.entropy_target, configs["ce"].loss.focus_weight) == (0.7, 0)
    for config in configs.values():
        same = config.recipe, config.epochs, config.image_size, config.mixed_precision
        assert same == ("foundation", 300, 96, "no")
        assert (config.pretrained, config.workers, config.seed) == (False, 3, 4)
    # Runs of another image size are others.
    assert all("image_size 96" in run.settings and "workers" not in run.settings for run in runs)


def test_weights_of_a_search_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text("focus: {epochs: 7, focus_weight: 3e-1}\n")
    weights = read_weights(path, frozen.GRID)
    assert weights["focus"] == {"epochs": 7, "focus_weight": 0.3}
    assert weights["blend"] == frozen.CHOSEN["blend"]
    (run,) = grid(setup_in(tmp_path, weights=str(path)), {"focus": Arm("focus")}, [0])[:1]
    assert (run.config.epochs, run.config.loss.focus_weight) == (7, 0.3)
    for text, message in (
        ("focus: {focus_wait: 0.3}", r"--focus-wait .did you mean --focus-weight"),
        ("blendd: {focus_weight: 0.3}", r"--losses got 'blendd' .did you mean blend"),
        ("focus: 3", "cannot be read"),
        ("{", "cannot be read"),
        ("focus: {focus_weight: much}", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_weights(path, frozen.GRID)
