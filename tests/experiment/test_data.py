"""The manifests that the experiment trains on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.config.experiment import ExperimentConfig
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, TestSet
from focus.errors import InputError
from focus.experiment.__main__ import make_setup
from focus.experiment.data import exact_maps, leave_out, shuffled_maps, trainable_arms, write_data
from focus.experiment.frozen import GRID
from focus.experiment.protocol import Arm, arms_of, grid
from focus.experiment.search import search_runs


def drawn(count: int = 20) -> Manifest:
    """A small draw: two known generators, an unknown one, and a closed-balanced test."""
    samples = []
    sets: tuple[tuple[Split, TestSet, tuple[str, str]], ...] = (
        ("train", "", ("k1", "k2")),
        ("validation", "", ("k1", "k2")),
        ("test", "closed", ("k1", "k2")),
        ("test", "closed_balanced", ("k1", "k2")),
        ("test", "open", ("u1", "global")),
    )
    for split, test_set, fakes in sets:
        for generator in ("", *fakes):
            for number in range(count):
                name = f"{test_set or split}/{generator or 'real'}/{number}.png"
                samples.append(
                    Sample(
                        f"/i/{name}",
                        SYNTHETIC if generator else REAL,
                        generator,
                        split=split,
                        test_set=test_set,
                        human_map=None if split == "test" else f"/m/{name}",
                        mask_path=f"/k/{name}" if generator else None,
                    )
                )
    return Manifest(samples)


def maps_of(manifest: Manifest, label: int) -> list[str | None]:
    return [s.human_map for s in manifest if s.split == "train" and s.label == label]


def test_shuffled_maps_are_others_of_the_same_class() -> None:
    whole = drawn()
    shuffled = shuffled_maps(whole, 1)
    for label in (REAL, SYNTHETIC):
        before, after = maps_of(whole, label), maps_of(shuffled, label)
        assert Counter(before) == Counter(after)
        assert all(a != b for a, b in zip(before, after, strict=True))
    assert shuffled == shuffled_maps(whole, 1) != shuffled_maps(whole, 2)
    assert [s for s in shuffled if s.split != "train"] == [s for s in whole if s.split != "train"]


def test_exact_maps_are_masks_and_whole_faces(tmp_path: Path) -> None:
    face = tmp_path / "face.png"
    rows = [
        Sample("real", 0, split="train", human_map="marks"),
        Sample("fake", 1, "g", split="train", human_map="marks", mask_path="mask"),
        Sample("global", 1, "g", split="train", human_map="marks"),
        Sample("test", 1, "g", split="test", human_map="marks", mask_path="mask"),
    ]
    maps = [sample.human_map for sample in exact_maps(Manifest(rows), face)]
    assert maps == [str(face), "mask", None, "marks"]
    assert 0.2 < np.asarray(Image.open(face)).mean() / 255 < 0.4


def test_the_search_sees_no_unknown_and_no_left_out_image_in_training() -> None:
    whole = drawn()
    fold = leave_out(whole, 1)
    assert {s.test_set for s in fold} == {""}
    assert not any(Path(s.path).parts[2] in ("open", "closed") for s in fold)
    assert fold.split("train").generators() == fold.split("validation").generators() == ["k1"]
    assert fold.split("test").generators() == ["k2"]
    assert all("closed_balanced" in s.path for s in fold.split("test"))
    assert Counter(s.label for s in fold.split("test")) == {REAL: 20, SYNTHETIC: 20}
    assert leave_out(whole, 2).split("test").generators() == ["k1"]
    # One's own data without a closed-balanced test: the validation images are shared out.
    fold = leave_out(whole.where(lambda s: not s.test_set), 0)
    assert Counter(s.label for s in fold.split("validation")) == {REAL: 10, SYNTHETIC: 20}
    assert Counter(s.label for s in fold.split("test")) == {REAL: 10, SYNTHETIC: 20}
    assert not {s.path for s in fold.split("test")} & {s.path for s in fold.split("validation")}
    with pytest.raises(InputError, match="all of them are of 'k1'"):
        leave_out(whole.where(lambda s: s.generator != "k2"), 0)


def test_the_manifest_of_a_run_has_its_maps_and_stays_as_it_is(tmp_path: Path) -> None:
    setup = make_setup(ExperimentConfig(output=str(tmp_path), quick=True))
    arms = {**GRID.arms, "weight": Arm("focus", "untested"), "dose": Arm("focus", "known")}
    runs = {run.arm: run for run in grid(setup, arms, [0])}
    for run in runs.values():
        write_data(run, lambda unit, world: drawn())
    assert Manifest.from_csv(runs["ce"].data) == drawn()
    perfect = Manifest.from_csv(runs["perfect-focus"].data)
    assert maps_of(perfect, REAL) == [str(runs["ce"].data.parent / "face.png")] * 20
    assert maps_of(perfect, SYNTHETIC) == [s.mask_path for s in drawn() if s.split == "train"][20:]
    # A weight is chosen without an image of an unknown generator.
    assert {s.test_set for s in Manifest.from_csv(runs["weight"].data)} == {"", "closed"}
    test_sets = {s.test_set for s in Manifest.from_csv(runs["dose"].data)}
    assert test_sets == {"", "closed", "closed_balanced"}
    # Nor is a test image of one's own, which names no test set: it is the same manifest.
    unnamed = [replace(s, test_set="" if s.test_set == "open" else s.test_set) for s in drawn()]
    write_data(runs["weight"], lambda unit, world: Manifest(unnamed))
    folds = search_runs(setup, ["ce"])[0].runs
    write_data(folds[0], lambda unit, world: drawn())
    assert Manifest.from_csv(folds[0].data) == leave_out(drawn(), 0)
    with pytest.raises(InputError, match="lists other images than those given now"):
        write_data(runs["ce"], lambda unit, world: drawn(8))


def test_losses_that_need_maps_or_masks_are_left_out_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = make_setup(ExperimentConfig(output=str(tmp_path)))
    arms = arms_of(GRID, ["ce", "focus", "hinge", "match", "blend-shuffled", "perfect-focus"])
    assert trainable_arms(setup, drawn(), arms) == arms
    bare = Manifest(Sample(s.path, s.label, s.generator, split=s.split) for s in drawn())
    assert list(trainable_arms(setup, bare, arms)) == ["ce", "focus", "hinge"]
    said = capsys.readouterr().out
    assert "has a human map, so without: match, blend-shuffled" in said
    assert "has an artefact mask, so without: perfect-focus" in said
    with pytest.raises(InputError, match="which all losses given need"):
        trainable_arms(setup, bare, arms_of(GRID, ["blend"]))
