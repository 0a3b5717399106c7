"""The cache of decoded images: the same bits as without it, never those of another file."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus.config.recipes import Fit
from focus.data import dataset
from focus.data.bad_files import check_images
from focus.data.cache.images import ImageCache
from focus.data.dataset import Batch, FaceDataset
from focus.data.images import Preprocessing, load_image
from focus.data.manifest import Manifest, Sample
from focus.errors import UnreadableError
from focus.runtime.rows import names_of

from ...launching import CHECKOUT, python, write_faces
from ...training.trainers import trained

GRID = 4, 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the images that a dataset decodes."""
    names: list[str] = []

    def load(path: str, content: bytes | None = None) -> Image.Image:
        names.append(Path(path).name)
        return load_image(path, content)

    monkeypatch.setattr(dataset, "load_image", load)
    return names


@pytest.fixture
def faces(tmp_path: Path) -> Manifest:
    """Six images of different sizes, every second one with a map; the last two are copies."""
    draw, samples = np.random.default_rng(0), []
    for n in range(5):
        path, heat = tmp_path / f"{n}.png", tmp_path / f"m{n}.png"
        Image.fromarray(draw.integers(0, 256, (20 + n, 30, 3), np.uint8)).save(path)
        Image.fromarray(draw.integers(0, 256, (11, 7), np.uint8)).save(heat)
        samples.append(Sample(str(path), n % 2, human_map=str(heat) if n % 2 else None))
    shutil.copy(tmp_path / "4.png", tmp_path / "5.png")
    return Manifest([*samples, Sample(str(tmp_path / "5.png"), 0)])


def batch(
    faces: Manifest, images: ImageCache | None, fit: Fit = "squash", **settings: Any
) -> Batch:
    manifest = check_images(faces, images=images, progress=False).manifest
    data = FaceDataset(manifest, Preprocessing(16, GRID, fit), images=images, **settings)
    return data[list(range(len(manifest)))]


def same(one: Batch, other: Batch) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("augment", [(), ("crop", "shift", "flip", "blur", "jpeg")])
def test_batches_have_the_same_bits_and_no_file_is_decoded(
    faces: Manifest, decoded: list[str], augment: tuple[str, ...]
) -> None:
    plain = batch(faces, None, augment=augment)
    assert len(decoded) == 6
    decoded.clear()
    for _ in range(2):
        assert same(batch(faces, ImageCache(16), augment=augment), plain)
        assert not decoded
    # Others of another size are not taken for them.
    names = names_of([faces[0].extra.get("content_hash", "00")])
    assert not ImageCache(24).has("image", names).any()


@pytest.mark.parametrize("augment", [(), ("cut", "flip", "blur", "jpeg")])
def test_pictures_that_are_cut_are_kept_at_their_own_sizes(
    faces: Manifest, tmp_path: Path, decoded: list[str], augment: tuple[str, ...]
) -> None:
    """With another part in each epoch and at each size, and when a picture is perturbed."""

    def invert(image: Image.Image, _: int) -> Image.Image:
        return Image.fromarray(255 - np.asarray(image))

    settings: dict[str, Any] = {"fit": "crop", "augment": augment}
    plain = batch(faces, None, **settings)
    inverted = batch(faces, None, **settings, perturb=invert)
    assert len(decoded) == 12
    decoded.clear()
    for _ in range(2):
        assert same(batch(faces, ImageCache(None), **settings), plain)
    assert same(batch(faces, ImageCache(None), **settings, perturb=invert), inverted)
    assert not decoded
    # Sizes that fit no picture, as those of other pictures would be.
    (shapes,) = (tmp_path / "cache").rglob("picture-shapes/rows-2.bin")
    shapes.write_bytes(bytes(reversed(shapes.read_bytes())))
    assert same(batch(faces, ImageCache(None), **settings), plain)


def test_the_room_of_pictures_at_their_own_sizes_is_told_before(
    faces: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    check_images(faces, images=ImageCache(None))
    # Pictures of 30 x (20 to 24) pixels, of which one is there twice, and two maps of 11 x 7.
    size = 3 * 30 * (20 + 21 + 22 + 23 + 24 + 24) + 4 * 2 * 11 * 7
    assert f"{size / 1e9:.3g} GB of decoded images go to" in capsys.readouterr().out


def test_what_changes_a_picture_goes_around_it(faces: Manifest, decoded: list[str]) -> None:
    images = ImageCache(16)

    def invert(image: Image.Image, _: int) -> Image.Image:
        return Image.fromarray(255 - np.asarray(image))

    assert not same(batch(faces, images, perturb=invert), batch(faces, images))
    assert len(decoded) == 6


def test_a_file_overwritten_with_its_size_and_time_is_another_one(faces: Manifest) -> None:
    """As tar, rsync -t and cp -p leave them."""
    before = batch(faces, ImageCache(16))
    path = Path(faces[0].path)
    then, content = path.stat(), path.read_bytes()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes().ljust(len(content), b"\0"))
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (len(content), then.st_mtime_ns)
    after = batch(faces, ImageCache(16))
    assert not after.images[0].any()
    assert after.images[1:].equal(before.images[1:])


@pytest.mark.parametrize("replaced", ["0.png", "m1.png"])
def test_a_file_that_is_replaced_after_its_check_is_not_taken_for_it(
    faces: Manifest, tmp_path: Path, replaced: str
) -> None:
    checked = check_images(faces, progress=False).manifest
    shutil.copy(tmp_path / "3.png", tmp_path / replaced)
    data = FaceDataset(checked, Preprocessing(16, GRID))
    assert len(data[[2, 3]].images) == 2
    with pytest.raises(UnreadableError, match=rf"{replaced}' \(it was replaced after it was check"):
        data[[0, 1]]


@pytest.mark.parametrize("bit", [0x40, 0x80])
def test_a_damaged_list_of_files_is_looked_at_again(faces: Manifest, cache: Path, bit: int) -> None:
    """A digest that is no number any more, or no text."""
    plain = batch(faces, ImageCache(16))
    (listed,) = cache.glob("decoded-*.txt")
    content = bytearray(listed.read_bytes())
    content[3] ^= bit
    listed.write_bytes(content)
    assert same(batch(faces, ImageCache(16)), plain)


@pytest.mark.parametrize("obstacle", ["a file", "read-only"])
def test_a_folder_that_takes_nothing_is_a_line(
    faces: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture, obstacle: str
) -> None:
    plain, where = batch(faces, None), "/proc"
    if obstacle == "a file":
        where = str(tmp_path / "file")
        Path(where).write_text("no folder")
    assert same(batch(faces, ImageCache(16, where)), plain)
    assert f"decoded images are not kept in {where}" in caplog.text


def test_on_a_disk_without_locks_one_line_says_that_nothing_is_kept(
    faces: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_lock(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    plain = batch(faces, None)
    monkeypatch.setattr("fcntl.flock", no_lock)
    assert same(batch(faces, ImageCache(16)), plain)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"decoded images are not kept in {cache}")
    assert "(its file system has no locks)" in line
    assert not list(cache.rglob("*.bin"))


def sizes_of_files(folder: Path) -> dict[Path, int]:
    """Return the bytes of each file in a folder, without those that the folders themselves take."""
    return {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}


def test_a_cache_is_filled_as_far_as_the_disk_allows_and_no_further_later(
    faces: Manifest,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    decoded: list[str],
) -> None:
    """What it has no room for is read from the files: other times, no other bits."""
    plain = batch(faces, None)
    row, heat = 16 * 16 * 3, 16 * 16 * 4
    disk = 10 * (4 * row + heat) + 10_000  # and what the indices take

    def usage(_: object) -> SimpleNamespace:
        return SimpleNamespace(free=disk - sum(sizes_of_files(cache).values()))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    checked = check_images(faces, images=ImageCache(16)).manifest
    assert " of 6.66e-06 GB of decoded images go to" in capsys.readouterr().out
    digests = [sample.extra["content_hash"] for sample in checked]
    kept = ImageCache(16).has("image", names_of(digests))
    assert 2 <= kept.sum() < 5
    sizes = sizes_of_files(cache / "images")
    assert sum(sizes.values()) <= disk / 10

    decoded.clear()
    assert same(batch(faces, ImageCache(16)), plain)
    assert len(decoded) == 6 - kept.sum()
    assert sizes_of_files(cache / "images") == sizes


def test_auto_leaves_nine_tenths_of_the_disk(
    faces: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 6 * 16 * 16 * 3 + 2 * 16 * 16 * 4
    for free, kept in ((size // 10, False), (10 * size, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        check_images(faces, images=ImageCache(16), progress=False)
        assert bool(list(cache.rglob("rows-2.bin"))) == kept


@pytest.mark.slow
def test_every_figure_of_a_run_is_the_same_without_it(tmp_path: Path) -> None:
    """Training with workers, and an evaluation that has to perturb its images."""
    faces = write_faces(tmp_path / "faces", 60)
    contents = []
    for where in ("auto", "no"):
        runs = tmp_path / f"runs{len(contents)}"
        trained(
            *f"--data {faces} --recipe quick --epochs 2 --image-cache {where}".split(),
            *f"--workers 2 --threads 1 --output {runs} --name run --report false".split(),
            cwd=tmp_path,
        )
        evaluation = ["--run", runs / "run", "--data", faces, "--image-cache", where]
        evaluation += ["--report", "false", "--equalise"]
        python(CHECKOUT / "evaluate.py", *evaluation, cwd=tmp_path)
        files = ["summary.csv", "model/model.safetensors", "evaluation/scores.csv"]
        files += ["evaluation/robustness.csv"]
        contents.append([(runs / "run" / name).read_bytes() for name in files])
    assert (tmp_path / "cache" / "images").is_dir()
    assert contents[0] == contents[1]
