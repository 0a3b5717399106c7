"""Decoding, and the pass that finds what cannot be decoded."""

import csv
import errno
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from focus.data import images
from focus.data.bad_files import BadFile, check_images, write_bad_files
from focus.data.check.survey import look
from focus.data.images import load_image, load_map
from focus.data.manifest import Manifest, Sample
from focus.errors import ImageError, InputError

OPEN = Image.open


def png_claiming(path: Path, width: int, height: int) -> None:
    """A PNG whose header claims a size that its few bytes of data do not hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def noise(size: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def corner(path: Path) -> tuple[int, ...]:
    image = load_image(path)
    assert image.mode == "RGB"
    return tuple(np.asarray(image)[0, 0].tolist())


def test_modes_become_rgb(tmp_path: Path) -> None:
    red = (200, 10, 30)
    Image.new("RGB", (3, 2), red).quantize(4).save(tmp_path / "palette.png")
    Image.new("RGBA", (3, 2), (*red, 0)).save(tmp_path / "alpha.png")
    Image.new("LA", (3, 2), (77, 5)).save(tmp_path / "grey-alpha.png")
    Image.new("1", (3, 2), 1).save(tmp_path / "bits.png")
    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    Image.fromarray(np.full((2, 3), 40000, np.uint16)).save(tmp_path / "16bit.png")
    Image.fromarray(np.full((2, 3), 300, np.int32)).save(tmp_path / "int.tif")
    transparent = Image.new("P", (3, 2), 1)
    transparent.putpalette([0, 0, 0, *red])
    transparent.save(tmp_path / "transparent.png", transparency=b"\xff\x10")
    frames = [Image.new("RGB", (3, 2), red), Image.new("RGB", (3, 2), (0, 0, 255))]
    frames[0].save(tmp_path / "animated.png", save_all=True, append_images=frames[1:])

    for name in ("palette", "alpha", "transparent", "animated"):
        assert corner(tmp_path / f"{name}.png") == red
    # As a press has it: Photoshop and Pillow store the inks inverted in a JPEG.
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    np.testing.assert_allclose(corner(tmp_path / "cmyk.jpg"), (255, 0, 0), atol=4)
    Image.new("RGB", (1, 1), red).save(tmp_path / "1x1.png")
    assert load_image(tmp_path / "1x1.png").size == (1, 1)
    assert corner(tmp_path / "1x1.png") == red
    assert corner(tmp_path / "grey-alpha.png") == (77, 77, 77)
    assert corner(tmp_path / "bits.png") == (255, 255, 255)
    assert corner(tmp_path / "cmyk.tif") == (255, 0, 0)
    assert corner(tmp_path / "16bit.png") == (156, 156, 156)  # 40000 // 256
    assert corner(tmp_path / "int.tif") == (1, 1, 1)  # 300 // 256


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # right half white
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to display"
    for name in ("a.jpg", "a.png"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
        turned = np.asarray(load_image(tmp_path / name))
        assert turned.shape == (32, 16, 3)
        assert turned[:12].max() < 50  # the right half is now the lower one
        assert turned[20:].min() > 200


def test_broken_exif_does_not_lose_the_image(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png", exif=b"garbage that is no TIFF header")
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(noise()))


def bad_files(folder: Path) -> list[Path]:
    noise().save(folder / "whole.png")
    noise().save(folder / "whole.jpg", quality=95)
    for name in ("whole.png", "whole.jpg"):
        data = (folder / name).read_bytes()
        (folder / f"truncated-{name}").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image\n")
    png_claiming(folder / "bomb.png", 20_000, 20_000)
    png_claiming(folder / "too-little-data.png", 64, 64)
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(folder / "32bit.tif")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "folder.png").mkdir()
    whole = {"whole.png", "whole.jpg"}
    return sorted(path for path in folder.iterdir() if path.name not in whole)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN])
def test_an_error_that_passes_is_waited_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise().save(tmp_path / "a.png")
    whole = load_image(tmp_path / "a.png")
    asked = failing(monkeypatch, number, times=3)
    assert load_image(tmp_path / "a.png") == whole
    assert len(asked) == 4
    asked = failing(monkeypatch, number, times=4)
    with pytest.raises(ImageError, match=rf"'{tmp_path}/a.png' \({os.strerror(number)}\): fix"):
        load_map(tmp_path / "a.png")
    assert len(asked) == 4


def test_an_error_that_stays_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.ENOENT, errno.EACCES, None):
        asked = failing(monkeypatch, number, times=9)
        with pytest.raises(ImageError):
            load_image(tmp_path / "a.png")
        assert len(asked) == 1


def failing(monkeypatch: pytest.MonkeyPatch, number: int | None, times: int) -> list[Path]:
    """What is opened from now on; the first few times it fails."""
    asked: list[Path] = []

    def open_image(path: Path) -> Image.Image:
        asked.append(path)
        if len(asked) <= times:
            raise OSError("broken") if number is None else OSError(number, os.strerror(number))
        return OPEN(path)

    monkeypatch.setattr(Image, "open", open_image)
    monkeypatch.setattr(images, "refuse_special", lambda _: None)
    monkeypatch.setattr(images, "_PAUSE", 0)
    return asked


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    paths = bad_files(tmp_path)
    assert len(paths) == 10
    for path in paths:
        with pytest.raises(InputError, match=rf"^Cannot decode '{path}' \(.+\): fix or remove"):
            load_image(path)
    with pytest.raises(InputError, match=r"Cannot decode '.*a\\nb.png' \(No such file"):
        load_image(tmp_path / "a\nb.png")
    with pytest.raises(InputError, match=r"text.png' \(cannot identify image file\): fix"):
        load_map(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"Image size \(400000000 pixels\) exceeds limit"):
        load_map(tmp_path / "bomb.png")


@pytest.mark.parametrize("name", ["a.eps", "a.png"])
def test_postscript_is_not_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, ghostscript = tmp_path / "trace", tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch '{trace}'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # look for it again
    endless = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n"
    (tmp_path / name).write_text(endless)
    for read in (load_image, load_map):
        with pytest.raises(ImageError, match=r"\(PostScript is a program, which is not run\): fix"):
            read(tmp_path / name)
    assert "PostScript" in look(str(tmp_path / name)).error
    assert not trace.exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    manifest = Manifest([Sample(str(tmp_path / name)) for name in ("a.png", "pipe.png")])
    kept, bad = check_images(manifest, cache=tmp_path / "c", progress=False, max_bad=0.5)
    assert list(kept) == [manifest[0]]
    assert bad == [BadFile(manifest[1].path, "image", "neither a file nor a folder")]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system knows no other users")
def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # those above are root's alone
    user = os.geteuid()
    os.seteuid(user or 65534)  # to root nothing is forbidden
    try:
        with pytest.raises(InputError, match=r"^Cannot decode 'a.png' \(Permission denied\): fix"):
            load_image("a.png")
    finally:
        os.seteuid(user)


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


def test_maps_are_grey_values_between_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 51], [255, 102]], np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.array([[0, 13107], [65535, 26214]], np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.array([[0, 0.2], [1, 0.4]], np.float32)).save(tmp_path / "float.tif")
    grey = np.array([[0, 51], [255, 102]], np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.png")
    for name in ("8.png", "16.png", "float.tif", "rgb.png"):
        values = load_map(tmp_path / name)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, [[0, 0.2], [1, 0.4]], atol=1e-7)
    for wrong in (1.5, -0.1, np.nan):
        Image.fromarray(np.full((2, 2), wrong, np.float32)).save(tmp_path / "wrong.tif")
        with pytest.raises(InputError, match="float values outside"):
            load_map(tmp_path / "wrong.tif")


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
    unsure = ["bad.png", "bad.png", "zeros.png"]  # a blank map is looked at again
    assert check() == sorted(good + unsure)
    assert check() == unsure
    cached = next((tmp_path / "cache").iterdir())
    cached.write_bytes(cached.read_bytes()[:-5])  # cut short: one entry is lost
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
