"""Pretrained weights: from the cache, or refused at once, where the Hub cannot be reached."""

import time
from pathlib import Path

import pytest
import timm
from huggingface_hub import constants
from safetensors.torch import save_file

from focus.errors import InputError
from focus.model.backbones import create_backbone


def test_without_network_weights_come_from_the_cache_or_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's library alone would try twelve times, for 46 seconds."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm.models._hub, "get_cache_dir", lambda *_: str(tmp_path))
    began = time.monotonic()
    with pytest.raises(
        InputError, match=r"^The Hub was not reached.*resnet10t.*: give --initial-checkpoint"
    ):
        create_backbone("resnet10t.c3_in1k", None, True)
    assert time.monotonic() - began < 40
    assert not constants.HF_HUB_OFFLINE
    # What was fetched before is taken.
    cached_repository = tmp_path / "models--timm--resnet10t.c3_in1k"
    (cached_repository / "snapshots/abc").mkdir(parents=True)
    (cached_repository / "refs").mkdir()
    (cached_repository / "refs/main").write_text("abc")
    weights = timm.create_model("resnet10t").state_dict()
    save_file(weights, cached_repository / "snapshots/abc/model.safetensors")
    network = create_backbone("resnet10t.c3_in1k", None, True)
    assert network.conv1[0].weight.equal(weights["conv1.0.weight"])
