"""Faithfulness on a network that looks at one cell, the regions, and the summary by hand."""

import json
import math
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from focus.data.manifest import Manifest, Sample
from focus.errors import ImageError
from focus.evaluation import faithfulness
from focus.evaluation.faithfulness import Falls, box_sides, by_class, regions, soft_box, summary
from focus.evaluation.inference import score_images
from focus.evaluation.results import summarise
from focus.evaluation.scores import Scores
from focus.model.detector import Detector, Prediction

from ..few_scores import table as scores_of

SIZE, GRID, GAIN = 32, (4, 4), 6.0
ROW, COLUMN = 1, 2  # of the cell that the network looks at
CELL = (slice(8, 16), slice(16, 24))


class OneCell(nn.Module):
    """Synthetic if the cell in row 1, column 2 is red; its CAM is one there and zero elsewhere.

    The logit of synthetic is the gain times the mean of the cell's red, which is in -0.5 ... 0.5.
    """

    image_size, grid = SIZE, GRID
    mean, std = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
    config = SimpleNamespace(training_generators=("kA",), geometry=())
    points = None

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def predict_batch(self, images: Tensor) -> Prediction:
        logit = self.gain * images[:, 0, CELL[0], CELL[1]].mean((1, 2))
        predicted = (logit > 0).long()
        cams = torch.zeros(len(images), 2, *GRID)
        cams[:, 1, ROW, COLUMN] = 1
        cams[:, 0] = cams[:, 1] * (2 * predicted - 1)[:, None, None]
        return Prediction(logit.sigmoid(), predicted, cams, torch.zeros(len(images), 2))


def picture(path: Path, red_cell: bool) -> str:
    """A black image of the network's size, its one cell red; or all red but that cell."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[..., 0] = 0 if red_cell else 255
    pixels[(*CELL, 0)] = 255 if red_cell else 0
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Three fakes with the red cell, two reals, one without label."""
    fake, real = picture(tmp_path / "fake.png", True), picture(tmp_path / "real.png", False)
    return Manifest(
        [
            *(Sample(fake, 1, "kA"), Sample(fake, 1, "kA"), Sample(fake, 1, "uB")),
            *(Sample(real, 0), Sample(real, 0), Sample(fake)),
        ]
    )


def measured(manifest: Manifest, detector: nn.Module | None = None, **settings: Any) -> Falls:
    given: dict[str, Any] = {"batch_size": 4, "progress": False} | settings
    return faithfulness.measure(
        Accelerator(cpu=True),
        detector or OneCell(),
        manifest,
        **given,
    )


def by_hand(red: NDArray[np.float64], box: tuple[slice, slice]) -> float:
    """The logit when ``box`` of the red channel [S, S] is blurred, in loops and float64."""
    weights = np.array(
        [
            [math.exp(-((a - b) ** 2) / (2 * (SIZE / 8) ** 2)) for b in range(SIZE)]
            for a in range(SIZE)
        ]
    )
    weights /= weights.sum(1, keepdims=True)
    ramp = np.array([0.5, 1, 1, 1, 1, 1, 1, 0.5])  # the side is 8, an edge one pixel
    changed = red.copy()
    changed[box] += np.outer(ramp, ramp) * ((weights @ red @ weights.T)[box] - red[box])
    return float(GAIN * (changed[CELL].mean() - 0.5))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_place_that_the_network_looks_at_counts_and_no_other(manifest: Manifest) -> None:
    falls = measured(manifest)
    red = np.zeros((SIZE, SIZE))
    red[CELL] = 1
    expected = sigmoid(GAIN / 2) - sigmoid(by_hand(red, CELL))
    assert expected > 0.3
    # Cells and boxes have one size here, so no other box touches the cell.
    np.testing.assert_allclose(falls.peak[[0, 1, 2, 5]], expected, rtol=1e-5)
    assert (falls.elsewhere[[0, 1, 2, 5]] == 0).all()


def test_a_cam_that_points_elsewhere_is_not_faithful(manifest: Manifest) -> None:
    """The real class's CAM peaks where the network does not look: in all cells but one."""
    falls = measured(manifest, places=40)
    np.testing.assert_allclose(falls.peak[3:5], 0, atol=1e-7)
    assert falls.elsewhere[3:5].max() > 0.1, "some of the forty boxes meet the cell"
    boxes = regions(-np.eye(1, 16, ROW * 4 + COLUMN).reshape(1, *GRID), SIZE, 40, [(0, 3)])[0]
    red = np.ones((SIZE, SIZE))
    red[CELL] = 0
    for fall, (top, left) in zip(falls.elsewhere[3], boxes[1:], strict=True):
        logit = by_hand(red, (slice(top, top + 8), slice(left, left + 8)))
        # The probability of the decision, which is real: 1 minus that of synthetic.
        assert fall == pytest.approx(sigmoid(GAIN / 2) - (1 - sigmoid(logit)), abs=1e-6)


def test_the_detector_is_left_as_it_was(manifest: Manifest) -> None:
    detector = Detector(image_size=SIZE).train()
    modes: list[bool] = []
    detector.backbone.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    measured(manifest, detector)
    assert modes
    assert not any(modes)
    assert detector.training, "the mode is left as it was"


def test_neither_batches_nor_workers_nor_the_random_state_count(manifest: Manifest) -> None:
    detector = OneCell()
    state = torch.get_rng_state()
    falls = measured(manifest, detector)
    assert torch.equal(torch.get_rng_state(), state)
    for settings in ({"batch_size": 1}, {"workers": 2}):
        again = measured(manifest, **settings)
        np.testing.assert_array_equal(again.peak, falls.peak)
        np.testing.assert_array_equal(again.elsewhere, falls.elsewhere)
    other = measured(manifest, seed=1)
    assert (other.elsewhere[3:5] != falls.elsewhere[3:5]).any()
    assert falls.elsewhere[3].tolist() != falls.elsewhere[4].tolist(), "each image has its own"


def test_an_output_that_is_not_finite_names_the_image(manifest: Manifest) -> None:
    class Fragile(OneCell):
        def predict_batch(self, images: Tensor) -> Prediction:
            out = super().predict_batch(images)
            clean = ((images == 0.5) | (images == -0.5)).flatten(1).all(1)
            return out._replace(score=torch.where(clean, out.score, math.nan))

    with pytest.raises(ImageError, match=r"fake\.png' is not finite where a part of it is blurred"):
        measured(manifest, Fragile())

    class FragileAtOnePlace(OneCell):
        places = 0

        def predict_batch(self, images: Tensor) -> Prediction:
            """Of the real images, which are red, one box of nine is too much."""
            out = super().predict_batch(images)
            self.places += 1
            real = images[:, 0].mean((1, 2)) > 0
            broken = real & torch.tensor(self.places == 4)
            return out._replace(score=torch.where(broken, math.nan, out.score))

    with pytest.raises(ImageError, match=r"real\.png' is not finite where a part of it is blurred"):
        measured(manifest, FragileAtOnePlace(), batch_size=6)


@pytest.mark.parametrize("size", [32, 33, 63, 64, 65, 224, 299])
@pytest.mark.parametrize("grid", [(1, 2), (2, 2), (3, 3), (2, 5), (4, 4), (7, 7), (8, 8), (10, 10)])
def test_boxes_lie_in_the_image_hold_the_peak_and_keep_apart(
    size: int, grid: tuple[int, int]
) -> None:
    cells = grid[0] * grid[1]
    cams = np.eye(cells).reshape(cells, *grid)
    sides = np.array(box_sides(grid, size))
    assert sides.tolist() == [size // min(4, cell) for cell in grid]
    boxes = regions(cams, size, 5, [(0, row) for row in range(cells)])
    assert boxes.min() >= 0
    assert (boxes + sides).max(axis=(0, 1)).tolist() <= [size, size]
    for cell, (peak, *others) in enumerate(boxes):
        middle = (np.array(np.unravel_index(cell, grid)) + 0.5) * size / np.array(grid)
        assert (peak <= middle).all()
        assert (middle <= peak + sides).all()
        for other in others:
            assert (np.abs(other - peak) >= sides).any(), "they overlap"


def test_boxes_depend_on_their_key_and_lie_all_over() -> None:
    cams = np.eye(16).reshape(16, 4, 4)[[5] * 200]
    boxes = regions(cams, 64, 8, [(0, row) for row in range(200)])
    again = regions(cams[:3], 64, 8, [(0, 7), (0, 3), (1, 3)])
    np.testing.assert_array_equal(again[:2], boxes[[7, 3]])
    assert (again[2] != boxes[3]).any()
    places = boxes[:, 1:].reshape(-1, 2)
    # Of a middle box, each side is free; all rows and columns of the image are drawn.
    assert places.min(axis=0).tolist() == [0, 0]
    assert places.max(axis=0).tolist() == [48, 48]


def test_a_box_is_soft_at_its_edges() -> None:
    mask = soft_box((16, 8)).numpy()
    assert mask.shape == (16, 8)
    assert mask[:, 4].tolist() == [0.25, 0.75] + [1.0] * 12 + [0.75, 0.25]
    assert mask[8].tolist() == [0.5] + [1.0] * 6 + [0.5]
    assert mask[0, 0] == 0.125


def test_the_summary_by_hand() -> None:
    falls = Falls(
        np.array([0.5, 0.25, 0.0, 0.1]), np.array([[0.1, 0.3], [0.25, 0.25], [0, 0], [0.2, 0.4]])
    )
    found = summary(falls, [0, 1, 2])
    interval = found.pop("intervals")["difference"]
    assert found == {
        "n": 3,
        "fall_peak": 0.25,
        "fall_elsewhere": pytest.approx(0.15),
        "difference": pytest.approx(0.1),
        "share_peak_larger": pytest.approx((1 + 1 / 2 + 1 / 2) / 3),  # ties count half
    }
    # Of 27 resamples of (0.3, 0, 0), 8 have the mean 0 and 1 has 0.3.
    assert interval == pytest.approx((0.0, 0.3))
    assert summary(falls, np.array([True, False, False, True]))["n"] == 2
    assert summary(falls, [3])["intervals"] == {}
    nothing = summary(falls, np.zeros(0, np.int64))
    assert nothing == {**dict.fromkeys(nothing, None), "n": 0, "intervals": {}}
    both = by_class(falls, np.array([2]), np.array([0, 1]))
    assert both["n"] == 3
    assert (both["real"], both["fake"]) == (summary(falls, [2]), summary(falls, [0, 1]))


def test_a_peak_that_is_as_any_other_place_is_larger_in_half() -> None:
    """Falls are skewed: few draws of an exponential lie above the mean of eight."""
    draws = np.random.default_rng(0).exponential(size=(4000, 9)) ** 3
    falls = Falls(draws[:, 0], draws[:, 1:])
    share = summary(falls, np.arange(4000))["share_peak_larger"]
    assert share == pytest.approx(0.5, abs=0.015)  # three standard errors
    assert (falls.peak > falls.elsewhere.mean(axis=1)).mean() < 0.3
    # Of falls that are all in turn at the peak, whatever they are, it is exact.
    every = np.stack([np.roll(np.array([0.0, 0.0, 0.1, 0.7, 0.2]), n) for n in range(5)])
    turns = summary(Falls(every[:, 0], every[:, 1:]), np.arange(5))
    assert turns["share_peak_larger"] == pytest.approx(0.5)


def test_the_interval_has_the_width_of_the_mean() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(0.1, 0.2, 400)
    found = summary(Falls(values, np.zeros((400, 3))), np.arange(400))
    low, high = found["intervals"]["difference"]
    half = 1.96 * values.std() / math.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.003)
    again = summary(Falls(values, np.zeros((400, 3))), np.arange(400))
    assert again["intervals"]["difference"] == (low, high)


def test_images_of_one_person_are_not_independent() -> None:
    draw = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 10)
    values = draw.normal(0.1, 0.2, 40)[person]
    falls = Falls(values, np.zeros((400, 3)))
    table: dict[str, Any] = {field.name: [0] * 400 for field in fields(Scores)}
    table |= dict.fromkeys(("path", "generator", "family", "split", "test_set"), [""] * 400)
    scores = Scores(**table | {"group": [f"p{n}" for n in person]})
    low, high = summary(falls, np.arange(400), scores)["intervals"]["difference"]
    half = 1.96 * values[::10].std() / math.sqrt(40)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_means_that_no_resample_moves_are_not_certain() -> None:
    """All ten peaks matter more, each by another fall; then those of one person, and of two."""
    peak = np.linspace(0.1, 0.5, 10)
    falls, label = Falls(peak, np.zeros((10, 3))), np.repeat([0, 1], 5)
    table: dict[str, Any] = {field.name: [0] * 10 for field in fields(Scores)}
    table |= dict.fromkeys(("path", "generator", "family", "split", "test_set"), [""] * 10)

    def found(groups: list[str]) -> dict[str, Any]:
        scores = Scores(**table | {"label": label, "group": groups})
        return summary(falls, np.arange(10), scores)["intervals"]

    alone = found([""] * 10)
    assert alone["share_peak_larger"] == (pytest.approx(0.025 ** (1 / 10)), 1)
    low, high = alone["difference"]
    assert low < 0.3 < high
    assert "fall_elsewhere" not in alone  # it is 0 in each
    assert found(["p"] * 10) == {}
    assert found([*"aabbb", *"ccccc"]) == {}  # one fake, in truth
    pairs = found([*"aabbb", *"ccddd"])
    assert pairs["share_peak_larger"] == (pytest.approx(0.025 ** (1 / 4)), 1)
    assert summary(falls, [0, 9], Scores(**table | {"label": label}))["intervals"] == {}


def test_the_file_and_the_lines(manifest: Manifest, tmp_path: Path) -> None:
    falls = measured(manifest)
    scores = score_images(OneCell(), manifest, batch_size=4, progress=False)
    path = faithfulness.write(falls, scores, tmp_path)
    mark, head, *rows = path.read_text().splitlines()
    assert mark == "# focus-faithfulness 1"
    assert head == "path,label,generator,test_set,predicted,fall_peak,fall_elsewhere,peak_larger"
    assert len(rows) == 6
    assert rows[2].split(",")[1:] == ["1", "uB", "", "1", f"{falls.peak[2]:.6g}", "0", "1"]
    assert rows[5].split(",")[1] == ""
    closed, opened = faithfulness.lines(falls, scores, ["kA"])
    found = summary(falls, [0, 1, 3, 4])
    assert closed.startswith(
        f"Faithfulness, closed: the decision's probability falls by {found['fall_peak']:.3f} where"
    )
    assert closed.endswith(", 4 images.")
    assert opened.startswith("Faithfulness, open: ")
    unlabelled = scores.select([5])
    (line,) = faithfulness.lines(Falls(falls.peak[5:], falls.elsewhere[5:]), unlabelled, ["kA"])
    assert line.startswith("Faithfulness, all images: ")


def test_it_is_in_the_results_of_each_group() -> None:
    label = [0, 0, 1, 1, 1]
    given: dict[str, Any] = {
        **{field.name: [0] * 5 for field in fields(Scores)},
        **dict.fromkeys(("path", "family", "split", "test_set", "group"), [""] * 5),
        "index": range(5),
        "label": label,
        "generator": ["", "", "kA", "uB", ""],
        "score": [0.1, 0.2, 0.7, 0.8, 0.9],
    }
    scores = Scores(**given)
    results = summarise(scores, ["kA"], resamples=0)
    falls = Falls(np.array([0.0, 0.1, 0.4, 0.8, 0.2]), np.full((5, 8), 0.1))
    faithfulness.add(falls, scores, results)
    closed, opened = results["closed"], results["open"]
    assert closed["generators"]["kA"]["faithfulness"]["fake"]["fall_peak"] == pytest.approx(0.4)
    assert closed["pooled"]["faithfulness"]["n"] == 3
    assert opened["generators"]["(unnamed)"]["faithfulness"]["fake"]["fall_peak"] == 0.2
    pooled = opened["pooled"]["faithfulness"]
    assert pooled["difference"] == pytest.approx((0 + 0.1 + 0.8 + 0.2) / 4 - 0.1)
    assert pooled["real"]["share_peak_larger"] == 0.25  # 0, and eight ties
    json.dumps(results, allow_nan=False)


def test_generators_are_resampled_apart_as_for_other_means() -> None:
    """Two generators that differ by far: their shares of the images are no chance."""
    entropy = np.concatenate([np.linspace(0.3, 0.5, 20), np.linspace(0, 0.1, 20), [0.9] * 20])
    about = [(0, ""), *[(1, name) for name in "AB"]]
    rows = [(label, name, "open", 0.5) for label, name in about for _ in range(20)]
    scores = scores_of(rows, entropy_predicted=entropy)
    results = summarise(scores, ["kA"])
    falls = Falls(scores.entropy_predicted.astype(float), np.zeros((60, 8)))
    faithfulness.add(falls, scores, results)
    pooled = results["open"]["pooled"]
    for name, own in (("", pooled["faithfulness"]), ("_fake", pooled["faithfulness"]["fake"])):
        low, high = own["intervals"]["fall_peak"]
        expected = np.diff(pooled["intervals"][f"entropy{name}"])[0]
        assert high - low == pytest.approx(expected, rel=0.2)
    (line,) = faithfulness.lines(falls, scores, ["kA"])
    low, high = pooled["faithfulness"]["intervals"]["difference"]
    assert f"(95 % {low:.3f} to {high:.3f})" in line
