"""The head as a module on one's own features: logits, class token and temperature."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from focus.config.losses import LOSSES
from focus.kernels.reference import minmax, normalised_entropy
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


def both(dtype: torch.dtype = torch.float64) -> tuple[FocusHead, Tensor, Tensor]:
    """A head on features and class tokens, with gradient, and these."""
    torch.manual_seed(0)
    head = FocusHead(8, 3, "blend", pool="both").to(dtype)
    features, tokens = features_of(4, dtype), torch.randn(4, 8, dtype=dtype)
    return head, features.requires_grad_(), tokens.requires_grad_()


def test_a_class_token_is_part_of_the_logits_and_of_no_cell() -> None:
    head, features, tokens = both()
    assert head.fc_token is not None
    target, saliency = torch.tensor([0, 2, 1, 0]), torch.rand(4, 3, 3).double()
    cam = torch.einsum("bc,bchw->bhw", head.fc.weight[target], features)
    logits = features.mean((2, 3)) @ head.fc.weight.T + head.fc.bias
    logits = logits + tokens @ head.fc_token.weight.T
    terms = normalised_entropy(cam.flatten(1)), (minmax(cam.flatten(1)) - saliency.flatten(1)) ** 2
    loss = functional.cross_entropy(logits, target) + 0.1 * terms[0].mean() + 5 * terms[1].mean()
    inputs = features, tokens, *head.parameters()
    expected = torch.autograd.grad(loss, inputs)
    out = head(features, target, saliency, token=tokens)
    torch.testing.assert_close((out.loss, out.logits), (loss, logits), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((out.cam, out.entropy), (cam.detach(), terms[0].detach()))
    for gradient, expected_gradient in zip(
        torch.autograd.grad(out.loss, inputs), expected, strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    without = head(features, token=tokens)
    torch.testing.assert_close(without.logits, logits)
    again, cams, entropy = head.activations(features, tokens)
    torch.testing.assert_close(again, logits)
    other = head.activations(features, torch.zeros_like(tokens))
    assert torch.equal(other[1], cams)
    assert torch.equal(other[2], entropy)


def test_a_class_token_in_16_bits_is_summed_in_32() -> None:
    head, features, tokens = both(torch.float32)
    exact = head(features, torch.zeros(4, dtype=torch.int64), token=tokens.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(features, torch.zeros(4, dtype=torch.int64), token=tokens.bfloat16())
    assert torch.equal(mixed.logits, exact.logits)
    mixed.loss.backward()
    assert tokens.grad is not None


def test_a_saved_temperature_is_that_of_the_loss(tmp_path: Path) -> None:
    detector = Detector(image_size=32, loss=replace(LOSSES["focus"], temperature=3.0)).eval()
    detector.head.loss = LOSSES["focus"]
    detector.save_pretrained(tmp_path / "model")
    again = Detector.from_pretrained(tmp_path / "model")
    assert again.config.temperature == again.head.loss.temperature == 1.0
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(again.predict_batch(images).entropy, detector.predict_batch(images).entropy)
