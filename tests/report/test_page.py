"""The report: its numbers are those of results.json, it is whole, and it costs nothing else."""

import base64
import copy
import hashlib
import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from focus import report
from focus.data.manifest import Manifest, Sample
from focus.evaluation.result_table import figure
from focus.evaluation.results import Results, summarise
from focus.evaluation.robustness import Kept
from focus.evaluation.scores import Scores
from focus.metrics import Ranking
from focus.model.detector import Detector
from focus.model.operating_points import OperatingPoints
from focus.report import curves, gallery, page, plots, tables

from ..reports import Page, made

Made = tuple[Manifest, Scores, Results]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("images"), 30)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    return Detector(training_generators=("kA",))


def write(folder: Path, detector: Detector, evaluation: Made) -> Path:
    summary = folder / "summary.csv"
    summary.write_text(
        "epoch,train_loss,eval_auc,eval_entropy,train_entropy,lr\n1,0.7,0.6,0.9,,1\n2,0.5,,0.8,1,1\n"
    )
    kept = [
        Kept("jpeg", strength, "open", "uB", 30, 30, 0.6, 0.7) for strength in (95, 90, 70, 50, 30)
    ]
    return report.write(
        folder, "a run", detector, *evaluation, kept=kept, summary=summary, progress=False
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, detector: Detector, evaluation: Made) -> Path:
    return write(tmp_path_factory.mktemp("out"), detector, evaluation).parent


def test_the_numbers_are_those_of_the_results(written: Path, evaluation: Made) -> None:
    """Each figure of the page is the one at its place, with its interval."""
    _, _, results = evaluation
    found = Page(written / report.REPORT).figures
    for keys, texts in found.items():
        value, interval = figure(results, keys)
        expected = "-" if value is None else f"{value:.3f}"
        if interval is not None:
            expected += f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        assert {text.strip() for text in texts} == {expected}, keys
    for generator in ("uB", "<b>u&C</b>"):
        assert found["open", "generators", generator, "auc"][0].count(", ") == 1, "an interval"
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
        assert keys in found


def test_what_the_sample_cannot_support_says_what_it_needs(evaluation: Made) -> None:
    _, _, results = evaluation
    needs = {"bpcer1": "needs >= 500 real validation images"}
    lacks = copy.deepcopy(results) | {"undefined_thresholds": needs}
    for name in ("closed", "open"):
        del lacks[name]["operating_points"]["bpcer1"]
    assert [table.notes for table in tables.by_generator(lacks)] == [
        [
            "TPR at 1 % FPR needs >= 500 real images.",
            "TPR at 5 % FPR needs >= 100 real images.",
        ]
    ] * 2
    for table in tables.operating_points(lacks):
        assert "BPCER of 1 %" not in [name for name, _, _ in table.rows]
        assert table.notes == ["BPCER of 1 % needs >= 500 real validation images."]


def test_the_table_of_images_is_that_of_the_scores(written: Path, evaluation: Made) -> None:
    _, scores, _ = evaluation
    data = Page(written / report.REPORT).data
    assert [f"{data['root']}/{path}" for path in data["path"]] == scores.path.tolist()
    assert data["score"] == [round(float(score), 4) for score in scores.score]
    assert data["entropy"] == [round(float(value), 4) for value in scores.entropy_predicted]
    assert data["label"] == scores.label.tolist()
    names = [data["generators"][at] for at in data["generator"]]
    assert names == [name or "real" for name in scores.generator]
    wrong = (scores.predicted == 1) != (scores.label == 1)
    outcomes = np.array([data["outcomes"][at] for at in data["outcome"]])
    assert (np.isin(outcomes, ["missed", "false alarm"]) == wrong).all()
    assert (outcomes[wrong & (scores.label == 1)] == "missed").all()


def test_the_page_needs_no_other_file_and_runs_no_other_script(written: Path) -> None:
    found = Page(written / report.REPORT)
    local = [a for a in found.addresses if not a.startswith(("#", "data:"))]
    # Links to the figures as files, which nothing loads.
    assert local
    assert all(re.fullmatch(r"figures/[a-z0-9-]+\.(svg|png)", address) for address in local)
    assert all((written / address).is_file() for address in local)
    assert "b>u&C" not in found.html.replace("&lt;b&gt;u&amp;C", ""), "names are escaped"
    (script,) = re.findall(r"<script>(.*?)</script>", found.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in found.html
    assert "default-src 'none'" in found.html


def test_figures_are_there_as_both_kinds_of_file(written: Path) -> None:
    files = {path.name for path in (written / "figures").iterdir()}
    names = {Path(name).stem for name in files}
    assert files == {f"{name}.{ending}" for name in names for ending in ("svg", "png")}
    kinds = ("roc", "det", "scores", "entropy")
    sets = {f"{kind}-{test_set}" for kind in kinds for test_set in ("closed", "open")}
    training = {f"training-{name}" for name in ("loss", "validation", "focus")}
    assert names == {*sets, *training, "reliability", "robustness-jpeg"}
    with Image.open(written / "figures" / "roc-open.png") as picture:
        assert picture.width == round(4.2 * 160)
    alt = re.findall(r'role="img" aria-label="([^"]+)"', (written / report.REPORT).read_text())
    assert len(alt) == len(names)


def test_inlined_figures_take_the_colours_of_the_page_and_keep_their_ids_apart() -> None:
    scores = np.array([0.1, 0.4, 0.6])
    lines = [plots.Curve("a", scores, scores + 0.2, 0.9)]
    first, second = plots.of_runs({("open", "x"): lines}, ["a"])
    inlined = [plots.inline(plots.rendered(plot)[0], plot.name) for plot in (first, second)]
    for text in inlined:
        assert "currentColor" in text
        assert not re.search("#1a1a1a|<style|<metadata|<!DOCTYPE", text)
        ids = set(re.findall(r'\bid="([^"]+)"', text))
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) <= ids
    assert not set(re.findall(r'\bid="([^"]+)"', inlined[0])) & set(
        re.findall(r'\bid="([^"]+)"', inlined[1])
    )


@pytest.mark.parametrize("count", [40, 5000])
def test_a_roc_gives_the_rates_of_the_results(count: int) -> None:
    draw = np.random.default_rng(1)
    real, fake = draw.normal(size=count).round(2), draw.normal(1, 1, count).round(2)
    alarms, found = curves.roc(real, fake)
    assert len(alarms) <= curves.MOST_POINTS + 2
    assert (alarms[0], alarms[-1], found[-1]) == (0, 1, 1)
    assert (np.diff(alarms) > 0).all()
    assert (np.diff(found) >= 0).all()
    for rate, height in zip(alarms, found, strict=True):
        expected = np.mean(fake > np.sort(real)[::-1][round(rate * count)]) if rate < 1 else 1
        assert height == pytest.approx(expected), rate
    if count == 5000:
        at = np.searchsorted(alarms, 0.05, side="right") - 1
        assert alarms[at] > 0.047
        assert found[at] == pytest.approx(Ranking.of(real, fake).tpr_at_fpr(alarms[at])[0])


def test_the_bins_of_the_reliability_give_the_calibration_error() -> None:
    draw = np.random.default_rng(2)
    real, fake = draw.beta(2, 5, 300).round(2), draw.beta(4, 2, 200).round(2)
    scored, fakes, share = curves.reliability(real, fake)
    assert share.sum() == pytest.approx(1)
    assert (share * np.abs(scored - fakes)).sum() == pytest.approx(Ranking.of(real, fake).ece()[0])
    assert (share * fakes).sum() == pytest.approx(0.4)
    assert (np.diff(scored) > 0).all()


def test_shares_of_a_histogram() -> None:
    heights, edges = curves.shares(np.array([0, 0.01, 0.5, 1]))
    assert heights.sum() == 1
    assert (heights[0], heights[-1], edges[0], edges[-1]) == (0.5, 0.25, 0, 1)


def test_images_are_chosen_evenly_and_not_by_hand(evaluation: Made) -> None:
    _, scores, results = evaluation
    chosen, each = gallery.choose(scores, results, shown=60)
    again, _ = gallery.choose(scores, results, shown=60)
    assert chosen.tolist() == again.tolist() == sorted(set(chosen.tolist()))
    outcome = gallery.outcomes(scores)
    where = gallery.sets(scores, results)
    kinds = list(zip(where, scores.label, scores.generator, outcome, strict=True))
    sizes = {kind: kinds.count(kind) for kind in set(kinds)}
    counts = {kind: sum(kinds[row] == kind for row in chosen) for kind in sizes}
    assert counts == {kind: min(size, each) for kind, size in sizes.items()}
    assert len(chosen) <= 60 < sum(min(size, each + 1) for size in sizes.values())
    # Of a kind, the middle of equal parts by score.
    kind = max(sizes, key=lambda k: sizes[k])
    members = np.array([row for row in range(len(scores)) if kinds[row] == kind])
    ranks = scores.score[members].argsort().argsort()
    taken = np.sort(ranks[np.isin(members, chosen)])
    parts = taken * each // len(members)
    assert parts.tolist() == list(range(each))
    # More kinds than pictures: one each, none is left out. Enough pictures: all.
    assert len(gallery.choose(scores, results, shown=1)[0]) == len(sizes)
    assert gallery.choose(scores, results, shown=10**6)[0].tolist() == list(range(len(scores)))


def test_a_picture_has_the_face_the_cam_and_the_map_side_by_side(evaluation: Made) -> None:
    manifest, scores, _ = evaluation
    cam = np.zeros((4, 4), np.float32)
    cam[0, 3] = 1
    fake = manifest[int(np.flatnonzero(scores.label == 1)[0])]
    width = gallery.strip(replace(fake, map_path=None), cam).width
    whole = np.asarray(gallery.strip(fake, cam), dtype=int)
    side = whole.shape[0]
    assert (width, whole.shape[1]) == (2 * side, 3 * side)
    face, looked, human = np.split(whole, 3, axis=1)
    bright = (looked - face).sum(axis=2)
    assert bright[: side // 4, -side // 4 :].mean() > bright[side // 2 :, : side // 2].mean() + 50
    cyan = np.abs(looked - [25, 227, 255]).max(axis=2) < 3
    rows, columns = np.nonzero(cyan)
    # The mask covers cells 2 to 4 and 3 to 5 of 8.
    assert rows.min() == pytest.approx(2 * side / 8, abs=6)
    assert rows.max() == pytest.approx(5 * side / 8, abs=6)
    assert columns.max() == pytest.approx(6 * side / 8, abs=6)
    assert not (np.abs(human - [25, 227, 255]).max(axis=2) < 3).any()


def test_the_pictures_are_those_of_the_rows(
    detector: Detector, evaluation: Made, written: Path
) -> None:
    manifest, _, _ = evaluation
    data = Page(written / report.REPORT).data
    assert len(data["pictures"]) == len(data["parts"]) == len(data["shown"]) == len(manifest)
    rows = [5, 40, 77]
    for row, uri in gallery.pictures(detector, manifest, rows):
        assert data["pictures"][data["shown"].index(row)] == uri
        assert data["parts"][data["shown"].index(row)] == 2 + (manifest[row].map_path is not None)


def test_of_very_many_images_those_with_a_picture_are_listed(
    monkeypatch: pytest.MonkeyPatch, evaluation: Made
) -> None:
    _, scores, results = evaluation
    monkeypatch.setattr(gallery, "LISTED", 100)
    chosen, _ = gallery.choose(scores, results, shown=50)
    table = gallery.table(scores, results, chosen)
    assert [f"{table['root']}/{path}" for path in table["path"]] == scores.path[chosen].tolist()
    assert table["shown"] == list(range(len(chosen)))


@pytest.mark.slow
def test_images_without_labels_have_a_report_without_figures_of_errors(
    tmp_path: Path, detector: Detector, evaluation: Made
) -> None:
    manifest, scores, _ = evaluation
    blank = replace(scores, label=np.full(len(scores), -1), generator=[""] * len(scores))
    unlabelled = Manifest(replace(s, label=None, generator="") for s in manifest)
    report.write(tmp_path, "pictures", detector, unlabelled, blank, None, progress=False)
    found = Page(tmp_path / report.REPORT)
    assert not found.figures
    assert "150 images without labels" in found.text
    assert {p.name for p in (tmp_path / "figures").glob("*.svg")} == {"scores.svg", "entropy.svg"}
    assert {found.data["outcomes"][at] for at in found.data["outcome"]} == {"unlabelled"}


@pytest.mark.slow
def test_names_of_any_characters(tmp_path: Path, detector: Detector, evaluation: Made) -> None:
    """Mathematics to matplotlib, a hidden label, bytes that are not UTF-8, markup."""
    manifest, scores, _ = evaluation
    names = [r"$\x$", "_hidden", "real", "a\udcff/b", "</script><script>alert(1)</script>"]
    fakes = np.flatnonzero(scores.label == 1)
    generator = scores.generator.copy()
    generator[fakes] = [names[at % len(names)] for at in range(len(fakes))]
    path = scores.path.copy()
    path[0] = "/x/\udcfe.png"
    odd = replace(scores, generator=generator, path=path)
    results = summarise(odd, [names[0]], resamples=0)
    report.write(tmp_path, "odd", detector, manifest, odd, results, progress=False)
    found = Page(tmp_path / report.REPORT)
    assert "alert(1)" in found.text
    assert found.tags.count("script") == 2
    assert found.data["path"][0].endswith("?.png")
    # The legend names them all.
    lines = [plots.Curve(name, np.array([0.1, 0.2]), np.array([0.3]), 1.0) for name in names]
    svg, _ = plots.rendered(plots.of_runs({("open", "g"): lines}, names)[0])
    (legend,) = re.findall(r'<g id="legend_1">(.*)', svg, re.DOTALL)
    assert legend.count('<g id="text_') == len(names)


def test_generators_of_alike_names_are_told_apart_in_legends(evaluation: Made) -> None:
    _, scores, _ = evaluation
    names = [f"stable_diffusion_v_1_{at}" for at in (4, 5)]
    fakes = np.flatnonzero(scores.label == 1)
    generator = scores.generator.copy()
    generator[fakes] = [names[at % 2] for at in range(len(fakes))]
    found = replace(scores, generator=generator)
    drawn = plots.of_scores(found, summarise(found, [names[0]], resamples=0))
    for plot in (plot for plot in drawn if plot.name != "reliability"):
        (legend,) = plot.draw().legends
        said = {text.get_text().split("  ")[0] for text in legend.get_texts()}
        assert said - {"real"} == {"stable_d...v_1_4", "stable_d...v_1_5"}, plot.name


@pytest.mark.slow
@pytest.mark.parametrize("count", [28, 29, 40])
def test_of_more_generators_than_styles_the_best_and_the_worst_have_a_colour(
    evaluation: Made, count: int
) -> None:
    _, scores, _ = evaluation
    fakes = np.flatnonzero((scores.label == 1) & (scores.test_set == "open"))
    generator = np.where(scores.label == 1, "g00", scores.generator)
    generator[fakes] = [f"g{at % count:02d}" for at in range(len(fakes))]
    found = replace(scores, generator=generator.astype(object))
    results = summarise(found, ["kA"], resamples=0)
    aucs = {name: each["auc"] for name, each in results["open"]["generators"].items()}
    ranked = sorted(aucs, key=lambda name: aucs[name])
    drawn = {plot.name: plot for plot in plots.of_scores(found, results)}
    for kind in ("roc", "det"):
        plot = drawn[f"{kind}-open"]
        assert all(f"{name} {auc:.3f}" in plot.alt for name, auc in aucs.items())
        figure = plot.draw()
        *lines, _ = figure.axes[0].get_lines()  # the last is the diagonal
        styles = [(line.get_color(), line.get_linestyle()) for line in lines]
        said = [text.get_text() for text in figure.legends[0].get_texts()]
        assert len(lines) == count
        if count == 28:
            assert len(set(styles)) == len(said) == 28
            continue
        names = [text.split()[0] for text in said]
        assert sorted(aucs[name] for name in names[:5]) == [aucs[name] for name in ranked[:5]]
        assert said[5] == f"{count - 10} others"
        assert [aucs[name] for name in names[6:]] == [aucs[name] for name in ranked[-5:]]
        assert len(set(styles)) == 11
        grey = [line for line, style in zip(lines, styles, strict=True) if styles.count(style) > 1]
        assert len(grey) == count - 10
        coloured = [line for line in lines if line not in grey]
        assert max(g.get_zorder() for g in grey) < min(line.get_zorder() for line in coloured)
        assert "in colour those of the five lowest and the five highest AUC" in plot.alt


@pytest.mark.slow
def test_an_error_leaves_no_part_of_a_report_and_costs_a_line(
    tmp_path: Path, detector: Detector, evaluation: Made
) -> None:
    manifest, scores, results = evaluation

    def attempt(manifest: Manifest) -> str:
        return report.attempt(
            lambda: report.write(tmp_path, "a", detector, manifest, scores, results, progress=False)
        )

    gone = Manifest([Sample(str(tmp_path / "gone.png"), 0), *manifest[1:]])
    line = attempt(gone)
    assert line.startswith("warning: report.html could not be written (ImageError: ")
    assert "gone.png" in line
    assert "\n" not in line
    assert list(tmp_path.iterdir()) == []

    # Nor when the disk refuses the last of its files.
    aside = tmp_path / f"report.html.{os.getpid()}-{threading.get_ident()}.part"
    aside.mkdir()
    assert attempt(manifest).startswith("warning: report.html could not be written (IsADirectory")
    assert [path.name for path in tmp_path.iterdir()] == [aside.name]
    aside.rmdir()
    assert attempt(manifest) == f"written: {tmp_path / 'report.html'}"


def test_an_earlier_report_goes_and_what_is_not_of_it_stays(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    report.remove(tmp_path)
    assert not (tmp_path / "figures").exists(), "an empty folder goes"
    (tmp_path / "figures").mkdir()
    mine = ["holiday.png", "rocket.svg", "roc-open.txt", "ROC-open.png"]
    for name in (*mine, "roc-open.png", "reliability.svg", "training-loss.png"):
        (tmp_path / "figures" / name).write_text("x")
    for name in ("report.html", "robustness.csv", "robustness.png", "faithfulness.csv"):
        (tmp_path / name).write_text("x")
    report.remove(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(["figures", *mine])


@pytest.mark.slow
def test_the_report_is_the_same_each_time(
    tmp_path: Path, detector: Detector, evaluation: Made, written: Path
) -> None:
    path = write(tmp_path, detector, evaluation)
    assert path.read_bytes() == (written / report.REPORT).read_bytes()
    for figure_file in (written / "figures").iterdir():
        assert (tmp_path / "figures" / figure_file.name).read_bytes() == figure_file.read_bytes()


@pytest.mark.slow
def test_words_about_the_selection_say_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detector: Detector, evaluation: Made
) -> None:
    _, scores, results = evaluation
    monkeypatch.setattr(gallery.choose, "__defaults__", (40,))
    chosen, each = gallery.choose(scores, results)
    report.write(tmp_path, "a", detector, *evaluation, progress=False)
    found = Page(tmp_path / report.REPORT)
    assert f"{len(chosen)} of 150 images have a picture" in found.text
    assert f"outcome up to {each}, at even steps" in found.text
    assert found.data["shown"] == chosen.tolist()


def test_a_test_set_without_images(tmp_path: Path, detector: Detector) -> None:
    empty: dict[str, Any] = {name: [] for name in Scores.__dataclass_fields__}
    scores = Scores(**empty)
    results = summarise(scores, ["kA"], resamples=0)
    page.write(tmp_path, "a", detector, Manifest([]), scores, results, progress=False)
    assert "There are no fake images" in Page(tmp_path / report.REPORT).text
    assert json.dumps(results)


def test_thresholds_can_be_used_as_they_are_shown() -> None:
    """Those next to 1, too; a test set without a generator has no table."""
    points = OperatingPoints({"eer": 0.9999961, "balanced": 0.03125}, None, 9, 9)
    scores = Scores(
        **{name: [0, 0, 0] for name in Scores.__annotations__}
        | {name: [""] * 3 for name in ("path", "generator", "family", "test_set", "group")}
        | {"label": [0, 0, 1]}
    )
    results = summarise(scores, [], None, points, resamples=0)
    assert results["closed"]["operating_points"]["eer"]["bpcer"] is None
    (table,) = tables.operating_points(results)
    assert table.title == "Open set, at thresholds"
    assert [cells[0] for _, cells, _ in table.rows] == ["1 - 3.9e-06", "0.03125"]
