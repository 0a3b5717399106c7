"""Scoring, the rule which reals a fake is told from, results and the table."""

import json
import math
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from focus import evaluation
from focus.config import EvaluateConfig, TrainConfig, write_config
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.models import Detector, Prediction
from focus.scores import Scores

PROGRAM = Path(__file__).parents[1] / "evaluate.py"
GRID = (2, 4)
SIZE = 8


class RedDetector(nn.Module):
    """A detector whose every output can be worked out by hand.

    The CAM of class synthetic is how far each cell's red lies above one half, 8 times; that of
    class real is its negative. The score is the sigmoid of the difference of the means.
    """

    image_size = SIZE
    grid = GRID
    mean = (0.5, 0.5, 0.5)
    std = (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))
        self.frozen = nn.BatchNorm2d(3)
        self.modes: list[tuple[bool, bool, bool]] = []

    def predict_batch(self, images: Tensor) -> Prediction:
        self.modes.append(
            (self.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"))
        )
        synthetic = self.gain * nn.functional.adaptive_avg_pool2d(images[:, 0], GRID)
        logits = torch.stack([-synthetic, synthetic], 1).mean((2, 3))
        predicted = logits.argmax(1)
        sign = (2 * predicted - 1)[:, None, None]
        cams = torch.stack([sign * synthetic, synthetic], 1)
        p = cams.flatten(2).softmax(2)
        entropy = -(p * p.log()).sum(2) / math.log(8)
        return Prediction(logits.softmax(1)[:, 1], predicted, cams, entropy)


def red(folder: Path, name: str, cells: list[list[int]]) -> str:
    """An image of 2 x 4 red cells with these levels in 0..255."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[..., 0] = np.kron(np.array(cells), np.ones((4, 2)))
    Image.fromarray(pixels).save(folder / name)
    return str(folder / name)


@pytest.fixture
def pictures(tmp_path: Path) -> Manifest:
    """A fake whose peak is on its artefact, one whose peak is not, a real, an unlabelled image."""
    on = [[0, 0, 0, 0], [0, 0, 255, 0]]
    bright = [[250, 255, 250, 250], [250, 250, 250, 250]]
    dark = [[10, 10, 10, 10], [10, 10, 10, 0]]
    mask = np.zeros((16, 16), np.uint8)
    mask[8:, 8:12] = 255  # the cell in row 1, column 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked: dict[str, Any] = {
        "label": 1,
        "generator": "kA",
        "mask_path": str(tmp_path / "mask.png"),
    }
    return Manifest(
        [
            Sample(red(tmp_path, "0.png", on), family="k", group="g", split="test", **masked),
            Sample(red(tmp_path, "1.png", bright), test_set="closed", **masked),
            Sample(red(tmp_path, "2.png", dark), label=0, mask_path=masked["mask_path"]),
            Sample(red(tmp_path, "3.png", dark)),
        ],
        "pictures",
    )


def score(detector: nn.Module, manifest: Manifest, **settings: Any) -> Scores:
    settings = {"batch_size": 3, "progress": False} | settings
    return evaluation.score_images(detector, manifest, **settings)  # type: ignore[arg-type]


def test_every_column_by_hand(pictures: Manifest) -> None:
    scores = score(RedDetector(), pictures)
    assert scores.path.tolist() == [sample.path for sample in pictures]
    assert scores.index.tolist() == [0, 1, 2, 3]
    assert scores.label.tolist() == [1, 1, 0, -1]
    assert scores.generator.tolist() == ["kA", "kA", "", ""]
    assert [scores.family[0], scores.group[0], scores.split[0]] == ["k", "g", "test"]
    assert scores.test_set.tolist() == ["", "closed", "", ""]
    # Image 0: one cell at 8 * 0.5 = 4, seven at -4: mean -3, logits (3, -3).
    assert scores.score[0] == pytest.approx(1 / (1 + math.exp(6)), rel=1e-5)
    assert scores.predicted.tolist() == [0, 1, 0, 0]
    # Its CAM of the predicted class real is the negative: the peak is the first of seven cells,
    # h_sum that of seven equal cells. The synthetic class's peak is on the artefact.
    assert (scores.peak_row[0], scores.peak_col[0]) == (0, 0)
    assert scores.entropy_sum[0] == pytest.approx(math.log(7) / math.log(8))
    assert scores.cam_range[0] == pytest.approx(8.0, rel=1e-6)
    assert scores.entropy_predicted[0] == pytest.approx(math.log(7) / math.log(8), abs=1e-3)
    assert scores.entropy_synthetic[0] < 0.02
    # Image 1: peak in row 0, column 1. Image 2: negated, in row 1, column 3.
    assert (scores.peak_row[1], scores.peak_col[1]) == (0, 1)
    assert (scores.peak_row[2], scores.peak_col[2]) == (1, 3)
    assert scores.cam_range[1] == pytest.approx(8 * 5 / 255, rel=1e-4)
    # Only fakes are asked; the real image's mask plays no part.
    assert scores.pointing_hit.tolist() == [0, 0, -1, -1]
    assert scores.pointing_hit_synthetic.tolist() == [1, 0, -1, -1]
    # z-scores of one cell among eight: sqrt(7) and -1/sqrt(7), here negated.
    weights = np.exp([-math.sqrt(7)] + [1 / math.sqrt(7)] * 7)
    p = weights / weights.sum()
    assert scores.entropy_z[0] == pytest.approx(-(p * np.log(p)).sum() / math.log(8), rel=1e-5)


def test_scoring_leaves_the_detector_as_it_was(pictures: Manifest) -> None:
    detector = RedDetector()
    detector.train()
    detector.frozen.eval()
    state = torch.get_rng_state()
    score(detector, pictures)
    assert torch.equal(torch.get_rng_state(), state), "scoring must not move training's randomness"
    assert detector.training
    assert not detector.frozen.training
    assert detector.modes == [(False, True, False)] * 2


def test_the_network_runs_in_the_autocast_that_is_given(pictures: Manifest) -> None:
    def bfloat16() -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16)

    detector = RedDetector()
    score(detector, pictures, autocast=bfloat16)
    assert detector.modes == [(False, True, True)] * 2


def test_parts_of_several_processes_join_to_the_whole(pictures: Manifest) -> None:
    detector = RedDetector()
    whole = score(detector, pictures)
    parts = [score(detector, pictures, indices=range(rank, 4, 3)) for rank in (2, 1, 0)]
    joined = Scores.merge(parts, len(pictures))
    for name, column in whole.columns().items():
        np.testing.assert_array_equal(column, getattr(joined, name), err_msg=name)
    assert len(score(detector, pictures, indices=range(3, 3))) == 0


def test_an_output_that_is_not_finite_names_the_image(pictures: Manifest) -> None:
    detector = RedDetector()
    detector.gain.data.fill_(math.nan)
    with pytest.raises(InputError, match=r"output for '.*0\.png' is not finite"):
        score(detector, pictures)
    assert detector.training, "an error must leave the mode as it was too"


def table(rows: list[tuple[int, str, str, float]], **columns: Any) -> Scores:
    """Scores from (label, generator, test set, score)."""
    n = len(rows)
    label, generator, test_set, numbers = zip(*rows, strict=True)
    given: dict[str, Any] = {
        "index": range(n),
        "path": [f"{i}.png" for i in range(n)],
        "label": label,
        "generator": generator,
        "test_set": test_set,
        "score": numbers,
        "predicted": [int(number > 0.5) for number in numbers],
    }
    given |= dict.fromkeys(("family", "split", "group"), [""] * n)
    given |= dict.fromkeys(("pointing_hit", "pointing_hit_synthetic"), [-1] * n)
    return Scores(**(dict.fromkeys(Scores.__annotations__, [0] * n) | given | columns))


def matched(scores: Scores) -> dict[tuple[str, str], tuple[list[int], list[int]]]:
    comparisons = evaluation.match(scores, ["known"])
    return {(c.test_set, c.generator): (c.real.tolist(), c.fake.tolist()) for c in comparisons}


def test_a_generator_is_told_from_its_own_reals_if_it_has_any() -> None:
    scores = table(
        [
            (0, "", "", 0.1),
            (0, "known", "", 0.2),
            (0, "A", "", 0.3),
            (1, "known", "", 0.4),
            (1, "A", "", 0.5),
            (1, "B", "", 0.6),
            (1, "A", "", 0.7),
            (-1, "A", "", 0.8),
        ]
    )
    assert matched(scores) == {
        ("closed", "known"): ([1], [3]),
        ("open", "A"): ([2], [4, 6]),
        ("open", "B"): ([0], [5]),
    }


def test_reals_of_the_same_test_set_come_before_those_given_apart() -> None:
    scores = table(
        [
            (0, "", "", 0.1),
            (0, "", "closed", 0.1),
            (0, "", "open", 0.1),
            (0, "A", "open", 0.1),
            (1, "known", "closed", 0.9),
            (1, "known", "open", 0.9),
            (1, "A", "open", 0.9),
            (1, "A", "", 0.9),
            (1, "A", "closed_balanced", 0.9),
        ]
    )
    assert matched(scores) == {
        ("closed", "known"): ([1], [4]),
        ("closed_balanced", "A"): ([0], [8]),
        ("open", "A"): ([3], [6, 7]),
        ("open", "known"): ([2], [5]),
    }


def test_a_generator_without_reals_has_none() -> None:
    scores = table([(0, "A", "", 0.1), (1, "A", "", 0.9), (1, "B", "", 0.9)])
    assert matched(scores) == {("open", "A"): ([0], [1]), ("open", "B"): ([], [2])}
    results = evaluation.summarise(scores, ["known"])
    assert results["open"]["generators"]["B"]["auc"] is None
    assert results["open"]["auc_mean"] == 1.0
    assert results["open"]["n_generators"] == 1
    assert results["closed"]["auc"] is None
    assert "closed_balanced" not in results


def test_mean_and_pooled_auc_by_hand() -> None:
    scores = table(
        [
            (0, "", "open", 0.2),
            (0, "", "open", 0.6),
            (1, "A", "open", 0.9),  # above both: AUC 1
            (1, "B", "open", 0.4),  # above one of two: AUC 1/2
            (1, "B", "open", 0.4),
            (0, "", "closed", 0.5),
            (1, "known", "closed", 0.5),  # a tie: AUC 1/2
        ]
    )
    results = evaluation.summarise(scores, ["known"])
    assert {name: g["auc"] for name, g in results["open"]["generators"].items()} == {
        "A": 1.0,
        "B": 0.5,
    }
    assert results["open"]["auc_mean"] == 0.75
    assert results["open"]["auc_pooled"] == pytest.approx(4 / 6)  # the shared reals count once
    assert (results["open"]["n_real"], results["open"]["n_fake"]) == (2, 3)
    assert results["closed"]["auc"] == 0.5
    assert results["n_real_unused"] == 0


def test_auc_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    labels: list[int] = generator.integers(0, 2, 300).tolist()
    numbers: list[float] = generator.normal(labels, 1.0).astype(np.float32).tolist()
    rows = [(b, "" if b == 0 else "known", "", s) for b, s in zip(labels, numbers, strict=True)]
    results = evaluation.summarise(table(rows), ["known"])
    assert results["closed"]["auc"] == pytest.approx(roc_auc_score(labels, numbers), abs=1e-15)


def test_focus_figures_by_hand() -> None:
    rows = [(0, "", "", 0.1), (0, "", "", 0.1), (1, "A", "", 0.9), (1, "A", "", 0.9)]
    rows += [(1, "B", "", 0.9), (0, "B", "", 0.9), (0, "C", "", 0.9)]
    scores = table(
        rows,
        entropy_predicted=[0.5, 0.25, 0.25, 0.125, 0.75, 0.25, 1.0],
        entropy_sum=[1, 0, 0, 0, 1, 1, 1],
        pointing_hit=[-1, -1, 1, 0, 1, -1, -1],
        pointing_hit_synthetic=[-1, -1, 1, 1, 1, -1, -1],
        peak_row=[1, 1, 0, 1, 0, 0, 0],
        peak_col=[0, 0, 1, 0, 2, 0, 0],
    )
    results = evaluation.summarise(scores, [])
    a, b = results["open"]["generators"]["A"], results["open"]["generators"]["B"]
    assert (a["entropy"], a["entropy_real"], a["entropy_fake"]) == (0.28125, 0.375, 0.1875)
    assert (a["entropy_sum"], b["entropy_sum"]) == (0.25, 1.0)
    assert (a["pointing_hit"], a["pointing_hit_synthetic"], a["n_pointing"]) == (0.5, 1.0, 2)
    assert (a["peak_share"], b["peak_share"]) == (0.75, 0.5)
    assert results["open"]["pointing_hit"] == pytest.approx(2 / 3)
    assert results["open"]["peak_share"] == 0.5
    assert results["n_real_unused"] == 1  # C has reals and no fakes
    assert results["closed"]["pointing_hit"] is None


def test_one_class_and_no_labels_are_not_defined() -> None:
    only_reals = evaluation.summarise(table([(0, "", "", 0.1)]), ["known"])
    assert only_reals["open"]["auc_mean"] is None
    assert only_reals["open"]["auc_pooled"] is None
    assert only_reals["n_real_unused"] == 1
    unlabelled = evaluation.summarise(table([(-1, "", "", 0.1)]), ["known"])
    assert unlabelled["n_unlabelled"] == 1
    assert unlabelled["closed"]["n_real"] == 0
    assert "NaN" not in json.dumps([only_reals, unlabelled])


def test_a_fake_without_a_generator_has_a_name_in_the_results() -> None:
    scores = table([(0, "", "", 0.1), (1, "", "", 0.9)])
    assert evaluation.summarise(scores, ["known"])["open"]["generators"]["(unnamed)"]["auc"] == 1
    assert evaluation.summarise(scores, [""])["closed"]["auc"] == 1


def test_results_are_written_whole(tmp_path: Path) -> None:
    scores = table([(0, "", "", 0.1), (1, "A", "", 0.9)])
    results = evaluation.summarise(scores, ["known"])
    folder = tmp_path / "new" / "folder"
    paths = evaluation.write_results(folder, scores, results)
    assert paths == [folder / "results.json", folder / "scores.csv"]
    assert sorted(folder.iterdir()) == paths
    assert json.loads(paths[0].read_text()) == results
    assert Scores.from_csv(paths[1]).path.tolist() == ["0.png", "1.png"]

    with pytest.raises(ValueError, match="not JSON compliant"):
        evaluation.write_results(folder, scores, {"closed": {"auc": math.nan}})
    assert json.loads(paths[0].read_text()) == results

    # Scores alone: the results of other scores do not stay beside them.
    assert evaluation.write_results(folder, scores, None) == [folder / "scores.csv"]
    assert [path.name for path in folder.iterdir()] == ["scores.csv"]


def test_table() -> None:
    reals = [(0, "", "", 0.2), (0, "", "", 0.6)]
    fakes = [(1, "known", "", 0.4), (1, "uEars", "", 0.7), (1, "uSwap", "", 0.4)]
    blend = evaluation.summarise(
        table(reals + fakes, pointing_hit=[-1, -1, 0, 1, 1], entropy_predicted=[0.25] * 5),
        ["known"],
    )
    ce = evaluation.summarise(table([*reals, (1, "uEars", "", 0.1)]), ["known"])
    assert evaluation.format_table({"blend": blend, "ce": ce}).splitlines() == [
        "                                     blend       ce",
        "---------------------------------------------------",
        "closed-set AUC                       0.500        -",
        "open-set AUC, uEars                  1.000    0.000",
        "open-set AUC, uSwap                  0.500        -",
        "open-set AUC, mean                   0.750    0.000",
        "CAM entropy, closed                  0.250        -",
        "CAM entropy, open                    0.250    0.000",
        "CAM peaks in the artefact, closed    0.000        -",
        "CAM peaks in the artefact, open      1.000        -",
        "- not defined: needs real and synthetic images (AUC), artefact masks (peaks)",
    ]
    assert "open-set AUC, mean of 2              0.750" in evaluation.format_table({"blend": blend})


def test_table_fits_a_terminal_with_long_names() -> None:
    rows = [(0, "", "", 0.2), (1, "a-generator-of-a-very-long-name-indeed", "", 0.4)]
    results = evaluation.summarise(table(rows), [])
    names = [f"a model of an even longer name {i}" for i in range(2)]
    lines = evaluation.format_table(dict.fromkeys(names, results)).splitlines()
    assert max(map(len, lines)) <= 80
    assert "a-generator-of-a-ve..." in lines[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector, in a run folder that has data of its own."""
    run = tmp_path_factory.mktemp("runs") / "first"
    torch.manual_seed(0)
    Detector(training_generators=("known",)).save_pretrained(run / "model")
    write_config(TrainConfig(data=("faces.csv",)), run / "config.yaml")
    return run / "model"


def noise(folder: Path, count: int) -> Path:
    """A folder of random pictures."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(count)
    for number in range(count):
        pixels = generator.integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def evaluate(**flags: Any) -> None:
    evaluation.evaluate(EvaluateConfig(workers=0, threads=1, **flags))


def test_evaluate_writes_what_it_prints(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise(tmp_path / "known" / "0_real", 3)
    noise(tmp_path / "known" / "1_fake", 4)
    out = tmp_path / "out"
    evaluate(
        run=str(model.parent),
        data=(str(tmp_path),),
        test_data={"new": str(noise(tmp_path.with_name("fakes"), 5))},
        test_real={"apart": str(noise(tmp_path.with_name("reals"), 6))},
        output=str(out),
    )
    results = json.loads((out / "results.json").read_text())
    assert (results["closed"]["n_real"], results["closed"]["n_fake"]) == (3, 4)
    new = results["open"]["generators"]["new"]
    assert (new["n_real"], new["n_fake"]) == (6, 5)
    scores = Scores.from_csv(out / "scores.csv")
    assert len(scores) == 18
    expected = roc_auc_score(
        scores.label[scores.generator == "known"], scores.score[scores.generator == "known"]
    )
    assert results["closed"]["auc"] == pytest.approx(expected)
    with Image.open(out / "overlays.png") as sheet:
        assert sheet.format == "PNG"
    printed = capsys.readouterr().out
    assert evaluation.format_table({"first": results}) in printed
    for name in ("results.json", "scores.csv", "overlays.png"):
        assert f"written: {out / name}" in printed


def test_evaluate_without_labels_gives_scores_only(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise(tmp_path / "images", 3)
    evaluate(model_dir=str(model), data=(str(images),), output=str(tmp_path / "out"))
    assert "None of the 3 images has a label: scores only, no results." in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["overlays.png", "scores.csv"]


def test_evaluate_says_that_one_class_has_no_auc(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = noise(tmp_path / "images", 2)
    evaluate(model_dir=str(model), test_data={"new": str(images)}, output=str(tmp_path / "out"))
    assert "There are no real images, only fake ones: no AUC is defined." in capsys.readouterr().out


def test_remarks() -> None:
    scores = table([(0, "A", "", 0.1), (1, "B", "", 0.9), (-1, "", "", 0.5)])
    assert evaluation.remarks(scores, evaluation.summarise(scores, [])) == [
        "Images without label: 1; they are scored and in no result.",
        "B has no real images to be told from: its AUC is not defined.",
        "Real images that no fake is told from: 1; they are in no result.",
    ]
    complete = table([(0, "", "", 0.1), (1, "B", "", 0.9)])
    assert evaluation.remarks(complete, evaluation.summarise(complete, [])) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"run": "nowhere"}, "--run nowhere is no folder"),
        ({"model_dir": "nowhere"}, "--model-dir nowhere is no folder"),
        ({"run": "RUN/model"}, "has no folder 'model'"),
        ({"run": "RUN"}, "There are no images to score"),
        ({"model_dir": "RUN/model"}, "There are no images to score"),
        ({"model_dir": "RUN", "data": ("x",)}, "holds no detector"),
        ({"run": "RUN", "data": ("nowhere",)}, "no such file or folder"),
        ({"run": "RUN", "output": "RUN/config.yaml"}, "is a file: give a folder"),
        ({"run": "RUN", "data": ("TRAIN",)}, "All 2 images of .* are for training"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    model: Path, tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    noise(tmp_path / "data" / "train" / "A" / "1_fake", 2)
    for name, value in flags.items():
        if isinstance(value, str):
            flags[name] = value.replace("RUN", str(model.parent))
        elif value == ("TRAIN",):
            flags[name] = (str(tmp_path / "data"),)
    with pytest.raises(InputError, match=message) as error:
        evaluate(**({"output": str(tmp_path / "out")} | flags))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_processes_write_what_one_does(model: Path, tmp_path: Path) -> None:
    noise(tmp_path / "data" / "known" / "0_real", 5)
    noise(tmp_path / "data" / "known" / "1_fake", 4)
    data = str(tmp_path / "data")
    evaluate(model_dir=str(model), data=(data,), output=str(tmp_path / "one"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    flags = ["--model-dir", str(model), "--data", data, "--output", str(tmp_path / "two")]
    subprocess.run([*launch, str(PROGRAM), *flags], check=True, cwd=tmp_path, capture_output=True)
    one, two = (Scores.from_csv(tmp_path / name / "scores.csv") for name in ("one", "two"))
    assert one.path.tolist() == two.path.tolist()
    # Other batches, other rounding.
    np.testing.assert_allclose(one.score, two.score, rtol=1e-5)
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert (results["closed"]["n_real"], results["closed"]["n_fake"]) == (5, 4)


def test_the_program_ends_with_code_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "evaluate.py: error: Give one of --run and --model-dir, got neither."
    ]


def test_help_is_quick_because_it_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['evaluate.py', '--help']\n"
        f"try:\n    runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "print(sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "--model-dir DIR" in done.stdout
    assert done.stdout.endswith("[]\n")
