"""The report in a browser: Debian's Chromium, headless, through Playwright."""

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from focus.data.manifest import Manifest, Sample
from focus.evaluation.findings import add_findings
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.findings import Finding
from focus.model.detector import Detector
from focus.report import page as report

from ..browser import IN_BROWSER, assert_accessible
from .reports import Page as Parsed
from .reports import made

pytestmark = IN_BROWSER


def write(folder: Path, count: int, **options: Any) -> Path:
    torch.manual_seed(0)
    images = made(folder / "images", count, **options)
    detector = Detector(training_generators=("kA",))
    return report.write(folder, "a run", detector, *images, progress=False)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("report"), 30)


class Opened:
    """A page that was opened, with all that it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        self.data = Parsed(path).data

    def rows(self) -> list[int]:
        """Of the images whose pictures are there, in their order."""
        row_numbers = self.page.eval_on_selector_all(
            "#cards li", "all => all.map(e => +e.dataset.row)"
        )
        return [int(row) for row in row_numbers]

    def all_rows(self) -> list[int]:
        while self.page.locator("#more-cards").is_visible():
            self.page.locator("#more-cards").click()
        return self.rows()

    def listed(self) -> list[list[str]]:
        table_rows: list[list[str]] = self.page.eval_on_selector_all(
            "#scores tbody tr", "all => all.map(r => [...r.cells].map(c => c.textContent))"
        )
        return table_rows

    def choose(self, **options: str) -> None:
        for name, value in options.items():
            self.page.select_option(f"select[name={name}]", value)


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    made = Opened(browser, page_file)
    yield made
    assert made.complaints == []
    foreign = [url for url in made.requests if not url.startswith("data:")]
    assert foreign == [page_file.as_uri()], "the page asks for nothing but itself"
    made.page.context.close()


def test_sorting(opened: Opened) -> None:
    data = opened.data
    values = {
        "score": data["score"],
        "entropy": data["entropy"],
        "error": [
            (s - 0.5) * (-1 if n else 1) for s, n in zip(data["score"], data["label"], strict=True)
        ],
    }
    outcomes = [data["outcomes"][data["outcome"][row]] for row in opened.all_rows()]
    assert outcomes == sorted(outcomes, key="right".__eq__), "errors come first"
    for key, value in values.items():
        for direction, sign in (("-1", -1), ("1", 1)):
            opened.choose(sort=f"{key}:{direction}")
            ordered = sorted(range(len(value)), key=lambda row: (sign * value[row], row))
            assert opened.all_rows() == [row for row in ordered if row in set(data["shown"])]
            # The table is in the same order; it has every image.
            listed = [cells[0] for cells in opened.listed()]
            assert listed == [data["path"][row] for row in ordered[:100]]


def test_filters(opened: Opened) -> None:
    data = opened.data
    opened.choose(sort="row:1")
    everything = range(len(data["path"]))
    assert len(opened.rows()) == 48, "a page of pictures at first"
    names = [data["generators"][index] for index in data["generator"]]
    outcomes = [data["outcomes"][index] for index in data["outcome"]]
    sets = [data["sets"][index] for index in data["set"]]

    def expect(fits: Any) -> None:
        expected = [row for row in everything if fits(row)]
        assert 0 < len(expected) < len(everything)
        assert opened.all_rows() == [row for row in expected if row in set(data["shown"])]
        count = f"{len(expected)} of {len(everything)} images"
        assert opened.page.locator("#count").inner_text().startswith(count)
        assert len(opened.listed()) == min(100, len(expected))

    opened.choose(generator="<b>u&C</b>")
    expect(lambda row: names[row] == "<b>u&C</b>")
    opened.choose(outcome="missed")
    expect(lambda row: names[row] == "<b>u&C</b>" and outcomes[row] == "missed")
    opened.choose(generator="", outcome="wrong")
    expect(lambda row: outcomes[row] in ("missed", "false alarm"))
    opened.choose(outcome="", label="real", set="open")
    expect(lambda row: data["label"][row] == 0 and sets[row] == "open")
    opened.choose(label="", set="")
    assert opened.all_rows() == data["shown"]
    # Filters that leave nothing leave nothing.
    opened.choose(generator="kA", outcome="false alarm")
    assert opened.rows() == opened.listed() == []


def test_a_click_enlarges_and_keys_move(opened: Opened) -> None:
    page, data = opened.page, opened.data
    opened.choose(label="synthetic")
    page.locator("#images summary").click()
    row = opened.rows()[0]
    small = page.locator(".card img").first.bounding_box()
    assert not page.locator("#large").is_visible()
    page.locator(".card").first.click()
    assert page.locator("#large").is_visible()
    parts = page.locator("#large img")
    assert parts.count() == 3, "the human map is beside"
    assert [parts.nth(index).get_attribute("src") for index in range(3)] == [
        data["pictures"][data["shown"].index(row)]
    ] * 3
    large = parts.first.bounding_box()
    assert large["height"] > 2 * small["height"]
    assert abs(large["width"] - large["height"]) < 1
    assert data["path"][row] in page.locator("#large dl").inner_text()
    page.keyboard.press("ArrowRight")
    assert data["path"][opened.rows()[1]] in page.locator("#large dl").inner_text()
    page.get_by_role("button", name="Previous").click()
    assert data["path"][row] in page.locator("#large dl").inner_text()
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible()
    # From the table, too, where an image has a picture.
    page.locator("#scores button").nth(2).click()
    shown_path = page.locator("#scores button").nth(2).inner_text()
    assert shown_path in page.locator("#large dl").inner_text()
    page.get_by_role("button", name="Close").click()
    assert not page.locator("#large").is_visible()


def test_every_picture_is_told_in_words(opened: Opened) -> None:
    page, data = opened.page, opened.data
    opened.choose(generator="uB")
    for row, words in zip(
        opened.rows(),
        page.eval_on_selector_all(".card img", "all => all.map(e => e.alt)"),
        strict=True,
    ):
        assert words == (
            f"uB, {data['outcomes'][data['outcome'][row]]}: image, CAM of the decision, "
            f"human map; score {data['score'][row]:.3f}, CAM entropy {data['entropy'][row]:.3f}"
        )


def test_tables_can_be_downloaded(opened: Opened) -> None:
    page, data = opened.page, opened.data
    page.locator("summary", has_text="Open set").first.click()
    with page.expect_download() as download:
        page.locator("details[open] a[download]").first.click()
    head, *rows = csv.reader(Path(download.value.path()).read_text().splitlines())
    assert download.value.suggested_filename == "Open set.csv"
    assert head[1:6:2] == ["relation", "AUC", "EER"]
    # The hardest first.
    assert [row[0] for row in rows] == ["uB", "<b>u&C</b>", "mean of generators", "all images"]
    assert page.locator("#tables .rest").first.is_hidden()
    page.locator("details[open] .all").check()
    assert page.locator("details[open] .rest").first.is_visible()
    opened.choose(generator="uB", sort="score:-1")
    page.locator("#images summary").click()
    with page.expect_download() as download:
        page.locator("#csv").click()
    head, *rows = csv.reader(Path(download.value.path()).read_text().splitlines())
    scores = [
        s
        for s, index in zip(data["score"], data["generator"], strict=True)
        if data["generators"][index] == "uB"
    ]
    assert [float(row[head.index("score")]) for row in rows] == sorted(scores, reverse=True)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_nothing_is_cut_off_and_text_can_be_read(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    """At each width: no overflow, letters of 14 pixels at least, what axe-core asks for."""
    page = Opened(browser, page_file, width, scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    small = """[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&
        [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) &&
        parseFloat(getComputedStyle(e).fontSize) < 14).map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(small) == []
    # What is wider than its place scrolls, and says so by a shadow at that edge.
    wide = """[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)
        .map(e => getComputedStyle(e).backgroundAttachment)"""
    shadows = page.evaluate(wide)
    assert set(shadows) <= {"local, local, scroll, scroll"}
    assert shadows or width > 390
    label = page.locator(".plot g[id*=text] g").first
    assert label.evaluate("e => getComputedStyle(e).fill") == page.evaluate(
        "getComputedStyle(document.body).color"
    )
    assert_accessible(page)
    page.context.close()


@pytest.fixture(scope="module")
def misleading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of thirteen generators, with an alert of each kind."""
    folder = tmp_path_factory.mktemp("misleading")
    torch.manual_seed(0)
    manifest, scores, results = made(folder / "images", 30)
    fakes = np.flatnonzero(scores.label == 1)
    generator = scores.generator.copy()
    generator[fakes] = [f"g-{number % 13:02d}" for number in range(len(fakes))]
    scores = replace(scores, generator=generator)
    results = summarise(scores, ["g-00"], resamples=0)
    add_findings(
        results, scores, None, [Finding("error", "Wrong."), Finding("warning", "Odd.")], files=False
    )
    detector = Detector(training_generators=("g-00",))
    return report.write(folder, "a run", detector, manifest, scores, results, progress=False)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (700, 900), (1280, 800)])
def test_alerts_are_first_and_the_first_screen_of_a_laptop_has_all_three_answers(
    browser: Any, misleading: Path, width: int, height: int
) -> None:
    page = Opened(browser, misleading, width).page
    page.set_viewport_size({"width": width, "height": height})
    tops = [
        page.locator(selector).first.bounding_box()["y"]
        for selector in (".error", ".warning", "#good")
    ]
    assert tops == sorted(tops)
    assert tops[-1] < 0.8 * height
    colour = "e => getComputedStyle(e).borderLeftColor"
    assert page.locator(".error").evaluate(colour) != page.locator(".warning").first.evaluate(
        colour
    )
    if width >= 1280:
        for answer in ("#good", "#fails", "#looks", ".faces img"):
            assert page.locator(answer).first.bounding_box()["y"] < height - 60, answer
    first, second = (page.locator(".plots figure").nth(n).bounding_box() for n in (0, 1))
    assert (first["y"] == second["y"]) == (width >= 700), "two figures a row from 700 px"
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_line_is_singled_out_by_its_name(browser: Any, misleading: Path) -> None:
    page = Opened(browser, misleading).page
    figure = page.locator(".plot:has(#roc-open-line-3)")
    colours = "all => all.map(e => getComputedStyle(e).stroke)"
    lines = figure.locator('[id^="roc-open-line-"] path')
    before = lines.evaluate_all(colours)
    assert len(before) > 10
    figure.locator("#roc-open-key-3").hover()
    after = lines.evaluate_all(colours)
    assert after[3] == before[3]
    assert len(set(after[:3] + after[4:])) == 1, "the others are grey"
    page.mouse.move(0, 0)
    assert lines.evaluate_all(colours) == before
    figure.locator("#roc-open-key-3").click()
    page.mouse.move(0, 0)
    assert lines.evaluate_all(colours) == after, "a click keeps it"


def test_printed_tables_are_open(browser: Any, misleading: Path) -> None:
    page = Opened(browser, misleading).page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#tables table").first.is_visible()
    assert page.locator(".findings details p").first.is_visible()


def test_it_prints_on_few_pages(browser: Any, page_file: Path) -> None:
    page = Opened(browser, page_file, scheme="dark").page
    printed = page.pdf(format="A4")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 6
    page.context.close()


def test_faces_of_scores_without_cams(browser: Any, tmp_path: Path) -> None:
    """What is somebody else's: a picture is the face alone, and no number of a CAM is missing."""
    _, scores, results = made(tmp_path / "images", 6)
    faces = Manifest(map(Sample, scores.path))
    names = ("path", "label", "generator", "test_set", "score", "predicted")
    bare = Scores.without_cams(**{name: getattr(scores, name) for name in names})
    file = report.write(tmp_path, "theirs", None, faces, bare, results, progress=False)
    opened = Opened(browser, file)
    opened.choose(sort="score:-1")
    assert len(opened.rows()) == len(scores)
    card = opened.page.locator("#cards li").first
    assert re.search(r"score \d\.\d\d$", card.inner_text())
    card.locator("button").click()
    assert opened.page.locator("#large figure").count() == 1
    assert "entropy" not in opened.page.locator("#large dl").inner_text()
    assert opened.complaints == []
    opened.page.context.close()
