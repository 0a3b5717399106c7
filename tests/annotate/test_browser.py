"""The page in a browser: Debian's Chromium, headless, through Playwright."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from focus.__main__ import main as focus
from focus.data.demo import render_face

from .serving import Served, rows, serving, write_faces

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="there is no chromium (Debian: apt-get install chromium)"
    ),
]
SIDE = 1024


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


class Annotator:
    """A person at the page, who answers by key and draws by mouse."""

    def __init__(self, browser: Any, address: str, name: str, **screen: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900} | screen)
        self.context.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.page, self.name = self.open(address), name
        if self.page.locator("#start").is_visible():
            self.page.fill("[name=annotator]", name)
            self.page.click("button:text('Begin')")
        self.ready()

    def open(self, address: str) -> Any:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.requests: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        page.wait_for_selector("#start:not([hidden]), #work:not([hidden]), #end:not([hidden])")
        return page

    def ready(self) -> None:
        """Wait for the next face, or for the end."""
        self.page.wait_for_selector("#work:not([hidden], [aria-busy=true]), #end:not([hidden])")

    def question(self) -> dict[str, Any] | None:
        """Return what the page is asked now."""
        found: dict[str, Any] | None = self.page.evaluate("question")
        return found

    def stroke(self, *points: tuple[float, float]) -> None:
        """Draw through places of the face, in pixels of the face."""
        box = self.page.locator("#stage").bounding_box()
        view = self.page.evaluate("VIEW")
        places = [
            (box["x"] + view["x"] + x * view["scale"], box["y"] + view["y"] + y * view["scale"])
            for x, y in points
        ]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()

    def answer(self, key: str, sure: int = 3) -> None:
        """Answer by keys alone, and go on once the next face is there; practice has a key more."""
        practice = self.question()["round"] == "practice"  # type: ignore[index]
        self.page.keyboard.press(key)
        self.page.keyboard.press(str(sure))
        self.page.keyboard.press("Enter")
        if practice:
            self.page.wait_for_selector("#told:not([hidden])")
            self.page.keyboard.press("Enter")
        self.ready()



@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty drawn faces beside six to practise on, in a tree of two folders."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    for kind, place in (("real", "0_real"), ("known-1", "1_fake")):
        (folder / "GAN" / place).mkdir(parents=True)
        for number in range(18):
            face = Image.fromarray(render_face("train", kind, number).image)
            face.resize((SIDE, SIDE)).save(folder / "GAN" / place / f"{number}.png")
    return folder


def drawn(points: list[tuple[float, float]], width: float) -> NDArray[np.bool_]:
    """Return the area of a stroke by Pillow: lines with round ends and joints."""
    image = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(image)
    pen.line(points, fill=255, width=round(width))
    for x, y in points:
        pen.circle((x, y), width / 2, fill=255)
    return np.asarray(image) > 0


def test_thirty_faces_a_reload_and_a_kill(
    browser: Any, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: from strokes to maps that are what was drawn, and a training run on them."""
    output, draw = tmp_path / "human_maps", random.Random(0)
    strokes: dict[str, NDArray[np.bool_]] = {}
    waits: list[float] = []
    words = (faces, "--output", output, "--repeat-every", 10, "--port")
    with serving(*words, 0) as served:
        port = served.address.split(":")[2].strip("/")
        anna = Annotator(browser, served.address, "anna")

        def one_face(between: Any = None) -> None:
            question = anna.question()
            assert question is not None
            points = [(draw.uniform(100, 900), draw.uniform(100, 900)) for _ in range(3)]
            anna.stroke(*points)
            if question["round"] == "main":
                path = by_digest[question["id"]]
                strokes[path] = drawn(points, anna.page.evaluate("brush()"))
                key = "r" if "0_real" in path else "s"
            else:
                key = draw.choice("rs")
            if between:
                between()
            anna.answer(key, draw.choice((1, 2, 3)))
            if question["round"] == "main" and anna.question():
                anna.page.wait_for_timeout(300)
                marks = "n => performance.getEntriesByName(n).at(-1).startTime"
                begin, end = (anna.page.evaluate(marks, name) for name in ("submitted", "shown"))
                waits.append(end - begin)

        by_digest = digests(faces)
        for _ in range(6 + 10):
            one_face()

        def reload() -> None:
            before = anna.question()
            anna.page.reload()
            anna.ready()
            assert anna.question() == before, "the started face is taken up again"
            assert anna.page.evaluate("work.strokes.length") == 1

        one_face(reload)
        served.process.kill()
        served.process.wait()
        assert len(rows(output)) == 17
        anna.stroke((200, 200), (300, 300))  # while nobody answers
        anna.page.keyboard.press("z")
        points = [(300.0, 300.0), (500.0, 600.0)]
        anna.stroke(*points)
        question = anna.question()
        assert question is not None
        path = by_digest[question["id"]]
        if question["round"] == "main":
            strokes[path] = drawn(points, anna.page.evaluate("brush()"))
        anna.page.keyboard.press("r" if "0_real" in path else "s")
        anna.page.keyboard.press("3")
        anna.page.keyboard.press("Enter")
        anna.page.wait_for_selector("text=Not saved yet")
    with serving(*words, port) as served:
        anna.page.wait_for_selector("#work[aria-busy=false]", timeout=20_000)
        while anna.question():
            one_face()
        assert "all 30 faces" in anna.page.inner_text("#end")
        printed = served.stop()
    assert "30 of 36 faces answered, 30 have a map" in printed
    assert anna.complaints == []
    assert {url.split("/")[2] for url in anna.requests} == {f"127.0.0.1:{port}"}
    found = rows(output)
    counts = {part: sum(row["round"] == part for row in found) for part in ("practice", "main", "repeat")}
    assert counts == {"practice": 6, "main": 30, "repeat": 3}
    assert len({(row["image"], row["round"]) for row in found}) == 39
    assert [int(row["shown"]) for row in found] == list(range(1, 40))
    assert sum(path.suffix == ".png" for path in (output / "marks").rglob("*")) == 39
    maps = sorted((output / "maps").rglob("*.png"))
    assert len(maps) == len(strokes) == 30
    for path in maps:
        own = np.asarray(Image.open(path))
        expected = strokes[str(faces / path.relative_to(output / "maps"))]
        assert own.shape == (SIDE, SIDE)
        area = own >= 128
        assert (area & expected).sum() / (area | expected).sum() >= 0.9, path
    print(f"between two faces: median {np.median(waits):.0f} ms, most {max(waits):.0f} ms")
    monkeypatch.chdir(tmp_path)
    run = ["--recipe", "quick", "--epochs", "1", "--image-size", "64", "--threads", "1"]
    focus(["train", "--data", str(faces), "--human-maps", str(output), *run, "--name", "maps"])
    assert (tmp_path / "runs" / "maps" / "model" / "model.safetensors").is_file()


def digests(faces: Path) -> dict[str, str]:
    from focus.data.known_images import content_hash

    return {content_hash(str(path)): str(path) for path in faces.rglob("*.png")}
