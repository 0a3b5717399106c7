"""How a backbone lays out its features: as a map, with channels first or last, or as tokens."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from focus.errors import InputError
from focus.model.backbones import first_line


@dataclass(frozen=True)
class Layout:
    """The layout of a backbone's output, batch first.

    kind: NCHW, NHWC or tokens ``[B,N,C]``: row by row, after the prefix tokens. grid: height and
    width. prefix: how many tokens are of no cell: the class token, if there is one, then registers.
    """

    kind: str
    grid: tuple[int, int]
    channels: int
    prefix: int = 0
    has_class_token: bool = False

    def features(self, out: Tensor) -> Tensor:
        """Return the output as features ``[B,C,H,W]``."""
        if self.kind == "tokens":
            out = out[:, self.prefix :].unflatten(1, self.grid)
        return out if self.kind == "NCHW" else out.permute(0, 3, 1, 2)


def layout_of(backbone: nn.Module, size: int, model: str) -> Layout:
    """Return the layout of a backbone for images of ``size`` pixels a side.

    Some networks have a layer after their ``num_features``, so the output itself is asked.

    Raises:
        InputError: the network takes no such images, or its output is no map.
    """
    with evaluation_mode(backbone), torch.no_grad():
        try:
            out = backbone(torch.zeros(1, 3, size, size))
        except Exception as error:  # networks assert, divide and reshape
            raise InputError(
                f"The network {model!r} does not take {size} x {size} images "
                f"({first_line(error)}): choose another image size."
            ) from error
    shape = list(out.shape[1:]) if isinstance(out, Tensor) else []
    kind, height, width, channels, prefix = "", 0, 0, 0, 0
    if len(shape) == 3:
        kind = getattr(backbone, "output_fmt", "NCHW")
        height, width, channels = shape if kind == "NHWC" else (*shape[1:], shape[0])
    elif len(shape) == 2:
        kind, channels = "tokens", shape[1]
        prefix = getattr(backbone, "num_prefix_tokens", 0)
        tokens = shape[0] - prefix
        if (side := math.isqrt(tokens)) ** 2 == tokens:
            height = width = side
    if height * width < 2:
        raise InputError(
            f"The network {model!r} has no spatial map of features at {size} x {size} pixels "
            f"(its output is {shape or type(out).__name__}): choose another model or a larger "
            "image size."
        )
    # The first of several prefix tokens may also be a register.
    named = any(name.endswith("cls_token") for name, _ in backbone.named_parameters())
    return Layout(kind, (height, width), channels, prefix, named and prefix > 0)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode; then every module has the mode it had, frozen ones too."""
    training = [module for module in model.modules() if module.training]
    if training:  # the switch takes longer than the look
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
