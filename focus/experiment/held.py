"""Train a run whose loss also holds the range or the shape of the CAM: arms of ``--scale`` alone.

``python -P -m focus.experiment.held FIGURE TARGET`` takes the flags of ``focus train``, and trains
as it does. The loss of a batch gets, on top of that of its settings,

    mean_b |m(z_b) - target| / target        z_b the CAM of the true class, P cells

    range      m(z) = max z - min z          in logits
    entropy_z  m(z) = h((z - mean z) / sd z) ``entropy_z`` of scores.csv; sd divided by P

This is no option of ``focus train``: it answers one question of the experiment.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current folder, in which a yaml.py is not meant for this program

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.kernels import cam_entropy
from focus.kernels.reference import normalised_entropy
from focus.model.head import FocusHead
from focus.training.run import train


def cam_range(cam: Tensor) -> Tensor:
    """Return the largest minus the smallest value of CAMs ``[B,P]``."""
    return cam.amax(1) - cam.amin(1)


def entropy_z(cam: Tensor) -> Tensor:
    """Return the entropy of standardised CAMs ``[B,P]``, blind to their offset and scale."""
    centred = cam - cam.mean(1, keepdim=True)
    deviation = centred.square().mean(1, keepdim=True).sqrt()
    return normalised_entropy(centred / deviation)


HELD = {"range": cam_range, "entropy_z": entropy_z}
"""What can be held, by the name of :class:`focus.experiment.protocol.Hold`."""


def deviation(features: Tensor, weight: Tensor, target: Tensor, figure: str, aim: float) -> Tensor:
    """Return how far the CAMs of classes ``target [B]`` are from the aim, as a mean share of it."""
    cam, _ = cam_entropy(features, weight, target)
    return (HELD[figure](cam.flatten(1)) - aim).abs().mean() / aim


def hold(figure: str, aim: float) -> None:
    """Add the deviation to the loss of every head of this process from here on."""

    def add(module: nn.Module, arguments: Any, out: Any) -> Any:
        if not isinstance(module, FocusHead) or out.loss is None:
            return None
        features, target = arguments[:2]
        added = deviation(features, module.fc.weight, target, figure, aim)
        return out._replace(loss=out.loss + added)

    register_module_forward_hook(add)


def main(figure: str, aim: str, *flags: str) -> None:
    """Train as ``focus train`` does with these flags, and hold the figure at the aim."""
    hold(figure, float(aim))
    run(train, TrainConfig, description=__doc__ or "", argv=flags, prog="focus.experiment.held")


if __name__ == "__main__":
    main(*sys.argv[1:])
