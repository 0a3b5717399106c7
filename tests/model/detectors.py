"""Images and detectors, as training leaves them, for the tests of the detector."""

import torch
from timm.layers import LayerNorm, LayerNorm2d
from torch import Tensor, nn

from focus.errors import InputError
from focus.model.detector import Detector


def images(batch: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size, size, generator=generator)


def lifelike(detector: Detector) -> Detector:
    """Set norms as training leaves them; initialised, some networks' features vanish or explode."""
    generator = torch.Generator().manual_seed(1)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
        if isinstance(module, nn.BatchNorm2d | LayerNorm | LayerNorm2d):
            for parameter in (module.weight, module.bias):
                noise = torch.rand(parameter.shape, generator=generator)
                parameter.data += 0.4 * noise - 0.2
    with torch.no_grad():
        detector.train().features(images(4, detector.image_size))
    return detector.eval()


def small_detector() -> Detector:
    """Make a detector of 32 pixels a side, the same each time."""
    torch.manual_seed(0)
    return lifelike(Detector(image_size=32, training_generators=("kA", "kB")))


def assert_one_sentence(error: InputError) -> None:
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500
