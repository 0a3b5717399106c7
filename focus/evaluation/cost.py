"""Measure what a detector costs: its weights, the operations and the time of an image."""

import statistics
import time
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from focus.model.backbones import evaluation_mode

if TYPE_CHECKING:
    from focus.model.detector import Detector

_TIMES = 5


def cost(detector: "Detector") -> str:
    """Return the cost in words: weights, FLOPs of the network by torch's counter, seconds.

    A multiplication and an addition are two. The time is the median of images one at a time.
    """
    weight = detector.head.fc.weight
    side = detector.image_size
    image = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)
    # The counter does not know each fused attention, but the products that they are made of.
    counter, plain = FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), evaluation_mode(detector), counter, plain:
        detector.encode(image)
    seconds = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        detector.predict_batch(image).score.cpu()
        seconds.append(time.perf_counter() - began)
    return (
        f"{sum(p.numel() for p in detector.parameters()) / 1e6:.3g} million parameters, "
        f"{counter.get_total_flops() / 1e9:.3g} GFLOPs and {statistics.median(seconds):.2g} s an "
        f"image ({weight.device.type})"
    )
