"""A network in evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then every module has the mode it had, frozen ones too."""
    training = [module for module in model.modules() if module.training]
    if training:  # the switch takes longer than the look
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
