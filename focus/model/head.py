"""The head of a detector: features [B,C,H,W], and a class token [B,C], to logits, CAM and loss."""

import torch
from torch import Tensor, nn

from focus.config.losses import LossConfig, loss_of
from focus.config.recipes import check_pool
from focus.kernels import FocusHeadOutput, class_activation, focus_head
from focus.kernels.terms import WEIGHTS, Terms
from focus.kernels.types import accumulation_dtype, linear, without_autocast

DetectorOutput = FocusHeadOutput[Tensor | None]
"""The output of the head; its loss is the mean over the batch, None without a target.

Examples:
    >>> import torch
    >>> from focus import DetectorOutput, FocusHead
    >>> out: DetectorOutput = FocusHead(channels=8, num_classes=2)(torch.rand(4, 8, 7, 7))
    >>> out.loss is None
    True
    >>> out.entropy.shape
    torch.Size([4])
"""


class FocusHead(nn.Module):
    """Classifier on pooled features, with the CAM terms of the loss.

    ``logits = mean_p(CAM) + bias`` holds by construction: pooling, classifier and CAM share the
    weights of ``fc``, which is never called, so that hooks on it do not act. What a class token
    adds to the logits is no cell's, a part of the bias: it changes neither CAM nor entropy.

    Args:
        channels: C of the features; num_classes: K.
        loss: weights and settings of the loss, or the name of one of ``focus.LOSSES``, InputError
            if there is none; None: cross-entropy alone.
        pool: "both" for weights on a class token, too.

    Examples:
        >>> import torch
        >>> from focus import FocusHead
        >>> head = FocusHead(channels=8, num_classes=2, loss="focus")
        >>> out = head(torch.rand(4, 8, 7, 7), torch.tensor([0, 1, 1, 0]))
        >>> out.cam.shape
        torch.Size([4, 7, 7])
        >>> out.loss.requires_grad
        True
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        loss: LossConfig | str | None = None,
        pool: str = "mean",
    ) -> None:
        super().__init__()
        check_pool(pool)
        self.fc = nn.Linear(channels, num_classes)
        self.fc_token = nn.Linear(channels, num_classes, bias=False) if pool == "both" else None
        # The weights as a tensor, once they change: numbers would compile again with each change.
        self.loss_weights: Tensor | None
        self.register_buffer("loss_weights", None, persistent=False)
        self._factors: dict[str, float] = {}
        self.loss = loss or LossConfig()
        self.class_weight: Tensor | None
        """Factors ``[K]`` of the cross-entropy; None: all 1."""
        self.register_buffer("class_weight", None, persistent=False)

    @property
    def loss(self) -> LossConfig:
        """Weights and settings of the loss; may be set, also by the name of one."""
        return self._loss

    @loss.setter
    def loss(self, loss: LossConfig | str) -> None:
        self._loss = loss_of(loss)
        if self.loss_weights is not None:
            self.scale_terms(**self._factors)

    def scale_terms(self, **factors: float) -> None:
        """Multiply the weights of these terms from here on, whatever the loss."""
        self._factors = factors
        if self.loss_weights is None:
            dtype = accumulation_dtype(self.fc.weight)
            shape = len(WEIGHTS)
            self.loss_weights = torch.empty(shape, device=self.fc.weight.device, dtype=dtype)
        weights = self.loss.weights._asdict()
        for cell, (term, weight) in zip(self.loss_weights, weights.items(), strict=True):
            cell.fill_(weight * factors.get(term, 1.0))  # on the device, without a copy that waits

    def forward(
        self,
        features: Tensor,
        target: Tensor | None = None,
        saliency: Tensor | None = None,
        saliency_mask: Tensor | None = None,
        token: Tensor | None = None,
    ) -> DetectorOutput:
        """Map features ``[B,C,H,W]`` to a :class:`DetectorOutput`, with the loss for a target.

        target ``[B]`` or ``[B,K]``, saliency ``[B,H,W]`` and saliency_mask ``[B]`` are those of
        :func:`focus.kernels.focus_head`, as is what they raise; without a target, maps are ignored.
        token: the class token ``[B,C]``, which a head made with the pooling "both" needs.
        """
        if target is None:
            _, cams, entropy = self.activations(features, token)
            logits = self.logits(features, token)
            predicted = logits.argmax(1)
            terms = Terms(*(None for _ in WEIGHTS))
            cam, entropy = pick(cams, predicted), pick(entropy, predicted)
            return FocusHeadOutput(None, logits, cam, entropy, terms)
        settings = self.loss.settings
        if self.loss_weights is not None:
            settings |= zip(WEIGHTS, self.loss_weights.unbind(), strict=True)
        return focus_head(
            features,
            self.fc.weight,
            self.bias(token),
            target,
            saliency=saliency,
            saliency_mask=saliency_mask,
            class_weight=self.class_weight,
            **settings,
        )

    def logits(self, features: Tensor, token: Tensor | None = None) -> Tensor:
        """Return logits ``[B,K]`` with gradient, without a CAM."""
        pooled = features.mean((2, 3), dtype=accumulation_dtype(features))
        return _linear(pooled, self.fc.weight, self.bias(token))

    def bias(self, token: Tensor | None) -> Tensor:
        """Return what no cell has a part in: the bias ``[K]``; with class tokens ``[B,K]``."""
        if self.fc_token is None:
            return self.fc.bias
        assert token is not None, "a head with weights on a class token needs one"
        return _linear(token, self.fc_token.weight, self.fc.bias)

    def activations(
        self, features: Tensor, token: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits ``[B,K]``, CAMs ``[B,K,H,W]`` and entropies ``[B,K]`` of every class."""
        return class_activation(
            features,
            self.fc.weight,
            self.bias(token),
            range(self.fc.out_features),
            temperature=self.loss.temperature,
        )


@without_autocast
def _linear(vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return logits ``[B,K]`` of vectors ``[B,C]``, in the precision of the CAM and of the loss."""
    dtype = accumulation_dtype(vectors)
    return linear(vectors.to(dtype), weight.to(dtype), bias)


def pick(per_class: Tensor, index: Tensor) -> Tensor:
    """Select each sample's class: ``[B,K,...]`` to ``[B,...]``."""
    return per_class[torch.arange(index.shape[0], device=index.device), index]
