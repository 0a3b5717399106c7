"""The head as a module on one's own features: logits and temperature."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from focus.config.losses import LOSSES
from focus.model.detector import Detector
from focus.model.head import FocusHead


def features_of(batch: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 8, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_without_a_target_logits_are_as_precise_as_with_one(dtype: torch.dtype) -> None:
    head = FocusHead(8, 2).to(torch.float32 if dtype == torch.float64 else dtype)
    features = features_of(64, dtype)
    with_target = head(features, torch.zeros(64, dtype=torch.int64))
    without = head(features)
    assert without.logits.dtype == with_target.logits.dtype == without.cam.dtype
    torch.testing.assert_close(without.logits, with_target.logits)
    # It is the class of these logits whose CAM is returned.
    assert torch.equal(without.logits.argmax(1), head.activations(features)[0].argmax(1))
    without.logits.sum().backward()
    assert head.fc.weight.grad is not None


def test_a_saved_temperature_is_that_of_the_loss(tmp_path: Path) -> None:
    detector = Detector(image_size=32, loss=replace(LOSSES["focus"], temperature=3.0)).eval()
    detector.head.loss = LOSSES["focus"]
    detector.save_pretrained(tmp_path / "model")
    again = Detector.from_pretrained(tmp_path / "model")
    assert again.config.temperature == again.head.loss.temperature == 1.0
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(again.predict_batch(images).entropy, detector.predict_batch(images).entropy)
