"""The examples of docs/examples run as they are, on few faces, and are short."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from focus import Detector
from focus.__main__ import main as focus
from focus.data import demo
from focus.data.demo import demo_manifest
from focus.data.manifest import Manifest

from .browser import NEEDS_CHROMIUM
from .launching import Begin, free_port
from .model.detectors import lifelike

EXAMPLES = Path(__file__).parents[1] / "docs/examples"
FEW: Any = {
    "train": {"real": 24, "known-1": 24},
    "validation": {"real": 8, "known-1": 8},
    "open": {"real": 8, "near-1": 8},
}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return demo_manifest(tmp_path_factory.mktemp("cache"), progress=False, splits=FEW)


@pytest.fixture
def here(tmp_path: Path, few: Manifest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run in an empty folder; the demo set has few faces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "demo_manifest", lambda **_: few)
    torch.manual_seed(0)
    return tmp_path


@pytest.fixture
def trained(here: Path, few: Manifest) -> tuple[Detector, list[str]]:
    """A model folder "model", what is in it, and the paths of faces."""
    detector = lifelike(Detector(image_size=64))
    detector.head.fc.weight.data.normal_(0, 1)
    detector.save_pretrained(here / "model")
    return detector, [sample.path for sample in few[:4]]


def run(name: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [name, *words])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_they_are_short() -> None:
    examples = list(EXAMPLES.glob("*.py"))
    assert len(examples) >= 5
    for example in examples:
        lines = example.read_text(encoding="utf-8").partition('"""\n\n')[2].splitlines()
        assert sum(bool(line) for line in lines) <= 30, example


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("plain_torch.py", "torch"),
        ("lightning_module.py", "lightning"),
        ("transformers_trainer.py", "transformers"),
    ],
)
def test_each_trainer_trains(
    name: str, package: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    began = Detector("focus_small", image_size=64).head.fc.weight
    torch.manual_seed(0)
    run(name, monkeypatch=monkeypatch)
    detector = Detector.from_pretrained(here / "runs" / "detector")
    assert not torch.equal(detector.head.fc.weight, began)
    assert all(value.isfinite().all() for value in detector.state_dict().values())


@pytest.mark.slow
def test_onnxruntime_scores_as_the_detector(
    trained: tuple[Detector, list[str]],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    detector, faces = trained
    words = ["--model-dir", "model", "--onnx", "detector.onnx", "--threads", "1"]
    focus(["export", *words, "--check-images", str(Path(faces[0]).parent)])
    capsys.readouterr()
    run("onnx_runtime.py", "detector.onnx", *faces, monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    prediction = detector.predict(faces)
    assert [float(line.split()[1]) for line in lines] == pytest.approx(
        prediction.score.tolist(), abs=1e-4
    )
    verdicts = ["synthetic" if label else "real" for label in prediction.predicted]
    assert [line.split()[2].rstrip(",") for line in lines] == verdicts
    cells = [divmod(int(cams[1].argmax()), detector.grid[1]) for cams in prediction.cams]
    assert [line.rpartition("cell ")[2] for line in lines] == [f"{r}, {c}" for r, c in cells]


@pytest.mark.slow
def test_grad_cam_draws_where_the_detector_looks(
    trained: tuple[Detector, list[str]], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = pytest.importorskip("pytorch_grad_cam.utils.image").scale_cam_image
    detector, faces = trained
    names = run("grad_cam.py", "model", faces[0], "cam.png", monkeypatch=monkeypatch)
    ours = detector.predict(faces[0]).cams[:, 1].clamp(min=0).numpy()
    expected = scaled(scaled(ours, (64, 64)))[0]
    np.testing.assert_allclose(names["heat"], expected, atol=1e-4)
    assert Image.open("cam.png").size == (64, 64)


@pytest.mark.slow
def test_the_page_on_embedding_runs(here: Path) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    page = (EXAMPLES.parent / "embedding.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["heat"].shape == (2, 128, 128)
    assert names["figures"]["auc/SDXL"] == names["figures"]["auc_mean"] == 1
    assert names["same"] == pytest.approx(names["figures"], nan_ok=True)
    listed = {example.name for example in EXAMPLES.glob("*.py")}
    assert set(re.findall(r"\(examples/(\w+\.py)\)", page)) == listed


@pytest.mark.slow
@pytest.mark.usefixtures("plain_cpu")
def test_the_notebook_runs(here: Path, few: Manifest) -> None:
    notebook = json.loads((EXAMPLES / "quick-start.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # else the file grows with each run
            exec("".join(cell["source"]), names)
    assert (here / "runs/notebook/report.html").exists()
    labels = {sample.path: sample.label for sample in few}
    assert [labels[face] for face in names["faces"]] == [0, 0, 0, 1, 1, 1]
    rows = [explanation.row for explanation in names["explanations"]]
    assert [row["path"] for row in rows] == names["faces"]
    scores = Detector.from_pretrained("runs/notebook/model").predict(names["faces"]).score
    assert [row["score"] for row in rows] == scores.tolist()
    results = json.loads((here / "runs/notebook/results.json").read_text())
    assert json.loads(json.dumps(names["run"].results)) == results


@pytest.mark.slow
@NEEDS_CHROMIUM
def test_the_demo_judges_a_picture_in_a_browser(
    trained: tuple[Detector, list[str]], here: Path, begin: Begin, browser: Any
) -> None:
    pytest.importorskip(
        "gradio", reason="gradio is not installed (pip install 'focus-faces[demo]')"
    )
    from playwright.sync_api import expect

    detector, _ = trained
    detector.config = replace(detector.config, geometry=("lbp margin 0.3",))
    detector.save_pretrained("model")
    Image.fromarray(data.astronaut()).save("astronaut.png")
    Image.new("RGB", (200, 200), (90, 90, 90)).save("grey.png")
    port = free_port()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    words = [sys.executable, EXAMPLES / "gradio_demo.py", "model"]
    program = begin(words, stdout=subprocess.PIPE, cwd=here, env=environment)
    assert program.stdout is not None
    assert any("Running on" in line for line in program.stdout)
    page = browser.new_page()
    # What is asked of other places, such as fonts, would be waited for.
    page.route(lambda url: "127.0.0.1" not in url, lambda route: route.abort())
    page.goto(f"http://127.0.0.1:{port}")
    page.set_input_files("input[type=file]", "astronaut.png")
    page.get_by_role("button", name="Submit").click()
    verdict = page.get_by_label("probability of synthetic")
    expect(verdict).not_to_have_value("", timeout=60_000)
    (score,) = detector.predict("astronaut.png", faces="all").score.tolist()
    assert verdict.input_value().split()[1] == f"{score:.3f}"
    address = page.locator("img[src*=gradio_api]").last.get_attribute("src")
    (here / "shown").write_bytes(page.request.get(address).body())
    change = np.abs(np.int16(Image.open("shown").convert("RGB")) - data.astronaut()).mean(2)
    assert change[60:180, 170:280].mean() > 20  # the face
    assert change[260:].mean() < 5
    page.get_by_label("Remove Image").click()
    page.set_input_files("input[type=file]", "grey.png")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("There are no faces").wait_for(timeout=60_000)
