"""docs/real-data.md: its commands run on a tree of CYBORG's layout, with a random transformer."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from focus.__main__ import main as focus
from focus.data.demo import render_face
from focus.experiment.frozen import SPARE_DOSES

from ..test_readme import as_focus, commands

FAKES = ("ProGAN", "StarGANv2", "StyleGAN", "StyleGAN2", "StyleGAN2-ADA", "StyleGAN3")
# CSV, word of the split, class, number of images.
FOLDERS = [
    ("original", "train", "Real", 24),
    ("original", "train", "Synthetic", 24),
    ("original", "test", "Real", 16),
    ("original", "test", "Synthetic", 16),
    *((name, "test", "Synthetic", 8) for name in FAKES),
    ("CelebA-HQ", "test", "Real", 8),
    ("FFHQ", "test", "Real", 8),
]
IMAGES = sum(count for *_, count in FOLDERS)


def write_tree(folder: Path) -> None:
    """Write drawn faces as CYBORG's data lie."""
    data, numbers = folder / "UND" / "Data", iter(range(1000))
    (folder / "UND/csvs").mkdir(parents=True)
    (data / "heatmaps").mkdir(parents=True)
    for csv, split, label, count in FOLDERS:
        below = f"{csv}-{split}-{label}"
        (data / below).mkdir()
        kind = "real" if label == "Real" else "known-1" if csv == "original" else "near-1"
        with (folder / f"UND/csvs/{csv}.csv").open("a") as rows:
            for _ in range(count):
                number = next(numbers)
                face = render_face("open" if kind == "near-1" else "train", kind, number)
                Image.fromarray(face.image).save(data / below / f"{number}.png")
                rows.write(f"{split},{label},/{below}/{number}.png\n")
                if split == "train":
                    shown = np.zeros_like(face.image[..., 0])
                    shown = shown if face.human_map is None else face.human_map
                    Image.fromarray(shown).save(data / "heatmaps" / f"{number}.png")


@pytest.mark.slow
def test_the_commands_that_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With fewer doses, arms, seeds and epochs; the frozen network runs once on each image."""
    write_tree(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    few = {name: SPARE_DOSES.arms[name] for name in ("ce", "focus-1", "wide")}
    monkeypatch.setattr(
        "focus.experiment.frozen.SPARE_DOSES", replace(SPARE_DOSES, arms=few, units=(100,))
    )
    check, _, _, search, compare = map(as_focus, commands("docs/real-data.md"))
    focus([*check, "--output", "check"])
    kinds = json.loads(Path("check/check.json").read_text(encoding="utf-8"))["kinds"]
    assert sum(kind["images"] for kind in kinds) == IMAGES
    assert len(kinds) == 4 + 1 + len(FAKES)
    small = ["--train", "model=vit_tiny_patch16_224", "--train", "epochs=5", "--jobs", "1"]
    small += ["--train", "initial_checkpoint=vit.safetensors"]
    at = search.index("image_size=224")
    search[at] = compare[compare.index("image_size=224")] = "image_size=64"
    focus([*search, *small])
    arms = ("ce", "saliency-aggressive")
    focus([*compare, *small, "--seeds", "1", "--losses", ",".join(arms)])
    said = capfd.readouterr().out
    for arm in arms:
        assert re.search(rf"^\| `{arm}` \| 1 \| - \| \.\d+ ", said, re.MULTILINE), arm

    logs = [path.read_text() for path in Path("frozen").rglob("logs/*.log")]
    assert len(logs) == 3 + len(arms)
    computed = re.findall(r"features of (\d+) images", "".join(logs))
    assert sum(map(int, computed)) == IMAGES
    # No test image is seen before the doses are chosen.
    before = "".join(path.read_text() for path in Path("frozen/doses/logs").glob("*.log"))
    assert sum(map(int, re.findall(r"features of (\d+) images", before))) == 48 + 32
    (run,) = Path("frozen/range/runs").glob("saliency-aggressive-00")
    assert "image_size: 64" in (run / "config.yaml").read_text()
