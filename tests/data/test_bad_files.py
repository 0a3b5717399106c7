"""Files that cannot be decoded: named, left out, counted, before a run and in it."""

import csv
import json
import logging
import os
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from focus.config.command_line import parse
from focus.config.train import EvaluateConfig, TrainConfig, resolve
from focus.data.bad_files import check_images, without_digests
from focus.data.check.properties import look
from focus.data.copies import Pictures, find_copies
from focus.data.manifest import Manifest, Sample
from focus.data.signatures import SignatureStore
from focus.data.training_set import training_manifest
from focus.errors import InputError
from focus.training.run import train
from focus.use.evaluate import evaluate


def grey(path: Path, values: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture
def mixed(tmp_path: Path) -> Manifest:
    """Three good samples, of which the second has a bad map and mask, and a bad image."""
    for name in ("a", "b", "c", "map", "mask"):
        grey(tmp_path / f"{name}.png", 255 * np.eye(8))
    grey(tmp_path / "zeros.png", np.zeros((8, 8)))
    (tmp_path / "bad.png").write_text("text")
    paths = {path.stem: str(path) for path in tmp_path.iterdir()}
    return Manifest(
        [
            Sample(paths["a"], 0, human_map=paths["map"], mask_path=paths["mask"]),
            Sample(paths["b"], 1, human_map=paths["bad"], mask_path=str(tmp_path / "missing.png")),
            Sample(paths["bad"], 1, human_map=paths["map"]),
            Sample(paths["c"], 0, human_map=paths["zeros"], mask_path=paths["zeros"]),
        ],
        "the set",
    )


def test_the_pass_takes_out_what_is_bad(
    mixed: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        decoded = check_images(mixed, cache=tmp_path / "cache", progress=False, max_bad=0.5)
        kept, bad = decoded.manifest, decoded.bad
    a, b, _, c = mixed
    zeros = f"{tmp_path}/zeros.png"
    assert [*map(without_digests, kept)] == [
        a,
        Sample(b.path, 1),
        Sample(c.path, 0, mask_path=zeros),
    ]
    assert [(Path(file.path).name, file.role) for file in bad] == [
        ("bad.png", "map"),
        ("missing.png", "mask"),
        ("bad.png", "image"),
    ]
    assert sum("bad.png" in message for message in caplog.messages) == 2
    assert sum("missing.png': No such file" in message for message in caplog.messages) == 1
    (blank,) = (one.text for one in decoded.findings if one.id == "blank_maps")
    assert blank.startswith("1 human maps")


def test_too_many_bad_files_stop(mixed: Manifest, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^1 of 3 map files of the set .* 0.01 .*bad.png"):
        check_images(mixed, cache=tmp_path, progress=False)
    with pytest.raises(InputError, match=r"^1 of 1 image files of the set"):
        check_images(Manifest(mixed[2:3], "the set"), cache=tmp_path, progress=False, max_bad=1)


def test_good_files_are_decoded_once_until_they_change(
    mixed: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real_open = Image.open

    def counting_open(path: str) -> Image.Image:
        decoded.append(Path(path).name)
        return real_open(path)

    monkeypatch.setattr(Image, "open", counting_open)

    def check() -> list[str]:
        decoded.clear()
        check_images(mixed, cache=tmp_path / "cache", progress=False, max_bad=0.5)
        return sorted(decoded)

    good = ["a.png", "b.png", "c.png", "map.png", "mask.png", "zeros.png"]
    # A blank map is looked at again.
    unsure = ["bad.png", "bad.png", "zeros.png"]
    assert check() == sorted(good + unsure)
    assert check() == unsure
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert check() == sorted(["a.png", *unsure])


def test_a_damaged_line_of_the_cache_hides_no_copy(tmp_path: Path) -> None:
    """A digit of the digest changed, and a copy of a training image would be tested."""
    for name in ("original", "copy"):
        grey(tmp_path / f"{name}.png", 255 * np.eye(8))
    samples = [
        Sample(f"{tmp_path}/original.png", 1, split="train"),
        Sample(f"{tmp_path}/copy.png", 1, split="test"),
    ]

    def copies_in(cache: Path) -> list[str]:
        kept = check_images(Manifest(samples), cache=cache, progress=False).manifest
        copies = find_copies(kept, Pictures(kept, SignatureStore()))
        return [copy.sample.path for copy in copies]

    assert copies_in(tmp_path / "cache") == [f"{tmp_path}/copy.png"]
    (store,) = (tmp_path / "cache").iterdir()
    text = store.read_text()
    for position in (1, 40):  # the first digit of a digest, and one of a key
        digit = "0" if text[position] != "0" else "1"
        store.write_text(text[:position] + digit + text[position + 1 :])
        assert copies_in(tmp_path / "cache") == [f"{tmp_path}/copy.png"]


def test_a_pipe_is_a_bad_file(tmp_path: Path) -> None:
    """Nobody writes to it, and whoever opens it waits for ever."""
    image = grey(tmp_path / "image.png", 255 * np.eye(8))
    os.mkfifo(pipe := tmp_path / "pipe.png")
    samples = [Sample(image, 0, human_map=str(pipe)), Sample(image, 0), Sample(str(pipe), 1)]
    looks: list[str] = []

    def look_at_all() -> None:
        decoded = check_images(
            Manifest(samples), cache=tmp_path / "cache", progress=False, max_bad=1
        )
        looks.extend([*(file.reason for file in decoded.bad), look(str(pipe)).error])

    thread = Thread(target=look_at_all, daemon=True)
    thread.start()
    thread.join(5)
    assert looks == 3 * ["it is no regular file but a pipe, a socket or a device"]


def test_an_unwritable_cache_only_warns(
    mixed: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    kept = check_images(mixed, cache=tmp_path / "file", progress=False, max_bad=0.5).manifest
    assert len(kept) == 3
    assert "cannot remember the checked files" in caplog.text


def test_the_pass_over_the_files_knows_all_kinds_of_maps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = grey(tmp_path / "i.png", np.zeros((4, 4, 3)))
    (empty := tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": []}))
    white = np.full((8, 8), 255)
    white[3:5, 3:5] = 0
    shared, torn = (f"{tmp_path}/{{m_1.png,{other}.png}}" for other in ("m_2", "missing"))
    inverted = grey(tmp_path / "inverted.png", white)
    maps = (shared, torn, f"{empty}#1", inverted)
    masks = [grey(tmp_path / f"mask{value}.png", [[0, value]]) for value in (127, 128)]
    grey(tmp_path / "m_1.png", [[0, 255]])
    grey(tmp_path / "m_2.png", [[0, 0]])
    samples = [Sample(image, 1, human_map=path) for path in maps]
    manifest = Manifest(samples + [Sample(image, 1, mask_path=path) for path in masks])
    with caplog.at_level(logging.WARNING):
        decoded = check_images(manifest, cache=tmp_path / "c", progress=False, max_bad=0.5)
    kept, bad = decoded.manifest, decoded.bad
    assert [s.human_map for s in kept[:4]] == [shared, None, None, inverted]
    assert [s.mask_path for s in kept[4:]] == masks
    assert [(file.path, file.role) for file in bad] == [(torn, "map"), (f"{empty}#1", "map")]
    said = "\n".join([*caplog.messages, *map(str, decoded.findings)])
    assert "1 human maps are bright over most of the image and may be inverted" in said
    assert "1 artefact masks are nowhere half white and so count as empty" in said
    assert f"left out the map {torn!r}: No such file" in said
    # An annotator's map that changes is looked at again.
    (tmp_path / "m_2.png").write_text("text")
    bad = check_images(manifest, cache=tmp_path / "c", progress=False, max_bad=1).bad
    assert shared in [file.path for file in bad]


def test_maps_in_colour_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their luminance peaks beside the hottest; grey ones of three channels are as they seem."""
    heat = np.outer(np.linspace(0, 1, 32), np.linspace(0, 1, 32))
    hot = colormaps["jet"](heat, bytes=True)
    grey(tmp_path / "jet.png", hot)
    grey(tmp_path / "grey.png", 255 * heat)
    Image.fromarray(np.stack([(255 * heat).astype(np.uint8)] * 3, -1)).save(tmp_path / "grey.jpg")
    Image.fromarray(hot[..., :3]).quantize(32).save(tmp_path / "palette.png")
    references = [*sorted(map(str, tmp_path.glob("*.*"))), f"{tmp_path}/{{grey.png,jet.png}}"]
    manifest = Manifest(Sample(f"{tmp_path}/jet.png", 0, human_map=r) for r in references)
    for _ in range(2):  # those that were seen before too
        caplog.clear()
        decoded = check_images(manifest, cache=tmp_path / "cache", progress=False)
        usable, bad = decoded.manifest, decoded.bad
        assert ([*map(without_digests, usable)], bad) == (list(manifest), [])
        assert caplog.messages == []
        (said,) = (one.text for one in decoded.findings)
        assert said.startswith("3 human maps are in colour, of which only the luminance is used")
        assert said.endswith(f"the first is '{tmp_path}/jet.png'.")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 images in folders, two of them broken: one to train on, one to test on."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 6), ("test", 8)):
        for kind in ("0_real", "1_fake"):
            for number in range(count):
                path = tmp_path / "data" / split / "kA" / kind / f"{number}.png"
                grey(path, rng.integers(0, 256, (32, 32, 3)))
    whole = (tmp_path / "data/test/kA/0_real/1.png").read_bytes()
    (tmp_path / "data/test/kA/0_real/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data/train/kA/1_fake/2.png").write_bytes(b"")
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def flags(folder: Path) -> list[str]:
    return [f"--data={folder}/data", "--workers=0", "--threads=1"]


def rows(path: Path) -> list[tuple[str, str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return [(r["path"], r["role"], r["reason"]) for r in csv.DictReader(file)]


@pytest.mark.slow
def test_a_run_names_leaves_out_and_lists(
    folder: Path, flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = ["--recipe=demo", "--loss=ce", "--epochs=1", "--image-size=32", "--name=run"]
    run = folder / "runs/run"
    config = parse(TrainConfig, [*flags, *settings, f"--output={folder}/runs", "--max-bad=0.05"])
    with caplog.at_level(logging.WARNING):
        train(config)
    bad_rows = rows(run / "bad_files.csv")
    broken = ["test/kA/0_real/1.png", "train/kA/1_fake/2.png"]
    assert sorted(path for path, _, _ in bad_rows) == [f"{folder}/data/{p}" for p in broken]
    for path, role, reason in bad_rows:
        assert role == "image"
        assert reason
        assert sum(path in message for message in caplog.messages) == 1
    with (run / "scores.csv").open() as file:
        assert len(file.readlines()) == 1 + 15

    evaluate(parse(EvaluateConfig, [*flags, f"--run={run}", "--max-bad=0.05"]))
    assert len(rows(run / "evaluation/bad_files.csv")) == 1  # training images are not scored


def test_too_many_stop_before_a_folder_is_made(folder: Path, flags: list[str]) -> None:
    with pytest.raises(InputError, match=r"^2 of 40 image files of .* --max-bad 0.01 allows"):
        train(parse(TrainConfig, [*flags, "--recipe=demo", f"--output={folder}/runs"]))
    assert not (folder / "runs").exists()


def test_a_class_without_a_sound_image_stops(folder: Path, flags: list[str]) -> None:
    for picture in (folder / "data/train/kA/1_fake").iterdir():
        picture.write_bytes(b"")
    config = resolve(parse(TrainConfig, [*flags, "--recipe=demo", "--max-bad=1"]))
    with pytest.raises(InputError, match="0 synthetic"):
        training_manifest(config, progress=False)
