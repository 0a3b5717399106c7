"""The pass over all files before training: what cannot be decoded is named and left out."""

import csv
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from focus.data.bad_files import BadFile, check_images, write_bad_files
from focus.data.check.survey import look_at_map
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError


def grey(path: Path, values: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return str(path)


def noise(size: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def mixed(tmp_path: Path) -> Manifest:
    """Three good samples, of which the second has a bad map and mask, and a bad image."""
    for name in ("a.png", "b.png", "c.png", "map.png", "mask.png"):
        noise(8).convert("L" if name == "map.png" else "RGB").save(tmp_path / name)
    Image.new("L", (8, 8)).save(tmp_path / "zeros.png")
    (tmp_path / "bad.png").write_text("text")
    at = {path.stem: str(path) for path in tmp_path.iterdir()}
    return Manifest(
        [
            Sample(at["a"], 0, map_path=at["map"], mask_path=at["mask"]),
            Sample(at["b"], 1, map_path=at["bad"], mask_path=str(tmp_path / "missing.png")),
            Sample(at["bad"], 1, map_path=at["map"]),
            Sample(at["c"], 0, map_path=at["zeros"], mask_path=at["zeros"]),
        ],
        "the set",
    )


def test_the_pass_takes_out_what_is_bad(
    mixed: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        kept, bad = check_images(mixed, cache=tmp_path / "cache", progress=False, max_bad=0.5)
    a, b, _, c = mixed
    zeros = f"{tmp_path}/zeros.png"
    assert list(kept) == [a, Sample(b.path, 1), Sample(c.path, 0, mask_path=zeros)]
    assert kept.source == "the set"
    assert [(Path(file.path).name, file.role) for file in bad] == [
        ("bad.png", "map"),
        ("missing.png", "mask"),
        ("bad.png", "image"),
    ]
    assert sum("bad.png" in message for message in caplog.messages) == 2
    assert sum("missing.png': No such file" in message for message in caplog.messages) == 1
    blank = [message for message in caplog.messages if "one single value" in message]
    assert len(blank) == 1
    assert blank[0].startswith("1 human maps")


def test_too_many_bad_files_stop(mixed: Manifest, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^1 of 3 map files of the set .* 0.01 .*bad.png"):
        check_images(mixed, cache=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"^1 of 1 image files of the set"):
        check_images(mixed[2:3], cache=tmp_path, progress=False, max_bad=1)


def test_good_files_are_decoded_once_until_they_change(
    mixed: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real_open = Image.open

    def counting_open(path: str) -> Image.Image:
        decoded.append(Path(path).name)
        return real_open(path)

    monkeypatch.setattr(Image, "open", counting_open)
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))

    def check() -> list[str]:
        decoded.clear()
        check_images(mixed, progress=False, max_bad=0.5)
        return sorted(decoded)

    good = ["a.png", "b.png", "c.png", "map.png", "mask.png", "zeros.png"]
    # A blank map is looked at again.
    unsure = ["bad.png", "bad.png", "missing.png", "zeros.png"]
    assert check() == sorted(good + unsure)
    assert check() == unsure
    cached = next((tmp_path / "cache").iterdir())
    cached.write_text(cached.read_text()[:-5])  # cut short: one entry is lost
    assert len(check()) == len(unsure) + 1
    assert check() == unsure
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert check() == sorted(["a.png", *unsure])
    assert check() == unsure


def test_an_unwritable_cache_only_warns(
    mixed: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    kept, _ = check_images(mixed, cache=tmp_path / "file", progress=False, max_bad=0.5)
    assert len(kept) == 3
    assert "cannot remember the checked files" in caplog.text


def test_the_pass_over_the_files_knows_all_kinds_of_maps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = grey(tmp_path / "i.png", np.zeros((4, 4, 3)))
    (empty := tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": []}))
    white = np.full((8, 8), 255)
    white[3:5, 3:5] = 0
    maps = {
        "shared": f"{tmp_path}/{{m_1.png,m_2.png}}",
        "torn": f"{tmp_path}/{{m_1.png,missing.png}}",
        "drawn": f"{empty}#1",
        "zeros": grey(tmp_path / "zeros.png", np.zeros((8, 8))),
        "inverted": grey(tmp_path / "inverted.png", white),
    }
    masks = [grey(tmp_path / f"mask{value}.png", [[0, value]]) for value in (0, 1, 127, 128)]
    grey(tmp_path / "m_1.png", [[0, 255]])
    grey(tmp_path / "m_2.png", [[0, 0]])
    manifest = Manifest(
        [
            *(Sample(image, 1, map_path=path) for path in maps.values()),
            *(Sample(image, 1, mask_path=path) for path in masks),
        ]
    )
    with caplog.at_level(logging.WARNING):
        kept, bad = check_images(manifest, cache=tmp_path / "c", progress=False, max_bad=0.5)
    found = [maps["shared"], None, None, None, maps["inverted"]]
    assert [s.map_path for s in kept] == [*found, *[None] * 4]
    assert [s.mask_path for s in kept[5:]] == masks
    assert [(file.path, file.role) for file in bad] == [
        (maps["torn"], "map"),
        (maps["drawn"], "map"),
    ]
    said = "\n".join(caplog.messages)
    assert "1 human maps have one single value and count as none, the first is" in said
    assert "1 human maps are bright over most of the image and may be inverted" in said
    assert "2 artefact masks are nowhere half white and so count as empty" in said
    assert f"the first is {masks[1]!r}" in said
    assert f"left out the map {maps['torn']!r}: No such file" in said
    # An annotator's map that changes is looked at again.
    (tmp_path / "m_2.png").write_text("text")
    _, bad = check_images(manifest, cache=tmp_path / "c", progress=False, max_bad=1)
    assert maps["shared"] in [file.path for file in bad]


def test_names_of_any_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [b"new\nline.png", b"latin-\xe9.png", b'comma,"quote".png']
    paths = [os.fsdecode(os.fsencode(tmp_path) + b"/" + name) for name in names]
    for path in paths:
        noise(8).save(path)
        Path(path + ".bad.png").write_text("text")
    samples = [Sample(path) for name in paths for path in (name, name + ".bad.png")]
    kept, bad = check_images(Manifest(samples), cache=tmp_path / "c", progress=False, max_bad=0.5)
    assert [sample.path for sample in kept] == paths
    assert [file.path for file in bad] == [path + ".bad.png" for path in paths]
    left_out = [line for line in caplog.messages if line.startswith("left out the image")]
    assert len(left_out) == 3
    assert not any("\n" in line for line in left_out)
    write_bad_files(bad, tmp_path / "bad_files.csv")
    # Bytes that are no UTF-8 are written as they are.
    assert os.fsencode(tmp_path) + b"/latin-\xe9.png" in (tmp_path / "bad_files.csv").read_bytes()
    with (tmp_path / "bad_files.csv").open(
        encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        assert file.readline() == "# focus-bad-files 1\r\n"
        assert [BadFile(**row) for row in csv.DictReader(file)] == bad  # type: ignore[arg-type]


def test_maps_in_colour_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their luminance peaks beside the hottest; grey ones of three channels are as they seem."""
    up = np.linspace(0, 1, 32)
    heat = np.outer(up, up)
    grey = np.round(255 * heat).astype(np.uint8)
    hot = colormaps["jet"](heat, bytes=True)
    images = {"jet": hot, "flat": hot[..., :3], "rgb": np.stack([grey] * 3, -1), "grey": grey}
    for name, pixels in images.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.fromarray(images["rgb"]).save(tmp_path / "grey.jpg", quality=50)
    Image.fromarray(hot[..., :3]).quantize(32).save(tmp_path / "palette.png")
    references = [*sorted(map(str, tmp_path.glob("*.*"))), f"{tmp_path}/{{grey.png,jet.png}}"]
    coloured = [tmp_path / f"{name}.png" for name in ("flat", "jet", "palette")]
    manifest = Manifest(Sample(str(tmp_path / "rgb.png"), 0, map_path=r) for r in references)
    for _ in range(2):  # those that were seen before too
        caplog.clear()
        usable, bad = check_images(manifest, cache=tmp_path / "cache", progress=False)
        assert (list(usable), bad) == (list(manifest), [])
        (said,) = caplog.messages
        assert said.startswith("4 human maps are in colour, of which only the luminance is used")
        assert said.endswith(f"the first is {str(coloured[0])!r}")
    found = {path for path in references if look_at_map(path).coloured}
    assert found == {*map(str, coloured), references[-1]}
