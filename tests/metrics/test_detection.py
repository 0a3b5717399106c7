"""The figures of scored images: those of results.json, batch by batch."""

from typing import Any

import numpy as np
import pytest
import torch

from focus.errors import InputError
from focus.evaluation.results import summarise
from focus.metrics import DetectionMetrics, detection_metrics

from ..evaluation.few_scores import table


@pytest.fixture(scope="module")
def scored() -> dict[str, Any]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 300)
    score = np.clip(0.3 * labels + random.random(300) * 0.7, 0, 1).round(2)
    named = random.choice(["A", "B"], 300)
    return {"scores": score, "labels": labels, "generators": np.where(labels == 1, named, "")}


def test_results_json_says_the_same(scored: dict[str, Any]) -> None:
    figures = detection_metrics(**scored)
    rows = zip(
        scored["labels"], scored["generators"], ["open"] * 300, scored["scores"], strict=True
    )
    results = summarise(table(list(rows)), [], resamples=20)
    test = results["open"]
    for name, value in test["pooled"].items():
        if name in figures and value is not None:
            assert figures[name] == pytest.approx(value, abs=1e-12), name
    pooled, mean = test["pooled"]["intervals"]["auc"], test["mean"]["intervals"]["auc"]
    assert [figures["auc_low"], figures["auc_high"]] == pytest.approx(pooled)
    assert [figures["auc_mean_low"], figures["auc_mean_high"]] == pytest.approx(mean)
    assert figures["auc_mean"] == pytest.approx(test["mean"]["auc"])
    assert figures["auc/A"] == pytest.approx(test["generators"]["A"]["auc"])


def test_batches_are_one_table_whatever_holds_them(scored: dict[str, Any]) -> None:
    metrics = DetectionMetrics()
    for start in (0, 7, 150):
        part = slice(start, {0: 7, 7: 150, 150: 300}[start])
        metrics.update(
            torch.tensor(scored["scores"][part], requires_grad=True),
            torch.tensor(scored["labels"][part]),
            list(scored["generators"][part]),
        )
    assert metrics.compute() == pytest.approx(detection_metrics(**scored), nan_ok=True)
    metrics.reset()
    assert all(np.isnan(value) for value in metrics.compute().values())


def test_frames_of_one_video_say_less_than_as_many_images(scored: dict[str, Any]) -> None:
    """Each image four times: as a group of its own they are as sure as one."""
    once = detection_metrics(**scored)
    four = {name: np.repeat(values, 4) for name, values in scored.items()}
    names = np.repeat([f"video {number}" for number in range(300)], 4)
    grouped, alone = detection_metrics(**four, groups=names), detection_metrics(**four)
    for end in ("auc_low", "auc_high"):
        assert grouped[end] == pytest.approx(once[end], abs=1e-9)
    assert alone["auc_high"] - alone["auc_low"] < 0.6 * (once["auc_high"] - once["auc_low"])


@pytest.mark.parametrize(
    ("scores", "labels", "generators", "words"),
    [
        ([0.1, 2.5], [0, 1], None, "A score is 2.5: give the probability"),
        ([0.1, np.nan], [0, 1], None, "A score is nan"),
        ([-0.1, 0.5], [0, 1], None, "A score is -0.1"),
        ([0.1, 0.5], [-1, 1], None, "A label is -1: give 0"),
        ([0.1, 0.5], [0, 1, 1], None, "have 2, 3, 2, 2 entries"),
        ([0.1, 0.5], [0, 1], ["A"], "have 2, 2, 1, 2 entries"),
    ],
)
def test_what_cannot_be_measured(scores: Any, labels: Any, generators: Any, words: str) -> None:
    metrics = DetectionMetrics()
    with pytest.raises(InputError, match=words):
        metrics.update(scores, labels, generators)
    assert np.isnan(metrics.compute()["auc"])
