"""What a detector says of images."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")
Named = TypeVar("Named", bound="NamedPixels")


class NamedPixels(Protocol):
    """Pictures as the detector sees them, each with a name for messages."""

    @property
    def names(self) -> Sequence[str]:
        """The name of each picture."""

    @property
    def pixels(self) -> Tensor:
        """``[B,3,S,S]`` in 0..255."""


class Prediction(NamedTuple):
    """Predictions for B images, made without their labels.

    Of several classes of fakes the score is the sum; class 1 is the first of them.

    Examples:
        >>> from PIL import Image
        >>> from focus import Detector
        >>> detector = Detector(image_size=64).eval()
        >>> prediction = detector.predict([Image.new("RGB", (64, 64)), Image.new("RGB", (80, 60))])
        >>> prediction.score.shape
        torch.Size([2])
        >>> prediction.cams.shape  # of the predicted and of the synthetic class
        torch.Size([2, 2, 8, 8])
    """

    score: Tensor
    """``[B]`` float64, probability of synthetic; on the CPU where the device lacks the type."""
    predicted: Tensor
    """``[B]`` int64: 0 unless the score is above the detector's threshold, else the class of fakes
    with the highest logit."""
    cams: Tensor
    """Raw CAMs ``[B,2,H,W]`` float32 of the predicted class and of class 1."""
    entropy: Tensor
    """``[B,2]`` in [0, 1], up to rounding, of these CAMs."""
    norms: Tensor
    """Norms ``[B,H,W]`` float32 of the tokens before the last norm; ``[B,0,0]`` without tokens."""
    picture: Tensor = torch.empty(0, dtype=torch.int64)
    """``[B]`` int64, of :meth:`Detector.predict`: the number of the picture, from 0."""
    box: Tensor = torch.empty(0, 4)
    """``[B,4]`` float64, of :meth:`Detector.predict`: left, top, right, bottom of the face that was
    found in the picture, else of the picture; in pixels, upright."""

    def on_host(self) -> "tuple[Prediction, torch.cuda.Event | None]":
        """Return a copy on the CPU; of CUDA's, once the event has happened, else at once."""
        if self.cams.device.type != "cuda":
            return Prediction(*(field.cpu() for field in self)), None
        copied = Prediction(*(field.to("cpu", non_blocking=True) for field in self))
        happened = torch.cuda.Event()
        happened.record()
        return copied, happened

    def first_not_finite(self) -> int | None:
        """Return the place in the batch of the first image whose CAM or score is not finite."""
        finite = self.cams.flatten(1).isfinite().all(1).cpu() & self.score.isfinite().cpu()
        return None if finite.all() else int(finite.int().argmin())


def on_cpu(predicted: Iterable[tuple[Batch, Prediction]]) -> Iterator[tuple[Batch, Prediction]]:
    """Yield each batch with its prediction on the CPU, once it has been copied there.

    A GPU works on the next batch while the prediction of one is copied and yielded.
    """
    waiting: tuple[Batch, Prediction, torch.cuda.Event] | None = None
    for batch, prediction in predicted:
        copy, happened = prediction.on_host()
        if happened is None:
            yield batch, copy
            continue
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = batch, copy, happened
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(
    batch: Batch, copy: Prediction, happened: torch.cuda.Event
) -> tuple[Batch, Prediction]:
    happened.synchronize()
    return batch, copy
