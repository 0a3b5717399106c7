"""The demo set on disk: whole, verified, from one program or two, and written as files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus.config.command_line import parse
from focus.config.data import DemoConfig
from focus.config.train import ResolvedTrainConfig, TrainConfig, resolve
from focus.data.bad_files import without_digests
from focus.data.demo import demo_manifest, render_face
from focus.data.demo.benchmark import DEMO, ImageName
from focus.data.demo.files import folder_name, write_demo, write_files
from focus.data.images import load_image, load_map
from focus.data.manifest import SYNTHETIC, Manifest, Sample
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


SMALL = {
    "train": {"real": 4, "known-1": 3, "known-2": 3},
    "validation": {"real": 2, "known-1": 1, "known-2": 1},
    "closed": {"real": 2, "known-1": 1, "known-2": 1},
    "closed_balanced": {"real": 2, "known-1": 2},
    "open": {"real": 3, "near-1": 2, "far-1": 2, "global": 2},
    "oracle": {"far-1": 1},
}


def demo(folder: Path) -> Manifest:
    return demo_manifest(folder, progress=False, splits=SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_sample_has_its_files_and_what_is_known_of_it(tmp_path: Path) -> None:
    small = demo(tmp_path)
    sample, picture = small[9], render_face("train", "known-2", 2)
    assert picture.mask is not None
    for path, pixels in (
        (sample.path, picture.image),
        (sample.human_map, picture.human_map),
        (sample.mask_path, picture.mask * 255),
    ):
        np.testing.assert_array_equal(np.asarray(Image.open(str(path))), pixels)
    assert sample.extra == {
        "source": str(ImageName("train", "known-2", 2).source(0.9)),
        "grade": "known",
        "artefacts": "+".join(picture.artefacts),
    }

    *others, oracle = small
    assert (oracle.split, oracle.test_set, oracle.generator) == ("train", "", "far-1")
    assert oracle.mask_path
    for sample in others:
        assert (sample.human_map is not None) == (sample.split in ("train", "validation"))
        local = sample.label == SYNTHETIC and sample.generator != "global"
        assert (sample.mask_path is not None) == local


def test_each_draw_and_world_has_a_folder_of_its_own(tmp_path: Path) -> None:
    splits = {"open": {"real": 2}}
    worlds: tuple[dict[str, Any], ...] = (
        {},
        {"draw": 1},
        {"draw": 1, "agreement": 0.5},
        {"draw": 1, "shortcut": "cast"},
    )
    for world in worlds:
        demo_manifest(tmp_path, **world, progress=False, splits=splits)
    names = sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir())
    assert names == ["demo-v2-0-0.9", "demo-v2-1-0.5", "demo-v2-1-0.9", "demo-v2-1-0.9-cast"]


def test_damage_is_found_and_mended_and_a_whole_set_is_kept(tmp_path: Path) -> None:
    manifest = demo(tmp_path)
    before = contents(tmp_path)
    image = Path(manifest[5].path)
    index = image.parents[3] / "index.json"
    flipped = bytearray(image.read_bytes())
    flipped[100] ^= 1
    for harm in (
        lambda: image.write_bytes(flipped),
        image.unlink,
        lambda: index.write_text(index.read_text()[:40]),
    ):
        harm()
        assert list(demo(tmp_path)) == list(manifest)
        assert contents(tmp_path) == before
    written = image.stat().st_mtime_ns
    demo(tmp_path)
    assert image.stat().st_mtime_ns == written


def test_two_programs_at_once_leave_one_whole_set(tmp_path: Path) -> None:
    program = (
        "import sys; from focus.data.demo import demo_manifest\n"
        f"m = demo_manifest(sys.argv[1], splits={SMALL!r})\n"
        "from PIL import Image\n"
        "print(sum(Image.open(s.path).convert('L').getextrema()[1] > 0 for s in m))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == ["32", "32"]
    assert [path.name for path in tmp_path.iterdir()] == [folder_name(DEMO, SMALL)]


def test_unusable_cache_folder_is_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot be written to .*FOCUS_CACHE"):
        demo(blocked)


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
    listed = read_given(TrainConfig(test_data=tests, test_real=reals)).tests

    def told(samples: Manifest) -> set[tuple[str, int | None, str, str]]:
        return {(s.path, s.label, s.generator * (s.label or 0), s.split) for s in samples}

    assert told(listed) == told(Manifest.from_csv(folder / "open.csv"))


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
