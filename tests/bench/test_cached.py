"""The measurement of an epoch on cached features: what is compared trains on the same batches."""

from pathlib import Path

import pytest
import torch

from bench import cached
from focus.model.head import FocusHead


@pytest.mark.slow
def test_epochs_read_all_images_and_yield_the_three_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path))
    monkeypatch.setattr(cached, "BATCH", 4)
    monkeypatch.setattr(cached, "IMAGES", 2)
    rows = torch.cat([batch.index for batch in cached.cached((8, 3, 3), 3)()])
    assert sorted(rows.tolist()) == list(range(12))
    figures = dict(cached.measure((8, 3, 3), 1))
    assert [*figures] == ["more memory, kB", "focus / probe", "resnet50 / focus"]
    assert min(figures["focus / probe"]) > 0


def test_a_probe_is_plain_cross_entropy() -> None:
    head = FocusHead(4, 2, "blend")
    batch = cached.a_batch(torch.arange(6), (4, 3, 3), (3, 3))
    weight, bias = cached.train(head, lambda: [batch], probe=True)
    logits = batch.images.mean((2, 3)) @ head.fc.weight.T + head.fc.bias
    assert weight.shape == head.fc.weight.shape
    exact = (logits.softmax(1) - torch.nn.functional.one_hot(batch.target, 2)).mean(0)
    torch.testing.assert_close(bias, exact, rtol=1e-3, atol=1e-5)
