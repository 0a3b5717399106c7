"""Decoding: any picture that people have becomes upright RGB, and a broken one is named."""

import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from focus.data import images
from focus.data.bad_files import check_images
from focus.data.images import limit_pixels, load_image, load_map
from focus.data.manifest import Manifest, Sample
from focus.data.maps import human_map
from focus.errors import ImageError, InputError
from focus.runtime.parallel import parallel_map

from .trees import png


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


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    for extension in ("png", "jpg"):
        path = tmp_path / f"truncated.{extension}"
        noise().save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image\n")
    (tmp_path / "bomb.png").write_bytes(png(20_000, 20_000, b"\0" * 9))
    (tmp_path / "too-little-data.png").write_bytes(png(64, 64, b"\0" * 9))
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "32bit.tif")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=rf"^Cannot decode '{path}' \(.+\): fix or remove"):
            load_image(path)
    with pytest.raises(InputError, match=r"Cannot decode '.*a\\nb.png' \(No such file"):
        load_image(tmp_path / "a\nb.png")
    with pytest.raises(InputError, match=r"text.png' \(cannot identify image file\): fix"):
        load_map(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"\(more than --max-pixels 64000000\)"):
        load_map(tmp_path / "bomb.png")


@pytest.mark.usefixtures("pixel_limit")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_few_bytes_do_not_take_a_gigabyte(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.gif"
    screen = struct.pack("<HH", 13_300, 13_300) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0" + b"\x02\x02\x44\x01\0"
    bomb.write_bytes(b"GIF89a" + screen + frame + b";")
    assert bomb.stat().st_size == 35
    for read in (load_image, load_map):
        with pytest.raises(ImageError, match="more than --max-pixels 64"):
            read(bomb)
    shapes = {"images": [{"id": 1, "file_name": "a", "width": 10**6, "height": 10**6}]}
    (tmp_path / "a.json").write_text(json.dumps({**shapes, "annotations": []}))
    with pytest.raises(ImageError, match="1000000 x 1000000 pixels, more than --max-pixels"):
        human_map(f"{tmp_path}/a.json#1")
    for size in (16, 32):
        noise(size).save(tmp_path / f"{size}.png")
    faces = Manifest(Sample(str(tmp_path / f"{size}.png"), 1) for size in (16, 32))
    for most, n_bad in ((1024, 0), (1023, 1), (1024, 0)):  # what is remembered is not of the other
        limit_pixels(most)
        assert (
            len(check_images(faces, cache=tmp_path / "c", max_bad=1, progress=False).bad) == n_bad
        )


@pytest.mark.usefixtures("pixel_limit")
def test_the_limit_holds_in_the_processes_that_are_started(tmp_path: Path) -> None:
    """Of 512 files on the check takes several."""
    noise().save(tmp_path / "a.png")
    limit_pixels(1023)
    with pytest.raises(ImageError, match="32 x 32 pixels, more than --max-pixels 1023"):
        list(parallel_map(load_image, [f"{tmp_path}/a.png"], "", processes=2, progress=False))


def test_a_temporary_error_of_the_file_system_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise().save(tmp_path / "a.png")
    whole, original = load_image(tmp_path / "a.png"), Image.open
    errors = [OSError(errno.ESTALE, "")] * 3

    def failing(path: Path) -> Image.Image:
        if errors:
            raise errors.pop()
        return original(path)

    monkeypatch.setattr(Image, "open", failing)
    monkeypatch.setattr(images, "_PAUSE", 0)
    assert load_image(tmp_path / "a.png") == whole
    assert not errors


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
    assert not trace.exists()


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
