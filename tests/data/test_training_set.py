"""The images of a run: splits that are drawn, and those of a run that is resumed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focus.config.train import TrainConfig, resolve
from focus.data.manifest import Manifest, Sample, Split
from focus.data.training_set import listed_images, readable_images, with_recorded_splits
from focus.errors import InputError

from .trees import write

RUN = Path("runs/run")


def sample(number: int, folder: str = "/old", **more: str) -> Sample:
    names = {"human_map": f"{folder}/maps/{number}.png"} if number % 2 else {}
    return Sample(f"{folder}/images/{number}.png", number % 2, "g" * (number % 2), **names, **more)


RECORD = [sample(n, split=split) for n, split in enumerate(["train"] * 6 + ["validation", "test"])]


def test_a_resumed_run_takes_its_splits_wherever_its_images_lie() -> None:
    recorded = Manifest(RECORD)
    for folder in ("/old", "/a/new/place"):
        now = [sample(n, folder) for n in range(8)]
        manifest = with_recorded_splits(Manifest(now, "table"), recorded, RUN)
        assert list(manifest) == [sample(n, folder, split=RECORD[n].split) for n in range(8)]
        assert manifest.source == "table"


@pytest.mark.parametrize(
    ("row", "now", "difference"),
    [
        (7, None, "/images/7.png' is missing"),
        (8, sample(8), "/images/8.png' is new"),
        (2, replace(sample(2), label=1), "the label of '/images/2.png' was 0 and is 1"),
    ],
)
def test_a_resumed_run_refuses_other_images_and_names_the_first(
    row: int, now: Sample | None, difference: str
) -> None:
    """They would mix what it was trained and is tested on."""
    samples = [sample(n) for n in range(8)]
    samples[row : row + 1] = [] if now is None else [now]
    message = rf"^The images are not those of the run runs/run .*{difference}"
    with pytest.raises(InputError, match=message):
        with_recorded_splits(Manifest(samples), Manifest(RECORD), RUN)


@pytest.mark.parametrize("name", ["c.png", "map_2.png", "shapes.json", "mask.png"])
def test_a_resumed_run_refuses_a_file_that_was_overwritten(name: str, tmp_path: Path) -> None:
    """An image, the map of one of two annotators, a COCO file, the mask of a test image."""

    def fill(name: str, number: int) -> None:
        image = {"id": 7, "width": 8, "height": 8, "file_name": "b.png"}
        shape = {"image_id": 7, "bbox": [0, 0, 4, number + 1]}
        shapes = json.dumps({"images": [image], "annotations": [shape]})
        pixels = np.roll(255 * np.eye(8, dtype=np.uint8), number)
        if name.endswith("json"):
            (tmp_path / name).write_text(shapes)
        else:
            Image.fromarray(pixels).save(tmp_path / name)

    images = [f"{stem}.png" for stem in "abcdef"]
    for number, file_name in enumerate(
        (*images, "map_1.png", "map_2.png", "mask.png", "shapes.json")
    ):
        fill(file_name, min(number, 6))  # no image is a copy
    splits: list[Split] = ["train", "train", "validation", "validation", "test", "test"]
    maps = {0: f"{tmp_path}/{{map_1.png,map_2.png}}", 1: f"{tmp_path}/shapes.json#7"}
    masks = {4: f"{tmp_path}/mask.png"}
    Manifest(
        Sample(
            *(f"{tmp_path}/{image}", n % 2, "g" * (n % 2), "", splits[n], ""),
            *(maps.get(n), masks.get(n)),
        )
        for n, image in enumerate(images)
    ).to_csv(tmp_path / "data.csv")
    config = resolve(TrainConfig(data=(str(tmp_path / "data.csv"),)))
    readable_images(listed_images(config), config).manifest.to_csv(tmp_path / "manifest.csv")
    recorded = Manifest.from_csv(tmp_path / "manifest.csv")

    def resume() -> None:
        listed = listed_images(config, resumed=True, progress=False)
        readable_images(listed, config, recorded=recorded, progress=False)

    resume()
    fill(name, 7)
    file = {"map_2.png": maps[0], "shapes.json": maps[1]}.get(name, f"{tmp_path}/{name}")
    message = f"(6 then, 6 now; the content of {file!r} has changed): bring them back,"
    with pytest.raises(InputError, match=re.escape(message)):
        resume()


def test_that_splits_are_drawn_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table may have a column for them whose name is not known."""
    write({f"{i}.png": f"face {i}" for i in range(8)}, tmp_path)
    phases = ("train", "train", "val", "test")
    rows = "".join(f"{i}.png,{i // 4},{phases[i % 4]}\n" for i in range(8))
    (tmp_path / "t.csv").write_text(f"file,label,phase\n{rows}")
    config = resolve(TrainConfig(data=(str(tmp_path / "t.csv"),)))
    listed_images(config)
    said = "no column or folder names a split: 15 % validation and 15 % test are drawn"
    assert f"{said} (--columns split=NAME names a column)\n" in capsys.readouterr().out
    (tmp_path / "t.csv").write_text(f"file,label,phase\n{rows.replace('train', '', 1)}")
    listed_images(replace(config, columns=("split=phase",)))
    assert "warning: 1 of 8 images have no split, the first is" in capsys.readouterr().out
