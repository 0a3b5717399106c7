"""What all parts are told: the device, and how much is measured."""

from typing import NamedTuple


class Settings(NamedTuple):
    """The settings of a run of ``bench.gpu``."""

    device: str
    """``cuda``; or ``cpu``, which rehearses the program on small networks and tensors."""
    short: bool
    """Whether each part measures its first case alone, without torch.compile."""
    batch_size: int
    """Images of a training step."""
