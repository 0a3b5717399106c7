"""The same picture in two splits: what is found, and that nothing else is."""

import csv
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from focus.data.check import leaks
from focus.data.check.leaks import Leak, find_leaks, without_leaks, write_leaks
from focus.data.check.survey import Look, in_processes, look
from focus.data.demo import render_face
from focus.data.manifest import Manifest, Sample

Save = Callable[[Image.Image, Path], None]

N_ORIGINALS = 150


def resized(factor: float, quality: int = 0) -> Save:
    def save(image: Image.Image, path: Path) -> None:
        size = (round(image.width * factor), round(image.height * factor))
        small = image.resize(size, Image.Resampling.LANCZOS)
        if quality:
            small.save(path.with_suffix(".jpg"), quality=quality)
        else:
            small.save(path.with_suffix(".png"))

    return save


def jpeg(quality: int) -> Save:
    return resized(1.0, quality)


def jpeg_on_its_side(image: Image.Image, path: Path) -> None:
    """Stored turned by 90 degrees, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(path.with_suffix(".jpg"), quality=90, exif=exif)


def with_alpha(image: Image.Image, path: Path) -> None:
    image.convert("RGBA").save(path.with_suffix(".webp"), lossless=True)


VARIANTS: dict[str, Save] = {
    **{f"JPEG {quality}": jpeg(quality) for quality in (30, 50, 75, 95)},
    **{f"resized {factor}": resized(factor) for factor in (0.5, 0.7, 1.4, 2.0)},
    "resized 0.5, JPEG 75": resized(0.5, 75),
    "resized 2, JPEG 30": resized(2, 30),
    "on its side": jpeg_on_its_side,
    "alpha": with_alpha,
}


def faces(folder: Path, numbers: Sequence[int], split: str = "train") -> list[str]:
    """Distinct demo faces as PNG, half of them fakes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in numbers:
        image = render_face(split, ("real", "kA")[number % 2], number).image
        paths.append(str(folder / f"{number:05d}.png"))
        Image.fromarray(image).save(paths[-1], compress_level=1)
    return paths


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return faces(tmp_path_factory.mktemp("originals"), range(N_ORIGINALS))


def manifest(**splits: Sequence[str]) -> Manifest:
    return Manifest(
        Sample(path, label=0, split=split)  # type: ignore[arg-type]
        for split, paths in splits.items()
        for path in paths
    )


def found_in(data: Manifest) -> list[Leak]:
    return find_leaks(data, [look(sample.path) for sample in data])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_planted_copy_is_found_and_nothing_else(
    name: str, originals: list[str], tmp_path: Path
) -> None:
    for path in originals:
        with Image.open(path) as image:
            VARIANTS[name](image, tmp_path / Path(path).stem)
    copies = sorted(map(str, tmp_path.iterdir()))
    assert len(copies) == len(originals)
    found = found_in(manifest(train=originals, test=copies))
    assert [(leak.row, leak.other) for leak in found] == [
        (row, row + N_ORIGINALS) for row in range(N_ORIGINALS)
    ]
    assert {leak.kind for leak in found} == {"same picture"}
    # The threshold is not touched: half way to it at least.
    assert min(leak.similarity for leak in found) > (1 + leaks.MIN_SIMILARITY) / 2 - 0.005


@pytest.mark.slow
def test_distinct_faces_are_not_the_same(tmp_path: Path) -> None:
    train = faces(tmp_path / "train", range(500))
    test = faces(tmp_path / "test", range(500), "validation")
    # Nor would they be if the threshold were twice as far from 1.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "MIN_SIMILARITY", 1 - 2 * (1 - leaks.MIN_SIMILARITY))
        assert found_in(manifest(train=train, test=test)) == []


def test_in_parts_too_the_most_alike_is_found(
    originals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a threshold so low that many faces are the same picture."""
    monkeypatch.setattr(leaks, "_PART", 16)
    monkeypatch.setattr(leaks, "MIN_SIMILARITY", 0.2)
    looks = [look(path) for path in originals]
    half = N_ORIGINALS // 2
    found = find_leaks(manifest(train=originals[:half], test=originals[half:]), looks)
    thumbs = np.stack([np.frombuffer(one.thumb, np.uint8) for one in looks]).reshape(-1, 32, 32)
    own = leaks.features(leaks.spectra(thumbs)).astype(np.float64)
    squares = (own**2).sum(axis=1)
    similar = (2 * own @ own.T + 1e6) / (np.add.outer(squares, squares) + 1e6)
    similar = similar[:half, half:]
    assert 100 < (similar >= 0.2).sum() < similar.size
    rows = np.flatnonzero(similar.max(axis=1) >= 0.2)
    assert [leak.row for leak in found] == rows.tolist()  # each once
    assert [leak.other - half for leak in found] == similar[rows].argmax(axis=1).tolist()
    np.testing.assert_allclose(
        [leak.similarity for leak in found], similar[rows].max(axis=1), rtol=0, atol=1e-5
    )


def test_contrast_is_the_deviation_of_the_pixels() -> None:
    thumbs = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    contrast = thumbs.reshape(3, -1).std(axis=1)
    np.testing.assert_allclose(leaks.contrast(leaks.spectra(thumbs)), contrast, rtol=1e-5)


def test_an_equal_file_is_the_same_file_and_one_leak_for_each_later_split(
    originals: list[str], tmp_path: Path
) -> None:
    copies = [shutil.copy(originals[3], tmp_path / f"{name}.png") for name in "abc"]
    data = manifest(
        train=[originals[0], originals[3], copies[0]], validation=[copies[1]], test=[copies[2]]
    )
    found = found_in(data)
    assert [(leak.row, leak.other, leak.kind) for leak in found] == [
        (1, 3, "same file"),
        (1, 4, "same file"),
        (2, 3, "same file"),
        (2, 4, "same file"),
        (3, 4, "same file"),
    ]
    assert [sample.path for sample in without_leaks(data, found)] == [originals[0], copies[2]]


def test_copies_within_a_split_are_no_leak(originals: list[str], tmp_path: Path) -> None:
    copy = shutil.copy(originals[0], tmp_path / "copy.png")
    assert found_in(manifest(train=[originals[0], copy], test=[originals[1]])) == []


def test_the_most_similar_of_several_copies_is_named(originals: list[str], tmp_path: Path) -> None:
    with Image.open(originals[0]) as image:
        image.save(tmp_path / "poor.jpg", quality=30)
        image.save(tmp_path / "good.jpg", quality=95)
    copies = [str(tmp_path / "poor.jpg"), str(tmp_path / "good.jpg")]
    (leak,) = found_in(manifest(train=[originals[0]], test=copies))
    assert leak.other == 2


def test_flat_pictures_are_alike_only_byte_for_byte(tmp_path: Path) -> None:
    cells = np.random.default_rng(0).integers(0, 2, (32, 32, 1))  # half a grey level of contrast
    faint = np.repeat(np.repeat(np.repeat(cells, 2, 0), 2, 1), 3, 2)
    paths = [str(tmp_path / f"{name}.png") for name in "abcd"]
    for path, pixels in zip(
        paths, (50 + faint, 200 + faint, 50 + 40 * faint, 50 + faint), strict=True
    ):
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    found = found_in(manifest(train=paths[:3], test=paths[3:]))
    assert [(leak.row, leak.kind) for leak in found] == [(0, "same file")]


def test_files_that_cannot_be_read_take_no_part(originals: list[str], tmp_path: Path) -> None:
    bad = [str(tmp_path / name) for name in ("a.png", "b.png", "absent.png")]
    for path in bad[:2]:
        Path(path).write_bytes(b"")
    data = manifest(train=[bad[0], originals[0]], test=[bad[1], bad[2]])
    assert found_in(data) == []


def test_thousands_of_equal_files_cost_no_more_than_one_leak_each(originals: list[str]) -> None:
    one = look(originals[0])
    looks = [Look(**{**fields(one), "path": str(row)}) for row in range(4000)]
    data = manifest(
        train=[found.path for found in looks[:3000]], test=[found.path for found in looks[3000:]]
    )
    began = time.process_time()
    assert len(find_leaks(data, looks)) == 3000
    assert time.process_time() - began < 5


def test_thousands_of_look_alikes_cost_no_more_than_one_leak_each(originals: list[str]) -> None:
    """Six million pairs."""
    one = look(originals[0])
    looks = [
        Look(**{**fields(one), "path": str(row), "digest": row.to_bytes(16, "big")})
        for row in range(5000)
    ]
    data = manifest(
        train=[found.path for found in looks[:3000]], test=[found.path for found in looks[3000:]]
    )
    began = time.process_time()
    with threadpool_limits(1):  # threads that wait spin, and count
        found = find_leaks(data, looks)
    assert time.process_time() - began < 2
    assert [leak.row for leak in found] == list(range(3000))
    assert {leak.kind for leak in found} == {"same picture"}


def fields(one: Look) -> dict[str, object]:
    return {name: getattr(one, name) for name in Look.__slots__}


def test_leaks_csv_names_any_file(tmp_path: Path) -> None:
    names = ['comma, quote" and\nbreak.png', os.fsdecode(b"bytes \xff.png")]
    data = Manifest([Sample(names[0], split="train"), Sample(names[1], split="test")])
    write_leaks(data, [Leak(0, 1, "same picture", 0.98765)], tmp_path / "leaks.csv")
    with (tmp_path / "leaks.csv").open(
        encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        assert file.readline() == "# focus-leaks 2\r\n"
        header, row = csv.reader(file)
    assert dict(zip(header, row, strict=True)) == {
        "path": names[0],
        "split": "train",
        "other_path": names[1],
        "other_split": "test",
        "kind": "same picture",
        "similarity": "0.9877",
    }


@pytest.mark.slow
def test_ten_thousand_distinct_faces_hold_no_leak(tmp_path: Path) -> None:
    train = faces(tmp_path / "train", range(5000))
    test = faces(tmp_path / "test", range(5000, 10000))
    data = manifest(train=train, test=test)
    began = time.monotonic()
    looks = in_processes(look, [*train, *test], title="", processes=2, progress=False)
    found = find_leaks(data, looks)
    took = time.monotonic() - began
    assert found == []
    # 100,000 images in 15 minutes.
    assert took < 90, f"{took:.0f} s for 10,000 images"


def test_processes_give_what_one_gives(originals: list[str]) -> None:
    paths = originals * 4  # more than it takes to start processes
    together = in_processes(look, paths, title="", processes=2, progress=False)
    alone = in_processes(look, paths, title="", processes=1, progress=False)
    assert repr(together) == repr(alone)
