"""docs/reproduce.md: its commands run on a tree of the predecessor's shape, its figures are right.

The images are stand-ins of a few pixels, the pretrained weights are left out.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from focus.config.command_line import load_config
from focus.config.command_line import run as run_program
from focus.config.evaluate import EvaluateConfig
from focus.config.train import TrainConfig, resolve
from focus.data.dataset import FaceDataset
from focus.data.manifest import Manifest, Sample
from focus.model.detector import Detector
from focus.training.run import train
from focus.use.evaluate import evaluate

from .commands import check
from .documented import Command, of_document, program
from .launching import CHECKOUT
from .trees import face

pytestmark = pytest.mark.slow

DOCUMENT = "docs/reproduce.md"
FAKES = ("ProGAN", "StarGANv2", "StyleGAN", "StyleGAN2", "StyleGAN2-ADA", "StyleGAN3")
# CSV, word of the split, class, number of images.
FOLDERS = [
    *(("original", "train", "Real", 8), ("original", "train", "Synthetic", 6)),
    *(("original", "test", "Real", 9), ("original", "test", "Synthetic", 10)),
    *((name, "test", "Synthetic", 3) for name in FAKES),
    *(("CelebA-HQ", "test", "Real", 5), ("FFHQ", "test", "Real", 7)),
]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NETWORKS = {
    "densenet121": ("densenet121.tv_in1k", 224, 7, IMAGENET),
    "resnet50": ("resnet50.tv_in1k", 224, 7, IMAGENET),
    # torchvision's network turns images normalised by ImageNet's figures into these.
    "inception_v3": ("inception_v3.tv_in1k", 299, 8, HALF),
    "xception": ("legacy_xception.tf_in1k", 299, 10, HALF),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the data where the document has them, a run and configs/."""
    folder = tmp_path_factory.mktemp("place")
    data = folder / "UND" / "Data"
    greys = iter(range(256))
    (folder / "UND/csvs").mkdir(parents=True)
    (data / "heatmaps").mkdir(parents=True)
    human_map = Image.radial_gradient("L").resize((3, 2)).point(lambda v: 255 - v)
    for csv, split, label, n in FOLDERS:
        below = f"{csv}-{split}-{label}"
        (data / below).mkdir()
        with (folder / f"UND/csvs/{csv}.csv").open("a") as rows:
            for number in range(n):
                name = f"{below}-{number}.png"
                (data / below / name).write_bytes(face(next(greys)))
                rows.write(f"{split},{label},/{below}/{name}\n")
                if split == "train":
                    human_map.save(data / "heatmaps" / name)
    (folder / "configs").symlink_to(CHECKOUT / "configs")
    torch.manual_seed(0)
    Detector().save_pretrained(folder / "runs" / "cyborg-densenet121-ce-seed0" / "model")
    return folder


def shown(name: str) -> Iterator[Command]:
    """The document's commands of a program, from its arguments on."""
    return (c for c in of_document(DOCUMENT) if program(c)[0] == name)


def test_the_check_that_is_shown_counts_what_the_table_lists(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (command,) = shown("-m")
    assert program(command)[:3] == ("-m", "focus.data", "check")
    check([*program(command)[3:], "--output=out"])
    found = json.loads((place / "out" / "check.json").read_text(encoding="utf-8"))
    assert found["trainable"]
    kinds = [(k["split"], k["label"], k["images"], k["with_map"]) for k in found["kinds"]]
    assert kinds == [
        *(("train", "real", 8, 8), ("train", "synthetic", 6, 6)),
        *(("validation", "real", 9, 0), ("validation", "synthetic", 10, 0)),
        ("test", "real", 12, 0),
        *(("test", "synthetic", 3, 0) for _ in FAKES),
    ]
    table = re.findall(
        r"^\| (\w+) \| (\w+)[^|]* \|", (CHECKOUT / DOCUMENT).read_text(), re.MULTILINE
    )
    assert list(dict.fromkeys(kind[:2] for kind in kinds)) == [
        row for row in table if row[0] in ("train", "validation", "test")
    ]


def test_the_evaluation_that_is_shown(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    # Read here, where the pattern of the loop over run folders finds one.
    (command,) = shown("evaluate.py")
    argv = [*program(command)[1:], "--threads", "1", "--workers", "0", "--report", "false"]
    run_program(evaluate, EvaluateConfig, argv=argv, prog="evaluate.py")
    (run,) = (place / "runs").iterdir()
    results = json.loads((run / "evaluation" / "results.json").read_text(encoding="utf-8"))
    generators = results["open"]["generators"]
    counts = {name: (found["n_real"], found["n_fake"]) for name, found in generators.items()}
    assert counts == dict.fromkeys(FAKES, (12, 3))


@pytest.mark.parametrize(
    ("network", "loss"),
    # Each network and each loss once; the losses share one code path.
    list(zip([*NETWORKS, "resnet50"], ("ce", "saliency", "cyborg", "focus", "blend"), strict=True)),
)
def test_a_training_that_is_shown_would_start(
    network: str,
    loss: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its steps are really made, on fewer and smaller images, without pretrained weights."""
    monkeypatch.chdir(place)
    (command,) = (c for c in shown("train.py") if f"cyborg-{network}-{loss}-seed0" in c.words)
    scaled = ["--no-pretrained", "--image-size", "112", "--batch-size", "4"]
    argv = [*program(command)[1:], *scaled, "--threads", "1", "--workers", "0", "--dry-run"]
    run_program(train, TrainConfig, argv=argv, prog="train.py")
    printed = re.findall(r"^(\w+): (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert {
        ("loss", loss),
        ("model", NETWORKS[network][0]),
        *(("optimizer", "sgd"), ("lr", "0.005"), ("momentum", "0.9"), ("weight_decay", "1.0e-06")),
        *(("step_epochs", "12"), ("step_gamma", "0.1"), ("epochs", "50"), ("augment", "none")),
    } <= set(printed)


def test_the_flops_that_are_shown() -> None:
    """What the document's program prints, and what the table makes of it."""
    text = (CHECKOUT / DOCUMENT).read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(example, {})
    counted = [float(line.split()[1]) for line in printed.getvalue().splitlines()]
    (images,) = re.findall(r"^ +(1,[\d,]+)$", text, re.MULTILINE)
    rate = float(re.findall(r"(\d+) TFLOP/s", text)[0]) * 1e12
    cells = r" \| ".join((r"([\d.]+) G", r"([\d.]+) P", r"([\d.]+)", r"([\d.]+)"))
    table = re.findall(rf"^\| \w.* \| {cells} \|$", text, re.MULTILINE)
    for giga, row in zip(counted, table, strict=True):
        run = 1e9 * giga * int(images.replace(",", ""))
        hours = run / rate / 3600
        assert row == (f"{giga:.2f}", f"{run / 1e15:.1f}", f"{hours:.2f}", f"{10 * hours:.1f}")


@pytest.mark.parametrize("name", NETWORKS)
def test_images_are_squashed_and_normalised_as_the_weights_want_it(
    name: str, tmp_path: Path
) -> None:
    model, size, cells, (mean, std) = NETWORKS[name]
    config = resolve(
        replace(load_config(TrainConfig, CHECKOUT / f"configs/cyborg-{name}.yaml"), data=("x.csv",))
    )
    assert (config.pretrained, config.model, config.image_size) == (True, model, size)
    assert config.batch_size == 20
    detector = Detector(config.model, image_size=config.image_size)
    assert (detector.mean, detector.std, detector.grid) == (mean, std, (cells, cells))

    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    data = FaceDataset(
        Manifest([Sample(str(tmp_path / "face.png"), 0)]),
        image_size=detector.image_size,
        grid=detector.grid,
        mean=detector.mean,
        std=detector.std,
    )
    squashed = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    unit = torch.tensor(np.asarray(squashed)) / 255
    expected = (unit - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(data[0].images, expected.permute(2, 0, 1), atol=1e-5, rtol=0)
