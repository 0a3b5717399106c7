"""The page in a browser: Debian's Chromium, headless, through Playwright."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from focus.__main__ import main as focus
from focus.data.demo import render_face

from ..browser import IN_BROWSER, assert_accessible
from .serving import Served, rows, serving, write_faces

pytestmark = IN_BROWSER
SIDE = 1024


class Annotator:
    """A person at the page, who answers by key and draws by mouse."""

    def __init__(self, browser: Any, address: str, name: str, **screen: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900} | screen)
        self.context.set_default_timeout(60_000)
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
        question: dict[str, Any] | None = self.page.evaluate("question")
        return question

    def stroke(self, *points: tuple[float, float]) -> None:
        """Draw through places of the face, in pixels of the face."""
        box = self.page.locator("#stage").bounding_box()
        view = self.page.evaluate("VIEW")
        positions = [
            (box["x"] + view["x"] + x * view["scale"], box["y"] + view["y"] + y * view["scale"])
            for x, y in points
        ]
        self.page.mouse.move(*positions[0])
        self.page.mouse.down()
        for position in positions[1:]:
            self.page.mouse.move(*position, steps=5)
        self.page.mouse.up()

    def answer(self, key: str, sure: int = 3) -> None:
        """Answer by keys alone, and go on once the next face is there; practice has a key more."""
        practice = self.question()["round"] == "practice"  # type: ignore[index]
        self.page.keyboard.press(key)
        self.page.keyboard.press(str(sure))
        self.page.keyboard.press("Enter")
        if self.page.inner_text("#said").startswith("Nothing is marked"):
            self.page.keyboard.press("Enter")
        if practice:
            self.page.wait_for_selector("#told:not([hidden])")
            self.page.keyboard.press("Enter")
        self.ready()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn faces beside six to practise on, in a tree of two folders."""
    folder = tmp_path_factory.mktemp("data") / "faces"
    for kind, class_folder in (("real", "0_real"), ("known-1", "1_fake")):
        (folder / "GAN" / class_folder).mkdir(parents=True)
        for number in range(9):
            face = Image.fromarray(render_face("train", kind, number).image)
            face.resize((SIDE, SIDE)).save(folder / "GAN" / class_folder / f"{number}.png")
    return folder


def drawn(points: list[tuple[float, float]], width: float) -> NDArray[np.bool_]:
    """Return the area of a stroke by Pillow: lines with round ends and joints."""
    image = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(image)
    pen.line(points, fill=255, width=round(width))
    for x, y in points:
        pen.circle((x, y), width / 2, fill=255)
    return np.asarray(image) > 0


def test_twelve_faces_a_reload_and_a_kill(
    browser: Any, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: from strokes to maps that are what was drawn, and a training run on them."""
    output, draw = tmp_path / "human_maps", random.Random(0)
    strokes: dict[str, NDArray[np.bool_]] = {}
    words = (faces, "--output", output, "--repeat-every", 6, "--port")
    with serving(*words, 0) as served:
        port = served.port
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

        by_digest = digests(faces)
        for _ in range(6 + 4):
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
        assert len(rows(output)) == 11
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
        anna.page.wait_for_selector("#said:has-text('Not saved yet')")
    with serving(*words, port) as served:
        # The page tells where it goes on, and there the face has its strokes and its answer.
        anna.page.wait_for_selector("#said:has-text('address that was printed')")
        anna.page.goto(served.address)
        anna.ready()
        assert anna.question() == question
        assert anna.page.evaluate("work.strokes.length") == 1
        anna.page.keyboard.press("Enter")
        anna.page.wait_for_function("id => question?.id !== id", arg=question["id"])
        anna.ready()
        while anna.question():
            one_face()
        assert "all 12 faces" in anna.page.inner_text("#end")
        printed = served.stop()
    assert "12 of 18 faces answered, 12 have a map" in printed
    assert anna.complaints == []
    assert {url.split("/")[2] for url in anna.requests} == {f"127.0.0.1:{port}"}
    answers = rows(output)
    counts = {
        part: sum(row["round"] == part for row in answers)
        for part in ("practice", "main", "repeat")
    }
    assert counts == {"practice": 6, "main": 12, "repeat": 2}
    assert len({(row["image"], row["round"]) for row in answers}) == 20
    assert [int(row["shown"]) for row in answers] == list(range(1, 21))
    assert sum(path.suffix == ".png" for path in (output / "marks").rglob("*")) == 20
    maps = sorted((output / "maps").rglob("*.png"))
    assert len(maps) == len(strokes) == 12
    for path in maps:
        human_map = np.asarray(Image.open(path))
        expected = strokes[str(faces / path.relative_to(output / "maps"))]
        assert human_map.shape == (SIDE, SIDE)
        area = human_map >= 128
        assert (area & expected).sum() / (area | expected).sum() >= 0.9, path
    monkeypatch.chdir(tmp_path)
    run = ["--recipe", "quick", "--epochs", "1", "--image-size", "64", "--threads", "1"]
    focus(["train", "--data", str(faces), "--human-maps", str(output), *run, "--name", "maps"])
    focus(["evaluate", "--run", "runs/maps", "--people", str(output), "--threads", "1"])
    report = (tmp_path / "runs" / "maps" / "evaluation" / "report.html").read_text()
    assert "synthetic faces of GAN that people saw" in report


def digests(faces: Path) -> dict[str, str]:
    from focus.data.known_images import content_hash

    return {content_hash(str(path)): str(path) for path in faces.rglob("*.png")}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page for all tests that follow, each with annotators of its own."""
    folder = tmp_path_factory.mktemp("shared")
    data = write_faces(folder / "fa<b>ces", count=2, side=256)
    with serving(data, "--output", folder / "out", "--practice", 2) as served:
        yield served


def marked(annotator: Annotator, x: float, y: float) -> bool:
    """Return whether a pixel of the face is marked."""
    pixel: list[int] = annotator.page.evaluate(
        "([x, y]) => [...PEN.getImageData(x, y, 1, 1).data]", [x, y]
    )
    return pixel[3] > 127


def test_strokes_are_erased_undone_and_done_again(browser: Any, shared: Served) -> None:
    anna = Annotator(browser, shared.address, "strokes")
    page = anna.page
    anna.stroke((60, 60), (180, 60))
    anna.stroke((60, 160), (180, 160))
    assert marked(anna, 120, 60)
    assert marked(anna, 120, 160)
    assert not marked(anna, 120, 110)
    page.click("button:has-text('Eraser')")
    anna.stroke((120, 40), (120, 180))
    assert not marked(anna, 120, 60)
    assert marked(anna, 70, 60)
    page.click("button:has-text('Undo')")
    assert marked(anna, 120, 60)
    page.keyboard.press("z")
    assert not marked(anna, 120, 160)
    page.click("button:has-text('Redo')")
    page.keyboard.press("Control+Shift+Z")
    assert not marked(anna, 120, 160)
    assert marked(anna, 70, 160)
    # Where the view is moved and enlarged, a stroke is where it is seen.
    page.keyboard.press("b")
    page.click("#size")
    page.locator("#stage").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_selector("#zoom:not(:text('100 %'))")
    page.mouse.move(640, 450)
    anna.stroke((128, 110), (130, 112))
    assert marked(anna, 129, 111)
    page.click("button:has-text('Undo')")
    width = page.evaluate("brush()")
    page.keyboard.press("[")
    assert page.evaluate("brush()") < width
    assert anna.complaints == []
    anna.context.close()


def test_by_keyboard_alone(browser: Any, shared: Served) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(shared.address)
    page.wait_for_selector("#start:not([hidden])")
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    page.wait_for_selector("#work[aria-busy=false]")
    assert page.evaluate("document.activeElement.id") == "stage"
    page.keyboard.press("Enter")
    assert "Say first whether it is real" in page.inner_text("#said")
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    assert "Say how sure you are" in page.inner_text("#said")
    page.keyboard.press("+")
    assert page.inner_text("#zoom") == "150 %"
    x_before, y_before = page.evaluate("[VIEW.x, VIEW.y]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    x, y = page.evaluate("[VIEW.x, VIEW.y]")
    assert (x, y) == (x_before - 40, y_before - 40)
    page.keyboard.press("0")
    assert page.inner_text("#zoom") == "100 %"
    # Enter on another button is that button's: nobody answers what was not meant.
    page.keyboard.press("3")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").startswith("Real")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_attribute("[data-answer=synthetic]", "aria-pressed") == "true"
    assert page.locator("#told").is_hidden()
    reached = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim().split(' ')[0]"))
    assert {"Real", "Brush", "Eraser", "Guessing", "Next", "Keys", "+"} <= reached
    page.focus("#stage")
    page.keyboard.press("Enter")
    assert page.inner_text("#said").startswith("Nothing is marked")
    page.keyboard.press("Enter")
    page.wait_for_selector("#told:not([hidden])")
    assert re.match(r"(Right|Wrong): this face is (real|synthetic)\.", page.inner_text("#told"))
    page.keyboard.press("Enter")
    page.wait_for_selector("#notice:has-text('Practice 2 of 2')")
    context.close()


def test_fingers_and_a_pen(browser: Any, shared: Served) -> None:
    anna = Annotator(browser, shared.address, "touch", width=390, height=844)
    page, device = anna.page, anna.context.new_cdp_session(anna.page)
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": a, "y": b, "id": n} for n, (a, b) in enumerate(places)]
        device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (x - 50, y))
    touch("touchMove", (x, y + 20))
    touch("touchEnd")
    assert page.evaluate("work.strokes.length") == 1
    # Two fingers: no stroke of the first one stays, and the face is enlarged under them.
    touch("touchStart", (x - 30, y))
    touch("touchStart", (x - 30, y), (x + 30, y))
    touch("touchMove", (x - 60, y), (x + 60, y))
    touch("touchEnd")
    assert page.evaluate("work.strokes.length") == 1
    assert page.inner_text("#zoom") == "200 %"
    assert page.evaluate("scrollY") == 0, "the page stays where it is"

    def pen(kind: str, point: tuple[float, float], button: str = "left") -> None:
        event = {"type": kind, "x": point[0], "y": point[1], "button": button, "pointerType": "pen"}
        device.send("Input.dispatchMouseEvent", event | {"buttons": 1, "clickCount": 1})

    pen("mousePressed", (x, y))
    pen("mouseMoved", (x + 40, y + 40))
    pen("mouseReleased", (x + 40, y + 40))
    assert page.evaluate("work.strokes.length") == 2
    # A hand that rests on the screen while a pen draws marks nothing.
    touch("touchStart", (x - 50, y))
    touch("touchMove", (x, y + 20))
    touch("touchEnd")
    assert page.evaluate("work.strokes.length") == 2
    assert anna.complaints == []
    anna.context.close()


@pytest.mark.parametrize(
    ("width", "height", "scheme", "locale"),
    [
        (375, 812, "dark", "en-GB"),
        (375, 812, "light", "de-DE"),
        (768, 1024, "dark", "de-DE"),
        (1280, 844, "light", "en-GB"),
        (1920, 1080, "light", "de-AT"),
    ],
)
def test_nothing_is_cut_off_and_everybody_can_use_it(
    browser: Any, shared: Served, width: int, height: int, scheme: str, locale: str
) -> None:
    """At each width, on each of its screens: no overflow, what axe-core asks for, large buttons."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale=locale
    )
    page = context.new_page()

    def check() -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert_accessible(page)
        small = """[...document.querySelectorAll('button:not(.link), input, summary')].filter(e =>
            e.checkVisibility() && e.offsetHeight < 24 && e.type !== 'range')
            .map(e => e.outerHTML)"""
        assert page.evaluate(small) == []
        cut = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML)"
        assert page.eval_on_selector_all("button", cut) == []

    def everything_is_on_the_first_screen() -> None:
        assert page.evaluate("scrollY") == 0
        (sure,) = page.eval_on_selector_all(
            "[data-confidence='3']", "all => all.map(e => e.getBoundingClientRect().bottom)"
        )
        ending, next_face = (
            page.locator(selector).bounding_box() for selector in (".ending", "#next")
        )
        assert sure <= ending["y"], "the bar at the bottom covers nothing"
        assert next_face["y"] + next_face["height"] <= height

    page.goto(shared.address)
    page.wait_for_selector("#start:not([hidden])")
    assert page.get_attribute("html", "lang") == locale[:2]
    check()
    page.fill("[name=annotator]", f"look {width} {locale}")
    page.keyboard.press("Enter")
    page.wait_for_selector("#work[aria-busy=false]")
    everything_is_on_the_first_screen()
    page.click("summary")
    check()
    page.click("summary")
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press("s")
    page.keyboard.press("1")
    page.focus("#stage")
    page.keyboard.press("Enter")
    wanted = {"en": "Nothing is marked", "de": "Nichts ist markiert"}[locale[:2]]
    assert page.inner_text("#said").startswith(wanted)
    everything_is_on_the_first_screen()
    check()
    page.keyboard.press("Enter")
    page.wait_for_selector("#told:not([hidden])")
    assert page.inner_text("#told").endswith(("synthetic.", "real.", "synthetisch.", "real."))
    everything_is_on_the_first_screen()
    check()
    page.keyboard.press("Enter")
    page.wait_for_selector("#told[hidden]", state="attached")
    page.wait_for_selector("#work[aria-busy=false]")
    page.keyboard.press("c")
    page.keyboard.press("Enter")
    page.wait_for_selector("#told:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_selector("#told[hidden]", state="attached")
    page.wait_for_selector("#work[aria-busy=false]")
    page.keyboard.press("c")
    page.keyboard.press("Enter")
    page.wait_for_function("() => state.done === 1 && !busy")
    page.keyboard.press("Backspace")
    page.wait_for_selector("#notice:not([hidden])")
    page.wait_for_selector("#work[aria-busy=false]")
    everything_is_on_the_first_screen()
    check()
    context.close()


def test_the_last_answer_is_mended(browser: Any, faces: Path, tmp_path: Path) -> None:
    """Over a reload, a kill of the server and the end of all faces; what is left counts."""
    output = tmp_path / "human_maps"
    words = (faces, "--output", output, "--practice", 0, "--repeat-every", 0, "--port")
    with serving(*words, 0) as served:
        port = served.port
        anna = Annotator(browser, served.address, "anna")
        page = anna.page
        assert page.locator("#back").is_hidden(), "there is no answer yet"
        first = anna.question()
        assert first is not None
        anna.stroke((200, 200), (300, 300))
        anna.answer("s", 1)
        anna.stroke((700, 700), (710, 710))  # on the next face, of which nothing is lost
        second = anna.question()
        page.click("#back")
        anna.ready()
        mended = anna.question()
        assert mended == first | {"mended": 1}
        assert marked(anna, 250, 250)
        assert not marked(anna, 705, 705)
        assert page.evaluate("[work.answer, work.confidence]") == ["synthetic", 1]
        # Left as it was.
        page.keyboard.press("r")
        page.keyboard.press("Backspace")
        anna.ready()
        assert anna.question() == second
        assert marked(anna, 705, 705)
        page.keyboard.press("Backspace")
        anna.ready()
        assert page.evaluate("work.answer") == "synthetic"
        assert len(rows(output)) == 1
        page.keyboard.press("z")
        anna.stroke((500, 500), (600, 500))
        page.keyboard.press("3")
        page.reload()
        anna.ready()
        assert anna.question() == second
        page.keyboard.press("Backspace")
        anna.ready()
        assert marked(anna, 550, 500), "what was begun is taken up again"
        assert not marked(anna, 250, 250)
        served.process.kill()
        served.process.wait()
        page.keyboard.press("Enter")
        page.wait_for_selector("#said:has-text('Not saved yet')")
    with serving(*words, port) as served:
        page.wait_for_selector("#said:has-text('address that was printed')")
        page.goto(served.address)
        anna.ready()
        assert anna.question() == second
        assert marked(anna, 705, 705)
        page.keyboard.press("Backspace")
        anna.ready()
        page.keyboard.press("Enter")
        anna.ready()
        assert anna.question() == second
        before, after = rows(output)
        assert before["image"] == after["image"]
        assert [row["mended"] for row in (before, after)] == ["0", "1"]
        assert [row["confidence"] for row in (before, after)] == ["1", "3"]
        assert float(after["seconds"]) >= float(before["seconds"])
        while anna.question():
            anna.answer("r")
        last = rows(output)[-1]
        page.click("#back-at-end")
        anna.ready()
        assert anna.question()["id"] == last["image"]  # type: ignore[index]
        page.keyboard.press("c")
        page.keyboard.press("Enter")
        page.wait_for_selector("#end:not([hidden])")
        printed = served.stop()
    assert anna.complaints == []
    assert "17 of 18 faces answered" in printed
    assert "1 answers say that the face cannot be judged" in printed
    with Image.open(output / after["mark"]) as image:
        area = np.asarray(image) > 127
    assert area[500, 550]
    assert not area[250, 250]
    anna.context.close()


def test_a_face_that_cannot_be_judged_and_a_mark_that_was_erased(
    browser: Any, faces: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with serving(faces, "--output", output, "--practice", 0) as served:
        anna = Annotator(browser, served.address, "anna")
        page = anna.page
        page.keyboard.press("2")
        page.keyboard.press("c")
        assert page.locator("[data-confidence='2']").is_disabled()
        page.keyboard.press("Enter")
        page.wait_for_function("() => state.done === 1 && !busy")
        anna.stroke((300, 300), (400, 300))
        page.keyboard.press("e")
        for _ in range(3):
            anna.stroke((250, 300), (450, 300))
        page.keyboard.press("s")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        assert page.inner_text("#said").startswith("Nothing is marked"), "it was erased again"
        anna.stroke((250, 600), (450, 600))
        page.keyboard.press("b")
        page.keyboard.press("Enter")
        page.wait_for_function("() => state.done === 2 && !busy")
        anna.stroke((300, 300), (400, 300))
        page.keyboard.press("s")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.wait_for_function("() => state.done === 3 && !busy")
    unsure, erased, marks = rows(output)
    assert (unsure["answer"], unsure["confidence"]) == ("cannot judge", "0")
    assert (erased["answer"], erased["mark"]) == ("synthetic", "")
    assert marks["mark"] != ""
    assert anna.complaints == []
    anna.context.close()


def test_a_tab_that_is_closed_leaves_its_faces(browser: Any, shared: Served) -> None:
    anna = Annotator(browser, shared.address, "tabs")
    first = anna.question()
    page, anna.page = anna.page, anna.open(shared.address)
    anna.ready()
    second = anna.question()
    assert first != second, "another tab shows another face"
    page.close(run_before_unload=True)
    anna.page.wait_for_timeout(500)  # of a request that no page waits for
    anna.page = anna.open(shared.address)
    anna.ready()
    assert anna.question() == first
    assert anna.complaints == []
    anna.context.close()
