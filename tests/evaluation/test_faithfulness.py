"""Faithfulness on a network that looks at one cell, the regions, and the means by hand."""

import itertools
import json
import math
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

from focus.data.images import Preprocessing
from focus.data.manifest import Manifest, Sample
from focus.evaluation import faithfulness
from focus.evaluation.faithfulness import Falls, box_sides, means, regions
from focus.evaluation.inference import score_images
from focus.evaluation.results import summarise
from focus.model.detector import Detector
from focus.model.inputs import Normalise
from focus.model.prediction import Prediction

from .few_scores import table as scores_of

SIZE, GRID, GAIN = 32, (4, 4), 6.0
ROW, COLUMN = 1, 2  # of the cell that the network looks at
CELL = (slice(8, 16), slice(16, 24))


class OneCell(nn.Module):
    """Synthetic if the cell in row 1, column 2 is red; its CAM is one there and zero elsewhere.

    The logit of synthetic is the gain times the mean of the cell's red, which is in -0.5 ... 0.5.
    """

    image_size, grid = SIZE, GRID
    preprocessing = Preprocessing(SIZE, GRID)
    normalise = Normalise((0.5,) * 3, (1.0,) * 3)
    config = SimpleNamespace(training_generators=("kA",), geometry=(), outlier_norm=None)
    points = None

    predict_pixels = Detector.predict_pixels

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(GAIN))

    def predict_batch(self, images: Tensor) -> Prediction:
        logit = self.gain * images[:, 0, CELL[0], CELL[1]].mean((1, 2))
        predicted = (logit > 0).long()
        cams = torch.zeros(len(images), 2, *GRID)
        cams[:, 1, ROW, COLUMN] = 1
        cams[:, 0] = cams[:, 1] * (2 * predicted - 1)[:, None, None]
        entropy, norms = torch.zeros(len(images), 2), torch.zeros(len(images), 0, 0)
        return Prediction(logit.sigmoid(), predicted, cams, entropy, norms)


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
    arguments: dict[str, Any] = {"batch_size": 4, "progress": False} | settings
    return faithfulness.measure(Accelerator(cpu=True), detector or OneCell(), manifest, **arguments)


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
    boxes = regions(-np.eye(1, 16, ROW * 4 + COLUMN).reshape(1, *GRID), SIZE, 40, [3])[0]
    red = np.ones((SIZE, SIZE))
    red[CELL] = 0
    for fall, (top, left) in zip(falls.elsewhere[3], boxes[1:], strict=True):
        logit = by_hand(red, (slice(top, top + 8), slice(left, left + 8)))
        # The probability of the decision, which is real: 1 minus that of synthetic.
        assert fall == pytest.approx(sigmoid(GAIN / 2) - (1 - sigmoid(logit)), abs=1e-6)


def test_neither_batches_nor_workers_nor_the_random_state_count(manifest: Manifest) -> None:
    detector = OneCell()
    state = torch.get_rng_state()
    falls = measured(manifest, detector)
    assert torch.equal(torch.get_rng_state(), state)
    again = measured(manifest, batch_size=1, workers=2)
    np.testing.assert_array_equal(again.peak, falls.peak)
    np.testing.assert_array_equal(again.elsewhere, falls.elsewhere)
    assert falls.elsewhere[3].tolist() != falls.elsewhere[4].tolist(), "each image has its own"


def test_boxes_lie_in_the_image_hold_the_peak_and_keep_apart() -> None:
    for size, grid in itertools.product(
        (32, 33, 224, 299), [(1, 2), (2, 2), (3, 3), (2, 5), (7, 7), (8, 8)]
    ):
        cells = grid[0] * grid[1]
        sides = np.array(box_sides(grid, size))
        assert sides.tolist() == [size // min(4, cell) for cell in grid]
        cams = np.eye(cells).reshape(cells, *grid)
        boxes = regions(cams, size, 5, range(cells))
        assert boxes.min() >= 0
        assert (boxes + sides).max() <= size
        for cell, (peak, *others) in enumerate(boxes):
            middle = (np.array(np.unravel_index(cell, grid)) + 0.5) * size / np.array(grid)
            assert ((peak <= middle) & (middle <= peak + sides)).all()
            for other in others:
                assert (np.abs(other - peak) >= sides).any(), "they overlap"


def summary(falls: Falls, groups: list[str] | None = None, **columns: Any) -> dict[str, Any]:
    """Of all images, which are reals without a group if nothing else is said."""
    count = len(falls.peak)
    rows = [(0, "", "", 0.5)] * count
    scores = scores_of(rows, group=groups or [""] * count, **columns)
    return means(falls, scores, np.arange(count), scores.label)


def test_the_means_by_hand() -> None:
    boxes = np.array([[0.1, 0.3], [0.25, 0.25], *[[0, 0]] * 3])
    means_of_set = summary(Falls(np.array([0.5, 0.25, 0, 0, 0]), boxes))
    interval = means_of_set.pop("intervals")["difference"]
    assert means_of_set == {
        "n": 5,
        "fall_peak": 0.15,
        "fall_elsewhere": pytest.approx(0.09),
        "difference": pytest.approx(0.06),
        "share_peak_larger": pytest.approx((1 + 4 / 2) / 5),  # ties count half
    }
    # Of 3125 resamples of (0.3, 0, 0, 0, 0), 1 has five of the first and 20 four, and by Student's
    # quantile for five images the ends leave out 1 in 1000 each.
    assert interval == pytest.approx((0.0, 0.24))
    falls, scores = Falls(np.zeros(1), np.zeros((1, 2))), scores_of([(0, "", "", 0.5)])
    nothing = means(falls, scores, np.zeros(0, np.int64), scores.label)
    assert nothing == {**dict.fromkeys(nothing, None), "n": 0, "intervals": {}}


def test_means_that_no_resample_moves_are_not_certain() -> None:
    """All ten peaks matter more, each by another fall; then those of one person, and of two."""
    falls, label = Falls(np.linspace(0.1, 0.5, 10), np.zeros((10, 3))), [0] * 5 + [1] * 5
    alone = summary(falls, label=label)["intervals"]
    assert alone["share_peak_larger"] == (pytest.approx(0.025 ** (1 / 10)), 1)
    assert alone["difference"][0] < 0.3 < alone["difference"][1]
    assert "fall_elsewhere" not in alone  # it is 0 in each
    pairs = summary(falls, [*"aabbb", *"ccddd"], label=label)["intervals"]
    assert pairs["share_peak_larger"] == (pytest.approx(0.025 ** (1 / 4)), 1)
    three = summary(falls, [*"aabbb", *"ccccc"], label=label)["intervals"]
    assert three == {"share_peak_larger": (pytest.approx(0.025 ** (1 / 3)), 1)}


def test_the_file_and_the_lines(manifest: Manifest, tmp_path: Path) -> None:
    falls = measured(manifest)
    scores = score_images(OneCell(), manifest, batch_size=4, progress=False)  # type: ignore[arg-type]
    path = faithfulness.write(falls, scores, tmp_path)
    head, *rows = path.read_text().splitlines()
    assert head == "path,label,generator,test_set,predicted,fall_peak,fall_elsewhere,peak_larger"
    assert len(rows) == 6
    assert rows[2].split(",")[1:] == ["1", "uB", "", "1", f"{falls.peak[2]:.6g}", "0", "1"]
    assert rows[5].split(",")[1] == ""
    closed, opened = faithfulness.lines(faithfulness.summarise(falls, scores, ["kA"]))
    assert closed.startswith(
        "Faithfulness, closed: the decision's probability falls by "
        f"{falls.peak[[0, 1, 3, 4]].mean():.3f} where"
    )
    assert closed.endswith(", 4 images.")
    assert opened.startswith("Faithfulness, open: ")
    last = Falls(falls.peak[5:], falls.elsewhere[5:])
    (line,) = faithfulness.lines(faithfulness.summarise(last, scores.select([5]), []))
    assert line.startswith("Faithfulness, all images: ")


def test_it_is_in_the_results_of_each_group() -> None:
    names = ["", "", "kA", "uB", ""]
    rows = [
        (int(row_number > 1), name, "", 0.1 * row_number) for row_number, name in enumerate(names)
    ]
    scores = scores_of(rows)
    results = summarise(scores, ["kA"], resamples=0)
    falls = Falls(np.array([0.0, 0.1, 0.4, 0.8, 0.2]), np.full((5, 8), 0.1))
    faithfulness.add(faithfulness.summarise(falls, scores, ["kA"]), results)
    closed, opened = results["closed"], results["open"]
    assert closed["generators"]["kA"]["faithfulness"]["synthetic"]["fall_peak"] == pytest.approx(
        0.4
    )
    assert closed["pooled"]["faithfulness"]["n"] == 3
    assert opened["generators"]["(unnamed)"]["faithfulness"]["synthetic"]["fall_peak"] == 0.2
    pooled = opened["pooled"]["faithfulness"]
    assert pooled["difference"] == pytest.approx((0 + 0.1 + 0.8 + 0.2) / 4 - 0.1)
    assert pooled["real"]["share_peak_larger"] == 0.25  # 0, and eight ties
    json.dumps(results, allow_nan=False)


def test_generators_are_resampled_apart() -> None:
    """Two generators that differ by far: their shares of the images are no chance."""
    falls = Falls(np.repeat([0.0, 0.0, 1.0], 20), np.zeros((60, 8)))
    rows = [(int(n > 0), ("", "A", "B")[n], "open", 0.5) for n in range(3) for _ in range(20)]
    pooled = faithfulness.summarise(falls, scores_of(rows), [])["open"][""]
    assert "fall_peak" not in pooled["synthetic"]["intervals"]
