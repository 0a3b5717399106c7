"""results.json: figures by hand, relations to training, files, and resamples of many images."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from focus.config.options import POINTS
from focus.evaluation import results as results_module
from focus.evaluation.results import summarise as summarise_with_intervals
from focus.evaluation.results import write_results
from focus.evaluation.scores import Scores
from focus.metrics.intervals import mean_auc_interval, rate_interval
from focus.model.operating_points import OperatingPoints

from .few_scores import summarise, table


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
    results = summarise(scores, ["known"])
    assert {name: g["auc"] for name, g in results["open"]["generators"].items()} == {
        "A": 1.0,
        "B": 0.5,
    }
    assert results["open"]["mean"]["auc"] == 0.75
    assert results["open"]["pooled"]["auc"] == pytest.approx(4 / 6)  # the shared reals count once
    pooled = results["open"]["pooled"]
    assert (pooled["n_real"], pooled["n_synthetic"]) == (2, 3)
    assert results["closed"]["pooled"]["auc"] == 0.5
    assert results["n_real_unused"] == 0


def test_focus_figures_by_hand() -> None:
    rows = [(0, "", "", 0.1), (0, "", "", 0.1), (1, "A", "", 0.9), (1, "A", "", 0.9)]
    rows += [(1, "B", "", 0.9), (0, "B", "", 0.9), (0, "C", "", 0.9)]
    scores = table(
        rows,
        entropy_predicted=[0.5, 0.25, 0.25, 0.125, 0.75, 0.25, 1.0],
        entropy_sum=[1, 0, 0, 0, 1, 1, 1],
        pointing_hit=[-1, -1, 1, 0, 1, -1, -1],
        pointing_hit_synthetic=[-1, -1, 1, 1, 1, -1, -1],
        pointing_chance=[math.nan, math.nan, 0.25, 0.125, 0.5, math.nan, math.nan],
        map_mse=[0.5, math.nan, 0.25, math.nan, 0.125, math.nan, math.nan],
        map_hit=[1, -1, 0, -1, 1, -1, -1],
        map_chance=[0.25, math.nan, 0.75, math.nan, 0.125, math.nan, math.nan],
        peak_row=[1, 1, 0, 1, 0, 0, 0],
        peak_col=[0, 0, 1, 0, 2, 0, 0],
        peak_outlier=[1, 0, -1, 0, 1, 0, 0],
    )
    results = summarise(scores, [])
    a, b = results["open"]["generators"]["A"], results["open"]["generators"]["B"]
    assert (a["entropy"], a["entropy_on_real"], a["entropy_on_synthetic"]) == (
        0.28125,
        0.375,
        0.1875,
    )
    assert (a["entropy_sum"], b["entropy_sum"]) == (0.25, 1.0)
    assert (a["pointing_hit"], a["pointing_hit_synthetic"], a["n_pointing"]) == (0.5, 1.0, 2)
    assert (a["pointing_chance"], b["pointing_chance"]) == (0.1875, 0.5)
    # Of the images with a map, each chance level over those that its hit rate is over.
    assert (a["map_hit"], a["map_chance"], a["map_chance_on_real"]) == (0.5, 0.5, 0.25)
    assert (b["map_hit"], b["map_chance"], b["map_chance_on_real"]) == (1.0, 0.125, None)
    assert (a["map_mse"], a["n_maps"], b["n_maps"]) == (0.375, 2, 1)  # of reals and fakes
    assert (a["peak_share"], b["peak_share"]) == (0.75, 0.5)
    shares = [a[f"peak_outlier{suffix}"] for suffix in ("", "_on_real", "_on_synthetic")]
    assert (shares, b["peak_outlier"]) == ([pytest.approx(1 / 3), 0.5, 0.0], 0.5)
    assert results["open"]["pooled"]["pointing_hit"] == pytest.approx(2 / 3)
    assert results["open"]["pooled"]["peak_share"] == 0.5
    assert results["n_real_unused"] == 1  # C has reals and no fakes
    assert results["closed"]["pooled"]["pointing_hit"] is None


def test_there_is_no_share_of_outliers_where_none_is_known() -> None:
    rows = [(0, "", "", 0.1), (1, "A", "", 0.9)]
    for peaks, there in (([-1, -1], False), ([-1, 0], True)):
        text = json.dumps(summarise(table(rows, peak_outlier=peaks), []))
        assert ("peak_outlier" in text) == there


def test_one_class_and_no_labels_are_not_defined() -> None:
    only_reals = summarise(table([(0, "", "", 0.1)]), ["known"])
    assert only_reals["open"]["mean"]["auc"] is None
    assert only_reals["open"]["pooled"]["auc"] is None
    assert only_reals["n_real_unused"] == 1
    unlabelled = summarise(table([(-1, "", "", 0.1)]), ["known"])
    assert unlabelled["n_unlabelled"] == 1
    assert unlabelled["closed"]["pooled"]["n_real"] == 0
    assert "NaN" not in json.dumps([only_reals, unlabelled])


def test_a_fake_without_a_generator_has_a_name_in_the_results() -> None:
    scores = table([(0, "", "", 0.1), (1, "", "", 0.9)])
    assert summarise(scores, ["known"])["open"]["generators"]["(unnamed)"]["auc"] == 1
    assert summarise(scores, [""])["closed"]["pooled"]["auc"] == 1


def test_results_are_written_whole(tmp_path: Path) -> None:
    scores = table([(0, "", "", 0.1), (1, "A", "", 0.9)])
    results = summarise(scores, ["known"])
    folder = tmp_path / "new" / "folder"
    paths = write_results(folder, scores, results)
    assert paths == [folder / "results.json", folder / "scores.csv"]
    assert sorted(folder.iterdir()) == paths
    assert json.loads(paths[0].read_text()) == results
    assert Scores.from_csv(paths[1]).path.tolist() == ["0.png", "1.png"]

    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(folder, scores, {"closed": {"auc": math.nan}})
    assert json.loads(paths[0].read_text()) == results

    # Scores alone: the results of other scores do not stay beside them.
    assert write_results(folder, scores, None) == [folder / "scores.csv"]
    assert [path.name for path in folder.iterdir()] == ["scores.csv"]


def test_each_generator_is_marked_by_how_far_it_is_from_training() -> None:
    scores = table(
        [
            (0, "", "", 0.1),
            (1, "StyleGAN2", "", 0.9),  # what training called SG2
            (1, "StyleGAN2-ADA", "", 0.9),
            (1, "mine", "", 0.9),
            (1, "mine", "", 0.9),
            (1, "ProGAN", "", 0.9),
            (1, "new", "", 0.9),
            (1, "SG2", "open", 0.9),
            (1, "", "open", 0.9),
            (0, "", "open", 0.1),
        ],
        family=["", "", "", "ours", "", "", "", "", "", ""],
    )
    results = summarise(scores, ["own", "SG2"], {"own": "Ours"})
    assert results["training_generators"] == ["SG2", "own"]
    assert results["training_families"] == {"SG2": "stylegan", "own": "Ours"}
    marks = {
        test_set: {
            n: (g["family"], g["relation"]) for n, g in results[test_set]["generators"].items()
        }
        for test_set in ("closed", "open")
    }
    assert marks == {
        "closed": {"StyleGAN2": ("stylegan", "closed")},
        "open": {
            "(unnamed)": (None, None),
            "SG2": ("stylegan", "closed"),
            "StyleGAN2-ADA": ("stylegan", "near"),
            "mine": ("ours", "near"),
            "ProGAN": ("progan", "far"),
            "new": (None, None),
        },
    }
    assert results["closed"]["generators"]["StyleGAN2"]["auc"] == 1


def test_groups_are_judged_by_their_mean_scores() -> None:
    """Two frames a video by hand; a real video that two generators list counts once."""
    rows = [(0, "A", "", 0.125), (0, "A", "", 0.625), (0, "B", "", 0.125), (0, "B", "", 0.625)]
    rows += [(0, "A", "", 0.75), (0, "A", "", 0.5), (0, "B", "", 0.75), (0, "B", "", 0.5)]
    rows += [(1, "A", "", 0.25), (1, "A", "", 1.0), (1, "B", "", 0.5), (1, "B", "", 0.375)]
    groups = ["real"] * 4 + ["other"] * 4 + ["fake"] * 4
    scores = table(rows, path=[*"121234345678"], group=groups)
    points = OperatingPoints(dict.fromkeys(POINTS, 0.4), None, 9, 9)
    results = summarise(scores, [], None, points)
    group_results = results["groups"]
    assert set(group_results) == {"n_real", "n_synthetic", "closed", "open"}
    a, b = (group_results["open"]["generators"][name] for name in "AB")
    # Means: 0.375 and 0.625 of the real ones, 0.625 of A's fake, 0.4375 of B's.
    assert (a["auc"], b["auc"]) == (0.75, 0.5)
    assert (a["n_real"], a["n_synthetic"]) == (2, 1)
    confusion = {
        "real_as_real": 1,
        "real_as_synthetic": 1,
        "synthetic_as_real": 0,
        "synthetic_as_synthetic": 1,
    }
    assert a["operating_points"]["eer"] == {"bpcer": 0.5, "apcer": 0.0, "confusion": confusion}
    assert group_results["open"]["operating_points"]["eer"]["apcer_mean"] == 0.0
    pooled = group_results["open"]["pooled"]
    assert (pooled["n_real"], pooled["n_synthetic"], pooled["auc"]) == (2, 2, 0.625)
    assert not {"entropy", "cllr"} & pooled.keys()
    assert results["open"]["pooled"]["n_real"] == 4
    assert "groups" not in summarise(table(rows), [])


def test_intervals_of_groups_are_over_groups() -> None:
    random = np.random.default_rng(0)
    means = random.normal(0.5, 0.1, 40) + np.repeat([0, 0.1], 20)
    score = (means[:, None] + random.normal(0, 0.02, (40, 5))).clip(0, 1)
    rows = [(n // 20, "A" * (n // 20), "", float(s)) for n in range(40) for s in score[n]]
    scores = table(rows, group=[f"v{n}" for n in range(40) for _ in range(5)])
    open_groups = summarise_with_intervals(scores, [], resamples=40)["groups"]["open"]
    ends = open_groups["generators"]["A"]["intervals"]
    mean_score, unit = score.mean(axis=1), np.arange(40)
    expected = mean_auc_interval([(mean_score[:20], mean_score[20:], unit[:20], unit[20:])])
    assert ends["auc"] == pytest.approx(expected)
    bpcer = ends["operating_points"]["decision"]["bpcer"]
    assert bpcer == rate_interval(int((mean_score[:20] > 0.5).sum()), 20)


def many_scores(grouped: bool) -> Scores:
    """Three generators that share real images; with groups of four where ``grouped``."""
    random = np.random.default_rng(3)
    label = np.repeat([0, 1, 1, 1], 700)
    moved = np.repeat([-1.0, 0.3, 1.0, 2.0], 700)
    score = 1 / (1 + np.exp(-random.normal(moved, 1.3)))
    rows = np.arange(len(label))
    return Scores.without_cams(
        path=[f"{row}.png" for row in rows],
        label=label,
        generator=np.repeat(["", "g0", "g1", "g2"], 700).astype(object),
        group=[f"v{row // 4}" if grouped else "" for row in rows],
        test_set=["open"] * len(label),
        score=score.round(3),
        llr=np.log(score / (1 - score)),
    )


def _figures(results: Any, keys: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return what lies at all keys of results below ``keys``."""
    if not isinstance(results, dict):
        return {keys: results}
    figures = {}
    for name, part in results.items():
        figures |= _figures(part, (*keys, name))
    return figures


@pytest.mark.parametrize("grouped", [False, True])
def test_merged_scores_leave_figures_and_move_no_interval_by_more_than_chance(
    monkeypatch: pytest.MonkeyPatch, grouped: bool
) -> None:
    scores = many_scores(grouped)
    by_image = _figures(summarise_with_intervals(scores, [], resamples=300)["open"])
    monkeypatch.setattr(results_module, "MOST_RESAMPLED", 100)
    by_cell = _figures(summarise_with_intervals(scores, [], resamples=300)["open"])

    assert by_cell.keys() == by_image.keys()
    moved = []
    for keys, value in by_image.items():
        if "intervals" in keys:
            width = value[1] - value[0]
            moved.append(abs(np.subtract(by_cell[keys], value)).max() / width)
        else:
            assert by_cell[keys] == value, keys
    # An end of 300 resamples is itself off by .04 of the width, and the rarest rates by more.
    assert np.median(moved) < 0.05
    assert max(moved) < 0.3


ROWS = 200_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "seconds", "bytes_a_row"),
    [("scores='0.csv', report=False", 40, 1700), ("compare=('0.csv', '1.csv')", 80, 2200)],
)
def test_many_rows_take_seconds_and_little_memory(
    tmp_path: Path, settings: str, seconds: float, bytes_a_row: int
) -> None:
    random = np.random.default_rng(2)
    label = np.tile([0, 1], ROWS // 2)
    names = np.where(label == 1, [f"g{row // 2 % 50}" for row in range(ROWS)], "")
    for number, strength in enumerate((2.0, 2.5)):
        score = 1 / (1 + np.exp(-random.normal(strength * label - 1, 1.5)))
        lines = [
            f"{row}.png,{of_row},{name},{value:.8f}\n"
            for row, (of_row, name, value) in enumerate(zip(label, names, score, strict=True))
        ]
        text = "path,label,generator,score\n" + "".join(lines)
        (tmp_path / f"{number}.csv").write_text(text)
    program = (
        "import re, time\n"
        "from pathlib import Path\n"
        "import sklearn.isotonic, focus.report.comparison\n"
        "from focus import EvaluateConfig, evaluate\n"
        "def kilobytes(name):\n"
        "    # What wait4 tells of memory begins with what the tests hold.\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(name + ': *(.*) kB', status).group(1))\n"
        "before = kilobytes('VmRSS')\n"
        f"evaluate(EvaluateConfig({settings}, output='out'))\n"
        "print(time.process_time(), kilobytes('VmHWM') - before)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    seconds_taken, kilobytes = map(float, done.stdout.splitlines()[-1].split())
    assert seconds_taken < seconds
    assert 1024 * kilobytes < bytes_a_row * ROWS
    # Nothing of the page is a row's.
    pages = [path.stat().st_size for path in (tmp_path / "out").glob("*.html")]
    assert all(size < 5_000_000 for size in pages)
