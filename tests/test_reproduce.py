"""The predecessor's data and training, rehearsed: its tree, its numbers, its four networks.

The images are stand-ins of a few pixels, the pretrained weights are left out.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus.config.command_line import load_config
from focus.config.command_line import run as run_program
from focus.config.train import EvaluateConfig, TrainConfig, resolve
from focus.data.check.command import main
from focus.data.check.expected import DATA_SETS, DataSet, compare
from focus.data.dataset import FaceDataset
from focus.data.manifest import Manifest, Sample, Split
from focus.errors import InputError
from focus.model.detector import Detector
from focus.training.run import train
from focus.use.evaluate import evaluate

from .documented import Command, of_document, program
from .launching import CHECKOUT, trained
from .trees import face

pytestmark = pytest.mark.slow

DOCUMENT = "docs/reproduce.md"
FAKES = ("ProGAN", "StarGANv2", "StyleGAN", "StyleGAN2", "StyleGAN2-ADA", "StyleGAN3")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

Rows = dict[str, list[str]]
"""The lines of each CSV, by its name."""


def write_tree(root: Path, data: DataSet) -> Rows:
    """The tree that ``data`` describes, its CSVs apart: a few files, each under many names.

    No two of its folders share a picture: those of training and test would be leaks.
    """
    greys = iter(range(256))
    rows: Rows = {}

    def add(csv: str, split: str, label: str, folder: str, n: int) -> None:
        place = root / "Data" / folder
        place.mkdir(parents=True)
        firsts = []
        for value in islice(greys, min(n, 10)):
            firsts.append(root / f"face{value}.png")
            firsts[-1].write_bytes(face(value))
        stem = folder.replace("/", "-")
        for number in range(n):
            os.link(firsts[number % len(firsts)], place / f"{stem}-{number}.png")
            rows.setdefault(csv, []).append(f"{split},{label},/{folder}/{stem}-{number}.png")

    for split, (real, synthetic) in (("train", data.train), ("test", data.validation)):
        add("original", split, "Real", f"real-{split}", real)
        add("original", split, "Synthetic", f"SG2-{split}", synthetic)
    for name in data.test_fakes:
        add(name, "test", "Synthetic", f"tests/{name}", 12)
    for name, number in data.test_reals.items():
        add(name, "test", "Real", f"tests/{name}", number)

    (root / "Data" / "heatmaps").mkdir()
    Image.radial_gradient("L").resize((3, 2)).point(lambda v: 255 - v).save(root / "map.png")
    for row in rows["original"]:
        if row.startswith("train"):
            os.link(root / "map.png", root / "Data" / "heatmaps" / row.rpartition("/")[2])
    return rows


def words(root: Path, rows: Rows, expect: str = "cyborg") -> list[str]:
    """Writes the CSVs; the arguments of ``check`` that name them."""
    (root / "csvs").mkdir(exist_ok=True)
    for name, lines in rows.items():
        (root / "csvs" / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    return [
        str(root / "csvs" / "original.csv"),
        *(f"--data-root={root / 'Data'}", "--expect", expect, f"--output={root / 'out'}"),
        *(f"--test-data={n}={root / 'csvs' / n}.csv" for n in rows if n in FAKES),
        *(
            f"--test-real={n}={root / 'csvs' / n}.csv"
            for n in rows
            if n not in (*FAKES, "original")
        ),
    ]


def report(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "out" / "check.json").read_text(encoding="utf-8"))
    return found


def check(arguments: Iterable[str], root: Path) -> dict[str, Any]:
    """check.json; "exit" is the exit code."""
    code = 0
    try:
        main(list(arguments))
    except SystemExit as end:
        code = int(end.code or 0)
    return {**report(root), "exit": code}


def samples(n: int, label: int, split: Split, **more: Any) -> list[Sample]:
    return [Sample(f"/{split}/{label}/{i}.png", label, split=split, **more) for i in range(n)]


def whole(train: tuple[int, int] = (919, 902), maps: int = 1821) -> list[Sample]:
    """What the readers make of the whole of the predecessor's data."""
    training = samples(train[0], 0, "train") + samples(train[1], 1, "train", generator="synthetic")
    with_maps = [replace(sample, map_path="map.png") for sample in training[:maps]]
    return [
        *with_maps,
        *training[maps:],
        *samples(10_000, 0, "validation"),
        *samples(10_000, 1, "validation", generator="synthetic"),
        *(sample for name in FAKES for sample in samples(3, 1, "test", generator=name)),
        *samples(30_000, 0, "test", extra={"source": "CelebA-HQ"}),
        *samples(70_000, 0, "test", extra={"source": "FFHQ"}),
    ]


def test_the_whole_data_meet_the_expectation() -> None:
    assert compare("cyborg", Manifest(whole())).unmet == ()
    assert compare("cyborg-7x", Manifest(whole((6433, 6314), maps=0))).unmet == ()
    # Names are other people's: their spelling does not matter.
    spelt = [
        replace(s, generator=s.generator.lower().replace("-", "_"), extra={"source": "celebahq"})
        if s.extra.get("source") == "CelebA-HQ" or s.generator in FAKES
        else s
        for s in whole()
    ]
    assert compare("cyborg", Manifest(spelt)).unmet == ()


def of(split: Split, label: int, **more: str) -> Callable[[Sample], bool]:
    def matches(sample: Sample) -> bool:
        source = sample.extra.get("source", "")
        named = {"generator": sample.generator, "source": source}
        return sample.split == split and sample.label == label and more.items() <= named.items()

    return matches


@pytest.mark.parametrize(
    ("removed", "what", "got", "expected"),
    [
        (of("train", 0), "train real", 0, 919),
        (of("train", 1), "train synthetic", 0, 902),
        (of("validation", 0), "validation real", 0, 10_000),
        (of("validation", 1), "validation synthetic", 0, 10_000),
        *(
            (of("test", 1, generator=name), f"test fakes of {name}", 0, 1)
            for name in DATA_SETS["cyborg"].test_fakes
        ),
        (of("test", 0, source="CelebA-HQ"), "test reals of CelebA-HQ", 0, 30_000),
        (of("test", 0, source="FFHQ"), "test reals of FFHQ", 0, 70_000),
    ],
)
def test_each_expectation_can_fail(
    removed: Callable[[Sample], bool], what: str, got: int, expected: int
) -> None:
    manifest = Manifest(sample for sample in whole() if not removed(sample))
    (unmet,) = compare("cyborg", manifest).unmet
    assert (unmet.what, unmet.got, unmet.expected) == (what, got, expected)


def test_one_image_more_or_less_is_said_and_what_to_do() -> None:
    every = whole()
    (fewer,) = compare("cyborg", Manifest(every[1:])).unmet
    assert str(fewer) == (
        "train real: got 918, expected 919; give original.csv as it came, whole (its rows "
        "train,Real)"
    )
    (more,) = compare("cyborg", Manifest([*every, *samples(1, 1, "validation")])).unmet
    assert str(more) == (
        "validation synthetic: got 10001, expected 10000; give original.csv as it came, whole "
        "(its rows test,Synthetic)"
    )
    # Either CSV in place of the other.
    for name, manifest in (
        ("cyborg", whole((6433, 6314))),
        ("cyborg-7x", whole()),
    ):
        wrong = [unmet.what for unmet in compare(name, Manifest(manifest)).unmet]
        assert wrong == ["train real", "train synthetic"]


def test_a_test_set_of_fakes_has_no_reals_and_maps_are_counted() -> None:
    own_reals = samples(5, 0, "test", generator="ProGAN")
    (unmet,) = compare("cyborg", Manifest([*whole(), *own_reals])).unmet
    assert (unmet.what, unmet.got, unmet.expected) == (
        "real images in the test sets of fakes",
        5,
        0,
    )
    some = compare("cyborg", Manifest(whole(maps=1700)))
    assert (some.unmet, some.train_with_map, some.train) == ((), 1700, 1821)
    (no_maps,) = compare("cyborg", Manifest(whole(maps=0))).unmet
    assert str(no_maps) == (
        "training images with a human map: got 0, expected at least 1; give the folder of the "
        "human maps by --heatmaps DIR"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--expect", "cybrog"], r"--expect got 'cybrog': .* \(did you mean cyborg\?\)\.$"),
        (["--expect=cyborg7x"], r"--expect got 'cyborg7x': .* \(did you mean cyborg-7x\?\)\.$"),
        (["--expect"], r"--expect got '': it is one of cyborg, cyborg-7x\.$"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_read(given: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        main(["/nowhere.csv", *given])


SMALL = replace(
    DATA_SETS["cyborg"],
    # Few enough for no audit of shortcuts, which takes its time.
    train=(8, 6),
    validation=(9, 10),
    test_reals={"CelebA-HQ": 13, "FFHQ": 17},
)


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DATA_SETS, "cyborg", SMALL)
    rows = write_tree(tmp_path, SMALL)
    found = check(words(tmp_path, rows), tmp_path)
    assert (found["exit"], found["trainable"]) == (0, True)
    assert found["expected"] == {
        "met": True,
        "name": "cyborg",
        "unmet": [],
        "train": 14,
        "train_with_map": 14,
    }
    assert "expected cyborg: met\n  14 of 14 training images" in capsys.readouterr().out

    rows["original"] = rows["original"][2:]
    rows["FFHQ"] = rows["FFHQ"][1:]
    del rows["StyleGAN3"]
    maps = sorted((tmp_path / "Data" / "heatmaps").glob("SG2*"))
    maps[0].unlink()
    found = check(words(tmp_path, rows), tmp_path)
    # Training would start; it is the expectation that is not met.
    assert (found["exit"], found["trainable"], found["expected"]["met"]) == (1, True, False)
    assert found["expected"]["unmet"][1] == {
        "what": "test fakes of StyleGAN3",
        "got": 0,
        "expected": 1,
        "at_least": True,
        "remedy": "give its CSV by --test-data StyleGAN3=CSV",
    }
    lines = (tmp_path / "out" / "check.txt").read_text(encoding="utf-8")
    assert (
        "expected cyborg: not met in 3 of its points\n"
        "  train real: got 6, expected 8; give original.csv as it came, whole (its rows "
        "train,Real)\n"
        "  test fakes of StyleGAN3: got 0, expected at least 1; give its CSV by --test-data "
        "StyleGAN3=CSV\n"
        "  test reals of FFHQ: got 16, expected 17; give its CSV, whole, by --test-real FFHQ=CSV\n"
        "  11 of 12 training images have a human map\n"
    ) in lines
    assert lines in capsys.readouterr().out

    # A test image with the name of a training image does not get that one's map, but its own.
    rows["FFHQ"].pop()
    for name, number in (("real-train-7.png", 255), ("looked-at.png", 254)):
        rows["FFHQ"].append(f"test,Real,/tests/FFHQ/{name}")
        (tmp_path / "Data/tests/FFHQ" / name).write_bytes(face(number))
    shutil.copy(maps[1], tmp_path / "Data/heatmaps/looked-at.png")
    found = check(words(tmp_path, rows), tmp_path)
    wrong = {part["what"]: part["got"] for part in found["expected"]["unmet"]}
    assert wrong == {
        "train real": 6,
        "images with a human map that are not for training": 1,
        "test fakes of StyleGAN3": 0,
    }
    (tmp_path / "Data/heatmaps").rename(tmp_path / "maps")
    found = check([*words(tmp_path, rows), f"--heatmaps={tmp_path / 'maps'}"], tmp_path)
    assert [part["got"] for part in found["expected"]["unmet"]] == [6, 0]

    # Without the flag nothing of it is asked.
    plain = [word for word in words(tmp_path, rows) if word not in ("--expect", "cyborg")]
    found = check(plain, tmp_path)
    assert (found["exit"], found["expected"]) == (0, None)
    # Nothing to compare: what stops the reading is said, not each number.
    rows["original"].append("train,Reall,/x.png")
    found = check(words(tmp_path, rows), tmp_path)
    assert (found["exit"], found["trainable"], found["expected"]) == (1, False, None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the data where the document has them, a run and configs/."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "UND").mkdir()
    words(folder / "UND", write_tree(folder / "UND", SMALL))
    (folder / "configs").symlink_to(CHECKOUT / "configs")
    torch.manual_seed(0)
    Detector().save_pretrained(folder / "runs" / "cyborg-densenet121-ce-seed0" / "model")
    return folder


def test_the_check_and_the_evaluation_that_are_shown(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setitem(DATA_SETS, "cyborg", SMALL)
    # Read here, where the pattern of the loop over run folders finds one.
    others = [c for c in map(program, of_document(DOCUMENT)) if c[0] != "train.py"]
    checked, evaluated = others
    assert checked[:3] == ("-m", "focus.data", "check")
    found = check([*checked[3:], "--output=UND/out"], place / "UND")
    assert (found["exit"], found["trainable"], found["expected"]["met"]) == (0, True, True)
    assert evaluated[0] == "evaluate.py"
    argv = [*evaluated[1:], "--threads", "1", "--workers", "0", "--report", "false"]
    run_program(evaluate, EvaluateConfig, argv=argv, prog="evaluate.py")
    (run,) = (place / "runs").iterdir()
    results = json.loads((run / "evaluation" / "results.json").read_text(encoding="utf-8"))
    for entry in results["open"]["generators"].values():
        assert (entry["n_real"], entry["n_fake"]) == (30, 12)
    assert tuple(results["open"]["generators"]) == FAKES


def shown_trainings() -> list[object]:
    """Of each network with each loss the first seed."""
    found = [c for c in of_document(DOCUMENT) if program(c)[0] == "train.py"]
    return [pytest.param(command, id=command.words[-2]) for command in found]


@pytest.mark.parametrize("command", shown_trainings())
def test_a_training_that_is_shown_would_start(
    command: Command,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its steps are really made, on fewer and smaller images, without pretrained weights."""
    monkeypatch.chdir(place)
    scaled = ["--no-pretrained", "--image-size", "112", "--batch-size", "4"]
    argv = [*program(command)[1:], *scaled, "--threads", "1", "--workers", "0", "--dry-run"]
    run_program(train, TrainConfig, argv=argv, prog="train.py")
    _, network, loss, _ = command.words[command.words.index("--name") + 1].split("-")
    printed = re.findall(r"^(\w+): (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert {("loss", loss), ("model", NETWORKS[network][0])} <= set(printed)


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


def launched(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_tree_with_the_real_numbers(tmp_path: Path) -> None:
    rows = write_tree(tmp_path, DATA_SETS["cyborg"])
    arguments = words(tmp_path, rows)
    done = launched("-m", "focus.data", "check", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "expected cyborg: met\n  1821 of 1821 training images have a human map" in done.stdout
    assert report(tmp_path)["n_images"] == 121_821 + 6 * 12

    rows["original"] = rows["original"][919:]
    arguments = words(tmp_path, {name: lines[:9_999] for name, lines in rows.items()})
    done = launched("-m", "focus.data", "check", *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "expected cyborg: not met in " in done.stdout
    unmet = report(tmp_path)["expected"]["unmet"]
    assert [(part["what"], part["got"]) for part in unmet] == [
        ("train real", 0),
        ("validation real", 9_097),
        ("validation synthetic", 0),
        ("test reals of CelebA-HQ", 9_999),
        ("test reals of FFHQ", 9_999),
    ]


NETWORKS = {
    "densenet121": ("densenet121.tv_in1k", 224, 7, IMAGENET),
    "resnet50": ("resnet50.tv_in1k", 224, 7, IMAGENET),
    # torchvision's network turns images normalised by ImageNet's figures into these.
    "inception_v3": ("inception_v3.tv_in1k", 299, 8, HALF),
    "xception": ("legacy_xception.tf_in1k", 299, 10, HALF),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_dry_run_of_each_config(name: str, tmp_path: Path) -> None:
    model, size, cells, _ = NETWORKS[name]
    rows = []
    for number, cell in enumerate(("train,Real", "train,Synthetic", "test,Real", "test,Synthetic")):
        (tmp_path / f"{number}.png").write_bytes(face(number))
        rows.append(f"{cell},/{number}.png")
    (tmp_path / "original.csv").write_text("\n".join(rows), encoding="utf-8")
    done = trained(
        *("--config", f"configs/cyborg-{name}.yaml", "--no-pretrained", "--dry-run"),
        *(f"--data={tmp_path / 'original.csv'}", f"--output={tmp_path}", "--workers=0"),
        cwd=CHECKOUT,
    )
    assert done.returncode == 0, done.stderr
    printed = re.findall(r"^(\w+): (.+)$", done.stdout, re.MULTILINE)
    assert {
        "recipe": "paper",
        "model": model,
        "image_size": str(size),
        "optimizer": "sgd",
        "lr": "0.005",
        "momentum": "0.9",
        "weight_decay": "1.0e-06",
        "schedule": "step",
        "step_epochs": "12",
        "step_gamma": "0.1",
        "epochs": "50",
        "batch_size": "20",
        "augment": "none",
        "pretrained": "false",
        "steps": "50 epochs x 1 = 50, of 20 images each",
    }.items() <= set(printed)
    assert f"maps of {cells} x {cells} cells" in done.stdout


@pytest.mark.parametrize("name", NETWORKS)
def test_images_are_squashed_and_normalised_as_the_weights_want_it(
    name: str, tmp_path: Path
) -> None:
    model, size, cells, (mean, std) = NETWORKS[name]
    config = resolve(
        replace(load_config(TrainConfig, CHECKOUT / f"configs/cyborg-{name}.yaml"), data=("x.csv",))
    )
    assert (config.pretrained, config.model, config.image_size) == (True, model, size)
    detector = Detector(config.model, image_size=config.image_size)
    assert (detector.mean, detector.std, detector.grid) == (mean, std, (cells, cells))
    assert detector.config.model == model

    pixels = np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "face.png")
    data = FaceDataset(
        Manifest([Sample(str(tmp_path / "face.png"), 0)]),
        image_size=detector.image_size,
        grid=detector.grid,
        mean=detector.mean,
        std=detector.std,
    )
    whole_image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    expected = (torch.tensor(np.asarray(whole_image)) / 255 - torch.tensor(mean)) / torch.tensor(
        std
    )
    torch.testing.assert_close(data[0].images, expected.permute(2, 0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("inception_v3", 299),
        ("inception_v3.tv_in1k", 299),
        ("legacy_xception.tf_in1k", 299),
        ("densenet121.tv_in1k", 224),
        ("inception_resnet_v2.tf_in1k", 224),
    ],
)
def test_the_size_of_a_network_does_not_depend_on_the_tag_of_its_weights(
    model: str, size: int
) -> None:
    assert resolve(TrainConfig(model=model, data=("x.csv",))).image_size == size
    assert resolve(TrainConfig(model=model, data=("x.csv",), image_size=64)).image_size == 64
    assert resolve(TrainConfig(model=model, recipe="demo")).image_size == 64
