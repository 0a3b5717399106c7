"""Where results come from."""

import sys
from dataclasses import replace

import pytest

from focus.config.train import TrainConfig
from focus.data.manifest import Manifest, Sample
from focus.evaluation.provenance import data_digest, provenance


def test_the_digest_is_of_contents_labels_and_splits() -> None:
    one = Sample("/a/1.png", 0, split="train", extra={"content_hash": "aa"})
    two = Sample("/a/2.png", 1, split="test", extra={"content_hash": "bb"})
    digest = data_digest(Manifest([one, two]))
    assert digest == data_digest(Manifest([two, replace(one, path="/b/1.png")]))
    for other in (replace(one, label=1), replace(one, split="test"), replace(one, extra={})):
        assert digest != data_digest(Manifest([other, two]))


def test_weights_seed_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--name", "a b"])
    origin = provenance("net", Manifest(), TrainConfig.of(loss="focus", focus_weight=0.3, seed=4))
    assert origin["command"] == "train.py --name 'a b'"
    monkeypatch.setattr(sys, "argv", ["/lib/focus/__main__.py", "train", "--lr", "1"])
    started_as_module = provenance("net", Manifest(), None)
    assert started_as_module["command"] == "focus train --lr 1"
    assert (origin["loss"]["name"], origin["loss"]["focus_weight"], origin["seed"]) == (
        "focus",
        0.3,
        4,
    )
    assert origin["versions"].keys() == {"focus", "python", "torch", "timm", "numpy"}
    assert provenance("net", Manifest(), TrainConfig.of(recipe="npr"))["recipe"] == "npr"
    unknown = provenance("net", Manifest(), None)
    assert (unknown["loss"], unknown["recipe"]) == (None, None)
