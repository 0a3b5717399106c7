"""Our CAMs are those of torch-cam and pytorch-grad-cam, up to what each does to them afterwards.

They hook a network of timm's with pooling and classifier; ours comes from the features that our own
network gives, with the same weights.
"""

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import CAM

from focus.metrics import stretched
from focus.model.detector import Detector

IMAGES, SIZE = 3, 128
LAYERS = {"resnet50": ("layer4", "fc"), "densenet121": ("features.norm5", "classifier")}
"""What pooling sees, which in timm's DenseNet is a norm with its ReLU, and the classifier."""


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


class Both:
    """Our detector and timm's network with the same random weights, and images."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.layer, self.classifier = LAYERS[name]
        self.network = timm.create_model(name, num_classes=2)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):  # as training leaves them
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                module.momentum = None
        images = torch.randn(IMAGES, 3, SIZE, SIZE)
        nn.init.normal_(self.network.get_submodule(self.classifier).weight)
        with torch.no_grad():
            self.network(images)
        self.network.eval()
        self.images = images
        self.detector = Detector(name, image_size=SIZE)
        self.detector.backbone.load_state_dict(self.network.state_dict(), strict=False)
        self.detector.head.fc.load_state_dict(
            self.network.get_submodule(self.classifier).state_dict()
        )
        self.detector.eval()

    def ours(self) -> tuple[Tensor, Tensor]:
        """Logits ``[B,2]`` and raw CAMs ``[B,2,H,W]`` of both classes."""
        with torch.no_grad():
            features = self.detector.features(self.images)
        logits, cams, _ = self.detector.head.activations(features)
        return logits, cams


@pytest.fixture(scope="module", params=LAYERS)
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


def test_the_cams_are_ones_that_can_tell(both: Both) -> None:
    """Differing from image to image and class to class, with cells on both sides of 0."""
    logits, cams = both.ours()
    with torch.no_grad():
        torch.testing.assert_close(both.network(both.images), logits, rtol=1e-4, atol=1e-4)
    flat = torch.from_numpy(stretched(cams.flatten(0, 1).numpy())).flatten(1)
    distances = torch.cdist(flat, flat)[~torch.eye(len(flat), dtype=torch.bool)]
    assert distances.min() > 0.3
    assert (cams.amin((2, 3)) < 0).all()
    assert (cams.amax((2, 3)) > 0).all()


@pytest.mark.parametrize("index", [0, 1])
def test_torch_cam(both: Both, index: int) -> None:
    """Raw, it is the same map to the float; normalised, min-max of it."""
    _, cams = both.ours()
    with CAM(both.network, both.layer, both.classifier) as extract:
        with torch.no_grad():
            scores = both.network(both.images)
        (raw,) = extract(index, scores, normalized=False)
        (normalised,) = extract(index, scores)
    expected = cams[:, index]
    scale = float(expected.abs().max())
    torch.testing.assert_close(raw, expected, rtol=1e-4, atol=1e-4 * scale)
    ours = torch.from_numpy(stretched(expected.numpy())).float()
    torch.testing.assert_close(normalised, ours, rtol=0, atol=1e-4)


def test_torch_cam_of_one_class_per_image(both: Both) -> None:
    """Each image's predicted class, which ours gives without a second pass."""
    _, cams = both.ours()
    with torch.no_grad():
        out = both.detector(both.images)
        predicted = out.logits.argmax(1)
    with CAM(both.network, both.layer, both.classifier) as extract:
        with torch.no_grad():
            scores = both.network(both.images)
        (raw,) = extract(predicted.tolist(), scores, normalized=False)
    scale = float(cams.abs().max())
    torch.testing.assert_close(out.cam, raw, rtol=1e-4, atol=1e-4 * scale)


def grad_cam(both: Both, index: int) -> npt.NDArray[np.float32]:
    """The map ``[B,H,W]`` on the grid, before it is cut at 0, normalised and enlarged."""
    layer = both.network.get_submodule(both.layer)
    targets: list[nn.Module] = [ClassifierOutputTarget(index)] * IMAGES
    with GradCAM(model=both.network, target_layers=[layer]) as extract:
        extract(input_tensor=both.images, targets=targets)
        (activations,), (gradients,) = (
            [tensor.numpy() for tensor in tensors]
            for tensors in (
                extract.activations_and_grads.activations,
                extract.activations_and_grads.gradients,
            )
        )
        return extract.get_cam_image(both.images, layer, targets, activations, gradients)


@pytest.mark.parametrize("index", [0, 1])
def test_pytorch_grad_cam(both: Both, index: int) -> None:
    """After mean pooling, the gradient of a logit is the classifier's row, over the cells."""
    _, cams = both.ours()
    expected = cams[:, index].numpy()
    cells = expected[0].size
    found = grad_cam(both, index) * cells
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("index", [0, 1])
def test_what_pytorch_grad_cam_returns(both: Both, index: int) -> None:
    """Cut at 0, min-max normalised, enlarged, and what is left of its range normalised again."""
    _, cams = both.ours()
    layer = both.network.get_submodule(both.layer)
    targets: list[nn.Module] = [ClassifierOutputTarget(index)] * IMAGES
    with GradCAM(model=both.network, target_layers=[layer]) as extract:
        found = extract(input_tensor=both.images, targets=targets)
    cut = torch.from_numpy(stretched(cams[:, index].relu().numpy()))
    enlarged = nn.functional.interpolate(cut[:, None], (SIZE, SIZE), mode="bilinear")[:, 0]
    np.testing.assert_allclose(found, stretched(enlarged.numpy()), rtol=0, atol=1e-4)
