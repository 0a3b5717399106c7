"""The detector over the images of a manifest, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from focus.data.dataset import FaceDataset, collate
from focus.data.manifest import Manifest
from focus.errors import InputError

if TYPE_CHECKING:
    from focus.models import Detector, Prediction

Autocast = Callable[[], AbstractContextManager[Any]]


def predictions(
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int = 0,
    device: torch.device | str | None = None,
    autocast: Autocast | None = None,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], "Prediction"]]:
    """Yields rows of the manifest and the detector's :class:`~focus.models.Prediction` for them.

    device: where the detector is (default: where its parameters are). autocast: makes the context
    that the network runs in (``accelerator.autocast``). indices: the rows to take (default all).
    The network runs in evaluation and inference mode; every module is in its own mode again when
    a batch is handed out, and torch's global random state stays as it is.

    Raises InputError when the output for an image is not finite, naming the image.
    """
    device = torch.device(device or next(detector.parameters()).device)
    # Human maps play no part in a prediction; left out, they need not be read.
    images = FaceDataset(
        Manifest((replace(sample, map_path=None) for sample in manifest), manifest.source),
        image_size=detector.image_size,
        grid=detector.grid,
        mean=detector.mean,
        std=detector.std,
    )
    loader = DataLoader(
        Subset(images, range(len(manifest)) if indices is None else indices),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        # A loader draws a seed when it starts: not from the generator that training uses.
        generator=torch.Generator(),
        pin_memory=device.type == "cuda",
    )
    for batch in loader:
        with evaluation_mode(detector), torch.inference_mode():
            with autocast() if autocast else nullcontext():
                prediction = detector.predict_batch(batch.images.to(device, non_blocking=True))
            finite = prediction.cams.flatten(1).isfinite().all(1) & prediction.score.isfinite()
        rows = batch.index.tolist()
        if not finite.all():
            path = manifest[rows[int(finite.int().argmin())]].path
            raise InputError(
                f"The model's output for {path!r} is not finite: try --mixed-precision no, or "
                "another model."
            )
        yield rows, prediction


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then every module has the mode it had, frozen ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
