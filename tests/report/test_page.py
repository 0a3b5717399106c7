"""The report: its numbers are those of the results, it needs no other file, costs nothing else."""

import base64
import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus.data.manifest import Manifest, Sample
from focus.evaluation.findings import add_findings
from focus.evaluation.results import Results, figure_at, summarise
from focus.evaluation.scores import Scores
from focus.findings import Finding
from focus.model.detector import Detector
from focus.report import page as report
from focus.report.files import REPORT, remove_measured, remove_report

from .reports import Page, made, perturbed

Made = tuple[Manifest, Scores, Results]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("images"), 30)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(image_size=32, training_generators=("kA",))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, detector: Detector, evaluation: Made) -> Path:
    """The folder of a report with all of its figures and with findings of each severity."""
    folder = tmp_path_factory.mktemp("out")
    manifest, scores, results = evaluation
    findings = [Finding("error", "<b>E"), Finding("warning", "W"), Finding("note", "N")]
    findings.insert(1, Finding("error", "See `focus data check 'a <i>b'`, or `c`."))
    results = {**results, "findings": [asdict(finding) for finding in findings]}
    (folder / "summary.csv").write_text(
        "epoch,train_loss,eval_auc,eval_entropy,lr\n1,0.7,0.9,0.9,1\n2,0.5,,0.8,1\n3,0.4,0.6,0.7,1\n"
    )
    arguments: dict[str, Any] = {
        "perturbed": perturbed("uB", "open", 0.7, [0.6] * 5),
        "summary": folder / "summary.csv",
        "eval_metric": "auc",
    }
    report.write(folder, "a run", detector, manifest, scores, results, **arguments, progress=False)
    return folder


def test_the_numbers_are_those_of_the_results(written: Path, evaluation: Made) -> None:
    """Each figure of the page is the one at its place, with its interval."""
    _, _, results = evaluation
    figures = Page(written / REPORT).figures
    for keys, texts in figures.items():
        value, interval = figure_at(results, keys)
        expected = "-" if value is None else f"{value:.3f}"
        if interval is not None:
            expected += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        assert {text.strip() for text in texts} == {expected}, keys
    for generator in ("uB", "<b>u&C</b>"):
        assert figures["open", "generators", generator, "auc"][0].count(", ") == 1, "an interval"
    for keys in (
        ("closed", "pooled", "auc"),
        ("open", "mean", "auc"),
        ("open", "pooled", "ece"),
        # Beside what depends on the share of fakes: that share, and the figure of equal classes.
        ("open", "pooled", "prevalence"),
        ("open", "generators", "uB", "average_precision_balanced"),
        ("open", "mean", "ece_balanced"),
        ("open", "operating_points", "eer", "apcer_max"),
        ("closed", "generators", "kA", "entropy"),
    ):
        assert keys in figures


def test_the_page_needs_no_other_file_and_runs_no_other_script(written: Path) -> None:
    page = Page(written / REPORT)
    local = [a for a in page.addresses if not a.startswith(("#", "data:"))]
    # Links to the figures as files, which nothing loads.
    assert local
    assert all(re.fullmatch(r"figures/[a-z0-9-]+\.(svg|png)", address) for address in local)
    assert all((written / address).is_file() for address in local)
    assert "b>u&C" not in page.html.replace("&lt;b&gt;u&amp;C", ""), "names are escaped"
    scripts = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f'; script-src {allowed}">' in page.html
    assert "default-src 'none'" in page.html


def test_figures_are_there_as_both_kinds_of_file(written: Path) -> None:
    files = {path.name for path in (written / "figures").iterdir()}
    names = {Path(name).stem for name in files}
    assert files == {f"{name}.{ending}" for name in names for ending in ("svg", "png")}
    kinds = ("roc", "det", "scores", "entropy")
    expected = {f"{kind}-{test_set}" for kind in kinds for test_set in ("closed", "open")}
    expected |= {f"training-{name}" for name in ("loss", "validation", "focus")}
    expected |= {f"robustness-{name}" for name in ("jpeg", "blur", "resize", "noise", "shared")}
    assert names == expected | {"reliability"}
    with Image.open(written / "figures" / "roc-open.png") as picture:
        assert picture.width == round(4.2 * 160)
    alt = re.findall(r'role="img" aria-label="([^"]+)"', (written / REPORT).read_text())
    assert len(alt) == len(names)


def test_inlined_figures_take_the_colours_of_the_page_and_keep_their_ids_apart(
    written: Path,
) -> None:
    inlined = re.findall(r"<svg.*?</svg>", (written / REPORT).read_text(), re.DOTALL)
    ids = [re.findall(r'\bid="([^"]+)"', text) for text in inlined]
    for text, figure_ids in zip(inlined, ids, strict=True):
        assert "currentColor" in text
        assert not re.search("#1a1a1a|<style|<metadata|<!DOCTYPE", text)
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) <= set(figure_ids)
    everywhere = [name for figure_ids in ids for name in figure_ids]
    assert len(everywhere) == len(set(everywhere))


def test_the_kept_epoch_is_that_of_the_results(written: Path) -> None:
    """Not the best of all: training went on without the model of the first epoch."""
    html = (written / REPORT).read_text()
    assert set(re.findall(r"The kept model is that of epoch (\d)", html)) == {"2"}


def test_images_without_labels_have_a_report_without_figures_of_errors(
    tmp_path: Path, detector: Detector, evaluation: Made
) -> None:
    manifest, scores, _ = evaluation
    some = scores.select(range(6))
    blank = replace(some, label=np.full(6, -1), generator=[""] * 6)
    unlabelled = Manifest(replace(s, label=None, generator="") for s in manifest[:6])
    report.write(tmp_path, "pictures", detector, unlabelled, blank, None, progress=False)
    page = Page(tmp_path / REPORT)
    assert not page.figures
    assert "6 without labels" in page.text
    assert {p.name for p in (tmp_path / "figures").glob("*.svg")} == {"scores.svg", "entropy.svg"}
    assert {page.data["outcomes"][index] for index in page.data["outcome"]} == {"unlabelled"}


def test_findings_stand_before_the_figures_in_colour_and_notes_are_folded(written: Path) -> None:
    page = (written / REPORT).read_text()
    places = [
        page.index(text)
        for text in (
            "</h1>",
            '<p class="error"><b>error</b> &lt;b&gt;E</p>',
            "</b> See <code>focus data check &#39;a &lt;i&gt;b&#39;</code>, or <code>c</code>.</p>",
            '<p class="warning"><b>warning</b> W</p>',
            "<summary>1 note</summary>",
            '<p class="note">N</p>',
            'class="forest"',
            "<svg",
        )
    ]
    assert places == sorted(places)


def test_names_of_any_characters(tmp_path: Path, detector: Detector, evaluation: Made) -> None:
    """Mathematics to matplotlib, bytes that are not UTF-8, markup."""
    manifest, scores, _ = evaluation
    names = {"kA": r"$\x$", "uB": "a\udcff/b", "<b>u&C</b>": "</script><script>alert(1)</script>"}
    generator = np.array([names.get(name, name) for name in scores.generator], object)
    odd = replace(scores, generator=generator).select(np.arange(0, 150, 15))
    some = Manifest(manifest[row] for row in range(0, 150, 15))
    results = summarise(odd, [r"$\x$"], resamples=0)
    report.write(tmp_path, "odd", detector, some, odd, results, progress=False)
    page = Page(tmp_path / REPORT)
    assert "alert(1)" in page.text
    assert page.tags.count("script") == 3
    assert "a?/b" in page.text


def test_an_error_costs_the_report_alone(
    tmp_path: Path, detector: Detector, evaluation: Made
) -> None:
    manifest, scores, results = evaluation
    gone = Manifest([Sample(str(tmp_path / "gone.png"), 0), *manifest[1:]])
    line = report.attempt(
        lambda: report.write(tmp_path, "a", detector, gone, scores, results, progress=False)
    )
    assert line.startswith("warning: report.html could not be written (")
    assert "gone.png" in line
    assert "\n" not in line
    assert not (tmp_path / "report.html").exists()


def test_an_earlier_report_goes_and_what_is_not_of_it_stays(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    remove_report(tmp_path)
    assert not (tmp_path / "figures").exists(), "an empty folder goes"
    (tmp_path / "figures").mkdir()
    mine = ["holiday.png", "rocket.svg", "roc-open.txt", "ROC-open.png"]
    for name in (*mine, "roc-open.png", "reliability.svg", "training-loss.png"):
        (tmp_path / "figures" / name).write_text("x")
    for name in ("report.html", "robustness.csv", "robustness.png", "faithfulness.csv"):
        (tmp_path / name).write_text("x")
    remove_report(tmp_path)
    remove_measured(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["figures", *mine])


def test_a_test_set_without_images(tmp_path: Path, detector: Detector) -> None:
    scores = Scores(**{name: [] for name in Scores.__dataclass_fields__})
    results = summarise(scores, ["kA"], resamples=0)
    add_findings(results, scores)
    report.write(tmp_path, "a", detector, Manifest([]), scores, results, progress=False)
    assert "There are no synthetic images" in Page(tmp_path / REPORT).text
