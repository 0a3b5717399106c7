"""The loss of the predecessor's training step (CYBORG, Boyd et al., 2023), by its algorithm.

    L = 1/2 CE + 1/2 mean over samples and cells of (minmax(z) - S)^2,  z of the predicted class

Written from a description of what its code does, none of which is here: the features of a DenseNet
are computed a second time for the CAM, and the CAMs one sample after the other. The definition is
that of :mod:`focus.kernels.reference` with the loss ``cyborg``, and so are the gradients, but for
what is left as it is there:

- A flat CAM is divided by its range of 0: the loss is not a number.
- A second forward moves the running statistics of the norms a second time.

One thing is not: there the CAM of three of four networks comes from a tensor that the classifier
does not see. Here the classifier sees it, which costs the same.
"""

import torch
from torch import Tensor
from torch.nn import functional

from focus.config.losses import LOSSES
from focus.data.dataset import Batch
from focus.model.detector import Detector


def predecessor(detector: Detector, batch: Batch, *, second_forward: bool) -> Tensor:
    """The loss of a batch whose samples all have a human map; differentiable."""
    features = detector.features(batch.images)
    logits = detector.head.fc(functional.adaptive_avg_pool2d(features, 1).flatten(1))
    classification = functional.cross_entropy(logits, batch.target)
    if second_forward:
        features = detector.features(batch.images)
    cams = []
    for sample, predicted in zip(features, logits.argmax(1), strict=True):
        cam = (detector.head.fc.weight[predicted] @ sample.flatten(1)).view(sample.shape[1:])
        cam = cam - cam.min()
        cams.append(cam / cam.max())
    saliency = functional.mse_loss(torch.stack(cams), batch.saliency)
    weights = LOSSES["cyborg"]
    return weights.classification_weight * classification + weights.saliency_weight * saliency
