"""The rendered set on disk: whole, verified, from one program or two at once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus.data.demo import cache, demo_manifest, render_face
from focus.data.demo.render import DEMO, ImageName
from focus.data.manifest import SYNTHETIC, Manifest
from focus.errors import InputError

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
    programs = [subprocess.Popen(command, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    assert [each.communicate(timeout=60)[0].strip() for each in programs] == ["32", "32"]
    assert [path.name for path in tmp_path.iterdir()] == [cache.folder_name(DEMO, SMALL)]


def test_unusable_cache_folder_is_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot be written to .*FOCUS_CACHE"):
        demo(blocked)
