"""The demo set as files: a run from them is the run from the embedded set."""

from pathlib import Path

import numpy as np
import pytest

from focus.config.command_line import parse
from focus.config.data import DemoConfig
from focus.config.train import ResolvedTrainConfig, TrainConfig, resolve
from focus.data.bad_files import without_digests
from focus.data.demo import demo_manifest
from focus.data.demo.files import write_demo, write_files
from focus.data.images import load_image, load_map
from focus.data.manifest import Manifest, Sample
from focus.data.maps import human_map
from focus.data.readers import read_given
from focus.data.training_set import training_manifest
from focus.errors import InputError

from ..reading import read_data

SPLITS = {
    "train": {"real": 8, "known-1": 5, "known-2": 4},
    "validation": {"real": 4, "known-1": 2, "known-2": 2},
    "closed": {"real": 3, "known-1": 2, "known-2": 2},
    "closed_balanced": {"real": 2, "known-1": 2},
    "open": {"real": 4, "near-1": 2, "far-1": 2, "global": 2},
}


@pytest.fixture(scope="module")
def built_in(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return demo_manifest(tmp_path_factory.mktemp("cache"), progress=False, splits=SPLITS)


@pytest.fixture(scope="module")
def folder(built_in: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("demo") / "files"
    write_files(built_in, written, progress=False)
    return written


def config(folder: Path, *more: str) -> ResolvedTrainConfig:
    """Of the command that the program prints."""
    data = ["--recipe=demo", f"--data={folder}/train.csv"]
    tests = [f"--test-data={n}={folder}/{n}.csv" for n in ("closed", "closed_balanced", "open")]
    return resolve(parse(TrainConfig, [*data, *tests, *more]))


def test_the_files_read_as_the_embedded_set(built_in: Manifest, folder: Path) -> None:
    from_files = list(map(without_digests, training_manifest(config(folder), progress=False)))
    assert len(from_files) == len(built_in) == 46
    for ours, theirs in zip(from_files, built_in, strict=True):
        for name in ("label", "generator", "split", "test_set"):
            assert getattr(ours, name) == getattr(theirs, name), (name, ours)
        np.testing.assert_array_equal(load_image(ours.path), load_image(theirs.path))
        assert (ours.human_map is None) == (theirs.human_map is None)
        if ours.human_map and theirs.human_map:
            assert Path(ours.human_map).stem == Path(ours.path).stem
            np.testing.assert_array_equal(human_map(ours.human_map), human_map(theirs.human_map))
        if theirs.split == "test":  # a mask has no place in CYBORG's CSV
            assert ours.extra == theirs.extra
            assert (ours.mask_path is None) == (theirs.mask_path is None)
            if ours.mask_path and theirs.mask_path:
                np.testing.assert_array_equal(load_map(ours.mask_path), load_map(theirs.mask_path))


def test_the_csv_is_cyborgs(folder: Path) -> None:
    rows = [line.split(",") for line in (folder / "train.csv").read_text().splitlines()]
    assert rows[0] == ["train", "Real", "/images/train/real/train_real_0000.png"]
    assert rows[8] == [
        "train",
        "Synthetic",
        "/images/train/known-1/train_known-1_0000.png",
        "known-1",
    ]
    maps = {path.name for path in (folder / "heatmaps").iterdir()}
    assert maps == {Path(row[2]).name for row in rows}


def test_the_open_set_is_there_a_csv_for_each_source(folder: Path) -> None:
    tests = {name: str(folder / f"{name}.csv") for name in ("near-1", "far-1", "global")}
    reals = {"demo": str(folder / "reals.csv")}
    found = read_given(TrainConfig(test_data=tests, test_real=reals)).tests

    def told(samples: Manifest) -> set[tuple[str, int | None, str, str]]:
        return {(s.path, s.label, s.generator * (s.label or 0), s.split) for s in samples}

    assert told(found) == told(Manifest.from_csv(folder / "open.csv"))


def test_a_folder_in_use_is_refused(built_in: Manifest, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("do not touch")
    with pytest.raises(InputError, match=r"^The folder .* holds files already"):
        write_files(built_in, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_says_how_the_files_are_used(
    built_in: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("focus.data.demo.files.demo_manifest", lambda: built_in)
    write_demo(parse(DemoConfig, [str(tmp_path / "new")]))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "focus train" in line]
    printed = parse(TrainConfig, line.split("focus train ")[1].split())
    assert resolve(printed) == config(tmp_path / "new")
    assert isinstance(read_data(printed.data[0])[0], Sample)
