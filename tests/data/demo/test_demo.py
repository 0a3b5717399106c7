"""The embedded demo set: what is rendered, and that the cache gives back what was rendered."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from focus.data.demo import SPLITS, cache, demo_manifest, render_face
from focus.data.demo.artefacts import ARTEFACTS, FAMILIES
from focus.data.demo.render import MASK_THRESHOLD, REAL_FAMILY, Item, items
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.errors import InputError

from ...launching import Begin

SMALL = {
    "train": {REAL_FAMILY: 4, "kA": 3, "kB": 3},
    "validation": {REAL_FAMILY: 2, "kA": 1, "kB": 1},
    "closed": {REAL_FAMILY: 2, "kA": 1, "kB": 1},
    "closed_balanced": {REAL_FAMILY: 2, "kA": 2},
    "open": {REAL_FAMILY: 3, "uNear": 2, "uEars": 2, "uSpectrum": 2},
}


def demo(folder: Path, processes: int = 1) -> Manifest:
    return demo_manifest(folder, processes=processes, progress=False, splits=SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The mask and what is up to ``pixels`` around it."""
    height, width = mask.shape
    padded = np.pad(mask, pixels)
    shifts = range(2 * pixels + 1)
    near = [padded[y : y + height, x : x + width] for y in shifts for x in shifts]
    return np.asarray(np.logical_or.reduce(near))


def change(split: str, family: str, index: int) -> NDArray[np.float64]:
    """Squared difference that the artefacts make at each pixel, [64, 64]."""
    spoilt = render_face(split, family, index).image.astype(np.float64)
    plain = render_face(split, family, index, artefacts=False).image
    squared: NDArray[np.float64] = np.square(spoilt - plain).sum(-1)
    return squared


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return demo(tmp_path_factory.mktemp("demo"))


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    one, three = tmp_path / "one", tmp_path / "three"
    demo(one, processes=1)
    demo(three, processes=3)
    assert contents(one) == contents(three)


def test_one_image_renders_alone_as_in_the_set(small: Manifest) -> None:
    sample = small[9]
    picture = render_face("train", "kB", 2)
    assert sample.map_path is not None
    assert sample.mask_path is not None
    assert picture.mask is not None
    np.testing.assert_array_equal(np.asarray(Image.open(sample.path)), picture.image)
    np.testing.assert_array_equal(np.asarray(Image.open(sample.map_path)), picture.human_map)
    np.testing.assert_array_equal(np.asarray(Image.open(sample.mask_path)), picture.mask * 255)
    assert sample.extra["artefacts"] == "+".join(picture.artefacts)


def test_counts_of_the_whole_set() -> None:
    totals = {split: sum(families.values()) for split, families in SPLITS.items()}
    assert totals == {
        "train": 1600,
        "validation": 300,
        "closed": 600,
        "closed_balanced": 600,
        "open": 2000,
    }
    assert all(families[REAL_FAMILY] * 2 == totals[split] for split, families in SPLITS.items())
    assert len(set(items())) == 5100


def test_sample_fields(small: Manifest) -> None:
    counted = Counter((s.split, s.test_set, s.label, s.generator) for s in small)
    assert counted == {
        ("train", "", REAL, ""): 4,
        ("train", "", SYNTHETIC, "kA"): 3,
        ("train", "", SYNTHETIC, "kB"): 3,
        ("validation", "", REAL, ""): 2,
        ("validation", "", SYNTHETIC, "kA"): 1,
        ("validation", "", SYNTHETIC, "kB"): 1,
        ("test", "closed", REAL, ""): 2,
        ("test", "closed", SYNTHETIC, "kA"): 1,
        ("test", "closed", SYNTHETIC, "kB"): 1,
        ("test", "closed_balanced", REAL, ""): 2,
        ("test", "closed_balanced", SYNTHETIC, "kA"): 2,
        ("test", "open", REAL, ""): 3,
        ("test", "open", SYNTHETIC, "uNear"): 2,
        ("test", "open", SYNTHETIC, "uEars"): 2,
        ("test", "open", SYNTHETIC, "uSpectrum"): 2,
    }
    for sample in small:
        image = Image.open(sample.path)
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
        assert Path(sample.path).is_absolute()
        assert (sample.map_path is not None) == (sample.split in ("train", "validation"))
        local = sample.label == SYNTHETIC and sample.generator != "uSpectrum"
        assert (sample.mask_path is not None) == local
        assert ("known_artefact" in sample.extra) == (sample.label == SYNTHETIC)


def test_known_artefact_says_what_training_knew(small: Manifest) -> None:
    trained = {
        name
        for sample in small.split("train")
        for name in sample.extra.get("artefacts", "").split("+")
        if name
    }
    assert trained == {"eye_mismatch", "checkerboard", "smeared_mouth", "droplet"}
    for sample in small:
        if sample.label == SYNTHETIC:
            names = set(sample.extra["artefacts"].split("+"))
            known = bool(names & (trained | {"tinted_droplet"}))
            assert sample.extra["known_artefact"] == str(int(known))


def test_every_artefact_has_a_family_and_every_fake_an_artefact() -> None:
    assert {name for chances in FAMILIES.values() for name in chances} == set(ARTEFACTS)
    for index in range(12):
        names = render_face("open", "uSwap", index).artefacts
        assert names
        assert set(names) <= set(FAMILIES["uSwap"])


def test_source_agrees_with_the_class_by_split() -> None:
    agreements: dict[str, list[bool]] = {}
    for item in items():
        agreements.setdefault(item.split, []).append(item.source == (item.family != REAL_FAMILY))
    shares = {split: np.mean(values) for split, values in agreements.items()}
    for split in ("train", "validation", "closed"):
        assert shares[split] == pytest.approx(0.75, abs=0.01)
    assert shares["closed_balanced"] == shares["open"] == 0.5
    # Within each family too, or the source would tell a generator.
    for family, count in SPLITS["open"].items():
        assert sum(Item("open", family, i).source for i in range(count)) == count / 2


def test_source_shows_in_the_picture() -> None:
    """Source 1 has more vignette: darker corners, in means of overlapping distributions."""

    def corner(index: int) -> float:
        image = render_face("open", REAL_FAMILY, index).image.astype(np.float64)
        corners = (image[:8, :8], image[:8, -8:])
        return float(np.mean([c.mean() for c in corners]) / image[:8, 24:40].mean())

    by_source: dict[int, list[float]] = {0: [], 1: []}
    for index in range(80):
        by_source[Item("open", REAL_FAMILY, index).source].append(corner(index))
    assert np.mean(by_source[0]) > np.mean(by_source[1]) + 0.02


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "uSpectrum"])
def test_mask_covers_what_the_artefacts_change(family: str) -> None:
    split = "train" if family.startswith("k") else "open"
    covered = []
    for index in range(12):
        mask = render_face(split, family, index).mask
        assert mask is not None
        changed = change(split, family, index)
        assert 0.003 < mask.mean() < 0.15
        # The change is seen against the camera's noise, and it is where the mask says.
        assert np.sqrt(changed[mask].mean()) > 6.0
        assert changed[mask].mean() > 20.0 * changed[~mask].mean()
        # JPEG spreads a change to its 8×8 block, so the mask holds nearly all of it, not all.
        covered.append(changed[grown(mask, 2)].sum() / changed.sum())
    assert min(covered) > 0.75
    assert np.mean(covered) > 0.93


def test_spectrum_is_everywhere_and_has_no_mask() -> None:
    for index in range(8):
        assert render_face("open", "uSpectrum", index).mask is None
        changed = change("open", "uSpectrum", index)
        quarters = [changed[y : y + 32, x : x + 32].mean() for y in (0, 32) for x in (0, 32)]
        assert min(quarters) > 0.2 * max(quarters)
        # Its first wave, in red: 16 periods across and 8 down in 64 pixels.
        spoilt = render_face("open", "uSpectrum", index).image.astype(np.float64)
        added = spoilt - render_face("open", "uSpectrum", index, artefacts=False).image
        wave = np.abs(np.fft.fft2(added[..., 0]))
        assert wave[8, 16] > 8.0 * np.median(wave)


def test_maps_are_normalised_and_point_at_artefacts() -> None:
    inside, outside = [], []
    for index in range(30):
        picture = render_face("train", "kA" if index % 2 else "kB", index)
        assert picture.human_map is not None
        assert picture.mask is not None
        assert picture.human_map.max() == 255
        inside.append(picture.human_map[picture.mask].mean() / 255)
        outside.append(picture.human_map[~picture.mask].mean() / 255)
    assert np.mean(inside) > 0.4
    assert np.mean(outside) < 0.15


def test_maps_of_reals_lie_on_the_face() -> None:
    for index in range(10):
        picture = render_face("train", REAL_FAMILY, index)
        assert picture.mask is None
        assert picture.human_map is not None
        assert picture.human_map.max() == 255
        row, column = np.unravel_index(picture.human_map.argmax(), (64, 64))
        assert 8 <= row <= 56
        assert 14 <= column <= 50
    assert render_face("open", REAL_FAMILY, 0).human_map is None


def test_mask_threshold_is_the_documented_one() -> None:
    assert MASK_THRESHOLD == 0.32


@pytest.mark.parametrize("harm", ["flipped byte", "missing image", "truncated index"])
def test_damage_is_found_and_mended(tmp_path: Path, harm: str) -> None:
    manifest = demo(tmp_path)
    before = contents(tmp_path)
    index = Path(manifest[0].path).parents[3] / "index.json"
    target = Path(manifest[5].path)
    if harm == "flipped byte":
        content = bytearray(target.read_bytes())
        content[100] ^= 1
        target.write_bytes(content)
    elif harm == "missing image":
        target.unlink()
    else:
        index.write_text(index.read_text()[:40])
    again = demo(tmp_path)
    assert list(again) == list(manifest)
    assert contents(tmp_path) == before


def test_a_whole_set_is_reused(tmp_path: Path) -> None:
    first = demo(tmp_path)
    written = Path(first[0].path).stat().st_mtime_ns
    second = demo(tmp_path)
    assert list(second) == list(first)
    assert Path(first[0].path).stat().st_mtime_ns == written


def test_two_programs_at_once_both_get_a_whole_set(tmp_path: Path) -> None:
    program = (
        "import sys; from focus.data.demo import demo_manifest\n"
        f"m = demo_manifest(sys.argv[1], processes=1, splits={SMALL!r})\n"
        "from PIL import Image\n"
        "print(sum(Image.open(s.path).convert('L').getextrema()[1] > 0 for s in m))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    programs = [
        subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    outputs = [program.communicate(timeout=60) for program in programs]
    assert [read.strip() for read, _ in outputs] == ["31", "31"]
    if sys.platform != "win32":  # no file locks there: both may render
        assert sum("rendering" in progress for _, progress in outputs) == 1
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert [path.name for path in folders] == [cache.folder_name(SMALL)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_interruption_leaves_nothing_behind(tmp_path: Path, begin: Begin) -> None:
    """SIGINT while workers render: no set, no half-written folder, no orphan that writes on."""
    program = (
        # A shell starts what it puts in the background with SIGINT ignored: not so here.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from focus.data.demo import demo_manifest\n"
        "demo_manifest(sys.argv[1], processes=2, progress=False)\n"
    )
    process = begin([sys.executable, "-c", program, tmp_path], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not list(tmp_path.rglob("*.png")):
        assert process.poll() is None, "it ended before it was interrupted"
        assert time.monotonic() < deadline, "nothing is rendered"
        time.sleep(0.02)
    process.send_signal(2)
    _, errors = process.communicate(timeout=10)  # well before the set would be complete
    assert "KeyboardInterrupt" in errors
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_threads_of_one_program_share_the_set(tmp_path: Path) -> None:
    got: list[Manifest] = []
    threads = [threading.Thread(target=lambda: got.append(demo(tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 2
    assert list(got[0]) == list(got[1])


def test_unusable_cache_folder_is_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot be written to .*FOCUS_CACHE") as caught:
        demo(blocked)
    assert os.linesep not in str(caught.value)


def test_a_failing_worker_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = shutil.which("false")
    if failing is None:
        pytest.skip("this system has no program `false`")
    monkeypatch.setattr(sys, "executable", failing)
    with pytest.raises(InputError, match="rendering process ended with code 1"):
        demo(tmp_path, processes=2)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
