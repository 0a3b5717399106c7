"""The examples of docs/use.md and of the README that use a trained detector."""

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from focus.__main__ import main
from focus.cli import parse
from focus.models import Detector
from focus.operating_points import POINTS
from focus.use_config import ExplainConfig, ExportConfig, Point

CHECKOUT = Path(__file__).parents[1]
TEXT = (CHECKOUT / "docs" / "use.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("plain_cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the examples name."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    torch.manual_seed(0)
    Detector(image_size=32).save_pretrained(tmp_path / "runs" / "NAME" / "model")
    for name in ("a.jpg", "b.png", "picture.jpg", "holiday/1.png", "pictures/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), "green").save(tmp_path / name)
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 64, 48
        pixels = np.zeros((48, 64, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line)[3:] for line in re.findall(r"^python -m focus \w.*$", text, re.M)]


def test_the_example_in_python_runs(place: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
    names: dict[str, Any] = {}
    exec(example, names)
    found = names["found"]
    for shape, line in re.findall(r"^found\.(\w+)  # (\[[^\]]*\])", example, re.M):
        size = line.strip("[]").replace("H,W", "4,4").split(",")
        assert list(getattr(found, shape).shape) == [int(side) for side in size], shape


def test_the_explain_commands_run(place: Path) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for text in (TEXT, readme):
        (words,) = [words for words in commands(text) if words[0] == "explain"]
        main(words)
        assert (place / "explained" / "manifest.json").exists()
        (place / "explained").rename(place / f"explained{len(text)}")


def test_the_export_commands_are_understood() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for text in (TEXT, readme):
        (words,) = [words for words in commands(text) if words[0] == "export"]
        assert parse(ExportConfig, words[1:]).onnx == "detector.onnx"


def test_the_points_that_decide_are_those_of_the_file() -> None:
    assert set(get_args(Point)) == set(POINTS)
    config = parse(ExplainConfig, ["x", "--model-dir", "m", "--threshold", "eer"])
    assert config.threshold == "eer"
