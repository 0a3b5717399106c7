"""The rendered set on disk: whole, verified, from one program or two at once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.data.demo import cache, demo_manifest, render_face
from focus.data.demo.render import REAL_FAMILY
from focus.data.manifest import SYNTHETIC, Manifest
from focus.errors import InputError

SMALL = {
    "train": {REAL_FAMILY: 4, "kA": 3, "kB": 3},
    "validation": {REAL_FAMILY: 2, "kA": 1, "kB": 1},
    "closed": {REAL_FAMILY: 2, "kA": 1, "kB": 1},
    "closed_balanced": {REAL_FAMILY: 2, "kA": 2},
    "open": {REAL_FAMILY: 3, "uNear": 2, "uEars": 2, "uSpectrum": 2},
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
    sample, picture = small[9], render_face("train", "kB", 2)
    assert picture.mask is not None
    for path, pixels in (
        (sample.path, picture.image),
        (sample.map_path, picture.human_map),
        (sample.mask_path, picture.mask * 255),
    ):
        np.testing.assert_array_equal(np.asarray(Image.open(str(path))), pixels)
    assert sample.extra["artefacts"] == "+".join(picture.artefacts)

    trained = {"eye_mismatch", "checkerboard", "smeared_mouth", "droplet", "tinted_droplet"}
    for sample in small:
        assert (sample.map_path is not None) == (sample.split in ("train", "validation"))
        local = sample.label == SYNTHETIC and sample.generator != "uSpectrum"
        assert (sample.mask_path is not None) == local
        if sample.label == SYNTHETIC:
            known = bool(trained & set(sample.extra["artefacts"].split("+")))
            assert sample.extra["known_artefact"] == str(int(known))


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
    assert [each.communicate(timeout=60)[0].strip() for each in programs] == ["31", "31"]
    assert [path.name for path in tmp_path.iterdir()] == [cache.folder_name(SMALL)]


def test_unusable_cache_folder_is_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot be written to .*FOCUS_CACHE"):
        demo(blocked)
