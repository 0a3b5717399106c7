"""Robustness on a network that sees stripes only, its file and picture, and several processes."""

import csv
import io
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from focus import metrics
from focus.config.train import EvaluateConfig
from focus.data.manifest import Manifest, Sample
from focus.data.perturbations import STRENGTHS
from focus.errors import InputError
from focus.evaluation.inference import score_images
from focus.evaluation.protocol import match
from focus.evaluation.robustness import (
    Kept,
    _intervals,
    check_labels,
    draw,
    lines,
    measure,
    read,
    write,
)
from focus.evaluation.scores import Scores
from focus.model.detector import Detector, Prediction
from focus.use import evaluate as evaluation

from ..launching import python

PROGRAM = Path(__file__).parents[2] / "evaluate.py"
SIZE = 32


class Stripes(nn.Module):
    """Synthetic as far as neighbouring pixels differ by more than a fifth of the range.

    What is smooth has the same score to the last bit, so AUCs can be told in advance.
    """

    image_size, grid = SIZE, (2, 2)
    mean, std = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
    config = SimpleNamespace(training_generators=("kA",), geometry=())
    points = None

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))

    def predict_batch(self, images: Tensor) -> Prediction:
        contrast = images.diff(dim=3).abs().mean((1, 2, 3))
        score = (self.gain * (contrast - 0.2).relu()).sigmoid()
        cams = torch.arange(8.0).reshape(1, 2, 2, 2).expand(len(images), -1, -1, -1)
        return Prediction(score, (score > 0.5).long(), cams, torch.zeros(len(images), 2))


def picture(path: Path, stripes: bool) -> str:
    pixels = np.full((SIZE, SIZE, 3), 128, np.uint8)
    if stripes:
        pixels[:, ::2], pixels[:, 1::2] = 40, 216
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Fakes with stripes of a known generator, without of an unknown one, and one of each more."""
    striped, smooth = picture(tmp_path / "s.png", True), picture(tmp_path / "g.png", False)
    return Manifest(
        [
            *(Sample(smooth, 0), Sample(smooth, 0), Sample(smooth, 0)),
            *(Sample(striped, 1, "kA"), Sample(striped, 1, "kA")),
            *(Sample(smooth, 1, "uB"), Sample(striped, 1, "")),
            Sample(striped),
        ],
        "pictures",
    )


def clean(manifest: Manifest) -> Scores:
    return score_images(Stripes(), manifest, batch_size=4, progress=False)


def measured(manifest: Manifest, scores: Scores, **settings: Any) -> list[Kept]:
    given: dict[str, Any] = {"batch_size": 4, "progress": False} | settings
    return measure(Accelerator(cpu=True), Stripes(), manifest, scores, **given)


def test_what_is_kept_is_told_in_advance(manifest: Manifest) -> None:
    scores = clean(manifest)
    # An image without label is in no comparison: it is not even read.
    lost = Manifest([*(manifest[i] for i in range(7)), Sample("/lost.png")], "pictures")
    results = measured(lost, scores)
    assert len(results) == 20 * 3
    assert [(r.perturbation, r.strength) for r in results[::3]] == [
        (name, strength) for name, strengths in STRENGTHS.items() for strength in strengths
    ]
    of = {(r.perturbation, r.strength, r.generator): r for r in results}
    for name, strength, auc in [
        ("blur", 1, 0.5),  # a Gaussian of 1 pixel leaves 0.7 % of stripes of one pixel
        ("blur", 4, 0.5),
        ("resize", 0.5, 0.5),
        ("resize", 0.25, 0.5),
        ("jpeg", 95, 1.0),
        ("noise", 2, 1.0),
        ("noise", 32, 1.0),
    ]:
        known = of[name, strength, "kA"]
        assert (known.test_set, known.n_real, known.n_fake) == ("closed", 3, 2)
        assert (known.clean, known.auc, known.change) == (1.0, auc, auc - 1.0), (name, strength)
        assert known.kept == (0.0 if auc == 0.5 else 1.0)
    unknown = of["blur", 4, "uB"]
    assert (unknown.test_set, unknown.clean, unknown.auc) == ("open", 0.5, 0.5)
    assert (unknown.change, unknown.kept) == (0.0, None), "nothing above chance can be kept"


def test_kept_is_the_share_above_chance() -> None:
    kept = Kept("jpeg", 50, "open", "uB", 3, 2, auc=0.6, clean=0.9)
    assert (kept.change, kept.kept) == (pytest.approx(-0.3), pytest.approx(0.25))
    below = replace(kept, clean=0.45)
    assert (below.change, below.kept) == (pytest.approx(0.15), None)
    assert (replace(kept, auc=None, clean=None).change, replace(kept, auc=None).kept) == (
        None,
        None,
    )


@pytest.mark.slow
def test_the_same_whatever_the_batches_and_workers(manifest: Manifest) -> None:
    scores = clean(manifest)
    first = measured(manifest, scores)
    assert measured(manifest, scores, batch_size=1) == first
    assert measured(manifest, scores, workers=1) == first


def test_the_progress_is_over_all_images_and_perturbations(
    manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(manifest, clean(manifest), progress=True)
    printed = capsys.readouterr().err
    assert "robustness: 100%" in printed
    assert " 140/140 " in printed, "7 images, 20 times"


def test_a_generator_without_reals_is_not_scored_and_has_empty_cells(
    manifest: Manifest, tmp_path: Path
) -> None:
    fakes = Manifest([replace(s, label=1) for s in manifest][:3])
    scores = clean(fakes)
    results = measured(Manifest([replace(s, path="/lost.png") for s in fakes]), scores)
    assert {(r.auc, r.clean, r.change, r.kept) for r in results} == {(None,) * 4}
    write(results, tmp_path)
    row = (tmp_path / "robustness.csv").read_text().splitlines()[2]
    assert row == "jpeg,95,quality,open,,0,3,,,,,,,,"
    assert lines(results) == []


def test_the_file(manifest: Manifest, tmp_path: Path) -> None:
    results = measured(manifest, clean(manifest))
    written = write(results, tmp_path)
    assert written == [tmp_path / "robustness.csv", tmp_path / "robustness.png"]
    assert sorted(tmp_path.glob("robustness*")) == sorted(written), "nothing is left beside them"
    mark, *rest = written[0].read_text().splitlines()
    assert mark == "# focus-robustness 1"
    rows = list(csv.DictReader(io.StringIO("\n".join(rest))))
    assert len(rows) == len(results)
    blurred = next(r for r in rows if (r["perturbation"], r["generator"]) == ("blur", "kA"))
    assert list(blurred.values()) == [
        *("blur", "0.5", "sigma in pixels", "closed", "kA", "3", "2"),
        # Of two pairs, both in order, with and without: 0.025 ** (1 / 2).
        *("1", "0.158114", "1", "1", "0", "-0.841886", "0.841886", "1"),
    ]
    with Image.open(written[1]) as sheet:
        assert sheet.format == "PNG"


def test_the_file_is_read_back(manifest: Manifest, tmp_path: Path) -> None:
    results = measured(manifest, clean(manifest))
    # A generator without real images has empty cells; names hold anything.
    results += [
        replace(r, generator='a, "b"\udcff', n_real=0, auc=None, clean=None, interval=None)
        for r in results
        if r.generator == "kA"
    ]
    path, _ = write(results, tmp_path)
    found = read(path)
    assert len(found) == len(results)
    for got, expected in zip(found, results, strict=True):
        for field in fields(Kept):
            wanted = getattr(expected, field.name)
            if isinstance(wanted, (float, tuple)):
                wanted = pytest.approx(wanted, rel=1e-5)
            assert getattr(got, field.name) == wanted, field.name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("robustness 1", "robustness 9", "begins with '# focus-robustness 9', not with '# focus-r"),
        ("auc_clean", "auc_before", "cannot be read .KeyError: 'auc_clean'"),
        ("jpeg,95,quality,closed,kA,3", "jpeg,95,quality,closed,kA,three", "read .ValueError"),
        ("blur,4,", "blur,5,", "has other strengths for kA .closed. than are measured"),
    ],
)
def test_what_is_no_such_file_is_said(
    manifest: Manifest, tmp_path: Path, old: str, new: str, said: str
) -> None:
    path, _ = write(measured(manifest, clean(manifest)), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=said) as caught:
        read(path)
    assert str(caught.value).endswith("evaluate with --robustness again.")


def test_a_file_that_ends_early_is_said(manifest: Manifest, tmp_path: Path) -> None:
    path, _ = write(measured(manifest, clean(manifest)), tmp_path)
    text = path.read_text()
    last = text.rindex("noise,32")
    for end, said in ((last, "has other strengths for"), (last + 8, "cannot be read .TypeError")):
        path.write_text(text[:end])
        with pytest.raises(InputError, match=said):
            read(path)


def curve(generator: str, test_set: str, clean: float, aucs: list[float]) -> list[Kept]:
    """The same AUCs under each perturbation."""
    return [
        Kept(name, strength, test_set, generator, 9, 9, auc, clean)
        for name, strengths in STRENGTHS.items()
        for strength, auc in zip(strengths, aucs, strict=True)
    ]


def test_the_picture_draws_each_generator_from_its_clean_auc() -> None:
    figure = draw(
        curve("kA", "closed", 0.95, [0.9, 0.85, 0.8, 0.7, 0.6])
        + curve("uB", "open", 0.8, [0.75, 0.7, 0.65, 0.6, 0.55])
        + curve("uC", "open", 0.6, [0.55, 0.5, 0.45, 0.4, 0.31])
    )
    assert [axes.get_title() for axes in figure.axes] == ["jpeg", "blur", "resize", "noise"]
    for axes, strengths in zip(figure.axes, STRENGTHS.values(), strict=True):
        drawn = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
        assert drawn["kA (closed)"] == [0.95, 0.9, 0.85, 0.8, 0.7, 0.6]
        assert drawn["uC (open)"] == [0.6, 0.55, 0.5, 0.45, 0.4, 0.31]
        assert drawn["mean (open)"] == pytest.approx([0.7, 0.65, 0.6, 0.55, 0.5, 0.43])
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        assert ticks == ["clean", *(f"{s:g}" for s in strengths)]
        low, high = axes.get_ylim()
        assert low < 0.31
        assert high > 1


def test_the_lines_have_the_mean_of_generators() -> None:
    results = curve("uB", "open", 0.8, [0.75, 0.7, 0.65, 0.6, 0.55]) + curve(
        "uC", "open", 0.6, [0.55, 0.5, 0.45, 0.4, 0.3]
    )
    first, *others = lines(results)
    assert first == (
        "AUC, open, jpeg (quality): clean 0.700; 0.650 at 95, 0.600 at 90, 0.550 at 70, "
        "0.500 at 50, 0.425 at 30"
    )
    assert len(others) == 3


def test_labels_of_one_class_are_refused_at_once(manifest: Manifest) -> None:
    check_labels(manifest)
    with pytest.raises(InputError, match="none of the 3 images is labelled as synthetic"):
        check_labels(Manifest([manifest[row] for row in range(3)]))
    with pytest.raises(InputError, match="none of the 1 images is labelled as real"):
        check_labels(Manifest([manifest[7]]))


def tree(folder: Path) -> Path:
    draw_from = np.random.default_rng(0)
    for name, count in (("0_real", 5), ("1_fake", 4)):
        (folder / "known" / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw_from.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "known" / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "model"
    torch.manual_seed(0)
    Detector(training_generators=("known",)).save_pretrained(folder)
    return folder


def evaluate(model: Path, data: Path, output: Path, **flags: Any) -> None:
    evaluation.evaluate(
        EvaluateConfig(
            model_dir=str(model),
            data=(str(data),),
            output=str(output),
            workers=0,
            threads=1,
            report=False,
            **flags,
        )
    )


@pytest.mark.slow
def test_evaluate_writes_and_prints_both(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tree(tmp_path / "data"), tmp_path / "out"
    evaluate(model, data, out, robustness=True, faithfulness=True)
    printed = capsys.readouterr().out
    for name in ("robustness.csv", "robustness.png", "faithfulness.csv"):
        assert f"written: {out / name}" in printed
        assert (out / name).is_file()
    scores = Scores.from_csv(out / "scores.csv")
    auc = roc_auc_score(scores.label, scores.score)
    assert f"AUC, closed, blur (sigma in pixels): clean {auc:.3f}; " in printed
    assert "Faithfulness, closed: the decision's probability falls by " in printed
    evaluate(model, data, tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*ness*"))


def test_evaluate_refuses_robustness_without_reals(model: Path, tmp_path: Path) -> None:
    data = tree(tmp_path / "data")
    with pytest.raises(InputError, match="--robustness compares AUCs"):
        evaluate(model, data / "known" / "0_real", tmp_path / "out", robustness=True)
    assert not (tmp_path / "out" / "scores.csv").exists()


@pytest.mark.slow
def test_several_processes_find_what_one_does(model: Path, tmp_path: Path) -> None:
    data = tree(tmp_path / "data")
    evaluate(model, data, tmp_path / "one", robustness=True, faithfulness=True)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    flags = ("--model-dir", model, "--data", data, "--output", tmp_path / "two")
    python(*launch, PROGRAM, *flags, "--robustness", "--faithfulness", cwd=tmp_path)
    for name in ("robustness.csv", "faithfulness.csv"):
        one, two = ((tmp_path / n / name).read_text().splitlines()[1:] for n in ("one", "two"))
        for left, right in zip(csv.DictReader(one), csv.DictReader(two), strict=True):
            for column, cell in left.items():
                try:
                    # Other batches, other rounding.
                    assert float(right[column]) == pytest.approx(float(cell), abs=1e-5)
                except ValueError:
                    assert right[column] == cell, column


def test_intervals_of_images_alone_and_in_groups() -> None:
    random = np.random.default_rng(0)
    label = np.repeat([0, 1], [60, 40])
    before = random.random(100) + 0.3 * label
    after = (before + 0.5 * random.random(100)).astype(np.float32)
    table: dict[str, Any] = {field.name: [0] * 100 for field in fields(Scores)}
    table |= dict.fromkeys(("path", "family", "split", "test_set", "group"), [""] * 100)
    table |= {"label": label, "generator": [""] * 60 + ["uB"] * 40, "score": before}
    (comparison,) = match(Scores(**table), [])
    real, fake = comparison.real, comparison.fake
    alone = _intervals(after, Scores(**table), comparison)
    assert alone[0] == metrics.auc_interval(after[real], after[fake])
    scores = Scores(**table).score
    change = metrics.auc_difference(after[real], after[fake], scores[real], scores[fake])
    assert change is not None
    assert alone[1] == (change.low, change.high)
    # A group for each image is no group; pairs of equal images are half as many.
    for size in (1, 2):
        groups = [f"{row // size}" for row in range(100)]
        twice = {"group": groups, "score": np.repeat(before[::size], size)}
        found = _intervals(np.repeat(after[::size], size), Scores(**table | twice), comparison)
        once = real[::size], fake[::size]
        interval, change = (
            metrics.auc_interval(*(after[rows] for rows in once)),
            metrics.auc_difference(*(s[rows] for s in (after, scores) for rows in once)),
        )
        assert change is not None
        assert found[0] == pytest.approx(interval)
        assert found[1] == pytest.approx((change.low, change.high))


def test_grouped_images_that_no_resample_moves_are_not_certain() -> None:
    """As images alone: four people a class whose scores are apart, and one person a class."""
    table: dict[str, Any] = {field.name: [0] * 16 for field in fields(Scores)}
    table |= dict.fromkeys(("path", "family", "split", "test_set"), [""] * 16)
    table |= {"label": [0] * 8 + [1] * 8, "generator": [""] * 8 + ["uB"] * 8}
    apart = np.repeat([0.1, 0.9], 8).astype(np.float32)

    def found(before: np.ndarray, people: int) -> tuple[Any, Any]:
        groups = [f"{row // (8 // people)}" for row in range(16)]
        scores = Scores(**table | {"group": groups, "score": before})
        return _intervals(apart, scores, match(scores, [])[0])

    bound = 0.025 ** (1 / 4)
    interval, change = found(apart, 4)
    assert interval == (pytest.approx(bound), 1)
    assert change == (pytest.approx(bound - 1), pytest.approx(1 - bound))
    _, change = found(1 - apart, 4)  # from 0 to 1, and each may be as far from there as it can
    assert change == (pytest.approx(1 - np.sqrt(2) * (1 - bound)), 1)
    assert found(apart, 1) == (None, None)
    # Ranks that are the same do not change, whatever is drawn.
    mixed = np.tile([0.1, 0.1, 0.9, 0.9], 4).astype(np.float32)
    scores = Scores(**table | {"group": [f"{row // 2}" for row in range(16)], "score": mixed})
    assert _intervals(mixed, scores, match(scores, [])[0])[1] == (0, 0)


def test_generators_of_alike_names_are_told_apart_in_the_picture() -> None:
    kept = [
        Kept(name, strength, test_set, generator, 4, 4, 0.75, 0.875)
        for name, strengths in STRENGTHS.items()
        for strength in strengths
        for test_set, generator in (
            ("closed", "stable_diffusion_v_1_4"),
            ("open", "stable_diffusion_v_1_5"),
            ("open", "stable_diffusion_v_1_6"),
        )
    ]
    (legend,) = draw(kept).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "stable_d...v_1_4 (closed)",
        "stable_d...v_1_5 (open)",
        "stable_d...v_1_6 (open)",
        "mean (open)",
    ]
